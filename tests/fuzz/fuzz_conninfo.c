/*
 * Connection strings: what libpq reads is written without its secrets and reads as the same; no
 * message, description or text shows a secret; and a variable's value arrives as it is, whatever
 * bytes it has.
 *
 * An input's first line is the value of the variable, the rest the connection string.
 */
#include "config/expand.h"
#include "driver.h"
#include "pg/conninfo.h"
#include "pg/pg.h"

#include <libpq-fe.h>
#include <string.h>

#define VARIABLE "TAILWATER_FUZZ"

static void options_free(PQconninfoOption **options)
{
    PQconninfoFree(*options);
}

#define _cleanup_options_ _cleanup_(options_free)

static const char *option(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword != NULL; options++)
        if (strcmp(options->keyword, keyword) == 0)
            return options->val;
    return NULL;
}

static bool is_secret(const PQconninfoOption *option)
{
    return option->dispchar[0] == '*' && option->val != NULL;
}

/* A secret that cannot be there by chance: long, and no part of what may be shown. */
static bool is_telling(const PQconninfoOption *options, const PQconninfoOption *secret)
{
    if (strlen(secret->val) < 6 || strncmp(secret->val, "${", 2) == 0)
        return false;
    for (; options->keyword != NULL; options++)
        if (strstr(options->keyword, secret->val) != NULL ||
            (options->val != NULL && !is_secret(options) &&
             strstr(options->val, secret->val) != NULL))
            return false;
    return strspn(secret->val, "=$' \\{}_ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") <
           strlen(secret->val);
}

static void check_strip(const char *conninfo, const PQconninfoOption *options)
{
    _cleanup_buf_ struct buf text = {0}, variables = {0}, described = {0};
    struct error err = {0};

    promise(conninfo_strip(conninfo, "SOURCE", &text, &variables, &err));
    pg_describe(conninfo, &described);

    _cleanup_options_ PQconninfoOption *again = PQconninfoParse(buf_text(&text), NULL);

    promise(again != NULL);
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++) {
        const char *value = option(again, o->keyword);

        promise((o->val == NULL) == (value == NULL));
        if (is_secret(o)) {
            promise(strncmp(value, "${", 2) == 0 && value[strlen(value) - 1] == '}');
            if (is_telling(options, o))
                promise(strstr(buf_text(&text), o->val) == NULL &&
                        strstr(buf_text(&described), o->val) == NULL);
        } else {
            promise(value == NULL || strcmp(value, o->val) == 0);
        }
    }
}

static void check_refusal(const char *conninfo)
{
    _cleanup_buf_ struct buf text = {0}, variables = {0}, described = {0};
    struct error err = {0}, again = {0};

    promise(!conninfo_check(conninfo, &err));
    promise(!conninfo_strip(conninfo, "SOURCE", &text, &variables, &again));
    promise(text.len == 0 && variables.len == 0 && strcmp(err.message, again.message) == 0);
    promise(err.kind == ERROR_CONFIG && err.hint[0] != '\0');
    promise(strchr(err.message, '\n') == NULL || strchr(conninfo, '\n') != NULL);
    /* Where a secret may be, nothing of the string is repeated. */
    if (strstr(conninfo, "pass") != NULL || strchr(conninfo, '@') != NULL)
        promise(strcmp(err.message, "not a connection string that libpq can read") == 0);
    pg_describe(conninfo, &described);
    promise(strcmp(buf_text(&described), "(a conninfo that cannot be parsed)") == 0);
}

/* Every way in which a variable can stand in the key=value form. */
static void check_variable(const char *value)
{
    static const struct {
        const char *text, *before, *behind;
    } forms[] = {
        {"password=${" VARIABLE "}", "", ""},
        {"host=h password=${" VARIABLE "} dbname=d", "", ""},
        {"host=h password = ${" VARIABLE "}\tdbname=d", "", ""},
        {"password='${" VARIABLE "}' host=h", "", ""},
        {"host=h password='a${" VARIABLE "}b'", "a", "b"},
        {"host=h password='\\'${" VARIABLE "}\\\\'", "'", "\\"},
        {"user='u v' password='$${${" VARIABLE "}' host=h", "${", ""},
    };

    setenv(VARIABLE, value, 1);
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        _cleanup_buf_ struct buf wanted = {0};
        struct arena arena = {0};
        const char *text = NULL;
        struct error err = {0};

        promise(expand_conninfo(forms[i].text, &arena, &text, &err));

        _cleanup_options_ PQconninfoOption *options = PQconninfoParse(text, NULL);

        buf_printf(&wanted, "%s%s%s", forms[i].before, value, forms[i].behind);
        promise(options != NULL);
        promise(strcmp(option(options, "password"), buf_text(&wanted)) == 0);
        arena_release(&arena);
    }
}

/* Whatever is expanded: it works, or the error shows no value. */
static void check_expansion(const char *conninfo, const char *value)
{
    struct arena arena = {0};
    const char *text = NULL, *plain = NULL;
    struct error err = {0};

    if (!expand_conninfo(conninfo, &arena, &text, &err)) {
        promise(err.kind == ERROR_CONFIG && text == NULL);
        promise(strlen(value) < 12 || strstr(conninfo, value) != NULL ||
                strstr(err.message, value) == NULL);
    } else {
        promise(expand_text(conninfo, &arena, &plain, &err));
        promise(strstr(conninfo, "${") != NULL || strcmp(text, conninfo) == 0);
    }
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *input = driver_text(data, size), *rest = input;
    const char *value = driver_line(&rest);

    if (value[0] != '\0')
        check_variable(value);
    if (rest != NULL) {
        _cleanup_options_ PQconninfoOption *options = PQconninfoParse(rest, NULL);
        struct error err = {0};

        check_expansion(rest, value);
        /* Some that libpq can read are refused: what is torn shows no more than what is broken. */
        if (options == NULL || !conninfo_check(rest, &err))
            check_refusal(rest);
        else
            check_strip(rest, options);
    }
    free(input);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    static const char *const seeds[] = {
        "secret with 'quotes' and \\\nhost=prod dbname=shop user=tailwater password=secret",
        "x\nhost='a b' port=5433 dbname='it''s' sslmode=require",
        "x\npostgresql://user:secret%20word@host:5432/db?sslmode=require&application_name=x",
        "x\npostgresql://user:sec/ret@host:5432/db",
        "x\npostgresql://user:secret",
        "x\npostgres://host1,host2/db?target_session_attrs=read-write",
        "x\nhost = h password = 's\\'e\\\\c' sslpassword=another passfile=/f",
        "x\nhost=${" VARIABLE "} password=$${x} user=${" VARIABLE "}y options='-c a=${" VARIABLE
        "}'",
        "x\npostgresql://%2Ftmp%2Fsock/db?host=[::1]",
        "x\nhost=h password=${PGPASSWORD_1} options='-c geqo=off'",
    };

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {"host=",
                                    "hostaddr=",
                                    "port=",
                                    "dbname=",
                                    "user=",
                                    "password=",
                                    "passfile=",
                                    "options=",
                                    "sslpassword=",
                                    "service=",
                                    "postgresql://",
                                    "postgres://",
                                    "@",
                                    ":",
                                    "/",
                                    "?",
                                    "&",
                                    "%20",
                                    "%00",
                                    "${",
                                    "$${",
                                    "${TAILWATER_FUZZ}",
                                    "}",
                                    "'",
                                    "\\",
                                    "\\'",
                                    " ",
                                    "\t",
                                    "\f",
                                    "\v",
                                    "\n",
                                    " = ",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};
