/*
 * In the order of the functions: the mark, the snapshot, the cursor; then both tables are read once, and
 * a sieve tells which rows may differ (sieve.h): most of the time none, and that is all.  Where some
 * may, the source's rows are read by ranges of pages, some thousand at a time, and those in question
 * looked up in the mirror by their key (one statement a chunk: statement_look()); then the mirror's
 * rows that none of them met are looked up in S by their key.  What is wrong goes to the applier.
 *
 * The sieve needs no common moment: the mirror's rows that are older than CP have to be S's, whenever
 * they are read, and the others are left to the exact comparison, which knows what to do with them.
 *
 * Why so.  Two servers' orders are never merged: their collations may differ.  Both directions are
 * look-ups by key, through an index that is there.  The second would ask the source for every row of
 * the mirror; so the first notes the address of each mirror row it met (seen.h), and only the others
 * are asked for: those that are too many, and some that were rewritten meanwhile.  A row that was
 * met and is written again later is newer than CP and does not count any more, so an address cannot
 * hide an extra row; but for a rewrite of the whole mirror table (VACUUM FULL), after which the
 * attempt starts over.  In memory are a chunk, some differing rows, and the bitmap.
 *
 * What is found wrong while a range is being read waits until the range is through (or there is
 * much of it): the source's table is locked (against DDL) while it is read, and the applier may be
 * busy with a large transaction.
 *
 * A snapshot does not protect from TRUNCATE and from a rewrite; plan_check_storage() finds those
 * before anything that depends on it is believed: absent rows of the source.
 */
#include "sync/resync.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/human.h"
#include "base/memory.h"
#include "mirror/ddl.h"
#include "mirror/reshape.h"
#include "mirror/statement.h"
#include "source/publication.h"
#include "source/snapshot.h"
#include "sync/columns.h"
#include "sync/copy_text.h"
#include "sync/look.h"
#include "sync/plan.h"
#include "sync/rate.h"
#include "sync/seen.h"
#include "sync/sieve.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ITEM_BYTES      (INT64_C(16) * 1024 * 1024)
#define CHUNK_ROWS      2000
#define CHUNK_BYTES     ((size_t) 2 * 1024 * 1024)
#define PENDING_ROWS    2000
#define PENDING_BYTES   ((size_t) 8 * 1024 * 1024)
#define SEEN_BYTES      ((size_t) 96 * 1024 * 1024)
#define SCAN_ROWS       5000
#define ASK_KEYS        500
#define SLOT_TIMEOUT_MS 600000
#define POLL_US         20000
#define SAY_US          500000

/* Rows, all in one arena. */
struct chunk {
    struct arena arena;
    struct batch_row **rows; /* of max_rows */
    int nrows;
};

struct resync {
    const struct resync_options *options;
    const struct table *table;
    struct pg *source, *probe, *scan; /* probe: by key and by nothing else; scan: the whole table */
    struct rate *rate;
    lsn_t lsn; /* CP */
    char lsn_text[LSN_TEXT_SIZE];
    bool is_over; /* the table was truncated past CP: what the stream wrote since is all there is */
    struct sieve *sieve; /* what may differ; NULL: anything */
    bool is_sieving;     /* the source's rows are being put into it */
    struct seen *seen;
    struct chunk read, wrong;
    struct look *look;
    int64_t extra_rows; /* of the mirror, that S does not have; counted before they are removed */
    struct resync_progress progress;
    int64_t said_us;
};

/* ---- small things ---- */

static bool stopped(const struct resync *resync, struct error *err)
{
    return atomic_load(resync->options->stop) && !error_set(err, ERROR_RETRY, "stopped");
}

static bool say(struct resync *resync, const char *step, struct error *err)
{
    const int64_t now = clock_tick_us();
    const bool is_new = resync->progress.step == NULL || strcmp(resync->progress.step, step) != 0;

    if (stopped(resync, err))
        return false;
    if (!is_new && now - resync->said_us < SAY_US)
        return true;
    resync->said_us = now;
    resync->progress.step = step;
    return resync->options->progress(resync->options->context, &resync->progress, err);
}

static void chunk_clear(struct chunk *chunk)
{
    arena_reset(&chunk->arena);
    chunk->nrows = 0;
}

static void add_mirror_name(struct buf *sql, const struct table *table)
{
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
}

static bool connect_mirror(const struct resync *resync, const char *settings, struct pg **ret_pg,
                           struct error *err)
{
    const struct pg_options options = {.side = PG_MIRROR,
                                       .conninfo = resync->options->config->mirror.conninfo,
                                       .application = "tailwater resync",
                                       .settings = settings};

    if (!pg_connect(&options, ret_pg, err))
        return false;
    pg_limit(*ret_pg, -1, resync->options->wake_fd);
    return true;
}

static bool connect_all(struct resync *resync, struct error *err)
{
    const struct pg_options source = {.side = PG_SOURCE,
                                      .conninfo = resync->options->config->source.conninfo,
                                      .application = "tailwater resync",
                                      .settings = "-c row_security=off"};

    if (!pg_connect(&source, &resync->source, err))
        return false;
    pg_limit(resync->source, -1, resync->options->wake_fd);
    return connect_mirror(
               resync, PG_BY_KEY " -c plan_cache_mode=force_generic_plan -c enable_bitmapscan=off",
               &resync->probe, err) &&
           connect_mirror(resync, NULL, &resync->scan, err);
}

/* ---- before the mark ---- */

/* A mirror table of another shape can neither be compared nor take the stream's rows. */
static bool check_shape(struct resync *resync, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct notes notes = {.arena = &arena};

    return ddl_create_table(resync->scan, resync->options->config->pipeline, resync->table, &notes,
                            err);
}

/* Without its changes it would be equal once, and never again. */
static bool check_publication(struct resync *resync, struct error *err)
{
    const struct config *config = resync->options->config;
    _cleanup_(arena_release) struct arena arena = {0};
    struct publication publication;
    bool is_missing;

    if (strcmp(config->source.plugin, "pgoutput") != 0)
        return true;
    return publication_look(resync->source, config->source.publication, &arena, &publication,
                            err) &&
           publication_check_table(&publication, resync->table, &is_missing, err);
}

/* ---- the mark, the snapshot, the cursor ---- */

static bool mark(struct resync *resync, enum side_kind kind, struct error *err)
{
    struct side_batch side = {
        .kind = kind, .table = resync->table, .lsn = resync->lsn, .job = resync->options->job};

    return resync->options->apply(resync->options->context, &side, err);
}

static bool import_snapshot(struct resync *resync, struct error *err)
{
    const struct config *config = resync->options->config;
    const struct pg_options connection = {
        .side = PG_SOURCE, .conninfo = config->source.conninfo, .application = "tailwater resync"};

    if (!snapshot_take(&connection, "resync", config->pipeline, SLOT_TIMEOUT_MS,
                       resync->options->wake_fd, resync->source, &resync->lsn, err))
        return false;
    lsn_text(resync->lsn, resync->lsn_text);
    resync->progress.lsn = resync->lsn;
    return true;
}

/* For ever: the stream may be far behind. */
static bool wait_for(struct resync *resync, lsn_t lsn, const char *step, struct error *err)
{
    char text[LSN_TEXT_SIZE];

    lsn_text(lsn, text);
    resync->options->want(resync->options->context, lsn);
    for (;;) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!say(resync, step, err) ||
            !pg_query_row(resync->probe,
                          "SELECT cursor >= $2::pg_lsn FROM tailwater.clock WHERE pipeline = $1", 2,
                          (const char *[]){resync->options->config->pipeline, text}, &result, err))
            return false;
        if (pg_bool(result, 0, 0))
            return true;
        nanosleep(&(struct timespec){.tv_nsec = POLL_US * 1000}, NULL);
    }
}

/* The snapshot waits. */
static bool wait_cursor(struct resync *resync, struct error *err)
{
    return wait_for(resync, resync->lsn, "waiting for the stream to reach the snapshot", err);
}

/* Rows of the shape that the table had before are left out, not compared with (reshape.h). */
static bool wait_shape(struct resync *resync, struct error *err)
{
    lsn_t lsn = 0;

    return reshape_find_lsn(resync->probe, resync->options->config->pipeline, resync->table, &lsn,
                            err) &&
           (lsn == 0 || wait_for(resync, lsn, "waiting for the stream to pass the change", err));
}

/* Rows that are known to be incomplete are somebody's work already: a verify lets it be done. */
static bool wait_repairs(struct resync *resync, struct error *err)
{
    const struct table *table = resync->table;
    const char *params[] = {resync->options->config->pipeline, table->schema, table->name, NULL,
                            NULL};
    _cleanup_result_ struct pg_result *newest = NULL;

    if (!resync->options->is_verify)
        return true;
    if (!pg_query_row(resync->probe,
                      "SELECT (SELECT max(id) FROM tailwater.repair), "
                      "(SELECT max(id) FROM tailwater.doubt)",
                      0, NULL, &newest, err))
        return false;
    params[3] = pg_is_null(newest, 0, 0) ? "0" : pg_text(newest, 0, 0);
    params[4] = pg_is_null(newest, 0, 1) ? "0" : pg_text(newest, 0, 1);
    for (;;) {
        _cleanup_result_ struct pg_result *left = NULL;

        if (!say(resync, "waiting for rows that are being fetched from the source", err) ||
            !pg_query_row(resync->probe,
                          "SELECT EXISTS (SELECT FROM tailwater.repair WHERE (pipeline, schema, "
                          "name) = ($1, $2, $3) AND id <= $4::bigint) OR EXISTS (SELECT FROM "
                          "tailwater.doubt WHERE (pipeline, schema, name) = ($1, $2, $3) "
                          "AND id <= $5::bigint)",
                          5, params, &left, err))
            return false;
        if (!pg_bool(left, 0, 0))
            return true;
        nanosleep(&(struct timespec){.tv_nsec = POLL_US * 1000}, NULL);
    }
}

static bool find_storage(struct resync *resync, struct buf *ret_node, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf name = {0};

    add_mirror_name(&name, resync->table);
    if (!pg_query_row(resync->probe, "SELECT pg_relation_filenode($1::regclass)", 1,
                      (const char *[]){buf_text(&name)}, &result, err))
        return false;
    buf_clear(ret_node);
    buf_add(ret_node, pg_text(result, 0, 0));
    return true;
}

/* ---- what is wrong goes to the applier ---- */

/* What is still so, now that it has waited; unless the table was truncated since. */
static bool report_wrong(struct resync *resync, struct error *err)
{
    const struct resync_options *options = resync->options;
    const struct look_asker asker = {options->job, options->nr, options->shows_values};
    struct resync_progress *progress = &resync->progress;
    const int64_t kept = progress->rows_missing + progress->rows_different + progress->rows_extra;
    struct side_batch side = {.kind = SIDE_ASK, .table = resync->table, .lsn = resync->lsn};
    struct look_counts counts;

    if (!pg_exec(resync->probe, "BEGIN", err) ||
        !look_explain(resync->look, resync->wrong.rows, resync->wrong.nrows, &asker,
                      kept < RESYNC_KEPT_DIFFERENCES ? RESYNC_KEPT_DIFFERENCES - kept : 0, &counts,
                      err) ||
        !options->apply(options->context, &side, err) ||
        !pg_exec(resync->probe, side.is_void ? "ROLLBACK" : "COMMIT", err))
        return false;
    resync->is_over = side.is_void;
    if (side.is_void)
        return true;
    progress->rows_missing += counts.missing;
    progress->rows_different += counts.different;
    progress->rows_extra += counts.extra;
    return true;
}

static bool repair_wrong(struct resync *resync, struct error *err)
{
    struct side_batch side = {.kind = SIDE_ROWS,
                              .table = resync->table,
                              .lsn = resync->lsn,
                              .rows = resync->wrong.rows,
                              .nrows = resync->wrong.nrows};

    if (!resync->options->apply(resync->options->context, &side, err))
        return false;
    resync->is_over = side.is_void;
    resync->progress.rows_missing += side.counts.inserted;
    resync->progress.rows_different += side.counts.updated;
    resync->progress.rows_extra += side.counts.deleted;
    return true;
}

static bool write_wrong(struct resync *resync, struct error *err)
{
    if (resync->is_over || resync->wrong.nrows == 0)
        return true;
    if (!(resync->options->is_verify ? report_wrong : repair_wrong)(resync, err))
        return false;
    chunk_clear(&resync->wrong);
    return true;
}

static void copy_values(struct arena *arena, struct value *to, const struct value *from, int count)
{
    for (int i = 0; i < count; i++) {
        to[i] = from[i];
        if (from[i].kind == VALUE_TEXT)
            to[i].data = arena_memdup(arena, from[i].data, from[i].len);
    }
}

/* A copy that outlives the chunk; values NULL: the key is gone. */
static void add_wrong(struct resync *resync, const struct value *key, const struct value *values)
{
    const struct table *table = resync->table;
    struct chunk *wrong = &resync->wrong;
    struct batch_row *row = arena_zalloc(&wrong->arena, sizeof(*row));
    struct value *copy = arena_new(&wrong->arena, struct value, table->nkeys);

    copy_values(&wrong->arena, copy, key, table->nkeys);
    row->key = copy;
    row->lsn = resync->lsn;
    row->commit_time_us = clock_now_us();
    row->is_gone = values == NULL;
    if (values != NULL) {
        row->values = arena_new(&wrong->arena, struct value, table->ncolumns);
        copy_values(&wrong->arena, row->values, values, table->ncolumns);
        for (int i = 0; i < table->ncolumns; i++)
            row->data_bytes += values[i].kind == VALUE_TEXT ? values[i].len : 0;
    }
    wrong->rows[wrong->nrows++] = row;
}

static bool is_much_wrong(const struct resync *resync)
{
    return resync->wrong.nrows == PENDING_ROWS || resync->wrong.arena.used_bytes >= PENDING_BYTES;
}

/* ---- the source's rows ---- */

/* The chunk's rows beside the mirror's. */
static bool compare_chunk(struct resync *resync, struct error *err)
{
    _cleanup_result_ struct pg_result *found = NULL;

    if (resync->read.nrows == 0)
        return true;
    if (!look_at(resync->look, resync->read.rows, resync->read.nrows, &found, err))
        return false;
    for (int i = 0; i < pg_rows(found); i++) {
        const struct batch_row *row = resync->read.rows[pg_int(found, i, 0) - 1];

        if (!pg_is_null(found, i, 1))
            seen_add(resync->seen, pg_text(found, i, 1));
        if (pg_int(found, i, 2) == LOOK_FINE)
            continue;
        if (is_much_wrong(resync) && !write_wrong(resync, err))
            return false;
        add_wrong(resync, row->key, row->values);
    }
    chunk_clear(&resync->read);
    return true;
}

static bool add_line(struct resync *resync, const char *line, size_t len, struct error *err)
{
    const struct table *table = resync->table;
    struct chunk *read = &resync->read;
    struct batch_row *row = arena_zalloc(&read->arena, sizeof(*row));
    struct value *key = arena_new(&read->arena, struct value, table->nkeys);

    row->values = arena_new(&read->arena, struct value, table->ncolumns);
    if (!copy_text_parse(line, len, table->ncolumns, &read->arena, row->values))
        return error_set(err, ERROR_PROTOCOL, "a row of COPY that was not understood");
    for (int i = 0; i < table->nkeys; i++)
        key[i] = row->values[table->keys[i]];
    row->key = key;
    read->rows[read->nrows++] = row;
    return true;
}

/* A row to look at: with a chunk of others. */
static bool take_row(struct resync *resync, const char *line, size_t len, struct error *err)
{
    if (resync->sieve != NULL && !sieve_has(resync->sieve, line, len))
        return true;
    if (!add_line(resync, line, len, err))
        return false;
    return (resync->read.nrows < CHUNK_ROWS && resync->read.arena.used_bytes < CHUNK_BYTES) ||
           compare_chunk(resync, err);
}

static const char *step_of(const struct resync *resync)
{
    if (resync->is_sieving)
        return "reading the source's rows";
    return resync->sieve != NULL ? "comparing rows that may differ" : "comparing rows";
}

static bool read_rows(struct resync *resync, struct error *err)
{
    const char *line;
    size_t len;

    for (int64_t n = 1;; n++) {
        if (!pg_copy_out_next(resync->source, &line, &len, err))
            return false;
        if (len == 0)
            return resync->is_sieving || compare_chunk(resync, err);
        if (!rate_take(resync->rate, len, resync->options->stop))
            return error_set(err, ERROR_RETRY, "stopped");
        if (resync->is_sieving)
            sieve_add_source(resync->sieve, line, len);
        else if (!take_row(resync, line, len, err))
            return false;
        resync->progress.rows_read += resync->is_sieving || resync->sieve == NULL;
        if (n % CHUNK_ROWS == 0 && !say(resync, step_of(resync), err))
            return false;
    }
}

static bool compare_item(struct resync *resync, const struct plan_item *item, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    plan_add_copy(&sql, item, false);
    if (!pg_exec(resync->source, "SAVEPOINT item", err) ||
        !pg_copy_out_begin(resync->source, buf_text(&sql), err) || !read_rows(resync, err) ||
        !plan_check_storage(resync->source, item->schema, item->name, item->relid, err) ||
        !pg_exec(resync->source, "ROLLBACK TO SAVEPOINT item; RELEASE SAVEPOINT item", err))
        return false;
    resync->progress.bytes_done += item->bytes;
    return write_wrong(resync, err) && say(resync, step_of(resync), err);
}

static bool compare_items(struct resync *resync, const struct plan *plan, struct error *err)
{
    resync->progress.bytes_done = 0;
    for (int i = 0; i < plan->nitems && !resync->is_over; i++)
        if (!compare_item(resync, &plan->items[i], err))
            return false;
    return true;
}

/* ---- what may differ at all ---- */

/*
 * The sieve is for tables that are nearly equal: not for one that is being filled, nor for one that
 * keeps rows on purpose which the source does not have.
 */
static bool needs_sieve(const struct resync *resync, bool *ret_needs, struct error *err)
{
    const struct table *table = resync->table;
    _cleanup_result_ struct pg_result *row = NULL;
    _cleanup_buf_ struct buf sql = {0};

    *ret_needs = false;
    if (table->deletes == DELETES_IGNORE || table->truncate == TRUNCATE_IGNORE)
        return true;
    buf_add(&sql, "SELECT EXISTS (SELECT FROM ");
    add_mirror_name(&sql, table);
    buf_printf(&sql, " WHERE _lsn < '%s')", resync->lsn_text);
    if (!pg_query_row(resync->scan, buf_text(&sql), 0, NULL, &row, err))
        return false;
    *ret_needs = pg_bool(row, 0, 0);
    return true;
}

/* Rows that S has to have as they are; where it has others, or the mirror newer ones, sums differ. */
static void add_mirror_copy(const struct resync *resync, struct buf *sql)
{
    buf_add(sql, "COPY (SELECT ");
    columns_add_names(sql, resync->table);
    buf_add(sql, " FROM ");
    add_mirror_name(sql, resync->table);
    buf_printf(sql, " WHERE _deleted_at IS NULL AND _lsn < '%s') TO STDOUT", resync->lsn_text);
}

static bool sieve_mirror(struct resync *resync, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    const char *line;
    size_t len;

    add_mirror_copy(resync, &sql);
    if (!pg_copy_out_begin(resync->scan, buf_text(&sql), err))
        return false;
    for (int64_t n = 1;; n++) {
        if (!pg_copy_out_next(resync->scan, &line, &len, err))
            return false;
        if (len == 0)
            return true;
        sieve_add_mirror(resync->sieve, line, len);
        if (n % CHUNK_ROWS == 0 && !say(resync, "reading the mirror's rows", err))
            return false;
    }
}

/* *ret_left: rows that may differ are to be looked at. */
static bool sift(struct resync *resync, const struct plan *plan, bool *ret_left, struct error *err)
{
    bool is_needed;

    if (!needs_sieve(resync, &is_needed, err))
        return false;
    *ret_left = true;
    if (!is_needed)
        return true;
    resync->sieve = sieve_new(resync->table, plan->bytes);
    resync->is_sieving = true;
    if (!compare_items(resync, plan, err) || !sieve_mirror(resync, err))
        return false;
    resync->is_sieving = false;
    *ret_left = sieve_count(resync->sieve) > 0;
    return true;
}

static bool compare_rows(struct resync *resync, bool *ret_left, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_free_ bool *is_wanted = memory_alloc((size_t) resync->options->tables->count);
    struct plan plan;

    is_wanted[resync->table->index] = true;
    if (!plan_make(resync->source, resync->options->tables, is_wanted, ITEM_BYTES, &arena, &plan,
                   err) ||
        !look_new(resync->probe, resync->table, resync->lsn, &resync->look, err))
        return false;
    resync->progress.bytes = plan.bytes;
    return sift(resync, &plan, ret_left, err) &&
           (!*ret_left || compare_items(resync, &plan, err)) && FAULT(resync_after_rows, err);
}

/* ---- the mirror's rows that S may not have ---- */

/* The keys of mirror rows that are still as old as they were, as arrays in ret_keys. */
static bool read_keys(const struct resync *resync, const char *addresses,
                      struct pg_result **ret_keys, struct error *err)
{
    const struct table *table = resync->table;
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "SELECT ");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(&sql, i ? ", " : "");
        pg_add_ident(&sql, table->columns[table->keys[i]].name);
    }
    buf_add(&sql, " FROM ");
    add_mirror_name(&sql, table);
    buf_add(&sql, " WHERE ctid = ANY ($1::tid[]) AND _deleted_at IS NULL AND _lsn < $2::pg_lsn");
    return pg_query(resync->probe, buf_text(&sql), 2, (const char *[]){addresses, resync->lsn_text},
                    ret_keys, err);
}

static void add_question(const struct resync *resync, const struct pg_result *types,
                         struct buf *sql)
{
    const struct table *table = resync->table;

    buf_add(sql, "SELECT k.n FROM (SELECT ");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "u.c%d::%s AS c%d, ", i, pg_text(types, i, 0), i);
    buf_add(sql, "u.n FROM unnest(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "%s$%d::text[]", i ? ", " : "", i + 1);
    buf_add(sql, ") WITH ORDINALITY AS u(");
    for (int i = 0; i < table->nkeys; i++)
        buf_printf(sql, "c%d, ", i);
    buf_add(sql, "n) OFFSET 0) AS k WHERE NOT EXISTS (SELECT FROM ");
    buf_add(sql, table->is_partitioned ? "" : "ONLY ");
    pg_add_qualified(sql, table->schema, table->name);
    buf_add(sql, " AS t WHERE ");
    for (int i = 0; i < table->nkeys; i++) {
        const struct table_column *column = &table->columns[table->keys[i]];

        buf_add(sql, i ? " AND t." : "t.");
        pg_add_ident(sql, column->name);
        buf_printf(sql, " %s k.c%d", column->equality, i);
    }
    buf_add_char(sql, ')');
}

/* Which of the keys S does not have; believed only if S still reads the table's storage. */
static bool ask_source(const struct resync *resync, const struct pg_result *keys,
                       struct pg_result **ret_absent, struct error *err)
{
    const struct table *table = resync->table;
    struct buf *arrays = memory_alloc((size_t) table->nkeys * sizeof(*arrays));
    _cleanup_free_ const char **params = memory_alloc((size_t) table->nkeys * sizeof(*params));
    _cleanup_result_ struct pg_result *types = NULL;
    _cleanup_buf_ struct buf sql = {0};
    bool is_ok;

    for (int i = 0; i < table->nkeys; i++) {
        codec_text_array_begin(&arrays[i]);
        for (int row = 0; row < pg_rows(keys); row++)
            codec_text_array_add(&arrays[i], pg_text(keys, row, i),
                                 (uint32_t) pg_text_len(keys, row, i));
        codec_text_array_end(&arrays[i]);
        params[i] = buf_text(&arrays[i]);
    }
    is_ok = columns_read_key_types(resync->source, table, &types, err);
    if (is_ok) {
        add_question(resync, types, &sql);
        is_ok = pg_exec(resync->source, "SAVEPOINT item", err) &&
                pg_query(resync->source, buf_text(&sql), table->nkeys, params, ret_absent, err) &&
                plan_check_storage(resync->source, table->schema, table->name, table->relid, err) &&
                pg_exec(resync->source, "ROLLBACK TO SAVEPOINT item; RELEASE SAVEPOINT item", err);
    }
    for (int i = 0; i < table->nkeys; i++)
        buf_release(&arrays[i]);
    free(arrays);
    return is_ok;
}

/* The keys of rows at addresses, and which of them S does not have. */
static bool find_extra(struct resync *resync, const char *addresses, struct pg_result **ret_keys,
                       struct pg_result **ret_absent, struct error *err)
{
    return read_keys(resync, addresses, ret_keys, err) &&
           (pg_rows(*ret_keys) == 0 || ask_source(resync, *ret_keys, ret_absent, err));
}

static bool count_extra(struct resync *resync, const char *addresses, struct error *err)
{
    _cleanup_result_ struct pg_result *keys = NULL, *absent = NULL;

    if (!find_extra(resync, addresses, &keys, &absent, err))
        return false;
    resync->extra_rows += pg_rows(keys) == 0 ? 0 : pg_rows(absent);
    return true;
}

static bool take_extra(struct resync *resync, const char *addresses, struct error *err)
{
    const struct table *table = resync->table;
    _cleanup_result_ struct pg_result *keys = NULL, *absent = NULL;
    _cleanup_free_ struct value *key = memory_alloc((size_t) table->nkeys * sizeof(*key));

    if (!find_extra(resync, addresses, &keys, &absent, err))
        return false;
    for (int i = 0; pg_rows(keys) > 0 && i < pg_rows(absent); i++) {
        const int row = (int) pg_int(absent, i, 0) - 1;

        for (int k = 0; k < table->nkeys; k++)
            key[k] = (struct value){.kind = VALUE_TEXT,
                                    .data = pg_text(keys, row, k),
                                    .len = (uint32_t) pg_text_len(keys, row, k)};
        add_wrong(resync, key, NULL);
    }
    return write_wrong(resync, err);
}

#define ADDRESS_SIZE 32

static void add_scan(const struct resync *resync, const char *condition, struct buf *sql)
{
    const struct table *table = resync->table;

    buf_add(sql, "COPY (SELECT ctid");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(sql, ", ");
        pg_add_ident(sql, table->columns[table->keys[i]].name);
    }
    buf_add(sql, " FROM ");
    add_mirror_name(sql, table);
    buf_printf(sql, " WHERE %s) TO STDOUT", condition);
}

/* Addresses as the text of an array. */
static void add_address(struct buf *addresses, const char *address)
{
    buf_printf(addresses, "%s\"%s\"", addresses->len == 0 ? "{" : ",", address);
}

/* A line of an address, a tab and the key: may its row be one that S does not have? */
static bool is_asked_for(const struct resync *resync, const char *line, size_t len,
                         char address[static ADDRESS_SIZE])
{
    const char *tab = memchr(line, '\t', len);
    const size_t size = tab != NULL ? (size_t) (tab - line) : 0;

    if (size == 0 || size >= ADDRESS_SIZE)
        return false;
    memcpy(address, line, size);
    address[size] = '\0';
    return (resync->seen == NULL || !seen_has(resync->seen, address)) &&
           (resync->sieve == NULL || sieve_has_key(resync->sieve, tab + 1, len - size - 1));
}

/* Calls take with the addresses of rows like condition, some at a time: those that were not seen. */
static bool scan(struct resync *resync, const char *condition, int at_once,
                 bool (*take)(struct resync *resync, const char *addresses, struct error *err),
                 struct error *err)
{
    _cleanup_buf_ struct buf sql = {0}, addresses = {0};
    char address[ADDRESS_SIZE];
    const char *line;
    size_t len = 0;
    int count = 0;

    add_scan(resync, condition, &sql);
    if (!pg_copy_out_begin(resync->scan, buf_text(&sql), err))
        return false;
    for (int64_t n = 1; !resync->is_over; n++) {
        if (!pg_copy_out_next(resync->scan, &line, &len, err))
            return false;
        if (len == 0)
            break;
        if (n % SCAN_ROWS == 0 && !say(resync, resync->progress.step, err))
            return false;
        if (!is_asked_for(resync, line, len, address))
            continue;
        add_address(&addresses, address);
        if (++count < at_once)
            continue;
        buf_add_char(&addresses, '}');
        if (!take(resync, buf_text(&addresses), err))
            return false;
        buf_clear(&addresses);
        count = 0;
    }
    if (count > 0)
        buf_add_char(&addresses, '}');
    return count == 0 || resync->is_over || take(resync, buf_text(&addresses), err);
}

/* A table of which so much is gone may have been read from the wrong source.  What S has, the mirror
 * has by now. */
static bool check_fraction(const struct resync *resync, struct error *err)
{
    const double allowed = resync->options->config->resync.max_delete_fraction;
    const int64_t rows = resync->progress.rows_read + resync->extra_rows;
    char name[HUMAN_TABLE_SIZE];

    if (resync->options->is_forced || (double) resync->extra_rows <= allowed * (double) rows)
        return true;
    error_set(err, ERROR_FINDINGS,
              "the source does not have %" PRId64 " of the mirror's %" PRId64
              " rows: more than resync.max_delete_fraction (%g) lets a resync remove; none was "
              "removed",
              resync->extra_rows, rows, allowed);
    return error_hint(err,
                      "look whether it is the right source; if it is: tailwater resync -c %s "
                      "--force %s",
                      resync->options->config->file,
                      human_table(resync->table->schema, resync->table->name, name));
}

/* Counted first, then removed; most of the time there are none. */
static bool compare_extra(struct resync *resync, struct error *err)
{
    const struct table *table = resync->table;
    _cleanup_buf_ struct buf query = {0};
    bool is_ok;

    if (resync->is_over || table->deletes == DELETES_IGNORE || table->truncate == TRUNCATE_IGNORE)
        return true;
    buf_printf(&query, "_deleted_at IS NULL AND _lsn < '%s'", resync->lsn_text);
    is_ok = pg_exec(resync->source, PG_BY_KEY_LOCAL, err) &&
            say(resync, "looking for rows that the source does not have", err);
    if (!is_ok || resync->options->is_verify)
        return is_ok && scan(resync, buf_text(&query), ASK_KEYS, take_extra, err);
    if (!scan(resync, buf_text(&query), ASK_KEYS, count_extra, err))
        return false;
    return resync->extra_rows == 0 || (check_fraction(resync, err) &&
                                       scan(resync, buf_text(&query), ASK_KEYS, take_extra, err));
}

/* ---- tombstones ---- */

/* Through a cursor: there may be none to the end of a large table, and a FETCH ends when we are told to
 * stop. */
static bool purge_some(struct resync *resync, int *ret_nrows, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf addresses = {0};
    struct side_batch side = {.kind = SIDE_PURGE, .table = resync->table};

    if (!say(resync, "purging tombstones", err) ||
        !pg_query(resync->scan, "FETCH 5000 FROM rows", 0, NULL, &rows, err))
        return false;
    *ret_nrows = pg_rows(rows);
    if (*ret_nrows == 0)
        return true;
    for (int i = 0; i < *ret_nrows; i++)
        add_address(&addresses, pg_text(rows, i, 0));
    buf_add_char(&addresses, '}');
    side.addresses = buf_text(&addresses);
    return resync->options->apply(resync->options->context, &side, err);
}

bool resync_purge(const struct resync_options *options, struct resync_progress *progress,
                  struct error *err)
{
    struct resync resync = {.options = options, .table = options->table, .progress = *progress};
    _cleanup_buf_ struct buf sql = {0};
    int nrows = 1;
    bool is_ok;

    if (table_keeps_tombstones(options->table))
        return true;
    buf_add(&sql, "BEGIN; DECLARE rows NO SCROLL CURSOR FOR SELECT ctid FROM ");
    add_mirror_name(&sql, options->table);
    buf_add(&sql, " WHERE _deleted_at IS NOT NULL");
    is_ok = connect_mirror(&resync, NULL, &resync.scan, err) &&
            pg_exec(resync.scan, buf_text(&sql), err);
    while (is_ok && nrows > 0)
        is_ok = purge_some(&resync, &nrows, err);
    pg_free(resync.scan);
    return is_ok || error_wrap(err, "purging %s", options->table->label);
}

/* ---- all of it ---- */

static bool compare(struct resync *resync, struct error *err)
{
    _cleanup_buf_ struct buf before = {0}, after = {0};

    bool is_left;

    if (!find_storage(resync, &before, err) || !compare_rows(resync, &is_left, err) ||
        (is_left && !compare_extra(resync, err)) || !find_storage(resync, &after, err))
        return false;
    if (resync->is_over || strcmp(buf_text(&before), buf_text(&after)) == 0)
        return true;
    return error_set(err, ERROR_RETRY, "the mirror table was rewritten meanwhile");
}

static bool run(struct resync *resync, struct error *err)
{
    return connect_all(resync, err) && check_shape(resync, err) && check_publication(resync, err) &&
           wait_shape(resync, err) && say(resync, "waiting for a snapshot of the source", err) &&
           mark(resync, SIDE_RESYNC, err) && FAULT(resync_after_mark, err) &&
           import_snapshot(resync, err) && FAULT(resync_after_snapshot, err) &&
           wait_cursor(resync, err) && wait_repairs(resync, err) && compare(resync, err) &&
           FAULT(resync_before_end, err) &&
           mark(resync, resync->options->is_verify ? SIDE_GIVE_UP : SIDE_END, err) &&
           FAULT(resync_after_end, err);
}

bool resync_run(const struct resync_options *options, struct resync_progress *ret_progress,
                struct error *err)
{
    struct resync resync = {
        .options = options,
        .table = options->table,
        .rate = rate_new(options->config->source.max_read_rate_bytes),
        .seen = seen_new(SEEN_BYTES),
        .read.rows = memory_alloc(CHUNK_ROWS * sizeof(struct batch_row *)),
        .wrong.rows = memory_alloc((PENDING_ROWS + ASK_KEYS) * sizeof(struct batch_row *))};
    const bool is_ok = run(&resync, err);

    look_free(resync.look);
    pg_free(resync.source);
    pg_free(resync.probe);
    pg_free(resync.scan);
    rate_free(resync.rate);
    seen_free(resync.seen);
    sieve_free(resync.sieve);
    arena_release(&resync.read.arena);
    arena_release(&resync.wrong.arena);
    free(resync.read.rows);
    free(resync.wrong.rows);
    *ret_progress = resync.progress;
    return is_ok || error_wrap(err, "%s of %s", options->is_verify ? "verify" : "resync",
                               options->table->label);
}
