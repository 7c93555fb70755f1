/* malloc that does not fail: a process out of memory is ended at once, there is nothing sensible to
 * do instead. */
#ifndef TAILWATER_MEMORY_H
#define TAILWATER_MEMORY_H

#include <stddef.h>

void *memory_alloc(size_t size); /* zeroed */
void *memory_resize(void *old, size_t size);
char *memory_strdup(const char *text);

#define memory_new(type) ((type *) memory_alloc(sizeof(type)))

#endif
