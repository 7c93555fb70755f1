/*
 * The resyncer: a thread that works off resync jobs (src/mirror/job.h), one table at a time, through
 * the applier (src/sync/resync.h).
 */
#ifndef TAILWATER_RESYNCER_H
#define TAILWATER_RESYNCER_H

#include "batch/table.h"
#include "config/config.h"
#include "engine/handover.h"
#include "engine/reload.h"
#include "engine/statistics.h"

#include <stdatomic.h>

struct resyncer {
    const struct config *config;
    const struct table_list *list;
    struct handover *handover;
    struct statistics *statistics;
    const atomic_bool *stop; /* of the session */
    int wake_fd;             /* readable once stop is raised */
    struct reload *reload;   /* the configuration is read again for a job that names a new table */
    int64_t job;             /* what the session is for; 0: nothing in particular */
    atomic_bool *finished;   /* set once that is done */
};

/* A thread's function: argument is a struct resyncer.  Its failures are logged and tried again; they
 * end nothing. */
void *resyncer_run(void *resyncer);

#endif
