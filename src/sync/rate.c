/*
 * A token bucket, kept as a time instead of a fill level: due is when everything taken so far has
 * been earned.  A taker moves it on by the price of its bytes and sleeps until then, outside the
 * lock.  An idle bucket saves up at most BURST_NS, so a pause is not followed by a rush.
 */
#include "sync/rate.h"

#include "base/clock.h"
#include "base/memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define BURST_NS  INT64_C(100000000)
#define SECOND_NS INT64_C(1000000000)
#define NAP_NS    INT64_C(100000000)

struct rate {
    pthread_mutex_t lock;
    int64_t bytes_per_s;
    int64_t due_ns;
};

struct rate *rate_new(int64_t bytes_per_s)
{
    struct rate *rate = memory_new(struct rate);

    pthread_mutex_init(&rate->lock, NULL);
    rate->bytes_per_s = bytes_per_s;
    return rate;
}

void rate_free(struct rate *rate)
{
    if (rate == NULL)
        return;
    pthread_mutex_destroy(&rate->lock);
    free(rate);
}

bool rate_take(struct rate *rate, size_t bytes, const atomic_bool *stop)
{
    int64_t now_ns, due_ns;

    if (rate->bytes_per_s <= 0)
        return true;
    now_ns = clock_tick_us() * 1000;
    pthread_mutex_lock(&rate->lock);
    if (rate->due_ns < now_ns - BURST_NS)
        rate->due_ns = now_ns - BURST_NS;
    rate->due_ns += (int64_t) ((double) bytes * SECOND_NS / (double) rate->bytes_per_s);
    due_ns = rate->due_ns;
    pthread_mutex_unlock(&rate->lock);

    while (due_ns > now_ns) {
        int64_t nap_ns = due_ns - now_ns < NAP_NS ? due_ns - now_ns : NAP_NS;

        if (atomic_load(stop))
            return false;
        nanosleep(&(struct timespec){.tv_nsec = nap_ns}, NULL);
        now_ns = clock_tick_us() * 1000;
    }
    return true;
}
