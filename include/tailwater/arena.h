/*
 * A bump allocator.  Everything allocated from an arena dies together, at arena_reset() or
 * arena_release().  Blocks of normal size are kept across a reset, so that a batch that is as large
 * as the one before allocates nothing.  Out of memory ends the process: there is nothing sensible
 * to do instead. Not thread-safe: an arena has one owner at a time.
 */
#ifndef TAILWATER_ARENA_H
#define TAILWATER_ARENA_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct arena_block;

struct arena {
    char *next;                /* the first free byte of the current block */
    char *end;                 /* its end */
    struct arena_block *first; /* all blocks, oldest first */
    struct arena_block *current;
    size_t used_bytes; /* handed out since the last reset, padding included */
};

/* A zeroed struct arena is a valid empty one; arena_init() says so. */
void arena_init(struct arena *arena);

/* Forget every allocation, keep normal blocks for reuse, give oversized ones back. */
void arena_reset(struct arena *arena);

/* Give everything back to the system. */
void arena_release(struct arena *arena);

/* The slow path of arena_alloc(): opens another block. */
void *arena_alloc_slow(struct arena *arena, size_t size);

/* size bytes aligned to 8, uninitialised.  Never NULL. */
static inline void *arena_alloc(struct arena *arena, size_t size)
{
    size_t padded = (size + 7) & ~(size_t) 7;
    char *p = arena->next;

    if ((size_t) (arena->end - p) < padded || p == NULL)
        return arena_alloc_slow(arena, padded);
    arena->next = p + padded;
    arena->used_bytes += padded;
    return p;
}

/* As arena_alloc(), zeroed. */
static inline void *arena_zalloc(struct arena *arena, size_t size)
{
    return memset(arena_alloc(arena, size), 0, size);
}

/* A copy of size bytes; of a string; of a string's first len bytes, terminated. */
static inline void *arena_memdup(struct arena *arena, const void *from, size_t size)
{
    void *to = arena_alloc(arena, size);

    if (size > 0)
        memcpy(to, from, size);
    return to;
}

char *arena_strdup(struct arena *arena, const char *from);
char *arena_strndup(struct arena *arena, const char *from, size_t len);
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define arena_new(arena, type, count)                                                              \
    ((type *) arena_zalloc((arena), sizeof(type) * (size_t) (count)))

#endif
