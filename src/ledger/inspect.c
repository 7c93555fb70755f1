/*
 * One query each; the server makes the JSON of its rows, and of the same rows the table is printed.
 * The ledger has no index on keys (it would cost every batch): "why" reads what is kept.
 */
#include "ledger/inspect.h"

#include <stdio.h>
#include <string.h>

/* ---- printing ---- */

/* Characters, not bytes, so that the columns stay straight. */
static int width_of(const char *text)
{
    int width = 0;

    for (; *text != '\0'; text++)
        width += ((unsigned char) *text & 0xC0) != 0x80;
    return width;
}

/* Keys hold whatever a source's rows do. */
static int width_shown(const char *text)
{
    _cleanup_buf_ struct buf shown = {0};

    buf_add_shown(&shown, text);
    return width_of(buf_text(&shown));
}

static void add_cell(struct buf *out, const char *text, int width, bool is_last)
{
    buf_add_shown(out, text);
    if (is_last)
        buf_add_char(out, '\n');
    else
        buf_printf(out, "%*s  ", width - width_shown(text), "");
}

static void add_table(struct buf *out, const struct pg_result *rows, const char *const *titles,
                      int ntitles)
{
    int widths[16];

    for (int column = 0; column < ntitles; column++) {
        widths[column] = width_of(titles[column]);
        for (int row = 0; row < pg_rows(rows); row++) {
            const int width = width_shown(pg_text(rows, row, column));

            if (width > widths[column])
                widths[column] = width;
        }
    }
    for (int row = -1; row < pg_rows(rows); row++)
        for (int column = 0; column < ntitles; column++)
            add_cell(out, row < 0 ? titles[column] : pg_text(rows, row, column), widths[column],
                     column == ntitles - 1);
}

/* Appends the query's rows, and says how many there were. */
static bool print_rows(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                       const char *const *titles, int ntitles, bool is_json, struct buf *out,
                       int *ret_count, struct error *err)
{
    _cleanup_buf_ struct buf json = {0};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (is_json)
        buf_printf(&json, "select coalesce(json_agg(row_to_json(q)), '[]'), count(*) from (%s) q",
                   sql);
    if (!pg_query(mirror, is_json ? buf_text(&json) : sql, nparams, params, &rows, err))
        return false;
    if (is_json)
        buf_printf(out, "%s\n", pg_text(rows, 0, 0));
    else
        add_table(out, rows, titles, ntitles);
    *ret_count = is_json ? (int) pg_int(rows, 0, 1) : pg_rows(rows);
    return true;
}

/* Of a table cut at its limit. */
static void add_more(struct buf *out, bool is_json, int count, int limit, const char *what)
{
    if (!is_json && count == limit)
        buf_printf(out, "(the newest %d %s; there may be more: --limit)\n", count, what);
}

bool inspect_print(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                   const char *const *titles, int ntitles, bool is_json, struct buf *out,
                   struct error *err)
{
    int count;

    return print_rows(mirror, sql, nparams, params, titles, ntitles, is_json, out, &count, err);
}

/* ---- facts ---- */

/* What a statement over a fact's ledger is made of. */
struct shape {
    int nkeys;
    struct pg_result *keys; /* name, type by row */
    struct buf ledger;      /* "tailwater"."affected_order": its keys one by one */
    struct buf text_key;    /* l."id"::text || ', ' || … */
    struct buf json_key;    /* json_build_object(…) */
    struct buf group;       /* l."id", … */
};

static void shape_release(struct shape *shape)
{
    pg_result_free(shape->keys);
    buf_release(&shape->ledger);
    buf_release(&shape->text_key);
    buf_release(&shape->json_key);
    buf_release(&shape->group);
}
#define _cleanup_shape_ _cleanup_(shape_release)

static bool refuse_fact(struct pg *mirror, const char *pipeline, const char *fact,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *names = NULL;

    if (!pg_query_row(mirror,
                      "select string_agg(name, ', ' order by name) from tailwater.fact "
                      "where pipeline = $1",
                      1, &pipeline, &names, err))
        return false;
    error_set(err, ERROR_CONFIG, "pipeline %s has no fact \"%s\"", pipeline, fact);
    if (pg_is_null(names, 0, 0))
        return error_hint(err, "none is declared: write facts: into the configuration, then run");
    return error_hint(err, "its facts are: %s", pg_text(names, 0, 0));
}

static bool shape_read(struct pg *mirror, const char *pipeline, const char *fact,
                       struct shape *shape, struct error *err)
{
    const char *params[] = {pipeline, fact};
    _cleanup_buf_ struct buf name = {0};

    if (!pg_query(mirror,
                  "select k.name, format_type(k.type::regtype, -1) from tailwater.fact f, "
                  "unnest(f.key_names, f.key_types) with ordinality k(name, type, i) "
                  "where f.pipeline = $1 and f.name = $2 order by k.i",
                  2, params, &shape->keys, err))
        return false;
    shape->nkeys = pg_rows(shape->keys);
    if (shape->nkeys == 0)
        return refuse_fact(mirror, pipeline, fact, err);
    buf_printf(&name, "affected_%s", fact);
    pg_add_qualified(&shape->ledger, "tailwater", buf_text(&name));
    buf_add(&shape->json_key, "json_build_object(");
    for (int i = 0; i < shape->nkeys; i++) {
        _cleanup_buf_ struct buf column = {0};

        pg_add_ident(&column, pg_text(shape->keys, i, 0));
        buf_printf(&shape->group, "%sl.%s", i > 0 ? ", " : "", buf_text(&column));
        buf_printf(&shape->text_key, "%sl.%s::text", i > 0 ? " || ', ' || " : "",
                   buf_text(&column));
        buf_add(&shape->json_key, i > 0 ? ", " : "");
        pg_add_literal(&shape->json_key, pg_text(shape->keys, i, 0));
        buf_printf(&shape->json_key, ", l.%s", buf_text(&column));
    }
    buf_add_char(&shape->json_key, ')');
    return true;
}

/* ---- peek ---- */

static bool check_consumer(struct pg *mirror, const char *fact, const char *consumer,
                           struct error *err)
{
    const char *params[] = {fact, consumer};
    _cleanup_result_ struct pg_result *found = NULL;

    if (consumer == NULL)
        return true;
    if (!pg_query_row(mirror,
                      "select exists (select from tailwater.consumer where fact = $1 and name = "
                      "$2), (select string_agg(name, ', ' order by name) from tailwater.consumer "
                      "where fact = $1)",
                      2, params, &found, err))
        return false;
    if (pg_bool(found, 0, 0))
        return true;
    error_set(err, ERROR_CONFIG, "fact %s has no consumer \"%s\"", fact, consumer);
    if (pg_is_null(found, 0, 1))
        return error_hint(err, "it has none: select tailwater.subscribe('NAME', '%s')", fact);
    return error_hint(err, "its consumers are: %s", pg_text(found, 0, 1));
}

/*
 * Where a consumer stands, and what lies $4 batches back: nothing before either is looked at.  Without a
 * consumer it stands before everything.
 */
static const char seen_sql[] =
    "select greatest(coalesce(c.fresh_done, 0), n.back) as fresh, "
    "greatest(coalesce(c.fan_out_done, 0), n.back) as fan_out, "
    "greatest(coalesce(c.backfill_done, 0), n.back) as backfill, "
    "c.claim_lane, c.claim_from, c.claim_to "
    "from (select case when $4::bigint is null then 0 else coalesce((select batch_id - 1 "
    "from tailwater.batch where pipeline = $1 order by batch_id desc offset $4 - 1 limit 1), 0) "
    "end as back) n left join tailwater.consumer c on c.fact = $2 and c.name = $3";

static void build_peek(const struct shape *shape, int limit, bool is_json, struct buf *sql)
{
    /* The least as a value and not a column of s: the planner takes it into both halves of the view. */
    buf_printf(sql,
               "with s as (%s), l as (select l.*, l.lane = s.claim_lane "
               "and l.batch_id between s.claim_from and s.claim_to as is_open from s, %s l "
               "where l.batch_id > (select least(s.fresh, s.fan_out, s.backfill) from s) and "
               "l.batch_id > "
               "case l.lane when 0 then s.fresh when 1 then s.fan_out else s.backfill end) "
               "select %s as key, tailwater.lane_name(l.lane) as lane, "
               "count(*) as times, max(l.batch_id) as batch, "
               "string_agg(distinct n.name, ', ') as through, "
               "case when bool_or(l.is_open) then 'open' end as window "
               "from l left join tailwater.fact_node n on n.fact = $2 and n.node = l.node "
               "group by %s, l.lane order by max(l.batch_id) desc, %s limit %d",
               seen_sql, buf_text(&shape->ledger),
               buf_text(is_json ? &shape->json_key : &shape->text_key), buf_text(&shape->group),
               buf_text(&shape->group), limit);
}

bool inspect_peek(struct pg *mirror, const char *pipeline, const char *fact, const char *consumer,
                  int limit, bool is_json, struct buf *out, struct error *err)
{
    static const char *const titles[] = {"key", "lane", "times", "batch", "through", "window"};
    /* So many batches back, further only where they have too few keys: a backlog may be long. */
    static const char *const back[] = {"50", "1000", "100000", NULL};
    const int tries = consumer == NULL ? 2 : (int) (sizeof(back) / sizeof(back[0]));
    _cleanup_shape_ struct shape shape = {0};
    _cleanup_buf_ struct buf sql = {0};
    const size_t before = out->len;
    int count = 0;

    limit = limit ? limit : INSPECT_ROWS;
    /* By the numbers, however few rows the planner believes the ledger to have. */
    if (!pg_exec(mirror, "set enable_seqscan = off", err) ||
        !shape_read(mirror, pipeline, fact, &shape, err) ||
        !check_consumer(mirror, fact, consumer, err))
        return error_wrap(err, "ledger peek");
    build_peek(&shape, limit, is_json, &sql);
    for (int i = 0; i < tries && count < limit; i++) {
        const char *params[] = {pipeline, fact, consumer, back[i]};

        out->len = before;
        if (!print_rows(mirror, buf_text(&sql), 4, params, titles, 6, is_json, out, &count, err))
            return error_wrap(err, "ledger peek");
    }
    add_more(out, is_json, count, limit, "keys");
    return true;
}

/* ---- why ---- */

#define MAX_VALUES 100 /* a command line has fewer */

static void add_shape(struct buf *key, const struct shape *shape)
{
    for (int i = 0; i < shape->nkeys; i++)
        buf_printf(key, "%s%s %s", i > 0 ? ", " : "", pg_text(shape->keys, i, 0),
                   pg_text(shape->keys, i, 1));
}

static bool check_values(const struct shape *shape, const char *fact, int nvalues,
                         struct error *err)
{
    _cleanup_buf_ struct buf key = {0};

    if (nvalues == shape->nkeys)
        return true;
    add_shape(&key, shape);
    error_set(err, ERROR_CONFIG, "the key of fact %s has %d column%s, %d value%s given", fact,
              shape->nkeys, shape->nkeys > 1 ? "s" : "", nvalues, nvalues == 1 ? " was" : "s were");
    return error_hint(err, "its key is (%s)", buf_text(&key));
}

bool inspect_why(struct pg *mirror, const char *pipeline, const char *fact,
                 const char *const *values, int nvalues, int limit, bool is_json, struct buf *out,
                 struct error *err)
{
    static const char *const titles[] = {"batch", "kind", "lane",   "through",
                                         "path",  "LSN",  "commit", "applied"};
    const char *params[2 + MAX_VALUES] = {pipeline, fact};
    _cleanup_shape_ struct shape shape = {0};
    _cleanup_buf_ struct buf sql = {0}, is_key = {0};
    int count;

    limit = limit ? limit : INSPECT_ROWS;
    if (!shape_read(mirror, pipeline, fact, &shape, err) ||
        !check_values(&shape, fact, nvalues, err))
        return error_wrap(err, "ledger why");
    for (int i = 0; i < nvalues && i < MAX_VALUES; i++) {
        params[2 + i] = values[i];
        buf_add(&is_key, " and l.");
        pg_add_ident(&is_key, pg_text(shape.keys, i, 0));
        buf_printf(&is_key, " = $%d::%s", 3 + i, pg_text(shape.keys, i, 1));
    }
    /* A rebuild concerns every key. */
    buf_printf(&sql,
               "select h.batch_id as batch, b.kind, h.lane, h.through, h.path, b.lsn_to as lsn, "
               "b.commit_time as committed_at, b.applied_at from "
               "(select l.batch_id, tailwater.lane_name(l.lane) as lane, "
               "coalesce(n.name, l.node::text) as through, n.path from %s l "
               "left join tailwater.fact_node n on n.fact = $2 and n.node = l.node where true%s "
               "union all select e.batch_id, 'everything', e.reason, null "
               "from tailwater.everything e where e.fact = $2) h "
               "left join tailwater.batch b on b.pipeline = $1 and b.batch_id = h.batch_id "
               "order by h.batch_id desc, h.through limit %d",
               buf_text(&shape.ledger), buf_text(&is_key), limit);
    if (print_rows(mirror, buf_text(&sql), 2 + nvalues, params, titles, 8, is_json, out, &count,
                   err)) {
        add_more(out, is_json, count, limit, "reasons");
        return true;
    }
    if (err->kind == ERROR_DATA) {
        buf_clear(&is_key);
        add_shape(&is_key, &shape);
        err->kind = ERROR_CONFIG;
        error_hint(err, "the key of fact %s is (%s)", fact, buf_text(&is_key));
    }
    return error_wrap(err, "ledger why");
}

/* ---- statistics ---- */

bool inspect_statistics(struct pg *mirror, const char *pipeline, bool is_json, struct buf *out,
                        struct error *err)
{
    static const char *const titles[] = {"hour",          "fact",     "dimension",
                                         "rows",          "keys",     "distinct",
                                         "amplification", "deferred", "NULL keys"};

    return inspect_print(mirror,
                         "select s.hour, s.fact, coalesce(n.name, s.node::text) as "
                         "dimension, s.rows_changed as rows, s.keys_written as keys, "
                         "s.distinct_keys, "
                         "round(coalesce(s.distinct_keys, s.keys_written)::numeric / "
                         "nullif(s.rows_changed, 0), 2) as amplification, "
                         "s.deferred, s.null_keys from "
                         "tailwater.dimension_statistic s join tailwater.fact f on "
                         "f.name = s.fact left join "
                         "tailwater.fact_node n on n.fact = s.fact and n.node = "
                         "s.node where f.pipeline = $1 "
                         "and s.hour > clock_timestamp() - interval '25 hours' "
                         "order by s.hour desc, s.fact, s.node",
                         1, &pipeline, titles, 9, is_json, out, err) ||
           error_wrap(err, "ledger stats");
}
