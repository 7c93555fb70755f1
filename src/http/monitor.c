/*
 * A mutex around the look: whoever comes while it is being made waits for it and takes the same one.
 * Looks are counted references, since a slow reader may still be sent an old one.
 */
#include "http/monitor.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/memory.h"
#include "feed/lineage.h"
#include "http/metrics.h"
#include "http/overview.h"
#include "mirror/status.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FRESH_US   1000000
#define LINEAGE_US 60000000 /* it changes with users' views */
#define FAILED_US  10000000 /* a query that fails may have taken as long, and others wait for it */

struct shared_look {
    struct monitor_look look; /* first: what callers have a pointer to */
    int64_t taken_at_us;      /* clock_tick_us() */
    int nusers;
};

/* -1: it was not known. */
struct sample {
    int64_t at_us, lag_us, retained_bytes, changes;
};

struct monitor {
    const struct config *config;
    const char *version;
    pthread_mutex_t mutex;
    struct status_connections connections;
    struct shared_look *newest; /* has one user: this */

    struct buf lineage;        /* JSON; empty: not read yet … */
    struct buf lineage_reason; /* … and why not */
    int64_t lineage_us;        /* when that was tried; clock_tick_us() */
    int64_t lineage_for_us;    /* and is not tried again for so long; 0: not tried yet */

    struct sample samples[MONITOR_KEPT]; /* a ring */
    int nsamples, next;
    int64_t sampled_us; /* clock_tick_us() */

    pthread_t thread;
    pthread_cond_t wake;
    bool is_stopping;
};

/* With the mutex held. */
static void release(struct shared_look *look)
{
    if (look == NULL || --look->nusers > 0)
        return;
    buf_release(&look->look.status);
    buf_release(&look->look.metrics);
    buf_release(&look->look.reasons);
    buf_release(&look->look.remarks);
    free(look);
}

/* ---- ready? ---- */

/* Counts and words, no names: this is what a probe without a token gets to see. */
static void add_reasons(const struct status *status, struct buf *reasons)
{
    const int64_t max_lag_us = status->config->http.max_lag_us;
    char lag[HUMAN_TEXT_SIZE];

    if (!status->mirror.is_up)
        buf_add(reasons, "the mirror cannot be reached\n");
    if (!status->source.is_up)
        buf_add(reasons, "the source cannot be reached\n");
    if (!status->is_known)
        return;
    if (status->has_slot && !status->slot.exists)
        buf_add(reasons, "the slot is not there\n");
    if (status->has_slot && status->slot.exists && status->slot.is_lost)
        buf_add(reasons, "the slot is lost\n");
    if (status->has_slot && status->slot.exists && !status->slot.active_pid)
        buf_add(reasons, "nobody reads the slot\n");
    if (strncmp(status->state, "waiting", 7) == 0)
        buf_printf(reasons, "the replicator is %s\n", status->state);
    if (status->pipeline.state != CONTROL_STREAMING)
        buf_add(reasons, "the initial copy is not complete\n");
    if (status->nquarantined > 0)
        buf_printf(reasons, "tables in quarantine: %d\n", status->nquarantined);
    if (status->lag_us > max_lag_us)
        buf_printf(reasons, "the mirror is behind: %s\n", human_duration(status->lag_us, lag));
    if (reasons->len == 0 && status->level == STATUS_BROKEN)
        buf_printf(reasons, "%s\n", status->state);
}

/* Kinds, no names, either. */
static void add_remarks(const struct status *status, struct buf *remarks)
{
    if (status->level == STATUS_WATCH)
        buf_printf(remarks, "to be looked at: %s\n", status->state);
    for (int i = 0; i < status->ntroubles; i++)
        buf_printf(remarks, "to be looked at: %s\n", status->troubles[i].event);
}

/* ---- a look ---- */

static void add_sample(struct monitor *monitor, const struct status *status)
{
    const bool has_slot = status->has_slot && status->slot.exists;

    monitor->samples[monitor->next] = (struct sample){
        .at_us = status->taken_at_us,
        .lag_us = status->lag_us,
        .retained_bytes = has_slot ? status->slot.retained_bytes : -1,
        .changes = status->has_heartbeat ? status->heartbeat.changes : -1};
    monitor->next = (monitor->next + 1) % MONITOR_KEPT;
    if (monitor->nsamples < MONITOR_KEPT)
        monitor->nsamples++;
}

static struct shared_look *look_now(struct monitor *monitor)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct shared_look *shared = memory_new(struct shared_look);
    const int64_t began_us = clock_tick_us();
    struct status status;

    status_collect(monitor->config, &monitor->connections, &arena, &status);
    overview_add_json(&status, monitor->connections.mirror, &shared->look.status);
    buf_add_char(&shared->look.status, '\n');
    add_reasons(&status, &shared->look.reasons);
    add_remarks(&status, &shared->look.remarks);
    metrics_add(&(struct metrics){.status = &status,
                                  .version = monitor->version,
                                  .is_ready = shared->look.reasons.len == 0,
                                  .mirror = status.is_known ? monitor->connections.mirror : NULL,
                                  .began_us = began_us},
                &shared->look.metrics);
    shared->taken_at_us = clock_tick_us();
    shared->nusers = 1;
    if (monitor->nsamples == 0 || began_us - monitor->sampled_us >= MONITOR_EVERY_S * 1000000L) {
        add_sample(monitor, &status);
        monitor->sampled_us = began_us;
    }
    return shared;
}

/* With the mutex held. */
static void refresh(struct monitor *monitor)
{
    struct shared_look *look = look_now(monitor);

    release(monitor->newest);
    monitor->newest = look;
}

const struct monitor_look *monitor_take(struct monitor *monitor)
{
    struct shared_look *look;

    pthread_mutex_lock(&monitor->mutex);
    if (monitor->newest == NULL || clock_tick_us() - monitor->newest->taken_at_us >= FRESH_US)
        refresh(monitor);
    look = monitor->newest;
    look->nusers++;
    pthread_mutex_unlock(&monitor->mutex);
    return &look->look;
}

void monitor_release(struct monitor *monitor, const struct monitor_look *look)
{
    pthread_mutex_lock(&monitor->mutex);
    release((struct shared_look *) look);
    pthread_mutex_unlock(&monitor->mutex);
}

void monitor_add_history(struct monitor *monitor, struct buf *json)
{
    buf_printf(json, "{\"interval_seconds\": %d, \"samples\": [", MONITOR_EVERY_S);
    pthread_mutex_lock(&monitor->mutex);
    for (int i = 0; i < monitor->nsamples; i++) {
        const int at = (monitor->next - monitor->nsamples + i + MONITOR_KEPT) % MONITOR_KEPT;
        const struct sample *sample = &monitor->samples[at];
        const int64_t counts[] = {sample->retained_bytes, sample->changes};

        buf_printf(json, "%s[%.0f, ", i > 0 ? ", " : "", (double) sample->at_us / 1e6);
        if (sample->lag_us < 0)
            buf_add(json, "null");
        else
            buf_printf(json, "%.3f", (double) sample->lag_us / 1e6);
        for (int j = 0; j < 2; j++)
            if (counts[j] < 0)
                buf_add(json, ", null");
            else
                buf_printf(json, ", %" PRId64, counts[j]);
        buf_add_char(json, ']');
    }
    pthread_mutex_unlock(&monitor->mutex);
    buf_add(json, "]}\n");
}

/* ---- lineage ---- */

/* With the mutex held.  What cannot be read leaves what was read before, and is not tried again at
 * once. */
static void read_lineage(struct monitor *monitor)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct lineage lineage;
    struct error err = {0};

    if (monitor->newest == NULL || clock_tick_us() - monitor->newest->taken_at_us >= FRESH_US)
        refresh(monitor); /* which connects */
    buf_clear(&monitor->lineage_reason);
    if (monitor->connections.mirror == NULL) {
        buf_add(&monitor->lineage_reason, "the mirror cannot be reached\n");
        monitor->lineage_for_us = FRESH_US;
    } else if (!lineage_read(monitor->connections.mirror, monitor->config, NULL, &arena, &lineage,
                             &err)) {
        buf_printf(&monitor->lineage_reason, "%s\n", err.message);
        monitor->lineage_for_us = FAILED_US;
    } else {
        buf_clear(&monitor->lineage);
        lineage_add_json(&lineage, &monitor->lineage);
        buf_add_char(&monitor->lineage, '\n');
        monitor->lineage_for_us = LINEAGE_US;
    }
    monitor->lineage_us = clock_tick_us();
}

bool monitor_add_lineage(struct monitor *monitor, struct buf *text)
{
    const struct buf *found;
    bool is_known;

    pthread_mutex_lock(&monitor->mutex);
    if (clock_tick_us() - monitor->lineage_us >= monitor->lineage_for_us)
        read_lineage(monitor);
    is_known = monitor->lineage.len > 0;
    found = is_known ? &monitor->lineage : &monitor->lineage_reason;
    buf_add_bytes(text, found->data, found->len);
    pthread_mutex_unlock(&monitor->mutex);
    return is_known;
}

/* ---- the thread, from here to the end ---- */

static void *sample_all(void *arg)
{
    struct monitor *monitor = arg;

    pthread_mutex_lock(&monitor->mutex);
    while (!monitor->is_stopping) {
        struct timespec until;

        refresh(monitor);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += MONITOR_EVERY_S;
        if (!monitor->is_stopping)
            pthread_cond_timedwait(&monitor->wake, &monitor->mutex, &until);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return NULL;
}

bool monitor_start(const struct config *config, const char *version, struct monitor **ret_monitor,
                   struct error *err)
{
    struct monitor *monitor = memory_new(struct monitor);
    int failed;

    monitor->config = config;
    monitor->version = version;
    pthread_mutex_init(&monitor->mutex, NULL);
    pthread_cond_init(&monitor->wake, NULL);
    failed = pthread_create(&monitor->thread, NULL, sample_all, monitor);
    if (failed != 0) {
        free(monitor);
        return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
    }
    *ret_monitor = monitor;
    return true;
}

void monitor_stop(struct monitor *monitor)
{
    pthread_mutex_lock(&monitor->mutex);
    monitor->is_stopping = true;
    pthread_cond_signal(&monitor->wake);
    pthread_mutex_unlock(&monitor->mutex);
    pthread_join(monitor->thread, NULL);
    buf_release(&monitor->lineage);
    buf_release(&monitor->lineage_reason);
    release(monitor->newest);
    status_disconnect(&monitor->connections);
    pthread_cond_destroy(&monitor->wake);
    pthread_mutex_destroy(&monitor->mutex);
    free(monitor);
}
