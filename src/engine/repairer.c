/* A round is due when the applier has counted incomplete rows since the last good one.  Failures
 * are retried with back-off. */
#include "engine/repairer.h"

#include "base/log.h"
#include "sync/repair.h"

#include <inttypes.h>
#include <poll.h>

#define TURN_MS        200
#define FIRST_PAUSE_MS 1000
#define LONGEST_MS     60000

static void sleep_ms(const struct repairer *repairer, int ms)
{
    struct pollfd fd = {.fd = repairer->wake_fd, .events = POLLIN};

    poll(&fd, 1, ms);
}

/* One good round, or as many as it takes until the list is empty. */
static bool repair(const struct repairer *repairer, struct error *err)
{
    const struct repair_options options = {.config = repairer->config,
                                           .tables = repairer->list,
                                           .facts = repairer->facts,
                                           .stop = repairer->stop,
                                           .wake_fd = repairer->wake_fd};
    struct repair_result result = {.is_more = true};

    while (result.is_more && !*repairer->stop) {
        if (!repair_run(&options, &result, err))
            return false;
        if (result.keys > 0)
            log_event(LOG_WARNING, "repaired",
                      "fetched %" PRId64 " of %" PRId64
                      " rows from the source that the stream could not complete",
                      result.rows, result.keys);
    }
    return true;
}

void *repairer_run(void *arg)
{
    const struct repairer *repairer = arg;
    int64_t done = -1; /* incomplete rows counted before the last good round */
    int pause_ms = FIRST_PAUSE_MS;
    struct error err;

    while (!*repairer->stop) {
        const int64_t seen = repairer->statistics->incomplete;

        if (seen == done) {
            sleep_ms(repairer, TURN_MS);
        } else if (repair(repairer, &err)) {
            done = seen;
            pause_ms = FIRST_PAUSE_MS;
        } else if (!*repairer->stop) {
            log_error(LOG_WARNING, "repair_failed", &err);
            sleep_ms(repairer, pause_ms);
            pause_ms = pause_ms * 2 > LONGEST_MS ? LONGEST_MS : pause_ms * 2;
        }
    }
    return NULL;
}
