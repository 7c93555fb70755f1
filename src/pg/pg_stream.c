/*
 * The replication stream.  Everything that libpq has buffered is given out before the socket is
 * asked, and the socket is read before it is polled: under load one recv() serves many messages and
 * poll() is not called at all.
 *
 * The message is libpq's own allocation, handed on without another copy.
 */
#include "pg/pg_internal.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#define NAP_US          200
#define NAP_RATE_PER_MS 50

bool pg_stream_start(struct pg *pg, const char *command, struct error *err)
{
    _cleanup_raw_ PGresult *result = PQexec(pg->conn, command);

    if (PQresultStatus(result) == PGRES_COPY_BOTH)
        return true;
    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        return pg_fail(pg, result, "START_REPLICATION", err);
    return error_set(err, ERROR_PROTOCOL, "START_REPLICATION was answered without a stream");
}

/* The server closed the stream: with an error, or in the course of its shutdown. */
static bool ended(struct pg *pg, struct error *err)
{
    _cleanup_raw_ PGresult *result = PQgetResult(pg->conn);

    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        return pg_fail(pg, result, "replication stream", err);
    return pg_fail_text(pg->side, "", "the server ended it", "replication stream", err);
}

/* 1: pg->chunk is a message of *ret_len bytes; 0: nothing whole is buffered; -1: failed. */
static int take_buffered(struct pg *pg, size_t *ret_len, struct error *err)
{
    int len = PQgetCopyData(pg->conn, &pg->chunk, 1);

    if (len > 0) {
        *ret_len = (size_t) len;
        return 1;
    }
    if (len == 0)
        return 0;
    if (len == -1)
        ended(pg, err);
    else
        pg_fail(pg, NULL, "replication stream", err);
    return -1;
}

/*
 * Read the socket without waiting.  Under TLS twice: one read may leave the rest of a record inside
 * the TLS layer, where poll() does not see it, and the second one takes that rest.
 */
static int take_from_socket(struct pg *pg, size_t *ret_len, struct error *err)
{
    int nreads = PQsslInUse(pg->conn) ? 2 : 1;

    for (int i = 0; i < nreads; i++) {
        int taken;

        if (!PQconsumeInput(pg->conn)) {
            pg_fail(pg, NULL, "replication stream", err);
            return -1;
        }
        taken = take_buffered(pg, ret_len, err);
        if (taken != 0)
            return taken;
    }
    return 0;
}

/*
 * The stream is fast and we are faster: it pays to let some messages gather.  The walsender sends
 * every one with a system call of its own, and if we sleep in poll() each of these has to wake us,
 * for one message.  A short nap that nobody has to end costs both sides less; at a rate that fills
 * it, it adds nothing to the latency that matters.
 */
static bool nap(struct pg *pg)
{
    const int64_t now_us = clock_tick_us();
    const int64_t passed_us = now_us - pg->nap_from_us;
    const bool is_fast = pg->nap_messages * 1000 > passed_us * NAP_RATE_PER_MS;

    pg->nap_messages = 0;
    pg->nap_from_us = now_us;
    if (is_fast)
        nanosleep(&(struct timespec){.tv_nsec = NAP_US * 1000}, NULL);
    return is_fast;
}

bool pg_stream_next(struct pg *pg, int timeout_ms, int wake_fd, const char **ret_data,
                    size_t *ret_len, struct error *err)
{
    int64_t deadline_us = timeout_ms > 0 ? clock_tick_us() + (int64_t) timeout_ms * 1000 : 0;
    size_t len = 0;
    int taken;

    PQfreemem(pg->chunk);
    pg->chunk = NULL;
    pg->nwarnings = 0;
    taken = take_buffered(pg, &len, err);
    while (taken == 0) {
        struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN},
                                {.fd = wake_fd, .events = POLLIN}};
        int wait_ms = timeout_ms;
        int nready;

        taken = take_from_socket(pg, &len, err);
        if (taken != 0)
            break;
        if (nap(pg))
            continue;
        if (timeout_ms > 0) {
            int64_t left_us = deadline_us - clock_tick_us();

            wait_ms = left_us > 0 ? (int) ((left_us + 999) / 1000) : 0;
        }
        nready = poll(fds, 2, wait_ms);
        if (nready < 0 && errno != EINTR)
            return error_set(err, ERROR_FAILED, "poll: %s", strerror(errno));
        /* Out of time, a signal, or woken: the caller has something to look at first. */
        if (nready <= 0 || fds[0].revents == 0) {
            *ret_data = NULL;
            *ret_len = 0;
            return true;
        }
    }
    if (taken < 0)
        return false;
    pg->nap_messages++;
    *ret_data = pg->chunk;
    *ret_len = len;
    return true;
}

const struct pg_warning *pg_stream_warnings(const struct pg *pg, int *ret_count)
{
    *ret_count = pg->nwarnings;
    return pg->warnings;
}

bool pg_stream_send(struct pg *pg, const void *data, size_t len, struct error *err)
{
    if (PQputCopyData(pg->conn, data, (int) len) != 1 || PQflush(pg->conn) < 0)
        return pg_fail(pg, NULL, "replication stream", err);
    return true;
}
