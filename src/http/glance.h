/* A glance at a pipeline: what has to be current, asked with a number of statements that does not depend on
 * how many tables and facts there are. */
#ifndef TAILWATER_GLANCE_H
#define TAILWATER_GLANCE_H

#include "http/collection.h"
#include "mirror/status.h"

struct glance {
    struct arena arena;
    struct status status;     /* arena's */
    struct overview overview; /* its parts that are not slow */
    struct buf reasons;       /* why it is not ready, a line each; empty where it is */
    struct buf remarks;       /* what is to be looked at all the same, a line each */
    int nfailed;

    int64_t tick_us, took_us; /* clock_tick_us() when it began, and how long it took */

    /* Made when somebody asks for them first, and again with another collection. */
    struct buf json;            /* as tailwater status --json */
    struct buf metrics;         /* Prometheus text format 0.0.4, without its end */
    int64_t json_collect_us;    /* the collection's tick_us that is in json; 0: none … */
    int64_t metrics_collect_us; /* … and in metrics */
};

/* Waits for servers that do not answer, some seconds at most; that is then what it saw. */
struct glance *glance_take(const struct config *config, struct status_connections *connections);

void glance_free(struct glance *glance); /* NULL is fine */

/* The glance's json and metrics, with what was collected last (NULL: nothing was yet). */
const struct buf *glance_json(struct glance *glance, const struct collection *collection);
const struct buf *glance_metrics(struct glance *glance, const struct collection *collection,
                                 const char *version);

#endif
