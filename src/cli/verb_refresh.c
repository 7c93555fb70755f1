/*
 * refresh: the refreshers of the replicator (src/engine/refresher.h), for one fact and in this
 * process.  A replicator may run beside it: the target's lock sees to it that they do not meet.
 */
#include "base/memory.h"
#include "cli/cli.h"
#include "engine/refresher.h"
#include "engine/stop.h"
#include "refresh/target.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void print_result(const struct cli *cli, const struct refresher *refresher)
{
    if (cli->is_json)
        printf("{\"fact\": \"%s\", \"windows\": %" PRId64 ", \"chunks\": %" PRId64
               ", \"keys\": %" PRId64 ", \"inserted\": %" PRId64 ", \"updated\": %" PRId64
               ", \"deleted\": %" PRId64 ", \"failed\": %" PRId64 ", \"seconds\": %.3f}\n",
               refresher->only->name, refresher->windows, refresher->chunks, refresher->keys,
               refresher->inserted, refresher->updated, refresher->deleted, refresher->failed,
               (double) refresher->took_us / 1e6);
    else
        printf("%s: %" PRId64 " windows, %" PRId64 " chunks, %" PRId64 " keys; %" PRId64
               " rows inserted, %" PRId64 " updated, %" PRId64 " deleted; %" PRId64
               " keys failed\n",
               refresher->only->name, refresher->windows, refresher->chunks, refresher->keys,
               refresher->inserted, refresher->updated, refresher->deleted, refresher->failed);
}

static bool check_line(const struct cli *cli, struct error *err)
{
    if (cli->noperands == 0) {
        error_set(err, ERROR_CONFIG, "refresh: which fact?");
        return error_hint(err, "run: tailwater help refresh");
    }
    if (cli->is_verifying && !cli->is_full) {
        error_set(err, ERROR_CONFIG, "refresh: --verify goes with --full");
        return error_hint(err, "tailwater refresh %s --full --verify", cli->operands[0]);
    }
    if (cli->is_once && cli->is_full)
        return error_set(err, ERROR_CONFIG, "refresh: --once or --full, not both");
    return true;
}

static int keep(const struct cli *cli, const struct config *config, const struct config_fact *fact)
{
    struct refresher *refresher = memory_new(struct refresher);
    struct error err = {0};
    int code;

    refresher->config = config;
    refresher->only = fact;
    refresher->workers = config->refresh.workers > 0 ? config->refresh.workers : 1;
    refresher->is_until_idle = cli->is_once;
    refresher->stop = stop_flag();
    if (!stop_catch(&err)) {
        code = cli_fail(cli, &err);
    } else {
        refresher->wake_fd = stop_fd();
        refresher_run(refresher);
        if (refresher->has_error) {
            code = cli_fail(cli, &refresher->error);
        } else {
            print_result(cli, refresher);
            code = refresher->failed > 0 ? error_exit_code(ERROR_FINDINGS) : 0;
        }
    }
    free(refresher);
    return code;
}

int verb_refresh(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    const struct config_fact *fact;
    struct error err = {0};
    struct config config;

    if (!check_line(cli, &err) || !cli_load_config(cli, &arena, &config, &err) ||
        !target_find(&config, cli->operands[0], &fact, &err))
        return cli_fail(cli, &err);
    if (cli->is_full)
        return verb_backfill_all(cli, &config, fact, cli->is_verifying ? "verify" : "full");
    return keep(cli, &config, fact);
}
