/* The only place that may end the process from inside a library function, and only for want of
 * memory. */
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *checked(void *p, size_t size)
{
    if (p == NULL && size > 0) {
        fprintf(stderr, "tailwater: out of memory (%zu bytes asked for)\n", size);
        abort();
    }
    return p;
}

void *memory_alloc(size_t size)
{
    return checked(calloc(1, size), size);
}

void *memory_resize(void *old, size_t size)
{
    return checked(realloc(old, size), size);
}

char *memory_strdup(const char *text)
{
    return checked(strdup(text), 1);
}
