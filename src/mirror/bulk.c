/*
 * Binary where every column has a binary form, text elsewhere, and text again when a single value
 * surprises.  A table whose COPY collided is left alone for a number of batches that doubles with
 * every collision in a row.
 */
#include "mirror/bulk.h"

#include "base/memory.h"
#include "mirror/params.h"
#include "mirror/statement.h"

#include <stdlib.h>

#define MIN_ROWS   1000
#define PUT_BYTES  (64 << 10)
#define MAX_PAUSES 256
#define KEPT_BYTES (8 << 20)

struct bulk_table {
    int pause;      /* batches to sit out */
    int last_pause; /* how many it was last time */
    bool is_text;   /* a value had no binary form */
};

struct bulk {
    struct bulk_table *tables;
    struct buf data;
    struct buf sql;
};

struct bulk *bulk_new(const struct table_list *list)
{
    struct bulk *bulk = memory_new(struct bulk);

    bulk->tables = memory_alloc((size_t) list->count * sizeof(*bulk->tables));
    for (int i = 0; i < list->count; i++)
        bulk->tables[i].is_text = !params_is_binary(&list->tables[i]);
    return bulk;
}

void bulk_free(struct bulk *bulk)
{
    free(bulk->tables);
    buf_release(&bulk->data);
    buf_release(&bulk->sql);
    free(bulk);
}

bool bulk_is_worth(struct bulk *bulk, const struct table *table, int nrows)
{
    struct bulk_table *state = &bulk->tables[table->index];

    if (nrows < MIN_ROWS)
        return false;
    if (state->pause > 0) {
        state->pause--;
        return false;
    }
    return true;
}

static bool add_row(struct bulk *bulk, const struct table *table, const struct batch_row *row,
                    bool is_text)
{
    if (!is_text)
        return params_add_binary_row(&bulk->data, table, row);
    params_add_text_row(&bulk->data, table, row);
    return true;
}

/* *ret_is_odd: a value had no binary form, and the COPY was ended. */
static bool put_rows(struct bulk *bulk, struct pg *pg, const struct table *table,
                     struct batch_row *const *rows, int nrows, bool is_text, bool *ret_is_odd,
                     struct error *err)
{
    static const char header[19] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0";

    if (bulk->data.size > KEPT_BYTES)
        buf_release(&bulk->data);
    buf_clear(&bulk->data);
    if (!is_text)
        buf_add_bytes(&bulk->data, header, sizeof(header));
    *ret_is_odd = false;
    for (int i = 0; i < nrows; i++) {
        if (!add_row(bulk, table, rows[i], is_text)) {
            *ret_is_odd = true;
            return true;
        }
        if (bulk->data.len >= PUT_BYTES) {
            if (!pg_copy_in_put(pg, bulk->data.data, bulk->data.len, err))
                return false;
            buf_clear(&bulk->data);
        }
    }
    if (!is_text)
        buf_add_u16(&bulk->data, UINT16_MAX);
    return pg_copy_in_put(pg, bulk->data.data, bulk->data.len, err);
}

static void collided(struct bulk_table *state)
{
    state->last_pause = state->last_pause ? state->last_pause * 2 : 8;
    if (state->last_pause > MAX_PAUSES)
        state->last_pause = MAX_PAUSES;
    state->pause = state->last_pause;
}

bool bulk_copy(struct bulk *bulk, struct pg *pg, const struct table *table,
               struct batch_row *const *rows, int nrows, bool *ret_is_done, struct error *err)
{
    struct bulk_table *state = &bulk->tables[table->index];
    bool is_odd = false;
    int64_t copied = 0;

    *ret_is_done = false;
    buf_clear(&bulk->sql);
    statement_copy(table, !state->is_text, &bulk->sql);
    if (!pg_exec(pg, "savepoint bulk", err) || !pg_copy_in_begin(pg, buf_text(&bulk->sql), err) ||
        !put_rows(bulk, pg, table, rows, nrows, state->is_text, &is_odd, err))
        return false;
    if (is_odd) {
        pg_copy_in_abort(pg, "a value has no binary form");
        state->is_text = true;
        return pg_exec(pg, "rollback to savepoint bulk", err) &&
               bulk_copy(bulk, pg, table, rows, nrows, ret_is_done, err);
    }
    if (!pg_copy_in_end(pg, &copied, err)) {
        if (strcmp(err->sqlstate, "23505") != 0)
            return false;
        collided(state);
        return pg_exec(pg, "rollback to savepoint bulk", err);
    }
    if (copied != nrows)
        return error_set(err, ERROR_BUG, "COPY took %lld rows of %d", (long long) copied, nrows);
    state->last_pause = 0;
    *ret_is_done = true;
    return pg_exec(pg, "release savepoint bulk", err);
}
