/*
 * How much WAL the slot retains on the source, said in the log when it passes a limit of
 * source.wal_guard, and when it is fine again.  The same while copying and while streaming.
 */
#ifndef TAILWATER_WAL_GUARD_H
#define TAILWATER_WAL_GUARD_H

#include "config/config.h"
#include "pg/pg.h"
#include "source/slot.h"

#define WAL_GUARD_US 10000000 /* how often to look */

/* *level is what was said last; WAL_FINE at first.  Logs. */
bool wal_guard(struct pg *source, const struct config *config, enum wal_level *level,
               struct error *err);

#endif
