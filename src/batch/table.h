/*
 * What one mirrored table looks like: the contract between the source's catalog, the batch, the
 * mirror and the copy.
 *
 * Built once by src/source/catalog.c from the source's catalog and the configuration, into an arena
 * that lives as long as the run; read-only afterwards, and therefore shared by all threads without
 * a lock.
 */
#ifndef TAILWATER_TABLE_H
#define TAILWATER_TABLE_H

#include "config/policy.h"
#include "pg/codec.h"
#include "tailwater/arena.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stdint.h>

struct table_column {
    const char *name;
    int attnum;           /* on the source (a partitioned root's own) */
    uint32_t source_type; /* pg_type.oid on the source, of the column itself (a domain's, not its
                             base's) */
    uint32_t element_oid; /* for the named wires: the built-in OID that goes into a binary array's
                             header */
    const char
        *type; /* to create it: "numeric(12,2)", "public.mood"; domains resolved, names quoted */
    const char
        *cast_type; /* without the modifier: "numeric", "public.mood", for $1::T[] and u.c::T */
    const char *collation; /* "COLLATE …" clause for the mirror's column, or NULL */
    /* How two values of a key column are compared: "=", or OPERATOR("public".=) where the type's
     * own is not in pg_catalog (citext, hstore …), since sessions pin search_path to that. */
    const char *equality;
    enum column_wire wire; /* src/pg/codec.h */
    enum column_mask mask;
    bool is_key;
    bool is_toastable;   /* may arrive as a hole */
    bool is_nan_capable; /* float or numeric: ambiguous null under wal2json 2.5 */
    bool is_alike;       /* two values of it that are = are written alike: "=" says what comparing
                            images does, for less */
};

/* May a null of it be a NaN or an infinity, where the stream loses those (P7)?  A key's is refused
 * (batch.c), and a masked number is null. */
static inline bool table_column_is_doubtful(const struct table_column *column)
{
    return column->is_nan_capable && !column->is_key && column->mask == MASK_NONE;
}

/* A stored generated column: generated on the mirror too, from the same expression; never in the
 * stream for us. */
struct table_generated {
    const char *name;
    int attnum; /* on the source: its place in the live view */
    const char *type;
    const char *collation; /* "COLLATE …" clause, or NULL */
    const char *expression;
};

struct table_index {
    const char *name;       /* on the source */
    const char *definition; /* from "USING" on: "USING btree (customer_id) WHERE …",
                               pg_get_indexdef's text */
};

/* The name of a partition that is mirrored through its root (wal2json sends leaf names, P60). */
struct table_leaf {
    const char *schema;
    const char *name;
    bool is_born; /* made as a partition: it had no rows before that the stream did not send */
};

struct table {
    int index; /* 0…ntables-1: for arrays beside this one */

    const char *schema, *name;               /* on the source */
    const char *mirror_schema, *mirror_name; /* the stored copy */
    const char *view_schema, *view_name;     /* the live view */
    const char *label;                       /* "public.orders", for messages */
    uint32_t relid;                          /* pg_class.oid on the source */
    bool is_partitioned;
    bool
        is_derived; /* kept by a fact's refresh, not by the stream: without _lsn and _deleted_at, and
                        in no list of mirrored tables (src/ledger/chain.h) */
    char identity;  /* pg_class.relreplident: d, i or f */
    int64_t estimated_rows, estimated_bytes;
    int64_t relpages; /* for ctid ranges; 0 for a partitioned root */

    int ncolumns; /* those stored and streamed, in attnum order; excluded and generated ones are not
                     here */
    struct table_column *columns;
    int nkeys;
    int *keys;            /* indexes into columns, in the key's order */
    bool is_key_bytewise; /* two keys are equal for the server exactly when their text is (not
                             numeric, citext, …; P72) */
    int ngenerated;
    struct table_generated *generated;
    int nexcluded; /* names the stream may carry that are left out on purpose: excluded and
                      generated columns */
    const char **excluded;
    int nindexes;
    struct table_index *indexes;
    int nleaves;
    struct table_leaf *leaves;

    enum table_deletes deletes;
    enum table_truncate truncate;
    int64_t purge_after_us; /* 0: tombstones go in the same transaction; -1: never */
    int fillfactor;         /* of the mirror table; 0: the server's default */
};

/* Are tombstones of this table kept past the transaction that makes them? */
static inline bool table_keeps_tombstones(const struct table *table)
{
    return table->purge_after_us != 0;
}

struct table_list {
    int count;
    struct table *tables; /* sorted by schema, name */

    /* The hash of names, made by table_list_index(); opaque to everybody else. */
    uint32_t nslots;
    struct table_slot *slots;
};

/*
 * Make table_list_find() work; once, when tables and their leaves are complete.  The hash is
 * arena's and points to the tables where they are.  A leaf that has the name of a table of the list
 * finds the table.
 */
void table_list_index(struct table_list *list, struct arena *arena);

/* By the name the stream uses: a table's own or one of its leaves'.  NULL if not mirrored, or if
 * the list was not indexed. */
const struct table *table_list_find(const struct table_list *list, const char *schema,
                                    const char *name);

/* Index of the column of that name, -1 if absent. */
int table_find_column(const struct table *table, const char *name);

#endif
