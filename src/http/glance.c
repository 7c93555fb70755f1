/* Reasons and remarks are counts and kinds, no names: this is what a probe without a token gets to see. */
#include "http/glance.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/memory.h"
#include "http/metrics.h"

#include <stdlib.h>

/* ---- ready? ---- */

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

static void add_remarks(const struct status *status, struct buf *remarks)
{
    if (status->level == STATUS_WATCH)
        buf_printf(remarks, "to be looked at: %s\n", status->state);
    for (int i = 0; i < status->ntroubles; i++)
        buf_printf(remarks, "to be looked at: %s\n", status->troubles[i].event);
}

/* ---- the glance ---- */

struct glance *glance_take(const struct config *config, struct status_connections *connections)
{
    struct glance *glance = memory_new(struct glance);

    glance->tick_us = clock_tick_us();
    status_look(config, connections, &glance->arena, &glance->status);
    for (int i = 0; i < OVERVIEW_PARTS && glance->status.is_known; i++)
        if (!overview_is_slow(i))
            glance->nfailed += !overview_read(connections->mirror, config->pipeline, i,
                                              &glance->overview);
    add_reasons(&glance->status, &glance->reasons);
    add_remarks(&glance->status, &glance->remarks);
    glance->took_us = clock_tick_us() - glance->tick_us;
    return glance;
}

void glance_free(struct glance *glance)
{
    if (glance == NULL)
        return;
    arena_release(&glance->arena);
    overview_release(&glance->overview);
    buf_release(&glance->reasons);
    buf_release(&glance->remarks);
    buf_release(&glance->json);
    buf_release(&glance->metrics);
    free(glance);
}

/* What was collected of a pipeline that is not there any more, or cannot be seen, says nothing. */
static const struct collection *give(struct glance *glance, const struct collection *collection)
{
    if (!glance->status.is_known || collection == NULL)
        return NULL;
    control_give_sizes(collection->sizes, collection->nsizes, glance->status.tables,
                       glance->status.ntables);
    return collection;
}

/* Is that text to be made, with that collection?  Then it is empty. */
static bool is_due(struct buf *text, int64_t *collect_us, const struct collection *collection)
{
    const int64_t now_us = collection != NULL ? collection->tick_us : 0;

    if (text->len > 0 && *collect_us == now_us)
        return false;
    *collect_us = now_us;
    buf_clear(text);
    return true;
}

const struct buf *glance_json(struct glance *glance, const struct collection *collection)
{
    struct overview all = glance->overview; /* borrowed, as what is added to it */

    collection = give(glance, collection);
    if (!is_due(&glance->json, &glance->json_collect_us, collection))
        return &glance->json;
    for (int i = 0; i < OVERVIEW_PARTS && collection != NULL; i++)
        if (overview_is_slow(i))
            all.parts[i] = collection->overview.parts[i];
    overview_add_json(&glance->status, &all, collection ? collection->at_us : 0, &glance->json);
    buf_add_char(&glance->json, '\n');
    return &glance->json;
}

const struct buf *glance_metrics(struct glance *glance, const struct collection *collection,
                                 const char *version)
{
    collection = give(glance, collection);
    if (!is_due(&glance->metrics, &glance->metrics_collect_us, collection))
        return &glance->metrics;
    metrics_add(&glance->status, version, &glance->metrics);
    if (collection != NULL)
        buf_add_bytes(&glance->metrics, collection->metrics.data, collection->metrics.len);
    return &glance->metrics;
}
