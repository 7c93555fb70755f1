/*
 * A growing byte buffer, always terminated, for SQL text and wire data.  {0} is a valid empty one;
 * buf_release() frees. buf_text() is "" while nothing was added.
 */
#ifndef TAILWATER_BUF_H
#define TAILWATER_BUF_H

#include "base/cleanup.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
    char *data;
    size_t len;
    size_t size;
};

void buf_grow(struct buf *buf, size_t more); /* room for more bytes and a terminator */
void buf_release(struct buf *buf);

static inline void buf_clear(struct buf *buf)
{
    buf->len = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

static inline const char *buf_text(const struct buf *buf)
{
    return buf->data ? buf->data : "";
}

static inline void buf_add_bytes(struct buf *buf, const void *data, size_t len)
{
    if (buf->size - buf->len <= len)
        buf_grow(buf, len);
    if (len > 0)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

static inline void buf_add_char(struct buf *buf, char c)
{
    buf_add_bytes(buf, &c, 1);
}

static inline void buf_add(struct buf *buf, const char *text)
{
    buf_add_bytes(buf, text, strlen(text));
}

static inline void buf_add_u16(struct buf *buf, uint16_t v)
{
    const unsigned char b[2] = {(unsigned char) (v >> 8), (unsigned char) v};

    buf_add_bytes(buf, b, sizeof(b));
}

static inline void buf_add_u32(struct buf *buf, uint32_t v)
{
    v = __builtin_bswap32(v);
    buf_add_bytes(buf, &v, sizeof(v));
}

static inline void buf_add_u64(struct buf *buf, uint64_t v)
{
    v = __builtin_bswap64(v);
    buf_add_bytes(buf, &v, sizeof(v));
}

/* text with each place in it replaced; returns how many there were. */
int buf_add_replaced(struct buf *buf, const char *text, const char *place, const char *with);

void buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *buf, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

/* A JSON string with its quotes.  Characters pass as they are, but for those that JSON escapes; bytes
 * that are not UTF-8 (a message cut in the middle of a character, or of a server in another
 * encoding) become U+FFFD: a line of the log is always JSON. */
void buf_add_json(struct buf *buf, const char *text);

/* A member of an object, "name": "value"; NULL is null.  What stands before it is the caller's. */
void buf_add_json_member(struct buf *buf, const char *name, const char *value);

/* The length of the multi-byte character (UTF-8) at p, in a text that a NUL byte ends; 0 where there is
 * none. */
size_t buf_multibyte_length(const unsigned char *p);

/* Text as one line for people: control characters, which a source's names may hold, are spelt out
 * (\n, \x1b), so that they forge no line and command no terminal. */
void buf_add_shown(struct buf *buf, const char *text);

#define _cleanup_buf_ _cleanup_(buf_release)

#endif
