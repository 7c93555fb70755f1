/* Arithmetic alone: monitor.c has the clocks, and the table of paces. */
#include "http/pace.h"

int64_t pace_for(const struct pace *pace, int count, int64_t took_us)
{
    int64_t good_us = count * pace->each_us, spent_us = took_us * PACE_PART;

    if (good_us > pace->enough_us)
        good_us = pace->enough_us;
    if (good_us < PACE_LEAST_US)
        good_us = PACE_LEAST_US;
    if (spent_us > pace->longest_us)
        spent_us = pace->longest_us;
    return spent_us > good_us ? spent_us : good_us;
}
