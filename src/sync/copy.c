/*
 * Threads: the caller's supervises; each worker has a connection to both servers, opened and with
 * the snapshot imported before the first worker starts.  Everything they share is in struct pool,
 * under its lock, but for the counters.
 *
 * Two kinds of work, and a worker takes what is next:
 *   - items, in the plan's order (large tables first, so that the end is not one long one);
 *   - tables whose rows are complete, to get their key and indexes.  While there are items left, at
 *     most half of the workers do that: it uses the machine well, and still ends the snapshot's
 *     transactions on the source early.  A worker that finds no items left closes its source
 *     connection at once.
 *
 * The first error stops everybody: the flag is looked at between chunks, and the supervisor cancels
 * what the servers are doing until every worker has left.  The caller's stop flag is an error like
 * any other.
 *
 * Not here: retries.  Half a table is worth nothing under another snapshot.
 */
#include "sync/copy.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "source/snapshot.h"
#include "sync/load.h"
#include "sync/plan.h"
#include "sync/rate.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define LOOK_US     INT64_C(100000)
#define PROGRESS_US INT64_C(500000)
#define CANCEL_US   INT64_C(5000000)

enum work_state { WORK_WAITING, WORK_PREPARING, WORK_PREPARED };

/* What is left to do of one table. */
struct work {
    enum work_state state;
    int items_left;
    int64_t rows;
};

struct worker {
    struct pool *pool;
    pthread_t thread;
    struct pg *source,
        *mirror; /* set and cleared under the pool's lock, used by the thread alone */
    atomic_int_least64_t bytes; /* read of the item in hand … */
    atomic_int_least64_t share; /* … and what the item counts for */
};

struct pool {
    const struct copy_options *options;
    struct arena arena;
    struct rate *rate;
    struct plan plan;
    int nworkers;
    struct worker *workers;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    int next_item;
    struct work *works;             /* by table->index */
    const struct table **unindexed; /* a queue: every table goes through it once */
    int first_unindexed, nunindexed;
    int nindexing, nrunning;
    struct copy_progress progress; /* its bytes are those of whole items */
    int64_t started_us;
    int64_t over_us;    /* since when everything is cancelled; 0: not */
    struct error error; /* the first one */

    atomic_bool is_over; /* no new work */
    atomic_int_least64_t rows;
};

/* The lock is held. */
static void fail(struct pool *pool, const struct error *err)
{
    if (!atomic_exchange(&pool->is_over, true))
        pool->error = *err;
    pthread_cond_broadcast(&pool->changed);
}

/* ---- the workers ---- */

enum job { JOB_NONE, JOB_ITEM, JOB_INDEX };

/* Under the lock, since the supervisor may be about to cancel what it does. */
static void close_source(struct worker *worker)
{
    pg_free(worker->source);
    worker->source = NULL;
}

static void close_worker(struct worker *worker)
{
    close_source(worker);
    pg_free(worker->mirror);
    worker->mirror = NULL;
}

/* The lock is held; waits where items that others have in hand may yet make work. */
static enum job take_job(struct worker *worker, const struct plan_item **ret_item,
                         const struct table **ret_table)
{
    struct pool *pool = worker->pool;

    while (!atomic_load(&pool->is_over)) {
        bool has_items = pool->next_item < pool->plan.nitems;

        if (!has_items)
            close_source(worker);
        if (pool->first_unindexed < pool->nunindexed &&
            (!has_items || pool->nindexing < pool->nworkers / 2)) {
            *ret_table = pool->unindexed[pool->first_unindexed++];
            pool->nindexing++;
            return JOB_INDEX;
        }
        if (has_items) {
            *ret_item = &pool->plan.items[pool->next_item++];
            return JOB_ITEM;
        }
        if (pool->progress.tables_copied == pool->progress.tables)
            return JOB_NONE;
        pthread_cond_wait(&pool->changed, &pool->lock);
    }
    return JOB_NONE;
}

/* The first worker that comes to a table prepares it; the others wait for that. */
static bool prepare(struct worker *worker, const struct table *table, struct error *err)
{
    struct pool *pool = worker->pool;
    struct work *work = &pool->works[table->index];
    bool is_mine, is_fine;

    pthread_mutex_lock(&pool->lock);
    is_mine = work->state == WORK_WAITING;
    if (is_mine)
        work->state = WORK_PREPARING;
    while (work->state == WORK_PREPARING && !is_mine && !atomic_load(&pool->is_over))
        pthread_cond_wait(&pool->changed, &pool->lock);
    is_fine = work->state == WORK_PREPARED;
    pthread_mutex_unlock(&pool->lock);
    if (!is_mine)
        return is_fine || error_set(err, ERROR_RETRY, "stopped");

    if (!load_prepare(worker->mirror, pool->options->config->pipeline, table,
                      pool->options->consistent_point, err))
        return false;
    pthread_mutex_lock(&pool->lock);
    work->state = WORK_PREPARED;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    return true;
}

/* Count an item; the worker that did the last one of a table marks it copied. */
static bool finish_item(struct worker *worker, const struct plan_item *item, int64_t rows,
                        struct error *err)
{
    struct pool *pool = worker->pool;
    const struct copy_options *options = pool->options;
    const struct table *table = item->table;
    struct work *work = &pool->works[table->index];
    struct control_table *state = &options->states[table->index];
    bool is_last;

    pthread_mutex_lock(&pool->lock);
    pool->progress.bytes += item->bytes;
    atomic_store(&worker->share, 0);
    work->rows += rows;
    is_last = --work->items_left == 0;
    pthread_mutex_unlock(&pool->lock);
    if (!is_last)
        return true;
    if (!load_finish(worker->mirror, options->config->pipeline, table, options->consistent_point,
                     work->rows, err))
        return false;
    pthread_mutex_lock(&pool->lock);
    state->state = CONTROL_TABLE_COPIED;
    state->copy_lsn = options->consistent_point;
    state->copied_rows = work->rows;
    pool->progress.tables_copied++;
    pool->unindexed[pool->nunindexed++] = table;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    return FAULT(copy_after_table, err);
}

static bool do_item(struct worker *worker, const struct plan_item *item, struct error *err)
{
    struct pool *pool = worker->pool;
    struct load load = {.source = worker->source,
                        .mirror = worker->mirror,
                        .consistent_point = pool->options->consistent_point,
                        .rate = pool->rate,
                        .stop = &pool->is_over,
                        .bytes = &worker->bytes,
                        .rows = &pool->rows};
    int64_t rows;

    atomic_store(&worker->bytes, 0);
    atomic_store(&worker->share, item->bytes);
    if (!prepare(worker, item->table, err) || !load_item(&load, item, &rows, err) ||
        !finish_item(worker, item, rows, err))
        return error_wrap(err, "copying %s", item->table->label);
    return true;
}

static bool do_index(struct worker *worker, const struct table *table, struct error *err)
{
    struct pool *pool = worker->pool;
    struct arena arena = {0};
    struct notes notes = {.arena = &arena};
    bool is_fine = load_index(worker->mirror, pool->options->config->pipeline, table, &notes, err);

    pthread_mutex_lock(&pool->lock);
    pool->nindexing--;
    if (is_fine) {
        pool->options->states[table->index].state = CONTROL_TABLE_INDEXED;
        pool->progress.tables_indexed++;
    }
    for (int i = 0; i < notes.count && pool->options->notes != NULL; i++)
        notes_add(pool->options->notes, "%s", notes.texts[i]);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    arena_release(&arena);
    return is_fine || error_wrap(err, "indexing the copy of %s", table->label);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct pool *pool = worker->pool;
    const struct plan_item *item = NULL;
    const struct table *table = NULL;
    bool is_fine = true;

    while (is_fine) {
        struct error err = {0};
        enum job job;

        pthread_mutex_lock(&pool->lock);
        job = take_job(worker, &item, &table);
        pthread_mutex_unlock(&pool->lock);
        if (job == JOB_NONE)
            break;
        is_fine = job == JOB_ITEM ? do_item(worker, item, &err) : do_index(worker, table, &err);
        if (!is_fine) {
            pthread_mutex_lock(&pool->lock);
            fail(pool, &err);
            pthread_mutex_unlock(&pool->lock);
        }
    }

    pthread_mutex_lock(&pool->lock);
    close_worker(worker);
    pool->nrunning--;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ---- the supervisor ---- */

static void describe(struct copy_progress *progress)
{
    const double mb = 1024 * 1024;
    int len;

    len = snprintf(progress->text, sizeof(progress->text),
                   "%d of %d tables, %" PRId64 " rows, %.0f of %.0f MB, %.1f MB/s",
                   progress->tables_copied, progress->tables, progress->rows,
                   (double) progress->bytes / mb, (double) progress->total_bytes / mb,
                   (double) progress->bytes_per_second / mb);
    if (progress->tables_copied == progress->tables)
        snprintf(progress->text + len, sizeof(progress->text) - (size_t) len, ", %d indexed",
                 progress->tables_indexed);
    else if (progress->eta_us >= 0)
        snprintf(progress->text + len, sizeof(progress->text) - (size_t) len,
                 ", %" PRId64 " s left", progress->eta_us / 1000000);
}

static bool report(struct pool *pool, struct error *err)
{
    const struct copy_options *options = pool->options;
    struct copy_progress progress;
    int64_t passed_us = clock_tick_us() - pool->started_us;

    if (options->progress == NULL)
        return true;
    pthread_mutex_lock(&pool->lock);
    progress = pool->progress;
    for (int i = 0; i < pool->nworkers; i++) {
        int64_t bytes = atomic_load(&pool->workers[i].bytes);
        int64_t share = atomic_load(&pool->workers[i].share);

        progress.bytes += bytes < share ? bytes : share;
    }
    pthread_mutex_unlock(&pool->lock);
    progress.rows = atomic_load(&pool->rows);
    if (passed_us > 0)
        progress.bytes_per_second = (int64_t) ((double) progress.bytes * 1e6 / (double) passed_us);
    progress.eta_us = progress.bytes >= progress.total_bytes ? 0 : -1;
    if (progress.bytes_per_second > 0)
        progress.eta_us = (int64_t) ((double) (progress.total_bytes - progress.bytes) * 1e6 /
                                     (double) progress.bytes_per_second);
    describe(&progress);
    return options->progress(options->context, &progress, err);
}

/*
 * The lock is held.  Said again and again: a worker may be between two statements.  After some
 * seconds nobody answers: then the connections are shut down.
 */
static void cancel_all(struct pool *pool)
{
    void (*end)(struct pg * pg) = pg_cancel;

    if (pool->over_us == 0)
        pool->over_us = clock_tick_us();
    if (clock_tick_us() - pool->over_us > CANCEL_US)
        end = pg_break;
    for (int i = 0; i < pool->nworkers; i++) {
        if (pool->workers[i].source != NULL)
            end(pool->workers[i].source);
        if (pool->workers[i].mirror != NULL)
            end(pool->workers[i].mirror);
    }
}

static struct timespec deadline(int64_t from_now_us)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += (long) (from_now_us * 1000);
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    return at;
}

static void supervise(struct pool *pool)
{
    int64_t reported_us = pool->started_us;

    pthread_mutex_lock(&pool->lock);
    while (pool->nrunning > 0) {
        struct timespec until = deadline(LOOK_US);
        struct error err = {0};
        bool is_fine = true;

        pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
        if (atomic_load(pool->options->stop)) {
            error_set(&err, ERROR_RETRY, "stopped");
            fail(pool, &err);
        }
        if (atomic_load(&pool->is_over))
            cancel_all(pool);
        pthread_mutex_unlock(&pool->lock);
        if (clock_tick_us() - reported_us >= PROGRESS_US) {
            reported_us = clock_tick_us();
            is_fine = report(pool, &err);
        }
        pthread_mutex_lock(&pool->lock);
        if (!is_fine)
            fail(pool, &err);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* ---- setting up ---- */

bool copy_needs_snapshot(const struct table_list *tables, const struct control_table *states)
{
    for (int i = 0; i < tables->count; i++)
        if (states[i].state < CONTROL_TABLE_COPIED)
            return true;
    return false;
}

static void pool_init(struct pool *pool, const struct copy_options *options)
{
    pthread_condattr_t attributes;

    pool->options = options;
    pool->rate = rate_new(options->config->source.max_read_rate_bytes);
    pool->works = arena_new(&pool->arena, struct work, options->tables->count);
    pool->unindexed = arena_new(&pool->arena, const struct table *, options->tables->count);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pool->started_us = clock_tick_us();
}

static void pool_release(struct pool *pool)
{
    for (int i = 0; i < pool->nworkers; i++)
        close_worker(&pool->workers[i]);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->lock);
    rate_free(pool->rate);
    arena_release(&pool->arena);
}

/* Which tables need what. */
static bool sort_tables(struct pool *pool, bool *is_wanted, struct error *err)
{
    const struct copy_options *options = pool->options;

    for (int i = 0; i < options->tables->count; i++) {
        const struct table *table = &options->tables->tables[i];

        switch (options->states[i].state) {
        case CONTROL_TABLE_NEW:
            return error_set(err, ERROR_BUG, "copying %s before it was created", table->label);
        case CONTROL_TABLE_CREATED:
            is_wanted[i] = true;
            pool->progress.tables++;
            break;
        case CONTROL_TABLE_COPIED:
            pool->unindexed[pool->nunindexed++] = table;
            pool->progress.tables++;
            pool->progress.tables_copied++;
            break;
        case CONTROL_TABLE_INDEXED:
        case CONTROL_TABLE_READY:
            break;
        }
    }
    return true;
}

static bool open_source(const struct pool *pool, int number, struct pg **ret_pg, struct error *err)
{
    const struct copy_options *options = pool->options;
    _cleanup_pg_ struct pg *pg = NULL;
    char application[128];

    snprintf(application, sizeof(application), "tailwater %s copy %d", options->config->pipeline,
             number);
    /* Refused rather than silently filtered by row security (P53); and one backend per worker. */
    if (!pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                         .conninfo = options->config->source.conninfo,
                                         .application = application,
                                         .settings = "-c row_security=off "
                                                     "-c max_parallel_workers_per_gather=0"},
                    &pg, err) ||
        !snapshot_import(pg, options->snapshot, err))
        return false;
    *ret_pg = pg;
    pg = NULL;
    return true;
}

static bool open_mirror(const struct pool *pool, int number, struct pg **ret_pg, struct error *err)
{
    const struct config *config = pool->options->config;
    char application[128], settings[128];
    /* For building indexes: 256 MB each, and not more than 1 GB for all. */
    int memory_mb = pool->nworkers <= 4 ? 256 : 1024 / pool->nworkers;

    snprintf(application, sizeof(application), "tailwater %s copy %d", config->pipeline, number);
    snprintf(settings, sizeof(settings), "-c synchronous_commit=off -c maintenance_work_mem=%dMB",
             memory_mb);
    return pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                           .conninfo = config->mirror.conninfo,
                                           .application = application,
                                           .settings = settings},
                      ret_pg, err);
}

/* Everything before the first worker starts: plan, connections, snapshot. */
static bool set_up(struct pool *pool, struct error *err)
{
    const struct copy_options *options = pool->options;
    bool *is_wanted = arena_new(&pool->arena, bool, options->tables->count);
    _cleanup_pg_ struct pg *first = NULL;
    int njobs;

    if (!sort_tables(pool, is_wanted, err))
        return false;
    if (pool->progress.tables_copied < pool->progress.tables) {
        if (options->snapshot == NULL)
            return error_set(err, ERROR_BUG, "tables are to be copied without a snapshot");
        if (!open_source(pool, 1, &first, err) ||
            !plan_make(first, options->tables, is_wanted,
                       options->item_bytes ? options->item_bytes : PLAN_ITEM_BYTES, &pool->arena,
                       &pool->plan, err))
            return false;
    }
    for (int i = 0; i < pool->plan.nitems; i++)
        pool->works[pool->plan.items[i].table->index].items_left++;
    pool->progress.total_bytes = pool->plan.bytes;
    pool->progress.estimated_rows = pool->plan.rows;

    njobs = pool->plan.nitems > pool->progress.tables ? pool->plan.nitems : pool->progress.tables;
    pool->nworkers = options->config->copy.workers < njobs ? options->config->copy.workers : njobs;
    pool->workers = arena_new(&pool->arena, struct worker, pool->nworkers);
    for (int i = 0; i < pool->nworkers; i++) {
        struct worker *worker = &pool->workers[i];

        worker->pool = pool;
        worker->source = first;
        first = NULL;
        if (atomic_load(options->stop))
            return error_set(err, ERROR_RETRY, "stopped");
        if ((pool->plan.nitems > 0 && worker->source == NULL &&
             !open_source(pool, i + 1, &worker->source, err)) ||
            !open_mirror(pool, i + 1, &worker->mirror, err))
            return false;
    }
    if (pool->plan.nitems > 0 && options->on_imported != NULL)
        options->on_imported(options->context);
    return true;
}

static bool run_workers(struct pool *pool, struct error *err)
{
    int nstarted = 0;

    pthread_mutex_lock(&pool->lock);
    while (nstarted < pool->nworkers) {
        struct worker *worker = &pool->workers[nstarted];
        int failed = pthread_create(&worker->thread, NULL, work, worker);

        if (failed != 0) {
            struct error cannot = {0};

            error_set(&cannot, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
            fail(pool, &cannot);
            break;
        }
        nstarted++;
    }
    pool->nrunning = nstarted;
    pthread_mutex_unlock(&pool->lock);
    supervise(pool);
    for (int i = 0; i < nstarted; i++)
        pthread_join(pool->workers[i].thread, NULL);
    if (!atomic_load(&pool->is_over))
        return report(pool, err);
    *err = pool->error;
    return false;
}

bool copy_run(const struct copy_options *options, struct error *err)
{
    struct pool pool = {0};
    bool is_fine;

    pool_init(&pool, options);
    is_fine = set_up(&pool, err) && (pool.nworkers == 0 || run_workers(&pool, err));
    pool_release(&pool);
    return is_fine;
}
