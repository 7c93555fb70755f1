/*
 * Receiver in the calling thread; applier, watcher, repairer, expander, resyncer and ledger keeper in
 * threads of their own.  At the end the applier gets a moment to finish what it has; then its
 * statement is cancelled, again and again (the mirror may hang on a lock); and if that does not help
 * either, nobody answers: then all connections are shut down, so that the threads end.
 */
#include "engine/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/applier.h"
#include "engine/continuity.h"
#include "engine/expander.h"
#include "engine/ledgerkeeper.h"
#include "engine/nan_checker.h"
#include "engine/receiver.h"
#include "engine/refresher.h"
#include "engine/repairer.h"
#include "engine/resyncer.h"
#include "engine/volumes.h"
#include "engine/watcher.h"
#include "ledger/resolve.h"
#include "ledger/store.h"
#include "mirror/apply.h"
#include "mirror/cursor.h"
#include "source/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FINISH_US          5000000
#define CANCEL_US          5000000
#define JOIN_US            200000
#define MAX_CONFIRM_US     10000000
#define MIN_CONFIRM_US     50000
#define DEFAULT_TIMEOUT_US 60000000

/* Without wal_sender_timeout the server does not promise to answer soon. */
#define DEFAULT_SILENCE_US 300000000

struct session {
    const struct session_options *options;
    const char *prefix;
    struct cursor cursor;
    struct resolve *resolve;
    struct apply *apply;
    struct stream *stream;
    int64_t confirm_interval_us, silence_us;
    struct handover *handover;
    struct batch *batches[2];
    _Atomic lsn_t *left_out_from; /* per table: a quarantined one's changes */
    bool *is_resynced;            /* per table, as the session began */
    struct culprit culprit;
    struct statistics statistics;
    bool has_facts;          /* the pipeline keeps a ledger */
    atomic_bool is_over;     /* for the helpers … */
    int over_fd;             /* … and readable then */
    atomic_bool is_finished; /* the job is done */
};

/* The source must hear from us well before wal_sender_timeout (0: never mind), and we from it not
 * long after: a server that decodes for long without a word would end the stream itself by then. */
static bool read_intervals(struct session *s, struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = s->options->config->source.conninfo,
                                       .application = "tailwater start"};
    _cleanup_pg_ struct pg *pg = NULL;
    _cleanup_result_ struct pg_result *result = NULL;
    int64_t timeout_us;

    if (!pg_connect(&options, &pg, err))
        return false;
    pg_limit(pg, CONTINUITY_TIMEOUT_MS, -1);
    if (!pg_query_row(pg, "select setting from pg_settings where name = 'wal_sender_timeout'", 0,
                      NULL, &result, err))
        return false;
    timeout_us = pg_int(result, 0, 0) * 1000;
    s->silence_us = timeout_us > 0 ? 2 * timeout_us : DEFAULT_SILENCE_US;
    s->confirm_interval_us = timeout_us > 0 ? timeout_us / 4 : DEFAULT_TIMEOUT_US / 4;
    if (s->confirm_interval_us > MAX_CONFIRM_US)
        s->confirm_interval_us = MAX_CONFIRM_US;
    if (s->confirm_interval_us < MIN_CONFIRM_US)
        s->confirm_interval_us = MIN_CONFIRM_US;
    return true;
}

static bool open_apply(struct session *s, struct error *err)
{
    /* One plan per statement, and only such plans as suit a few rows against a large table. */
    const struct pg_options options = {
        .side = PG_MIRROR,
        .conninfo = s->options->config->mirror.conninfo,
        .application = "tailwater applier",
        .settings = PG_BY_KEY " -c plan_cache_mode=force_generic_plan -c enable_bitmapscan=off"};
    _cleanup_result_ struct pg_result *result = NULL;
    struct pg *pg;

    if (!pg_connect(&options, &pg, err))
        return false;
    pg_limit(pg, CONTINUITY_TIMEOUT_MS, -1);
    /* An earlier session may have ended for want of a partition. */
    if (!cursor_read(&s->cursor, pg, s->options->config->pipeline, err) ||
        !quarantine_load(pg, s->options->config->pipeline, &s->options->prepared->catalog.tables,
                         s->left_out_from, s->is_resynced, err) ||
        !pg_query(pg, "select tailwater.add_partitions($1)", 1, &s->options->config->pipeline,
                  &result, err)) {
        pg_free(pg);
        return false;
    }
    pg_limit(pg, 0, -1); /* batches wait for as long as it takes */
    s->resolve = resolve_new(s->options->config->pipeline, &s->options->prepared->catalog.tables,
                             &s->options->prepared->facts, *s->options->is_guarded);
    if (!apply_new(pg, s->options->config->pipeline, &s->options->prepared->catalog.tables,
                   &s->cursor, resolve_sink(s->resolve), &s->apply, err))
        return false;
    apply_take_marks(s->apply, s->left_out_from, s->is_resynced);
    apply_be_careful(s->apply, s->options->careful_until);
    return true;
}

static bool open_stream(struct session *s, struct arena *arena, struct error *err)
{
    const struct config *config = s->options->config;
    const struct decoder_ops *ops = stream_find_decoder(config->source.plugin);
    const struct stream_options options = {
        .conninfo = config->source.conninfo,
        .application = "tailwater receiver",
        .slot = config->source.slot,
        .ops = ops,
        .decoder = {.publication = config->source.publication,
                    .prefix = s->prefix,
                    .add_tables = stream_add_tables(&s->options->prepared->catalog.tables, arena)},
        .start = s->cursor.lsn,
        .decode_memory_bytes = config->source.decode_memory_bytes,
        .wal_sender_timeout_us = -1,
    };

    return stream_open(&options, &s->stream, err);
}

static bool find_facts(struct session *s, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_query_row(s->options->lock,
                      "select exists (select from tailwater.fact where pipeline = $1)", 1,
                      &s->options->config->pipeline, &result, err))
        return error_wrap(err, "looking for facts");
    s->has_facts = pg_bool(result, 0, 0);
    return true;
}

static bool open_over_fd(struct session *s, struct error *err)
{
    s->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return s->over_fd >= 0 || error_set(err, ERROR_FAILED, "eventfd: %s", strerror(errno));
}

/* A table that the publication lacks lacks what the source did since, whenever that was. */
static bool check_continuity(struct session *s, struct error *err)
{
    const struct table *lacked = NULL;

    if (continuity_check(s->options->config, s->options->lock, s->options->prepared, s->cursor.lsn,
                         s->left_out_from, &lacked, err))
        return true;
    if (lacked != NULL)
        s->culprit = (struct culprit){
            .table = lacked, .first_lsn = s->cursor.lsn, .last_lsn = s->cursor.lsn};
    return false;
}

static bool open_session(struct session *s, struct arena *arena, struct error *err)
{
    return open_apply(s, err) && check_continuity(s, err) && read_intervals(s, err) &&
           find_facts(s, err) &&
           volumes_begin(s->options->lock, s->options->config->pipeline, s->cursor.lsn, err) &&
           open_stream(s, arena, err);
}

/* ---- the threads ---- */

#define NTHREADS 10

struct thread {
    const char *name;             /* for top -H and ps -L: 15 characters */
    void *(*run)(void *argument); /* NULL: not wanted */
    void *argument;
    pthread_t id;
    bool is_running;
};

static bool start_threads(struct thread *threads, struct error *err)
{
    for (int i = 0; i < NTHREADS; i++) {
        int failed;

        if (threads[i].run == NULL)
            continue;
        failed = pthread_create(&threads[i].id, NULL, threads[i].run, threads[i].argument);
        if (failed != 0)
            return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
        (void) pthread_setname_np(threads[i].id, threads[i].name);
        threads[i].is_running = true;
    }
    return true;
}

/* Wait a moment for each; how many are left? */
static int join_threads(struct thread *threads)
{
    int nleft = 0;

    for (int i = 0; i < NTHREADS; i++) {
        struct timespec until;

        if (!threads[i].is_running)
            continue;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += JOIN_US * 1000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        threads[i].is_running = pthread_timedjoin_np(threads[i].id, NULL, &until) != 0;
        nleft += threads[i].is_running;
    }
    return nleft;
}

static void finish_threads(struct session *s, struct thread *threads)
{
    const int64_t began_us = clock_tick_us();

    s->is_over = true;
    eventfd_write(s->over_fd, 1);
    handover_close(s->handover);
    while (join_threads(threads) > 0) {
        const int64_t passed_us = clock_tick_us() - began_us;

        if (passed_us > FINISH_US + CANCEL_US)
            pg_break_all();
        else if (passed_us > FINISH_US && threads[0].is_running)
            pg_cancel(apply_connection(s->apply));
    }
}

static struct receiver_options what_is_received(struct session *s)
{
    const struct session_options *o = s->options;

    return (struct receiver_options){.stream = s->stream,
                                     .handover = s->handover,
                                     .list = &o->prepared->catalog.tables,
                                     .batches = {s->batches[0], s->batches[1]},
                                     .confirm_interval_us = s->confirm_interval_us,
                                     .silence_us = s->silence_us,
                                     .cursor = s->cursor.lsn,
                                     .until = o->until,
                                     .careful_until = o->careful_until,
                                     .source_conninfo = o->config->source.conninfo,
                                     .stop = o->stop,
                                     .is_finished = &s->is_finished,
                                     .is_reloading = &o->reload->is_due,
                                     .statistics = &s->statistics};
}

static bool run_threads(struct session *s, struct error *err)
{
    const struct session_options *o = s->options;
    const struct table_list *list = &o->prepared->catalog.tables;
    struct applier applier = {s->handover, s->apply, &s->cursor, &s->statistics};
    struct watcher watcher = {.config = o->config,
                              .known = o->prepared->known,
                              .version = o->version,
                              .plugin = stream_plugin(s->stream),
                              .list = list,
                              .lock = o->lock,
                              .handover = s->handover,
                              .statistics = &s->statistics,
                              .stop = &s->is_over,
                              .stop_fd = s->over_fd,
                              .left_out_from = s->left_out_from,
                              .prefix = s->prefix,
                              .hash = o->prepared->hash,
                              .is_reloading = &o->reload->is_due,
                              .started_at_us = o->started_at_us,
                              .streaming_since_us = clock_now_us(),
                              .reconnects = o->reconnects,
                              .last_error = o->last_error,
                              .last_hint = o->last_hint,
                              .last_state = o->last_state,
                              .last_error_at_us = o->last_error_at_us};
    struct nan_checker nan_checker = {o->config, list, &s->statistics, &s->is_over, s->over_fd};
    struct repairer repairer = {o->config,      list,        &o->prepared->facts,
                                &s->statistics, &s->is_over, s->over_fd};
    struct expander expander = {o->config, &o->prepared->facts, &s->is_over, s->over_fd};
    struct ledgerkeeper keeper = {o->config,   &o->prepared->facts, &s->statistics,
                                  s->handover, &s->is_over,         s->over_fd};
    struct refresher refresher = {.config = o->config, .stop = &s->is_over, .wake_fd = s->over_fd};
    struct resyncer resyncer = {.config = o->config,
                                .list = list,
                                .handover = s->handover,
                                .statistics = &s->statistics,
                                .stop = &s->is_over,
                                .wake_fd = s->over_fd,
                                .job = o->job,
                                .reload = o->reload,
                                .finished = &s->is_finished};
    const struct receiver_options receiver = what_is_received(s);
    struct thread threads[NTHREADS] = {
        {"applier", applier_run, .argument = &applier},
        {"watcher", watcher_run, .argument = &watcher},
        {"source watcher", watcher_run_source, .argument = &watcher},
        {"repairer", repairer_run, .argument = &repairer},
        {"expander", expander_run, .argument = &expander},
        {"nan checker", nan_checker_run, .argument = &nan_checker},
        {"resyncer", resyncer_run, .argument = &resyncer},
        {"ledger news", s->has_facts ? ledgerkeeper_run : NULL, .argument = &keeper},
        {"ledger keeper", s->has_facts ? ledgerkeeper_run_slow : NULL, .argument = &keeper},
        {"refresher", s->has_facts ? refresher_run : NULL, .argument = &refresher}};
    bool is_ok = start_threads(threads, err) && receiver_run(&receiver, &s->culprit, err);

    finish_threads(s, threads);
    volumes_finish(o->lock, o->config->pipeline, watcher_complete_us(&watcher));
    return is_ok;
}

/*
 * A row that the mirror refuses, or a fact's key expression that fails on it?  The next session
 * evaluates these so that they can be told apart; a fact found to be at fault is suspended, and
 * nothing else.
 */
static void judge(const struct session *s, struct error *err)
{
    const struct session_options *o = s->options;
    struct fact *fact = resolve_failed_fact(&o->prepared->facts, err);
    struct error failure;

    if (fact != NULL) {
        *o->is_guarded = false;
        if (!store_suspend(o->lock, fact->name, err->message, &failure)) {
            *err = failure;
            return;
        }
        fact->is_suspended = true;
        log_event(LOG_ERROR, "fact_suspended",
                  "%s; the fact gets no keys until the next start, which begins it with everything",
                  err->message);
        err->kind = ERROR_RETRY;
    } else if (err->kind == ERROR_DATA && !*o->is_guarded &&
               resolve_has_expressions(&o->prepared->facts)) {
        *o->is_guarded = true;
        err->kind = ERROR_RETRY;
    } else {
        *o->is_guarded = false;
    }
}

/* Where the stream loses NaN and infinities: say so, and list nulls that may be such (P7). */
static void doubt_nulls(struct session *s)
{
    const struct config *config = s->options->config;
    const struct table_list *list = &s->options->prepared->catalog.tables;
    int ncolumns = 0;

    for (int t = 0; t < list->count; t++)
        for (int i = 0; i < list->tables[t].ncolumns; i++)
            ncolumns += table_column_is_doubtful(&list->tables[t].columns[i]);
    if (ncolumns == 0 || !stream_loses_nan(s->stream))
        return;
    if (config->source.nan_check == NAN_CHECK_OFF) {
        log_event(
            LOG_WARNING, "nan_lost",
            "%s sends NaN and infinities as null, in %d columns, and source.nan_check is off: "
            "they stay null",
            stream_plugin(s->stream), ncolumns);
        return;
    }
    log_event(LOG_INFO, "nan_lost",
              "%s sends NaN and infinities as null: the source is asked about nulls in %d columns; "
              "wal2json 2.6 or pgoutput would spare it that",
              stream_plugin(s->stream), ncolumns);
    apply_doubt_nulls(s->apply);
}

bool session_run(const struct session_options *options, struct session_outcome *ret_outcome,
                 struct error *err)
{
    const struct batch_limits limits = {options->config->apply.max_rows,
                                        options->config->apply.max_bytes};
    struct session s = {
        .options = options, .over_fd = -1, .statistics = {.repairs_done = -1, .doubts_done = -1}};
    struct arena arena = {0};
    const size_t ntables = (size_t) options->prepared->catalog.tables.count;
    bool is_ok;

    s.left_out_from = memory_alloc(ntables * sizeof(*s.left_out_from));
    s.is_resynced = memory_alloc(ntables * sizeof(*s.is_resynced));
    s.prefix = arena_printf(&arena, "tailwater_%s", options->config->pipeline);
    is_ok = open_session(&s, &arena, err);
    if (is_ok) {
        log_event(LOG_INFO, "streaming", "streaming from " LSN_FORMAT " (batch %lld) through %s",
                  LSN_ARGS(s.cursor.lsn), (long long) s.cursor.batch_id, stream_plugin(s.stream));
        doubt_nulls(&s);
        is_ok = handover_new(&s.handover, err) && open_over_fd(&s, err);
    }
    if (is_ok) {
        for (int i = 0; i < 2; i++) {
            s.batches[i] = batch_new(&options->prepared->catalog.tables,
                                     options->prepared->copy_lsn, limits);
            batch_leave_out(s.batches[i], s.left_out_from);
        }
        is_ok = run_threads(&s, err);
        if (!is_ok)
            judge(&s, err);
        if (!is_ok && err->kind == ERROR_RETRY)
            s.culprit = (struct culprit){0}; /* a fact's, or not to be told yet */
    }
    *ret_outcome = (struct session_outcome){
        .has_streamed = s.stream != NULL, .cursor = s.cursor.lsn, .culprit = s.culprit};
    stream_free(s.stream);
    apply_free(s.apply);
    resolve_free(s.resolve);
    batch_free(s.batches[0]);
    batch_free(s.batches[1]);
    handover_free(s.handover);
    free(s.left_out_from);
    free(s.is_resynced);
    if (s.over_fd >= 0)
        close(s.over_fd);
    arena_release(&arena);
    return is_ok;
}
