/*
 * How fast the source may be read: one limit shared by all workers of a copy, or by a repair.
 *
 * A worker says how much it has just read and is held until that much was due.  Counted are bytes
 * as they arrive here, not pages that the source's disks had to give.  Thread-safe.
 */
#ifndef TAILWATER_RATE_H
#define TAILWATER_RATE_H

#include "base/cleanup.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rate;

/* bytes_per_s 0: no limit; rate_take() then never waits. */
struct rate *rate_new(int64_t bytes_per_s);
void rate_free(struct rate *rate); /* NULL is fine */

/* False where *stop became true while waiting; it is looked at ten times a second. */
bool rate_take(struct rate *rate, size_t bytes, const atomic_bool *stop);

static inline void rate_cleanup(struct rate **rate)
{
    rate_free(*rate);
}
#define _cleanup_rate_ _cleanup_(rate_cleanup)

#endif
