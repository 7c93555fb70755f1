/*
 * Facts: what the configuration declares, resolved against the mirrored tables into join trees.
 *
 * A fact is a tree of nodes.  Node 0 is the fact's own table; every other node is a dimension,
 * joined to its parent, one nearer to the fact, by equalities of columns (its links).  Read-only
 * once resolved and examined, but for the counters.
 */
#ifndef TAILWATER_FACT_H
#define TAILWATER_FACT_H

#include "ledger/chain.h"

#include <stdatomic.h>

/* One equality of a join.  Columns are indexes into their tables' columns. */
struct fact_link {
    int column;        /* of the node */
    int parent_column; /* of its parent */
};

/* Since statistic_flush() took them last. */
struct fact_counts {
    _Atomic int64_t rows; /* changed: appeared, vanished, or another image of a watched column */
    _Atomic int64_t keys; /* ledger rows written because of them, in the batch or later */
    _Atomic int64_t deferred; /* of the rows, those whose keys were left to the fan-out */
    _Atomic int64_t nulls;    /* keys left out because a part of them is NULL */
    _Atomic int64_t entries;  /* left to the fan-out; for the expander, and never taken away */
    _Atomic int64_t news; /* of node 0: grows where a batch gives keys, or everything; as entries */
};

struct fact_node {
    const char *name; /* alias, or the table's name */
    const struct table *table;
    struct config_place place;
    int parent; /* -1: this is node 0 */
    int nlinks; /* with the parent */
    struct fact_link *links;
    const char *path;  /* "customers.id = orders.customer_id"; NULL for node 0 */
    bool is_watch_all; /* any change of the row counts … */
    int nwatch;        /* … or one of these columns: those declared, the links, the key */
    int *watch;
    bool is_deferred; /* fan_out: defer */
    int64_t limit;    /* rows of one hop */
    struct fact_counts *counts;
};

struct fact_key {
    const char *name;
    struct config_place place; /* of the column or expression */
    const char *sql;           /* over a row of node 0's table that is called as the node is */
    const char
        *type; /* on the mirror, qualified, without length or scale; fact_examine() sets it */
    bool is_nullable;
};

struct fact {
    const char *name;
    struct config_place place;
    int nnodes;
    struct fact_node *nodes;
    int nkeys;
    struct fact_key *keys;
    int nreads; /* columns of node 0's table that the key is made of; fact_examine() sets them */
    int *reads;
    bool has_expression; /* some key is more than a column: it may fail at run time */

    /* store_facts() sets these. */
    int64_t generation;
    bool is_suspended;
    bool awaits_ledger; /* of another key: suspended until the former one is let go of */
};

struct fact_list {
    int count;
    struct fact *facts;
};

/*
 * What can be known without a server, of the facts of one level of the chain.  Each error is a finding
 * named "fact" with its place in the file, and that fact is not in *ret_facts, which is arena's and
 * has room for all facts of the configuration.  A derived table that is not there yet is an error too.
 */
void fact_resolve(const struct config *config, const struct table_list *tables,
                  const struct chain *chain, int level, struct arena *arena,
                  struct finding_list *findings, struct fact_list *ret_facts);

/*
 * What the mirror's server knows: whether the joined types compare, whether key expressions are
 * immutable, which columns they read and of what type they are.  It is asked on an empty copy of
 * the fact's table, in a transaction that is rolled back.  And whether the mirror's tables, where they
 * are there, have the columns, and no other pipeline the name.  Facts that do not pass leave the list,
 * with a finding.  Where is_lenient, what cannot be asked because a type is not there yet (before
 * the first run) is a warning.  False only where the server failed to answer.
 */
bool fact_examine(struct pg *mirror, const struct config *config, bool is_lenient,
                  struct arena *arena, struct finding_list *findings, struct fact_list *facts,
                  struct error *err);

/* Is the whole key of node's table among its links, so that no two of its rows have the same? */
bool fact_links_have_key(const struct fact *fact, int node);

/* What a hop looks up, the parent's side of a node's links: is an index of the mirror table made
 * for it? */
bool fact_has_index(struct pg *mirror, const struct fact *fact, int node, bool *ret_has,
                    struct error *err);

/* CREATE INDEX … for it. */
void fact_add_index(const struct fact *fact, int node, struct buf *sql);

/* The definition as JSON, without what may change without a new generation (limits). */
void fact_add_definition(const struct fact *fact, struct buf *json);

#endif
