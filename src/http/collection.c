/*
 * One statement a subject, each for all tables or facts at once, over a connection of its own.  A
 * part that fails is left out, as long as the server answers at all.
 */
#include "http/collection.h"

#include "base/clock.h"
#include "base/memory.h"
#include "http/metrics.h"
#include "mirror/status.h"

#include <stdlib.h>

/* Of a table that somebody has exclusively the size is not waited for for ever. */
#define SETTINGS "-c statement_timeout=10s -c max_parallel_workers_per_gather=0 -c jit=off"

bool collection_connect(const struct config *config, struct pg **connection, struct error *err)
{
    _cleanup_buf_ struct buf application = {0};

    if (*connection != NULL && !pg_is_broken(*connection))
        return true;
    pg_free(*connection);
    *connection = NULL;
    buf_printf(&application, "tailwater %s collect", config->pipeline);
    return pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                           .conninfo = config->mirror.conninfo,
                                           .application = buf_text(&application),
                                           .settings = SETTINGS,
                                           .connect_timeout_s = STATUS_CONNECT_TIMEOUT_S},
                      connection, err);
}

struct collection *collection_read(const struct config *config, bool with_sizes,
                                   struct pg **connection, struct error *err)
{
    struct collection *collection;
    struct error left_out;

    if (!collection_connect(config, connection, err) || !control_require(*connection, err))
        return NULL;
    collection = memory_new(struct collection);
    collection->at_us = clock_now_us();
    collection->tick_us = clock_tick_us();
    if (with_sizes && control_measure_tables(*connection, config->pipeline, &collection->arena,
                                             &collection->nsizes, &collection->sizes, &left_out))
        collection->measured_us = collection->tick_us;
    else
        collection->nfailed += with_sizes;
    for (int i = 0; i < OVERVIEW_PARTS; i++)
        if (overview_is_slow(i))
            collection->nfailed += !overview_read(*connection, config->pipeline, i,
                                                  &collection->overview);
    collection->nfailed += metrics_collect(*connection, config->pipeline, &collection->metrics);
    collection->took_us = clock_tick_us() - collection->tick_us;
    return collection;
}

void collection_take_sizes(struct collection *collection, struct collection *former)
{
    collection->arena = former->arena;
    collection->measured_us = former->measured_us;
    collection->sizes = former->sizes;
    collection->nsizes = former->nsizes;
    former->arena = (struct arena){0};
    former->sizes = NULL;
    former->nsizes = 0;
}

void collection_free(struct collection *collection)
{
    if (collection == NULL)
        return;
    arena_release(&collection->arena);
    overview_release(&collection->overview);
    buf_release(&collection->metrics);
    free(collection);
}
