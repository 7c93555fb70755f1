/*
 * Where a source left another one's history: what a promoted standby shares with its old primary
 * (P47).
 *
 * A promotion begins a new timeline.  Up to the switch point both servers have the same WAL, so a
 * mirror that has not passed it goes on as if nothing had happened; one that has passed it holds
 * changes that the new primary never saw.
 */
#ifndef TAILWATER_TIMELINE_H
#define TAILWATER_TIMELINE_H

#include "pg/pg.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * The server on this replication connection is on timeline current: up to where has it the WAL of
 * timeline old?  ERROR_SLOT where it never was on that one.
 */
bool timeline_find_switch(struct pg *replication, int old, int current, lsn_t *ret_switch,
                          struct error *err);

/*
 * The same in the text of a history file (lines "TIMELINE<tab>SWITCHPOINT<tab>reason", "#" comments;
 * src/backend/access/transam/timeline.c).  False: old is not in it.
 */
bool timeline_parse(const char *history, size_t len, int old, lsn_t *ret_switch);

#endif
