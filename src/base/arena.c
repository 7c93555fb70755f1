/*
 * Blocks of BLOCK_BYTES in a list; a larger request gets a block of its own, given back at the next
 * reset.  Kept blocks are used again in order, so a steady load settles and allocates nothing.
 */
#include "tailwater/arena.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define BLOCK_BYTES (256 * 1024)

struct arena_block {
    struct arena_block *next;
    size_t size;
    char data[];
};

void arena_init(struct arena *arena)
{
    *arena = (struct arena){0};
}

static void use_block(struct arena *arena, struct arena_block *block)
{
    arena->current = block;
    arena->next = block ? block->data : NULL;
    arena->end = block ? block->data + block->size : NULL;
}

void *arena_alloc_slow(struct arena *arena, size_t size)
{
    struct arena_block *block = arena->current ? arena->current->next : arena->first;

    if (block == NULL || block->size < size) {
        size_t data_size = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        struct arena_block *fresh = memory_resize(NULL, sizeof(*fresh) + data_size);

        fresh->size = data_size;
        fresh->next = block;
        if (arena->current)
            arena->current->next = fresh;
        else
            arena->first = fresh;
        block = fresh;
    }
    use_block(arena, block);
    arena->next += size;
    arena->used_bytes += size;
    return block->data;
}

static void drop_blocks(struct arena *arena, size_t larger_than)
{
    struct arena_block **link = &arena->first;

    while (*link != NULL) {
        struct arena_block *block = *link;

        if (block->size > larger_than) {
            *link = block->next;
            free(block);
        } else {
            link = &block->next;
        }
    }
}

void arena_reset(struct arena *arena)
{
    drop_blocks(arena, BLOCK_BYTES);
    arena->used_bytes = 0;
    use_block(arena, arena->first);
}

void arena_release(struct arena *arena)
{
    drop_blocks(arena, 0);
    arena_init(arena);
}

char *arena_strndup(struct arena *arena, const char *from, size_t len)
{
    char *to = arena_alloc(arena, len + 1);

    memcpy(to, from, len);
    to[len] = '\0';
    return to;
}

char *arena_strdup(struct arena *arena, const char *from)
{
    return arena_strndup(arena, from, strlen(from));
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args, again;
    int len;
    char *text;

    va_start(args, format);
    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    text = arena_alloc(arena, (size_t) len + 1);
    vsnprintf(text, (size_t) len + 1, format, again);
    va_end(again);
    return text;
}
