/*
 * What CopyAttributeOutText() of PostgreSQL's copyto.c writes, and nothing else: \N alone is NULL;
 * backslash, \b \f \n \r \t \v are escaped; columns end at a tab, the line at a newline.
 */
#include "sync/copy_text.h"

#include <stdint.h>
#include <string.h>

static bool unescape(char c, char *ret_c)
{
    static const char from[] = "bfnrtv\\", to[] = "\b\f\n\r\t\v\\";
    const char *at = c != '\0' ? strchr(from, c) : NULL;

    if (at == NULL)
        return false;
    *ret_c = to[at - from];
    return true;
}

/* The text up to end, into to; its length, or -1. */
static int64_t copy_out(const char *from, const char *end, char *to)
{
    const char *start = to;

    while (from < end) {
        const char *escape = memchr(from, '\\', (size_t) (end - from));
        const size_t plain = (size_t) ((escape ? escape : end) - from);

        memcpy(to, from, plain);
        to += plain;
        from += plain;
        if (escape == NULL)
            break;
        if (end - from < 2 || !unescape(from[1], to))
            return -1;
        to++;
        from += 2;
    }
    return to - start;
}

bool copy_text_parse(const char *line, size_t len, int ncolumns, struct arena *arena,
                     struct value *ret_values)
{
    const char *end;
    char *to;

    if (len == 0 || line[len - 1] != '\n' || len > UINT32_MAX)
        return false;
    end = line + len - 1;
    to = arena_alloc(arena, len);
    for (int i = 0; i < ncolumns; i++) {
        const char *tab = memchr(line, '\t', (size_t) (end - line));
        const char *stop = i < ncolumns - 1 ? tab : end;
        int64_t size;

        if (stop == NULL || (i == ncolumns - 1 && tab != NULL))
            return false;
        if (stop - line == 2 && memcmp(line, "\\N", 2) == 0) {
            ret_values[i] = (struct value){.kind = VALUE_NULL};
        } else {
            size = copy_out(line, stop, to);
            if (size < 0)
                return false;
            ret_values[i] = (struct value){.kind = VALUE_TEXT, .data = to, .len = (uint32_t) size};
            to += size;
        }
        line = stop + (stop < end);
    }
    return true;
}
