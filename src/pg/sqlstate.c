/*
 * SQLSTATE to kind of error: one table, the first entry that matches wins, a pattern of two
 * characters is a class.  And the form of every message: "SIDE: DOING: server's primary message
 * (SQLSTATE 12345)".
 *
 * DETAIL, CONTEXT and QUERY of the server's message are not used, since PostgreSQL puts values there,
 * unless the operator asked for values (pg_show_values()).
 * Primary messages of class 22 carry the refused value itself ("invalid input syntax for type
 * integer: "x""), so what stands in quotes is taken out of these; where the server speaks another
 * language than English, the quotes are not known and the text is left out as a whole.  22023 is
 * about parameters and options, and stays.
 */
#include "pg/pg_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* The side's own "cannot be reached" kind. */
#define SIDE ERROR_NONE

static const struct {
    const char *pattern;
    enum error_kind on_source, on_mirror;
    const char *hint; /* with one %s for the side, or NULL */
} states[] = {
    /* The connection, or the whole server: wait and try again. */
    {"08", SIDE, SIDE, NULL},
    {"53300", SIDE, SIDE,
     "raise max_connections (max_wal_senders for replication) on the %s, or free connections "
     "there"},
    {"53100", SIDE, SIDE,
     "free disk space on the %s; nothing is lost, work goes on where it stopped once there is "
     "room"},
    {"53", SIDE, SIDE,
     "the %s is out of memory or another resource; work goes on once it has some"},
    {"57P01", SIDE, SIDE, NULL},
    {"57P02", SIDE, SIDE, NULL},
    {"57P03", SIDE, SIDE, NULL},
    {"57P05", SIDE, SIDE, NULL},
    {"25P03", SIDE, SIDE, NULL},
    {"25P04", SIDE, SIDE, NULL},
    {"25006", SIDE, SIDE,
     "the %s is read-only: a standby, or default_transaction_read_only is on; point conninfo at "
     "the "
     "primary (target_session_attrs=read-write picks it from several hosts)"},

    /* Cannot get in: waiting does not help (pg_error_is_permanent). */
    {"28P01", SIDE, SIDE,
     "put the right user and password into %s.conninfo and restart it, or into the passfile "
     "(~/.pgpass), which is read at every attempt"},
    {"28", SIDE, SIDE, "check user in %s.conninfo, and pg_hba.conf on that server"},
    {"3D000", SIDE, SIDE, "check dbname in %s.conninfo"},

    /* The same again may work. */
    {"40001", ERROR_RETRY, ERROR_RETRY, NULL},
    {"40P01", ERROR_RETRY, ERROR_RETRY, NULL},
    {"55P03", ERROR_RETRY, ERROR_RETRY, NULL},
    {"57014", ERROR_RETRY, ERROR_RETRY, NULL},
    {"55006", ERROR_BUSY, ERROR_RETRY, NULL},

    /* The mirror refused a value or a row.  54000 is an index entry that is too large. */
    {"22", ERROR_FAILED, ERROR_DATA, NULL},
    {"23", ERROR_FAILED, ERROR_DATA, NULL},
    {"42804", ERROR_FAILED, ERROR_DATA, NULL},
    {"42846", ERROR_FAILED, ERROR_DATA, NULL},
    {"54000", ERROR_FAILED, ERROR_DATA, NULL},

    /* Everything else is ERROR_FAILED; some of it with a word of advice. */
    {"42501", ERROR_FAILED, ERROR_FAILED,
     "grant what is missing to the %s role; tailwater check lists all of it"},
    {"26000", ERROR_FAILED, ERROR_FAILED,
     "connect to the %s directly: a pooler in transaction mode cannot be used"},
    {"25P02", ERROR_BUG, ERROR_BUG, NULL},
};

const char *pg_side_name(enum pg_side side)
{
    return side == PG_SOURCE ? "source" : "mirror";
}

enum error_kind pg_kind(enum pg_side side, const char *sqlstate, const char **ret_hint)
{
    enum error_kind unreachable = side == PG_SOURCE ? ERROR_SOURCE : ERROR_MIRROR;

    *ret_hint = NULL;
    if (sqlstate[0] == '\0')
        return unreachable;
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        enum error_kind kind = side == PG_SOURCE ? states[i].on_source : states[i].on_mirror;

        if (strncmp(sqlstate, states[i].pattern, strlen(states[i].pattern)) != 0)
            continue;
        *ret_hint = states[i].hint;
        return kind == SIDE ? unreachable : kind;
    }
    return ERROR_FAILED;
}

bool pg_error_is_permanent(const struct error *err)
{
    static const char passing[][3] = {"08", "25", "40", "53", "55", "57"};

    if ((err->kind != ERROR_SOURCE && err->kind != ERROR_MIRROR) || err->sqlstate[0] == '\0')
        return false;
    for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++)
        if (strncmp(err->sqlstate, passing[i], 2) == 0)
            return false;
    return true;
}

const char *pg_statement_class(const char *sql, char ret_class[static PG_CLASS_SIZE])
{
    size_t len = 0;
    int nwords = 0;

    while (isspace((unsigned char) *sql))
        sql++;
    while (nwords < 2 && isalpha((unsigned char) *sql)) {
        size_t word = strspn(sql, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_");

        /* A second word belongs to the class only of "CREATE TABLE" and its like. */
        if (nwords == 1 && strchr(" \n", sql[word]) == NULL && sql[word] != '\0')
            break;
        if (len + word + 2 > PG_CLASS_SIZE)
            break;
        if (nwords > 0)
            ret_class[len++] = ' ';
        for (size_t i = 0; i < word; i++)
            ret_class[len++] = (char) toupper((unsigned char) sql[i]);
        sql += word;
        nwords++;
        if (strncmp(ret_class, "CREATE", len) != 0 && strncmp(ret_class, "ALTER", len) != 0 &&
            strncmp(ret_class, "DROP", len) != 0)
            break;
        while (isspace((unsigned char) *sql))
            sql++;
    }
    ret_class[len] = '\0';
    return len > 0 ? ret_class : "a statement";
}

static bool is_showing_values; /* log.values: set once, before any thread */

void pg_show_values(bool is_on)
{
    is_showing_values = is_on;
}

/* One line, without a value where the class of error says that there may be one. */
static void add_message(struct buf *text, const char *sqlstate, const char *message)
{
    size_t len = strlen(message);
    const char *first = NULL, *last = NULL;
    size_t start, end;

    while (len > 0 && isspace((unsigned char) message[len - 1]))
        len--;
    if (!is_showing_values && strncmp(sqlstate, "22", 2) == 0 && strcmp(sqlstate, "22023") != 0) {
        for (size_t i = 0; i < len; i++)
            if ((unsigned char) message[i] >= 0x80) {
                first = strchr(message, '"');
                if (first == NULL || message + i < first) {
                    buf_add(text, "a value was refused");
                    return;
                }
            }
        first = memchr(message, '"', len);
        last = memrchr(message, '"', len);
    }
    start = text->len;
    if (first != NULL && last > first) {
        buf_add_bytes(text, message, (size_t) (first - message));
        buf_add(text, "(value left out)");
        buf_add_bytes(text, last + 1, len - (size_t) (last + 1 - message));
    } else {
        buf_add_bytes(text, message, len);
    }
    /* Lines and tabs of libpq's messages become single spaces. */
    end = start;
    for (size_t i = start; i < text->len; i++) {
        char c = isspace((unsigned char) text->data[i]) ? ' ' : text->data[i];

        if (c != ' ' || end == start || text->data[end - 1] != ' ')
            text->data[end++] = c;
    }
    text->len = end;
    text->data[end] = '\0';
}

bool pg_fail_text(enum pg_side side, const char *sqlstate, const char *message, const char *doing,
                  struct error *err)
{
    _cleanup_buf_ struct buf text = {0};
    const char *hint;
    enum error_kind kind = pg_kind(side, sqlstate, &hint);

    add_message(&text, sqlstate, message);
    if (text.len == 0)
        buf_add(&text, "no reason given");
    if (sqlstate[0] != '\0')
        buf_printf(&text, " (SQLSTATE %s)", sqlstate);
    error_set(err, kind, "%s: %s: %s", pg_side_name(side), doing, buf_text(&text));
    snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", sqlstate);
    if (hint != NULL) {
        const char *at = strstr(hint, "%s");

        error_hint(err, "%.*s%s%s", (int) (at - hint), hint, pg_side_name(side), at + 2);
    }
    return false;
}

/* DETAIL and CONTEXT, which say which value and where. */
static void add_detail(const PGresult *result, struct error *err)
{
    static const int fields[] = {PG_DIAG_MESSAGE_DETAIL, PG_DIAG_CONTEXT};

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const char *text = PQresultErrorField(result, fields[i]);
        size_t len = strlen(err->message);

        if (text != NULL)
            snprintf(err->message + len, sizeof(err->message) - len, "; %s", text);
    }
}

bool pg_fail(struct pg *pg, const PGresult *result, const char *doing, struct error *err)
{
    const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *message = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

    if (sqlstate == NULL && result == NULL && PQstatus(pg->conn) == CONNECTION_OK) {
        /* libpq itself refused: a call out of order, a parameter count.  (A result without an
         * SQLSTATE is libpq's word of a write that failed; it may call the connection good still,
         * as long as the server's last words can be read.) */
        pg_fail_text(pg->side, "", PQerrorMessage(pg->conn), doing, err);
        err->kind = ERROR_BUG;
        return false;
    }
    if (message == NULL)
        message = PQerrorMessage(pg->conn);
    pg_fail_text(pg->side, sqlstate ? sqlstate : "", message, doing, err);
    if (is_showing_values && result != NULL)
        add_detail(result, err);
    /* Ours; the server's own are of no use here (DROP … CASCADE). */
    message = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_HINT) : NULL;
    if (message != NULL && err->hint[0] == '\0' && strncmp(err->sqlstate, "TW", 2) == 0)
        error_hint(err, "%s", message);
    return false;
}
