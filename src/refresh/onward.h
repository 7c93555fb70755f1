/*
 * Facts over a derived table: whoever writes it gives them their keys, in the same transaction.
 *
 * Own keys, where the derived table is such a fact's table; entries for the fan-out (tailwater.fan_out),
 * where it is a dimension.  Hops are never made here: another writer may be changing the path at this
 * moment, unseen, and only what is followed after this transaction's commit sees it
 * (src/ledger/expansion.h).
 */
#ifndef TAILWATER_ONWARD_H
#define TAILWATER_ONWARD_H

#include "refresh/target.h"

/* Is there any such fact? */
bool onward_is_read(struct pg *mirror, const struct target *target, bool *ret_is,
                    struct error *err);

/* Before target->changes is written: puts down what it means for others, old values and new ones.
 * The caller holds the target's lock. */
bool onward_collect(struct pg *mirror, const struct target *target, struct error *err);

/* The last thing before the commit, since it takes the clock where there is something to say. */
bool onward_write(struct pg *mirror, const char *pipeline, const struct target *target,
                  struct error *err);

#endif
