/*
 * run_pipeline() is the whole life, one line a stage.  Signals set a flag and an eventfd; nobody is
 * interrupted in the middle of a commit.  A thread waits for that too: should the end take too long
 * after it, a server does not answer, and all connections are shut down.
 */
#include "engine/run.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "batch/binding.h"
#include "engine/feeder.h"
#include "engine/prepare.h"
#include "engine/prepare_facts.h"
#include "engine/session.h"
#include "engine/stop.h"
#include "engine/supervisor.h"
#include "http/server.h"
#include "mirror/control.h"
#include "mirror/quarantine.h"
#include "mirror/statement.h"
#include "mirror/writer.h"
#include "source/slot.h"
#include "source/watch.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PAUSE_MS 100
#define LONGEST_MS     10000
#define STOP_MS        12000 /* until connections are shut down */
#define SAME_ERROR_US  60000000

/* The servers give a client up that went without a word after 60 s (pg.c's tcp_keepalives_…). */
#define HELD_US 75000000

/* So many times somebody else has changed the same rows: it is no accident. */
#define MAX_SAME_ERRORS 8

static struct reload reload_asked; /* by SIGHUP, or by whom the session has */

struct life {
    const struct run_options *options;
    const struct config *config; /* the options', or later versions of its file … */
    struct arena config_arena;   /* … which are in here */
    struct arena arena;          /* of the preparation: catalog, tables */
    struct prepared_pipeline prepared;
    bool is_prepared;
    struct feeder_list *feeders; /* from the first preparation to the end, but while reloading */
    struct server *http;         /* from the first lock to the end; NULL before that, and unasked */
    enum renewal renewal;        /* to be done by the next preparation */
    bool is_guarded;             /* as session.h has it */
    bool has_streamed;           /* or copied: it works, in principle */
    int64_t started_at_us;
    int64_t patience_ends_us; /* clock_tick_us(): until then we wait for what is not there */
    lsn_t until;
    int64_t reconnects;
    int pause_ms;
    struct error last_error;
    int64_t last_error_at_us;
    int64_t nsame; /* times the last error came in a row, at the same cursor */
    int64_t said_us;
    int64_t held_since_us; /* clock_tick_us(): somebody holds the lock or the slot; 0: no */
    bool is_locked_out;    /* it is the lock: the pipeline has another replicator */
    lsn_t cursor;          /* after the last session */
    lsn_t error_cursor;    /* at the last error */
    lsn_t looked_lsn;    /* at a change up to here that was refused the source was looked at anew */
    lsn_t careful_until; /* a batch up to here was refused: its transactions go one by one */
};

static void on_hangup(int number)
{
    (void) number;
    reload_asked.is_from_file = reload_asked.is_due = true;
}

static bool catch_signals(struct error *err)
{
    const struct sigaction action = {.sa_handler = on_hangup};

    if (!stop_catch(err))
        return false;
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return true;
}

/* ---- one try ---- */

/* Where the source's WAL is now: the end of --until now. */
static bool find_until(struct life *life, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = life->config->source.conninfo,
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

/* For cron, for a job. */
static bool ends_by_itself(const struct run_options *options)
{
    return options->is_until_now || options->until != 0 || options->job != 0;
}

/* A run that ends by itself sends nothing: tailwater feed run does. */
static bool start_feeders(struct life *life, struct error *err)
{
    return ends_by_itself(life->options) || feeder_start_all(life->config, &life->feeders, err);
}

/* Once the pipeline is ours, so that a second instance is told that, not that its port is taken. */
static bool start_http(struct life *life, struct error *err)
{
    const struct config *config = life->config;

    if (config->http.host == NULL || life->http != NULL || ends_by_itself(life->options))
        return true;
    if (!server_start(config, life->options->version, &life->http, err))
        return false;
    log_event(LOG_INFO, "http_listening", "status and metrics at http://%s%s%s:%d/",
              strchr(config->http.host, ':') ? "[" : "", config->http.host,
              strchr(config->http.host, ':') ? "]" : "", config->http.port);
    return true;
}

static bool prepare(struct life *life, struct pg *lock, struct error *err)
{
    struct prepared_pipeline prepared = {0};
    struct arena arena = {0};
    bool is_ok;

    if (life->is_prepared)
        return prepare_facts_again(lock, life->config, &life->prepared.facts, err);
    is_ok = prepare_pipeline(&(struct prepare_options){.config = life->config,
                                                       .version = life->options->version,
                                                       .started_at_us = life->started_at_us,
                                                       .lock = lock,
                                                       .stop = stop_flag(),
                                                       .stop_fd = stop_fd(),
                                                       .renewal = life->renewal,
                                                       .job = life->options->job},
                             &arena, &prepared, err);
    life->has_streamed |= prepared.has_begun;
    life->is_prepared = is_ok;
    if (!is_ok) {
        arena_release(&arena);
        return false;
    }
    arena_release(&life->arena);
    life->arena = arena;
    life->prepared = prepared;
    life->renewal = RENEW_NOT;
    server_follow(life->http, life->config);
    return start_feeders(life, err);
}

/* What the heartbeat says meanwhile. */
static const char *state_after(const struct error *err)
{
    return err->kind == ERROR_SOURCE   ? "waiting for the source"
           : err->kind == ERROR_MIRROR ? "waiting for the mirror"
                                       : "waiting to try again";
}

static bool run_session(struct life *life, struct pg *lock, struct culprit *ret_culprit,
                        struct error *err)
{
    struct session_outcome outcome;
    const bool is_ok = session_run(
        &(struct session_options){
            .config = life->config,
            .version = life->options->version,
            .prepared = &life->prepared,
            .is_guarded = &life->is_guarded,
            .lock = lock,
            .stop = stop_flag(),
            .reload = &reload_asked,
            .until = life->until,
            .careful_until = life->careful_until,
            .job = life->options->job,
            .started_at_us = life->started_at_us,
            .reconnects = life->reconnects,
            .last_error = life->last_error_at_us ? life->last_error.message : NULL,
            .last_hint = life->last_error_at_us && life->last_error.hint[0] ? life->last_error.hint
                                                                            : NULL,
            .last_state = life->last_error_at_us ? state_after(&life->last_error) : NULL,
            .last_error_at_us = life->last_error_at_us},
        &outcome, err);

    life->has_streamed |= outcome.has_streamed;
    life->cursor = outcome.cursor;
    *ret_culprit = outcome.culprit;
    return is_ok;
}

/*
 * A session failed by the data of a table.  Where it is known which table and which transaction
 * brought them, the table is left out from there on; where not, the next session takes the batch's
 * transactions one by one, and looks after each table.  True: go on with the next session.
 */
static bool isolate(struct life *life, struct pg *lock, const struct culprit *culprit,
                    struct error *err)
{
    const struct config *config = life->config;
    struct culprit marked = *culprit;
    struct error failure;

    marked.is_followed = config_is_followed(config);
    if (stop_is_raised() || config->apply.on_error != ON_ERROR_QUARANTINE || culprit->last_lsn == 0)
        return false;
    if (pg_is_broken(lock)) { /* the mark waits: the next session meets the same change */
        err->kind = ERROR_RETRY;
        return false;
    }
    if ((culprit->first_lsn != culprit->last_lsn || culprit->table == NULL) &&
        culprit->last_lsn > life->careful_until) {
        life->careful_until = culprit->last_lsn;
        log_error(LOG_DEBUG, "refused", err);
        return true;
    }
    if (culprit->table == NULL)
        return false;
    /* The source's table may have changed since we looked: then that is to be followed first.  Rows of
     * a snapshot have been read in the table's present shape. */
    if (config_is_followed(config) && !culprit->is_side && life->looked_lsn != culprit->last_lsn) {
        life->looked_lsn = culprit->last_lsn;
        log_error(LOG_DEBUG, "refused", err);
        life->is_prepared = false;
        return prepare(life, lock, err);
    }
    if (!FAULT(quarantine_before_mark, &failure) ||
        !quarantine_begin(lock, config->pipeline, &marked, err, &failure)) {
        log_error(LOG_WARNING, "refused", err);
        *err = failure;
        return false;
    }
    quarantine_hint(culprit->table, config->file, err);
    log_error(LOG_ERROR, "quarantined", err);
    life->is_prepared = strcmp(err->sqlstate, BINDING_SHAPE) != 0;
    return FAULT(quarantine_after_mark, err) && (life->is_prepared || prepare(life, lock, err));
}

static void note_reload_failure(const struct error *err)
{
    log_error(LOG_ERROR, "reload_failed", err);
    snprintf(reload_asked.failure, sizeof(reload_asked.failure), "%s%s%s", err->message,
             err->hint[0] ? "; " : "", err->hint);
}

/* The file again; what cannot change while the pipeline runs is as it was.  False: so is the rest. */
static bool read_config(struct life *life)
{
    const struct config *before = life->config;
    struct config *config = arena_new(&life->config_arena, struct config, 1);
    struct error err = {0};
    bool is_ok = config_load(before->file, &life->config_arena, config, &err);

    if (is_ok && (strcmp(config->pipeline, before->pipeline) != 0 ||
                  strcmp(config->source.conninfo, before->source.conninfo) != 0 ||
                  strcmp(config->mirror.conninfo, before->mirror.conninfo) != 0)) {
        error_set(&err, ERROR_CONFIG,
                  "pipeline, source.conninfo and mirror.conninfo do not change "
                  "while it runs");
        error_hint(&err, "restart it");
        is_ok = false;
    }
    if (!is_ok) {
        error_wrap(&err, "reading the configuration again");
        note_reload_failure(&err);
        return false;
    }
    log_event(LOG_INFO, "reloaded", "%s is read again", config->file);
    life->config = config;
    return true;
}

/*
 * A table that lost its replica identity: updates and deletes of it may not be sent any more, and nobody
 * would be told.  So it is left out from here on, whatever becomes of the rest.
 */
static bool leave_out_unkeyed(struct life *life, struct pg *lock, struct error *err)
{
    const struct config *config = life->config;
    const struct pg_options options = {
        .side = PG_SOURCE, .conninfo = config->source.conninfo, .application = "tailwater prepare"};
    const struct table_list *list = &life->prepared.catalog.tables;
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_pg_ struct pg *source = NULL;
    const struct table **unkeyed;
    int count;

    if (config->apply.on_error != ON_ERROR_QUARANTINE)
        return true;
    if (!pg_connect(&options, &source, err) ||
        !watch_find_unkeyed(source, list, &arena, &count, &unkeyed, err))
        return false;
    for (int i = 0; i < count; i++) {
        const struct culprit culprit = {
            .table = unkeyed[i], .first_lsn = life->cursor, .last_lsn = life->cursor};
        struct error reason = {0};

        if (life->prepared.states[unkeyed[i] - list->tables].quarantine.lsn != 0)
            continue;
        error_set(
            &reason, ERROR_CONFIG,
            "%s has no replica identity any more, so that updates and deletes may be missing; on "
            "the source: ALTER TABLE %s REPLICA IDENTITY DEFAULT; (which needs its primary key)",
            unkeyed[i]->label, unkeyed[i]->label);
        if (!quarantine_begin(lock, config->pipeline, &culprit, &reason, err))
            return false;
        life->prepared.states[unkeyed[i] - list->tables].quarantine.lsn = life->cursor;
        quarantine_hint(unkeyed[i], config->file, &reason);
        log_error(LOG_ERROR, "quarantined", &reason);
    }
    return true;
}

/* Prepares anew, between two sessions.  What cannot be followed is said, and everything goes on as it
 * was before. */
static bool reload(struct life *life, struct pg *lock, struct error *err)
{
    const struct config *before = life->config;

    reload_asked.is_due = false;
    reload_asked.failure[0] = '\0';
    if (atomic_exchange(&reload_asked.is_from_file, false) && read_config(life))
        feeder_finish_all(
            &life->feeders); /* prepare() starts them again, as they are declared now */
    if (!leave_out_unkeyed(life, lock, err))
        return false;
    life->is_prepared = false;
    if (prepare(life, lock, err))
        return true;
    if (err->kind != ERROR_CONFIG && err->kind != ERROR_FINDINGS)
        return false;
    note_reload_failure(err);
    life->config = before;
    life->prepared.hash = 0; /* until something else changes */
    life->is_prepared = true;
    return start_feeders(life, err);
}

static bool try_once(struct life *life, struct error *err)
{
    const struct config *config = life->config;
    _cleanup_pg_ struct pg *lock = NULL;
    struct culprit culprit;

    if (life->until == 0 && !find_until(life, err))
        return false;
    if (!control_lock(config->mirror.conninfo, config->pipeline, &lock, err)) {
        life->is_locked_out = err->kind == ERROR_BUSY;
        return false;
    }
    life->is_locked_out = false;
    if (!start_http(life, err))
        return false;
    supervisor_ready();
    supervisor_say(life->has_streamed ? "connecting anew" : "preparing, copying what is missing");
    if (!prepare(life, lock, err))
        return false;
    supervisor_say("streaming");
    for (;;) {
        if (run_session(life, lock, &culprit, err)) {
            if (!reload_asked.is_due || stop_is_raised())
                return true;
            if (!reload(life, lock, err))
                return false;
        } else if (!isolate(life, lock, &culprit, err)) {
            return false;
        }
    }
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
 * holds as long as that may be a lost session of our own. */
static bool is_worth_waiting(struct life *life, const struct error *err)
{
    const int64_t now = clock_tick_us();
    const bool is_server = err->kind == ERROR_SOURCE || err->kind == ERROR_MIRROR ||
                           err->kind == ERROR_RETRY;

    if (!is_passing(err) || (!life->has_streamed && pg_error_is_permanent(err)))
        return false;
    /* A job is for whoever is the replicator: one that has just begun has it. */
    if (life->is_locked_out && life->options->job != 0 && !life->has_streamed)
        return false;
    if (err->kind != ERROR_BUSY)
        life->held_since_us = 0;
    else if (life->held_since_us == 0)
        life->held_since_us = now;
    if (life->has_streamed && (is_server || now - life->held_since_us < HELD_US))
        return true;
    return now < life->patience_ends_us;
}

/* A write that met other rows than it had just seen: once is chance, always is a trigger or another
 * writer. */
static bool is_hopeless(const struct life *life, struct error *err)
{
    if (strcmp(err->sqlstate, STATEMENT_MISCOUNTED) != 0 || life->nsame < MAX_SAME_ERRORS)
        return false;
    err->kind = ERROR_FAILED;
    error_wrap(err, "%d times at the same position", MAX_SAME_ERRORS);
    error_hint(err, "look for a trigger or a rule on the mirror table, or for another program that "
                    "writes to it; remove that, then run again");
    return true;
}

/*
 * On the mirror, for whoever asks there how the pipeline is: it waits, or has ended, and why.  Where that
 * cannot be written nobody can read it either; the log has it.
 */
static void note_on_mirror(const struct life *life, const struct error *err, int exit_code)
{
    const struct config *config = life->config;
    struct error ignored;

    if (err->kind == ERROR_BUSY) {
        if (life->is_locked_out && life->options->job == 0 &&
            !control_note_rival(config->mirror.conninfo, config->pipeline, &ignored))
            log_error(LOG_DEBUG, "heartbeat_failed", &ignored);
        return;
    }
    if (!control_note_failure(config->mirror.conninfo, config->pipeline, life->options->version,
                              exit_code > 0 ? "failed" : state_after(err), err, exit_code,
                              &ignored))
        log_error(LOG_DEBUG, "heartbeat_failed", &ignored);
}

static void note_failure(struct life *life, const struct error *err)
{
    const bool is_same = life->last_error_at_us != 0 && life->error_cursor == life->cursor &&
                         strcmp(life->last_error.message, err->message) == 0;
    const bool is_due = clock_tick_us() - life->said_us >= SAME_ERROR_US;
    struct error said = *err;

    life->nsame = is_same ? life->nsame + 1 : 1;
    if (life->nsame > 1)
        error_wrap(&said, "%" PRId64 " times now", life->nsame);
    log_error(is_same && !is_due ? LOG_DEBUG : LOG_WARNING, "interrupted", &said);
    supervisor_say(err->message);
    if (!is_same || is_due)
        life->said_us = clock_tick_us();
    life->error_cursor = life->cursor;
    life->last_error = *err;
    life->last_error_at_us = clock_now_us();
    note_on_mirror(life, err, 0);
}

/* The slot is of no use any more, and that is to be lived with. */
static bool renew(struct life *life, const struct error *err)
{
    struct error said = *err;

    if (err->kind != ERROR_SLOT || life->renewal != RENEW_NOT ||
        life->config->source.on_lost != ON_LOST_RESYNC)
        return false;
    error_hint(&said, "source.on_lost: resync: the slot is made anew, and every table resynced");
    log_error(LOG_WARNING, "slot_lost", &said);
    life->renewal = RENEW_LOST;
    life->is_prepared = false;
    return true;
}

/* Doubling with jitter, so that a hundred replicators do not come back together. */
static void pause_before_retry(struct life *life)
{
    struct pollfd fd = {.fd = stop_fd(), .events = POLLIN};
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
    life->patience_ends_us = clock_tick_us() + life->config->source.start_timeout_us;
}

static bool live(struct life *life, struct error *err)
{
    for (;;) {
        const int64_t began_us = clock_tick_us();

        if (try_once(life, err)) {
            log_event(LOG_INFO, "stopped",
                      stop_is_raised()     ? "stopped by a signal"
                      : life->options->job ? "the job is done"
                                           : "caught up, as asked for");
            return true;
        }
        if (stop_is_raised()) {
            log_event(LOG_INFO, "stopped", "stopped by a signal");
            return true;
        }
        if (renew(life, err))
            continue;
        if (writer_explain_ledger(err))
            life->is_prepared = false;
        if (!is_worth_waiting(life, err))
            return false;
        note_failure(life, err);
        if (is_hopeless(life, err))
            return false;
        note_streamed(life, life->has_streamed && clock_tick_us() - began_us > 1000000);
        pause_before_retry(life);
    }
}

/* ---- the end ---- */

/* A thread: once stopped, everything has some seconds to end by itself. */
static void *watch_stop(void *arg)
{
    const atomic_bool *is_ended = arg;
    struct pollfd fd = {.fd = stop_fd(), .events = POLLIN};
    int64_t stopped_us = 0;

    while (!*is_ended) {
        if (!stop_is_raised()) {
            supervisor_tick();
            poll(&fd, 1, 1000);
            continue;
        }
        if (stopped_us == 0) {
            supervisor_stopping();
            stopped_us = clock_tick_us();
        }
        if (clock_tick_us() - stopped_us > STOP_MS * 1000)
            pg_break_all();
        poll(NULL, 0, 50);
    }
    return NULL;
}

bool run_pipeline(const struct run_options *options, struct error *err)
{
    struct life life = {.options = options,
                        .config = options->config,
                        .started_at_us = clock_now_us(),
                        .pause_ms = FIRST_PAUSE_MS,
                        .renewal = options->is_new_slot ? RENEW_ASKED : RENEW_NOT,
                        .patience_ends_us = clock_tick_us() +
                                            options->config->source.start_timeout_us};
    atomic_bool is_ended = false;
    pthread_t thread;
    bool is_ok;
    int failed;

    if (!catch_signals(err))
        return false;
    reload_asked.job = options->job; /* the file was read just now */
    srandom((unsigned) clock_now_us());
    failed = pthread_create(&thread, NULL, watch_stop, &is_ended);
    if (failed != 0)
        return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
    is_ok = live(&life, err);
    if (!is_ok && !stop_is_raised())
        note_on_mirror(&life, err, error_exit_code(err->kind));
    stop_raise(); /* the stop is ours where live() has failed: feeds have as long to end */
    feeder_finish_all(&life.feeders);
    server_stop(life.http);
    is_ended = true;
    pthread_join(thread, NULL);
    arena_release(&life.arena);
    arena_release(&life.config_arena);
    return is_ok;
}
