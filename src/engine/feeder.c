/*
 * The feed's own state is in the mirror database, so whatever fails, it is opened anew.  What is
 * said is said when it changes: blocked and again free, paused and resumed, late and on time.
 */
#include "engine/feeder.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/pause.h"
#include "engine/stop.h"
#include "feed/feed.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FIRST_PAUSE_MS 500
#define LONGEST_MS     30000
#define BUSY_MS        10000 /* another process runs it */

/* What was said last. */
struct said {
    bool is_blocked, is_paused, is_late;
    int64_t blocked_us; /* clock_tick_us() since when; 0: it is not */
    struct error failure;
};

static void say(const struct feeder *feeder, const struct feed_outcome *outcome, struct said *said)
{
    const char *name = feeder->feed->name;
    const bool is_blocked = outcome->state == FEED_BLOCKED;
    const bool is_paused = outcome->state == FEED_PAUSED;
    const bool is_late = outcome->lag_us > feeder->feed->max_staleness_us;

    if (outcome->refused > 0)
        log_event(LOG_WARNING, "feed_refused",
                  "%s: %" PRId64 " documents were refused: tailwater feed dead %s", name,
                  outcome->refused, name);
    if (outcome->has_been_paused)
        log_event(LOG_ERROR, "feed_paused", "%s: %s; when that is mended: tailwater feed resume %s",
                  name, outcome->text, name);
    if (is_blocked && !said->is_blocked)
        log_event(LOG_WARNING, "feed_blocked", "%s: the receiver takes nothing: %s", name,
                  outcome->text);
    if (said->is_blocked && outcome->sent > 0)
        log_event(LOG_INFO, "feed_unblocked", "%s: the receiver takes documents again", name);
    if (is_paused && !said->is_paused && !outcome->has_been_paused)
        log_event(LOG_INFO, "feed_paused", "%s: %s", name, outcome->text);
    if (said->is_paused && !is_paused)
        log_event(LOG_INFO, "feed_resumed", "%s", name);
    if (is_late && !said->is_late)
        log_event(LOG_WARNING, "feed_late",
                  "%s: changes wait for %" PRId64 " s, longer than max_staleness", name,
                  outcome->lag_us / 1000000);
    said->is_blocked = is_blocked || (said->is_blocked && outcome->sent == 0);
    if (!said->is_blocked)
        said->blocked_us = 0;
    else if (said->blocked_us == 0)
        said->blocked_us = clock_tick_us();
    said->is_paused = is_paused;
    if (outcome->lag_us > 0)
        said->is_late = is_late;
    if (outcome->sent > 0)
        log_event(LOG_DEBUG, "feed_sent", "%s: %" PRId64 " documents, %" PRId64 " unchanged", name,
                  outcome->sent, outcome->unchanged);
}

/* What is to end by itself does not wait for an operator, nor for ever for a receiver. */
static bool is_worth_waiting(const struct feeder *feeder, const struct feed_outcome *outcome,
                             const struct said *said, struct error *err)
{
    const int64_t patience_us = feeder->config->source.start_timeout_us;
    const char *name = feeder->feed->name;

    if (outcome->state == FEED_PAUSED) {
        error_set(err, ERROR_FAILED, "feed %s is paused: %s", name, outcome->text);
        return error_hint(err, "when that is mended: tailwater feed resume %s", name);
    }
    if (said->blocked_us == 0 || clock_tick_us() - said->blocked_us <= patience_us)
        return true;
    error_set(err, ERROR_RETRY, "feed %s: the receiver has taken nothing for %" PRId64 " s: %s",
              name, patience_us / 1000000, outcome->text);
    return error_hint(err, "nothing is lost: run it again; tailwater feed status says more");
}

/* Until it fails, is told to stop, or has nothing left where that is the end; *ret_is_final: then no
 * other try will do better. */
static bool serve(const struct feeder *feeder, struct said *said, bool *ret_is_final,
                  struct error *err)
{
    const struct feed_options options = {.config = feeder->config,
                                         .feed = feeder->feed,
                                         .stop = feeder->stop,
                                         .wake_fd = feeder->wake_fd};
    struct feed_outcome outcome;
    struct feed *feed;
    const char *note;
    bool is_ok = true, is_done = false;

    if (!feed_open(&options, &feed, &note, err))
        return false;
    log_event(LOG_INFO, "feed_started", "%s%s%s", feeder->feed->name, note != NULL ? ": " : "",
              note != NULL ? note : "");
    while (is_ok && !is_done && !*feeder->stop) {
        is_ok = feed_step(feed, &outcome, err);
        if (!is_ok)
            break;
        said->failure.message[0] = '\0';
        say(feeder, &outcome, said);
        if (feeder->is_until_now && !is_worth_waiting(feeder, &outcome, said, err)) {
            *ret_is_final = true;
            is_ok = false;
            break;
        }
        is_done = feeder->is_until_now && outcome.state == FEED_IDLE && !outcome.is_lingering;
        if (outcome.state != FEED_WORKED && !is_done)
            is_ok = feed_wait(feed, &outcome, err);
    }
    feed_free(feed);
    return is_ok;
}

static void say_failure(struct said *said, const struct error *err)
{
    const bool is_same = strcmp(said->failure.message, err->message) == 0;

    log_error(is_same ? LOG_DEBUG : LOG_WARNING, "feed_failed", err);
    said->failure = *err;
}

void *feeder_run(void *arg)
{
    const struct feeder *feeder = arg;
    struct pause pause = {feeder->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    struct said said = {0};
    bool is_final;
    struct error err;

    while (!*feeder->stop) {
        const int64_t began_us = clock_tick_us();

        if (serve(feeder, &said, &is_final, &err) || *feeder->stop)
            break;
        say_failure(&said, &err);
        if (clock_tick_us() - began_us > LONGEST_MS * 1000)
            pause_reset(&pause);
        if (err.kind == ERROR_BUSY)
            pause_for(&pause, BUSY_MS);
        else
            pause_after_failure(&pause);
    }
    return NULL;
}

/* ---- beside the stream ---- */

struct feeder_list {
    atomic_bool stop;
    int wake_fd;
    int count; /* that run */
    struct feeder_thread {
        struct feeder feeder;
        pthread_t thread;
    } threads[];
};

static bool start_thread(struct feeder_list *list, const struct config *config, int i,
                         struct error *err)
{
    struct feeder_thread *one = &list->threads[list->count];
    int failed;

    one->feeder = (struct feeder){
        .config = config, .feed = &config->feeds[i], .stop = &list->stop, .wake_fd = list->wake_fd};
    failed = pthread_create(&one->thread, NULL, feeder_run, &one->feeder);
    if (failed != 0)
        return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
    list->count++;
    return true;
}

bool feeder_start_all(const struct config *config, struct feeder_list **list, struct error *err)
{
    if (*list != NULL)
        return true;
    *list = memory_alloc(sizeof(**list) +
                         sizeof((*list)->threads[0]) * (size_t) (config->nfeeds + 1));
    (*list)->wake_fd = eventfd(0, EFD_CLOEXEC);
    if ((*list)->wake_fd < 0)
        return error_set(err, ERROR_FAILED, "eventfd: %s", strerror(errno));
    for (int i = 0; i < config->nfeeds; i++)
        if (config->feeds[i].run != FEED_RUN_MANUAL && !start_thread(*list, config, i, err))
            return false;
    return true;
}

void feeder_finish_all(struct feeder_list **list)
{
    struct feeder_list *all = *list;

    *list = NULL;
    if (all == NULL)
        return;
    all->stop = true;
    if (all->wake_fd >= 0)
        eventfd_write(all->wake_fd, 1);
    for (int i = 0; i < all->count; i++)
        pthread_join(all->threads[i].thread, NULL);
    if (all->wake_fd >= 0)
        close(all->wake_fd);
    free(all);
}

/* ---- alone ---- */

static bool is_passing(const struct error *err)
{
    return (err->kind == ERROR_MIRROR && !pg_error_is_permanent(err)) || err->kind == ERROR_RETRY;
}

bool feeder_serve(struct feeder *feeder, struct error *err)
{
    struct pause pause = {feeder->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    const int64_t patience_us = feeder->config->source.start_timeout_us;
    const int64_t began_us = clock_tick_us();
    struct said said = {0};
    bool has_served = false, is_final = false;

    for (;;) {
        const int64_t tried_us = clock_tick_us();

        if (serve(feeder, &said, &is_final, err) || *feeder->stop)
            return true;
        has_served |= clock_tick_us() - tried_us > 1000000;
        if (is_final || !is_passing(err) ||
            (!has_served && clock_tick_us() - began_us > patience_us))
            return false;
        say_failure(&said, err);
        if (clock_tick_us() - tried_us > LONGEST_MS * 1000)
            pause_reset(&pause);
        pause_after_failure(&pause);
    }
}

bool feeder_run_alone(const struct config *config, const struct config_feed *feed,
                      bool is_until_now, struct error *err)
{
    struct feeder feeder = {
        .config = config, .feed = feed, .stop = stop_flag(), .is_until_now = is_until_now};

    if (!stop_catch(err))
        return false;
    feeder.wake_fd = stop_fd();
    signal(SIGPIPE, SIG_IGN);
    srandom((unsigned) clock_now_us());
    if (!feeder_serve(&feeder, err))
        return false;
    log_event(LOG_INFO, "stopped",
              stop_is_raised() ? "stopped by a signal" : "nothing is left to send");
    return true;
}
