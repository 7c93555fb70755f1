/*
 * The work is tailwater.reshape() of the control schema (migrations/): it is nothing but catalog and
 * DDL, and one transaction by itself.
 *
 * Every change of shape is followed by a resync of the table, also where one might do without (a column
 * without a default): the stream that is still on its way may have rows of the old shape.  They are
 * left out, and the resync's snapshot has them; which rows then differ, the ledger learns.
 */
#include "mirror/reshape.h"

#include "mirror/ddl.h"
#include "mirror/ddl_internal.h"

#include <string.h>
#include <time.h>

#define REFUSED          "TW020" /* tailwater.reshape(): by a policy, or for a view in the way */
#define TEMPORARY_TRIES  25
#define TEMPORARY_NAP_NS 200000000L

static void add_text(struct buf *json, const char *name, const char *value)
{
    buf_add(json, ", ");
    buf_add_json_member(json, name, value);
}

static void add_columns(struct buf *json, const struct table *table)
{
    buf_add(json, ", \"columns\": [");
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        buf_printf(json, "%s{\"attnum\": %d, \"is_key\": %s, \"bare\": %s", i > 0 ? ", " : "",
                   column->attnum, column->is_key ? "true" : "false",
                   ddl_is_bare_type(column->type) ? "true" : "false");
        add_text(json, "name", column->name);
        add_text(json, "type", column->type);
        add_text(json, "collate_as", column->collation);
        buf_add_char(json, '}');
    }
    buf_add(json, "], \"generated\": [");
    for (int i = 0; i < table->ngenerated; i++) {
        buf_add(json, i > 0 ? ", " : "");
        buf_add_json(json, table->generated[i].name);
    }
    buf_add(json, "], \"generated_at\": [");
    for (int i = 0; i < table->ngenerated; i++) {
        buf_printf(json, "%s{\"attnum\": %d", i > 0 ? ", " : "", table->generated[i].attnum);
        add_text(json, "name", table->generated[i].name);
        buf_add_char(json, '}');
    }
    buf_add(json, "], \"key\": [");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(json, i > 0 ? ", " : "");
        buf_add_json(json, table->columns[table->keys[i]].name);
    }
    buf_add_char(json, ']');
}

static void add_policies(struct buf *json, const struct config *config)
{
    static const char *const words[] = {[SCHEMA_CHANGES_APPLY] = "apply",
                                        [SCHEMA_CHANGES_STOP] = "stop",
                                        [SCHEMA_CHANGES_KEEP] = "keep"};

    buf_add(json, ", \"policies\": {");
    for (int i = 0; i < CHANGE_COUNT; i++) {
        buf_add(json, i > 0 ? ", " : "");
        buf_add_json_member(json, config_change_name((enum config_change) i),
                            words[config->schema_changes[i]]);
    }
    buf_add_char(json, '}');
}

static void add_definition(struct buf *json, const struct config *config, const struct table *table)
{
    buf_printf(json, "{\"relid\": %u", table->relid);
    add_text(json, "schema", table->schema);
    add_text(json, "name", table->name);
    add_columns(json, table);
    add_policies(json, config);
    buf_add(json, ", \"leaves\": [");
    for (int i = 0; i < table->nleaves; i++) {
        _cleanup_buf_ struct buf name = {0};

        buf_printf(&name, "%s.%s", table->leaves[i].schema, table->leaves[i].name);
        buf_printf(json, "%s{\"is_new\": %s", i > 0 ? ", " : "",
                   table->leaves[i].is_born ? "true" : "false");
        add_text(json, "name", buf_text(&name));
        buf_add_char(json, '}');
    }
    buf_add(json, "]}");
}

struct reshaping {
    const char *params[2];
    const struct table *table;
    struct buf *what;
};

static bool step(struct pg *mirror, void *context, struct error *err)
{
    const struct reshaping *reshaping = context;
    const char *change[] = {reshaping->params[0], reshaping->table->schema, reshaping->table->name,
                            NULL};
    _cleanup_result_ struct pg_result *row = NULL, *noted = NULL;

    if (!pg_query_row(mirror, "SELECT tailwater.reshape($1, $2::jsonb)", 2, reshaping->params, &row,
                      err))
        return false;
    buf_clear(reshaping->what);
    buf_add(reshaping->what, pg_text(row, 0, 0));
    change[3] = buf_text(reshaping->what);
    return reshaping->what->len == 0 ||
           pg_query(mirror,
                    "UPDATE tailwater.mirror_table SET schema_changed_at = clock_timestamp(), "
                    "schema_change = $4 WHERE (pipeline, schema, name) = ($1, $2, $3)",
                    4, change, &noted, err);
}

/* A server that is away, a lock that is not given: everything else is the definition's fault. */
static bool is_passing(const struct error *err)
{
    return err->kind == ERROR_MIRROR || err->kind == ERROR_RETRY;
}

static bool refuse(const struct table *table, struct error *err)
{
    if (!is_passing(err))
        err->kind = ERROR_CONFIG;
    return error_wrap(err, "%s has changed on the source, its mirror table cannot follow",
                      table->label);
}

/* A session that has just ended takes its temporary views along, a moment later: a refresh has one. */
static bool is_temporary_view(const struct error *err)
{
    return strcmp(err->sqlstate, REFUSED) == 0 && strstr(err->message, "pg_temp_") != NULL;
}

bool reshape_table(struct pg *mirror, const struct config *config, const struct table *table,
                   struct buf *ret_what, struct error *err)
{
    _cleanup_buf_ struct buf json = {0};
    struct reshaping reshaping = {.params = {config->pipeline}, .table = table, .what = ret_what};

    add_definition(&json, config, table);
    reshaping.params[1] = buf_text(&json);
    for (int i = 0; !ddl_attempt(mirror, step, &reshaping, err); i++) {
        if (!is_temporary_view(err) || i == TEMPORARY_TRIES)
            return refuse(table, err);
        nanosleep(&(struct timespec){.tv_nsec = TEMPORARY_NAP_NS}, NULL);
    }
    return true;
}

bool reshape_mark_new(struct pg *mirror, const char *pipeline, const struct table *table,
                      struct error *err)
{
    const char *params[] = {pipeline, table->schema, table->name};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror,
                    "SELECT tailwater.mark_for_resync($1, $2, $3, 'it is new, and being copied')",
                    3, params, &done, err) ||
           error_wrap(err, "%s", table->label);
}

bool reshape_ask(struct pg *mirror, const char *pipeline, lsn_t source_lsn, struct error *err)
{
    char lsn[LSN_TEXT_SIZE];
    const char *params[] = {pipeline, lsn_text(source_lsn, lsn)};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(
               mirror,
               "WITH m AS (UPDATE tailwater.mirror_table m SET needs_resync_lsn = CASE WHEN "
               "needs_resync_lsn = '0/0' THEN $2::pg_lsn ELSE needs_resync_lsn END "
               "WHERE pipeline = $1 AND needs_resync_lsn IS NOT NULL RETURNING schema, name), "
               "w AS (SELECT schema, name FROM m WHERE NOT EXISTS (SELECT FROM "
               "tailwater.job_table t JOIN tailwater.job j ON j.id = t.job WHERE j.pipeline = $1 "
               "AND j.kind = 'resync' AND j.state IN ('asked', 'running') AND t.state IN ("
               "'waiting', 'running') AND (t.schema, t.name) = (m.schema, m.name))), "
               "j AS (INSERT INTO tailwater.job (pipeline, kind) SELECT $1, 'resync' "
               "WHERE EXISTS (SELECT FROM w) RETURNING id) "
               "INSERT INTO tailwater.job_table (job, nr, schema, name) SELECT j.id, "
               "row_number() OVER (ORDER BY w.schema, w.name), w.schema, w.name FROM j, w",
               2, params, &done, err) ||
           error_wrap(err, "asking for a resync of tables that changed");
}

bool reshape_next_unfilled(struct pg *mirror, const char *pipeline, struct buf *ret_view,
                           struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(mirror, "SELECT tailwater.next_unfilled_view($1)", 1, &pipeline, &row, err))
        return error_wrap(err, "looking for materialized views without rows");
    buf_clear(ret_view);
    buf_add(ret_view, pg_text(row, 0, 0));
    return true;
}

bool reshape_fill(struct pg *mirror, const char *view, struct error *err)
{
    if (pg_execf(mirror, err, "REFRESH MATERIALIZED VIEW %s", view))
        return true;
    if (!is_passing(err))
        error_hint(err, "once the cause is removed, as its owner: REFRESH MATERIALIZED VIEW %s",
                   view);
    return error_wrap(err, "%s was made again without its rows, and is not filled", view);
}

bool reshape_forget_unfilled(struct pg *mirror, const char *pipeline, const char *view,
                             struct error *err)
{
    const char *params[] = {pipeline, view};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror, "DELETE FROM tailwater.unfilled_view WHERE pipeline = $1 AND name = $2",
                    2, params, &done, err) ||
           error_wrap(err, "%s", view);
}

bool reshape_find_lsn(struct pg *mirror, const char *pipeline, const struct table *table,
                      lsn_t *ret_lsn, struct error *err)
{
    const char *params[] = {pipeline, table->schema, table->name};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(mirror,
                      "SELECT needs_resync_lsn FROM tailwater.mirror_table "
                      "WHERE (pipeline, schema, name) = ($1, $2, $3)",
                      3, params, &row, err))
        return false;
    *ret_lsn = pg_lsn(row, 0, 0);
    return true;
}
