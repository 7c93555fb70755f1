/* A time per part, 0 while it rests. */
#include "base/pulse.h"

#include "base/clock.h"

#include <stdatomic.h>

static const char *const names[PULSE_PARTS] = {[PULSE_RECEIVER] = "receiver",
                                               [PULSE_MIRROR_WATCHER] = "watcher of the mirror",
                                               [PULSE_SOURCE_WATCHER] = "watcher of the source"};
static _Atomic int64_t beats[PULSE_PARTS];

void pulse_beat(enum pulse_part part)
{
    beats[part] = clock_tick_us();
}

void pulse_rest(enum pulse_part part)
{
    beats[part] = 0;
}

bool pulse_is_going(int64_t tick_us, const char **ret_part, int64_t *ret_age_us)
{
    for (int i = 0; i < PULSE_PARTS; i++) {
        const int64_t beat_us = beats[i];

        if (beat_us == 0 || tick_us - beat_us <= PULSE_STOPPED_US)
            continue;
        *ret_part = names[i];
        *ret_age_us = tick_us - beat_us;
        return false;
    }
    return true;
}
