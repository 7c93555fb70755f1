/*
 * Named fault points, compiled into test builds only (TAILWATER_FAULTS).  The environment variable
 * TAILWATER_FAULT says what happens where: "NAME[:N]=kill|error|stall:MS", comma-separated; N is
 * the visit that counts (default 1). kill is a SIGKILL to ourselves; error makes the call return
 * false with ERROR_RETRY; stall sleeps. The list of all points is fault_points() in fault.c: a
 * point that is not in it does not compile.
 */
#ifndef TAILWATER_FAULT_H
#define TAILWATER_FAULT_H

#include "tailwater/error.h"

#include <stdbool.h>

/* X-list: identifier, where it is. */
#define FAULT_POINTS(X)                                                                            \
    X(after_begin, "apply: mirror transaction open, clock not yet moved")                          \
    X(after_clock, "apply: clock moved")                                                           \
    X(between_tables, "apply: between two tables of a batch")                                      \
    X(after_writes, "apply: all rows written")                                                     \
    X(after_hops, "apply: ledger keys of dimensions written")                                      \
    X(before_commit, "apply: cursor details written, commit not sent")                             \
    X(after_commit, "apply: committed, cursor not yet published to the receiver")                  \
    X(before_confirm, "receiver: cursor known, feedback not sent")                                 \
    X(after_confirm, "receiver: feedback sent")                                                    \
    X(between_pieces, "apply: between two pieces of a large transaction")                          \
    X(copy_after_slot, "copy: slot made, nothing copied")                                          \
    X(copy_after_table, "copy: a table marked done")                                               \
    X(copy_before_views, "copy: all tables done, no live view yet")                                \
    X(repair_after_fetch, "repair: rows fetched, not written")                                     \
    X(fan_out_after_begin, "fan-out: an entry is begun, no key written")                           \
    X(fan_out_announced, "fan-out: a page's number is announced, nothing of it written")           \
    X(fan_out_before_look, "fan-out: links gave no row of keys, not yet asked why")                \
    X(fan_out_after_page, "fan-out: a page of keys committed")                                     \
    X(fan_out_before_end, "fan-out: all keys written, the entry is still there")                   \
    X(retention_after_stale, "ledger keeper: consumers marked stale, nothing else done")           \
    X(retention_after_floor, "ledger keeper: floors raised, nothing removed")                      \
    X(retention_after_detach, "ledger keeper: a partition is detached, not dropped")               \
    X(retention_after_drop, "ledger keeper: partitions dropped, their batches' rows remain")       \
    X(feed_after_intend, "feed: noted what is sent, nothing sent")                                 \
    X(feed_after_answer, "feed: the receiver has answered, that is not recorded")                  \
    X(feed_before_commit, "feed: recorded and acknowledged, not committed")                        \
    X(quarantine_before_mark, "run: a table's data were refused, it is not yet marked")            \
    X(quarantine_after_mark, "run: the table is marked, the next session has not begun")           \
    X(renew_after_slot, "the slot is made anew, the mirror does not know")                         \
    X(renew_before_record, "likewise, rows with positions of another history are aged")            \
    X(resync_after_mark, "resync: the table is under resync, no snapshot yet")                     \
    X(resync_after_snapshot, "resync: the snapshot is there, nothing compared")                    \
    X(side_after_rows, "apply: rows of a side batch written, not committed")                       \
    X(resync_after_rows, "resync: missing and different rows are written, extra ones remain")      \
    X(resync_before_end, "resync: the table is equal, and still under resync")                     \
    X(resync_after_end, "resync: no longer under resync, the job is not done")                     \
    X(refresh_after_claim, "refresh: a window is claimed, nothing recomputed")                     \
    X(refresh_before_commit, "refresh: all written and acknowledged, not committed")               \
    X(refresh_after_commit, "refresh: a window is committed")                                      \
    X(backfill_before_commit, "backfill: a chunk is written, not committed")                       \
    X(backfill_after_commit, "backfill: a chunk is committed, its backfill not yet ended")

enum fault_point {
#define X(name, where) FAULT_##name,
    FAULT_POINTS(X)
#undef X
};

#ifdef TAILWATER_FAULTS
bool fault_reach(enum fault_point point, struct error *err);
#define FAULT(name, err) fault_reach(FAULT_##name, (err))
#else
#define FAULT(name, err) true
#endif

/* The names, one per point, for the tests; NULL ends it.  NULL at once in a build without fault
 * points. */
const char *const *fault_points(void);

#endif
