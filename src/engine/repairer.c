/* A round is due when repairs_wanted has moved since the last good one began.  Failures are retried
 * with back-off. */
#include "engine/repairer.h"

#include "base/log.h"
#include "engine/pause.h"
#include "sync/repair.h"

#include <inttypes.h>

#define TURN_MS        200
#define FIRST_PAUSE_MS 1000
#define LONGEST_MS     60000

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
    int64_t done = -1; /* repairs_wanted before the last good round */
    struct pause pause = {repairer->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    struct error err;

    while (!*repairer->stop) {
        const int64_t seen = repairer->statistics->repairs_wanted;

        if (seen == done) {
            pause_for(&pause, TURN_MS);
        } else if (repair(repairer, &err)) {
            done = seen;
            repairer->statistics->repairs_done = seen;
            pause_reset(&pause);
        } else if (!*repairer->stop) {
            log_error(LOG_WARNING, "repair_failed", &err);
            pause_after_failure(&pause);
        }
    }
    return NULL;
}
