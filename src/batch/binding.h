/*
 * A binding says how the columns of a relation, as the stream described it, become the columns of a
 * mirrored table. Made once per version of a relation, and kept by the receiver beside it.
 */
#ifndef TAILWATER_BINDING_H
#define TAILWATER_BINDING_H

#include "batch/table.h"
#include "tailwater/arena.h"
#include "tailwater/change.h"
#include "tailwater/error.h"

/* The SQLSTATE, of our own, of an error that says that the source's table has another shape. */
#define BINDING_SHAPE "TW010"

struct binding {
    const struct table *table;
    const struct relation *relation;
    int *column; /* per column of the relation: the table's column, -1 where it is left out on
                    purpose */
};

/*
 * Match relation with table.  A column that the table does not know, a key that is not the replica
 * identity: the shape of the source changed, ERROR_FAILED with what and the remedy.  A column that
 * the relation lacks is not an error here (wal2json leaves unchanged TOAST columns out);
 * batch_add() refuses one that cannot be a hole.  Under pgoutput, which describes all of them, it
 * is.
 */
bool binding_make(const struct table *table, const struct relation *relation, struct arena *arena,
                  struct binding **ret_binding, struct error *err);

/* Is it a column that the configuration excludes, or a generated one? */
bool binding_is_left_out(const struct table *table, const char *column);

#endif
