/* All that is known of a pipeline as one JSON object: what status collects, with its ledger, feeds and
 * jobs.  What tailwater status --json prints, and /status answers. */
#ifndef TAILWATER_OVERVIEW_H
#define TAILWATER_OVERVIEW_H

#include "base/buf.h"
#include "mirror/status.h"

enum overview_part { OVERVIEW_LEDGER, OVERVIEW_FEEDS, OVERVIEW_JOBS, OVERVIEW_PARTS };

/* JSON each; empty where it is not known. */
struct overview {
    struct buf parts[OVERVIEW_PARTS];
};

void overview_release(struct overview *overview);
#define _cleanup_overview_ _cleanup_(overview_release)

/* Does this part get longer with the number of facts?  Then it is not for every glance. */
bool overview_is_slow(enum overview_part part);

/* Asks for one; what cannot be looked up stays empty, and false is returned. */
bool overview_read(struct pg *mirror, const char *pipeline, enum overview_part part,
                   struct overview *overview);

/* collected_at_us: when the slow parts and the tables' sizes were; 0: never.  Without a newline at the end. */
void overview_add_json(const struct status *status, const struct overview *overview,
                       int64_t collected_at_us, struct buf *json);

#endif
