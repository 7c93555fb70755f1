/*
 * The JSON scanner against an independent reader of RFC 8259: it takes a string exactly where that
 * one does, but for what a PostgreSQL text cannot hold, and decodes it to the same bytes; numbers
 * likewise, as they are written.  What is written by buf_add_json() comes back as it was.
 *
 * A whole input is read as a string, as a number and as an integer.
 */
#include "driver.h"

#include "../../plugins/wal2json/json.h"
#include "rfc8259.h"

#include <errno.h>
#include <string.h>

static struct json json_of(const void *data, size_t size)
{
    return (struct json){.p = data, .end = (const char *) data + size, .start = data};
}

static void check_string(const uint8_t *data, size_t size, enum json_strings kind)
{
    struct rfc8259 reference = {.p = data, .end = data + size};
    struct json json = json_of(data, size);
    _cleanup_buf_ struct buf wanted = {0};
    struct json_text text = {0};
    struct arena arena = {0};
    bool is_good = json_string(&json, kind, &arena, &text);
    bool is_wanted = rfc8259_string(&reference, &wanted) && !reference.has_nul &&
                     !reference.has_surrogate && (kind == JSON_OPAQUE || !reference.has_bad_utf8);

    promise(is_good == is_wanted);
    promise(is_good == (json.expected == NULL));
    promise(json.p >= json.start && json.p <= json.end);
    if (is_good) {
        promise((const uint8_t *) json.p == reference.p);
        promise(text.len == wanted.len);
        promise(memcmp(text.data, buf_text(&wanted), text.len) == 0);
    }
    arena_release(&arena);
}

static void check_number(const uint8_t *data, size_t size)
{
    struct rfc8259 reference = {.p = data, .end = data + size};
    struct json json = json_of(data, size);
    struct json_text text = {0};
    bool is_wanted = rfc8259_number(&reference);

    /* "01" is a number and a digit behind it; neither can be followed by a digit in JSON. */
    if (is_wanted && reference.p < reference.end && reference.p[-1] == '0' &&
        (reference.p - data == 1 || (reference.p - data == 2 && data[0] == '-')) &&
        *reference.p >= '0' && *reference.p <= '9')
        is_wanted = false;
    promise(json_number(&json, &text) == is_wanted);
    if (!is_wanted)
        return;
    promise((const uint8_t *) json.p == reference.p);
    promise(text.data == (const char *) data && text.len == (size_t) (reference.p - data));
}

static void check_integer(const uint8_t *data, size_t size)
{
    static const int64_t limits[][2] = {{INT64_MIN, INT64_MAX}, {0, UINT32_MAX}, {1, INT16_MAX}};
    char *text = driver_text(data, size), *end;
    size_t digits = strspn(text[0] == '-' ? text + 1 : text, "0123456789");

    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool is_out = errno == ERANGE;

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        struct json json = json_of(data, size);
        int64_t read = 0;
        const char *first = text + (text[0] == '-');
        bool is_integer = digits > 0 && (digits == 1 || *first != '0') &&
                          strchr(".eE", first[digits] ? first[digits] : 'x') == NULL;
        bool is_wanted = is_integer && !is_out && value >= limits[i][0] && value <= limits[i][1];

        promise(json_integer(&json, limits[i][0], limits[i][1], &read) == is_wanted);
        promise(!is_wanted || read == value);
    }
    free(text);
}

/* Our own writer: text in, the same text out. */
static void check_writer(const uint8_t *data, size_t size)
{
    char *text = driver_text(data, size);
    struct rfc8259 reference;
    _cleanup_buf_ struct buf json = {0}, back = {0};

    buf_add_json(&json, text);
    reference = (struct rfc8259){.p = (const unsigned char *) json.data,
                                 .end = (const unsigned char *) json.data + json.len};
    promise(rfc8259_string(&reference, &back) && reference.p == reference.end);
    promise(!reference.has_bad_utf8 && !reference.has_nul && !reference.has_surrogate);
    promise(rfc8259_is_text(json.data, json.len));
    if (strcmp(text, buf_text(&back)) != 0) /* bytes that are no UTF-8 were replaced */
        promise(strstr(buf_text(&back), "\xef\xbf\xbd") != NULL);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_string(data, size, JSON_TEXT);
    check_string(data, size, JSON_OPAQUE);
    check_number(data, size);
    check_integer(data, size);
    check_writer(data, size);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    static const char *const seeds[] = {
        "\"plain text of more than one word, and \\\"quotes\\\"\"",
        "\"\\b\\f\\n\\r\\t\\/\\\\ \\u0041\\u00e9\\u20ac\\ud83d\\ude00\"",
        "\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\xed\xa0\x80\"",
        "\"1234567\x1f\"",
        "-12345678901234567890.0123456789e+10",
        "9223372036854775807",
        "-9223372036854775808",
        "4294967295",
        "32767",
        "-0",
    };

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {
    "\\u", "\\u0000", "\\ud83d", "\\ude00", "\\\"",     "\\\\",         "\\/",
    "\"",  "abcdefg", "\x7f",    "\x80",    "\xc3\xa9", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf",
    "e+",  "-",       ".",       "0",       NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};
