/*
 * resync and verify: a job for the replicator (follow.h), and what came of it.  A resync that is only
 * tried (--dry-run) is a verify.
 */
#include "base/human.h"
#include "cli/cli.h"
#include "cli/follow.h"

#include <inttypes.h>

static int64_t differences_of(const struct job_table *table)
{
    return table->rows_missing + table->rows_different + table->rows_extra;
}

static void add_table_text(struct buf *out, const struct job *job, const struct job_table *table)
{
    const bool is_verify = job->kind == JOB_VERIFY;
    char took[HUMAN_TEXT_SIZE];

    if (table->state == JOB_FAILED) {
        buf_printf(out, "%s.%s: failed: %s\n", table->schema, table->name, table->error);
        if (table->hint[0] != '\0')
            buf_printf(out, "  %s\n", table->hint);
        return;
    }
    buf_printf(out,
               "%s.%s: %s as of " LSN_FORMAT ", %" PRId64 " rows read in %s; %s%" PRId64
               " missing, %" PRId64 " different, %" PRId64 " extra\n",
               table->schema, table->name,
               is_verify && differences_of(table) > 0 ? "not equal" : "equal", LSN_ARGS(table->lsn),
               table->rows_read, human_duration(table->elapsed_us, took),
               is_verify ? "" : "repaired: ", table->rows_missing, table->rows_different,
               table->rows_extra);
}

static void add_text(struct buf *json, const char *name, const char *value)
{
    buf_add(json, ", ");
    buf_add_json_member(json, name, value[0] != '\0' ? value : NULL);
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
}

/* What a verify kept of the rows that differ. */
static bool add_differences(const struct follow *follow, const struct job_table *table,
                            struct buf *out, struct error *err)
{
    const bool is_json = follow->cli->is_json;
    struct job_difference *differences;
    int count = 0;

    if (!job_read_differences(follow->mirror, follow->job.id, table->nr, follow->arena, &count,
                              &differences, err))
        return false;
    buf_add(out, is_json ? ", \"differences\": [" : "");
    for (int i = 0; i < count; i++) {
        if (is_json) {
            buf_printf(out, "%s%s", i > 0 ? ", " : "", differences[i].json);
            continue;
        }
        buf_printf(out, "  %-9s  ", differences[i].kind);
        buf_add_shown(out, differences[i].text);
        buf_add_char(out, '\n');
    }
    buf_add(out, is_json ? "]" : "");
    if (!is_json && count > 0 && count < differences_of(table))
        buf_printf(out, "  … and %" PRId64 " more\n", differences_of(table) - count);
    return true;
}

static bool add_job(const struct follow *follow, struct buf *out, struct error *err)
{
    const struct job *job = &follow->job;
    const bool is_json = follow->cli->is_json;

    if (is_json)
        buf_printf(out, "{\"job\": %" PRId64 ", \"kind\": \"%s\", \"state\": \"%s\", \"tables\": [",
                   job->id, job_kind_name(job->kind), job_state_name(job->state));
    for (int i = 0; i < job->ntables; i++) {
        buf_add(out, is_json && i > 0 ? ", " : "");
        if (is_json)
            add_table_json(out, &job->tables[i]);
        else
            add_table_text(out, job, &job->tables[i]);
        if (job->kind == JOB_VERIFY && !add_differences(follow, &job->tables[i], out, err))
            return false;
        buf_add(out, is_json ? "}" : "");
    }
    buf_add(out, is_json ? "]}\n" : "");
    return true;
}

/* 1: a table could not be done; 3: a verify found differences. */
static int exit_code(const struct job *job)
{
    int64_t differences = 0;

    for (int i = 0; i < job->ntables; i++)
        differences += differences_of(&job->tables[i]);
    if (job->state != JOB_DONE)
        return 1;
    return job->kind == JOB_VERIFY && differences > 0 ? 3 : 0;
}

int verb_resync_follow(struct follow *follow, struct job_wish wish)
{
    _cleanup_buf_ struct buf out = {0};
    struct error err = {0};

    if (!follow_job(follow, &wish, &err) || !add_job(follow, &out, &err))
        return cli_fail(follow->cli, &err);
    fwrite(buf_text(&out), 1, out.len, stdout);
    return exit_code(&follow->job);
}

static int run_job(struct cli *cli, struct job_wish wish)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct config config;
    struct follow follow = {.cli = cli, .config = &config, .arena = &arena};
    struct error err = {0};
    const int code = cli_load_config(cli, &arena, &config, &err) ? verb_resync_follow(&follow, wish)
                                                                 : cli_fail(cli, &err);

    follow_release(&follow);
    return code;
}

static bool check_operands(const struct cli *cli, struct error *err)
{
    if (cli->noperands > 0 && cli->is_all)
        return error_set(err, ERROR_CONFIG, "resync: %s or --all, not both", cli->operands[0]);
    if (cli->is_new_slot && (!cli->is_all || cli->is_dry_run))
        return error_set(err, ERROR_CONFIG, "resync: --new-slot goes with --all%s",
                         cli->is_dry_run ? ", not with --dry-run" : "");
    if (cli->noperands > 0 || cli->is_all)
        return true;
    error_set(err, ERROR_CONFIG, "resync: which tables?");
    return error_hint(err, "name some, or --all; run: tailwater help resync");
}

int verb_resync(struct cli *cli)
{
    struct error err;

    if (!check_operands(cli, &err))
        return cli_fail(cli, &err);
    return run_job(cli, (struct job_wish){.kind = cli->is_dry_run ? JOB_VERIFY : JOB_RESYNC,
                                          .is_forced = cli->is_forced,
                                          .shows_values = cli->is_showing_values});
}

int verb_verify(struct cli *cli)
{
    return run_job(cli,
                   (struct job_wish){.kind = JOB_VERIFY, .shows_values = cli->is_showing_values});
}
