/*
 * The initial copy: every mirror table that is not yet copied, from one snapshot of the source, by
 * several workers.
 *
 * A crash or an error leaves what is done: tables that say "copied" or more are kept.  The caller
 * then makes a temporary slot with a snapshot of its own and calls again, and the rest is copied as
 * of that one: each table has its own copy_lsn.
 */
#ifndef TAILWATER_COPY_H
#define TAILWATER_COPY_H

#include "batch/table.h"
#include "config/config.h"
#include "mirror/control.h"
#include "mirror/notes.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct copy_progress {
    int tables, tables_copied, tables_indexed; /* of those that this run has to do */
    int64_t rows;                              /* copied so far */
    int64_t estimated_rows;                    /* of all */
    int64_t bytes, total_bytes; /* of the tables as they are on the source's disk; total is an
                                   estimate */
    int64_t bytes_per_second;   /* since the run began */
    int64_t eta_us;             /* until all rows are copied; -1: not yet known */
    char text[160]; /* the same in words: "3 of 7 tables, 120 of 480 MB, 45 MB/s, 8 s left" */
};

struct copy_options {
    const struct config *config; /* servers, pipeline, copy.workers, source.max_read_rate */
    const struct table_list *tables;
    /* By table->index, as control_sync_tables() gave them; kept up to date, also where the copy
     * fails in the end. */
    struct control_table *states;
    const char *snapshot; /* exported, alive until on_imported(); NULL if copy_needs_snapshot() says
                             no */
    lsn_t consistent_point;
    const atomic_bool *stop; /* looked at ten times a second */
    int64_t item_bytes;      /* large tables are cut into pieces of about this; 0: 64 MiB */
    struct notes *notes;     /* what had to be left out (ddl.h); NULL: not wanted */

    /* All called from the thread that runs copy_run(); NULL where not wanted. */
    void (*on_imported)(void *context); /* every reader has the snapshot: it may be freed now */
    /* Twice a second, and at the end.  False ends the copy with the error. */
    bool (*progress)(void *context, const struct copy_progress *progress, struct error *err);
    void *context;
};

/* Is there a table whose rows are still to be copied? */
bool copy_needs_snapshot(const struct table_list *tables, const struct control_table *states);

/*
 * Copies, then makes keys, statistics and indexes: all tables end in the state "indexed" or
 * "ready".  Tables have to be created already (ddl_create_table()).
 *
 * Errors name the table.  ERROR_SOURCE and ERROR_MIRROR: that server went away.  ERROR_RETRY: the
 * flag was raised ("stopped"), or a table was truncated or rewritten on the source in the middle.
 * Whatever it is: call again, with a new snapshot if copy_needs_snapshot().  When it returns, no
 * thread and no connection is left.
 */
bool copy_run(const struct copy_options *options, struct error *err);

#endif
