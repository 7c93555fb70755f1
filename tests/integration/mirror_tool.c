/*
 * The mirror layer's functions, one after the other, for the tests: definitions come from standard
 * input, so that no source is needed.
 *
 *     mirror_tool CONNINFO PIPELINE STEP… <definitions
 *
 * Definitions are lines of fields separated by tabs: "table SCHEMA NAME RELID", then the lines of
 * that table ("column NAME TYPE KEY", "generated NAME TYPE EXPRESSION", "index NAME DEFINITION",
 * "purge MICROSECONDS", "fillfactor N", "view SCHEMA NAME", "mirror SCHEMA NAME"); and "enum SCHEMA
 * NAME LABEL…", "composite SCHEMA NAME (ATTRIBUTE TYPE)…", "schema NAME".  Columns and generated
 * columns are numbered in the order of their lines.
 *
 * Notes are printed as "note: …"; a failure as "error KIND: MESSAGE", "hint: …", with the error's
 * exit code.
 */
#include "base/buf.h"
#include "ledger/notify.h"
#include "ledger/partitions.h"
#include "ledger/retention.h"
#include "mirror/control.h"
#include "mirror/ddl.h"
#include "mirror/destroy.h"
#include "mirror/sweep.h"
#include "mirror/views.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_TABLES  1024
#define MAX_COLUMNS 32
#define MAX_FIELDS  32

struct tool {
    struct arena arena;
    struct pg *mirror;
    const char *conninfo, *pipeline;
    struct catalog catalog;
    struct table tables[MAX_TABLES];
    struct catalog_type types[MAX_TABLES];
    const char *schemas[MAX_TABLES];
    struct control_table *states;
    struct notes notes;
};

/* ---- definitions ---- */

static struct table *add_table(struct tool *tool, char **field)
{
    struct table *table = &tool->tables[tool->catalog.tables.count];

    table->index = tool->catalog.tables.count++;
    table->schema = table->view_schema = field[1];
    table->name = table->mirror_name = table->view_name = field[2];
    table->mirror_schema = arena_printf(&tool->arena, "mirror_%s", field[1]);
    table->label = arena_printf(&tool->arena, "%s.%s", field[1], field[2]);
    table->relid = (uint32_t) strtoul(field[3], NULL, 10);
    table->columns = arena_new(&tool->arena, struct table_column, MAX_COLUMNS);
    table->keys = arena_new(&tool->arena, int, MAX_COLUMNS);
    table->generated = arena_new(&tool->arena, struct table_generated, MAX_COLUMNS);
    table->indexes = arena_new(&tool->arena, struct table_index, MAX_COLUMNS);
    return table;
}

static void add_to_table(struct table *table, char **field)
{
    int attnum = table->ncolumns + table->ngenerated + 1;

    if (strcmp(field[0], "column") == 0) {
        bool is_key = strcmp(field[3], "key") == 0;

        if (is_key)
            table->keys[table->nkeys++] = table->ncolumns;
        table->columns[table->ncolumns++] = (struct table_column){
            .name = field[1], .type = field[2], .attnum = attnum, .is_key = is_key};
    } else if (strcmp(field[0], "generated") == 0) {
        table->generated[table->ngenerated++] = (struct table_generated){
            .name = field[1], .type = field[2], .expression = field[3], .attnum = attnum};
    } else if (strcmp(field[0], "index") == 0) {
        table->indexes[table->nindexes++] = (struct table_index){field[1], field[2]};
    } else if (strcmp(field[0], "purge") == 0) {
        table->purge_after_us = strtoll(field[1], NULL, 10);
    } else if (strcmp(field[0], "fillfactor") == 0) {
        table->fillfactor = (int) strtol(field[1], NULL, 10);
    } else if (strcmp(field[0], "view") == 0) {
        table->view_schema = field[1];
        table->view_name = field[2];
    } else if (strcmp(field[0], "mirror") == 0) {
        table->mirror_schema = field[1];
        table->mirror_name = field[2];
    } else {
        fprintf(stderr, "unknown definition %s\n", field[0]);
        exit(99);
    }
}

static void add_type(struct tool *tool, char **field, int nfields)
{
    struct catalog_type *type = &tool->types[tool->catalog.ntypes++];
    bool is_enum = strcmp(field[0], "enum") == 0;
    struct buf sql = {0};

    type->kind = is_enum ? CATALOG_ENUM : CATALOG_COMPOSITE;
    type->schema = type->source_schema = field[1];
    type->name = field[2];
    type->labels = arena_new(&tool->arena, const char *, MAX_FIELDS);
    type->attributes = arena_new(&tool->arena, struct catalog_attribute, MAX_FIELDS);
    buf_add(&sql, "CREATE TYPE ");
    pg_add_qualified(&sql, type->schema, type->name);
    buf_add(&sql, is_enum ? " AS ENUM (" : " AS (");
    for (int i = 3; i < nfields; i++) {
        buf_add(&sql, i > 3 ? ", " : "");
        if (is_enum) {
            type->labels[type->nlabels++] = field[i];
            pg_add_literal(&sql, field[i]);
        } else {
            pg_add_ident(&sql, field[i]);
            buf_printf(&sql, " %s", field[i + 1]);
            type->attributes[type->nattributes++] = (struct catalog_attribute){field[i],
                                                                               field[i + 1], NULL};
            i++;
        }
    }
    buf_add_char(&sql, ')');
    type->create_sql = arena_strdup(&tool->arena, buf_text(&sql));
    buf_release(&sql);
}

static void read_definitions(struct tool *tool)
{
    struct table *table = NULL;
    char *line = NULL;
    size_t size = 0;
    ssize_t len;

    tool->catalog.types = tool->types;
    tool->catalog.schemas = tool->schemas;
    tool->catalog.tables.tables = tool->tables;
    while ((len = getline(&line, &size, stdin)) > 0) {
        char *field[MAX_FIELDS], *rest;
        int nfields = 0;

        rest = arena_strndup(&tool->arena, line, (size_t) len - (line[len - 1] == '\n'));
        while (rest != NULL && nfields < MAX_FIELDS)
            field[nfields++] = strsep(&rest, "\t");
        if (strcmp(field[0], "table") == 0)
            table = add_table(tool, field);
        else if (strcmp(field[0], "schema") == 0)
            tool->schemas[tool->catalog.nschemas++] = field[1];
        else if (strcmp(field[0], "enum") == 0 || strcmp(field[0], "composite") == 0)
            add_type(tool, field, nfields);
        else if (table != NULL)
            add_to_table(table, field);
        else {
            fprintf(stderr, "%s without a table before it\n", field[0]);
            exit(99);
        }
    }
    free(line);
}

/* ---- steps ---- */

static const struct control_identity identity = {
    .system_identifier = "7000000000000000001",
    .timeline = 1,
    .database = "shop",
    .slot = "tailwater_main",
    .plugin = "wal2json",
};

static bool do_migrate(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return control_migrate(t->mirror, err);
}

static bool do_require(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return control_require(t->mirror, err);
}

/* pipeline, or pipeline=SYSTEM,DATABASE,SLOT,PLUGIN[,PUBLICATION]. */
static bool do_pipeline(struct tool *t, const char *arg, struct error *err)
{
    struct control_identity given = identity;
    const char **const fields[] = {&given.system_identifier, &given.database, &given.slot,
                                   &given.plugin, &given.publication};
    char *rest = arg ? arena_strdup(&t->arena, arg) : NULL;

    for (int i = 0; i < 5 && rest != NULL; i++)
        *fields[i] = strsep(&rest, ",");
    return control_create(t->mirror, t->pipeline, &given, err);
}

static bool do_slot(struct tool *t, const char *arg, struct error *err)
{
    lsn_t lsn;

    return lsn_parse(arg, &lsn) && control_set_slot(t->mirror, t->pipeline, lsn, err);
}

static bool do_sync(struct tool *t, const char *arg, struct error *err)
{
    struct notes strays = {.arena = &t->arena};

    (void) arg;
    if (!control_sync_tables(t->mirror, t->pipeline, &t->catalog.tables, &t->arena, &t->states,
                             &strays, err) ||
        !control_none_refused(t->states, t->catalog.tables.count, err))
        return false;
    for (int i = 0; i < strays.count; i++)
        printf("stray: %s\n", strays.texts[i]);
    for (int i = 0; i < t->catalog.tables.count; i++)
        printf("%s: %s\n", t->catalog.tables.tables[i].label,
               control_table_state_name(t->states[i].state));
    return true;
}

static bool do_schemas(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return ddl_create_schemas(t->mirror, t->pipeline, &t->catalog, err);
}

static bool do_types(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return ddl_create_types(t->mirror, t->pipeline, &t->catalog, err);
}

static bool do_streaming(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return control_set_streaming(t->mirror, t->pipeline, err);
}

static bool do_load(struct tool *t, const char *arg, struct error *err)
{
    struct control_pipeline pipeline;
    bool found;

    (void) arg;
    if (!control_load(t->mirror, t->pipeline, &t->arena, &found, &pipeline, err))
        return false;
    if (found)
        printf("%s %s %s " LSN_FORMAT " " LSN_FORMAT " %s\n", pipeline.name,
               pipeline.state == CONTROL_STREAMING ? "streaming" : "copying",
               pipeline.identity.slot, LSN_ARGS(pipeline.identity.slot_lsn),
               LSN_ARGS(pipeline.cursor),
               pipeline.identity.publication ? pipeline.identity.publication : "-");
    return true;
}

static bool do_identity(struct tool *t, const char *arg, struct error *err)
{
    struct control_identity actual = identity;
    struct control_pipeline pipeline;
    bool found;

    if (strncmp(arg, "system=", 7) == 0)
        actual.system_identifier = arg + 7;
    if (strncmp(arg, "database=", 9) == 0)
        actual.database = arg + 9;
    if (strncmp(arg, "slot=", 5) == 0)
        actual.slot = arg + 5;
    if (strncmp(arg, "plugin=", 7) == 0)
        actual.plugin = arg + 7;
    if (strncmp(arg, "publication=", 12) == 0)
        actual.publication = arg + 12;
    return control_load(t->mirror, t->pipeline, &t->arena, &found, &pipeline, err) &&
           control_check_identity(&pipeline.identity, &actual, err);
}

static bool do_tables(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    for (int i = 0; i < t->catalog.tables.count; i++)
        if (!ddl_create_table(t->mirror, t->pipeline, &t->tables[i], &t->notes, err))
            return false;
    return true;
}

static bool do_empty(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    return ddl_empty_table(t->mirror, t->pipeline, &t->tables[0], err);
}

static bool do_copied(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    for (int i = 0; i < t->catalog.tables.count; i++)
        if (!control_set_table_copied(t->mirror, t->pipeline, &t->tables[i], 0x10, 5, err))
            return false;
    return true;
}

static bool do_keys(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    for (int i = 0; i < t->catalog.tables.count; i++)
        if (!ddl_add_key(t->mirror, &t->tables[i], err))
            return false;
    return true;
}

static bool do_indexes(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    for (int i = 0; i < t->catalog.tables.count; i++)
        if (!ddl_add_indexes(t->mirror, t->pipeline, &t->tables[i], &t->notes, err) ||
            !ddl_analyze(t->mirror, &t->tables[i], err))
            return false;
    return true;
}

static bool do_views(struct tool *t, const char *arg, struct error *err)
{
    (void) arg;
    for (int i = 0; i < t->catalog.tables.count; i++)
        if (!views_create(t->mirror, t->pipeline, &t->tables[i], err))
            return false;
    return true;
}

static bool do_grant(struct tool *t, const char *arg, struct error *err)
{
    const char *readers[] = {arg};

    return views_grant(t->mirror, t->pipeline, readers, 1, &t->notes, err);
}

static bool do_sweep(struct tool *t, const char *arg, struct error *err)
{
    long long older, limit;
    int64_t deleted;

    if (sscanf(arg, "%lld:%lld", &older, &limit) != 2)
        return error_set(err, ERROR_BUG, "sweep=OLDER:LIMIT");
    if (!sweep_slice(t->mirror, t->pipeline, t->tables[0].mirror_schema, t->tables[0].mirror_name,
                     older, (int) limit, &deleted, err))
        return false;
    printf("deleted %lld\n", (long long) deleted);
    return true;
}

/* Takes the lock, says so, and holds it until standard output is closed at the other end. */
static bool do_lock(struct tool *t, const char *arg, struct error *err)
{
    _cleanup_pg_ struct pg *lock = NULL;
    struct control_heartbeat heartbeat = {.version = "0", .state = "streaming", .lag_us = -1};

    if (!control_lock(t->conninfo, t->pipeline, &lock, err))
        return false;
    if (arg != NULL && !control_heartbeat(lock, t->pipeline, &heartbeat, NULL, err))
        return false;
    puts("locked");
    fflush(stdout);
    while (arg != NULL) {
        sleep(1);
        if (getppid() == 1)
            break;
    }
    return true;
}

static bool do_heartbeat(struct tool *t, const char *arg, struct error *err)
{
    struct control_heartbeat out = {.version = "1.2",
                                    .state = "waiting for the source",
                                    .started_at_us = 7,
                                    .received_lsn = 0x1600000001,
                                    .lag_us = 1500000,
                                    .changes = INT64_C(1) << 40,
                                    .last_error = arg};
    struct control_heartbeat in;
    bool found;

    if (!control_heartbeat(t->mirror, t->pipeline, &out, NULL, err) ||
        !control_read_heartbeat(t->mirror, t->pipeline, &t->arena, &found, &in, err))
        return false;
    printf("%d %s %s %lld " LSN_FORMAT " %lld %lld %s %d\n", found, in.version, in.state,
           (long long) in.started_at_us, LSN_ARGS(in.received_lsn), (long long) in.lag_us,
           (long long) in.changes, in.last_error ? in.last_error : "-", in.pid == getpid());
    return in.age_us >= 0 && in.age_us < 60000000;
}

static bool do_count(struct tool *t, const char *arg, struct error *err)
{
    return control_count(t->mirror, t->pipeline, "repaired_rows", strtoll(arg, NULL, 10), err);
}

static bool do_destroy(struct tool *t, const char *arg, struct error *err)
{
    struct notes removed = {.arena = &t->arena}, kept = {.arena = &t->arena};
    struct destroy_options options = {
        .is_dry_run = arg != NULL && strcmp(arg, "dry") == 0,
        .is_keeping_tables = arg != NULL && strcmp(arg, "keep") == 0,
    };
    bool finished;

    if (!destroy_mirror(t->mirror, t->pipeline, options, &removed, &kept, &finished, err))
        return false;
    for (int i = 0; i < removed.count; i++)
        printf("removed: %s\n", removed.texts[i]);
    for (int i = 0; i < kept.count; i++)
        printf("kept: %s\n", kept.texts[i]);
    printf("%s\n", finished ? "finished" : "unfinished");
    return true;
}

/* retain=WINDOW:AGE:KEYS, the first two in microseconds; as the ledger keeper does, with its lock_timeout. */
static bool do_retain(struct tool *t, const char *arg, struct error *err)
{
    _cleanup_buf_ struct buf stale = {0};
    struct retention_limits limits;
    long long window, age, keys;
    int removed = 0;

    if (sscanf(arg, "%lld:%lld:%lld", &window, &age, &keys) != 3)
        return error_set(err, ERROR_BUG, "retain=WINDOW:AGE:KEYS");
    limits = (struct retention_limits){window, age, keys};
    if (!pg_exec(t->mirror, "set lock_timeout = '300ms'", err) ||
        !retention_run(t->mirror, t->pipeline, &limits, &stale, &removed, err))
        return false;
    printf("removed %d\n%s\n", removed, buf_text(&stale));
    return true;
}

static bool do_partitions(struct tool *t, const char *arg, struct error *err)
{
    int made;

    (void) arg;
    if (!partitions_add(t->mirror, t->pipeline, &made, err))
        return false;
    printf("made %d\n", made);
    return true;
}

static bool do_notify(struct tool *t, const char *arg, struct error *err)
{
    int64_t seen = strtoll(arg, NULL, 10);

    if (!notify_news(t->mirror, t->pipeline, &seen, err))
        return false;
    printf("seen %lld\n", (long long) seen);
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct tool *tool, const char *arg, struct error *err);
} steps[] = {
    {"migrate", do_migrate},   {"require", do_require}, {"pipeline", do_pipeline},
    {"slot", do_slot},         {"sync", do_sync},       {"schemas", do_schemas},
    {"types", do_types},       {"load", do_load},       {"streaming", do_streaming},
    {"identity", do_identity}, {"tables", do_tables},   {"empty", do_empty},
    {"copied", do_copied},     {"keys", do_keys},       {"indexes", do_indexes},
    {"views", do_views},       {"grant", do_grant},     {"sweep", do_sweep},
    {"lock", do_lock},         {"count", do_count},     {"heartbeat", do_heartbeat},
    {"destroy", do_destroy},   {"retain", do_retain},   {"partitions", do_partitions},
    {"notify", do_notify},
};

static bool run_step(struct tool *tool, char *word, struct error *err)
{
    char *arg = strchr(word, '=');

    if (arg != NULL)
        *arg++ = '\0';
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        if (strcmp(steps[i].name, word) == 0)
            return steps[i].run(tool, arg, err);
    return error_set(err, ERROR_BUG, "unknown step %s", word);
}

int main(int argc, char **argv)
{
    static struct tool tool;
    struct error err = {0};
    int code = 0;

    if (argc < 4)
        return 99;
    tool.conninfo = argv[1];
    tool.pipeline = argv[2];
    tool.notes.arena = &tool.arena;
    read_definitions(&tool);
    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR, .conninfo = argv[1]}, &tool.mirror,
                    &err))
        code = error_exit_code(err.kind);
    for (int i = 3; i < argc && code == 0; i++)
        if (!run_step(&tool, argv[i], &err))
            code = error_exit_code(err.kind);
    for (int i = 0; i < tool.notes.count; i++)
        printf("note: %s\n", tool.notes.texts[i]);
    if (code != 0)
        printf("error %s: %s\nhint: %s\n", error_kind_name(err.kind), err.message, err.hint);
    pg_free(tool.mirror);
    arena_release(&tool.arena);
    return code;
}
