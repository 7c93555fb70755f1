/* lineage: what leads where, from the configuration and the mirror's catalog; nothing is changed. */
#include "cli/cli.h"
#include "feed/lineage.h"
#include "pg/pg.h"

#include <stdio.h>
#include <string.h>

static void add_json_line(const struct lineage *lineage, struct buf *out)
{
    lineage_add_json(lineage, out);
    buf_add_char(out, '\n');
}

static const struct format {
    const char *name;
    void (*add)(const struct lineage *lineage, struct buf *out);
} formats[] = {{"text", lineage_add_text}, {"json", add_json_line}, {"dot", lineage_add_dot}};

/* NULL, and an error, where there is none of that name. */
static const struct format *find_format(const struct cli *cli, struct error *err)
{
    const char *name = cli->format != NULL ? cli->format : cli->is_json ? "json" : "text";

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    error_set(err, ERROR_CONFIG, "--format: \"%s\" is none", name);
    error_hint(err, "the formats are text, json and dot (dot -Tsvg draws it)");
    return NULL;
}

int verb_lineage(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_buf_ struct buf out = {0};
    _cleanup_pg_ struct pg *mirror = NULL;
    struct error err = {0};
    const struct format *format = find_format(cli, &err);
    struct lineage lineage;
    struct config config;

    if (format == NULL || !cli_load_config(cli, &arena, &config, &err) ||
        !pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = config.mirror.conninfo,
                                         .application = "tailwater lineage"},
                    &mirror, &err) ||
        !lineage_read(mirror, &config, cli->operands[0], &arena, &lineage, &err))
        return cli_fail(cli, &err);
    format->add(&lineage, &out);
    fwrite(buf_text(&out), 1, out.len, stdout);
    return 0;
}
