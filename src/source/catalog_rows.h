/*
 * Reading the catalog's rows into an arena, and handing lists of oids to its queries: for the two
 * files that hold those queries.
 */
#ifndef TAILWATER_CATALOG_ROWS_H
#define TAILWATER_CATALOG_ROWS_H

#include "base/buf.h"
#include "pg/pg.h"
#include "tailwater/arena.h"

static inline const char *catalog_rows_text(struct arena *arena, const struct pg_result *rows,
                                            int row, int column)
{
    return arena_strndup(arena, pg_text(rows, row, column), pg_text_len(rows, row, column));
}

static inline uint32_t catalog_rows_oid(const struct pg_result *rows, int row, int column)
{
    return (uint32_t) pg_int(rows, row, column);
}

static inline char catalog_rows_char(const struct pg_result *rows, int row, int column)
{
    return pg_text(rows, row, column)[0];
}

/* "{1,2,3}" */
static inline void catalog_rows_add_oid(struct buf *list, uint32_t oid)
{
    buf_printf(list, "%s%u", list->len == 0 ? "{" : ",", oid);
}

static inline const char *catalog_rows_end_oids(struct buf *list)
{
    buf_add(list, list->len == 0 ? "{}" : "}");
    return buf_text(list);
}

/* One statement whose only parameter, $1, is such a list. */
static inline bool catalog_rows_query(struct pg *source, const char *sql, const char *oids,
                                      struct pg_result **ret_rows, struct error *err)
{
    return pg_query(source, sql, 1, &oids, ret_rows, err);
}

#endif
