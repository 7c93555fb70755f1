/* Counters of a session: written by the thread that owns each, read by anybody. */
#ifndef TAILWATER_STATISTICS_H
#define TAILWATER_STATISTICS_H

#include "tailwater/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Written by their owner, read by anybody; positions, times and counts of this process. */
struct statistics {
    _Atomic lsn_t received_lsn;  /* end of the newest transaction received */
    _Atomic lsn_t cursor;        /* durable in the mirror */
    _Atomic lsn_t confirmed_lsn; /* flush position sent to the source */
    _Atomic int64_t quiet_at_us; /* when nothing received was unapplied, last */
    _Atomic int64_t
        applied_commit_us; /* commit time on the source of the newest transaction visible here */
    _Atomic int64_t changes, transactions, batches;
    _Atomic int64_t inserted, updated, deleted;
    _Atomic int64_t doubts;         /* rows in doubt listed for the nan checker */
    _Atomic int64_t repairs_wanted; /* moves when the repair list may have something to do: keys put
                                       on it, or a table of it back from quarantine */
    _Atomic int64_t repairs_done, doubts_done; /* as far as the lists are worked off; -1: not yet */
    atomic_bool has_looked_for_jobs,
        is_resyncing;               /* there was none at the last look; or there is */
    _Atomic int64_t visible_lag_us; /* commit on the source to visible here, of the newest batch */
};

/* Is all that was put on the repair list and on that of rows in doubt worked off, and no table waiting
 * for its resync? */
static inline bool statistics_is_settled(const struct statistics *statistics)
{
    return statistics->has_looked_for_jobs && !statistics->is_resyncing &&
           statistics->doubts_done >= statistics->doubts &&
           statistics->repairs_done >= statistics->repairs_wanted;
}

/* Age of the oldest thing received and not yet visible, as far as the two clocks agree; 0: all is
 * applied. */
int64_t statistics_lag_us(const struct statistics *statistics, int64_t now_us);

#endif
