/* The key is written out, and not as a hash: whoever looks into the table can read it. */
#include "ledger/position.h"

#include "pg/codec.h"

#include <string.h>

static void add_key(struct buf *out, const struct table *table)
{
    for (int i = 0; i < table->nkeys; i++) {
        const struct table_column *column = &table->columns[table->keys[i]];

        buf_printf(out, "%s%s %s", i > 0 ? ", " : "", column->name, column->cast_type);
    }
}

void position_add(struct buf *out, const struct table *table, const struct pg_result *rows, int row)
{
    _cleanup_buf_ struct buf key = {0};

    add_key(&key, table);
    codec_text_array_begin(out);
    codec_text_array_add(out, key.data, (uint32_t) key.len);
    for (int i = 0; i < table->nkeys; i++)
        codec_text_array_add(out, pg_text(rows, row, i), (uint32_t) pg_text_len(rows, row, i));
    codec_text_array_end(out);
}

bool position_fits(const struct table *table, const struct pg_result *elements)
{
    _cleanup_buf_ struct buf key = {0};

    add_key(&key, table);
    return pg_rows(elements) == 1 + table->nkeys &&
           strcmp(pg_text(elements, 0, 0), buf_text(&key)) == 0;
}
