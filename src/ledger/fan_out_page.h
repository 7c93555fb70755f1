/*
 * A page of the fan-out lane: keys under a number of their own, in two transactions.
 *
 * The first takes the number from the clock and says so (tailwater.announce_page): readers of the lane
 * stop before that number.  The second writes the keys, and takes the announcement back.  So the
 * clock, for which batches wait, is held for a moment, however many keys there are.  A page whose
 * announcement was taken back by somebody else fails: an instance that was thought dead writes
 * nothing behind the readers.
 */
#ifndef TAILWATER_FAN_OUT_PAGE_H
#define TAILWATER_FAN_OUT_PAGE_H

#include "ledger/fact.h"
#include "pg/pg.h"

struct fan_out_page {
    struct pg *mirror;
    const char *pipeline;
    const struct fact *fact;
    int node;
    const char *entry;    /* tailwater.fan_out.id */
    const char *settings; /* of its transaction: "set local …;", or "" */

    /* Its rows are written by this, once more where the ledger had no partition. */
    bool (*write)(void *context, struct fan_out_page *page, struct error *err);
    void *context;

    /* fan_out_page_write() sets the number before write(), which sets the others. */
    int64_t number;
    int64_t keys;
    int64_t nulls;        /* keys left out because a part of them is NULL */
    const char *position; /* of the entry, saved with the keys; NULL: as it is */
};

/* Announced, written, finished and counted. */
bool fan_out_page_write(struct fan_out_page *page, struct error *err);

/* What was announced by whoever wrote this pipeline's pages before. */
bool fan_out_page_withdraw(struct pg *mirror, const char *pipeline, struct error *err);

/* After an error; one in it is ignored. */
void fan_out_page_roll_back(struct pg *mirror);

#endif
