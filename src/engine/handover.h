/*
 * What the receiver and the applier share, and nothing else: one sealed batch at a time, the
 * confirmed cursor, the first error, and counters.
 *
 * There are two batches.  The receiver fills one while the applier applies the other; handing over
 * waits until the applier is done, so memory is bounded by two batches.
 */
#ifndef TAILWATER_HANDOVER_H
#define TAILWATER_HANDOVER_H

#include "batch/batch.h"
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

/* Durable in the mirror up to here; may be confirmed to the source. */
lsn_t handover_cursor(const struct handover *handover);

/* The applier's error, if it failed. */
bool handover_check(struct handover *handover, struct error *err);

/* No more batches: the applier's handover_take() returns NULL once it is idle. */
void handover_close(struct handover *handover);

/* ---- the applier's side ---- */

struct batch *handover_take(struct handover *handover); /* waits; NULL: closed */
void handover_done(struct handover *handover, lsn_t cursor);
void handover_fail(struct handover *handover, const struct error *err);

/* ---- anybody ---- */

void handover_wake(struct handover *handover);

#endif
