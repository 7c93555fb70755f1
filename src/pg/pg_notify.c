/* Waiting for a NOTIFY.  What came while statements ran is there already: it is looked at first. */
#include "pg/pg_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static bool take_notices(struct pg *pg)
{
    PGnotify *notify;
    bool is_told = false;

    while ((notify = PQnotifies(pg->conn)) != NULL) {
        is_told = true;
        PQfreemem(notify);
    }
    return is_told;
}

bool pg_wait_notify(struct pg *pg, int timeout_ms, int wake_fd, bool *ret_is_told,
                    struct error *err)
{
    struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};

    *ret_is_told = take_notices(pg);
    if (*ret_is_told)
        return true;
    if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
        return error_set(err, ERROR_FAILED, "poll: %s", strerror(errno));
    if (fds[0].revents != 0 && !PQconsumeInput(pg->conn))
        return pg_fail(pg, NULL, "waiting for a notification", err);
    *ret_is_told = take_notices(pg);
    return true;
}
