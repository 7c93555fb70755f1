/*
 * Schemas and types.  They may belong to several pipelines, or be somebody else's: made_object says
 * which are ours.
 */
#include "mirror/ddl_internal.h"

/* Ours when we made it, or when it is another pipeline's of ours. */
static bool record_object(struct pg *mirror, const char *pipeline, const char *kind,
                          const char *schema, const char *name, bool is_new, struct error *err)
{
    const char *params[] = {pipeline, kind, schema, name, is_new ? "t" : "f"};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(
        mirror,
        "INSERT INTO tailwater.made_object (pipeline, kind, schema, name) "
        "SELECT $1, $2, $3, $4 WHERE $5::boolean OR EXISTS (SELECT FROM tailwater.made_object "
        "WHERE kind = $2 AND schema = $3 AND name = $4) ON CONFLICT DO NOTHING",
        5, params, &done, err);
}

static bool create_schema(struct pg *mirror, const char *pipeline, const char *schema,
                          struct error *err)
{
    _cleanup_result_ struct pg_result *is = NULL;
    _cleanup_buf_ struct buf sql = {0};
    bool exists;

    if (!pg_query_row(mirror, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", 1,
                      &schema, &is, err))
        return false;
    exists = pg_bool(is, 0, 0);
    if (!exists) {
        buf_add(&sql, "CREATE SCHEMA ");
        pg_add_ident(&sql, schema);
        if (!pg_exec(mirror, buf_text(&sql), err))
            return ddl_made_meanwhile(err);
    }
    return record_object(mirror, pipeline, "schema", schema, "", !exists, err);
}

static bool step_schemas(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;

    for (int i = 0; i < step->catalog->nschemas; i++)
        if (!create_schema(mirror, step->pipeline, step->catalog->schemas[i], err))
            return error_wrap(err, "schema %s", step->catalog->schemas[i]);
    return true;
}

bool ddl_create_schemas(struct pg *mirror, const char *pipeline, const struct catalog *catalog,
                        struct error *err)
{
    return ddl_attempt(mirror, step_schemas,
                       &(struct ddl_step){.pipeline = pipeline, .catalog = catalog}, err);
}

static const struct {
    const char *name; /* in made_object */
    char typtype;
} kinds[] = {
    [CATALOG_ENUM] = {"enum", 'e'},
    [CATALOG_COMPOSITE] = {"composite", 'c'},
    [CATALOG_RANGE] = {"range", 'r'},
};

static bool refuse_type(const struct catalog_type *type, struct error *err, const char *difference,
                        const char *detail)
{
    error_set(err, ERROR_CONFIG, "type %s.%s on the mirror is not the source's %s.%s: %s %s",
              type->schema, type->name, type->source_schema, type->name, difference, detail);
    return error_hint(err, "make it like the source's, or rename it, so that run makes it anew: %s",
                      type->create_sql);
}

static int find_label(const struct pg_result *labels, const char *label)
{
    for (int i = 0; i < pg_rows(labels); i++)
        if (strcmp(pg_text(labels, i, 0), label) == 0)
            return i;
    return -1;
}

static bool add_label(struct pg *mirror, const struct catalog_type *type, int i,
                      const struct pg_result *existing, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "ALTER TYPE ");
    pg_add_qualified(&sql, type->schema, type->name);
    buf_add(&sql, " ADD VALUE ");
    pg_add_literal(&sql, type->labels[i]);
    if (i > 0) {
        buf_add(&sql, " AFTER ");
        pg_add_literal(&sql, type->labels[i - 1]);
    } else if (pg_rows(existing) > 0) {
        buf_add(&sql, " BEFORE ");
        pg_add_literal(&sql, pg_text(existing, 0, 0));
    }
    return pg_exec(mirror, buf_text(&sql), err);
}

/* The source's labels in their order; what is missing is added where it belongs. */
static bool fit_enum(struct pg *mirror, const struct catalog_type *type, const char *oid,
                     struct error *err)
{
    _cleanup_result_ struct pg_result *labels = NULL;
    int last = -1;

    if (!pg_query(mirror,
                  "SELECT enumlabel FROM pg_enum WHERE enumtypid = $1::oid ORDER BY enumsortorder",
                  1, &oid, &labels, err))
        return false;
    for (int i = 0; i < type->nlabels; i++) {
        int at = find_label(labels, type->labels[i]);

        if (at >= 0 && at < last)
            return refuse_type(type, err, "its labels are in another order, from", type->labels[i]);
        if (at >= 0)
            last = at;
    }
    for (int i = 0; i < type->nlabels; i++)
        if (find_label(labels, type->labels[i]) < 0 && !add_label(mirror, type, i, labels, err))
            return false;
    return true;
}

static bool fit_composite(struct pg *mirror, const struct catalog_type *type, const char *oid,
                          struct error *err)
{
    _cleanup_result_ struct pg_result *different = NULL;
    _cleanup_buf_ struct buf json = {0};
    const char *params[] = {oid, NULL};

    buf_add_char(&json, '[');
    for (int i = 0; i < type->nattributes; i++) {
        const struct catalog_attribute *attribute = &type->attributes[i];

        buf_printf(&json, "%s{\"nr\": %d, \"name\": ", i > 0 ? ", " : "", i + 1);
        buf_add_json(&json, attribute->name);
        buf_add(&json, ", \"type\": ");
        buf_add_json(&json, attribute->type);
        buf_printf(&json, ", \"bare\": %s}", ddl_is_bare_type(attribute->type) ? "true" : "false");
    }
    buf_add_char(&json, ']');
    params[1] = buf_text(&json);
    if (!pg_query(
            mirror,
            "SELECT coalesce(e.name, a.attname) FROM "
            "jsonb_to_recordset($2::jsonb) AS e(nr bigint, name text, type text, bare boolean) "
            "FULL JOIN (SELECT row_number() OVER (ORDER BY attnum) AS nr, attname, atttypid, "
            "atttypmod FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
            "AND attrelid = (SELECT typrelid FROM pg_type WHERE oid = $1::oid)) AS a USING (nr) "
            "WHERE e.name IS DISTINCT FROM a.attname OR NOT " DDL_SAME_TYPE " ORDER BY nr LIMIT 1",
            2, params, &different, err))
        return false;
    if (pg_rows(different) == 0)
        return true;
    return refuse_type(type, err, "it differs in the attribute", pg_text(different, 0, 0));
}

static bool step_type(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const struct catalog_type *type = step->type;
    const char *params[] = {type->schema, type->name};
    const char typtype[] = {kinds[type->kind].typtype, '\0'};
    _cleanup_result_ struct pg_result *found = NULL;

    if (!pg_query(
            mirror,
            "SELECT t.oid, t.typtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace "
            "WHERE n.nspname = $1 AND t.typname = $2",
            2, params, &found, err))
        return false;
    if (pg_rows(found) == 0) {
        if (!pg_exec(mirror, type->create_sql, err))
            return ddl_made_meanwhile(err);
    } else if (strcmp(pg_text(found, 0, 1), typtype) != 0) {
        return refuse_type(type, err, "that one is no", kinds[type->kind].name);
    } else if (type->kind == CATALOG_ENUM && !fit_enum(mirror, type, pg_text(found, 0, 0), err)) {
        return false;
    } else if (type->kind == CATALOG_COMPOSITE &&
               !fit_composite(mirror, type, pg_text(found, 0, 0), err)) {
        return false;
    }
    return record_object(mirror, step->pipeline, kinds[type->kind].name, type->schema, type->name,
                         pg_rows(found) == 0, err);
}

bool ddl_create_types(struct pg *mirror, const char *pipeline, const struct catalog *catalog,
                      struct error *err)
{
    for (int i = 0; i < catalog->ntypes; i++) {
        struct ddl_step step = {.pipeline = pipeline, .type = &catalog->types[i]};

        if (!ddl_attempt(mirror, step_type, &step, err)) {
            ddl_hint_schema(mirror, step.type->schema, err);
            return error_wrap(err, "type %s.%s", step.type->schema, step.type->name);
        }
    }
    return true;
}
