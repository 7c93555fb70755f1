/*
 * Which rows of a mirror table have been met, by address: a bitmap that grows with the table, some
 * 40 bytes per page of it, up to a limit.  It only saves questions: what it does not know is asked
 * of the source.
 */
#ifndef TAILWATER_SEEN_H
#define TAILWATER_SEEN_H

#include <stdbool.h>
#include <stddef.h>

struct seen;

/* max_bytes: what does not fit is not remembered. */
struct seen *seen_new(size_t max_bytes);
void seen_free(struct seen *seen); /* NULL is fine */

/* address is the text of a tid, "(123,4)"; one that is not is not remembered. */
void seen_add(struct seen *seen, const char *address);
bool seen_has(const struct seen *seen, const char *address);

#endif
