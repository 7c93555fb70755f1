/*
 * Nulls that may be NaN or infinities: wal2json before 2.6 sends those numbers as null (P7).
 *
 * The applier writes what it was sent, but leaves a NaN or infinity that the mirror already has, and
 * lists the row in tailwater.doubt, in the batch's transaction.  Here the source is asked which of
 * the listed rows hold such numbers, and the mirror too; where they disagree the row goes to the
 * repair list (repair.h), which fetches it exactly.  Mostly they agree, since most nulls are nulls.
 *
 * The answer is the source's present, not the past of the change.  That is enough: where the row has
 * changed since, that change comes through the stream and settles it, or doubts it anew.  But it has
 * to be the present: the walsender sends a transaction when it is in the WAL, which may be before
 * others see it (long before, where a commit waits for a standby).  So rows are only asked about once
 * the transactions that wrote them are visible.
 */
#ifndef TAILWATER_NAN_H
#define TAILWATER_NAN_H

#include "batch/table.h"
#include "config/config.h"
#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct nan_options {
    const struct config *config; /* servers, pipeline, source.max_read_rate; outlives the check */
    const struct table_list *tables;
    const atomic_bool *stop;
    int wake_fd; /* readable once stop is raised; -1: none */
};

struct nan_result {
    int64_t asked;   /* rows */
    int64_t found;   /* of these, put on the repair list */
    bool is_waiting; /* transactions are not visible yet: call again in a while */
};

struct nan_check;

struct nan_check *nan_check_new(const struct nan_options *options);
void nan_check_free(struct nan_check *check); /* NULL is fine */

/*
 * Work the list off.  With an empty one it is one query on the mirror.  Connections are kept until
 * an error; *ret_result is set in any case, since what was settled before an error is.  In memory are
 * the keys of some thousand rows.  Errors: ERROR_SOURCE, ERROR_MIRROR;
 * ERROR_RETRY where the flag was raised ("stopped") or a lock was not to be had.
 */
bool nan_check_run(struct nan_check *check, struct nan_result *ret_result, struct error *err);

#endif
