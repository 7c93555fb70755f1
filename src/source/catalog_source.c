/*
 * The queries.  Every one is for all tables at once: a thousand tables cost as many round trips as
 * one.  All names are qualified although search_path is pinned, so that nobody has to look whether
 * it is.
 *
 * Rows come ordered by what they hang on, so that each list is one stretch of an arena array.
 */
#include "source/catalog_source.h"

#include "base/buf.h"
#include "source/catalog_rows.h"

#include <stdlib.h>

/* ---- relations by oid ---- */

static int compare_relation(const void *a, const void *b)
{
    uint32_t left = (*(struct source_relation *const *) a)->oid;
    uint32_t right = (*(struct source_relation *const *) b)->oid;

    return (left > right) - (left < right);
}

/* The relations by oid, for finding the one that a row belongs to. */
struct relation_index {
    int count;
    struct source_relation **items;
};

static struct relation_index index_relations(struct arena *arena, int count,
                                             struct source_relation **relations)
{
    struct relation_index index = {
        .count = count,
        .items = arena_memdup(arena, relations, sizeof(*relations) * (size_t) count)};

    if (count > 0)
        qsort(index.items, (size_t) count, sizeof(*index.items), compare_relation);
    return index;
}

static struct source_relation *find_relation(const struct relation_index *index, uint32_t oid)
{
    struct source_relation key = {.oid = oid}, *pointer = &key;
    struct source_relation **found = NULL;

    if (index->count > 0)
        found = bsearch(&pointer, index->items, (size_t) index->count, sizeof(*index->items),
                        compare_relation);
    return found ? *found : NULL;
}

static const char *relation_oids(struct buf *list, int count, struct source_relation **relations)
{
    for (int i = 0; i < count; i++)
        catalog_rows_add_oid(list, relations[i]->oid);
    return catalog_rows_end_oids(list);
}

const struct source_column *catalog_source_column(const struct source_relation *relation,
                                                  int attnum)
{
    for (int i = 0; i < relation->ncolumns; i++) {
        if (relation->columns[i].attnum == attnum)
            return &relation->columns[i];
    }
    return NULL;
}

const struct source_extension *catalog_source_extension(const struct source_catalog *catalog,
                                                        uint32_t oid)
{
    for (int i = 0; i < catalog->nextensions; i++) {
        if (catalog->extensions[i].oid == oid)
            return &catalog->extensions[i];
    }
    return NULL;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

const char *catalog_source_names(struct arena *arena, int count, const char *const *names)
{
    const char **sorted = arena_memdup(arena, names, sizeof(*names) * (size_t) count);
    _cleanup_buf_ struct buf text = {0};

    if (count > 0)
        qsort(sorted, (size_t) count, sizeof(*sorted), compare_names);
    for (int i = 0; i < count; i++)
        buf_printf(&text, "%zu:%s", strlen(sorted[i]), sorted[i]);
    return arena_strdup(arena, buf_text(&text));
}

/* ---- relations and extensions ---- */

static bool read_extensions(struct pg *source, struct source_catalog *catalog, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(source,
                  "SELECT e.oid, e.extname, n.nspname, e.extversion"
                  " FROM pg_catalog.pg_extension e"
                  " JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname",
                  0, NULL, &rows, err))
        return false;
    catalog->nextensions = pg_rows(rows);
    catalog->extensions = arena_new(catalog->arena, struct source_extension, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        catalog->extensions[i] = (struct source_extension){
            .oid = catalog_rows_oid(rows, i, 0),
            .name = catalog_rows_text(catalog->arena, rows, i, 1),
            .schema = catalog_rows_text(catalog->arena, rows, i, 2),
            .version = catalog_rows_text(catalog->arena, rows, i, 3)};
    return true;
}

static const char relations_sql[] =
    "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relispartition,"
    "       c.relreplident, c.reltuples, c.relpages, coalesce(e.refobjid, 0),"
    "       c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i"
    "                                   WHERE i.inhparent = c.oid)"
    " FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
    "      AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e'"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'"
    "   AND n.nspname NOT IN ('information_schema', 'tailwater')"
    " ORDER BY n.nspname COLLATE pg_catalog.\"C\", c.relname COLLATE pg_catalog.\"C\"";

bool catalog_source_read(struct pg *source, struct arena *arena, struct source_catalog *ret_catalog,
                         struct error *err)
{
    struct source_catalog catalog = {.arena = arena};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(source, relations_sql, 0, NULL, &rows, err))
        return false;
    catalog.nrelations = pg_rows(rows);
    catalog.relations = arena_new(arena, struct source_relation, pg_rows(rows));
    for (int i = 0; i < catalog.nrelations; i++) {
        struct source_relation *relation = &catalog.relations[i];

        relation->oid = catalog_rows_oid(rows, i, 0);
        relation->schema = catalog_rows_text(arena, rows, i, 1);
        relation->name = catalog_rows_text(arena, rows, i, 2);
        relation->label = arena_printf(arena, "%s.%s", relation->schema, relation->name);
        relation->kind = catalog_rows_char(rows, i, 3);
        relation->persistence = catalog_rows_char(rows, i, 4);
        relation->is_partition = pg_bool(rows, i, 5);
        relation->identity = catalog_rows_char(rows, i, 6);
        relation->reltuples = strtod(pg_text(rows, i, 7), NULL);
        relation->relpages = pg_int(rows, i, 8);
        relation->bytes = relation->relpages * 8192;
        relation->extension = catalog_rows_oid(rows, i, 9);
        relation->has_children = pg_bool(rows, i, 10);
    }
    if (!read_extensions(source, &catalog, err))
        return false;
    *ret_catalog = catalog;
    return true;
}

/* ---- columns, indexes, leaves, dependencies of the chosen ---- */

static bool read_columns(struct pg *source, struct arena *arena, const struct relation_index *index,
                         const char *oids, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct source_column *columns;

    if (!catalog_rows_query(source,
                            "SELECT a.attrelid, a.attname, a.attnum, a.atttypid, a.atttypmod,"
                            "       a.attcollation, a.attnotnull, a.attgenerated, a.attstorage,"
                            "       pg_catalog.pg_get_expr(d.adbin, d.adrelid)"
                            " FROM pg_catalog.pg_attribute a"
                            " LEFT JOIN pg_catalog.pg_attrdef d ON a.attgenerated <> ''"
                            "      AND d.adrelid = a.attrelid AND d.adnum = a.attnum"
                            " WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attnum > 0"
                            "   AND NOT a.attisdropped"
                            " ORDER BY a.attrelid, a.attnum",
                            oids, &rows, err))
        return false;
    columns = arena_new(arena, struct source_column, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_relation *relation = find_relation(index, catalog_rows_oid(rows, i, 0));

        if (relation == NULL)
            continue;
        if (relation->ncolumns++ == 0)
            relation->columns = &columns[i];
        columns[i] = (struct source_column){.name = catalog_rows_text(arena, rows, i, 1),
                                            .attnum = (int) pg_int(rows, i, 2),
                                            .type = catalog_rows_oid(rows, i, 3),
                                            .typmod = (int32_t) pg_int(rows, i, 4),
                                            .collation = catalog_rows_oid(rows, i, 5),
                                            .is_not_null = pg_bool(rows, i, 6),
                                            .generated = catalog_rows_char(rows, i, 7),
                                            .storage = catalog_rows_char(rows, i, 8),
                                            .expression = catalog_rows_text(arena, rows, i, 9)};
    }
    return true;
}

/* What pg_get_indexdef() writes before USING is built again here, and taken off by its length:
 * names can hold anything, " USING " too. */
static const char indexes_sql[] =
    "SELECT x.indrelid, x.indexrelid, i.relname, m.amname, x.indisprimary, x.indisunique,"
    "       x.indimmediate, x.indisreplident, x.indisvalid AND x.indisready AND x.indislive,"
    "       x.indpred IS NOT NULL, x.indexprs IS NOT NULL, x.indnkeyatts,"
    "       pg_catalog.array_to_string(x.indkey::pg_catalog.int2[], ' '),"
    "       pg_catalog.substr(pg_catalog.pg_get_indexdef(x.indexrelid),"
    "         pg_catalog.length('CREATE ' || CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END"
    "           || 'INDEX ' || pg_catalog.quote_ident(i.relname) || ' ON '"
    "           || CASE WHEN i.relkind = 'I' THEN 'ONLY ' ELSE '' END"
    "           || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname))"
    "         + 2)"
    " FROM pg_catalog.pg_index x"
    " JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid"
    " JOIN pg_catalog.pg_am m ON m.oid = i.relam"
    " JOIN pg_catalog.pg_class c ON c.oid = x.indrelid"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE x.indrelid = ANY ($1::pg_catalog.oid[])"
    " ORDER BY x.indrelid, i.relname COLLATE pg_catalog.\"C\"";

static void parse_attnums(struct arena *arena, const char *text, struct source_index *index)
{
    const char *p = text;
    char *end;

    index->attnums = arena_new(arena, int, strlen(text) / 2 + 1);
    for (long n = strtol(p, &end, 10); end != p; n = strtol(p, &end, 10)) {
        index->attnums[index->nattnums++] = (int) n;
        p = end;
    }
}

static bool read_indexes(struct pg *source, struct arena *arena, const struct relation_index *index,
                         const char *oids, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct source_index *indexes;

    if (!catalog_rows_query(source, indexes_sql, oids, &rows, err))
        return false;
    indexes = arena_new(arena, struct source_index, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_relation *relation = find_relation(index, catalog_rows_oid(rows, i, 0));
        const char *definition = catalog_rows_text(arena, rows, i, 13);

        if (relation == NULL)
            continue;
        if (relation->nindexes++ == 0)
            relation->indexes = &indexes[i];
        indexes[i] = (struct source_index){
            .oid = catalog_rows_oid(rows, i, 1),
            .name = catalog_rows_text(arena, rows, i, 2),
            .method = catalog_rows_text(arena, rows, i, 3),
            .definition = strncmp(definition, "USING ", 6) == 0 ? definition : NULL,
            .is_primary = pg_bool(rows, i, 4),
            .is_unique = pg_bool(rows, i, 5),
            .is_immediate = pg_bool(rows, i, 6),
            .is_identity = pg_bool(rows, i, 7),
            .is_valid = pg_bool(rows, i, 8),
            .is_partial = pg_bool(rows, i, 9),
            .has_expressions = pg_bool(rows, i, 10),
            .nkeys = (int) pg_int(rows, i, 11)};
        parse_attnums(arena, pg_text(rows, i, 12), &indexes[i]);
    }
    return true;
}

#define LEAF_COLUMNS_SQL(which)                                                                    \
    "(SELECT pg_catalog.string_agg(pg_catalog.octet_length(a.attname::pg_catalog.text) || ':'"     \
    "          || a.attname, '' ORDER BY a.attname::pg_catalog.text COLLATE pg_catalog.\"C\")"     \
    " FROM pg_catalog.pg_index x"                                                                  \
    " JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid"                                   \
    "      AND a.attnum = ANY ((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1])"                \
    " WHERE x.indrelid = c.oid AND x." which " AND x.indimmediate AND x.indisvalid)"

static const char leaves_sql[] =
    "WITH RECURSIVE tree (root, oid) AS ("
    "  SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i"
    "  WHERE i.inhparent = ANY ($1::pg_catalog.oid[])"
    "  UNION ALL"
    "  SELECT t.root, i.inhrelid FROM tree t"
    "  JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)"
    " SELECT t.root, c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident,"
    "        c.reltuples, c.relpages, " LEAF_COLUMNS_SQL(
        "indisprimary") ","
                        "        " LEAF_COLUMNS_SQL(
                            "indisreplident") ", "
                                              /* Attaching a table that was there writes a row of another transaction. */
                                              "(SELECT a.xmin = i.xmin FROM "
                                              "pg_catalog.pg_attribute a, pg_catalog.pg_inherits i"
                                              "  WHERE a.attrelid = c.oid AND a.attnum = -1 AND "
                                              "i.inhrelid = c.oid) FROM tree t"
                                              " JOIN pg_catalog.pg_class c ON c.oid = t.oid"
                                              " JOIN pg_catalog.pg_namespace n ON n.oid = "
                                              "c.relnamespace"
                                              " WHERE c.relkind <> 'p'"
                                              " ORDER BY t.root, n.nspname COLLATE "
                                              "pg_catalog.\"C\", c.relname COLLATE "
                                              "pg_catalog.\"C\"";

/* Only of partitioned tables: children by inheritance are tables of their own. */
static bool read_leaves(struct pg *source, struct arena *arena, const struct relation_index *index,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf roots = {0};
    struct source_leaf *leaves;

    for (int i = 0; i < index->count; i++) {
        if (index->items[i]->kind == 'p')
            catalog_rows_add_oid(&roots, index->items[i]->oid);
    }
    if (roots.len == 0)
        return true;
    if (!catalog_rows_query(source, leaves_sql, catalog_rows_end_oids(&roots), &rows, err))
        return false;
    leaves = arena_new(arena, struct source_leaf, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_relation *root = find_relation(index, catalog_rows_oid(rows, i, 0));

        if (root == NULL)
            continue;
        if (root->nleaves++ == 0)
            root->leaves = &leaves[i];
        leaves[i] = (struct source_leaf){.oid = catalog_rows_oid(rows, i, 1),
                                         .schema = catalog_rows_text(arena, rows, i, 2),
                                         .name = catalog_rows_text(arena, rows, i, 3),
                                         .kind = catalog_rows_char(rows, i, 4),
                                         .persistence = catalog_rows_char(rows, i, 5),
                                         .identity = catalog_rows_char(rows, i, 6),
                                         .reltuples = strtod(pg_text(rows, i, 7), NULL),
                                         .relpages = pg_int(rows, i, 8),
                                         .bytes = pg_int(rows, i, 8) * 8192,
                                         .primary_columns = catalog_rows_text(arena, rows, i, 9),
                                         .identity_columns = catalog_rows_text(arena, rows, i, 10),
                                         .is_born = pg_bool(rows, i, 11)};
    }
    return true;
}

/*
 * What indexes and generated columns read and use.  A generated column's dependencies hang on its
 * default since 15, on the column itself before.  Built-in objects are in pg_depend only where
 * initdb did not pin them, and count as built-in all the same.
 */
static const char dependencies_sql[] =
    "SELECT o.relid, o.index, o.attnum,"
    "       CASE WHEN d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
    "            THEN d.refobjsubid ELSE 0 END,"
    "       d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass,"
    "       d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass,"
    "       d.refobjid, pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid),"
    "       coalesce(e.refobjid, 0)"
    " FROM (SELECT x.indrelid AS relid, x.indexrelid AS index, 0 AS attnum,"
    "              'pg_catalog.pg_class'::pg_catalog.regclass AS classid, x.indexrelid AS objid,"
    "              0 AS objsubid"
    "       FROM pg_catalog.pg_index x WHERE x.indrelid = ANY ($1::pg_catalog.oid[])"
    "       UNION ALL"
    "       SELECT a.attrelid, 0, a.attnum, s.classid, s.objid, s.objsubid"
    "       FROM pg_catalog.pg_attribute a"
    "       JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum"
    "       CROSS JOIN LATERAL (VALUES"
    "         ('pg_catalog.pg_attrdef'::pg_catalog.regclass, f.oid, 0),"
    "         ('pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, a.attnum::int))"
    "         AS s (classid, objid, objsubid)"
    "       WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attgenerated <> '') o"
    " JOIN pg_catalog.pg_depend d ON d.classid = o.classid AND d.objid = o.objid"
    "      AND d.objsubid = o.objsubid"
    " LEFT JOIN pg_catalog.pg_depend e ON e.classid = d.refclassid AND e.objid = d.refobjid"
    "      AND e.objsubid = 0 AND e.deptype = 'e'"
    " WHERE CASE WHEN d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
    "            THEN d.refobjid = o.relid AND d.refobjsubid NOT IN (0, o.attnum)"
    "            ELSE d.refobjid >= 16384"
    "                 AND d.refclassid <> 'pg_catalog.pg_constraint'::pg_catalog.regclass END"
    " ORDER BY o.relid, o.index, o.attnum";

static bool read_dependencies(struct pg *source, struct arena *arena,
                              const struct relation_index *index, const char *oids,
                              struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct source_dependency *dependencies;

    if (!catalog_rows_query(source, dependencies_sql, oids, &rows, err))
        return false;
    dependencies = arena_new(arena, struct source_dependency, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_relation *relation = find_relation(index, catalog_rows_oid(rows, i, 0));

        if (relation == NULL)
            continue;
        if (relation->ndependencies++ == 0)
            relation->dependencies = &dependencies[i];
        dependencies[i] = (struct source_dependency){
            .index = catalog_rows_oid(rows, i, 1),
            .attnum = (int) pg_int(rows, i, 2),
            .column = (int) pg_int(rows, i, 3),
            .is_type = pg_bool(rows, i, 4),
            .is_collation = pg_bool(rows, i, 5),
            .object = catalog_rows_oid(rows, i, 6),
            .description = catalog_rows_text(arena, rows, i, 7),
            .extension = catalog_rows_oid(rows, i, 8)};
    }
    return true;
}

bool catalog_source_read_tables(struct pg *source, struct arena *arena, int count,
                                struct source_relation **relations, struct error *err)
{
    struct relation_index index = index_relations(arena, count, relations);
    _cleanup_buf_ struct buf list = {0};
    const char *oids = relation_oids(&list, count, relations);

    return read_columns(source, arena, &index, oids, err) &&
           read_indexes(source, arena, &index, oids, err) &&
           read_leaves(source, arena, &index, err) &&
           read_dependencies(source, arena, &index, oids, err);
}

/* ---- sizes ---- */

struct size {
    uint32_t oid;
    int64_t pages, bytes;
};

static int compare_size(const void *a, const void *b)
{
    uint32_t left = ((const struct size *) a)->oid, right = ((const struct size *) b)->oid;

    return (left > right) - (left < right);
}

/* Rows as the planner guesses them: the last ANALYZE's density, or 100 bytes a row. */
static double guess_rows(double reltuples, int64_t relpages, int64_t pages)
{
    double density = reltuples >= 0 && relpages > 0 ? reltuples / (double) relpages : 80.0;

    return density * (double) pages;
}

static const struct size *find_size(const struct size *sizes, int count, uint32_t oid)
{
    struct size key = {.oid = oid};

    return count > 0 ? bsearch(&key, sizes, (size_t) count, sizeof(*sizes), compare_size) : NULL;
}

static void apply_sizes(const struct size *sizes, int count, struct source_relation *relation)
{
    const struct size *size = find_size(sizes, count, relation->oid);

    if (size != NULL) {
        relation->reltuples = guess_rows(relation->reltuples, relation->relpages, size->pages);
        relation->relpages = size->pages;
        relation->bytes = size->bytes;
    }
    for (int i = 0; i < relation->nleaves; i++) {
        struct source_leaf *leaf = &relation->leaves[i];

        size = find_size(sizes, count, leaf->oid);
        if (size == NULL)
            continue;
        leaf->reltuples = guess_rows(leaf->reltuples, leaf->relpages, size->pages);
        leaf->relpages = size->pages;
        leaf->bytes = size->bytes;
    }
}

bool catalog_source_read_sizes(struct pg *source, struct arena *arena, int count,
                               struct source_relation **relations, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf list = {0};
    struct size *sizes;

    for (int i = 0; i < count; i++) {
        if (relations[i]->kind == 'r')
            catalog_rows_add_oid(&list, relations[i]->oid);
        for (int j = 0; j < relations[i]->nleaves; j++)
            catalog_rows_add_oid(&list, relations[i]->leaves[j].oid);
    }
    if (!catalog_rows_query(
            source,
            "SELECT o.oid, pg_catalog.pg_relation_size(o.oid)"
            "       / pg_catalog.current_setting('block_size')::pg_catalog.int8,"
            "       pg_catalog.pg_table_size(o.oid)"
            " FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS o (oid) ORDER BY o.oid",
            catalog_rows_end_oids(&list), &rows, err))
        return false;
    sizes = arena_new(arena, struct size, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        sizes[i] = (struct size){catalog_rows_oid(rows, i, 0), pg_int(rows, i, 1),
                                 pg_int(rows, i, 2)};
    for (int i = 0; i < count; i++)
        apply_sizes(sizes, pg_rows(rows), relations[i]);
    return true;
}
