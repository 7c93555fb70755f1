/*
 * The source's system catalog, read in bulk into plain structs: facts, no judgement.  Part of
 * src/source/catalog.c, which owns the connection, the transaction and the arena.
 */
#ifndef TAILWATER_CATALOG_SOURCE_H
#define TAILWATER_CATALOG_SOURCE_H

#include "pg/pg.h"
#include "source/catalog_types.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

struct source_column {
    const char *name;
    int attnum;
    uint32_t type;
    int32_t typmod;
    uint32_t collation;
    bool is_not_null;
    char generated;         /* pg_attribute.attgenerated: 0, 's' or 'v' */
    char storage;           /* pg_attribute.attstorage */
    const char *expression; /* of a generated column */
};

struct source_index {
    uint32_t oid;
    const char *name;
    const char *method;     /* "btree" */
    const char *definition; /* from "USING" on; NULL where the server's text was not understood */
    bool is_primary, is_unique, is_immediate, is_identity, is_valid;
    bool is_partial, has_expressions;
    int nkeys;    /* key columns: the first of attnums */
    int nattnums; /* all, INCLUDE too */
    int *attnums; /* 0 is an expression */
};

/* A partition without partitions of its own, of a partitioned root. */
struct source_leaf {
    uint32_t oid;
    const char *schema, *name;
    char kind, persistence, identity;
    bool is_born;     /* made as a partition, not attached later */
    double reltuples; /* as of the last ANALYZE, until catalog_source_read_sizes() */
    int64_t relpages, bytes;
    /* The columns of its immediate valid primary key, and of its identity index, as
     * catalog_source_names() writes them; "" without. */
    const char *primary_columns, *identity_columns;
};

/* What an index or a generated column is made with, besides built-in things. */
struct source_dependency {
    uint32_t index; /* oid of the index; 0: of a generated column */
    int attnum;     /* the generated column */
    int column;     /* attnum of a column that it reads; 0: it uses an object: */
    bool is_type, is_collation;
    uint32_t object;         /* its oid */
    const char *description; /* "function public.slug(text)" */
    uint32_t extension;      /* that the object belongs to, 0 without */
};

struct source_relation {
    uint32_t oid;
    const char *schema, *name;
    const char *label; /* "public.orders" */
    char kind;         /* pg_class.relkind: r p v m f */
    char persistence;  /* p u t */
    char identity;     /* d n f i */
    bool is_partition;
    uint32_t extension; /* that it belongs to, or 0 */
    bool has_children;  /* by inheritance, not by partitioning */
    double reltuples;   /* -1: never analysed.  As of the last ANALYZE, as the next two, until */
    int64_t relpages;   /* catalog_source_read_sizes() */
    int64_t bytes;      /* with TOAST */

    /* catalog_source_read_tables(), for the relations given to it: */
    int ncolumns;
    struct source_column *columns;
    int nindexes;
    struct source_index *indexes;
    int nleaves;
    struct source_leaf *leaves;
    int ndependencies;
    struct source_dependency *dependencies;
};

struct source_extension {
    uint32_t oid;
    const char *name, *schema, *version;
};

struct source_catalog {
    struct arena *arena;
    int nrelations;
    struct source_relation *relations; /* sorted by schema, name */
    int nextensions;
    struct source_extension *extensions;
};

/* Every relation that holds rows or shows them, but for the system's; and all extensions. */
bool catalog_source_read(struct pg *source, struct arena *arena, struct source_catalog *ret_catalog,
                         struct error *err);

/* Columns, indexes, leaves and dependencies of the chosen ones, in place. */
bool catalog_source_read_tables(struct pg *source, struct arena *arena, int count,
                                struct source_relation **relations, struct error *err);

/* The types given by oid and all that they are made of. */
bool catalog_source_read_types(struct pg *source, struct arena *arena, int count,
                               const uint32_t *oids, struct catalog_types *ret_types,
                               struct error *err);

/* format_type() for what catalog_types_want() collected, and the collations. */
bool catalog_source_read_names(struct pg *source, struct catalog_types *types, struct error *err);

/* Pages and rows of the relations and leaves as they are now, in place of the last ANALYZE's. */
bool catalog_source_read_sizes(struct pg *source, struct arena *arena, int count,
                               struct source_relation **relations, struct error *err);

/* Names in one text, whatever their order, for comparing sets of columns: "2:id6:tenant". */
const char *catalog_source_names(struct arena *arena, int count, const char *const *names);

const struct source_column *catalog_source_column(const struct source_relation *relation,
                                                  int attnum);

const struct source_extension *catalog_source_extension(const struct source_catalog *catalog,
                                                        uint32_t oid);

#endif
