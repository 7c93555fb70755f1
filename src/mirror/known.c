/*
 * The control schema has it since its version 8 (mirror_table.shape).  An older one says nothing: run
 * brings it up to date, and notes the shapes as it does.
 */
#include "mirror/known.h"

#include "mirror/control.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_VERSION 8

static void add_known(const struct pg_result *rows, int row, struct arena *arena,
                      struct config_known *known)
{
    char *list = arena_strdup(arena, pg_text(rows, row, 3)), *rest;
    int *attnums = arena_new(arena, int, strlen(list) + 1);

    *known = (struct config_known){.schema = arena_strdup(arena, pg_text(rows, row, 0)),
                                   .name = arena_strdup(arena, pg_text(rows, row, 1)),
                                   .relid = (uint32_t) pg_int(rows, row, 2),
                                   .attnums = attnums};
    for (char *one = strtok_r(list, ",", &rest); one != NULL; one = strtok_r(NULL, ",", &rest))
        attnums[known->ncolumns++] = atoi(one);
}

/* A table that is dropped on the source is no mistake of the configuration, where that is followed: it
 * stays as it is, and everything else goes on. */
static void mark_mirrored(const struct pg_result *rows, int row, struct config *config)
{
    if (config->schema_changes[CHANGE_DROP_TABLE] != SCHEMA_CHANGES_APPLY ||
        strcmp(pg_text(rows, row, 4), "ready") != 0)
        return;
    for (int i = 0; i < config->ntables; i++)
        config->tables[i].is_mirrored |= strcmp(config->tables[i].schema, pg_text(rows, row, 0)) ==
                                             0 &&
                                         strcmp(config->tables[i].name, pg_text(rows, row, 1)) == 0;
}

bool known_read(struct pg *mirror, const struct config *config, struct arena *arena,
                struct config *ret_config, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct config_known *known;
    int version, last;

    *ret_config = *config;
    if (!config_is_followed(config))
        return true;
    if (!control_version(mirror, &version, &last, err))
        return false;
    if (version < FIRST_VERSION)
        return true;
    if (!pg_query(
            mirror,
            "SELECT schema, name, relid, (SELECT string_agg(c ->> 'attnum', ',') FROM "
            "jsonb_array_elements(shape -> 'columns') c), state FROM "
            "tailwater.mirror_table WHERE pipeline = $1 AND state <> 'new' AND EXISTS (SELECT "
            "FROM tailwater.pipeline WHERE name = $1 AND state = 'streaming')",
            1, &config->pipeline, &rows, err))
        return error_wrap(err, "reading the tables of pipeline %s", config->pipeline);
    ret_config->tables = arena_memdup(arena, ret_config->tables,
                                      (size_t) ret_config->ntables * sizeof(*ret_config->tables));
    known = arena_new(arena, struct config_known, pg_rows(rows));
    for (int row = 0; row < pg_rows(rows); row++) {
        add_known(rows, row, arena, &known[row]);
        mark_mirrored(rows, row, ret_config);
    }
    ret_config->known = known;
    ret_config->nknown = pg_rows(rows);
    ret_config->is_known = pg_rows(rows) > 0;
    return true;
}
