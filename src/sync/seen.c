/*
 * Slabs of SLAB_PAGES pages, made when the first row of one is added.  A page has at most 291 rows
 * at the usual 8 kB; rows past PAGE_BITS (larger pages) are not remembered.
 */
#include "sync/seen.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PAGE_BYTES 40
#define PAGE_BITS  (PAGE_BYTES * 8)
#define SLAB_PAGES 1024
#define SLAB_BYTES (SLAB_PAGES * PAGE_BYTES)

struct seen {
    unsigned char **slabs;
    size_t nslabs;
    size_t bytes, max_bytes;
};

struct seen *seen_new(size_t max_bytes)
{
    struct seen *seen = memory_new(struct seen);

    seen->max_bytes = max_bytes;
    return seen;
}

void seen_free(struct seen *seen)
{
    if (seen == NULL)
        return;
    for (size_t i = 0; i < seen->nslabs; i++)
        free(seen->slabs[i]);
    free(seen->slabs);
    free(seen);
}

static bool parse(const char *address, uint32_t *ret_page, uint32_t *ret_row)
{
    char end;

    return sscanf(address, "(%" SCNu32 ",%" SCNu32 "%c", ret_page, ret_row, &end) == 3 &&
           end == ')' && *ret_row < PAGE_BITS;
}

/* Room for slabs up to this one; false past the limit. */
static bool reserve(struct seen *seen, size_t slab)
{
    size_t nslabs = slab + slab / 2 + 16;
    size_t more = (nslabs - seen->nslabs) * sizeof(*seen->slabs);

    if (slab < seen->nslabs)
        return true;
    if (seen->bytes + more > seen->max_bytes)
        return false;
    seen->slabs = memory_resize(seen->slabs, nslabs * sizeof(*seen->slabs));
    for (size_t i = seen->nslabs; i < nslabs; i++)
        seen->slabs[i] = NULL;
    seen->nslabs = nslabs;
    seen->bytes += more;
    return true;
}

void seen_add(struct seen *seen, const char *address)
{
    uint32_t page, row;
    size_t slab;

    if (!parse(address, &page, &row))
        return;
    slab = page / SLAB_PAGES;
    if (!reserve(seen, slab))
        return;
    if (seen->slabs[slab] == NULL) {
        if (seen->bytes + SLAB_BYTES > seen->max_bytes)
            return;
        seen->slabs[slab] = memory_alloc(SLAB_BYTES);
        seen->bytes += SLAB_BYTES;
    }
    seen->slabs[slab][page % SLAB_PAGES * PAGE_BYTES + row / 8] |= (unsigned char) (1 << row % 8);
}

bool seen_has(const struct seen *seen, const char *address)
{
    uint32_t page, row;
    size_t slab;

    if (!parse(address, &page, &row))
        return false;
    slab = page / SLAB_PAGES;
    if (slab >= seen->nslabs || seen->slabs[slab] == NULL)
        return false;
    return seen->slabs[slab][page % SLAB_PAGES * PAGE_BYTES + row / 8] & 1 << row % 8;
}
