/*
 * Captured messages, damaged: every prefix of every one is refused, and every one with a byte of it
 * changed is refused or understood (of the few very long ones not every place is tried).  A refusal
 * is ERROR_PROTOCOL with words (session.h sees to that), takes no memory that stays, and leaves the
 * decoder as it was: the message as it was captured is understood next.
 */
#include "fixture.h"
#include "session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct capture {
    const struct decoder_ops *ops;
    const char *file;
    const char *but_for[3]; /* scenarios that are there to be refused */
};

static const struct capture captures[] = {
    {&decoder_pgoutput, "pgoutput.txt", {"streaming", "binary"}},
    {&decoder_wal2json, "wal2json.txt", {"latin1"}},
};

#define NCAPTURES (sizeof(captures) / sizeof(captures[0]))

static struct fixture fixtures[NCAPTURES];

static bool is_left_out(const struct capture *capture, const char *scenario)
{
    for (int i = 0; i < 3 && capture->but_for[i] != NULL; i++)
        if (strcmp(capture->but_for[i], scenario) == 0)
            return true;
    return false;
}

/* What the decoder keeps; both begin with the arena that holds all of it. */
static size_t kept_bytes(const struct session *session)
{
    return ((const struct arena *) (const void *) session->decoder)->used_bytes;
}

typedef void each(struct session *, const struct fixture_scenario *, int message);

/* Every message of a capture, in its place in the stream. */
static void for_each(const struct capture *capture, each *what)
{
    const struct fixture *fixture = &fixtures[capture - captures];

    for (int i = 0; i < fixture->nscenarios; i++) {
        const struct fixture_scenario *scenario = &fixture->scenarios[i];
        struct session session;

        if (is_left_out(capture, scenario->name))
            continue;
        session = session_start(capture->ops, &fixture_config);
        for (int m = 0; m < scenario->nmessages; m++) {
            what(&session, scenario, m);
            if (!session_feed(&session, scenario->messages[m].data, scenario->messages[m].len))
                fail_msg("%s, message %d: %s", scenario->name, m, session.err.message);
        }
        session_end(&session);
    }
}

/* From one place in a message to the next. */
static size_t step(size_t at, size_t len)
{
    return at > 1000 && at + 300 < len ? 37 : 1;
}

static void cut_it(struct session *session, const struct fixture_scenario *scenario, int m)
{
    const struct fixture_message *message = &scenario->messages[m];
    const size_t kept = kept_bytes(session);

    for (size_t len = 0; len < message->len; len += step(len, message->len))
        if (session_feed(session, message->data, len))
            fail_msg("%s, message %d: its first %zu bytes are accepted", scenario->name, m, len);
    assert_int_equal(kept_bytes(session), kept);
}

static void start_again(struct session *session, const struct fixture_scenario *scenario, int until)
{
    const struct decoder_ops *ops = session->ops;

    session_end(session);
    *session = session_start(ops, &fixture_config);
    for (int m = 0; m < until; m++)
        assert_true(session_feed(session, scenario->messages[m].data, scenario->messages[m].len));
}

/* What a byte becomes: bytes that mean something, and the one with a bit changed. */
static unsigned char changed(unsigned char byte, size_t i)
{
    static const unsigned char telling[] = {0,   '"', 0xff, '\\', '0', 0x80,
                                            ',', 't', 0x7f, '}',  '-'};
    unsigned char with = telling[i % sizeof(telling)];

    return with != byte && i % 3 != 0 ? with : byte ^ (unsigned char) (1 << i % 8);
}

static void change_it(struct session *session, const struct fixture_scenario *scenario, int m)
{
    const struct fixture_message *message = &scenario->messages[m];
    unsigned char *mutant = malloc(message->len);

    assert_non_null(mutant);
    memcpy(mutant, message->data, message->len);
    for (size_t at = 0; at < message->len; at += step(at, message->len)) {
        const size_t kept = kept_bytes(session);

        mutant[at] = changed(message->data[at], at + (size_t) m);
        if (!session_feed(session, mutant, message->len))
            assert_int_equal(kept_bytes(session), kept);
        else if (session->change.kind < CHANGE_INSERT || session->change.kind > CHANGE_DELETE)
            start_again(session, scenario, m); /* it may be another transaction now */
        else if (at % 64 == 0 && !session_feed(session, message->data, message->len))
            fail_msg("%s, message %d, byte %zu: what it was is refused then: %s", scenario->name, m,
                     at, session->err.message);
        mutant[at] = message->data[at];
    }
    free(mutant);
}

static void pgoutput_cut(void **state)
{
    (void) state;
    for_each(&captures[0], cut_it);
}

static void wal2json_cut(void **state)
{
    (void) state;
    for_each(&captures[1], cut_it);
}

static void pgoutput_changed(void **state)
{
    (void) state;
    for_each(&captures[0], change_it);
}

static void wal2json_changed(void **state)
{
    (void) state;
    for_each(&captures[1], change_it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pgoutput_cut),
        cmocka_unit_test(wal2json_cut),
        cmocka_unit_test(pgoutput_changed),
        cmocka_unit_test(wal2json_changed),
    };

    for (size_t i = 0; i < NCAPTURES; i++)
        fixtures[i] = fixture_load(captures[i].file);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
