/*
 * What was said lives as long as the process: a session that begins anew says nothing twice.  After a
 * restart it is said once more, as a quarantine is.
 */
#include "engine/volumes.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "batch/volume.h"
#include "mirror/freshness.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A statement at the begin or at the end of a session. */
#define LIMIT_MS 2000

/* One log line for each table up to here; more are one line. */
#define MAX_LINES 5

/* A table or a fact that was said to be unusual. */
struct said {
    char *label;
    enum freshness_state state; /* as said last */
    struct said *next;
};

static struct said *said;

/* The session began here, and the server does not know; 0: it does. */
static lsn_t unbegun_lsn;

/* This process: parcels are numbered in it. */
static const char *run(void)
{
    static char name[48];

    if (name[0] == '\0')
        snprintf(name, sizeof(name), "%d at %" PRId64, (int) getpid(), clock_now_us());
    return name;
}

/* Where the server does not know yet that this session began, no parcel says so: it would look as if
 * the one before it had stored everything. */
bool volumes_store(struct pg *lock, const char *pipeline, int64_t complete_us, struct error *err)
{
    if (unbegun_lsn != 0) {
        if (!freshness_begin(lock, pipeline, unbegun_lsn, err))
            return false;
        unbegun_lsn = 0;
    }
    return freshness_store(lock, pipeline, run(), complete_us, err);
}

static bool store_all(struct pg *lock, const char *pipeline, int64_t complete_us, struct error *err)
{
    while (volume_is_waiting())
        if (!volumes_store(lock, pipeline, complete_us, err))
            return false;
    return true;
}

bool volumes_begin(struct pg *lock, const char *pipeline, lsn_t lsn, struct error *err)
{
    struct error failure = {0};
    bool is_ok;

    pg_limit(lock, LIMIT_MS, -1);
    is_ok = store_all(lock, pipeline, 0, &failure) &&
            freshness_begin(lock, pipeline, lsn, &failure);
    pg_limit(lock, 0, -1);
    if (!is_ok && pg_is_broken(lock)) {
        *err = failure;
        return false;
    }
    if (!is_ok)
        log_error(LOG_WARNING, "freshness_failed", &failure);
    unbegun_lsn = is_ok ? 0 : lsn;
    volume_begin(lsn);
    return true;
}

void volumes_finish(struct pg *lock, const char *pipeline, int64_t complete_us)
{
    struct error err = {0};
    bool is_ok;

    if (pg_is_broken(lock))
        return;
    pg_limit(lock, LIMIT_MS, -1);
    is_ok = volumes_store(lock, pipeline, complete_us, &err) &&
            store_all(lock, pipeline, complete_us, &err);
    pg_limit(lock, 0, -1);
    if (!is_ok)
        log_error(LOG_WARNING, "freshness_failed", &err);
}

/* ---- the log ---- */

static struct said *find(const struct freshness *table)
{
    struct said *one = said;

    while (one != NULL && strcmp(one->label, table->label) != 0)
        one = one->next;
    if (one == NULL && freshness_event(table->state) != NULL) {
        one = memory_new(struct said);
        one->label = memory_strdup(table->label);
        one->state = FRESHNESS_USUAL;
        one->next = said;
        said = one;
    }
    return one;
}

static void say(const struct freshness *first, int count)
{
    if (count == 1)
        log_event(LOG_WARNING, freshness_event(first->state), "%s; %s", first->words, first->next);
    else
        log_event(LOG_WARNING, freshness_event(first->state),
                  "%d %s are %s; %s; %s; tailwater status has the others", count,
                  first->schema != NULL ? "tables" : "facts", freshness_state_name(first->state),
                  first->words, first->next);
}

/* Tables that are so since the last look: a line each, or one for all. */
static void say_state(const struct freshness *tables, int count, enum freshness_state state)
{
    const struct freshness *first = NULL;
    int nnew = 0;

    for (int i = 0; i < count; i++)
        if (tables[i].state == state && find(&tables[i])->state != state) {
            first = first == NULL ? &tables[i] : first;
            nnew++;
        }
    if (nnew > MAX_LINES)
        say(first, nnew);
    for (int i = 0; i < count; i++)
        if (tables[i].state == state && find(&tables[i])->state != state) {
            if (nnew <= MAX_LINES)
                say(&tables[i], 1);
            find(&tables[i])->state = state;
        }
}

/* Unknown is not over: a table in quarantine is as it was when it left. */
static void say_over(const struct freshness *table)
{
    struct said *one = find(table);

    if (one == NULL || freshness_event(one->state) == NULL || table->state == FRESHNESS_UNKNOWN ||
        freshness_event(table->state) != NULL)
        return;
    log_event(LOG_INFO, "table_fresh", "%s is no longer %s", table->label,
              freshness_state_name(one->state));
    one->state = table->state;
}

static void say_all(const struct freshness *list, int count)
{
    for (int state = FRESHNESS_STALE; state <= FRESHNESS_HIGH; state++)
        say_state(list, count, (enum freshness_state) state);
    for (int i = 0; i < count; i++)
        say_over(&list[i]);
}

bool volumes_look(struct pg *lock, const struct config *config, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct freshness *tables, *facts;
    int ntables, nfacts;

    if (!freshness_list(lock, config, &arena, &ntables, &tables, err) ||
        !freshness_list_facts(lock, config, &arena, &nfacts, &facts, err))
        return false;
    say_all(tables, ntables);
    say_all(facts, nfacts);
    return true;
}
