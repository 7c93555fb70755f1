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
 * lock, all tables are copied, and nothing streams.  A new fact, one with another definition than
 * before (a new generation) and one that was suspended begin with "everything".  A fact that is no
 * longer declared is kept and suspended: it gets no keys, and would lie if it were claimed.
 * ERROR_CONFIG where another pipeline has a fact of the same name.  Sets each fact's generation;
 * notes say what changed.
 */
bool store_facts(struct pg *mirror, const char *pipeline, const char *file, struct fact_list *facts,
                 struct notes *notes, struct error *err);

/* A key expression failed: no keys until the next start, which begins with "everything". */
bool store_suspend(struct pg *mirror, const char *fact, const char *why, struct error *err);

#endif
