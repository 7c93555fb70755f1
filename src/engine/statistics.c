/* What follows from the counters. */
#include "engine/statistics.h"

int64_t statistics_lag_us(const struct statistics *statistics, int64_t now_us)
{
    const int64_t quiet = statistics->quiet_at_us, applied = statistics->applied_commit_us;
    const int64_t since = quiet > applied ? quiet : applied;

    if (statistics->received_lsn <= statistics->cursor || since == 0 || since > now_us)
        return 0;
    return now_us - since;
}
