/*
 * libpq parses, and its own list says what is secret (dispchar "*"), so nothing is guessed at here.
 * The string is put together again from what was parsed rather than edited: of an edited one
 * something may be left over (a second password, a percent-encoded one).
 *
 * A URI whose password has an @ / or : as it is, or that has no host behind it, is read by libpq all the
 * same: as another host, port or database, which would then be shown.  Such are refused.
 */
#include "pg/conninfo.h"

#include "base/cleanup.h"

#include <ctype.h>
#include <libpq-fe.h>
#include <string.h>

/* Where a person looks first comes first; then libpq's order. */
static const char *const first_keywords[] = {"service", "host", "hostaddr", "port",
                                             "dbname",  "user", "password"};

#define NFIRST (sizeof(first_keywords) / sizeof(first_keywords[0]))

static void free_options(PQconninfoOption **options)
{
    PQconninfoFree(*options);
}

static void free_message(char **message)
{
    PQfreemem(*message);
}

static bool is_variable(const char *value)
{
    size_t len = strlen(value);

    return len > 3 && strncmp(value, "${", 2) == 0 && value[len - 1] == '}' &&
           strspn(value + 2, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") ==
               len - 3;
}

static void add_value(struct buf *text, const char *value)
{
    bool needs_quotes = value[0] == '\0' || strpbrk(value, " \t\r\n\v\f'\\") != NULL;

    if (needs_quotes)
        buf_add_char(text, '\'');
    for (const char *p = value; *p != '\0'; p++) {
        if (*p == '\'' || *p == '\\')
            buf_add_char(text, '\\');
        buf_add_char(text, *p);
    }
    if (needs_quotes)
        buf_add_char(text, '\'');
}

static void add_option(const PQconninfoOption *option, const char *prefix, struct buf *conninfo,
                       struct buf *variables)
{
    bool is_secret = option->dispchar[0] == '*';
    _cleanup_buf_ struct buf name = {0};

    buf_printf(conninfo, "%s%s=", conninfo->len > 0 ? " " : "", option->keyword);
    if (!is_secret) {
        add_value(conninfo, option->val);
        return;
    }
    if (is_variable(option->val)) {
        buf_add_bytes(&name, option->val + 2, strlen(option->val) - 3);
    } else {
        buf_printf(&name, "%s_", prefix);
        for (const char *p = option->keyword; *p != '\0'; p++)
            buf_add_char(&name, (char) toupper((unsigned char) *p));
    }
    buf_printf(conninfo, "${%s}", buf_text(&name));
    buf_printf(variables, "%s\n", buf_text(&name));
}

static bool is_first(const char *keyword)
{
    for (size_t i = 0; i < NFIRST; i++)
        if (strcmp(first_keywords[i], keyword) == 0)
            return true;
    return false;
}

/* More @ than one before the parameters, or one behind the host; or a port that is no number. */
static bool is_torn(const char *conninfo, const PQconninfoOption *options)
{
    const size_t len = strcspn(conninfo, "?");
    const char *at;

    if (strncmp(conninfo, "postgresql://", 13) != 0 && strncmp(conninfo, "postgres://", 11) != 0)
        return false;
    for (; options->keyword != NULL; options++)
        if (strcmp(options->keyword, "port") == 0 && options->val != NULL &&
            strspn(options->val, "0123456789,") < strlen(options->val))
            return true;
    at = memchr(conninfo, '@', len);
    if (at == NULL)
        return false;
    return memchr(at + 1, '@', len - (size_t) (at + 1 - conninfo)) != NULL ||
           memchr(strstr(conninfo, "//") + 2, '/', (size_t) (at - strstr(conninfo, "//")) - 2) !=
               NULL;
}

static bool refuse_torn(struct error *err)
{
    error_set(err, ERROR_CONFIG, "not a connection string that libpq can read");
    return error_hint(err, "what a user name or a password has of : / @ ? # and %% is written "
                           "%%3A %%2F %%40 %%3F %%23 and %%25 in a URI; or write it as \"host=… "
                           "dbname=… user=…\"");
}

static bool refuse(const char *conninfo, const char *message, struct error *err)
{
    bool is_secret = strstr(conninfo, "pass") != NULL || strchr(conninfo, '@') != NULL;

    error_set(err, ERROR_CONFIG, "not a connection string that libpq can read%s%.*s",
              is_secret || message == NULL ? "" : ": ",
              is_secret || message == NULL ? 0 : (int) strcspn(message, "\n"),
              message != NULL ? message : "");
    return error_hint(err, "write \"host=… dbname=… user=…\", values with spaces or quotes in "
                           "single quotes, or postgresql://user@host/dbname");
}

bool conninfo_check(const char *conninfo, struct error *err)
{
    _cleanup_(free_message) char *message = NULL;
    _cleanup_(free_options) PQconninfoOption *options = PQconninfoParse(conninfo, &message);

    if (options == NULL)
        return refuse(conninfo, message, err);
    return !is_torn(conninfo, options) || refuse_torn(err);
}

bool conninfo_strip(const char *conninfo, const char *prefix, struct buf *ret_conninfo,
                    struct buf *ret_variables, struct error *err)
{
    _cleanup_(free_message) char *message = NULL;
    _cleanup_(free_options) PQconninfoOption *options = PQconninfoParse(conninfo, &message);

    if (options == NULL)
        return refuse(conninfo, message, err);
    if (is_torn(conninfo, options))
        return refuse_torn(err);
    for (size_t i = 0; i < NFIRST; i++)
        for (const PQconninfoOption *o = options; o->keyword != NULL; o++)
            if (o->val != NULL && strcmp(o->keyword, first_keywords[i]) == 0)
                add_option(o, prefix, ret_conninfo, ret_variables);
    for (const PQconninfoOption *o = options; o->keyword != NULL; o++)
        if (o->val != NULL && !is_first(o->keyword))
            add_option(o, prefix, ret_conninfo, ret_variables);
    return true;
}
