/*
 * Looking into the ledger: which keys are there, why a key is there, what each dimension causes.
 * For the ledger command.  Reads only.
 *
 * Each appends to out what is to be printed, newline included: one JSON array where is_json, a table
 * for people otherwise.  The connection is one to the mirror; a fact that is not there, or not this
 * pipeline's, is ERROR_CONFIG and names those that are.
 */
#ifndef TAILWATER_INSPECT_H
#define TAILWATER_INSPECT_H

#include "pg/pg.h"

#define INSPECT_ROWS 100 /* where the limit is 0 */

/* The keys that consumer has not acknowledged, or without one those of the newest thousand batches;
 * the newest limit of them, and the table says where there may be more. */
bool inspect_peek(struct pg *mirror, const char *pipeline, const char *fact, const char *consumer,
                  int limit, bool is_json, struct buf *out, struct error *err);

/* The batches that gave this key, newest first, limit of them; values are the key columns' in the fact's order. */
bool inspect_why(struct pg *mirror, const char *pipeline, const char *fact,
                 const char *const *values, int nvalues, int limit, bool is_json, struct buf *out,
                 struct error *err);

/* Per fact, dimension and hour of the last day. */
bool inspect_statistics(struct pg *mirror, const char *pipeline, bool is_json, struct buf *out,
                        struct error *err);

/* A query's rows as JSON, or as a table under titles. */
bool inspect_print(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                   const char *const *titles, int ntitles, bool is_json, struct buf *out,
                   struct error *err);

#endif
