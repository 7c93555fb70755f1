/* run: the replicator in the foreground, for a terminal, systemd or cron (--until now). */
#include "cli/cli.h"
#include "cli/version.h"
#include "engine/run.h"

int verb_run(struct cli *cli)
{
    struct arena arena = {0};
    struct config config;
    struct error err = {0};
    struct run_options options = {.config = &config,
                                  .version = TAILWATER_VERSION,
                                  .is_until_now = cli->until == UNTIL_NOW,
                                  .until = cli->until == UNTIL_LSN ? cli->until_lsn : 0};
    int code = 0;

    if (!cli_load_config(cli, &arena, &config, &err) || !run_pipeline(&options, &err))
        code = cli_fail(cli, &err);
    arena_release(&arena);
    return code;
}
