/*
 * The key rule: a table's key is what its updates and deletes are told by, the replica identity
 * (pitfalls P17 to P21).  Pure.
 *
 *   DEFAULT      the primary key
 *   USING INDEX  that index's columns; the primary key is ordinary data then (P19)
 *   FULL         the primary key, else the configuration's key: the columns of a unique index
 *   NOTHING      none
 *
 * An index counts that is valid, unique, immediate, without predicate and expressions, over NOT
 * NULL columns.  A deferrable one never does: the server sends no old keys for it (P18), and within
 * a transaction two rows may hold one key.
 */
#ifndef TAILWATER_CATALOG_KEY_H
#define TAILWATER_CATALOG_KEY_H

#include "source/catalog_source.h"
#include "tailwater/arena.h"

#include <stdbool.h>

struct catalog_key {
    const struct source_index *index;
    int count;
    const int *attnums; /* in the index's order */
};

/* What keeps a table from being mirrored. */
struct catalog_refusal {
    const char *why;
    const char *remedy;
};

/* asked: the columns of the configuration's key, nasked 0 where it says none.  Of a partitioned
 * table the leaves are looked at too.  False: ret_refusal is set, from arena. */
bool catalog_key_find(const struct source_relation *relation, int nasked, const char *const *asked,
                      struct arena *arena, struct catalog_key *ret_key,
                      struct catalog_refusal *ret_refusal);

#endif
