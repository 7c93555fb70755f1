/*
 * What the receiver and the applier share, and nothing else: one sealed batch at a time, the
 * confirmed cursor, the first error, and counters.  Helpers hand over side batches here (apply.h):
 * the applier takes them between the others, one after each at most, so that the stream goes on.
 *
 * There are two batches.  The receiver fills one while the applier applies the other; handing over
 * waits until the applier is done, so memory is bounded by two batches.
 */
#ifndef TAILWATER_HANDOVER_H
#define TAILWATER_HANDOVER_H

#include "batch/batch.h"
#include "mirror/apply.h"
#include "mirror/quarantine.h"
#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdbool.h>

struct handover;

bool handover_new(struct handover **ret_handover, struct error *err); /* no descriptors left */
void handover_free(struct handover *handover);

/* ---- the receiver's side ---- */

/* An eventfd that becomes readable when the applier is idle again, or has failed, or somebody
 * called handover_wake(). */
int handover_wake_fd(const struct handover *handover);
void handover_drain_wake(struct handover *handover);

bool handover_is_idle(
    const struct handover *handover); /* the applier waits for work, and nothing is sealed */

/* Only while idle. The batch belongs to the applier until handover_is_idle() again. */
void handover_seal(struct handover *handover, struct batch *batch);

/* Sleep until the applier is idle, somebody wakes us, or timeout_ms is over. */
void handover_wait(struct handover *handover, int timeout_ms);

/* Somebody waits for the cursor to reach this position; the largest asked for counts. */
lsn_t handover_wanted(const struct handover *handover);

/* Durable in the mirror up to here; may be confirmed to the source. */
lsn_t handover_cursor(const struct handover *handover);

/* The applier's error, if it failed. */
bool handover_check(struct handover *handover, struct error *err);

/* Whose data made the applier fail; table NULL where nobody's did. */
struct culprit handover_culprit(struct handover *handover);

/* No more batches: the applier's handover_take() returns NULL once it is idle. */
void handover_close(struct handover *handover);

/* ---- the applier's side ---- */

struct work {
    struct batch *batch; /* one of both */
    struct side_batch *side;
};

/* Waits for work; false: closed.  may_side: not inside a transaction that is written in pieces. */
bool handover_take(struct handover *handover, bool may_side, struct work *ret_work);
void handover_done(struct handover *handover, lsn_t cursor);    /* with the batch … */
void handover_side_done(struct handover *handover, bool is_ok); /* … or the side batch */
/* The first failure counts.  culprit: whose data it was, NULL for nobody's. */
void handover_fail(struct handover *handover, const struct error *err,
                   const struct culprit *culprit);

/* ---- helpers ---- */

/* Hand a side batch over and wait until it is applied.  ERROR_RETRY where the session ends. */
bool handover_side(struct handover *handover, struct side_batch *side, struct error *err);

/* Let the cursor reach lsn soon, also while the source is idle. */
void handover_want(struct handover *handover, lsn_t lsn);

/* ---- anybody ---- */

void handover_wake(struct handover *handover);

#endif
