/*
 * Statements in flight on one connection: a libpq pipeline, the answers it owes in their order, and
 * the statements prepared over it.  Nothing waits for an answer until PIPELINE_BYTES are on their way
 * or the caller settles.
 *
 * After any error the connection is of no use any more.
 */
#ifndef TAILWATER_INFLIGHT_H
#define TAILWATER_INFLIGHT_H

#include "base/buf.h"
#include "batch/table.h"
#include "pg/pg.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>

/* What an answer is, for its reader. */
enum reply { REPLY_NOTHING, REPLY_CLOCK, REPLY_WRITE, REPLY_COUNT };

struct pending {
    enum reply reply;
    const struct table *table; /* NULL: of none */
    lsn_t lsn;                 /* of the first row, for error messages */
};

/* The caller's part. */
struct inflight_calls {
    void *context;
    int nkinds; /* of statements on a table: 0 … nkinds-1 */
    /* The text of a statement that is to be prepared. */
    void (*make_sql)(void *context, const struct table *table, int kind, struct buf *ret_sql);
    bool (*take)(void *context, const struct pending *pending, const struct pg_result *result,
                 struct error *err);
    /* The server refused what pending stands for, or take did: say more in err. */
    void (*explain)(void *context, const struct pending *pending, struct error *err);
};

struct inflight;

/* pg and list are borrowed; calls is copied. */
struct inflight *inflight_new(struct pg *pg, const struct table_list *list,
                              const struct inflight_calls *calls);
void inflight_free(struct inflight *inflight);

/* Something has been, or is about to be, queued on the connection that answers once. */
void inflight_expect(struct inflight *inflight, enum reply reply, const struct table *table,
                     lsn_t lsn);

/* A statement without parameters, whose answer nobody reads. */
bool inflight_send(struct inflight *inflight, const char *sql, struct error *err);

/* One of a table's statements, prepared when it is first used. */
bool inflight_send_kind(struct inflight *inflight, const struct pending *pending, int kind,
                        int nparams, const struct pg_param *params, struct error *err);

/* Queue a sync and read every answer up to it. */
bool inflight_settle(struct inflight *inflight, struct error *err);

#endif
