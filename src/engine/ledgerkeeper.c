/*
 * Each thread is a table of duties and one look at the clock a turn, as the watcher's are.  A
 * duty that fails is logged, once until it is over, and due again; a connection that broke is made
 * anew.  A lock that cannot be had within LOCK_TIMEOUT is left for the next round.
 *
 * New keys are looked for at most ten times a second, and only where a batch has left some since, but
 * once a second in any case: other processes write batches too, and the expander many a second.
 */
#include "engine/ledgerkeeper.h"

#include "base/clock.h"
#include "base/log.h"
#include "ledger/notify.h"
#include "ledger/partitions.h"
#include "ledger/retention.h"
#include "ledger/statistic.h"
#include "ledger/store.h"
#include "ledger/summary.h"
#include "pg/pg.h"

#include <inttypes.h>
#include <poll.h>

#define CONNECT_TIMEOUT_S 5
#define LOCK_TIMEOUT      "-c lock_timeout=2s"

#define TURN_MS      100
#define SLOW_TURN_MS 1000
#define FINISH_MS    500 /* for the last statement */

#define NEWS_US      100000
#define LOOK_US      1000000
#define PARTITION_US 1000000
#define SUMMARIZE_US 1000000
#define FLUSH_US     5000000
#define RETENTION_US 10000000
#define LEDGERS_US   2000000
#define HOURS_US     60000000

struct keep {
    const struct ledgerkeeper *keeper;
    const char *application;
    struct pg *mirror;    /* opened when needed, dropped when it breaks */
    int64_t seen;         /* notified up to this batch */
    int64_t seen_count;   /* of news, when that was asked … */
    int64_t seen_batches; /* … and of batches */
    bool is_owed;         /* it may have been asked before its batch was committed */
    int64_t looked_us;
};

/* ---- the duties ---- */

static int64_t count_news(const struct fact_list *facts)
{
    int64_t count = 0;

    for (int i = 0; i < facts->count; i++)
        count += facts->facts[i].nodes[0].counts->news;
    return count;
}

/* What is counted may not be committed yet: it is asked for once more when a batch was. */
static bool is_news_due(struct keep *keep, int64_t now)
{
    const int64_t count = count_news(keep->keeper->facts);
    const int64_t batches = keep->keeper->statistics->batches;
    const bool is_new = count != keep->seen_count;

    if (!is_new && !(keep->is_owed && batches != keep->seen_batches) &&
        now - keep->looked_us < LOOK_US)
        return false;
    keep->is_owed = is_new || (keep->is_owed && batches == keep->seen_batches);
    keep->seen_count = count;
    keep->seen_batches = batches;
    keep->looked_us = now;
    return true;
}

static bool news(struct keep *keep, struct error *err)
{
    if (!is_news_due(keep, clock_tick_us()) ||
        notify_news(keep->mirror, keep->keeper->config->pipeline, &keep->seen, err))
        return true;
    keep->seen_count = -1; /* at the next turn again */
    return false;
}

static bool add_partitions(struct keep *keep, struct error *err)
{
    int made;

    if (!partitions_add(keep->mirror, keep->keeper->config->pipeline, &made, err))
        return false;
    if (made > 0)
        log_event(LOG_DEBUG, "ledger_partitions_added", "%d partitions added to the ledger", made);
    return true;
}

static bool summarize(struct keep *keep, struct error *err)
{
    return summary_run(keep->mirror, keep->keeper->config->pipeline, keep->keeper->stop, err);
}

static bool retain(struct keep *keep, struct error *err)
{
    const struct config *config = keep->keeper->config;
    const struct retention_limits limits = {.replay_window_us = config->ledger.replay_window_us,
                                            .stale_after_us = config->ledger.stale_after_us,
                                            .stale_keys = config->ledger.stale_keys};
    _cleanup_buf_ struct buf stale = {0};
    int removed = 0;
    bool is_ok = retention_run(keep->mirror, config->pipeline, &limits, &stale, &removed, err);

    if (stale.len > 0)
        log_event(LOG_WARNING, "consumer_stale",
                  "too far behind, its next window is a rebuild of everything: %s",
                  buf_text(&stale));
    if (removed > 0)
        log_event(LOG_DEBUG, "ledger_partitions_removed", "%d partitions removed from the ledger",
                  removed);
    return is_ok;
}

static bool flush(struct keep *keep, struct error *err)
{
    return statistic_flush(keep->mirror, keep->keeper->facts, err);
}

static bool close_hours(struct keep *keep, struct error *err)
{
    return statistic_close_hours(keep->mirror, keep->keeper->config->pipeline, keep->keeper->stop,
                                 err);
}

/* Nothing may stream while a ledger is made. */
static bool make_ledgers(struct keep *keep, struct error *err)
{
    const struct fact *fact;
    struct error again;

    if (!store_find_free(keep->mirror, keep->keeper->facts, &fact, err))
        return false;
    if (fact != NULL) {
        error_set(&again, ERROR_RETRY,
                  "nobody reads the former ledger of fact %s any more: it is made anew",
                  fact->name);
        handover_fail(keep->keeper->handover, &again, NULL);
    }
    return true;
}

/* ---- the loop ---- */

struct duty {
    bool (*run)(struct keep *keep, struct error *err);
    int64_t every_us;
    int64_t due_us;
    bool is_failing; /* and that was said */
};

static bool connect_mirror(struct keep *keep, struct error *err)
{
    const struct pg_options options = {.side = PG_MIRROR,
                                       .conninfo = keep->keeper->config->mirror.conninfo,
                                       .application = keep->application,
                                       .settings = LOCK_TIMEOUT,
                                       .connect_timeout_s = CONNECT_TIMEOUT_S};

    if (keep->mirror != NULL && pg_is_broken(keep->mirror)) {
        pg_free(keep->mirror);
        keep->mirror = NULL;
    }
    if (keep->mirror != NULL)
        return true;
    if (!pg_connect(&options, &keep->mirror, err))
        return false;
    /* A statement in progress at the end is cancelled. */
    pg_limit(keep->mirror, -1, keep->keeper->stop_fd);
    return true;
}

static void do_duties(struct keep *keep, struct duty *duties, int count)
{
    for (int i = 0; i < count && !*keep->keeper->stop; i++) {
        const int64_t now = clock_tick_us();
        struct error err = {0};
        bool is_ok;

        if (now < duties[i].due_us)
            continue;
        is_ok = connect_mirror(keep, &err) && duties[i].run(keep, &err);
        duties[i].due_us = now + duties[i].every_us;
        if (!is_ok && !duties[i].is_failing && !*keep->keeper->stop)
            log_error(LOG_WARNING, "ledger_keeper_trouble", &err);
        duties[i].is_failing = !is_ok;
    }
}

static void run_duties(struct keep *keep, struct duty *duties, int count, int turn_ms)
{
    struct pollfd fd = {.fd = keep->keeper->stop_fd, .events = POLLIN};

    while (!*keep->keeper->stop) {
        do_duties(keep, duties, count);
        poll(&fd, 1, turn_ms);
    }
}

/* What was counted in the last seconds. */
static void finish(struct keep *keep)
{
    struct error err = {0};

    if (keep->mirror == NULL || pg_is_broken(keep->mirror))
        return;
    pg_limit(keep->mirror, FINISH_MS, -1);
    if (!flush(keep, &err))
        log_error(LOG_WARNING, "ledger_keeper_trouble", &err);
}

#define COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

void *ledgerkeeper_run(void *arg)
{
    struct keep keep = {.keeper = arg, .application = "tailwater ledger", .seen = -1};
    struct duty duties[] = {{.run = add_partitions, .every_us = PARTITION_US},
                            {.run = news, .every_us = NEWS_US}};

    run_duties(&keep, duties, COUNT(duties), TURN_MS);
    pg_free(keep.mirror);
    return NULL;
}

void *ledgerkeeper_run_slow(void *arg)
{
    struct keep keep = {.keeper = arg, .application = "tailwater ledger keeper"};
    struct duty duties[] = {{.run = flush, .every_us = FLUSH_US},
                            {.run = summarize, .every_us = SUMMARIZE_US},
                            {.run = retain, .every_us = RETENTION_US},
                            {.run = make_ledgers, .every_us = LEDGERS_US},
                            {.run = close_hours, .every_us = HOURS_US}};

    run_duties(&keep, duties, COUNT(duties), SLOW_TURN_MS);
    finish(&keep);
    pg_free(keep.mirror);
    return NULL;
}
