/*
 * What HTTP shows: the status as JSON, metrics, whether the pipeline is ready.  Two threads with connections
 * of their own ask the servers; whoever comes by HTTP is given what they have seen, and waits a few
 * seconds at most for what is newer.  Reads only.
 *
 *   the glance      what has to be current; taken when somebody asks, and every MONITOR_EVERY_S for the
 *                   history
 *   the collection  what takes longer, the more tables and facts there are (collection.h), and lineage
 *
 * However many ask, either is made once a second at most: a glance with a thousand tables once in five, a
 * collection with fifty facts once in fifteen, and sizes of a thousand tables once a minute; and of
 * servers that are slow less often (pace.h), but a glance every MONITOR_EVERY_S, a collection once a
 * minute, however long they take.
 */
#ifndef TAILWATER_MONITOR_H
#define TAILWATER_MONITOR_H

#include "base/buf.h"
#include "config/config.h"

#include <stdbool.h>

#define MONITOR_EVERY_S 15
#define MONITOR_KEPT    (8 * 3600 / MONITOR_EVERY_S) /* samples: eight hours */

struct monitor;

/* config has to outlive it. */
bool monitor_start(const struct config *config, const char *version, struct monitor **ret_monitor,
                   struct error *err);

/* Another configuration of the same pipeline, from the next look on; it too has to outlive it. */
void monitor_follow(struct monitor *monitor, const struct config *config);

/* Once nobody else uses it. */
void monitor_stop(struct monitor *monitor);

/*
 * Each appends what it is asked for, or, returning false, why that is not there in a line of text.  Any
 * thread.
 */
bool monitor_add_status(struct monitor *monitor, struct buf *json); /* as tailwater status --json */
bool monitor_add_metrics(struct monitor *monitor,
                         struct buf *text); /* Prometheus' text format 0.0.4 */
/* feed/lineage.h; of the views that there were a minute ago at most, while the mirror can be asked. */
bool monitor_add_lineage(struct monitor *monitor, struct buf *json);

/* "ready", or the reasons why not, a line each; then remarks.  Is it? */
bool monitor_add_ready(struct monitor *monitor, struct buf *text);

/*
 * {"interval_seconds": 15, "samples": [[when, lag, retained, changes], …]}, oldest first: seconds since
 * 1970, seconds, bytes of WAL, changes applied since the start; null where it was not known.
 */
void monitor_add_history(struct monitor *monitor, struct buf *json);

#endif
