/*
 * The pipeline's own row and its clock.
 *
 * The row is written before the slot is made, with slot_lsn 0: of two things on two servers one has
 * to be first, and a row without a slot is harmless while a slot without a row holds WAL on the
 * source and nobody knows whose it is.
 */
#include "mirror/control.h"

#include <stdio.h>

bool control_load(struct pg *mirror, const char *pipeline, struct arena *arena, bool *ret_found,
                  struct control_pipeline *ret_pipeline, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query(mirror,
                  "SELECT p.epoch, p.system_identifier, p.timeline, p.database, p.slot, "
                  "p.slot_lsn, p.plugin, p.publication, p.state, "
                  "(extract(epoch FROM p.created_at) * 1000000)::bigint, c.batch_id, c.cursor, "
                  "coalesce((extract(epoch FROM c.commit_time) * 1000000)::bigint, 0), "
                  "(extract(epoch FROM c.applied_at) * 1000000)::bigint "
                  "FROM tailwater.pipeline p JOIN tailwater.clock c ON c.pipeline = p.name "
                  "WHERE p.name = $1",
                  1, &pipeline, &row, err))
        return error_wrap(err, "reading pipeline %s", pipeline);
    *ret_found = pg_rows(row) == 1;
    if (!*ret_found)
        return true;
    *ret_pipeline = (struct control_pipeline){
        .name = arena_strdup(arena, pipeline),
        .epoch = arena_strdup(arena, pg_text(row, 0, 0)),
        .identity =
            {
                .system_identifier = arena_strdup(arena, pg_text(row, 0, 1)),
                .timeline = (int) pg_int(row, 0, 2),
                .database = arena_strdup(arena, pg_text(row, 0, 3)),
                .slot = arena_strdup(arena, pg_text(row, 0, 4)),
                .slot_lsn = pg_lsn(row, 0, 5),
                .plugin = arena_strdup(arena, pg_text(row, 0, 6)),
                .publication = pg_is_null(row, 0, 7) ? NULL
                                                     : arena_strdup(arena, pg_text(row, 0, 7)),
            },
        .state = strcmp(pg_text(row, 0, 8), "streaming") == 0 ? CONTROL_STREAMING : CONTROL_COPYING,
        .created_at_us = pg_int(row, 0, 9),
        .batch_id = pg_int(row, 0, 10),
        .cursor = pg_lsn(row, 0, 11),
        .commit_time_us = pg_int(row, 0, 12),
        .applied_at_us = pg_int(row, 0, 13),
    };
    return true;
}

bool control_list(struct pg *mirror, struct arena *arena, int *ret_count, const char ***ret_names,
                  struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    const char **names;

    if (!pg_query(mirror, "SELECT name FROM tailwater.pipeline ORDER BY name", 0, NULL, &rows, err))
        return error_wrap(err, "reading the pipelines");
    names = arena_new(arena, const char *, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        names[i] = arena_strdup(arena, pg_text(rows, i, 0));
    *ret_count = pg_rows(rows);
    *ret_names = names;
    return true;
}

bool control_create(struct pg *mirror, const char *pipeline,
                    const struct control_identity *identity, struct error *err)
{
    char timeline[16], lsn[LSN_TEXT_SIZE], source_lsn[LSN_TEXT_SIZE];
    const char *params[] = {pipeline,
                            identity->system_identifier,
                            timeline,
                            identity->database,
                            identity->slot,
                            lsn_text(identity->slot_lsn, lsn),
                            identity->plugin,
                            identity->publication,
                            lsn_text(identity->source_lsn, source_lsn)};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(timeline, sizeof(timeline), "%d", identity->timeline);
    if (!pg_query(
            mirror,
            "WITH p AS (INSERT INTO tailwater.pipeline (name, system_identifier, timeline, "
            "database, slot, slot_lsn, plugin, publication) "
            "VALUES ($1, $2, $3::integer, $4, $5, $6::pg_lsn, $7, $8) RETURNING name, slot_lsn) "
            "INSERT INTO tailwater.clock (pipeline, cursor) "
            "SELECT name, greatest(slot_lsn, $9::pg_lsn) FROM p",
            9, params, &done, err)) {
        if (strcmp(err->sqlstate, "23505") == 0)
            err->kind = ERROR_BUG;
        return error_wrap(err, "making pipeline %s", pipeline);
    }
    return true;
}

/* One statement that has to change exactly one row. */
static bool change_one(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                       const char *what, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(mirror, sql, nparams, params, &done, err))
        return error_wrap(err, "pipeline %s, %s", params[0], what);
    if (pg_affected(done) != 1)
        return error_set(err, ERROR_BUG, "pipeline %s, %s: %lld rows changed instead of one",
                         params[0], what, (long long) pg_affected(done));
    return true;
}

bool control_set_slot(struct pg *mirror, const char *pipeline, lsn_t slot_lsn, struct error *err)
{
    char lsn[LSN_TEXT_SIZE];
    const char *params[] = {pipeline, lsn_text(slot_lsn, lsn)};

    return change_one(
        mirror,
        "WITH p AS (UPDATE tailwater.pipeline SET slot_lsn = $2::pg_lsn "
        "WHERE name = $1 AND slot_lsn = '0/0' RETURNING name) "
        "UPDATE tailwater.clock SET cursor = $2::pg_lsn FROM p WHERE pipeline = p.name",
        2, params, "recording the slot's position", err);
}

bool control_set_streaming(struct pg *mirror, const char *pipeline, struct error *err)
{
    return change_one(mirror, "UPDATE tailwater.pipeline SET state = 'streaming' WHERE name = $1",
                      1, &pipeline, "marking the copy complete", err);
}

bool control_set_timeline(struct pg *mirror, const char *pipeline, int timeline, struct error *err)
{
    char text[16];
    const char *params[] = {pipeline, text};

    snprintf(text, sizeof(text), "%d", timeline);
    return change_one(mirror,
                      "UPDATE tailwater.pipeline SET timeline = $2::integer WHERE name = $1", 2,
                      params, "recording the source's new timeline", err);
}

static const char *or_none(const char *text)
{
    return text ? text : "none";
}

bool control_check_identity(const struct control_identity *stored,
                            const struct control_identity *actual, struct error *err)
{
    const struct {
        const char *what;
        const char *was, *is;
        enum error_kind kind;
        const char *hint;
    } compared[] = {
        {"the source is another database cluster (system identifier)", stored->system_identifier,
         actual->system_identifier, ERROR_SLOT,
         "point source.conninfo at the cluster the mirror was copied from; if it was replaced for "
         "good (restored, upgraded by dump), tailwater resync --all --new-slot makes the mirror "
         "equal to the new one"},
        {"the source is another database of the cluster", stored->database, actual->database,
         ERROR_SLOT,
         "set dbname in source.conninfo back, or give the other database a pipeline of its own "
         "name"},
        {"the configuration names another slot", stored->slot, actual->slot, ERROR_SLOT,
         "set source.slot back: the cursor belongs to that slot; tailwater destroy ends it"},
        {"the configuration names another output plugin", stored->plugin, actual->plugin,
         ERROR_CONFIG,
         "set source.plugin back: a slot keeps its plugin; to change it, tailwater destroy, then "
         "run"},
        {"the configuration names another publication", or_none(stored->publication),
         or_none(actual->publication), ERROR_CONFIG,
         "set source.publication back; to change it, tailwater destroy, then run"},
    };

    for (size_t i = 0; i < sizeof(compared) / sizeof(compared[0]); i++)
        if (strcmp(compared[i].was, compared[i].is) != 0) {
            error_set(err, compared[i].kind, "%s: was %s, is %s", compared[i].what, compared[i].was,
                      compared[i].is);
            return error_hint(err, "%s", compared[i].hint);
        }
    return true;
}
