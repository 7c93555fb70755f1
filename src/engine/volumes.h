/*
 * The replicator's part of freshness (mirror/freshness.h): counts are stored every few seconds and at
 * the end of a session, hours compared, and what is unusual is said in the log, once, until it is
 * over.  All over the connection that holds the pipeline's lock, in one thread at a time.
 */
#ifndef TAILWATER_VOLUMES_H
#define TAILWATER_VOLUMES_H

#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

/* Before a session streams from lsn on.  What an earlier session of this process counted is stored
 * first.  Fails only where the connection is gone: whatever else there is, a lock that somebody holds
 * or a full disk, is a warning, and volumes_store() begins later; changes in between may lack. */
bool volumes_begin(struct pg *lock, const char *pipeline, lsn_t lsn, struct error *err);

/* What was counted since; complete_us as freshness_store() has it. */
bool volumes_store(struct pg *lock, const char *pipeline, int64_t complete_us, struct error *err);

/* All of it, at the end of a session.  What cannot be stored is kept for the next one. */
void volumes_finish(struct pg *lock, const char *pipeline, int64_t complete_us);

/* Look at all tables, and log what has become unusual, or usual again. */
bool volumes_look(struct pg *lock, const struct config *config, struct error *err);

#endif
