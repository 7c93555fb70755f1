/*
 * A round in the order of the functions: the list (is there anything?), the snapshot, the cursor,
 * then table by table groups of keys, their rows through a cursor on the source, and slices of rows
 * into the mirror.  In memory are one group's keys and one slice's rows.
 *
 * A slice is one short transaction that first takes the pipeline's clock row, as a batch and a
 * sweep do (sweep.h): nothing can change a row between the look at its _lsn and the write.  In it
 * the slice's entries leave the list; a row one of whose entries is no longer there is not written,
 * since the applier has taken it off (repair.h).
 *
 * Keys are compared by the column's own equality, wherever that operator lives.  Values travel as
 * text both ways: this is for few rows.
 *
 * Not here: deciding when to run (the engine's).
 */
#include "sync/repair.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "ledger/resolve.h"
#include "ledger/store.h"
#include "mirror/control.h"
#include "mirror/ddl.h"
#include "mirror/statement.h"
#include "source/snapshot.h"
#include "sync/columns.h"
#include "sync/plan.h"
#include "sync/rate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define GROUP_KEYS      500
#define MAX_KEYS        20000 /* of one table in one round */
#define SLICE_BYTES     ((size_t) 4 * 1024 * 1024)
#define SLICE_ROWS      500
#define MAX_FETCH       64
#define SLOT_TIMEOUT_MS 60000
#define CURSOR_WAIT_US  INT64_C(60000000)
#define POLL_US         20000

struct repair {
    const struct repair_options *options;
    const char *pipeline;
    struct pg *source, *mirror;
    struct resolve *resolve;
    const struct capture_sink *sink; /* NULL: no facts */
    struct rate *rate;
    lsn_t lsn; /* CP */
    char lsn_text[LSN_TEXT_SIZE];
    struct repair_result result;
};

/* Entries of one table. */
struct group {
    int count;
    int64_t last_id;
    struct buf ids;   /* a text array */
    struct buf *keys; /* per key column, a text array of its values */
};

/* Rows on their way into the mirror. */
struct slice {
    int nrows;
    struct buf *values; /* per column, a text array of its values */
    struct buf row_ids; /* a text array of text arrays: the entries of each row */
    struct buf ids;     /* a text array of all of them */
    size_t bytes;
};

static bool stopped(const struct repair *repair, struct error *err)
{
    return atomic_load(repair->options->stop) && !error_set(err, ERROR_RETRY, "stopped");
}

static void nap(int64_t us)
{
    nanosleep(&(struct timespec){.tv_nsec = (long) us * 1000}, NULL);
}

static void add_id(struct buf *ids, const char *text)
{
    buf_printf(ids, "%s%s", ids->len == 0 ? "{" : ",", text);
}

static void bufs_clear(struct buf *bufs, int count)
{
    for (int i = 0; i < count; i++)
        buf_clear(&bufs[i]);
}

static void bufs_free(struct buf *bufs, int count)
{
    for (int i = 0; i < count; i++)
        buf_release(&bufs[i]);
    free(bufs);
}

/* ---- the list ---- */

/* Tables with entries.  A quarantined one stays as it is, and its entries with it. */
static bool find_tables(const struct repair *repair, bool *ret_is_wanted, bool *ret_any,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    *ret_any = false;
    if (!pg_query(repair->mirror,
                  "SELECT DISTINCT schema, name FROM tailwater.repair"
                  " JOIN tailwater.mirror_table USING (pipeline, schema, name)"
                  " WHERE pipeline = $1 AND (quarantine_lsn IS NULL OR resync_job IS NOT NULL)",
                  1, (const char *[]){repair->pipeline}, &result, err))
        return false;
    for (int row = 0; row < pg_rows(result); row++) {
        const struct table *table = table_list_find(
            repair->options->tables, pg_text(result, row, 0), pg_text(result, row, 1));

        /* Of a table that is no longer configured: its keys stay with its rows. */
        if (table != NULL)
            *ret_any = ret_is_wanted[table->index] = true;
    }
    return true;
}

static bool read_group(const struct repair *repair, const struct table *table, int64_t after,
                       struct group *ret_group, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};
    char id[24];

    buf_add(&sql, "SELECT id");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, ", key[%d]", i + 1);
    buf_printf(&sql,
               " FROM tailwater.repair WHERE pipeline = $1 AND schema = $2 AND name = $3"
               " AND lsn < $4::pg_lsn AND id > $5::int8 ORDER BY id LIMIT %d",
               GROUP_KEYS);
    snprintf(id, sizeof(id), "%" PRId64, after);
    if (!pg_query(
            repair->mirror, buf_text(&sql), 5,
            (const char *[]){repair->pipeline, table->schema, table->name, repair->lsn_text, id},
            &result, err))
        return false;
    ret_group->count = pg_rows(result);
    buf_clear(&ret_group->ids);
    bufs_clear(ret_group->keys, table->nkeys);
    for (int i = 0; i < table->nkeys; i++)
        codec_text_array_begin(&ret_group->keys[i]);
    for (int row = 0; row < ret_group->count; row++) {
        add_id(&ret_group->ids, pg_text(result, row, 0));
        for (int i = 0; i < table->nkeys; i++)
            codec_text_array_add(&ret_group->keys[i], pg_text(result, row, i + 1),
                                 (uint32_t) pg_text_len(result, row, i + 1));
        ret_group->last_id = pg_int(result, row, 0);
    }
    for (int i = 0; i < table->nkeys; i++)
        codec_text_array_end(&ret_group->keys[i]);
    buf_add_char(&ret_group->ids, '}');
    return true;
}

/* ---- the snapshot and the cursor ---- */

static bool import_snapshot(struct repair *repair, struct error *err)
{
    const struct config *config = repair->options->config;
    const struct pg_options connection = {
        .side = PG_SOURCE,
        .conninfo = config->source.conninfo,
        .application = "tailwater repair",
        /* Rows by key and by nothing else; refused, not filtered, where row security is on. */
        .settings = PG_BY_KEY " -c row_security=off -c max_parallel_workers_per_gather=0"};

    if (!pg_connect(&connection, &repair->source, err))
        return false;
    pg_limit(repair->source, -1, repair->options->wake_fd);
    if (!snapshot_take(&connection, "repair", config->pipeline, SLOT_TIMEOUT_MS,
                       repair->options->wake_fd, repair->source, &repair->lsn, err))
        return false;
    lsn_text(repair->lsn, repair->lsn_text);
    return true;
}

static bool wait_cursor(const struct repair *repair, struct error *err)
{
    const int64_t timeout_us = repair->options->cursor_timeout_us
                                   ? repair->options->cursor_timeout_us
                                   : CURSOR_WAIT_US;
    const int64_t deadline_us = clock_tick_us() + timeout_us;

    for (;;) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_query_row(repair->mirror,
                          "SELECT cursor >= $2::pg_lsn FROM tailwater.clock WHERE pipeline = $1", 2,
                          (const char *[]){repair->pipeline, repair->lsn_text}, &result, err))
            return false;
        if (pg_bool(result, 0, 0))
            return true;
        if (stopped(repair, err))
            return false;
        if (clock_tick_us() > deadline_us)
            return error_set(err, ERROR_RETRY, "the cursor did not reach %s in %" PRId64 " s",
                             repair->lsn_text, timeout_us / 1000000);
        nap(POLL_US);
    }
}

/* ---- rows of the source ---- */

/* t."k" = k.k0 AND … */
static void add_key_match(struct buf *sql, const struct table *table, const char *alias,
                          const char *other, bool is_key_number)
{
    for (int i = 0; i < table->nkeys; i++) {
        const struct table_column *column = &table->columns[table->keys[i]];

        buf_printf(sql, "%s%s.", i ? " AND " : "", alias);
        pg_add_ident(sql, column->name);
        buf_printf(sql, " %s %s.c%d", column->equality, other, is_key_number ? i : table->keys[i]);
    }
}

/* A cursor over the rows of a group; the last column says which entries each is for. */
static bool open_rows(const struct repair *repair, const struct table *table,
                      const struct group *group, struct error *err)
{
    _cleanup_result_ struct pg_result *types = NULL;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_free_ const char **params = memory_alloc((size_t) (table->nkeys + 1) *
                                                      sizeof(*params));
    _cleanup_result_ struct pg_result *result = NULL;

    if (!columns_read_key_types(repair->source, table, &types, err))
        return false;
    buf_add(&sql, "DECLARE wanted NO SCROLL CURSOR FOR WITH k AS MATERIALIZED (SELECT ");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, "u.c%d::%s AS c%d, ", i, pg_text(types, i, 0), i);
    buf_add(&sql, "u.id FROM unnest(");
    for (int i = 0; i < table->nkeys; i++) {
        buf_printf(&sql, "$%d::text[], ", i + 1);
        params[i] = buf_text(&group->keys[i]);
    }
    params[table->nkeys] = buf_text(&group->ids);
    buf_printf(&sql, "$%d::int8[]) AS u(", table->nkeys + 1);
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&sql, "c%d, ", i);
    buf_add(&sql, "id)) SELECT ");
    columns_add_select(&sql, table, "t", false);
    buf_add(&sql, ", (SELECT array_agg(k.id) FROM k WHERE ");
    add_key_match(&sql, table, "t", "k", true);
    buf_add(&sql, table->is_partitioned ? ") FROM " : ") FROM ONLY ");
    pg_add_qualified(&sql, table->schema, table->name);
    buf_add(&sql, " AS t WHERE EXISTS (SELECT FROM k WHERE ");
    add_key_match(&sql, table, "t", "k", true);
    buf_add_char(&sql, ')');
    return pg_query(repair->source, buf_text(&sql), table->nkeys + 1, params, &result, err);
}

static void slice_begin(struct slice *slice, const struct table *table)
{
    slice->nrows = 0;
    slice->bytes = 0;
    bufs_clear(slice->values, table->ncolumns);
    for (int i = 0; i < table->ncolumns; i++)
        codec_text_array_begin(&slice->values[i]);
    buf_clear(&slice->row_ids);
    codec_text_array_begin(&slice->row_ids);
    buf_clear(&slice->ids);
}

static void slice_end(struct slice *slice, const struct table *table)
{
    for (int i = 0; i < table->ncolumns; i++)
        codec_text_array_end(&slice->values[i]);
    codec_text_array_end(&slice->row_ids);
    buf_add_char(&slice->ids, '}');
}

static void slice_add(struct slice *slice, const struct table *table,
                      const struct pg_result *result, int row)
{
    const char *entries = pg_text(result, row, table->ncolumns);
    const size_t len = pg_text_len(result, row, table->ncolumns);

    for (int i = 0; i < table->ncolumns; i++) {
        const bool is_null = pg_is_null(result, row, i);

        codec_text_array_add(&slice->values[i], is_null ? NULL : pg_text(result, row, i),
                             (uint32_t) pg_text_len(result, row, i));
        slice->bytes += pg_text_len(result, row, i);
    }
    codec_text_array_add(&slice->row_ids, entries, (uint32_t) len);
    /* "{1,7}" without its braces */
    buf_add_char(&slice->ids, slice->ids.len == 0 ? '{' : ',');
    buf_add_bytes(&slice->ids, entries + 1, len - 2);
    slice->nrows++;
}

/*
 * Fill the slice, which has begun.  Rows are fetched few at a time, one at first: as long as the
 * last ones were small, twice as many the next time.
 */
static bool fetch_slice(const struct repair *repair, const struct table *table, struct slice *slice,
                        bool *ret_is_end, struct error *err)
{
    int fetch = 1;

    while (slice->nrows < SLICE_ROWS && slice->bytes < SLICE_BYTES) {
        _cleanup_result_ struct pg_result *result = NULL;
        const size_t before = slice->bytes;
        char sql[40];
        int nrows;

        snprintf(sql, sizeof(sql), "FETCH %d FROM wanted", fetch);
        if (!pg_query(repair->source, sql, 0, NULL, &result, err))
            return false;
        nrows = pg_rows(result);
        for (int row = 0; row < nrows; row++)
            slice_add(slice, table, result, row);
        if (!rate_take(repair->rate, slice->bytes - before, repair->options->stop) ||
            stopped(repair, err))
            return error_set(err, ERROR_RETRY, "stopped");
        if (nrows < fetch) {
            *ret_is_end = true;
            return true;
        }
        fetch = slice->bytes - before > SLICE_BYTES / 16 ? 1 : fetch * 2;
        fetch = fetch > MAX_FETCH ? MAX_FETCH : fetch;
    }
    *ret_is_end = false;
    return true;
}

/* ---- rows of the mirror ---- */

/* WITH u AS (the slice's rows whose entries are all in $n), w AS (UPDATE …), i AS (INSERT …) */
static void add_write(struct buf *sql, const struct table *table, const char *lsn)
{
    buf_add(sql, "WITH u AS MATERIALIZED (SELECT ");
    for (int i = 0; i < table->ncolumns; i++) {
        buf_printf(sql, "%su.c%d", i ? ", " : "", i);
        if (table->columns[i].wire == WIRE_CAST)
            buf_printf(sql, "::%s AS c%d", table->columns[i].cast_type, i);
    }
    buf_add(sql, " FROM unnest(");
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(sql, "$%d::%s[], ", i + 1,
                   table->columns[i].wire == WIRE_CAST ? "text" : table->columns[i].cast_type);
    buf_printf(sql, "$%d::text[]) AS u(", table->ncolumns + 1);
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(sql, "c%d, ", i);
    buf_printf(sql, "ids) WHERE u.ids::int8[] <@ $%d::int8[]), w AS (UPDATE ", table->ncolumns + 2);
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
    buf_add(sql, " AS m SET ");
    for (int i = 0; i < table->ncolumns; i++) {
        pg_add_ident(sql, table->columns[i].name);
        buf_printf(sql, " = u.c%d, ", i);
    }
    buf_printf(sql,
               DDL_LSN_COLUMN " = '%s', " DDL_DELETED_COLUMN
                              " = NULL FROM u WHERE m." DDL_LSN_COLUMN " < '%s' AND ",
               lsn, lsn);
    add_key_match(sql, table, "m", "u", false);
    buf_add(sql, " RETURNING 1), i AS (INSERT INTO ");
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
    buf_add(sql, " (");
    columns_add_names(sql, table);
    buf_add(sql, ", " DDL_LSN_COLUMN ") SELECT ");
    for (int i = 0; i < table->ncolumns; i++)
        buf_printf(sql, "u.c%d, ", i);
    buf_printf(sql, "'%s'::pg_lsn FROM u WHERE NOT EXISTS (SELECT FROM ", lsn);
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
    buf_add(sql, " AS m WHERE ");
    add_key_match(sql, table, "m", "u", false);
    buf_add(sql, ") RETURNING 1) SELECT (SELECT count(*) FROM w) + (SELECT count(*) FROM i)");
}

static bool lock_clock(const struct repair *repair, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    return pg_exec(repair->mirror, "BEGIN; SET LOCAL lock_timeout = '2s'", err) &&
           pg_query_row(repair->mirror,
                        "SELECT FROM tailwater.clock WHERE pipeline = $1 FOR UPDATE", 1,
                        &repair->pipeline, &result, err);
}

/* Take entries off the list: *ret_ids are those that were still on it, as a text array. */
static bool take_off(const struct repair *repair, const char *ids, struct buf *ret_ids,
                     int64_t *ret_count, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_query(repair->mirror,
                  "DELETE FROM tailwater.repair WHERE id = ANY ($1::int8[]) RETURNING id", 1, &ids,
                  &result, err))
        return false;
    for (int row = 0; row < pg_rows(result); row++)
        add_id(ret_ids, pg_text(result, row, 0));
    buf_add(ret_ids, ret_ids->len == 0 ? "{}" : "}");
    *ret_count = pg_rows(result);
    return true;
}

static bool write_rows(const struct repair *repair, const struct table *table,
                       const struct slice *slice, const char *ids, int64_t *ret_rows,
                       struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_free_ const char **params = memory_alloc((size_t) (table->ncolumns + 2) *
                                                      sizeof(*params));

    for (int i = 0; i < table->ncolumns; i++)
        params[i] = buf_text(&slice->values[i]);
    params[table->ncolumns] = buf_text(&slice->row_ids);
    params[table->ncolumns + 1] = ids;
    add_write(&sql, table, repair->lsn_text);
    if (!pg_query_row(repair->mirror, buf_text(&sql), table->ncolumns + 2, params, &result, err))
        return false;
    *ret_rows = pg_int(result, 0, 0);
    return true;
}

/* ---- the ledger ---- */

/* A number, which is the clock's row too; the settings are those of an apply transaction. */
static bool take_number(const struct repair *repair, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    return pg_exec(repair->mirror, "BEGIN; SET LOCAL lock_timeout = '2s'", err) &&
           pg_query_row(repair->mirror,
                        "SELECT tailwater.next_batch($1), "
                        "set_config('" CURSOR_KEYS_SETTING "', '0', true)",
                        1, &repair->pipeline, &result, err);
}

/* What the rows of the slice's keys, as they are now, give to facts. */
static bool capture_rows(const struct repair *repair, const struct table *table,
                         const struct slice *slice, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_free_ const char **params = memory_alloc((size_t) table->nkeys * sizeof(*params));

    for (int i = 0; i < table->nkeys; i++)
        params[i] = buf_text(&slice->values[table->keys[i]]);
    statement_capture(table, &repair->sink->lists[table->index], false, &sql);
    return pg_query_row(repair->mirror, buf_text(&sql), table->nkeys, params, &result, err) &&
           repair->sink->take(repair->sink->context, table, result, COUNTS, err);
}

static bool send_captures(const struct repair *repair, int nrows, struct error *err)
{
    const struct capture_scope scope = {.kind = "repair",
                                        .from = repair->lsn,
                                        .to = repair->lsn,
                                        .changes = nrows,
                                        .is_last = true};
    int nqueued = 0;

    if (!repair->sink->follow(repair->sink->context, repair->mirror, &scope, err) ||
        !repair->sink->finish(repair->sink->context, repair->mirror, &scope, &nqueued, err) ||
        !pg_pipeline_sync(repair->mirror, err))
        return false;
    for (int i = 0; i <= nqueued; i++) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_pipeline_next(repair->mirror, &result, err))
            return false;
    }
    return true;
}

static bool finish_captures(const struct repair *repair, int nrows, struct error *err)
{
    struct error ignored;

    if (!pg_pipeline_enter(repair->mirror, err))
        return false;
    if (send_captures(repair, nrows, err))
        return pg_pipeline_leave(repair->mirror, err);
    if (!pg_is_broken(repair->mirror))
        (void) pg_pipeline_drain(repair->mirror, &ignored);
    return false;
}

static bool write_captured(const struct repair *repair, const struct table *table,
                           const struct slice *slice, const char *ids, int64_t *ret_rows,
                           struct error *err)
{
    repair->sink->begin(repair->sink->context);
    return capture_rows(repair, table, slice, err) &&
           write_rows(repair, table, slice, ids, ret_rows, err) &&
           capture_rows(repair, table, slice, err) && finish_captures(repair, slice->nrows, err);
}

static bool write_once(struct repair *repair, const struct table *table, const struct slice *slice,
                       struct error *err)
{
    const bool is_captured = repair->sink && repair->sink->lists[table->index].count > 0;
    _cleanup_buf_ struct buf ids = {0};
    int64_t keys, rows;

    if (!(is_captured ? take_number(repair, err) : lock_clock(repair, err)) ||
        !take_off(repair, buf_text(&slice->ids), &ids, &keys, err) ||
        !(is_captured ? write_captured(repair, table, slice, buf_text(&ids), &rows, err)
                      : write_rows(repair, table, slice, buf_text(&ids), &rows, err)) ||
        (rows > 0 &&
         !control_count(repair->mirror, repair->pipeline, "repaired_rows", rows, err)) ||
        !pg_exec(repair->mirror, "COMMIT", err))
        return false;
    repair->result.keys += keys;
    repair->result.rows += rows;
    return true;
}

/* While a large transaction is being applied the clock is taken, for as long as that lasts. */
static bool write_slice(struct repair *repair, const struct table *table, const struct slice *slice,
                        struct error *err)
{
    for (;;) {
        struct error failure = {0}, ignored;

        if (write_once(repair, table, slice, &failure))
            return true;
        if (!pg_is_broken(repair->mirror))
            (void) pg_exec(repair->mirror, "ROLLBACK", &ignored);
        if (strcmp(failure.sqlstate, "55P03") != 0) {
            *err = failure;
            return false;
        }
        if (stopped(repair, err))
            return false;
    }
}

/* ---- all of it ---- */

/*
 * One slice of the group's rows.  The lock on the source's table is let go before the mirror's
 * clock is waited for (load.c says why).
 */
static bool read_slice(const struct repair *repair, const struct table *table,
                       const struct group *group, struct slice *slice, bool *ret_is_end,
                       struct error *err)
{
    slice_begin(slice, table);
    if (!pg_exec(repair->source, "SAVEPOINT slice", err) || !open_rows(repair, table, group, err) ||
        !fetch_slice(repair, table, slice, ret_is_end, err) ||
        !plan_check_storage(repair->source, table->schema, table->name, table->relid, err) ||
        !pg_exec(repair->source, "ROLLBACK TO SAVEPOINT slice; RELEASE SAVEPOINT slice", err))
        return false;
    slice_end(slice, table);
    return FAULT(repair_after_fetch, err);
}

/* What the slice could not hold is still on the list: the caller reads the group anew. */
static bool repair_group(struct repair *repair, const struct table *table,
                         const struct group *group, struct slice *slice, bool *ret_is_end,
                         struct error *err)
{
    _cleanup_buf_ struct buf rest = {0};
    int64_t keys = 0;
    bool is_end;

    if (!read_slice(repair, table, group, slice, &is_end, err) ||
        (slice->nrows > 0 && !write_slice(repair, table, slice, err)))
        return false;
    /* Those that S does not have: the stream had their delete, or will have it. */
    if (is_end && !take_off(repair, buf_text(&group->ids), &rest, &keys, err))
        return false;
    repair->result.keys += keys;
    *ret_is_end = is_end;
    return true;
}

static bool repair_table(struct repair *repair, const struct table *table, struct error *err)
{
    struct group group = {.keys = memory_alloc((size_t) table->nkeys * sizeof(struct buf))};
    struct slice slice = {.values = memory_alloc((size_t) table->ncolumns * sizeof(struct buf))};
    const int64_t end = repair->result.keys + MAX_KEYS;
    int64_t after = 0;
    bool is_fine;

    for (;;) {
        bool is_end;

        is_fine = read_group(repair, table, after, &group, err);
        if (!is_fine || group.count == 0)
            break;
        is_fine = repair_group(repair, table, &group, &slice, &is_end, err);
        if (!is_fine || (is_end && group.count < GROUP_KEYS))
            break;
        after = is_end ? group.last_id : after;
        if (repair->result.keys >= end) {
            repair->result.is_more = true;
            break;
        }
    }

    bufs_free(group.keys, table->nkeys);
    buf_release(&group.ids);
    bufs_free(slice.values, table->ncolumns);
    buf_release(&slice.row_ids);
    buf_release(&slice.ids);
    return is_fine || error_wrap(err, "repairing rows of %s", table->label);
}

static bool run(struct repair *repair, bool *is_wanted, struct error *err)
{
    const struct repair_options *options = repair->options;
    bool any;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = options->config->mirror.conninfo,
                                         .application = "tailwater repair",
                                         .settings = PG_BY_KEY},
                    &repair->mirror, err))
        return false;
    pg_limit(repair->mirror, -1, options->wake_fd);
    if (!find_tables(repair, is_wanted, &any, err))
        return false;
    if (!any)
        return true;
    if (!import_snapshot(repair, err) || !wait_cursor(repair, err))
        return false;
    for (int i = 0; i < options->tables->count; i++)
        if (is_wanted[i] && !repair_table(repair, &options->tables->tables[i], err))
            return false;
    return true;
}

/* A key that cannot be computed costs the fact its keys, not the table its repair: the next round
 * goes on without it. */
static void suspend_failed(const struct repair *repair, struct error *err)
{
    struct fact *fact = resolve_failed_fact(repair->options->facts, err);
    struct error failure;

    if (fact == NULL || repair->mirror == NULL)
        return;
    if (store_suspend(repair->mirror, fact->name, err->message, &failure))
        fact->is_suspended = true;
    err->kind = ERROR_RETRY;
}

bool repair_run(const struct repair_options *options, struct repair_result *ret_result,
                struct error *err)
{
    struct repair repair = {.options = options,
                            .pipeline = options->config->pipeline,
                            .rate = rate_new(options->config->source.max_read_rate_bytes)};
    _cleanup_free_ bool *is_wanted = memory_alloc((size_t) options->tables->count + 1);
    bool is_fine;

    if (options->facts != NULL) {
        repair.resolve = resolve_new(options->config->pipeline, options->tables, options->facts,
                                     true);
        repair.sink = resolve_sink(repair.resolve);
    }
    is_fine = run(&repair, is_wanted, err);
    if (!is_fine && options->facts != NULL)
        suspend_failed(&repair, err);
    resolve_free(repair.resolve);
    pg_free(repair.source);
    pg_free(repair.mirror);
    rate_free(repair.rate);
    if (is_fine)
        *ret_result = repair.result;
    return is_fine;
}
