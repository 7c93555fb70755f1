/*
 * Where a replicator runs, the job is written for it and followed; where none does, this process is the
 * replicator until the job is done.
 *
 * Following only looks: an interrupt leaves the job to the replicator.  A replicator that goes away
 * is waited for as long as a start waits (source.start_timeout); the job stays for the next one.
 */
#include "cli/follow.h"

#include "base/clock.h"
#include "base/human.h"
#include "cli/version.h"
#include "engine/run.h"

#include <inttypes.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define LOOK_US 250000
#define SAY_US  5000000 /* a line where nobody watches */

static volatile sig_atomic_t is_interrupted;

static void interrupt(int number)
{
    (void) number;
    is_interrupted = 1;
}

/* ---- which tables ---- */

static bool connect_mirror(struct follow *follow, struct error *err)
{
    if (follow->mirror != NULL && !pg_is_broken(follow->mirror))
        return true;
    pg_free(follow->mirror);
    follow->mirror = NULL;
    return pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                           .conninfo = follow->config->mirror.conninfo,
                                           .application = "tailwater command"},
                      &follow->mirror, err);
}

bool follow_look(struct follow *follow, bool *ret_known, struct error *err)
{
    const char *pipeline = follow->config->pipeline;
    struct control_pipeline row;
    int version, ours;
    bool is_known = false;

    *ret_known = false;
    if (!connect_mirror(follow, err) || !control_version(follow->mirror, &version, &ours, err))
        return false;
    if (version == 0)
        return true;
    if (!control_require(follow->mirror, err) ||
        !control_load(follow->mirror, pipeline, follow->arena, &is_known, &row, err))
        return false;
    *ret_known = is_known && row.state == CONTROL_STREAMING;
    if (!*ret_known)
        return true;
    if (!control_list_tables(follow->mirror, pipeline, follow->arena, &follow->ntables,
                             &follow->tables, err))
        return false;
    follow->labels = arena_new(follow->arena, const char *, follow->ntables + 1);
    for (int i = 0; i < follow->ntables; i++)
        follow->labels[i] = arena_printf(follow->arena, "%s.%s", follow->tables[i].schema,
                                         follow->tables[i].name);
    return true;
}

static bool load_tables(struct follow *follow, struct error *err)
{
    bool is_known = false;

    if (!follow_look(follow, &is_known, err))
        return false;
    if (is_known)
        return true;
    error_set(err, ERROR_CONFIG, "the pipeline %s has not been copied yet",
              follow->config->pipeline);
    return error_hint(err, "run: tailwater run -c %s", follow->config->file);
}

bool follow_is_running(struct follow *follow, bool *ret_running, struct error *err)
{
    struct control_holder holder;

    if (!control_find_holder(follow->mirror, follow->config->pipeline, follow->arena, &holder, err))
        return false;
    *ret_running = holder.pid != 0;
    return true;
}

/* "schema.name", or the name alone where it is the only one. */
static bool find_table(const struct follow *follow, const char *wanted, int *ret_index,
                       struct error *err)
{
    const char *near;
    int count = 0;

    for (int i = 0; i < follow->ntables; i++) {
        if (strcmp(follow->labels[i], wanted) == 0) {
            *ret_index = i;
            return true;
        }
        if (strcmp(follow->tables[i].name, wanted) == 0) {
            *ret_index = i;
            count++;
        }
    }
    if (count == 1)
        return true;
    if (count > 1)
        return error_set(err, ERROR_CONFIG,
                         "%s: %d tables have that name; put the schema before it", wanted, count);
    near = config_nearest(wanted, follow->labels, follow->ntables);
    for (int i = 0; near == NULL && i < follow->ntables; i++)
        if (config_nearest(wanted, (const char *[]){follow->tables[i].name}, 1) != NULL)
            near = follow->labels[i];
    if (near != NULL)
        return error_set(err, ERROR_CONFIG, "%s is not mirrored; did you mean %s?", wanted, near);
    error_set(err, ERROR_CONFIG, "%s is not mirrored", wanted);
    return error_hint(err, "tailwater status -c %s lists the tables", follow->config->file);
}

static bool choose_all(struct follow *follow, const char **schemas, const char **names,
                       int *ret_count)
{
    int count = 0;

    for (int i = 0; i < follow->ntables; i++) {
        if (follow->tables[i].unlisted_lsn != 0)
            continue;
        schemas[count] = follow->tables[i].schema;
        names[count++] = follow->tables[i].name;
    }
    *ret_count = count;
    return true;
}

/* Those that the command names, each once. */
static bool choose_named(struct follow *follow, const char **schemas, const char **names,
                         int *ret_count, struct error *err)
{
    const struct cli *cli = follow->cli;
    int count = 0, index = 0;

    for (int i = 0; i < cli->noperands; i++) {
        bool is_twice = false;

        if (!find_table(follow, cli->operands[i], &index, err))
            return false;
        for (int j = 0; j < count; j++)
            is_twice |= schemas[j] == follow->tables[index].schema &&
                        names[j] == follow->tables[index].name;
        if (is_twice)
            continue;
        schemas[count] = follow->tables[index].schema;
        names[count++] = follow->tables[index].name;
    }
    *ret_count = count;
    return true;
}

static bool ask(struct follow *follow, struct job_wish *wish, struct error *err)
{
    const int size = follow->ntables + follow->cli->noperands;
    const char **schemas = arena_new(follow->arena, const char *, size + 1);
    const char **names = arena_new(follow->arena, const char *, size + 1);

    if (wish->ntables > 0)
        return job_ask(follow->mirror, follow->config->pipeline, wish, &follow->job.id, err);
    wish->schemas = schemas;
    wish->names = names;
    return (follow->cli->noperands == 0
                ? choose_all(follow, schemas, names, &wish->ntables)
                : choose_named(follow, schemas, names, &wish->ntables, err)) &&
           job_ask(follow->mirror, follow->config->pipeline, wish, &follow->job.id, err);
}

/* ---- progress ---- */

static const struct job_table *table_in_hand(const struct follow *follow)
{
    for (int i = 0; i < follow->job.ntables; i++)
        if (follow->job.tables[i].state == JOB_RUNNING)
            return &follow->job.tables[i];
    return NULL;
}

static void add_progress(const struct follow *follow, struct buf *text)
{
    const struct job_table *table = table_in_hand(follow);
    char left[HUMAN_TEXT_SIZE];
    double share;

    if (table == NULL) {
        buf_printf(text, "job %" PRId64 ": %s", follow->job.id,
                   follow->is_alone ? "no replicator is running; waiting for one"
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
    if (follow->is_alone)
        buf_add(text, "; the replicator went away, waiting for it");
}

static void show_progress(struct follow *follow)
{
    const bool is_terminal = isatty(STDERR_FILENO);
    _cleanup_buf_ struct buf text = {0};

    if (!is_terminal && clock_tick_us() - follow->said_us < SAY_US)
        return;
    follow->said_us = clock_tick_us();
    add_progress(follow, &text);
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

static bool leave_job(const struct follow *follow, struct error *err)
{
    error_set(err, ERROR_RETRY, "interrupted; job %" PRId64 " goes on without this command",
              follow->job.id);
    return error_hint(err, "tailwater status -c %s shows the tables", follow->config->file);
}

/* Is somebody there to do it?  Not for long is as good. */
static bool look_for_replicator(struct follow *follow, struct error *err)
{
    struct control_holder holder;

    if (!control_find_holder(follow->mirror, follow->config->pipeline, &follow->look, &holder, err))
        return false;
    if (holder.pid != 0) {
        follow->is_alone = false;
        return true;
    }
    if (!follow->is_alone)
        follow->alone_since_us = clock_tick_us();
    follow->is_alone = true;
    if (clock_tick_us() - follow->alone_since_us < follow->config->source.start_timeout_us)
        return true;
    error_set(err, ERROR_RETRY, "the replicator went away; job %" PRId64 " is not done",
              follow->job.id);
    return error_hint(err, "the next replicator does it; run: tailwater run -c %s",
                      follow->config->file);
}

static bool look_at_job(struct follow *follow, struct error *err)
{
    arena_reset(&follow->look);
    return connect_mirror(follow, err) &&
           job_read(follow->mirror, follow->job.id, &follow->look, &follow->job, err);
}

static bool watch(struct follow *follow, struct error *err)
{
    catch_interrupt();
    while (!is_interrupted) {
        if (!look_at_job(follow, err))
            return false;
        if (follow->job.id == 0)
            return error_set(err, ERROR_FAILED, "the job is gone: somebody removed it");
        if (follow->job.state == JOB_DONE || follow->job.state == JOB_FAILED)
            return true;
        if (!look_for_replicator(follow, err))
            return false;
        show_progress(follow);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_US * 1000}, NULL);
    }
    return leave_job(follow, err);
}

/* Nobody has the lock: this process is the replicator, as run would be. */
static bool work(struct follow *follow, struct error *err)
{
    const struct run_options options = {.config = follow->config,
                                        .version = TAILWATER_VERSION,
                                        .job = follow->job.id,
                                        .is_new_slot = follow->cli->is_new_slot};

    if (!run_pipeline(&options, err) || !look_at_job(follow, err))
        return false;
    if (follow->job.state == JOB_DONE || follow->job.state == JOB_FAILED)
        return true;
    error_set(err, ERROR_RETRY,
              "interrupted; job %" PRId64 " is not done, and waits for a replicator",
              follow->job.id);
    return error_hint(err, "the next one does it: tailwater run -c %s", follow->config->file);
}

/* A slot is made anew before anything streams, or not at all. */
static bool work_alone(struct follow *follow, const struct control_holder *holder,
                       struct error *err)
{
    struct error ignored;

    if (holder->pid != 0) {
        error_set(err, ERROR_BUSY, "a replicator of pipeline %s is running (PID %d on the mirror)",
                  follow->config->pipeline, holder->pid);
        error_hint(err, "stop it first");
    } else if (work(follow, err)) {
        return true;
    }
    if (connect_mirror(follow, &ignored))
        (void) job_withdraw(follow->mirror, follow->job.id, &ignored);
    return false;
}

static bool do_job(struct follow *follow, struct error *err)
{
    struct control_holder holder;

    if (!control_find_holder(follow->mirror, follow->config->pipeline, follow->arena, &holder, err))
        return false;
    if (follow->cli->is_new_slot)
        return work_alone(follow, &holder, err);
    if (holder.pid == 0 && work(follow, err))
        return true;
    /* Somebody else was quicker: then it is theirs. */
    return (holder.pid != 0 || err->kind == ERROR_BUSY) && watch(follow, err);
}

bool follow_job(struct follow *follow, struct job_wish *wish, struct error *err)
{
    const bool is_ok = load_tables(follow, err) && ask(follow, wish, err) && do_job(follow, err);

    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    return is_ok;
}

void follow_release(struct follow *follow)
{
    pg_free(follow->mirror);
    arena_release(&follow->look);
}
