/*
 * The partitions of the ledger tables: made ahead of the clock, removed below what anybody needs.
 * How wide they are, and who needs what, is decided by the functions of migrations/0002_ledger.sql;
 * here is what a function cannot do: DETACH … CONCURRENTLY, which is not for transaction blocks.
 *
 * A connection is one to the mirror outside a transaction block, with a lock_timeout: what cannot be
 * had is left for the next round.
 */
#ifndef TAILWATER_PARTITIONS_H
#define TAILWATER_PARTITIONS_H

#include "pg/pg.h"

/*
 * See to it that partitions lie ahead of the pipeline's clock, for each of its facts.  Waits for
 * neither readers nor writers of the ledger, only for another that does the same.
 */
bool partitions_add(struct pg *mirror, const char *pipeline, int *ret_made, struct error *err);

/*
 * Detach and drop the partitions that lie wholly below their fact's floor, and what an earlier
 * round had to leave half done.  Nobody who reads or writes is kept waiting: detaching waits for
 * them.  Where that, or a drop, takes longer than lock_timeout, that partition is left for the next
 * round.
 */
bool partitions_remove(struct pg *mirror, const char *pipeline, int *ret_removed,
                       struct error *err);

#endif
