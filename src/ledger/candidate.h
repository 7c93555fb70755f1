/*
 * What it would cost to declare a table as a dimension: the tables that the source's foreign keys
 * join to a fact's nodes, and that the fact does not have yet.
 */
#ifndef TAILWATER_CANDIDATE_H
#define TAILWATER_CANDIDATE_H

#include "pg/pg.h"

/*
 * Appends to out a line or JSON object per fact and foreign key: rows written on the source since
 * its statistics began, and keys per row, estimated on the mirror from a thousand rows; unknown
 * where the table is not mirrored.  Reads only, on both sides.
 */
bool candidate_print(struct pg *source, struct pg *mirror, const char *pipeline, bool is_json,
                     struct buf *out, struct error *err);

#endif
