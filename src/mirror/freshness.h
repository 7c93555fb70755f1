/*
 * Is the data fresh, and is it as much as usual?  Per table: when the source last changed it, how much
 * it changed per hour, what is usual for it, and what of that is worth a word.
 *
 * Everything is told as of the time up to which the mirror is known to be complete, by the source's
 * clock: a pipeline that is behind, or stands, makes no table look quiet.  The counts are those of
 * batch/volume.h; the control schema keeps them by hours (migrations/0018_volume.sql).
 */
#ifndef TAILWATER_FRESHNESS_H
#define TAILWATER_FRESHNESS_H

#include "config/config.h"
#include "mirror/control.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stdint.h>

enum freshness_state {
    FRESHNESS_UNKNOWN,  /* not counted: quarantined, not ready, nobody ever ran */
    FRESHNESS_OFF,      /* freshness.watch: off */
    FRESHNESS_LEARNING, /* too little to compare with */
    FRESHNESS_USUAL,
    FRESHNESS_STALE, /* older than freshness.max_age: this and what follows is to be looked at */
    FRESHNESS_QUIET, /* without a change for longer than is usual */
    FRESHNESS_LOW,   /* the last hour had fewer changes than is usual … */
    FRESHNESS_HIGH   /* … or more */
};

/*
 * Of a table, or of a fact: then changes are keys that its ledger got, which count when they are
 * written, times are the mirror's, and silence is not judged (its tables' is).  Times are 0 where there
 * is none; counts and durations -1.
 */
struct freshness {
    const char *schema, *name; /* schema NULL: a fact */
    const char *label;         /* "public.orders", "fact order" */
    int64_t counted_to_us;     /* everything committed before is counted */
    int64_t last_change_us;    /* commit of the newest change */
    int64_t
        since_us; /* since when there is silence, as far as anybody knows: the last change, or when
                         counting began */
    int64_t this_hour; /* changes so far */
    int64_t hour_us;   /* the last hour that is over begins here … */
    int64_t hour_changes;
    bool is_hour_whole;   /* … and all of it was counted */
    const char *usual_of; /* the hours that it is compared with: "time of day", "all hours"; NULL */
    int64_t usual_low, usual_median, usual_high,
        usual_most;           /* 5th, 50th, 95th percentile, maximum */
    int64_t usual_silence_us; /* the longest of the last weeks */
    bool is_followed;
    bool is_watched;    /* by the configuration … */
    int64_t max_age_us; /* … and no longer than this without a change */

    enum freshness_state state;
    const char *words, *next; /* NULL where there is nothing to look at */
};

/* "learning": for JSON and people. */
const char *freshness_state_name(enum freshness_state state);

/* The log's event of a state that is to be looked at: "table_quiet"; NULL of any other. */
const char *freshness_event(enum freshness_state state);

/* Fills state, words (in arena) and next.  Pure; part of freshness_list(). */
void freshness_judge(struct freshness *freshness, struct arena *arena);

/* By schema and name, judged by the configuration. */
bool freshness_list(struct pg *mirror, const struct config *config, struct arena *arena,
                    int *ret_count, struct freshness **ret_list, struct error *err);

/* The same of the facts, by name. */
bool freshness_list_facts(struct pg *mirror, const struct config *config, struct arena *arena,
                          int *ret_count, struct freshness **ret_list, struct error *err);

/* Tables in the same order point to theirs. */
void freshness_assign(const struct freshness *list, int count, struct control_table *tables,
                      int ntables);

/* ---- for the replicator, which holds the pipeline's lock ---- */

/* Following begins at lsn, or has begun there.  Counts of an earlier process that lack are noticed
 * here. */
bool freshness_begin(struct pg *lock, const char *pipeline, lsn_t lsn, struct error *err);

/* Store a parcel of counts; run names this process.  complete_us: up to then, by the source's clock,
 * the mirror was complete when this was called; 0: not known.  Where storing failed before, it is that
 * parcel, as of then. */
bool freshness_store(struct pg *lock, const char *pipeline, const char *run, int64_t complete_us,
                     struct error *err);

/* Compare the last hour of some tables with those before; cheap where no hour has ended. */
bool freshness_learn(struct pg *lock, const char *pipeline, struct error *err);

#endif
