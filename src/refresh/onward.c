/*
 * Who reads the derived table is asked in each transaction, behind the target's lock.  A fact that is
 * declared later takes this lock before it says "everything" (src/ledger/store.c): so a transaction
 * that does not know it has committed before.
 *
 * Pieces of SQL that depend on the fact's definition are made by the server, out of what the control
 * schema has of it: its keys' expressions, its links, the columns that it watches.
 *
 * A key expression that fails here is an error of the keys that were being recomputed, and parks the
 * one at fault: the derived table keeps its former row, and the fact over it stays right.
 *
 * Numbers for the statistics of dimensions are not counted.
 */
#include "refresh/onward.h"

#include <inttypes.h>
#include <stdio.h>

#define ENTRY_VALUES "10000" /* of one entry of the fan-out */

/* The nodes ("n") of facts ("f") that are this table, $2 and $3, of the pipeline of fact $1. */
#define READERS                                                                                    \
    "from tailwater.fact_node n join tailwater.fact f on f.name = n.fact where f.pipeline = "      \
    "(select pipeline from tailwater.fact where name = $1) and n.schema = $2 and n.table_name = "  \
    "$3 and f.suspended is null "

static const char readers_sql[] =
    "select n.fact, n.node, format('%I', n.name), case n.node when 0 then (select "
    "string_agg(format('(%s)::text', e.k ->> 'sql'), ', ' order by e.i) from "
    "jsonb_array_elements(f.definition -> 'key') with ordinality e(k, i)) else (select "
    "string_agg(format('%I::text', u.c), ', ' order by u.i) from unnest(n.columns) with ordinality "
    "u(c, i)) end, "
    "coalesce((select format('row(%s)::record *<> row(%s)::record', string_agg(format('t.%I', "
    "w.c), "
    "', ' order by w.i), string_agg(format('x.%I', w.c), ', ' order by w.i)) from "
    "jsonb_array_elements_text(f.definition -> 'nodes' -> n.node::integer -> 'watch') with "
    "ordinality w(c, i) having count(*) > 0), 'true') " READERS "order by 1, 2";

static void add_columns(struct buf *sql, const struct target *target, const char *prefix)
{
    for (int i = 0; i < target->ncolumns; i++) {
        buf_printf(sql, "%s%s.", i > 0 ? ", " : "", prefix);
        pg_add_ident(sql, target->columns[i]);
    }
}

/* One reader's values, of the old row and of the new one, wherever something that it watches differs. */
static bool collect(struct pg *mirror, const struct target *target, const struct pg_result *readers,
                    int i, struct error *err)
{
    const char *name = pg_text(readers, i, 2), *values = pg_text(readers, i, 3);
    const char *params[] = {pg_text(readers, i, 0), pg_text(readers, i, 1)};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql,
               "insert into %s select $1, $2::smallint, v.value from %s x left join %s t on "
               "t.tableoid = x.tailwater_oid and t.ctid = x.tailwater_tid cross join lateral "
               "(select array[%s] as value from (select ",
               target->onward, target->changes, target->into, values);
    add_columns(&sql, target, "t");
    buf_printf(&sql,
               ") as %s where x.tailwater_tid is not null union all select array[%s] from (select ",
               name, values);
    add_columns(&sql, target, "x");
    buf_printf(&sql,
               ") as %s where not x.tailwater_is_gone) v where x.tailwater_tid is null or "
               "x.tailwater_is_gone or %s",
               name, pg_text(readers, i, 4));
    return pg_query(mirror, buf_text(&sql), 2, params, &done, err) ||
           error_wrap(err, "keys of fact %s, which reads %s", params[0], target->into);
}

bool onward_is_read(struct pg *mirror, const struct target *target, bool *ret_is, struct error *err)
{
    const struct config_table_name *into = &target->fact->refresh.into;
    const char *params[] = {target->fact->name, into->schema, into->name};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(mirror, "select exists (select " READERS ")", 3, params, &row, err))
        return error_wrap(err, "looking who reads %s", target->into);
    *ret_is = pg_bool(row, 0, 0);
    return true;
}

bool onward_collect(struct pg *mirror, const struct target *target, struct error *err)
{
    const struct config_table_name *into = &target->fact->refresh.into;
    const char *params[] = {target->fact->name, into->schema, into->name};
    _cleanup_result_ struct pg_result *readers = NULL;

    if (!pg_query(mirror, readers_sql, 3, params, &readers, err))
        return error_wrap(err, "looking who reads %s", target->into);
    for (int i = 0; i < pg_rows(readers); i++)
        if (!collect(mirror, target, readers, i, err))
            return false;
    return true;
}

/* ---- at the end ---- */

/* "values" with a NULL lead nowhere. */
static void add_values(struct buf *sql, const struct target *target)
{
    buf_printf(sql,
               "(select distinct o.value from %s o where o.fact = $1 and o.node = $2::smallint and "
               "array_position(o.value, null) is null)",
               target->onward);
}

static bool write_keys(struct pg *mirror, const struct target *target, const char *const *params,
                       const char *keys, int64_t *count, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(&sql,
               "insert into tailwater.\"ledger_%s\" select $3::bigint, 0::smallint, $2::smallint, "
               "%s from ",
               params[0], keys);
    add_values(&sql, target);
    buf_add(&sql, " v");
    if (!pg_query(mirror, buf_text(&sql), 3, params, &done, err))
        return false;
    *count += pg_affected(done);
    return true;
}

static bool write_entries(struct pg *mirror, const struct target *target, const char *const *params,
                          const char *arrays, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(
        &sql,
        "insert into tailwater.fan_out (fact, generation, node, batch_id, lsn, links, digest) "
        "select f.name, f.generation, $2::smallint, $3::bigint, k.cursor, e.links, "
        "md5(e.links::text) from tailwater.fact f join tailwater.clock k on k.pipeline = "
        "f.pipeline cross join (select array[%s] as links from (select d.value, "
        "row_number() over () as n from ",
        arrays);
    add_values(&sql, target);
    buf_add(&sql, " d) v group by (v.n - 1) / " ENTRY_VALUES ") e where f.name = $1");
    return pg_query(mirror, buf_text(&sql), 3, params, &done, err);
}

/* What there is something for: the fact, the node, and the values' form in the ledger or an entry. */
static const char found_sql[] =
    "select n.fact, n.node, case n.node when 0 then (select string_agg(format('v.value[%%s]::%%s', "
    "k.i, k.type), ', ' order by k.i) from unnest(f.key_types) with ordinality k(type, i)) else "
    "(select string_agg(format('array_agg(v.value[%%s] order by v.n)::text', i), ', ' order by i) "
    "from generate_series(1, cardinality(n.columns)) i) end from (select distinct fact, node from "
    "%s) o join tailwater.fact_node n on n.fact = o.fact and n.node = o.node join tailwater.fact f "
    "on f.name = n.fact order by 1, 2";

static bool write_batch(struct pg *mirror, const char *pipeline, const char *number, int64_t count,
                        struct error *err)
{
    char keys[24];
    const char *params[] = {pipeline, number, keys};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(keys, sizeof(keys), "%" PRId64, count);
    return pg_query(mirror,
                    "insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, "
                    "changes, keys) select $1, $2::bigint, 'refresh', k.cursor, k.cursor, 0, "
                    "$3::bigint from tailwater.clock k where k.pipeline = $1",
                    3, params, &done, err);
}

bool onward_write(struct pg *mirror, const char *pipeline, const struct target *target,
                  struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *found = NULL, *made = NULL, *number = NULL;
    int64_t count = 0;

    if (!target->memory->has_rest)
        return true; /* nothing was ever collected */
    buf_printf(&sql, found_sql, target->onward);
    if (!target_make_rest(mirror, target, err) ||
        !pg_query(mirror, buf_text(&sql), 0, NULL, &found, err))
        return false;
    if (pg_rows(found) == 0)
        return true;
    if (!pg_query(mirror, "select tailwater.add_partitions($1)", 1, &pipeline, &made, err) ||
        !pg_query_row(mirror, "select tailwater.next_batch($1)", 1, &pipeline, &number, err))
        return false;
    for (int i = 0; i < pg_rows(found); i++) {
        const char *params[] = {pg_text(found, i, 0), pg_text(found, i, 1), pg_text(number, 0, 0)};
        const char *form = pg_text(found, i, 2);

        if (pg_int(found, i, 1) == 0 ? !write_keys(mirror, target, params, form, &count, err)
                                     : !write_entries(mirror, target, params, form, err))
            return error_wrap(err, "giving fact %s its keys", params[0]);
    }
    return write_batch(mirror, pipeline, pg_text(number, 0, 0), count, err);
}
