/* The applier: a thread that takes sealed batches and applies them, one mirror transaction after
 * the other. */
#ifndef TAILWATER_APPLIER_H
#define TAILWATER_APPLIER_H

#include "engine/handover.h"
#include "engine/statistics.h"
#include "mirror/apply.h"

struct applier {
    struct handover *handover;
    struct apply *apply;
    const struct cursor *cursor;
    struct statistics *statistics;
};

/* A thread's function: argument is a struct applier.  Ends when the hand-over is closed, or after
 * an error. */
void *applier_run(void *applier);

#endif
