/*
 * Table by table, each in its own transaction: live view, mirror table, and the row that calls them
 * ours.  Then the ledger, fact by fact.  Then types, which may need several rounds because one may be built from another; schemas;
 * the pipeline's row, which takes the remaining control rows with it; and the control schema if
 * that was the last pipeline.
 *
 * Types and schemas that something else uses stay without holding up the end: a schema may well
 * have become somebody's home.  A view or table that stays is different, because its rows would
 * grow old under a name that people read.
 */
#include "mirror/destroy.h"

#include "mirror/control.h"
#include "mirror/ddl_internal.h"
#include "mirror/views.h"

struct destroy {
    const char *pipeline;
    const struct control_table *table;
    const char *sql;                  /* a DROP of a type or schema */
    const char *kind, *schema, *name; /* its row in made_object */
    struct notes *removed, *kept;
    int nremoved; /* as it was before the step */
};

/* Dropping it would break something of somebody else's, or it is somebody else's by now. */
static bool is_held(const struct error *err)
{
    return strcmp(err->sqlstate, "2BP01") == 0 || strcmp(err->sqlstate, "42501") == 0;
}

/* ---- views and tables ---- */

static bool step_drop_table(struct pg *mirror, void *context, struct error *err)
{
    struct destroy *destroy = context;
    const struct control_table *table = destroy->table;
    const char *row[] = {destroy->pipeline, table->schema, table->name};
    const char *names[] = {table->mirror_schema, table->mirror_name};
    _cleanup_result_ struct pg_result *exists = NULL, *done = NULL;
    _cleanup_buf_ struct buf view = {0}, stored = {0};
    enum views_found found = VIEWS_NOTHING;

    destroy->removed->count = destroy->nremoved;
    pg_add_qualified(&view, table->view_schema, table->view_name);
    pg_add_qualified(&stored, table->mirror_schema, table->mirror_name);
    if (table->state == CONTROL_TABLE_READY &&
        !views_find(mirror, table->view_schema, table->view_name, table->mirror_schema,
                    table->mirror_name, &found, err))
        return false;
    if (found == VIEWS_OURS) {
        if (!pg_execf(mirror, err, "DROP VIEW %s", buf_text(&view)))
            return false;
        notes_add(destroy->removed, "live view %s", buf_text(&view));
    }
    if (!pg_query_row(mirror, "SELECT to_regclass(format('%I.%I', $1::text, $2::text)) IS NOT NULL",
                      2, names, &exists, err))
        return false;
    if (table->state != CONTROL_TABLE_NEW && pg_bool(exists, 0, 0)) {
        if (!pg_execf(mirror, err, "DROP TABLE %s", buf_text(&stored)))
            return false;
        notes_add(destroy->removed, "mirror table %s", buf_text(&stored));
    }
    return pg_query(
        mirror,
        "DELETE FROM tailwater.mirror_table WHERE pipeline = $1 AND schema = $2 AND name = $3", 3,
        row, &done, err);
}

/* Who holds the table or its view: what RESTRICT refuses for. */
static bool name_holders(struct pg *mirror, const struct control_table *table, struct notes *kept,
                         struct error *err)
{
    const char *params[] = {table->view_schema, table->view_name, table->mirror_schema,
                            table->mirror_name};
    _cleanup_result_ struct pg_result *holders = NULL;

    if (!pg_query(
            mirror,
            "WITH ours AS (SELECT to_regclass(format('%I.%I', $1::text, $2::text))::oid AS oid "
            "UNION ALL SELECT to_regclass(format('%I.%I', $3::text, $4::text))::oid) "
            "SELECT DISTINCT CASE WHEN r.oid IS NULL "
            "THEN pg_describe_object(d.classid, d.objid, 0) "
            "ELSE pg_describe_object('pg_class'::regclass, r.ev_class, 0) END "
            "FROM pg_depend d LEFT JOIN pg_rewrite r "
            "ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid "
            "WHERE d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' "
            "AND d.refobjid IN (SELECT oid FROM ours) "
            "AND coalesce(r.ev_class, 0::oid) NOT IN (SELECT oid FROM ours WHERE oid IS NOT NULL) "
            "ORDER BY 1 LIMIT 5",
            4, params, &holders, err))
        return false;
    for (int row = 0; row < pg_rows(holders); row++)
        notes_add(kept, "  %s depends on it", pg_text(holders, row, 0));
    return true;
}

static bool drop_table(struct pg *mirror, struct destroy *destroy, bool *ret_gone,
                       struct error *err)
{
    const struct control_table *table = destroy->table;
    struct error failure;

    destroy->nremoved = destroy->removed->count;
    *ret_gone = ddl_attempt(mirror, step_drop_table, destroy, &failure);
    if (*ret_gone)
        return true;
    destroy->removed->count = destroy->nremoved;
    if (!is_held(&failure)) {
        *err = failure;
        return error_wrap(err, "removing table %s.%s", table->schema, table->name);
    }
    notes_add(destroy->kept, "live view %s.%s and mirror table %s.%s: %s", table->view_schema,
              table->view_name, table->mirror_schema, table->mirror_name, failure.message);
    return name_holders(mirror, table, destroy->kept, err);
}

bool destroy_table(struct pg *mirror, const char *pipeline, const struct control_table *table,
                   struct notes *removed, struct notes *kept, bool *ret_gone, struct error *err)
{
    struct destroy destroy = {
        .pipeline = pipeline, .table = table, .removed = removed, .kept = kept};

    return drop_table(mirror, &destroy, ret_gone, err);
}

/* ---- types and schemas ---- */

static bool step_drop_object(struct pg *mirror, void *context, struct error *err)
{
    const struct destroy *destroy = context;
    const char *params[] = {destroy->pipeline, destroy->kind, destroy->schema, destroy->name};
    _cleanup_result_ struct pg_result *done = NULL;

    return (destroy->sql == NULL || pg_exec(mirror, destroy->sql, err)) &&
           pg_query(mirror,
                    "DELETE FROM tailwater.made_object WHERE pipeline = $1 AND kind = $2 "
                    "AND schema = $3 AND name = $4",
                    4, params, &done, err);
}

/* One round over our types, or our schemas.  *ret_dropped counts what went, held gets what did not.
 */
static bool drop_objects(struct pg *mirror, struct destroy *destroy, bool is_schemas,
                         struct notes *held, int *ret_dropped, struct error *err)
{
    const char *params[] = {destroy->pipeline, is_schemas ? "t" : "f"};
    _cleanup_result_ struct pg_result *objects = NULL;

    *ret_dropped = 0;
    if (!pg_query(mirror,
                  "SELECT m.kind, m.schema, m.name, EXISTS (SELECT FROM tailwater.made_object o "
                  "WHERE o.pipeline <> m.pipeline AND (o.kind, o.schema, o.name) = "
                  "(m.kind, m.schema, m.name)) FROM tailwater.made_object m "
                  "WHERE m.pipeline = $1 AND (m.kind = 'schema') = $2::boolean ORDER BY 1, 2, 3",
                  2, params, &objects, err))
        return false;
    for (int row = 0; row < pg_rows(objects); row++) {
        _cleanup_buf_ struct buf name = {0}, sql = {0};
        struct error failure;

        destroy->kind = pg_text(objects, row, 0);
        destroy->schema = pg_text(objects, row, 1);
        destroy->name = pg_text(objects, row, 2);
        if (is_schemas)
            pg_add_ident(&name, destroy->schema);
        else
            pg_add_qualified(&name, destroy->schema, destroy->name);
        buf_printf(&sql, "DROP %s IF EXISTS %s", is_schemas ? "SCHEMA" : "TYPE", buf_text(&name));
        destroy->sql = pg_bool(objects, row, 3) ? NULL : buf_text(&sql);
        if (ddl_attempt(mirror, step_drop_object, destroy, &failure)) {
            ++*ret_dropped;
            if (destroy->sql != NULL)
                notes_add(destroy->removed, "%s %s", is_schemas ? "schema" : "type",
                          buf_text(&name));
        } else if (is_held(&failure)) {
            notes_add(held, "%s %s: something else uses it", is_schemas ? "schema" : "type",
                      buf_text(&name));
        } else {
            *err = failure;
            return error_wrap(err, "removing %s %s", destroy->kind, buf_text(&name));
        }
    }
    return true;
}

static bool drop_types_and_schemas(struct pg *mirror, struct destroy *destroy, struct error *err)
{
    int kept = destroy->kept->count, dropped;

    do {
        destroy->kept->count = kept;
        if (!drop_objects(mirror, destroy, false, destroy->kept, &dropped, err))
            return false;
    } while (dropped > 0 && destroy->kept->count > kept);
    return drop_objects(mirror, destroy, true, destroy->kept, &dropped, err);
}

/* ---- the ledger ---- */

static bool step_drop_fact(struct pg *mirror, void *context, struct error *err)
{
    const struct destroy *destroy = context;
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(mirror, "SELECT tailwater.drop_fact($1)", 1, &destroy->name, &done, err);
}

/* A view or function of somebody's on a ledger keeps that fact, and so the pipeline. */
static bool drop_facts(struct pg *mirror, struct destroy *destroy, bool *ret_finished,
                       struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL, *done = NULL;

    if (!pg_query(mirror, "SELECT name FROM tailwater.fact WHERE pipeline = $1 ORDER BY name", 1,
                  &destroy->pipeline, &facts, err))
        return error_wrap(err, "looking for facts");
    for (int row = 0; row < pg_rows(facts); row++) {
        struct error failure;

        destroy->name = pg_text(facts, row, 0);
        if (ddl_attempt(mirror, step_drop_fact, destroy, &failure)) {
            notes_add(destroy->removed, "ledger of fact %s", destroy->name);
        } else if (is_held(&failure)) {
            notes_add(destroy->kept, "ledger of fact %s: %s", destroy->name, failure.message);
            *ret_finished = false;
        } else {
            *err = failure;
            return error_wrap(err, "removing the ledger of fact %s", destroy->name);
        }
    }
    return pg_query(mirror, "DELETE FROM tailwater.batch WHERE pipeline = $1", 1,
                    &destroy->pipeline, &done, err) ||
           error_wrap(err, "removing the ledger's batches");
}

/* ---- the pipeline ---- */

static bool forget_pipeline(struct pg *mirror, struct destroy *destroy, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    bool dropped;

    if (!pg_query(mirror, "DELETE FROM tailwater.pipeline WHERE name = $1", 1, &destroy->pipeline,
                  &done, err))
        return error_wrap(err, "forgetting pipeline %s", destroy->pipeline);
    notes_add(destroy->removed, "control rows of pipeline %s", destroy->pipeline);
    if (!control_drop(mirror, &dropped, err))
        return false;
    if (dropped)
        notes_add(destroy->removed, "control schema tailwater");
    return true;
}

static bool say_what_would_go(struct pg *mirror, const struct destroy *destroy,
                              const struct control_table *tables, int ntables, struct error *err)
{
    _cleanup_result_ struct pg_result *objects = NULL, *facts = NULL;

    if (!pg_query(
            mirror,
            "SELECT f.name, (SELECT count(*) FROM tailwater.consumer c WHERE c.fact = f.name) "
            "FROM tailwater.fact f WHERE f.pipeline = $1 ORDER BY 1",
            1, &destroy->pipeline, &facts, err))
        return false;
    for (int row = 0; row < pg_rows(facts); row++)
        notes_add(destroy->removed, "ledger of fact %s, with %s consumers", pg_text(facts, row, 0),
                  pg_text(facts, row, 1));
    if (ntables < 0)
        return true;
    for (int i = 0; i < ntables; i++) {
        if (tables[i].state == CONTROL_TABLE_READY)
            notes_add(destroy->removed, "live view %s.%s", tables[i].view_schema,
                      tables[i].view_name);
        if (tables[i].state != CONTROL_TABLE_NEW)
            notes_add(destroy->removed, "mirror table %s.%s", tables[i].mirror_schema,
                      tables[i].mirror_name);
    }
    if (!pg_query(
            mirror,
            "SELECT CASE kind WHEN 'schema' THEN 'schema ' || schema ELSE 'type ' || schema || "
            "'.' || name END || ', if nothing else uses it' FROM tailwater.made_object "
            "WHERE pipeline = $1 ORDER BY kind = 'schema', schema, name",
            1, &destroy->pipeline, &objects, err))
        return false;
    for (int row = 0; row < pg_rows(objects); row++)
        notes_add(destroy->removed, "%s", pg_text(objects, row, 0));
    return true;
}

bool destroy_mirror(struct pg *mirror, const char *pipeline, struct destroy_options options,
                    struct notes *removed, struct notes *kept, bool *ret_finished,
                    struct error *err)
{
    struct destroy destroy = {.pipeline = pipeline, .removed = removed, .kept = kept};
    struct control_table *tables = NULL;
    int ntables = 0;
    bool finished = true, is_gone;

    if (!options.is_keeping_tables &&
        !control_list_tables(mirror, pipeline, removed->arena, &ntables, &tables, err))
        return false;
    if (options.is_dry_run) {
        *ret_finished = true;
        if (!say_what_would_go(mirror, &destroy, tables, options.is_keeping_tables ? -1 : ntables,
                               err))
            return false;
        notes_add(removed, "control rows of pipeline %s", pipeline);
        return true;
    }
    for (int i = 0; i < ntables; i++) {
        destroy.table = &tables[i];
        if (!drop_table(mirror, &destroy, &is_gone, err))
            return false;
        finished &= is_gone;
    }
    if (!drop_facts(mirror, &destroy, &finished, err))
        return false;
    *ret_finished = finished;
    if (!finished)
        return true;
    return (options.is_keeping_tables || drop_types_and_schemas(mirror, &destroy, err)) &&
           forget_pipeline(mirror, &destroy, err);
}
