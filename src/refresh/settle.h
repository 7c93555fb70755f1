/*
 * Recomputing a list of keys so that one that cannot be computed does not hold up the others: a piece
 * that fails is halved, until single keys are left, and these are noted with their error
 * (tailwater.refresh_failure).
 */
#ifndef TAILWATER_SETTLE_H
#define TAILWATER_SETTLE_H

#include "refresh/recompute.h"

struct settle_options {
    const char *keys; /* "(select …)" or a function: rows of the key's columns, each key once; the
                          same rows whenever it is asked in this transaction */
    const char *param; /* $1 of that; NULL: it has none */
    bool is_retry;     /* of keys that failed before: attempts are counted on */
    int max_attempts;
};

/*
 * Inside a transaction that holds the target's lock.  What failed before and does not now is
 * forgotten.  *ret_failed keys were noted.  False where it is not the fault of keys (the query is
 * wrong, a server is away, too many keys fail): then the transaction has to be rolled back.
 */
bool settle_keys(struct pg *mirror, const struct target *target,
                 const struct settle_options *options, struct recompute_counts *counts,
                 int64_t *ret_failed, struct error *err);

/* Is this an error that a key's values cause, so that leaving out the key helps? */
bool settle_is_of_key(const struct error *err);

#endif
