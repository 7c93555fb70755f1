/*
 * A comparison of two tables by sums: which rows may differ, of tables that are nearly equal, from one
 * reading of each.  Rows of COPY's text are put into buckets by their key; a bucket has the sum of the
 * source's rows' hashes less that of the mirror's.  Where it is 0 both have the same rows.
 *
 * A filter, and the exact comparison follows for the buckets that are left: two rows that are equal and
 * are written in other ways cost a look.  Two that differ hide only where sums of 64-bit hashes meet by
 * chance.
 */
#ifndef TAILWATER_SIEVE_H
#define TAILWATER_SIEVE_H

#include "batch/table.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sieve;

/* bytes: of the table, by which there are so many buckets, 8 bytes each, up to SIEVE_MAX_BUCKETS. */
#define SIEVE_MAX_BUCKETS ((size_t) 1 << 22)
struct sieve *sieve_new(const struct table *table, int64_t bytes);
void sieve_free(struct sieve *sieve); /* NULL is fine */

/* A line of the table's columns, in their order, as COPY writes it. */
void sieve_add_source(struct sieve *sieve, const char *line, size_t len);

/* The same of a row of the mirror that has to be the source's: live, and older than the snapshot. */
void sieve_add_mirror(struct sieve *sieve, const char *line, size_t len);

/* How many buckets may have rows that differ. */
size_t sieve_count(const struct sieve *sieve);

/* May this line's row be one of them?  And of a line that has the key columns alone, in the key's order. */
bool sieve_has(const struct sieve *sieve, const char *line, size_t len);
bool sieve_has_key(const struct sieve *sieve, const char *line, size_t len);

#endif
