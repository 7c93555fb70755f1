/*
 * The key and the indexes of a mirror table, made after its copy.
 *
 * None but the key is unique (P23): changes arrive coalesced, and two rows may swap a unique value.
 * An index is found again by its name, so one that an operator drops stays away: only the state
 * 'copied' builds them.
 */
#include "mirror/ddl_internal.h"

#include "mirror/control.h"

static bool step_key(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const struct table *table = step->table;
    const char *params[] = {table->mirror_schema, table->mirror_name};
    _cleanup_result_ struct pg_result *found = NULL;
    _cleanup_buf_ struct buf sql = {0};

    if (!pg_query_row(mirror,
                      "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'p' AND conrelid = "
                      "to_regclass(format('%I.%I', $1::text, $2::text)))",
                      2, params, &found, err))
        return false;
    if (pg_bool(found, 0, 0))
        return true;
    buf_add(&sql, "ALTER TABLE ");
    ddl_add_table_name(&sql, table);
    buf_add(&sql, " ADD PRIMARY KEY (");
    for (int i = 0; i < table->nkeys; i++) {
        buf_add(&sql, i > 0 ? ", " : "");
        pg_add_ident(&sql, table->columns[table->keys[i]].name);
    }
    buf_add_char(&sql, ')');
    return pg_exec(mirror, buf_text(&sql), err);
}

bool ddl_add_key(struct pg *mirror, const struct table *table, struct error *err)
{
    struct ddl_step step = {.table = table};

    return ddl_attempt(mirror, step_key, &step, err) ||
           error_wrap(err, "table %s, primary key", table->label);
}

/*
 * An index keeps its name, unless another relation of the mirror schema has it (two source schemas
 * may share one): then it gets one made of a hash.  *ret_name "" where the index is there already.
 */
static bool choose_index_name(struct pg *mirror, const struct ddl_step *step, struct buf *ret_name,
                              struct error *err)
{
    const struct table *table = step->table;
    const char *params[] = {table->mirror_schema, table->mirror_name, step->index->name};
    _cleanup_result_ struct pg_result *names = NULL;

    if (!pg_query(
            mirror,
            "SELECT w.name, c.oid IS NULL, i.indrelid IS NOT DISTINCT FROM "
            "to_regclass(format('%I.%I', $1::text, $2::text))::oid "
            "FROM (VALUES (1, $3::text), (2, 'index_' || left(md5($2::text || '.' || $3::text), "
            "16))) AS w(nr, name) "
            "LEFT JOIN pg_class c ON c.relname = w.name AND c.relnamespace = "
            "(SELECT oid FROM pg_namespace WHERE nspname = $1) "
            "LEFT JOIN pg_index i ON i.indexrelid = c.oid ORDER BY w.nr",
            3, params, &names, err))
        return false;
    for (int row = 0; row < pg_rows(names); row++) {
        if (!pg_bool(names, row, 1) && pg_bool(names, row, 2))
            return true;
        if (pg_bool(names, row, 1)) {
            buf_add(ret_name, pg_text(names, row, 0));
            return true;
        }
    }
    return error_set(err, ERROR_FAILED, "every name for it is taken in schema %s of the mirror",
                     table->mirror_schema);
}

static bool step_index(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    _cleanup_buf_ struct buf name = {0};
    _cleanup_buf_ struct buf sql = {0};

    if (!choose_index_name(mirror, step, &name, err))
        return false;
    if (name.len == 0)
        return true;
    buf_add(&sql, "CREATE INDEX ");
    pg_add_ident(&sql, buf_text(&name));
    buf_add(&sql, " ON ");
    ddl_add_table_name(&sql, step->table);
    buf_printf(&sql, " %s", step->index->definition);
    return pg_exec(mirror, buf_text(&sql), err);
}

bool ddl_has_tombstone_index(struct pg *mirror, const struct table *table, bool *ret_has,
                             struct error *err)
{
    const char *params[] = {table->mirror_schema, table->mirror_name};
    _cleanup_result_ struct pg_result *found = NULL;

    /* By what it is, not by its name: the server chooses that. */
    if (!pg_query_row(
            mirror,
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a "
            "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "WHERE i.indrelid = to_regclass(format('%I.%I', $1::text, $2::text)) "
            "AND i.indnatts = 1 AND i.indpred IS NOT NULL AND a.attname = '" DDL_DELETED_COLUMN
            "')",
            2, params, &found, err))
        return false;
    *ret_has = pg_bool(found, 0, 0);
    return true;
}

static bool step_tombstone_index(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    _cleanup_buf_ struct buf sql = {0};
    bool has;

    if (!ddl_has_tombstone_index(mirror, step->table, &has, err))
        return false;
    if (has)
        return true;
    buf_add(&sql, "CREATE INDEX ON ");
    ddl_add_table_name(&sql, step->table);
    buf_add(&sql, " (" DDL_DELETED_COLUMN ") WHERE " DDL_DELETED_COLUMN " IS NOT NULL");
    return pg_exec(mirror, buf_text(&sql), err);
}

bool ddl_add_tombstone_index(struct pg *mirror, const struct table *table, struct error *err)
{
    struct ddl_step step = {.table = table};

    if (!table_keeps_tombstones(table))
        return true;
    return ddl_attempt(mirror, step_tombstone_index, &step, err) ||
           error_wrap(err, "table %s, index of tombstones", table->label);
}

static bool step_indexed(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const char *params[] = {step->pipeline, step->table->schema, step->table->name};
    _cleanup_result_ struct pg_result *done = NULL;

    /* A later state stays as it is. */
    return pg_query(mirror,
                    "UPDATE tailwater.mirror_table SET state = 'indexed' "
                    "WHERE pipeline = $1 AND schema = $2 AND name = $3 AND state = 'copied'",
                    3, params, &done, err);
}

bool ddl_add_indexes(struct pg *mirror, const char *pipeline, const struct table *table,
                     struct notes *notes, struct error *err)
{
    struct ddl_step step = {.pipeline = pipeline, .table = table};

    for (int i = 0; i < table->nindexes; i++) {
        struct error failure;

        step.index = &table->indexes[i];
        if (ddl_attempt(mirror, step_index, &step, &failure))
            continue;
        if (!ddl_may_be_left_out(&failure)) {
            *err = failure;
            return error_wrap(err, "table %s, index %s", table->label, step.index->name);
        }
        notes_add(notes, "table %s: index %s is left out of the mirror: %s", table->label,
                  step.index->name, failure.message);
    }
    if (!ddl_add_tombstone_index(mirror, table, err))
        return false;
    return ddl_attempt(mirror, step_indexed, &step, err) ||
           error_wrap(err, "table %s, recording its state", table->label);
}

static bool step_analyze(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "ANALYZE ");
    ddl_add_table_name(&sql, step->table);
    return pg_exec(mirror, buf_text(&sql), err);
}

bool ddl_analyze(struct pg *mirror, const struct table *table, struct error *err)
{
    struct ddl_step step = {.table = table};

    return ddl_attempt(mirror, step_analyze, &step, err) ||
           error_wrap(err, "table %s", table->label);
}
