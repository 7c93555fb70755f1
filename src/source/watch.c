/* The catalog is hashed where it is; names of tables that are not mirrored come here, since patterns
 * are ours. */
#include "source/watch.h"

#include "base/map.h"
#include "config/edit.h"

#include <inttypes.h>
#include <string.h>

static const char mirrored_sql[] =
    "WITH RECURSIVE r(oid) AS (SELECT unnest($1::oid[]) UNION SELECT i.inhrelid FROM r "
    "JOIN pg_class p ON p.oid = r.oid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = "
    "r.oid) SELECT md5(concat("
    "(SELECT string_agg(concat_ws(' ', c.oid, c.relnamespace, c.relname, c.relreplident, "
    "c.relpersistence, c.relispartition), ',' ORDER BY c.oid) FROM pg_class c JOIN r USING (oid)), "
    "(SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, "
    "a.attnotnull, a.attgenerated), ',' ORDER BY a.attrelid, a.attnum) FROM pg_attribute a "
    "JOIN r ON r.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped), "
    "(SELECT string_agg(concat_ws(' ', x.indrelid, x.indkey, x.indisprimary, x.indisreplident), "
    "',' "
    "ORDER BY x.indexrelid) FROM pg_index x JOIN r ON r.oid = x.indrelid WHERE x.indisunique), "
    "(SELECT string_agg(concat_ws(' ', e.enumtypid, e.enumsortorder, e.enumlabel), ',' ORDER BY "
    "e.enumtypid, e.enumsortorder) FROM pg_enum e), "
    "(SELECT string_agg(concat_ws(' ', p.prpubid, p.prrelid), ',' ORDER BY p.oid) FROM "
    "pg_publication_rel p JOIN pg_publication o ON o.oid = p.prpubid WHERE o.pubname = $2)))";

static const char others_sql[] =
    "SELECT n.nspname, c.relname, c.oid FROM pg_class c JOIN pg_namespace n "
    "ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' "
    "AND NOT c.relispartition AND c.oid <> ALL ($1::oid[]) AND n.nspname NOT LIKE 'pg\\_%' "
    "AND n.nspname <> 'information_schema' ORDER BY 1, 2";

/* FNV-1a */
static void add(uint64_t *hash, const char *text)
{
    for (; *text != '\0'; text++)
        *hash = (*hash ^ (unsigned char) *text) * UINT64_C(1099511628211);
    *hash = (*hash ^ 0xFF) * UINT64_C(1099511628211);
}

static bool is_taken(const struct config *config, const char *schema, const char *name)
{
    bool is_named;

    return edit_is_taken(config, schema, name, &is_named);
}

bool watch_hash(struct pg *source, const struct config *config, const struct table_list *tables,
                uint64_t *ret_hash, struct error *err)
{
    _cleanup_result_ struct pg_result *mirrored = NULL, *others = NULL;
    _cleanup_buf_ struct buf oids = {0};
    uint64_t hash = UINT64_C(14695981039346656037);

    buf_add_char(&oids, '{');
    for (int i = 0; i < tables->count; i++)
        buf_printf(&oids, "%s%" PRIu32, i > 0 ? "," : "", tables->tables[i].relid);
    buf_add_char(&oids, '}');
    if (!pg_query_row(source, mirrored_sql, 2,
                      (const char *[]){buf_text(&oids), config->source.publication}, &mirrored,
                      err) ||
        !pg_query(source, others_sql, 1, (const char *[]){buf_text(&oids)}, &others, err))
        return error_wrap(err, "looking for changes of definitions");
    add(&hash, pg_text(mirrored, 0, 0));
    for (int i = 0; i < pg_rows(others); i++)
        if (is_taken(config, pg_text(others, i, 0), pg_text(others, i, 1)))
            for (int column = 0; column < 3; column++)
                add(&hash, pg_text(others, i, column));
    *ret_hash = hash;
    return true;
}
