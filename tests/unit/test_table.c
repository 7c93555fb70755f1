/* table_list_find() and table_find_column(): own names, leaves' names, and what is not there. */
#include "batch/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void finds_own_and_leaf_names(void **state)
{
    struct table_leaf leaves[] = {{"parts", "events_2025"}, {"parts", "events_2026"}};
    struct table tables[] = {
        {.schema = "public", .name = "events", .nleaves = 2, .leaves = leaves},
        {.schema = "public", .name = "orders"},
        {.schema = "sales", .name = "orders"},
    };
    struct table_list list = {.count = 3, .tables = tables};
    struct arena arena = {0};

    (void) state;
    assert_null(table_list_find(&list, "public", "events"));
    table_list_index(&list, &arena);
    assert_ptr_equal(table_list_find(&list, "public", "events"), &tables[0]);
    assert_ptr_equal(table_list_find(&list, "public", "orders"), &tables[1]);
    assert_ptr_equal(table_list_find(&list, "sales", "orders"), &tables[2]);
    assert_ptr_equal(table_list_find(&list, "parts", "events_2026"), &tables[0]);
    assert_null(table_list_find(&list, "parts", "events"));
    assert_null(table_list_find(&list, "publico", "rders"));
    assert_null(table_list_find(&list, "", ""));
    arena_release(&arena);
}

static void finds_a_thousand(void **state)
{
    struct arena arena = {0};
    struct table_list list = {.count = 1000, .tables = arena_new(&arena, struct table, 1000)};

    (void) state;
    for (int i = 0; i < 1000; i++) {
        list.tables[i].schema = "s";
        list.tables[i].name = arena_printf(&arena, "t%d", i);
    }
    table_list_index(&list, &arena);
    for (int i = 0; i < 1000; i++)
        assert_ptr_equal(table_list_find(&list, "s", list.tables[i].name), &list.tables[i]);
    assert_null(table_list_find(&list, "s", "t1000"));
    arena_release(&arena);
}

static void finds_columns(void **state)
{
    struct table_column columns[] = {{.name = "id"}, {.name = "Id"}};
    struct table table = {.ncolumns = 2, .columns = columns};

    (void) state;
    assert_int_equal(table_find_column(&table, "id"), 0);
    assert_int_equal(table_find_column(&table, "Id"), 1);
    assert_int_equal(table_find_column(&table, "ID"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_own_and_leaf_names),
        cmocka_unit_test(finds_a_thousand),
        cmocka_unit_test(finds_columns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
