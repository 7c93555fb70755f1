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

/* One that only a pattern takes, and the policy leaves out, may come and go unseen. */
static bool is_wanted(const struct config *config, const char *schema, const char *name)
{
    bool is_named;

    return edit_is_taken(config, schema, name, &is_named) &&
           (is_named || config->schema_changes[CHANGE_NEW_TABLE] != SCHEMA_CHANGES_KEEP ||
            config_find_known(config, schema, name) != NULL);
}

static void add_oids(const struct table_list *tables, struct buf *oids)
{
    buf_add_char(oids, '{');
    for (int i = 0; i < tables->count; i++)
        buf_printf(oids, "%s%" PRIu32, i > 0 ? "," : "", tables->tables[i].relid);
    buf_add_char(oids, '}');
}

bool watch_hash(struct pg *source, const struct config *config, const struct table_list *tables,
                uint64_t *ret_hash, struct error *err)
{
    _cleanup_result_ struct pg_result *mirrored = NULL, *others = NULL;
    _cleanup_buf_ struct buf oids = {0};
    uint64_t hash = UINT64_C(14695981039346656037);

    add_oids(tables, &oids);
    if (!pg_query_row(source, mirrored_sql, 2,
                      (const char *[]){buf_text(&oids), config->source.publication}, &mirrored,
                      err) ||
        !pg_query(source, others_sql, 1, (const char *[]){buf_text(&oids)}, &others, err))
        return error_wrap(err, "looking for changes of definitions");
    add(&hash, pg_text(mirrored, 0, 0));
    for (int i = 0; i < pg_rows(others); i++)
        if (is_wanted(config, pg_text(others, i, 0), pg_text(others, i, 1)))
            for (int column = 0; column < 3; column++)
                add(&hash, pg_text(others, i, column));
    *ret_hash = hash;
    return true;
}

bool watch_find_unkeyed(struct pg *source, const struct table_list *tables, struct arena *arena,
                        int *ret_count, const struct table ***ret_tables, struct error *err)
{
    const struct table **found = arena_new(arena, const struct table *, tables->count + 1);
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_buf_ struct buf oids = {0};
    const char *array;
    int count = 0;

    add_oids(tables, &oids);
    array = buf_text(&oids);
    if (!pg_query(
            source,
            "SELECT o.nr - 1 FROM unnest($1::oid[]) WITH ORDINALITY AS o(oid, nr) "
            "JOIN pg_class c ON c.oid = o.oid WHERE c.relkind = 'r' AND c.relreplident <> 'f' "
            "AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid "
            "AND ((c.relreplident = 'd' AND x.indisprimary) "
            "OR (c.relreplident = 'i' AND x.indisreplident))) ORDER BY 1",
            1, &array, &rows, err))
        return error_wrap(err, "looking for tables without a replica identity");
    for (int i = 0; i < pg_rows(rows); i++)
        found[count++] = &tables->tables[pg_int(rows, i, 0)];
    *ret_count = count;
    *ret_tables = found;
    return true;
}

/* pg_stat_activity shows of another role's session that it is there, and hides what it does. */
bool watch_find_blocker(struct pg *source, const char *pipeline, struct arena *arena,
                        const char **ret_words, const char **ret_next, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(
            source,
            "SELECT b.pid, b.usename, coalesce(nullif(b.application_name, ''), 'unnamed'), "
            "b.state, extract(epoch FROM clock_timestamp() - b.xact_start)::bigint, "
            "extract(epoch FROM clock_timestamp() - w.query_start)::bigint, p.gid "
            "FROM pg_stat_activity w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS "
            "u(pid) LEFT JOIN pg_stat_activity b ON b.pid = u.pid LEFT JOIN LATERAL (SELECT "
            "x.gid FROM pg_prepared_xacts x WHERE u.pid = 0 ORDER BY x.prepared LIMIT 1) p ON "
            "true WHERE w.usename = current_user AND w.application_name LIKE 'tailwater %' "
            "AND w.wait_event_type = 'Lock' AND w.query ILIKE 'CREATE_REPLICATION_SLOT%' "
            "AND position(left($1, 24) IN w.query) > 0 "
            "AND w.query_start < clock_timestamp() - interval '2 seconds' "
            "ORDER BY w.query_start LIMIT 1",
            1, &pipeline, &rows, err))
        return error_wrap(err, "looking for what a slot waits for");
    *ret_words = *ret_next = NULL;
    if (pg_rows(rows) == 0)
        return true;
    if (pg_is_null(rows, 0, 0)) {
        *ret_words = arena_printf(arena,
                                  "a snapshot of the source waits, for %s s now, for the prepared "
                                  "transaction %s",
                                  pg_text(rows, 0, 5), pg_text(rows, 0, 6));
        *ret_next = arena_printf(arena, "end it on the source: ROLLBACK PREPARED '%s' (or COMMIT)",
                                 pg_text(rows, 0, 6));
        return true;
    }
    *ret_words = arena_printf(
        arena,
        "a snapshot of the source waits, for %s s now, for a transaction of PID "
        "%s there (user %s, application %s%s%s)",
        pg_text(rows, 0, 5), pg_text(rows, 0, 0), pg_text(rows, 0, 1), pg_text(rows, 0, 2),
        pg_is_null(rows, 0, 3) ? "" : ", ", pg_is_null(rows, 0, 3) ? "" : pg_text(rows, 0, 3));
    *ret_next = arena_printf(arena,
                             "wait for that transaction, or end it on the source: SELECT "
                             "pg_terminate_backend(%s)",
                             pg_text(rows, 0, 0));
    return true;
}
