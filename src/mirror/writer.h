/*
 * Writing rows: step 2 of a batch, and the rows of side batches (apply.h).  A table's rows become
 * statements in flight (inflight.h); what their answers say is added up here.
 *
 * Everything happens inside the caller's transaction, in pipeline mode.  After any error it is gone,
 * and so is the connection.
 */
#ifndef TAILWATER_WRITER_H
#define TAILWATER_WRITER_H

#include "batch/batch.h"
#include "mirror/capture.h"
#include "mirror/cursor.h"
#include "mirror/inflight.h"
#include "pg/pg.h"

/* The SQLSTATE of a ledger without a partition for the batch's number: making partitions and the
 * same batch again is all it takes. */
#define WRITER_NO_PARTITION "23514"

/* And of one that is not there: somebody dropped it, and all has to be prepared anew. */
#define WRITER_NO_LEDGER "42P01"

/* Is it one of these?  Then err says so, and is one for another try; a row's constraint and a mirror table
 * that is gone have the same SQLSTATEs. */
bool writer_explain_ledger(struct error *err);

/* Rows of the mirror. */
struct writer_counts {
    int64_t inserted, updated, deleted;
    int64_t incomplete; /* put on the repair list */
    int64_t doubts;     /* listed in tailwater.doubt */
};

/* What has come of it so far. */
struct writer_outcome {
    struct writer_counts counts; /* since writer_reset() */
    const struct table *culprit; /* after a failure: whose data; NULL: unknown */
    bool is_captured;            /* since writer_begin(): a table with captures changed … */
    bool is_owed;                /* … one with captures that return */
};

/* Borrowed. */
struct writer_options {
    struct pg *pg;
    const char *pipeline;
    const struct table_list *list;
    struct cursor *cursor;           /* takes the clock's answers */
    const struct capture_sink *sink; /* NULL: there are no captures */
};

struct writer;

/* Reads which tables have keys on the repair list. */
bool writer_new(const struct writer_options *options, struct writer **ret_writer,
                struct error *err);
void writer_free(struct writer *writer);

/* The stream loses NaN and infinities: list the rows whose nulls may be such (src/sync/nan.h). */
void writer_doubt_nulls(struct writer *writer);

/* By table->index, the caller's: the table is under resync (STATEMENT_RESYNC). */
void writer_take_marks(struct writer *writer, const bool *is_resynced);

/* Where the table was truncated last while under resync; 0: it was not. */
lsn_t writer_truncated_at(const struct writer *writer, const struct table *table);
void writer_forget_truncate(struct writer *writer, const struct table *table);

/* What else the caller sends goes here too, in its order. */
struct inflight *writer_inflight(struct writer *writer);

/* A mirror transaction begins. */
void writer_begin(struct writer *writer);

/* It has committed. */
void writer_committed(struct writer *writer);

/* Zero the counts, forget whose data were refused. */
void writer_reset(struct writer *writer);

/* All that a batch has of a table. */
bool writer_write(struct writer *writer, const struct batch_table *rows, struct error *err);

/* Rows of a snapshot, complete ones and keys that are gone: where the mirror's are older, or absent. */
bool writer_write_older(struct writer *writer, const struct table *table,
                        struct batch_row *const *rows, int nrows, struct error *err);

/* Remove tombstones; addresses is the text of a tid[]. */
bool writer_purge(struct writer *writer, const struct table *table, const char *addresses,
                  struct error *err);

const struct writer_outcome *writer_outcome(const struct writer *writer);

#endif
