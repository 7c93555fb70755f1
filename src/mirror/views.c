/*
 * A live view's columns are those that its mirror table has: a generated column that had to be left
 * out of the table is left out of the view.
 *
 * The view and the table's state 'ready' commit together, so in state 'indexed' whatever has the
 * view's name is somebody else's.  Afterwards a view is ours when it reads the mirror table,
 * whoever replaced it in between.
 */
#include "mirror/views.h"

#include "mirror/control.h"
#include "mirror/ddl_internal.h"

bool views_find(struct pg *mirror, const char *view_schema, const char *view_name,
                const char *mirror_schema, const char *mirror_name, enum views_found *ret_found,
                struct error *err)
{
    const char *params[] = {view_schema, view_name, mirror_schema, mirror_name};
    _cleanup_result_ struct pg_result *found = NULL;

    if (!pg_query(mirror,
                  "SELECT c.relkind = 'v' AND EXISTS (SELECT FROM pg_rewrite r JOIN pg_depend d "
                  "ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid "
                  "AND d.refclassid = 'pg_class'::regclass WHERE r.ev_class = c.oid "
                  "AND d.refobjid = to_regclass(format('%I.%I', $3::text, $4::text))) "
                  "FROM pg_class c WHERE c.oid = to_regclass(format('%I.%I', $1::text, $2::text))",
                  4, params, &found, err))
        return false;
    *ret_found = pg_rows(found) == 0    ? VIEWS_NOTHING
                 : pg_bool(found, 0, 0) ? VIEWS_OURS
                                        : VIEWS_FOREIGN;
    return true;
}

/* A generated column is only there if the mirror understood its expression. */
static bool has_column(const struct pg_result *names, const char *name)
{
    for (int row = 0; row < pg_rows(names); row++)
        if (strcmp(pg_text(names, row, 0), name) == 0)
            return true;
    return false;
}

/* Stored and generated columns merged by their place on the source; both are in that order. */
static void add_columns(const struct table *table, const struct pg_result *names, struct buf *sql)
{
    int c = 0, g = 0, count = 0;

    while (c < table->ncolumns || g < table->ngenerated) {
        bool is_generated = c == table->ncolumns ||
                            (g < table->ngenerated &&
                             table->generated[g].attnum < table->columns[c].attnum);
        const char *name = is_generated ? table->generated[g++].name : table->columns[c++].name;

        if (is_generated && !has_column(names, name))
            continue;
        buf_add(sql, count++ > 0 ? ", " : "");
        pg_add_ident(sql, name);
    }
}

static bool create_view(struct pg *mirror, const struct table *table, struct error *err)
{
    const char *params[] = {table->mirror_schema, table->mirror_name};
    _cleanup_result_ struct pg_result *names = NULL;
    _cleanup_buf_ struct buf sql = {0};

    if (!pg_query(mirror,
                  "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
                  "AND attrelid = to_regclass(format('%I.%I', $1::text, $2::text))",
                  2, params, &names, err))
        return false;
    buf_add(&sql, "CREATE VIEW ");
    pg_add_qualified(&sql, table->view_schema, table->view_name);
    buf_add(&sql, " AS SELECT ");
    add_columns(table, names, &sql);
    buf_add(&sql, " FROM ");
    ddl_add_table_name(&sql, table);
    buf_add(&sql, " WHERE " DDL_DELETED_COLUMN " IS NULL");
    return pg_exec(mirror, buf_text(&sql), err) || ddl_made_meanwhile(err);
}

static bool step_view(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const struct table *table = step->table;
    const char *params[] = {step->pipeline, table->schema, table->name};
    _cleanup_result_ struct pg_result *row = NULL;
    enum views_found found;
    bool is_ready;

    if (!pg_query(mirror,
                  "SELECT state FROM tailwater.mirror_table "
                  "WHERE pipeline = $1 AND schema = $2 AND name = $3 FOR UPDATE",
                  3, params, &row, err))
        return false;
    if (pg_rows(row) != 1)
        return error_set(err, ERROR_BUG, "the table has no row in the control schema");
    is_ready = strcmp(pg_text(row, 0, 0), "ready") == 0;
    if (!is_ready && strcmp(pg_text(row, 0, 0), "indexed") != 0)
        return error_set(err, ERROR_BUG, "asked for in state %s", pg_text(row, 0, 0));
    if (!views_find(mirror, table->view_schema, table->view_name, table->mirror_schema,
                    table->mirror_name, &found, err))
        return false;
    if (found == VIEWS_FOREIGN || (found == VIEWS_OURS && !is_ready)) {
        error_set(err, ERROR_CONFIG,
                  "a relation %s.%s is in the way on the mirror, and was not made by this pipeline",
                  table->view_schema, table->view_name);
        return error_hint(
            err, "rename or drop it, or set mirror.view_schema to schemas of Tailwater's own");
    }
    if (found == VIEWS_NOTHING && !create_view(mirror, table, err))
        return false;
    return is_ready ||
           control_set_table_state(mirror, step->pipeline, table, CONTROL_TABLE_READY, err);
}

bool views_create(struct pg *mirror, const char *pipeline, const struct table *table,
                  struct error *err)
{
    struct ddl_step step = {.pipeline = pipeline, .table = table};

    if (ddl_attempt(mirror, step_view, &step, err))
        return true;
    ddl_hint_schema(mirror, table->view_schema, err);
    return error_wrap(err, "live view %s.%s", table->view_schema, table->view_name);
}

/* ---- readers ---- */

struct grants {
    const char *params[2]; /* pipeline, readers as JSON */
    struct notes *notes;
    int nnotes;
};

static bool require_readers(struct pg *mirror, const char *readers, struct error *err)
{
    _cleanup_result_ struct pg_result *missing = NULL;

    if (!pg_query(
            mirror,
            "SELECT name, quote_ident(name) FROM jsonb_array_elements_text($1::jsonb) AS name "
            "WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) ORDER BY name",
            1, &readers, &missing, err))
        return false;
    if (pg_rows(missing) == 0)
        return true;
    error_set(err, ERROR_CONFIG, "mirror.readers: the mirror has no role %s",
              pg_text(missing, 0, 0));
    return error_hint(err, "take it out of readers, or on the mirror: CREATE ROLE %s LOGIN",
                      pg_text(missing, 0, 1));
}

/* What is missing is asked first: a GRANT that changes nothing still writes, and warns where we may
 * not. */
#define MISSING_SCHEMAS                                                                            \
    "SELECT DISTINCT quote_ident(m.view_schema), quote_ident(r.name) "                             \
    "FROM tailwater.mirror_table m, jsonb_array_elements_text($2::jsonb) AS r(name) "              \
    "WHERE m.pipeline = $1 AND m.state = 'ready' "                                                 \
    "AND NOT has_schema_privilege(r.name, m.view_schema, 'USAGE') ORDER BY 1, 2"

#define MISSING_VIEWS                                                                              \
    "SELECT format('%I.%I', m.view_schema, m.view_name), quote_ident(r.name) "                     \
    "FROM tailwater.mirror_table m, jsonb_array_elements_text($2::jsonb) AS r(name) "              \
    "WHERE m.pipeline = $1 AND m.state = 'ready' AND NOT has_table_privilege(r.name, "             \
    "to_regclass(format('%I.%I', m.view_schema, m.view_name))::oid, 'SELECT') ORDER BY 1, 2"

static bool grant_schemas(struct pg *mirror, const struct grants *grants, struct error *err)
{
    _cleanup_result_ struct pg_result *missing = NULL;

    if (!pg_query(mirror, MISSING_SCHEMAS, 2, grants->params, &missing, err))
        return false;
    for (int row = 0; row < pg_rows(missing); row++) {
        const char *schema = pg_text(missing, row, 0), *reader = pg_text(missing, row, 1);

        /* Without the right to grant this is a warning or an error, by what else we may there. */
        if (!pg_exec(mirror, "SAVEPOINT usage", err))
            return false;
        if (!pg_execf(mirror, err, "GRANT USAGE ON SCHEMA %s TO %s", schema, reader) &&
            (strcmp(err->sqlstate, "42501") != 0 ||
             !pg_exec(mirror, "ROLLBACK TO SAVEPOINT usage", err)))
            return error_wrap(err, "GRANT USAGE ON SCHEMA %s TO %s", schema, reader);
        if (!pg_exec(mirror, "RELEASE SAVEPOINT usage", err))
            return false;
    }
    return true;
}

static bool grant_views(struct pg *mirror, const struct grants *grants, struct error *err)
{
    _cleanup_result_ struct pg_result *missing = NULL;

    if (!pg_query(mirror, MISSING_VIEWS, 2, grants->params, &missing, err))
        return false;
    for (int row = 0; row < pg_rows(missing); row++)
        if (!pg_execf(mirror, err, "GRANT SELECT ON %s TO %s", pg_text(missing, row, 0),
                      pg_text(missing, row, 1)))
            return error_wrap(err, "GRANT SELECT ON %s TO %s", pg_text(missing, row, 0),
                              pg_text(missing, row, 1));
    return true;
}

static bool step_grants(struct pg *mirror, void *context, struct error *err)
{
    const struct grants *grants = context;
    _cleanup_result_ struct pg_result *left = NULL;

    grants->notes->count = grants->nnotes;
    if (!grant_schemas(mirror, grants, err) || !grant_views(mirror, grants, err) ||
        !pg_query(mirror, MISSING_SCHEMAS, 2, grants->params, &left, err))
        return false;
    for (int row = 0; row < pg_rows(left); row++)
        notes_add(grants->notes,
                  "reader %s cannot use schema %s of the mirror, which is not ours to grant; as "
                  "its owner: GRANT USAGE ON SCHEMA %s TO %s",
                  pg_text(left, row, 1), pg_text(left, row, 0), pg_text(left, row, 0),
                  pg_text(left, row, 1));
    return true;
}

bool views_grant(struct pg *mirror, const char *pipeline, const char *const *readers, int nreaders,
                 struct notes *notes, struct error *err)
{
    _cleanup_buf_ struct buf json = {0};
    struct grants grants = {.params = {pipeline}, .notes = notes, .nnotes = notes->count};

    if (nreaders == 0)
        return true;
    buf_add_char(&json, '[');
    for (int i = 0; i < nreaders; i++) {
        buf_add(&json, i > 0 ? ", " : "");
        buf_add_json(&json, readers[i]);
    }
    buf_add_char(&json, ']');
    grants.params[1] = buf_text(&json);
    return require_readers(mirror, buf_text(&json), err) &&
           (ddl_attempt(mirror, step_grants, &grants, err) || error_wrap(err, "readers' grants"));
}
