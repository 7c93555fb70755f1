/*
 * resync: a job for the replicator.  Where one runs, the job is written for it and followed; where
 * none does, this process is the replicator until the job is done.
 *
 * Following only looks: an interrupt leaves the job to the replicator.  A replicator that goes away
 * is waited for as long as a start waits (source.start_timeout); the job stays for the next one.
 */
#include "base/clock.h"
#include "base/human.h"
#include "cli/cli.h"
#include "cli/version.h"
#include "engine/run.h"
#include "mirror/control.h"
#include "mirror/job.h"

#include <inttypes.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define LOOK_US 250000
#define SAY_US  5000000 /* a line where nobody watches */

struct resync {
    const struct cli *cli;
    const struct config *config;
    struct arena *arena;
    struct arena look; /* what the last look at the job returned */
    struct pg *mirror;
    int ntables; /* of the pipeline */
    struct control_table *tables;
    const char **labels; /* of those */
    struct job job;
    bool is_alone; /* nobody works on the job, since alone_since_us */
    int64_t alone_since_us, said_us;
};

static volatile sig_atomic_t is_interrupted;

static void interrupt(int number)
{
    (void) number;
    is_interrupted = 1;
}

/* ---- which tables ---- */

static bool connect_mirror(struct resync *resync, struct error *err)
{
    if (resync->mirror != NULL && !pg_is_broken(resync->mirror))
        return true;
    pg_free(resync->mirror);
    resync->mirror = NULL;
    return pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                           .conninfo = resync->config->mirror.conninfo,
                                           .application = "tailwater resync command"},
                      &resync->mirror, err);
}

static bool load_tables(struct resync *resync, struct error *err)
{
    const char *pipeline = resync->config->pipeline;
    struct control_pipeline row;
    bool is_known = false;

    if (!connect_mirror(resync, err) || !control_require(resync->mirror, err) ||
        !control_load(resync->mirror, pipeline, resync->arena, &is_known, &row, err))
        return false;
    if (!is_known || row.state != CONTROL_STREAMING) {
        error_set(err, ERROR_CONFIG, "the pipeline %s has not been copied yet", pipeline);
        return error_hint(err, "run: tailwater run -c %s", resync->config->file);
    }
    if (!control_list_tables(resync->mirror, pipeline, resync->arena, &resync->ntables,
                             &resync->tables, err))
        return false;
    resync->labels = arena_new(resync->arena, const char *, resync->ntables + 1);
    for (int i = 0; i < resync->ntables; i++)
        resync->labels[i] = arena_printf(resync->arena, "%s.%s", resync->tables[i].schema,
                                         resync->tables[i].name);
    return true;
}

/* "schema.name", or the name alone where it is the only one. */
static bool find_table(const struct resync *resync, const char *wanted, int *ret_index,
                       struct error *err)
{
    const char *near;
    int count = 0;

    for (int i = 0; i < resync->ntables; i++) {
        if (strcmp(resync->labels[i], wanted) == 0) {
            *ret_index = i;
            return true;
        }
        if (strcmp(resync->tables[i].name, wanted) == 0) {
            *ret_index = i;
            count++;
        }
    }
    if (count == 1)
        return true;
    if (count > 1)
        return error_set(err, ERROR_CONFIG,
                         "%s: %d tables have that name; put the schema before it", wanted, count);
    near = config_nearest(wanted, resync->labels, resync->ntables);
    for (int i = 0; near == NULL && i < resync->ntables; i++)
        if (config_nearest(wanted, (const char *[]){resync->tables[i].name}, 1) != NULL)
            near = resync->labels[i];
    if (near != NULL)
        return error_set(err, ERROR_CONFIG, "%s is not mirrored; did you mean %s?", wanted, near);
    error_set(err, ERROR_CONFIG, "%s is not mirrored", wanted);
    return error_hint(err, "tailwater status -c %s lists the tables", resync->config->file);
}

static bool ask(struct resync *resync, struct error *err)
{
    const struct cli *cli = resync->cli;
    const char **schemas = arena_new(resync->arena, const char *, cli->noperands);
    const char **names = arena_new(resync->arena, const char *, cli->noperands);
    int count = 0, index = 0;

    for (int i = 0; i < cli->noperands; i++) {
        bool is_twice = false;

        if (!find_table(resync, cli->operands[i], &index, err))
            return false;
        for (int j = 0; j < count; j++)
            is_twice |= schemas[j] == resync->tables[index].schema &&
                        names[j] == resync->tables[index].name;
        if (is_twice)
            continue;
        schemas[count] = resync->tables[index].schema;
        names[count++] = resync->tables[index].name;
    }
    return job_ask(resync->mirror, resync->config->pipeline, count, schemas, names, &resync->job.id,
                   err);
}

/* ---- progress ---- */

static const struct job_table *table_in_hand(const struct resync *resync)
{
    for (int i = 0; i < resync->job.ntables; i++)
        if (resync->job.tables[i].state == JOB_RUNNING)
            return &resync->job.tables[i];
    return NULL;
}

static void add_progress(const struct resync *resync, struct buf *text)
{
    const struct job_table *table = table_in_hand(resync);
    char left[HUMAN_TEXT_SIZE];
    double share;

    if (table == NULL) {
        buf_printf(text, "job %" PRId64 ": %s", resync->job.id,
                   resync->is_alone ? "no replicator is running; waiting for one"
                                    : "waiting for its turn");
        return;
    }
    buf_printf(text, "%s.%s: %s", table->schema, table->name, table->step);
    if (table->bytes <= 0 || table->rows_read == 0)
        return;
    share = (double) table->bytes_done / (double) table->bytes;
    buf_printf(text,
               ", %d %%, %" PRId64 " rows; %" PRId64 " missing, %" PRId64 " different, %" PRId64
               " extra",
               (int) (share * 100), table->rows_read, table->rows_missing, table->rows_different,
               table->rows_extra);
    if (share > 0.02 && share < 1)
        buf_printf(
            text, "; about %s to go",
            human_duration((int64_t) ((double) table->elapsed_us / share * (1 - share)), left));
    if (resync->is_alone)
        buf_add(text, "; the replicator went away, waiting for it");
}

static void show_progress(struct resync *resync)
{
    const bool is_terminal = isatty(STDERR_FILENO);
    _cleanup_buf_ struct buf text = {0};

    if (!is_terminal && clock_tick_us() - resync->said_us < SAY_US)
        return;
    resync->said_us = clock_tick_us();
    add_progress(resync, &text);
    fprintf(stderr, is_terminal ? "\r\033[K%s" : "%s\n", buf_text(&text));
    fflush(stderr);
}

/* ---- following ---- */

static void catch_interrupt(void)
{
    struct sigaction action = {.sa_handler = interrupt};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static bool leave_job(const struct resync *resync, struct error *err)
{
    error_set(err, ERROR_RETRY, "interrupted; job %" PRId64 " goes on without this command",
              resync->job.id);
    return error_hint(err, "tailwater status -c %s shows the tables", resync->config->file);
}

/* Is somebody there to do it?  Not for long is as good. */
static bool look_for_replicator(struct resync *resync, struct error *err)
{
    struct control_holder holder;

    if (!control_find_holder(resync->mirror, resync->config->pipeline, &resync->look, &holder, err))
        return false;
    if (holder.pid != 0) {
        resync->is_alone = false;
        return true;
    }
    if (!resync->is_alone)
        resync->alone_since_us = clock_tick_us();
    resync->is_alone = true;
    if (clock_tick_us() - resync->alone_since_us < resync->config->source.start_timeout_us)
        return true;
    error_set(err, ERROR_RETRY, "the replicator went away; job %" PRId64 " is not done",
              resync->job.id);
    return error_hint(err, "the next replicator does it; run: tailwater run -c %s",
                      resync->config->file);
}

static bool look_at_job(struct resync *resync, struct error *err)
{
    arena_reset(&resync->look);
    return connect_mirror(resync, err) &&
           job_read(resync->mirror, resync->job.id, &resync->look, &resync->job, err);
}

static bool follow(struct resync *resync, struct error *err)
{
    catch_interrupt();
    while (!is_interrupted) {
        if (!look_at_job(resync, err))
            return false;
        if (resync->job.id == 0)
            return error_set(err, ERROR_FAILED, "the job is gone: somebody removed it");
        if (resync->job.state == JOB_DONE || resync->job.state == JOB_FAILED)
            return true;
        if (!look_for_replicator(resync, err))
            return false;
        show_progress(resync);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_US * 1000}, NULL);
    }
    return leave_job(resync, err);
}

/* Nobody has the lock: this process is the replicator, as run would be. */
static bool work(struct resync *resync, struct error *err)
{
    const struct run_options options = {
        .config = resync->config, .version = TAILWATER_VERSION, .job = resync->job.id};

    return run_pipeline(&options, err) && look_at_job(resync, err) &&
           (resync->job.state == JOB_DONE || resync->job.state == JOB_FAILED ||
            leave_job(resync, err));
}

static bool do_job(struct resync *resync, struct error *err)
{
    struct control_holder holder;

    if (!control_find_holder(resync->mirror, resync->config->pipeline, resync->arena, &holder, err))
        return false;
    if (holder.pid == 0 && work(resync, err))
        return true;
    /* Somebody else was quicker: then it is theirs. */
    return (holder.pid != 0 || err->kind == ERROR_BUSY) && follow(resync, err);
}

/* ---- the answer ---- */

static void add_table_text(struct buf *out, const struct job_table *table)
{
    char took[HUMAN_TEXT_SIZE];

    if (table->state == JOB_FAILED) {
        buf_printf(out, "%s.%s: failed: %s\n", table->schema, table->name, table->error);
        if (table->hint[0] != '\0')
            buf_printf(out, "  %s\n", table->hint);
        return;
    }
    buf_printf(out,
               "%s.%s: equal as of " LSN_FORMAT ", %" PRId64 " rows read in %s; repaired: %" PRId64
               " missing, %" PRId64 " different, %" PRId64 " extra\n",
               table->schema, table->name, LSN_ARGS(table->lsn), table->rows_read,
               human_duration(table->elapsed_us, took), table->rows_missing, table->rows_different,
               table->rows_extra);
}

static void add_text(struct buf *json, const char *name, const char *value)
{
    buf_printf(json, ", \"%s\": ", name);
    if (value[0] != '\0')
        buf_add_json(json, value);
    else
        buf_add(json, "null");
}

static void add_table_json(struct buf *json, const struct job_table *table)
{
    char lsn[LSN_TEXT_SIZE];

    buf_add(json, "{\"schema\": ");
    buf_add_json(json, table->schema);
    add_text(json, "name", table->name);
    add_text(json, "state", job_state_name(table->state));
    add_text(json, "lsn", table->lsn ? lsn_text(table->lsn, lsn) : "");
    buf_printf(json,
               ", \"rows_read\": %" PRId64 ", \"missing\": %" PRId64 ", \"different\": %" PRId64
               ", \"extra\": %" PRId64 ", \"seconds\": %.3f",
               table->rows_read, table->rows_missing, table->rows_different, table->rows_extra,
               (double) table->elapsed_us / 1e6);
    add_text(json, "sqlstate", table->sqlstate);
    add_text(json, "error", table->error);
    add_text(json, "hint", table->hint);
    buf_add_char(json, '}');
}

static void print_job(const struct resync *resync)
{
    const struct job *job = &resync->job;
    _cleanup_buf_ struct buf out = {0};

    if (resync->cli->is_json) {
        buf_printf(&out, "{\"job\": %" PRId64 ", \"state\": \"%s\", \"tables\": [", job->id,
                   job_state_name(job->state));
        for (int i = 0; i < job->ntables; i++) {
            buf_add(&out, i > 0 ? ", " : "");
            add_table_json(&out, &job->tables[i]);
        }
        buf_add(&out, "]}\n");
    } else {
        for (int i = 0; i < job->ntables; i++)
            add_table_text(&out, &job->tables[i]);
    }
    fwrite(buf_text(&out), 1, out.len, stdout);
}

static bool check_operands(const struct cli *cli, struct error *err)
{
    if (cli->noperands > 0)
        return true;
    error_set(err, ERROR_CONFIG, "resync: which tables?");
    return error_hint(err, "run: tailwater help resync");
}

int verb_resync(struct cli *cli)
{
    struct arena arena = {0};
    struct config config;
    struct resync resync = {.cli = cli, .config = &config, .arena = &arena};
    struct error err = {0};
    int code = 0;
    bool is_ok;

    is_ok = check_operands(cli, &err) && cli_load_config(cli, &arena, &config, &err) &&
            load_tables(&resync, &err) && ask(&resync, &err) && do_job(&resync, &err);
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    if (is_ok) {
        print_job(&resync);
        code = resync.job.state == JOB_DONE ? 0 : 1;
    } else {
        code = cli_fail(cli, &err);
    }
    pg_free(resync.mirror);
    arena_release(&resync.look);
    arena_release(&arena);
    return code;
}
