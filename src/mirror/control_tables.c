/*
 * The rows of the mirror tables.
 *
 * A list of tables goes to the server as one JSON parameter and is compared there, so that a
 * thousand tables cost three statements.  A row whose table was never created (state 'new') follows
 * the configuration and the source; afterwards its relid, key and names are fixed, because rows
 * were copied under them.
 */
#include "mirror/control.h"

#include <stdio.h>

static const char *const state_names[] = {
    [CONTROL_TABLE_NEW] = "new",       [CONTROL_TABLE_CREATED] = "created",
    [CONTROL_TABLE_COPIED] = "copied", [CONTROL_TABLE_INDEXED] = "indexed",
    [CONTROL_TABLE_READY] = "ready",
};
#define NSTATES (sizeof(state_names) / sizeof(state_names[0]))

const char *control_table_state_name(enum control_table_state state)
{
    return state_names[state];
}

static bool parse_state(const char *name, enum control_table_state *ret_state, struct error *err)
{
    for (size_t i = 0; i < NSTATES; i++)
        if (strcmp(name, state_names[i]) == 0) {
            *ret_state = (enum control_table_state) i;
            return true;
        }
    return error_set(err, ERROR_BUG, "a mirror table has the unknown state '%s'", name);
}

/* ---- the list, as the server sees it ---- */

#define WANTED                                                                                     \
    "WITH wanted AS (SELECT index, schema, name, relid, mirror_schema, mirror_name, view_schema, " \
    "view_name, columns, ARRAY(SELECT jsonb_array_elements_text(key)) AS key "                     \
    "FROM jsonb_to_recordset($2::jsonb) AS t(index integer, schema text, name text, relid oid, "   \
    "mirror_schema text, mirror_name text, view_schema text, view_name text, key jsonb, "          \
    "columns jsonb)) "

static void add_field(struct buf *json, const char *name, const char *value)
{
    buf_printf(json, ", \"%s\": ", name);
    buf_add_json(json, value);
}

static void add_table(struct buf *json, const struct table *table)
{
    buf_printf(json, "{\"index\": %d, \"relid\": %u", table->index, table->relid);
    add_field(json, "schema", table->schema);
    add_field(json, "name", table->name);
    add_field(json, "mirror_schema", table->mirror_schema);
    add_field(json, "mirror_name", table->mirror_name);
    add_field(json, "view_schema", table->view_schema);
    add_field(json, "view_name", table->view_name);
    buf_add(json, ", \"key\": [");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(json, i > 0 ? ", " : "");
        buf_add_json(json, table->columns[table->keys[i]].name);
    }
    buf_add(json, "], \"columns\": ");
    control_add_columns(json, table);
    buf_add_char(json, '}');
}

void control_add_columns(struct buf *json, const struct table *table)
{
    buf_add_char(json, '[');
    for (int i = 0; i < table->ncolumns; i++) {
        buf_printf(json, "%s{\"attnum\": %d", i > 0 ? ", " : "", table->columns[i].attnum);
        add_field(json, "name", table->columns[i].name);
        buf_add_char(json, '}');
    }
    buf_add_char(json, ']');
}

/* Two tables that want one mirror table or one live view, here or in another pipeline. */
static bool refuse_collisions(struct pg *mirror, int nparams, const char *const *params,
                              struct error *err)
{
    _cleanup_result_ struct pg_result *pair = NULL;

    if (!pg_query(
            mirror,
            WANTED
            ", everything AS (SELECT $1 AS pipeline, schema, name, mirror_schema, mirror_name, "
            "view_schema, view_name FROM wanted UNION SELECT pipeline, schema, name, "
            "mirror_schema, mirror_name, view_schema, view_name FROM tailwater.mirror_table), "
            "pairs AS (SELECT a, b, true AS is_mirror FROM everything a JOIN everything b "
            "ON (a.mirror_schema, a.mirror_name) = (b.mirror_schema, b.mirror_name) UNION ALL "
            "SELECT a, b, false FROM everything a JOIN everything b "
            "ON (a.view_schema, a.view_name) = (b.view_schema, b.view_name)) "
            "SELECT (a).schema || '.' || (a).name, (b).schema || '.' || (b).name, (b).pipeline, "
            "CASE WHEN is_mirror THEN 'mirror table ' || (a).mirror_schema || '.' || "
            "(a).mirror_name ELSE 'live view ' || (a).view_schema || '.' || (a).view_name END, "
            "is_mirror FROM pairs WHERE (a).pipeline = $1 "
            "AND ((a).pipeline, (a).schema, (a).name) <> ((b).pipeline, (b).schema, (b).name) "
            "ORDER BY is_mirror DESC, (a).schema, (a).name LIMIT 1",
            nparams, params, &pair, err))
        return false;
    if (pg_rows(pair) == 0)
        return true;
    error_set(err, ERROR_CONFIG, "table %s and table %s of pipeline %s would share the %s",
              pg_text(pair, 0, 0), pg_text(pair, 0, 1), pg_text(pair, 0, 2), pg_text(pair, 0, 3));
    return error_hint(
        err, "set mirror.%s so that every source schema gets its own, for example \"%s{schema}\"",
        pg_bool(pair, 0, 4) ? "table_schema" : "view_schema", pg_bool(pair, 0, 4) ? "mirror_" : "");
}

static bool insert_missing(struct pg *mirror, int nparams, const char *const *params,
                           struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(
        mirror,
        WANTED
        "INSERT INTO tailwater.mirror_table AS m (pipeline, schema, name, relid, "
        "mirror_schema, mirror_name, view_schema, view_name, key, shape) "
        "SELECT $1, schema, name, relid, mirror_schema, mirror_name, view_schema, view_name, key, "
        "jsonb_build_object('columns', columns) "
        "FROM wanted ON CONFLICT (pipeline, schema, name) DO UPDATE SET "
        "relid = excluded.relid, mirror_schema = excluded.mirror_schema, "
        "mirror_name = excluded.mirror_name, view_schema = excluded.view_schema, "
        "view_name = excluded.view_name, key = excluded.key, shape = excluded.shape "
        "WHERE m.state = 'new'",
        nparams, params, &done, err);
}

/*
 * A table that the configuration no longer lists is not followed from here on; one that is listed
 * again lacks what came in between, and is quarantined from there on, and to be resynced.  While nothing
 * streams there is nothing to miss; and of a table that was never made nothing is left.
 */
static bool sync_listing(struct pg *mirror, int nparams, const char *const *params,
                         struct error *err)
{
    _cleanup_result_ struct pg_result *never = NULL, *gone = NULL, *back = NULL;

    return pg_query(mirror,
                    WANTED "DELETE FROM tailwater.mirror_table m WHERE m.pipeline = $1 "
                           "AND m.state = 'new' AND NOT EXISTS (SELECT FROM wanted w WHERE "
                           "(w.schema, w.name) = (m.schema, m.name))",
                    nparams, params, &never, err) &&
           pg_query(mirror,
                    WANTED "UPDATE tailwater.mirror_table m SET unlisted_lsn = c.cursor, "
                           "resync_job = NULL FROM tailwater.clock c WHERE m.pipeline = $1 "
                           "AND c.pipeline = $1 AND m.unlisted_lsn IS NULL AND m.state <> 'new' "
                           "AND NOT EXISTS (SELECT FROM wanted w WHERE "
                           "(w.schema, w.name) = (m.schema, m.name))",
                    nparams, params, &gone, err) &&
           pg_query(mirror,
                    WANTED
                    ", back AS (SELECT m.schema, m.name, p.state = 'streaming' AND m.state IN "
                    "('copied', 'indexed', 'ready') AS is_behind FROM "
                    "tailwater.mirror_table m JOIN wanted USING (schema, name) "
                    "JOIN tailwater.pipeline p ON p.name = m.pipeline "
                    "WHERE m.pipeline = $1 AND m.unlisted_lsn IS NOT NULL) "
                    "UPDATE tailwater.mirror_table m SET unlisted_lsn = NULL, "
                    "quarantine_lsn = CASE WHEN b.is_behind THEN "
                    "least(m.quarantine_lsn, m.unlisted_lsn) ELSE m.quarantine_lsn END, "
                    "quarantined_at = CASE WHEN b.is_behind THEN now() "
                    "ELSE m.quarantined_at END, "
                    "needs_resync_lsn = CASE WHEN b.is_behind THEN '0/0' "
                    "ELSE m.needs_resync_lsn END, "
                    "quarantine_reason = CASE WHEN b.is_behind THEN 'it was not among the "
                    "tables of the configuration for a while, and lacks the changes of that "
                    "time; it is resynced' ELSE m.quarantine_reason END FROM back b "
                    "WHERE m.pipeline = $1 AND (m.schema, m.name) = (b.schema, b.name)",
                    nparams, params, &back, err);
}

/* Microseconds since 1970, 0 for none. */
#define US(column) "coalesce((extract(epoch FROM " column ") * 1000000)::bigint, 0)"

/* The columns of mirror_table that read_row() takes. */
/* clang-format off */
#define ROW_COLUMNS                                                                                \
    "m.schema, m.name, m.relid, m.mirror_schema, m.mirror_name, m.view_schema, m.view_name, "      \
    "m.state, m.copy_lsn, m.copied_rows, " US("m.copied_at") ", m.quarantine_lsn, "                \
    US("m.quarantined_at") ", " US("m.quarantine_commit_time") ", m.quarantine_xid, "              \
    "m.quarantine_sqlstate, m.quarantine_reason, m.resync_job IS NOT NULL, "                       \
    US("m.resynced_at") ", coalesce(m.resynced_differences, -1), " US("m.verified_at")             \
    ", coalesce(m.verified_differences, -1), m.unlisted_lsn, " US("m.schema_changed_at")           \
    ", m.schema_change"
#define NROW_COLUMNS 25
/* clang-format on */

static bool read_row(const struct pg_result *rows, int row, struct arena *arena,
                     struct control_table *ret_table, struct error *err)
{
    enum control_table_state state = CONTROL_TABLE_NEW;

    if (!parse_state(pg_text(rows, row, 7), &state, err))
        return false;
    *ret_table = (struct control_table){
        .schema = arena_strdup(arena, pg_text(rows, row, 0)),
        .name = arena_strdup(arena, pg_text(rows, row, 1)),
        .relid = (uint32_t) pg_int(rows, row, 2),
        .mirror_schema = arena_strdup(arena, pg_text(rows, row, 3)),
        .mirror_name = arena_strdup(arena, pg_text(rows, row, 4)),
        .view_schema = arena_strdup(arena, pg_text(rows, row, 5)),
        .view_name = arena_strdup(arena, pg_text(rows, row, 6)),
        .state = state,
        .copy_lsn = pg_lsn(rows, row, 8),
        .copied_rows = pg_int(rows, row, 9),
        .copied_at_us = pg_int(rows, row, 10),
        .quarantine = {.lsn = pg_lsn(rows, row, 11),
                       .since_us = pg_int(rows, row, 12),
                       .commit_time_us = pg_int(rows, row, 13),
                       .xid = pg_int(rows, row, 14),
                       .sqlstate = arena_strdup(arena, pg_text(rows, row, 15)),
                       .reason = arena_strdup(arena, pg_text(rows, row, 16))},
        .is_resynced = pg_bool(rows, row, 17),
        .resynced_at_us = pg_int(rows, row, 18),
        .resynced_differences = pg_int(rows, row, 19),
        .verified_at_us = pg_int(rows, row, 20),
        .verified_differences = pg_int(rows, row, 21),
        .unlisted_lsn = pg_lsn(rows, row, 22),
        .schema_changed_us = pg_int(rows, row, 23),
        .schema_change = arena_strdup(arena, pg_text(rows, row, 24)),
        .estimated_rows = -1,
        .total_bytes = -1,
    };
    return true;
}

enum { RELID_DIFFERS = NROW_COLUMNS + 1, KEY_DIFFERS, NAMES_DIFFER, OLD_KEY, OTHER_COLUMN };

/* What is fixed once rows were copied under it: on the source … */
static bool refuse_changes(const struct table *table, const struct pg_result *rows, int row,
                           struct error *err)
{
    if (pg_bool(rows, row, RELID_DIFFERS)) {
        error_set(
            err, ERROR_CONFIG,
            "table %s was dropped and made again on the source (OID was %s, is %u): the mirror "
            "holds the old table's rows",
            table->label, pg_text(rows, row, 2), table->relid);
        return error_hint(err, "a resync gives it the new table's rows; or take it out of tables:");
    }
    if (pg_bool(rows, row, KEY_DIFFERS)) {
        error_set(err, ERROR_CONFIG,
                  "the key of table %s changed: its mirror table is keyed by (%s)", table->label,
                  pg_text(rows, row, OLD_KEY));
        return error_hint(
            err, "set the table's replica identity (or key: in the configuration) back, or start "
                 "over with tailwater destroy and run");
    }
    if (!pg_is_null(rows, row, OTHER_COLUMN)) {
        error_set(
            err, ERROR_CONFIG,
            "the column \"%s\" of table %s is not the one that was copied: it was dropped and "
            "added again, or has changed places with another",
            pg_text(rows, row, OTHER_COLUMN), table->label);
        return error_hint(err, "a resync mends that");
    }
    return true;
}

/* … and in the configuration. */
static bool refuse_names(const struct table *table, const struct pg_result *rows, int row,
                         struct error *err)
{
    if (!pg_bool(rows, row, NAMES_DIFFER))
        return true;
    error_set(err, ERROR_CONFIG,
              "the configuration gives table %s other names: its mirror table is %s.%s, its live "
              "view %s.%s",
              table->label, pg_text(rows, row, 3), pg_text(rows, row, 4), pg_text(rows, row, 5),
              pg_text(rows, row, 6));
    return error_hint(err,
                      "set mirror.table_schema and mirror.view_schema back, or start over with "
                      "tailwater destroy and run");
}

bool control_none_refused(const struct control_table *tables, int count, struct error *err)
{
    for (int i = 0; i < count; i++)
        if (tables[i].refusal != NULL) {
            *err = *tables[i].refusal;
            return false;
        }
    return true;
}

static bool read_all(struct pg *mirror, int nparams, const char *const *params,
                     const struct table_list *list, struct arena *arena,
                     struct control_table **ret_tables, struct notes *strays, struct error *err)
{
    struct control_table *tables = arena_new(arena, struct control_table, list->count);
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror,
                  WANTED
                  "SELECT " ROW_COLUMNS ", w.index, w.relid <> m.relid, w.key <> m.key, "
                  "(w.mirror_schema, w.mirror_name, w.view_schema, w.view_name) <> "
                  "(m.mirror_schema, m.mirror_name, m.view_schema, m.view_name), "
                  "array_to_string(m.key, ', '), (SELECT min(o.name) FROM jsonb_to_recordset("
                  "m.shape -> 'columns') AS o(name text, attnum int) JOIN jsonb_to_recordset("
                  "w.columns) AS n(name text, attnum int) USING (name) "
                  "WHERE o.attnum <> n.attnum) "
                  "FROM tailwater.mirror_table m "
                  "LEFT JOIN wanted w USING (schema, name) WHERE m.pipeline = $1 "
                  "ORDER BY m.schema, m.name",
                  nparams, params, &rows, err))
        return false;
    for (int row = 0; row < pg_rows(rows); row++) {
        int index = (int) pg_int(rows, row, NROW_COLUMNS);
        struct error refusal;

        if (pg_is_null(rows, row, NROW_COLUMNS)) {
            notes_add(
                strays,
                "%s.%s is no longer among the tables of the configuration, or is gone from the "
                "source: it stays as it is, and lacks what comes from now on; listed again, it is "
                "resynced",
                pg_text(rows, row, 0), pg_text(rows, row, 1));
            continue;
        }
        if (!refuse_names(&list->tables[index], rows, row, err) ||
            !read_row(rows, row, arena, &tables[index], err))
            return false;
        if (!refuse_changes(&list->tables[index], rows, row, &refusal))
            tables[index].refusal = arena_memdup(arena, &refusal, sizeof(refusal));
    }
    *ret_tables = tables;
    return true;
}

bool control_sync_tables(struct pg *mirror, const char *pipeline, const struct table_list *list,
                         struct arena *arena, struct control_table **ret_tables,
                         struct notes *strays, struct error *err)
{
    _cleanup_buf_ struct buf json = {0};
    const char *params[] = {pipeline, NULL};

    buf_add_char(&json, '[');
    for (int i = 0; i < list->count; i++) {
        buf_add(&json, i > 0 ? ",\n" : "");
        add_table(&json, &list->tables[i]);
    }
    buf_add_char(&json, ']');
    params[1] = buf_text(&json);
    if (!refuse_collisions(mirror, 2, params, err) || !insert_missing(mirror, 2, params, err) ||
        !sync_listing(mirror, 2, params, err) ||
        !read_all(mirror, 2, params, list, arena, ret_tables, strays, err))
        return error_wrap(err, "pipeline %s", pipeline);
    return true;
}

bool control_list_tables(struct pg *mirror, const char *pipeline, struct arena *arena,
                         int *ret_count, struct control_table **ret_tables, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct control_table *tables;

    if (!pg_query(mirror,
                  "SELECT " ROW_COLUMNS " FROM tailwater.mirror_table m WHERE m.pipeline = $1 "
                  "ORDER BY m.schema, m.name",
                  1, &pipeline, &rows, err))
        return error_wrap(err, "reading the tables of pipeline %s", pipeline);
    tables = arena_new(arena, struct control_table, pg_rows(rows));
    for (int row = 0; row < pg_rows(rows); row++) {
        if (!read_row(rows, row, arena, &tables[row], err))
            return false;
        /* Nobody waits for it to be mended. */
        if (tables[row].unlisted_lsn != 0)
            tables[row].quarantine = (struct control_quarantine){0};
        tables[row].estimated_rows = tables[row].total_bytes = -1;
    }
    *ret_count = pg_rows(rows);
    *ret_tables = tables;
    return true;
}

bool control_measure_tables(struct pg *mirror, const char *pipeline, struct arena *arena,
                            int *ret_count, struct control_size **ret_sizes, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct control_size *sizes;

    /*
     * As the planner does it: rows per page when last analyzed, times the pages there are now.
     * Asking a table's size waits for whoever has it exclusively, as making its key does: so only
     * those that are past that are asked.
     */
    if (!pg_query(mirror,
                  "SELECT m.schema, m.name, "
                  "CASE WHEN c.oid IS NULL THEN coalesce(nullif(m.copied_rows, 0), -1) "
                  "WHEN c.reltuples >= 0 AND c.relpages > 0 "
                  "THEN round(c.reltuples / c.relpages * (pg_relation_size(c.oid) / "
                  "current_setting('block_size')::integer))::bigint "
                  "ELSE pg_stat_get_live_tuples(c.oid) END, "
                  "coalesce(pg_total_relation_size(c.oid), -1) "
                  "FROM tailwater.mirror_table m LEFT JOIN pg_class c "
                  "ON m.state IN ('indexed', 'ready') "
                  "AND c.oid = to_regclass(format('%I.%I', m.mirror_schema, m.mirror_name)) "
                  "WHERE m.pipeline = $1 ORDER BY m.schema, m.name",
                  1, &pipeline, &rows, err))
        return error_wrap(err, "measuring the tables of pipeline %s", pipeline);
    sizes = arena_new(arena, struct control_size, pg_rows(rows));
    for (int row = 0; row < pg_rows(rows); row++)
        sizes[row] = (struct control_size){.schema = arena_strdup(arena, pg_text(rows, row, 0)),
                                           .name = arena_strdup(arena, pg_text(rows, row, 1)),
                                           .estimated_rows = pg_int(rows, row, 2),
                                           .total_bytes = pg_int(rows, row, 3)};
    *ret_count = pg_rows(rows);
    *ret_sizes = sizes;
    return true;
}

void control_give_sizes(const struct control_size *sizes, int nsizes, struct control_table *tables,
                        int ntables)
{
    int next = 0; /* both come in the same order, and hold nearly the same */

    for (int i = 0; i < ntables; i++)
        for (int tried = 0; tried < nsizes; tried++) {
            const struct control_size *size = &sizes[(next + tried) % nsizes];

            if (strcmp(size->name, tables[i].name) != 0 ||
                strcmp(size->schema, tables[i].schema) != 0)
                continue;
            tables[i].estimated_rows = size->estimated_rows;
            tables[i].total_bytes = size->total_bytes;
            next = (next + tried + 1) % nsizes;
            break;
        }
}

/* ---- states ---- */

static bool set_state(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                      const struct table *table, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(mirror, sql, nparams, params, &done, err))
        return error_wrap(err, "table %s, recording its state", table->label);
    if (pg_affected(done) != 1)
        return error_set(err, ERROR_BUG, "table %s has no row in the control schema", table->label);
    return true;
}

bool control_set_table_state(struct pg *mirror, const char *pipeline, const struct table *table,
                             enum control_table_state state, struct error *err)
{
    const char *params[] = {pipeline, table->schema, table->name, state_names[state]};

    return set_state(mirror,
                     "UPDATE tailwater.mirror_table SET state = $4 "
                     "WHERE pipeline = $1 AND schema = $2 AND name = $3",
                     4, params, table, err);
}

bool control_set_table_copied(struct pg *mirror, const char *pipeline, const struct table *table,
                              lsn_t copy_lsn, int64_t rows, struct error *err)
{
    char lsn[LSN_TEXT_SIZE], count[24];
    const char *params[] = {pipeline, table->schema, table->name, lsn_text(copy_lsn, lsn), count};

    snprintf(count, sizeof(count), "%lld", (long long) rows);
    return set_state(mirror,
                     "UPDATE tailwater.mirror_table SET state = 'copied', copy_lsn = $4::pg_lsn, "
                     "copied_rows = $5::bigint, copied_at = now() "
                     "WHERE pipeline = $1 AND schema = $2 AND name = $3",
                     5, params, table, err);
}
