/*
 * feed: run one, look at them, and what an operator does to them.  The first operand is what to do,
 * or a feed's name with --dry-run or --resend.
 */
#include "cli/cli.h"
#include "engine/feeder.h"
#include "feed/document.h"
#include "feed/feed.h"
#include "feed/feed_status.h"
#include "pg/pg.h"

#include <inttypes.h>
#include <string.h>

struct work {
    const struct cli *cli;
    const struct config *config;
    const struct config_feed *feed; /* operands[1]; NULL where there is none */
    struct arena *arena;
    struct pg *mirror;       /* NULL for what connects by itself */
    const char *const *keys; /* as they were given */
    int nkeys;
    struct buf out;
};

struct action {
    const char *name, *usage;
    int min, max; /* operands behind it */
    bool connects;
    bool (*run)(struct work *work, struct error *err);
};

/* ---- keys ---- */

/* The keys of the command line as one array; NULL where there are none. */
static bool read_keys(struct work *work, const char ***ret_keys, struct error *err)
{
    const char **keys = arena_new(work->arena, const char *, work->nkeys + 1);
    int nparts;

    if (!feed_count_key(work->mirror, work->config, work->feed, &nparts, err))
        return false;
    for (int i = 0; i < work->nkeys; i++)
        if (!feed_parse_key(work->keys[i], nparts, work->arena, &keys[i], err))
            return error_wrap(err, "\"%.60s\"", work->keys[i]);
    *ret_keys = keys;
    return true;
}

/* "select FUNCTION($1, $2::text[])", which returns a number. */
static bool call_with_keys(struct work *work, const char *sql, int64_t *ret_count,
                           struct error *err)
{
    _cleanup_buf_ struct buf array = {0};
    _cleanup_result_ struct pg_result *row = NULL;
    const char **keys, *params[] = {work->feed->name, NULL};

    if (work->nkeys > 0) {
        if (!read_keys(work, &keys, err))
            return false;
        document_add_array(&array, keys, work->nkeys);
        params[1] = buf_text(&array);
    }
    if (!pg_query_row(work->mirror, sql, 2, params, &row, err))
        return feed_explain(err);
    *ret_count = pg_int(row, 0, 0);
    return true;
}

/* ---- what can be done ---- */

static bool do_run(struct work *work, struct error *err)
{
    if (work->cli->until == UNTIL_LSN)
        return error_set(err, ERROR_CONFIG, "feed run: --until now is all there is");
    return feeder_run_alone(work->config, work->feed, work->cli->until == UNTIL_NOW, err);
}

static bool do_status(struct work *work, struct error *err)
{
    return (work->cli->is_json ? feed_status_json : feed_status_text)(
        work->mirror, work->config->pipeline, &work->out, err);
}

static bool do_dead(struct work *work, struct error *err)
{
    return feed_status_dead(work->mirror, work->feed->name, work->cli->is_json, &work->out, err);
}

/* A function that says whether it changed anything. */
static bool call(struct work *work, const char *sql, const char *more, const char *yes,
                 const char *no, struct error *err)
{
    const char *params[] = {work->feed->name, more};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(work->mirror, sql, more != NULL ? 2 : 1, params, &row, err))
        return feed_explain(err);
    buf_printf(&work->out, "%s: %s\n", work->feed->name, pg_bool(row, 0, 0) ? yes : no);
    return true;
}

static bool do_pause(struct work *work, struct error *err)
{
    return call(work, "select tailwater.feed_pause($1, $2)",
                work->nkeys > 0 ? work->keys[0] : "paused by tailwater feed pause",
                "paused; the ledger keeps what changes", "it was paused before", err);
}

static bool do_resume(struct work *work, struct error *err)
{
    return call(work, "select tailwater.feed_resume($1)", NULL, "resumed", "it was not paused",
                err);
}

static bool do_drop(struct work *work, struct error *err)
{
    return call(work, "select tailwater.feed_drop($1)", NULL, "forgotten", "it was not there", err);
}

static bool do_retry(struct work *work, struct error *err)
{
    int64_t count = 0;

    if (!call_with_keys(work, "select tailwater.feed_retry($1, $2::text[])", &count, err))
        return false;
    buf_printf(&work->out, "%s: %" PRId64 " documents are tried again now\n", work->feed->name,
               count);
    return true;
}

static bool do_resend(struct work *work, struct error *err)
{
    int64_t count = 0;

    if (!call_with_keys(work, "select tailwater.feed_resend($1, $2::text[])", &count, err))
        return false;
    buf_printf(&work->out, "%s: %" PRId64 " keys are sent again\n", work->feed->name, count);
    return true;
}

static bool do_preview(struct work *work, struct error *err)
{
    const char **keys;

    return read_keys(work, &keys, err) &&
           feed_preview(work->config, work->feed, keys, work->nkeys, &work->out, err);
}

static const struct action actions[] = {
    {"run", "tailwater feed run NAME [--until now]", 1, 1, false, do_run},
    {"status", "tailwater feed status [--json]", 0, 0, true, do_status},
    {"pause", "tailwater feed pause NAME [REASON]", 1, 2, true, do_pause},
    {"resume", "tailwater feed resume NAME", 1, 1, true, do_resume},
    {"dead", "tailwater feed dead NAME [--json]", 1, 1, true, do_dead},
    {"retry", "tailwater feed retry NAME [KEY…]", 1, CLI_MAX_OPERANDS, true, do_retry},
    {"drop", "tailwater feed drop NAME", 1, 1, true, do_drop},
};

#define NACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

static const struct action preview_action = {
    "--dry-run", "tailwater feed NAME --dry-run KEY…", 1, CLI_MAX_OPERANDS, true, do_preview};
static const struct action resend_action = {
    "--resend", "tailwater feed NAME --resend KEY…, or --resend --all", 0, CLI_MAX_OPERANDS, true,
    do_resend};

/* ---- which of them ---- */

static const struct action *find_action(const struct cli *cli, struct error *err)
{
    const char *names[NACTIONS], *near;

    if (cli->noperands > 0 && cli->is_dry_run && !cli->is_resend)
        return &preview_action;
    if (cli->noperands > 0 && cli->is_resend && !cli->is_dry_run)
        return &resend_action;
    for (int i = 0; i < NACTIONS; i++) {
        names[i] = actions[i].name;
        if (cli->noperands > 0 && strcmp(cli->operands[0], names[i]) == 0)
            return &actions[i];
    }
    if (cli->noperands == 0) {
        error_set(err, ERROR_CONFIG,
                  "feed: say what: run, status, pause, resume, dead, retry or drop");
    } else {
        near = config_nearest(cli->operands[0], names, NACTIONS);
        error_set(err, ERROR_CONFIG,
                  near != NULL ? "feed: unknown action \"%s\"; did you mean \"%s\"?"
                               : "feed: unknown action \"%s\"; a feed's name goes with %s",
                  cli->operands[0], near != NULL ? near : "--dry-run or --resend");
    }
    error_hint(err, "run: tailwater help feed");
    return NULL;
}

static bool check_line(const struct cli *cli, const struct action *action, struct error *err)
{
    const int count = cli->noperands - 1;
    const bool is_json = action->run == do_status || action->run == do_dead;
    const char *wrong = NULL;

    if (count < action->min)
        wrong = "something is missing";
    else if (count > action->max)
        wrong = "something is too much";
    else if (cli->is_json && !is_json)
        wrong = "--json goes with status and dead";
    else if (cli->until != UNTIL_STOPPED && action->run != do_run)
        wrong = "--until goes with run";
    else if (cli->is_all && action->run != do_resend)
        wrong = "--all goes with --resend";
    else if (action->run == do_resend && cli->is_all == (count > 0))
        wrong = "either keys or --all";
    if (wrong == NULL)
        return true;
    error_set(err, ERROR_CONFIG, "feed %s: %s", action->name, wrong);
    return error_hint(err, "%s", action->usage);
}

static bool work_on(struct work *work, const struct action *action, struct error *err)
{
    const struct cli *cli = work->cli;
    const bool is_named = action->run == do_preview || action->run == do_resend;
    const int at = is_named ? 0 : 1; /* of the feed's name */

    if (action->run != do_status && !feed_find(work->config, cli->operands[at], &work->feed, err))
        return false;
    if (cli->noperands > at + 1) {
        work->keys = (const char *const *) cli->operands + at + 1;
        work->nkeys = cli->noperands - at - 1;
    }
    return (!action->connects ||
            feed_connect(work->config, "tailwater feed", -1, &work->mirror, err)) &&
           action->run(work, err);
}

int verb_feed(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct work work = {.cli = cli, .arena = &arena};
    const struct action *action;
    struct error err = {0};
    struct config config;
    int code = 0;

    action = find_action(cli, &err);
    if (action == NULL || !check_line(cli, action, &err) ||
        !cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    cli->is_logged = action->run == do_run;
    work.config = &config;
    if (work_on(&work, action, &err))
        fwrite(buf_text(&work.out), 1, work.out.len, stdout);
    else
        code = cli_fail(cli, &err);
    buf_release(&work.out);
    pg_free(work.mirror);
    return code;
}
