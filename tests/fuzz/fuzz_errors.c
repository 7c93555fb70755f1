/*
 * What is said of a server's error: one whole line, of the right kind, without the refused value
 * where the class of error may carry one; names and literals in SQL text that read as they were.
 *
 * An input's lines are an SQLSTATE, what was being done, and the server's message.
 */
#include "driver.h"
#include "pg/pg_internal.h"

#include <ctype.h>
#include <string.h>

#define SECRET "S3cr3tValue"

static void check_message(enum pg_side side, const char *sqlstate, const char *message,
                          const char *doing)
{
    struct error err = {0}, again;

    promise(!pg_fail_text(side, sqlstate, message, doing, &err));
    promise(err.kind != ERROR_NONE);
    promise(strncmp(err.message, pg_side_name(side), strlen(pg_side_name(side))) == 0);
    promise(memchr(err.message, '\0', sizeof(err.message)) != NULL);
    promise(strcmp(err.sqlstate, sqlstate) == 0);
    promise(error_kind_name(err.kind) != NULL && error_exit_code(err.kind) > 0);
    again = err;
    promise(!error_wrap(&again, "%s", doing));
    promise(again.kind == err.kind && strcmp(again.hint, err.hint) == 0);
    promise(strcmp(again.sqlstate, err.sqlstate) == 0);
    (void) pg_error_is_permanent(&err);
}

/* The server's message has a value in quotes, and anything around it. */
static void check_no_value(const char *sqlstate, const char *message)
{
    _cleanup_buf_ struct buf text = {0};
    const size_t half = strlen(message) / 2;
    struct error err = {0};

    if (strncmp(sqlstate, "22", 2) != 0 || strcmp(sqlstate, "22023") == 0)
        return;
    buf_printf(&text, "%.*s\"" SECRET "\"%s", (int) half, message, message + half);
    pg_fail_text(PG_MIRROR, sqlstate, buf_text(&text), "a statement", &err);
    promise(strstr(message, SECRET) != NULL || strstr(err.message, SECRET) == NULL);
}

static void check_class(const char *sql)
{
    char class[PG_CLASS_SIZE];
    const char *text = pg_statement_class(sql, class);

    promise(text[0] != '\0' && strlen(text) < PG_CLASS_SIZE);
    if (text == class)
        for (const char *p = class; *p != '\0'; p++)
            promise(*p == ' ' || *p == '_' || isupper((unsigned char) *p));
}

/* As the server's scanner reads a quoted name or literal: a doubled quote is one. */
static void check_quoted(const char *quoted, char quote, const char *text)
{
    _cleanup_buf_ struct buf read = {0};
    const char *p = quoted;

    promise(*p++ == quote);
    while (*p != quote || p[1] == quote) {
        promise(*p != '\0');
        p += *p == quote;
        buf_add_char(&read, *p++);
    }
    promise(p[1] == '\0' && strcmp(buf_text(&read), text) == 0);
}

static void check_quoting(const char *text)
{
    _cleanup_buf_ struct buf ident = {0}, literal = {0}, both = {0};

    pg_add_ident(&ident, text);
    check_quoted(buf_text(&ident), '"', text);
    pg_add_literal(&literal, text);
    check_quoted(buf_text(&literal), '\'', text);
    pg_add_qualified(&both, text, text);
    promise(both.len == 2 * ident.len + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *input = driver_text(data, size), *rest = input, sqlstate[6] = "";
    const char *first = driver_line(&rest), *doing = driver_line(&rest);
    const char *message = rest ? rest : "";

    doing = doing ? doing : "";
    if (strlen(first) == 5)
        memcpy(sqlstate, first, 6);
    check_message(PG_SOURCE, sqlstate, message, doing);
    check_message(PG_MIRROR, sqlstate, message, doing);
    check_no_value(sqlstate, message);
    check_class(doing);
    check_class(message);
    check_quoting(message);
    free(input);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    static const char *const seeds[] = {
        "22P02\nINSERT\ninvalid input syntax for type integer: \"x\"",
        "22023\nSTART_REPLICATION\nunrecognized parameter \"x\"",
        "22008\nCOPY\nung\xc3\xbcltige \xe2\x80\x9etext\xe2\x80\x9c",
        "57P01\nselect 1\nterminating connection due to administrator command\n",
        "40001\nCREATE TABLE x\ncould not serialize\n\taccess",
        "53100\ncreate index\nNo space left on device",
        "28P01\nconnecting\nFATAL:  password authentication failed for user \"x\"",
        "\nCOMMIT\nserver closed the connection unexpectedly\n\tThis probably means",
        "XX000\n  alter table \"a\"\nit's \\ \"here\"",
    };

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {
    "22P02", "22023", "23505", "08006",    "53300",   "55006",  "42501", "\n",    "\t", "\"", "'",
    "\\",    "%s",    "%n",    "\xc3\xa9", "CREATE ", "ALTER ", "DROP ", "TABLE", "--", "/*", NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};
