/* A job is a row, and one for each of its tables.  Jobs that ended stay for 30 days. */
#include "mirror/job.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const names[] = {[JOB_WAITING] = "waiting",
                                    [JOB_RUNNING] = "running",
                                    [JOB_DONE] = "done",
                                    [JOB_FAILED] = "failed"};

static const char *const kinds[] = {
    [JOB_RESYNC] = "resync", [JOB_VERIFY] = "verify", [JOB_RELOAD] = "reload"};

const char *job_kind_name(enum job_kind kind)
{
    return kinds[kind];
}

const char *job_state_name(enum job_state state)
{
    return names[state];
}

/* A job that waits is 'asked' in its own row. */
static enum job_state parse_state(const char *text)
{
    for (int i = JOB_RUNNING; i <= JOB_FAILED; i++)
        if (strcmp(text, names[i]) == 0)
            return (enum job_state) i;
    return JOB_WAITING;
}

static enum job_kind parse_kind(const char *text)
{
    enum job_kind kind = JOB_RESYNC;

    for (int i = JOB_VERIFY; i <= JOB_RELOAD; i++)
        if (strcmp(text, kinds[i]) == 0)
            kind = (enum job_kind) i;
    return kind;
}

static const char *number(char text[24], int64_t value)
{
    snprintf(text, 24, "%" PRId64, value);
    return text;
}

static void add_element(struct buf *array, const char *text)
{
    buf_add(array, array->len == 0 ? "{\"" : ",\"");
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            buf_add_char(array, '\\');
        buf_add_char(array, *text);
    }
    buf_add_char(array, '"');
}

bool job_ask(struct pg *mirror, const char *pipeline, const struct job_wish *wish, int64_t *ret_id,
             struct error *err)
{
    _cleanup_buf_ struct buf schemas = {0}, table_names = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    for (int i = 0; i < wish->ntables; i++) {
        add_element(&schemas, wish->schemas[i]);
        add_element(&table_names, wish->names[i]);
    }
    buf_add(&schemas, schemas.len == 0 ? "{}" : "}");
    buf_add(&table_names, table_names.len == 0 ? "{}" : "}");
    if (!pg_query_row(mirror,
                      "WITH old AS (DELETE FROM tailwater.job WHERE pipeline = $1 "
                      "AND ended_at < now() - interval '30 days'), "
                      "new AS (INSERT INTO tailwater.job (pipeline, kind, is_forced, shows_values) "
                      "VALUES ($1, $4, $5::boolean, $6::boolean) RETURNING id), "
                      "tables AS (INSERT INTO tailwater.job_table (job, nr, schema, name) "
                      "SELECT new.id, u.nr, u.schema, u.name FROM new, "
                      "unnest($2::text[], $3::text[]) WITH ORDINALITY AS u(schema, name, nr)) "
                      "SELECT id FROM new",
                      6,
                      (const char *[]){pipeline, buf_text(&schemas), buf_text(&table_names),
                                       kinds[wish->kind], wish->is_forced ? "t" : "f",
                                       wish->shows_values ? "t" : "f"},
                      &row, err))
        return error_wrap(err, "asking for a %s", kinds[wish->kind]);
    *ret_id = pg_int(row, 0, 0);
    return true;
}

static bool read_tables(struct pg *mirror, struct arena *arena, struct job *job, struct error *err)
{
    char id[24];
    const char *params[] = {number(id, job->id)};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror,
                  "SELECT t.nr, t.schema, t.name, t.state, t.step, t.lsn, coalesce((extract(epoch "
                  "FROM coalesce(t.ended_at, now()) - t.started_at) * 1000000)::bigint, 0), "
                  "t.bytes, t.bytes_done, t.rows_read, t.rows_missing, t.rows_different, "
                  "t.rows_extra, t.sqlstate, t.error, t.hint, m.quarantine_lsn IS NOT NULL "
                  "FROM tailwater.job_table t JOIN tailwater.job j ON j.id = t.job "
                  "LEFT JOIN tailwater.mirror_table m ON (m.pipeline, m.schema, m.name) = "
                  "(j.pipeline, t.schema, t.name) WHERE t.job = $1::bigint ORDER BY t.nr",
                  1, params, &rows, err))
        return false;
    job->ntables = pg_rows(rows);
    job->tables = arena_new(arena, struct job_table, job->ntables);
    for (int i = 0; i < job->ntables; i++)
        job->tables[i] = (struct job_table){
            .nr = (int) pg_int(rows, i, 0),
            .schema = arena_strdup(arena, pg_text(rows, i, 1)),
            .name = arena_strdup(arena, pg_text(rows, i, 2)),
            .state = parse_state(pg_text(rows, i, 3)),
            .step = arena_strdup(arena, pg_text(rows, i, 4)),
            .lsn = pg_lsn(rows, i, 5),
            .elapsed_us = pg_int(rows, i, 6),
            .bytes = pg_int(rows, i, 7),
            .bytes_done = pg_int(rows, i, 8),
            .rows_read = pg_int(rows, i, 9),
            .rows_missing = pg_int(rows, i, 10),
            .rows_different = pg_int(rows, i, 11),
            .rows_extra = pg_int(rows, i, 12),
            .sqlstate = arena_strdup(arena, pg_text(rows, i, 13)),
            .error = arena_strdup(arena, pg_text(rows, i, 14)),
            .hint = arena_strdup(arena, pg_text(rows, i, 15)),
            .is_quarantined = pg_bool(rows, i, 16),
        };
    return true;
}

#define COLUMNS "id, state, kind, is_forced, shows_values"

static bool read_job(struct pg *mirror, const char *sql, const char *param, struct arena *arena,
                     struct job *ret_job, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;
    struct job job = {0};

    if (!pg_query(mirror, sql, 1, &param, &row, err))
        return error_wrap(err, "reading the jobs");
    if (pg_rows(row) > 0) {
        job.id = pg_int(row, 0, 0);
        job.state = parse_state(pg_text(row, 0, 1));
        job.kind = parse_kind(pg_text(row, 0, 2));
        job.is_forced = pg_bool(row, 0, 3);
        job.shows_values = pg_bool(row, 0, 4);
        if (!read_tables(mirror, arena, &job, err))
            return error_wrap(err, "reading the jobs");
    }
    *ret_job = job;
    return true;
}

bool job_read(struct pg *mirror, int64_t id, struct arena *arena, struct job *ret_job,
              struct error *err)
{
    char text[24];

    return read_job(mirror, "SELECT " COLUMNS " FROM tailwater.job WHERE id = $1::bigint",
                    number(text, id), arena, ret_job, err);
}

bool job_next(struct pg *mirror, const char *pipeline, struct arena *arena, struct job *ret_job,
              struct error *err)
{
    return read_job(mirror,
                    "SELECT " COLUMNS " FROM tailwater.job WHERE pipeline = $1 "
                    "AND state IN ('asked', 'running') ORDER BY id LIMIT 1",
                    pipeline, arena, ret_job, err);
}

static bool update(struct pg *mirror, const char *sql, int64_t id, struct error *err)
{
    char text[24];
    const char *params[] = {number(text, id)};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror, sql, 1, params, &done, err) || error_wrap(err, "job %s", text);
}

bool job_withdraw(struct pg *mirror, int64_t id, struct error *err)
{
    return update(mirror, "DELETE FROM tailwater.job WHERE id = $1::bigint AND state = 'asked'", id,
                  err);
}

bool job_begin(struct pg *mirror, int64_t id, struct error *err)
{
    return update(mirror,
                  "UPDATE tailwater.job SET state = 'running', "
                  "started_at = coalesce(started_at, now()) WHERE id = $1::bigint",
                  id, err);
}

bool job_end(struct pg *mirror, int64_t id, struct error *err)
{
    return update(mirror,
                  "UPDATE tailwater.job j SET ended_at = now(), state = CASE WHEN EXISTS ("
                  "SELECT FROM tailwater.job_table t WHERE t.job = j.id AND t.state = 'failed') "
                  "THEN 'failed' ELSE 'done' END WHERE id = $1::bigint",
                  id, err);
}

static const char *or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

bool job_say(struct pg *mirror, int64_t id, const struct job_table *table, struct error *err)
{
    char texts[8][24], lsn[LSN_TEXT_SIZE];
    const int64_t counts[] = {table->bytes,        table->bytes_done,     table->rows_read,
                              table->rows_missing, table->rows_different, table->rows_extra};
    const char *params[14] = {number(texts[0], id), number(texts[1], table->nr),
                              names[table->state], or_null(table->step),
                              table->lsn ? lsn_text(table->lsn, lsn) : NULL};
    _cleanup_result_ struct pg_result *done = NULL;

    for (int i = 0; i < 6; i++)
        params[5 + i] = number(texts[2 + i], counts[i]);
    params[11] = or_null(table->sqlstate);
    params[12] = or_null(table->error);
    params[13] = or_null(table->hint);
    return pg_query(mirror,
                    "UPDATE tailwater.job_table SET state = $3, step = $4, lsn = $5::pg_lsn, "
                    "started_at = coalesce(started_at, now()), "
                    "ended_at = CASE WHEN $3 IN ('done', 'failed') THEN now() END, "
                    "bytes = $6::bigint, bytes_done = $7::bigint, rows_read = $8::bigint, "
                    "rows_missing = $9::bigint, rows_different = $10::bigint, "
                    "rows_extra = $11::bigint, sqlstate = $12, error = $13, hint = $14 "
                    "WHERE job = $1::bigint AND nr = $2::integer",
                    14, params, &done, err) ||
           error_wrap(err, "job %s", texts[0]);
}

bool job_add_json(struct pg *mirror, const char *pipeline, struct buf *json, struct error *err)
{
    static const char sql[] =
        "SELECT coalesce(json_agg(t ORDER BY t.job, t.nr), '[]') FROM (SELECT t.job, j.kind, t.nr, "
        "format('%s.%s', t.schema, t.name) AS \"table\", t.state, t.step, t.bytes, t.bytes_done, "
        "t.rows_read, t.rows_missing, t.rows_different, t.rows_extra, t.error, t.hint, "
        "extract(epoch FROM coalesce(t.ended_at, clock_timestamp()) - t.started_at) "
        "AS elapsed_seconds, CASE WHEN t.state = 'running' AND t.bytes_done > 0 AND t.bytes_done < "
        "t.bytes THEN extract(epoch FROM clock_timestamp() - t.started_at) / t.bytes_done "
        "* (t.bytes - t.bytes_done) END AS left_seconds "
        "FROM tailwater.job j JOIN tailwater.job_table t ON t.job = j.id WHERE j.pipeline = $1 "
        "AND (j.state IN ('asked', 'running') OR (t.state = 'failed' "
        "AND t.ended_at > now() - interval '1 day'))) t";
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(mirror, sql, 1, &pipeline, &row, err))
        return error_wrap(err, "reading the jobs");
    buf_add(json, pg_text(row, 0, 0));
    return true;
}

bool job_forget_differences(struct pg *mirror, int64_t id, int nr, struct error *err)
{
    char texts[2][24];
    const char *params[] = {number(texts[0], id), number(texts[1], nr)};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror,
                    "DELETE FROM tailwater.job_difference WHERE job = $1::bigint "
                    "AND nr = $2::integer",
                    2, params, &done, err) ||
           error_wrap(err, "job %s", texts[0]);
}

bool job_note_compared(struct pg *mirror, const char *pipeline, enum job_kind kind,
                       const struct job_table *table, struct error *err)
{
    char count[24], lsn[LSN_TEXT_SIZE];
    const char *params[] = {
        pipeline, table->schema, table->name,
        number(count, table->rows_missing + table->rows_different + table->rows_extra),
        lsn_text(table->lsn, lsn)};
    _cleanup_result_ struct pg_result *done = NULL;

    /* A resync has said when and at which position in the transaction that ended it. */
    return kind == JOB_VERIFY
               ? pg_query(mirror,
                          "UPDATE tailwater.mirror_table SET verified_at = now(), "
                          "verified_differences = $4::bigint, verified_lsn = $5::pg_lsn "
                          "WHERE (pipeline, schema, name) = ($1, $2, $3)",
                          5, params, &done, err)
               : pg_query(mirror,
                          "UPDATE tailwater.mirror_table SET resynced_differences = $4::bigint "
                          "WHERE (pipeline, schema, name) = ($1, $2, $3)",
                          4, params, &done, err);
}

bool job_read_differences(struct pg *mirror, int64_t id, int nr, struct arena *arena,
                          int *ret_count, struct job_difference **ret_differences,
                          struct error *err)
{
    char texts[2][24];
    const char *params[] = {number(texts[0], id), number(texts[1], nr)};
    _cleanup_result_ struct pg_result *rows = NULL;
    struct job_difference *differences;

    if (!pg_query(
            mirror,
            "SELECT kind, (SELECT string_agg(k || '=' || v, ', ') FROM jsonb_each_text(key) "
            "AS e(k, v)) || CASE WHEN columns IS NULL THEN '' ELSE ': ' || (SELECT string_agg("
            "c, ', ') FROM jsonb_array_elements_text(columns) AS c) END || "
            "coalesce('; source ' || source::text, '') || coalesce('; mirror ' || mirror::text, "
            "''), "
            "jsonb_build_object('kind', kind, 'key', key, 'columns', columns) || CASE WHEN source "
            "IS NULL THEN '{}' ELSE jsonb_build_object("
            "'source', source) END || CASE WHEN mirror IS NULL THEN '{}' ELSE jsonb_build_object("
            "'mirror', mirror) END FROM tailwater.job_difference WHERE job = $1::bigint "
            "AND nr = $2::integer ORDER BY id",
            2, params, &rows, err))
        return error_wrap(err, "reading what differs");
    differences = arena_new(arena, struct job_difference, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        differences[i] = (struct job_difference){.kind = arena_strdup(arena, pg_text(rows, i, 0)),
                                                 .text = arena_strdup(arena, pg_text(rows, i, 1)),
                                                 .json = arena_strdup(arena, pg_text(rows, i, 2))};
    *ret_count = pg_rows(rows);
    *ret_differences = differences;
    return true;
}
