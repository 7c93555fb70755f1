/*
 * The mirror's side of a copy: a mirror table from empty to complete.
 *
 *     load_prepare()   once per table, before its first item
 *     load_item()      per item: one transaction each, in any order, over several connections
 *     load_finish()    once, after its last item: state copied
 *     load_index()     key, statistics, indexes: state indexed
 *
 * Rows get their _lsn, the snapshot's consistent point, from a default that the column has while
 * the table is being copied.  The default is the attempt's mark as well: an item commits only if it
 * is still there, so that an instance which was thought dead cannot add rows to the copy of its
 * successor (whose snapshot has another consistent point).
 *
 * Connections are the caller's, outside a transaction block, with synchronous_commit off.  That is
 * safe: nothing of a copy is confirmed to the source, and a mirror that crashes loses the end of
 * its WAL only, never something before what it kept.  load_finish() commits with synchronous_commit
 * on, and so makes durable what went before it: a table that says "copied" has its rows.
 */
#ifndef TAILWATER_LOAD_H
#define TAILWATER_LOAD_H

#include "mirror/notes.h"
#include "pg/pg.h"
#include "sync/plan.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rate;

/* Empties the table of an earlier attempt's rows, if there are any, and sets the default. */
bool load_prepare(struct pg *mirror, const char *pipeline, const struct table *table,
                  lsn_t consistent_point, struct error *err);

struct load {
    struct pg *source; /* in a transaction that has imported the snapshot */
    struct pg *mirror;
    lsn_t consistent_point;
    struct rate *rate;
    const atomic_bool *stop;            /* looked at between chunks: ERROR_RETRY "stopped" */
    atomic_int_least64_t *bytes, *rows; /* moved on while the item is copied */
};

/* COPY to COPY.  Holds its lock on the source's table no longer than it takes. */
bool load_item(const struct load *load, const struct plan_item *item, int64_t *ret_rows,
               struct error *err);

/* Takes the default away and marks the table copied, in one transaction. */
bool load_finish(struct pg *mirror, const char *pipeline, const struct table *table,
                 lsn_t consistent_point, int64_t rows, struct error *err);

bool load_index(struct pg *mirror, const char *pipeline, const struct table *table,
                struct notes *notes, struct error *err);

#endif
