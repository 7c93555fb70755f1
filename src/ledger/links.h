/*
 * Link values of fetched rows as arrays, one for each column of the join: what a hop takes.  Rows in
 * which one is NULL lead nowhere, and are left out.
 */
#ifndef TAILWATER_LINKS_H
#define TAILWATER_LINKS_H

#include "ledger/fact.h"
#include "pg/pg.h"

#define LINKS_MAX 34

struct links {
    int nlinks;
    int count; /* rows taken */
    struct buf arrays[LINKS_MAX];
    const char *params[LINKS_MAX]; /* their texts, with room for the caller's behind them */
};

/* Of rows from begin to below end, whose links are the columns from column on. */
void links_take(struct links *links, int nlinks, const struct pg_result *rows, int column,
                int begin, int end);
void links_release(struct links *links);
#define _cleanup_links_ _cleanup_(links_release)

#endif
