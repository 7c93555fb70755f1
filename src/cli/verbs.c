/*
 * The table of verbs.  To add one: write src/cli/verb_NAME.c with "int verb_NAME(struct cli *cli)",
 * declare that in cli.h, and add its row here; options and help come from the row, so that the
 * parser, "help" and --help cannot disagree.  A help text begins with an example.
 */
#include "cli/cli.h"

#include <string.h>

#define FIELD(name)    offsetof(struct cli, name)
#define OPTIONS(array) .options = (array), .noptions = (int) (sizeof(array) / sizeof((array)[0]))

static const char init_help[] =
    "    tailwater init --source \"host=prod dbname=shop user=tailwater\" \\\n"
    "                   --mirror \"host=dwh dbname=reports user=tailwater\" > tailwater.yaml\n"
    "\n"
    "Writes a small commented configuration to standard output, and what to do next to standard\n"
    "error.  Connects to nothing.  Connection strings are libpq's, key=value or URI.  A password "
    "in\n"
    "one is not written: the configuration gets ${TAILWATER_SOURCE_PASSWORD} or\n"
    "${TAILWATER_MIRROR_PASSWORD}, which are read from the environment.\n";

static const struct cli_option init_options[] = {
    {"source", 0, "CONNINFO", "the database to read from", cli_read_text, FIELD(source)},
    {"mirror", 0, "CONNINFO", "the database to write to", cli_read_text, FIELD(mirror)},
    {"tables", 0, "GLOB", "the tables to mirror; default public.*", cli_read_text, FIELD(tables)},
    {"pipeline", 0, "NAME", "names the slot tailwater_NAME; default main", cli_read_text,
     FIELD(pipeline)},
};

static const char version_help[] = "    tailwater version --json\n"
                                   "\n"
                                   "Prints the version.\n";

static const struct cli_option version_options[] = {
    {"json", 0, NULL, "as JSON", cli_read_flag, FIELD(is_json)},
};

static const char help_help[] = "    tailwater help init\n"
                                "\n"
                                "Explains a verb and its options; without one, lists the verbs.\n";

const struct cli_verb verbs_all[] = {
    {"init", "write a first configuration", init_help, OPTIONS(init_options), .run = verb_init},
    {"version", "print the version", version_help, OPTIONS(version_options), .run = verb_version},
    {"help", "explain a verb", help_help, .operand = "[VERB]", .run = verb_help},
};

const int verbs_count = (int) (sizeof(verbs_all) / sizeof(verbs_all[0]));

const struct cli_verb *verbs_find(const char *name)
{
    for (int i = 0; i < verbs_count; i++)
        if (strcmp(verbs_all[i].name, name) == 0)
            return &verbs_all[i];
    return NULL;
}
