/*
 * The part of the preparation that is about facts.  Declarations are examined before anything is
 * copied, but for those over derived tables; indexes and ledgers are made once the tables are there.
 */
#ifndef TAILWATER_PREPARE_FACTS_H
#define TAILWATER_PREPARE_FACTS_H

#include "config/config.h"
#include "ledger/fact.h"

/*
 * The mirror's types have to be there.  ERROR_FINDINGS with the first thing that is wrong.  is_following:
 * a fact that the control schema knows, and whose tables have changed on the source so that it does not
 * fit them any more, is suspended, and logged; the others go on.
 */
bool prepare_facts_examine(struct pg *mirror, const struct config *config,
                           const struct table_list *tables, bool is_following, struct arena *arena,
                           struct chain *ret_chain, struct fact_list *ret_facts, struct error *err);

/* Indexes that hops need, then the facts as the control schema has them.  All tables are copied,
 * nothing streams.  Logs what it makes. */
bool prepare_facts_store(struct pg *mirror, const struct config *config, struct arena *arena,
                         struct fact_list *facts, struct error *err);

/* Facts over derived tables, level by level: these tables are made where they are missing, then the facts
 * are examined, stored and appended to the list.  The live views are there. */
bool prepare_facts_chain(struct pg *mirror, const struct config *config,
                         const struct table_list *tables, struct arena *arena, struct chain *chain,
                         struct fact_list *facts, struct error *err);

/* Facts that had to be left without a ledger then, before each session; most of the time none. */
bool prepare_facts_again(struct pg *mirror, const struct config *config, struct fact_list *facts,
                         struct error *err);

#endif
