/*
 * One loop, one look at the clock a turn, a table of duties.  Only the lock's connection is vital:
 * when it breaks, so has the lock, and the session must end.  Trouble with the source is only
 * logged here; if it is real, the receiver meets it too.
 */
#include "engine/watcher.h"

#include "base/clock.h"
#include "base/log.h"
#include "mirror/control.h"
#include "mirror/sweep.h"
#include "source/slot.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#define SAY_US   1000000
#define GUARD_US 10000000
#define SWEEP_US 30000000

/* A round of the sweep is done in turns: half a second, then as long for the batches and for the
 * other duties. */
#define SWEEP_EVERY_US  1000000
#define SWEEP_TURN_US   500000
#define SWEEP_TURN_ROWS 1000
#define TURN_MS         200

struct watch {
    struct watcher *watcher;
    struct pg *source; /* opened when needed, dropped when it breaks */
    bool is_message_off;
    enum { WAL_FINE, WAL_WARNING, WAL_CRITICAL } wal;
    bool is_source_down;
    int swept;            /* tables of this round */
    int64_t sweep_due_us; /* when the next round is due */
};

/* ---- the duties ---- */

static bool say(struct watch *watch, struct error *err)
{
    struct watcher *watcher = watch->watcher;
    const struct statistics *statistics = watcher->statistics;
    const struct control_heartbeat heartbeat = {
        .version = watcher->version,
        .state = "streaming",
        .started_at_us = watcher->started_at_us,
        .streaming_since_us = watcher->streaming_since_us,
        .received_lsn = statistics->received_lsn,
        .confirmed_lsn = statistics->confirmed_lsn,
        .lag_us = statistics_lag_us(statistics, clock_now_us()),
        .changes = statistics->changes,
        .transactions = statistics->transactions,
        .batches = statistics->batches,
        .copy_tables_done = -1,
        .copy_tables = -1,
        .copy_bytes_done = -1,
        .copy_bytes = -1,
        .reconnects = watcher->reconnects,
        .last_error = watcher->last_error,
        .last_error_at_us = watcher->last_error_at_us,
    };

    return control_heartbeat(watcher->lock, watcher->config->pipeline, &heartbeat, err) ||
           error_wrap(err, "the connection that holds the pipeline's lock");
}

static struct pg *source(struct watch *watch, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = watch->watcher->config->source.conninfo,
                                       .application = "tailwater watcher"};

    if (watch->source != NULL && pg_is_broken(watch->source)) {
        pg_free(watch->source);
        watch->source = NULL;
    }
    if (watch->source == NULL && !pg_connect(&options, &watch->source, err))
        return NULL;
    return watch->source;
}

/* A transactional message of ours: it moves an idle slot, and measures the lag end to end. */
static bool send_message(struct watch *watch, struct error *err)
{
    struct pg *pg;

    if (watch->is_message_off || watch->watcher->config->source.heartbeat == HEARTBEAT_OFF)
        return true;
    if ((pg = source(watch, err)) == NULL)
        return false;
    if (pg_execf(pg, err,
                 "select pg_catalog.pg_logical_emit_message(true, '%s', '{\"pipeline\":\"%s\"}')",
                 watch->watcher->prefix, watch->watcher->config->pipeline))
        return true;
    if (pg_is_broken(pg))
        return false;
    watch->is_message_off = true;
    log_event(watch->watcher->config->source.heartbeat == HEARTBEAT_ON ? LOG_WARNING : LOG_INFO,
              "heartbeat_off", "no heartbeat messages on the source: %s", err->message);
    return true;
}

static bool guard_wal(struct watch *watch, struct error *err)
{
    const struct config *config = watch->watcher->config;
    struct pg *pg = source(watch, err);
    struct slot_status slot;
    int level;

    if (pg == NULL || !slot_look(pg, config->source.slot, &slot, err))
        return false;
    level = slot.retained_bytes >= config->source.wal_guard.critical_bytes ? WAL_CRITICAL
            : slot.retained_bytes >= config->source.wal_guard.warn_bytes   ? WAL_WARNING
                                                                           : WAL_FINE;
    if (level > (int) watch->wal)
        log_event(level == WAL_CRITICAL ? LOG_ERROR : LOG_WARNING,
                  level == WAL_CRITICAL ? "wal_critical" : "wal_warning",
                  "the slot %s retains %" PRId64 " MB of WAL on the source (warn at %" PRId64
                  " MB, critical at %" PRId64
                  " MB); see whether the mirror keeps up: tailwater status",
                  config->source.slot, slot.retained_bytes >> 20,
                  config->source.wal_guard.warn_bytes >> 20,
                  config->source.wal_guard.critical_bytes >> 20);
    else if (level == WAL_FINE && watch->wal != WAL_FINE)
        log_event(LOG_INFO, "wal_fine", "the slot %s retains %" PRId64 " MB of WAL again",
                  config->source.slot, slot.retained_bytes >> 20);
    watch->wal = (unsigned) level;
    return true;
}

/* *ret_is_done: no more old tombstones in it.  Otherwise the turn is over, or a batch has the
 * clock. */
static bool sweep_table(const struct watch *watch, const struct table *table, int64_t deadline_us,
                        bool *ret_is_done, struct error *err)
{
    const struct watcher *watcher = watch->watcher;
    int64_t deleted = table->purge_after_us > 0 ? SWEEP_TURN_ROWS : 0;

    while (deleted == SWEEP_TURN_ROWS && clock_tick_us() < deadline_us && !*watcher->stop)
        if (!sweep_slice(watcher->lock, watcher->config->pipeline, table->mirror_schema,
                         table->mirror_name, table->purge_after_us, SWEEP_TURN_ROWS, &deleted, err))
            return error_wrap(err, "sweeping %s", table->label);
    *ret_is_done = deleted != SWEEP_TURN_ROWS && deleted != SWEEP_BUSY;
    return true;
}

/* A round over all tables, as far as it gets in this turn. */
static bool sweep(struct watch *watch, struct error *err)
{
    const struct table_list *list = watch->watcher->list;
    const int64_t now = clock_tick_us();
    bool is_done = true;

    if (now < watch->sweep_due_us)
        return true;
    while (watch->swept < list->count) {
        if (!sweep_table(watch, &list->tables[watch->swept], now + SWEEP_TURN_US, &is_done, err))
            return false;
        if (!is_done)
            return true;
        watch->swept++;
    }
    watch->swept = 0;
    watch->sweep_due_us = now + SWEEP_US;
    return true;
}

/* ---- the loop ---- */

struct duty {
    bool (*run)(struct watch *watch, struct error *err);
    int64_t every_us;
    int64_t due_us;
    bool is_vital; /* its failure ends the session */
};

/* Trouble with the source is said once until it is over. */
static void note_trouble(struct watch *watch, const struct error *err)
{
    if (!watch->is_source_down)
        log_error(LOG_WARNING, "watcher_trouble", err);
    watch->is_source_down = true;
}

static bool do_duties(struct watch *watch, struct duty *duties, int count, struct error *err)
{
    for (int i = 0; i < count; i++) {
        const int64_t now = clock_tick_us();

        if (now < duties[i].due_us)
            continue;
        duties[i].due_us = now + duties[i].every_us;
        if (duties[i].run(watch, err)) {
            watch->is_source_down &= duties[i].run != guard_wal;
            continue;
        }
        if (duties[i].is_vital)
            return false;
        note_trouble(watch, err);
    }
    return true;
}

void *watcher_run(void *arg)
{
    struct watcher *watcher = arg;
    struct watch watch = {.watcher = watcher};
    struct duty duties[] = {
        {.run = say, .every_us = SAY_US, .is_vital = true},
        {.run = send_message, .every_us = watcher->config->source.heartbeat_interval_us},
        {.run = guard_wal, .every_us = GUARD_US},
        {.run = sweep, .every_us = SWEEP_EVERY_US, .is_vital = true},
    };
    struct error err = {0};

    while (!*watcher->stop) {
        if (!do_duties(&watch, duties, sizeof(duties) / sizeof(duties[0]), &err)) {
            handover_fail(watcher->handover, &err);
            break;
        }
        poll(NULL, 0, TURN_MS);
    }
    pg_free(watch.source);
    return NULL;
}
