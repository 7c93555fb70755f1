/*
 * What a copy has to read, cut into items that workers can take: a table, a partition, or a range
 * of a large one's pages.
 */
#ifndef TAILWATER_PLAN_H
#define TAILWATER_PLAN_H

#include "batch/table.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Pages of about this much, TOAST included, unless the caller says otherwise. */
#define PLAN_ITEM_BYTES (INT64_C(64) * 1024 * 1024)

struct plan_item {
    const struct table *table;
    const char *schema, *name; /* of the relation that is read: the table, or one of its leaves */
    uint32_t relid;
    bool is_only;                   /* FROM ONLY: false for a root read as a whole */
    bool has_range;                 /* only pages from first_block on, before end_block … */
    int64_t first_block, end_block; /* … or to the end where that is -1 */
    int64_t bytes;                  /* its share of the relation on disk: for progress */
};

struct plan {
    int nitems;
    struct plan_item *items; /* a table's items in one run, the largest table first */
    int64_t bytes, rows;     /* estimated, of all items */
};

/*
 * source is in a transaction that has imported the copy's snapshot: tables and partitions are those
 * of the snapshot.  is_wanted says by table->index which tables are meant.  A table that was
 * dropped or made anew since the catalog was read is an ERROR_FAILED.  All in arena.
 */
bool plan_make(struct pg *source, const struct table_list *tables, const bool *is_wanted,
               int64_t item_bytes, struct arena *arena, struct plan *ret_plan, struct error *err);

/* The source's side of an item: COPY (SELECT …) TO STDOUT. */
void plan_add_copy(struct buf *sql, const struct plan_item *item, bool is_binary);

/*
 * Was what has just been read from schema.name, in the same transaction, the storage that the
 * snapshot knows?  A snapshot does not protect from TRUNCATE nor from an ALTER TABLE that rewrites:
 * what is read then is empty, without an error.  And pages of a table that moved to new storage
 * between two items are not the ranges they were cut as.  Looks at all partitions of a root.
 * ERROR_RETRY: the same again under a new snapshot.
 */
bool plan_check_storage(struct pg *source, const char *schema, const char *name, uint32_t relid,
                        struct error *err);

#endif
