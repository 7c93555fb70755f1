/* The expander: a thread that works off deferred fan-outs (src/ledger/expansion.h) while the session
 * streams. */
#ifndef TAILWATER_EXPANDER_H
#define TAILWATER_EXPANDER_H

#include "config/config.h"
#include "ledger/fact.h"

#include <stdatomic.h>

struct expander {
    const struct config *config;
    const struct fact_list *facts;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised */
};

/* A thread's function: argument is a struct expander.  Never ends the session: trouble is logged,
 * and tried again with back-off; what is not expanded stays. */
void *expander_run(void *expander);

#endif
