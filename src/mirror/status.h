/*
 * How a pipeline is: everything that can be known of it from its two servers without disturbing
 * either, and a verdict in words with what to do next.  For the status command and whatever else
 * shows it.
 *
 * A server that cannot be reached, or a pipeline that is not there, is a finding like any other:
 * collecting never fails, it says what it could not see.
 */
#ifndef TAILWATER_STATUS_H
#define TAILWATER_STATUS_H

#include "base/buf.h"
#include "config/config.h"
#include "mirror/control.h"
#include "mirror/freshness.h"
#include "pg/pg.h"
#include "source/slot.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

/* A replicator that has said nothing for so long is not well: a heartbeat comes every second, and
 * waits at most for a slice of a sweep. */
#define STATUS_SILENT_US INT64_C(20000000)

/* A replicator that tries again waits ten seconds at most, and then says so again. */
#define STATUS_PAUSE_US INT64_C(30000000)

/* A status that hangs is no use: of a server that does not answer it says so. */
#define STATUS_CONNECT_TIMEOUT_S 5

/* Clocks that differ by more are wrong. */
#define STATUS_CLOCK_US INT64_C(5000000)

/* By how far the two servers' clocks are ahead of the replicator's.  *ret_whose: "the source", "the
 * mirror", NULL: the replicator's machine's, which is *ret_ahead_us ahead of both. */
bool status_clock_is_wrong(int64_t source_ahead_us, int64_t mirror_ahead_us, const char **ret_whose,
                           int64_t *ret_ahead_us);

/* Kept open from one look to the next; {0} is closed. */
struct status_connections {
    struct pg *source, *mirror;
};

void status_disconnect(struct status_connections *connections);

struct status_server {
    const char *where; /* pg_describe() */
    bool is_up;
    int version;        /* 150020 */
    struct error error; /* where it is not up */
};

enum status_level { STATUS_FINE, STATUS_WATCH, STATUS_BROKEN };

struct status {
    const struct config *config;
    int64_t taken_at_us;
    struct status_server source, mirror;

    /* From the mirror; all empty while is_known is false. */
    bool is_known;        /* the pipeline is there */
    struct error unknown; /* why not, where the mirror is up and it is not */
    struct control_pipeline pipeline;
    int ntables, nready, ncopied; /* ncopied: at least that far */
    int nquarantined;
    struct control_table *tables;
    lsn_t newest_copy; /* ready is said once the cursor is past it */
    bool has_heartbeat;
    struct control_heartbeat heartbeat;
    struct control_holder holder;
    int64_t repair_keys, repair_oldest_us;
    int64_t doubt_rows, doubt_oldest_us;
    int ncounters;
    struct control_counter *counters;
    int nfreshness; /* how fresh each table is, by schema and name; tables point to it */
    struct freshness *freshness;
    int nfact_freshness; /* the same of the facts */
    struct freshness *fact_freshness;
    int ntroubles; /* what somebody has to look at, besides the verdict; the first first */
    const struct control_trouble *troubles;

    /* From the source. */
    bool has_slot; /* slot was looked at; it may still say that there is none */
    struct slot_status slot;
    const char *blocker, *blocker_next; /* watch_find_blocker() */
    const char *system_identifier;      /* NULL where the role may not ask */

    int64_t lag_bytes; /* WAL written on the source that is past the cursor; -1 unknown */
    int64_t lag_us;    /* how old what the mirror shows is; -1 unknown */
    bool is_lag_bound; /* lag_us is a bound: at most so old, since nobody is there to measure it */

    /* The verdict. */
    enum status_level level;
    const char *state; /* one word or two, stable: "streaming", "stopped", "slot lost"
                          (docs/operations.md) */
    const char *words; /* a sentence */
    const char *next;  /* what to run or look at; "" where all is well */
    enum error_kind
        kind; /* its exit code is the command's; ERROR_NONE also where it lags or is stopped */
};

/*
 * Everything in *ret_status lives in arena.  Opens what is not open, and leaves it open.
 * status_look() leaves out what takes a server long where there are many tables: their sizes.
 */
void status_collect(const struct config *config, struct status_connections *connections,
                    struct arena *arena, struct status *ret_status);
void status_look(const struct config *config, struct status_connections *connections,
                 struct arena *arena, struct status *ret_status);

/* Fills the verdict.  Part of status_collect(); by itself for its tests. */
void status_judge(struct status *status, struct arena *arena);

/* One JSON object, without a newline at the end. */
void status_add_json(const struct status *status, struct buf *json);

/* Its member "tables" alone: tables and ntables are set. */
void status_add_tables(const struct status *status, struct buf *json);

#endif
