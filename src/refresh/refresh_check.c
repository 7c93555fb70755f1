/*
 * The query becomes a temporary view, and pg_depend says what that reads, column by column; a view of
 * the user's in between is followed down to live views.  Then the recomputation of some keys that
 * are there is explained, and the plan is searched for sequential scans of large tables.
 *
 * Not found: what a function reads that the query calls, and the time (now() is looked for by its
 * name).
 */
#include "refresh/refresh_check.h"

#include "base/human.h"
#include "refresh/recompute.h"

#include <string.h>

#define SOME_KEYS  "5"
#define LARGE_ROWS "100000" /* by the server's estimate */

struct looking {
    struct pg *mirror;
    const struct config *config;
    const struct config_fact *declared;
    const struct fact *fact;
    struct arena *arena;
    struct finding_list *findings;
    struct target *target;
};

static struct finding *refuse(struct looking *l, const char *what)
{
    const struct config_place place = l->declared->refresh.query_place;

    return finding_add(l->findings, "fact_query", FINDING_ERROR, "%s:%d:%d: fact %s: %s",
                       l->config->file, place.line, place.column, l->fact->name, what);
}

/* ---- what it reads ---- */

static const char reads_sql[] =
    "with recursive live as (select c.oid, t.schema, t.name from tailwater.mirror_table t "
    "join pg_namespace n on n.nspname = t.view_schema join pg_class c on c.relnamespace = n.oid "
    "and c.relname = t.view_name where t.pipeline = $1 union all select r.into_oid, r.into_schema, "
    "r.into_name from tailwater.refresh r join tailwater.fact f on f.name = r.fact where "
    "f.pipeline "
    "= $1), "
    "v(oid) as (select $2::regclass::oid union select d.refobjid from v join pg_rewrite r on "
    "r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid "
    "and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid join pg_class c on c.oid = "
    "d.refobjid and c.relkind = 'v' where not exists (select from live l where l.oid = c.oid)) "
    "select distinct c.oid::regclass::text, l.schema, l.name, a.attname from v join pg_rewrite r "
    "on "
    "r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid "
    "and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid join pg_class c on c.oid = "
    "d.refobjid left join live l on l.oid = c.oid left join pg_attribute a on a.attrelid = c.oid "
    "and a.attnum = d.refobjsubid and d.refobjsubid > 0 where c.oid <> $3::regclass::oid and not "
    "(c.relkind = 'v' and l.oid is null) order by 1, 4";

/* A row whose key changes vanishes and appears, whatever is watched. */
static bool is_seen(const struct fact_node *node, const char *column)
{
    const struct table *table = node->table;

    if (node->is_watch_all)
        return true;
    for (int i = 0; i < node->nwatch; i++)
        if (strcmp(table->columns[node->watch[i]].name, column) == 0)
            return true;
    for (int i = 0; i < table->nkeys; i++)
        if (strcmp(table->columns[table->keys[i]].name, column) == 0)
            return true;
    return false;
}

static void judge_read(struct looking *l, const struct pg_result *rows, int i)
{
    const char *column = pg_is_null(rows, i, 3) ? NULL : pg_text(rows, i, 3);
    bool is_declared = false, seen = column == NULL;
    struct finding *finding;

    for (int n = 0; n < l->fact->nnodes; n++) {
        const struct fact_node *node = &l->fact->nodes[n];

        if (pg_is_null(rows, i, 1) || strcmp(node->table->schema, pg_text(rows, i, 1)) != 0 ||
            strcmp(node->table->name, pg_text(rows, i, 2)) != 0)
            continue;
        is_declared = true;
        seen = seen || is_seen(node, column);
    }
    if (!is_declared && i > 0 && strcmp(pg_text(rows, i, 0), pg_text(rows, i - 1, 0)) == 0)
        return; /* said */
    if (!is_declared) {
        finding = refuse(l,
                         arena_printf(l->arena, "its query reads %s, which is no table of the fact",
                                      pg_text(rows, i, 0)));
        finding_why(l->findings, finding,
                    "a change there would give no keys, and the derived table "
                    "would be wrong");
        finding_remedy(l->findings, finding, "declare it: dimensions: [{table: …, join: …}]");
    } else if (!seen) {
        finding = refuse(l, arena_printf(l->arena, "its query reads %s.%s, which is not watched",
                                         pg_text(rows, i, 0), column));
        finding_why(l->findings, finding, "a change of it would give no keys");
        finding_remedy(l->findings, finding, "add %s to the watch of %s.%s, or leave watch out",
                       column, pg_text(rows, i, 1), pg_text(rows, i, 2));
    }
}

static bool check_reads(struct looking *l, struct error *err)
{
    const char *view = arena_printf(l->arena, "pg_temp.tailwater_query_%s", l->fact->name);
    const char *params[] = {l->config->pipeline, view, l->target->chosen};
    _cleanup_result_ struct pg_result *rows = NULL, *times = NULL;
    struct finding *finding;

    if (!pg_query(l->mirror, reads_sql, 3, params, &rows, err) ||
        !pg_query_row(l->mirror,
                      "select substring(pg_get_viewdef($1::regclass) from "
                      "'(?i)\\m(now\\(\\)|current_date|current_timestamp|localtimestamp|"
                      "clock_timestamp|random\\(\\))')",
                      1, &view, &times, err))
        return false;
    for (int i = 0; i < pg_rows(rows); i++)
        judge_read(l, rows, i);
    if (pg_is_null(times, 0, 0))
        return true;
    finding = refuse(l, arena_printf(l->arena, "its query depends on %s", pg_text(times, 0, 0)));
    finding_why(l->findings, finding,
                "nothing gives a key when the time passes: a row would stay as it was computed");
    finding_remedy(l->findings, finding,
                   "keep the dates in the derived table, and compare them with the time in a view "
                   "over it");
    return true;
}

/* ---- how ---- */

static bool choose_some(struct looking *l, int64_t *ret_count, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    buf_printf(
        &sql,
        "insert into %s select * from (select distinct * from (select %s from %s limit " SOME_KEYS
        ") a) s where s is not null",
        l->target->chosen, l->target->source_keys, l->target->source);
    if (!pg_query(l->mirror, buf_text(&sql), 0, NULL, &done, err))
        return false;
    *ret_count = pg_affected(done);
    return true;
}

static const char scans_sql[] =
    "with recursive n(p, condition) as (select $1::jsonb -> 0 -> 'Plan', '' union all select c.p, "
    "coalesce(n.p ->> 'Hash Cond', n.p ->> 'Merge Cond', n.p ->> 'Join Filter', n.condition) from "
    "n "
    "cross join lateral jsonb_array_elements(n.p -> 'Plans') c(p) where n.p ? 'Plans') "
    "select t.schema, t.name, c.reltuples::bigint, coalesce(nullif(n.condition, ''), n.p ->> "
    "'Filter', '') from n join pg_class c on c.relname = n.p ->> 'Relation Name' join "
    "tailwater.mirror_table t on t.mirror_name = c.relname and format('%I.%I', t.mirror_schema, "
    "t.mirror_name)::regclass = c.oid and t.pipeline = $2 where n.p ->> 'Node Type' like '%Seq "
    "Scan' and c.reltuples >= " LARGE_ROWS " order by 1, 2";

/* The index that would help, where a table of the fact has none on what joins it. */
static bool find_index(struct looking *l, const char *schema, const char *name, struct buf *sql,
                       struct error *err)
{
    for (int n = 1; n < l->fact->nnodes; n++) {
        const struct fact_node *node = &l->fact->nodes[n];
        const struct table *table = node->table;
        const char *params[2];
        _cleanup_result_ struct pg_result *row = NULL;

        if (strcmp(table->schema, schema) != 0 || strcmp(table->name, name) != 0)
            continue;
        params[0] = arena_printf(l->arena, "\"%s\".\"%s\"", table->mirror_schema,
                                 table->mirror_name);
        params[1] = table->columns[node->links[0].column].name;
        if (!pg_query_row(l->mirror,
                          "select exists (select from pg_index i join pg_attribute a on a.attrelid "
                          "= i.indrelid and a.attnum = i.indkey[0] where i.indrelid = $1::regclass "
                          "and a.attname = $2 and i.indisvalid and i.indpred is null)",
                          2, params, &row, err))
            return false;
        if (pg_bool(row, 0, 0))
            continue;
        buf_add(sql, "create index on ");
        pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
        for (int i = 0; i < node->nlinks; i++) {
            buf_add(sql, i > 0 ? ", " : " (");
            pg_add_ident(sql, table->columns[node->links[i].column].name);
        }
        buf_add(sql, ")");
        return true;
    }
    return true;
}

static bool check_plan(struct looking *l, struct error *err)
{
    _cleanup_result_ struct pg_result *plan = NULL, *scans = NULL;
    const char *params[2] = {NULL, l->config->pipeline};
    int64_t nkeys;

    if (!choose_some(l, &nkeys, err))
        return false;
    if (nkeys == 0)
        return true; /* nothing to estimate by */
    if (!recompute_explain(l->mirror, l->target, nkeys, &plan, err))
        return false;
    params[0] = pg_text(plan, 0, 0);
    if (!pg_query(l->mirror, scans_sql, 2, params, &scans, err))
        return false;
    for (int i = 0; i < pg_rows(scans); i++) {
        _cleanup_buf_ struct buf index = {0};
        char rows[HUMAN_TEXT_SIZE];
        struct finding *finding = finding_add(
            l->findings, "fact_plan", FINDING_WARNING,
            "fact %s: a refresh of a few keys reads all of %s.%s (%s rows)", l->fact->name,
            pg_text(scans, i, 0), pg_text(scans, i, 1), human_estimate(pg_int(scans, i, 2), rows));

        if (!find_index(l, pg_text(scans, i, 0), pg_text(scans, i, 1), &index, err))
            return false;
        finding_why(l->findings, finding, "the plan has a sequential scan there: %s",
                    pg_text(scans, i, 3));
        if (index.len > 0)
            finding_remedy(l->findings, finding, "on the mirror: %s", buf_text(&index));
        else
            finding_remedy(l->findings, finding,
                           "put the keys where that table is read: … join {keys} k on k.%s = …",
                           l->target->keys[0].name);
    }
    return true;
}

/* ---- all of it ---- */

static bool look(struct looking *l, struct error *err)
{
    struct error failure = {0};

    if (target_try(l->mirror, l->config, l->declared, l->arena, &l->target, &failure))
        return check_reads(l, err) && check_plan(l, err);
    if (pg_is_broken(l->mirror) || failure.kind == ERROR_MIRROR || failure.kind == ERROR_RETRY) {
        *err = failure;
        return false;
    }
    finding_remedy(l->findings,
                   finding_add(l->findings, "fact_query",
                               failure.kind == ERROR_CONFIG ? FINDING_ERROR : FINDING_WARNING, "%s",
                               failure.message),
                   "%s", failure.hint);
    return true;
}

bool refresh_check(struct pg *mirror, const struct config *config,
                   const struct config_fact *declared, const struct fact *fact, struct arena *arena,
                   struct finding_list *findings, struct error *err)
{
    struct looking l = {.mirror = mirror,
                        .config = config,
                        .declared = declared,
                        .fact = fact,
                        .arena = arena,
                        .findings = findings};
    struct error ignored;
    bool is_ok;

    if (!pg_exec(mirror, "begin", err) ||
        !pg_exec(mirror, "set local search_path = " TARGET_SEARCH_PATH, err))
        return false;
    is_ok = look(&l, err);
    if (!pg_is_broken(mirror))
        (void) pg_exec(mirror, "rollback", is_ok ? err : &ignored);
    return is_ok || error_wrap(err, "looking at the query of fact %s", fact->name);
}
