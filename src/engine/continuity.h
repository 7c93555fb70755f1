/*
 * Is the source still the one that the mirror's cursor speaks of, and does its slot still have what
 * follows?  Asked before every stream: going on where something is missing would lose changes
 * without a word.
 */
#ifndef TAILWATER_CONTINUITY_H
#define TAILWATER_CONTINUITY_H

#include "config/config.h"
#include "engine/prepare.h"
#include "pg/pg.h"
#include "source/slot.h"
#include "tailwater/lsn.h"

/* A server that has not answered a simple question by then is not there. */
#define CONTINUITY_TIMEOUT_MS 60000

/*
 * ERROR_SLOT with its own message for each way in which it is not (P30, P31, P43, P44, P47),
 * ERROR_FINDINGS where the publication is no longer plain, or lacks a table that is not left out
 * (quarantine_load()): then *ret_lacked, and otherwise it is untouched.  A promoted
 * standby that has all that the mirror has is recorded (on lock, and in prepared) and said; the slot
 * becomes a failover slot where source.failover asks for that.
 */
bool continuity_check(const struct config *config, struct pg *lock,
                      struct prepared_pipeline *prepared, lsn_t cursor,
                      const _Atomic lsn_t *left_out_from, const struct table **ret_lacked,
                      struct error *err);

/*
 * The part of it that is about timelines: has a mirror that was on timeline stored, and has reached
 * that position, nothing that this server lacks?  Changes nothing.
 */
bool continuity_check_timeline(struct pg *replication, const struct slot_identity *identity,
                               int stored, lsn_t reached, struct error *err);

/* After slot_check() found no slot on another timeline: says why it is not there. */
bool continuity_explain_slot(const struct slot_identity *identity, int stored, struct error *err);

/* May source.failover be as it is, with this source?  ERROR_FINDINGS where not. */
bool continuity_check_failover(struct pg *source, const struct config *config, struct error *err);

#endif
