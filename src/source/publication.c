/*
 * Looking at a publication, and the SQL that makes it fit.
 *
 * The replication role should not own the tables, so most of the time the SQL is not run here but
 * shown to somebody who may.  What is there already and is not plain is never changed: it may be
 * another subscriber's as well.
 *
 * Not here: whether the tables can be published at all (keys, replica identity: catalog.c).
 */
#include "source/publication.h"

#include "base/buf.h"

#include <string.h>

/* Columns that came with 15 (row filters, column lists) are read through to_jsonb(). */
static bool look_tables(struct pg *pg, uint32_t oid, struct arena *arena, struct publication *p,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql,
               "SELECT n.nspname, c.relname, c.oid, to_jsonb(r) ->> 'prqual' IS NOT NULL,"
               " to_jsonb(r) ->> 'prattrs' IS NOT NULL"
               " FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid"
               " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = %u"
               " ORDER BY 1, 2",
               oid);
    if (!pg_query(pg, buf_text(&sql), 0, NULL, &result, err))
        return false;
    p->ntables = pg_rows(result);
    p->tables = arena_new(arena, struct publication_table, p->ntables);
    for (int i = 0; i < p->ntables; i++)
        p->tables[i] = (struct publication_table){
            .schema = arena_strdup(arena, pg_text(result, i, 0)),
            .name = arena_strdup(arena, pg_text(result, i, 1)),
            .relid = (uint32_t) pg_int(result, i, 2),
            .has_row_filter = pg_bool(result, i, 3),
            .has_column_list = pg_bool(result, i, 4),
        };
    return true;
}

static bool look_schemas(struct pg *pg, uint32_t oid, struct arena *arena, struct publication *p,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};

    if (!pg_has(pg, FEATURE_PUBLICATION_SCHEMAS))
        return true;
    buf_printf(&sql,
               "SELECT n.nspname FROM pg_publication_namespace s"
               " JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = %u ORDER BY 1",
               oid);
    if (!pg_query(pg, buf_text(&sql), 0, NULL, &result, err))
        return false;
    p->nschemas = pg_rows(result);
    p->schemas = arena_new(arena, const char *, p->nschemas);
    for (int i = 0; i < p->nschemas; i++)
        p->schemas[i] = arena_strdup(arena, pg_text(result, i, 0));
    return true;
}

/* Everything below a partitioned member, the tables of published schemas included. */
static bool look_descendants(struct pg *pg, uint32_t oid, struct arena *arena,
                             struct publication *p, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf sql = {0};

    buf_printf(&sql,
               "SELECT DISTINCT t.relid::oid FROM pg_class c"
               " CROSS JOIN LATERAL pg_partition_tree(c.oid) t"
               " WHERE c.relkind = 'p' AND t.relid <> c.oid AND"
               " (c.oid IN (SELECT prrelid FROM pg_publication_rel WHERE prpubid = %u)",
               oid);
    if (pg_has(pg, FEATURE_PUBLICATION_SCHEMAS))
        buf_printf(&sql,
                   " OR c.relnamespace IN"
                   " (SELECT pnnspid FROM pg_publication_namespace WHERE pnpubid = %u)",
                   oid);
    buf_add(&sql, ") ORDER BY 1");
    if (!pg_query(pg, buf_text(&sql), 0, NULL, &result, err))
        return false;
    p->ndescendants = pg_rows(result);
    p->descendants = arena_new(arena, uint32_t, p->ndescendants);
    for (int i = 0; i < p->ndescendants; i++)
        p->descendants[i] = (uint32_t) pg_int(result, i, 0);
    return true;
}

bool publication_look(struct pg *pg, const char *name, struct arena *arena,
                      struct publication *ret_publication, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    struct publication p = {.name = arena_strdup(arena, name)};
    uint32_t oid;

    if (!pg_query(pg,
                  "SELECT p.oid, pg_get_userbyid(p.pubowner), p.puballtables,"
                  " p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot"
                  " FROM pg_publication p WHERE p.pubname = $1",
                  1, &name, &result, err))
        return error_wrap(err, "looking at publication %s", name);
    if (pg_rows(result) > 0) {
        oid = (uint32_t) pg_int(result, 0, 0);
        p.exists = true;
        p.owner = arena_strdup(arena, pg_text(result, 0, 1));
        p.is_all_tables = pg_bool(result, 0, 2);
        p.publishes_all_actions = pg_bool(result, 0, 3);
        p.is_via_root = pg_bool(result, 0, 4);
        if (!look_tables(pg, oid, arena, &p, err) || !look_schemas(pg, oid, arena, &p, err) ||
            !look_descendants(pg, oid, arena, &p, err))
            return error_wrap(err, "looking at publication %s", name);
    }
    *ret_publication = p;
    return true;
}

/* ---- the plan ---- */

static const struct publication_table *find_member(const struct publication *p, uint32_t relid)
{
    for (int i = 0; i < p->ntables; i++)
        if (p->tables[i].relid == relid)
            return &p->tables[i];
    return NULL;
}

static bool has_schema(const struct publication *p, const char *schema)
{
    for (int i = 0; i < p->nschemas; i++)
        if (strcmp(p->schemas[i], schema) == 0)
            return true;
    return false;
}

static bool is_descendant(const struct publication *p, uint32_t relid)
{
    for (int i = 0; i < p->ndescendants; i++)
        if (p->descendants[i] == relid)
            return true;
    return false;
}

/* One ALTER PUBLICATION … for a hint. */
static bool hint_alter(const struct publication *p, struct error *err, const char *change)
{
    _cleanup_buf_ struct buf name = {0};

    pg_add_ident(&name, p->name);
    return error_hint(err,
                      "as its owner (%s), on the source: ALTER PUBLICATION %s %s;  — or name "
                      "another one in source.publication",
                      p->owner, buf_text(&name), change);
}

static bool check_plain(const struct publication *p, const struct table_list *tables,
                        struct error *err)
{
    if (p->is_all_tables) {
        error_set(
            err, ERROR_FINDINGS,
            "source: publication %s is FOR ALL TABLES: that stops the application's updates of "
            "every table without a key",
            p->name);
        return error_hint(err,
                          "name another one in source.publication: tailwater makes or prints one "
                          "for the mirrored tables alone");
    }
    if (!p->publishes_all_actions) {
        error_set(err, ERROR_FINDINGS,
                  "source: publication %s does not publish insert, update, delete and truncate all",
                  p->name);
        return hint_alter(p, err, "SET (publish = 'insert, update, delete, truncate')");
    }
    for (int i = 0; i < tables->count; i++)
        if (tables->tables[i].is_partitioned && !p->is_via_root) {
            error_set(
                err, ERROR_FINDINGS,
                "source: publication %s publishes partitions under their own names, and %s is "
                "mirrored as one table",
                p->name, tables->tables[i].label);
            return hint_alter(p, err, "SET (publish_via_partition_root = true)");
        }
    return true;
}

/* Is the table published as it is?  *ret_is_missing: not at all. */
static bool check_table(const struct publication *p, const struct table *table,
                        bool *ret_is_missing, struct error *err)
{
    const struct publication_table *member = find_member(p, table->relid);
    bool is_below = is_descendant(p, table->relid);

    if (is_below && p->is_via_root) {
        error_set(
            err, ERROR_FINDINGS,
            "source: publication %s publishes the rows of %s under its partitioned table's name",
            p->name, table->label);
        return error_hint(err,
                          "mirror the partitioned table instead, or name another publication in "
                          "source.publication");
    }
    if (member != NULL && (member->has_row_filter || member->has_column_list)) {
        _cleanup_buf_ struct buf change = {0};

        error_set(err, ERROR_FINDINGS, "source: publication %s has a %s on %s", p->name,
                  member->has_row_filter ? "row filter" : "column list", table->label);
        buf_add(&change, "DROP TABLE ");
        pg_add_qualified(&change, table->schema, table->name);
        buf_add(&change, ", and ADD TABLE without it");
        return hint_alter(p, err, buf_text(&change));
    }
    *ret_is_missing = member == NULL && !is_below && !has_schema(p, table->schema);
    return true;
}

/* ONLY: children by inheritance are tables of their own. */
static void add_table(struct buf *sql, const struct table *table, int count)
{
    buf_add(sql, count > 0 ? ", " : " ");
    if (!table->is_partitioned)
        buf_add(sql, "ONLY ");
    pg_add_qualified(sql, table->schema, table->name);
}

bool publication_plan(const struct publication *publication, const struct table_list *tables,
                      struct arena *arena, const char **ret_sql, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    int count = 0;

    if (publication->exists && !check_plain(publication, tables, err))
        return false;
    buf_add(&sql, publication->exists ? "ALTER PUBLICATION " : "CREATE PUBLICATION ");
    pg_add_ident(&sql, publication->name);
    for (int i = 0; i < tables->count; i++) {
        bool is_missing = true;

        if (publication->exists && !check_table(publication, &tables->tables[i], &is_missing, err))
            return false;
        if (!is_missing)
            continue;
        if (count == 0)
            buf_add(&sql, publication->exists ? " ADD TABLE" : " FOR TABLE");
        add_table(&sql, &tables->tables[i], count++);
    }
    if (publication->exists && count == 0) {
        *ret_sql = NULL;
        return true;
    }
    if (!publication->exists)
        buf_add(&sql, " WITH (publish_via_partition_root = true)");
    buf_add_char(&sql, ';');
    *ret_sql = arena_strdup(arena, buf_text(&sql));
    return true;
}

bool publication_check_table(const struct publication *publication, const struct table *table,
                             bool *ret_is_missing, struct error *err)
{
    const struct table_list list = {.tables = (struct table *) table, .count = 1};
    _cleanup_(arena_release) struct arena arena = {0};
    const char *sql;

    *ret_is_missing = false;
    if (!publication_plan(publication, &list, &arena, &sql, err))
        return false;
    if (sql == NULL)
        return true;
    *ret_is_missing = true;
    error_set(err, ERROR_FINDINGS,
              "source: the publication %s lacks the table %s: its changes do "
              "not come",
              publication->name, table->label);
    return error_hint(
        err,
        "it was taken out of it, or dropped and made anew, and is complete again only "
        "after a resync; first, as the publication's owner (%s), on the source: %s",
        publication->owner, sql);
}

/* ---- doing it ---- */

#define MAX_HINT_SQL 640

/* Only an owner may: that is a finding, with the SQL for the owner. */
static bool refused(const char *what, const char *sql, struct error *err)
{
    size_t len = strlen(sql);

    if (strcmp(err->sqlstate, "42501") != 0)
        return error_wrap(err, "%s", what);
    err->kind = ERROR_FINDINGS;
    error_hint(err,
               "as the owner of the tables, with CREATE on the database, on the source: %.*s%s",
               MAX_HINT_SQL, sql,
               len > MAX_HINT_SQL ? " … (tailwater check prints the whole statement)" : "");
    return error_wrap(err, "%s", what);
}

bool publication_ensure(struct pg *pg, const char *name, const struct table_list *tables,
                        struct arena *arena, const char **ret_sql, struct error *err)
{
    struct publication publication;
    const char *sql;

    if (!publication_look(pg, name, arena, &publication, err) ||
        !publication_plan(&publication, tables, arena, &sql, err))
        return false;
    if (sql != NULL && !pg_exec(pg, sql, err))
        return refused("the publication cannot be made or changed by this role", sql, err);
    *ret_sql = sql;
    return true;
}

bool publication_drop(struct pg *pg, const char *name, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "DROP PUBLICATION IF EXISTS ");
    pg_add_ident(&sql, name);
    if (pg_exec(pg, buf_text(&sql), err))
        return true;
    return refused("the publication cannot be dropped by this role", buf_text(&sql), err);
}
