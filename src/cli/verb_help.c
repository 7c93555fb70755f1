/* The help, composed from the tables: the list of verbs, or one verb's example, text and options.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

void verb_help_list(FILE *out)
{
    fputs("    tailwater init --source CONNINFO --mirror CONNINFO > tailwater.yaml\n"
          "\n"
          "Tailwater keeps a current copy of chosen tables of one PostgreSQL database (the source) "
          "in\n"
          "another (the mirror).\n"
          "\n"
          "Verbs:\n",
          out);
    for (int i = 0; i < verbs_count; i++)
        fprintf(out, "  %-9s %s\n", verbs_all[i].name, verbs_all[i].summary);
    fputs("\n"
          "tailwater help VERB, or tailwater VERB --help, explains one.  -c FILE names the\n"
          "configuration, tailwater.yaml where it is not given.\n",
          out);
}

static void write_option(FILE *out, const struct cli_option *option)
{
    char left[64] = "";

    snprintf(left, sizeof(left), "%c%c%s--%s%s%s", option->letter ? '-' : ' ',
             option->letter ? option->letter : ' ', option->letter ? ", " : "  ", option->name,
             option->value ? " " : "", option->value ? option->value : "");
    fprintf(out, "  %-28s %s\n", left, option->help);
}

void verb_help_verb(FILE *out, const struct cli_verb *verb)
{
    const struct cli_option *option;

    fprintf(out, "%s\n%s", verb->help, "Options:\n");
    for (int i = 0; i < verb->noptions; i++)
        write_option(out, &verb->options[i]);
    for (int i = 0; (option = cli_common_option(verb, i)) != NULL; i++)
        write_option(out, option);
}

int verb_help(struct cli *cli)
{
    struct error err = {0};

    if (cli->noperands == 0) {
        verb_help_list(stdout);
        return 0;
    }
    if (!cli_find_verb(cli->operands[0], &cli->verb, &err))
        return cli_fail(cli, &err);
    verb_help_verb(stdout, cli->verb);
    return 0;
}
