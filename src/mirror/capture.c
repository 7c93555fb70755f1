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
 *   select …, rows, (select count(*) from l0), 0, rows, r1.c, r1.a0, set_config(…)
 *     from …, (select count(*) as c, array_agg(v.k0) as a0 from v1 v) r1
 *
 * Values see whole stored rows as far as they read them, so that a new value has been through the
 * column's type, and generated columns are there.
 */
#include "mirror/capture.h"

#include <stdio.h>

static bool is_among(int column, int count, const int *columns)
{
    for (int i = 0; i < count; i++)
        if (columns[i] == column)
            return true;
    return false;
}

static bool is_needed(const struct capture_list *list, int column)
{
    for (int k = 0; k < list->count; k++)
        if (is_among(column, list->captures[k].nwatch, list->captures[k].watch) ||
            is_among(column, list->captures[k].nreads, list->captures[k].reads))
            return true;
    return false;
}

void capture_add_columns(struct buf *sql, const struct table *table,
                         const struct capture_list *list, const char *alias, char letter)
{
    for (int i = 0; i < table->ncolumns; i++) {
        if (!is_needed(list, i))
            continue;
        buf_printf(sql, ", %s.", alias);
        pg_add_ident(sql, table->columns[i].name);
        buf_printf(sql, " as %c%d", letter, i);
    }
}

void capture_add_carried(struct buf *sql, const struct table *table,
                         const struct capture_list *list, const char *alias, char letter)
{
    for (int i = 0; i < table->ncolumns; i++)
        if (is_needed(list, i))
            buf_printf(sql, ", %s.%c%d", alias, letter, i);
}

void capture_add_counted(struct buf *sql, const struct table *table,
                         const struct capture_list *list)
{
    for (int k = 0; k < list->count; k++) {
        const struct capture *capture = &list->captures[k];

        if (capture->nwatch < 0) {
            buf_printf(sql, ", s.differs as g%d", k);
            continue;
        }
        buf_add(sql, ", not s.live or row(");
        for (int i = 0; i < capture->nwatch; i++)
            buf_printf(sql, "%ss.o%d", i ? ", " : "", capture->watch[i]);
        buf_add(sql, ")::record *<> row(");
        for (int i = 0; i < capture->nwatch; i++) {
            buf_add(sql, i ? ", m." : "m.");
            pg_add_ident(sql, table->columns[capture->watch[i]].name);
        }
        buf_printf(sql, ")::record as g%d", k);
    }
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
    buf_printf(sql, ", v%d as (select %s", k, capture->insert ? "" : "distinct ");
    for (int i = 0; i < capture->nvalues; i++)
        buf_printf(sql, "%s%s as k%d", i ? ", " : "", capture->values[i], i);
    buf_add(sql, " from (");
    if (branches & CAPTURE_GONE)
        add_arm(sql, table, capture, "d", 'o', "d.f", &is_first);
    if (branches & CAPTURE_UPDATED) {
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

static void add_insert(struct buf *sql, const struct capture *capture, int k)
{
    buf_printf(sql, ", l%d as (%s select distinct %s", k, capture->insert, capture->prefix);
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
        if (list->captures[k].insert)
            add_insert(sql, &list->captures[k], k);
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

void capture_add_results(struct buf *sql, const struct capture_list *list, unsigned branches)
{
    bool any = false;

    for (int k = 0; k < list->count; k++) {
        const struct capture *capture = &list->captures[k];

        add_rows(sql, k, branches);
        if (!capture->insert) {
            buf_printf(sql, ", r%d.c", k);
            for (int i = 0; i < capture->nvalues; i++)
                buf_printf(sql, ", r%d.a%d", k, i);
            continue;
        }
        buf_printf(sql, ", (select count(*) from l%d), ", k);
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
                   any ? " + (select count(*) from l%d)"
                       : ", set_config('" CURSOR_KEYS_SETTING
                         "', (current_setting('" CURSOR_KEYS_SETTING
                         "')::bigint + (select count(*) from l%d)",
                   k);
        any = true;
    }
    if (any)
        buf_add(sql, ")::text, true)");
}

void capture_add_from(struct buf *sql, const struct capture_list *list)
{
    for (int k = 0; k < list->count; k++) {
        const struct capture *capture = &list->captures[k];

        if (capture->insert)
            continue;
        buf_add(sql, ", (select count(*) as c");
        for (int i = 0; i < capture->nvalues; i++)
            buf_printf(sql, ", array_agg(v.k%d) as a%d", i, i);
        buf_printf(sql, " from v%d v", k);
        add_nulls(sql, capture, " where ", "is not null", " and ");
        buf_printf(sql, ") r%d", k);
    }
}
