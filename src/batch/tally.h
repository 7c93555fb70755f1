/*
 * How many rows of each table this process has written to the mirror, by kind: for metrics.
 *
 * What a mirror transaction writes goes on a sheet first, one a thread, and is posted once it has
 * committed.  Entries live as long as the process, over sessions and changes of the configuration,
 * and may be read by any thread.
 */
#ifndef TAILWATER_TALLY_H
#define TAILWATER_TALLY_H

#include "batch/table.h"

#include <stdatomic.h>
#include <stdint.h>

struct tally {
    const char *table; /* its label, "public.orders" */
    _Atomic int64_t inserted, updated, deleted;
    struct tally *next;
};

/* All of them, newest first; follow next. */
const struct tally *tally_first(void);

struct tally_sheet;

/* list has to outlive it. */
struct tally_sheet *tally_sheet_new(const struct table_list *list);
void tally_sheet_free(struct tally_sheet *sheet);

void tally_sheet_add(struct tally_sheet *sheet, const struct table *table, int64_t inserted,
                     int64_t updated, int64_t deleted);

/* Everything on it counts, and it is empty. */
void tally_sheet_post(struct tally_sheet *sheet);

/* Nothing on it counts: a transaction begins, and the one before may not have committed. */
void tally_sheet_clear(struct tally_sheet *sheet);

#endif
