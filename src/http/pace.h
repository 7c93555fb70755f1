/*
 * How soon something is asked again, however many want it: by how much there is of it, not by how long it
 * took, so that a busy machine is not told later; but of a server that is slow no more than one part in
 * PACE_PART of the time is wanted, down to an end: once it is quick again, that is to be seen.
 */
#ifndef TAILWATER_PACE_H
#define TAILWATER_PACE_H

#include <stdint.h>

#define PACE_PART     10
#define PACE_LEAST_US INT64_C(1000000)

struct pace {
    int64_t each_us;    /* what there is so many of is good for so long each … */
    int64_t enough_us;  /* … for so long at most, where it was quickly there … */
    int64_t longest_us; /* … and for so long however slowly it came */
};

/* For how long it is good: count of what there is, took_us to ask for it. */
int64_t pace_for(const struct pace *pace, int count, int64_t took_us);

#endif
