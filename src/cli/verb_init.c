/*
 * The first configuration: what has no default is active, what most people change next stands
 * beside it as a comment with its default.  It is read back before it is printed, so that init
 * never writes what run would refuse.
 *
 * Connects to nothing: whether the databases are there, and fit, is what check is for.
 */
#include "cli/cli.h"
#include "pg/conninfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char head[] =
    "# What is copied from where to where.  Commented keys show their defaults.\n"
    "# \"tailwater check\" says what is missing; \"tailwater run\" copies, and then follows.\n"
    "\n";

static const char source_rest[] =
    "  # plugin: wal2json          # or pgoutput, which is part of every server\n"
    "  # heartbeat: auto           # off, or how often, as in 10s\n"
    "  # wal_guard: {warn: 4GB, critical: 16GB}   # WAL that the slot makes the source keep\n"
    "  # max_read_rate: 0          # of copies and repairs, as in 20MB/s; 0 is no limit\n"
    "  # nan_check: auto           # off: with wal2json before 2.6, NaN and infinities stay null\n"
    "\n";

static const char mirror_rest[] =
    "  # readers: [reports]        # roles that may read the live views\n"
    "  # table_schema: \"mirror_{schema}\"   # where the tables of a source schema are stored\n"
    "  # view_schema: \"{schema}\"           # where their live views are\n"
    "  # indexes: copy             # the source's; or none, or a list of their names\n"
    "\n";

static const char tables_rest[] =
    "  # - \"!public.audit_*\"       # takes tables away again\n"
    "  # - {name: public.customers, exclude: [notes], mask: {email: hash, phone: null}}\n"
    "  # - {name: public.history, deletes: ignore}   # rows stay when the source deletes them\n"
    "\n"
    "# purge: {after: 0}           # how long deleted rows are kept, unseen, as in 7d\n"
    "# apply: {max_rows: 20000, max_bytes: 32MB}   # the limits of a batch\n"
    "# copy: {workers: 2}          # connections of the initial copy\n"
    "http: {listen: \"127.0.0.1:8432\"}   # status page and metrics; each pipeline a port\n"
    "# log: {format: text, level: info}\n";

static bool add_conninfo(const char *option, const char *conninfo, const char *prefix,
                         struct buf *text, struct buf *variables, struct error *err)
{
    _cleanup_buf_ struct buf stripped = {0};

    if (!conninfo_strip(conninfo, prefix, &stripped, variables, err))
        return error_wrap(err, "option --%s", option);
    buf_add(text, "  conninfo: ");
    buf_add_json(text, buf_text(&stripped)); /* which YAML reads as it is */
    buf_add_char(text, '\n');
    return true;
}

/* What it reads from the environment need not be set yet. */
static void set_variables(const char *variables)
{
    for (const char *line = variables; *line != '\0';) {
        size_t len = strcspn(line, "\n");
        char *name = strndup(line, len);

        if (name != NULL)
            setenv(name, "a password", 0);
        free(name);
        line += len + 1;
    }
}

static bool read_back(const struct buf *text, const struct buf *variables, struct error *err)
{
    struct arena arena = {0};
    struct config config;
    bool ok;

    set_variables(buf_text(variables));
    ok = config_parse("the new configuration", buf_text(text), text->len, &arena, &config, err);
    arena_release(&arena);
    return ok;
}

static bool check_options(const struct cli *cli, struct error *err)
{
    if (cli->source == NULL || cli->mirror == NULL) {
        error_set(err, ERROR_CONFIG, "init needs --source and --mirror");
        return error_hint(err, "tailwater init --source \"host=prod dbname=shop user=tailwater\" "
                               "--mirror \"host=dwh dbname=reports user=tailwater\" > "
                               "tailwater.yaml");
    }
    if (cli->tables != NULL && !config_check_value("tables[].name", cli->tables, err))
        return error_wrap(err, "option --tables");
    if (cli->pipeline != NULL && !config_check_value("pipeline", cli->pipeline, err))
        return error_wrap(err, "option --pipeline");
    return true;
}

bool verb_init_text(const struct cli *cli, struct buf *ret_text, struct buf *ret_variables,
                    struct error *err)
{
    const char *pipeline = cli->pipeline != NULL ? cli->pipeline : "main";

    if (!check_options(cli, err))
        return false;
    buf_add(ret_text, head);
    buf_printf(ret_text, "%spipeline: %s%*s# names the replication slot tailwater_%s\n\n",
               cli->pipeline != NULL ? "" : "# ", pipeline,
               strlen(pipeline) < 14 ? 18 - (int) strlen(pipeline) : 2, "", pipeline);
    buf_add(ret_text, "source:\n");
    if (!add_conninfo("source", cli->source, "TAILWATER_SOURCE", ret_text, ret_variables, err))
        return false;
    buf_printf(ret_text, "%smirror:\n", source_rest);
    if (!add_conninfo("mirror", cli->mirror, "TAILWATER_MIRROR", ret_text, ret_variables, err))
        return false;
    buf_printf(ret_text, "%stables:\n  - ", mirror_rest);
    buf_add_json(ret_text, cli->tables != NULL ? cli->tables : "public.*");
    buf_printf(ret_text, "\n%s", tables_rest);
    return read_back(ret_text, ret_variables, err);
}

static void say_what_is_next(const struct buf *variables)
{
    if (variables->len > 0)
        fputs(
            "Passwords are not written down: the configuration reads them from the environment.\n",
            stderr);
    for (const char *line = buf_text(variables); *line != '\0';) {
        size_t len = strcspn(line, "\n");

        fprintf(stderr, "    export %.*s='…'\n", (int) len, line);
        line += len + 1;
    }
    fputs("Next: create the roles on both servers (the SQL is in README.md), then run\n"
          "    tailwater check\n",
          stderr);
}

int verb_init(struct cli *cli)
{
    _cleanup_buf_ struct buf text = {0}, variables = {0};
    struct error err = {0};

    if (!verb_init_text(cli, &text, &variables, &err))
        return cli_fail(cli, &err);
    fputs(buf_text(&text), stdout);
    say_what_is_next(&variables);
    return 0;
}
