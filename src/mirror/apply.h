/*
 * Applying a batch: one mirror transaction, in this order (the functions of apply.c have the same
 * one):
 *
 *   1. clock     the fence, the batch number                              cursor.c
 *   2. writes    per table, probing the mirror once per row               statement.c, params.c,
 * bulk.c
 *   3. captures  what the writes took of the rows is followed (capture.h): the ledger
 *   4. cursor    its last position, where it was not known at the start
 *   5. commit
 *
 * Deletes without retention are the purge: such rows leave in step 2.  A batch that ends inside a
 * transaction leaves the mirror transaction open, and the next batch goes on in it.
 *
 * After any error the mirror transaction is gone and so is the connection: free the struct apply
 * and open another.
 */
#ifndef TAILWATER_APPLY_H
#define TAILWATER_APPLY_H

#include "batch/batch.h"
#include "mirror/capture.h"
#include "mirror/cursor.h"
#include "mirror/params.h"
#include "pg/pg.h"

struct apply_counts {
    int64_t inserted, updated, deleted, incomplete;
    int64_t doubts; /* rows listed in tailwater.doubt */
};

struct apply;

/* The SQLSTATE of a ledger without a partition for the batch's number: making partitions and the
 * same batch again is all it takes. */
#define APPLY_NO_PARTITION "23514"

/*
 * Takes pg over, a connection to the mirror, also where it fails.  cursor is the caller's, read,
 * and moves with every commit.  sink, the caller's too, takes the captures; NULL: there are none.
 */
bool apply_new(struct pg *pg, const char *pipeline, const struct table_list *list,
               struct cursor *cursor, const struct capture_sink *sink, struct apply **ret_apply,
               struct error *err);
void apply_free(struct apply *apply);

/* The stream loses NaN and infinities: list the rows whose nulls may be such (src/sync/nan.h).
 * Before the first batch. */
void apply_doubt_nulls(struct apply *apply);

/* For statements between batches (purge, repair), outside of any transaction. */
struct pg *apply_connection(struct apply *apply);

/* *ret_counts is added to. */
bool apply_batch(struct apply *apply, const struct batch *batch, struct apply_counts *ret_counts,
                 struct error *err);

/* Is a transaction written in pieces open? */
bool apply_is_open(const struct apply *apply);

#endif
