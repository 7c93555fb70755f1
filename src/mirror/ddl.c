/*
 * DDL on the mirror: how a step is tried, and the tables.  One step is one transaction with a
 * lock_timeout, tried again while what stands in its way may go away; a step looks first at what is
 * there, so that the same call after a crash goes on where it stopped.
 *
 * What tells ours from somebody else's is the control schema, never a name: a table's state leaves
 * 'new' in the transaction that creates it, and schemas and types have rows in made_object.
 *
 * Not here: ALTER of a mirror table to follow the source's (reshape.c).  A difference is found and
 * refused.
 */
#include "mirror/ddl_internal.h"

#include "base/memory.h"
#include "mirror/control.h"

#include <time.h>

#define MAX_ATTEMPTS 12
#define LOCK_TIMEOUT "2s"
#define MAX_PAUSE_MS 2000

static void pause_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long) (ms % 1000) * 1000000};

    nanosleep(&ts, NULL);
}

bool ddl_attempt(struct pg *mirror,
                 bool (*step)(struct pg *mirror, void *context, struct error *err), void *context,
                 struct error *err)
{
    struct error failure = {0}, ignored;
    int pause = 50;

    for (int attempt = 1;; attempt++) {
        if (pg_exec(mirror, "BEGIN; SET LOCAL lock_timeout = '" LOCK_TIMEOUT "'", &failure) &&
            step(mirror, context, &failure) && pg_exec(mirror, "COMMIT", &failure))
            return true;
        if (pg_is_broken(mirror))
            break;
        pg_exec(mirror, "ROLLBACK", &ignored);
        /* Somebody cancelled it (57014): that is not to be tried again. */
        if (failure.kind != ERROR_RETRY || strcmp(failure.sqlstate, "57014") == 0 ||
            attempt == MAX_ATTEMPTS)
            break;
        pause_ms(pause);
        pause = 2 * pause < MAX_PAUSE_MS ? 2 * pause : MAX_PAUSE_MS;
    }
    *err = failure;
    if (err->kind == ERROR_RETRY && strcmp(err->sqlstate, "55P03") == 0)
        error_hint(err, "a transaction on the mirror holds a lock on it; the oldest first: SELECT "
                        "pid, xact_start, "
                        "usename, query FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER "
                        "BY xact_start");
    return false;
}

/* An error that concerns the definition only: the mirror works without the thing. */
bool ddl_may_be_left_out(const struct error *err)
{
    return err->kind == ERROR_FAILED || err->kind == ERROR_DATA;
}

/* Somebody made the same thing since we looked. */
bool ddl_made_meanwhile(struct error *err)
{
    static const char *const states[] = {"42P06", "42P07", "42710", "23505"};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if (strcmp(err->sqlstate, states[i]) == 0)
            err->kind = ERROR_RETRY;
    return false;
}

void ddl_hint_schema(struct pg *mirror, const char *schema, struct error *err)
{
    _cleanup_result_ struct pg_result *names = NULL;
    struct error ignored;

    if (strcmp(err->sqlstate, "42501") == 0 &&
        pg_query_row(mirror, "SELECT quote_ident($1), quote_ident(current_user)", 1, &schema,
                     &names, &ignored))
        error_hint(err,
                   "on the mirror, as the schema's owner: GRANT USAGE, CREATE ON SCHEMA %s TO %s",
                   pg_text(names, 0, 0), pg_text(names, 0, 1));
}

/* ---- tables ---- */

void ddl_add_table_name(struct buf *sql, const struct table *table)
{
    pg_add_qualified(sql, table->mirror_schema, table->mirror_name);
}

static bool refuse_metadata_names(const struct table *table, struct error *err)
{
    static const char *const names[] = {DDL_LSN_COLUMN, DDL_DELETED_COLUMN};

    for (int i = 0; i < 2; i++) {
        bool is_taken = table_find_column(table, names[i]) >= 0;

        for (int g = 0; g < table->ngenerated; g++)
            is_taken |= strcmp(table->generated[g].name, names[i]) == 0;
        if (is_taken) {
            error_set(err, ERROR_CONFIG,
                      "table %s has a column %s, a name that mirror tables need for themselves",
                      table->label, names[i]);
            return error_hint(err, "rename it on the source, or exclude: [%s]", names[i]);
        }
    }
    return true;
}

static void build_create(const struct table *table, struct buf *sql)
{
    buf_add(sql, "CREATE TABLE ");
    ddl_add_table_name(sql, table);
    buf_add(sql, " (");
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        pg_add_ident(sql, column->name);
        buf_printf(sql, " %s%s%s%s, ", column->type, column->collation ? " " : "",
                   column->collation ? column->collation : "", column->is_key ? " NOT NULL" : "");
    }
    buf_add(sql, DDL_LSN_COLUMN " pg_lsn NOT NULL, " DDL_DELETED_COLUMN " timestamptz)");
    if (table->fillfactor > 0)
        buf_printf(sql, " WITH (fillfactor = %d)", table->fillfactor);
}

/* In a savepoint: an expression that the mirror does not understand costs the column, not the
 * table. */
static bool add_generated(struct pg *mirror, const struct table *table,
                          const struct table_generated *generated, struct notes *notes,
                          struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "ALTER TABLE ");
    ddl_add_table_name(&sql, table);
    buf_add(&sql, " ADD COLUMN ");
    pg_add_ident(&sql, generated->name);
    buf_printf(&sql, " %s GENERATED ALWAYS AS (%s) STORED", generated->type, generated->expression);
    if (!pg_exec(mirror, "SAVEPOINT generated_column", err))
        return false;
    if (pg_exec(mirror, buf_text(&sql), err))
        return pg_exec(mirror, "RELEASE SAVEPOINT generated_column", err);
    if (!ddl_may_be_left_out(err))
        return false;
    notes_add(notes, "table %s: generated column %s is left out of the mirror: %s", table->label,
              generated->name, err->message);
    return pg_exec(mirror, "ROLLBACK TO SAVEPOINT generated_column", err);
}

static bool create_table(struct pg *mirror, const struct ddl_step *step, struct error *err)
{
    const struct table *table = step->table;
    _cleanup_buf_ struct buf sql = {0};

    if (!refuse_metadata_names(table, err))
        return false;
    build_create(table, &sql);
    if (!pg_exec(mirror, buf_text(&sql), err))
        return ddl_made_meanwhile(err);
    for (int i = 0; i < table->ngenerated; i++)
        if (!add_generated(mirror, table, &table->generated[i], step->notes, err))
            return false;
    return control_set_table_state(mirror, step->pipeline, table, CONTROL_TABLE_CREATED, err);
}

/* ---- comparing an existing table with its definition ---- */

struct expected {
    const char *name, *type;
    bool is_not_null, is_generated;
};

struct expectation {
    struct expected *columns;
    int count;
    struct buf json;
};

bool ddl_is_bare_type(const char *type)
{
    bool is_quoted = false;

    for (; *type != '\0'; type++) {
        if (*type == '"')
            is_quoted = !is_quoted;
        if (*type == '(' && !is_quoted)
            return false;
    }
    return true;
}

static void expect(struct expectation *all, struct expected column)
{
    buf_printf(&all->json, "%s{\"nr\": %d, \"name\": ", all->count > 0 ? ", " : "[", all->count);
    buf_add_json(&all->json, column.name);
    buf_add(&all->json, ", \"type\": ");
    buf_add_json(&all->json, column.type);
    buf_printf(&all->json, ", \"bare\": %s}", ddl_is_bare_type(column.type) ? "true" : "false");
    all->columns[all->count++] = column;
}

static void expect_table(struct expectation *all, const struct table *table)
{
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        expect(all, (struct expected){column->name, column->type, .is_not_null = column->is_key});
    }
    for (int i = 0; i < table->ngenerated; i++)
        expect(all, (struct expected){table->generated[i].name, table->generated[i].type,
                                      .is_generated = true});
    expect(all, (struct expected){DDL_LSN_COLUMN, "pg_lsn", .is_not_null = true});
    expect(all, (struct expected){DDL_DELETED_COLUMN, "timestamp with time zone"});
    buf_add_char(&all->json, ']');
}

enum { ACTUAL_NR, ACTUAL_NAME, ACTUAL_TYPE, ACTUAL_NOT_NULL, ACTUAL_GENERATED, ACTUAL_SAME_TYPE };

static void compare_column(const struct pg_result *actual, int row, const struct expected *expected,
                           const struct ddl_step *step, struct buf *differences)
{
    if (pg_is_null(actual, row, ACTUAL_NAME)) {
        if (expected->is_generated)
            notes_add(step->notes, "table %s: generated column %s is left out of the mirror",
                      step->table->label, expected->name);
        else
            buf_printf(differences, "; column %s is missing", expected->name);
    } else if (!pg_bool(actual, row, ACTUAL_SAME_TYPE)) {
        buf_printf(differences, "; column %s is %s, on the source %s", expected->name,
                   pg_text(actual, row, ACTUAL_TYPE), expected->type);
    } else if (pg_bool(actual, row, ACTUAL_NOT_NULL) != expected->is_not_null) {
        buf_printf(differences, "; column %s is %s", expected->name,
                   expected->is_not_null ? "nullable, which it must not be" : "NOT NULL");
    } else if (pg_bool(actual, row, ACTUAL_GENERATED) != expected->is_generated) {
        buf_printf(differences, "; column %s is %sgenerated on the source", expected->name,
                   expected->is_generated ? "" : "not ");
    }
}

/* Types are compared by the server, since one type has several spellings ("public"."mood",
 * public.mood). */
static bool find_differences(struct pg *mirror, const struct ddl_step *step, const char *relid,
                             struct expectation *all, struct buf *differences, struct error *err)
{
    const struct table *table = step->table;
    const char *params[] = {relid, buf_text(&all->json), step->pipeline, table->schema,
                            table->name};
    _cleanup_result_ struct pg_result *actual = NULL;

    if (!pg_query(mirror,
                  "SELECT e.nr, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
                  "a.attgenerated <> '', " DDL_SAME_TYPE " FROM jsonb_to_recordset($2::jsonb) "
                  "AS e(nr integer, name text, type text, bare boolean) "
                  "FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 "
                  "AND NOT attisdropped AND attname <> ALL ((SELECT dropped_columns FROM "
                  "tailwater.mirror_table WHERE (pipeline, schema, name) = ($3, $4, $5))::name[])) "
                  "AS a ON a.attname = e.name ORDER BY e.nr, a.attnum",
                  5, params, &actual, err))
        return false;
    for (int row = 0; row < pg_rows(actual); row++) {
        if (pg_is_null(actual, row, ACTUAL_NR))
            buf_printf(differences, "; column %s is not on the source",
                       pg_text(actual, row, ACTUAL_NAME));
        else
            compare_column(actual, row, &all->columns[pg_int(actual, row, ACTUAL_NR)], step,
                           differences);
    }
    return true;
}

/* Triggers and rules change what is written, or how much of it (P24). */
static bool refuse_triggers(struct pg *mirror, const struct table *table, const char *relid,
                            struct error *err)
{
    _cleanup_result_ struct pg_result *found = NULL;

    if (!pg_query(mirror,
                  "SELECT 'trigger', tgname FROM pg_trigger WHERE tgrelid = $1::oid "
                  "AND NOT tgisinternal AND tgenabled <> 'D' UNION ALL "
                  "SELECT 'rule', rulename FROM pg_rewrite WHERE ev_class = $1::oid "
                  "AND ev_enabled <> 'D' ORDER BY 1, 2",
                  1, &relid, &found, err))
        return false;
    if (pg_rows(found) == 0)
        return true;
    error_set(err, ERROR_CONFIG, "mirror table %s.%s of table %s has a %s \"%s\"",
              table->mirror_schema, table->mirror_name, table->label, pg_text(found, 0, 0),
              pg_text(found, 0, 1));
    return error_hint(err, "mirror tables take none, since they change what is written: drop or "
                           "disable it");
}

static bool compare_table(struct pg *mirror, const struct ddl_step *step, const char *relid,
                          struct error *err)
{
    const struct table *table = step->table;
    _cleanup_buf_ struct buf differences = {0};
    _cleanup_free_ void *columns = memory_alloc(sizeof(struct expected) *
                                                (size_t) (table->ncolumns + table->ngenerated + 2));
    struct expectation all = {.columns = columns};
    bool is_compared;

    expect_table(&all, table);
    is_compared = find_differences(mirror, step, relid, &all, &differences, err);
    buf_release(&all.json);
    if (!is_compared)
        return false;
    if (differences.len == 0)
        return refuse_triggers(mirror, table, relid, err);
    error_set(err, ERROR_CONFIG, "mirror table %s.%s differs from table %s of the source: %s",
              table->mirror_schema, table->mirror_name, table->label, buf_text(&differences) + 2);
    return error_hint(
        err, "the table's definition (or exclude: and mask: for it) changed since it was copied, "
             "or somebody changed the mirror table: change that back, or start over with tailwater "
             "destroy and tailwater run");
}

static bool step_table(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const struct table *table = step->table;
    const char *params[] = {step->pipeline, table->schema, table->name, table->mirror_schema,
                            table->mirror_name};
    _cleanup_result_ struct pg_result *row = NULL;
    bool exists, is_new, is_empty;

    step->notes->count = step->nnotes;
    if (!pg_query(
            mirror,
            "SELECT state = 'new', state IN ('new', 'created'), "
            "to_regclass(format('%I.%I', $4::text, $5::text))::oid FROM tailwater.mirror_table "
            "WHERE pipeline = $1 AND schema = $2 AND name = $3 FOR UPDATE",
            5, params, &row, err))
        return false;
    if (pg_rows(row) != 1)
        return error_set(err, ERROR_BUG, "it has no row in the control schema");
    is_new = pg_bool(row, 0, 0);
    is_empty = pg_bool(row, 0, 1);
    exists = !pg_is_null(row, 0, 2);
    if (exists && !is_new)
        return compare_table(mirror, step, pg_text(row, 0, 2), err);
    if (!exists && is_empty)
        return create_table(mirror, step, err);
    if (!exists) {
        error_set(err, ERROR_CONFIG, "its mirror table %s.%s was dropped or renamed on the mirror",
                  table->mirror_schema, table->mirror_name);
        return error_hint(err,
                          "rename it back, or start over with tailwater destroy and tailwater run");
    }
    error_set(err, ERROR_CONFIG,
              "a relation %s.%s is in the way on the mirror, and was not made by this pipeline",
              table->mirror_schema, table->mirror_name);
    return error_hint(
        err, "rename or drop it, or set mirror.table_schema to schemas of Tailwater's own");
}

bool ddl_create_table(struct pg *mirror, const char *pipeline, const struct table *table,
                      struct notes *notes, struct error *err)
{
    struct ddl_step step = {
        .pipeline = pipeline, .table = table, .notes = notes, .nnotes = notes->count};

    if (ddl_attempt(mirror, step_table, &step, err))
        return true;
    ddl_hint_schema(mirror, table->mirror_schema, err);
    return error_wrap(err, "table %s", table->label);
}

static bool step_empty(struct pg *mirror, void *context, struct error *err)
{
    const struct ddl_step *step = context;
    const char *params[] = {step->pipeline, step->table->schema, step->table->name};
    _cleanup_result_ struct pg_result *row = NULL;
    _cleanup_buf_ struct buf sql = {0};

    if (!pg_query_row(mirror,
                      "SELECT state FROM tailwater.mirror_table "
                      "WHERE pipeline = $1 AND schema = $2 AND name = $3 FOR UPDATE",
                      3, params, &row, err))
        return false;
    if (strcmp(pg_text(row, 0, 0), "created") != 0)
        return error_set(err, ERROR_BUG, "emptying it in state %s", pg_text(row, 0, 0));
    buf_add(&sql, "TRUNCATE ");
    ddl_add_table_name(&sql, step->table);
    return pg_exec(mirror, buf_text(&sql), err);
}

bool ddl_empty_table(struct pg *mirror, const char *pipeline, const struct table *table,
                     struct error *err)
{
    struct ddl_step step = {.pipeline = pipeline, .table = table};

    return ddl_attempt(mirror, step_empty, &step, err) || error_wrap(err, "table %s", table->label);
}
