/*
 * The hash of a mask is taken from what the output function says, as batch/mask.c does with what
 * the stream brings, not from a cast: bool::text is "true" where the output is "t", char(n)::text
 * drops the blanks, inet::text adds a netmask.  format('%s') is the plain way to the output
 * function; num_nonnulls() because IS NULL is true of a composite whose fields are null.
 */
#include "sync/columns.h"

#include "base/cleanup.h"

#include <inttypes.h>

static bool is_binary_column(const struct table_column *column)
{
    if (column->mask == MASK_HASH)
        return column->wire == WIRE_STRING;
    return codec_is_binary(column->wire);
}

bool columns_is_binary(const struct table *table)
{
    for (int i = 0; i < table->ncolumns; i++)
        if (!is_binary_column(&table->columns[i]))
            return false;
    return true;
}

void columns_add_names(struct buf *buf, const struct table *table)
{
    for (int i = 0; i < table->ncolumns; i++) {
        if (i > 0)
            buf_add(buf, ", ");
        pg_add_ident(buf, table->columns[i].name);
    }
}

static void add_reference(struct buf *buf, const char *alias, const struct table_column *column)
{
    buf_printf(buf, "%s.", alias);
    pg_add_ident(buf, column->name);
}

void columns_add_select(struct buf *buf, const struct table *table, const char *alias,
                        bool is_binary)
{
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        if (i > 0)
            buf_add(buf, ", ");
        switch (column->mask) {
        case MASK_NULL:
            /* A created type may have another schema on the mirror; in text none is needed. */
            buf_add(buf, "NULL");
            if (is_binary)
                buf_printf(buf, "::%s", column->cast_type);
            break;
        case MASK_HASH:
            buf_add(buf, "CASE WHEN num_nonnulls(");
            add_reference(buf, alias, column);
            buf_add(buf, ") = 1 THEN encode(sha256(convert_to(format('%s', ");
            add_reference(buf, alias, column);
            buf_add(buf, "), 'UTF8')), 'hex') END");
            break;
        case MASK_NONE:
            add_reference(buf, alias, column);
            /* element_oid is the built-in type that the binary form is of. */
            if (is_binary && column->source_type != column->element_oid)
                buf_printf(buf, "::%s", column->cast_type);
            break;
        }
    }
}

bool columns_read_key_types(struct pg *source, const struct table *table,
                            struct pg_result **ret_types, struct error *err)
{
    _cleanup_buf_ struct buf oids = {0};

    for (int i = 0; i < table->nkeys; i++)
        buf_printf(&oids, "%s%" PRIu32, i ? "," : "{", table->columns[table->keys[i]].source_type);
    buf_add_char(&oids, '}');
    return pg_query(source,
                    "SELECT format_type(o, -1) FROM unnest($1::oid[]) WITH ORDINALITY AS u(o, n)"
                    " ORDER BY n",
                    1, (const char *[]){buf_text(&oids)}, ret_types, err);
}
