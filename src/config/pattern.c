/*
 * "schema.name", each part either quoted as in SQL ("" inside for one quote) or bare.  A bare part
 * is literal and case-sensitive but for * and ?; nothing is folded, since what a person copies from
 * psql's \dt is the name as it is.  A ? stands for one character, not for one byte.
 */
#include "config/pattern.h"

#include "base/buf.h"

#include <string.h>

#define MAX_IDENTIFIER 63 /* PostgreSQL's NAMEDATALEN - 1 */

/* Text up to a closing quote; *text stands behind the opening one. */
static bool read_quoted(const char **text, struct buf *part, struct error *err)
{
    for (const char *p = *text; *p != '\0'; p++) {
        if (*p == '"' && p[1] == '"') {
            p++;
        } else if (*p == '"') {
            *text = p + 1;
            return true;
        }
        buf_add_char(part, *p);
    }
    return error_set(err, ERROR_CONFIG, "a quote is not closed");
}

static bool read_bare(const char **text, struct buf *part, bool *ret_is_glob, struct error *err)
{
    size_t len = strcspn(*text, ".\" \t\r\n,;'");

    if ((*text)[len] != '\0' && (*text)[len] != '.') {
        error_set(err, ERROR_CONFIG,
                  "a name with a quote, a space, a comma or a semicolon in it "
                  "has to be in double quotes, as in SQL");
        return error_hint(err, "in YAML: 'sales.\"Order Lines\"'");
    }
    buf_add_bytes(part, *text, len);
    *ret_is_glob = strpbrk(buf_text(part), "*?") != NULL;
    *text += len;
    return true;
}

static bool read_part(const char **text, struct arena *arena, const char **ret_part,
                      bool *ret_is_glob, struct error *err)
{
    _cleanup_buf_ struct buf part = {0};
    bool is_glob = false;

    if (**text == '"') {
        (*text)++;
        if (!read_quoted(text, &part, err))
            return false;
    } else if (!read_bare(text, &part, &is_glob, err)) {
        return false;
    }
    if (part.len == 0)
        return error_set(err, ERROR_CONFIG, "a part of the name is empty");
    if (part.len > MAX_IDENTIFIER && !is_glob)
        return error_set(err, ERROR_CONFIG, "a name is longer than PostgreSQL's %d bytes",
                         MAX_IDENTIFIER);
    *ret_part = arena_strdup(arena, buf_text(&part));
    *ret_is_glob = is_glob;
    return true;
}

bool pattern_parse(const char *text, struct arena *arena, struct config_table *entry,
                   struct error *err)
{
    struct config_table parsed = *entry;
    const char *p = text;

    parsed.pattern = arena_strdup(arena, text);
    parsed.is_excluded = *p == '!';
    p += parsed.is_excluded;
    if (!read_part(&p, arena, &parsed.schema, &parsed.is_schema_glob, err))
        return false;
    if (*p == '\0') {
        error_set(err, ERROR_CONFIG, "a table is named with its schema");
        return error_hint(err, "write schema.table, as in public.orders or public.*");
    }
    if (*p++ != '.')
        return error_set(err, ERROR_CONFIG,
                         "there is something between a closing quote and the dot");
    if (!read_part(&p, arena, &parsed.name, &parsed.is_name_glob, err))
        return false;
    if (*p == '.') {
        error_set(err, ERROR_CONFIG, "a table has two parts, schema.table");
        return error_hint(err, "a name with a dot in it has to be in double quotes, as in SQL");
    }
    if (*p != '\0')
        return error_set(err, ERROR_CONFIG, "there is something behind the closing quote");
    *entry = parsed;
    return true;
}

/* The next character of UTF-8 text. */
static const char *next_character(const char *p)
{
    do
        p++;
    while ((*p & 0xC0) == 0x80);
    return p;
}

/* The usual loop with one fallback: at a mismatch the last * takes one character more. */
static bool glob_matches(const char *glob, const char *text)
{
    const char *star = NULL, *from = NULL;

    while (*text != '\0') {
        if (*glob == '*') {
            star = ++glob;
            from = text;
        } else if (*glob == '?') {
            glob++;
            text = next_character(text);
        } else if (*glob == *text) {
            glob++;
            text++;
        } else if (star != NULL) {
            glob = star;
            text = from = next_character(from);
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return *glob == '\0';
}

static bool part_matches(const char *part, bool is_glob, const char *text)
{
    return is_glob ? glob_matches(part, text) : strcmp(part, text) == 0;
}

bool config_table_matches(const struct config_table *entry, const char *schema, const char *name)
{
    return part_matches(entry->schema, entry->is_schema_glob, schema) &&
           part_matches(entry->name, entry->is_name_glob, name);
}

const char *config_expand_schema(const char *pattern, const char *schema, struct arena *arena)
{
    static const char mark[] = "{schema}";
    _cleanup_buf_ struct buf text = {0};

    for (const char *p = pattern; *p != '\0';) {
        if (strncmp(p, mark, sizeof(mark) - 1) == 0) {
            buf_add(&text, schema);
            p += sizeof(mark) - 1;
        } else {
            buf_add_char(&text, *p++);
        }
    }
    return arena_strndup(arena, buf_text(&text), text.len);
}
