/*
 * One table of facts under one mutex; workers take what is due from it, do one transaction, and put
 * down what they found.  Of a fact one worker refreshes at a time, since the target's lock would let
 * no other; any number of them work on chunks of its backfill, as far as that has slots.  What is
 * fresh goes before any chunk.
 *
 * The thread that started them listens for NOTIFY, which only makes a fact due earlier: without it
 * each is looked at every LOOK_US.
 */
#include "engine/refresher.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/pause.h"
#include "refresh/refresh.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_US        5000000
#define BUSY_US        100000 /* all chunks are in others' hands */
#define TURN_MS        20
#define LISTEN_MS      500
#define FIRST_PAUSE_MS 1000
#define LONGEST_MS     60000
#define MAX_WORKERS    64
#define MAX_TRIES      4            /* of a verb, where the same again may work */
#define CHANNEL        "tailwater_" /* and the fact's name (src/ledger/notify.h) */

enum task { TASK_NONE, TASK_FRESH, TASK_CHUNK };

struct duty {
    const struct config_fact *fact;
    bool is_busy;      /* somebody refreshes it */
    int nchunks;       /* in work here */
    int64_t due_us;    /* the next look for fresh keys, clock_tick_us() … */
    int64_t chunk_us;  /* … and for chunks */
    int64_t began_us;  /* of the last refresh: for every */
    int64_t pause_ms;  /* after the next failure */
    int ntries[3];     /* that failed in a row, by task */
    bool is_idle;      /* nothing fresh when looked at last … */
    bool has_no_chunk; /* … and no chunk */
};

struct crew {
    struct refresher *refresher;
    pthread_mutex_t mutex;
    int nduties;
    struct duty *duties;
    int next; /* who is asked first, in turns */
    bool is_over;
};

static bool is_ended(struct crew *crew)
{
    bool is_over;

    pthread_mutex_lock(&crew->mutex);
    is_over = crew->is_over;
    pthread_mutex_unlock(&crew->mutex);
    return is_over || *crew->refresher->stop;
}

static void end(struct crew *crew, const struct error *err)
{
    pthread_mutex_lock(&crew->mutex);
    if (err != NULL && !crew->refresher->has_error) {
        crew->refresher->error = *err;
        crew->refresher->has_error = true;
    }
    crew->is_over = true;
    pthread_mutex_unlock(&crew->mutex);
}

/* ---- who does what ---- */

static enum task pick(struct crew *crew, struct duty **ret_duty)
{
    const int64_t now = clock_tick_us();
    enum task task = TASK_NONE;

    pthread_mutex_lock(&crew->mutex);
    for (int pass = TASK_FRESH; pass <= TASK_CHUNK && task == TASK_NONE; pass++)
        for (int i = 0; i < crew->nduties && task == TASK_NONE; i++) {
            struct duty *duty = &crew->duties[(crew->next + i) % crew->nduties];

            if (pass == TASK_FRESH
                    ? crew->refresher->backfill != 0 || duty->is_busy || duty->due_us > now
                    : duty->chunk_us > now)
                continue;
            task = (enum task) pass;
            duty->is_busy |= task == TASK_FRESH;
            duty->nchunks += task == TASK_CHUNK;
            *ret_duty = duty;
            crew->next = (crew->next + i + 1) % crew->nduties;
        }
    pthread_mutex_unlock(&crew->mutex);
    return task;
}

/* Is there nothing left of anything? */
static bool is_all_idle(const struct crew *crew)
{
    for (int i = 0; i < crew->nduties; i++) {
        const struct duty *duty = &crew->duties[i];

        if (duty->is_busy || duty->nchunks > 0 || !duty->is_idle || !duty->has_no_chunk)
            return false;
    }
    return true;
}

/* found: there may be more of it at once. */
static void put_fresh(struct crew *crew, struct duty *duty, bool is_found, bool is_planned)
{
    const int64_t now = clock_tick_us(), every_us = duty->fact->refresh.every_us;

    pthread_mutex_lock(&crew->mutex);
    duty->is_busy = false;
    duty->is_idle = !is_found;
    duty->pause_ms = 0;
    duty->ntries[TASK_FRESH] = 0;
    /* A notification that came meanwhile may speak of what this look has not seen. */
    if (is_found || duty->due_us > duty->began_us)
        duty->due_us = now;
    else
        duty->due_us = now + LOOK_US;
    if (!is_found && every_us > 0 && duty->due_us < duty->began_us + every_us)
        duty->due_us = duty->began_us + every_us;
    if (is_planned) {
        duty->chunk_us = now;
        duty->has_no_chunk = false;
    }
    if (crew->refresher->is_until_idle && is_all_idle(crew))
        crew->is_over = true;
    pthread_mutex_unlock(&crew->mutex);
}

static void put_chunk(struct crew *crew, struct duty *duty, const struct backfill_outcome *outcome)
{
    const int64_t now = clock_tick_us();

    pthread_mutex_lock(&crew->mutex);
    duty->nchunks--;
    if (outcome->is_found)
        duty->ntries[TASK_CHUNK] = 0;
    duty->has_no_chunk = !outcome->is_found && !outcome->is_waiting;
    duty->chunk_us = outcome->is_found ? now : outcome->is_waiting ? now + BUSY_US : now + LOOK_US;
    if (crew->refresher->is_until_idle && is_all_idle(crew))
        crew->is_over = true;
    pthread_mutex_unlock(&crew->mutex);
}

/* How often that was so, in a row. */
static int put_failed(struct crew *crew, struct duty *duty, enum task task)
{
    const int64_t now = clock_tick_us();
    int ntries;

    pthread_mutex_lock(&crew->mutex);
    duty->pause_ms = duty->pause_ms == 0               ? FIRST_PAUSE_MS
                     : duty->pause_ms * 2 > LONGEST_MS ? LONGEST_MS
                                                       : duty->pause_ms * 2;
    if (task == TASK_FRESH) {
        duty->is_busy = false;
        duty->due_us = now + duty->pause_ms * 1000;
    } else {
        duty->nchunks--;
        duty->chunk_us = now + duty->pause_ms * 1000;
    }
    ntries = ++duty->ntries[task];
    pthread_mutex_unlock(&crew->mutex);
    return ntries;
}

/* ---- doing it ---- */

static bool open_target(struct refresh *refresh, const struct duty *duty,
                        struct target **ret_target, struct error *err)
{
    struct arena arena = {0};
    struct notes notes = {.arena = &arena};
    const bool is_ok = refresh_open(refresh, duty->fact, &notes, ret_target, err);

    for (int i = 0; is_ok && i < notes.count; i++)
        log_event(LOG_INFO, "refresh", "%s", notes.texts[i]);
    arena_release(&arena);
    return is_ok;
}

static void account(struct crew *crew, const struct duty *duty,
                    const struct refresh_outcome *outcome)
{
    struct refresher *refresher = crew->refresher;

    if (outcome->step == REFRESH_NOTHING)
        return;
    refresher->windows++;
    refresher->took_us += outcome->took_us;
    refresher->keys += outcome->counts.keys;
    refresher->inserted += outcome->counts.inserted;
    refresher->updated += outcome->counts.updated;
    refresher->deleted += outcome->counts.deleted;
    refresher->failed += outcome->failed;
    if (outcome->step == REFRESH_EVERYTHING)
        log_event(LOG_INFO, "refresh_everything",
                  "everything of fact %s is computed again, as backfill %" PRId64, duty->fact->name,
                  outcome->backfill);
    else
        log_event(LOG_DEBUG, "refreshed",
                  "fact %s: %" PRId64 " keys%s in %" PRId64 " ms; %" PRId64
                  " rows inserted, %" PRId64 " updated, %" PRId64 " deleted",
                  duty->fact->name, outcome->counts.keys,
                  outcome->step == REFRESH_RETRY ? " once more" : "", outcome->took_us / 1000,
                  outcome->counts.inserted, outcome->counts.updated, outcome->counts.deleted);
    if (outcome->failed > 0)
        log_event(LOG_WARNING, "refresh_keys_failed",
                  "fact %s: %" PRId64
                  " keys cannot be computed; the others go on: tailwater ledger "
                  "status shows the error",
                  duty->fact->name, outcome->failed);
}

/* A window, or else what failed before and is due. */
static bool do_fresh(struct crew *crew, struct refresh *refresh, struct duty *duty,
                     struct error *err)
{
    struct refresh_outcome outcome = {.step = REFRESH_NOTHING};
    struct target *target;

    pthread_mutex_lock(&crew->mutex);
    duty->began_us = clock_tick_us();
    duty->due_us = 0; /* whoever is told of news from here on sets it */
    pthread_mutex_unlock(&crew->mutex);
    if (!open_target(refresh, duty, &target, err) ||
        !refresh_window(refresh, target, &outcome, err) ||
        (outcome.step == REFRESH_NOTHING && !refresh_retry(refresh, target, &outcome, err)))
        return false;
    account(crew, duty, &outcome);
    put_fresh(crew, duty, outcome.step != REFRESH_NOTHING, outcome.step == REFRESH_EVERYTHING);
    return true;
}

static void say_ended(const struct duty *duty, const struct backfill_outcome *outcome)
{
    const bool is_done = strcmp(outcome->state, "done") == 0;

    log_event(is_done ? LOG_INFO : LOG_ERROR, is_done ? "backfill_done" : "backfill_failed",
              "backfill %" PRId64 " of fact %s (%s) is %s", outcome->id, duty->fact->name,
              outcome->kind, is_done ? "done" : "ended, with chunks that failed");
}

static bool step_on(struct refresh *refresh, struct target *target, int64_t backfill,
                    struct backfill_outcome *ret_outcome, struct error *err)
{
    if (!refresh_chunk(refresh, target, backfill, ret_outcome, err))
        return false;
    if (ret_outcome->unsettled.kind != ERROR_NONE)
        log_error(LOG_WARNING, "fillfactor_kept", &ret_outcome->unsettled);
    return true;
}

/* Of a fact one backfill runs at a time: one that nobody else works on, since no replicator runs, would
 * be waited for without end. */
static bool clear_the_way(const struct refresher *refresher, struct refresh *refresh,
                          struct target *target, struct backfill_outcome *outcome,
                          struct error *err)
{
    struct backfill_outcome other;

    if (refresher->backfill == 0 || outcome->is_found || !outcome->is_waiting)
        return true;
    if (!step_on(refresh, target, 0, &other, err))
        return false;
    if (other.is_found)
        *outcome = other;
    return true;
}

static bool do_chunk(struct crew *crew, struct refresh *refresh, struct duty *duty,
                     struct error *err)
{
    struct refresher *refresher = crew->refresher;
    struct backfill_outcome outcome;
    struct target *target;

    if (!open_target(refresh, duty, &target, err) ||
        !step_on(refresh, target, refresher->backfill, &outcome, err) ||
        !clear_the_way(refresher, refresh, target, &outcome, err))
        return false;
    refresher->chunks += outcome.is_found;
    refresher->took_us += outcome.took_us;
    refresher->keys += outcome.counts.keys;
    refresher->inserted += outcome.counts.inserted;
    refresher->updated += outcome.counts.updated;
    refresher->deleted += outcome.counts.deleted;
    refresher->failed += outcome.failed;
    if (outcome.is_ended)
        say_ended(duty, &outcome);
    if (outcome.is_found && outcome.share < 100)
        pause_for(&(struct pause){.wake_fd = refresher->wake_fd},
                  (int) (outcome.took_us / 1000 * (100 - outcome.share) / outcome.share));
    put_chunk(crew, duty, &outcome);
    return true;
}

static bool has_backfill_ended(struct crew *crew, struct refresh *refresh, bool *ret_has,
                               struct error *err)
{
    struct backfill_state state;

    *ret_has = false;
    if (crew->refresher->backfill == 0)
        return true;
    if (!backfill_look(refresh_connection(refresh), crew->refresher->config->pipeline,
                       crew->refresher->backfill, &state, err))
        return false;
    *ret_has = strcmp(state.state, "running") != 0 && strcmp(state.state, "paused") != 0;
    return true;
}

/* True: the connection is as good as before. */
static bool handle_failure(struct crew *crew, struct refresh *refresh, const struct duty *duty,
                           enum task task, int ntries, const struct error *err)
{
    struct refresher *refresher = crew->refresher;
    const bool is_verb = refresher->is_until_idle || refresher->backfill != 0;
    struct error ignored;

    if (*refresher->stop)
        return false;
    if (err->kind == ERROR_RETRY ? is_verb && ntries >= MAX_TRIES : refresher->is_until_idle)
        end(crew, err);
    else
        log_error(LOG_WARNING, "refresh_failed", err);
    if (!pg_is_broken(refresh_connection(refresh)) && task == TASK_FRESH)
        (void) refresh_say_failure(refresh, duty->fact->name, err, &ignored);
    return err->kind == ERROR_RETRY && !pg_is_broken(refresh_connection(refresh));
}

/* False where the connection is to be made anew. */
static bool do_task(struct crew *crew, struct refresh *refresh)
{
    struct duty *duty = NULL;
    const enum task task = pick(crew, &duty);
    bool has_ended = false, is_good = true;
    struct error err;

    if (task == TASK_NONE) {
        pause_for(&(struct pause){.wake_fd = crew->refresher->wake_fd}, TURN_MS);
        return true;
    }
    if (task == TASK_FRESH ? !do_fresh(crew, refresh, duty, &err)
                           : !do_chunk(crew, refresh, duty, &err)) {
        const int ntries = put_failed(crew, duty, task);

        is_good = handle_failure(crew, refresh, duty, task, ntries, &err);
    }
    if (task == TASK_CHUNK && !pg_is_broken(refresh_connection(refresh)) &&
        has_backfill_ended(crew, refresh, &has_ended, &err) && has_ended)
        end(crew, NULL);
    return is_good;
}

/* What a verb says is done is on the disk. */
static void flush(struct crew *crew, struct refresh *refresh)
{
    struct refresher *refresher = crew->refresher;
    const int64_t began_us = clock_tick_us();
    struct error err;

    if (refresher->only == NULL || *refresher->stop || pg_is_broken(refresh_connection(refresh)))
        return;
    if (!refresh_flush(refresh, &err))
        end(crew, &err);
    refresher->took_us += clock_tick_us() - began_us;
}

static void *work(void *arg)
{
    struct crew *crew = arg;
    struct refresher *refresher = crew->refresher;
    const struct refresh_options options = {.config = refresher->config,
                                            .application = "tailwater refresher",
                                            .wake_fd = refresher->wake_fd};
    struct pause pause = {refresher->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};

    while (!is_ended(crew)) {
        struct refresh *refresh;
        struct error err;

        if (!refresh_new(&options, &refresh, &err)) {
            if (refresher->is_until_idle || refresher->backfill != 0)
                end(crew, &err);
            else
                log_error(LOG_WARNING, "refresh_failed", &err);
            pause_after_failure(&pause);
            continue;
        }
        pause_reset(&pause);
        while (!is_ended(crew) && do_task(crew, refresh))
            ;
        flush(crew, refresh);
        refresh_free(refresh);
    }
    return NULL;
}

/* ---- news ---- */

static bool listen_all(struct crew *crew, struct pg *pg, struct error *err)
{
    for (int i = 0; i < crew->nduties; i++)
        if (!pg_execf(pg, err, "listen " CHANNEL "%s", crew->duties[i].fact->name))
            return false;
    return true;
}

/* The fact that there is news of is due; the others have nothing new. */
static void note_news(void *context, const char *channel, const char *payload)
{
    struct crew *crew = context;

    (void) payload;
    pthread_mutex_lock(&crew->mutex);
    for (int i = 0; i < crew->nduties; i++) {
        struct duty *duty = &crew->duties[i];
        const int64_t now = clock_tick_us(), every_us = duty->fact->refresh.every_us;

        if (duty->pause_ms > 0 || strcmp(channel + strlen(CHANNEL), duty->fact->name) != 0)
            continue;
        duty->due_us = every_us > 0 && duty->began_us + every_us > now && !duty->is_busy
                           ? duty->began_us + every_us
                           : now;
    }
    pthread_mutex_unlock(&crew->mutex);
}

static bool hear(struct crew *crew, struct error *err)
{
    const struct refresher *refresher = crew->refresher;
    _cleanup_pg_ struct pg *pg = NULL;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = refresher->config->mirror.conninfo,
                                         .application = "tailwater refresher news"},
                    &pg, err) ||
        !listen_all(crew, pg, err))
        return false;
    while (!is_ended(crew))
        if (!pg_wait_heard(pg, LISTEN_MS, refresher->wake_fd, note_news, crew, err))
            return false;
    return true;
}

/* A verb looks by itself. */
static void wait_for_end(struct crew *crew)
{
    const struct refresher *refresher = crew->refresher;
    struct pause pause = {refresher->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};

    while (!is_ended(crew)) {
        struct error err;

        if (refresher->is_until_idle || refresher->backfill != 0) {
            pause_for(&pause, TURN_MS);
        } else if (!hear(crew, &err) && !is_ended(crew)) {
            log_error(LOG_WARNING, "refresh_failed", &err);
            pause_after_failure(&pause);
        }
    }
}

/* ---- the crew ---- */

static void find_duties(struct crew *crew)
{
    const struct config *config = crew->refresher->config;

    crew->duties = memory_alloc(sizeof(struct duty) * (size_t) (config->nfacts + 1));
    for (int i = 0; i < config->nfacts; i++)
        if (config->facts[i].refresh.is_declared &&
            (crew->refresher->only == NULL || crew->refresher->only == &config->facts[i]))
            crew->duties[crew->nduties++] = (struct duty){.fact = &config->facts[i]};
}

void *refresher_run(void *arg)
{
    struct refresher *refresher = arg;
    struct crew crew = {.refresher = refresher, .mutex = PTHREAD_MUTEX_INITIALIZER};
    const int wanted = refresher->workers > 0 ? refresher->workers
                                              : refresher->config->refresh.workers;
    pthread_t threads[MAX_WORKERS];
    int nthreads = 0;

    find_duties(&crew);
    while (crew.nduties > 0 && nthreads < wanted && nthreads < MAX_WORKERS) {
        const int failed = pthread_create(&threads[nthreads], NULL, work, &crew);

        if (failed != 0) {
            struct error err;

            error_set(&err, ERROR_FAILED, "cannot start a thread: %s", strerror(failed));
            log_error(LOG_ERROR, "refresh_failed", &err);
            if (nthreads == 0)
                end(&crew, &err);
            break;
        }
        nthreads++;
    }
    if (nthreads > 0)
        wait_for_end(&crew);
    for (int i = 0; i < nthreads; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&crew.mutex);
    free(crew.duties);
    return NULL;
}
