/*
 * The catalog in one transaction: read relations, choose, read the chosen ones' parts, resolve
 * types, judge, build.  The parts are in catalog_source.c (queries), catalog_choice.c (patterns),
 * catalog_types.c, catalog_key.c and catalog_table.c (all pure).
 *
 * The server opens tables to write their indexes and sizes out, so a schema change under way makes
 * this wait; after LOCK_TIMEOUT that is said, as an ERROR_RETRY.
 *
 * Not here: whether the role may read the tables, and what the mirror has.  That is the check's.
 */
#include "source/catalog.h"

#include "base/buf.h"
#include "source/catalog_choice.h"
#include "source/catalog_source.h"
#include "source/catalog_table.h"
#include "source/catalog_types.h"

#include <stdlib.h>

#define LOCK_TIMEOUT "5s"

/* What is known in the middle of it. */
struct survey {
    struct pg *pg;
    const struct config *config;
    struct arena *arena;
    struct source_catalog source;
    struct choice_list choices;
    struct catalog_types types;
    struct catalog catalog;
};

static struct source_relation **chosen_relations(const struct survey *survey)
{
    struct source_relation **relations = arena_new(survey->arena, struct source_relation *,
                                                   survey->choices.count);

    for (int i = 0; i < survey->choices.count; i++)
        relations[i] = survey->choices.items[i].relation;
    return relations;
}

/* ---- types, extensions, collations ---- */

static bool read_types(struct survey *survey, struct error *err)
{
    size_t columns = 0, count = 0;
    uint32_t *oids;

    for (int i = 0; i < survey->choices.count; i++)
        columns += (size_t) survey->choices.items[i].relation->ncolumns;
    oids = arena_new(survey->arena, uint32_t, columns);
    for (int i = 0; i < survey->choices.count; i++) {
        const struct source_relation *relation = survey->choices.items[i].relation;

        for (int j = 0; j < relation->ncolumns; j++)
            oids[count++] = relation->columns[j].type;
    }
    survey->types.view_schema = survey->config->mirror.view_schema;
    return catalog_source_read_types(survey->pg, survey->arena, (int) count, oids, &survey->types,
                                     err);
}

static void add_extension(struct survey *survey, uint32_t oid, bool is_required,
                          const char *needed_by)
{
    const struct source_extension *extension = catalog_source_extension(&survey->source, oid);
    struct catalog *catalog = &survey->catalog;
    struct catalog_extension *found = NULL;

    if (extension == NULL)
        return;
    for (int i = 0; i < catalog->nextensions && found == NULL; i++) {
        if (strcmp(catalog->extensions[i].name, extension->name) == 0)
            found = &catalog->extensions[i];
    }
    if (found == NULL) {
        found = &catalog->extensions[catalog->nextensions++];
        *found = (struct catalog_extension){.name = extension->name,
                                            .schema = extension->schema,
                                            .version = extension->version,
                                            .needed_by = needed_by};
    }
    if (is_required && !found->is_required) {
        found->is_required = true;
        found->needed_by = needed_by;
    }
}

static void add_collation(struct survey *survey, uint32_t oid, const char *needed_by)
{
    const struct source_collation *collation = catalog_types_collation(&survey->types, oid);
    struct catalog *catalog = &survey->catalog;
    bool is_builtin;

    if (collation == NULL)
        return;
    is_builtin = strcmp(collation->schema, "pg_catalog") == 0;
    if (is_builtin && (strcmp(collation->name, "default") == 0 ||
                       strcmp(collation->name, "C") == 0 || strcmp(collation->name, "POSIX") == 0))
        return;
    for (int i = 0; i < catalog->ncollations; i++) {
        if (strcmp(catalog->collations[i].schema, collation->schema) == 0 &&
            strcmp(catalog->collations[i].name, collation->name) == 0)
            return;
    }
    catalog->collations[catalog->ncollations++] = (struct catalog_collation){
        .schema = collation->schema,
        .name = collation->name,
        .create_sql = is_builtin ? NULL : collation->create_sql,
        .needed_by = needed_by};
}

/* What a column's type asks of the mirror, itself and in its parts. */
static void add_type(struct survey *survey, struct resolved_type resolved, uint32_t collation,
                     const char *needed_by)
{
    int first = survey->catalog.ntypes;

    add_extension(survey, catalog_types_extension(&survey->types, resolved.oid), true, needed_by);
    if (catalog_types_collate(&survey->types, resolved, collation) != NULL)
        add_collation(survey, collation, needed_by);
    catalog_types_create(&survey->types, resolved.oid, &survey->catalog);
    for (int i = first; i < survey->catalog.ntypes; i++) {
        const struct source_type *type = catalog_types_find(&survey->types,
                                                            survey->catalog.types[i].oid);

        if (type->kind == 'r')
            add_extension(survey, catalog_types_extension(&survey->types, type->subtype), true,
                          needed_by);
        for (int j = 0; j < type->nattributes; j++) {
            struct resolved_type part = catalog_types_resolve(
                &survey->types, type->attributes[j].type, type->attributes[j].typmod);

            add_extension(survey, catalog_types_extension(&survey->types, part.oid), true,
                          needed_by);
            if (catalog_types_collate(&survey->types, part, type->attributes[j].collation) != NULL)
                add_collation(survey, type->attributes[j].collation, needed_by);
        }
    }
}

static void add_table_needs(struct survey *survey, const struct choice *choice,
                            const struct table *table)
{
    const struct source_relation *relation = choice->relation;
    struct arena *arena = survey->arena;

    for (int i = 0; i < relation->ncolumns; i++) {
        const struct source_column *column = &relation->columns[i];
        int at = table_find_column(table, column->name);

        for (int j = 0; j < table->ngenerated && at < 0; j++)
            at = strcmp(table->generated[j].name, column->name) == 0 ? j : -1;
        if (at < 0)
            continue;
        add_type(survey, catalog_types_resolve(&survey->types, column->type, column->typmod),
                 column->collation, arena_printf(arena, "%s.%s", table->label, column->name));
    }
    for (int i = 0; i < relation->ndependencies; i++) {
        const struct source_dependency *dependency = &relation->dependencies[i];
        bool is_kept = false;

        if (dependency->extension == 0)
            continue;
        for (int j = 0; j < relation->nindexes; j++) {
            for (int k = 0; k < table->nindexes; k++)
                is_kept |= relation->indexes[j].oid == dependency->index &&
                           strcmp(relation->indexes[j].name, table->indexes[k].name) == 0;
        }
        for (int j = 0; j < table->ngenerated; j++)
            is_kept |= dependency->index == 0 && table->generated[j].attnum == dependency->attnum;
        if (is_kept)
            add_extension(survey, dependency->extension, false, table->label);
    }
}

/* ---- tables ---- */

static void build_tables(struct survey *survey, struct catalog_builder *builder,
                         const struct choice *usable, int count)
{
    struct table_list *tables = &survey->catalog.tables;

    tables->count = count;
    tables->tables = arena_new(survey->arena, struct table, count);
    survey->catalog.types = arena_new(survey->arena, struct catalog_type, survey->types.count);
    survey->catalog.extensions = arena_new(survey->arena, struct catalog_extension,
                                           survey->source.nextensions);
    survey->catalog.collations = arena_new(survey->arena, struct catalog_collation,
                                           survey->types.ncollations);
    for (int i = 0; i < count; i++) {
        struct table *table = &tables->tables[i];

        catalog_table_build(builder, &usable[i], table);
        table->index = i;
        add_table_needs(survey, &usable[i], table);
        if (usable[i].relation->has_children) {
            struct finding *finding = finding_add(
                &survey->catalog.findings, "table_inheritance", FINDING_WARNING,
                "%s has tables that inherit from it", table->label);

            finding_why(&survey->catalog.findings, finding,
                        "its live view shows its own rows only; the children are tables of their "
                        "own on the mirror");
        }
    }
    table_list_index(tables, survey->arena);
}

/* Patterns without {schema} can give two tables one name, or a table the name of a live view. */
static void check_names(struct survey *survey)
{
    const struct table_list *tables = &survey->catalog.tables;
    struct table_list taken = {.count = tables->count * 2};

    taken.tables = arena_new(survey->arena, struct table, taken.count);
    for (int i = 0; i < tables->count; i++) {
        const struct table *table = &tables->tables[i];

        taken.tables[2 * i] = (struct table){
            .schema = table->mirror_schema, .name = table->mirror_name, .label = table->label};
        taken.tables[2 * i + 1] = (struct table){
            .schema = table->view_schema, .name = table->view_name, .label = table->label};
    }
    table_list_index(&taken, survey->arena);
    for (int i = 0; i < taken.count; i++) {
        const struct table *table = &taken.tables[i];
        const struct table *first = table_list_find(&taken, table->schema, table->name);
        struct finding *finding;

        if (first == table)
            continue;
        finding = finding_add(&survey->catalog.findings, "table_name", FINDING_ERROR,
                              "the name %s.%s on the mirror would be taken twice", table->schema,
                              table->name);
        finding_why(&survey->catalog.findings, finding, "by %s and by %s", first->label,
                    table->label);
        finding_remedy(
            &survey->catalog.findings, finding,
            "put {schema} into mirror.table_schema and mirror.view_schema, and make them "
            "differ");
    }
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static void collect_schemas(struct survey *survey)
{
    struct catalog *catalog = &survey->catalog;
    const char **schemas = arena_new(survey->arena, const char *,
                                     catalog->tables.count * 2 + catalog->ntypes);
    int count = 0;

    for (int i = 0; i < catalog->tables.count; i++) {
        schemas[count++] = catalog->tables.tables[i].mirror_schema;
        schemas[count++] = catalog->tables.tables[i].view_schema;
    }
    for (int i = 0; i < catalog->ntypes; i++)
        schemas[count++] = catalog->types[i].schema;
    qsort(schemas, (size_t) count, sizeof(*schemas), compare_text);
    for (int i = 0; i < count; i++) {
        if (catalog->nschemas == 0 || strcmp(schemas[catalog->nschemas - 1], schemas[i]) != 0)
            schemas[catalog->nschemas++] = schemas[i];
    }
    catalog->schemas = schemas;
}

/* ---- the source's views ---- */

static bool read_views(struct survey *survey, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf oids = {0};
    const struct table_list *tables = &survey->catalog.tables;
    const char *param;

    for (int i = 0; i < tables->count; i++)
        buf_printf(&oids, "%s%u", i ? "," : "{", tables->tables[i].relid);
    buf_add(&oids, tables->count ? "}" : "{}");
    param = buf_text(&oids);
    if (!pg_query(survey->pg,
                  "WITH RECURSIVE reads (oid) AS ("
                  "  SELECT r.ev_class FROM pg_catalog.pg_depend d"
                  "  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"
                  "  WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass"
                  "    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
                  "    AND d.refobjid = ANY ($1::pg_catalog.oid[]) AND r.ev_class <> d.refobjid"
                  "  UNION"
                  "  SELECT r.ev_class FROM reads v"
                  "  JOIN pg_catalog.pg_depend d ON d.refobjid = v.oid"
                  "  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"
                  "  WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass"
                  "    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
                  "    AND r.ev_class <> d.refobjid)"
                  " SELECT n.nspname, c.relname, c.relkind = 'm'"
                  " FROM reads v JOIN pg_catalog.pg_class c ON c.oid = v.oid"
                  " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                  " WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_'"
                  " ORDER BY n.nspname COLLATE pg_catalog.\"C\","
                  "          c.relname COLLATE pg_catalog.\"C\"",
                  1, &param, &rows, err))
        return false;
    survey->catalog.nviews = pg_rows(rows);
    survey->catalog.views = arena_new(survey->arena, struct catalog_view, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        survey->catalog.views[i] = (struct catalog_view){
            .schema = arena_strdup(survey->arena, pg_text(rows, i, 0)),
            .name = arena_strdup(survey->arena, pg_text(rows, i, 1)),
            .is_materialized = pg_bool(rows, i, 2)};
    return true;
}

/* ---- the whole ---- */

static bool read_source(struct survey *survey, struct error *err)
{
    return pg_exec(survey->pg,
                   "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                   "SET LOCAL lock_timeout = '" LOCK_TIMEOUT "'",
                   err) &&
           catalog_source_read(survey->pg, survey->arena, &survey->source, err) &&
           (catalog_choice_make(survey->config, &survey->source, &survey->catalog.findings,
                                &survey->choices),
            catalog_source_read_tables(survey->pg, survey->arena, survey->choices.count,
                                       chosen_relations(survey), err)) &&
           catalog_source_read_sizes(survey->pg, survey->arena, survey->choices.count,
                                     chosen_relations(survey), err) &&
           read_types(survey, err);
}

static bool survey_tables(struct survey *survey, struct error *err)
{
    struct catalog_builder builder = {.config = survey->config,
                                      .source = &survey->source,
                                      .types = &survey->types,
                                      .findings = &survey->catalog.findings,
                                      .arena = survey->arena};
    struct choice *usable = arena_new(survey->arena, struct choice, survey->choices.count);
    int count = 0;

    catalog_choice_check(survey->config, &survey->choices, &survey->catalog.findings);
    for (int i = 0; i < survey->choices.count; i++) {
        if (catalog_table_check(&builder, &survey->choices.items[i]))
            usable[count++] = survey->choices.items[i];
    }
    if (!catalog_source_read_names(survey->pg, &survey->types, err))
        return false;
    build_tables(survey, &builder, usable, count);
    check_names(survey);
    collect_schemas(survey);
    if (count == 0)
        finding_add(&survey->catalog.findings, "table_none", FINDING_ERROR,
                    "no table of the source is mirrored");
    return read_views(survey, err) && pg_exec(survey->pg, "COMMIT", err);
}

bool catalog_survey(struct pg *source, const struct config *config, struct arena *arena,
                    struct catalog *ret_catalog, struct error *err)
{
    struct survey survey = {
        .pg = source, .config = config, .arena = arena, .catalog = {.findings = {.arena = arena}}};
    struct error dropped;

    if (!read_source(&survey, err) || !survey_tables(&survey, err)) {
        if (err->kind == ERROR_RETRY)
            error_hint(err, "a schema change on the source holds a lock on one of the tables: try "
                            "again when it is done (SELECT * FROM pg_locks WHERE NOT granted)");
        if (!pg_is_broken(source) && !pg_exec(source, "ROLLBACK", &dropped))
            error_wrap(err, "the session is unusable afterwards (%s)", dropped.message);
        return error_wrap(err, "reading the source's catalog");
    }
    *ret_catalog = survey.catalog;
    return true;
}

bool catalog_load(struct pg *source, const struct config *config, struct arena *arena,
                  struct catalog *ret_catalog, struct error *err)
{
    struct catalog catalog;

    if (!catalog_survey(source, config, arena, &catalog, err) ||
        !finding_none_wrong(&catalog.findings, err))
        return false;
    *ret_catalog = catalog;
    return true;
}
