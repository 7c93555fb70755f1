/*
 * Connections, simple statements, results.
 *
 * Every session is pinned to one set of settings (the table below) by the startup packet's options:
 * they win over ALTER ROLE and ALTER DATABASE, and DISCARD goes back to them.  Two things can still
 * undo them: libpq's own environment variables (PGTZ, PGDATESTYLE) and a pooler that drops the
 * options.  So the settings are compared once after connecting and set by SET where they differ.
 *
 * Connecting is done with PQconnectStart(), not PQconnectdb(): only there can the verbose form of
 * errors be asked for before the server says no, and that is the only way libpq gives away the
 * SQLSTATE of a refused connection.
 *
 * The user's own options are kept, but for those of a service file: libpq does not give these away.
 *
 * Not here: retries and back-off (the engine's), pools, TLS settings (libpq's conninfo has them).
 */
#include "pg/pg_internal.h"

#include "base/clock.h"
#include "base/memory.h"
#include "pg/conninfo.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_CONNECT_TIMEOUT_S 10
#define MAX_CONNECT_TIMEOUT_S     86400
#define DEFAULT_TCP_USER_TIMEOUT  "30000"
#define MIN_PIN_MS                1000
#define CANCELLED_MS              500 /* for a server to answer that it cancelled … */
#define CANCELS                   4   /* … and so often it is asked to */

static const struct setting {
    const char *name;
    const char *value; /* as SHOW gives it */
    bool is_mirror_only;
    bool is_compared;   /* changes what values look like, or how ours are read */
    enum feature since; /* not in the startup packet: older servers would refuse the connection */
} settings[] = {
    {"bytea_output", "hex", .is_compared = true},
    {"datestyle", "ISO, MDY", .is_compared = true},
    {"intervalstyle", "postgres", .is_compared = true},
    {"extra_float_digits", "3", .is_compared = true},
    {"timezone", "UTC", .is_compared = true},
    {"client_encoding", "UTF8", .is_compared = true},
    {"lc_monetary", "C", .is_compared = true},
    {"xmloption", "content", .is_compared = true},
    {"search_path", "pg_catalog", .is_compared = true},
    {"array_nulls", "on", .is_compared = true},
    {"standard_conforming_strings", "on", .is_compared = true},
    {"quote_all_identifiers", "off",
     .is_compared = true}, /* what pg_get_…() and format_type() say */
    {"default_transaction_isolation", "read committed"},
    {"statement_timeout", "0"},
    {"idle_in_transaction_session_timeout", "0"},
    {"idle_session_timeout", "0", .since = FEATURE_IDLE_SESSION},
    {"transaction_timeout", "0", .since = FEATURE_TRANSACTION_TIMEOUT},
    {"jit", "off"},
    {"client_min_messages", "warning"},
    /* The other half of libpq's own: a server that lost us lets go of locks and slots. */
    {"tcp_keepalives_idle", "30"},
    {"tcp_keepalives_interval", "10"},
    {"tcp_keepalives_count", "3"},
    {"synchronous_commit", "on", .is_mirror_only = true},
};
#define NSETTINGS (sizeof(settings) / sizeof(settings[0]))

/* ---- conninfo ---- */

struct keywords {
    const char *names[64];
    const char *values[64];
    int count;
};

static void keywords_set(struct keywords *keywords, const char *name, const char *value)
{
    int i = 0;

    while (i < keywords->count && strcmp(keywords->names[i], name) != 0)
        i++;
    keywords->names[i] = name;
    keywords->values[i] = value;
    if (i == keywords->count)
        keywords->count++;
}

static const char *keywords_get(const struct keywords *keywords, const char *name)
{
    for (int i = 0; i < keywords->count; i++)
        if (strcmp(keywords->names[i], name) == 0)
            return keywords->values[i];
    return NULL;
}

static void keywords_default(struct keywords *keywords, const char *name, const char *value)
{
    if (keywords_get(keywords, name) == NULL)
        keywords_set(keywords, name, value);
}

/* What the conninfo itself says; libpq's defaults, environment and service file come in later. */
static void keywords_take(struct keywords *keywords, const PQconninfoOption *parsed)
{
    for (; parsed != NULL && parsed->keyword != NULL && keywords->count < 48; parsed++)
        if (parsed->val != NULL)
            keywords_set(keywords, parsed->keyword, parsed->val);
}

static void conninfo_cleanup(PQconninfoOption **parsed)
{
    PQconninfoFree(*parsed);
}

/* libpq quotes pieces of what it cannot parse, and such a piece may be of a password. */
static bool parse_conninfo(enum pg_side side, const char *conninfo, PQconninfoOption **ret_parsed,
                           struct error *err)
{
    char *message = NULL;
    PQconninfoOption *parsed = PQconninfoParse(conninfo, &message);

    if (parsed == NULL) {
        bool is_secret = strstr(conninfo, "pass") != NULL || strchr(conninfo, '@') != NULL;

        error_set(err, ERROR_CONFIG, "%s.conninfo cannot be parsed%s%s", pg_side_name(side),
                  is_secret ? "" : ": ",
                  is_secret ? ""
                  : message ? message
                            : "");
        for (size_t len = strlen(err->message); len > 0 && err->message[len - 1] == '\n'; len--)
            err->message[len - 1] = '\0';
        PQfreemem(message);
        return error_hint(err,
                          "write it as \"host=… dbname=… user=…\", values with spaces or quotes "
                          "in single quotes, or as postgresql://user@host/dbname");
    }
    *ret_parsed = parsed;
    return true;
}

void pg_describe(const char *conninfo, struct buf *ret_text)
{
    static const char *const words[] = {"service", "host", "hostaddr", "port", "dbname", "user"};
    _cleanup_(conninfo_cleanup) PQconninfoOption *parsed = PQconninfoParse(conninfo, NULL);
    const char *separator = "";
    struct error ignored;

    if (parsed == NULL || !conninfo_check(conninfo, &ignored)) {
        buf_add(ret_text, "(a conninfo that cannot be parsed)");
        return;
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        for (const PQconninfoOption *option = parsed; option->keyword != NULL; option++)
            if (strcmp(option->keyword, words[i]) == 0 && option->val != NULL) {
                buf_printf(ret_text, "%s%s=%s", separator, words[i], option->val);
                separator = " ";
            }
    if (separator[0] == '\0')
        buf_add(ret_text, "(libpq's defaults)");
}

/* The options keyword: the user's own, then ours, then the caller's, since the last one wins.
 * Spaces in values are escaped by a backslash. */
static void build_options(const struct pg_options *options, const char *users, struct buf *text)
{
    if (users != NULL)
        buf_printf(text, "%s ", users);
    for (size_t i = 0; i < NSETTINGS; i++) {
        if (settings[i].since != FEATURE_NONE ||
            (settings[i].is_mirror_only && options->side != PG_MIRROR))
            continue;
        buf_printf(text, "-c %s=", settings[i].name);
        for (const char *p = settings[i].value; *p != '\0'; p++) {
            if (*p == ' ')
                buf_add_char(text, '\\');
            buf_add_char(text, *p);
        }
        buf_add_char(text, ' ');
    }
    if (options->settings != NULL)
        buf_add(text, options->settings);
}

/* ---- connecting ---- */

/*
 * Drive the connection to its end.  With several hosts, libpq moves to the next one when the kernel
 * gives the first up (tcp_user_timeout), so each gets that time on top.
 */
static bool wait_connected(PGconn *conn, int64_t deadline_us)
{
    PostgresPollingStatusType status = PGRES_POLLING_WRITING;

    while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING) {
        struct pollfd fd = {.fd = PQsocket(conn),
                            .events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT};
        int64_t left_us = deadline_us - clock_tick_us();

        if (left_us <= 0)
            return false;
        if (poll(&fd, 1, (int) (left_us / 1000) + 1) < 0 && errno != EINTR)
            return false;
        if (fd.revents != 0)
            status = PQconnectPoll(conn);
    }
    return true;
}

static int64_t connect_deadline(const struct pg_options *options, const struct keywords *keywords)
{
    const char *users = keywords_get(keywords, "connect_timeout");
    const char *hosts = keywords_get(keywords, "host");
    int64_t timeout_s = users ? strtoll(users, NULL, 10) : options->connect_timeout_s;
    int nhosts = 1;

    if (timeout_s <= 0)
        timeout_s = DEFAULT_CONNECT_TIMEOUT_S;
    if (timeout_s > MAX_CONNECT_TIMEOUT_S)
        timeout_s = MAX_CONNECT_TIMEOUT_S;
    for (; hosts != NULL && *hosts != '\0'; hosts++)
        nhosts += *hosts == ',';
    if (nhosts > 1)
        timeout_s = nhosts * (timeout_s + atoi(DEFAULT_TCP_USER_TIMEOUT) / 1000);
    return clock_tick_us() + timeout_s * 1000000;
}

/* Refusals that libpq or a pooler makes, with no SQLSTATE or a general one.  Waiting helps none of
 * them: the SQLSTATE given here says so (pg_error_is_permanent()). */
static void recognise_refusal(enum pg_side side, struct error *err)
{
    static const struct {
        const char *text, *sqlstate, *hint;
    } refusals[] = {
        {"certificate verify failed", "28000",
         "no root certificate in sslrootcert (%s.conninfo; else ~/.postgresql/root.crt) has signed "
         "the server's certificate"},
        {"does not match host name", "28000",
         "%s.conninfo: use a host name that the server's certificate has"},
        {"root certificate file", "28000",
         "%s.conninfo: sslrootcert=FILE, the certificate that signed the server's"},
        {"server does not support SSL", "28000",
         "ssl = on in that server's postgresql.conf, or another sslmode in %s.conninfo"},
        {"startup parameter", "0A000",
         "a connection pooler is in between, and replication and session settings do not pass it: "
         "let %s.conninfo name the server itself"},
    };

    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const char *hint = refusals[i].hint, *at = strstr(hint, "%s");

        if (strstr(err->message, refusals[i].text) == NULL)
            continue;
        snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", refusals[i].sqlstate);
        error_hint(err, "%.*s%s%s", (int) (at - hint), hint, pg_side_name(side), at + 2);
    }
}

/*
 * A refused connection: libpq's message, verbose, has "FATAL:  28P01: text" and after it lines of
 * DETAIL, HINT and LOCATION that are left out.  The severity may be in any language.
 */
static bool connect_failed(enum pg_side side, PGconn *conn, bool is_timeout, struct error *err)
{
    const char *message = is_timeout ? "no answer in time" : PQerrorMessage(conn);
    _cleanup_buf_ struct buf text = {0};
    char sqlstate[6] = "";
    const char *p = message;

    for (; (p = strstr(p, ":  ")) != NULL; p++) {
        if (strspn(p + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && p[8] == ':' &&
            p[9] == ' ') {
            memcpy(sqlstate, p + 3, 5);
            buf_add_bytes(&text, message, (size_t) (p - message) + 2);
            buf_add_bytes(&text, p + 10, strcspn(p + 10, "\n"));
            break;
        }
    }
    if (text.len == 0)
        buf_add(&text, message);
    pg_fail_text(side, sqlstate, buf_text(&text), "cannot connect", err);
    recognise_refusal(side, err);
    if (err->kind != ERROR_SOURCE && err->kind != ERROR_MIRROR)
        err->kind = side == PG_SOURCE ? ERROR_SOURCE : ERROR_MIRROR;
    if (err->hint[0] == '\0')
        error_hint(err,
                   "check %s.conninfo, that the server runs and that it accepts connections "
                   "from here",
                   pg_side_name(side));
    return false;
}

/* A statement's notices say nothing that its result does not.  A stream has no results. */
static void take_notice(void *arg, const PGresult *result)
{
    struct pg *pg = arg;
    struct pg_warning warning;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    if (!pg->is_replication || severity == NULL || strcmp(severity, "WARNING") != 0)
        return;
    snprintf(warning.sqlstate, sizeof(warning.sqlstate), "%s", sqlstate ? sqlstate : "");
    snprintf(warning.message, sizeof(warning.message), "%s", message ? message : "");
    for (int i = 0; i < pg->nwarnings; i++)
        if (strcmp(pg->warnings[i].message, warning.message) == 0)
            return;
    if (pg->nwarnings == pg->max_warnings) {
        pg->max_warnings = pg->max_warnings * 2 + 4;
        pg->warnings = memory_resize(pg->warnings,
                                     (size_t) pg->max_warnings * sizeof(*pg->warnings));
    }
    pg->warnings[pg->nwarnings++] = warning;
}

/* Compare what matters, and set what differs or could not be in the startup packet. */
static bool pin_settings(struct pg *pg, struct error *err)
{
    _cleanup_result_ struct pg_result *differing = NULL;
    _cleanup_buf_ struct buf sql = {0};
    const char *separator = "";

    buf_add(&sql, "SELECT s.name, s.value FROM (VALUES ");
    for (size_t i = 0; i < NSETTINGS; i++) {
        const struct setting *s = &settings[i];

        if (!s->is_compared && (s->since == FEATURE_NONE || !pg_has(pg, s->since)))
            continue;
        buf_printf(&sql, "%s('%s', '%s')", separator, s->name, s->value);
        separator = ", ";
    }
    buf_add(&sql, ") AS s(name, value) WHERE pg_catalog.current_setting(s.name) <> s.value");
    if (!pg_query(pg, buf_text(&sql), 0, NULL, &differing, err))
        return false;
    if (pg_rows(differing) == 0)
        return true;
    buf_clear(&sql);
    for (int row = 0; row < pg_rows(differing); row++) {
        const char *value = pg_text(differing, row, 1);

        buf_printf(&sql, "SET %s = ", pg_text(differing, row, 0));
        /* A list is two values, not one literal with a comma. */
        if (strcmp(pg_text(differing, row, 0), "datestyle") == 0)
            buf_add(&sql, value);
        else
            pg_add_literal(&sql, value);
        buf_add(&sql, "; ");
    }
    return pg_exec(pg, buf_text(&sql), err);
}

bool pg_connect(const struct pg_options *options, struct pg **ret_pg, struct error *err)
{
    _cleanup_(conninfo_cleanup) PQconninfoOption *parsed = NULL;
    _cleanup_buf_ struct buf session = {0};
    _cleanup_pg_ struct pg *pg = NULL;
    struct keywords keywords = {0};
    int64_t deadline_us, left_ms;
    const char *users;

    if (!parse_conninfo(options->side, options->conninfo, &parsed, err))
        return false;
    keywords_take(&keywords, parsed);
    users = keywords_get(&keywords, "options");
    build_options(options, users ? users : getenv("PGOPTIONS"), &session);
    keywords_set(&keywords, "options", buf_text(&session));
    keywords_set(&keywords, "client_encoding", "UTF8");
    if (options->is_replication)
        keywords_set(&keywords, "replication", "database");
    if (options->application != NULL)
        keywords_set(&keywords, "fallback_application_name", options->application);
    keywords_default(&keywords, "keepalives", "1");
    keywords_default(&keywords, "keepalives_idle", "30");
    keywords_default(&keywords, "keepalives_interval", "10");
    keywords_default(&keywords, "keepalives_count", "3");
    keywords_default(&keywords, "tcp_user_timeout", DEFAULT_TCP_USER_TIMEOUT);

    pg = memory_new(struct pg);
    pg->side = options->side;
    pg->is_replication = options->is_replication;
    pg->limit_fd = -1;
    pg->conn = PQconnectStartParams(keywords.names, keywords.values, 0);
    if (pg->conn == NULL)
        return error_set(err, ERROR_FAILED, "out of memory while connecting");
    pg_list_add(pg);
    PQsetErrorVerbosity(pg->conn, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(pg->conn, take_notice, pg);
    deadline_us = connect_deadline(options, &keywords);
    if (PQstatus(pg->conn) != CONNECTION_BAD && !wait_connected(pg->conn, deadline_us))
        return connect_failed(options->side, pg->conn, true, err);
    if (PQstatus(pg->conn) != CONNECTION_OK)
        return connect_failed(options->side, pg->conn, false, err);
    PQsetErrorVerbosity(pg->conn, PQERRORS_DEFAULT);
    pg->canceller = pg_canceller_new(pg->conn);
    /* Part of connecting, and so within its time. */
    left_ms = (deadline_us - clock_tick_us()) / 1000;
    pg_limit(pg, left_ms > MIN_PIN_MS ? (int) left_ms : MIN_PIN_MS, -1);
    if (!pin_settings(pg, err))
        return error_wrap(err, "pinning the session's settings");
    pg_limit(pg, 0, -1);
    *ret_pg = pg;
    pg = NULL;
    return true;
}

void pg_free(struct pg *pg)
{
    if (pg == NULL)
        return;
    pg_list_remove(pg);
    PQfreemem(pg->chunk);
    pg_canceller_free(pg->canceller);
    PQfinish(pg->conn);
    free(pg->values);
    free(pg->lengths);
    free(pg->formats);
    free(pg->warnings);
    free(pg);
}

int pg_server_version(const struct pg *pg)
{
    return PQserverVersion(pg->conn);
}

bool pg_has(const struct pg *pg, enum feature feature)
{
    return feature_is_in(feature, pg_server_version(pg));
}

bool pg_check_version(const struct pg *pg, struct error *err)
{
    if (pg_has(pg, FEATURE_SUPPORTED))
        return true;
    error_set(err, ERROR_FINDINGS, "the %s runs PostgreSQL %d, and %d is the oldest supported",
              pg_side_name(pg->side), pg_server_version(pg) / 10000,
              feature_first(FEATURE_SUPPORTED));
    return error_hint(err, "upgrade the %s", pg_side_name(pg->side));
}

int pg_socket(const struct pg *pg)
{
    return PQsocket(pg->conn);
}

bool pg_is_broken(const struct pg *pg)
{
    return PQstatus(pg->conn) != CONNECTION_OK;
}

/* ---- results ---- */

void pg_result_free(struct pg_result *result)
{
    PQclear(pg_raw(result));
}

int pg_rows(const struct pg_result *result)
{
    return PQntuples(pg_raw(result));
}

int pg_columns(const struct pg_result *result)
{
    return PQnfields(pg_raw(result));
}

const char *pg_column(const struct pg_result *result, int column)
{
    const char *name = PQfname(pg_raw(result), column);

    return name ? name : "";
}

bool pg_is_null(const struct pg_result *result, int row, int column)
{
    return PQgetisnull(pg_raw(result), row, column);
}

bool pg_any_null(const struct pg_result *result, int row, int column, int count)
{
    for (int i = 0; i < count; i++)
        if (pg_is_null(result, row, column + i))
            return true;
    return false;
}

const char *pg_text(const struct pg_result *result, int row, int column)
{
    const char *text = PQgetvalue(pg_raw(result), row, column);

    return text ? text : "";
}

size_t pg_text_len(const struct pg_result *result, int row, int column)
{
    return (size_t) PQgetlength(pg_raw(result), row, column);
}

int64_t pg_int(const struct pg_result *result, int row, int column)
{
    const char *text = pg_text(result, row, column);
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' ? value : 0;
}

bool pg_bool(const struct pg_result *result, int row, int column)
{
    return pg_text(result, row, column)[0] == 't';
}

lsn_t pg_lsn(const struct pg_result *result, int row, int column)
{
    lsn_t lsn = 0;

    return lsn_parse(pg_text(result, row, column), &lsn) ? lsn : 0;
}

int64_t pg_affected(const struct pg_result *result)
{
    return strtoll(PQcmdTuples(pg_raw(result)), NULL, 10);
}

void pg_drop_results(struct pg *pg)
{
    PGresult *result;

    while ((result = PQgetResult(pg->conn)) != NULL) {
        ExecStatusType status = PQresultStatus(result);
        char *row = NULL;

        PQclear(result);
        if (PQstatus(pg->conn) != CONNECTION_OK)
            return;
        /* A COPY never ends by itself: whoever comes here with one in progress gave it up. */
        if (status == PGRES_COPY_IN)
            PQputCopyEnd(pg->conn, "given up");
        while (status == PGRES_COPY_OUT && PQgetCopyData(pg->conn, &row, 0) > 0)
            PQfreemem(row);
    }
}

static bool check_result(struct pg *pg, const PGresult *result, const char *sql, struct error *err)
{
    char class[PG_CLASS_SIZE];

    switch (PQresultStatus(result)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
    case PGRES_EMPTY_QUERY:
        return true;
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
        return error_set(err, ERROR_BUG, "a COPY was sent as an ordinary statement");
    default:
        return pg_fail(pg, result, pg_statement_class(sql, class), err);
    }
}

void pg_limit(struct pg *pg, int timeout_ms, int wake_fd)
{
    pg->limit_ms = timeout_ms;
    pg->limit_fd = wake_fd;
}

/* ---- watched statements ---- */

/* The last result of a statement that was sent; earlier ones are dropped. */
static PGresult *last_result(struct pg *pg)
{
    PGresult *last = NULL;
    PGresult *result;

    while ((result = PQgetResult(pg->conn)) != NULL) {
        ExecStatusType status = PQresultStatus(result);

        PQclear(last);
        last = result;
        if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
            break;
        if (PQstatus(pg->conn) != CONNECTION_OK)
            break;
    }
    return last;
}

/* Until the result is there; false after timeout_ms (-1: none), or when wake_fd is readable. */
static bool wait_result(struct pg *pg, int timeout_ms, int wake_fd)
{
    const int64_t deadline_us = clock_tick_us() + (int64_t) timeout_ms * 1000;

    while (PQisBusy(pg->conn)) {
        struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN},
                                {.fd = wake_fd, .events = POLLIN}};
        const int64_t left_us = timeout_ms < 0 ? 0 : deadline_us - clock_tick_us();
        int nready = 0;

        if (left_us >= 0)
            nready = poll(fds, 2, timeout_ms < 0 ? -1 : (int) ((left_us + 999) / 1000));
        if (nready < 0 && errno == EINTR)
            continue;
        if (nready <= 0 || fds[1].revents != 0)
            return false;
        if (!PQconsumeInput(pg->conn))
            return true;
    }
    return true;
}

/*
 * The result of what was sent.  A cancel that comes before the server has begun the statement is lost
 * (one that comes after its end is, too), so it is repeated; who does not answer then is gone.
 */
static PGresult *watched_result(struct pg *pg, int timeout_ms, int wake_fd)
{
    bool is_there = wait_result(pg, timeout_ms, wake_fd);

    for (int i = 0; !is_there && i < CANCELS; i++) {
        pg_cancel(pg);
        is_there = wait_result(pg, CANCELLED_MS, -1);
    }
    if (!is_there)
        pg_break(pg);
    return last_result(pg);
}

/* ---- simple use ---- */

bool pg_exec(struct pg *pg, const char *sql, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;

    if (pg->limit_ms == 0)
        result = PQexec(pg->conn, sql);
    else if (PQsendQuery(pg->conn, sql))
        result = watched_result(pg, pg->limit_ms, pg->limit_fd);
    return check_result(pg, result, sql, err);
}

bool pg_keep_memory(struct pg *pg, struct error *err)
{
    return pg_exec(pg, "select length(repeat('x', 16 << 20))", err) ||
           error_wrap(err, "asking the server for memory to keep");
}

bool pg_execf(struct pg *pg, struct error *err, const char *format, ...)
{
    _cleanup_buf_ struct buf sql = {0};
    va_list args;

    va_start(args, format);
    buf_vprintf(&sql, format, args);
    va_end(args);
    return pg_exec(pg, buf_text(&sql), err);
}

bool pg_query(struct pg *pg, const char *sql, int nparams, const char *const *params,
              struct pg_result **ret_result, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;

    if (pg->is_replication) {
        /* A walsender knows the simple protocol only. */
        if (nparams > 0)
            return error_set(err, ERROR_BUG, "parameters on a replication connection");
        if (pg->limit_ms == 0)
            result = PQexec(pg->conn, sql);
        else if (PQsendQuery(pg->conn, sql))
            result = watched_result(pg, pg->limit_ms, pg->limit_fd);
    } else if (pg->limit_ms == 0) {
        result = PQexecParams(pg->conn, sql, nparams, NULL, params, NULL, NULL, 0);
    } else if (PQsendQueryParams(pg->conn, sql, nparams, NULL, params, NULL, NULL, 0)) {
        result = watched_result(pg, pg->limit_ms, pg->limit_fd);
    }
    if (!check_result(pg, result, sql, err))
        return false;
    *ret_result = (struct pg_result *) result;
    result = NULL;
    return true;
}

bool pg_query_prepared(struct pg *pg, const char *name, int nparams, const char *const *params,
                       struct pg_result **ret_result, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;

    if (pg->limit_ms == 0)
        result = PQexecPrepared(pg->conn, name, nparams, params, NULL, NULL, 0);
    else if (PQsendQueryPrepared(pg->conn, name, nparams, params, NULL, NULL, 0))
        result = watched_result(pg, pg->limit_ms, pg->limit_fd);
    if (!check_result(pg, result, "execute", err))
        return false;
    *ret_result = (struct pg_result *) result;
    result = NULL;
    return true;
}

bool pg_query_row(struct pg *pg, const char *sql, int nparams, const char *const *params,
                  struct pg_result **ret_result, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    char class[PG_CLASS_SIZE];

    if (!pg_query(pg, sql, nparams, params, &result, err))
        return false;
    if (pg_rows(result) != 1)
        return error_set(err, ERROR_FAILED, "%s: %s: %d rows where exactly one was expected",
                         pg_side_name(pg->side), pg_statement_class(sql, class), pg_rows(result));
    *ret_result = result;
    result = NULL;
    return true;
}

bool pg_query_wait(struct pg *pg, const char *sql, int timeout_ms, int wake_fd,
                   struct pg_result **ret_result, struct error *err)
{
    _cleanup_raw_ PGresult *result = NULL;
    char class[PG_CLASS_SIZE];

    if (!PQsendQuery(pg->conn, sql))
        return pg_fail(pg, NULL, pg_statement_class(sql, class), err);
    result = watched_result(pg, timeout_ms, wake_fd);
    if (!check_result(pg, result, sql, err))
        return false;
    *ret_result = (struct pg_result *) result;
    result = NULL;
    return true;
}
