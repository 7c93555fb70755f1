/*
 * status: the verdict and what to do next first, the facts below, on 80 columns.
 *
 * On standard output whatever the state is; the exit code is 0 also for a pipeline that lags or is
 * stopped, since that may well be meant. --watch draws the same again every two seconds, over
 * connections that stay open.
 */
#include "base/clock.h"
#include "base/human.h"
#include "cli/cli.h"
#include "cli/table_text.h"
#include "cli/version.h"
#include "engine/stop.h"
#include "engine/supervisor.h"
#include "http/overview.h"
#include "http/server.h"
#include "ledger/ledger_status.h"
#include "mirror/status.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define COLUMNS       80
#define INDENT        13
#define MAX_TABLES    20
#define WATCH_EVERY_S 2
#define CLEAR_SCREEN  "\033[H\033[2J"

/* ---- text ---- */

/* Words from a column on, broken before column 80; a word that is longer than a line stays whole.
 */
static void add_wrapped(struct buf *out, int indent, const char *text)
{
    int column = indent;

    while (*text != '\0') {
        int len = (int) strcspn(text, " ");

        if (column > indent && column + 1 + len > COLUMNS) {
            buf_printf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            buf_add_char(out, ' ');
            column++;
        }
        buf_add_bytes(out, text, (size_t) len);
        column += len;
        text += len;
        text += strspn(text, " ");
    }
    buf_add_char(out, '\n');
}

static void add_line(struct buf *out, const char *label, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void add_line(struct buf *out, const char *label, const char *format, ...)
{
    _cleanup_buf_ struct buf text = {0};
    va_list args;

    va_start(args, format);
    buf_vprintf(&text, format, args);
    va_end(args);
    buf_printf(out, "%-*s", INDENT, label);
    add_wrapped(out, INDENT, buf_text(&text));
}

static void add_verdict(struct buf *out, const struct status *status)
{
    static const char *const levels[] = {
        [STATUS_FINE] = "OK", [STATUS_WATCH] = "WARNING", [STATUS_BROKEN] = "ERROR"};
    char now[CLOCK_TEXT_SIZE];

    add_line(out, levels[status->level], "pipeline %s: %s", status->config->pipeline,
             status->words);
    if (strncmp(status->next, "tailwater ", 10) == 0)
        buf_printf(out, "%-*s%s\n", INDENT, "next", status->next); /* whole, to be copied */
    else if (status->next[0] != '\0')
        add_line(out, "next", "%s", status->next);
    add_line(out, "time", "%s", clock_text(status->taken_at_us, now));
    buf_add_char(out, '\n');
}

/* Those that the verdict does not name. */
static void add_troubles(struct buf *out, const struct status *status)
{
    for (int i = 0; i < status->ntroubles; i++) {
        const struct control_trouble *trouble = &status->troubles[i];

        if (i == 0 && status->next == trouble->next)
            continue;
        add_line(out, i <= 1 ? "to look at" : "", "%s; %s [%s]", trouble->words, trouble->next,
                 trouble->event);
    }
}

static void add_server(struct buf *out, const char *label, const struct status_server *server)
{
    if (server->version > 0)
        add_line(out, label, "%s; PostgreSQL %d.%d%s", server->where, server->version / 10000,
                 server->version % 10000, server->is_up ? "" : ", which refused a question");
    else
        add_line(out, label, "%s; cannot be reached", server->where);
}

static void add_slot(struct buf *out, const struct status *status)
{
    const struct slot_status *slot = &status->slot;
    char kept[HUMAN_TEXT_SIZE], warn[HUMAN_TEXT_SIZE], critical[HUMAN_TEXT_SIZE],
        safe[HUMAN_TEXT_SIZE];
    _cleanup_buf_ struct buf limit = {0};

    if (!slot->exists) {
        add_line(out, "slot", "%s; there is none", status->config->source.slot);
        return;
    }
    if (slot->safe_wal_bytes >= 0)
        buf_printf(&limit, "; the server gives it up after %s more",
                   human_bytes(slot->safe_wal_bytes, safe));
    add_line(out, "slot", "%s (%s), %s; keeps %s of WAL (warning from %s, critical from %s)%s",
             status->config->source.slot, slot->plugin,
             slot->is_lost      ? "lost"
             : slot->active_pid ? "in use"
                                : "nobody reads it",
             human_bytes(slot->retained_bytes, kept),
             human_bytes(status->config->source.wal_guard.warn_bytes, warn),
             human_bytes(status->config->source.wal_guard.critical_bytes, critical),
             buf_text(&limit));
}

static void add_lag(struct buf *out, const struct status *status)
{
    char age[HUMAN_TEXT_SIZE], bytes[HUMAN_TEXT_SIZE];
    _cleanup_buf_ struct buf text = {0};

    if (status->pipeline.state != CONTROL_STREAMING) {
        add_line(out, "lag", "not before the copy is complete");
        return;
    }
    if (status->lag_us >= 0)
        buf_printf(&text, "%s%s", status->is_lag_bound ? "at most " : "",
                   human_duration(status->lag_us, age));
    else
        buf_add(&text, "unknown");
    if (status->lag_bytes >= 0)
        buf_printf(&text, ", %s of WAL", human_bytes(status->lag_bytes, bytes));
    add_line(out, "lag", "%s", buf_text(&text));
}

static void add_cursor(struct buf *out, const struct status *status)
{
    const struct control_pipeline *pipeline = &status->pipeline;
    char commit[CLOCK_TEXT_SIZE], ago[HUMAN_TEXT_SIZE];

    if (pipeline->commit_time_us == 0)
        add_line(out, "cursor", LSN_FORMAT ", no transaction applied yet",
                 LSN_ARGS(pipeline->cursor));
    else
        add_line(out, "cursor", LSN_FORMAT ", batch %lld; newest transaction of %s, %s ago",
                 LSN_ARGS(pipeline->cursor), (long long) pipeline->batch_id,
                 clock_text(pipeline->commit_time_us, commit),
                 human_duration(status->taken_at_us - pipeline->commit_time_us, ago));
}

static void add_heartbeat(struct buf *out, const struct status *status)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    int64_t since_us = heartbeat->streaming_since_us ? heartbeat->streaming_since_us
                                                     : heartbeat->started_at_us;
    char age[HUMAN_TEXT_SIZE], since[HUMAN_TEXT_SIZE];
    _cleanup_buf_ struct buf text = {0};

    buf_printf(&text, "process %d on %s, version %s, %s", heartbeat->pid, heartbeat->host,
               heartbeat->version, heartbeat->state);
    if (since_us > 0)
        buf_printf(&text, " for %s", human_duration(status->taken_at_us - since_us, since));
    if (heartbeat->plugin != NULL)
        buf_printf(&text, " through %s", heartbeat->plugin);
    buf_printf(&text, "; last heard %s ago", human_duration(heartbeat->age_us, age));
    if (heartbeat->transactions >= 0) /* it streams, and counts them */
        buf_printf(&text, "; %lld transactions, %lld changes, %lld reconnects",
                   (long long) heartbeat->transactions, (long long) heartbeat->changes,
                   (long long) heartbeat->reconnects);
    add_line(out, "replicator", "%s", buf_text(&text));
}

static void add_replicator(struct buf *out, const struct status *status)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    char age[HUMAN_TEXT_SIZE], since[HUMAN_TEXT_SIZE], error[CLOCK_TEXT_SIZE];

    if (status->holder.pid == 0 && !status->has_heartbeat)
        add_line(out, "replicator", "not running, never heard");
    else if (status->holder.pid == 0)
        add_line(out, "replicator", "not running; last heard %s ago: process %d on %s, version %s",
                 human_duration(heartbeat->age_us, age), heartbeat->pid, heartbeat->host,
                 heartbeat->version);
    else if (!status->has_heartbeat || heartbeat->said_at_us < status->holder.since_us)
        add_line(out, "replicator", "running%s%s, connected for %s; no heartbeat yet",
                 status->holder.client[0] ? " at " : "", status->holder.client,
                 human_duration(status->taken_at_us - status->holder.since_us, since));
    else
        add_heartbeat(out, status);
    if (status->has_heartbeat && heartbeat->last_error != NULL)
        add_line(out, "last error", "%s: %s", clock_text(heartbeat->last_error_at_us, error),
                 heartbeat->last_error);
}

static void add_repairs(struct buf *out, const struct status *status)
{
    char age[HUMAN_TEXT_SIZE];
    _cleanup_buf_ struct buf counters = {0};

    if (status->repair_keys > 0)
        add_line(out, "repair list", "%lld rows, the oldest for %s",
                 (long long) status->repair_keys, human_duration(status->repair_oldest_us, age));
    else
        add_line(out, "repair list", "empty");
    if (status->doubt_rows > 0)
        add_line(out, "nulls asked",
                 "%lld rows whose nulls may be NaN or infinite, the oldest for %s",
                 (long long) status->doubt_rows, human_duration(status->doubt_oldest_us, age));
    for (int i = 0; i < status->ncounters; i++)
        buf_printf(&counters, "%s%s %lld", i > 0 ? ", " : "", status->counters[i].name,
                   (long long) status->counters[i].value);
    if (counters.len > 0)
        add_line(out, "counters", "%s", buf_text(&counters));
}

/* ---- what changes ---- */

/* The newest change, the last hour, and who cannot be judged yet; "to look at" has what is unusual. */
static void add_freshness(struct buf *out, const struct status *status)
{
    const struct freshness *newest = NULL;
    char ago[HUMAN_TEXT_SIZE], as_of[HUMAN_TEXT_SIZE], hour[CLOCK_TEXT_SIZE];
    _cleanup_buf_ struct buf text = {0};
    int64_t changes = 0, hour_us = 0;
    int nlearning = 0;

    for (int i = 0; i < status->nfreshness; i++) {
        const struct freshness *table = &status->freshness[i];

        nlearning += table->state == FRESHNESS_LEARNING;
        if (table->hour_changes >= 0) {
            changes += table->hour_changes;
            hour_us = table->hour_us > hour_us ? table->hour_us : hour_us;
        }
        if (newest == NULL || table->last_change_us > newest->last_change_us)
            newest = table;
    }
    if (newest == NULL || newest->counted_to_us == 0)
        return;
    if (newest->last_change_us > 0)
        buf_printf(&text, "the newest of %s ago, in %s.%s",
                   human_duration(status->taken_at_us - newest->last_change_us, ago),
                   newest->schema, newest->name);
    else
        buf_add(&text, "none yet");
    buf_printf(&text, ", as of %s ago",
               human_duration(status->taken_at_us - newest->counted_to_us, as_of));
    if (hour_us > 0)
        buf_printf(&text, "; %lld in the hour from %.16sZ on", (long long) changes,
                   clock_text(hour_us, hour));
    if (nlearning > 0)
        buf_printf(&text, "; of %d of %d tables it is not known yet what is usual", nlearning,
                   status->nfreshness);
    add_line(out, "changes", "%s", buf_text(&text));
}

/* A line a fact. */
static void add_keys(struct buf *out, const struct status *status)
{
    char ago[HUMAN_TEXT_SIZE], hour[CLOCK_TEXT_SIZE];

    for (int i = 0; i < status->nfact_freshness; i++) {
        const struct freshness *fact = &status->fact_freshness[i];
        _cleanup_buf_ struct buf text = {0};

        if (fact->last_change_us > 0)
            buf_printf(&text, "%s: the newest of %s ago", fact->name,
                       human_duration(fact->counted_to_us - fact->last_change_us, ago));
        else
            buf_printf(&text, "%s: none yet", fact->name);
        if (fact->hour_changes >= 0)
            buf_printf(&text, "; %lld in the hour from %.16sZ on", (long long) fact->hour_changes,
                       clock_text(fact->hour_us, hour));
        if (fact->usual_of != NULL)
            buf_printf(&text, ", usual are %lld to %lld", (long long) fact->usual_low,
                       (long long) fact->usual_high);
        add_line(out, i == 0 ? "keys" : "", "%s", buf_text(&text));
    }
}

/* ---- the ledger ---- */

/* A line a fact; nothing where there is none. */
static void add_ledger(struct buf *out, const struct status *status, struct pg *mirror,
                       struct arena *arena)
{
    struct notes lines = {.arena = arena};
    struct error err = {0};

    if (!ledger_status_summary(mirror, status->config->pipeline, &lines, &err))
        add_line(out, "ledger", "%s", err.message);
    for (int i = 0; i < lines.count; i++)
        add_line(out, i == 0 ? "ledger" : "", "%s", lines.texts[i]);
}

/* ---- tables ---- */

/* Quarantined ones first, then those that are not ready, then by size. */
static int compare_tables(const void *left, const void *right)
{
    const struct control_table *a = *(const struct control_table *const *) left;
    const struct control_table *b = *(const struct control_table *const *) right;

    if ((a->quarantine.lsn != 0) != (b->quarantine.lsn != 0))
        return a->quarantine.lsn != 0 ? -1 : 1;
    if (a->state != b->state)
        return a->state < b->state ? -1 : 1;
    return a->total_bytes > b->total_bytes ? -1 : a->total_bytes < b->total_bytes;
}

static void add_tables(struct buf *out, const struct status *status, struct arena *arena)
{
    const struct control_table **sorted = arena_new(arena, const struct control_table *,
                                                    status->ntables);
    int shown = status->ntables <= MAX_TABLES + 1 ? status->ntables : MAX_TABLES;

    for (int i = 0; i < status->ntables; i++)
        sorted[i] = &status->tables[i];
    if (status->ntables > 0)
        qsort(sorted, (size_t) status->ntables, sizeof(*sorted), compare_tables);
    buf_add_char(out, '\n');
    table_text_add_header(out);
    for (int i = 0; i < shown; i++)
        table_text_add_row(out, status->config, sorted[i]);
    if (shown < status->ntables)
        buf_printf(out, "… and %d more, %s; --json has them all\n", status->ntables - shown,
                   sorted[shown]->state == CONTROL_TABLE_READY ? "all ready" : "smaller ones");
}

/* Each with its remedy: the verdict names one of them. */
static void add_quarantines(struct buf *out, const struct status *status)
{
    char since[CLOCK_TEXT_SIZE], name[HUMAN_TABLE_SIZE];

    for (int i = 0; i < status->ntables; i++) {
        const struct control_table *table = &status->tables[i];
        const struct control_quarantine *quarantine = &table->quarantine;

        if (quarantine->lsn == 0)
            continue;
        buf_add_char(out, '\n');
        add_line(out, "quarantined", "%s.%s since %s, left out from " LSN_FORMAT " on%s%s: %s",
                 table->schema, table->name, clock_text(quarantine->since_us, since),
                 LSN_ARGS(quarantine->lsn), quarantine->sqlstate[0] ? ", SQLSTATE " : "",
                 quarantine->sqlstate, quarantine->reason);
        if (table->is_resynced)
            add_line(out, "next", "a resync is under way");
        else
            buf_printf(out, "%-*stailwater resync -c %s %s\n", INDENT, "next", status->config->file,
                       human_table(table->schema, table->name, name));
    }
}

static void add_text(struct buf *out, const struct status *status, struct pg *mirror,
                     struct arena *arena)
{
    add_verdict(out, status);
    if (status->is_known) {
        add_troubles(out, status);
        add_lag(out, status);
        add_cursor(out, status);
        add_replicator(out, status);
    }
    add_server(out, "source", &status->source);
    if (status->has_slot)
        add_slot(out, status);
    add_server(out, "mirror", &status->mirror);
    if (status->is_known) {
        add_repairs(out, status);
        add_freshness(out, status);
        add_ledger(out, status, mirror, arena);
        add_keys(out, status);
        add_tables(out, status, arena);
        add_quarantines(out, status);
    }
}

/* ---- the verb ---- */

static volatile sig_atomic_t is_interrupted;

static void interrupt(int signal_number)
{
    (void) signal_number;
    is_interrupted = 1;
}

static bool print_once(const struct cli *cli, const struct config *config,
                       struct status_connections *connections, int *ret_code)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_overview_ struct overview overview = {0};
    _cleanup_buf_ struct buf out = {0};
    struct status status;

    status_collect(config, connections, &arena, &status);
    if (is_interrupted)
        return false;
    if (cli->is_json) {
        for (int i = 0; i < OVERVIEW_PARTS && status.is_known; i++)
            overview_read(connections->mirror, config->pipeline, i, &overview);
        overview_add_json(&status, &overview, status.is_known ? status.taken_at_us : 0, &out);
        buf_add_char(&out, '\n');
    } else {
        if (cli->is_watching && isatty(STDOUT_FILENO))
            buf_add(&out, CLEAR_SCREEN);
        add_text(&out, &status, connections->mirror, &arena);
    }
    fwrite(buf_text(&out), 1, out.len, stdout);
    *ret_code = error_exit_code(status.kind);
    return fflush(stdout) == 0;
}

/* Until interrupted, which is how it is meant to end: then 0. */
static int watch(const struct cli *cli, const struct config *config,
                 struct status_connections *connections)
{
    const struct timespec pause = {.tv_sec = WATCH_EVERY_S};
    struct sigaction action = {.sa_handler = interrupt};
    int code;

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    while (!is_interrupted && print_once(cli, config, connections, &code)) {
        if (!cli->is_json && !isatty(STDOUT_FILENO))
            putchar('\n');
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* A thread: what is asked of servers is not waited for any more, and nothing is written that would want an
 * end of its own. */
static void *break_connections(void *arg)
{
    const atomic_bool *is_ended = arg;

    while (!*is_ended) {
        pg_break_all();
        poll(NULL, 0, 50);
    }
    return NULL;
}

/* Also while a server hangs.  Without the thread as long as that takes. */
static void stop_serving(struct server *server)
{
    atomic_bool is_ended = false;
    pthread_t thread;
    const bool has_thread = pthread_create(&thread, NULL, break_connections, &is_ended) == 0;

    server_stop(server);
    is_ended = true;
    if (has_thread)
        pthread_join(thread, NULL);
}

/* Page, probes and metrics from a process of its own: they are there when the replicator is not. */
static int serve(const struct cli *cli, struct config *config, struct arena *arena)
{
    struct pollfd stop = {.events = POLLIN};
    struct server *server = NULL;
    struct error err = {0};

    if (!config_parse_listen(cli->listen, arena, &config->http.host, &config->http.port, &err)) {
        error_wrap(&err, "--listen");
        return cli_fail(cli, &err);
    }
    if (!stop_catch(&err) || !server_start(config, TAILWATER_VERSION, &server, &err))
        return cli_fail(cli, &err);
    stop.fd = stop_fd();
    supervisor_ready();
    while (!stop_is_raised())
        poll(&stop, 1, -1);
    supervisor_stopping();
    stop_serving(server);
    return 0;
}

int verb_status(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct status_connections connections = {0};
    struct error err = {0};
    struct config config;
    int code = 0;

    if (!cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    if (cli->listen != NULL)
        code = serve(cli, &config, &arena);
    else if (cli->is_watching)
        code = watch(cli, &config, &connections);
    else
        print_once(cli, &config, &connections, &code);
    status_disconnect(&connections);
    return code;
}
