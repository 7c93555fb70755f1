/*
 * Rows of a batch as array parameters.  The buffers are kept from call to call; what they hold is
 * valid until the next params_fill().
 */
#ifndef TAILWATER_PARAMS_H
#define TAILWATER_PARAMS_H

#include "base/buf.h"
#include "batch/batch.h"
#include "mirror/statement.h"
#include "pg/pg.h"

struct params {
    struct buf *bufs; /* one per parameter */
    struct pg_param *params;
    int count, size;
};

void params_release(struct params *params);

/* The parameters that slots ask for, of rows[0…nrows-1]. */
void params_fill(struct params *params, const struct table *table,
                 const struct statement_slot *slots, int nslots, struct batch_row *const *rows,
                 int nrows);

/* Add one row to a binary COPY.  False: a value has no binary form, buf is as it was. */
bool params_add_binary_row(struct buf *buf, const struct table *table, const struct batch_row *row);

/* Add one row to a text COPY. */
void params_add_text_row(struct buf *buf, const struct table *table, const struct batch_row *row);

/* Can all of the table's columns travel in binary? */
bool params_is_binary(const struct table *table);

#endif
