/* The base layer: arena, buf, map, lsn, error. */
#include "base/buf.h"
#include "base/log.h"
#include "base/map.h"
#include "tailwater/arena.h"
#include "tailwater/bytes.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static void arena_keeps_blocks_and_counts(void **state)
{
    struct arena arena = {0};
    char *first = arena_alloc(&arena, 100);

    (void) state;
    memset(first, 'x', 100);
    char *large = arena_alloc(&arena, 1 << 20);
    memset(large, 'y', 1 << 20);
    assert_memory_equal(first, "xxxx", 4);
    assert_int_equal(arena.used_bytes, 104 + (1 << 20));
    arena_reset(&arena);
    assert_int_equal(arena.used_bytes, 0);
    assert_ptr_equal(arena_alloc(&arena, 8), first);
    for (int i = 0; i < 100000; i++)
        *(int *) arena_alloc(&arena, 17) = i;
    assert_string_equal(arena_printf(&arena, "%d-%s", 7, "x"), "7-x");
    arena_release(&arena);
}

static void lsn_text_and_back(void **state)
{
    char text[LSN_TEXT_SIZE];
    lsn_t lsn = 0;

    (void) state;
    assert_true(lsn_parse("16/B374D848", &lsn));
    assert_true(lsn == UINT64_C(0x16B374D848));
    assert_string_equal(lsn_text(lsn, text), "16/B374D848");
    assert_true(lsn_parse("FFFFFFFF/FFFFFFFF", &lsn));
    assert_string_equal(lsn_text(lsn, text), "FFFFFFFF/FFFFFFFF");
    for (const char **bad =
             (const char *[]){"", "/", "1/", "/1", "1/2x", "123456789/0", "g/1", NULL};
         *bad; bad++)
        assert_false(lsn_parse(*bad, &lsn));
}

static void map_holds_many(void **state)
{
    struct map map = {0};
    static int values[5000];

    (void) state;
    assert_null(map_get(&map, "a", 1));
    for (int i = 0; i < 5000; i++) {
        char key[32];
        map_put(&map, key, (size_t) snprintf(key, sizeof(key), "key%d", i), &values[i]);
    }
    for (int i = 0; i < 5000; i++) {
        char key[32];
        assert_ptr_equal(map_get(&map, key, (size_t) snprintf(key, sizeof(key), "key%d", i)),
                         &values[i]);
    }
    assert_null(map_get(&map, "key5000", 7));
    map_release(&map);
}

static void bytes_stay_bad(void **state)
{
    struct bytes b = bytes_of("\0\1\2\3ab\0c", 8);

    (void) state;
    assert_int_equal(bytes_u32(&b), 0x010203);
    assert_string_equal(bytes_cstring(&b), "ab");
    assert_false(b.bad);
    assert_int_equal(bytes_u16(&b), 0);
    assert_true(b.bad);
    assert_int_equal(bytes_u8(&b), 0);
}

static void errors_wrap(void **state)
{
    struct error err;

    (void) state;
    assert_false(error_set(&err, ERROR_SLOT, "no slot %s", "x"));
    error_hint(&err, "run y");
    error_wrap(&err, "starting");
    assert_string_equal(err.message, "starting: no slot x");
    assert_string_equal(err.hint, "run y");
    assert_int_equal(error_exit_code(err.kind), 6);
}

/* However long the names in it are: cut between characters. */
static void errors_are_whole_text(void **state)
{
    char name[3001];
    struct error err;

    (void) state;
    for (int i = 0; i < 1000; i++)
        snprintf(name + (ptrdiff_t) i * 3, 4, "€");
    for (int before = 0; before < 3; before++) {
        error_set(&err, ERROR_FAILED, "%.*s%s", before, "xx", name);
        error_hint(&err, "%.*s%s", before, "xx", name);
        assert_int_equal((strlen(err.message) - (size_t) before) % 3, 0);
        assert_int_equal((strlen(err.hint) - (size_t) before) % 3, 0);
        error_wrap(&err, "w");
        assert_int_equal((strlen(err.message) - 3 - (size_t) before) % 3, 0);
        assert_true(strlen(err.message) > sizeof(err.message) - 5);
    }
}

static void json_strings(void **state)
{
    _cleanup_buf_ struct buf buf = {0};

    (void) state;
    buf_add_json(&buf, "a\"b\\c\n\x01é");
    assert_string_equal(buf_text(&buf), "\"a\\\"b\\\\c\\n\\u0001é\"");
    buf_clear(&buf);
    buf_add_shown(&buf, "a\n\t\x1b[31m\x7f\xc2\x9b\xc2\xa0é\xc2");
    assert_string_equal(buf_text(&buf), "a\\n\\t\\x1b[31m\\x7f\\u009b\xc2\xa0é\xc2");
}

/* What is no UTF-8 is replaced, byte by byte, and nothing around it is lost. */
static void json_strings_are_utf8(void **state)
{
    static const char *const cases[][2] = {
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"caf\xe9!", "caf\xef\xbf\xbd!"},
        {"cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\x80\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xff\"", "\xef\xbf\xbd\\\""},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_buf_ struct buf buf = {0}, want = {0};

        buf_add_json(&buf, cases[i][0]);
        buf_printf(&want, "\"%s\"", cases[i][1]);
        assert_string_equal(buf_text(&buf), buf_text(&want));
    }
}

/* What a line of the log looks like. */
static void logged(enum log_format format, const struct error *err, char *ret_line, size_t size)
{
    int pipes[2], saved = dup(STDERR_FILENO);
    ssize_t len;

    assert_int_equal(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    log_configure(format, LOG_INFO, "main", NULL);
    log_error(LOG_ERROR, "failed", err);
    dup2(saved, STDERR_FILENO);
    len = read(pipes[0], ret_line, size - 1);
    assert_true(len > 0);
    ret_line[len] = '\0';
    close(pipes[0]);
    close(pipes[1]);
    close(saved);
}

/* A table may be called anything: what is logged of it stays one line, and JSON. */
static void a_log_line_is_one_line(void **state)
{
    struct error err;
    char line[4096];

    (void) state;
    error_set(&err, ERROR_FAILED, "public.\"a\nb\x1b[2J\xe9\" is gone");
    error_hint(&err, "look\tthere");
    logged(LOG_TEXT, &err, line, sizeof(line));
    assert_non_null(
        strstr(line, " ERROR   public.\"a\\nb\\x1b[2J\xe9\" is gone; look\\tthere [failed]\n"));
    logged(LOG_JSON, &err, line, sizeof(line));
    assert_non_null(
        strstr(line, "\"message\":\"public.\\\"a\\nb\\u001b[2J\xef\xbf\xbd\\\" is gone\""));
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void replaced_places(void **state)
{
    static const struct {
        const char *text, *want;
        int count;
    } cases[] = {{"", "", 0}, {"a", "a", 0}, {"{k}", "xy", 1}, {"a {k}{k} b {k", "a xyxy b {k", 2}};

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_buf_ struct buf buf = {0};

        assert_int_equal(buf_add_replaced(&buf, cases[i].text, "{k}", "xy"), cases[i].count);
        assert_string_equal(buf_text(&buf), cases[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replaced_places),       cmocka_unit_test(arena_keeps_blocks_and_counts),
        cmocka_unit_test(lsn_text_and_back),     cmocka_unit_test(map_holds_many),
        cmocka_unit_test(bytes_stay_bad),        cmocka_unit_test(errors_wrap),
        cmocka_unit_test(errors_are_whole_text), cmocka_unit_test(json_strings),
        cmocka_unit_test(json_strings_are_utf8), cmocka_unit_test(a_log_line_is_one_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
