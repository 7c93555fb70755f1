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

/* ---- as JSON: what manual pages and completions are made of (scripts/package) ---- */

static void add_option(struct buf *json, const struct cli_option *option, bool is_first)
{
    const char letter[] = {option->letter, '\0'};

    buf_add(json, is_first ? "{" : ", {");
    buf_add_json_member(json, "name", option->name);
    buf_add(json, ", ");
    buf_add_json_member(json, "letter", option->letter ? letter : NULL);
    buf_add(json, ", ");
    buf_add_json_member(json, "value", option->value);
    buf_add(json, ", ");
    buf_add_json_member(json, "help", option->help);
    buf_add_char(json, '}');
}

static void add_verb(struct buf *json, const struct cli_verb *verb)
{
    const struct cli_option *option;

    buf_add_char(json, '{');
    buf_add_json_member(json, "name", verb->name);
    buf_add(json, ", ");
    buf_add_json_member(json, "summary", verb->summary);
    buf_add(json, ", ");
    buf_add_json_member(json, "operand", verb->operand);
    buf_add(json, ", ");
    buf_add_json_member(json, "help", verb->help);
    buf_add(json, ", \"options\": [");
    for (int i = 0; i < verb->noptions; i++)
        add_option(json, &verb->options[i], i == 0);
    for (int i = 0; (option = cli_common_option(verb, i)) != NULL; i++)
        add_option(json, option, verb->noptions == 0 && i == 0);
    buf_add(json, "]}");
}

static int print_json(const struct cli_verb *verb)
{
    _cleanup_buf_ struct buf json = {0};

    buf_add_char(&json, '[');
    for (int i = 0; i < verbs_count; i++) {
        if (verb != NULL && &verbs_all[i] != verb)
            continue;
        buf_add(&json, json.len > 1 ? ", " : "");
        add_verb(&json, &verbs_all[i]);
    }
    buf_add(&json, "]\n");
    fwrite(buf_text(&json), 1, json.len, stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}

int verb_help(struct cli *cli)
{
    const struct cli_verb *verb = NULL;
    struct error err = {0};

    if (cli->noperands > 0 && !cli_find_verb(cli->operands[0], &verb, &err))
        return cli_fail(cli, &err);
    if (cli->is_json)
        return print_json(verb);
    if (verb == NULL)
        verb_help_list(stdout);
    else
        verb_help_verb(stdout, verb);
    return 0;
}
