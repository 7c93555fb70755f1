/*
 * What the codec's files share: writing in place into a struct buf, and the converters that
 * codec.c's table names.  Each appends length and bytes, or returns false with out's length as it
 * was.
 */
#ifndef TAILWATER_CODEC_INTERNAL_H
#define TAILWATER_CODEC_INTERNAL_H

#include "pg/codec.h"

bool codec_add_numeric(const char *data, uint32_t len, struct buf *out);
bool codec_add_date(const char *data, uint32_t len, struct buf *out);
bool codec_add_timestamp(const char *data, uint32_t len, struct buf *out);
bool codec_add_timestamptz(const char *data, uint32_t len, struct buf *out);

/* Room for size bytes at the end of out, for writing in place; written() then counts them. */
static inline char *reserve(struct buf *out, size_t size)
{
    if (out->size - out->len <= size)
        buf_grow(out, size);
    return out->data + out->len;
}

static inline void written(struct buf *out, size_t size)
{
    out->len += size;
    out->data[out->len] = '\0';
}

static inline char *put_u16(char *to, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(to, &v, sizeof(v));
    return to + sizeof(v);
}

static inline char *put_u32(char *to, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(to, &v, sizeof(v));
    return to + sizeof(v);
}

static inline char *put_u64(char *to, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(to, &v, sizeof(v));
    return to + sizeof(v);
}

static inline bool add_2(struct buf *out, uint16_t v)
{
    put_u16(put_u32(reserve(out, 6), 2), v);
    written(out, 6);
    return true;
}

static inline bool add_4(struct buf *out, uint32_t v)
{
    put_u32(put_u32(reserve(out, 8), 4), v);
    written(out, 8);
    return true;
}

static inline bool add_8(struct buf *out, uint64_t v)
{
    put_u64(put_u32(reserve(out, 12), 8), v);
    written(out, 12);
    return true;
}

static inline bool is_word(const char *data, uint32_t len, const char *word)
{
    return len == strlen(word) && memcmp(data, word, len) == 0;
}

static inline unsigned digit(char c)
{
    return (unsigned) (unsigned char) c - '0'; /* above 9: not a digit */
}

#endif
