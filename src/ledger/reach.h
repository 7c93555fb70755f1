/*
 * SQL text that the resolver and the expander share: which rows of a mirror table values of links reach,
 * and what is written of them into a ledger.
 */
#ifndef TAILWATER_REACH_H
#define TAILWATER_REACH_H

#include "base/buf.h"
#include "ledger/fact.h"

/*
 * "mirror m where m.c = any ($1::T[]) and m._deleted_at is null", or a join of that form for several
 * links: rows m of the parent that a node's link values reach, each once.  Parameters from $1 on, an
 * array for each link.
 */
void reach_add(struct buf *sql, const struct fact *fact, int node);

/* " cross join lateral (…) k": the key of a row h of the fact's table, k.tailwater_k0 and so on. */
void reach_add_keys(struct buf *sql, const struct fact *fact);

/* "tailwater.ledger_order (batch_id, lane, node, key…)" */
void reach_add_ledger(struct buf *sql, const struct fact *fact);

/* "tailwater.ledger_order (batch_id, lane, node, "keys$1"…)": many keys in a row. */
void reach_add_ledger_arrays(struct buf *sql, const struct fact *fact);

/* "copy tailwater.ledger_order (…) from stdin" */
void reach_add_copy(struct buf *sql, const struct fact *fact);

/* "v.k0 is not null and …" over the values of the key; false and nothing where none can be NULL. */
bool reach_add_key_test(struct buf *sql, const struct fact *fact, const char *before,
                        const char *test, const char *between);

#endif
