/*
 * The rows to delete are found through the partial index on _deleted_at, oldest first, and deleted
 * by their address in the same statement, whose snapshot was taken after the clock's row was
 * locked: nothing can have moved them.
 */
#include "mirror/sweep.h"

#include <stdio.h>

/* The condition of an old tombstone, $1 its least age in microseconds.  At 0 all go, also those of
 * a source whose clock is ahead of the mirror's. */
static const char *old_tombstone(int64_t older_than_us)
{
    return older_than_us > 0 ? "_deleted_at < now() - $1::bigint * interval '1 microsecond'"
                             : "_deleted_at IS NOT NULL AND $1::bigint IS NOT NULL";
}

static bool lock_clock(struct pg *mirror, const char *pipeline, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query(mirror, "SELECT FROM tailwater.clock WHERE pipeline = $1 FOR UPDATE", 1,
                  &pipeline, &row, err))
        return false;
    if (pg_rows(row) != 1)
        return error_set(err, ERROR_CONFIG, "there is no pipeline %s in this mirror database",
                         pipeline);
    return true;
}

static bool delete_slice(struct pg *mirror, const char *mirror_schema, const char *mirror_name,
                         int64_t older_than_us, int limit, int64_t *ret_deleted, struct error *err)
{
    char age[24], rows[16];
    const char *params[] = {age, rows};
    _cleanup_buf_ struct buf table = {0};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(age, sizeof(age), "%lld", (long long) older_than_us);
    snprintf(rows, sizeof(rows), "%d", limit);
    pg_add_qualified(&table, mirror_schema, mirror_name);
    buf_printf(&sql,
               "DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %s WHERE %s "
               "ORDER BY _deleted_at LIMIT $2::integer))",
               buf_text(&table), buf_text(&table), old_tombstone(older_than_us));
    if (!pg_query(mirror, buf_text(&sql), 2, params, &done, err))
        return false;
    *ret_deleted = pg_affected(done);
    return true;
}

/* Under resync tombstones say which keys are gone.  Asked with the clock's row locked, as the mark is
 * written. */
static bool is_resynced(struct pg *mirror, const char *mirror_schema, const char *mirror_name,
                        bool *ret_is, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(mirror,
                      "SELECT EXISTS (SELECT FROM tailwater.mirror_table WHERE mirror_schema = $1 "
                      "AND mirror_name = $2 AND resync_job IS NOT NULL)",
                      2, (const char *[]){mirror_schema, mirror_name}, &row, err))
        return false;
    *ret_is = pg_bool(row, 0, 0);
    return true;
}

bool sweep_slice(struct pg *mirror, const char *pipeline, const char *mirror_schema,
                 const char *mirror_name, int64_t older_than_us, int limit, int64_t *ret_deleted,
                 struct error *err)
{
    struct error failure = {0}, ignored;
    int64_t deleted = 0;
    bool is_kept;

    if (pg_exec(mirror, "BEGIN; SET LOCAL lock_timeout = '" SWEEP_LOCK_TIMEOUT "'", &failure) &&
        lock_clock(mirror, pipeline, &failure) &&
        is_resynced(mirror, mirror_schema, mirror_name, &is_kept, &failure) &&
        (is_kept || delete_slice(mirror, mirror_schema, mirror_name, older_than_us, limit, &deleted,
                                 &failure)) &&
        pg_exec(mirror, "COMMIT", &failure)) {
        *ret_deleted = deleted;
        return true;
    }
    if (!pg_is_broken(mirror))
        pg_exec(mirror, "ROLLBACK", &ignored);
    if (failure.kind == ERROR_RETRY && !pg_is_broken(mirror)) {
        *ret_deleted = SWEEP_BUSY;
        return true;
    }
    *err = failure;
    return error_wrap(err, "purging %s.%s", mirror_schema, mirror_name);
}

bool sweep_count(struct pg *mirror, const char *mirror_schema, const char *mirror_name,
                 int64_t older_than_us, int64_t *ret_rows, int64_t *ret_oldest_us,
                 struct error *err)
{
    char age[24];
    const char *params[] = {age};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    snprintf(age, sizeof(age), "%lld", (long long) older_than_us);
    buf_add(&sql,
            "SELECT count(*), greatest(coalesce((extract(epoch FROM now() - min(_deleted_at)) * "
            "1000000)::bigint, 0), 0) FROM ");
    pg_add_qualified(&sql, mirror_schema, mirror_name);
    buf_printf(&sql, " WHERE %s", old_tombstone(older_than_us));
    if (!pg_query_row(mirror, buf_text(&sql), 1, params, &row, err))
        return error_wrap(err, "counting tombstones of %s.%s", mirror_schema, mirror_name);
    *ret_rows = pg_int(row, 0, 0);
    *ret_oldest_us = pg_int(row, 0, 1);
    return true;
}
