/*
 * The NaN checker: a thread that asks the source about nulls in doubt (src/sync/nan.h) whenever the
 * applier has listed some, and once at the start of a session for what an earlier one left.  What it
 * finds is the repairer's.
 */
#ifndef TAILWATER_NAN_CHECKER_H
#define TAILWATER_NAN_CHECKER_H

#include "batch/table.h"
#include "config/config.h"
#include "engine/statistics.h"

#include <stdatomic.h>

struct nan_checker {
    const struct config *config;
    const struct table_list *list;
    struct statistics *statistics;
    const atomic_bool *stop; /* of the session */
    int wake_fd;             /* readable once stop is raised */
};

/* A thread's function: argument is a struct nan_checker.  Its failures are logged and tried again;
 * they end nothing.  With source.nan_check: off it ends at once. */
void *nan_checker_run(void *nan_checker);

#endif
