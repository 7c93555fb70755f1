/* The applier's counters say when there is something new; the table is looked at seldom besides,
 * for what others may have left there. */
#include "engine/expander.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/pause.h"
#include "ledger/expansion.h"

#define TURN_MS        50
#define EAGER_US       2000000
#define LOOK_US        5000000
#define DERIVED_US     500000 /* refreshes leave entries too, and count them nowhere */
#define FIRST_PAUSE_MS 1000
#define LONGEST_MS     60000

static int64_t count_entries(const struct expander *expander)
{
    int64_t count = 0;

    for (int i = 0; i < expander->facts->count; i++)
        for (int j = 1; j < expander->facts->facts[i].nnodes; j++)
            count += expander->facts->facts[i].nodes[j].counts->entries;
    return count;
}

static int64_t look_us(const struct expander *expander)
{
    for (int i = 0; i < expander->facts->count; i++)
        for (int j = 1; j < expander->facts->facts[i].nnodes; j++)
            if (expander->facts->facts[i].nodes[j].table->is_derived)
                return DERIVED_US;
    return LOOK_US;
}

static bool work_off(struct expander *expander, struct expansion *expansion, struct error *err)
{
    bool is_found = true;

    while (is_found && !*expander->stop) {
        const char *suspended;

        if (!expansion_next(expansion, &is_found, &suspended, err))
            return false;
        if (suspended != NULL)
            log_event(LOG_ERROR, "fact_suspended",
                      "the key of fact %s cannot be computed for a row: the fact gets no keys; it "
                      "begins with everything at the next start",
                      suspended);
    }
    return true;
}

/* Until it fails or the session ends. */
static bool serve(struct expander *expander, const struct pause *pause, struct error *err)
{
    const struct expansion_options options = {.conninfo = expander->config->mirror.conninfo,
                                              .pipeline = expander->config->pipeline,
                                              .facts = expander->facts,
                                              .stop = expander->stop,
                                              .wake_fd = expander->wake_fd};
    struct expansion *expansion;
    int64_t seen = 0, changed_us = clock_tick_us(), looked_us = 0;
    bool is_ok = true;

    if (!expansion_new(&options, &expansion, err))
        return false;
    while (is_ok && !*expander->stop) {
        const int64_t count = count_entries(expander), now = clock_tick_us();

        if (count != seen)
            changed_us = now;
        seen = count;
        /* What is counted is not committed at once. */
        if (now - changed_us < EAGER_US || now - looked_us >= look_us(expander)) {
            looked_us = now;
            is_ok = work_off(expander, expansion, err);
        }
        pause_for(pause, TURN_MS);
    }
    expansion_free(expansion);
    return is_ok;
}

void *expander_run(void *arg)
{
    struct expander *expander = arg;
    struct pause pause = {expander->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    struct error err;

    /* Facts without dimensions defer nothing. */
    while (!*expander->stop && expander->facts->count > 0) {
        const int64_t began_us = clock_tick_us();

        if (serve(expander, &pause, &err) || *expander->stop)
            break;
        log_error(LOG_WARNING, "fan_out_failed", &err);
        if (clock_tick_us() - began_us > LONGEST_MS * 1000)
            pause_reset(&pause);
        pause_after_failure(&pause);
    }
    return NULL;
}
