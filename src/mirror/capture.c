/*
 * For a table with one capture that inserts (0) and one that returns (1):
 *
 *   v0 as (select "id" as k0
 *            from (select d.o0 as "id" from d where d.f
 *                  union all select w.o0 from w where w.g0 and w.f
 *                  union all select w.n0 from w where w.g0
 *                  union all select i.n0 from i where i.t) as "orders"),
 *   l0 as (insert into ledger (…) select distinct …, v.k0 from v0 v where v.k0 is not null returning 1),
 *   v1 as (select distinct …)
 *   select …, rows, r0.c, 0, rows, r1.c, r1.a0, set_config(…)
 *     from …, (select count(*) as c from l0) r0,
 *             (select count(*) as c, array_agg(v.k0) as a0 from v1 v) r1
 *
 * Where rows are many and capture 0 is copied, there is no l0, and r0 is (select count(*) as c,
 * string_agg(v.k0::text, E'\n') as t from v0 v), whose t comes last.
 *
 * Values see whole stored rows as far as they read them, so that a new value has been through the
 * column's type, and generated columns are there.
 *
 * Most captures read nothing but the table's key: then the old row of an update says what the new
 * one says, no two rows say the same, and neither the second line of v0 nor "distinct" is there.
 * That is a third of what a capture costs.
 */
#include "mirror/capture.h"

#include "pg/codec.h"

#include <stdio.h>

static bool is_among(int column, int count, const int *columns)
{
    for (int i = 0; i < count; i++)
        if (columns[i] == column)
            return true;
    return false;
}

/* The columns read are of the key, which an update does not touch: statement.c leaves it out of SET
 * where equal keys are alike. */
static bool is_fixed(const struct table *table, const struct capture *capture)
{
    for (int i = 0; i < capture->nreads; i++)
        if (!table->columns[capture->reads[i]].is_key)
            return false;
    return table->is_key_bytewise;
}

/* The values are the key of the row: each row of a statement has its own. */
static bool is_row_key(const struct table *table, const struct capture *capture)
{
    for (int i = 0; i < table->nkeys; i++)
        if (!is_among(table->keys[i], capture->nreads, capture->reads))
            return false;
    return capture->are_columns && is_fixed(table, capture);
}

/* In text no character is special to COPY. */
static bool is_plain(enum column_wire wire)
{
    switch (wire) {
    case WIRE_BOOL:
    case WIRE_INT2:
    case WIRE_INT4:
    case WIRE_INT8:
    case WIRE_OID:
    case WIRE_UUID:
    case WIRE_DATE:
    case WIRE_TIMESTAMP:
    case WIRE_TIMESTAMPTZ:
        return true;
    case WIRE_CAST:
    case WIRE_TEXT:
    case WIRE_FLOAT4:
    case WIRE_FLOAT8:
    case WIRE_NUMERIC:
    case WIRE_STRING:
    case WIRE_JSONB:
    case WIRE_BYTEA:
        return false;
    }
    return false;
}

bool capture_may_be_copied(const struct table *table, const struct capture *capture)
{
    if (capture->insert == NULL || !is_row_key(table, capture))
        return false;
    for (int i = 0; i < capture->nreads; i++)
        if (!is_plain(table->columns[capture->reads[i]].wire))
            return false;
    return true;
}

static bool is_copied(const struct table *table, const struct capture *capture, unsigned branches)
{
    return (branches & CAPTURE_COPIED) && capture_may_be_copied(table, capture);
}

static bool is_read(const struct table *table, const struct capture_list *list, int column,
                    bool is_before)
{
    for (int k = 0; k < list->count; k++)
        if (is_among(column, list->captures[k].nreads, list->captures[k].reads) &&
            !(is_before && is_fixed(table, &list->captures[k])))
            return true;
    return false;
}

void capture_add_columns(struct buf *sql, const struct table *table,
                         const struct capture_list *list, const char *alias, char letter)
{
    for (int i = 0; i < table->ncolumns; i++) {
        if (!is_read(table, list, i, false))
            continue;
        buf_printf(sql, ", %s.", alias);
        pg_add_ident(sql, table->columns[i].name);
        buf_printf(sql, " as %c%d", letter, i);
    }
}

void capture_add_before(struct buf *sql, const struct table *table, const struct capture_list *list)
{
    for (int i = 0; i < table->ncolumns; i++) {
        if (!is_read(table, list, i, true))
            continue;
        buf_add(sql, ", m.");
        pg_add_ident(sql, table->columns[i].name);
        buf_printf(sql, " as o%d", i);
    }
}

void capture_add_carried(struct buf *sql, const struct table *table,
                         const struct capture_list *list)
{
    for (int i = 0; i < table->ncolumns; i++)
        if (is_read(table, list, i, true))
            buf_printf(sql, ", s.o%d", i);
}

/* select w.n0 as "id", … from w where … */
static void add_arm(struct buf *sql, const struct table *table, const struct capture *capture,
                    const char *branch, char letter, const char *where, bool *is_first)
{
    buf_add(sql, *is_first ? "select " : " union all select ");
    *is_first = false;
    for (int i = 0; i < capture->nreads; i++) {
        buf_printf(sql, "%s%s.%c%d as ", i ? ", " : "", branch, letter, capture->reads[i]);
        pg_add_ident(sql, table->columns[capture->reads[i]].name);
    }
    buf_printf(sql, " from %s where %s", branch, where);
}

static void add_values(struct buf *sql, const struct table *table, const struct capture *capture,
                       int k, unsigned branches)
{
    bool is_first = true;
    char counted[40], was_live[60];

    snprintf(counted, sizeof(counted), "w.g%d", k);
    snprintf(was_live, sizeof(was_live), "w.g%d and w.f", k);
    buf_printf(sql, ", v%d as (select %s", k,
               capture->insert || is_row_key(table, capture) ? "" : "distinct ");
    for (int i = 0; i < capture->nvalues; i++)
        buf_printf(sql, "%s%s as k%d", i ? ", " : "", capture->values[i], i);
    buf_add(sql, " from (");
    if (branches & CAPTURE_GONE)
        add_arm(sql, table, capture, "d", 'o', "d.f", &is_first);
    if (branches & CAPTURE_UPDATED) {
        if (!is_fixed(table, capture))
            add_arm(sql, table, capture, "w", 'o', was_live, &is_first);
        add_arm(sql, table, capture, "w", 'n', counted, &is_first);
    }
    if (branches & CAPTURE_INSERTED)
        add_arm(sql, table, capture, "i", 'n', "i.t", &is_first);
    buf_add(sql, ") as ");
    pg_add_ident(sql, capture->row_name);
    buf_add(sql, ")");
}

/* v.k0 is not null and …; or their opposite */
static bool add_nulls(struct buf *sql, const struct capture *capture, const char *before,
                      const char *test, const char *between)
{
    bool any = false;

    for (int i = 0; i < capture->nvalues; i++) {
        if (!capture->is_nullable[i])
            continue;
        buf_printf(sql, "%sv.k%d %s", any ? between : before, i, test);
        any = true;
    }
    return any;
}

static void add_insert(struct buf *sql, const struct table *table, const struct capture *capture,
                       int k)
{
    buf_printf(sql, ", l%d as (%s select %s%s", k, capture->insert,
               is_row_key(table, capture) ? "" : "distinct ", capture->prefix);
    for (int i = 0; i < capture->nvalues; i++)
        buf_printf(sql, ", v.k%d", i);
    buf_printf(sql, " from v%d v", k);
    add_nulls(sql, capture, " where ", "is not null", " and ");
    buf_add(sql, " returning 1)");
}

void capture_add_tables(struct buf *sql, const struct table *table, const struct capture_list *list,
                        unsigned branches)
{
    for (int k = 0; k < list->count; k++) {
        add_values(sql, table, &list->captures[k], k, branches);
        if (list->captures[k].insert && !is_copied(table, &list->captures[k], branches))
            add_insert(sql, table, &list->captures[k], k);
    }
}

static void add_rows(struct buf *sql, int k, unsigned branches)
{
    buf_add(sql, ", 0");
    if (branches & CAPTURE_GONE)
        buf_add(sql, " + (select count(*) from d where d.f)");
    if (branches & CAPTURE_UPDATED)
        buf_printf(sql, " + (select count(*) from w where w.g%d)", k);
    if (branches & CAPTURE_INSERTED)
        buf_add(sql, " + (select count(*) from i where i.t)");
}

static bool has_nullable(const struct capture *capture)
{
    for (int i = 0; i < capture->nvalues; i++)
        if (capture->is_nullable[i])
            return true;
    return false;
}

void capture_add_results(struct buf *sql, const struct table *table,
                         const struct capture_list *list, unsigned branches)
{
    bool any = false;

    for (int k = 0; k < list->count; k++) {
        const struct capture *capture = &list->captures[k];

        if (capture->insert && is_row_key(table, capture))
            buf_printf(sql, ", r%d.c", k);
        else
            add_rows(sql, k, branches);
        if (!capture->insert) {
            buf_printf(sql, ", r%d.c", k);
            for (int i = 0; i < capture->nvalues; i++)
                buf_printf(sql, ", r%d.a%d", k, i);
            continue;
        }
        buf_printf(sql, ", r%d.c, ", k);
        if (has_nullable(capture)) {
            buf_printf(sql, "(select count(*) from v%d v where ", k);
            add_nulls(sql, capture, "", "is null", " or ");
            buf_add_char(sql, ')');
        } else {
            buf_add_char(sql, '0');
        }
    }
    for (int k = 0; k < list->count; k++) {
        if (!list->captures[k].insert)
            continue;
        buf_printf(sql,
                   any ? " + r%d.c"
                       : ", set_config('" CURSOR_KEYS_SETTING
                         "', (current_setting('" CURSOR_KEYS_SETTING "')::bigint + r%d.c",
                   k);
        any = true;
    }
    if (any)
        buf_add(sql, ")::text, true)");
    for (int k = 0; k < list->count; k++)
        if (is_copied(table, &list->captures[k], branches))
            buf_printf(sql, ", r%d.t", k);
}

/* (select count(*) as c, string_agg(v.k0::text || E'\t' || …, E'\n') as t from v0 v) r0 */
static void add_lines(struct buf *sql, const struct capture *capture, int k)
{
    buf_add(sql, ", (select count(*) as c, string_agg(");
    for (int i = 0; i < capture->nvalues; i++)
        buf_printf(sql, "%sv.k%d::text", i ? " || E'\\t' || " : "", i);
    buf_printf(sql, ", E'\\n') as t from v%d v) r%d", k, k);
}

void capture_add_from(struct buf *sql, const struct table *table, const struct capture_list *list,
                      unsigned branches)
{
    for (int k = 0; k < list->count; k++) {
        const struct capture *capture = &list->captures[k];

        if (is_copied(table, capture, branches)) {
            add_lines(sql, capture, k);
            continue;
        }
        if (capture->insert) {
            buf_printf(sql, ", (select count(*) as c from l%d) r%d", k, k);
            continue;
        }
        buf_add(sql, ", (select count(*) as c");
        for (int i = 0; i < capture->nvalues; i++)
            buf_printf(sql, ", array_agg(v.k%d) as a%d", i, i);
        buf_printf(sql, " from v%d v", k);
        add_nulls(sql, capture, " where ", "is not null", " and ");
        buf_printf(sql, ") r%d", k);
    }
}
