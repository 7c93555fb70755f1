/* All that is known of a pipeline as one JSON object: what status collects, with its ledger, feeds and
 * jobs.  What tailwater status --json prints, and /status answers. */
#ifndef TAILWATER_OVERVIEW_H
#define TAILWATER_OVERVIEW_H

#include "base/buf.h"
#include "mirror/status.h"

/* mirror is asked for the parts; NULL: they are null.  Without a newline at the end. */
void overview_add_json(const struct status *status, struct pg *mirror, struct buf *json);

#endif
