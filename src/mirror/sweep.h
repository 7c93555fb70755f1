/*
 * The sweep: purging tombstones that are older than a retention, in bounded slices.  (Where the
 * retention is 0 the batch that makes a tombstone removes it itself: apply.h.)
 *
 * A slice is one short transaction that first takes the pipeline's clock row (SELECT … FOR UPDATE),
 * as every batch does.  So a slice and a batch never overlap: the sweep cannot take a row from
 * under an address that a batch has just probed, and a key that came back to life is seen alive.
 * The applier waits for at most one slice.  Lock order: clock, then rows, as in a batch.  A row
 * lock is not handed on in the order of waiting: whoever runs slices one after the other leaves a
 * pause between them, as long as the slice took, so that batches get their turn.
 */
#ifndef TAILWATER_SWEEP_H
#define TAILWATER_SWEEP_H

#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

#define SWEEP_SLICE_ROWS 5000

/* How long a slice waits for a batch in progress before it gives way. */
#define SWEEP_LOCK_TIMEOUT "200ms"
#define SWEEP_BUSY         INT64_C(-1)

/*
 * Delete up to limit tombstones of the mirror table that are older than older_than_us, by the
 * mirror's clock.  *ret_deleted below limit: there are no more for now; SWEEP_BUSY: a batch has the
 * clock, which may be for as long as a large transaction takes, or another passing trouble
 * (ERROR_RETRY) ended the slice; nothing was deleted, try later.  A table under resync keeps its
 * tombstones: 0.
 * Outside a transaction block.
 */
bool sweep_slice(struct pg *mirror, const char *pipeline, const char *mirror_schema,
                 const char *mirror_name, int64_t older_than_us, int limit, int64_t *ret_deleted,
                 struct error *err);

/* How many such tombstones there are, and the age of the oldest (0: none).  Reads the partial index
 * where there is one. */
bool sweep_count(struct pg *mirror, const char *mirror_schema, const char *mirror_name,
                 int64_t older_than_us, int64_t *ret_rows, int64_t *ret_oldest_us,
                 struct error *err);

#endif
