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
    struct pg *mirror;
    struct buf out;
};

/* operands[0] is the name of what is done; these are what follows it. */
struct action {
    const char *name, *usage;
    int min, max;
    bool (*run)(struct look *look, struct error *err);
};

static bool show_status(struct look *look, struct error *err)
{
    const char *pipeline = look->config->pipeline;

    if (!look->cli->is_json)
        return ledger_status_text(look->mirror, pipeline, &look->out, err);
    if (!ledger_status_json(look->mirror, pipeline, &look->out, err))
        return false;
    buf_add_char(&look->out, '\n');
    return true;
}

static bool show_keys(struct look *look, struct error *err)
{
    return inspect_peek(look->mirror, look->config->pipeline, look->cli->operands[1],
                        look->cli->consumer, look->cli->is_json, &look->out, err);
}

static bool show_reasons(struct look *look, struct error *err)
{
    return inspect_why(look->mirror, look->config->pipeline, look->cli->operands[1],
                       look->cli->operands + 2, look->cli->noperands - 2, look->cli->is_json,
                       &look->out, err);
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

static bool show_statistics(struct look *look, struct error *err)
{
    if (look->cli->is_candidates)
        return show_candidates(look, err);
    return inspect_statistics(look->mirror, look->config->pipeline, look->cli->is_json, &look->out,
                              err);
}

static const struct action actions[] = {
    {"status", "tailwater ledger status", 0, 0, show_status},
    {"peek", "tailwater ledger peek FACT [--consumer NAME]", 1, 1, show_keys},
    {"why", "tailwater ledger why FACT KEY…", 2, CLI_MAX_OPERANDS - 1, show_reasons},
    {"stats", "tailwater ledger stats [--candidates]", 0, 0, show_statistics},
};

#define NACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

static const struct action *find_action(const struct cli *cli, struct error *err)
{
    const char *names[NACTIONS], *near;

    for (int i = 0; i < NACTIONS; i++) {
        names[i] = actions[i].name;
        if (cli->noperands > 0 && strcmp(cli->operands[0], names[i]) == 0)
            return &actions[i];
    }
    if (cli->noperands == 0) {
        error_set(err, ERROR_CONFIG, "ledger: say what: status, peek, why or stats");
    } else {
        near = config_nearest(cli->operands[0], names, NACTIONS);
        error_set(err, ERROR_CONFIG, "ledger: unknown action \"%s\"; did you mean \"%s\"?",
                  cli->operands[0], near ? near : "status");
    }
    error_hint(err, "run: tailwater help ledger");
    return NULL;
}

static bool check_line(const struct cli *cli, const struct action *action, struct error *err)
{
    const int count = cli->noperands - 1;
    const char *wrong = NULL;

    if (count < action->min)
        wrong = "something is missing";
    else if (count > action->max)
        wrong = "something is too much";
    else if (cli->consumer != NULL && action->run != show_keys)
        wrong = "--consumer goes with peek";
    else if (cli->is_candidates && action->run != show_statistics)
        wrong = "--candidates goes with stats";
    if (wrong == NULL)
        return true;
    error_set(err, ERROR_CONFIG, "ledger %s: %s", action->name, wrong);
    return error_hint(err, "%s", action->usage);
}

static bool look_at(struct look *look, struct arena *arena, const struct action *action,
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
    const struct action *action;
    struct error err = {0};
    struct config config;
    int code = 0;

    action = find_action(cli, &err);
    if (action == NULL || !check_line(cli, action, &err) ||
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
