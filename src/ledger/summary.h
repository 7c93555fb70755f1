/*
 * The BRIN indexes of the ledger's partitions in use, brought up to date: what they have not
 * summarised is read whole by whoever asks for a batch's keys.  Nobody else need do it, and VACUUM
 * may as well.
 *
 * Range by range, with rests, so that writers do not wait for a processor; and what an earlier round
 * left unfinished is made anew (migrations/0024_ledger_ranges.sql, pitfall P73).
 */
#ifndef TAILWATER_SUMMARY_H
#define TAILWATER_SUMMARY_H

#include "pg/pg.h"

#include <stdatomic.h>

/*
 * As many ranges as about a second allows, or until *stop.  mirror is a connection outside a
 * transaction block; waits for nobody but VACUUM and whoever alters a partition, up to its
 * lock_timeout.
 */
bool summary_run(struct pg *mirror, const char *pipeline, const atomic_bool *stop,
                 struct error *err);

#endif
