/*
 * One pass over the text.  For a connection string a four-state machine follows libpq's grammar of
 * it (conninfo_parse() in fe-connect.c), just to know what a variable stands in; whether the string
 * is a good one is libpq's to say.
 */
#include "config/expand.h"

#include "base/buf.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum state {
    PLAIN,   /* not a connection string */
    KEYWORD, /* in a keyword, or between two values */
    START,   /* behind the equals sign */
    VALUE,
    QUOTED,
};

struct expander {
    struct buf out;
    enum state state;
    bool is_escaped; /* the character before was a backslash that counts */
};

static size_t name_length(const char *name)
{
    size_t len = 0;

    if (isdigit((unsigned char) name[0]))
        return 0;
    while (isalnum((unsigned char) name[len]) || name[len] == '_')
        len++;
    return len;
}

static void add_quoted(struct buf *out, const char *value)
{
    for (const char *p = value; *p != '\0'; p++) {
        if (*p == '\'' || *p == '\\')
            buf_add_char(out, '\\');
        buf_add_char(out, *p);
    }
}

static bool is_uri(const char *text)
{
    return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

/* after is the character behind the variable. */
static void add_value(struct expander *e, const char *value, char after)
{
    if (e->state != PLAIN && is_uri(buf_text(&e->out)))
        e->state = PLAIN;
    if (e->state == QUOTED) {
        add_quoted(&e->out, value);
    } else if (e->state == START && (after == '\0' || isspace((unsigned char) after))) {
        buf_add_char(&e->out, '\'');
        add_quoted(&e->out, value);
        buf_add_char(&e->out, '\'');
        e->state = KEYWORD;
    } else {
        buf_add(&e->out, value);
        if (e->state == START)
            e->state = VALUE;
    }
}

static void add_literal(struct expander *e, char c)
{
    bool is_escape = c == '\\' && !e->is_escaped && e->state >= START;

    buf_add_char(&e->out, c);
    if (e->is_escaped) {
        e->is_escaped = false;
        return;
    }
    e->is_escaped = is_escape;
    if (e->state == KEYWORD && c == '=')
        e->state = START;
    else if (e->state == START && c == '\'')
        e->state = QUOTED;
    else if (e->state == START && !isspace((unsigned char) c))
        e->state = VALUE;
    else if ((e->state == VALUE && isspace((unsigned char) c)) || (e->state == QUOTED && c == '\''))
        e->state = KEYWORD;
}

/* p stands on "${". */
static bool add_variable(struct expander *e, const char *p, const char **ret_rest,
                         struct error *err)
{
    size_t len = name_length(p + 2);
    char name[128];
    const char *value;

    if (len == 0 || p[2 + len] != '}' || len >= sizeof(name)) {
        error_set(err, ERROR_CONFIG, "${ without the name of a variable and }");
        return error_hint(err, "write ${NAME} for a variable of the environment, $${ for the two "
                               "characters themselves");
    }
    memcpy(name, p + 2, len);
    name[len] = '\0';
    value = getenv(name);
    if (value == NULL) {
        error_set(err, ERROR_CONFIG, "the environment variable %s is not set", name);
        return error_hint(err, "run: export %s=…", name);
    }
    add_value(e, value, p[len + 3]);
    *ret_rest = p + len + 3;
    return true;
}

static bool expand(const char *text, enum state state, struct arena *arena, const char **ret_text,
                   struct error *err)
{
    struct expander e = {.state = state};
    bool ok = true;

    for (const char *p = text; ok && *p != '\0';) {
        if (strncmp(p, "${", 2) == 0) {
            ok = add_variable(&e, p, &p, err);
            continue;
        }
        if (strncmp(p, "$${", 3) == 0) {
            add_literal(&e, '$');
            add_literal(&e, '{');
            p += 3;
            continue;
        }
        add_literal(&e, *p++);
    }
    if (ok)
        *ret_text = arena_strndup(arena, buf_text(&e.out), e.out.len);
    buf_release(&e.out);
    return ok;
}

bool expand_text(const char *text, struct arena *arena, const char **ret_text, struct error *err)
{
    return expand(text, PLAIN, arena, ret_text, err);
}

bool expand_conninfo(const char *text, struct arena *arena, const char **ret_text,
                     struct error *err)
{
    return expand(text, KEYWORD, arena, ret_text, err);
}
