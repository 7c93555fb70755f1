/*
 * The facts as the mirror's control schema has them: tailwater.fact and fact_node, their ledgers,
 * and "everything", the word that a fact's consumers owe a rebuild.
 */
#ifndef TAILWATER_STORE_H
#define TAILWATER_STORE_H

#include "ledger/fact.h"
#include "mirror/notes.h"

/*
 * Bring the control schema to what is declared, in one transaction; the caller holds the pipeline's
 * lock, all tables are copied, and nothing streams.  facts may be a part of those declared, a level of
 * the chain; the others are left as they are.  A new fact, one with another definition than
 * before (a new generation) and one that was suspended begin with "everything".  A fact that is no
 * longer declared is kept and suspended: it gets no keys, and would lie if it were claimed.
 * ERROR_CONFIG where another pipeline has a fact of the same name.  Sets each fact's generation;
 * notes say what changed.
 *
 * A ledger whose key changed is made anew, and who still reads the former one is waited for only a
 * moment: after that the fact is suspended and awaits_ledger, and everything else goes on.
 */
bool store_facts(struct pg *mirror, const struct config *config, struct fact_list *facts,
                 struct notes *notes, struct error *err);

/* Once more for the facts that await their ledger, if any; between two sessions. */
bool store_again(struct pg *mirror, const char *pipeline, const char *file, struct fact_list *facts,
                 struct notes *notes, struct error *err);

/* Does nobody hold the former ledger of a fact that awaits its own?  Asked of pg_locks, without
 * standing in anybody's way.  *ret_fact is NULL where there is no such fact. */
bool store_find_free(struct pg *mirror, const struct fact_list *facts, const struct fact **ret_fact,
                     struct error *err);

/* A key expression failed: no keys until the next start, which begins with "everything". */
/*
 * A fact that is declared and does not fit its tables any more is suspended, because of why; what it was
 * about to expand is void.  *ret_known false: there is no such fact yet, and nothing has changed.
 */
bool store_break(struct pg *mirror, const char *pipeline, const char *fact, const char *why,
                 bool *ret_known, struct error *err);

bool store_suspend(struct pg *mirror, const char *fact, const char *why, struct error *err);

#endif
