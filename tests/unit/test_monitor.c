/* What HTTP shows: how soon the servers are asked again, and a glance whose collection is replaced. */
#include "http/glance.h"
#include "http/pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000)

static void test_pace(void **state)
{
    const struct pace pace = {300000, 15 * SECOND, 60 * SECOND};
    static const struct {
        int count;
        int64_t took_us, want_us;
    } cases[] = {
        {0, 0, SECOND},
        {1, 0, SECOND},
        {10, 0, 3 * SECOND},
        {50, 0, 15 * SECOND},
        {2000, 0, 15 * SECOND},
        {10, SECOND / 5, 3 * SECOND},
        {0, SECOND, 10 * SECOND},
        {50, 2 * SECOND, 20 * SECOND},
        {0, 80 * SECOND, 60 * SECOND},   /* every statement ran into its time-out */
        {50, 600 * SECOND, 60 * SECOND}, /* a server that stood still */
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(pace_for(&pace, cases[i].count, cases[i].took_us), cases[i].want_us);
}

static bool has(const struct buf *text, const char *word)
{
    return memmem(text->data, text->len, word, strlen(word)) != NULL;
}

/* What is shown with a glance is of the newest collection, as the age is that is said of it. */
static void test_another_collection(void **state)
{
    static struct config config = {
        .file = "t.yaml", .pipeline = "main", .source.plugin = "wal2json"};
    struct glance glance = {.status = {.config = &config,
                                       .is_known = true,
                                       .source = {.where = "host=a", .is_up = true},
                                       .mirror = {.where = "host=b", .is_up = true},
                                       .pipeline = {.name = "main"},
                                       .state = "streaming",
                                       .words = "it streams",
                                       .next = ""}};
    struct collection first = {.tick_us = SECOND}, second = {.tick_us = 2 * SECOND};
    const struct buf *text;

    (void) state;
    buf_add(&first.metrics, "of_the_first 1\n");
    buf_add(&second.metrics, "of_the_second 1\n");
    text = glance_metrics(&glance, NULL, "1");
    assert_true(text->len > 0 && !has(text, "of_the_"));
    text = glance_metrics(&glance, &first, "1");
    assert_true(has(text, "of_the_first") && !has(text, "of_the_second"));
    text = glance_metrics(&glance, &second, "1");
    assert_true(has(text, "of_the_second") && !has(text, "of_the_first"));
    text = glance_metrics(&glance, NULL, "1");
    assert_false(has(text, "of_the_"));
    buf_release(&first.metrics);
    buf_release(&second.metrics);
    buf_release(&glance.metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_another_collection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
