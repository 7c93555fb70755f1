/*
 * A mutex and a condition for the applier, an eventfd for the receiver (which sleeps in poll()).
 * What the receiver asks once per message is atomic, so that asking costs nothing.
 */
#include "engine/handover.h"

#include "base/memory.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct handover {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    int wake_fd;
    struct batch *_Atomic sealed; /* or being applied */
    bool is_taken;
    bool is_closed;
    atomic_bool has_failed; /* set after error */
    _Atomic lsn_t cursor;
    struct error error;
};

bool handover_new(struct handover **ret_handover, struct error *err)
{
    struct handover *handover;
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (wake_fd < 0)
        return error_set(err, ERROR_FAILED, "eventfd: %s", strerror(errno));
    handover = memory_new(struct handover);
    pthread_mutex_init(&handover->mutex, NULL);
    pthread_cond_init(&handover->work, NULL);
    handover->wake_fd = wake_fd;
    *ret_handover = handover;
    return true;
}

void handover_free(struct handover *handover)
{
    if (handover == NULL)
        return;
    close(handover->wake_fd);
    pthread_cond_destroy(&handover->work);
    pthread_mutex_destroy(&handover->mutex);
    free(handover);
}

int handover_wake_fd(const struct handover *handover)
{
    return handover->wake_fd;
}

void handover_wake(struct handover *handover)
{
    const uint64_t one = 1;

    if (write(handover->wake_fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: readable all the same */
}

void handover_drain_wake(struct handover *handover)
{
    uint64_t count;

    if (read(handover->wake_fd, &count, sizeof(count)) < 0)
        return; /* nothing was there */
}

bool handover_is_idle(const struct handover *handover)
{
    return handover->sealed == NULL && !handover->has_failed;
}

void handover_wait(struct handover *handover, int timeout_ms)
{
    struct pollfd fd = {.fd = handover->wake_fd, .events = POLLIN};

    if (poll(&fd, 1, timeout_ms) > 0)
        handover_drain_wake(handover);
}

void handover_seal(struct handover *handover, struct batch *batch)
{
    pthread_mutex_lock(&handover->mutex);
    handover->sealed = batch;
    handover->is_taken = false;
    pthread_cond_signal(&handover->work);
    pthread_mutex_unlock(&handover->mutex);
}

lsn_t handover_cursor(const struct handover *handover)
{
    return handover->cursor;
}

bool handover_check(struct handover *handover, struct error *err)
{
    if (!handover->has_failed)
        return true;
    pthread_mutex_lock(&handover->mutex);
    *err = handover->error;
    pthread_mutex_unlock(&handover->mutex);
    return false;
}

void handover_close(struct handover *handover)
{
    pthread_mutex_lock(&handover->mutex);
    handover->is_closed = true;
    pthread_cond_signal(&handover->work);
    pthread_mutex_unlock(&handover->mutex);
}

struct batch *handover_take(struct handover *handover)
{
    struct batch *batch = NULL;

    pthread_mutex_lock(&handover->mutex);
    while (!handover->is_closed && (handover->sealed == NULL || handover->is_taken))
        pthread_cond_wait(&handover->work, &handover->mutex);
    if (handover->sealed != NULL && !handover->is_taken) {
        batch = handover->sealed;
        handover->is_taken = true;
    }
    pthread_mutex_unlock(&handover->mutex);
    return batch;
}

void handover_done(struct handover *handover, lsn_t cursor)
{
    handover->cursor = cursor;
    handover->sealed = NULL;
    handover_wake(handover);
}

void handover_fail(struct handover *handover, const struct error *err)
{
    pthread_mutex_lock(&handover->mutex);
    if (!handover->has_failed) {
        handover->error = *err;
        handover->has_failed = true;
    }
    pthread_mutex_unlock(&handover->mutex);
    handover_wake(handover);
}
