/*
 * Has the source changed in a way that the pipeline has to look at: the definition of a mirrored table
 * or one of its partitions, an enum, a table that the configuration takes?
 */
#ifndef TAILWATER_WATCH_H
#define TAILWATER_WATCH_H

#include "batch/table.h"
#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/error.h"

/*
 * A hash of all that, which differs where any of it does.  Reads the system catalog, some rows for
 * each mirrored table and one for each other: cheap enough for every ten seconds.
 * config says what the mirror has, too: a new table that schema_changes leaves out is of no interest.
 */
bool watch_hash(struct pg *source, const struct config *config, const struct table_list *tables,
                uint64_t *ret_hash, struct error *err);

/*
 * Somebody's transaction on the source that the making of one of this pipeline's slots waits for (a
 * snapshot's, of a resync or a copy), for seconds already.  *ret_words: NULL where there is none; else
 * who it is, and *ret_next the statement that ends it.  In arena.
 */
bool watch_find_blocker(struct pg *source, const char *pipeline, struct arena *arena,
                        const char **ret_words, const char **ret_next, struct error *err);

/* Those of the tables that have no usable replica identity any more: NOTHING, or that of an index that is
 * gone.  ret_tables lives in arena; a table that is gone itself, and partitioned ones, are not looked at. */
bool watch_find_unkeyed(struct pg *source, const struct table_list *tables, struct arena *arena,
                        int *ret_count, const struct table ***ret_tables, struct error *err);

#endif
