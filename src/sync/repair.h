/*
 * The repair list: rows that the stream could not complete (an unchanged TOAST value of a row that
 * the mirror does not have; P4, P6) are read from the source and written into the mirror.
 *
 * The apply transaction leaves the keys in tailwater.repair.  A round reads the rows under a
 * snapshot S of the source, whose place in the WAL is CP, and writes them once the cursor has
 * reached CP.  So a row of the mirror with _lsn < CP is older than S's, and gets S's; one with
 * _lsn >= CP is newer, and is left alone; an absent one is written, unless its key has left the
 * list in the meantime: that is how the applier says that the row was deleted after CP.
 *
 * Rows of a fact's table are a numbered batch: its ledger gets the keys of the rows before and after,
 * whether they differ or not.
 */
#ifndef TAILWATER_REPAIR_H
#define TAILWATER_REPAIR_H

#include "batch/table.h"
#include "config/config.h"
#include "ledger/fact.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct repair_options {
    const struct config *config; /* servers, pipeline, source.max_read_rate */
    const struct table_list *tables;
    const struct fact_list *facts; /* whose keys the rows may be; NULL: none */
    const atomic_bool *stop;
    /* Readable once stop is raised: making the slot may wait for transactions of the source, up to
     * a minute.  -1: nothing interrupts that. */
    int wake_fd;
    int64_t cursor_timeout_us; /* how long to wait for the cursor; 0: 60 s */
};

struct repair_result {
    int64_t keys; /* entries that were worked off */
    int64_t rows; /* rows written; the others were newer already, or are gone from the source */
    bool is_more; /* the round has a limit, and there are keys left */
};

/*
 * One round.  With an empty list it is one query on the mirror.  Otherwise the pipeline has to
 * stream while it runs, and its cursor to move also where the source is idle.
 *
 * Connections and a temporary slot are made and gone with the call.  What was written before an
 * error stays, and is off the list.  Errors: ERROR_SOURCE, ERROR_MIRROR; ERROR_RETRY where the flag
 * was raised ("stopped"), the cursor did not come, or a slot or a lock was not to be had in time.
 */
bool repair_run(const struct repair_options *options, struct repair_result *ret_result,
                struct error *err);

#endif
