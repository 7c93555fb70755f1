/*
 * What HTTP shows: the status as JSON, metrics, whether the pipeline is ready.  Looked up when somebody
 * asks, at most once a second however many do, and every MONITOR_EVERY_S by a thread, so that there
 * is a history to draw.  Over connections of its own; reads only.
 */
#ifndef TAILWATER_MONITOR_H
#define TAILWATER_MONITOR_H

#include "base/buf.h"
#include "config/config.h"

#include <stdbool.h>

#define MONITOR_EVERY_S 15
#define MONITOR_KEPT    (8 * 3600 / MONITOR_EVERY_S) /* samples: eight hours */

/* One look. */
struct monitor_look {
    struct buf status;  /* JSON, as tailwater status --json */
    struct buf metrics; /* Prometheus text format 0.0.4 */
    struct buf reasons; /* why it is not ready, a line each; empty where it is */
    struct buf remarks; /* what is to be looked at all the same, a line each */
};

struct monitor;

/* config has to outlive it. */
bool monitor_start(const struct config *config, const char *version, struct monitor **ret_monitor,
                   struct error *err);

/* Once nobody else uses it. */
void monitor_stop(struct monitor *monitor);

/*
 * The newest look, no older than a second; it stays as it is until monitor_release(), one of which
 * belongs to each of these.  Waits for servers that do not answer, some seconds at most.  Any thread.
 */
const struct monitor_look *monitor_take(struct monitor *monitor);
void monitor_release(struct monitor *monitor, const struct monitor_look *look);

/*
 * {"interval_seconds": 15, "samples": [[when, lag, retained, changes], …]}, oldest first: seconds since
 * 1970, seconds, bytes of WAL, changes applied since the start; null where it was not known.
 */
void monitor_add_history(struct monitor *monitor, struct buf *json);

/*
 * What leads where (feed/lineage.h), of the configuration that the process began with and of the views
 * that there are, a minute old at most while the mirror can be asked.  False while it never could be:
 * then why stands in text.
 */
bool monitor_add_lineage(struct monitor *monitor, struct buf *text);

#endif
