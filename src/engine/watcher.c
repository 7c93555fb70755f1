/*
 * Two threads, so that a source that does not answer never keeps the mirror waiting.  Each is one
 * loop, one look at the clock a turn, a table of duties.
 *
 * The lock's connection is vital: when it breaks, so has the lock, and the session must end.
 * Trouble with the source is only logged here; if it is real, the receiver meets it too.  Its
 * statements have a time limit, and its commits wait for no standby: a heartbeat message is lost
 * without harm.
 */
#include "engine/watcher.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/log.h"
#include "base/pulse.h"
#include "batch/batch.h"
#include "engine/volumes.h"
#include "engine/wal_guard.h"
#include "mirror/control.h"
#include "mirror/ddl.h"
#include "mirror/freshness.h"
#include "mirror/status.h"
#include "mirror/sweep.h"
#include "source/watch.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAY_US         1000000
#define SWEEP_US       30000000
#define SWEEP_FIRST_US 5000000

/* Tables without old tombstones share a turn of this length. */
#define SWEEP_TURN_US 200000
#define SWEEP_BUSY_US 1000000 /* when to ask again after a batch that had the clock */
#define TURN_MS       200

/* The mirror's answer to a heartbeat, and to a slice of the sweep (which waits for no lock for
 * long): who has not answered by then, and does not answer a cancel either, is gone. */
#define SAY_TIMEOUT_MS   20000
#define SWEEP_TIMEOUT_MS 60000
#define COUNT_TIMEOUT_MS 5000 /* this connection says the heartbeat */

#define COUNT_US 5000000

/* A commit may carry a time from before its record is in the WAL, and be written a moment later. */
#define COMMIT_US 1000000

#define PROVEN_US 15000000 /* nothing to get past, perhaps */

#define LOOK_US 10000000 /* between looks at the source's definitions */

#define ASK_US          3000000
#define CLOCK_STEADY_US 1000000

#define SOURCE_TIMEOUT_MS 5000
#define CONNECT_TIMEOUT_S 5

/* So long a source may wait for our confirmation while it shuts down. */
#define SHUTDOWN_US        5000000
#define SHUTDOWN_ASK_US    1000000
#define CANNOT_CONNECT_NOW "57P03"

struct watch {
    struct watcher *watcher;
    struct pg *source; /* opened when needed, dropped when it breaks */
    bool is_proven;
    lsn_t began_at; /* the cursor when the session began; 0: not looked at yet */
    bool is_message_off, is_clock_wrong, is_freshness_failing;
    lsn_t asked_lsn;  /* where the source's WAL was … */
    int64_t asked_us; /* … then, by its clock: complete once the mirror is past it */
    int64_t mirror_before_us, source_before_us; /* the clocks, at the look before */
    char blocker[256]; /* the remedy that was said last, which names the transaction */
    enum wal_level wal;
    bool is_source_down;
    int64_t
        refused_since_us; /* it takes no connection any more: it is shutting down; 0: it is not */
    int swept;            /* tables done in this round */
    bool is_later_round;
    int64_t sweep_due_us; /* when the next slice, or round, is due */
};

/* ---- clocks ---- */

/* The answer was made between the question and now. */
static int64_t ahead(int64_t asked_us, int64_t answer_us)
{
    return answer_us - (asked_us + clock_now_us()) / 2;
}

/* Both clocks as found twice: one that is being set is not a wrong one of somebody else's. */
static void note_clocks(struct watch *watch, int64_t source_us)
{
    struct watcher *watcher = watch->watcher;
    const int64_t mirror_us = watcher->mirror_seen_us;

    if (llabs(source_us - watch->source_before_us) < CLOCK_STEADY_US &&
        llabs(mirror_us - watch->mirror_before_us) < CLOCK_STEADY_US) {
        watcher->source_ahead_us = source_us;
        watcher->mirror_ahead_us = mirror_us;
    }
    watch->source_before_us = source_us;
    watch->mirror_before_us = mirror_us;
}

/* Said once, until it is over. */
static void judge_clocks(struct watch *watch)
{
    const struct watcher *watcher = watch->watcher;
    char off[HUMAN_TEXT_SIZE];
    const char *whose;
    int64_t ahead_us;
    const bool is_wrong = status_clock_is_wrong(watcher->source_ahead_us, watcher->mirror_ahead_us,
                                                &whose, &ahead_us);

    if (is_wrong && !watch->is_clock_wrong)
        log_event(
            LOG_WARNING, "clock_wrong",
            "the clock of %s is %s %s the others': ages and lag are wrong by as much; set that "
            "clock (timedatectl set-ntp true, or chronyc makestep there)",
            whose ? whose : "this machine", human_duration(llabs(ahead_us) + 500000, off),
            ahead_us > 0 ? "ahead of" : "behind");
    else if (!is_wrong && watch->is_clock_wrong)
        log_event(LOG_INFO, "clock_right", "the clocks agree again");
    watch->is_clock_wrong = is_wrong;
}

/* ---- the duties ---- */

/*
 * A session after a failure has to get past the place first: until then it is the same failure's next
 * try, and is called so.
 */
static bool is_proven(struct watch *watch)
{
    const struct watcher *watcher = watch->watcher;

    if (watch->began_at == 0)
        watch->began_at = watcher->statistics->cursor;
    watch->is_proven |= watcher->last_state == NULL ||
                        watcher->statistics->cursor > watch->began_at ||
                        clock_now_us() - watcher->last_error_at_us > PROVEN_US;
    return watch->is_proven;
}

static bool say(struct watch *watch, struct error *err)
{
    struct watcher *watcher = watch->watcher;
    const struct statistics *statistics = watcher->statistics;
    const struct control_heartbeat heartbeat = {
        .version = watcher->version,
        .plugin = watcher->plugin,
        .state = is_proven(watch) ? "streaming" : watcher->last_state,
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
        .last_hint = watcher->last_hint,
        .last_error_at_us = watcher->last_error_at_us,
        .source_ahead_us = watcher->source_ahead_us,
        .mirror_ahead_us = watcher->mirror_ahead_us,
    };
    const int64_t asked_us = clock_now_us();
    int64_t now_us = 0;
    bool is_said;

    pg_limit(watcher->lock, SAY_TIMEOUT_MS, watcher->stop_fd);
    is_said = control_heartbeat(watcher->lock, watcher->config->pipeline, &heartbeat, &now_us, err);
    pg_limit(watcher->lock, SWEEP_TIMEOUT_MS, watcher->stop_fd);
    if (is_said) {
        watcher->mirror_seen_us = ahead(asked_us, now_us);
        judge_clocks(watch);
        return true;
    }
    error_wrap(err, "the connection that holds the pipeline's lock");
    if (*watcher->stop)
        return true;
    if (pg_is_broken(watcher->lock) || err->kind != ERROR_RETRY)
        return false;
    /* It answered the cancel: slow, but there, and the lock is ours still. */
    log_error(LOG_WARNING, "heartbeat_failed", err);
    return true;
}

static struct pg *source(struct watch *watch, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = watch->watcher->config->source.conninfo,
                                       .application = "tailwater watcher",
                                       .settings = "-c synchronous_commit=off",
                                       .connect_timeout_s = CONNECT_TIMEOUT_S};

    if (watch->source != NULL && pg_is_broken(watch->source)) {
        pg_free(watch->source);
        watch->source = NULL;
    }
    if (watch->source == NULL) {
        if (!pg_connect(&options, &watch->source, err))
            return NULL;
        pg_limit(watch->source, SOURCE_TIMEOUT_MS, watch->watcher->stop_fd);
    }
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
    if (pg_is_broken(pg) || err->kind == ERROR_RETRY)
        return false;
    watch->is_message_off = true;
    log_event(watch->watcher->config->source.heartbeat == HEARTBEAT_ON ? LOG_WARNING : LOG_INFO,
              "heartbeat_off", "no heartbeat messages on the source: %s", err->message);
    return true;
}

static bool guard_wal(struct watch *watch, struct error *err)
{
    struct pg *pg = source(watch, err);

    return pg != NULL && wal_guard(pg, watch->watcher->config, &watch->wal, err);
}

/* Without a look at the source's position nobody knows whether silence is the source's or ours. */
static void note_complete(struct watch *watch, lsn_t lsn, int64_t source_us)
{
    struct watcher *watcher = watch->watcher;

    if (watch->asked_lsn != 0 && watcher->statistics->cursor >= watch->asked_lsn) {
        watcher->complete_us = watch->asked_us - COMMIT_US;
        watch->asked_lsn = 0;
    }
    if (watch->asked_lsn == 0) {
        watch->asked_lsn = lsn;
        watch->asked_us = source_us;
    }
}

static bool compare_clock(struct watch *watch, struct error *err)
{
    struct pg *pg = source(watch, err);
    _cleanup_result_ struct pg_result *row = NULL;
    const int64_t asked_us = clock_now_us();

    if (pg == NULL ||
        !pg_query_row(pg,
                      "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, CASE WHEN "
                      "pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() "
                      "END",
                      0, NULL, &row, err))
        return false;
    note_clocks(watch, ahead(asked_us, pg_int(row, 0, 0)));
    note_complete(watch, pg_lsn(row, 0, 1), pg_int(row, 0, 0));
    return true;
}

/* Said once for each transaction that is waited for. */
static bool look_for_blocker(struct watch *watch, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct pg *pg = source(watch, err);
    const char *words, *next;

    if (pg == NULL ||
        !watch_find_blocker(pg, watch->watcher->config->pipeline, &arena, &words, &next, err))
        return false;
    if (words != NULL && strcmp(next, watch->blocker) != 0)
        log_event(LOG_WARNING, "snapshot_waiting", "%s; %s", words, next);
    snprintf(watch->blocker, sizeof(watch->blocker), "%s", words != NULL ? next : "");
    return true;
}

/* A table that lost its replica identity has to be left out (run.c), whatever else is followed. */
static bool look_for_identities(struct watch *watch, struct error *err)
{
    const struct watcher *watcher = watch->watcher;
    _cleanup_(arena_release) struct arena arena = {0};
    struct pg *pg = source(watch, err);
    const struct table **unkeyed;
    int count;

    if (watcher->config->apply.on_error != ON_ERROR_QUARANTINE)
        return true;
    if (pg == NULL || !watch_find_unkeyed(pg, watcher->list, &arena, &count, &unkeyed, err))
        return false;
    for (int i = 0; i < count; i++)
        if (watcher->left_out_from[unkeyed[i]->index] == BATCH_NEVER)
            *watcher->is_reloading = true;
    return true;
}

static bool look_for_changes(struct watch *watch, struct error *err)
{
    struct watcher *watcher = watch->watcher;
    struct pg *pg = source(watch, err);
    uint64_t hash = 0;

    if (!config_is_followed(watcher->config))
        return true;
    if (pg == NULL || !watch_hash(pg, watcher->known, watcher->list, &hash, err))
        return false;
    if (watcher->hash == 0)
        watcher->hash = hash;
    if (hash != watcher->hash)
        *watcher->is_reloading = true;
    return true;
}

/* Tombstones that an earlier retention left, where batches leave none now: looked for once, by
 * their index. */
static bool has_leftovers(const struct watch *watch, const struct table *table, bool *ret_is,
                          struct error *err)
{
    *ret_is = false;
    return table->purge_after_us != 0 || watch->is_later_round ||
           ddl_has_tombstone_index(watch->watcher->lock, table, ret_is, err);
}

/* One slice of the table in hand; the pause after it is as long as it took. */
static bool sweep_table(struct watch *watch, const struct table *table, struct error *err)
{
    const struct watcher *watcher = watch->watcher;
    const int64_t began_us = clock_tick_us();
    int64_t deleted = 0;
    bool is_swept;

    if (!has_leftovers(watch, table, &is_swept, err))
        return false;
    if ((is_swept || table->purge_after_us > 0) &&
        !sweep_slice(watcher->lock, watcher->config->pipeline, table->mirror_schema,
                     table->mirror_name, table->purge_after_us, SWEEP_SLICE_ROWS, &deleted, err))
        return error_wrap(err, "sweeping %s", table->label);
    if (deleted == SWEEP_BUSY)
        watch->sweep_due_us = clock_tick_us() + SWEEP_BUSY_US;
    else if (deleted == SWEEP_SLICE_ROWS)
        watch->sweep_due_us = 2 * clock_tick_us() - began_us;
    else
        watch->swept++;
    return true;
}

/* A round over all tables: in one turn up to the first that takes a slice, or has none to give. */
static bool sweep(struct watch *watch, struct error *err)
{
    const struct table_list *list = watch->watcher->list;
    const int64_t now = clock_tick_us();

    if (now < watch->sweep_due_us)
        return true;
    while (watch->swept < list->count) {
        struct error failure = {0};

        if (!sweep_table(watch, &list->tables[watch->swept], &failure)) {
            if (pg_is_broken(watch->watcher->lock)) {
                *err = failure;
                return false;
            }
            log_error(LOG_WARNING, "sweep_failed", &failure);
            watch->swept++;
        }
        if (watch->sweep_due_us > now || clock_tick_us() - now > SWEEP_TURN_US ||
            *watch->watcher->stop)
            return true;
    }
    watch->swept = 0;
    watch->is_later_round = true;
    watch->sweep_due_us = now + SWEEP_US;
    return true;
}

/* ---- freshness ---- */

int64_t watcher_complete_us(const struct watcher *watcher)
{
    const int64_t applied_us = watcher->statistics->applied_commit_us - COMMIT_US;

    return watcher->complete_us > applied_us ? watcher->complete_us
           : applied_us > 0                  ? applied_us
                                             : 0;
}

/* Counts are worth a warning, no more: what cannot be stored is kept for later. */
static bool count_changes(struct watch *watch, struct error *err)
{
    struct watcher *watcher = watch->watcher;
    const char *pipeline = watcher->config->pipeline;
    struct error failure = {0};
    bool is_ok;

    pg_limit(watcher->lock, COUNT_TIMEOUT_MS, watcher->stop_fd);
    is_ok = volumes_store(watcher->lock, pipeline, watcher_complete_us(watcher), &failure) &&
            freshness_learn(watcher->lock, pipeline, &failure) &&
            volumes_look(watcher->lock, watcher->config, &failure);
    pg_limit(watcher->lock, SWEEP_TIMEOUT_MS, watcher->stop_fd);
    if (!is_ok && pg_is_broken(watcher->lock)) {
        *err = failure;
        return error_wrap(err, "the connection that holds the pipeline's lock");
    }
    if (!is_ok && !watch->is_freshness_failing && !*watcher->stop)
        log_error(LOG_WARNING, "freshness_failed", &failure);
    watch->is_freshness_failing = !is_ok;
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
    if (!watch->is_source_down && !*watch->watcher->stop)
        log_error(LOG_WARNING, "watcher_trouble", err);
    watch->is_source_down = true;
}

/*
 * A source that shuts down lets go of everybody but its walsenders: it waits until what they sent is
 * confirmed, for as long as that takes.  Where the mirror hangs that would be for ever, since the
 * receiver goes on answering: so the stream is given up, and sent again after the restart (P40).
 */
static bool is_holding_up(struct watch *watch, const struct error *err)
{
    const int64_t now = clock_tick_us();

    if (strcmp(err->sqlstate, CANNOT_CONNECT_NOW) != 0)
        watch->refused_since_us = 0;
    else if (watch->refused_since_us == 0)
        watch->refused_since_us = now;
    return watch->refused_since_us != 0 && now - watch->refused_since_us >= SHUTDOWN_US;
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
            watch->refused_since_us = 0;
            continue;
        }
        if (duties[i].is_vital || is_holding_up(watch, err))
            return false;
        if (watch->refused_since_us != 0)
            duties[i].due_us = now + SHUTDOWN_ASK_US;
        note_trouble(watch, err);
    }
    return true;
}

static void run_duties(struct watch *watch, enum pulse_part part, struct duty *duties, int count)
{
    struct watcher *watcher = watch->watcher;
    struct error err = {0};

    while (!*watcher->stop) {
        struct pollfd fd = {.fd = watcher->stop_fd, .events = POLLIN};

        pulse_beat(part);
        if (!do_duties(watch, duties, count, &err)) {
            handover_fail(watcher->handover, &err, NULL);
            break;
        }
        poll(&fd, 1, TURN_MS);
    }
    pulse_rest(part);
}

void *watcher_run(void *arg)
{
    struct watch watch = {.watcher = arg, .sweep_due_us = clock_tick_us() + SWEEP_FIRST_US};
    struct duty duties[] = {{.run = say, .every_us = SAY_US, .is_vital = true},
                            {.run = sweep, .is_vital = true},
                            {.run = count_changes, .every_us = COUNT_US, .is_vital = true}};

    /* A statement in progress at the end is cancelled. */
    pg_limit(watch.watcher->lock, SWEEP_TIMEOUT_MS, watch.watcher->stop_fd);
    run_duties(&watch, PULSE_MIRROR_WATCHER, duties, sizeof(duties) / sizeof(duties[0]));
    /* The connection outlives the session, and the descriptor does not. */
    pg_limit(watch.watcher->lock, 0, -1);
    return NULL;
}

void *watcher_run_source(void *arg)
{
    struct watch watch = {.watcher = arg};
    struct duty duties[] = {
        {.run = send_message, .every_us = watch.watcher->config->source.heartbeat_interval_us},
        {.run = guard_wal, .every_us = WAL_GUARD_US},
        {.run = compare_clock, .every_us = ASK_US},
        {.run = look_for_blocker, .every_us = ASK_US},
        {.run = look_for_identities, .every_us = LOOK_US},
        {.run = look_for_changes, .every_us = LOOK_US}};

    run_duties(&watch, PULSE_SOURCE_WATCHER, duties, sizeof(duties) / sizeof(duties[0]));
    pg_free(watch.source);
    return NULL;
}
