/* The SQL that captures add to the write statements, and that a table without any has none of it. */
#include "mirror/statement.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static struct table_column columns[] = {
    {.name = "id",
     .type = "bigint",
     .cast_type = "bigint",
     .equality = "=",
     .wire = WIRE_TEXT,
     .is_key = true},
    {.name = "a", .type = "integer", .cast_type = "integer", .equality = "=", .wire = WIRE_TEXT},
    {.name = "b",
     .type = "text",
     .cast_type = "text",
     .equality = "=",
     .wire = WIRE_TEXT,
     .is_toastable = true},
};
static int keys[] = {0};
static const struct table table = {.mirror_schema = "m",
                                   .mirror_name = "t",
                                   .ncolumns = 3,
                                   .columns = columns,
                                   .nkeys = 1,
                                   .keys = keys,
                                   .is_key_bytewise = true,
                                   .label = "public.t",
                                   .schema = "public",
                                   .name = "t"};

static const int watched[] = {1, 0}, read_id[] = {0}, read_a[] = {1};
static const char *const value_id[] = {"\"id\""}, *const value_a[] = {"\"a\""};
static const bool never[] = {false}, maybe[] = {true};

static struct capture own = {.nwatch = 2,
                             .watch = watched,
                             .row_name = "t",
                             .nreads = 1,
                             .reads = read_id,
                             .nvalues = 1,
                             .values = value_id,
                             .are_columns = true,
                             .is_nullable = never,
                             .insert = "insert into l (n, id)",
                             .prefix = "7"};
static struct capture links = {.nwatch = -1,
                               .row_name = "t",
                               .nreads = 1,
                               .reads = read_a,
                               .nvalues = 1,
                               .values = value_a,
                               .is_nullable = maybe};

static void assert_has(const struct buf *sql, const char *piece)
{
    if (strstr(buf_text(sql), piece) == NULL)
        fail_msg("no\n  %s\nin\n  %s", piece, buf_text(sql));
}

static void assert_lacks(const struct buf *sql, const char *piece)
{
    if (strstr(buf_text(sql), piece) != NULL)
        fail_msg("%s in\n  %s", piece, buf_text(sql));
}

static void nothing_without_captures(void **state)
{
    static const char *const marks[] = {"o0", "n0", "g0",          "v0",
                                        "l0", "r0", "s.live as f", "set_config"};

    (void) state;
    for (unsigned flags = 0; flags < 8; flags++) {
        _cleanup_buf_ struct buf sql = {0};

        statement_write(&table, flags, "main", NULL, &sql);
        for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
            assert_lacks(&sql, marks[i]);
        assert_has(&sql, "select n.* from (select ");
    }
    _cleanup_buf_ struct buf sql = {0};

    statement_delete(&table, NULL, false, &sql);
    assert_string_equal(
        buf_text(&sql),
        "delete from \"m\".\"t\" m where m.ctid = any (array(select b.ctid from "
        "unnest($1::bigint[]) as u(c0) left join \"m\".\"t\" b on b.\"id\" = u.c0))");
}

/* The key of a row that is reached by its address stays: the new one says it all, and is there once. */
static void own_keys_are_inserted(void **state)
{
    const struct capture_list list = {.count = 1, .captures = &own};
    _cleanup_buf_ struct buf sql = {0};

    (void) state;
    statement_write(&table, STATEMENT_GONE, "main", &list, &sql);
    assert_has(&sql, " as differs, m._deleted_at is not null or row(m.\"a\")::record *<> "
                     "row(u.c1)::record as g0 from unnest(");
    assert_has(&sql, "returning s.live as f, s.g0, m.\"id\" as n0)");
    assert_has(&sql, ", v0 as (select \"id\" as k0 from (select d.o0 as \"id\" from d where d.f "
                     "union all select w.n0 as \"id\" from w where w.g0 "
                     "union all select i.n0 as \"id\" from i where i.t) as \"t\")");
    assert_has(&sql, ", l0 as (insert into l (n, id) select 7, v.k0 from v0 v returning 1)");
    assert_has(&sql, ", r0.c, r0.c, 0, set_config('tailwater.keys', "
                     "(current_setting('tailwater.keys')::bigint + r0.c)::text, true)");
    assert_has(&sql, ", (select count(*) as c from l0) r0 where ");
}

static void assert_both_rows(const struct buf *sql)
{
    assert_has(sql, ", v0 as (select \"id\" as k0 from (select d.o0 as \"id\" from d where d.f "
                    "union all select w.o0 as \"id\" from w where w.g0 and w.f "
                    "union all select w.n0 as \"id\" from w where w.g0 "
                    "union all select i.n0 as \"id\" from i where i.t) as \"t\")");
    assert_has(sql,
               ", l0 as (insert into l (n, id) select distinct 7, v.k0 from v0 v returning 1)");
}

/* Where an equal key may be written in other bytes, the old row's and the new one's are two. */
static void keys_of_other_bytes_are_two(void **state)
{
    const struct capture_list list = {.count = 1, .captures = &own};
    struct table loose = table;
    _cleanup_buf_ struct buf sql = {0};

    (void) state;
    loose.is_key_bytewise = false;
    statement_write(&loose, STATEMENT_GONE, "main", &list, &sql);
    assert_has(&sql,
               "row(m.\"a\", m.\"id\")::record *<> row(u.c1, u.c0)::record as g0, m.\"id\" as o0");
    assert_has(&sql, "returning s.live as f, s.g0, s.o0, m.\"id\" as n0)");
    assert_both_rows(&sql);
}

/* A value that is made of the key may be that of several rows; a part of the key is. */
static void what_is_made_of_the_key_is_not_unique(void **state)
{
    static const char *const halves[] = {"\"id\" / 2"};
    struct capture half = own;
    const struct capture_list list = {.count = 1, .captures = &half};
    static int both_keys[] = {0, 1};
    struct table wide = table;
    struct table_column wide_columns[3];
    _cleanup_buf_ struct buf made = {0}, part = {0};

    (void) state;
    half.values = halves;
    half.are_columns = false;
    statement_write(&table, 0, "main", &list, &made);
    assert_has(&made, "select distinct 7, v.k0 from v0 v");
    assert_lacks(&made, "w.o0");

    half = own;
    memcpy(wide_columns, columns, sizeof(columns));
    wide_columns[1].is_key = true;
    wide.columns = wide_columns;
    wide.keys = both_keys;
    wide.nkeys = 2;
    statement_write(&wide, 0, "main", &list, &part);
    assert_has(&part, "select distinct 7, v.k0 from v0 v");
    assert_lacks(&part, "w.o0");
    assert_has(&part, ", m._deleted_at is not null as g0 from ");
}

/* Where equal values are alike they are compared, elsewhere their images. */
static void watched_columns_are_compared(void **state)
{
    static const int all[] = {0, 1, 2};
    struct capture wide = own;
    const struct capture_list list = {.count = 1, .captures = &wide};
    struct table mixed = table;
    struct table_column mixed_columns[3];
    _cleanup_buf_ struct buf sql = {0};

    (void) state;
    memcpy(mixed_columns, columns, sizeof(columns));
    mixed_columns[2].is_alike = true;
    mixed.columns = mixed_columns;
    wide.nwatch = 3;
    wide.watch = all;
    statement_write(&mixed, STATEMENT_HOLES, "main", &list, &sql);
    assert_has(&sql, ", m._deleted_at is not null or m.\"b\" is distinct from (case when u.p2 then "
                     "u.c2 else m.\"b\" end) or row(m.\"a\")::record *<> row(u.c1)::record as g0");
}

/* Distinct, without NULL, as arrays; any difference counts. */
static void links_are_returned(void **state)
{
    const struct capture_list list = {.count = 1, .captures = &links, .returns = true};
    _cleanup_buf_ struct buf sql = {0};

    (void) state;
    statement_write(&table, 0, "main", &list, &sql);
    assert_has(&sql, "s.differs as g0, s.o1, m.\"a\" as n1");
    assert_has(&sql, ", v0 as (select distinct \"a\" as k0 from (select w.o1 as \"a\" from w where "
                     "w.g0 and w.f ");
    assert_has(&sql, ", r0.c, r0.a0 from (select ");
    assert_has(&sql, ", (select count(*) as c, array_agg(v.k0) as a0 from v0 v where v.k0 is not "
                     "null) r0 where ");
    assert_lacks(&sql, "set_config");
    assert_lacks(&sql, " from d ");
}

/* Every statement gives the counts first, then the captures' columns. */
static void deletes_and_copies(void **state)
{
    struct capture both[] = {own, links};
    const struct capture_list list = {.count = 2, .captures = both, .returns = true};
    _cleanup_buf_ struct buf gone = {0}, copied = {0};

    (void) state;
    statement_delete(&table, &list, false, &gone);
    assert_has(&gone, "with d as (delete from \"m\".\"t\" m where m.ctid = any (array(");
    assert_has(&gone, " returning m._deleted_at is null as f, m.\"id\" as o0, m.\"a\" as o1)");
    assert_has(&gone, "select 7, v.k0 from v0 v");
    assert_has(&gone, "count(*) as want_d, count(*) as did_d, ");
    assert_lacks(&gone, " from w ");
    statement_capture(&table, &list, false, &copied);
    assert_has(&copied,
               "with i as materialized (select m._deleted_at is null as t, m.\"id\" as n0, ");
    assert_has(&copied, " as u(c0) cross join lateral (select m.* from \"m\".\"t\" m where "
                        "m.\"id\" = u.c0 offset 0) as m)");
    assert_lacks(&copied, " from d ");
    assert_int_equal(capture_width(&both[0]), 3);
    assert_int_equal(capture_width(&both[1]), 3);
}

/* Keys of many rows come back, each once, where nothing in their text is special. */
static void many_keys_come_back(void **state)
{
    struct capture both[] = {links, own};
    const struct capture_list list = {.count = 2, .captures = both, .returns = true};
    struct table_column of_numbers[3];
    struct table numbers = table;
    _cleanup_buf_ struct buf sql = {0}, gone = {0}, copied = {0}, text = {0};

    (void) state;
    memcpy(of_numbers, columns, sizeof(columns));
    of_numbers[0].wire = WIRE_INT8;
    numbers.columns = of_numbers;
    assert_true(capture_may_be_copied(&numbers, &own));
    assert_false(capture_may_be_copied(&numbers, &links));
    statement_write(&numbers, STATEMENT_MANY, "main", &list, &sql);
    assert_has(&sql, ", (select count(*) as c, string_agg(v.k0::text, E'\\n') as t from v1 v) r1");
    assert_has(&sql, "::bigint + r1.c)::text, true), r1.t from (select ");
    assert_has(&sql, ", r1.c, r1.c, 0, set_config(");
    assert_lacks(&sql, "l1 as");
    statement_delete(&numbers, &list, true, &gone);
    assert_has(&gone, ", r1.t from (select ");
    statement_capture(&numbers, &list, true, &copied);
    assert_has(&copied, ", r1.t from (select ");

    assert_false(capture_may_be_copied(&table, &own)); /* a text */
    numbers.is_key_bytewise = false;                   /* two spellings, two keys */
    assert_false(capture_may_be_copied(&numbers, &own));
    statement_write(&table, STATEMENT_MANY, "main", &list, &text);
    assert_has(&text, "l1 as (insert into l (n, id) select 7, v.k0 from v1 v");
    assert_lacks(&text, "string_agg");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_without_captures),
        cmocka_unit_test(own_keys_are_inserted),
        cmocka_unit_test(keys_of_other_bytes_are_two),
        cmocka_unit_test(what_is_made_of_the_key_is_not_unique),
        cmocka_unit_test(watched_columns_are_compared),
        cmocka_unit_test(links_are_returned),
        cmocka_unit_test(deletes_and_copies),
        cmocka_unit_test(many_keys_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
