/*
 * A job (src/mirror/job.h) that a command asks for and follows until it is done: for the verbs whose
 * work is the replicator's.
 */
#ifndef TAILWATER_FOLLOW_H
#define TAILWATER_FOLLOW_H

#include "cli/cli.h"
#include "mirror/control.h"
#include "mirror/job.h"

struct follow {
    /* the caller's */
    const struct cli *cli;
    const struct config *config;
    struct arena *arena;
    /* answers */
    struct pg *mirror;
    struct job job;
    /* its own */
    struct arena look; /* what the last look at the job returned */
    int ntables;       /* of the pipeline */
    struct control_table *tables;
    const char **labels; /* of those */
    bool is_alone;       /* nobody works on the job, since alone_since_us */
    int64_t alone_since_us, said_us;
};

/* Reads the pipeline's tables; *ret_known false: it has not been copied yet, and has none. */
bool follow_look(struct follow *follow, bool *ret_known, struct error *err);

/* Does a replicator of this pipeline run?  After follow_look(). */
bool follow_is_running(struct follow *follow, bool *ret_running, struct error *err);

/*
 * Asks for what wish says, of its tables or, where it names none, of those that the command line names
 * (none: all of the pipeline), and comes back when it is done, or has failed: follow->job says which.  Progress goes to standard
 * error.  An interrupt is ERROR_RETRY, and the job goes on without us.
 */
bool follow_job(struct follow *follow, struct job_wish *wish, struct error *err);

void follow_release(struct follow *follow);

#endif
