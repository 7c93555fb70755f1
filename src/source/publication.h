/*
 * The publication that pgoutput reads (wal2json has none).  It has to be plain: tables by name, all
 * four actions, no row filters, no column lists, not for all tables (P4, P17).
 */
#ifndef TAILWATER_PUBLICATION_H
#define TAILWATER_PUBLICATION_H

#include "batch/table.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>

struct publication_table {
    const char *schema, *name;
    uint32_t relid;
    bool has_row_filter;
    bool has_column_list;
};

struct publication {
    bool exists; /* false: nothing below is set */
    const char *name;
    const char *owner;
    bool is_all_tables;
    bool publishes_all_actions; /* insert, update, delete and truncate */
    bool is_via_root;           /* publish_via_partition_root */
    int ntables;                /* members by name */
    struct publication_table *tables;
    int nschemas; /* FOR TABLES IN SCHEMA (15 and later) */
    const char **schemas;
    int ndescendants; /* relids of partitions below published partitioned tables */
    uint32_t *descendants;
};

/* Everything in *ret_publication lives in arena. */
bool publication_look(struct pg *pg, const char *name, struct arena *arena,
                      struct publication *ret_publication, struct error *err);

/*
 * The SQL that makes the publication fit for the tables, NULL where it fits already: CREATE
 * PUBLICATION, or ALTER PUBLICATION … ADD TABLE.  Not plain, or a table that would be published
 * under its root's name: ERROR_FINDINGS with the remedy.
 */
bool publication_plan(const struct publication *publication, const struct table_list *tables,
                      struct arena *arena, const char **ret_sql, struct error *err);

/*
 * Has it this table?  *ret_is_missing: it has not, which is that table's trouble alone; else false
 * means that it is not plain.  ERROR_FINDINGS in both cases, with the statement for the owner.
 */
bool publication_check_table(const struct publication *publication, const struct table *table,
                             bool *ret_is_missing, struct error *err);

/*
 * Look, plan and run it.  *ret_sql is what was run, or NULL where nothing was to be done.  Where
 * the role may not: ERROR_FINDINGS with the SQL for the owner in the hint (as much of it as fits;
 * check prints publication_plan()'s whole text).  Before the slot is made (P44, P45).
 */
bool publication_ensure(struct pg *pg, const char *name, const struct table_list *tables,
                        struct arena *arena, const char **ret_sql, struct error *err);

/* Dropping what is not there is success. */
bool publication_drop(struct pg *pg, const char *name, struct error *err);

#endif
