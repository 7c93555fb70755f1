/*
 * ledger: a look into the ledger from outside.  What it does is its first operand: status, peek,
 * why, stats; each is a query on the mirror (src/ledger/), and a replicator may or may not run.
 */
#include "cli/cli.h"
#include "ledger/candidate.h"
#include "ledger/inspect.h"
#include "ledger/ledger_status.h"
#include "mirror/control.h"
#include "pg/pg.h"

#include <string.h>

struct look {
    const struct cli *cli;
    const struct config *config;
    const char *const *operands; /* the action's; NULL behind the last */
    struct pg *mirror;
    struct buf out;
};

static bool show_status(void *arg, struct error *err)
{
    struct look *look = arg;
    const char *pipeline = look->config->pipeline;

    if (!look->cli->is_json)
        return ledger_status_text(look->mirror, pipeline, &look->out, err);
    if (!ledger_status_json(look->mirror, pipeline, &look->out, err))
        return false;
    buf_add_char(&look->out, '\n');
    return true;
}

static bool show_keys(void *arg, struct error *err)
{
    struct look *look = arg;
    return inspect_peek(look->mirror, look->config->pipeline, look->operands[0],
                        look->cli->consumer, look->cli->limit, look->cli->is_json, &look->out, err);
}

static bool show_reasons(void *arg, struct error *err)
{
    struct look *look = arg;
    return inspect_why(look->mirror, look->config->pipeline, look->operands[0], look->operands + 1,
                       look->cli->noperands - 2, look->cli->limit, look->cli->is_json, &look->out,
                       err);
}

static bool show_candidates(struct look *look, struct error *err)
{
    _cleanup_pg_ struct pg *source = NULL;

    return pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                           .conninfo = look->config->source.conninfo,
                                           .application = "tailwater ledger"},
                      &source, err) &&
           candidate_print(source, look->mirror, look->config->pipeline, look->cli->is_json,
                           &look->out, err);
}

static bool show_statistics(void *arg, struct error *err)
{
    struct look *look = arg;
    if (look->cli->is_candidates)
        return show_candidates(look, err);
    return inspect_statistics(look->mirror, look->config->pipeline, look->cli->is_json, &look->out,
                              err);
}

static const struct cli_action actions[] = {
    {"status", "tailwater ledger status", 0, 0, "json", show_status},
    {"peek", "tailwater ledger peek FACT [--consumer NAME] [--limit N]", 1, 1,
     "json consumer limit", show_keys},
    {"why", "tailwater ledger why FACT KEY… [--limit N]", 2, CLI_MAX_OPERANDS - 1, "json limit",
     show_reasons},
    {"stats", "tailwater ledger stats [--candidates]", 0, 0, "json candidates", show_statistics},
};

#define NACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

static bool look_at(struct look *look, struct arena *arena, const struct cli_action *action,
                    struct error *err)
{
    _cleanup_buf_ struct buf application = {0};
    struct control_pipeline pipeline;
    bool is_known;

    buf_printf(&application, "tailwater %s ledger", look->config->pipeline);
    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = look->config->mirror.conninfo,
                                         .application = buf_text(&application)},
                    &look->mirror, err) ||
        !control_require(look->mirror, err) ||
        !control_load(look->mirror, look->config->pipeline, arena, &is_known, &pipeline, err))
        return false;
    if (!is_known) {
        error_set(err, ERROR_FAILED, "there is no pipeline %s in the mirror database",
                  look->config->pipeline);
        return error_hint(err, "see which there are: tailwater status -c %s", look->config->file);
    }
    return action->run(look, err);
}

int verb_ledger(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct look look = {.cli = cli};
    const struct cli_action *action;
    struct error err = {0};
    struct config config;
    int code = 0;

    if (!cli_find_action(cli, actions, NACTIONS, &action, &look.operands, &err) ||
        !cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    look.config = &config;
    if (look_at(&look, &arena, action, &err))
        fwrite(buf_text(&look.out), 1, look.out.len, stdout);
    else
        code = cli_fail(cli, &err);
    buf_release(&look.out);
    pg_free(look.mirror);
    return code;
}
