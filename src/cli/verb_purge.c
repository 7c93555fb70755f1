/*
 * purge: the sweep by hand.  Slices go through sweep_slice(), which takes turns with the
 * replicator's batches by the pipeline's clock, so it may run at any time, with a replicator or
 * without.
 *
 * Between two slices it rests as long as the slice took: a row lock is not fair, and a waiting
 * batch has to get its turn.  --older-than goes for every table, whatever its purge_after says;
 * without it each table's own retention does, and "never" is left alone.
 */
#include "base/clock.h"
#include "base/human.h"
#include "cli/cli.h"
#include "mirror/control.h"
#include "mirror/sweep.h"

#include <time.h>
#include <unistd.h>

/* A large transaction may hold the clock for long; so long is an answer of its own. */
#define MAX_BUSY_US INT64_C(300000000)

struct purge {
    const struct cli *cli;
    const struct config *config;
    struct pg *mirror;
    struct buf json;
    int64_t total;
    int ntables;
};

/* What the configuration says for a table; later entries win. */
static int64_t retention(const struct purge *purge, const struct control_table *table)
{
    int64_t after_us = purge->config->purge.after_us;

    if (purge->cli->older_than_us >= 0)
        return purge->cli->older_than_us;
    for (int i = 0; i < purge->config->ntables; i++) {
        const struct config_table *entry = &purge->config->tables[i];

        if (entry->has_purge_after && config_table_matches(entry, table->schema, table->name))
            after_us = entry->purge_after_us;
    }
    return after_us;
}

static void rest(int64_t us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

    nanosleep(&ts, NULL);
}

static void say_progress(const struct control_table *table, int64_t deleted, bool is_waiting)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%s.%s: %lld purged%s", table->schema, table->name,
                (long long) deleted, is_waiting ? ", waiting for a batch of the replicator" : "");
}

static void end_progress(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* The batches have not let go of the clock for too long. */
static bool give_up(const struct control_table *table, struct error *err)
{
    error_set(
        err, ERROR_RETRY,
        "purging %s.%s: the replicator has been applying one batch for more than five minutes",
        table->schema, table->name);
    return error_hint(err,
                      "a large transaction takes its time; run the same again when it is through");
}

static bool sweep_table(const struct purge *purge, const struct control_table *table,
                        int64_t older_than_us, int64_t *ret_deleted, struct error *err)
{
    int64_t total = 0, deleted = SWEEP_SLICE_ROWS, turn_us = clock_tick_us();

    while (deleted == SWEEP_SLICE_ROWS || deleted == SWEEP_BUSY) {
        int64_t start_us = clock_tick_us();

        say_progress(table, total, deleted == SWEEP_BUSY);
        if (!sweep_slice(purge->mirror, purge->config->pipeline, table->mirror_schema,
                         table->mirror_name, older_than_us, SWEEP_SLICE_ROWS, &deleted, err) ||
            (deleted == SWEEP_BUSY && start_us - turn_us > MAX_BUSY_US && !give_up(table, err))) {
            end_progress();
            return false;
        }
        if (deleted == SWEEP_BUSY)
            continue;
        turn_us = clock_tick_us();
        total += deleted;
        rest(turn_us - start_us);
    }
    end_progress();
    *ret_deleted = total;
    return true;
}

static void report(struct purge *purge, const struct control_table *table, int64_t older_than_us,
                   int64_t rows, int64_t oldest_us)
{
    char age[HUMAN_TEXT_SIZE];

    purge->total += rows;
    if (purge->cli->is_json) {
        buf_add(&purge->json, purge->ntables++ > 0 ? ", {\"schema\": " : "{\"schema\": ");
        buf_add_json(&purge->json, table->schema);
        buf_add(&purge->json, ", \"name\": ");
        buf_add_json(&purge->json, table->name);
        buf_printf(&purge->json, ", \"older_than_seconds\": %.3f, \"rows\": %lld}",
                   (double) older_than_us / 1e6, (long long) rows);
    } else if (rows > 0 && purge->cli->is_dry_run) {
        printf("%12lld  %s.%s, the oldest %s old\n", (long long) rows, table->schema, table->name,
               human_duration(oldest_us, age));
    } else if (rows > 0) {
        printf("%12lld  %s.%s\n", (long long) rows, table->schema, table->name);
    }
    fflush(stdout);
}

static bool purge_table(struct purge *purge, const struct control_table *table, struct error *err)
{
    int64_t older_than_us = retention(purge, table), rows = 0, oldest_us = 0;

    if (older_than_us < 0 || table->state != CONTROL_TABLE_READY)
        return true;
    if (purge->cli->is_dry_run
            ? !sweep_count(purge->mirror, table->mirror_schema, table->mirror_name, older_than_us,
                           &rows, &oldest_us, err)
            : !sweep_table(purge, table, older_than_us, &rows, err))
        return false;
    report(purge, table, older_than_us, rows, oldest_us);
    return true;
}

static bool purge_tables(struct purge *purge, struct arena *arena, struct error *err)
{
    struct control_pipeline pipeline;
    struct control_table *tables;
    bool is_known;
    int count;

    if (!control_require(purge->mirror, err) ||
        !control_load(purge->mirror, purge->config->pipeline, arena, &is_known, &pipeline, err))
        return false;
    if (!is_known) {
        error_set(err, ERROR_FAILED, "there is no pipeline %s in the mirror database",
                  purge->config->pipeline);
        return error_hint(err, "see which there are: tailwater status -c %s", purge->config->file);
    }
    if (!control_list_tables(purge->mirror, purge->config->pipeline, arena, &count, &tables, err))
        return false;
    for (int i = 0; i < count; i++)
        if (!purge_table(purge, &tables[i], err))
            return false;
    return true;
}

static void print_total(struct purge *purge)
{
    if (purge->cli->is_json) {
        _cleanup_buf_ struct buf name = {0};

        buf_add_json(&name, purge->config->pipeline);
        printf("{\"pipeline\": %s, \"dry_run\": %s, \"rows\": %lld, \"tables\": [%s]}\n",
               buf_text(&name), purge->cli->is_dry_run ? "true" : "false", (long long) purge->total,
               buf_text(&purge->json));
    } else {
        printf("%12lld  tombstones %s\n", (long long) purge->total,
               purge->cli->is_dry_run ? "would be purged" : "purged");
    }
}

int verb_purge(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_pg_ struct pg *mirror = NULL;
    _cleanup_buf_ struct buf application = {0};
    struct purge purge = {.cli = cli};
    struct error err = {0};
    struct config config;
    int code = 0;

    if (!cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    buf_printf(&application, "tailwater %s purge", config.pipeline);
    purge.config = &config;
    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = config.mirror.conninfo,
                                         .application = buf_text(&application)},
                    &mirror, &err))
        return cli_fail(cli, &err);
    purge.mirror = mirror;
    if (purge_tables(&purge, &arena, &err))
        print_total(&purge);
    else
        code = cli_fail(cli, &err);
    buf_release(&purge.json);
    return code;
}
