/*
 * A hash map from byte strings to pointers, open addressing, insertion only; keys are copied.  For
 * relation and table names, not for the rows of a batch (src/batch has its own).  {0} is an empty
 * one.
 */
#ifndef TAILWATER_MAP_H
#define TAILWATER_MAP_H

#include <stddef.h>
#include <stdint.h>

struct map_slot {
    char *key;
    size_t key_len;
    uint64_t hash;
    void *value;
};

struct map {
    struct map_slot *slots;
    size_t size;
    size_t count;
};

void map_release(struct map *map); /* frees the keys, not the values */
void *map_get(const struct map *map, const void *key, size_t key_len);       /* NULL if absent */
void map_put(struct map *map, const void *key, size_t key_len, void *value); /* replaces */

/* A fast 64-bit hash of bytes, not cryptographic. */
uint64_t map_hash(const void *key, size_t key_len);

#endif
