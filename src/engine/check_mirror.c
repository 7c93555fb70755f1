/*
 * The mirror: the server, the role, and whether what the tables need is there and what is in their
 * way is not.
 *
 * What is ours is what the control schema says is ours: nothing is taken for ours by its name.
 */
#include "engine/check_internal.h"

#include "base/clock.h"
#include "base/human.h"

/* ---- the server ---- */

static const char facts_sql[] =
    "SELECT current_setting('server_version'), pg_is_in_recovery(),"
    "  current_setting('transaction_read_only'), current_user, current_database(),"
    "  has_database_privilege(current_database(), 'CREATE'), current_setting('server_encoding'),"
    "  d.datcollate || ' ' || d.datctype || ' ' || coalesce(j.v ->> 'datlocale',"
    "     j.v ->> 'daticulocale', ''),"
    "  to_regnamespace('tailwater') IS NOT NULL,"
    "  has_schema_privilege(to_regnamespace('tailwater')::oid, 'USAGE, CREATE'),"
    "  EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = to_regnamespace('tailwater')::oid"
    "          AND c.relname = 'pipeline')"
    " FROM pg_database d, LATERAL to_jsonb(d) j (v) WHERE d.datname = current_database()";

static void check_writable(struct check *check, bool is_standby, bool is_read_only)
{
    struct finding *finding;

    if (!is_standby && !is_read_only) {
        check_ok(check, "mirror_writable", "it takes writes");
        return;
    }
    finding = finding_add(&check->findings, "mirror_writable", FINDING_ERROR,
                          "the mirror is read-only");
    finding_why(&check->findings, finding,
                is_standby ? "it is a standby" : "default_transaction_read_only is on");
    finding_remedy(&check->findings, finding, "%s",
                   is_standby ? "point mirror.conninfo at the primary "
                                "(target_session_attrs=read-write picks it from several hosts)"
                              : "set default_transaction_read_only = off for the role, the "
                                "database or the server");
}

static bool check_control(struct check *check, bool exists, bool may_use, bool has_tables,
                          struct error *err)
{
    struct finding *finding;
    int version, known;

    if (exists && !may_use) {
        finding = finding_add(&check->findings, "mirror_control", FINDING_ERROR,
                              "the schema tailwater on the mirror belongs to another role");
        finding_why(&check->findings, finding, "%s may not use it", check->mirror_user);
        finding_remedy(&check->findings, finding,
                       "connect as the role that made it, or as a member of that role");
        return true;
    }
    if (!has_tables) {
        check_ok(check, "mirror_control", "the schema tailwater will be made");
        return true;
    }
    if (!control_version(check->mirror, &version, &known, err))
        return false;
    check->has_control = version > 0 && version <= known;
    if (version <= known) {
        check_ok(check, "mirror_control", "the control schema is at version %d of %d", version,
                 known);
        return true;
    }
    finding = finding_add(&check->findings, "mirror_control", FINDING_ERROR,
                          "the mirror's control schema is at version %d", version);
    finding_why(&check->findings, finding, "this program knows %d", known);
    finding_remedy(&check->findings, finding, "use the newer tailwater that made it");
    return true;
}

/* Texts of the source have to fit, and sort alike where reports compare orders. */
static void check_locale(struct check *check, const char *encoding, const char *locale)
{
    struct finding *finding;

    if (check->source_encoding == NULL)
        return;
    if (strcmp(encoding, "UTF8") != 0 && strcmp(encoding, check->source_encoding) != 0) {
        finding = finding_add(&check->findings, "mirror_encoding", FINDING_ERROR,
                              "the mirror database's encoding is %s", encoding);
        finding_why(&check->findings, finding, "the source's is %s: texts would not fit",
                    check->source_encoding);
        finding_remedy(&check->findings, finding,
                       "make the mirror database with ENCODING 'UTF8' TEMPLATE template0");
    } else {
        check_ok(check, "mirror_encoding", "%s", encoding);
    }
    if (strcmp(locale, check->source_locale) == 0)
        return;
    finding = finding_add(&check->findings, "mirror_locale", FINDING_WARNING,
                          "the mirror sorts texts by another locale than the source");
    finding_why(&check->findings, finding,
                "ORDER BY and range conditions on texts may answer differently: %s there, %s here",
                check->source_locale, locale);
    finding_remedy(&check->findings, finding,
                   "make the mirror database with the source's locale, if reports depend on it");
}

bool check_mirror(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL;
    _cleanup_buf_ struct buf where = {0};

    if (!pg_query_row(check->mirror, facts_sql, 0, NULL, &facts, err))
        return error_wrap(err, "reading the mirror's settings");
    pg_describe(check->config->mirror.conninfo, &where);
    check_ok(check, "mirror_connect", "%s", buf_text(&where));
    check->mirror_major = pg_server_version(check->mirror) / 10000;
    check->mirror_user = arena_strdup(check->arena, pg_text(facts, 0, 3));
    check->mirror_database = arena_strdup(check->arena, pg_text(facts, 0, 4));
    check->may_create_schemas = pg_bool(facts, 0, 5);
    check->mirror_encoding = arena_strdup(check->arena, pg_text(facts, 0, 6));
    check->mirror_locale = arena_strdup(check->arena, pg_text(facts, 0, 7));
    check->has_control_schema = pg_bool(facts, 0, 8);
    check_ok(check, "mirror_version", "PostgreSQL %s", pg_text(facts, 0, 0));
    check_writable(check, pg_bool(facts, 0, 1), strcmp(pg_text(facts, 0, 2), "on") == 0);
    return check_control(check, check->has_control_schema, pg_bool(facts, 0, 9),
                         pg_bool(facts, 0, 10), err);
}

/* ---- schemas ---- */

bool check_schemas(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0}, missing = {0}, sql = {0};
    const char *role = check_ident(check, check->mirror_user);
    struct finding *finding;
    const char *param;
    int count = 0;

    check_mirror_age(check);
    check_locale(check, check->mirror_encoding, check->mirror_locale);
    for (int i = 0; i < check->catalog.nschemas; i++)
        check_add_element(&array, check->catalog.schemas[i]);
    param = check_end_array(&array);
    if (!pg_query(check->mirror,
                  "SELECT s.name, n.oid IS NOT NULL,"
                  "       has_schema_privilege(n.oid, 'CREATE') AND"
                  "       has_schema_privilege(n.oid, 'USAGE')"
                  " FROM unnest($1::text[]) WITH ORDINALITY s (name, n)"
                  " LEFT JOIN pg_namespace n ON n.nspname = s.name ORDER BY s.n",
                  1, &param, &rows, err))
        return error_wrap(err, "reading the mirror's schemas");
    if (!check->has_control_schema && !check->may_create_schemas)
        check_add_listed(&missing, count++, "tailwater");
    for (int i = 0; i < pg_rows(rows); i++) {
        if (pg_bool(rows, i, 1) && !pg_bool(rows, i, 2))
            buf_printf(&sql, "GRANT USAGE, CREATE ON SCHEMA %s TO %s; ",
                       check_ident(check, pg_text(rows, i, 0)), role);
        else if (!pg_bool(rows, i, 1) && !check->may_create_schemas)
            check_add_listed(&missing, count++, pg_text(rows, i, 0));
    }
    check_end_listed(&missing, count);
    if (count > 0)
        buf_printf(&sql, "GRANT CREATE ON DATABASE %s TO %s;",
                   check_ident(check, check->mirror_database), role);
    if (sql.len == 0) {
        check_ok(check, "mirror_role", "%s may make what is needed", check->mirror_user);
        return true;
    }
    finding = finding_add(&check->findings, "mirror_role", FINDING_ERROR,
                          "the role %s may not make what is needed", check->mirror_user);
    if (count > 0)
        finding_why(&check->findings, finding, "these schemas are missing: %s", buf_text(&missing));
    else
        finding_why(&check->findings, finding,
                    "tables and live views are made in schemas that are there already");
    finding_remedy(&check->findings, finding, "%s", buf_text(&sql));
    return true;
}

/* ---- names that are taken ---- */

static const char *kind_name(char kind)
{
    static const struct {
        char kind;
        const char *name;
    } kinds[] = {
        {'r', "table"}, {'v', "view"},     {'m', "materialized view"}, {'i', "index"},
        {'I', "index"}, {'S', "sequence"}, {'f', "foreign table"},     {'p', "partitioned table"},
        {'c', "type"}};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (kinds[i].kind == kind)
            return kinds[i].name;
    }
    return "relation";
}

static void report_taken(struct check *check, const struct pg_result *rows, int row,
                         const struct table *table, bool is_view)
{
    const char *schema = is_view ? table->view_schema : table->mirror_schema;
    const char *name = is_view ? table->view_name : table->mirror_name;
    struct finding *finding = finding_add(&check->findings, "mirror_name", FINDING_ERROR,
                                          "%s.%s on the mirror is a %s already", schema, name,
                                          kind_name(pg_text(rows, row, 2)[0]));

    if (pg_is_null(rows, row, 3))
        finding_why(&check->findings, finding,
                    "the %s of %s has to be there, and that one is not "
                    "ours",
                    is_view ? "live view" : "mirror table", table->label);
    else
        finding_why(&check->findings, finding,
                    "the %s of %s has to be there, and pipeline %s has that name",
                    is_view ? "live view" : "mirror table", table->label, pg_text(rows, row, 3));
    finding_remedy(&check->findings, finding, "drop or rename it, or choose another mirror.%s",
                   is_view ? "view_schema: \"live_{schema}\"" : "table_schema");
}

/* $1, $2: schemas and names, a table's and its live view's in turn. */
static const char taken_sql[] =
    "SELECT w.n - 1, m.pipeline IS NOT DISTINCT FROM $3, c.relkind, m.pipeline"
    " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w (schema, name, n)"
    " JOIN pg_namespace s ON s.nspname = w.schema"
    " JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = w.name"
    " LEFT JOIN %s m ON CASE WHEN w.n %% 2 = 1"
    "      THEN m.mirror_schema = w.schema AND m.mirror_name = w.name AND m.state <> 'new'"
    "      ELSE m.view_schema = w.schema AND m.view_name = w.name AND m.state = 'ready' END"
    " ORDER BY w.n";

static const char no_tables[] =
    "(SELECT NULL::text AS pipeline, NULL::text AS mirror_schema, NULL::text AS mirror_name,"
    " NULL::text AS view_schema, NULL::text AS view_name, NULL::text AS state WHERE false)";

bool check_names(struct check *check, struct error *err)
{
    const struct table_list *tables = &check->catalog.tables;
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf schemas = {0}, names = {0};
    const char *params[3];
    int count = 0;

    for (int i = 0; i < tables->count; i++) {
        check_add_element(&schemas, tables->tables[i].mirror_schema);
        check_add_element(&names, tables->tables[i].mirror_name);
        check_add_element(&schemas, tables->tables[i].view_schema);
        check_add_element(&names, tables->tables[i].view_name);
    }
    params[0] = check_end_array(&schemas);
    params[1] = check_end_array(&names);
    params[2] = check->config->pipeline;
    if (!pg_query(check->mirror,
                  arena_printf(check->arena, taken_sql,
                               check->has_control ? "tailwater.mirror_table" : no_tables),
                  3, params, &rows, err))
        return error_wrap(err, "looking for names that are taken on the mirror");
    for (int i = 0; i < pg_rows(rows); i++) {
        int64_t at = pg_int(rows, i, 0);

        if (at / 2 >= tables->count || (!pg_is_null(rows, i, 3) && pg_bool(rows, i, 1)))
            continue;
        report_taken(check, rows, i, &tables->tables[at / 2], at % 2 == 1);
        count++;
    }
    if (count == 0 && tables->count > 0)
        check_ok(check, "mirror_name", "no relation is in the way");
    return true;
}

/* ---- extensions ---- */

static void report_extension(struct check *check, const struct catalog_extension *extension,
                             const char *what, const char *remedy)
{
    struct finding *finding = finding_add(&check->findings, "mirror_extension",
                                          extension->is_required ? FINDING_ERROR : FINDING_WARNING,
                                          "%s", what);

    finding_why(&check->findings, finding, "%s %s", extension->needed_by,
                extension->is_required ? "has a type of it"
                                       : "has an index or generated column that uses it, which "
                                         "will be left out");
    finding_remedy(&check->findings, finding, "%s", remedy);
}

static void check_extension(struct check *check, const struct catalog_extension *extension,
                            const struct pg_result *rows, int row)
{
    const char *name = check_ident(check, extension->name);
    const char *schema = check_ident(check, extension->schema);
    const char *role = check_ident(check, check->mirror_user);
    struct arena *arena = check->arena;

    if (pg_is_null(rows, row, 0))
        report_extension(
            check, extension,
            arena_printf(arena, "the mirror lacks the extension %s", extension->name),
            arena_printf(
                arena, "%sCREATE SCHEMA IF NOT EXISTS %s; CREATE EXTENSION %s SCHEMA %s;",
                pg_bool(rows, row, 2) ? "" : "install its package on the mirror's server; then ",
                schema, name, schema));
    else if (strcmp(pg_text(rows, row, 0), extension->schema) != 0)
        report_extension(
            check, extension,
            arena_printf(arena,
                         "the extension %s is in schema %s on the mirror, and in %s on the "
                         "source",
                         extension->name, pg_text(rows, row, 0), extension->schema),
            arena_printf(arena, "CREATE SCHEMA IF NOT EXISTS %s; ALTER EXTENSION %s SET SCHEMA %s;",
                         schema, name, schema));
    else if (!pg_bool(rows, row, 1))
        report_extension(check, extension,
                         arena_printf(arena, "the role %s may not use the schema of extension %s",
                                      check->mirror_user, extension->name),
                         arena_printf(arena, "GRANT USAGE ON SCHEMA %s TO %s;", schema, role));
    else
        check_ok(check, "mirror_extension", "%s is there", extension->name);
}

static bool check_extensions(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0};
    const char *param;

    if (check->catalog.nextensions == 0)
        return true;
    for (int i = 0; i < check->catalog.nextensions; i++)
        check_add_element(&array, check->catalog.extensions[i].name);
    param = check_end_array(&array);
    if (!pg_query(check->mirror,
                  "SELECT n.nspname, has_schema_privilege(n.oid, 'USAGE'), a.name IS NOT NULL"
                  " FROM unnest($1::text[]) WITH ORDINALITY w (name, n)"
                  " LEFT JOIN pg_extension e ON e.extname = w.name"
                  " LEFT JOIN pg_namespace n ON n.oid = e.extnamespace"
                  " LEFT JOIN pg_available_extensions a ON a.name = w.name ORDER BY w.n",
                  1, &param, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows) && i < check->catalog.nextensions; i++)
        check_extension(check, &check->catalog.extensions[i], rows, i);
    return true;
}

/* ---- types ---- */

static bool check_types(struct check *check, struct error *err)
{
    static const char kinds[] = {
        [CATALOG_ENUM] = 'e', [CATALOG_COMPOSITE] = 'c', [CATALOG_RANGE] = 'r'};
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf schemas = {0}, names = {0};
    const char *params[2];
    int wrong = 0;

    if (check->catalog.ntypes == 0)
        return true;
    for (int i = 0; i < check->catalog.ntypes; i++) {
        check_add_element(&schemas, check->catalog.types[i].schema);
        check_add_element(&names, check->catalog.types[i].name);
    }
    params[0] = check_end_array(&schemas);
    params[1] = check_end_array(&names);
    if (!pg_query(check->mirror,
                  "SELECT w.n - 1, t.typtype, has_type_privilege(t.oid, 'USAGE')"
                  " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w (schema, name, n)"
                  " JOIN pg_namespace s ON s.nspname = w.schema"
                  " JOIN pg_type t ON t.typnamespace = s.oid AND t.typname = w.name"
                  " ORDER BY w.n",
                  2, params, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows); i++) {
        const struct catalog_type *type = &check->catalog.types[pg_int(rows, i, 0)];
        struct finding *finding;

        if (pg_text(rows, i, 1)[0] == kinds[type->kind] && pg_bool(rows, i, 2))
            continue;
        wrong++;
        finding = finding_add(&check->findings, "mirror_type", FINDING_ERROR,
                              "%s.%s on the mirror is not the source's type", type->schema,
                              type->name);
        finding_why(&check->findings, finding, "%s",
                    pg_bool(rows, i, 2) ? "it is a type of another kind"
                                        : "the role may not use it");
        finding_remedy(&check->findings, finding,
                       "drop or rename it, and run makes it: %s;  or grant USAGE on it to %s",
                       type->create_sql, check_ident(check, check->mirror_user));
    }
    if (wrong == 0)
        check_ok(check, "mirror_type", "%d type%s of the source, %d there already",
                 check->catalog.ntypes, check->catalog.ntypes == 1 ? "" : "s", pg_rows(rows));
    return true;
}

/* ---- collations ---- */

static bool check_collations(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf schemas = {0}, names = {0};
    const char *params[2];

    if (check->catalog.ncollations == 0)
        return true;
    for (int i = 0; i < check->catalog.ncollations; i++) {
        check_add_element(&schemas, check->catalog.collations[i].schema);
        check_add_element(&names, check->catalog.collations[i].name);
    }
    params[0] = check_end_array(&schemas);
    params[1] = check_end_array(&names);
    if (!pg_query(check->mirror,
                  "SELECT EXISTS (SELECT FROM pg_collation c"
                  "  JOIN pg_namespace s ON s.oid = c.collnamespace"
                  "  WHERE s.nspname = w.schema AND c.collname = w.name AND c.collencoding IN"
                  "    (-1, (SELECT d.encoding FROM pg_database d"
                  "          WHERE d.datname = current_database())))"
                  " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w (schema, name, n)"
                  " ORDER BY w.n",
                  2, params, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows) && i < check->catalog.ncollations; i++) {
        const struct catalog_collation *collation = &check->catalog.collations[i];
        struct finding *finding;

        if (pg_bool(rows, i, 0)) {
            check_ok(check, "mirror_collation", "%s.%s is there", collation->schema,
                     collation->name);
            continue;
        }
        finding = finding_add(&check->findings, "mirror_collation", FINDING_ERROR,
                              "the mirror lacks the collation %s.%s", collation->schema,
                              collation->name);
        finding_why(&check->findings, finding, "%s has it", collation->needed_by);
        if (collation->create_sql != NULL)
            finding_remedy(&check->findings, finding, "%s;", collation->create_sql);
        else
            finding_remedy(&check->findings, finding,
                           "install the locale on the mirror's server (locale-gen), then as "
                           "superuser: SELECT pg_import_system_collations('pg_catalog');");
    }
    return true;
}

bool check_needs(struct check *check, struct error *err)
{
    if (check_extensions(check, err) && check_builtin_types(check, err) &&
        check_types(check, err) && check_collations(check, err))
        return true;
    return error_wrap(err, "looking for what the tables need on the mirror");
}

/* ---- readers ---- */

bool check_readers(struct check *check, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0};
    const struct config *config = check->config;
    const char *param;
    int missing = 0;

    if (config->mirror.nreaders == 0)
        return true;
    for (int i = 0; i < config->mirror.nreaders; i++)
        check_add_element(&array, config->mirror.readers[i]);
    param = check_end_array(&array);
    if (!pg_query(check->mirror,
                  "SELECT w.name FROM unnest($1::text[]) w (name)"
                  " WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.name)",
                  1, &param, &rows, err))
        return error_wrap(err, "looking for the readers' roles");
    for (int i = 0; i < pg_rows(rows); i++) {
        struct finding *finding = finding_add(&check->findings, "mirror_readers", FINDING_ERROR,
                                              "mirror.readers: the mirror has no role %s",
                                              pg_text(rows, i, 0));

        finding_remedy(&check->findings, finding, "CREATE ROLE %s;",
                       check_ident(check, pg_text(rows, i, 0)));
        missing++;
    }
    if (missing == 0)
        check_ok(check, "mirror_readers", "%d role%s will read the live views",
                 config->mirror.nreaders, config->mirror.nreaders == 1 ? "" : "s");
    return true;
}

/* ---- quarantine ---- */

bool check_quarantine(struct check *check, struct error *err)
{
    struct control_table *tables = NULL;
    int count = 0, version, known;

    /* An older control schema is brought up to date by run, and does not say yet. */
    if (!check->has_pipeline)
        return true;
    if (!control_version(check->mirror, &version, &known, err))
        return false;
    if (version < known)
        return true;
    if (!control_list_tables(check->mirror, check->config->pipeline, check->arena, &count, &tables,
                             err))
        return false;
    for (int i = 0; i < count; i++) {
        const struct control_quarantine *quarantine = &tables[i].quarantine;
        char since[CLOCK_TEXT_SIZE], name[HUMAN_TABLE_SIZE];
        struct finding *finding;

        if (quarantine->lsn == 0)
            continue;
        finding = finding_add(&check->findings, "table_quarantined", FINDING_WARNING,
                              "%s.%s is quarantined since %s, left out from " LSN_FORMAT " on%s%s",
                              tables[i].schema, tables[i].name,
                              clock_text(quarantine->since_us, since), LSN_ARGS(quarantine->lsn),
                              quarantine->sqlstate[0] ? ", SQLSTATE " : "", quarantine->sqlstate);
        finding_why(&check->findings, finding, "%s", quarantine->reason);
        finding_remedy(&check->findings, finding,
                       "once the cause is removed: tailwater resync -c %s %s", check->config->file,
                       human_table(tables[i].schema, tables[i].name, name));
    }
    return true;
}
