/*
 * The life of a replicator: take the pipeline's lock, prepare what is missing, stream; after a
 * failure that time may heal, again, with back-off.
 *
 * At the start an unreachable server, an active slot or a held lock is waited for up to
 * source.start_timeout; once it has copied or streamed it reconnects for ever.  Then a lock or a
 * slot that is held is waited for as long as our own lost sessions may hold it.  Anything that a
 * person has to mend ends it at once, with its exit code.
 */
#ifndef TAILWATER_RUN_H
#define TAILWATER_RUN_H

#include "config/config.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>

struct run_options {
    const struct config *config;
    const char *version; /* the program's, for the heartbeat */
    bool is_until_now;   /* stop when the mirror has what the source had at the start */
    lsn_t until;         /* stop when the mirror has this; 0: never */
    int64_t job;         /* stop when this job is done; 0: none */
    bool is_new_slot;    /* first the slot is made anew (renew.h); job resyncs all tables */
};

/* Logs.  Installs handlers for SIGTERM and SIGINT: both end it cleanly, with success. */
bool run_pipeline(const struct run_options *options, struct error *err);

#endif
