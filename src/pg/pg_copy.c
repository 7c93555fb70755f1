/*
 * COPY in both directions.  A statement error of COPY FROM comes at its end only: libpq leaves it
 * unread while data is being put, and the server reads on and drops.
 */
#include "pg/pg_internal.h"

static bool begin(struct pg *pg, const char *sql, ExecStatusType wanted, struct error *err)
{
    _cleanup_raw_ PGresult *result = PQexec(pg->conn, sql);

    if (PQresultStatus(result) == wanted)
        return true;
    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        return pg_fail(pg, result, "COPY", err);
    pg_drop_results(pg);
    return error_set(err, ERROR_BUG, "not a COPY in the direction that was meant");
}

bool pg_copy_in_begin(struct pg *pg, const char *sql, struct error *err)
{
    return begin(pg, sql, PGRES_COPY_IN, err);
}

/* libpq takes an int. */
#define MAX_PIECE ((size_t) 64 * 1024 * 1024)

bool pg_copy_in_put(struct pg *pg, const void *data, size_t len, struct error *err)
{
    const char *p = data;

    while (len > 0) {
        size_t piece = len < MAX_PIECE ? len : MAX_PIECE;

        if (PQputCopyData(pg->conn, p, (int) piece) != 1)
            return pg_fail(pg, NULL, "COPY FROM", err);
        p += piece;
        len -= piece;
    }
    return true;
}

bool pg_copy_in_end(struct pg *pg, int64_t *ret_rows, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;
    int64_t rows;

    if (PQputCopyEnd(pg->conn, NULL) != 1)
        return pg_fail(pg, NULL, "COPY FROM", err);
    result = PQgetResult(pg->conn);
    if (PQresultStatus(result) != PGRES_COMMAND_OK) {
        pg_fail(pg, result, "COPY FROM", err);
        pg_drop_results(pg);
        return false;
    }
    rows = pg_affected((struct pg_result *) result);
    pg_drop_results(pg);
    *ret_rows = rows;
    return true;
}

void pg_copy_in_abort(struct pg *pg, const char *reason)
{
    PQputCopyEnd(pg->conn, reason);
    pg_drop_results(pg);
}

bool pg_copy_out_begin(struct pg *pg, const char *sql, struct error *err)
{
    return begin(pg, sql, PGRES_COPY_OUT, err);
}

bool pg_copy_out_next(struct pg *pg, const char **ret_data, size_t *ret_len, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;
    int len;

    PQfreemem(pg->chunk);
    pg->chunk = NULL;
    len = PQgetCopyData(pg->conn, &pg->chunk, 0);
    if (len > 0) {
        *ret_data = pg->chunk;
        *ret_len = (size_t) len;
        return true;
    }
    if (len == -2)
        return pg_fail(pg, NULL, "COPY TO", err);
    result = PQgetResult(pg->conn);
    if (PQresultStatus(result) != PGRES_COMMAND_OK) {
        pg_fail(pg, result, "COPY TO", err);
        pg_drop_results(pg);
        return false;
    }
    pg_drop_results(pg);
    *ret_data = NULL;
    *ret_len = 0;
    return true;
}
