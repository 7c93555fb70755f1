/*
 * A table's columns as the source is asked for them: the one list that the copy and the repair
 * share, so that both get what the stream would have brought (P53).
 *
 * Text is what the type's output function says under the pinned settings, the very text that the
 * decoders deliver.  Masks are made on the source, so that clear text never leaves it.
 */
#ifndef TAILWATER_COLUMNS_H
#define TAILWATER_COLUMNS_H

#include "base/buf.h"
#include "batch/table.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>

/* Can the whole table travel in COPY's binary format: every column of a built-in type whose binary
 * form is the same on every server? */
bool columns_is_binary(const struct table *table);

/* "id", "name", …: the stored columns by name. */
void columns_add_names(struct buf *buf, const struct table *table);

/*
 * The expressions of a select list over alias, in the same order: masks, and in binary format a
 * cast where the source's type is not the mirror's (domains, reg*), whose text is the same anyway.
 */
void columns_add_select(struct buf *buf, const struct table *table, const char *alias,
                        bool is_binary);

/* The key columns' types under the source's own names, one a row. */
bool columns_read_key_types(struct pg *source, const struct table *table,
                            struct pg_result **ret_types, struct error *err);

#endif
