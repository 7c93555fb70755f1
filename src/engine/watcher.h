/*
 * The watcher: two threads beside the stream that do what must not wait for it and must not hold it
 * up.  Says on the mirror what the replicator is doing (and notices when the pipeline's lock is
 * lost with that connection), writes the heartbeat message on the source, watches how much WAL the
 * slot retains, sweeps old tombstones, stores how much of each table was changed.
 */
#ifndef TAILWATER_WATCHER_H
#define TAILWATER_WATCHER_H

#include "config/config.h"
#include "engine/handover.h"
#include "engine/statistics.h"
#include "pg/pg.h"

#include <stdatomic.h>

struct watcher {
    const struct config *config;
    const struct config *known; /* prepared_pipeline's */
    const char *version;        /* the program's */
    const char *plugin;         /* stream_plugin() */
    const struct table_list *list;
    struct pg *lock; /* the watcher's alone while it runs */
    struct handover *handover;
    struct statistics *statistics;
    const atomic_bool *stop;            /* of the session */
    int stop_fd;                        /* readable once stop is raised */
    const _Atomic lsn_t *left_out_from; /* of the session, by table->index: quarantined ones */
    const char *prefix;                 /* of the heartbeat message */
    uint64_t hash; /* of the source's definitions, as prepared (watch.h); 0: as first seen … */
    atomic_bool *is_reloading; /* … set once it is another one */
    int64_t started_at_us, streaming_since_us;
    int64_t reconnects;
    const char *last_error; /* NULL: none */
    const char *last_hint;
    const char
        *last_state; /* what was said while it waited: "waiting for the mirror"; NULL: no error */
    int64_t last_error_at_us;
    /* Written by the watcher: how far the servers' clocks are ahead of ours. */
    _Atomic int64_t source_ahead_us, mirror_ahead_us;
    _Atomic int64_t mirror_seen_us; /* the same, as just seen */
    _Atomic int64_t complete_us;    /* as just seen, too; see below */
};

/* Threads' functions: the argument is a struct watcher.  They end soon after stop is set; the first
 * one, which has the lock's connection, also when the lock is lost. */
void *watcher_run(void *watcher);
void *watcher_run_source(void *watcher);

/* The mirror has everything that the source committed before, by the source's clock; 0: not known. */
int64_t watcher_complete_us(const struct watcher *watcher);

#endif
