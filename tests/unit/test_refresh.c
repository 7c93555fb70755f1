/* What a refresh says to the server, and what it takes for the fault of a key. */
#include "base/buf.h"
#include "refresh/recompute.h"
#include "refresh/settle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct target_key keys[] = {
    {.name = "tenant", .type = "integer", .column = "Tenant", .collation = ""},
    {.name = "day", .type = "text", .column = "on day", .collation = " collate pg_catalog.\"C\""}};
static const struct target target = {.nkeys = 2, .keys = keys};

static void keys_have_two_names(void **state)
{
    _cleanup_buf_ struct buf sql = {0};

    (void) state;
    recompute_add_same_key(&sql, &target, "d", "k");
    assert_string_equal(buf_text(&sql), "d.\"Tenant\" = k.\"tenant\" and d.\"on day\" = k.\"day\"");
}

static void a_range_has_its_low_end_and_not_its_high_end(void **state)
{
    _cleanup_buf_ struct buf sql = {0};
    const char *low[] = {"7", "it's"}, *high[] = {"9"};
    const struct recompute_range range = {2, 1, low, high};

    (void) state;
    recompute_add_range(&sql, &target, "d", false, &range);
    assert_string_equal(
        buf_text(&sql),
        " and (d.\"Tenant\", d.\"on day\" collate pg_catalog.\"C\") >= ('7'::integer, "
        "'it''s'::text) and (d.\"Tenant\") < ('9'::integer)");
}

static void a_range_of_the_ledger_has_its_names(void **state)
{
    _cleanup_buf_ struct buf sql = {0};
    const char *high[] = {"9"};
    const struct recompute_range range = {0, 1, NULL, high};

    (void) state;
    recompute_add_range(&sql, &target, "s", true, &range);
    assert_string_equal(buf_text(&sql), " and (s.\"tenant\") < ('9'::integer)");
}

static void no_limits_say_nothing(void **state)
{
    _cleanup_buf_ struct buf sql = {0};
    const struct recompute_range range = {0};

    (void) state;
    recompute_add_range(&sql, &target, "s", true, &range);
    assert_string_equal(buf_text(&sql), "");
}

static bool is_of_key(const char *sqlstate)
{
    struct error err = {.kind = ERROR_DATA};

    snprintf(err.sqlstate, sizeof(err.sqlstate), "%s", sqlstate);
    return settle_is_of_key(&err);
}

static void what_values_cause_is_of_a_key(void **state)
{
    (void) state;
    assert_true(is_of_key("22012")); /* division_by_zero */
    assert_true(is_of_key("21000")); /* several rows where one belongs */
    assert_true(is_of_key("23505"));
    assert_true(is_of_key("P0001"));  /* raise in a function */
    assert_false(is_of_key("42703")); /* the query names what is not there */
    assert_false(is_of_key("53100")); /* disk full */
    assert_false(is_of_key("57014")); /* cancelled */
    assert_false(is_of_key("40P01"));
    assert_false(is_of_key("08006"));
    assert_false(is_of_key(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_have_two_names),
        cmocka_unit_test(a_range_has_its_low_end_and_not_its_high_end),
        cmocka_unit_test(a_range_of_the_ledger_has_its_names),
        cmocka_unit_test(no_limits_say_nothing),
        cmocka_unit_test(what_values_cause_is_of_a_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
