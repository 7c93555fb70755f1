/*
 * Looking at rows of a snapshot beside the mirror's, by their key, over a connection of its own that
 * does nothing else.
 */
#ifndef TAILWATER_LOOK_H
#define TAILWATER_LOOK_H

#include "batch/batch.h"
#include "batch/table.h"
#include "mirror/statement.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

struct look;

struct look_counts {
    int64_t missing, different, extra;
};

/* lsn is the snapshot's consistent point.  The connection is the caller's, and outlives it. */
bool look_new(struct pg *mirror, const struct table *table, lsn_t lsn, struct look **ret_look,
              struct error *err);
void look_free(struct look *look); /* NULL is fine */

/* Which of the rows are what the mirror has: statement_look()'s result. */
bool look_at(struct look *look, struct batch_row *const *rows, int nrows,
             struct pg_result **ret_found, struct error *err);

struct look_asker {
    int64_t job;
    int nr; /* of the table in the job */
    bool shows_values;
};

/* How many of the rows, keys that are gone among them, are not, and in which way: kept for whoever
 * asked, at most so many as may_keep says. */
bool look_explain(struct look *look, struct batch_row *const *rows, int nrows,
                  const struct look_asker *asker, int64_t may_keep, struct look_counts *ret_counts,
                  struct error *err);

#endif
