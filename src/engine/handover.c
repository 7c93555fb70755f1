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
    struct culprit culprit;
    _Atomic lsn_t wanted;

    pthread_cond_t answered;
    struct errand *errands, *taken; /* the queue; the one that is being applied */
    bool was_side;                  /* the last work taken was a side batch */
};

/* A side batch and who waits for it; on the waiter's stack. */
struct errand {
    struct side_batch *side;
    bool is_answered, is_ok;
    struct errand *next;
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
    pthread_cond_init(&handover->answered, NULL);
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
    pthread_cond_destroy(&handover->answered);
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

struct culprit handover_culprit(struct handover *handover)
{
    struct culprit culprit;

    pthread_mutex_lock(&handover->mutex);
    culprit = handover->culprit;
    pthread_mutex_unlock(&handover->mutex);
    return culprit;
}

void handover_close(struct handover *handover)
{
    pthread_mutex_lock(&handover->mutex);
    handover->is_closed = true;
    pthread_cond_signal(&handover->work);
    pthread_cond_broadcast(&handover->answered);
    pthread_mutex_unlock(&handover->mutex);
}

/* Batches first, but for one errand after each. */
static bool pick(struct handover *handover, bool may_side, struct work *ret_work)
{
    const bool has_batch = handover->sealed != NULL && !handover->is_taken;
    const bool has_errand = may_side && handover->errands != NULL && !handover->is_closed;

    if (has_errand && (!has_batch || !handover->was_side)) {
        handover->taken = handover->errands;
        handover->errands = handover->taken->next;
        handover->was_side = true;
        *ret_work = (struct work){.side = handover->taken->side};
        return true;
    }
    if (!has_batch)
        return false;
    handover->is_taken = true;
    handover->was_side = false;
    *ret_work = (struct work){.batch = handover->sealed};
    return true;
}

bool handover_take(struct handover *handover, bool may_side, struct work *ret_work)
{
    bool is_picked;

    pthread_mutex_lock(&handover->mutex);
    while (!(is_picked = pick(handover, may_side, ret_work)) && !handover->is_closed)
        pthread_cond_wait(&handover->work, &handover->mutex);
    pthread_mutex_unlock(&handover->mutex);
    return is_picked;
}

void handover_side_done(struct handover *handover, bool is_ok)
{
    pthread_mutex_lock(&handover->mutex);
    handover->taken->is_answered = true;
    handover->taken->is_ok = is_ok;
    handover->taken = NULL;
    pthread_cond_broadcast(&handover->answered);
    pthread_mutex_unlock(&handover->mutex);
}

static void queue(struct handover *handover, struct errand *errand)
{
    struct errand **last = &handover->errands;

    while (*last != NULL)
        last = &(*last)->next;
    *last = errand;
    pthread_cond_signal(&handover->work);
}

static void unqueue(struct handover *handover, const struct errand *errand)
{
    struct errand **at = &handover->errands;

    while (*at != NULL && *at != errand)
        at = &(*at)->next;
    if (*at != NULL)
        *at = errand->next;
}

bool handover_side(struct handover *handover, struct side_batch *side, struct error *err)
{
    struct errand errand = {.side = side};

    pthread_mutex_lock(&handover->mutex);
    queue(handover, &errand);
    /* Once it is taken it is the applier's until answered, whatever else happens. */
    while (!errand.is_answered &&
           (handover->taken == &errand || !(handover->is_closed || handover->has_failed)))
        pthread_cond_wait(&handover->answered, &handover->mutex);
    unqueue(handover, &errand);
    pthread_mutex_unlock(&handover->mutex);
    return errand.is_ok || error_set(err, ERROR_RETRY, "the session ended");
}

void handover_want(struct handover *handover, lsn_t lsn)
{
    lsn_t wanted = handover->wanted;

    while (wanted < lsn && !atomic_compare_exchange_weak(&handover->wanted, &wanted, lsn))
        continue;
    handover_wake(handover);
}

lsn_t handover_wanted(const struct handover *handover)
{
    return handover->wanted;
}

void handover_done(struct handover *handover, lsn_t cursor)
{
    handover->cursor = cursor;
    handover->sealed = NULL;
    handover_wake(handover);
}

void handover_fail(struct handover *handover, const struct error *err,
                   const struct culprit *culprit)
{
    pthread_mutex_lock(&handover->mutex);
    if (!handover->has_failed) {
        handover->error = *err;
        handover->culprit = culprit ? *culprit : (struct culprit){0};
        handover->has_failed = true;
    }
    pthread_cond_broadcast(&handover->answered);
    pthread_mutex_unlock(&handover->mutex);
    handover_wake(handover);
}
