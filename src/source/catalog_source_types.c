/*
 * The queries about types: what columns' types are made of, the labels of enums, the attributes of
 * composites, the names that only the server can write, and collations.
 */
#include "source/catalog_source.h"

#include "base/buf.h"
#include "source/catalog_rows.h"

#include <stdlib.h>

static const char types_sql[] =
    "WITH RECURSIVE t (oid) AS ("
    "  SELECT pg_catalog.unnest($1::pg_catalog.oid[])"
    "  UNION"
    "  SELECT p.part FROM t CROSS JOIN LATERAL ("
    "    SELECT v.part FROM pg_catalog.pg_type y"
    "    CROSS JOIN LATERAL (VALUES (y.typbasetype), (y.typelem), (y.typarray)) AS v (part)"
    "    WHERE y.oid = t.oid"
    "    UNION ALL SELECT v.part FROM pg_catalog.pg_range r"
    "    CROSS JOIN LATERAL (VALUES (r.rngtypid), (r.rngsubtype), (r.rngmultitypid)) AS v (part)"
    "    WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid"
    "    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_type y"
    "    JOIN pg_catalog.pg_class c ON c.oid = y.typrelid AND c.relkind = 'c'"
    "    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped"
    "         AND a.attnum > 0"
    "    WHERE y.oid = t.oid) p WHERE p.part <> 0)"
    " SELECT y.oid, n.nspname, y.typname, y.typtype, coalesce(c.relkind, ''), y.typstorage,"
    "        y.typdelim, y.typlen, y.typbasetype, y.typtypmod, y.typelem, y.typarray,"
    "        y.typcollation, r.rngsubtype, r.rngcollation,"
    "        CASE WHEN NOT o.opcdefault THEN pg_catalog.quote_ident(s.nspname) || '.'"
    "             || pg_catalog.quote_ident(o.opcname) END,"
    "        r.rngmultitypid, m.rngtypid, coalesce(e.refobjid, 0)"
    " FROM t"
    " JOIN pg_catalog.pg_type y ON y.oid = t.oid"
    " JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace"
    " LEFT JOIN pg_catalog.pg_class c ON c.oid = y.typrelid"
    " LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = y.oid"
    " LEFT JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc"
    " LEFT JOIN pg_catalog.pg_namespace s ON s.oid = o.opcnamespace"
    " LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = y.oid"
    " LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass"
    "      AND e.objid = y.oid AND e.objsubid = 0 AND e.deptype = 'e'"
    " ORDER BY y.oid";

static struct source_type *find_type(const struct catalog_types *types, uint32_t oid)
{
    const struct source_type *type = catalog_types_find(types, oid);

    return type ? &types->items[type - types->items] : NULL;
}

static bool read_labels(struct pg *source, struct catalog_types *types, const char *oids,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    const char **labels;

    if (!catalog_rows_query(source,
                            "SELECT e.enumtypid, e.enumlabel FROM pg_catalog.pg_enum e"
                            " WHERE e.enumtypid = ANY ($1::pg_catalog.oid[])"
                            " ORDER BY e.enumtypid, e.enumsortorder",
                            oids, &rows, err))
        return false;
    labels = arena_new(types->arena, const char *, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_type *type = find_type(types, catalog_rows_oid(rows, i, 0));

        if (type == NULL)
            continue;
        if (type->nlabels++ == 0)
            type->labels = &labels[i];
        labels[i] = catalog_rows_text(types->arena, rows, i, 1);
    }
    return true;
}

static bool read_attributes(struct pg *source, struct catalog_types *types, const char *oids,
                            struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct source_attribute *attributes;

    if (!catalog_rows_query(source,
                            "SELECT y.oid, a.attname, a.atttypid, a.atttypmod, a.attcollation"
                            " FROM pg_catalog.pg_type y"
                            " JOIN pg_catalog.pg_class c ON c.oid = y.typrelid AND c.relkind = 'c'"
                            " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
                            "      AND NOT a.attisdropped"
                            " WHERE y.oid = ANY ($1::pg_catalog.oid[])"
                            " ORDER BY y.oid, a.attnum",
                            oids, &rows, err))
        return false;
    attributes = arena_new(types->arena, struct source_attribute, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++) {
        struct source_type *type = find_type(types, catalog_rows_oid(rows, i, 0));

        if (type == NULL)
            continue;
        if (type->nattributes++ == 0)
            type->attributes = &attributes[i];
        attributes[i] = (struct source_attribute){
            .name = catalog_rows_text(types->arena, rows, i, 1),
            .type = catalog_rows_oid(rows, i, 2),
            .typmod = (int32_t) pg_int(rows, i, 3),
            .collation = catalog_rows_oid(rows, i, 4)};
    }
    return true;
}

bool catalog_source_read_types(struct pg *source, struct arena *arena, int count,
                               const uint32_t *oids, struct catalog_types *ret_types,
                               struct error *err)
{
    struct catalog_types types = {.arena = arena, .view_schema = ret_types->view_schema};
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf asked = {0}, found = {0};

    catalog_rows_add_oid(&asked, CATALOG_TYPES_TEXT);
    catalog_rows_add_oid(&asked, CATALOG_TYPES_TEXT_ARRAY);
    for (int i = 0; i < count; i++)
        catalog_rows_add_oid(&asked, oids[i]);
    if (!catalog_rows_query(source, types_sql, catalog_rows_end_oids(&asked), &rows, err))
        return false;
    types.count = pg_rows(rows);
    types.items = arena_new(arena, struct source_type, types.count);
    for (int i = 0; i < types.count; i++) {
        types.items[i] = (struct source_type){
            .oid = catalog_rows_oid(rows, i, 0),
            .schema = catalog_rows_text(arena, rows, i, 1),
            .name = catalog_rows_text(arena, rows, i, 2),
            .kind = catalog_rows_char(rows, i, 3),
            .relkind = catalog_rows_char(rows, i, 4),
            .storage = catalog_rows_char(rows, i, 5),
            .delimiter = catalog_rows_char(rows, i, 6),
            .len = (int) pg_int(rows, i, 7),
            .base = catalog_rows_oid(rows, i, 8),
            .base_typmod = (int32_t) pg_int(rows, i, 9),
            .element = catalog_rows_oid(rows, i, 10),
            .array = catalog_rows_oid(rows, i, 11),
            .collation = catalog_rows_oid(rows, i, 12),
            .subtype = catalog_rows_oid(rows, i, 13),
            .subtype_collation = catalog_rows_oid(rows, i, 14),
            .subtype_opclass = pg_is_null(rows, i, 15) ? NULL
                                                       : catalog_rows_text(arena, rows, i, 15),
            .multirange = catalog_rows_oid(rows, i, 16),
            .range = catalog_rows_oid(rows, i, 17),
            .extension = catalog_rows_oid(rows, i, 18)};
        catalog_rows_add_oid(&found, types.items[i].oid);
    }
    catalog_rows_end_oids(&found);
    if (!read_labels(source, &types, buf_text(&found), err) ||
        !read_attributes(source, &types, buf_text(&found), err))
        return false;
    *ret_types = types;
    return true;
}

/* ---- names of types, collations ---- */

static int compare_type_name(const void *a, const void *b)
{
    const struct type_name *left = a, *right = b;

    if (left->oid != right->oid)
        return left->oid < right->oid ? -1 : 1;
    return (left->typmod > right->typmod) - (left->typmod < right->typmod);
}

static void sort_names(struct catalog_types *types)
{
    int kept = 0;

    if (types->nnames == 0)
        return;
    qsort(types->names, (size_t) types->nnames, sizeof(*types->names), compare_type_name);
    for (int i = 0; i < types->nnames; i++) {
        if (kept == 0 || compare_type_name(&types->names[kept - 1], &types->names[i]) != 0)
            types->names[kept++] = types->names[i];
    }
    types->nnames = kept;
}

static bool read_collations(struct pg *source, struct catalog_types *types, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;

    /* PostgreSQL 15 and 17 each renamed a column of pg_collation; to_jsonb() reads them all. */
    if (!pg_query(source,
                  "SELECT c.oid, n.nspname, c.collname, c.collisdeterministic,"
                  "       'CREATE COLLATION ' || pg_catalog.quote_ident(n.nspname) || '.'"
                  "       || pg_catalog.quote_ident(c.collname) || ' (provider = '"
                  "       || CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin'"
                  "          ELSE 'libc' END"
                  "       || CASE WHEN c.collprovider = 'c' THEN ', lc_collate = '"
                  "          || pg_catalog.quote_literal(c.collcollate) || ', lc_ctype = '"
                  "          || pg_catalog.quote_literal(c.collctype) ELSE ', locale = '"
                  "          || pg_catalog.quote_literal(coalesce(j.v ->> 'colllocale',"
                  "             j.v ->> 'colliculocale', j.v ->> 'collcollate')) END"
                  "       || CASE WHEN c.collisdeterministic THEN ''"
                  "          ELSE ', deterministic = false' END || ')'"
                  " FROM pg_catalog.pg_collation c"
                  " JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace"
                  " CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(c) AS v) j"
                  " ORDER BY c.oid",
                  0, NULL, &rows, err))
        return false;
    types->ncollations = pg_rows(rows);
    types->collations = arena_new(types->arena, struct source_collation, pg_rows(rows));
    for (int i = 0; i < pg_rows(rows); i++)
        types->collations[i] = (struct source_collation){
            .oid = catalog_rows_oid(rows, i, 0),
            .schema = catalog_rows_text(types->arena, rows, i, 1),
            .name = catalog_rows_text(types->arena, rows, i, 2),
            .is_deterministic = pg_bool(rows, i, 3),
            .create_sql = catalog_rows_text(types->arena, rows, i, 4)};
    return true;
}

bool catalog_source_read_names(struct pg *source, struct catalog_types *types, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf oids = {0}, typmods = {0};
    const char *params[2];

    sort_names(types);
    for (int i = 0; i < types->nnames; i++) {
        catalog_rows_add_oid(&oids, types->names[i].oid);
        buf_printf(&typmods, "%s%d", i ? "," : "{", types->names[i].typmod);
    }
    params[0] = catalog_rows_end_oids(&oids);
    params[1] = catalog_rows_end_oids(&typmods);
    if (!pg_query(source,
                  "SELECT pg_catalog.format_type(w.oid, w.typmod)"
                  " FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]),"
                  "                 pg_catalog.unnest($2::pg_catalog.int4[]))"
                  "      WITH ORDINALITY AS w (oid, typmod, n) ORDER BY w.n",
                  2, params, &rows, err))
        return false;
    for (int i = 0; i < types->nnames && i < pg_rows(rows); i++)
        types->names[i].text = catalog_rows_text(types->arena, rows, i, 0);
    return read_collations(source, types, err);
}
