/*
 * run_pipeline() is the whole life, one line a stage.  Signals set a flag and an eventfd; nobody is
 * interrupted in the middle of a commit.
 */
#include "engine/run.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/prepare.h"
#include "engine/session.h"
#include "mirror/control.h"
#include "source/slot.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FIRST_PAUSE_MS 100
#define LONGEST_MS     10000

static atomic_bool is_stopped; /* by a signal: the one thing here that is the process's */
static int stop_fd = -1;

struct life {
    const struct run_options *options;
    struct arena arena; /* of the preparation: catalog, tables */
    struct prepared_pipeline prepared;
    bool is_prepared;
    bool has_streamed;
    int64_t started_at_us;
    int64_t patience_ends_us; /* clock_tick_us(): until then we wait for what is not there */
    lsn_t until;
    int64_t reconnects;
    int pause_ms;
    struct error last_error;
    int64_t last_error_at_us;
};

static void on_signal(int number)
{
    const uint64_t one = 1;
    const int saved_errno = errno;

    (void) number;
    is_stopped = true;
    if (write(stop_fd, &one, sizeof(one)) < 0)
        is_stopped = true; /* the counter is full: readable already */
    errno = saved_errno;
}

static bool catch_signals(struct error *err)
{
    struct sigaction action = {.sa_handler = on_signal};

    stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop_fd < 0)
        return error_set(err, ERROR_FAILED, "eventfd: %s", strerror(errno));
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return true;
}

/* ---- one try ---- */

/* Where the source's WAL is now: the end of --until now. */
static bool find_until(struct life *life, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = life->options->config->source.conninfo,
                                       .application = "tailwater start",
                                       .is_replication = true};
    _cleanup_pg_ struct pg *pg = NULL;
    struct slot_identity identity;

    life->until = life->options->until;
    if (!life->options->is_until_now || life->until != 0)
        return true;
    if (!pg_connect(&options, &pg, err) || !slot_identify(pg, &identity, err))
        return false;
    life->until = identity.flushed;
    return true;
}

static bool prepare(struct life *life, struct pg *lock, struct error *err)
{
    if (life->is_prepared)
        return true;
    arena_reset(&life->arena);
    life->prepared = (struct prepared_pipeline){0};
    if (!prepare_pipeline(&(struct prepare_options){.config = life->options->config,
                                                    .version = life->options->version,
                                                    .started_at_us = life->started_at_us,
                                                    .lock = lock,
                                                    .stop = &is_stopped,
                                                    .stop_fd = stop_fd},
                          &life->arena, &life->prepared, err))
        return false;
    life->is_prepared = true;
    return true;
}

static bool try_once(struct life *life, struct error *err)
{
    const struct config *config = life->options->config;
    _cleanup_pg_ struct pg *lock = NULL;

    if ((life->until == 0 && !find_until(life, err)) ||
        !control_lock(config->mirror.conninfo, config->pipeline, &lock, err) ||
        !prepare(life, lock, err))
        return false;
    return session_run(&(struct session_options){.config = config,
                                                 .version = life->options->version,
                                                 .prepared = &life->prepared,
                                                 .lock = lock,
                                                 .stop = &is_stopped,
                                                 .until = life->until,
                                                 .started_at_us = life->started_at_us,
                                                 .reconnects = life->reconnects,
                                                 .last_error = life->last_error_at_us
                                                                   ? life->last_error.message
                                                                   : NULL,
                                                 .last_error_at_us = life->last_error_at_us},
                       &life->has_streamed, err);
}

/* ---- after a failure ---- */

/* May waiting help? */
static bool is_passing(const struct error *err)
{
    switch (err->kind) {
    case ERROR_SOURCE:
    case ERROR_MIRROR:
    case ERROR_BUSY:
    case ERROR_RETRY:
        return true;
    case ERROR_NONE:
    case ERROR_CONFIG:
    case ERROR_FINDINGS:
    case ERROR_SLOT:
    case ERROR_DATA:
    case ERROR_PROTOCOL:
    case ERROR_FAILED:
    case ERROR_BUG:
        return false;
    }
    return false;
}

/* A server that is away is waited for for ever once we have streamed; a pipeline that somebody else
 * holds is not. */
static bool is_worth_waiting(const struct life *life, const struct error *err)
{
    const bool is_server = err->kind == ERROR_SOURCE || err->kind == ERROR_MIRROR ||
                           err->kind == ERROR_RETRY;

    if (!is_passing(err) || (!life->has_streamed && pg_error_is_permanent(err)))
        return false;
    return (life->has_streamed && is_server) || clock_tick_us() < life->patience_ends_us;
}

static void note_failure(struct life *life, const struct error *err)
{
    const bool is_same = life->last_error_at_us != 0 &&
                         strcmp(life->last_error.message, err->message) == 0;

    log_error(is_same ? LOG_DEBUG : LOG_WARNING, "interrupted", err);
    life->last_error = *err;
    life->last_error_at_us = clock_now_us();
}

/* Doubling with jitter, so that a hundred replicators do not come back together. */
static void pause_before_retry(struct life *life)
{
    struct pollfd fd = {.fd = stop_fd, .events = POLLIN};
    const int jitter = (int) (random() % (life->pause_ms / 2 + 1));

    poll(&fd, 1, life->pause_ms / 2 + jitter);
    life->pause_ms = life->pause_ms * 2 > LONGEST_MS ? LONGEST_MS : life->pause_ms * 2;
}

static void note_streamed(struct life *life, bool had_streamed)
{
    if (!had_streamed)
        return;
    life->reconnects++;
    life->pause_ms = FIRST_PAUSE_MS;
    life->patience_ends_us = clock_tick_us() + life->options->config->source.start_timeout_us;
}

bool run_pipeline(const struct run_options *options, struct error *err)
{
    struct life life = {.options = options,
                        .started_at_us = clock_now_us(),
                        .pause_ms = FIRST_PAUSE_MS,
                        .patience_ends_us = clock_tick_us() +
                                            options->config->source.start_timeout_us};
    bool is_ok = catch_signals(err);

    srandom((unsigned) clock_now_us());
    while (is_ok) {
        const int64_t began_us = clock_tick_us();

        if (try_once(&life, err)) {
            log_event(LOG_INFO, "stopped",
                      is_stopped ? "stopped by a signal" : "caught up, as asked for");
            break;
        }
        if (is_stopped) {
            log_event(LOG_INFO, "stopped", "stopped by a signal");
            break;
        }
        is_ok = is_worth_waiting(&life, err);
        if (!is_ok)
            break;
        note_failure(&life, err);
        note_streamed(&life, life.has_streamed && clock_tick_us() - began_us > 1000000);
        pause_before_retry(&life);
    }
    arena_release(&life.arena);
    return is_ok;
}
