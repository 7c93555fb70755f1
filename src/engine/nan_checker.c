/* A round is due when the applier has listed rows since the last good one, or when that one had to
 * wait.  Failures are retried with back-off. */
#include "engine/nan_checker.h"

#include "base/log.h"
#include "engine/pause.h"
#include "sync/nan.h"

#include <inttypes.h>

#define TURN_MS        100
#define FIRST_PAUSE_MS 1000
#define LONGEST_MS     60000

static bool check(const struct nan_checker *checker, struct nan_check *nan_check,
                  bool *ret_is_waiting, struct error *err)
{
    struct nan_result result;
    const bool is_fine = nan_check_run(nan_check, &result, err);

    checker->statistics->repairs_wanted += result.found;
    if (result.asked > 0)
        log_event(LOG_DEBUG, "nan_checked",
                  "asked the source about numbers in %" PRId64 " rows that came as null: %" PRId64
                  " of them are NaN or infinite there and not here, or the reverse",
                  result.asked, result.found);
    *ret_is_waiting = result.is_waiting;
    return is_fine;
}

void *nan_checker_run(void *arg)
{
    const struct nan_checker *checker = arg;
    const struct nan_options options = {.config = checker->config,
                                        .tables = checker->list,
                                        .stop = checker->stop,
                                        .wake_fd = checker->wake_fd};
    struct nan_check *nan_check;
    int64_t done = -1; /* rows in doubt counted before the last good round */
    struct pause pause = {checker->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    struct error err;

    if (checker->config->source.nan_check == NAN_CHECK_OFF) {
        checker->statistics->doubts_done = INT64_MAX; /* nobody asks */
        return NULL;
    }
    nan_check = nan_check_new(&options);
    while (!*checker->stop) {
        const int64_t seen = checker->statistics->doubts;
        bool is_waiting = false;

        if (seen == done) {
            pause_for(&pause, TURN_MS);
        } else if (check(checker, nan_check, &is_waiting, &err)) {
            done = is_waiting ? -1 : seen;
            checker->statistics->doubts_done = done;
            pause_reset(&pause);
            if (is_waiting)
                pause_for(&pause, TURN_MS);
        } else if (!*checker->stop) {
            log_error(LOG_WARNING, "nan_check_failed", &err);
            pause_after_failure(&pause);
        }
    }
    nan_check_free(nan_check);
    return NULL;
}
