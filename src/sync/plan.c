/*
 * One query asks for the size of every relation to be read; a partitioned root is followed to its
 * leaves in the snapshot's own pg_inherits, since the list that the stream is read with may be
 * older or younger by a partition.
 *
 * Sizes decide about ranges and progress only.  The last range of a relation has no end, so rows
 * that a stale size does not cover are read all the same.
 *
 * Where a leaf may not be read by itself (the owner granted SELECT on the root alone) the root is
 * read as a whole, as one item.
 */
#include "sync/plan.h"

#include "base/memory.h"
#include "sync/columns.h"

#include <inttypes.h>
#include <stdlib.h>

/* A partition that is being detached concurrently is no longer read through its root. */
static const char relations_sql[] =
    "WITH RECURSIVE tree(root, relid) AS ("
    " SELECT r, r FROM unnest($1::oid[]) AS r"
    " UNION ALL"
    " SELECT t.root, i.inhrelid FROM tree t"
    " JOIN pg_class p ON p.oid = t.relid AND p.relkind = 'p'"
    " JOIN pg_inherits i ON i.inhparent = t.relid AND NOT i.inhdetachpending)"
    " SELECT t.root, c.oid, n.nspname, c.relname, c.relkind,"
    " coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8,"
    " coalesce(pg_table_size(c.oid), 0),"
    " coalesce(has_table_privilege(c.oid, 'SELECT'), false)"
    " FROM tree t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind <> 'p' ORDER BY t.root, c.oid";

enum { R_ROOT, R_OID, R_SCHEMA, R_NAME, R_KIND, R_BLOCKS, R_BYTES, R_READABLE };

/* A table and its rows of the query's result. */
struct source_relations {
    const struct table *table;
    int first, count;
    int64_t bytes;
};

static int compare_relid(const void *a, const void *b)
{
    const struct source_relations *x = a, *y = b;

    return x->table->relid < y->table->relid ? -1 : x->table->relid > y->table->relid;
}

static int compare_size(const void *a, const void *b)
{
    const struct source_relations *x = a, *y = b;

    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->table->index - y->table->index;
}

static void add_item(struct plan *plan, int *size, struct plan_item item)
{
    if (plan->nitems == *size) {
        *size = *size ? *size * 2 : 64;
        plan->items = memory_resize(plan->items, (size_t) *size * sizeof(*plan->items));
    }
    plan->items[plan->nitems] = item;
    plan->bytes += item.bytes;
    plan->nitems++;
}

/* Cut one relation into ranges of pages. */
static void add_ranges(struct plan *plan, int *size, struct plan_item item, int64_t blocks,
                       int64_t bytes, int64_t item_bytes)
{
    int64_t n = bytes / item_bytes, done = 0;

    n = n > blocks ? blocks : n;
    n = n < 1 ? 1 : n;
    item.has_range = n > 1;
    for (int64_t i = 0; i < n; i++) {
        item.first_block = blocks * i / n;
        item.end_block = i == n - 1 ? -1 : blocks * (i + 1) / n;
        item.bytes = bytes * (i + 1) / n - done;
        done += item.bytes;
        add_item(plan, size, item);
    }
}

static bool add_table(struct plan *plan, int *size, const struct pg_result *result,
                      const struct source_relations *relations, int64_t item_bytes,
                      struct arena *arena, struct error *err)
{
    const struct table *table = relations->table;
    bool is_readable = true;

    for (int row = relations->first; row < relations->first + relations->count; row++) {
        if (pg_text(result, row, R_KIND)[0] != 'r') {
            error_set(err, ERROR_FINDINGS,
                      "%s: %s.%s is not a plain table: its changes are not in the stream",
                      table->label, pg_text(result, row, R_SCHEMA), pg_text(result, row, R_NAME));
            return error_hint(err, "detach that partition, or leave the table out");
        }
        is_readable &= pg_bool(result, row, R_READABLE);
    }
    if (table->is_partitioned && (!is_readable || relations->count == 0)) {
        add_item(plan, size,
                 (struct plan_item){.table = table,
                                    .schema = table->schema,
                                    .name = table->name,
                                    .relid = table->relid,
                                    .bytes = relations->bytes});
        return true;
    }
    for (int row = relations->first; row < relations->first + relations->count; row++)
        add_ranges(plan, size,
                   (struct plan_item){.table = table,
                                      .schema = arena_strdup(arena, pg_text(result, row, R_SCHEMA)),
                                      .name = arena_strdup(arena, pg_text(result, row, R_NAME)),
                                      .relid = (uint32_t) pg_int(result, row, R_OID),
                                      .is_only = true},
                   pg_int(result, row, R_BLOCKS), pg_int(result, row, R_BYTES), item_bytes);
    return true;
}

/* Give every wanted table its rows of the result, which is sorted by relid; then sort by size. */
static bool match(const struct pg_result *result, struct source_relations *wanted, int nwanted,
                  struct error *err)
{
    int row = 0;

    qsort(wanted, (size_t) nwanted, sizeof(*wanted), compare_relid);
    for (int i = 0; i < nwanted; i++) {
        wanted[i].first = row;
        for (; row < pg_rows(result) &&
               (uint32_t) pg_int(result, row, R_ROOT) == wanted[i].table->relid;
             row++)
            wanted[i].bytes += pg_int(result, row, R_BYTES);
        wanted[i].count = row - wanted[i].first;
        if (wanted[i].count == 0 && !wanted[i].table->is_partitioned) {
            error_set(err, ERROR_FAILED, "%s was dropped or made anew on the source",
                      wanted[i].table->label);
            return error_hint(err, "run again: the source's catalog is read at the start");
        }
    }
    qsort(wanted, (size_t) nwanted, sizeof(*wanted), compare_size);
    return true;
}

bool plan_make(struct pg *source, const struct table_list *tables, const bool *is_wanted,
               int64_t item_bytes, struct arena *arena, struct plan *ret_plan, struct error *err)
{
    struct source_relations *wanted = arena_new(arena, struct source_relations, tables->count);
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf relids = {0};
    struct plan plan = {0};
    int nwanted = 0, size = 0;
    bool is_fine = true;

    buf_add_char(&relids, '{');
    for (int i = 0; i < tables->count; i++) {
        if (!is_wanted[i])
            continue;
        buf_printf(&relids, "%s%" PRIu32, nwanted ? "," : "", tables->tables[i].relid);
        wanted[nwanted++].table = &tables->tables[i];
        plan.rows += tables->tables[i].estimated_rows > 0 ? tables->tables[i].estimated_rows : 0;
    }
    buf_add_char(&relids, '}');
    if (!pg_query(source, relations_sql, 1, (const char *[]){buf_text(&relids)}, &result, err) ||
        !match(result, wanted, nwanted, err))
        return false;
    for (int i = 0; i < nwanted && is_fine; i++)
        is_fine = add_table(&plan, &size, result, &wanted[i], item_bytes, arena, err);
    if (is_fine) {
        *ret_plan = plan;
        ret_plan->items = arena_memdup(arena, plan.items,
                                       (size_t) plan.nitems * sizeof(*plan.items));
    }
    free(plan.items);
    return is_fine;
}

void plan_add_copy(struct buf *sql, const struct plan_item *item, bool is_binary)
{
    buf_add(sql, "COPY (SELECT ");
    columns_add_select(sql, item->table, "t", is_binary);
    buf_add(sql, item->is_only ? " FROM ONLY " : " FROM ");
    pg_add_qualified(sql, item->schema, item->name);
    buf_add(sql, " AS t");
    if (item->has_range) {
        buf_printf(sql, " WHERE t.ctid >= '(%" PRId64 ",0)'::tid", item->first_block);
        if (item->end_block >= 0)
            buf_printf(sql, " AND t.ctid < '(%" PRId64 ",0)'::tid", item->end_block);
    }
    buf_add(sql, is_binary ? ") TO STDOUT (FORMAT binary)" : ") TO STDOUT");
}

bool plan_check_storage(struct pg *source, const char *schema, const char *name, uint32_t relid,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf relation = {0};
    char oid[16];

    /* Catalogs are read under the snapshot; to_regclass() and pg_relation_filenode() know the
     * present. */
    pg_add_qualified(&relation, schema, name);
    snprintf(oid, sizeof(oid), "%" PRIu32, relid);
    if (!pg_query_row(source,
                      "WITH RECURSIVE tree(relid) AS ("
                      " SELECT $1::oid"
                      " UNION ALL"
                      " SELECT i.inhrelid FROM tree t"
                      " JOIN pg_class p ON p.oid = t.relid AND p.relkind = 'p'"
                      " JOIN pg_inherits i ON i.inhparent = t.relid)"
                      " SELECT to_regclass($2) = $1::oid AND bool_and(c.relkind = 'p' OR"
                      " coalesce(c.relfilenode = pg_relation_filenode(c.oid), false))"
                      " FROM tree t JOIN pg_class c ON c.oid = t.relid",
                      2, (const char *[]){oid, buf_text(&relation)}, &result, err))
        return false;
    if (pg_bool(result, 0, 0))
        return true;
    return error_set(err, ERROR_RETRY,
                     "%s was truncated, rewritten or renamed on the source while it was read",
                     buf_text(&relation));
}
