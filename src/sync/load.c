/*
 * The default of _lsn costs the mirror nothing; a literal in the source's select costs both sides,
 * of binary copies 4 % of the processor time, of text ones 20 % (2M rows of 100 bytes, PostgreSQL
 * 15).
 *
 * Chunks pass through as they come, one row each; nobody here looks into them.  They are gathered
 * into pieces of PIECE_BYTES before they are sent on (but for rows larger than that), which saves a system call and a message's
 * handling per row on both sides.
 *
 * The lock that the source's COPY takes would last until the snapshot's transaction ends, and with
 * it every ALTER TABLE of the application would wait, and everybody behind that: so each item runs
 * under a savepoint, and rolling back to it lets the lock go.  What happens to the table between
 * two items is found by plan_check_storage().
 */
#include "sync/load.h"

#include "mirror/control.h"
#include "mirror/ddl.h"
#include "sync/columns.h"
#include "sync/rate.h"

#define PIECE_BYTES     ((size_t) 64 * 1024)
#define MAX_PIECE_BYTES ((size_t) 1024 * 1024)

static void add_mirror_name(struct buf *sql, const struct table *table)
{
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
}

/* ---- the default of _lsn ---- */

struct mark {
    const char *pipeline;
    const struct table *table;
    lsn_t consistent_point;
    int64_t rows;
};

static bool set_mark(struct pg *mirror, void *context, struct error *err)
{
    const struct mark *mark = context;
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "ALTER TABLE ");
    add_mirror_name(&sql, mark->table);
    buf_printf(&sql, " ALTER COLUMN " DDL_LSN_COLUMN " SET DEFAULT '" LSN_FORMAT "'::pg_lsn",
               LSN_ARGS(mark->consistent_point));
    return pg_exec(mirror, buf_text(&sql), err);
}

/* In a transaction that holds a lock on the table: nobody can change the default before its end. */
static bool check_mark(struct pg *mirror, const struct table *table, lsn_t consistent_point,
                       struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf name = {0};
    char expected[LSN_TEXT_SIZE + 16];

    add_mirror_name(&name, table);
    snprintf(expected, sizeof(expected), "'" LSN_FORMAT "'::pg_lsn", LSN_ARGS(consistent_point));
    if (!pg_query_row(mirror,
                      "SELECT coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) = $2"
                      " FROM pg_attribute a JOIN pg_attrdef d"
                      " ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
                      " WHERE a.attrelid = $1::regclass AND a.attname = '" DDL_LSN_COLUMN "'),"
                      " false)",
                      2, (const char *[]){buf_text(&name), expected}, &result, err))
        return false;
    if (pg_bool(result, 0, 0))
        return true;
    error_set(err, ERROR_BUSY, "another instance is copying the same table");
    return error_hint(err, "let only one instance of the pipeline run; its copy goes on");
}

/* ---- the steps ---- */

bool load_prepare(struct pg *mirror, const char *pipeline, const struct table *table,
                  lsn_t consistent_point, struct error *err)
{
    struct mark mark = {.table = table, .consistent_point = consistent_point};
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf name = {0};

    /* The mark first: once it is there, nobody else's item can commit any more. */
    if (!ddl_attempt(mirror, set_mark, &mark, err))
        return false;
    add_mirror_name(&name, table);
    if (!pg_query_row(mirror, "SELECT pg_relation_size($1::regclass) > 0", 1,
                      (const char *[]){buf_text(&name)}, &result, err))
        return false;
    return !pg_bool(result, 0, 0) || ddl_empty_table(mirror, pipeline, table, err);
}

/* In bounded pieces, so that libpq's buffer is not made as large as a row can be. */
static bool send_on(const struct load *load, const char *data, size_t len, struct error *err)
{
    while (len > 0) {
        const size_t piece = len < MAX_PIECE_BYTES ? len : MAX_PIECE_BYTES;

        atomic_fetch_add(load->bytes, (int64_t) piece);
        if (!rate_take(load->rate, piece, load->stop) || atomic_load(load->stop))
            return error_set(err, ERROR_RETRY, "stopped");
        if (!pg_copy_in_put(load->mirror, data, piece, err))
            return false;
        data += piece;
        len -= piece;
    }
    return true;
}

/* *ret_counted is by how much load->rows was moved on: a row comes as one chunk, but so does the
 * end of a binary copy. */
static bool pump(const struct load *load, int64_t *ret_counted, struct error *err)
{
    _cleanup_buf_ struct buf piece = {0};
    int64_t counted = 0, rows = 0;
    const char *data;
    size_t len;

    do {
        if (!pg_copy_out_next(load->source, &data, &len, err))
            return false;
        if (len == 0 || piece.len + len > PIECE_BYTES) {
            atomic_fetch_add(load->rows, rows - counted);
            counted = rows;
            if (!send_on(load, piece.data, piece.len, err))
                return false;
            buf_clear(&piece);
        }
        rows += len > 0;
        if (len >= PIECE_BYTES && !send_on(load, data, len, err))
            return false;
        if (len < PIECE_BYTES)
            buf_add_bytes(&piece, data, len);
    } while (len > 0);
    *ret_counted = counted;
    return true;
}

static bool copy_rows(const struct load *load, const struct plan_item *item, int64_t *ret_rows,
                      struct error *err)
{
    bool is_binary = columns_is_binary(item->table);
    _cleanup_buf_ struct buf out = {0}, in = {0};
    int64_t counted;

    plan_add_copy(&out, item, is_binary);
    buf_add(&in, "COPY ");
    add_mirror_name(&in, item->table);
    buf_add(&in, " (");
    columns_add_names(&in, item->table);
    buf_add(&in, is_binary ? ") FROM STDIN (FORMAT binary)" : ") FROM STDIN");

    if (!pg_copy_in_begin(load->mirror, buf_text(&in), err))
        return false;
    if (!pg_copy_out_begin(load->source, buf_text(&out), err) || !pump(load, &counted, err)) {
        pg_copy_in_abort(load->mirror, "the source's side of the copy ended");
        return false;
    }
    if (!pg_copy_in_end(load->mirror, ret_rows, err))
        return false;
    atomic_fetch_add(load->rows, *ret_rows - counted);
    return true;
}

bool load_item(const struct load *load, const struct plan_item *item, int64_t *ret_rows,
               struct error *err)
{
    int64_t rows;

    if (!pg_exec(load->source, "SAVEPOINT item", err) || !pg_exec(load->mirror, "BEGIN", err) ||
        !copy_rows(load, item, &rows, err) ||
        !plan_check_storage(load->source, item->schema, item->name, item->relid, err) ||
        !check_mark(load->mirror, item->table, load->consistent_point, err) ||
        !pg_exec(load->mirror, "COMMIT", err) ||
        !pg_exec(load->source, "ROLLBACK TO SAVEPOINT item; RELEASE SAVEPOINT item", err))
        return false;
    *ret_rows = rows;
    return true;
}

static bool finish(struct pg *mirror, void *context, struct error *err)
{
    const struct mark *mark = context;
    _cleanup_buf_ struct buf lock = {0}, drop = {0};

    buf_add(&lock, "SET LOCAL synchronous_commit = on; LOCK TABLE ");
    add_mirror_name(&lock, mark->table);
    buf_add(&lock, " IN ACCESS EXCLUSIVE MODE");
    buf_add(&drop, "ALTER TABLE ");
    add_mirror_name(&drop, mark->table);
    buf_add(&drop, " ALTER COLUMN " DDL_LSN_COLUMN " DROP DEFAULT");
    return pg_exec(mirror, buf_text(&lock), err) &&
           check_mark(mirror, mark->table, mark->consistent_point, err) &&
           pg_exec(mirror, buf_text(&drop), err) &&
           control_set_table_copied(mirror, mark->pipeline, mark->table, mark->consistent_point,
                                    mark->rows, err);
}

bool load_finish(struct pg *mirror, const char *pipeline, const struct table *table,
                 lsn_t consistent_point, int64_t rows, struct error *err)
{
    struct mark mark = {
        .pipeline = pipeline, .table = table, .consistent_point = consistent_point, .rows = rows};

    return ddl_attempt(mirror, finish, &mark, err);
}

bool load_index(struct pg *mirror, const char *pipeline, const struct table *table,
                struct notes *notes, struct error *err)
{
    /* Statistics before the step that makes the table "indexed": after it nobody would come back
     * for them. */
    return ddl_add_key(mirror, table, err) && ddl_analyze(mirror, table, err) &&
           ddl_add_indexes(mirror, pipeline, table, notes, err);
}
