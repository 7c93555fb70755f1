/*
 * Where a fact's keys come from and what becomes of them: source tables, facts, derived tables, feeds, and
 * the views that users made over live views and derived tables.  The first four are read in the
 * configuration, the views in the mirror's pg_depend.
 */
#ifndef TAILWATER_LINEAGE_H
#define TAILWATER_LINEAGE_H

#include "base/buf.h"
#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>

enum lineage_kind {
    LINEAGE_TABLE, /* of the source, with its live view */
    LINEAGE_FACT,
    LINEAGE_DERIVED,
    LINEAGE_FEED,
    LINEAGE_VIEW
};

struct lineage_node {
    enum lineage_kind kind;
    const char *name;
    const char *note; /* "" or in words: "materialized", where a feed sends to */
    bool is_hidden;   /* not connected with the fact that was asked for */
};

struct lineage_edge {
    int from, to;    /* nodes */
    const char *how; /* "" or in words: "customers.id = orders.customer_id, through customers" */
};

/* Everything is arena's. */
struct lineage {
    struct arena *arena;
    int nnodes, nodes_size, nedges, edges_size;
    struct lineage_node *nodes; /* what comes first is nearer to the source */
    struct lineage_edge *edges;
};

/*
 * fact NULL: all there is.  Of a fact: what it is made of, and what is made of it; ERROR_CONFIG with the
 * nearest right name where there is none of that name.  A mirror that has no control schema yet
 * has no views either.
 */
bool lineage_read(struct pg *mirror, const struct config *config, const char *fact,
                  struct arena *arena, struct lineage *ret_lineage, struct error *err);

/* For people, a paragraph for each fact; JSON, {"nodes": […], "edges": […]}; Graphviz. */
void lineage_add_text(const struct lineage *lineage, struct buf *out);
void lineage_add_json(const struct lineage *lineage, struct buf *out);
void lineage_add_dot(const struct lineage *lineage, struct buf *out);

#endif
