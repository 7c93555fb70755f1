/*
 * Applying a batch: one mirror transaction, in this order (the functions of apply.c have the same
 * one):
 *
 *   1. clock     the fence, the batch number                              cursor.c
 *   2. writes    per table, probing the mirror once per row
 *                                               writer.c, statement.c, params.c, bulk.c
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
#include "mirror/quarantine.h"
#include "mirror/writer.h"
#include "pg/pg.h"

struct apply;

/*
 * Takes pg over, a connection to the mirror, also where it fails.  cursor is the caller's, read,
 * and moves with every commit.  sink, the caller's too, takes the captures; NULL: there are none.
 */
bool apply_new(struct pg *pg, const char *pipeline, const struct table_list *list,
               struct cursor *cursor, const struct capture_sink *sink, struct apply **ret_apply,
               struct error *err);

/*
 * What quarantine_load() read, by table->index; the caller's.  A side batch that begins a resync
 * changes both, once it has committed.
 */
void apply_take_marks(struct apply *apply, _Atomic lsn_t *left_out_from, bool *is_resynced);
void apply_free(struct apply *apply);

/* The stream loses NaN and infinities: list the rows whose nulls may be such (src/sync/nan.h).
 * Before the first batch. */
void apply_doubt_nulls(struct apply *apply);

/* For statements between batches (purge, repair), outside of any transaction. */
struct pg *apply_connection(struct apply *apply);

/* *ret_counts is added to. */
bool apply_batch(struct apply *apply, const struct batch *batch, struct writer_counts *ret_counts,
                 struct error *err);

/*
 * Side batches: writes to mirror tables that do not come from the stream.  They go through the
 * applier, between its batches, so that one thread alone writes mirror tables, by the same
 * statements; each is a mirror transaction with a batch number of its own, and leaves the cursor
 * where it is.
 */
enum side_kind {
    SIDE_RESYNC,  /* the table is under resync from here on, for job; left out no longer */
    SIDE_ROWS,    /* rows of a snapshot: written where the mirror's are older, or absent */
    SIDE_END,     /* the resync's end: nothing of the table is left out (quarantine.h) */
    SIDE_GIVE_UP, /* its end without success, or of a verify: left out again, if it was */
    SIDE_ASK,     /* nothing is written: is it void? */
    SIDE_PURGE    /* remove tombstones that the resync alone needed */
};

struct side_batch {
    enum side_kind kind;
    const struct table *table;
    lsn_t lsn;   /* consistent point of the snapshot: SIDE_ROWS, SIDE_END, SIDE_ASK */
    int64_t job; /* SIDE_RESYNC */
    /* SIDE_ROWS: complete rows, and keys that are gone; their lsn is the snapshot's.  The caller's. */
    struct batch_row **rows;
    int nrows;
    const char *addresses; /* SIDE_PURGE: of tombstones, as the text of a tid[] */
    /* answers */
    struct writer_counts counts;
    bool is_void; /* SIDE_ROWS, SIDE_ASK: the table was truncated after the snapshot, nothing was
                     written */
};

/* Outside of a transaction that is written in pieces.  Failures as apply_batch(). */
bool apply_side(struct apply *apply, struct side_batch *side, struct error *err);

/*
 * After a failure: whose data the mirror refused.  last_lsn 0: nobody's, something else went wrong.
 * table NULL: the server did not say whose; it will where the batch is part of apply_be_careful().
 */
struct culprit apply_culprit(const struct apply *apply);

/*
 * Up to the transaction of that final_lsn constraints that the server would check at the commit (a
 * user's deferred trigger) are checked after each table, so that a failure has a name.
 */
void apply_be_careful(struct apply *apply, lsn_t until);

/* Is a transaction written in pieces open? */
bool apply_is_open(const struct apply *apply);

#endif
