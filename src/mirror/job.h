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

#include "base/buf.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

/* JOB_RELOAD: the replicator reads its configuration again, and the tables are no longer in it. */
enum job_kind { JOB_RESYNC, JOB_VERIFY, JOB_RELOAD };

/* What is asked for. */
struct job_wish {
    enum job_kind kind;
    bool is_forced;    /* resync: whatever resync.max_delete_fraction says */
    bool shows_values; /* verify: differences carry the rows' values */
    int ntables;
    const char *const *schemas, *const *names; /* side by side */
};

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
    bool is_quarantined;                 /* now */
};

struct job {
    int64_t id; /* 0: there is none */
    enum job_kind kind;
    bool is_forced, shows_values;
    enum job_state state;
    int ntables;
    struct job_table *tables;
};

/* "waiting", "running", "done", "failed" */
const char *job_state_name(enum job_state state);

/* "resync", "verify", "reload" */
const char *job_kind_name(enum job_kind kind);

/* A new job. */
bool job_ask(struct pg *mirror, const char *pipeline, const struct job_wish *wish, int64_t *ret_id,
             struct error *err);

/* Nobody has begun it, and nobody is to. */
bool job_withdraw(struct pg *mirror, int64_t id, struct error *err);

/* The job of that id; ret_job->id 0 where there is none. */
bool job_read(struct pg *mirror, int64_t id, struct arena *arena, struct job *ret_job,
              struct error *err);

/* The oldest job of the pipeline that is not done; ret_job->id 0 where there is none. */
bool job_next(struct pg *mirror, const char *pipeline, struct arena *arena, struct job *ret_job,
              struct error *err);

/* Those that are not done, and those that failed within a day, table by table, as a JSON array of
 * {"job", "kind", "state", "table", "step", "bytes", "bytes_done", "elapsed_seconds", "left_seconds" (null
 * where nothing can be said), …}. */
bool job_add_json(struct pg *mirror, const char *pipeline, struct buf *json, struct error *err);

/* It is being worked on. */
bool job_begin(struct pg *mirror, int64_t id, struct error *err);

/* Its tables are all done or failed, and so it is. */
bool job_end(struct pg *mirror, int64_t id, struct error *err);

/* What table says of itself: state, step, positions, counts, error. */
bool job_say(struct pg *mirror, int64_t id, const struct job_table *table, struct error *err);

/* A table of a verify begins, or starts over: what it found so far is forgotten. */
bool job_forget_differences(struct pg *mirror, int64_t id, int nr, struct error *err);

/* The table was compared, and had so many differences at lsn: its last verify, or resync. */
bool job_note_compared(struct pg *mirror, const char *pipeline, enum job_kind kind,
                       const struct job_table *table, struct error *err);

/* What is kept of the differences that a verify found in a table, in order. */
struct job_difference {
    const char *kind; /* "missing", "different", "extra" */
    const char *text; /* "id=5: status, paid_at", and the values where they are kept */
    const char *json; /* {"kind": …, "key": {…}, "columns": […], "source": {…}, "mirror": {…}} */
};

bool job_read_differences(struct pg *mirror, int64_t id, int nr, struct arena *arena,
                          int *ret_count, struct job_difference **ret_differences,
                          struct error *err);

#endif
