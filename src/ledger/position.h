/*
 * How far an expansion is: a row of the first table on its way, by that table's key (tailwater.fan_out.position).
 *
 * Stored as text[]: which key it is ("id bigint, shop text"), then its values.  A table may have got another
 * key since; then the position means nothing, and the expansion begins anew.
 */
#ifndef TAILWATER_POSITION_H
#define TAILWATER_POSITION_H

#include "base/buf.h"
#include "batch/table.h"
#include "pg/pg.h"

/* Appends the array's text; the row's first columns are the key's. */
void position_add(struct buf *out, const struct table *table, const struct pg_result *rows,
                  int row);

/* Is it one of this table's key?  Its elements are rows of one column; the values begin with the second. */
bool position_fits(const struct table *table, const struct pg_result *elements);

#endif
