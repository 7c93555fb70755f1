/*
 * A key's hash is made of its columns' texts, in the key's order, wherever they stand in the line.  COPY
 * escapes tabs and newlines in values, so that a field ends at the next tab, or at the line's end.
 */
#include "sync/sieve.h"

#include "base/map.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define MIN_BUCKETS ((size_t) 1 << 10)
#define ROW_BYTES   64 /* few rows are shorter: about one to a bucket */

struct sieve {
    const struct table *table;
    int last; /* of the columns, that the key has */
    size_t mask;
    uint64_t *sums;
};

struct sieve *sieve_new(const struct table *table, int64_t bytes)
{
    struct sieve *sieve = memory_new(struct sieve);
    size_t nbuckets = MIN_BUCKETS;

    while (nbuckets < SIEVE_MAX_BUCKETS && (int64_t) nbuckets * ROW_BYTES < bytes)
        nbuckets *= 2;
    sieve->table = table;
    sieve->mask = nbuckets - 1;
    sieve->sums = memory_alloc(nbuckets * sizeof(*sieve->sums));
    for (int k = 0; k < table->nkeys; k++)
        if (table->keys[k] > sieve->last)
            sieve->last = table->keys[k];
    return sieve;
}

void sieve_free(struct sieve *sieve)
{
    if (sieve == NULL)
        return;
    free(sieve->sums);
    free(sieve);
}

static uint64_t combine(uint64_t hash, const char *text, size_t len)
{
    return (hash ^ map_hash(text, len)) * UINT64_C(0x9E3779B97F4A7C15);
}

/* The field at p, and where the next one begins; past the last, p stands at the end. */
static size_t take_field(const char **p, const char *end, const char **ret_field)
{
    const char *tab = memchr(*p, '\t', (size_t) (end - *p));
    const char *stop = tab != NULL ? tab : end;

    *ret_field = *p;
    *p = tab != NULL ? tab + 1 : end;
    return (size_t) (stop - *ret_field);
}

static const char *text_end(const char *line, size_t len)
{
    return line + len - (len > 0 && line[len - 1] == '\n');
}

static uint64_t hash_first(const char *line, const char *end, int count)
{
    uint64_t hash = 0;

    for (int i = 0; i < count; i++) {
        const char *field;
        const size_t len = take_field(&line, end, &field);

        hash = combine(hash, field, len);
    }
    return hash;
}

/* Where the key is in the order of the columns no field has to be looked for twice. */
static uint64_t hash_key(const struct sieve *sieve, const char *line, const char *end)
{
    const struct table *table = sieve->table;
    uint64_t hash = 0;

    if (sieve->last == 0)
        return hash_first(line, end, 1);
    for (int k = 0; k < table->nkeys; k++) {
        const char *p = line, *field = line;
        size_t len = 0;

        for (int i = 0; i <= table->keys[k]; i++)
            len = take_field(&p, end, &field);
        hash = combine(hash, field, len);
    }
    return hash;
}

static size_t bucket_of(const struct sieve *sieve, const char *line, size_t len)
{
    return hash_key(sieve, line, text_end(line, len)) >> 20 & sieve->mask;
}

void sieve_add_source(struct sieve *sieve, const char *line, size_t len)
{
    sieve->sums[bucket_of(sieve, line, len)] += map_hash(line, len);
}

void sieve_add_mirror(struct sieve *sieve, const char *line, size_t len)
{
    sieve->sums[bucket_of(sieve, line, len)] -= map_hash(line, len);
}

size_t sieve_count(const struct sieve *sieve)
{
    size_t count = 0;

    for (size_t i = 0; i <= sieve->mask; i++)
        count += sieve->sums[i] != 0;
    return count;
}

bool sieve_has(const struct sieve *sieve, const char *line, size_t len)
{
    return sieve->sums[bucket_of(sieve, line, len)] != 0;
}

bool sieve_has_key(const struct sieve *sieve, const char *line, size_t len)
{
    const uint64_t hash = hash_first(line, text_end(line, len), sieve->table->nkeys);

    return sieve->sums[hash >> 20 & sieve->mask] != 0;
}
