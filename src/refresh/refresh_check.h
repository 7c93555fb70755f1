/*
 * What check says of a derived table's query, once the live views are there: does it read only what
 * the fact declares, and does a refresh of a few keys read a few rows?
 */
#ifndef TAILWATER_REFRESH_CHECK_H
#define TAILWATER_REFRESH_CHECK_H

#include "ledger/fact.h"
#include "source/finding.h"

/*
 * Findings: "fact_query", an error where the query is refused, or reads a table or column whose
 * changes would give no keys; "fact_plan", a warning where a large table would be read whole.
 * Changes nothing: all of it is in a transaction that is rolled back.
 */
bool refresh_check(struct pg *mirror, const struct config *config,
                   const struct config_fact *declared, const struct fact *fact, struct arena *arena,
                   struct finding_list *findings, struct error *err);

#endif
