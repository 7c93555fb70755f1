/*
 * libpq's pipeline mode, with the connection blocking.
 *
 * No deadlock between two full sockets: libpq's blocking send reads what the server has sent while
 * it waits for room.  No deadlock by a forgotten sync either: when the caller waits for a result
 * that no sync covers, the server is asked to flush first.
 *
 * Every queued item yields exactly one result here (libpq: one result and a NULL, but for syncs,
 * which have no NULL); npending counts them, so that draining knows where the end is.
 */
#include "pg/pg_internal.h"

#include "base/memory.h"

#include <limits.h>
#include <stdlib.h>

static bool refused(struct pg *pg, struct error *err)
{
    return pg_fail(pg, NULL, "pipeline", err);
}

static bool queued(struct pg *pg, int is_sent, struct error *err)
{
    if (!is_sent)
        return refused(pg, err);
    pg->npending++;
    pg->nunsynced++;
    return true;
}

bool pg_pipeline_enter(struct pg *pg, struct error *err)
{
    /* libpq would enter on a dead connection, too. */
    if (pg_is_broken(pg) || !PQenterPipelineMode(pg->conn))
        return refused(pg, err);
    pg->npending = 0;
    pg->nunsynced = 0;
    return true;
}

bool pg_pipeline_leave(struct pg *pg, struct error *err)
{
    if (pg->npending > 0)
        return error_set(err, ERROR_BUG, "leaving a pipeline with %d results unread", pg->npending);
    return PQexitPipelineMode(pg->conn) ? true : refused(pg, err);
}

/* libpq wants three parallel arrays; they are kept between calls. */
static bool take_params(struct pg *pg, int nparams, const struct pg_param *params,
                        struct error *err)
{
    if (nparams > pg->max_params) {
        size_t max = (size_t) nparams * 2;

        pg->values = memory_resize(pg->values, max * sizeof(*pg->values));
        pg->lengths = memory_resize(pg->lengths, max * sizeof(*pg->lengths));
        pg->formats = memory_resize(pg->formats, max * sizeof(*pg->formats));
        pg->max_params = (int) max;
    }
    for (int i = 0; i < nparams; i++) {
        if (params[i].len > INT_MAX)
            return error_set(err, ERROR_BUG, "a parameter of %zu bytes", params[i].len);
        pg->values[i] = params[i].data;
        pg->lengths[i] = (int) params[i].len;
        pg->formats[i] = params[i].is_binary;
    }
    return true;
}

bool pg_send_prepare(struct pg *pg, const char *name, const char *sql, struct error *err)
{
    return queued(pg, PQsendPrepare(pg->conn, name, sql, 0, NULL), err);
}

bool pg_send_prepared(struct pg *pg, const char *name, int nparams, const struct pg_param *params,
                      struct error *err)
{
    if (!take_params(pg, nparams, params, err))
        return false;
    return queued(
        pg, PQsendQueryPrepared(pg->conn, name, nparams, pg->values, pg->lengths, pg->formats, 0),
        err);
}

bool pg_send_query(struct pg *pg, const char *sql, int nparams, const struct pg_param *params,
                   struct error *err)
{
    if (!take_params(pg, nparams, params, err))
        return false;
    return queued(
        pg,
        PQsendQueryParams(pg->conn, sql, nparams, NULL, pg->values, pg->lengths, pg->formats, 0),
        err);
}

bool pg_pipeline_sync(struct pg *pg, struct error *err)
{
    if (!PQpipelineSync(pg->conn))
        return refused(pg, err);
    pg->npending++;
    pg->nunsynced = 0;
    return true;
}

/* The next item's result; NULL only when the connection is gone. */
static PGresult *next_result(struct pg *pg)
{
    PGresult *result = PQgetResult(pg->conn);
    PGresult *extra;

    if (result == NULL)
        return NULL;
    pg->npending--;
    if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
        return result;
    while ((extra = PQgetResult(pg->conn)) != NULL) {
        PQclear(extra);
        if (PQstatus(pg->conn) != CONNECTION_OK)
            break;
    }
    return result;
}

bool pg_pipeline_next(struct pg *pg, struct pg_result **ret_result, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;

    if (pg->npending <= 0)
        return error_set(err, ERROR_BUG, "a result was asked for, but nothing was sent");
    if (pg->npending <= pg->nunsynced && (!PQsendFlushRequest(pg->conn) || PQflush(pg->conn) < 0))
        return refused(pg, err);
    result = next_result(pg);
    switch (result ? PQresultStatus(result) : PGRES_FATAL_ERROR) {
    case PGRES_PIPELINE_SYNC:
        *ret_result = NULL;
        return true;
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
    case PGRES_EMPTY_QUERY:
        *ret_result = (struct pg_result *) result;
        result = NULL;
        return true;
    case PGRES_PIPELINE_ABORTED:
        return error_set(err, ERROR_BUG,
                         "a result was asked for past the failed statement of a pipeline");
    default:
        return pg_fail(pg, result, "pipeline", err);
    }
}

bool pg_pipeline_drain(struct pg *pg, struct error *err)
{
    if (pg->nunsynced > 0 && !pg_pipeline_sync(pg, err))
        return false;
    while (pg->npending > 0) {
        PGresult *result = next_result(pg);

        PQclear(result);
        if (result == NULL || PQstatus(pg->conn) != CONNECTION_OK)
            return refused(pg, err);
    }
    return pg_pipeline_leave(pg, err);
}
