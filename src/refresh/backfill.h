/*
 * Backfills: a history, or all of it, computed again in chunks.  A chunk is a range of keys, disjoint
 * from the others, and one transaction; what is done is done, whatever happens to who did it.
 *
 * Chunks are rows of tailwater.backfill_chunk.  Whoever has a target and a connection may work on
 * them: the replicator's refreshers, and the command that asked.
 */
#ifndef TAILWATER_BACKFILL_H
#define TAILWATER_BACKFILL_H

#include "refresh/recompute.h"

struct backfill_request {
    const char *kind;       /* "backfill", "everything", "full", "verify" or "keys" */
    const char *reason;     /* in words */
    const char *predicate;  /* over the fact's table; NULL: none */
    const char *from, *to;  /* of the key's first column; to is not part of it; NULL: no limit */
    int64_t chunk_keys;     /* how many keys a chunk has (0: as suits the query), or … */
    const char *chunk_step; /* … how long it is, an interval; NULL */
    int parallel, share;
};

/*
 * Plans the chunks, in the caller's transaction.  An "everything" makes all that is still under way
 * superfluous, but for "keys".
 */
bool backfill_plan(struct pg *mirror, const struct target *target,
                   const struct backfill_request *request, int64_t *ret_id, struct error *err);

struct backfill_outcome {
    bool is_found;   /* a chunk was worked on */
    bool is_waiting; /* there are chunks, and none can be had now */
    int64_t id;
    int nr;
    struct recompute_counts counts;
    int64_t failed; /* keys */
    int64_t took_us;
    int share;         /* percent: rest so long that it was that much of the time */
    bool is_ended;     /* it was the last chunk … */
    const char *state; /* … and the backfill ended like this */
    char kind[16];
    struct error unsettled; /* why target_end_build() failed, of a table that is built all the same;
                               ERROR_NONE */
};

/*
 * The next chunk of the fact's backfill; id 0: of whichever is due.  A chunk that fails is noted and
 * comes again; after max_attempts its backfill has failed.
 */
bool backfill_step(struct pg *mirror, const struct config *config, const struct target *target,
                   int64_t id, struct backfill_outcome *ret_outcome, struct error *err);

/* How a backfill is. */
struct backfill_state {
    char kind[16], state[16];
    int64_t chunks, done, failed;
    int64_t keys, inserted, updated, deleted, drift, pending;
    int64_t elapsed_us, left_us; /* left_us -1: not known yet */
    char sample[200], error[500];
};

/* ERROR_CONFIG where there is no such backfill of the pipeline. */
bool backfill_look(struct pg *mirror, const char *pipeline, int64_t id,
                   struct backfill_state *ret_state, struct error *err);

/* To "running", "paused" or "cancelled". */
bool backfill_set(struct pg *mirror, const char *pipeline, int64_t id, const char *state,
                  struct error *err);

#endif
