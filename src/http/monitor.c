/*
 * Requests and the two threads share one mutex, which nobody holds while a server is asked: a server that
 * hangs keeps its thread, and everybody else is told how old the newest glance is.
 *
 * A thread sleeps until its turn has come: by the clock, or because somebody asked, which counts once
 * what it has is old enough (fresh_for(), pace(); pace.h).
 */
#include "http/monitor.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/memory.h"
#include "feed/lineage.h"
#include "http/collection.h"
#include "http/glance.h"
#include "http/metrics.h"
#include "http/pace.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECOND   INT64_C(1000000)
#define EVERY_US (MONITOR_EVERY_S * SECOND)
#define SIZES_US (60 * SECOND) /* sizes are good for so long, of many tables … */
#define SIZE_US  60000         /* … or for so long a table */

#define WAIT_US   (3 * SECOND) /* for a newer glance, at most … */
#define SCRAPE_US 30000        /* … of who comes every few seconds, and is told how old it is */
#define SILENT_US (5 * SECOND) /* a glance that takes so long: the servers do not answer */
#define GRACE_US                                                                                   \
    10000 /* a collection that takes less is waited for: a small pipeline's is current */

#define LINEAGE_US (60 * SECOND) /* it changes with users' views */
#define FAILED_US  (10 * SECOND) /* a query that fails may have taken long */

/* A glance by its tables, a collection by its facts.  Of a mirror that did not answer it is tried again
 * sooner: so long its facts, consumers and feeds are in no metric. */
static const struct pace glances = {5000, 5 * SECOND, EVERY_US};
static const struct pace collections = {300000, EVERY_US, 60 * SECOND};
static const struct pace failures = {300000, EVERY_US, EVERY_US};

/* -1: it was not known. */
struct sample {
    int64_t at_us, lag_us, retained_bytes, changes;
};

/* What a thread has of something, and what is wanted of it.  Times are clock_tick_us(). */
struct turn {
    int64_t began_us, ended_us; /* of the newest that is complete; 0: none is yet */
    int64_t running_us;         /* since when the next one is under way; 0: it is not */
    bool is_wanted;
};

struct monitor {
    const char *version;
    pthread_mutex_t mutex; /* guards all below but the connections */
    const struct config *config;
    pthread_cond_t news; /* something is wanted, or complete */
    bool is_stopping;

    pthread_t glance_thread;
    struct status_connections connections; /* that thread's */
    struct turn glancing;
    struct glance *glance; /* the newest; NULL: none yet */

    pthread_t collect_thread;
    struct pg *mirror; /* that thread's */
    struct turn collecting;
    struct collection *collection; /* the newest; NULL: none yet, or the mirror is away */

    struct turn tracing;       /* lineage; the same thread's */
    int64_t traced_for_us;     /* it is not tried again for so long */
    struct buf lineage;        /* JSON; empty: not read yet … */
    struct buf lineage_reason; /* … and why not */

    struct sample samples[MONITOR_KEPT]; /* a ring */
    int nsamples, next;
    int64_t sampled_us; /* clock_tick_us() */
};

/* ---- turns; all with the mutex held ---- */

static int64_t age(const struct turn *turn)
{
    return turn->ended_us == 0 ? INT64_MAX : clock_tick_us() - turn->ended_us;
}

static void begin(struct monitor *monitor, struct turn *turn)
{
    turn->running_us = clock_tick_us();
    pthread_mutex_unlock(&monitor->mutex);
}

/* Who has asked meanwhile gets this. */
static void end(struct monitor *monitor, struct turn *turn)
{
    pthread_mutex_lock(&monitor->mutex);
    turn->began_us = turn->running_us;
    turn->ended_us = clock_tick_us();
    turn->running_us = 0;
    turn->is_wanted = false;
    pthread_cond_broadcast(&monitor->news);
}

static int64_t good_for(const struct turn *turn, const struct pace *pace, int count)
{
    return pace_for(pace, count, turn->ended_us - turn->began_us);
}

static int64_t fresh_for(const struct monitor *monitor)
{
    const int ntables = monitor->glance != NULL ? monitor->glance->status.ntables : 0;

    return good_for(&monitor->glancing, &glances, ntables);
}

static int64_t pace(const struct monitor *monitor)
{
    const bool is_there = monitor->collection != NULL;

    return good_for(&monitor->collecting, is_there ? &collections : &failures,
                    monitor->config->nfacts);
}

/* Until something has changed, or the moment has come. */
static void await(struct monitor *monitor, int64_t until_us)
{
    const struct timespec until = {.tv_sec = until_us / SECOND,
                                   .tv_nsec = until_us % SECOND * 1000};

    pthread_cond_timedwait(&monitor->news, &monitor->mutex, &until);
}

/* Has what there is become older than that?  Then something newer is wanted. */
static bool want(struct monitor *monitor, struct turn *turn, int64_t old_us)
{
    if (age(turn) < old_us)
        return false;
    turn->is_wanted = true;
    pthread_cond_broadcast(&monitor->news);
    return true;
}

static void wait_for(struct monitor *monitor, const struct turn *turn, int64_t patience_us)
{
    const int64_t now_us = clock_tick_us();

    while (!monitor->is_stopping && turn->ended_us < now_us &&
           clock_tick_us() < now_us + patience_us)
        await(monitor, now_us + patience_us);
}

/* ---- the glance ---- */

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

static void make_glance(struct monitor *monitor)
{
    const struct config *config = monitor->config;
    const struct status *status;
    struct glance *glance, *former = monitor->glance;

    begin(monitor, &monitor->glancing);
    glance = glance_take(config, &monitor->connections);
    end(monitor, &monitor->glancing);
    glance_free(former);
    monitor->glance = glance;
    status = &glance->status;
    if (monitor->nsamples == 0 || glance->tick_us - monitor->sampled_us >= EVERY_US) {
        add_sample(monitor, status);
        monitor->sampled_us = glance->tick_us;
    }
}

static void *glance_on(void *arg)
{
    struct monitor *monitor = arg;
    const struct turn *turn = &monitor->glancing;

    pthread_mutex_lock(&monitor->mutex);
    while (!monitor->is_stopping) {
        const int64_t after_us = turn->is_wanted ? fresh_for(monitor) : EVERY_US;

        if (age(turn) >= after_us)
            make_glance(monitor);
        else
            await(monitor, turn->ended_us + after_us);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return NULL;
}

/* ---- the collection, and lineage ---- */

static void collect(struct monitor *monitor)
{
    const struct config *config = monitor->config;
    struct collection *collection, *former = monitor->collection;
    const int64_t now_us = clock_tick_us();
    const bool is_measured = former != NULL && former->measured_us > 0 &&
                             now_us < former->measured_us + SIZES_US &&
                             now_us < former->measured_us + former->nsizes * SIZE_US;
    struct error unseen; /* the glance says what is wrong with the mirror */

    begin(monitor, &monitor->collecting);
    collection = collection_read(config, !is_measured, &monitor->mirror, &unseen);
    end(monitor, &monitor->collecting);
    if (collection != NULL && is_measured)
        collection_take_sizes(collection, former);
    collection_free(former);
    monitor->collection = collection;
}

/* What cannot be read leaves what was read before. */
static void trace(struct monitor *monitor)
{
    const struct config *config = monitor->config;
    _cleanup_(arena_release) struct arena arena = {0};
    struct lineage lineage;
    struct error err;
    bool is_connected, is_read;

    begin(monitor, &monitor->tracing);
    is_connected = collection_connect(config, &monitor->mirror, &err);
    is_read = is_connected && lineage_read(monitor->mirror, config, NULL, &arena, &lineage, &err);
    end(monitor, &monitor->tracing);
    buf_clear(&monitor->lineage_reason);
    monitor->traced_for_us = is_read ? LINEAGE_US : is_connected ? FAILED_US : SECOND;
    if (is_read) {
        buf_clear(&monitor->lineage);
        lineage_add_json(&lineage, &monitor->lineage);
        buf_add_char(&monitor->lineage, '\n');
    } else {
        buf_printf(&monitor->lineage_reason, "%s\n",
                   is_connected ? err.message : "the mirror cannot be reached");
    }
}

static void *collect_on(void *arg)
{
    struct monitor *monitor = arg;
    const struct turn *turn = &monitor->collecting;

    pthread_mutex_lock(&monitor->mutex);
    while (!monitor->is_stopping) {
        const int64_t pace_us = pace(monitor);
        const int64_t after_us = turn->is_wanted || pace_us > EVERY_US ? pace_us : EVERY_US;

        if (monitor->tracing.is_wanted)
            trace(monitor);
        else if (age(turn) >= after_us)
            collect(monitor);
        else
            await(monitor, turn->ended_us + after_us);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return NULL;
}

/* ---- what is asked for ---- */

static const char unseen[] = "the servers have not answered yet\n";

/* With the mutex held: a glance that is current, as far as patience goes.  True once there is one at all. */
static bool get_glance(struct monitor *monitor, int64_t patience_us, struct buf *reason)
{
    if (want(monitor, &monitor->glancing, fresh_for(monitor)))
        wait_for(monitor, &monitor->glancing, monitor->glance == NULL ? WAIT_US : patience_us);
    if (monitor->glance == NULL)
        buf_add(reason, unseen);
    return monitor->glance != NULL;
}

static bool get_both(struct monitor *monitor, int64_t patience_us, struct buf *reason)
{
    const bool is_wanted = want(monitor, &monitor->collecting, pace(monitor));

    if (!get_glance(monitor, patience_us, reason))
        return false;
    if (is_wanted && monitor->glance->status.is_known)
        wait_for(monitor, &monitor->collecting, monitor->collection == NULL ? WAIT_US : GRACE_US);
    return true;
}

/* Since when the servers owe an answer, where that is too long; 0: it is not. */
static int64_t silence(const struct monitor *monitor)
{
    const int64_t since_us = monitor->glancing.running_us;
    const int64_t silent_us = since_us == 0 ? 0 : clock_tick_us() - since_us;

    return silent_us >= SILENT_US ? silent_us : 0;
}

bool monitor_add_ready(struct monitor *monitor, struct buf *text)
{
    char age_text[HUMAN_TEXT_SIZE];
    bool is_ready;

    pthread_mutex_lock(&monitor->mutex);
    is_ready = get_glance(monitor, WAIT_US, text);
    if (is_ready) {
        const struct glance *glance = monitor->glance;

        is_ready = glance->reasons.len == 0 && silence(monitor) == 0;
        buf_add(text, is_ready ? "ready\n" : buf_text(&glance->reasons));
        if (silence(monitor) > 0)
            buf_printf(text, "a server has not answered for %s\n",
                       human_duration(silence(monitor), age_text));
        buf_add_bytes(text, glance->remarks.data, glance->remarks.len);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return is_ready;
}

bool monitor_add_status(struct monitor *monitor, struct buf *json)
{
    bool is_there;

    pthread_mutex_lock(&monitor->mutex);
    is_there = get_both(monitor, WAIT_US, json);
    if (is_there) {
        const struct buf *text = glance_json(monitor->glance, monitor->collection);

        buf_add_bytes(json, text->data, text->len);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return is_there;
}

static void add_scrape(const struct monitor *monitor, struct buf *text)
{
    const struct glance *glance = monitor->glance;
    const struct collection *collection = glance->status.is_known ? monitor->collection : NULL;
    const int64_t now_us = clock_tick_us();

    metrics_add_scrape(
        &(struct metrics_scrape){.is_ready = glance->reasons.len == 0 && silence(monitor) == 0,
                                 .nfailed = glance->nfailed + (collection ? collection->nfailed
                                                               : glance->status.is_known ? 1
                                                                                         : 0),
                                 .glance_age_us = now_us - glance->tick_us,
                                 .glance_took_us = glance->took_us,
                                 .collect_age_us = collection ? now_us - collection->tick_us : -1,
                                 .collect_took_us = collection ? collection->took_us : -1},
        text);
}

bool monitor_add_metrics(struct monitor *monitor, struct buf *text)
{
    bool is_there;

    pthread_mutex_lock(&monitor->mutex);
    is_there = get_both(monitor, SCRAPE_US, text);
    if (is_there) {
        const struct buf *families = glance_metrics(monitor->glance, monitor->collection,
                                                    monitor->version);

        buf_add_bytes(text, families->data, families->len);
        add_scrape(monitor, text);
    }
    pthread_mutex_unlock(&monitor->mutex);
    return is_there;
}

bool monitor_add_lineage(struct monitor *monitor, struct buf *json)
{
    const struct buf *found;
    bool is_known;

    pthread_mutex_lock(&monitor->mutex);
    if (want(monitor, &monitor->tracing, monitor->traced_for_us))
        wait_for(monitor, &monitor->tracing, WAIT_US);
    is_known = monitor->lineage.len > 0;
    found = is_known ? &monitor->lineage : &monitor->lineage_reason;
    buf_add_bytes(json, found->data, found->len);
    if (found->len == 0)
        buf_add(json, unseen);
    pthread_mutex_unlock(&monitor->mutex);
    return is_known;
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

/* ---- from here to the end ---- */

static void end_threads(struct monitor *monitor, int nthreads)
{
    pthread_mutex_lock(&monitor->mutex);
    monitor->is_stopping = true;
    pthread_cond_broadcast(&monitor->news);
    pthread_mutex_unlock(&monitor->mutex);
    if (nthreads > 0)
        pthread_join(monitor->glance_thread, NULL);
    if (nthreads > 1)
        pthread_join(monitor->collect_thread, NULL);
}

static void free_monitor(struct monitor *monitor)
{
    glance_free(monitor->glance);
    collection_free(monitor->collection);
    buf_release(&monitor->lineage);
    buf_release(&monitor->lineage_reason);
    status_disconnect(&monitor->connections);
    pg_free(monitor->mirror);
    pthread_cond_destroy(&monitor->news);
    pthread_mutex_destroy(&monitor->mutex);
    free(monitor);
}

bool monitor_start(const struct config *config, const char *version, struct monitor **ret_monitor,
                   struct error *err)
{
    struct monitor *monitor = memory_new(struct monitor);
    pthread_condattr_t attributes;
    int failed, nthreads = 0;

    monitor->config = config;
    monitor->version = version;
    pthread_mutex_init(&monitor->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* clock_tick_us() */
    pthread_cond_init(&monitor->news, &attributes);
    pthread_condattr_destroy(&attributes);
    failed = pthread_create(&monitor->glance_thread, NULL, glance_on, monitor);
    nthreads += failed == 0;
    if (failed == 0)
        failed = pthread_create(&monitor->collect_thread, NULL, collect_on, monitor);
    if (failed != 0) {
        end_threads(monitor, nthreads);
        free_monitor(monitor);
        return error_set(err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
    }
    *ret_monitor = monitor;
    return true;
}

void monitor_follow(struct monitor *monitor, const struct config *config)
{
    pthread_mutex_lock(&monitor->mutex);
    if (monitor->config != config)
        monitor->traced_for_us = 0;
    monitor->config = config;
    pthread_mutex_unlock(&monitor->mutex);
}

void monitor_stop(struct monitor *monitor)
{
    end_threads(monitor, 2);
    free_monitor(monitor);
}
