/*
 * The target of a refresh: a fact's derived table as one connection sees it, with the temporary
 * tables that a recomputation needs there.
 *
 * Opening it makes the derived table where it is missing, and subscribes its consumer: both once,
 * whoever comes first.  All strings live in the arena given to target_open(); the target dies with
 * its connection.
 */
#ifndef TAILWATER_TARGET_H
#define TAILWATER_TARGET_H

#include "ledger/chain.h"
#include "mirror/notes.h"
#include "pg/pg.h"

/* Whoever refreshes reads the ledger under this name. */
#define TARGET_CONSUMER "tailwater/refresh"

/* First halves of advisory locks (migrations/0009_refresh.sql). */
#define TARGET_LOCK CHAIN_TARGET_LOCK

/* What the SQL of queries is looked up in; pg_catalog comes before it. */
#define TARGET_SEARCH_PATH "public"

struct target_key {
    const char *name;      /* the ledger's */
    const char *type;      /* qualified */
    const char *column;    /* of the query and the derived table */
    const char *collation; /* " collate x" for comparisons by order; "" where there is none */
};

/* How the chosen keys are given to the query (recompute.c). */
enum target_plan { TARGET_BY_UNKNOWN, TARGET_BY_ARRAYS, TARGET_BY_JOIN, TARGET_BY_ITSELF };

/* Numbers of keys are told apart by their logarithm to base 2. */
#define TARGET_MAGNITUDES 40

/* What a connection remembers of earlier recomputations. */
struct target_memory {
    int analyzed; /* magnitude of what chosen held when its statistics were made; -1: never */
    enum target_plan plans[TARGET_MAGNITUDES];
    int uses[TARGET_MAGNITUDES]; /* of that plan, until it is looked at again */
    bool has_rest; /* target_make_rest() was called; a rollback may have undone that */
};

struct target {
    const struct config_fact *fact;
    const char *into; /* quoted, qualified */
    const char *oid;
    bool is_new; /* it was made just now */

    int nkeys;
    struct target_key *keys;
    int ncolumns; /* those that the query gives */
    const char **columns;
    int nunique; /* of these, those that tell rows apart; 0: equal rows may be there several times */
    const char **unique;

    const char *query;  /* {keys} is the name of a table in it */
    bool has_keys;      /* {keys} stood in it */
    const char *chosen; /* temporary: the keys that are being recomputed … */
    const char *rows;   /* … what the query gives for them.  The rest is target_make_rest()'s: */
    const char *window; /* n and all keys of a window that is being halved … */
    /* … how the rows differ: tailwater_oid, tailwater_tid (the row that stands there; null: none),
     * tailwater_is_gone (nothing comes in its place), tailwater_k0… (its key), the columns to write */
    const char *changes;
    const char *onward; /* what that means for facts over the derived table: fact, node, value */
    const char *key_columns; /* the keys' names and types */
    struct target_memory *memory;
    const char
        *source; /* the fact's own table: its live view under the fact's name for it, quoted */
    const char *source_keys; /* the key's expressions over that, separated by commas */
};

/*
 * notes says what was made.  ERROR_CONFIG where the declaration and what is there do not fit
 * together, with the remedy.  readers may read a table that is made.
 */
bool target_open(struct pg *mirror, const struct config *config, const struct config_fact *fact,
                 struct arena *arena, struct notes *notes, struct target **ret_target,
                 struct error *err);

/*
 * For whoever only looks: the same as far as the query, in the caller's transaction, which has to be
 * rolled back.  The derived table and what depends on it (into, oid, unique) are not there.
 */
bool target_try(struct pg *mirror, const struct config *config, const struct config_fact *fact,
                struct arena *arena, struct target **ret_target, struct error *err);

/* The temporary tables window, changes and onward, where they are not there: before whatever uses
 * them, in each transaction. */
bool target_make_rest(struct pg *mirror, const struct target *target, struct error *err);

/* All rows of a table that was made are there; outside a transaction, and it leaves none behind. */
bool target_end_build(struct pg *mirror, const struct target *target, struct error *err);

/* The fact of that name, with a derived table; ERROR_CONFIG otherwise. */
bool target_find(const struct config *config, const char *name, const struct config_fact **ret_fact,
                 struct error *err);

#endif
