/*
 * A pipeline in Prometheus' text format: base units (seconds, bytes), _total for what only grows,
 * labels of bounded number (sides, stages, tables, facts, consumers, feeds; never a key or a text).
 * docs/operations.md lists them all.
 */
#ifndef TAILWATER_METRICS_H
#define TAILWATER_METRICS_H

#include "base/buf.h"
#include "mirror/status.h"

/* What a glance has seen, and this process has counted. */
void metrics_add(const struct status *status, const char *version, struct buf *out);

/* Of facts, consumers, derived tables and feeds: a statement each.  Returns how many of these failed, and
 * are left out. */
int metrics_collect(struct pg *mirror, const char *pipeline, struct buf *out);

/* Of the answer itself; below 0 is unknown. */
struct metrics_scrape {
    bool is_ready;
    int nfailed;
    int64_t glance_age_us, glance_took_us;
    int64_t collect_age_us, collect_took_us;
};

void metrics_add_scrape(const struct metrics_scrape *scrape, struct buf *out);

#endif
