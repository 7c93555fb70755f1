/*
 * Statistics of the ledger, per node of a fact and hour: tailwater.dimension_statistic.  Counted in
 * memory by who writes the ledger, added up here every few seconds; what a crash takes with it is
 * not counted.
 */
#ifndef TAILWATER_STATISTIC_H
#define TAILWATER_STATISTIC_H

#include "ledger/fact.h"
#include "pg/pg.h"

#include <stdatomic.h>

/* Take what the facts' nodes have counted and add it to the present hour, in one statement; where
 * that fails, the counts are as they were. */
bool statistic_flush(struct pg *mirror, const struct fact_list *facts, struct error *err);

/* Count the distinct keys of hours that are over, one fact and hour at a time, until none is left
 * or *stop. */
bool statistic_close_hours(struct pg *mirror, const char *pipeline, const atomic_bool *stop,
                           struct error *err);

#endif
