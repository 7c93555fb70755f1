/* When a table is worth a warning, and how counts travel: no server. */
#include "batch/volume.h"
#include "mirror/freshness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE INT64_C(60000000)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

static struct arena arena;

/* A table at its best: a thousand changes an hour, never an hour without one. */
static struct freshness well(void)
{
    return (struct freshness){.schema = "public",
                              .name = "orders",
                              .label = "public.orders",
                              .counted_to_us = 100 * DAY,
                              .last_change_us = 100 * DAY - MINUTE,
                              .since_us = 100 * DAY - MINUTE,
                              .this_hour = 10,
                              .hour_us = 100 * DAY - 2 * HOUR,
                              .hour_changes = 1000,
                              .is_hour_whole = true,
                              .usual_of = "time of day",
                              .usual_low = 900,
                              .usual_median = 1000,
                              .usual_high = 1200,
                              .usual_most = 1500,
                              .usual_silence_us = 10 * MINUTE,
                              .is_followed = true,
                              .is_watched = true,
                              .max_age_us = -1};
}

static void expect(struct freshness table, enum freshness_state state)
{
    freshness_judge(&table, &arena);
    assert_string_equal(freshness_state_name(table.state), freshness_state_name(state));
    /* What is to be looked at has an event, words and a remedy; nothing else has. */
    assert_int_equal(table.words != NULL, freshness_event(state) != NULL);
    assert_int_equal(table.next != NULL, freshness_event(state) != NULL);
    if (table.words != NULL)
        assert_non_null(strstr(table.words, "public.orders"));
}

static void all_is_well(void **state)
{
    struct freshness table = well();

    (void) state;
    expect(table, FRESHNESS_USUAL);
    table.usual_of = NULL;
    table.usual_low = table.usual_median = table.usual_high = table.usual_most = -1;
    table.usual_silence_us = -1;
    expect(table, FRESHNESS_LEARNING);
    table.is_watched = false;
    expect(table, FRESHNESS_OFF);
    table.is_followed = false;
    expect(table, FRESHNESS_UNKNOWN);
}

static void silence(void **state)
{
    struct freshness table = well();

    (void) state;
    table.since_us = table.counted_to_us - HOUR;
    expect(table, FRESHNESS_USUAL); /* six times the longest, and no more than an hour */
    table.since_us -= MINUTE;
    expect(table, FRESHNESS_QUIET);
    table.is_watched = false;
    expect(table, FRESHNESS_OFF);
    table.is_watched = true;
    table.usual_silence_us = 16 * HOUR;
    table.since_us = table.counted_to_us - 31 * HOUR;
    expect(table, FRESHNESS_USUAL);
    table.since_us = table.counted_to_us - 33 * HOUR;
    expect(table, FRESHNESS_QUIET);
    table.usual_silence_us = -1;
    expect(table, FRESHNESS_USUAL);
}

static void a_bound_of_its_own(void **state)
{
    struct freshness table = well();

    (void) state;
    table.max_age_us = 2 * MINUTE;
    expect(table, FRESHNESS_USUAL);
    table.since_us = table.counted_to_us - 3 * MINUTE;
    expect(table, FRESHNESS_STALE);
    table.is_watched = false; /* it holds also where nothing is learned */
    expect(table, FRESHNESS_STALE);
    table.counted_to_us = table.since_us +
                          MINUTE; /* the pipeline is behind: no news of the table */
    expect(table, FRESHNESS_OFF);
    table.counted_to_us = 0;
    expect(table, FRESHNESS_UNKNOWN);
}

static void volumes(void **state)
{
    struct freshness table = well();

    (void) state;
    table.hour_changes = 4500;
    expect(table, FRESHNESS_USUAL);
    table.hour_changes = 4501;
    expect(table, FRESHNESS_HIGH);
    table.is_hour_whole = false;
    expect(table, FRESHNESS_USUAL);
    table.is_hour_whole = true;
    table.hour_changes = 300;
    expect(table, FRESHNESS_USUAL);
    table.hour_changes = 299;
    expect(table, FRESHNESS_LOW);
    table.is_hour_whole = false;
    expect(table, FRESHNESS_USUAL);
}

/* Few changes are no statistics. */
static void small_tables(void **state)
{
    struct freshness table = well();

    (void) state;
    table.usual_low = table.usual_median = table.usual_high = table.usual_most = 2;
    table.hour_changes = 999;
    expect(table, FRESHNESS_USUAL);
    table.hour_changes = 0;
    expect(table, FRESHNESS_USUAL);
}

/* ---- how counts travel ---- */

static int64_t number_of(const struct volume_parcel *parcel, const char *name, int64_t hour)
{
    int64_t found = 0;

    for (const struct volume_total *total = parcel->first; total != NULL; total = total->next)
        if (strcmp(total->name, name) == 0 && total->hour == hour) {
            assert_int_equal(found, 0); /* one of each */
            found = total->counts.inserted;
        }
    return found;
}

static void parcels(void **state)
{
    struct table tables[] = {{.index = 0, .schema = "public", .name = "a"},
                             {.index = 1, .schema = "public", .name = "b"}};
    const struct table_list list = {.count = 2, .tables = tables};
    struct volume_sheet *sheet = volume_sheet_new(&list);
    struct volume_line older = {.table = &tables[0], .hour = 4};
    struct volume_line newer = {.table = &tables[0], .hour = 5, .next = &older};
    struct volume_line other = {.table = &tables[1], .hour = 5};
    const struct volume_parcel *parcel;
    int64_t number;

    (void) state;
    volume_count(&older.counts, VOLUME_INSERT, 4 * HOUR + 1);
    volume_count(&newer.counts, VOLUME_INSERT, 5 * HOUR + 7);
    volume_count(&newer.counts, VOLUME_INSERT, 5 * HOUR + 3);
    volume_count(&other.counts, VOLUME_INSERT, 5 * HOUR);

    volume_sheet_add(sheet, &newer);
    volume_sheet_clear(sheet); /* it did not commit */
    volume_sheet_add(sheet, &newer);
    volume_sheet_add(sheet, &newer); /* a second piece */
    volume_sheet_post(sheet, 100);
    assert_true(volume_is_waiting());

    parcel = volume_peek(1000);
    number = parcel->number;
    assert_int_equal(parcel->lsn, 100);
    assert_int_equal(parcel->complete_us, 1000);
    assert_int_equal(number_of(parcel, "a", 4), 2);
    assert_int_equal(number_of(parcel, "a", 5), 4);
    assert_int_equal(parcel->first->counts.first_us % HOUR, parcel->first->hour == 5 ? 3 : 1);

    /* It was not stored: the same again, whatever was posted since, and as of then. */
    volume_sheet_add(sheet, &other);
    volume_sheet_post(sheet, 200);
    parcel = volume_peek(2000);
    assert_int_equal(parcel->number, number);
    assert_int_equal(parcel->complete_us, 1000);
    assert_int_equal(parcel->lsn, 100);
    assert_int_equal(number_of(parcel, "b", 5), 0);
    volume_stored();

    parcel = volume_peek(3000);
    assert_int_equal(parcel->number, number + 1);
    assert_int_equal(parcel->complete_us, 3000);
    assert_int_equal(parcel->lsn, 200);
    assert_int_equal(number_of(parcel, "a", 5), 0);
    assert_int_equal(number_of(parcel, "b", 5), 1);
    volume_stored();
    assert_false(volume_is_waiting());

    /* The source is idle, and the mirror goes on all the same: that too is to be stored. */
    volume_sheet_post(sheet, 300);
    assert_true(volume_is_waiting());
    assert_int_equal(volume_peek(0)->lsn, 300);
    volume_stored();
    assert_false(volume_is_waiting());
    volume_begin(400);
    assert_false(volume_is_waiting());
    volume_sheet_free(sheet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_well),        cmocka_unit_test(silence),
        cmocka_unit_test(a_bound_of_its_own), cmocka_unit_test(volumes),
        cmocka_unit_test(small_tables),       cmocka_unit_test(parcels),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);

    arena_release(&arena);
    return failed;
}
