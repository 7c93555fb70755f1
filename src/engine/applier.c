/*
 * Take, apply, publish the cursor.  After an error the thread ends: the session is torn down and
 * everything starts again from the committed cursor, so there is no half-state to keep right.
 */
#include "engine/applier.h"

#include "base/clock.h"

static void count(struct statistics *statistics, const struct batch *batch,
                  const struct writer_counts *counts)
{
    statistics->changes += batch->nchanges;
    statistics->transactions += batch->ntransactions;
    statistics->inserted += counts->inserted;
    statistics->updated += counts->updated;
    statistics->deleted += counts->deleted;
    statistics->repairs_wanted += counts->incomplete;
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

static bool apply_work(struct applier *applier, const struct work *work, struct error *err)
{
    struct writer_counts counts = {0};

    if (work->side != NULL)
        return apply_side(applier->apply, work->side, err);
    if (!apply_batch(applier->apply, work->batch, &counts, err))
        return false;
    count(applier->statistics, work->batch, &counts);
    return true;
}

void *applier_run(void *arg)
{
    struct applier *applier = arg;
    struct error err = {0};
    struct work work;
    bool is_ok = true;

    while (is_ok && handover_take(applier->handover, !apply_is_open(applier->apply), &work)) {
        is_ok = apply_work(applier, &work, &err);
        if (!is_ok) {
            const struct culprit culprit = apply_culprit(applier->apply);

            handover_fail(applier->handover, &err, &culprit);
        }
        if (work.side != NULL)
            handover_side_done(applier->handover, is_ok);
        else if (is_ok)
            handover_done(applier->handover, applier->cursor->lsn);
    }
    return NULL;
}
