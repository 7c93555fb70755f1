/*
 * What grows with the number of tables and facts, and changes slowly: sizes of tables, how facts, their
 * consumers, derived tables and feeds are.  A glance at the pipeline (monitor.h) does not ask for it, but
 * shows what was collected last, with its age.
 */
#ifndef TAILWATER_COLLECTION_H
#define TAILWATER_COLLECTION_H

#include "config/config.h"
#include "http/overview.h"
#include "mirror/control.h"
#include "tailwater/arena.h"

struct collection {
    struct arena arena;
    int64_t measured_us; /* clock_tick_us(): the sizes; 0: not yet */
    int nsizes;
    struct control_size *sizes; /* arena's */
    struct overview overview;   /* its slow parts */
    struct buf metrics;         /* families of facts, consumers, derived tables and feeds */
    int nfailed;                /* of all these, what could not be looked up: it is empty */

    int64_t at_us;            /* clock_now_us() when it began … */
    int64_t tick_us, took_us; /* … clock_tick_us() then, and how long it took */
};

/* Where *connection is NULL or broken. */
bool collection_connect(const struct config *config, struct pg **connection, struct error *err);

/* Connects first.  NULL, with the reason: the mirror cannot be asked, or has no control schema of ours. */
struct collection *collection_read(const struct config *config, bool with_sizes,
                                   struct pg **connection, struct error *err);

/* The sizes of one before, which has none then. */
void collection_take_sizes(struct collection *collection, struct collection *former);

void collection_free(struct collection *collection); /* NULL is fine */

#endif
