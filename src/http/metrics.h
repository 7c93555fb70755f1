/*
 * A pipeline in Prometheus' text format: base units (seconds, bytes), _total for what only grows,
 * labels of bounded number (sides, stages, tables, facts, consumers, feeds; never a key or a text).
 * docs/operations.md lists them all.
 */
#ifndef TAILWATER_METRICS_H
#define TAILWATER_METRICS_H

#include "base/buf.h"
#include "mirror/status.h"

struct metrics {
    const struct status *status;
    const char *version;
    bool is_ready;
    struct pg *mirror; /* asked about facts, consumers, derived tables and feeds; NULL: not known */
    int64_t began_us;  /* clock_tick_us() when the look began */
};

/* What cannot be looked up is left out, and counted in tailwater_scrape_errors. */
void metrics_add(const struct metrics *metrics, struct buf *out);

#endif
