/*
 * The refreshers: threads that keep derived tables (src/refresh/refresh.h), each with a connection of
 * its own.  In the replicator they serve all facts for as long as the session lasts; a verb has them
 * serve one fact until there is nothing left to do, or one backfill until it has ended.
 */
#ifndef TAILWATER_REFRESHER_H
#define TAILWATER_REFRESHER_H

#include "config/config.h"
#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdint.h>

struct refresher {
    const struct config *config;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised */

    /* For verbs. */
    const struct config_fact *only; /* this fact; NULL: all that have a derived table */
    int workers;                    /* 0: as the configuration says */
    bool is_until_idle;             /* ends when there is nothing to do */
    int64_t backfill;               /* works on this one alone, and ends with it; 0: none */

    /* What was done; valid once refresher_run() has returned. */
    _Atomic int64_t windows, keys, inserted, updated, deleted, failed, chunks, took_us;
    atomic_bool has_error; /* is_until_idle, backfill: then it ended early, with … */
    struct error error;
};

/* A thread's function: argument is a struct refresher.  Without is_until_idle and backfill trouble is
 * logged, and tried again with back-off. */
void *refresher_run(void *refresher);

#endif
