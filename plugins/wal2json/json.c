/*
 * Strings are what a message mostly consists of, so they are scanned a word at a time: a word
 * without quote, backslash, control character and high bit is passed whole.  Everything rarer goes
 * byte by byte.  A string is scanned once to its end, UTF-8 checked on the way; only one that held
 * escapes is gone over a second time, to decode them.
 */
#include "json.h"

#include <endian.h>

#define ONES  UINT64_C(0x0101010101010101)
#define HIGHS UINT64_C(0x8080808080808080)

/*
 * The high bit of every byte of word that ends plain text.  As with all such tricks a byte behind
 * the first hit may be marked wrongly; the lowest mark is right.
 */
static inline uint64_t marks(uint64_t word)
{
    uint64_t quote = word ^ (ONES * '"'), backslash = word ^ (ONES * '\\');

    return (((quote - ONES) & ~quote) | ((backslash - ONES) & ~backslash) |
            ((word - ONES * 0x20) & ~word) | word) &
           HIGHS;
}

static inline bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* The first byte from p on that is not plain ASCII text, or end. */
static const char *skip_plain(const char *p, const char *end)
{
    while (end - p >= 8) {
        uint64_t word;

        memcpy(&word, p, sizeof(word));
        word = marks(le64toh(word));
        if (word != 0)
            return p + __builtin_ctzll(word) / 8;
        p += 8;
    }
    while (p < end && is_plain((unsigned char) *p))
        p++;
    return p;
}

/* Past the multi-byte character at p; NULL where there is none (RFC 3629: no overlong form, no
 * surrogate, nothing above 10FFFF). */
static const char *skip_character(const char *text, const char *end)
{
    const unsigned char *p = (const unsigned char *) text;
    size_t left = (size_t) (end - text);
    size_t more = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : p[0] < 0xf5 ? 3 : 0;

    if (more == 0 || left <= more)
        return NULL;
    for (size_t i = 1; i <= more; i++)
        if ((p[i] & 0xc0) != 0x80)
            return NULL;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return NULL;
    return text + more + 1;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Four hex digits, or -1. */
static int hex_unit(const char *p, const char *end)
{
    int unit = 0;

    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(p[i]);

        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

static char *put_character(char *to, int c)
{
    if (c < 0x80) {
        *to++ = (char) c;
        return to;
    }
    if (c < 0x800) {
        *to++ = (char) (0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *to++ = (char) (0xe0 | c >> 12);
        } else {
            *to++ = (char) (0xf0 | c >> 18);
            *to++ = (char) (0x80 | (c >> 12 & 0x3f));
        }
        *to++ = (char) (0x80 | (c >> 6 & 0x3f));
    }
    *to++ = (char) (0x80 | (c & 0x3f));
    return to;
}

/* \uXXXX behind its u, or a pair of them; NULL where it is no character or NUL, which no
 * PostgreSQL text holds. */
static const char *decode_unicode(const char *p, const char *end, char **to)
{
    int c = hex_unit(p, end);

    if (c <= 0 || (c >= 0xdc00 && c <= 0xdfff))
        return NULL;
    p += 4;
    if (c >= 0xd800 && c <= 0xdbff) {
        int low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex_unit(p + 2, end) : -1;

        if (low < 0xdc00 || low > 0xdfff)
            return NULL;
        c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
        p += 6;
    }
    *to = put_character(*to, c);
    return p;
}

static const char escapes[256] = {
    ['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t',
};

/* Decode from…end, which holds escapes, into arena.  No escape is shorter than what it stands for.
 */
static bool decode_escapes(struct json *json, const char *from, const char *end,
                           struct arena *arena, struct json_text *ret_text)
{
    char *data = arena_alloc(arena, (size_t) (end - from)), *to = data;

    for (const char *p = from;;) {
        const char *escape = memchr(p, '\\', (size_t) (end - p));
        size_t run = (size_t) ((escape ? escape : end) - p);

        memcpy(to, p, run);
        to += run;
        if (escape == NULL)
            break;
        /* The scan made sure that a byte follows a backslash. */
        if (escapes[(unsigned char) escape[1]] != '\0') {
            *to++ = escapes[(unsigned char) escape[1]];
            p = escape + 2;
        } else {
            p = escape[1] == 'u' ? decode_unicode(escape + 2, end, &to) : NULL;
        }
        if (p == NULL) {
            json->p = escape;
            return json_fail(json, "an escape that stands for a character");
        }
    }
    *ret_text = (struct json_text){.data = data, .len = (uint32_t) (to - data)};
    return true;
}

bool json_string(struct json *json, enum json_strings kind, struct arena *arena,
                 struct json_text *ret_text)
{
    const char *from, *p;
    bool has_escapes = false;

    if (!json_pass_char(json, '"'))
        return json_fail(json, "a string");
    from = json->p;
    for (p = skip_plain(from, json->end); p < json->end && *p != '"';) {
        if (*p == '\\') {
            has_escapes = true;
            p = json->end - p >= 2 ? skip_plain(p + 2, json->end) : json->end;
        } else if ((unsigned char) *p < 0x20) {
            json->p = p;
            return json_fail(json, "an escaped control character");
        } else if (kind == JSON_OPAQUE) {
            p++;
        } else {
            json->p = p;
            p = skip_character(p, json->end);
            if (p == NULL)
                return json_fail(json, JSON_EXPECTS_UTF8);
            if (p < json->end && is_plain((unsigned char) *p))
                p = skip_plain(p, json->end);
        }
    }
    if (p == json->end) {
        json->p = json->end;
        return json_fail(json, "the end of a string");
    }
    if (has_escapes) {
        if (!decode_escapes(json, from, p, arena, ret_text))
            return false;
    } else {
        *ret_text = (struct json_text){.data = from, .len = (uint32_t) (p - from)};
    }
    json->p = p + 1;
    return true;
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

bool json_number(struct json *json, struct json_text *ret_text)
{
    const char *from = json->p, *end = json->end, *p = from, *digits;

    if (p < end && *p == '-')
        p++;
    digits = p;
    p = skip_digits(p, end);
    if (p == digits || (*digits == '0' && p > digits + 1))
        return json_fail(json, "a number");
    if (p < end && *p == '.') {
        digits = ++p;
        p = skip_digits(p, end);
        if (p == digits)
            return json_fail(json, "a number");
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        p = skip_digits(p, end);
        if (p == digits)
            return json_fail(json, "a number");
    }
    *ret_text = (struct json_text){.data = from, .len = (uint32_t) (p - from)};
    json->p = p;
    return true;
}

bool json_integer(struct json *json, int64_t min, int64_t max, int64_t *ret_value)
{
    const char *from = json->p;
    struct json_text text;
    int64_t value = 0;
    bool is_negative;

    if (!json_number(json, &text))
        return false;
    is_negative = text.data[0] == '-';
    for (uint32_t i = is_negative; i < text.len; i++) {
        int digit = text.data[i] - '0';

        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, digit, &value)) {
            json->p = from;
            return json_fail(json, "an integer");
        }
    }
    /* Summed up below zero, where INT64_MIN has room. */
    if ((!is_negative && __builtin_sub_overflow(INT64_C(0), value, &value)) || value < min ||
        value > max) {
        json->p = from;
        return json_fail(json, "an integer in range");
    }
    *ret_value = value;
    return true;
}
