/* Growth doubles, so that adding n bytes one by one costs O(n). */
#include "base/buf.h"

#include "base/memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void buf_grow(struct buf *buf, size_t more)
{
    size_t size = buf->size ? buf->size : 64;

    while (size - buf->len <= more)
        size *= 2;
    buf->data = memory_resize(buf->data, size);
    buf->size = size;
    buf->data[buf->len] = '\0';
}

void buf_release(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){0};
}

int buf_add_replaced(struct buf *buf, const char *text, const char *place, const char *with)
{
    const char *at;
    int count = 0;

    for (; (at = strstr(text, place)) != NULL; text = at + strlen(place), count++) {
        buf_add_bytes(buf, text, (size_t) (at - text));
        buf_add(buf, with);
    }
    buf_add(buf, text);
    return count;
}

void buf_vprintf(struct buf *buf, const char *format, va_list args)
{
    va_list again;
    int len;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, args);
    if (buf->size - buf->len <= (size_t) len)
        buf_grow(buf, (size_t) len);
    vsnprintf(buf->data + buf->len, (size_t) len + 1, format, again);
    va_end(again);
    buf->len += (size_t) len;
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    buf_vprintf(buf, format, args);
    va_end(args);
}

/* RFC 3629.  The zero that ends the text is no continuation byte, so nothing is read past it. */
size_t buf_multibyte_length(const unsigned char *p)
{
    size_t more = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : p[0] < 0xf5 ? 3 : 0;

    for (size_t i = 1; i <= more; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return more > 0 ? more + 1 : 0;
}

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void buf_add_json(struct buf *buf, const char *text)
{
    buf_add_char(buf, '"');
    for (const unsigned char *p = (const unsigned char *) text; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\') {
            buf_add_char(buf, '\\');
            buf_add_char(buf, (char) *p);
        } else if (*p == '\n') {
            buf_add(buf, "\\n");
        } else if (*p < 0x20) {
            buf_printf(buf, "\\u%04x", *p);
        } else if (*p < 0x80) {
            buf_add_char(buf, (char) *p);
        } else if (buf_multibyte_length(p) > 0) {
            size_t len = buf_multibyte_length(p);

            buf_add_bytes(buf, p, len);
            p += len - 1;
        } else {
            buf_add(buf, REPLACEMENT);
        }
    }
    buf_add_char(buf, '"');
}

void buf_add_json_member(struct buf *buf, const char *name, const char *value)
{
    buf_printf(buf, "\"%s\": ", name);
    if (value != NULL)
        buf_add_json(buf, value);
    else
        buf_add(buf, "null");
}

void buf_add_shown(struct buf *buf, const char *text)
{
    for (const unsigned char *p = (const unsigned char *) text; *p != '\0'; p++) {
        /* In UTF-8 the controls from U+0080 to U+009F are c2 80 to c2 9f. */
        const bool is_high = *p == 0xC2 && p[1] >= 0x80 && p[1] <= 0x9F;

        if (*p == '\n') {
            buf_add(buf, "\\n");
        } else if (*p == '\t') {
            buf_add(buf, "\\t");
        } else if (is_high) {
            buf_printf(buf, "\\u%04x", *++p);
        } else if (*p < 0x20 || *p == 0x7F) {
            buf_printf(buf, "\\x%02x", *p);
        } else {
            buf_add_char(buf, (char) *p);
        }
    }
}
