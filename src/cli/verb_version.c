/* The version, of this build and of the libraries that decide how it connects. */
#include "cli/cli.h"
#include "cli/version.h"

#include <stdio.h>

int verb_version(struct cli *cli)
{
    if (cli->is_json)
        printf("{\"version\":\"%s\",\"build\":\"%s\"}\n", TAILWATER_VERSION, TAILWATER_BUILD);
    else
        printf("tailwater %s (%s build)\n", TAILWATER_VERSION, TAILWATER_BUILD);
    return 0;
}
