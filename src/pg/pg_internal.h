/*
 * What the files of src/pg share and nobody else sees: the connection's struct and how a failure
 * becomes a struct error.
 */
#ifndef TAILWATER_PG_INTERNAL_H
#define TAILWATER_PG_INTERNAL_H

#include "pg/pg.h"

#include <libpq-fe.h>

struct pg {
    PGconn *conn;
    struct pg *next; /* of all that are open */
    struct pg_canceller
        *canceller;         /* made at connect: pg_cancel() touches nothing a query changes */
    int limit_ms, limit_fd; /* pg_limit(); 0: none */
    enum pg_side side;
    bool is_replication; /* a walsender: simple query protocol only */

    /* Pipeline: results still owed to the caller, and how many of these no sync covers yet. */
    int npending;
    int nunsynced;

    /* libpq's parallel parameter arrays, reused. */
    int max_params;
    const char **values;
    int *lengths;
    int *formats;

    /* Of a stream: the last WARNING that came in it. */
    struct pg_warning *warnings; /* of a stream, since the last look */
    int nwarnings, max_warnings;

    char *chunk;         /* what pg_copy_out_next() or pg_stream_next() gave last; libpq's memory */
    int64_t nap_from_us; /* stream: since when nap_messages are counted */
    int64_t nap_messages;
};

/* A struct pg_result is libpq's own, under a name that keeps its header out of the callers. */
static inline PGresult *pg_raw(const struct pg_result *result)
{
    return (PGresult *) result;
}

static inline void pg_result_clear(PGresult **result)
{
    PQclear(*result);
}
#define _cleanup_raw_ _cleanup_(pg_result_clear)

struct pg_canceller *pg_canceller_new(PGconn *conn);
void pg_canceller_free(struct pg_canceller *canceller); /* NULL is fine */

/* What pg_break_all() goes through. */
void pg_list_add(struct pg *pg);
void pg_list_remove(struct pg *pg);

const char *pg_side_name(enum pg_side side);

/* "CREATE TABLE", "INSERT": the leading words of a statement, never a value.  Returned for use in a
 * printf argument. */
#define PG_CLASS_SIZE 48
const char *pg_statement_class(const char *sql, char ret_class[static PG_CLASS_SIZE]);

/*
 * Fill err from a failed result (or from the connection, where result is NULL): side, what was
 * being done, the server's primary message, SQLSTATE, kind and hint.  Returns false.
 */
bool pg_fail(struct pg *pg, const PGresult *result, const char *doing, struct error *err);

/* As pg_fail(), for a message and SQLSTATE ("" if none) in hand. */
bool pg_fail_text(enum pg_side side, const char *sqlstate, const char *message, const char *doing,
                  struct error *err);

/* What kind of error an SQLSTATE is on a side; "" means that the connection is gone. */
enum error_kind pg_kind(enum pg_side side, const char *sqlstate, const char **ret_hint);

/* Read and drop results until libpq has none left.  Not for pipelines. */
void pg_drop_results(struct pg *pg);

#endif
