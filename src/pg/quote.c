/*
 * Names and literals in SQL text.  By hand, since libpq's own functions need a connection and an
 * allocation, and what they ask the connection for (encoding, standard_conforming_strings) is
 * pinned in every session here: UTF8, where no byte of a multibyte character is a quote, and on.
 */
#include "pg/pg.h"

static void add_quoted(struct buf *buf, const char *text, char quote)
{
    buf_add_char(buf, quote);
    for (;;) {
        const char *end = strchr(text, quote);

        if (end == NULL)
            break;
        buf_add_bytes(buf, text, (size_t) (end - text) + 1);
        buf_add_char(buf, quote);
        text = end + 1;
    }
    buf_add(buf, text);
    buf_add_char(buf, quote);
}

void pg_add_ident(struct buf *buf, const char *name)
{
    add_quoted(buf, name, '"');
}

void pg_add_qualified(struct buf *buf, const char *schema, const char *name)
{
    pg_add_ident(buf, schema);
    buf_add_char(buf, '.');
    pg_add_ident(buf, name);
}

void pg_add_literal(struct buf *buf, const char *text)
{
    add_quoted(buf, text, '\'');
}
