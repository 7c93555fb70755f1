/*
 * A snapshot of the source with its place in the WAL: exactly the transactions with final_lsn <
 * snapshot_lsn() are in it (docs/pitfalls.md).  It comes from the creation of a slot and lives as
 * long as the connection that made it stays idle (P49): so that connection is kept here, untouched.
 */
#ifndef TAILWATER_SNAPSHOT_H
#define TAILWATER_SNAPSHOT_H

#include "pg/pg.h"
#include "source/slot.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

struct snapshot;

/*
 * Make a slot over a connection of its own and hold its snapshot.  connection->is_replication is
 * set here; slot->exports_snapshot too.  A temporary slot lives as long as the snapshot, the
 * pipeline's own one stays.
 */
bool snapshot_open(const struct pg_options *connection, const struct slot_create_options *slot,
                   struct snapshot **ret_snapshot, struct error *err);

lsn_t snapshot_lsn(const struct snapshot *snapshot);
const char *snapshot_name(const struct snapshot *snapshot);

/* Once every reader has imported it, nothing needs it any more.  NULL is fine. */
void snapshot_free(struct snapshot *snapshot);

static inline void snapshot_cleanup(struct snapshot **snapshot)
{
    snapshot_free(*snapshot);
}
#define _cleanup_snapshot_ _cleanup_(snapshot_cleanup)

/*
 * Begin a read-only transaction on a reader connection that sees the snapshot; the reader ends it
 * by COMMIT.  ERROR_RETRY where the snapshot is gone.
 */
bool snapshot_import(struct pg *reader, const char *name, struct error *err);

/*
 * The snapshot of a job beside the stream, for one reader: made under a temporary slot of pgoutput
 * (it comes with the server, and nothing is decoded) over a connection like connection, imported,
 * and let go.  purpose and pipeline name the slot.
 */
bool snapshot_take(const struct pg_options *connection, const char *purpose, const char *pipeline,
                   int timeout_ms, int wake_fd, struct pg *reader, lsn_t *ret_lsn,
                   struct error *err);

#endif
