/*
 * The ledger keeper: two threads beside the stream, where a pipeline has facts.  One does what
 * consumers and the applier wait for: tells consumers that there is something new, keeps partitions
 * ahead of the clock.  The other what may take its time: retention, statistics, indexes.  Each has
 * its own connection to the mirror; nothing waits for either.
 */
#ifndef TAILWATER_LEDGERKEEPER_H
#define TAILWATER_LEDGERKEEPER_H

#include "config/config.h"
#include "engine/handover.h"
#include "engine/statistics.h"
#include "ledger/fact.h"

#include <stdatomic.h>

struct ledgerkeeper {
    const struct config *config;
    const struct fact_list *facts; /* as they are counted in */
    const struct statistics *statistics;
    struct handover *handover; /* where the end of a session is asked for */
    const atomic_bool *stop;   /* of the session */
    int stop_fd;               /* readable once stop is raised */
};

/* Threads' functions: the argument is a struct ledgerkeeper.  Their failures are logged and tried
 * again; they end nothing.  A fact whose ledger can now be made ends the session, for the next one
 * to make it. */
void *ledgerkeeper_run(void *keeper);
void *ledgerkeeper_run_slow(void *keeper);

#endif
