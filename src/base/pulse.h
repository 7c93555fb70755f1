/*
 * Are this process's threads still going round their loops?  The loops that wait for nothing without
 * a limit say so each time round; who asks (a probe of a service manager) learns whether one of them
 * has stopped.  There is one of it: threads are the process's.
 *
 * A loop that may wait for as long as it takes (the applier, for a lock that somebody holds on the
 * mirror) has no part here: a restart would not help it.
 */
#ifndef TAILWATER_PULSE_H
#define TAILWATER_PULSE_H

#include <stdbool.h>
#include <stdint.h>

enum pulse_part { PULSE_RECEIVER, PULSE_MIRROR_WATCHER, PULSE_SOURCE_WATCHER, PULSE_PARTS };

/* Every part has a limit to what it waits for, this is more than the longest of them. */
#define PULSE_STOPPED_US INT64_C(180000000)

void pulse_beat(enum pulse_part part);

/* Its loop has ended, as it should; it is not missed until it beats again. */
void pulse_rest(enum pulse_part part);

/* False: *ret_part has not beaten for *ret_age_us, longer than PULSE_STOPPED_US. */
bool pulse_is_going(int64_t tick_us, const char **ret_part, int64_t *ret_age_us);

#endif
