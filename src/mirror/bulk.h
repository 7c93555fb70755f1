/*
 * Many new rows at once: COPY straight into the mirror table, under a savepoint.  The primary key
 * makes it safe: where a key exists after all (a tombstone, a row that was copied, an equal key in
 * other bytes), the server refuses the lot, the savepoint is rolled back, and the rows go the
 * general way.
 */
#ifndef TAILWATER_BULK_H
#define TAILWATER_BULK_H

#include "batch/batch.h"
#include "pg/pg.h"

struct bulk;

struct bulk *bulk_new(const struct table_list *list);
void bulk_free(struct bulk *bulk);

/* Would COPY of that many rows be faster, and did it not collide lately? */
bool bulk_is_worth(struct bulk *bulk, const struct table *table, int nrows);

/* In a transaction, not in pipeline mode.  *ret_is_done false: nothing was written, and nothing is
 * wrong. */
bool bulk_copy(struct bulk *bulk, struct pg *pg, const struct table *table,
               struct batch_row *const *rows, int nrows, bool *ret_is_done, struct error *err);

#endif
