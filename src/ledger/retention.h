/*
 * What of the ledger is kept: everything for the replay window, and for as long as a consumer has
 * not read it that is neither too old nor too large for it.
 */
#ifndef TAILWATER_RETENTION_H
#define TAILWATER_RETENTION_H

#include "pg/pg.h"

struct retention_limits {
    int64_t replay_window_us; /* kept after everybody has read it */
    int64_t stale_after_us;   /* a consumer with keys pending for longer is stale … */
    int64_t stale_keys;       /* … as is one with more of them */
};

/*
 * One round: marks stale consumers, raises the floors, removes partitions and the rows of batches
 * below them.  Each step commits by itself, and the next round goes on where one ended early.
 * stale gets a line for each consumer that was marked.  The connection has a lock_timeout.
 */
bool retention_run(struct pg *mirror, const char *pipeline, const struct retention_limits *limits,
                   struct buf *stale, int *ret_removed, struct error *err);

#endif
