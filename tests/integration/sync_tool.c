/*
 * The initial copy and the repair, alone, for the tests and for measuring them: everything that
 * `tailwater run` does before it streams, and nothing after it.
 *
 *     sync_tool CONFIG copy [ITEM_BYTES [GATE]]
 *     sync_tool CONFIG repair
 *
 * With GATE, a path, the copy stops once the snapshot is imported: it makes the file and goes on
 * when somebody has removed it.  SIGTERM raises the stop flag.
 *
 * Prints "progress: …", "note: …", and "table LABEL STATE COPY_LSN ROWS" for each; a failure as
 * "error KIND: MESSAGE", with the error's exit code.  A repair prints "repaired KEYS ROWS".
 */
#include "config/config.h"
#include "mirror/control.h"
#include "mirror/ddl.h"
#include "source/catalog.h"
#include "source/snapshot.h"
#include "sync/copy.h"
#include "sync/repair.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tool {
    struct arena arena;
    struct config config;
    struct catalog catalog;
    struct pg *source, *mirror;
    struct control_table *states;
    struct snapshot *snapshot;
    struct notes notes;
    const char *gate;
};

static atomic_bool stop;

static void on_signal(int number)
{
    (void) number;
    atomic_store(&stop, true);
}

static void on_imported(void *context)
{
    struct tool *tool = context;

    snapshot_free(tool->snapshot);
    tool->snapshot = NULL;
    if (tool->gate == NULL)
        return;
    close(open(tool->gate, O_CREAT | O_WRONLY, 0644));
    while (access(tool->gate, F_OK) == 0)
        usleep(2000);
}

static bool on_progress(void *context, const struct copy_progress *progress, struct error *err)
{
    (void) context;
    (void) err;
    printf("progress: %s\n", progress->text);
    fflush(stdout);
    return true;
}

static bool load(struct tool *tool, const char *file, struct error *err)
{
    return config_load(file, &tool->arena, &tool->config, err) &&
           pg_connect(
               &(struct pg_options){.side = PG_SOURCE, .conninfo = tool->config.source.conninfo},
               &tool->source, err) &&
           pg_connect(
               &(struct pg_options){.side = PG_MIRROR, .conninfo = tool->config.mirror.conninfo},
               &tool->mirror, err) &&
           catalog_load(tool->source, &tool->config, &tool->arena, &tool->catalog, err);
}

static bool open_snapshot(struct tool *tool, bool is_temporary, struct error *err)
{
    const struct config *config = &tool->config;

    return snapshot_open(
        &(struct pg_options){.side = PG_SOURCE, .conninfo = config->source.conninfo},
        &(struct slot_create_options){.slot = is_temporary ? "tailwater_copy" : config->source.slot,
                                      .plugin = "pgoutput",
                                      .is_temporary = is_temporary,
                                      .timeout_ms = 20000,
                                      .wake_fd = -1},
        &tool->snapshot, err);
}

/* The pipeline's row, its slot, its tables: as in the program's first start, or in a later one. */
static bool prepare(struct tool *tool, struct error *err)
{
    const char *name = tool->config.pipeline;
    const struct table_list *list = &tool->catalog.tables;
    struct control_identity identity = {.system_identifier = "1",
                                        .timeline = 1,
                                        .database = "test",
                                        .slot = tool->config.source.slot,
                                        .plugin = "pgoutput"};
    struct control_pipeline pipeline;
    bool is_known;

    if (!control_migrate(tool->mirror, err) ||
        !control_load(tool->mirror, name, &tool->arena, &is_known, &pipeline, err))
        return false;
    if (!is_known &&
        (!control_create(tool->mirror, name, &identity, err) || !open_snapshot(tool, false, err) ||
         !control_set_slot(tool->mirror, name, snapshot_lsn(tool->snapshot), err)))
        return false;
    if (!control_sync_tables(tool->mirror, name, list, &tool->arena, &tool->states, &tool->notes,
                             err) ||
        !control_none_refused(tool->states, list->count, err) ||
        !ddl_create_schemas(tool->mirror, name, &tool->catalog, err) ||
        !ddl_create_types(tool->mirror, name, &tool->catalog, err))
        return false;
    for (int i = 0; i < list->count; i++) {
        if (!ddl_create_table(tool->mirror, name, &list->tables[i], &tool->notes, err))
            return false;
        if (tool->states[i].state == CONTROL_TABLE_NEW)
            tool->states[i].state = CONTROL_TABLE_CREATED;
    }
    return !is_known || !copy_needs_snapshot(list, tool->states) || open_snapshot(tool, true, err);
}

static bool copy(struct tool *tool, int64_t item_bytes, struct error *err)
{
    bool is_fine;

    if (!prepare(tool, err))
        return false;
    is_fine = copy_run(
        &(struct copy_options){.config = &tool->config,
                               .tables = &tool->catalog.tables,
                               .states = tool->states,
                               .snapshot = tool->snapshot ? snapshot_name(tool->snapshot) : NULL,
                               .consistent_point = tool->snapshot ? snapshot_lsn(tool->snapshot)
                                                                  : 0,
                               .stop = &stop,
                               .item_bytes = item_bytes,
                               .notes = &tool->notes,
                               .on_imported = on_imported,
                               .progress = on_progress,
                               .context = tool},
        err);
    for (int i = 0; i < tool->notes.count; i++)
        printf("note: %s\n", tool->notes.texts[i]);
    for (int i = 0; i < tool->catalog.tables.count; i++)
        printf("table %s %s " LSN_FORMAT " %lld\n", tool->catalog.tables.tables[i].label,
               control_table_state_name(tool->states[i].state), LSN_ARGS(tool->states[i].copy_lsn),
               (long long) tool->states[i].copied_rows);
    return is_fine;
}

static bool repair(struct tool *tool, struct error *err)
{
    struct repair_result result;

    if (!repair_run(&(struct repair_options){.config = &tool->config,
                                             .tables = &tool->catalog.tables,
                                             .stop = &stop,
                                             .wake_fd = -1,
                                             .cursor_timeout_us = 3000000},
                    &result, err))
        return false;
    printf("repaired %lld %lld%s\n", (long long) result.keys, (long long) result.rows,
           result.is_more ? " more" : "");
    return true;
}

int main(int argc, char **argv)
{
    struct tool tool = {0};
    struct error err = {0};
    bool is_fine;

    if (argc < 3) {
        fprintf(stderr, "usage: sync_tool CONFIG copy [ITEM_BYTES [GATE]] | repair\n");
        return 2;
    }
    signal(SIGTERM, on_signal);
    tool.notes.arena = &tool.arena;
    tool.gate = argc > 4 ? argv[4] : NULL;
    is_fine = load(&tool, argv[1], &err) &&
              (strcmp(argv[2], "repair") == 0
                   ? repair(&tool, &err)
                   : copy(&tool, argc > 3 ? strtoll(argv[3], NULL, 10) : 0, &err));
    if (!is_fine)
        printf("error %s: %s\nhint: %s\n", error_kind_name(err.kind), err.message, err.hint);
    snapshot_free(tool.snapshot);
    pg_free(tool.source);
    pg_free(tool.mirror);
    arena_release(&tool.arena);
    return is_fine ? 0 : error_exit_code(err.kind);
}
