/*
 * The server keeps and compares the hours; what is worth a warning is judged here, by every process
 * that looks (status, page, metrics, the replicator's log), so that all say the same by the
 * configuration that they have.
 *
 * The learned limits are wide on purpose: a warning that is wrong once is read no more.  Who knows what
 * has to be says so with max_age.
 */
#include "mirror/freshness.h"

#include "base/clock.h"
#include "base/human.h"
#include "batch/volume.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Silence: so many times the longest of the last weeks, and at least so long. */
#define SILENCE_FACTOR 2
#define MIN_SILENCE_US INT64_C(3600000000)

/* Hours: outside of the usual ones by this factor, and not of a few changes more or less. */
#define HOUR_FACTOR 3
#define MIN_HIGH    1000
#define MIN_MEDIAN  300

#define TABLES_AT_ONCE "20"

static const struct {
    const char *name, *event;
} states[] = {
    [FRESHNESS_UNKNOWN] = {"unknown", NULL},      [FRESHNESS_OFF] = {"not watched", NULL},
    [FRESHNESS_LEARNING] = {"learning", NULL},    [FRESHNESS_USUAL] = {"usual", NULL},
    [FRESHNESS_STALE] = {"stale", "table_stale"}, [FRESHNESS_QUIET] = {"quiet", "table_quiet"},
    [FRESHNESS_LOW] = {"low", "volume_low"},      [FRESHNESS_HIGH] = {"high", "volume_high"},
};

const char *freshness_state_name(enum freshness_state state)
{
    return states[state].name;
}

const char *freshness_event(enum freshness_state state)
{
    return states[state].event;
}

/* ---- judging ---- */

static bool is_quieter_than_usual(const struct freshness *f, int64_t quiet_us)
{
    return f->usual_silence_us >= 0 && quiet_us > SILENCE_FACTOR * f->usual_silence_us &&
           quiet_us > MIN_SILENCE_US;
}

static enum freshness_state judge(const struct freshness *f, int64_t quiet_us)
{
    const bool is_comparable = f->is_hour_whole && f->usual_of != NULL && f->hour_changes >= 0;

    if (!f->is_followed || f->counted_to_us == 0)
        return FRESHNESS_UNKNOWN;
    if (f->max_age_us >= 0 && quiet_us > f->max_age_us)
        return FRESHNESS_STALE;
    if (!f->is_watched)
        return FRESHNESS_OFF;
    if (is_quieter_than_usual(f, quiet_us))
        return FRESHNESS_QUIET;
    if (is_comparable && f->hour_changes >= MIN_HIGH &&
        f->hour_changes > HOUR_FACTOR * f->usual_most)
        return FRESHNESS_HIGH;
    if (is_comparable && f->usual_median >= MIN_MEDIAN &&
        HOUR_FACTOR * f->hour_changes < f->usual_low)
        return FRESHNESS_LOW;
    return f->usual_of == NULL ? FRESHNESS_LEARNING : FRESHNESS_USUAL;
}

static const char *silence_words(const struct freshness *f, int64_t quiet_us, struct arena *arena)
{
    char quiet[HUMAN_TEXT_SIZE], limit[HUMAN_TEXT_SIZE], at[CLOCK_TEXT_SIZE];

    human_duration(quiet_us, quiet);
    clock_text(f->counted_to_us, at);
    if (f->state == FRESHNESS_STALE)
        return arena_printf(arena,
                            "%s has not changed on the source for %s, as of %s; its "
                            "freshness.max_age is %s",
                            f->label, quiet, at, human_duration(f->max_age_us, limit));
    return arena_printf(arena,
                        "%s has not changed on the source for %s, as of %s; the longest such "
                        "time of the last weeks was %s",
                        f->label, quiet, at, human_duration(f->usual_silence_us, limit));
}

static const char *volume_words(const struct freshness *f, struct arena *arena)
{
    char hour[CLOCK_TEXT_SIZE];

    clock_text(f->hour_us, hour);
    return arena_printf(arena,
                        "%s had %" PRId64 " %s in the hour from %.16sZ on; usual %s are %" PRId64
                        " to %" PRId64 ", %s %" PRId64,
                        f->label, f->hour_changes, f->schema != NULL ? "changes" : "keys", hour,
                        f->usual_of[0] == 't' ? "at that time of day" : "in an hour", f->usual_low,
                        f->usual_high,
                        f->state == FRESHNESS_HIGH ? "at most" : "half of the time at least",
                        f->state == FRESHNESS_HIGH ? f->usual_most : f->usual_median);
}

void freshness_judge(struct freshness *f, struct arena *arena)
{
    const int64_t quiet_us = f->counted_to_us > f->since_us ? f->counted_to_us - f->since_us : 0;

    f->words = f->next = NULL;
    f->state = judge(f, quiet_us);
    switch (f->state) {
    case FRESHNESS_UNKNOWN:
    case FRESHNESS_OFF:
    case FRESHNESS_LEARNING:
    case FRESHNESS_USUAL:
        return;
    case FRESHNESS_STALE:
    case FRESHNESS_QUIET:
        f->words = silence_words(f, quiet_us, arena);
        f->next = f->state == FRESHNESS_STALE
                      ? "the mirror has all that the source committed until then: see whether what "
                        "writes that table there still runs"
                      : "the mirror has all that the source committed until then: see whether what "
                        "writes that table there still runs; where that is meant, freshness: "
                        "{watch: off} for it";
        return;
    case FRESHNESS_LOW:
        f->words = volume_words(f, arena);
        f->next = f->schema != NULL
                      ? "see whether all that writes that table on the source still runs"
                      : "see which of its tables changes less than usual (tailwater status)";
        return;
    case FRESHNESS_HIGH:
        f->words = volume_words(f, arena);
        f->next = f->schema != NULL
                      ? "see what writes it on the source: a job that repeats itself, "
                        "an update of more rows than meant"
                      : "see which dimension causes them (tailwater ledger stats)";
        return;
    }
}

/* Later entries win. */
static void take_policy(struct freshness *f, const struct config *config)
{
    f->is_watched = config->freshness.watch == FRESHNESS_WATCH_USUAL;
    f->max_age_us = config->freshness.max_age_us;
    for (int i = 0; i < config->ntables; i++) {
        const struct config_table *entry = &config->tables[i];

        if ((!entry->has_watch && !entry->has_max_age) ||
            !config_table_matches(entry, f->schema, f->name))
            continue;
        if (entry->has_watch)
            f->is_watched = entry->watch == FRESHNESS_WATCH_USUAL;
        if (entry->has_max_age)
            f->max_age_us = entry->max_age_us;
    }
}

/* ---- reading ---- */

#define US(time) "(extract(epoch FROM " time ") * 1000000)::bigint"

/* What tables and facts have alike. */
enum {
    HOURS_THIS,
    HOURS_HOUR,
    HOURS_CHANGES,
    HOURS_IS_WHOLE,
    HOURS_OF,
    HOURS_LOW,
    HOURS_MEDIAN,
    HOURS_HIGH,
    HOURS_MOST,
    NHOURS
};

/* clang-format off */
#define HOURS(changes) \
    "this_hour, " US("open_hour - interval '1 hour'") ", " changes ", is_hour_whole, " \
    "usual_of, usual_low, usual_median, usual_high, usual_most"
/* clang-format on */

enum {
    SCHEMA,
    NAME,
    COUNTED_TO,
    LAST_CHANGE,
    SINCE,
    FIRST_OF_HOURS,
    USUAL_SILENCE = FIRST_OF_HOURS + NHOURS,
    IS_FOLLOWED
};

/* clang-format off */
static const char list_sql[] =
    "SELECT schema, name, " US("counted_to") ", " US("last_change") ", " US("since") ", "
    HOURS("hour_changes") ", " US("usual_silence") ", is_followed "
    "FROM tailwater.volume_states($1)";
/* clang-format on */

static int64_t number(const struct pg_result *rows, int row, int column)
{
    return pg_is_null(rows, row, column) ? -1 : pg_int(rows, row, column);
}

/* The columns of HOURS, from there on. */
static void read_hours(const struct pg_result *rows, int row, int from, struct arena *arena,
                       struct freshness *freshness)
{
    freshness->this_hour = pg_int(rows, row, from + HOURS_THIS);
    freshness->hour_us = pg_int(rows, row, from + HOURS_HOUR);
    freshness->hour_changes = number(rows, row, from + HOURS_CHANGES);
    freshness->is_hour_whole = pg_bool(rows, row, from + HOURS_IS_WHOLE);
    freshness->usual_of = pg_is_null(rows, row, from + HOURS_OF)
                              ? NULL
                              : arena_strdup(arena, pg_text(rows, row, from + HOURS_OF));
    freshness->usual_low = number(rows, row, from + HOURS_LOW);
    freshness->usual_median = number(rows, row, from + HOURS_MEDIAN);
    freshness->usual_high = number(rows, row, from + HOURS_HIGH);
    freshness->usual_most = number(rows, row, from + HOURS_MOST);
}

static void read_row(const struct pg_result *rows, int row, struct arena *arena,
                     struct freshness *ret_freshness)
{
    *ret_freshness = (struct freshness){
        .label = arena_printf(arena, "%s.%s", pg_text(rows, row, SCHEMA), pg_text(rows, row, NAME)),
        .schema = arena_strdup(arena, pg_text(rows, row, SCHEMA)),
        .name = arena_strdup(arena, pg_text(rows, row, NAME)),
        .counted_to_us = pg_int(rows, row, COUNTED_TO),
        .last_change_us = pg_int(rows, row, LAST_CHANGE),
        .since_us = pg_int(rows, row, SINCE),
        .usual_silence_us = number(rows, row, USUAL_SILENCE),
        .is_followed = pg_bool(rows, row, IS_FOLLOWED),
    };
    read_hours(rows, row, FIRST_OF_HOURS, arena, ret_freshness);
}

bool freshness_list(struct pg *mirror, const struct config *config, struct arena *arena,
                    int *ret_count, struct freshness **ret_list, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct freshness *list;

    if (!pg_query(mirror, list_sql, 1, &config->pipeline, &rows, err))
        return error_wrap(err, "reading how fresh the tables of pipeline %s are", config->pipeline);
    list = arena_new(arena, struct freshness, pg_rows(rows));
    for (int row = 0; row < pg_rows(rows); row++) {
        read_row(rows, row, arena, &list[row]);
        take_policy(&list[row], config);
        freshness_judge(&list[row], arena);
    }
    *ret_count = pg_rows(rows);
    *ret_list = list;
    return true;
}

enum { OF_FACT, OF_NOW, OF_LAST_KEYS, OF_FIRST_OF_HOURS };

/* clang-format off */
static const char facts_sql[] =
    "SELECT fact, " US("clock_timestamp()") ", " US("last_keys") ", "
    HOURS("hour_keys") " "
    "FROM tailwater.fact_volume_states($1)";
/* clang-format on */

bool freshness_list_facts(struct pg *mirror, const struct config *config, struct arena *arena,
                          int *ret_count, struct freshness **ret_list, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct freshness *list;

    if (!pg_query(mirror, facts_sql, 1, &config->pipeline, &rows, err))
        return error_wrap(err, "reading how many keys the facts of pipeline %s get",
                          config->pipeline);
    list = arena_new(arena, struct freshness, pg_rows(rows));
    for (int row = 0; row < pg_rows(rows); row++) {
        list[row] = (struct freshness){
            .name = arena_strdup(arena, pg_text(rows, row, OF_FACT)),
            .label = arena_printf(arena, "fact %s", pg_text(rows, row, OF_FACT)),
            .counted_to_us = pg_int(rows, row, OF_NOW),
            .since_us = pg_int(rows, row, OF_NOW),
            .last_change_us = pg_int(rows, row, OF_LAST_KEYS),
            .usual_silence_us = -1,
            .is_followed = true,
            .is_watched = config->freshness.watch == FRESHNESS_WATCH_USUAL,
            .max_age_us = -1};
        read_hours(rows, row, OF_FIRST_OF_HOURS, arena, &list[row]);
        freshness_judge(&list[row], arena);
    }
    *ret_count = pg_rows(rows);
    *ret_list = list;
    return true;
}

/* A table of the list that is gone since is passed over. */
void freshness_assign(const struct freshness *list, int count, struct control_table *tables,
                      int ntables)
{
    int next = 0;

    for (int i = 0; i < ntables; i++) {
        int at = next;

        while (at < count && (strcmp(list[at].schema, tables[i].schema) != 0 ||
                              strcmp(list[at].name, tables[i].name) != 0))
            at++;
        tables[i].freshness = at < count ? &list[at] : NULL;
        next = at < count ? at + 1 : next;
    }
}

/* ---- the replicator's part ---- */

bool freshness_begin(struct pg *lock, const char *pipeline, lsn_t lsn, struct error *err)
{
    char text[LSN_TEXT_SIZE];
    const char *params[] = {pipeline, lsn_text(lsn, text)};
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(lock, "SELECT tailwater.begin_volumes($1, $2::pg_lsn)", 2, params, &done, err))
        return error_wrap(err, "beginning to count changes");
    return true;
}

static void add_total(struct buf *json, const struct volume_total *total)
{
    const struct volume_counts *counts = &total->counts;

    buf_add_char(json, '{');
    buf_add_json_member(json, "schema", total->schema);
    buf_add(json, ", ");
    buf_add_json_member(json, "name", total->name);
    buf_printf(json,
               ", \"hour\": %" PRId64 ", \"inserted\": %" PRId64 ", \"updated\": %" PRId64
               ", \"deleted\": %" PRId64 ", \"truncated\": %" PRId64 ", \"first_us\": %" PRId64
               ", \"last_us\": %" PRId64 "}",
               total->hour, counts->inserted, counts->updated, counts->deleted, counts->truncated,
               counts->first_us, counts->last_us);
}

bool freshness_store(struct pg *lock, const char *pipeline, const char *run, int64_t complete_us,
                     struct error *err)
{
    const struct volume_parcel *parcel = volume_peek(complete_us);
    char number[24], lsn[LSN_TEXT_SIZE], complete[24];
    _cleanup_buf_ struct buf lines = {0};
    const char *params[] = {pipeline, run, number, lsn_text(parcel->lsn, lsn), complete, NULL};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(number, sizeof(number), "%" PRId64, parcel->number);
    snprintf(complete, sizeof(complete), "%" PRId64, parcel->complete_us);
    buf_add_char(&lines, '[');
    for (const struct volume_total *total = parcel->first; total != NULL; total = total->next) {
        add_total(&lines, total);
        buf_add(&lines, total->next != NULL ? ", " : "");
    }
    buf_add_char(&lines, ']');
    params[5] = buf_text(&lines);
    if (!pg_query(
            lock,
            "SELECT tailwater.add_volumes($1, $2, $3::bigint, $4::pg_lsn, timestamptz 'epoch' "
            "+ nullif($5::bigint, 0) * interval '1 microsecond', $6::jsonb)",
            6, params, &done, err))
        return error_wrap(err, "storing the counts of changes");
    volume_stored();
    return true;
}

bool freshness_learn(struct pg *lock, const char *pipeline, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(lock,
                    "SELECT tailwater.judge_volumes($1, " TABLES_AT_ONCE
                    "), tailwater.judge_fact_volumes($1)",
                    1, &pipeline, &done, err) ||
           error_wrap(err, "comparing the changes of an hour");
}
