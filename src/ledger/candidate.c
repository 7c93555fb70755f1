/*
 * The source is asked once, for all its foreign keys, as one JSON text; the mirror does the rest in
 * one statement: which of them meet a node, on either side, and are not declared; then a bounded
 * sample of each (tailwater.sample_candidate).
 */
#include "ledger/candidate.h"

#include "ledger/inspect.h"

static const char foreign_keys_sql[] =
    "select coalesce(json_agg(json_build_object("
    "'schema', n.nspname, 'name', r.relname, 'columns', (select json_agg(a.attname order by k.i) "
    "from unnest(c.conkey) with ordinality k(num, i) join pg_attribute a "
    "on a.attrelid = c.conrelid and a.attnum = k.num), "
    "'other_schema', fn.nspname, 'other_name', fr.relname, 'other_columns', "
    "(select json_agg(a.attname order by k.i) from unnest(c.confkey) with ordinality k(num, i) "
    "join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num), "
    "'rows', s.n_tup_ins + s.n_tup_upd + s.n_tup_del, "
    "'other_rows', fs.n_tup_ins + fs.n_tup_upd + fs.n_tup_del)), '[]') "
    "from pg_constraint c join pg_class r on r.oid = c.conrelid "
    "join pg_namespace n on n.oid = r.relnamespace join pg_class fr on fr.oid = c.confrelid "
    "join pg_namespace fn on fn.oid = fr.relnamespace "
    "left join pg_stat_user_tables s on s.relid = r.oid "
    "left join pg_stat_user_tables fs on fs.relid = fr.oid "
    "where c.contype = 'f' and c.conparentid = 0";

static const char candidates_sql[] =
    "with k as (select * from json_to_recordset($2::json) as k(schema text, name text, "
    "columns text[], other_schema text, other_name text, other_columns text[], rows bigint, "
    "other_rows bigint)), b as (select schema, name, columns, other_schema, other_name, "
    "other_columns, rows from k union all select other_schema, other_name, other_columns, schema, "
    "name, columns, other_rows from k), "
    "m as (select f.name as fact, n.node, n.name as node_name, b.* from tailwater.fact f "
    "join tailwater.fact_node n on n.fact = f.name "
    "join b on b.other_schema = n.schema and b.other_name = n.table_name "
    "where f.pipeline = $1 and not exists (select from tailwater.fact_node d "
    "where d.fact = f.name and d.schema = b.schema and d.table_name = b.name)) "
    "select m.fact, format('%s.%s', m.schema, m.name) as table, "
    "(select string_agg(format('%s.%s = %s.%s', m.name, j.a, m.node_name, j.b), ' and ') "
    "from unnest(m.columns, m.other_columns) j(a, b)) as join, m.rows as rows_written, "
    "s.sampled, s.keys, round(s.keys::numeric / nullif(s.sampled, 0), 2) as keys_per_row "
    "from m cross join lateral tailwater.sample_candidate(m.fact, m.node, m.schema, m.name, "
    "m.columns, m.other_columns) s order by m.fact, m.schema, m.name, 3";

bool candidate_print(struct pg *source, struct pg *mirror, const char *pipeline, bool is_json,
                     struct buf *out, struct error *err)
{
    static const char *const titles[] = {"fact",    "table", "join",        "rows written",
                                         "sampled", "keys",  "keys per row"};
    _cleanup_result_ struct pg_result *keys = NULL;
    const char *params[] = {pipeline, NULL};

    if (!pg_query_row(source, foreign_keys_sql, 0, NULL, &keys, err))
        return error_wrap(err, "reading the source's foreign keys");
    params[1] = pg_text(keys, 0, 0);
    return inspect_print(mirror, candidates_sql, 2, params, titles, 7, is_json, out, err) ||
           error_wrap(err, "ledger stats --candidates");
}
