/* The connection that exported a snapshot, held idle: its next command would end it. */
#include "source/snapshot.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

struct snapshot {
    struct pg *holder;
    struct slot_created created;
};

bool snapshot_open(const struct pg_options *connection, const struct slot_create_options *slot,
                   struct snapshot **ret_snapshot, struct error *err)
{
    struct pg_options replication = *connection;
    struct slot_create_options exporting = *slot;
    _cleanup_pg_ struct pg *holder = NULL;
    struct slot_created created;
    struct snapshot *snapshot;

    replication.is_replication = true;
    exporting.exports_snapshot = true;
    if (!pg_connect(&replication, &holder, err) || !slot_create(holder, &exporting, &created, err))
        return false;
    snapshot = memory_new(struct snapshot);
    snapshot->holder = holder;
    snapshot->created = created;
    holder = NULL;
    *ret_snapshot = snapshot;
    return true;
}

lsn_t snapshot_lsn(const struct snapshot *snapshot)
{
    return snapshot->created.consistent_point;
}

const char *snapshot_name(const struct snapshot *snapshot)
{
    return snapshot->created.snapshot;
}

void snapshot_free(struct snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    pg_free(snapshot->holder);
    free(snapshot);
}

bool snapshot_import(struct pg *reader, const char *name, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    struct error ignored;

    buf_add(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT ");
    pg_add_literal(&sql, name);
    if (pg_exec(reader, buf_text(&sql), err))
        return true;
    /* 22023 invalid identifier, 42704 no such snapshot (18): its holder is gone. */
    if (strcmp(err->sqlstate, "22023") == 0 || strcmp(err->sqlstate, "42704") == 0) {
        err->kind = ERROR_RETRY;
        error_hint(err, "the connection that held the snapshot was lost; run the same again");
    }
    if (!pg_is_broken(reader))
        (void) pg_exec(reader, "ROLLBACK", &ignored);
    return error_wrap(err, "importing snapshot %s", name);
}

bool snapshot_take(const struct pg_options *connection, const char *purpose, const char *pipeline,
                   int timeout_ms, int wake_fd, struct pg *reader, lsn_t *ret_lsn,
                   struct error *err)
{
    _cleanup_snapshot_ struct snapshot *snapshot = NULL;
    char name[SLOT_NAME_SIZE];
    const struct slot_create_options slot = {.slot = name,
                                             .plugin = "pgoutput",
                                             .is_temporary = true,
                                             .timeout_ms = timeout_ms,
                                             .wake_fd = wake_fd};

    if (!slot_temporary_name(purpose, pipeline, name, err) ||
        !snapshot_open(connection, &slot, &snapshot, err) ||
        !snapshot_import(reader, snapshot_name(snapshot), err))
        return false;
    *ret_lsn = snapshot_lsn(snapshot);
    return true;
}
