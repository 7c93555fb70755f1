/*
 * Everything that has to be there before streaming, made if it is missing: control schema,
 * publication, slot, mirror tables, the initial copy, keys and indexes, live views.  Each step is
 * idempotent, so a start after a crash goes through the same steps and finds most of them done.
 */
#ifndef TAILWATER_PREPARE_H
#define TAILWATER_PREPARE_H

#include "config/config.h"
#include "engine/renew.h"
#include "ledger/fact.h"
#include "mirror/control.h"
#include "source/catalog.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdatomic.h>

struct prepared_pipeline {
    const struct config *known; /* the configuration, and what the mirror had (mirror/known.h) */
    struct catalog catalog;
    struct control_pipeline pipeline;
    struct control_table *states; /* by table->index */
    lsn_t *copy_lsn;              /* the same, as the batch wants it */
    bool has_begun;               /* to copy rows; also where it then failed */
    struct fact_list facts;
    uint64_t hash; /* of the source's definitions (watch.h) */
};

struct prepare_options {
    const struct config *config;
    const char *version;   /* the program's, for the heartbeat */
    int64_t started_at_us; /* likewise */
    struct pg *lock;       /* the connection that holds the pipeline's lock */
    const atomic_bool *stop;
    int stop_fd;          /* readable once stop is raised */
    enum renewal renewal; /* the slot is made anew */
    int64_t job;          /* that resyncs all tables then; 0: one is made */
};

/* Logs what it does.  On a stop request: ERROR_RETRY.  Everything returned lives in arena. */
bool prepare_pipeline(const struct prepare_options *options, struct arena *arena,
                      struct prepared_pipeline *ret_prepared, struct error *err);

#endif
