/*
 * Take, apply, publish the cursor.  After an error the thread ends: the session is torn down and
 * everything starts again from the committed cursor, so there is no half-state to keep right.
 */
#include "engine/applier.h"

#include "base/clock.h"

static void count(struct statistics *statistics, const struct batch *batch,
                  const struct apply_counts *counts)
{
    statistics->changes += batch->nchanges;
    statistics->transactions += batch->ntransactions;
    statistics->inserted += counts->inserted;
    statistics->updated += counts->updated;
    statistics->deleted += counts->deleted;
    statistics->incomplete += counts->incomplete;
    statistics->doubts += counts->doubts;
    if (batch->in_transaction)
        return;
    statistics->batches++;
    statistics->cursor = batch->end_lsn;
    if (batch->last_commit_time_us > 0) {
        statistics->applied_commit_us = batch->last_commit_time_us;
        statistics->visible_lag_us = clock_now_us() - batch->last_commit_time_us;
    }
}

void *applier_run(void *arg)
{
    struct applier *applier = arg;
    struct batch *batch;
    struct error err = {0};

    while ((batch = handover_take(applier->handover)) != NULL) {
        struct apply_counts counts = {0};

        if (!apply_batch(applier->apply, batch, &counts, &err)) {
            handover_fail(applier->handover, &err);
            break;
        }
        count(applier->statistics, batch, &counts);
        handover_done(applier->handover, applier->cursor->lsn);
    }
    return NULL;
}
