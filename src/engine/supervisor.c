/* The watchdog is fed from a thread that waits for nothing (run.c), and only as long as the loops that
 * must not stop do not: a process that merely exists is not alive. */
#include "engine/supervisor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/pulse.h"

#include <inttypes.h>
#include <stdbool.h>
#include <systemd/sd-daemon.h>

void supervisor_ready(void)
{
    (void) sd_notify(false, "READY=1");
}

void supervisor_say(const char *text)
{
    (void) sd_notifyf(false, "STATUS=%s", text);
}

void supervisor_stopping(void)
{
    (void) sd_notify(false, "STOPPING=1");
}

void supervisor_tick(void)
{
    static bool has_said; /* one thread calls this */
    const char *part;
    int64_t age_us;

    if (pulse_is_going(clock_tick_us(), &part, &age_us)) {
        (void) sd_notify(false, "WATCHDOG=1");
        has_said = false;
    } else if (!has_said) {
        log_event(LOG_ERROR, "stuck", "the %s has not moved for %" PRId64 " s", part,
                  age_us / 1000000);
        has_said = true;
    }
}
