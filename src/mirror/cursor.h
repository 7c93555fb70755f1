/*
 * The cursor: the pipeline's one-row clock in the mirror, as its single writer remembers it.  The
 * first statement of every batch moves it, on condition that its cursor and its writer are still
 * what this writer believes: that is the fence against a second or a zombie instance, the batch
 * number and the commit order in one (invariants 1, 4 and 10).  The number is not part of the
 * condition: others take numbers too (fan-outs, backfills), in transactions that write no mirror
 * table.
 */
#ifndef TAILWATER_CURSOR_H
#define TAILWATER_CURSOR_H

#include "pg/pg.h"

struct cursor {
    const char *pipeline;
    lsn_t lsn;        /* the mirror is complete up to here, as committed */
    int64_t batch_id; /* of the last committed batch */
    char tid[32];     /* the row's address */
    char writer[40];  /* the token: a uuid, new with every session */

    /* of the transaction in progress; taken over by cursor_committed() */
    lsn_t next_lsn;
    char next_tid[32];
    int64_t next_batch_id;
};

/*
 * Settings of the apply transaction, for statements behind the one that moves the clock: the
 * batch's number, and how many ledger keys the batch has written so far.
 */
#define CURSOR_BATCH_SETTING "tailwater.batch"
#define CURSOR_KEYS_SETTING  "tailwater.keys"

/*
 * Become the pipeline's writer: put a new token into the clock, which fences off every earlier
 * session, read it, and prepare the statement that moves it on this connection.  The caller holds
 * the pipeline's lock.  Waits 10 s for a transaction that has the row, then ERROR_RETRY.
 */
bool cursor_read(struct cursor *cursor, struct pg *mirror, const char *pipeline, struct error *err);

/* The SQLSTATE of a clock that is not where its writer believes: the server refuses, and nothing after it runs. */
#define CURSOR_FENCED "TW001"

/*
 * Queue, in pipeline mode, the statement that moves the clock: one batch further, and to lsn.
 * cursor_take() reads its result.  Where the clock is elsewhere the statement fails (CURSOR_FENCED), so that a commit may be
 * queued behind it.
 */
bool cursor_send_move(struct cursor *cursor, struct pg *mirror, lsn_t lsn, int64_t commit_time_us,
                      struct error *err);

/* The same inside the batch, for its last position: after the pieces of a large transaction. */
bool cursor_send_finish(struct cursor *cursor, struct pg *mirror, lsn_t lsn, int64_t commit_time_us,
                        struct error *err);

bool cursor_take(struct cursor *cursor, const struct pg_result *result, struct error *err);

void cursor_committed(struct cursor *cursor);

#endif
