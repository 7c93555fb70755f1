/*
 * Ending what a connection does, from outside, without ever waiting for long.
 *
 * PQcancel() opens a connection of its own and waits until the server closes it: for ever, where
 * the server is frozen or a network swallows everything.  So it runs in a detached thread, at most
 * one per connection, and pg_cancel() waits for it only as long as a healthy server needs.  What
 * the thread uses outlives the connection if it has to.
 *
 * pg_break() is the last resort: the socket is shut down under libpq, which then sees a server that
 * went away.  pg_break_all() does so for all connections of the process, which are listed here.
 */
#include "pg/pg_internal.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define CANCEL_NS 500000000L

struct pg_canceller {
    PGcancel *cancel;
    pthread_mutex_t mutex;
    pthread_cond_t done;
    bool is_running;
    bool is_abandoned; /* its connection is gone: the thread frees it */
};

static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pg *list;

/* ---- cancelling ---- */

struct pg_canceller *pg_canceller_new(PGconn *conn)
{
    struct pg_canceller *canceller = memory_new(struct pg_canceller);
    pthread_condattr_t attributes;

    canceller->cancel = PQgetCancel(conn);
    pthread_mutex_init(&canceller->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&canceller->done, &attributes);
    pthread_condattr_destroy(&attributes);
    return canceller;
}

static void release(struct pg_canceller *canceller)
{
    PQfreeCancel(canceller->cancel);
    pthread_cond_destroy(&canceller->done);
    pthread_mutex_destroy(&canceller->mutex);
    free(canceller);
}

void pg_canceller_free(struct pg_canceller *canceller)
{
    bool is_running;

    if (canceller == NULL)
        return;
    pthread_mutex_lock(&canceller->mutex);
    is_running = canceller->is_running;
    canceller->is_abandoned = true;
    pthread_mutex_unlock(&canceller->mutex);
    if (!is_running)
        release(canceller);
}

static void *run(void *arg)
{
    struct pg_canceller *canceller = arg;
    char message[256];
    bool is_abandoned;

    PQcancel(canceller->cancel, message, sizeof(message));
    pthread_mutex_lock(&canceller->mutex);
    canceller->is_running = false;
    is_abandoned = canceller->is_abandoned;
    pthread_cond_signal(&canceller->done);
    pthread_mutex_unlock(&canceller->mutex);
    if (is_abandoned)
        release(canceller);
    return NULL;
}

/* The lock is held.  Without a thread nothing is cancelled: best effort. */
static void start(struct pg_canceller *canceller)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    canceller->is_running = pthread_create(&thread, &attributes, run, canceller) == 0;
    pthread_attr_destroy(&attributes);
}

void pg_cancel(struct pg *pg)
{
    struct pg_canceller *canceller = pg->canceller;
    struct timespec until;

    if (canceller == NULL || canceller->cancel == NULL)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += CANCEL_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&canceller->mutex);
    if (!canceller->is_running) {
        start(canceller);
        while (canceller->is_running &&
               pthread_cond_timedwait(&canceller->done, &canceller->mutex, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&canceller->mutex);
}

/* ---- breaking ---- */

void pg_list_add(struct pg *pg)
{
    pthread_mutex_lock(&list_mutex);
    pg->next = list;
    list = pg;
    pthread_mutex_unlock(&list_mutex);
}

void pg_list_remove(struct pg *pg)
{
    pthread_mutex_lock(&list_mutex);
    for (struct pg **at = &list; *at != NULL; at = &(*at)->next)
        if (*at == pg) {
            *at = pg->next;
            break;
        }
    pthread_mutex_unlock(&list_mutex);
}

void pg_break(struct pg *pg)
{
    int socket = PQsocket(pg->conn);

    if (socket >= 0)
        shutdown(socket, SHUT_RDWR);
}

void pg_break_all(void)
{
    pthread_mutex_lock(&list_mutex);
    for (struct pg *pg = list; pg != NULL; pg = pg->next)
        pg_break(pg);
    pthread_mutex_unlock(&list_mutex);
}
