/* Waiting for a NOTIFY.  What came while statements ran is there already: it is looked at first. */
#include "pg/pg_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static enum pg_told take_notices(struct pg *pg, const char *name)
{
    enum pg_told told = PG_TOLD_NOTHING;
    PGnotify *notify;

    while ((notify = PQnotifies(pg->conn)) != NULL) {
        if (strcmp(notify->extra, name) == 0)
            told = PG_TOLD_BY_NAME;
        else if (told == PG_TOLD_NOTHING)
            told = PG_TOLD;
        PQfreemem(notify);
    }
    return told;
}

bool pg_wait_notify(struct pg *pg, int timeout_ms, int wake_fd, const char *name,
                    enum pg_told *ret_told, struct error *err)
{
    struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};

    *ret_told = take_notices(pg, name);
    if (*ret_told != PG_TOLD_NOTHING)
        return true;
    if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
        return error_set(err, ERROR_FAILED, "poll: %s", strerror(errno));
    if (fds[0].revents != 0 && !PQconsumeInput(pg->conn))
        return pg_fail(pg, NULL, "waiting for a notification", err);
    *ret_told = take_notices(pg, name);
    return true;
}
