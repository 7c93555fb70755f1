/* Growth doubles, so that adding n bytes one by one costs O(n). */
#include "base/buf.h"

#include "base/memory.h"

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
        } else {
            buf_add_char(buf, (char) *p);
        }
    }
    buf_add_char(buf, '"');
}
