/*
 * A batch: the net effect of one or more whole transactions, per table and per key (or of a piece
 * of a transaction that is larger than the limits).  Filled by the receiver, applied by the
 * applier, then cleared and filled again; never used by both at once.
 *
 * The unit is the key.  Every key touched has one row here, old keys and new ones:
 *   - present: the row exists after the batch; its image may have holes (unchanged TOAST values),
 *     which are taken from the mirror's row at the row's base: its own key, or the key it had before
 *     the batch;
 *   - gone: no row of that key exists after the batch.
 * Keys are compared by their bytes; that the server may call different bytes equal is the apply
 * statement's business (P72).
 *
 * All memory is one arena: batch_clear() is the only release, and nothing may keep a pointer past
 * it.
 */
#ifndef TAILWATER_BATCH_H
#define TAILWATER_BATCH_H

#include "batch/binding.h"
#include "batch/table.h"
#include "batch/volume.h"
#include "tailwater/arena.h"
#include "tailwater/change.h"
#include "tailwater/error.h"

#include <stdatomic.h>

/* Later than every transaction. */
#define BATCH_NEVER UINT64_MAX

struct batch_row {
    uint64_t hash;
    const struct value *key; /* table->nkeys values, in the key's order, never absent or null */
    struct value *values;    /* table->ncolumns values; NULL where gone */
    struct batch_row *base;  /* whose key's mirror row fills the holes; NULL: its own */
    lsn_t lsn;               /* final_lsn of the transaction that last touched it */
    int64_t commit_time_us;  /* and its commit time */
    uint32_t xid;            /* and its number on the source */
    uint32_t data_bytes;     /* of the values, for splitting statements */
    uint32_t capacity;       /* of the storage behind values */
    bool is_gone;
    bool has_holes;
    bool is_insert; /* its first change in this batch was an insert: the mirror is expected not to
                       have it */
    bool is_base;   /* another row's holes are filled from this key */
};

struct batch_table {
    const struct table *table;
    struct batch_row **rows; /* in order of first touch */
    int nrows;
    int rows_size;
    struct batch_row **slots; /* the hash */
    uint32_t slots_size;
    bool is_touched;
    bool is_truncated; /* before all of the rows */
    lsn_t truncate_lsn;
    int64_t truncate_time_us;
    struct volume_line *volume; /* of the hour counted last; NULL: no change of it counted */
    struct batch_table *next;   /* those with something to apply, in order of first touch */
};

struct batch_limits {
    int64_t max_rows;
    int64_t max_bytes;
};

struct batch {
    const struct table_list *list;
    const lsn_t *copy_lsn; /* per table: changes of older transactions are in its copy */
    /* Per table: changes of transactions from here on are left out (a quarantined table); NULL: none
     * anywhere. */
    const _Atomic lsn_t *left_out_from;
    struct batch_limits limits;
    struct arena arena;
    struct batch_table *tables; /* one per mirrored table */
    struct batch_table *first;  /* the touched ones */
    struct batch_table **last;

    struct {
        struct value *values, *key,
            *old_key; /* of the change being added; as wide as the widest table */
    } scratch;

    /* the transaction being added */
    lsn_t final_lsn;
    int64_t commit_time_us;
    uint32_t xid;
    bool in_transaction;

    /* the whole */
    lsn_t first_lsn;      /* final_lsn of its first transaction */
    bool is_continuation; /* begins inside a transaction whose earlier pieces went before */
    lsn_t end_lsn;        /* the cursor once this is applied: end of its last whole transaction */
    int64_t last_commit_time_us;
    int64_t nchanges;            /* changes added, before coalescing */
    struct volume_line *volumes; /* the same, by table and hour of the commit; in arena */
    int64_t ntransactions;
    bool has_message;        /* our heartbeat: worth a commit although no row changed */
    int64_t first_commit_us; /* clock_now_us() when its first transaction was complete, for
                                statistics */
};

struct batch *batch_new(const struct table_list *list, const lsn_t *copy_lsn,
                        struct batch_limits limits);
void batch_free(struct batch *batch);

/* From now on: the positions are the caller's, who may change them while the batch is filled. */
void batch_leave_out(struct batch *batch, const _Atomic lsn_t *from);

/* Has the open transaction nothing to say about the table: it is in its copy, or left out? */
bool batch_skips(const struct batch *batch, const struct table *table);

void batch_clear(struct batch *batch);

/* A transaction begins, ends.  Between them batch_add() for its rows and truncates. */
void batch_begin(struct batch *batch, const struct change *begin);
void batch_commit(struct batch *batch, const struct change *commit);

/* binding is that of change->relation.  Refuses holes where none can be, and a truncate of a table
 * with truncate: stop. */
bool batch_add(struct batch *batch, const struct binding *binding, const struct change *change,
               struct error *err);
bool batch_truncate(struct batch *batch, const struct table *table, struct error *err);

/* Continue the open transaction of from in batch, which is clear: from is being applied. */
void batch_continue(struct batch *batch, const struct batch *from);

bool batch_is_full(const struct batch *batch);

/* Nothing but, perhaps, a new position. */
bool batch_is_empty(const struct batch *batch);

#endif
