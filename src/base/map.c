/* Linear probing at most half full.  The hash is the multiply-and-fold kind (after wyhash),
 * unaligned 8 bytes a step. */
#include "base/map.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static uint64_t fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t) a * b;

    return (uint64_t) product ^ (uint64_t) (product >> 64);
}

uint64_t map_hash(const void *key, size_t key_len)
{
    const unsigned char *p = key;
    uint64_t hash = UINT64_C(0xa0761d6478bd642f) ^ key_len;
    size_t left = key_len;

    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word;

        memcpy(&word, p, 8);
        hash = fold(hash ^ word, UINT64_C(0xe7037ed1a0b428db));
    }
    if (left > 0) {
        uint64_t word = 0;

        memcpy(&word, p, left);
        hash = fold(hash ^ word, UINT64_C(0x8ebc6af09c88c6e3));
    }
    return fold(hash, UINT64_C(0x589965cc75374cc3));
}

static struct map_slot *find(const struct map *map, const void *key, size_t key_len, uint64_t hash)
{
    for (size_t i = hash & (map->size - 1);; i = (i + 1) & (map->size - 1)) {
        struct map_slot *slot = &map->slots[i];

        if (slot->key == NULL)
            return slot;
        if (slot->hash == hash && slot->key_len == key_len && memcmp(slot->key, key, key_len) == 0)
            return slot;
    }
}

static void grow(struct map *map)
{
    struct map bigger = {.size = map->size ? map->size * 2 : 16, .count = map->count};

    bigger.slots = memory_alloc(bigger.size * sizeof(*bigger.slots));
    for (size_t i = 0; i < map->size; i++) {
        struct map_slot *old = &map->slots[i];

        if (old->key != NULL)
            *find(&bigger, old->key, old->key_len, old->hash) = *old;
    }
    free(map->slots);
    *map = bigger;
}

void *map_get(const struct map *map, const void *key, size_t key_len)
{
    if (map->size == 0)
        return NULL;
    return find(map, key, key_len, map_hash(key, key_len))->value;
}

void map_put(struct map *map, const void *key, size_t key_len, void *value)
{
    uint64_t hash = map_hash(key, key_len);
    struct map_slot *slot;

    if (map->count * 2 >= map->size)
        grow(map);
    slot = find(map, key, key_len, hash);
    if (slot->key == NULL) {
        slot->key = memory_resize(NULL, key_len + 1);
        memcpy(slot->key, key, key_len);
        slot->key[key_len] = '\0';
        slot->key_len = key_len;
        slot->hash = hash;
        map->count++;
    }
    slot->value = value;
}

void map_release(struct map *map)
{
    for (size_t i = 0; i < map->size; i++)
        free(map->slots[i].key);
    free(map->slots);
    *map = (struct map){0};
}
