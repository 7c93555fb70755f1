/* Waiting for a NOTIFY.  What came while statements ran is there already: it is looked at first. */
#include "pg/pg_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static bool take_notices(struct pg *pg, pg_heard *heard, void *context)
{
    PGnotify *notify;
    bool is_told = false;

    while ((notify = PQnotifies(pg->conn)) != NULL) {
        is_told = true;
        heard(context, notify->relname, notify->extra);
        PQfreemem(notify);
    }
    return is_told;
}

bool pg_wait_heard(struct pg *pg, int timeout_ms, int wake_fd, pg_heard *heard, void *context,
                   struct error *err)
{
    struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};

    if (take_notices(pg, heard, context))
        return true;
    if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
        return error_set(err, ERROR_FAILED, "poll: %s", strerror(errno));
    if (fds[0].revents != 0 && !PQconsumeInput(pg->conn))
        return pg_fail(pg, NULL, "waiting for a notification", err);
    (void) take_notices(pg, heard, context);
    return true;
}

struct telling {
    const char *name;
    enum pg_told told;
};

static void note_told(void *context, const char *channel, const char *payload)
{
    struct telling *telling = context;

    (void) channel;
    if (strcmp(payload, telling->name) == 0)
        telling->told = PG_TOLD_BY_NAME;
    else if (telling->told == PG_TOLD_NOTHING)
        telling->told = PG_TOLD;
}

bool pg_wait_notify(struct pg *pg, int timeout_ms, int wake_fd, const char *name,
                    enum pg_told *ret_told, struct error *err)
{
    struct telling telling = {name, PG_TOLD_NOTHING};

    if (!pg_wait_heard(pg, timeout_ms, wake_fd, note_told, &telling, err))
        return false;
    *ret_told = telling.told;
    return true;
}
