/*
 * A mirror table takes the shape that its source table has now: columns added, dropped, renamed, of
 * another type, another key; and its live view with it, views of users over that included.  What a
 * column is, its attnum on the source says.
 */
#ifndef TAILWATER_RESHAPE_H
#define TAILWATER_RESHAPE_H

#include "base/buf.h"
#include "batch/table.h"
#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>

/*
 * In one transaction, which also leaves the table out of the stream until its resync has begun
 * (reshape_ask()).  *ret_what says in words what changed, and stays empty where nothing did; a table
 * that is not yet copied is left alone.  mirror holds the pipeline's lock, and no session runs.
 *
 * Dropped columns stay in the table (as NAME_dropped_N where another takes the name), nullable; in the live
 * view only where the policy keeps them.  ERROR_CONFIG: it cannot be done, or the policy of such changes is
 * stop, and nothing has changed; a view in the way is named.
 */
bool reshape_table(struct pg *mirror, const struct config *config, const struct table *table,
                   struct buf *ret_what, struct error *err);

/* A table that is there, empty, and to be filled by a resync while the rest streams. */
bool reshape_mark_new(struct pg *mirror, const char *pipeline, const struct table *table,
                      struct error *err);

/*
 * A job for all tables that are marked so and have none yet.  source_lsn: the source's WAL, once the
 * catalog was read that the tables were given the shape of; rows from before may have another.
 */
bool reshape_ask(struct pg *mirror, const char *pipeline, lsn_t source_lsn, struct error *err);

/*
 * Materialized views that were filled when reshape_table() made them again are without their rows until
 * this is done, in their order: *ret_view is the next one, with its schema and quoted; empty: there is
 * none.
 */
bool reshape_next_unfilled(struct pg *mirror, const char *pipeline, struct buf *ret_view,
                           struct error *err);

/* REFRESH, as its owner. */
bool reshape_fill(struct pg *mirror, const char *view, struct error *err);

/* It is filled, or somebody else's to fill. */
bool reshape_forget_unfilled(struct pg *mirror, const char *pipeline, const char *view,
                             struct error *err);

/* Up to where the stream has to be before the table's resync begins; 0: anywhere. */
bool reshape_find_lsn(struct pg *mirror, const char *pipeline, const struct table *table,
                      lsn_t *ret_lsn, struct error *err);

#endif
