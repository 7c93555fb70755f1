/*
 * What the C programs of this folder share.  test_programs.py gives them one database by
 * environment: TAILWATER_TEST_ADMIN (a superuser's conninfo), TAILWATER_TEST_OWNER (who owns its
 * tables), TAILWATER_TEST_REPLICATOR (the role that the README tells people to create).
 */
#ifndef TAILWATER_TEST_PROGRAMS_H
#define TAILWATER_TEST_PROGRAMS_H

#include "pg/pg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static inline const char *conninfo_of(const char *role)
{
    char name[64];
    const char *conninfo;

    snprintf(name, sizeof(name), "TAILWATER_TEST_%s", role);
    conninfo = getenv(name);
    if (conninfo == NULL) {
        fprintf(stderr, "%s is not set: tests/integration/test_programs.py runs this\n", name);
        exit(2);
    }
    return conninfo;
}

static inline struct pg *connect_as(const char *role, enum pg_side side, bool is_replication)
{
    struct error err;
    struct pg *pg = NULL;
    struct pg_options options = {.side = side,
                                 .conninfo = conninfo_of(role),
                                 .application = "tailwater test",
                                 .is_replication = is_replication};

    if (!pg_connect(&options, &pg, &err))
        fail_msg("%s", err.message);
    return pg;
}

/* The call has to succeed, or the error is shown. */
#define succeed(call)                                                                              \
    do {                                                                                           \
        if (!(call))                                                                               \
            fail_msg("%s (%s, SQLSTATE %s)", err.message, error_kind_name(err.kind),               \
                     err.sqlstate);                                                                \
    } while (0)

/* The call has to fail with this kind, and with these words in message or hint ("": any). */
#define refuse(call, want_kind, words)                                                             \
    do {                                                                                           \
        memset(&err, 0, sizeof(err));                                                              \
        if (call)                                                                                  \
            fail_msg("succeeded: %s", #call);                                                      \
        if (err.kind != (want_kind))                                                               \
            fail_msg("%s, not %s: %s", error_kind_name(err.kind), error_kind_name(want_kind),      \
                     err.message);                                                                 \
        if (strstr(err.message, (words)) == NULL && strstr(err.hint, (words)) == NULL)             \
            fail_msg("no '%s' in: %s / %s", (const char *) (words), err.message, err.hint);        \
    } while (0)

/* What must never be seen. */
#define conceals(words)                                                                            \
    do {                                                                                           \
        if (strstr(err.message, (words)) != NULL || strstr(err.hint, (words)) != NULL)             \
            fail_msg("'%s' shows in: %s / %s", (words), err.message, err.hint);                    \
    } while (0)

#endif
