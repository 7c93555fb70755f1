/* From argv to a verb to an exit code; nothing else happens here. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What was asked for has to have arrived: a full disk behind "> tailwater.yaml" is a failure. */
static int finish(const struct cli *cli, int code)
{
    struct error err = {0};

    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    error_set(&err, ERROR_FAILED, "cannot write to standard output: %s", strerror(errno));
    return cli_fail(cli, &err);
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct cli cli;

    if (!cli_parse(argc, argv, &cli, &err))
        return cli_fail(&cli, &err);
    if (cli.is_help) {
        if (cli.verb != NULL)
            verb_help_verb(stdout, cli.verb);
        else
            verb_help_list(stdout);
        return finish(&cli, 0);
    }
    cli.is_logged = cli.verb->is_logged;
    return finish(&cli, cli.verb->run(&cli));
}
