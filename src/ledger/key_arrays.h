/*
 * Keys of a fan-out's last hop, written where they are found: one statement looks some links up in the
 * fact's table and inserts one row of the ledger that holds all of their keys, an array for each
 * column of the key (migrations/0025_key_arrays.sql).  The keys never come to the client.
 */
#ifndef TAILWATER_KEY_ARRAYS_H
#define TAILWATER_KEY_ARRAYS_H

#include "ledger/fan_out_page.h"

struct key_arrays {
    bool is_possible;
    int node;          /* whose links; its parent is the fact's table */
    int per_statement; /* links, judged by what those before them reached */
    int64_t rested_us; /* clock_tick_us() at the end of the last rest, … */
    int64_t due_us;    /* … and when more keys are due */
};

/*
 * For an entry of node origin.  Not possible where that is one hop from the fact (its position would be
 * in the midst of a statement), where a key may be NULL or come twice, by rows of the fact's table or by
 * rows of the last dimension with the same links, where these links have no index (each statement
 * would read the whole table), or where the type of a key has no array.
 */
bool key_arrays_prepare(struct key_arrays *arrays, struct pg *mirror, const struct fact *fact,
                        int origin, bool is_unique, struct error *err);

/*
 * Keys that rows of arrays' node reach, from *row on, in a page; rows' links are the columns from column
 * on.  *row is moved behind what is written.  *ret_is_large: the row at *row reaches more than one
 * statement should write, and is the caller's to follow.  page has all but settings, write() and
 * context.  Where column is not 0 the rows are of the first hop, with their table's key in front: the
 * last of those written is saved as the entry's position, those before *row being done.
 */
bool key_arrays_write(struct key_arrays *arrays, struct fan_out_page *page,
                      const struct pg_result *rows, int column, const atomic_bool *stop, int *row,
                      bool *ret_is_large, struct error *err);

#endif
