/*
 * Refreshing: one connection, the targets that it has opened, and one transaction after the other
 * for whichever of them the caller says.  refresh.c says why that is right.
 */
#ifndef TAILWATER_REFRESH_H
#define TAILWATER_REFRESH_H

#include "refresh/backfill.h"

struct refresh;

struct refresh_options {
    const struct config *config;
    const char *application;
    int wake_fd; /* readable once the caller is to end: what is under way is cancelled; -1: never */
};

/* Connects.  options and what they point to are the caller's. */
bool refresh_new(const struct refresh_options *options, struct refresh **ret_refresh,
                 struct error *err);
void refresh_free(struct refresh *refresh);
struct pg *refresh_connection(struct refresh *refresh);

/* Until all that was committed here is on the mirror's disk; what is committed later waits for it by
 * itself. */
bool refresh_flush(struct refresh *refresh, struct error *err);

/* The target of a fact, opened the first time; notes gets what was made (target.h). */
bool refresh_open(struct refresh *refresh, const struct config_fact *fact, struct notes *notes,
                  struct target **ret_target, struct error *err);

enum refresh_step { REFRESH_NOTHING, REFRESH_KEYS, REFRESH_EVERYTHING, REFRESH_RETRY };

struct refresh_outcome {
    enum refresh_step step;
    int64_t from_batch, to_batch;
    int lane;
    struct recompute_counts counts;
    int64_t failed; /* keys, noted in tailwater.refresh_failure */
    int64_t took_us;
    int64_t backfill; /* REFRESH_EVERYTHING: was planned, in chunks */
    const char *reason;
};

/* The next window of the ledger. */
bool refresh_window(struct refresh *refresh, struct target *target,
                    struct refresh_outcome *ret_outcome, struct error *err);

/* Keys that failed before and are due. */
bool refresh_retry(struct refresh *refresh, struct target *target,
                   struct refresh_outcome *ret_outcome, struct error *err);

/* The next chunk of a backfill (backfill.h). */
bool refresh_chunk(struct refresh *refresh, struct target *target, int64_t backfill,
                   struct backfill_outcome *ret_outcome, struct error *err);

/* Plans a backfill that somebody asked for. */
bool refresh_plan(struct refresh *refresh, struct target *target,
                  const struct backfill_request *request, int64_t *ret_id, struct error *err);

/* What tailwater.refresh says of a fact as a whole: it fails with this, or (NULL) does not. */
bool refresh_say_failure(struct refresh *refresh, const char *fact, const struct error *failure,
                         struct error *err);

#endif
