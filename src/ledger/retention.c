/*
 * The order matters: a floor says what may be gone, so it is raised, in a transaction of its own,
 * before anything goes; replay() looks at it under a lock.  Batches' rows go in slices, so that
 * nobody waits for a long delete, and only below the lowest floor of all the pipeline's facts.
 */
#include "ledger/retention.h"

#include "base/fault.h"
#include "ledger/partitions.h"

#include <inttypes.h>
#include <stdio.h>

#define MAX_SLICES 100 /* of prune_batches() in one round */

static bool mark_stale(struct pg *mirror, const char *pipeline,
                       const struct retention_limits *limits, struct buf *stale, struct error *err)
{
    char age[32], keys[32];
    const char *params[] = {pipeline, age, keys};
    _cleanup_result_ struct pg_result *marked = NULL;

    snprintf(age, sizeof(age), "%" PRId64 " microseconds", limits->stale_after_us);
    snprintf(keys, sizeof(keys), "%" PRId64, limits->stale_keys);
    if (!pg_query(mirror,
                  "select fact, consumer, reason from "
                  "tailwater.mark_stale($1, $2::interval, $3::bigint)",
                  3, params, &marked, err))
        return error_wrap(err, "looking for stale consumers");
    for (int row = 0; row < pg_rows(marked); row++)
        buf_printf(stale, "%sconsumer %s of fact %s: %s", stale->len > 0 ? "\n" : "",
                   pg_text(marked, row, 1), pg_text(marked, row, 0), pg_text(marked, row, 2));
    return true;
}

static bool raise_floors(struct pg *mirror, const char *pipeline, int64_t window_us,
                         struct error *err)
{
    char window[32];
    const char *params[] = {pipeline, window};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(window, sizeof(window), "%" PRId64 " microseconds", window_us);
    return pg_query(mirror, "select tailwater.raise_floors($1, $2::interval)", 2, params, &done,
                    err) ||
           error_wrap(err, "finding what of the ledger nobody needs");
}

static bool prune(struct pg *mirror, const char *pipeline, struct error *err)
{
    int64_t deleted = 1;

    for (int i = 0; i < MAX_SLICES && deleted > 0; i++) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_query_row(mirror, "select tailwater.prune_batches($1)", 1, &pipeline, &result, err))
            return error_wrap(err, "removing old batches' rows");
        deleted = pg_int(result, 0, 0);
    }
    return true;
}

bool retention_run(struct pg *mirror, const char *pipeline, const struct retention_limits *limits,
                   struct buf *stale, int *ret_removed, struct error *err)
{
    return mark_stale(mirror, pipeline, limits, stale, err) && FAULT(retention_after_stale, err) &&
           raise_floors(mirror, pipeline, limits->replay_window_us, err) &&
           FAULT(retention_after_floor, err) &&
           partitions_remove(mirror, pipeline, ret_removed, err) &&
           FAULT(retention_after_drop, err) && prune(mirror, pipeline, err);
}
