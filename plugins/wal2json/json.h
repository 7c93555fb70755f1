/*
 * A scanner of the JSON that wal2json writes: no tree, no white space (wal2json writes none), the
 * caller says what has to come next.  Whatever else comes is refused: the first mismatch is
 * remembered in `expected`, and nothing moves after it.
 *
 * Strings are checked to be UTF-8 while they are scanned, and point into the message unless they
 * hold escapes; then they are decoded into an arena.
 */
#ifndef TAILWATER_WAL2JSON_JSON_H
#define TAILWATER_WAL2JSON_JSON_H

#include "tailwater/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct json {
    const char *p;
    const char *end;
    const char *start;
    const char *expected; /* NULL while all is well; then a noun: what was missing at p */
};

/* A run of bytes, not terminated. */
struct json_text {
    const char *data;
    uint32_t len;
};

/* Which strings are wanted: text is UTF-8 without NUL; opaque may hold any byte above 0x1f (P66).
 */
enum json_strings { JSON_TEXT, JSON_OPAQUE };

/* What json_string() misses in bytes that are not UTF-8. */
#define JSON_EXPECTS_UTF8 "UTF-8"

/* Say what was missing.  False. */
static inline bool json_fail(struct json *json, const char *expected)
{
    if (json->expected == NULL)
        json->expected = expected;
    return false;
}

/* Pass len bytes if they come next; no failure if they do not. */
static inline bool json_pass(struct json *json, const char *text, size_t len)
{
    if ((size_t) (json->end - json->p) < len || memcmp(json->p, text, len) != 0)
        return false;
    json->p += len;
    return true;
}

static inline bool json_pass_char(struct json *json, char c)
{
    if (json->p == json->end || *json->p != c)
        return false;
    json->p++;
    return true;
}

#define json_pass_literal(json, text) json_pass((json), "" text, sizeof(text) - 1)

/* text, a literal, has to come next. */
#define json_expect(json, text) (json_pass_literal((json), text) || json_fail((json), text))

/* A string; where it fails, p is at the offending byte or at the string's beginning. */
bool json_string(struct json *json, enum json_strings kind, struct arena *arena,
                 struct json_text *ret_text);

/* A number, as it is written (P8). */
bool json_number(struct json *json, struct json_text *ret_text);

/* An integer between min and max. */
bool json_integer(struct json *json, int64_t min, int64_t max, int64_t *ret_value);

#endif
