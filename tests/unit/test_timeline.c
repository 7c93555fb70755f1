/* The history file of a timeline, and the table of what versions can. */
#include "pg/feature.h"
#include "source/timeline.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void finds(const char *history, int old, lsn_t expected)
{
    lsn_t at = 0;

    assert_true(timeline_parse(history, strlen(history), old, &at));
    assert_true(at == expected);
}

static void finds_not(const char *history, size_t len, int old)
{
    lsn_t at = 7;

    assert_false(timeline_parse(history, len, old, &at));
    assert_true(at == 7);
}

static void each_ancestor_has_its_switch_point(void **state)
{
    const char *history = "1\t0/3000110\tno recovery target specified\n"
                          "\n"
                          "2\t1/A\tbefore 2026-01-01 00:00:00+00\n"
                          "# 4\t0/1\tnot this one\n"
                          " 3 \t FF/12345678  reason";

    (void) state;
    finds(history, 1, 0x3000110);
    finds(history, 2, 0x10000000a);
    finds(history, 3, 0xff12345678);
    finds_not(history, strlen(history), 4);
    finds_not(history, strlen(history), 0);
    finds_not("", 0, 1);
}

static void what_is_no_line_is_passed_over(void **state)
{
    static const char *const wrong[] = {"1",
                                        "1\t",
                                        "1\t0/",
                                        "1\tx/1\t",
                                        "-1\t0/1\t",
                                        "1\t0/123456789ABCDEF01\t",
                                        "99999999999999999999\t0/1\t",
                                        "\t\t\n\n",
                                        "1\n0/1"};
    char longest[600];

    (void) state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        finds_not(wrong[i], strlen(wrong[i]), 1);
    memset(longest, ' ', sizeof(longest));
    memcpy(longest, "5\t0/50", 6);
    memcpy(longest + 590, "\n6\t0/60", 7);
    finds_not(longest, 590, 6);
    finds_not(longest, 593, 6);
    longest[597] = '\0';
    finds(longest, 5, 0x50);
    finds(longest, 6, 0x60);
}

static void features_begin_with_their_version(void **state)
{
    (void) state;
    assert_true(feature_is_in(FEATURE_NONE, 90600));
    assert_false(feature_is_in(FEATURE_SUPPORTED, 130023));
    assert_true(feature_is_in(FEATURE_SUPPORTED, 140000));
    assert_false(feature_is_in(FEATURE_SLOT_OPTIONS, 140023));
    assert_true(feature_is_in(FEATURE_SLOT_OPTIONS, 150000));
    assert_false(feature_is_in(FEATURE_FAILOVER_SLOTS, 160014));
    assert_true(feature_is_in(FEATURE_FAILOVER_SLOTS, 180004));
    assert_int_equal(feature_first(FEATURE_FAILOVER_SLOTS), 17);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_ancestor_has_its_switch_point),
        cmocka_unit_test(what_is_no_line_is_passed_over),
        cmocka_unit_test(features_begin_with_their_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
