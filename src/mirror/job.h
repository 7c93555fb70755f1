/*
 * Jobs: work that a command asks the running replicator for, through the control schema.  The command
 * writes the job and follows it; the replicator takes the oldest one that is not done, says how far
 * it is, and how it ended.  A job outlives both: after a crash the next replicator goes on with it.
 *
 * Functions take a connection to the mirror outside a transaction block.  Strings that are returned
 * live in the caller's arena.
 */
#ifndef TAILWATER_JOB_H
#define TAILWATER_JOB_H

#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

enum job_state { JOB_WAITING, JOB_RUNNING, JOB_DONE, JOB_FAILED };

struct job_table {
    int nr; /* from 1 */
    const char *schema, *name;
    enum job_state state;
    const char *step;   /* what it does now, in words; "" */
    lsn_t lsn;          /* consistent point of the snapshot; 0: none yet */
    int64_t elapsed_us; /* since it began, by the mirror's clock; to its end where it has ended */
    int64_t bytes, bytes_done, rows_read, rows_missing, rows_different, rows_extra;
    const char *sqlstate, *error, *hint; /* "" */
};

struct job {
    int64_t id; /* 0: there is none */
    enum job_state state;
    int ntables;
    struct job_table *tables;
};

/* "waiting", "running", "done", "failed" */
const char *job_state_name(enum job_state state);

/* A new job for the tables, schemas and names side by side. */
bool job_ask(struct pg *mirror, const char *pipeline, int ntables, const char *const *schemas,
             const char *const *names, int64_t *ret_id, struct error *err);

/* The job of that id; ret_job->id 0 where there is none. */
bool job_read(struct pg *mirror, int64_t id, struct arena *arena, struct job *ret_job,
              struct error *err);

/* The oldest job of the pipeline that is not done; ret_job->id 0 where there is none. */
bool job_next(struct pg *mirror, const char *pipeline, struct arena *arena, struct job *ret_job,
              struct error *err);

/* It is being worked on. */
bool job_begin(struct pg *mirror, int64_t id, struct error *err);

/* Its tables are all done or failed, and so it is. */
bool job_end(struct pg *mirror, int64_t id, struct error *err);

/* What table says of itself: state, step, positions, counts, error. */
bool job_say(struct pg *mirror, int64_t id, const struct job_table *table, struct error *err);

#endif
