/*
 * Quarantine: a table whose changes the mirror cannot take is left out of the stream from one source
 * transaction on, so that everything else goes on.  Its live view stays readable as it was just
 * before that transaction.  A resync ends it (src/sync/resync.h).
 *
 * The mark is a row of the control schema, written by quarantine_begin() between two sessions; a
 * session reads the marks when it starts and leaves out what they say, so that a restart changes
 * nothing.
 */
#ifndef TAILWATER_QUARANTINE_H
#define TAILWATER_QUARANTINE_H

#include "batch/table.h"
#include "pg/pg.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Whose failure it was: a table, and the source transactions that the refused change is one of.  The
 * receiver always knows the one; of a batch of several the applier knows only the first and the
 * last.
 */
struct culprit {
    const struct table *table; /* NULL: not the fault of one table's data */
    lsn_t first_lsn, last_lsn; /* final_lsn */
    int64_t commit_time_us;    /* of the last; 0: unknown */
    uint32_t xid;              /* likewise */
    bool is_side;              /* refused were rows of a snapshot, not the stream's */
    bool is_followed;          /* the mirror follows the source's shape: a resync comes by itself */
};

/*
 * What a session has to know, by table->index: from which final_lsn on changes are left out
 * (BATCH_NEVER: none), and which tables are under resync.
 */
bool quarantine_load(struct pg *mirror, const char *pipeline, const struct table_list *list,
                     _Atomic lsn_t *ret_left_out_from, bool *ret_is_resynced, struct error *err);

/*
 * Leave the table out from culprit->first_lsn on, because of reason: in one transaction, with a batch
 * number of its own.  mirror is the connection that holds the pipeline's lock, and no session runs.
 * A table that is quarantined already keeps the earlier of the two positions and gets the new
 * reason; one that is left out from there on already is an ERROR_BUG, since it cannot have been
 * refused.  A resync of the table that was under way has failed by that.
 */
bool quarantine_begin(struct pg *mirror, const char *pipeline, const struct culprit *culprit,
                      const struct error *reason, struct error *err);

/*
 * The table is under resync by job, or (0) no longer without having become equal.  Inside the
 * transaction that moves the clock.
 */
bool quarantine_set_resync(struct pg *mirror, const char *pipeline, const struct table *table,
                           int64_t job, struct error *err);

/* Why a table that waits for its first resync, or for one after a change of its shape, has not had it. */
bool quarantine_explain(struct pg *mirror, const char *pipeline, const char *schema,
                        const char *name, const struct error *reason, struct error *err);

/* The remedy, behind the hint of the error that led there.  Returns false. */
bool quarantine_hint(const struct table *table, const char *config_file, struct error *err);

/*
 * The end of a resync, and with it of a quarantine: the table is as the source was at lsn, and has
 * had every change since.  Inside the transaction that moves the clock (apply.h).  relid and
 * column numbers are the source's now: a table that was made anew there is mirrored under its new OID.
 */
bool quarantine_end(struct pg *mirror, const char *pipeline, const struct table *table, lsn_t lsn,
                    struct error *err);

#endif
