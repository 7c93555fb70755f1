/*
 * A bounds-checked reader of bytes from outside.  The first read past the end sets bad, later reads
 * give 0 or NULL; the parser asks once, before it believes anything.  Integers are big-endian, as
 * on PostgreSQL's wire.
 */
#ifndef TAILWATER_BYTES_H
#define TAILWATER_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes {
    const unsigned char *p;
    const unsigned char *end;
    bool bad;
};

static inline struct bytes bytes_of(const void *data, size_t len)
{
    return (struct bytes){.p = data, .end = (const unsigned char *) data + len};
}

static inline size_t bytes_left(const struct bytes *b)
{
    return (size_t) (b->end - b->p);
}

/* The next n bytes, or NULL. */
static inline const unsigned char *bytes_take(struct bytes *b, size_t n)
{
    const unsigned char *p = b->p;

    if (b->bad || (size_t) (b->end - b->p) < n) {
        b->bad = true;
        return NULL;
    }
    b->p += n;
    return p;
}

static inline uint8_t bytes_u8(struct bytes *b)
{
    const unsigned char *p = bytes_take(b, 1);

    return p ? p[0] : 0;
}

static inline uint16_t bytes_u16(struct bytes *b)
{
    const unsigned char *p = bytes_take(b, 2);

    return p ? (uint16_t) (p[0] << 8 | p[1]) : 0;
}

static inline uint32_t bytes_u32(struct bytes *b)
{
    const unsigned char *p = bytes_take(b, 4);

    return p ? (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3] : 0;
}

static inline uint64_t bytes_u64(struct bytes *b)
{
    uint64_t high = bytes_u32(b);

    return high << 32 | bytes_u32(b);
}

/* A zero-terminated string, in place; "" and bad where no terminator follows. */
static inline const char *bytes_cstring(struct bytes *b)
{
    const unsigned char *p = b->p;
    const unsigned char *zero = b->bad || p == b->end ? NULL : memchr(p, 0, (size_t) (b->end - p));

    if (zero == NULL) {
        b->bad = true;
        return "";
    }
    b->p = zero + 1;
    return (const char *) p;
}

#endif
