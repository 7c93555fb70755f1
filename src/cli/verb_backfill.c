/*
 * backfill: plans chunks, works on them with threads of its own, and shows how far it is.  A running
 * replicator works on them too; how many at a time is the backfill's, whoever does it.
 */
#include "base/clock.h"
#include "base/human.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "engine/refresher.h"
#include "engine/stop.h"
#include "refresh/refresh.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LOOK_US      250000
#define SAY_US       5000000 /* a line where nobody watches */
#define MAX_PARALLEL 64

struct backfill {
    struct cli *cli;
    const struct config *config;
    const struct config_fact *fact;
    struct refresh *refresh;
    struct target *target;
    struct backfill_request request;
    int64_t id;
    struct backfill_state state;
    int64_t said_us;
    char step[40], from[64], reason[300];
};

/* ---- the command line ---- */

static bool read_number(const char *option, const char *text, int64_t max, int64_t *ret_number,
                        struct error *err)
{
    if (cli_parse_number(text, max, ret_number))
        return true;
    error_set(err, ERROR_CONFIG, "backfill: --%s: %s is not a number from 1 to %" PRId64, option,
              text, max);
    return error_hint(err, "run: tailwater help backfill");
}

static bool read_chunk(struct backfill *b, struct error *err)
{
    const char *text = b->cli->chunk;
    int64_t us;

    if (text == NULL)
        return true;
    if (text[strspn(text, "0123456789")] == '\0')
        return read_number("chunk", text, 100000000, &b->request.chunk_keys, err);
    if (!config_parse_duration(text, &us, err) || us == 0) {
        error_set(err, ERROR_CONFIG, "backfill: --chunk: %s is neither keys nor a duration", text);
        return error_hint(err, "50000, or 1d where the key begins with a date or time");
    }
    snprintf(b->step, sizeof(b->step), "%" PRId64 " us", us);
    b->request.chunk_step = b->step;
    return true;
}

static bool read_line(struct backfill *b, struct error *err)
{
    const struct cli *cli = b->cli;
    const bool has_range = cli->from != NULL || cli->to != NULL || cli->where != NULL;
    int64_t parallel = 1, share = 100;

    if (cli->is_all && has_range)
        return error_set(err, ERROR_CONFIG, "backfill: --all, or a range, not both");
    if (!cli->is_all && !has_range && b->fact->lookback_us == 0) {
        error_set(err, ERROR_CONFIG, "backfill: how much of fact %s?", b->fact->name);
        return error_hint(err, "--from, --to, --where or --all; or lookback in the fact");
    }
    if ((cli->parallel != NULL &&
         !read_number("parallel", cli->parallel, MAX_PARALLEL, &parallel, err)) ||
        (cli->share != NULL && !read_number("share", cli->share, 100, &share, err)) ||
        !read_chunk(b, err))
        return false;
    b->request.parallel = (int) parallel;
    b->request.share = (int) share;
    b->request.kind = cli->is_keys ? "keys" : "backfill";
    b->request.from = cli->from;
    b->request.to = cli->to;
    b->request.predicate = cli->where;
    snprintf(b->reason, sizeof(b->reason), "%s%s%s%s%s%s%s",
             cli->is_all  ? "all"
             : !has_range ? "lookback"
                          : "",
             cli->from ? " from " : "", cli->from ? cli->from : "", cli->to ? " to " : "",
             cli->to ? cli->to : "", cli->where ? " where " : "", cli->where ? cli->where : "");
    b->request.reason = b->reason[0] == ' ' ? b->reason + 1 : b->reason;
    return true;
}

/* Where the fact's lookback begins, as a value of the key's first column. */
static bool look_back(struct backfill *b, struct error *err)
{
    const struct cli *cli = b->cli;
    char us[24];
    const char *params[] = {us};
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *row = NULL;

    if (cli->is_full || cli->is_all || cli->from != NULL || cli->to != NULL || cli->where != NULL)
        return true;
    snprintf(us, sizeof(us), "%" PRId64, b->fact->lookback_us);
    buf_printf(&sql, "select (clock_timestamp() - $1::bigint * interval '1 us')::%s::text",
               b->target->keys[0].type);
    if (!pg_query_row(refresh_connection(b->refresh), buf_text(&sql), 1, params, &row, err)) {
        if (strcmp(err->sqlstate, "42846") != 0)
            return false;
        error_set(err, ERROR_CONFIG,
                  "backfill: lookback: the key of fact %s begins with %s, which is no date or time",
                  b->fact->name, b->target->keys[0].type);
        return error_hint(err, "--where \"created_at >= now() - interval '7 days'\"");
    }
    snprintf(b->from, sizeof(b->from), "%s", pg_text(row, 0, 0));
    b->request.from = b->from;
    return true;
}

/* ---- progress ---- */

static void show_progress(struct backfill *b)
{
    const struct backfill_state *state = &b->state;
    const bool is_terminal = isatty(STDERR_FILENO);
    char left[HUMAN_TEXT_SIZE];

    if (!is_terminal && clock_tick_us() - b->said_us < SAY_US)
        return;
    b->said_us = clock_tick_us();
    fprintf(stderr, "%sbackfill %" PRId64 " of %s: %s, %" PRId64 " of %" PRId64 " chunks%s%s%s",
            is_terminal ? "\r\033[K" : "", b->id, b->fact->name, state->state, state->done,
            state->chunks, state->left_us >= 0 ? "; about " : "",
            state->left_us >= 0 ? human_duration(state->left_us, left) : "",
            state->left_us >= 0 ? " to go" : "");
    fputs(is_terminal ? "" : "\n", stderr);
    fflush(stderr);
}

static bool look(struct backfill *b, struct error *err)
{
    return backfill_look(refresh_connection(b->refresh), b->config->pipeline, b->id, &b->state,
                         err);
}

static bool is_under_way(const struct backfill *b)
{
    return strcmp(b->state.state, "running") == 0 || strcmp(b->state.state, "paused") == 0;
}

/* Works with threads of its own, and watches. */
static bool work(struct backfill *b, struct error *err)
{
    struct refresher *refresher = memory_new(struct refresher);
    pthread_t thread;
    bool is_ok = true;
    int failed;

    refresher->config = b->config;
    refresher->only = b->fact;
    refresher->backfill = b->id;
    refresher->workers = b->request.parallel > 0 ? b->request.parallel : 1;
    refresher->stop = stop_flag();
    if (!stop_catch(err)) {
        free(refresher);
        return false;
    }
    refresher->wake_fd = stop_fd();
    failed = pthread_create(&thread, NULL, refresher_run, refresher);
    if (failed != 0) {
        free(refresher);
        return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
    }
    while (pthread_tryjoin_np(thread, NULL) != 0) {
        if (is_ok && look(b, err))
            show_progress(b);
        else
            is_ok = false;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_US * 1000}, NULL);
    }
    if (is_ok && refresher->has_error) {
        *err = refresher->error;
        is_ok = false;
    } else if (is_ok && *refresher->stop) {
        error_set(err, ERROR_RETRY, "interrupted; backfill %" PRId64 " is not done", b->id);
        error_hint(err,
                   "a running replicator goes on with it, and so does: tailwater backfill %s "
                   "--resume %" PRId64,
                   b->fact->name, b->id);
        is_ok = false;
    }
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    free(refresher);
    return is_ok && look(b, err);
}

/* ---- the answer ---- */

static bool is_comparison(const struct backfill *b)
{
    return strcmp(b->state.kind, "full") == 0 || strcmp(b->state.kind, "verify") == 0;
}

static void print_json(const struct backfill *b)
{
    const struct backfill_state *state = &b->state;
    _cleanup_buf_ struct buf out = {0};

    buf_printf(&out,
               "{\"backfill\": %" PRId64 ", \"fact\": \"%s\", \"kind\": \"%s\", \"state\": \"%s\", "
               "\"chunks\": %" PRId64 ", \"done\": %" PRId64 ", \"failed\": %" PRId64
               ", \"keys\": %" PRId64 ", \"inserted\": %" PRId64 ", \"updated\": %" PRId64
               ", \"deleted\": %" PRId64,
               b->id, b->fact->name, state->kind, state->state, state->chunks, state->done,
               state->failed, state->keys, state->inserted, state->updated, state->deleted);
    if (is_comparison(b))
        buf_printf(&out, ", \"drift\": %" PRId64 ", \"pending\": %" PRId64, state->drift,
                   state->pending);
    buf_add(&out, ", \"error\": ");
    if (state->error[0] != '\0')
        buf_add_json(&out, state->error);
    else
        buf_add(&out, "null");
    buf_add_char(&out, '}');
    puts(buf_text(&out));
}

static void print_text(const struct backfill *b)
{
    const struct backfill_state *state = &b->state;
    const bool is_verify = strcmp(state->kind, "verify") == 0;
    char took[HUMAN_TEXT_SIZE];

    printf("backfill %" PRId64 " of %s: %s, %" PRId64 " of %" PRId64 " chunks in %s; ", b->id,
           b->fact->name, state->state, state->done, state->chunks,
           human_duration(state->elapsed_us, took));
    if (strcmp(state->kind, "keys") == 0)
        printf("%" PRId64 " keys given to the consumers\n", state->keys);
    else if (is_verify)
        printf("keys missing: %" PRId64 ", different: %" PRId64 ", extra: %" PRId64 "\n",
               state->inserted, state->updated, state->deleted);
    else
        printf("rows inserted: %" PRId64 ", updated: %" PRId64 ", deleted: %" PRId64 "\n",
               state->inserted, state->updated, state->deleted);
    if (is_comparison(b))
        printf("drift: %" PRId64 " keys; %" PRId64 " differ and are pending\n", state->drift,
               state->pending);
    if (state->sample[0] != '\0')
        printf("  such as %s\n", state->sample);
    if (state->error[0] != '\0')
        printf("  %" PRId64 " chunks failed: %s\n", state->failed, state->error);
    if (strcmp(state->kind, "everything") == 0 && strcmp(state->state, "cancelled") == 0)
        printf("  the table is not whole without it; this builds it anew: tailwater refresh %s "
               "--once\n",
               b->fact->name);
}

static int answer(const struct backfill *b)
{
    if (b->cli->is_json)
        print_json(b);
    else
        print_text(b);
    if (strcmp(b->state.state, "failed") == 0)
        return error_exit_code(ERROR_FAILED);
    return is_comparison(b) && b->state.drift > 0 ? error_exit_code(ERROR_FINDINGS) : 0;
}

/* ---- what is asked for ---- */

static const char *given_id(const struct cli *cli)
{
    return cli->pause != NULL ? cli->pause : cli->resume != NULL ? cli->resume : cli->cancel;
}

static bool open_all(struct backfill *b, struct refresh_options *options, struct error *err)
{
    struct arena arena = {0};
    struct notes notes = {.arena = &arena};
    bool is_ok;

    *options = (struct refresh_options){
        .config = b->config, .application = "tailwater backfill", .wake_fd = -1};
    /* One that is there can be stopped whatever has become of its query. */
    is_ok = refresh_new(options, &b->refresh, err) &&
            (given_id(b->cli) != NULL ||
             refresh_open(b->refresh, b->fact, &notes, &b->target, err));
    arena_release(&arena);
    return is_ok;
}

static bool start_and_follow(struct backfill *b, struct error *err)
{
    return refresh_plan(b->refresh, b->target, &b->request, &b->id, err) && work(b, err);
}

/* --pause, --resume, --cancel: of one that is there. */
static bool change(struct backfill *b, struct error *err)
{
    const struct cli *cli = b->cli;
    const char *state = cli->pause != NULL    ? "paused"
                        : cli->resume != NULL ? "running"
                                              : "cancelled";

    if (!read_number("resume", given_id(cli), INT64_MAX, &b->id, err) || !look(b, err) ||
        !backfill_set(refresh_connection(b->refresh), b->config->pipeline, b->id, state, err))
        return false;
    return (cli->resume == NULL || work(b, err)) && look(b, err);
}

static int run(struct backfill *b)
{
    struct refresh_options options;
    struct error err = {0};
    int code;

    if (open_all(b, &options, &err) &&
        (given_id(b->cli) != NULL ? change(b, &err)
                                  : look_back(b, &err) && start_and_follow(b, &err)))
        code = given_id(b->cli) != NULL && is_under_way(b) ? (print_text(b), 0) : answer(b);
    else
        code = cli_fail(b->cli, &err);
    refresh_free(b->refresh);
    return code;
}

int verb_backfill_all(struct cli *cli, const struct config *config, const struct config_fact *fact,
                      const char *kind)
{
    struct backfill b = {.cli = cli,
                         .config = config,
                         .fact = fact,
                         .request = {.kind = kind, .reason = kind, .parallel = 1, .share = 100}};

    return run(&b);
}

int verb_backfill(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct backfill b = {.cli = cli};
    struct error err = {0};
    struct config config;

    if (cli->noperands == 0) {
        error_set(&err, ERROR_CONFIG, "backfill: of which fact?");
        error_hint(&err, "run: tailwater help backfill");
        return cli_fail(cli, &err);
    }
    b.config = &config;
    if (!cli_load_config(cli, &arena, &config, &err) ||
        !target_find(&config, cli->operands[0], &b.fact, &err) ||
        (given_id(cli) == NULL && !read_line(&b, &err)))
        return cli_fail(cli, &err);
    return run(&b);
}
