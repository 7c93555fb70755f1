/* A job is a row, and one for each of its tables.  Jobs that ended stay for 30 days. */
#include "mirror/job.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const names[] = {[JOB_WAITING] = "waiting",
                                    [JOB_RUNNING] = "running",
                                    [JOB_DONE] = "done",
                                    [JOB_FAILED] = "failed"};

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

bool job_ask(struct pg *mirror, const char *pipeline, int ntables, const char *const *schemas,
             const char *const *table_names, int64_t *ret_id, struct error *err)
{
    _cleanup_buf_ struct buf schema_array = {0}, name_array = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    for (int i = 0; i < ntables; i++) {
        add_element(&schema_array, schemas[i]);
        add_element(&name_array, table_names[i]);
    }
    buf_add(&schema_array, "}");
    buf_add(&name_array, "}");
    if (!pg_query_row(mirror,
                      "WITH old AS (DELETE FROM tailwater.job WHERE pipeline = $1 "
                      "AND ended_at < now() - interval '30 days'), "
                      "new AS (INSERT INTO tailwater.job (pipeline, kind) VALUES ($1, 'resync') "
                      "RETURNING id), "
                      "tables AS (INSERT INTO tailwater.job_table (job, nr, schema, name) "
                      "SELECT new.id, u.nr, u.schema, u.name FROM new, "
                      "unnest($2::text[], $3::text[]) WITH ORDINALITY AS u(schema, name, nr)) "
                      "SELECT id FROM new",
                      3, (const char *[]){pipeline, buf_text(&schema_array), buf_text(&name_array)},
                      &row, err))
        return error_wrap(err, "asking for a resync");
    *ret_id = pg_int(row, 0, 0);
    return true;
}

static bool read_tables(struct pg *mirror, struct arena *arena, struct job *job, struct error *err)
{
    char id[24];
    const char *params[] = {number(id, job->id)};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror,
                  "SELECT nr, schema, name, state, step, lsn, coalesce((extract(epoch FROM "
                  "coalesce(ended_at, now()) - started_at) * 1000000)::bigint, 0), bytes, "
                  "bytes_done, rows_read, rows_missing, rows_different, rows_extra, sqlstate, "
                  "error, hint FROM tailwater.job_table WHERE job = $1::bigint ORDER BY nr",
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
        };
    return true;
}

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

    return read_job(mirror, "SELECT id, state FROM tailwater.job WHERE id = $1::bigint",
                    number(text, id), arena, ret_job, err);
}

bool job_next(struct pg *mirror, const char *pipeline, struct arena *arena, struct job *ret_job,
              struct error *err)
{
    return read_job(mirror,
                    "SELECT id, state FROM tailwater.job WHERE pipeline = $1 "
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
