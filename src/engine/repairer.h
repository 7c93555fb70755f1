/*
 * The repairer: a thread that works off the repair list (src/sync/repair.h) whenever the applier
 * has added to it, and once at the start of a session for what an earlier one left.
 */
#ifndef TAILWATER_REPAIRER_H
#define TAILWATER_REPAIRER_H

#include "batch/table.h"
#include "config/config.h"
#include "engine/statistics.h"
#include "ledger/fact.h"

#include <stdatomic.h>

struct repairer {
    const struct config *config;
    const struct table_list *list;
    const struct fact_list *facts;
    struct statistics *statistics;
    const atomic_bool *stop; /* of the session */
    int wake_fd;             /* readable once stop is raised */
};

/* A thread's function: argument is a struct repairer.  Its failures are logged and tried again;
 * they end nothing. */
void *repairer_run(void *repairer);

#endif
