/*
 * How long a commit on the source takes to be visible on the mirror:
 *
 *     bench-probe SOURCE MIRROR NUMBER </a pipe
 *
 * Inserts rows NUMBER + 1 … into the table done on the source, one at a time, and looks at the mirror
 * until each is there.  Per row a line: its number, when its COMMIT had returned (seconds of
 * CLOCK_MONOTONIC), the milliseconds from then until a query on the mirror showed it.  Ends when its
 * standard input does.
 *
 * It is in C, with prepared statements, because a probe in Python took more of the two processors than
 * what it measured, and then measured the queue for them.  It looks a few times a millisecond, not all
 * the time, for the same reason.
 */
#include <libpq-fe.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define LOOK_US     200
#define LATE_S      30
#define LEAST_MS    2 /* between rows, at random: not in step with anything */
#define MOST_MS     12
#define SLACK_NS    1000 /* of the timer for LOOK_US */
#define INSERT_ROW  "insert into done values ($1)"
#define LOOK_FOR_IT "select 1 from done where id = $1"

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "bench-probe: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static PGconn *connect_to(const char *conninfo, const char *statement)
{
    PGconn *connection = PQconnectdb(conninfo);
    PGresult *result;

    if (PQstatus(connection) != CONNECTION_OK)
        fail("connecting", PQerrorMessage(connection));
    PQclear(PQexec(connection, "set plan_cache_mode = force_generic_plan"));
    result = PQprepare(connection, "it", statement, 0, NULL);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        fail(statement, PQerrorMessage(connection));
    PQclear(result);
    return connection;
}

/* Runs the prepared statement; how many rows it gives. */
static int run(PGconn *connection, int64_t number)
{
    char text[24];
    const char *params[] = {text};
    PGresult *result;
    int rows;

    snprintf(text, sizeof(text), "%" PRId64, number);
    result = PQexecPrepared(connection, "it", 1, params, NULL, NULL, 0);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        fail(text, PQerrorMessage(connection));
    rows = PQntuples(result);
    PQclear(result);
    return rows;
}

static void probe(PGconn *source, PGconn *mirror, int64_t number)
{
    double committed, seen;

    run(source, number);
    committed = now();
    while (run(mirror, number) == 0) {
        if (now() - committed > LATE_S)
            fail("waiting", "a row did not arrive within 30 s");
        usleep(LOOK_US);
    }
    seen = now();
    printf("%" PRId64 " %.6f %.3f\n", number, committed, (seen - committed) * 1000);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
    PGconn *source, *mirror;
    int64_t number;

    if (argc != 4)
        fail("usage", "bench-probe SOURCE MIRROR NUMBER");
    prctl(PR_SET_TIMERSLACK, SLACK_NS);
    source = connect_to(argv[1], INSERT_ROW);
    mirror = connect_to(argv[2], LOOK_FOR_IT);
    number = strtoll(argv[3], NULL, 10);
    srandom((unsigned) getpid());
    do
        probe(source, mirror, ++number);
    while (poll(&end, 1, LEAST_MS + (int) (random() % (MOST_MS - LEAST_MS + 1))) == 0);
    PQfinish(source);
    PQfinish(mirror);
    return 0;
}
