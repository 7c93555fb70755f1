/* The decoder of pgoutput: wire form, relations, refusals. */
#include "base/buf.h"
#include "change_text.h"
#include "fixture.h"
#include "session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct fixture fixture;

/*
 * A message from its notation: 'I' a byte, 4:17 an integer of four bytes (1, 2, 4 or 8), "abc"
 * these bytes, z"abc" the same and a zero.
 */
static void assemble(struct buf *buf, const char *text)
{
    for (const char *p = text; *p != '\0';) {
        if (*p == ' ') {
            p++;
        } else if (*p == '\'') {
            buf_add_char(buf, p[1]);
            p += 3;
        } else if (*p >= '1' && *p <= '8' && p[1] == ':') {
            char *end;
            uint64_t value = strtoull(p + 2, &end, 0);

            for (int i = *p - '0'; i-- > 0;)
                buf_add_char(buf, (char) (value >> (8 * i)));
            p = end;
        } else {
            bool is_terminated = *p == 'z';
            const char *from = p + is_terminated + 1, *end = strchr(from, '"');

            assert_true(from[-1] == '"' && end != NULL);
            buf_add_bytes(buf, from, (size_t) (end - from));
            if (is_terminated)
                buf_add_char(buf, '\0');
            p = end + 1;
        }
    }
}

static bool feed(struct session *session, const char *text)
{
    _cleanup_buf_ struct buf buf = {0};

    assemble(&buf, text);
    return session_feed(session, buf_text(&buf), buf.len);
}

static void gives(struct session *session, const char *text, const char *want)
{
    _cleanup_buf_ struct buf buf = {0};

    if (!feed(session, text))
        fail_msg("%s\n%s", text, session->err.message);
    change_text(&buf, &session->change, NULL);
    assert_string_equal(buf_text(&buf), want);
}

#define BEGIN  "'B' 8:0x10 8:5 4:7"
#define COMMIT "'C' 1:0 8:0x10 8:0x20 8:5"
#define TIME   "946684800000005"
/* public.t(id int key, t text), replica identity default */
#define RELATION                                                                                   \
    "'R' 4:4000000000 z\"public\" z\"t\" 'd' 2:2 1:1 z\"id\" 4:23 4:-1 1:0 z\"t\" 4:25 4:-1"
#define FULL "'R' 4:17 z\"public\" z\"f\" 'f' 2:2 1:1 z\"id\" 4:23 4:-1 1:1 z\"t\" 4:25 4:-1"
#define T    "4:4000000000 "
#define ONE  " 't' 4:1 \"1\" "
#define TWO  " 't' 4:1 \"2\" "

static struct session begun(void)
{
    struct session session = session_start(&decoder_pgoutput, &fixture_config);

    assert_true(feed(&session, BEGIN));
    assert_true(feed(&session, RELATION));
    assert_true(feed(&session, FULL));
    return session;
}

static void options(void **state)
{
    struct decoder_option options[DECODER_MAX_OPTIONS];
    struct decoder_config config = fixture_config;
    struct arena arena = {0};

    (void) state;
    assert_int_equal(decoder_pgoutput.options(&config, &arena, options), fixture.noptions);
    for (int i = 0; i < fixture.noptions; i++) {
        assert_string_equal(options[i].name, fixture.options[i].name);
        assert_string_equal(options[i].value, fixture.options[i].value);
    }
    config.prefix = NULL;
    config.publication = "\"";
    assert_int_equal(decoder_pgoutput.options(&config, &arena, options), 2);
    assert_string_equal(options[0].value, "1");
    assert_string_equal(options[1].value, "\"\"\"\"");
    arena_release(&arena);
}

static void transactions(void **state)
{
    struct session s = session_start(&decoder_pgoutput, &fixture_config);

    (void) state;
    gives(&s, BEGIN, "begin xid=7 final=0/10 time=" TIME);
    assert_true(s.change.end_lsn == 0);
    gives(&s, "'O' 8:1 z\"an origin\"", "");
    gives(&s, COMMIT, "commit xid=7 final=0/10 time=" TIME " end=0/20");
    gives(&s, "'B' 8:0x1600000020 8:-1 4:0xffffffff",
          "begin xid=4294967295 final=16/20 time=946684799999999");
    session_end(&s);
}

static void rows(void **state)
{
    struct session s = begun();

    (void) state;
    gives(&s, "'I'" T "'N' 2:2" ONE "'t' 4:2 \"xy\"", "insert public.t id='1' t='xy'");
    gives(&s, "'I'" T "'N' 2:2" ONE "'t' 4:0", "insert public.t id='1' t=''");
    gives(&s, "'I'" T "'N' 2:2" ONE "'n'", "insert public.t id='1' t=null");
    gives(&s, "'I'" T "'N' 2:2" ONE "'u'", "insert public.t id='1'"); /* P4 */
    gives(&s, "'U'" T "'N' 2:2" ONE "'u'", "update public.t id='1'"); /* P1 */
    gives(&s, "'U'" T "'K' 2:2" ONE "'n' 'N' 2:2" TWO "'u'",
          "update public.t id='2' was id='1'"); /* P3, P5: the n of K is no null */
    gives(&s, "'U'" T "'K' 2:2" ONE "'n' 'N' 2:2 'u'" TWO,
          "update public.t id='1' t='2'"); /* P20 */
    gives(&s, "'U'" T "'K' 2:2" ONE "'n' 'N' 2:2" ONE "'n'", "update public.t id='1' t=null");
    gives(&s, "'D'" T "'K' 2:2" ONE "'n'", "delete public.t was id='1'");
    gives(&s, "'U' 4:17 'O' 2:2" ONE "'n' 'N' 2:2" ONE TWO,
          "update public.f id='1' t='2' was id='1' t=null");
    gives(&s, "'U' 4:17 'O' 2:2" ONE TWO "'N' 2:2" ONE "'u'",
          "update public.f id='1' t='2'"); /* P5 */
    gives(&s, "'D' 4:17 'O' 2:2" ONE "'n'", "delete public.f was id='1' t=null");
    gives(&s, "'T' 4:2 1:3 4:17 " T, "truncate public.f public.t");
    session_end(&s);
}

static void messages(void **state)
{
    struct session s = session_start(&decoder_pgoutput, &fixture_config);
    struct decoder_config silent = fixture_config;

    (void) state;
    gives(&s, "'M' 1:0 8:1 z\"tailwater\" 4:3 \"abc\"", "message outside tailwater: abc");
    gives(&s, BEGIN, "begin xid=7 final=0/10 time=" TIME);
    gives(&s, "'M' 1:1 8:1 z\"tailwater\" 4:0", "message tailwater: ");
    gives(&s, "'M' 1:1 8:1 z\"tailwater\" 4:3 1:255 1:0 1:65", "message tailwater: \xff"); /* P66 */
    assert_int_equal(s.change.content_len, 3);
    gives(&s, "'M' 1:1 8:1 z\"somebody\" 4:1 \"x\"", "");
    gives(&s, "'M' 1:1 8:1 z\"\" 4:1 \"x\"", "");
    session_end(&s);
    silent.prefix = NULL;
    s = session_start(&decoder_pgoutput, &silent);
    gives(&s, "'M' 1:0 8:1 z\"\" 4:3 \"abc\"", "");
    session_end(&s);
}

/* ---- relations ---- */

static struct relation *relation_of(struct session *s, const char *text)
{
    if (!feed(s, text))
        fail_msg("%s\n%s", text, s->err.message);
    return s->change.relation;
}

#define INSERT "'I'" T "'N' 2:2" ONE TWO

static void relations_have_versions(void **state)
{
    struct session s = begun();
    struct relation *first = relation_of(&s, INSERT), *second;

    (void) state;
    assert_int_equal(first->id, 0);
    assert_true(first->oid == 4000000000u);
    assert_string_equal(first->schema, "public");
    assert_string_equal(first->name, "t");
    assert_int_equal(first->identity, IDENTITY_DEFAULT);
    assert_int_equal(first->ncolumns, 2);
    assert_string_equal(first->columns[1].name, "t");
    assert_int_equal(first->columns[1].type_oid, 25);
    assert_int_equal(first->columns[1].attnum, 0);
    assert_true(first->columns[0].is_identity);
    assert_false(first->columns[1].is_identity);
    /* The same again, as after a TRUNCATE, is the same. */
    assert_true(feed(&s, RELATION));
    assert_ptr_equal(relation_of(&s, INSERT), first);
    /* A column renamed. */
    assert_true(
        feed(&s, "'R'" T "z\"public\" z\"t\" 'd' 2:2 1:1 z\"id\" 4:23 4:-1 1:0 z\"u\" 4:25 4:-1"));
    second = relation_of(&s, INSERT);
    assert_ptr_not_equal(second, first);
    assert_int_equal(second->id, 2); /* 1 is the other table */
    assert_string_equal(second->columns[1].name, "u");
    assert_string_equal(first->columns[1].name, "t");
    /* Only a type modifier differs: whoever keeps definitions wants to know. */
    assert_true(
        feed(&s, "'R'" T "z\"public\" z\"t\" 'd' 2:2 1:1 z\"id\" 4:23 4:-1 1:0 z\"u\" 4:25 4:20"));
    assert_int_equal(relation_of(&s, INSERT)->id, 3);
    /* Another identity, and the schema that is sent without a name. */
    assert_true(
        feed(&s, "'R'" T "z\"\" z\"t\" 'i' 2:2 1:0 z\"id\" 4:23 4:-1 1:1 z\"u\" 4:25 4:20"));
    second = relation_of(&s, INSERT);
    assert_int_equal(second->id, 4);
    assert_int_equal(second->identity, IDENTITY_INDEX);
    assert_string_equal(second->schema, "pg_catalog");
    gives(&s, "'D'" T "'K' 2:2 'n'" ONE, "delete pg_catalog.t was u='1'");
    assert_true(feed(&s, "'R' 4:99 z\"s\" z\"none\" 'n' 2:0"));
    gives(&s, "'I' 4:99 'N' 2:0", "insert s.none");
    session_end(&s);
}

static void many_relations(void **state)
{
    enum { RELATIONS = 5000 };
    struct session s = begun();
    static struct relation *relations[RELATIONS];
    char text[200];

    (void) state;
    for (int i = 0; i < RELATIONS; i++) {
        snprintf(text, sizeof(text), "'R' 4:%d z\"s\" z\"t%d\" 'd' 2:1 1:1 z\"id\" 4:23 4:-1",
                 i * 64, i);
        assert_true(feed(&s, text));
    }
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < RELATIONS; i++) {
            snprintf(text, sizeof(text), "'I' 4:%d 'N' 2:1" ONE, i * 64);
            assert_true(feed(&s, text));
            if (round == 0)
                relations[i] = s.change.relation;
            assert_ptr_equal(s.change.relation, relations[i]);
            assert_int_equal(relations[i]->oid, i * 64);
            assert_int_equal(relations[i]->id, i + 2);
        }
    session_end(&s);
}

static void ignored_tables_are_not_parsed(void **state)
{
    struct session s = begun();
    struct relation *relation = relation_of(&s, INSERT);

    (void) state;
    relation->is_ignored = true;
    gives(&s, INSERT, "");
    gives(&s, "'D'" T "'K' \"whatever\"", "");
    gives(&s, "'U'" T, "");
    gives(&s, "'T' 4:1 1:0 " T, "");
    gives(&s, "'T' 4:2 1:0 4:17 " T, "truncate public.f");
    relation->is_ignored = false;
    gives(&s, INSERT, "insert public.t id='1' t='2'");
    session_end(&s);
}

/* ---- what is refused ---- */

static void hostile_messages_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "empty message"},
        {"'S' 4:1 1:1", "type 83"}, /* P34 */
        {"'E'", "type 69"},
        {"'c' 4:1", "type 99"},
        {"'A' 4:1 4:1", "type 65"},
        {"'b' 8:1", "type 98"},
        {"'P' 1:0", "type 80"},
        {"'K' 1:0", "type 75"},
        {"'i'", "type 105"},
        {"1:0", "type 0"},
        {"1:255", "type 255"},
        {"'B'", "ends in the middle"},
        {BEGIN, "begins inside another"},
        {BEGIN " 1:0", "1 bytes follow"},
        {"'B' 8:1 8:0x7fffffffffffffff 4:1", "out of range"},
        {COMMIT " 4:0", "4 bytes follow"},
        {"'C' 1:1 8:0x10 8:0x20 8:5", "flags 1"},
        {"'C' 1:0 8:0x11 8:0x20 8:5", "begun for 0/10"},
        {"'C' 1:0 8:0x10 8:0x10 8:5", "ends at 0/10"},
        {"'C' 1:0 8:0x10 8:0 8:5", "ends at 0/0"},
        {"'C' 1:0 8:0x10 8:0x20 8:0x7fffffffffffffff", "out of range"},
        {"'O' 8:1 \"unterminated\"", "ends in the middle"},
        {"'Y' 4:1 z\"s\" z\"t\" 1:0", "1 bytes follow"},
        {"'I'" T "'N' 2:2" ONE "'b' 4:6 \"SECRET\"", "form 98"}, /* P14 */
        {"'I'" T "'N' 2:2" ONE "'T' 4:6 \"SECRET\"", "form 84"},
        {"'I'" T "'N' 2:2" ONE "'t' 4:7 \"SECRET\"", "ends in the middle"},
        {"'I'" T "'N' 2:2" ONE "'t' 4:-1 \"SECRET\"", "ends in the middle"},
        {"'I'" T "'N' 2:2" ONE "'t' 4:5 \"SECRET\"", "1 bytes follow"},
        {"'I'" T "'N' 2:2" ONE, "ends in the middle"},
        {"'I'" T "'N' 2:1" ONE, "a row of 1 columns for public.t, which has 2"},
        {"'I'" T "'N' 2:3" ONE TWO TWO, "a row of 3 columns"},
        {"'I'" T "'N' 2:0xffff", "a row of 65535 columns"},
        {"'I'" T "'K' 2:2" ONE TWO, "kind 75"},
        {"'I'" T "'O' 2:2" ONE TWO, "kind 79"},
        {"'I' 4:18 'N' 2:2" ONE TWO, "relation 18 was never described"},
        {"'I' 4:0 'N' 2:0", "relation 0 was never described"},
        {"'I' 2:1", "ends in the middle"},
        {"'I'" T, "ends in the middle"},
        {"'U'" T "'K' 2:2" ONE "'n'", "ends in the middle"},
        {"'U'" T "'K' 2:2" ONE "'n' 'K' 2:2" ONE "'n'", "kind 75"},
        {"'U'" T "'N' 2:2" ONE "'n' 'N' 2:2" ONE "'n'", "bytes follow"},
        {"'U'" T "'K' 2:1" ONE "'N' 2:2" ONE "'n'", "a row of 1 columns"},
        {"'D'" T "'N' 2:2" ONE TWO, "kind 78"},
        {"'D'" T "'K' 2:2" ONE "'n' 'n'", "1 bytes follow"},
        {"'D'" T "'k' 2:2" ONE "'n'", "kind 107"},
        {"'T' 4:0 1:0", "names no relation"},
        {"'T' 4:1 1:4 4:17", "flags 4"},
        {"'T' 4:2 1:0 4:17", "ends in the middle"},
        {"'T' 4:-1 1:0 4:17", "ends in the middle"},
        {"'T' 4:1 1:0 4:18", "relation 18"},
        {"'T' 4:1 1:0 4:17 4:17", "4 bytes follow"},
        {"'R' 4:1 z\"s\" z\"t\" 'x' 2:0", "replica identity 120"},
        {"'R' 4:1 z\"s\" z\"t\" 1:0 2:0", "replica identity 0"},
        {"'R' 4:1 z\"s\" z\"t\" 'd' 2:0xffff 1:0 z\"a\" 4:23 4:-1", "ends in the middle"},
        {"'R' 4:1 z\"s\" z\"t\" 'd' 2:1 1:2 z\"a\" 4:23 4:-1", "flags 2"},
        {"'R' 4:1 z\"s\" z\"t\" 'd' 2:1 1:0 z\"a\" 4:23 4:-1 1:0", "1 bytes follow"},
        {"'R' 4:1 z\"s\" z\"t\" 'd' 2:1 1:0 \"abcdefghijkl\"", "ends in the middle"},
        {"'R' 4:1 \"s\"", "ends in the middle"},
        {"'M' 1:2 8:1 z\"tailwater\" 4:0", "flags 2"},
        {"'M' 1:1 8:1 z\"tailwater\" 4:1", "ends in the middle"},
        {"'M' 1:1 8:1 z\"tailwater\" 4:0xffffffff \"SECRET\"", "ends in the middle"},
        {"'M' 1:1 8:1 z\"tailwater\" 4:1 \"SECRET\"", "5 bytes follow"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct session s = begun();

        if (feed(&s, cases[i].text))
            fail_msg("accepted: %s", cases[i].text);
        if (strstr(s.err.message, cases[i].why) == NULL)
            fail_msg("%s\nsays: %s\nnot: %s", cases[i].text, s.err.message, cases[i].why);
        assert_null(strstr(s.err.message, "SECRET"));
        /* The decoder is as it was. */
        gives(&s, INSERT, "insert public.t id='1' t='2'");
        gives(&s, COMMIT, "commit xid=7 final=0/10 time=" TIME " end=0/20");
        session_end(&s);
    }
}

static void what_needs_a_transaction_is_refused_outside(void **state)
{
    static const char *const cases[] = {
        COMMIT,
        INSERT,
        "'U'" T "'N' 2:2" ONE TWO,
        "'D'" T "'K' 2:2" ONE "'n'",
        "'T' 4:1 1:0 " T,
        "'O' 8:1 z\"o\"",
        "'M' 1:1 8:1 z\"tailwater\" 4:0",
    };
    struct session s = begun();

    (void) state;
    gives(&s, COMMIT, "commit xid=7 final=0/10 time=" TIME " end=0/20");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(feed(&s, cases[i]));
        assert_non_null(strstr(s.err.message, "outside a transaction"));
    }
    session_end(&s);
}

/* P27: the cursor is the end of a transaction, and never goes back. */
static void transactions_come_in_order(void **state)
{
    struct session s = begun();

    (void) state;
    gives(&s, COMMIT, "commit xid=7 final=0/10 time=" TIME " end=0/20");
    assert_false(feed(&s, "'B' 8:0x1f 8:5 4:8"));
    assert_non_null(strstr(s.err.message, "0/1F came behind one that ended at 0/20"));
    assert_false(feed(&s, BEGIN));
    gives(&s, "'B' 8:0x20 8:5 4:8", "begin xid=8 final=0/20 time=" TIME);
    gives(&s, "'C' 1:0 8:0x20 8:0xffffffffffffffff 8:5",
          "commit xid=8 final=0/20 time=" TIME " end=FFFFFFFF/FFFFFFFF");
    assert_false(feed(&s, "'B' 8:0 8:5 4:9"));
    session_end(&s);
}

/* What a server sends that was asked for streaming (P34) or binary columns (P14). */
static void P14_P34_captures_of_other_options_are_refused(void **state)
{
    static const struct {
        const char *scenario, *why;
    } cases[] = {{"streaming", "messages of type 83"}, {"binary", "form 98"}};

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct fixture_scenario *scenario = fixture_find(&fixture, cases[i].scenario);
        struct session s = session_start(&decoder_pgoutput, &fixture_config);
        int message = 0;

        while (message < scenario->nmessages &&
               session_feed(&s, scenario->messages[message].data, scenario->messages[message].len))
            message++;
        assert_true(message < scenario->nmessages);
        assert_non_null(strstr(s.err.message, cases[i].why));
        session_end(&s);
    }
}

/* P7: nothing is lost on this side. */
static void P07_not_a_number_arrives(void **state)
{
    const struct fixture_scenario *scenario = fixture_find(&fixture, "nan");
    struct session s = session_start(&decoder_pgoutput, &fixture_config);
    _cleanup_buf_ struct buf buf = {0};

    (void) state;
    for (int i = 0; i < scenario->nmessages; i++) {
        assert_true(session_feed(&s, scenario->messages[i].data, scenario->messages[i].len));
        if (s.change.kind == CHANGE_INSERT)
            change_text(&buf, &s.change, NULL);
    }
    assert_non_null(strstr(buf_text(&buf), "f4='NaN' f8='NaN' id='1' n='NaN'"));
    assert_non_null(strstr(buf_text(&buf), "f4='-Infinity' f8='-Infinity' id='3' n='-Infinity'"));
    session_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options),
        cmocka_unit_test(transactions),
        cmocka_unit_test(rows),
        cmocka_unit_test(messages),
        cmocka_unit_test(relations_have_versions),
        cmocka_unit_test(many_relations),
        cmocka_unit_test(ignored_tables_are_not_parsed),
        cmocka_unit_test(hostile_messages_are_refused),
        cmocka_unit_test(what_needs_a_transaction_is_refused_outside),
        cmocka_unit_test(transactions_come_in_order),
        cmocka_unit_test(P14_P34_captures_of_other_options_are_refused),
        cmocka_unit_test(P07_not_a_number_arrives),
    };

    fixture = fixture_load("pgoutput.txt");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
