/*
 * Recomputing keys: what the query gives for them now is compared with what the derived table has,
 * and only differences are written.
 *
 * All functions run inside a transaction that holds the target's lock (refresh.h).
 */
#ifndef TAILWATER_RECOMPUTE_H
#define TAILWATER_RECOMPUTE_H

#include "refresh/target.h"

/* A part of the key space: from low on and below high, values of the key's first columns; none: no
 * limit on that side. */
struct recompute_range {
    int nlow, nhigh;
    const char *const *low, *const *high;
};

struct recompute_counts {
    int64_t keys; /* recomputed */
    int64_t inserted, updated, deleted;
};

/*
 * The nkeys keys that target->chosen holds (range NULL), or all keys of a range, those of the query
 * and those of the derived table: cheaper than naming them, and it finds keys that only one of them
 * has; not for a query with {keys}.  Everything is computed by one statement, under one snapshot.
 * Adds to *counts' rows.
 */
bool recompute_all(struct pg *mirror, const struct target *target,
                   const struct recompute_range *range, int64_t nkeys,
                   struct recompute_counts *counts, struct error *err);

/* " and (prefix.k) >= (low) and (prefix.k) < (high)", after a condition; is_ledger: columns are named
 * as the ledger has them, not as the derived table. */
void recompute_add_range(struct buf *sql, const struct target *target, const char *prefix,
                         bool is_ledger, const struct recompute_range *range);

/* "a.x = b.y and …": keys of the derived table or the query against those of the ledger. */
void recompute_add_same_key(struct buf *sql, const struct target *target, const char *derived,
                            const char *ledger);

/* What the query gave. */
struct recompute_found {
    int64_t rows;
    bool is_complete; /* each key has its row: nothing is gone */
};

/*
 * The same in three steps, for whoever has to know what differs before it is written.  Fill
 * target->rows with what the query gives; ERROR_DATA, 21000, where these are not told apart.  Fill
 * target->changes with what differs.  Write that.
 */
bool recompute_rows(struct pg *mirror, const struct target *target,
                    const struct recompute_range *range, int64_t nkeys,
                    struct recompute_found *ret_found, struct error *err);
bool recompute_compare(struct pg *mirror, const struct target *target,
                       const struct recompute_range *range, const struct recompute_found *found,
                       struct error *err);
bool recompute_write(struct pg *mirror, const struct target *target,
                     struct recompute_counts *counts, struct error *err);

/* "select key…, min, max from …", a row for each key that has changes: 0, 0 where only the derived
 * table has such rows, 1, 1 where only the query gives some. */
void recompute_add_differing(struct buf *sql, const struct target *target);

/* How the server would read the chosen keys: EXPLAIN's JSON. */
bool recompute_explain(struct pg *mirror, const struct target *target, int64_t nkeys,
                       struct pg_result **ret_plan, struct error *err);

#endif
