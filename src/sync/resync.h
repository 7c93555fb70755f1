/*
 * Resync: a mirror table is made equal to the source's again while the stream goes on and reports
 * read it; no moment at which it is empty.
 *
 * The table is put under resync (side batch SIDE_RESYNC), then a temporary slot gives a snapshot S of
 * the source and its place CP in the WAL: exactly the transactions with final_lsn < CP are in S.
 * Once the cursor has reached CP, a row of the mirror with _lsn >= CP is newer than S and right;
 * every other one has to be what S has.  docs/design.md says what being under resync changes, so
 * that this is so.
 *
 * Nothing here writes to the mirror's tables: what is missing, different or too many goes to the
 * applier as side batches, each guarded by _lsn < CP.  A verify is the same without these: what
 * differs is counted, and kept with the job.
 */
#ifndef TAILWATER_RESYNC_H
#define TAILWATER_RESYNC_H

#include "batch/table.h"
#include "config/config.h"
#include "mirror/apply.h"
#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct resync_progress {
    const char *step;          /* in words */
    lsn_t lsn;                 /* CP; 0 before there is one */
    int64_t bytes, bytes_done; /* of the source's table, by its size on disk */
    int64_t rows_read;         /* of the source */
    int64_t rows_missing, rows_different, rows_extra; /* written, or found by a verify */
};

struct resync_options {
    const struct config *config; /* servers, source.max_read_rate, resync.max_delete_fraction */
    const struct table_list *tables;
    const struct table *table;
    int64_t job;
    int nr;            /* of the table in the job */
    bool is_verify;    /* nothing is written */
    bool shows_values; /* the differences of a verify carry them */
    bool is_forced;    /* removes as much as it finds */
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised; -1: none */

    /* The applier's door: waits until it is applied. */
    bool (*apply)(void *context, struct side_batch *side, struct error *err);
    /* Let the cursor reach lsn soon. */
    void (*want)(void *context, lsn_t lsn);
    /* About twice a second.  False ends the resync with *err. */
    bool (*progress)(void *context, const struct resync_progress *progress, struct error *err);
    void *context;
};

/*
 * One attempt, from the mark to the end, with connections of its own.  Extra rows stay where the
 * table's deletes or truncates are ignored, since they may be kept on purpose.
 *
 * Errors: ERROR_SOURCE, ERROR_MIRROR, ERROR_RETRY (also: the source's table was truncated or
 * rewritten meanwhile): the same again from the start may work, the table stays under resync.
 * Anything else: it cannot be done; the caller gives up (SIDE_GIVE_UP).  ERROR_FINDINGS is more to
 * remove than max_delete_fraction allows; no row was removed then.
 */
#define RESYNC_KEPT_DIFFERENCES 10000 /* of a table, by a verify; the others are counted */

bool resync_run(const struct resync_options *options, struct resync_progress *ret_progress,
                struct error *err);

/* Removes tombstones of a table that keeps none, once it is under resync no more.  progress is what
 * was reached before; its step is set here. */
bool resync_purge(const struct resync_options *options, struct resync_progress *progress,
                  struct error *err);

#endif
