/*
 * Runs one feed: opens it, steps, waits, says what happens in the log, and begins anew after
 * failures.  As a thread beside the stream, or as a process of its own: it needs the mirror only.
 */
#ifndef TAILWATER_FEEDER_H
#define TAILWATER_FEEDER_H

#include "config/config.h"
#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdbool.h>

struct feeder {
    const struct config *config;
    const struct config_feed *feed;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised */
    /* Ends when there is nothing left that can be sent now, and fails where it is paused, or where the
     * receiver takes nothing for source.start_timeout (ERROR_RETRY). */
    bool is_until_now;
};

/* A thread's function; arg is a struct feeder.  Until told to stop, whatever happens. */
void *feeder_run(void *arg);

/* The same for a process of its own: what no waiting will mend ends it, with the error. */
bool feeder_serve(struct feeder *feeder, struct error *err);

/*
 * The feeds of a configuration as threads of the replicator, but for those that say run: manual.
 * They need the mirror alone: they go on while the source is away.  *list is NULL before and after;
 * feeder_start_all() does nothing where they run already.
 */
struct feeder_list;

bool feeder_start_all(const struct config *config, struct feeder_list **list, struct error *err);
/* Tells them to stop, and waits for their ends.  A request under way is given up: it is sent again. */
void feeder_finish_all(struct feeder_list **list);

/* feeder_serve() until SIGTERM or an interrupt, which end it with success. */
bool feeder_run_alone(const struct config *config, const struct config_feed *feed,
                      bool is_until_now, struct error *err);

#endif
