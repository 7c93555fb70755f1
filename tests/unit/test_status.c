/* The verdict on a pipeline: which rule speaks, and that every one that is not fine says what to
 * do. */
#include "base/human.h"
#include "mirror/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000)
#define GB     (INT64_C(1) << 30)

static struct config config;
static struct arena arena;

/* A pipeline at its best; each test breaks something. */
static struct status well(void)
{
    struct status status = {
        .config = &config,
        .taken_at_us = 1000 * SECOND,
        .source = {.where = "host=prod", .is_up = true, .version = 150020},
        .mirror = {.where = "host=dwh", .is_up = true, .version = 150020},
        .is_known = true,
        .pipeline = {.name = "main",
                     .identity = {.system_identifier = "1",
                                  .timeline = 1,
                                  .database = "shop",
                                  .slot = "tailwater_main",
                                  .slot_lsn = 16,
                                  .plugin = "wal2json"},
                     .state = CONTROL_STREAMING,
                     .cursor = 1000},
        .ntables = 2,
        .nready = 2,
        .ncopied = 2,
        .has_heartbeat = true,
        .heartbeat = {.state = "streaming",
                      .host = "db1",
                      .pid = 7,
                      .age_us = SECOND,
                      .said_at_us = 999 * SECOND},
        .holder = {.pid = 9, .application = "", .client = "local", .since_us = 100 * SECOND},
        .has_slot = true,
        .slot = {.exists = true,
                 .is_logical = true,
                 .plugin = "wal2json",
                 .database = "shop",
                 .active_pid = 11,
                 .wal_status = "reserved",
                 .safe_wal_bytes = -1},
        .system_identifier = "1",
    };

    config.file = "t.yaml";
    config.pipeline = "main";
    config.source.slot = "tailwater_main";
    config.source.plugin = "wal2json";
    config.source.wal_guard.warn_bytes = 4 * GB;
    config.source.wal_guard.critical_bytes = 16 * GB;
    return status;
}

static void expect(struct status status, const char *state, enum status_level level,
                   enum error_kind kind)
{
    status_judge(&status, &arena);
    assert_string_equal(status.state, state);
    assert_int_equal(status.level, level);
    assert_int_equal(status.kind, kind);
    assert_true(status.words[0] != '\0');
    assert_int_equal(status.next[0] != '\0', level != STATUS_FINE);
}

static void all_is_well(void **state)
{
    struct status status = well();

    (void) state;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status.lag_us = 4 * SECOND;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status.lag_us = 10 * SECOND;
    expect(status, "behind", STATUS_FINE, ERROR_NONE);
    status.lag_us = 100 * SECOND;
    expect(status, "behind", STATUS_WATCH, ERROR_NONE);
    status.lag_us = -1;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
}

static void servers(void **state)
{
    struct status status = well();

    (void) state;
    status.source.is_up = false;
    error_set(&status.source.error, ERROR_SOURCE, "source: cannot connect");
    error_hint(&status.source.error, "look at it");
    expect(status, "source unreachable", STATUS_BROKEN, ERROR_SOURCE);
    status.mirror.is_up = status.is_known = false;
    error_set(&status.mirror.error, ERROR_MIRROR, "mirror: cannot connect");
    error_hint(&status.mirror.error, "look at it");
    expect(status, "mirror unreachable", STATUS_BROKEN, ERROR_MIRROR);
    status = well();
    status.is_known = false;
    error_set(&status.unknown, ERROR_FAILED, "no such pipeline");
    error_hint(&status.unknown, "run");
    expect(status, "unknown pipeline", STATUS_BROKEN, ERROR_FAILED);
}

static void the_slot(void **state)
{
    struct status status = well();

    (void) state;
    status.slot.exists = false;
    expect(status, "slot missing", STATUS_BROKEN, ERROR_SLOT);
    status = well();
    status.slot.is_lost = true;
    expect(status, "slot lost", STATUS_BROKEN, ERROR_SLOT);
    status = well();
    strcpy(status.slot.plugin, "pgoutput");
    expect(status, "slot not ours", STATUS_BROKEN, ERROR_SLOT);
    status = well();
    status.system_identifier = "2";
    expect(status, "another source", STATUS_BROKEN, ERROR_SLOT);
    status.system_identifier = NULL;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status = well();
    status.slot.retained_bytes = 5 * GB;
    expect(status, "WAL warning", STATUS_WATCH, ERROR_NONE);
    status.slot.retained_bytes = 17 * GB;
    expect(status, "WAL critical", STATUS_BROKEN, ERROR_NONE);
    /* a position that was never recorded: nothing was copied yet, and the slot may be absent */
    status = well();
    status.pipeline.identity.slot_lsn = 0;
    status.slot.exists = false;
    expect(status, "starting", STATUS_FINE, ERROR_NONE);
    status.holder.pid = 0;
    expect(status, "stopped", STATUS_WATCH, ERROR_NONE);
}

static void the_replicator(void **state)
{
    struct status status = well();

    (void) state;
    status.heartbeat.age_us = 60 * SECOND;
    expect(status, "silent", STATUS_BROKEN, ERROR_NONE);
    /* that was said by the one before */
    status.holder.since_us = status.heartbeat.said_at_us + SECOND;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status.holder.pid = 0;
    expect(status, "stopped", STATUS_WATCH, ERROR_NONE);
    status.slot.retained_bytes = 17 * GB;
    expect(status, "stopped", STATUS_BROKEN, ERROR_NONE);
    status = well();
    status.heartbeat.state = "waiting for the mirror";
    expect(status, "waiting for the mirror", STATUS_WATCH, ERROR_NONE);
    status = well();
    status.pipeline.state = CONTROL_COPYING;
    status.heartbeat.state = "copying";
    expect(status, "copying", STATUS_FINE, ERROR_NONE);
    status.heartbeat.copy_bytes = 4 * GB;
    status.heartbeat.copy_bytes_done = GB;
    status.heartbeat.started_at_us = 899 * SECOND;
    status_judge(&status, &arena);
    assert_string_equal(status.words,
                        "initial copy: 2 of 2 tables, 1.0 GiB of about 4.0 GiB; to go: "
                        "about 5 min 0 s");
    status.pipeline.state = CONTROL_STREAMING;
    expect(status, "starting", STATUS_FINE, ERROR_NONE);
    status = well();
    status.newest_copy = 1001;
    expect(status, "catching up", STATUS_FINE, ERROR_NONE);
    status = well();
    status.repair_keys = 3;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status.repair_oldest_us = 1000 * SECOND;
    expect(status, "streaming", STATUS_WATCH, ERROR_NONE);
}

static void numbers_for_people(void **state)
{
    static const struct {
        int64_t us;
        const char *text;
    } durations[] = {{0, "0.0 s"},
                     {1500, "1.5 ms"},
                     {400000, "0.4 s"},
                     {9940000, "9.9 s"},
                     {59 * SECOND, "59 s"},
                     {61 * SECOND, "1 min 1 s"},
                     {7260 * SECOND, "2 h 1 min"},
                     {200000 * SECOND, "2 d 7 h"},
                     {-5, "0.0 s"}};
    static const struct {
        int64_t bytes;
        const char *text;
    } sizes[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {150 * 1024, "150 KiB"},
                 {(1 << 20) - 1, "1.0 MiB"},
                 {4 * GB, "4.0 GiB"},
                 {INT64_MAX, "8192 PiB"}};
    char text[HUMAN_TEXT_SIZE];

    (void) state;
    for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++)
        assert_string_equal(human_duration(durations[i].us, text), durations[i].text);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_string_equal(human_bytes(sizes[i].bytes, text), sizes[i].text);
    assert_string_equal(human_estimate(0, text), "0");
    assert_string_equal(human_estimate(-1, text), "?");
    assert_string_equal(human_estimate(950, text), "~950");
    assert_string_equal(human_estimate(1234567, text), "~1.2 M");
    assert_string_equal(human_estimate(INT64_MAX, text), "~9223372 T");
}

static void commands(void **state)
{
    static const struct {
        const char *text, *file, *named;
    } cases[] = {
        {"run: tailwater resync --all, then look", "a.yaml",
         "run: tailwater resync -c a.yaml --all, then look"},
        {"tailwater feed resume crm", "/etc/x y.yaml",
         "tailwater feed -c '/etc/x y.yaml' resume crm"},
        {"tailwater resync -c b.yaml t; tailwater status", "it's",
         "tailwater resync -c b.yaml t; tailwater status -c 'it'\\''s'"},
        {"tailwater status", NULL, "tailwater status"},
        {"tailwater table add -c b.yaml t; tailwater run", "a",
         "tailwater table add -c b.yaml t; tailwater run -c a"},
        {"tailwater init and tailwater runs, xtailwater run", "a", NULL},
        {"", "a", NULL},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_buf_ struct buf out = {0};

        human_commands(cases[i].text, cases[i].file, &out);
        assert_string_equal(buf_text(&out), cases[i].named ? cases[i].named : cases[i].text);
    }
}

/* A replicator that has ended says why; one that waits, for what. */
static void ends_and_pauses(void **state)
{
    struct status status = well();

    (void) state;
    status.holder.pid = 0;
    status.heartbeat.state = "waiting for the source";
    status.heartbeat.last_error = "no route";
    status.heartbeat.last_hint = "look at the cable";
    expect(status, "waiting for the source", STATUS_WATCH, ERROR_NONE);
    status_judge(&status, &arena);
    assert_string_equal(status.next, "look at the cable");
    status.heartbeat.age_us = STATUS_PAUSE_US;
    expect(status, "stopped", STATUS_WATCH, ERROR_NONE);
    status.heartbeat.exit_code = 6;
    status.heartbeat.last_hint = "run: tailwater resync --all";
    expect(status, "failed", STATUS_BROKEN, ERROR_NONE);
    status_judge(&status, &arena);
    assert_string_equal(status.next, "run: tailwater resync -c t.yaml --all");
    assert_non_null(strstr(status.words, "no route"));
    status.heartbeat.last_hint = NULL;
    status_judge(&status, &arena);
    assert_string_equal(status.next, "tailwater run -c t.yaml");
    status.holder.pid = 9; /* somebody runs it again */
    status.heartbeat.age_us = SECOND;
    status.heartbeat.state = "streaming";
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
}

/* The server's own limit counts as ours do. */
static void wal_of_the_server(void **state)
{
    struct status status = well();

    (void) state;
    status.slot.retained_bytes = GB;
    status.slot.safe_wal_bytes = GB + 1;
    expect(status, "streaming", STATUS_FINE, ERROR_NONE);
    status.slot.safe_wal_bytes = GB;
    expect(status, "WAL warning", STATUS_WATCH, ERROR_NONE);
    status.slot.safe_wal_bytes = GB / 4;
    expect(status, "WAL critical", STATUS_BROKEN, ERROR_NONE);
}

static void clocks(void **state)
{
    const int64_t off = STATUS_CLOCK_US + 1;
    const char *whose = "";
    int64_t ahead_us;

    (void) state;
    assert_false(status_clock_is_wrong(STATUS_CLOCK_US, -STATUS_CLOCK_US, &whose, &ahead_us));
    assert_true(status_clock_is_wrong(off, 0, &whose, &ahead_us));
    assert_string_equal(whose, "the source");
    assert_int_equal(ahead_us, off);
    assert_true(status_clock_is_wrong(0, -off, &whose, &ahead_us));
    assert_string_equal(whose, "the mirror");
    assert_int_equal(ahead_us, -off);
    assert_true(status_clock_is_wrong(off, off, &whose, &ahead_us));
    assert_null(whose);
    assert_int_equal(ahead_us, -off);
}

static void troubles(void **state)
{
    static const struct control_trouble all[] = {
        {"consumer_stale", "crm of order", "it is late", "run it"},
        {"feed_paused", "x", "it is paused", "resume it"}};
    struct status status = well();

    (void) state;
    status.ntroubles = 2;
    status.troubles = all;
    expect(status, "consumer stale", STATUS_WATCH, ERROR_NONE);
    status_judge(&status, &arena);
    assert_string_equal(status.words, "streaming; 2 things to look at; it is late");
    assert_string_equal(status.next, "run it");
}

static void quarantine(void **state)
{
    struct control_table tables[] = {
        {.schema = "public", .name = "fine"},
        {.schema = "public",
         .name = "bad",
         .quarantine = {.lsn = 7, .since_us = 900 * SECOND, .sqlstate = "22P02", .reason = "why"}},
        {.schema = "public",
         .name = "worse",
         .quarantine = {.lsn = 7, .since_us = 900 * SECOND, .sqlstate = "", .reason = "so"}}};
    struct status status = well();

    (void) state;
    status.ntables = 3;
    status.tables = tables;
    status.nquarantined = 2;
    expect(status, "quarantine", STATUS_BROKEN, ERROR_FINDINGS);
    status_judge(&status, &arena);
    assert_string_equal(status.next, "tailwater resync -c t.yaml public.bad");
    assert_non_null(strstr(status.words, "2 tables"));
    assert_non_null(strstr(status.words, "why"));

    /* Under resync already: the other one is next. */
    tables[1].is_resynced = true;
    status_judge(&status, &arena);
    assert_string_equal(status.next, "tailwater resync -c t.yaml public.worse");
    tables[2].is_resynced = true;
    expect(status, "quarantine", STATUS_BROKEN, ERROR_FINDINGS);

    /* What keeps all tables from going on comes first. */
    status.holder.pid = 0;
    expect(status, "stopped", STATUS_WATCH, ERROR_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_well),
        cmocka_unit_test(servers),
        cmocka_unit_test(the_slot),
        cmocka_unit_test(the_replicator),
        cmocka_unit_test(numbers_for_people),
        cmocka_unit_test(commands),
        cmocka_unit_test(ends_and_pauses),
        cmocka_unit_test(wal_of_the_server),
        cmocka_unit_test(clocks),
        cmocka_unit_test(troubles),
        cmocka_unit_test(quarantine),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    arena_release(&arena);
    return failed;
}
