/*
 * The mirror's schemas, types, tables, keys and indexes.
 *
 * A mirror table has the source's columns (key columns NOT NULL, all others nullable; no defaults,
 * no identity, no constraint but the key: P15, P23), then _lsn pg_lsn NOT NULL and _deleted_at
 * timestamptz, then the stored generated columns.  It is made without its key, because the copy is
 * faster so; key and indexes follow the copy.
 *
 * Every function is idempotent and commits by itself, together with the table's state (control.h),
 * so that a crash resumes: call each again at the next start.  They take a connection outside a
 * transaction block, set a lock_timeout, and try again some times before they give up with
 * ERROR_RETRY.  They never CASCADE.
 *
 * What has to be left out (a generated column whose function the mirror does not have, an index of
 * an operator class it does not have) is said in notes, for the caller to log; the mirror works
 * without it.
 */
#ifndef TAILWATER_DDL_H
#define TAILWATER_DDL_H

#include "batch/table.h"
#include "mirror/notes.h"
#include "pg/pg.h"
#include "source/catalog.h"
#include "tailwater/error.h"

#include <stdbool.h>

/* The metadata columns.  A source column of such a name cannot be mirrored: check and
 * ddl_create_table() refuse it. */
#define DDL_LSN_COLUMN     "_lsn"
#define DDL_DELETED_COLUMN "_deleted_at"

/* The catalog's schemas: of mirror tables, live views and types.  Those that were missing are
 * recorded as ours, for destroy. */
bool ddl_create_schemas(struct pg *mirror, const char *pipeline, const struct catalog *catalog,
                        struct error *err);

/*
 * The catalog's types.  One that exists must fit: an enum has the source's labels in their order
 * (missing ones are added, others may stand between), a composite its attributes; else ERROR_CONFIG
 * names the difference.
 */
bool ddl_create_types(struct pg *mirror, const char *pipeline, const struct catalog *catalog,
                      struct error *err);

/*
 * State new → created.  A relation in the way is refused (ERROR_CONFIG).  In any later state the
 * table is compared with the definition instead, and a difference is refused by name
 * (ERROR_CONFIG).
 */
bool ddl_create_table(struct pg *mirror, const char *pipeline, const struct table *table,
                      struct notes *notes, struct error *err);

/* TRUNCATE of a table that is not yet copied (state created): a copy that starts over. */
bool ddl_empty_table(struct pg *mirror, const char *pipeline, const struct table *table,
                     struct error *err);

/* The primary key, over table->keys. */
bool ddl_add_key(struct pg *mirror, const struct table *table, struct error *err);

/*
 * The source's indexes, never unique here (P23), and the partial one on _deleted_at where
 * tombstones are kept.  State copied → indexed.  Call it after ddl_add_key(); different tables may
 * go through different connections at once.
 */
bool ddl_add_indexes(struct pg *mirror, const char *pipeline, const struct table *table,
                     struct notes *notes, struct error *err);

/* Is there a partial index on _deleted_at alone?  Then there may be tombstones. */
bool ddl_has_tombstone_index(struct pg *mirror, const struct table *table, bool *ret_has,
                             struct error *err);

/* The partial index on _deleted_at alone, where tombstones are kept: at every start, since
 * purge.after may have been raised from 0. */
bool ddl_add_tombstone_index(struct pg *mirror, const struct table *table, struct error *err);

/* ANALYZE, after the copy: generic plans are only as good as the statistics they were made from. */
bool ddl_analyze(struct pg *mirror, const struct table *table, struct error *err);

/*
 * One step of DDL in a transaction of its own: BEGIN, lock_timeout, step, COMMIT; rolled back and
 * tried again while the error is ERROR_RETRY.  The step must be repeatable.  For the files of
 * src/mirror and src/sync.
 */
bool ddl_attempt(struct pg *mirror,
                 bool (*step)(struct pg *mirror, void *context, struct error *err), void *context,
                 struct error *err);

#endif
