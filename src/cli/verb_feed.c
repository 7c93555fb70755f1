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
    const char *name;               /* the first operand; NULL where there is none */
    const struct config_feed *feed; /* of that name; NULL where nobody needs it */
    struct arena *arena;
    struct pg *mirror;       /* NULL for what connects by itself */
    const char *const *keys; /* as they were given */
    int nkeys;
    struct buf out;
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
    const char **keys, *params[] = {work->name, NULL};

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

static bool do_run(void *arg, struct error *err)
{
    struct work *work = arg;
    if (work->cli->until == UNTIL_LSN)
        return error_set(err, ERROR_CONFIG, "feed run: --until now is all there is");
    return feeder_run_alone(work->config, work->feed, work->cli->until == UNTIL_NOW, err);
}

static bool do_status(void *arg, struct error *err)
{
    struct work *work = arg;
    return (work->cli->is_json ? feed_status_json : feed_status_text)(
        work->mirror, work->config->pipeline, &work->out, err);
}

static bool do_dead(void *arg, struct error *err)
{
    struct work *work = arg;
    return feed_status_dead(work->mirror, work->name, work->cli->is_json, &work->out, err);
}

/* A function that says whether it changed anything. */
static bool call(struct work *work, const char *sql, const char *more, const char *yes,
                 const char *no, struct error *err)
{
    const char *params[] = {work->name, more};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(work->mirror, sql, more != NULL ? 2 : 1, params, &row, err))
        return feed_explain(err);
    buf_printf(&work->out, "%s: %s\n", work->name, pg_bool(row, 0, 0) ? yes : no);
    return true;
}

static bool do_pause(void *arg, struct error *err)
{
    struct work *work = arg;
    return call(work, "select tailwater.feed_pause($1, $2)",
                work->nkeys > 0 ? work->keys[0] : "paused by tailwater feed pause",
                "paused; the ledger keeps what changes", "it was paused before", err);
}

static bool do_resume(void *arg, struct error *err)
{
    struct work *work = arg;
    return call(work, "select tailwater.feed_resume($1)", NULL, "resumed",
                "it was not paused; a receiver that takes nothing is tried at once", err);
}

static bool do_drop(void *arg, struct error *err)
{
    struct work *work = arg;
    return call(work, "select tailwater.feed_drop($1)", NULL, "forgotten", "it was not there", err);
}

static bool do_retry(void *arg, struct error *err)
{
    struct work *work = arg;
    int64_t count = 0;

    if (!call_with_keys(work, "select tailwater.feed_retry($1, $2::text[])", &count, err))
        return false;
    buf_printf(&work->out, "%s: %" PRId64 " documents are tried again now\n", work->name, count);
    return true;
}

static bool do_resend(void *arg, struct error *err)
{
    struct work *work = arg;
    int64_t count = 0;

    if (!call_with_keys(work, "select tailwater.feed_resend($1, $2::text[])", &count, err))
        return false;
    buf_printf(&work->out, "%s: %" PRId64 " keys are sent again\n", work->name, count);
    return true;
}

static bool do_preview(void *arg, struct error *err)
{
    struct work *work = arg;
    const char **keys;

    return read_keys(work, &keys, err) &&
           feed_preview(work->config, work->feed, keys, work->nkeys, &work->out, err);
}

/* Options first: a feed may be called like an action. */
static const struct cli_action actions[] = {
    {"--dry-run", "tailwater feed NAME --dry-run KEY…", 2, CLI_MAX_OPERANDS, "dry-run", do_preview},
    {"--resend", "tailwater feed NAME --resend KEY…, or --resend --all", 1, CLI_MAX_OPERANDS,
     "resend all", do_resend},
    {"run", "tailwater feed run NAME [--until now]", 1, 1, "until", do_run},
    {"status", "tailwater feed status [--json]", 0, 0, "json", do_status},
    {"pause", "tailwater feed pause NAME [REASON]", 1, 2, "", do_pause},
    {"resume", "tailwater feed resume NAME", 1, 1, "", do_resume},
    {"dead", "tailwater feed dead NAME [--json]", 1, 1, "json", do_dead},
    {"retry", "tailwater feed retry NAME [KEY…]", 1, CLI_MAX_OPERANDS, "", do_retry},
    {"drop", "tailwater feed drop NAME", 1, 1, "", do_drop},
};

#define NACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

/* What the table does not say. */
static bool check_line(const struct cli *cli, const struct cli_action *action, struct error *err)
{
    if (action->run != do_resend || cli->is_all == (cli->noperands == 1))
        return true;
    error_set(err, ERROR_CONFIG, "feed %s: either keys or --all", action->name);
    return error_hint(err, "%s", action->usage);
}

static bool work_on(struct work *work, const struct cli_action *action, const char *const *operands,
                    struct error *err)
{
    work->name = operands[0];
    if (operands[0] != NULL) {
        /* What is dropped may be declared no more. */
        if (action->run != do_drop && !feed_find(work->config, work->name, &work->feed, err))
            return false;
        work->keys = operands + 1;
        while (work->keys[work->nkeys] != NULL)
            work->nkeys++;
    }
    return (action->run == do_run ||
            feed_connect(work->config, "tailwater feed", -1, &work->mirror, err)) &&
           action->run(work, err);
}

int verb_feed(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct work work = {.cli = cli, .arena = &arena};
    const struct cli_action *action;
    const char *const *operands;
    struct error err = {0};
    struct config config;
    int code = 0;

    if (!cli_find_action(cli, actions, NACTIONS, &action, &operands, &err) ||
        !check_line(cli, action, &err) || !cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    cli->is_logged = action->run == do_run;
    work.config = &config;
    if (work_on(&work, action, operands, &err))
        fwrite(buf_text(&work.out), 1, work.out.len, stdout);
    else
        code = cli_fail(cli, &err);
    buf_release(&work.out);
    pg_free(work.mirror);
    return code;
}
