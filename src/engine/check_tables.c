/*
 * What the source's tables ask of the role: that it may read them, all of their rows, and that the
 * publication has them.
 *
 * A role that may read only the columns that are mirrored is enough: a team that excludes a column
 * for privacy can withhold it on the source as well.
 */
#include "engine/check_internal.h"
#include "source/publication.h"

#include <stdlib.h>

#define GRANT_BY_SCHEMA 20 /* from so many tables on, the remedy grants whole schemas */

static const char *relids(const struct check *check, struct buf *array)
{
    const struct table_list *tables = &check->catalog.tables;

    for (int i = 0; i < tables->count; i++)
        buf_printf(array, "%s%u", i ? "," : "{", tables->tables[i].relid);
    buf_add(array, tables->count ? "}" : "{}");
    return buf_text(array);
}

/* ---- SELECT ---- */

/* Tables of which the role may not read what is mirrored, in the list's order. */
struct denied {
    bool *schemas; /* by table: no USAGE on its schema */
    bool *tables;  /* by table: no SELECT */
    bool *rows;    /* by table: row security hides some */
};

/* The first mirrored column that the role may not read. */
static bool is_column_denied(const struct table *table, const char *name)
{
    int column = table_find_column(table, name);

    return column >= 0 && table->columns[column].mask != MASK_NULL;
}

static bool look_columns(struct check *check, struct denied *denied, struct error *err)
{
    const struct table_list *tables = &check->catalog.tables;
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0};
    const char *param = relids(check, &array);

    if (!pg_query(check->source,
                  "SELECT o.n - 1, a.attname"
                  " FROM unnest($1::oid[]) WITH ORDINALITY o (relid, n)"
                  " JOIN pg_attribute a ON a.attrelid = o.relid AND a.attnum > 0"
                  "      AND NOT a.attisdropped"
                  " WHERE NOT has_table_privilege(o.relid, 'SELECT')"
                  "   AND NOT has_column_privilege(o.relid, a.attnum, 'SELECT')",
                  1, &param, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows); i++) {
        int64_t at = pg_int(rows, i, 0);

        if (at < tables->count && is_column_denied(&tables->tables[at], pg_text(rows, i, 1)))
            denied->tables[at] = true;
    }
    return true;
}

static bool look_tables(struct check *check, struct denied *denied, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0};
    const char *param = relids(check, &array);

    /* A table dropped meanwhile gives NULLs, which count as nothing denied. */
    if (!pg_query(check->source,
                  "SELECT o.n - 1, NOT has_schema_privilege(c.relnamespace, 'USAGE'),"
                  "       row_security_active(c.oid)"
                  " FROM unnest($1::oid[]) WITH ORDINALITY o (relid, n)"
                  " JOIN pg_class c ON c.oid = o.relid",
                  1, &param, &rows, err))
        return false;
    for (int i = 0; i < pg_rows(rows); i++) {
        int64_t at = pg_int(rows, i, 0);

        if (at >= check->catalog.tables.count)
            continue;
        denied->schemas[at] = pg_bool(rows, i, 1);
        denied->rows[at] = pg_bool(rows, i, 2);
    }
    return look_columns(check, denied, err);
}

/* GRANT SELECT for the denied ones, by table, or by schema where there are many. */
static void add_grants(struct check *check, const struct denied *denied, struct buf *sql)
{
    const struct table_list *tables = &check->catalog.tables;
    const char *role = check_ident(check, check->source_user);
    const char *schema = NULL; /* tables are sorted by schema */
    int count = 0;

    for (int i = 0; i < tables->count; i++)
        count += denied->tables[i];
    for (int i = 0; i < tables->count; i++) {
        const struct table *table = &tables->tables[i];

        if (denied->schemas[i] && (schema == NULL || strcmp(schema, table->schema) != 0)) {
            schema = table->schema;
            buf_printf(sql, "%sGRANT USAGE ON SCHEMA %s TO %s;", sql->len ? " " : "",
                       check_ident(check, schema), role);
        }
    }
    schema = NULL;
    for (int i = 0; i < tables->count; i++) {
        const struct table *table = &tables->tables[i];

        if (!denied->tables[i])
            continue;
        if (count < GRANT_BY_SCHEMA) {
            buf_add(sql, sql->len ? " GRANT SELECT ON " : "GRANT SELECT ON ");
            pg_add_qualified(sql, table->schema, table->name);
            buf_printf(sql, " TO %s;", role);
        } else if (schema == NULL || strcmp(schema, table->schema) != 0) {
            schema = table->schema;
            buf_printf(sql, "%sGRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s;", sql->len ? " " : "",
                       check_ident(check, schema), role);
        }
    }
}

static int list_tables(struct check *check, const bool *marked, struct buf *names)
{
    int count = 0;

    for (int i = 0; i < check->catalog.tables.count; i++) {
        if (marked[i])
            check_add_listed(names, count++, check->catalog.tables.tables[i].label);
    }
    check_end_listed(names, count);
    return count;
}

static void report_select(struct check *check, const struct denied *denied)
{
    _cleanup_buf_ struct buf names = {0}, sql = {0};
    bool *either = arena_new(check->arena, bool, check->catalog.tables.count);
    struct finding *finding;
    int count;

    for (int i = 0; i < check->catalog.tables.count; i++)
        either[i] = denied->schemas[i] || denied->tables[i];
    count = list_tables(check, either, &names);
    if (count == 0) {
        check_ok(check, "source_select", "%s may read all tables to mirror", check->source_user);
        return;
    }
    finding = finding_add(&check->findings, "source_select", FINDING_ERROR,
                          "the role %s may not read %d table%s", check->source_user, count,
                          count == 1 ? "" : "s");
    finding_why(&check->findings, finding, "%s", buf_text(&names));
    add_grants(check, denied, &sql);
    finding_remedy(&check->findings, finding, "as the tables' owner: %s", buf_text(&sql));
}

/* Decoding ignores row security, the copy does not: the mirror would lack rows (P53). */
static void report_rows(struct check *check, const struct denied *denied)
{
    _cleanup_buf_ struct buf names = {0};
    int count = list_tables(check, denied->rows, &names);
    struct finding *finding;

    if (count == 0) {
        check_ok(check, "source_row_security", "row security hides no rows from %s",
                 check->source_user);
        return;
    }
    finding = finding_add(&check->findings, "source_row_security", FINDING_ERROR,
                          "row security hides rows of %d table%s from %s", count,
                          count == 1 ? "" : "s", check->source_user);
    finding_why(&check->findings, finding, "the copy would lack them: %s", buf_text(&names));
    finding_remedy(&check->findings, finding,
                   "ALTER ROLE %s BYPASSRLS;  as superuser, or take the tables out of the "
                   "configuration",
                   check_ident(check, check->source_user));
}

bool check_privileges(struct check *check, struct error *err)
{
    int count = check->catalog.tables.count;
    struct denied denied = {.schemas = arena_new(check->arena, bool, count),
                            .tables = arena_new(check->arena, bool, count),
                            .rows = arena_new(check->arena, bool, count)};

    if (count == 0)
        return true;
    if (!look_tables(check, &denied, err))
        return error_wrap(err, "reading privileges on the source");
    report_select(check, &denied);
    report_rows(check, &denied);
    return true;
}

/* ---- the publication ---- */

/* May the role run the plan itself? */
static bool may_publish(struct check *check, const struct publication *publication, bool *ret_may,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf array = {0};
    const char *params[] = {relids(check, &array), publication->name};

    if (!pg_query_row(check->source,
                      "SELECT has_database_privilege(current_database(), 'CREATE'),"
                      " (SELECT bool_and(pg_has_role(c.relowner, 'USAGE')) FROM pg_class c"
                      "  WHERE c.oid = ANY ($1::oid[])),"
                      " (SELECT pg_has_role(p.pubowner, 'USAGE') FROM pg_publication p"
                      "  WHERE p.pubname = $2)",
                      2, params, &rows, err))
        return false;
    *ret_may = pg_bool(rows, 0, 1) && pg_bool(rows, 0, publication->exists ? 2 : 0);
    return true;
}

bool check_publication(struct check *check, struct error *err)
{
    const char *name = check->config->source.publication;
    struct publication publication;
    struct error wrong = {0};
    struct finding *finding;
    const char *sql;
    bool may;

    if (strcmp(check->config->source.plugin, "pgoutput") != 0 || check->catalog.tables.count == 0)
        return true;
    check_attached(check);
    if (!publication_look(check->source, name, check->arena, &publication, err))
        return false;
    if (!publication_plan(&publication, &check->catalog.tables, check->arena, &sql, &wrong)) {
        check_failed(check, "source_publication", &wrong);
        return true;
    }
    if (sql == NULL) {
        check_ok(check, "source_publication", "%s has the tables", name);
        return true;
    }
    if (!may_publish(check, &publication, &may, err))
        return error_wrap(err, "reading privileges on the source");
    if (may) {
        check_ok(check, "source_publication", "%s will be %s", name,
                 publication.exists ? "extended" : "made");
        return true;
    }
    finding = finding_add(&check->findings, "source_publication", FINDING_ERROR,
                          publication.exists ? "the publication %s lacks tables"
                                             : "there is no publication %s",
                          name);
    finding_why(&check->findings, finding,
                "%s owns neither the tables nor the publication, and should not",
                check->source_user);
    finding_remedy(&check->findings, finding, "as the owner of the tables: %s", sql);
    return true;
}

/* ---- the source's views ---- */

void check_views(struct check *check)
{
    _cleanup_buf_ struct buf names = {0};
    int count = check->catalog.nviews;

    if (count == 0)
        return;
    for (int i = 0; i < count; i++)
        check_add_listed(&names, i,
                         arena_printf(check->arena, "%s.%s", check->catalog.views[i].schema,
                                      check->catalog.views[i].name));
    check_end_listed(&names, count);
    check_ok(check, "source_views",
             "%d view%s of the source read%s mirrored tables, and are not mirrored: %s", count,
             count == 1 ? "" : "s", count == 1 ? "s" : "", buf_text(&names));
}
