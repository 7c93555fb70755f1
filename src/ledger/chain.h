/*
 * Facts over derived tables: a fact whose table, or one of its dimensions, is what another fact's
 * refresh keeps.
 *
 * Facts come in levels.  Those of level 0 read mirrored tables alone; any other is one level above
 * the highest fact whose derived table it reads.  A derived table has to be there before the facts of
 * a higher level can be looked at.
 */
#ifndef TAILWATER_CHAIN_H
#define TAILWATER_CHAIN_H

#include "batch/table.h"
#include "config/config.h"
#include "pg/pg.h"
#include "source/finding.h"

/* First half of the advisory lock that whoever writes a derived table holds until the transaction
 * ends; the second is the table's oid (migrations/0009_refresh.sql). */
#define CHAIN_TARGET_LOCK "1416118883"

struct chain {
    int *levels; /* by the configuration's facts; -1: part of a circle, and refused */
    int top;
    struct table_list derived; /* those that some fact reads and that are there; not indexed */
};

/* Each circle is a finding named "fact".  chain->derived is empty. */
void chain_find_levels(const struct config *config, struct arena *arena,
                       struct finding_list *findings, struct chain *ret_chain);

/* Reads the derived tables of facts up to a level into chain->derived, anew.  The session's
 * search_path is pg_catalog. */
bool chain_read_tables(struct pg *mirror, const struct config *config, int level,
                       struct arena *arena, struct chain *chain, struct error *err);

/* Does any fact read what this one derives? */
bool chain_is_read(const struct config *config, const struct config_fact *fact);

/* The fact that derives this table; NULL: none does. */
const struct config_fact *chain_source(const struct config *config,
                                       const struct config_table_name *name);

/* The derived table of that name, if it is there. */
const struct table *chain_find(const struct chain *chain, const struct config_table_name *name);

#endif
