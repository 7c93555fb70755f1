/*
 * One statement reads: "insert into rows select … from (query) q where q.id = any($1)".  The keys are
 * an array of constants because the planner moves such a condition into the query, below its
 * grouping, and knows how many there are; it does neither with a join.  Of a key of several columns
 * each column has its array, which lets in too much, and a look into the table of keys takes that
 * out again.  A query that says {keys} reads this table where it wants to.
 *
 * What it found is in the form of the derived table's columns by then (a numeric(12,2) is rounded),
 * so that "differs" compares what would be stored: row images, as the apply statements do.
 *
 * Three statements write: gone rows, changed ones, new ones, in this order, so that a value of some
 * further unique index may move from one row to another.  Rows are found by the unique columns, not
 * by the fact's key: a row that moves from one key to another is updated, and whichever of both keys
 * is recomputed last leaves it right.  Without unique columns equal rows are counted: the n-th of
 * each image is kept.
 *
 * The derived table is not locked: its target's lock keeps every other refresh away, and who else
 * writes into a derived table is not helped.
 */
#include "refresh/recompute.h"

#include <stdio.h>
#include <string.h>

#define MANY 1000 /* rows, from which on the planner is told */

static void add_column(struct buf *sql, const char *prefix, const char *column)
{
    buf_printf(sql, "%s.", prefix);
    pg_add_ident(sql, column);
}

static void add_columns(struct buf *sql, const char *prefix, int count, const char *const *columns)
{
    for (int i = 0; i < count; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        if (prefix != NULL)
            add_column(sql, prefix, columns[i]);
        else
            pg_add_ident(sql, columns[i]);
    }
}

void recompute_add_same_key(struct buf *sql, const struct target *target, const char *derived,
                            const char *ledger)
{
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, i > 0 ? " and " : "");
        add_column(sql, derived, target->keys[i].column);
        buf_add(sql, " = ");
        add_column(sql, ledger, target->keys[i].name);
    }
}

static void add_bound(struct buf *sql, const struct target *target, const char *prefix,
                      bool is_ledger, const char *operator, int count, const char *const *bound)
{
    if (count == 0)
        return;
    buf_add(sql, " and (");
    for (int i = 0; i < count; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        add_column(sql, prefix, is_ledger ? target->keys[i].name : target->keys[i].column);
        buf_add(sql, target->keys[i].collation);
    }
    buf_printf(sql, ") %s (", operator);
    for (int i = 0; i < count; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_literal(sql, bound[i]);
        buf_printf(sql, "::%s", target->keys[i].type);
    }
    buf_add(sql, ")");
}

void recompute_add_range(struct buf *sql, const struct target *target, const char *prefix,
                         bool is_ledger, const struct recompute_range *range)
{
    add_bound(sql, target, prefix, is_ledger, ">=", range->nlow, range->low);
    add_bound(sql, target, prefix, is_ledger, "<", range->nhigh, range->high);
}

/* ---- reading ---- */

/* The chosen keys' columns as arrays, for the planner. */
static bool read_arrays(struct pg *mirror, const struct target *target, struct pg_result **ret_row,
                        struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    for (int i = 0; i < target->nkeys; i++) {
        buf_add(&sql, i > 0 ? ", array_agg(distinct k." : "select array_agg(distinct k.");
        pg_add_ident(&sql, target->keys[i].name);
        buf_add(&sql, ")");
    }
    buf_printf(&sql, " from %s k", target->chosen);
    return pg_query_row(mirror, buf_text(&sql), 0, NULL, ret_row, err);
}

static void add_select(struct buf *sql, const struct target *target)
{
    buf_add(sql, "select ");
    add_columns(sql, "q", target->ncolumns, target->columns);
    buf_printf(sql, " from (%s) q where true", target->query);
}

static void add_chosen(struct buf *sql, const struct target *target)
{
    for (int i = 0; !target->has_keys && i < target->nkeys; i++) {
        buf_add(sql, " and ");
        add_column(sql, "q", target->keys[i].column);
        buf_printf(sql, " = any ($%d::%s[])", i + 1, target->keys[i].type);
    }
    if (!target->has_keys && target->nkeys == 1)
        return;
    buf_printf(sql, " and exists (select from %s k where ", target->chosen);
    recompute_add_same_key(sql, target, "q", "k");
    buf_add(sql, ")");
}

static bool analyze(struct pg *mirror, const char *table, struct error *err)
{
    return pg_execf(mirror, err, "analyze %s", table);
}

bool recompute_rows(struct pg *mirror, const struct target *target,
                    const struct recompute_range *range, bool is_many, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *arrays = NULL, *done = NULL;
    const char *params[32];
    int nparams = 0;

    if (is_many && range == NULL && !analyze(mirror, target->chosen, err))
        return false;
    buf_printf(&sql, "insert into %s ", target->rows);
    add_select(&sql, target);
    if (range != NULL) {
        recompute_add_range(&sql, target, "q", false, range);
    } else {
        add_chosen(&sql, target);
        if (!target->has_keys) {
            if (!read_arrays(mirror, target, &arrays, err))
                return false;
            for (; nparams < target->nkeys; nparams++)
                params[nparams] = pg_text(arrays, 0, nparams);
        }
    }
    return pg_query(mirror, buf_text(&sql), nparams, params, &done, err) &&
           (pg_affected(done) < MANY || analyze(mirror, target->rows, err));
}

bool recompute_explain(struct pg *mirror, const struct target *target, struct pg_result **ret_plan,
                       struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *arrays = NULL;
    const char *params[32];
    int nparams = 0;

    buf_add(&sql, "explain (format json) ");
    add_select(&sql, target);
    add_chosen(&sql, target);
    if (!analyze(mirror, target->chosen, err) ||
        (!target->has_keys && !read_arrays(mirror, target, &arrays, err)))
        return false;
    for (; !target->has_keys && nparams < target->nkeys; nparams++)
        params[nparams] = pg_text(arrays, 0, nparams);
    return pg_query_row(mirror, buf_text(&sql), nparams, params, ret_plan, err);
}

/* ---- differences ---- */

/* The derived table's rows of the keys in question, as "d". */
static void add_scope(struct buf *sql, const struct target *target,
                      const struct recompute_range *range)
{
    buf_printf(sql, "%s d", target->into);
    if (range == NULL) {
        buf_printf(sql, " join %s k on ", target->chosen);
        recompute_add_same_key(sql, target, "d", "k");
    }
    buf_add(sql, " where true");
    if (range != NULL)
        recompute_add_range(sql, target, "d", false, range);
}

static void add_same_row(struct buf *sql, const struct target *target)
{
    for (int i = 0; i < target->nunique; i++) {
        buf_add(sql, i > 0 ? " and " : "");
        add_column(sql, "r", target->unique[i]);
        buf_add(sql, " = ");
        add_column(sql, "d", target->unique[i]);
    }
}

static void add_image(struct buf *sql, const struct target *target, const char *prefix)
{
    buf_add(sql, "row(");
    add_columns(sql, prefix, target->ncolumns, target->columns);
    buf_add(sql, ")");
}

static void add_differs(struct buf *sql, const struct target *target)
{
    add_image(sql, target, "d");
    buf_add(sql, "::record *<> ");
    add_image(sql, target, "r");
    buf_add(sql, "::record");
}

/* Without unique columns: images, the n-th of equal ones. */
static void add_numbered(struct buf *sql, const struct target *target, const char *prefix)
{
    add_image(sql, target, prefix);
    buf_add(sql, "::text as tailwater_image, row_number() over (partition by ");
    add_image(sql, target, prefix);
    buf_add(sql, "::text) as tailwater_nr");
}

#define SAME_IMAGE "x.tailwater_image = y.tailwater_image and x.tailwater_nr = y.tailwater_nr"

static void add_delete(struct buf *sql, const struct target *target,
                       const struct recompute_range *range)
{
    buf_printf(sql,
               "delete from %s t using (select d.tableoid as tailwater_oid, d.ctid as "
               "tailwater_tid",
               target->into);
    if (target->nunique > 0) {
        buf_add(sql, " from ");
        add_scope(sql, target, range);
        buf_printf(sql, " and not exists (select from %s r where ", target->rows);
        add_same_row(sql, target);
        buf_add(sql, ")");
    } else {
        buf_add(sql, ", ");
        add_numbered(sql, target, "d");
        buf_add(sql, " from ");
        add_scope(sql, target, range);
    }
    buf_add(sql, ") x where t.tableoid = x.tailwater_oid and t.ctid = x.tailwater_tid");
    if (target->nunique == 0) {
        buf_add(sql, " and not exists (select from (select ");
        add_numbered(sql, target, "r");
        buf_printf(sql, " from %s r) y where " SAME_IMAGE ")", target->rows);
    }
}

static void add_update(struct buf *sql, const struct target *target)
{
    buf_printf(sql, "update %s d set ", target->into);
    for (int i = 0; i < target->ncolumns; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_ident(sql, target->columns[i]);
        buf_add(sql, " = ");
        add_column(sql, "r", target->columns[i]);
    }
    buf_printf(sql, " from %s r where ", target->rows);
    add_same_row(sql, target);
    buf_add(sql, " and ");
    add_differs(sql, target);
}

static void add_insert(struct buf *sql, const struct target *target,
                       const struct recompute_range *range)
{
    buf_printf(sql, "insert into %s (", target->into);
    add_columns(sql, NULL, target->ncolumns, target->columns);
    buf_add(sql, ") select ");
    add_columns(sql, target->nunique > 0 ? "r" : "x", target->ncolumns, target->columns);
    if (target->nunique > 0) {
        buf_printf(sql, " from %s r where not exists (select from %s d where ", target->rows,
                   target->into);
        add_same_row(sql, target);
        buf_add(sql, ")");
    } else {
        buf_add(sql, " from (select r.*, ");
        add_numbered(sql, target, "r");
        buf_printf(sql, " from %s r) x where not exists (select from (select ", target->rows);
        add_numbered(sql, target, "d");
        buf_add(sql, " from ");
        add_scope(sql, target, range);
        buf_add(sql, ") y where " SAME_IMAGE ")");
    }
}

void recompute_add_differing(struct buf *sql, const struct target *target,
                             const struct recompute_range *range)
{
    const char *const comma = ", ";

    buf_add(sql, "select ");
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, i > 0 ? comma : "");
        add_column(sql, "x", target->keys[i].column);
        buf_add(sql, " as ");
        pg_add_ident(sql, target->keys[i].name);
    }
    buf_add(sql, ", min(x.tailwater_side), max(x.tailwater_side) from ((select d.tailwater_side, ");
    for (int side = 0; side < 2; side++) {
        const char *prefix = side == 0 ? "d" : "r", *other = side == 0 ? "r" : "d";

        if (side == 1)
            buf_add(sql, ") union all (select r.tailwater_side, ");
        for (int i = 0; i < target->nkeys; i++) {
            buf_add(sql, i > 0 ? comma : "");
            add_column(sql, prefix, target->keys[i].column);
        }
        for (int pass = 0; pass < 2; pass++) {
            const bool is_derived = (side == 0) == (pass == 0);

            buf_add(sql, pass == 0 ? " from (select " : " where not exists (select from (select ");
            buf_printf(sql, "%d as tailwater_side, ", is_derived ? 0 : 1);
            for (int i = 0; i < target->nkeys; i++) {
                add_column(sql, is_derived ? "d" : "r", target->keys[i].column);
                buf_add(sql, comma);
            }
            add_numbered(sql, target, is_derived ? "d" : "r");
            buf_add(sql, " from ");
            if (is_derived)
                add_scope(sql, target, range);
            else
                buf_printf(sql, "%s r", target->rows);
            buf_printf(sql, ") %s", pass == 0 ? prefix : other);
        }
        buf_add(sql, " where r.tailwater_image = d.tailwater_image and "
                     "r.tailwater_nr = d.tailwater_nr)");
    }
    buf_add(sql, ")) x group by ");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "%s%d", i > 0 ? comma : "", i + 1);
}

/* ---- writing ---- */

static bool run(struct pg *mirror, struct buf *sql, int64_t *count, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(mirror, buf_text(sql), 0, NULL, &done, err))
        return false;
    *count += pg_affected(done);
    return true;
}

bool recompute_write(struct pg *mirror, const struct target *target,
                     const struct recompute_range *range, struct recompute_counts *counts,
                     struct error *err)
{
    _cleanup_buf_ struct buf gone = {0}, changed = {0}, new = {0};

    add_delete(&gone, target, range);
    add_update(&changed, target);
    add_insert(&new, target, range);
    return run(mirror, &gone, &counts->deleted, err) &&
           (target->nunique == 0 || run(mirror, &changed, &counts->updated, err)) &&
           run(mirror, &new, &counts->inserted, err);
}

bool recompute_chosen(struct pg *mirror, const struct target *target, bool is_many,
                      struct recompute_counts *counts, struct error *err)
{
    return recompute_rows(mirror, target, NULL, is_many, err) &&
           recompute_write(mirror, target, NULL, counts, err);
}

bool recompute_range(struct pg *mirror, const struct target *target,
                     const struct recompute_range *range, struct recompute_counts *counts,
                     struct error *err)
{
    return recompute_rows(mirror, target, range, false, err) &&
           recompute_write(mirror, target, range, counts, err);
}
