/*
 * Has the source changed in a way that the pipeline has to look at: the definition of a mirrored table
 * or one of its partitions, an enum, a table that the configuration's patterns take?
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
 */
bool watch_hash(struct pg *source, const struct config *config, const struct table_list *tables,
                uint64_t *ret_hash, struct error *err);

#endif
