/*
 * How much of each table the source has changed, per hour of its commits: what freshness and volumes
 * are told by (mirror/freshness.h).
 *
 * A batch carries a line for each table and hour that it has changes of, counted as they came, before
 * they were coalesced, so that it does not matter where batches are cut.  What one mirror transaction
 * applies goes on a sheet, and is posted once that has committed.  The process keeps what is posted
 * until somebody has stored it: it is taken as a numbered parcel, and the same parcel is given out
 * again until volume_stored().
 *
 * Hours and times are the source's: seconds behind or days, a change counts for the hour in which it
 * was committed.
 */
#ifndef TAILWATER_VOLUME_H
#define TAILWATER_VOLUME_H

#include "batch/table.h"
#include "tailwater/arena.h"

#include <stdint.h>

#define VOLUME_HOUR_US INT64_C(3600000000)

struct volume_counts {
    int64_t inserted, updated, deleted, truncated; /* truncated: times, whatever rows it was of */
    int64_t first_us, last_us;                     /* commit times of the first and last of them */
};

/* What a batch has of a table and an hour. */
struct volume_line {
    const struct table *table;
    int64_t hour; /* since 1970 */
    struct volume_counts counts;
    struct volume_line *next;
};

/* What kind of change is counted. */
enum volume_kind { VOLUME_INSERT, VOLUME_UPDATE, VOLUME_DELETE, VOLUME_TRUNCATE };

void volume_count(struct volume_counts *counts, enum volume_kind kind, int64_t commit_time_us);

/* ---- the transaction that is being applied ---- */

struct volume_sheet;

/* list has to outlive it. */
struct volume_sheet *volume_sheet_new(const struct table_list *list);
void volume_sheet_free(struct volume_sheet *sheet);

void volume_sheet_add(struct volume_sheet *sheet, const struct volume_line *lines);

/* It has committed, and so the mirror is complete up to lsn: everything on the sheet counts, and it
 * is empty. */
void volume_sheet_post(struct volume_sheet *sheet, lsn_t lsn);

/* Nothing on it counts: a transaction begins, and the one before may not have committed. */
void volume_sheet_clear(struct volume_sheet *sheet);

/* ---- what is posted, of the whole process ---- */

/* Of a table and an hour.  Names live as long as the process. */
struct volume_total {
    const char *schema, *name;
    int64_t hour;
    struct volume_counts counts;
    struct volume_total *next;
};

struct volume_parcel {
    int64_t number;      /* from 1, in this process */
    lsn_t lsn;           /* everything up to here is in this parcel or in an earlier one … */
    int64_t complete_us; /* … and everything that was committed before; 0: not known */
    const struct volume_total *first; /* NULL: nothing but a new position */
};

/* The process begins to follow at lsn: what came before is not its business. */
void volume_begin(lsn_t lsn);

/* What is posted and not stored yet.  complete_us: up to then, by the source's clock, everything was
 * posted before this call; a parcel that is given out again keeps its own.  One thread at a time; it
 * belongs to this module. */
const struct volume_parcel *volume_peek(int64_t complete_us);
void volume_stored(void);

/* Was something posted that is in no parcel yet, be it only a position, or is there a parcel that is
 * not stored? */
bool volume_is_waiting(void);

#endif
