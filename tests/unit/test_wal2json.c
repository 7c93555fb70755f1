/* The decoder of wal2json: grammar, values, versions of tables, refusals. */
#include "base/buf.h"
#include "change_text.h"
#include "fixture.h"
#include "session.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LEAD   ",\"xid\":7,\"timestamp\":\"2026-11-22 01:40:00.123456+00\""
#define BEGIN  "{\"action\":\"B\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"
#define COMMIT "{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"
#define ROW(action, rest)                                                                          \
    "{\"action\":\"" action "\"" LEAD                                                              \
    ",\"lsn\":\"0/1\",\"schema\":\"public\",\"table\":\"t\"" rest "}"
#define INSERT(columns)           ROW("I", ",\"columns\":[" columns "]")
#define UPDATE(columns, identity) ROW("U", ",\"columns\":[" columns "],\"identity\":[" identity "]")
#define BARE_UPDATE(columns)      ROW("U", ",\"columns\":[" columns "]")
#define DELETE(identity)          ROW("D", ",\"identity\":[" identity "]")

#define OLD(name, type, value) "{\"name\":\"" name "\",\"typeoid\":" type ",\"value\":" value "}"
#define COLUMN(name, type, value, number)                                                          \
    "{\"name\":\"" name "\",\"typeoid\":" type ",\"value\":" value ",\"position\":" number "}"
#define ID(value)   COLUMN("id", "23", value, "1")
#define KEY(value)  OLD("id", "23", value)
#define TEXT(value) COLUMN("t", "25", "\"" value "\"", "2")

static struct fixture fixture;

static bool feed(struct session *session, const char *text)
{
    return session_feed(session, text, strlen(text));
}

static struct session begun(void)
{
    struct session session = session_start(&decoder_wal2json, &fixture_config);

    assert_true(feed(&session, BEGIN));
    return session;
}

static void gives(struct session *session, const char *text, const char *want)
{
    _cleanup_buf_ struct buf buf = {0};

    if (!feed(session, text))
        fail_msg("%s\n%s", text, session->err.message);
    change_text(&buf, &session->change, NULL);
    assert_string_equal(buf_text(&buf), want);
}

/* ---- options ---- */

static const char *option(const struct decoder_option *options, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(options[i].name, name) == 0)
            return options[i].value;
    return NULL;
}

static void options_are_those_of_the_capture(void **state)
{
    struct decoder_option options[DECODER_MAX_OPTIONS];
    struct arena arena = {0};
    int count = decoder_wal2json.options(&fixture_config, &arena, options);

    (void) state;
    assert_int_equal(count, fixture.noptions);
    for (int i = 0; i < count; i++)
        assert_string_equal(options[i].value,
                            option(fixture.options, fixture.noptions, options[i].name));
    arena_release(&arena);
}

static void options_follow_the_configuration(void **state)
{
    struct decoder_option options[DECODER_MAX_OPTIONS];
    struct decoder_config config = {.add_tables = "public.a\\ b,sales.*",
                                    .has_numeric_as_string = true};
    struct arena arena = {0};
    int count = decoder_wal2json.options(&config, &arena, options);

    (void) state;
    assert_string_equal(option(options, count, "add-tables"), "public.a\\ b,sales.*");
    assert_string_equal(option(options, count, "numeric-data-types-as-string"), "1");
    /* An empty list would ask for the messages of all prefixes. */
    assert_string_equal(option(options, count, "add-msg-prefixes"), "tailwater:none");
    assert_null(option(options, count, "include-default")); /* P12 */
    config.prefix = "no, such list";
    count = decoder_wal2json.options(&config, &arena, options);
    assert_null(option(options, count, "add-msg-prefixes"));
    arena_release(&arena);
}

/* ---- what is understood ---- */

static void transactions(void **state)
{
    struct session s = session_start(&decoder_wal2json, &fixture_config);

    (void) state;
    gives(&s, BEGIN, "begin xid=7 final=0/10 time=1795311600123456");
    assert_true(s.change.end_lsn == 0x20);
    gives(&s, COMMIT, "commit xid=7 final=0/10 time=1795311600123456 end=0/20");
    session_end(&s);
}

static void times(void **state)
{
    static const struct {
        const char *text;
        int64_t us; /* -1: refused */
    } cases[] = {
        {"1970-01-01 00:00:00+00", 0},
        {"1970-01-01 00:00:00.000001+00", 1},
        {"2000-01-01 00:00:00+00", INT64_C(946684800000000)},
        {"2000-02-29 00:00:00+00", INT64_C(951782400000000)},
        {"2024-02-29 23:59:59.5+00", INT64_C(1709251199500000)},
        {"2024-03-01 00:00:00+00", INT64_C(1709251200000000)},
        {"2100-03-01 00:00:00+00", INT64_C(4107542400000000)},
        {"9999-12-31 23:59:59.999999+00", INT64_C(253402300799999999)},
        {"2024-02-29 23:59:59.5+01", -1}, /* the time zone is pinned to UTC (P10) */
        {"2024-02-29 23:59:59.5-00", -1},
        {"2024-02-29 23:59:59.5+00:30", -1},
        {"2024-02-29 23:59:59.+00", -1},
        {"2024-02-29 23:59:59.1234567+00", -1},
        {"2024-02-29T23:59:59+00", -1},
        {"2024-13-29 23:59:59+00", -1},
        {"2024-00-29 23:59:59+00", -1},
        {"2024-02-00 23:59:59+00", -1},
        {"2024-02-32 23:59:59+00", -1},
        {"2024-02-29 24:59:59+00", -1},
        {"2024-02-29 23:60:59+00", -1},
        {"2024-02-29 23:59:5x+00", -1},
        {"02/29/2024 23:59:59+00", -1},
        {"1969-12-31 23:59:59+00", -1},
        {"24-02-29 23:59:59+00", -1},
        {"+00", -1},
        {"", -1},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct session s = session_start(&decoder_wal2json, &fixture_config);
        char text[200];

        snprintf(
            text, sizeof(text),
            "{\"action\":\"B\",\"xid\":1,\"timestamp\":\"%s\",\"lsn\":\"0/1\",\"nextlsn\":\"0/2\"}",
            cases[i].text);
        if (feed(&s, text) != (cases[i].us >= 0))
            fail_msg("%s: %s", cases[i].text, cases[i].us < 0 ? "accepted" : s.err.message);
        if (cases[i].us >= 0)
            assert_true(s.change.commit_time_us == cases[i].us);
        session_end(&s);
    }
}

static void values(void **state)
{
    static const struct {
        const char *type, *json, *want; /* NULL: refused */
    } cases[] = {
        {"16", "true", "'t'"},
        {"16", "false", "'f'"},
        {"16", "null", "null"},
        {"16", "\"t\"", NULL},
        {"16", "1", NULL},
        {"4000000001", "\"t\"", "'t'"}, /* a domain over bool */
        {"4000000001", "true", NULL},
        {"-294967295", "\"t\"", "'t'"}, /* the same, as %d prints it */
        {"17", "\"00ff41\"", "'\\x00ff41'"},
        {"17", "\"\"", "'\\x'"},
        {"17", "null", "null"},
        {"17", "\"00f\"", NULL},
        {"17", "\"00\\\\377A\"", NULL},               /* bytea_output=escape (P9) */
        {"4000000002", "\"\\\\x00ff\"", "'\\x00ff'"}, /* a domain over bytea */
        {"23", "-2147483648", "'-2147483648'"},
        {"20", "9007199254740993", "'9007199254740993'"}, /* P8 */
        {"1700", "123456789012345678901234567890.123456789",
         "'123456789012345678901234567890.123456789'"},
        {"1700", "0.00", "'0.00'"},
        {"1700", "-0.10", "'-0.10'"},
        {"701", "1e-300", "'1e-300'"},
        {"701", "1.5e+20", "'1.5e+20'"},
        {"701", "\"NaN\"", "'NaN'"}, /* numeric-data-types-as-string */
        {"701", "\"-Infinity\"", "'-Infinity'"},
        {"701", "null", "null"},
        {"701", "NaN", NULL},
        {"701", "1.", NULL},
        {"701", ".5", NULL},
        {"701", "01", NULL},
        {"701", "1e", NULL},
        {"701", "1e+", NULL},
        {"701", "-", NULL},
        {"701", "+1", NULL},
        {"701", "0x10", NULL},
        {"701", "1 ", NULL},
        {"701", "", NULL},
        {"25", "1", NULL},
        {"25", "true", NULL},
        {"25", "nul", NULL},
        {"25", "{}", NULL},
        {"25", "[1]", NULL},
        {"25", "\"\"", "''"},
        {"25", "\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\te\"", "'a\"b\\c/d\b\f\n\r\te'"},
        {"25", "\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\u001f\"", "'Aé€😀\x1f'"},
        {"25", "\"\\uD83D\\uDE00 é€😀\"", "'😀 é€😀'"},
        {"25", "\"\\u0000\"", NULL}, /* no PostgreSQL text has it */
        {"25", "\"\\ud83d\"", NULL},
        {"25", "\"\\ud83dx\"", NULL},
        {"25", "\"\\ud83d\\u0041\"", NULL},
        {"25", "\"\\ude00\"", NULL},
        {"25", "\"\\u12g4\"", NULL},
        {"25", "\"\\u12\"", NULL},
        {"25", "\"\\x41\"", NULL},
        {"25", "\"\\", NULL},
        {"25", "\"a\x01\"", NULL},
        {"25", "\"abcdefghijkl\nmnop\"", NULL},
        {"25", "\"\x7f\"", "'\x7f'"},
        {"25", "\"\xc3\xa9\"", "'é'"},
        {"25", "\"\xe9\"", NULL}, /* LATIN1 (P11) */
        {"25", "\"caf\xe9 au lait\"", NULL},
        {"25", "\"\xc3\"", NULL},
        {"25", "\"\xc0\x80\"", NULL}, /* overlong */
        {"25", "\"\xc1\xbf\"", NULL},
        {"25", "\"\xe0\x80\x80\"", NULL},
        {"25", "\"\xe0\x9f\xbf\"", NULL},
        {"25", "\"\xed\xa0\x80\"", NULL}, /* a surrogate */
        {"25", "\"\xf0\x80\x80\x80\"", NULL},
        {"25", "\"\xf0\x8f\xbf\xbf\"", NULL},
        {"25", "\"\xf4\x90\x80\x80\"", NULL},
        {"25", "\"\xf5\x80\x80\x80\"", NULL},
        {"25", "\"\xf0\x9f\x98\"", NULL},
        {"25", "\"\x80\"", NULL},
        {"25", "\"\xff\"", NULL},
        {"25", "\"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
         "'\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf'"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[600], want[200];

        /* Twice: the first row of a table goes the long way, the second the short one. */
        for (int second = 0; second < 2; second++) {
            struct session s = begun();

            if (second) {
                snprintf(text, sizeof(text), INSERT(COLUMN("c", "%s", "null", "1")), cases[i].type);
                assert_true(feed(&s, text));
            }
            snprintf(text, sizeof(text), INSERT(COLUMN("c", "%s", "%s", "1")), cases[i].type,
                     cases[i].json);
            if (cases[i].want != NULL) {
                snprintf(want, sizeof(want), "insert public.t c=%s", cases[i].want);
                gives(&s, text, want);
            } else if (feed(&s, text)) {
                fail_msg("accepted: %s", text);
            }
            session_end(&s);
        }
    }
}

/* A string of every length and every special byte at every place of a word. */
static void strings_of_all_lengths(void **state)
{
    static const char *const specials[] = {"", "\\\"", "\\\\", "\\n", "é", "😀", "\\u0001"};
    static const char *const decoded[] = {"", "\"", "\\", "\n", "é", "😀", "\x01"};

    (void) state;
    for (int len = 0; len < 25; len++)
        for (int at = 0; at <= len; at++)
            for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++) {
                struct session s = begun();
                char text[400], want[100];

                snprintf(text, sizeof(text), INSERT(TEXT("%.*s%s%.*s")), at,
                         "abcdefghijklmnopqrstuvwxyz", specials[i], len - at,
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
                snprintf(want, sizeof(want), "%.*s%s%.*s", at, "abcdefghijklmnopqrstuvwxyz",
                         decoded[i], len - at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
                assert_true(feed(&s, text));
                assert_int_equal(s.change.values[0].len, strlen(want));
                assert_memory_equal(s.change.values[0].data, want, strlen(want));
                session_end(&s);
            }
}

static void messages(void **state)
{
    struct session s = session_start(&decoder_wal2json, &fixture_config);

    (void) state;
    gives(
        &s,
        "{\"action\":\"M\",\"xid\":null,\"timestamp\":null,\"lsn\":\"0/1\",\"transactional\":false,"
        "\"prefix\":\"tailwater\",\"content\":\"a\\nb\"}",
        "message outside tailwater: a\nb");
    gives(&s, BEGIN, "begin xid=7 final=0/10 time=1795311600123456");
    gives(&s,
          "{\"action\":\"M\"" LEAD ",\"lsn\":\"0/1\",\"transactional\":true,"
          "\"prefix\":\"tailwater\",\"content\":\"\xff\"}",
          "message tailwater: \xff"); /* P66: anyone may emit bytes, it must not stop us */
    gives(&s,
          "{\"action\":\"M\"" LEAD ",\"lsn\":\"0/1\",\"transactional\":true,"
          "\"prefix\":\"tailwater2\",\"content\":\"\"}",
          "");
    session_end(&s);
}

/* ---- versions of a table ---- */

static struct relation *relation_of(struct session *s, const char *text)
{
    if (!feed(s, text))
        fail_msg("%s\n%s", text, s->err.message);
    return s->change.relation;
}

static void has_columns(const struct relation *relation, const char *want)
{
    _cleanup_buf_ struct buf buf = {0};

    for (int i = 0; i < relation->ncolumns; i++)
        buf_printf(&buf, "%s%s:%u:%d%s", i ? " " : "", relation->columns[i].name,
                   relation->columns[i].type_oid, relation->columns[i].attnum,
                   relation->columns[i].is_identity ? "*" : "");
    assert_string_equal(buf_text(&buf), want);
}

#define A(value) COLUMN("a", "23", value, "2")
#define B(value) COLUMN("b", "25", value, "3")

static void same_shape_is_the_same_relation(void **state)
{
    struct session s = begun();
    struct relation *first = relation_of(&s, INSERT(ID("1") "," A("1") "," B("\"x\"")));
    struct relation *second;

    (void) state;
    has_columns(first, "id:23:1 a:23:2 b:25:3");
    assert_int_equal(first->identity, IDENTITY_UNKNOWN);
    assert_int_equal(first->oid, 0);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(relation_of(&s, INSERT(ID("1") "," A("1") "," B("\"x\""))), first);
    /* The first identity makes a version; that one stays. */
    second = relation_of(&s, UPDATE(ID("1") "," A("2") "," B("null"), KEY("1")));
    assert_ptr_not_equal(second, first);
    assert_int_equal(second->id, first->id + 1);
    has_columns(second, "id:23:1* a:23:2 b:25:3");
    has_columns(first, "id:23:1 a:23:2 b:25:3");
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(relation_of(&s, DELETE(KEY("1"))), second);
        assert_ptr_equal(relation_of(&s, INSERT(ID("1") "," A("1") "," B("\"x\""))), second);
        assert_ptr_equal(relation_of(&s, UPDATE(ID("1") "," A("1"), KEY("1"))), second);
    }
    session_end(&s);
}

static void holes(void **state)
{
    struct session s = begun();
    struct relation *relation;

    (void) state;
    relation_of(&s, INSERT(ID("1") "," A("1") "," B("\"x\"")));
    gives(&s, UPDATE(ID("1") "," A("2"), KEY("1")), "update public.t a='2' id='1'");
    relation = s.change.relation;
    gives(&s, UPDATE(ID("1") "," B("\"y\""), KEY("1")), "update public.t b='y' id='1'");
    gives(&s, UPDATE(ID("1"), KEY("1")), "update public.t id='1'");
    gives(&s, UPDATE(A("3") "," B("null"), KEY("1")),
          "update public.t a='3' b=null id='1'"); /* P20: the key comes from the identity */
    gives(&s, UPDATE("", KEY("1")), "update public.t id='1'");
    gives(&s, UPDATE(ID("10") "," A("2"), KEY("1")), "update public.t a='2' id='10' was id='1'");
    assert_ptr_equal(s.change.relation, relation);
    session_end(&s);
}

static void full_identity(void **state)
{
    struct session s = begun();

    (void) state;
    relation_of(&s, INSERT(ID("1") "," A("1") "," B("\"x\"")));
    /* P5: the hole is filled from the old row; a null there is a null. */
    gives(&s,
          UPDATE(ID("1") "," A("2"), KEY("1") "," OLD("a", "23", "1") "," OLD("b", "25", "\"x\"")),
          "update public.t a='2' b='x' id='1' was a='1' b='x' id='1'");
    gives(&s,
          UPDATE(ID("1") "," A("2"), KEY("1") "," OLD("a", "23", "2") "," OLD("b", "25", "null")),
          "update public.t a='2' b=null id='1'");
    gives(&s, DELETE(KEY("1") "," OLD("a", "23", "null") "," OLD("b", "25", "null")),
          "delete public.t was a=null b=null id='1'");
    session_end(&s);
}

/* P64: an update of a table that somebody touched meanwhile.  Its key is the same, and the table's
 * shape too. */
static void update_without_identity(void **state)
{
    struct session s = begun();
    struct relation *relation;

    (void) state;
    /* Nobody knows yet whether the identity is the mirror's key. */
    assert_false(feed(&s, BARE_UPDATE(ID("1") "," A("1") "," B("null"))));
    assert_int_equal(s.err.kind, ERROR_RETRY);
    gives(&s, INSERT(ID("1") "," A("1")), "insert public.t a='1' id='1'");
    assert_false(feed(&s, BARE_UPDATE(ID("1") "," A("1") "," B("null"))));
    assert_int_equal(s.err.kind, ERROR_RETRY);
    relation = relation_of(&s, UPDATE(ID("1") "," A("1") "," B("null"), KEY("1")));
    has_columns(relation, "id:23:1* a:23:2 b:25:3");
    gives(&s, BARE_UPDATE(ID("1") "," A("2") "," B("null")), "update public.t a='2' b=null id='1'");
    assert_ptr_equal(s.change.relation, relation);
    gives(&s, UPDATE(ID("10") "," A("2"), KEY("1")), "update public.t a='2' id='10' was id='1'");
    assert_ptr_equal(s.change.relation, relation);
    session_end(&s);
}

/* Each step is one message; the relation it must be of, and whether that is a new one. */
static void shapes_follow_the_rows(void **state)
{
    static const struct {
        const char *text, *columns;
        bool is_new;
    } steps[] = {
        {DELETE(KEY("1")), "id:23:0*", true}, /* no numbers in an identity */
        {UPDATE(A("1"), KEY("1")), "a:23:2 id:23:0*", true},
        {UPDATE(ID("1") "," A("1"), KEY("1")), "id:23:1* a:23:2", true},
        {INSERT(ID("1") "," A("1") "," B("\"x\"")), "id:23:1* a:23:2 b:25:3", true},
        {UPDATE(ID("1") "," A("1"), KEY("1")), "id:23:1* a:23:2 b:25:3", false},
        /* added */
        {UPDATE(ID("1") "," A("1") "," COLUMN("c", "16", "true", "4"), KEY("1")),
         "id:23:1* a:23:2 b:25:3 c:16:4", true},
        {DELETE(KEY("1")), "id:23:1* a:23:2 b:25:3 c:16:4", false},
        /* renamed */
        {UPDATE(ID("1") "," COLUMN("aa", "23", "1", "2"), KEY("1")),
         "id:23:1* aa:23:2 b:25:3 c:16:4", true},
        /* retyped */
        {UPDATE(ID("1") "," COLUMN("aa", "20", "1", "2"), KEY("1")),
         "id:23:1* aa:20:2 b:25:3 c:16:4", true},
        /* two names exchanged */
        {UPDATE(ID("1") "," COLUMN("b", "20", "1", "2") "," COLUMN("aa", "25", "\"\"", "3"),
                KEY("1")),
         "id:23:1* b:20:2 aa:25:3 c:16:4", true},
        /* dropped and added again */
        {UPDATE(ID("1") "," COLUMN("b", "20", "1", "5"), KEY("1")),
         "id:23:1* aa:25:3 c:16:4 b:20:5", true},
        /* the key renamed: a delete knows only the name */
        {DELETE(OLD("key", "23", "1")), "id:23:1 aa:25:3 c:16:4 b:20:5 key:23:0*", true},
        {UPDATE(COLUMN("key", "23", "1", "1"), OLD("key", "23", "1")),
         "key:23:1* aa:25:3 c:16:4 b:20:5", true},
        /* an insert has all there is */
        {INSERT(COLUMN("key", "23", "1", "1") "," COLUMN("b", "20", "1", "5")), "key:23:1* b:20:5",
         true},
        {INSERT(COLUMN("key", "23", "1", "1") "," COLUMN("b", "20", "1", "5")), "key:23:1* b:20:5",
         false},
        /* the key retyped, seen by a delete */
        {DELETE(OLD("key", "20", "1")), "key:20:1* b:20:5", true},
        {INSERT(COLUMN("key", "20", "1", "1") "," COLUMN("b", "20", "1", "5")), "key:20:1* b:20:5",
         false},
        /* another identity, then FULL, then back */
        {UPDATE(COLUMN("key", "20", "1", "1"), OLD("b", "20", "1")), "key:20:1 b:20:5*", true},
        {DELETE(OLD("key", "20", "1") "," OLD("b", "20", "1")), "key:20:1* b:20:5*", true},
        {INSERT(COLUMN("key", "20", "1", "1") "," COLUMN("b", "20", "1", "5")), "key:20:1* b:20:5*",
         false},
        {DELETE(OLD("key", "20", "1")), "key:20:1* b:20:5", true},
        /* another table of the same name */
        {INSERT(COLUMN("x", "25", "null", "1")), "x:25:1", true},
        {INSERT(""), "", true},
        {INSERT(""), "", false},
    };
    struct session s = begun();
    const struct relation *last = NULL;

    (void) state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        const struct relation *relation = relation_of(&s, steps[i].text);

        has_columns(relation, steps[i].columns);
        if ((relation != last) != steps[i].is_new)
            fail_msg("step %zu: %s relation", i, steps[i].is_new ? "not a new" : "a new");
        if (last != NULL && steps[i].is_new)
            assert_int_equal(relation->id, last->id + 1);
        last = relation;
    }
    session_end(&s);
}

static void truncates(void **state)
{
    struct session s = begun();
    struct relation *first;

    (void) state;
    gives(&s, ROW("T", ""), "truncate public.t");
    first = s.change.relations[0];
    assert_int_equal(first->ncolumns, 0);
    assert_ptr_not_equal(relation_of(&s, INSERT(ID("1"))), first);
    gives(&s, ROW("T", ""), "truncate public.t");
    assert_int_equal(s.change.relations[0]->ncolumns, 1);
    session_end(&s);
}

static void ignored_tables_are_not_parsed(void **state)
{
    struct session s = begun();
    struct relation *relation = relation_of(&s, INSERT(ID("1")));

    (void) state;
    relation->is_ignored = true;
    gives(&s, INSERT(ID("1")), "");
    gives(&s, DELETE(KEY("1")), "");
    gives(&s, ROW("I", ",\"what\":is this"), "");
    gives(&s, ROW("T", ""), "");
    relation->is_ignored = false;
    gives(&s, INSERT(ID("1")), "insert public.t id='1'");
    assert_ptr_equal(s.change.relation, relation);
    session_end(&s);
}

static void many_tables(void **state)
{
    enum { TABLES = 3000 };
    struct session s = begun();
    static struct relation *relations[TABLES];

    (void) state;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < TABLES; i++) {
            char text[400];

            snprintf(text, sizeof(text),
                     "{\"action\":\"I\"" LEAD
                     ",\"lsn\":\"0/1\",\"schema\":\"s%d\",\"table\":\"t%d\","
                     "\"columns\":[" ID("1") "]}",
                     i % 10, i / 10);
            assert_true(feed(&s, text));
            if (round == 0)
                relations[i] = s.change.relation;
            assert_ptr_equal(s.change.relation, relations[i]);
            assert_true(s.change.relation->id < 2 * TABLES);
        }
    for (int i = 1; i < TABLES; i++)
        assert_true(relations[i]->id > relations[i - 1]->id);
    session_end(&s);
}

/* ---- what is refused ---- */

#define SECRET "\"SECRET\""

static void hostile_messages_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "{\"action\":\""},
        {"{", "{\"action\":\""},
        {"null", "{\"action\":\""},
        {"[]", "{\"action\":\""},
        {" " COMMIT, "{\"action\":\""},
        {COMMIT "\n", "the end of the message"},
        {COMMIT COMMIT, "the end of the message"},
        {"{\"action\":\"X\"}", "action is not known"},
        {"{\"action\":\"\"}", "action is not known"},
        {"{\"action\":\"II\"}", "byte 12"},
        {"{\"action\":\"i\"}", "action is not known"},
        {"{\"action\":\"C\"}", "expected ,\"xid\":"},
        {"{\"action\":\"C\",\"xid\":-1}", "an integer in range"},
        {"{\"action\":\"C\",\"xid\":4294967296}", "an integer in range"},
        {"{\"action\":\"C\",\"xid\":99999999999999999999}", "an integer"},
        {"{\"action\":\"C\",\"xid\":1.5}", "an integer"},
        {"{\"action\":\"C\",\"xid\":1e3}", "an integer"},
        {"{\"action\":\"C\",\"xid\":null}", "a number"},
        {"{\"action\":\"C\",\"xid\":7,\"origin\":0}", ",\"timestamp\":"},
        {"{\"action\":\"C\"" LEAD ",\"lsn\":\"10\",\"nextlsn\":\"0/20\"}", "an LSN"},
        {"{\"action\":\"C\"" LEAD ",\"lsn\":\"0/123456789012345678901234567890\"}", "an LSN"},
        {"{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\"}", ",\"nextlsn\":"},
        {"{\"action\":\"C\"" LEAD ",\"lsn\":\"0/11\",\"nextlsn\":\"0/20\"}", "begun for 0/10"},
        {"{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/21\"}", "begun for 0/10"},
        {BEGIN, "begins inside another"},
        {INSERT(COLUMN("id", "23", "1", "1") " "), "expected ]"},
        {INSERT(COLUMN("id", "23", "1", "1") ","), "{\"name\":"},
        {INSERT(COLUMN("id", "23", "1", "0")), "an integer in range"},
        {INSERT(COLUMN("id", "23", "1", "32768")), "an integer in range"},
        {INSERT(COLUMN("a", "23", "1", "2") "," COLUMN("id", "23", "1", "1")), "in range"},
        {INSERT(COLUMN("id", "23", "1", "1") "," COLUMN("id", "23", "1", "2")), "each once"},
        {INSERT(COLUMN("id", "23", "1", "1") "," COLUMN("a", "23", "1", "1")), "in range"},
        {INSERT(COLUMN("id", "4294967296", "1", "1")), "in range"},
        {INSERT("{\"name\":\"id\",\"type\":\"integer\"}"), ",\"typeoid\":"},
        {INSERT("{\"name\":\"id\",\"typeoid\":25,\"value\":" SECRET "}"), ",\"position\":"},
        {INSERT("{\"name\":\"id\",\"typeoid\":23,\"position\":1,\"value\":1}"), ",\"value\":"},
        {INSERT("{\"name\":null,\"typeoid\":23,\"value\":1,\"position\":1}"), "a string"},
        {INSERT("1"), "{\"name\":"},
        {ROW("I", ""), ",\"columns\":["},
        {ROW("I", ",\"columns\":{}"), ",\"columns\":["},
        {ROW("I", ",\"columns\":[],\"identity\":[]"), "expected }"},
        {ROW("I", ",\"columns\":[],\"pk\":[]"), "expected }"},
        {ROW("I", ",\"identity\":[]"), ",\"columns\":["},
        {ROW("U", ",\"columns\":[" ID("1") "],\"pk\":[]"), ",\"identity\":["},
        {ROW("U", ",\"identity\":[],\"columns\":[]"), ",\"columns\":["},
        {ROW("D", ",\"columns\":[],\"identity\":[]"), ",\"identity\":["},
        {ROW("D", ""), ",\"identity\":["},
        {DELETE(ID("1")), "expected }"},
        {DELETE(KEY("1") "," KEY("1")), "each once"},
        {UPDATE(ID("1"), OLD("id", "20", "1")), "one type"},
        {ROW("T", ",\"cascade\":true"), "expected }"},
        {INSERT(TEXT("SECRET\xff")), "expected UTF-8"},
        {INSERT(TEXT("SECRET\n")), "control character"},
        {INSERT(TEXT("SECRET\\x")), "an escape"},
        {INSERT(COLUMN("b", "17", SECRET, "1")), "bytea"},
        {INSERT(COLUMN("b", "16", SECRET, "1")), "false"},
        {INSERT(COLUMN("\\ud800", "16", "null", "1")), "an escape"},
        {"{\"action\":\"I\"" LEAD ",\"lsn\":\"0/1\",\"table\":\"t\",\"columns\":[]}",
         ",\"schema\":"},
        {"{\"action\":\"I\"" LEAD ",\"lsn\":null,\"schema\":\"s\",\"table\":\"t\"}", "a string"},
        {"{\"action\":\"M\"" LEAD ",\"lsn\":\"0/1\",\"transactional\":null}", "false"},
        {"{\"action\":\"M\"" LEAD ",\"lsn\":\"0/1\",\"transactional\":false,\"prefix\":\"\","
         "\"content\":\"SECRET\"}",
         "the reverse"},
        {"{\"action\":\"M\",\"xid\":null,\"timestamp\":null,\"lsn\":\"0/1\",\"transactional\":true,"
         "\"prefix\":\"\",\"content\":\"SECRET\"}",
         "the reverse"},
        {"{\"action\":\"M\"" LEAD ",\"lsn\":\"0/1\",\"transactional\":true,\"prefix\":\"\"}",
         ",\"content\":"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int known = 0; known < 2; known++) {
            struct session s = begun();

            if (known) /* of a table that is known already */
                assert_true(feed(&s, INSERT(ID("1") "," TEXT("x"))));
            if (feed(&s, cases[i].text))
                fail_msg("accepted: %s", cases[i].text);
            if (strstr(s.err.message, cases[i].why) == NULL)
                fail_msg("%s\nsays: %s\nnot: %s", cases[i].text, s.err.message, cases[i].why);
            assert_null(strstr(s.err.message, "SECRET"));
            assert_non_null(strstr(s.err.message, "byte "));
            /* The decoder is as it was. */
            gives(&s, INSERT(ID("1") "," TEXT("x")), "insert public.t id='1' t='x'");
            gives(&s, COMMIT, "commit xid=7 final=0/10 time=1795311600123456 end=0/20");
            session_end(&s);
        }
}

static void what_needs_a_transaction_is_refused_outside(void **state)
{
    static const char *const cases[] = {
        COMMIT,
        INSERT(ID("1")),
        ROW("T", ""),
        "{\"action\":\"M\"" LEAD
        ",\"lsn\":\"0/1\",\"transactional\":true,\"prefix\":\"tailwater\",\"content\":\"\"}",
    };
    struct session s = session_start(&decoder_wal2json, &fixture_config);

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(feed(&s, cases[i]));
        assert_non_null(strstr(s.err.message, "outside a transaction"));
    }
    session_end(&s);
}

#define AT(action, final, end)                                                                     \
    "{\"action\":\"" action "\"" LEAD ",\"lsn\":\"" final "\",\"nextlsn\":\"" end "\"}"

/* P27: the cursor is the end of a transaction, and never goes back. */
static void transactions_come_in_order(void **state)
{
    struct session s = begun();

    (void) state;
    assert_true(feed(&s, COMMIT));
    assert_false(feed(&s, AT("B", "0/1F", "0/30")));
    assert_non_null(strstr(s.err.message, "0/1F came behind one that ended at 0/20"));
    assert_false(feed(&s, AT("B", "0/20", "0/20")));
    assert_non_null(strstr(s.err.message, "ends at 0/20"));
    assert_true(feed(&s, AT("B", "0/20", "FFFFFFFF/FFFFFFFF")));
    assert_true(feed(&s, AT("C", "0/20", "FFFFFFFF/FFFFFFFF")));
    assert_false(feed(&s, AT("B", "0/0", "0/1")));
    session_end(&s);
}

static void another_encoding_has_a_remedy(void **state)
{
    const struct fixture_scenario *scenario = fixture_find(&fixture, "latin1");
    struct session s = session_start(&decoder_wal2json, &fixture_config);
    int refused = 0;

    (void) state;
    for (int i = 0; i < scenario->nmessages; i++)
        if (!session_feed(&s, scenario->messages[i].data, scenario->messages[i].len)) {
            refused++;
            assert_non_null(strstr(s.err.message, "public.latin"));
            assert_non_null(strstr(s.err.hint, "pgoutput"));
        }
    assert_int_equal(refused, 1);
    session_end(&s);
}

/* P7: what wal2json 2.5 makes of NaN and the infinities. */
static void not_a_number_is_null(void **state)
{
    const struct fixture_scenario *scenario = fixture_find(&fixture, "nan");
    struct session s = session_start(&decoder_wal2json, &fixture_config);
    int nulls = 0;

    (void) state;
    for (int i = 0; i < scenario->nmessages; i++) {
        assert_true(session_feed(&s, scenario->messages[i].data, scenario->messages[i].len));
        if (s.change.kind == CHANGE_INSERT)
            for (int column = 1; column <= 3; column++)
                nulls += s.change.values[column].kind == VALUE_NULL;
    }
    assert_int_equal(nulls, 9);
    session_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_those_of_the_capture),
        cmocka_unit_test(options_follow_the_configuration),
        cmocka_unit_test(transactions),
        cmocka_unit_test(times),
        cmocka_unit_test(values),
        cmocka_unit_test(strings_of_all_lengths),
        cmocka_unit_test(messages),
        cmocka_unit_test(same_shape_is_the_same_relation),
        cmocka_unit_test(holes),
        cmocka_unit_test(full_identity),
        cmocka_unit_test(update_without_identity),
        cmocka_unit_test(shapes_follow_the_rows),
        cmocka_unit_test(truncates),
        cmocka_unit_test(ignored_tables_are_not_parsed),
        cmocka_unit_test(many_tables),
        cmocka_unit_test(hostile_messages_are_refused),
        cmocka_unit_test(what_needs_a_transaction_is_refused_outside),
        cmocka_unit_test(transactions_come_in_order),
        cmocka_unit_test(another_encoding_has_a_remedy),
        cmocka_unit_test(not_a_number_is_null),
    };

    fixture = fixture_load("wal2json.txt");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
