/*
 * One statement reads: "insert into rows select … from (query) q where …".  Which rows is said in one
 * of two ways, and the planner's own figures decide which, once for each order of magnitude of the
 * number of keys:
 *
 *     q.id = any($1)                                      an array of constants
 *     exists (select from keys k where k.id = q.id)       a join
 *
 * The planner moves the first into the query, below its grouping, and knows how many keys there are;
 * it does neither with a join.  But a query without a grouping is joined with ten thousand keys much
 * faster than they are looked up one by one, and for whoever joins, more tables may follow.  Of a key
 * of several columns each has its array, which lets in too much, and a look into the table of keys
 * takes that out again.
 *
 * A query that says {keys} reads that table where it wants to.  A join on top, with what it has
 * joined already, would make the planner expect next to no rows, and loop where it should hash: so
 * such a query is left as it is, and what it gives for other keys is thrown away; but for one that
 * leaves the choice of rows to that join, which shows in the cost.
 *
 * What it found is in the form of the derived table's columns by then (a numeric(12,2) is rounded),
 * so that "differs" compares what would be stored: row images, as the apply statements do.
 *
 * There are two ways to write it.
 *
 * Straight, where the table is told apart by the fact's key alone, nothing but its rows has to be
 * brought forward (no facts over it), and no trigger can leave a row out: an update joined with what
 * was found changes what differs; new rows are inserted only where it changed fewer, and gone ones
 * looked for only where a key has no row.  That visits each row once.  A range in which nothing stands
 * yet is inserted, and that is all.
 *
 * By the differences, everywhere else.  One statement compares: rows that differ, with the address of
 * what stands there.  Where each key can have one row and has one, nothing can be gone, and is not
 * looked for.  Three statements write, each only where it has something to do: gone rows, changed
 * ones, new ones, in this order, so that a value of some further unique index may move from one row
 * to another.  Rows are found by the unique columns, not by the fact's key: a row that moves from one
 * key to another is updated, and whichever of both keys is recomputed last leaves it right.  Without
 * unique columns equal rows are counted: the n-th of each image is kept.
 *
 * The derived table is not locked: its target's lock keeps every other refresh away.  Who else writes
 * into it between the comparison and the writing is noticed, since an address leads to no row then;
 * straight, what they changed is overwritten.
 */
#include "refresh/recompute.h"

#include "refresh/onward.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLAN_USES 200 /* then the planner is asked again */

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

/* The chosen keys alone. */
static void add_chosen(struct buf *sql, const struct target *target, enum target_plan plan)
{
    const bool has_arrays = plan == TARGET_BY_ARRAYS;

    for (int i = 0; has_arrays && i < target->nkeys; i++) {
        buf_add(sql, " and ");
        add_column(sql, "q", target->keys[i].column);
        buf_printf(sql, " = any ($%d::%s[])", i + 1, target->keys[i].type);
    }
    if ((has_arrays && target->nkeys == 1) || plan == TARGET_BY_ITSELF)
        return;
    buf_printf(sql, " and exists (select from %s k where ", target->chosen);
    recompute_add_same_key(sql, target, "q", "k");
    buf_add(sql, ")");
}

/* What the planner counts on, brought up to date where there are many more keys than last time, or
 * many fewer: it makes its estimate of the table's size and of its rows per page. */
static bool analyze(struct pg *mirror, const struct target *target, int magnitude,
                    struct error *err)
{
    if (target->memory->analyzed == magnitude)
        return true;
    target->memory->analyzed = magnitude;
    return pg_execf(mirror, err, "analyze %s", target->chosen);
}

static bool run_chosen(struct pg *mirror, const struct target *target, const char *before,
                       enum target_plan plan, const struct pg_result *arrays,
                       struct pg_result **ret_result, struct error *err)
{
    const int nparams = plan == TARGET_BY_ARRAYS ? target->nkeys : 0;
    _cleanup_buf_ struct buf sql = {0};
    const char *params[32];

    buf_add(&sql, before);
    add_select(&sql, target);
    add_chosen(&sql, target, plan);
    for (int i = 0; i < nparams; i++)
        params[i] = pg_text(arrays, 0, i);
    return pg_query(mirror, buf_text(&sql), nparams, params, ret_result, err);
}

#define EXPLAIN "explain (format json) "

/* The plan's, in the planner's own units: what stands first in EXPLAIN's JSON is the whole's. */
static bool read_cost(const struct pg_result *plan, double *ret_cost, struct error *err)
{
    static const char label[] = "\"Total Cost\": ";
    const char *found = pg_rows(plan) == 1 ? strstr(pg_text(plan, 0, 0), label) : NULL;

    if (found == NULL)
        return error_set(err, ERROR_BUG, "EXPLAIN gives no cost");
    *ret_cost = strtod(found + sizeof(label) - 1, NULL);
    return true;
}

static bool estimate(struct pg *mirror, const struct target *target, enum target_plan plan,
                     const struct pg_result *arrays, double *ret_cost, struct error *err)
{
    _cleanup_result_ struct pg_result *explained = NULL;

    return run_chosen(mirror, target, EXPLAIN, plan, arrays, &explained, err) &&
           read_cost(explained, ret_cost, err);
}

/* How much more the query by itself may cost than with a join on top, which looks too good. */
#define ITSELF_FACTOR 3

static bool compare_plans(struct pg *mirror, const struct target *target,
                          const struct pg_result *arrays, enum target_plan *ret_plan,
                          struct error *err)
{
    const enum target_plan other = target->has_keys ? TARGET_BY_ITSELF : TARGET_BY_ARRAYS;
    double other_cost = 0, join_cost = 0;

    if (!estimate(mirror, target, other, arrays, &other_cost, err) ||
        !estimate(mirror, target, TARGET_BY_JOIN, NULL, &join_cost, err))
        return false;
    if (target->has_keys)
        *ret_plan = other_cost <= join_cost * ITSELF_FACTOR ? other : TARGET_BY_JOIN;
    else
        *ret_plan = join_cost <= other_cost ? TARGET_BY_JOIN : other;
    return true;
}

/* *ret_arrays is left alone where the plan needs none. */
static bool choose_plan(struct pg *mirror, const struct target *target, int magnitude,
                        enum target_plan *ret_plan, struct pg_result **ret_arrays,
                        struct error *err)
{
    struct target_memory *memory = target->memory;
    const bool is_known = memory->plans[magnitude] != TARGET_BY_UNKNOWN &&
                          memory->uses[magnitude]-- > 0;

    if ((is_known ? memory->plans[magnitude] == TARGET_BY_ARRAYS : !target->has_keys) &&
        !read_arrays(mirror, target, ret_arrays, err))
        return false;
    if (!is_known) {
        if (!compare_plans(mirror, target, *ret_arrays, &memory->plans[magnitude], err))
            return false;
        memory->uses[magnitude] = PLAN_USES;
    }
    *ret_plan = memory->plans[magnitude];
    return true;
}

static int magnitude_of(int64_t nkeys)
{
    int magnitude = 0;

    while (nkeys > 1 && magnitude < TARGET_MAGNITUDES - 1) {
        nkeys /= 2;
        magnitude++;
    }
    return magnitude;
}

static bool read_chosen(struct pg *mirror, const struct target *target, int64_t nkeys,
                        const char *before, enum target_plan *ret_plan,
                        struct pg_result **ret_result, struct error *err)
{
    const int magnitude = magnitude_of(nkeys);
    _cleanup_result_ struct pg_result *arrays = NULL;

    return analyze(mirror, target, magnitude, err) &&
           choose_plan(mirror, target, magnitude, ret_plan, &arrays, err) &&
           run_chosen(mirror, target, before, *ret_plan, arrays, ret_result, err);
}

/* What a query with {keys} gave for others. */
static bool drop_others(struct pg *mirror, const struct target *target, int64_t *nrows,
                        struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql, "delete from %s r where not exists (select from %s k where ", target->rows,
               target->chosen);
    recompute_add_same_key(&sql, target, "r", "k");
    buf_add(&sql, ")");
    if (!pg_query(mirror, buf_text(&sql), 0, NULL, &done, err))
        return false;
    *nrows -= pg_affected(done);
    return true;
}

/* Is the key what tells the rows apart?  Then there is one row a key, at most. */
static bool is_key_unique(const struct target *target)
{
    for (int i = 0; i < target->nkeys && target->nunique == target->nkeys; i++) {
        int j = 0;

        while (j < target->nunique && strcmp(target->unique[j], target->keys[i].column) != 0)
            j++;
        if (j == target->nunique)
            return false;
    }
    return target->nunique == target->nkeys;
}

/* Rows that nothing tells apart, where something should, would be written one over the other. */
static bool refuse_twins(struct pg *mirror, const struct target *target, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0}, text = {0};
    _cleanup_result_ struct pg_result *twins = NULL;

    for (int i = 0; i < target->nunique; i++) {
        buf_add(&text, i > 0 ? " || ', ' || " : "");
        pg_add_ident(&text, target->unique[i]);
        buf_add(&text, "::text");
    }
    buf_printf(&sql, "select %s from %s group by ", buf_text(&text), target->rows);
    add_columns(&sql, NULL, target->nunique, target->unique);
    buf_add(&sql, " having count(*) > 1 limit 1");
    if (!pg_query(mirror, buf_text(&sql), 0, NULL, &twins, err))
        return false;
    if (pg_rows(twins) == 0)
        return true;
    buf_clear(&text);
    add_columns(&text, NULL, target->nunique, target->unique);
    error_set(err, ERROR_DATA,
              "the query gives several rows with the same %s, and %s can have only one of them",
              buf_text(&text), target->into);
    snprintf(err->sqlstate, sizeof(err->sqlstate), "21000"); /* cardinality_violation */
    return error_hint(err, "name what tells the rows of a key apart: refresh: {unique: […]}");
}

static bool read_rows(struct pg *mirror, const struct target *target,
                      const struct recompute_range *range, int64_t nkeys,
                      struct recompute_found *ret_found, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;
    struct recompute_found found = {0};
    enum target_plan plan = TARGET_BY_UNKNOWN;

    buf_printf(&sql, "insert into %s ", target->rows);
    if (range != NULL) {
        add_select(&sql, target);
        recompute_add_range(&sql, target, "q", false, range);
        if (!pg_query(mirror, buf_text(&sql), 0, NULL, &done, err))
            return false;
    } else if (!read_chosen(mirror, target, nkeys, buf_text(&sql), &plan, &done, err)) {
        return false;
    }
    found.rows = pg_affected(done);
    if (plan == TARGET_BY_ITSELF && !drop_others(mirror, target, &found.rows, err))
        return false;
    found.is_complete = range == NULL && found.rows == nkeys && is_key_unique(target);
    *ret_found = found;
    return true;
}

bool recompute_rows(struct pg *mirror, const struct target *target,
                    const struct recompute_range *range, int64_t nkeys,
                    struct recompute_found *ret_found, struct error *err)
{
    return read_rows(mirror, target, range, nkeys, ret_found, err) &&
           (target->nunique == 0 || ret_found->rows == 0 || refuse_twins(mirror, target, err));
}

bool recompute_explain(struct pg *mirror, const struct target *target, int64_t nkeys,
                       struct pg_result **ret_plan, struct error *err)
{
    enum target_plan plan;

    return read_chosen(mirror, target, nkeys, EXPLAIN, &plan, ret_plan, err);
}

/* ---- comparing ---- */

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
    buf_add(sql, ", ");
    add_image(sql, target, prefix);
    buf_add(sql, "::text as tailwater_image, row_number() over (partition by ");
    add_image(sql, target, prefix);
    buf_add(sql, "::text) as tailwater_nr");
}

/* "d.tailwater_oid, d.tailwater_tid, is_gone, d.tailwater_k0, …, r.a, r.b", as the table of changes
 * has them. */
static void add_change(struct buf *sql, const struct target *target, const char *is_gone)
{
    buf_printf(sql, "d.tailwater_oid, d.tailwater_tid, %s", is_gone);
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, ", d.tailwater_k%d", i);
    buf_add(sql, ", ");
}

/* "(select … from …) d": addresses, keys and values of the derived table's rows. */
static void add_derived(struct buf *sql, const struct target *target, bool is_scoped,
                        const struct recompute_range *range)
{
    buf_add(sql, "(select d.tableoid as tailwater_oid, d.ctid as tailwater_tid");
    for (int i = 0; i < target->nkeys; i++) {
        buf_add(sql, ", ");
        add_column(sql, "d", target->keys[i].column);
        buf_printf(sql, " as tailwater_k%d", i);
    }
    buf_add(sql, ", ");
    add_columns(sql, "d", target->ncolumns, target->columns);
    if (target->nunique == 0)
        add_numbered(sql, target, "d");
    buf_add(sql, " from ");
    if (is_scoped)
        add_scope(sql, target, range);
    else
        buf_printf(sql, "%s d", target->into);
    buf_add(sql, ") d");
}

/* Images, where nothing else tells rows apart. */
static void add_by_images(struct buf *sql, const struct target *target,
                          const struct recompute_range *range)
{
    add_change(sql, target, "r.tailwater_has is null");
    add_columns(sql, "r", target->ncolumns, target->columns);
    buf_add(sql, " from ");
    add_derived(sql, target, true, range);
    buf_add(sql, " full join (select true as tailwater_has, r.*");
    add_numbered(sql, target, "r");
    buf_printf(sql,
               " from %s r) r on r.tailwater_image = d.tailwater_image and r.tailwater_nr = "
               "d.tailwater_nr where d.tailwater_tid is null or r.tailwater_has is null",
               target->rows);
}

/* What the query gives, against the row that stands there, whatever key that has … */
static void add_by_rows(struct buf *sql, const struct target *target)
{
    add_change(sql, target, "false");
    add_columns(sql, "r", target->ncolumns, target->columns);
    buf_printf(sql, " from %s r left join ", target->rows);
    add_derived(sql, target, false, NULL);
    buf_add(sql, " on ");
    add_same_row(sql, target);
    buf_add(sql, " where d.tailwater_tid is null or ");
    add_differs(sql, target);
}

/* … and what stands there and is not among that. */
static void add_gone(struct buf *sql, const struct target *target,
                     const struct recompute_range *range)
{
    buf_add(sql, " union all select ");
    add_change(sql, target, "true");
    for (int i = 0; i < target->ncolumns; i++)
        buf_add(sql, i > 0 ? ", null" : "null");
    buf_add(sql, " from ");
    add_derived(sql, target, true, range);
    buf_printf(sql, " where not exists (select from %s r where ", target->rows);
    add_same_row(sql, target);
    buf_add(sql, ")");
}

bool recompute_compare(struct pg *mirror, const struct target *target,
                       const struct recompute_range *range, const struct recompute_found *found,
                       struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "insert into %s select ", target->changes);
    if (target->nunique == 0)
        add_by_images(&sql, target, range);
    else
        add_by_rows(&sql, target);
    if (target->nunique > 0 && !found->is_complete)
        add_gone(&sql, target, range);
    /* Written in the order of pages. */
    buf_add(&sql, " order by 2");
    return target_make_rest(mirror, target, err) && pg_exec(mirror, buf_text(&sql), err);
}

void recompute_add_differing(struct buf *sql, const struct target *target)
{
    buf_add(sql, "select ");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "x.k%d, ", i);
    buf_add(sql, "min(x.side), max(x.side) from (select ");
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "c.tailwater_k%d as k%d, ", i, i);
    buf_printf(sql, "0 as side from %s c where c.tailwater_tid is not null union all select ",
               target->changes);
    for (int i = 0; i < target->nkeys; i++) {
        add_column(sql, "c", target->keys[i].column);
        buf_add(sql, ", ");
    }
    buf_printf(sql, "1 from %s c where not c.tailwater_is_gone) x group by ", target->changes);
    for (int i = 0; i < target->nkeys; i++)
        buf_printf(sql, "%s%d", i > 0 ? ", " : "", i + 1);
}

/* ---- writing ---- */

#define AT_ADDRESS "t.tableoid = x.tailwater_oid and t.ctid = x.tailwater_tid"

static void add_delete(struct buf *sql, const struct target *target)
{
    buf_printf(sql, "delete from %s t using %s x where x.tailwater_is_gone and " AT_ADDRESS,
               target->into, target->changes);
}

static void add_update(struct buf *sql, const struct target *target)
{
    buf_printf(sql, "update %s t set ", target->into);
    for (int i = 0; i < target->ncolumns; i++) {
        buf_add(sql, i > 0 ? ", " : "");
        pg_add_ident(sql, target->columns[i]);
        buf_add(sql, " = ");
        add_column(sql, "x", target->columns[i]);
    }
    buf_printf(sql, " from %s x where not x.tailwater_is_gone and " AT_ADDRESS, target->changes);
}

static void add_insert(struct buf *sql, const struct target *target)
{
    buf_printf(sql, "insert into %s (", target->into);
    add_columns(sql, NULL, target->ncolumns, target->columns);
    buf_add(sql, ") select ");
    add_columns(sql, "x", target->ncolumns, target->columns);
    buf_printf(sql, " from %s x where x.tailwater_tid is null", target->changes);
}

/* Rows were left out.  A trigger or a rule does that again and again, somebody else perhaps not. */
static bool refuse_loss(struct pg *mirror, const struct target *target, int64_t expected,
                        int64_t written, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(
            mirror,
            "select coalesce((select format('trigger %I', tgname) from pg_trigger where "
            "tgrelid = $1::oid and not tgisinternal and tgenabled in ('O', 'A') and "
            "tgtype & 3 = 3 order by tgname limit 1), (select format('rule %I', rulename) "
            "from pg_rewrite where ev_class = $1::oid and ev_enabled in ('O', 'A') order "
            "by rulename limit 1))",
            1, &target->oid, &row, err))
        return false;
    error_set(err, pg_is_null(row, 0, 0) ? ERROR_RETRY : ERROR_FAILED,
              "%" PRId64 " rows of %s should have been written, and %" PRId64 " were", expected,
              target->into, written);
    if (pg_is_null(row, 0, 0))
        return error_hint(err,
                          "somebody else writes to %s, which only the refresh may do, or a row "
                          "security policy hides rows: see pg_stat_activity, \\d %s",
                          target->into, target->into);
    return error_hint(err, "the %s of %s leaves them out: let it pass on every row, or drop it",
                      pg_text(row, 0, 0), target->into);
}

static bool run(struct pg *mirror, const struct target *target,
                void (*add)(struct buf *, const struct target *), int64_t expected, int64_t *count,
                struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    if (expected == 0)
        return true;
    add(&sql, target);
    if (!pg_query(mirror, buf_text(&sql), 0, NULL, &done, err))
        return false;
    if (pg_affected(done) != expected)
        return refuse_loss(mirror, target, expected, pg_affected(done), err);
    *count += expected;
    return true;
}

bool recompute_write(struct pg *mirror, const struct target *target,
                     struct recompute_counts *counts, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *row = NULL;
    int64_t gone, changed, new;

    buf_printf(&sql,
               "select count(*) filter (where tailwater_is_gone), count(*) filter (where not "
               "tailwater_is_gone and tailwater_tid is not null), count(*) filter (where "
               "tailwater_tid is null) from %s",
               target->changes);
    if (!pg_query_row(mirror, buf_text(&sql), 0, NULL, &row, err))
        return false;
    gone = pg_int(row, 0, 0);
    changed = pg_int(row, 0, 1);
    new = pg_int(row, 0, 2);
    return (gone + changed + new == 0 || onward_collect(mirror, target, err)) &&
           run(mirror, target, add_delete, gone, &counts->deleted, err) &&
           run(mirror, target, add_update, changed, &counts->updated, err) &&
           run(mirror, target, add_insert, new, &counts->inserted, err);
}

/* ---- writing straight ---- */

/* May it?  Asked in each transaction: an index, a trigger or a fact over the table may have come. */
static bool is_straight(struct pg *mirror, const struct target *target, bool *ret_is,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;
    bool is_read;

    *ret_is = false;
    if (!is_key_unique(target))
        return true;
    if (!onward_is_read(mirror, target, &is_read, err) ||
        !pg_query_row(mirror,
                      "select c.relkind = 'r' and not c.relhassubclass and not c.relhasrules and "
                      "not c.relrowsecurity and (select count(*) from pg_index x where x.indrelid "
                      "= c.oid and (x.indisunique or x.indisexclusion)) = 1 and not exists (select "
                      "from pg_trigger t where t.tgrelid = c.oid and t.tgtype & 3 = 3) from "
                      "pg_class c where c.oid = $1::oid",
                      1, &target->oid, &row, err))
        return false;
    *ret_is = !is_read && pg_bool(row, 0, 0);
    return true;
}

static bool run_straight(struct pg *mirror, const struct buf *sql, int64_t *ret_count,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(mirror, buf_text(sql), 0, NULL, &done, err))
        return false;
    *ret_count = pg_affected(done);
    return true;
}

static bool update_straight(struct pg *mirror, const struct target *target, int64_t *ret_count,
                            struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "update %s d set ", target->into);
    for (int i = 0; i < target->ncolumns; i++) {
        buf_add(&sql, i > 0 ? ", " : "");
        pg_add_ident(&sql, target->columns[i]);
        buf_add(&sql, " = ");
        add_column(&sql, "r", target->columns[i]);
    }
    buf_printf(&sql, " from %s r where ", target->rows);
    add_same_row(&sql, target);
    buf_add(&sql, " and ");
    add_differs(&sql, target);
    return run_straight(mirror, &sql, ret_count, err);
}

/* is_empty: nothing stands there yet. */
static bool insert_straight(struct pg *mirror, const struct target *target, bool is_empty,
                            int64_t *ret_count, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "insert into %s (", target->into);
    add_columns(&sql, NULL, target->ncolumns, target->columns);
    buf_add(&sql, ") select ");
    add_columns(&sql, "r", target->ncolumns, target->columns);
    buf_printf(&sql, " from %s r", target->rows);
    if (!is_empty) {
        buf_printf(&sql, " where not exists (select from %s d where ", target->into);
        add_same_row(&sql, target);
        buf_add(&sql, ")");
    }
    return run_straight(mirror, &sql, ret_count, err);
}

/* Has the derived table none of a range's keys, as when it is being built?  Of a table that it knows
 * nothing about the planner would read all, to find that it has none. */
static bool is_range_empty(struct pg *mirror, const struct target *target,
                           const struct recompute_range *range, bool *ret_is, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    buf_printf(&sql, "select not exists (select from %s d where true", target->into);
    recompute_add_range(&sql, target, "d", false, range);
    buf_add(&sql, ")");
    if (!pg_exec(mirror, "set local enable_seqscan = off", err) ||
        !pg_query_row(mirror, buf_text(&sql), 0, NULL, &row, err) ||
        !pg_exec(mirror, "set local enable_seqscan to default", err))
        return false;
    *ret_is = pg_bool(row, 0, 0);
    return true;
}

static bool delete_straight(struct pg *mirror, const struct target *target,
                            const struct recompute_range *range, int64_t *ret_count,
                            struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql, "delete from %s d where not exists (select from %s r where ", target->into,
               target->rows);
    add_same_row(&sql, target);
    buf_add(&sql, ")");
    if (range != NULL) {
        recompute_add_range(&sql, target, "d", false, range);
    } else {
        buf_printf(&sql, " and exists (select from %s k where ", target->chosen);
        recompute_add_same_key(&sql, target, "d", "k");
        buf_add(&sql, ")");
    }
    return run_straight(mirror, &sql, ret_count, err);
}

static bool write_straight(struct pg *mirror, const struct target *target,
                           const struct recompute_range *range, const struct recompute_found *found,
                           struct recompute_counts *counts, struct error *err)
{
    int64_t updated = 0, inserted = 0, deleted = 0;
    bool is_empty = false;

    if (range != NULL && !is_range_empty(mirror, target, range, &is_empty, err))
        return false;
    /* An update changes no row twice: where it changed as many as were found, none has a twin.  (More
     * rows than keys were refused before.)
     *
     * For a merge the whole table would be read by its index, which the planner thinks is as good as
     * reading it in the order of its pages where both are alike, and takes several times as long. */
    if (!pg_exec(mirror, "set local enable_mergejoin = off", err) ||
        (found->rows > 0 && !is_empty && !update_straight(mirror, target, &updated, err)) ||
        (found->rows > updated && (!refuse_twins(mirror, target, err) ||
                                   !insert_straight(mirror, target, is_empty, &inserted, err))) ||
        (!found->is_complete && !is_empty &&
         !delete_straight(mirror, target, range, &deleted, err)) ||
        !pg_exec(mirror, "set local enable_mergejoin to default", err))
        return false;
    counts->updated += updated;
    counts->inserted += inserted;
    counts->deleted += deleted;
    return true;
}

bool recompute_all(struct pg *mirror, const struct target *target,
                   const struct recompute_range *range, int64_t nkeys,
                   struct recompute_counts *counts, struct error *err)
{
    struct recompute_found found;
    bool is_so;

    if (!is_straight(mirror, target, &is_so, err))
        return false;
    if (is_so)
        return read_rows(mirror, target, range, nkeys, &found, err) &&
               (range != NULL || found.rows <= nkeys || refuse_twins(mirror, target, err)) &&
               write_straight(mirror, target, range, &found, counts, err);
    return recompute_rows(mirror, target, range, nkeys, &found, err) &&
           recompute_compare(mirror, target, range, &found, err) &&
           recompute_write(mirror, target, counts, err);
}
