/*
 * The only wrapper of libpq: nothing outside src/pg includes libpq-fe.h.
 *
 * A struct pg is one connection, used by one thread at a time.  Every session is pinned to the same
 * output settings on source and mirror alike (pitfalls P9, P10; pg.c has the list), so text that
 * one server wrote means the same to the other. Errors carry SQLSTATE and a kind from one table
 * (sqlstate.c); a lost connection is ERROR_SOURCE or ERROR_MIRROR by the side the connection
 * belongs to.  Messages never hold a password or a row's values: of a server's message the DETAIL
 * is left out, since PostgreSQL puts values there.
 */
#ifndef TAILWATER_PG_H
#define TAILWATER_PG_H

#include "base/buf.h"
#include "base/cleanup.h"
#include "pg/feature.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pg_side { PG_SOURCE, PG_MIRROR };

struct pg_options {
    enum pg_side side;
    const char *conninfo;    /* as the configuration has it, libpq's key=value or URI form */
    const char *application; /* application_name: "tailwater main receiver" */
    bool is_replication;     /* replication=database */
    const char *settings;    /* further "-c name=value" options, or NULL */
    int connect_timeout_s;   /* 0: 10 s */
};

/*
 * Settings of a session whose statements look rows up by an index, whatever the planner believes of
 * the table when it plans.  With materialized inner sides a table that was small then is read whole by
 * each statement for as long as the plan is kept, and joined row by row with the batch.  An inner join
 * with unnest() may still be turned round: statements that are kept use left joins, or lateral ones
 * with OFFSET 0.  Memoize would remember keys that never come twice.
 */
#define PG_BY_KEY                                                                                  \
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off "                        \
    "-c enable_material=off -c enable_memoize=off"

/* The same for a transaction of a session that has other statements too; but for memoize. */
#define PG_BY_KEY_LOCAL                                                                            \
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; "                            \
    "SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off; "

struct pg;

bool pg_connect(const struct pg_options *options, struct pg **ret_pg, struct error *err);
void pg_free(struct pg *pg);                /* closes; NULL is fine */
int pg_server_version(const struct pg *pg); /* 150020 */
bool pg_has(const struct pg *pg, enum feature feature);

/* Refuses, with ERROR_FINDINGS, a server older than the oldest supported one. */
bool pg_check_version(const struct pg *pg, struct error *err);
int pg_socket(const struct pg *pg);
bool pg_is_broken(const struct pg *pg); /* the connection is gone: free it and connect again */

/*
 * Cannot get in, and waiting will not help: wrong password, unknown role or database (SQLSTATE
 * 28xxx, 3D000).  The kind is ERROR_SOURCE or ERROR_MIRROR all the same, for the exit code.
 */
bool pg_error_is_permanent(const struct error *err);

/* log.values: errors carry the values that a server put into its messages.  Once, before any thread starts. */
void pg_show_values(bool is_on);

/* A thread-safe cancel of whatever the session is doing, from another thread or a signal loop; best
 * effort, and it never waits longer than half a second, whatever the server does. */
void pg_cancel(struct pg *pg);

/*
 * Where a cancel does not help, since the server does not answer at all: shut the connection down
 * under its thread, whose call then fails as if the server had gone away.  pg_break_all(): every
 * connection of this process, at the end of a session or of the process.
 */
void pg_break(struct pg *pg);
void pg_break_all(void);

/*
 * From now on pg_exec(), pg_query() and their kin are watched on this connection as by
 * pg_query_wait(): timeout_ms (-1: none) and wake_fd (-1: none) are the same.  0 ends it.
 */
void pg_limit(struct pg *pg, int timeout_ms, int wake_fd);

/*
 * Have the session keep some 32 MiB between statements, for one that runs many of some megabytes.
 * glibc's malloc gives the end of the heap back when more of it is free than twice the largest mapped
 * block that was freed so far (mallopt(3), M_TRIM_THRESHOLD), and each statement gets it again page
 * by page, zeroed: so one of 16 MiB is freed here.  Blocks of up to that size come from the heap from
 * then on.  With another malloc it does nothing.
 */
bool pg_keep_memory(struct pg *pg, struct error *err);

static inline void pg_cleanup(struct pg **pg)
{
    pg_free(*pg);
}
#define _cleanup_pg_ _cleanup_(pg_cleanup)

/* ---- results ---- */

struct pg_result; /* rows of text; freed by pg_result_free() */

void pg_result_free(struct pg_result *result);
int pg_rows(const struct pg_result *result);
int pg_columns(const struct pg_result *result);
const char *pg_column(const struct pg_result *result, int column); /* its name */
bool pg_is_null(const struct pg_result *result, int row, int column);
/* Is one of count columns, from column on? */
bool pg_any_null(const struct pg_result *result, int row, int column, int count);
/* Valid as long as the result; "" for NULL. */
const char *pg_text(const struct pg_result *result, int row, int column);
size_t pg_text_len(const struct pg_result *result, int row, int column);
int64_t pg_int(const struct pg_result *result, int row, int column); /* NULL or not a number: 0 */
bool pg_bool(const struct pg_result *result, int row, int column);
lsn_t pg_lsn(const struct pg_result *result, int row, int column); /* NULL: 0 */
/* Rows that an INSERT, UPDATE, DELETE or COPY touched. */
int64_t pg_affected(const struct pg_result *result);

static inline void pg_result_cleanup(struct pg_result **result)
{
    pg_result_free(*result);
}
#define _cleanup_result_ _cleanup_(pg_result_cleanup)

/* ---- simple use ---- */

/* One or several commands without parameters; results are dropped. */
bool pg_exec(struct pg *pg, const char *sql, struct error *err);
bool pg_execf(struct pg *pg, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* One statement with text parameters $1…$n (NULL is NULL). */
bool pg_query(struct pg *pg, const char *sql, int nparams, const char *const *params,
              struct pg_result **ret_result, struct error *err);

/* As pg_query(), of a statement that was prepared (PREPARE) under that name. */
bool pg_query_prepared(struct pg *pg, const char *name, int nparams, const char *const *params,
                       struct pg_result **ret_result, struct error *err);

/* As pg_query(), for statements that must return exactly one row. */
bool pg_query_row(struct pg *pg, const char *sql, int nparams, const char *const *params,
                  struct pg_result **ret_result, struct error *err);

/*
 * One statement without parameters that may take long, watched while it runs: after timeout_ms (-1:
 * none), or when wake_fd (if >= 0) becomes readable, it is cancelled and the error is ERROR_RETRY
 * with SQLSTATE 57014.  A server that does not answer the cancel either loses its connection.
 * Works on replication connections.
 */
bool pg_query_wait(struct pg *pg, const char *sql, int timeout_ms, int wake_fd,
                   struct pg_result **ret_result, struct error *err);

/*
 * Waits until a NOTIFY has come on a channel that this session listens to, timeout_ms have passed
 * or wake_fd (-1: none) is readable.  *ret_told: was there one, and one whose payload is name?  Several
 * that came together count once.
 */
enum pg_told { PG_TOLD_NOTHING, PG_TOLD, PG_TOLD_BY_NAME };
bool pg_wait_notify(struct pg *pg, int timeout_ms, int wake_fd, const char *name,
                    enum pg_told *ret_told, struct error *err);

/* The same, for whoever listens to several channels: heard is called for each notification. */
typedef void pg_heard(void *context, const char *channel, const char *payload);
bool pg_wait_heard(struct pg *pg, int timeout_ms, int wake_fd, pg_heard *heard, void *context,
                   struct error *err);

/* ---- prepared statements in a pipeline: the apply path ---- */

struct pg_param {
    const char *data; /* NULL is NULL; text has to be zero-terminated (a struct buf is) */
    size_t len;       /* of binary data */
    bool is_binary;
};

/* Enter and leave libpq's pipeline mode. Leaving is only allowed once every result has been read.
 */
bool pg_pipeline_enter(struct pg *pg, struct error *err);
bool pg_pipeline_leave(struct pg *pg, struct error *err);

/* Queue work.  Each yields one result, in order, at pg_pipeline_next(). Results come as text. */
bool pg_send_prepare(struct pg *pg, const char *name, const char *sql, struct error *err);
bool pg_send_prepared(struct pg *pg, const char *name, int nparams, const struct pg_param *params,
                      struct error *err);
bool pg_send_query(struct pg *pg, const char *sql, int nparams, const struct pg_param *params,
                   struct error *err);
/* Queue a sync point, and flush.  It yields a result as well: pg_pipeline_next() gives *ret_result
 * = NULL for it. */
bool pg_pipeline_sync(struct pg *pg, struct error *err);

/*
 * The next result, waiting for it.  A failed statement returns false with its error; everything
 * queued up to the next sync then fails too: call pg_pipeline_drain().
 */
bool pg_pipeline_next(struct pg *pg, struct pg_result **ret_result, struct error *err);

/* Read and drop everything up to the last sync sent, and leave pipeline mode: the session can be
 * used (ROLLBACK). */
bool pg_pipeline_drain(struct pg *pg, struct error *err);

/* ---- COPY ---- */

/* sql is COPY … FROM STDIN. */
bool pg_copy_in_begin(struct pg *pg, const char *sql, struct error *err);
bool pg_copy_in_put(struct pg *pg, const void *data, size_t len, struct error *err);
/* Ends it; *ret_rows is what the server counted. */
bool pg_copy_in_end(struct pg *pg, int64_t *ret_rows, struct error *err);
/* Makes the server fail the COPY with the reason. */
void pg_copy_in_abort(struct pg *pg, const char *reason);

/* sql is COPY … TO STDOUT. */
bool pg_copy_out_begin(struct pg *pg, const char *sql, struct error *err);
/* The next chunk, valid until the next call; *ret_len 0 and *ret_data NULL at the end. */
bool pg_copy_out_next(struct pg *pg, const char **ret_data, size_t *ret_len, struct error *err);

/* ---- the replication stream: the receiver ---- */

/* START_REPLICATION …; then only the two calls below until pg_free(). */
bool pg_stream_start(struct pg *pg, const char *command, struct error *err);

/*
 * The next message, without its libpq framing.  Waits at most timeout_ms (0: does not wait, -1: for
 * ever) for one, or until wake_fd (if >= 0) becomes readable.  Nothing in time: true with *ret_data
 * NULL.  The data is valid until the next call.
 */
bool pg_stream_next(struct pg *pg, int timeout_ms, int wake_fd, const char **ret_data,
                    size_t *ret_len, struct error *err);

/*
 * The WARNINGs that the server sent in the stream in front of what the last pg_stream_next() gave, and
 * behind what the one before it did; several with the same words are one.  Valid until the next call.
 */
struct pg_warning {
    char sqlstate[6];
    char message[256]; /* cut */
};
const struct pg_warning *pg_stream_warnings(const struct pg *pg, int *ret_count);

bool pg_stream_send(struct pg *pg, const void *data, size_t len, struct error *err);

/* ---- names and literals ---- */

/* "name", always quoted, embedded quotes doubled (P67). */
void pg_add_ident(struct buf *buf, const char *name);
/* "schema"."name" */
void pg_add_qualified(struct buf *buf, const char *schema, const char *name);
/* 'text', for servers with standard_conforming_strings=on, which every session here pins. */
void pg_add_literal(struct buf *buf, const char *text);

/* conninfo without password, and with only the words an operator needs: "host=… dbname=… user=…".
 */
void pg_describe(const char *conninfo, struct buf *ret_text);

#endif
