/*
 * Everything is gathered by three functions of the control schema; JSON is made by the server.
 */
#include "ledger/ledger_status.h"

#include "base/human.h"

#include <stdio.h>
#include <string.h>

#define TEXT(number)  #number
#define NUMBER(macro) TEXT(macro)
#define MAX_KEYS      NUMBER(LEDGER_STATUS_MAX_KEYS)

#define FACTS "tailwater.fact_states($1) f join tailwater.ledger_complete($1) c on c.fact = f.name "

static const char facts_sql[] =
    "select f.name, f.\"table\", array_to_string(f.key, ', '), f.generation, f.reason, "
    "f.kept_from, f.partitions, f.bytes, c.batch_id, c.lsn, c.missing, c.fan_out_batch, "
    "c.fan_out_lsn, c.fan_outs, c.fan_out_keys, "
    "(extract(epoch from clock_timestamp() - c.fan_out_since) * 1000000)::bigint "
    "from " FACTS "order by f.name";

enum {
    FACT_NAME,
    FACT_TABLE,
    FACT_KEY,
    FACT_GENERATION,
    FACT_REASON,
    FACT_KEPT_FROM,
    FACT_PARTITIONS,
    FACT_BYTES,
    FACT_BATCH,
    FACT_LSN,
    FACT_MISSING,
    FACT_FAN_OUT_BATCH,
    FACT_FAN_OUT_LSN,
    FACT_FAN_OUTS,
    FACT_FAN_OUT_KEYS,
    FACT_FAN_OUT_US
};

/* Ages in microseconds, by the mirror's clock. */
static const char consumers_sql[] =
    "with s as (select * from tailwater.consumer_states($1, " MAX_KEYS ")), "
    "n as (select clock_timestamp() as at) "
    "select fact, name, state, pending_keys, owes_everything, reason, claim_id, claim_lane, "
    "claim_from, claim_to, claim_keys, claim_everything, "
    "(extract(epoch from n.at - oldest_at) * 1000000)::bigint, "
    "(extract(epoch from n.at - claimed_at) * 1000000)::bigint, "
    "(extract(epoch from n.at - acked_at) * 1000000)::bigint, "
    "(extract(epoch from n.at - stale_since) * 1000000)::bigint "
    "from s, n order by fact, name";

enum {
    OF_FACT,
    OF_NAME,
    OF_STATE,
    OF_PENDING,
    OF_IS_OWED,
    OF_REASON,
    OF_CLAIM,
    OF_LANE,
    OF_FROM,
    OF_TO,
    OF_KEYS,
    OF_WHOLE,
    OF_OLDEST_US,
    OF_CLAIMED_US,
    OF_ACKED_US,
    OF_STALE_US
};

static const char json_sql[] =
    "with s as (select * from tailwater.consumer_states($1, " MAX_KEYS
    ")) select json_build_object("
    "'batch', (select batch_id from tailwater.clock where pipeline = $1), 'facts', "
    "coalesce((select json_agg(to_jsonb(f) || jsonb_build_object("
    "'complete', jsonb_build_object('batch', c.batch_id, 'lsn', c.lsn, 'missing', c.missing), "
    "'fan_out', jsonb_build_object('batch', c.fan_out_batch, 'lsn', c.fan_out_lsn, "
    "'pending', c.fan_outs, 'keys_written', c.fan_out_keys, 'since', c.fan_out_since), "
    "'refresh', (select to_jsonb(r) - 'fact' from tailwater.refresh_states($1) r "
    "where r.fact = f.name), "
    "'consumers', coalesce((select jsonb_agg(to_jsonb(s) - 'fact' order by s.name) from s "
    "where s.fact = f.name), '[]')) order by f.name) from " FACTS "), '[]'))";

/* How derived tables are (src/refresh). */
static const char refreshes_sql[] =
    "select fact, \"into\", state, (extract(epoch from clock_timestamp() - refreshed_at) * "
    "1000000)::bigint, windows, keys, (extract(epoch from clock_timestamp() - failing_since) * "
    "1000000)::bigint, error, failed_keys, parked_keys, array_to_string(failure_key, ', '), "
    "failure_error, backfill, backfill_kind, backfill_state, chunks, chunks_done, "
    "(extract(epoch from eta) * 1000000)::bigint from tailwater.refresh_states($1)";

enum {
    RE_FACT,
    RE_INTO,
    RE_STATE,
    RE_AGO_US,
    RE_WINDOWS,
    RE_KEYS,
    RE_FAILING_US,
    RE_ERROR,
    RE_FAILED,
    RE_PARKED,
    RE_KEY,
    RE_KEY_ERROR,
    RE_BACKFILL,
    RE_KIND,
    RE_BACKFILL_STATE,
    RE_CHUNKS,
    RE_DONE,
    RE_ETA_US
};

static bool query(struct pg *mirror, const char *sql, const char *pipeline,
                  struct pg_result **ret_rows, struct error *err)
{
    return pg_query(mirror, sql, 1, &pipeline, ret_rows, err) ||
           error_wrap(err, "looking at the ledger of pipeline %s", pipeline);
}

/* ---- facts, and the consumers of each ---- */

struct states {
    struct pg_result *facts, *consumers; /* both in the order of the facts' names */
    struct pg_result *refreshes;
    int next; /* consumer, of those not yet taken */
};

static void states_release(struct states *states)
{
    pg_result_free(states->facts);
    pg_result_free(states->consumers);
    pg_result_free(states->refreshes);
}
#define _cleanup_states_ _cleanup_(states_release)

static bool states_read(struct pg *mirror, const char *pipeline, struct states *states,
                        struct error *err)
{
    return query(mirror, facts_sql, pipeline, &states->facts, err) &&
           query(mirror, consumers_sql, pipeline, &states->consumers, err) &&
           query(mirror, refreshes_sql, pipeline, &states->refreshes, err);
}

/* The next consumer of this fact; -1 past its last one.  Facts are gone through in their order. */
static int states_take(struct states *states, int fact)
{
    if (states->next == pg_rows(states->consumers) ||
        strcmp(pg_text(states->consumers, states->next, OF_FACT),
               pg_text(states->facts, fact, FACT_NAME)) != 0)
        return -1;
    return states->next++;
}

/* ---- JSON ---- */

bool ledger_status_json(struct pg *mirror, const char *pipeline, struct buf *json,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    if (!query(mirror, json_sql, pipeline, &result, err))
        return false;
    buf_add(json, pg_text(result, 0, 0));
    return true;
}

/* ---- text ---- */

static void add_pending(struct buf *text, const struct pg_result *row, int i)
{
    const int64_t keys = pg_int(row, i, OF_PENDING);
    char age[HUMAN_TEXT_SIZE];

    buf_printf(text, "%s%lld keys pending", keys >= LEDGER_STATUS_MAX_KEYS ? "at least " : "",
               (long long) keys);
    if (!pg_is_null(row, i, OF_OLDEST_US))
        buf_printf(text, ", the oldest for %s", human_duration(pg_int(row, i, OF_OLDEST_US), age));
}

static void add_window(struct buf *text, const struct pg_result *row, int i)
{
    char age[HUMAN_TEXT_SIZE];

    if (pg_bool(row, i, OF_WHOLE))
        buf_add(text, "; rebuilding everything");
    else
        buf_printf(text, "; window open: %s ledger rows, lane %s, batches %s to %s",
                   pg_text(row, i, OF_KEYS), pg_text(row, i, OF_LANE), pg_text(row, i, OF_FROM),
                   pg_text(row, i, OF_TO));
    buf_printf(text, ", claimed %s ago", human_duration(pg_int(row, i, OF_CLAIMED_US), age));
}

static void add_consumer(struct buf *text, const struct pg_result *row, int i)
{
    char age[HUMAN_TEXT_SIZE];

    buf_printf(text, "  %-20s %s", pg_text(row, i, OF_NAME), pg_text(row, i, OF_STATE));
    if (!pg_is_null(row, i, OF_STALE_US)) {
        buf_printf(text, " for %s: %s; its next window is everything\n",
                   human_duration(pg_int(row, i, OF_STALE_US), age), pg_text(row, i, OF_REASON));
        return;
    }
    if (pg_bool(row, i, OF_IS_OWED))
        buf_printf(text, "; owes a rebuild of everything (%s)", pg_text(row, i, OF_REASON));
    if (pg_int(row, i, OF_PENDING) > 0) {
        buf_add(text, "; ");
        add_pending(text, row, i);
    }
    if (!pg_is_null(row, i, OF_CLAIM))
        add_window(text, row, i);
    if (pg_is_null(row, i, OF_ACKED_US))
        buf_add(text, "; nothing acknowledged yet\n");
    else
        buf_printf(text, "; last ack %s ago\n", human_duration(pg_int(row, i, OF_ACKED_US), age));
}

static void add_backfill(struct buf *text, const struct pg_result *row, int i)
{
    char left[HUMAN_TEXT_SIZE];

    buf_printf(text, "; %s (backfill %s) %s, %s of %s chunks",
               strcmp(pg_text(row, i, RE_KIND), "everything") == 0 ? "built anew"
                                                                   : pg_text(row, i, RE_KIND),
               pg_text(row, i, RE_BACKFILL), pg_text(row, i, RE_BACKFILL_STATE),
               pg_text(row, i, RE_DONE), pg_text(row, i, RE_CHUNKS));
    if (!pg_is_null(row, i, RE_ETA_US))
        buf_printf(text, ", about %s to go", human_duration(pg_int(row, i, RE_ETA_US), left));
}

/* The fact's derived table, where it has one. */
static void add_refresh(struct buf *text, const struct pg_result *row, const char *fact)
{
    char age[HUMAN_TEXT_SIZE];
    int i = 0;

    while (i < pg_rows(row) && strcmp(pg_text(row, i, RE_FACT), fact) != 0)
        i++;
    if (i == pg_rows(row))
        return;
    buf_printf(text, "  refreshes %s: %s; %s windows, %s keys", pg_text(row, i, RE_INTO),
               pg_text(row, i, RE_STATE), pg_text(row, i, RE_WINDOWS), pg_text(row, i, RE_KEYS));
    if (!pg_is_null(row, i, RE_AGO_US))
        buf_printf(text, ", the last %s ago", human_duration(pg_int(row, i, RE_AGO_US), age));
    if (!pg_is_null(row, i, RE_BACKFILL))
        add_backfill(text, row, i);
    buf_add_char(text, '\n');
    if (strcmp(pg_text(row, i, RE_STATE), "incomplete") == 0)
        buf_printf(text,
                   "    it was not computed to its end, by a cancel or a failure; this does it: "
                   "tailwater refresh %s --once\n",
                   fact);
    if (!pg_is_null(row, i, RE_FAILING_US))
        buf_printf(text, "    failing for %s: %s\n",
                   human_duration(pg_int(row, i, RE_FAILING_US), age), pg_text(row, i, RE_ERROR));
    if (pg_int(row, i, RE_FAILED) > 0)
        buf_printf(text, "    %s keys failed, %s of them parked; such as %s: %s\n",
                   pg_text(row, i, RE_FAILED), pg_text(row, i, RE_PARKED), pg_text(row, i, RE_KEY),
                   pg_text(row, i, RE_KEY_ERROR));
}

/* Through which batch and position its keys are complete, and why not further. */
static void add_complete(struct buf *text, const struct pg_result *row, int i)
{
    char age[HUMAN_TEXT_SIZE];

    buf_printf(text, "  complete through batch %s, %s", pg_text(row, i, FACT_BATCH),
               pg_text(row, i, FACT_LSN));
    if (!pg_is_null(row, i, FACT_MISSING))
        buf_printf(text, " (%s)", pg_text(row, i, FACT_MISSING));
    if (pg_int(row, i, FACT_FAN_OUTS) > 0)
        buf_printf(text,
                   "; with fan-outs through batch %s, %s: %s pending, the oldest for %s, %s keys "
                   "written so far",
                   pg_text(row, i, FACT_FAN_OUT_BATCH), pg_text(row, i, FACT_FAN_OUT_LSN),
                   pg_text(row, i, FACT_FAN_OUTS),
                   human_duration(pg_int(row, i, FACT_FAN_OUT_US), age),
                   pg_text(row, i, FACT_FAN_OUT_KEYS));
    else
        buf_add(text, ", fan-outs included");
    buf_add_char(text, '\n');
}

static void add_fact(struct buf *text, const struct pg_result *row, int i)
{
    char bytes[HUMAN_TEXT_SIZE];

    buf_printf(text, "%s: %s, key %s; %s\n", pg_text(row, i, FACT_NAME),
               pg_text(row, i, FACT_TABLE), pg_text(row, i, FACT_KEY),
               pg_is_null(row, i, FACT_REASON) ? "ready" : pg_text(row, i, FACT_REASON));
    if (!pg_is_null(row, i, FACT_BATCH))
        add_complete(text, row, i);
    buf_printf(text, "  kept from batch %s on: %s in %s partitions; generation %s\n",
               pg_text(row, i, FACT_KEPT_FROM), human_bytes(pg_int(row, i, FACT_BYTES), bytes),
               pg_text(row, i, FACT_PARTITIONS), pg_text(row, i, FACT_GENERATION));
}

bool ledger_status_text(struct pg *mirror, const char *pipeline, struct buf *text,
                        struct error *err)
{
    _cleanup_states_ struct states states = {0};

    if (!states_read(mirror, pipeline, &states, err))
        return false;
    if (pg_rows(states.facts) == 0)
        buf_printf(text, "pipeline %s keeps no ledger: no facts are declared\n", pipeline);
    for (int i = 0; i < pg_rows(states.facts); i++) {
        int consumer = states_take(&states, i);

        add_fact(text, states.facts, i);
        if (consumer < 0)
            buf_add(text, "  no consumers\n");
        for (; consumer >= 0; consumer = states_take(&states, i))
            add_consumer(text, states.consumers, consumer);
        add_refresh(text, states.refreshes, pg_text(states.facts, i, FACT_NAME));
    }
    return true;
}

/* ---- one line a fact ---- */

struct totals {
    int consumers, stale, owing;
    int64_t keys, oldest_us;
    bool is_bound;
};

static void add_totals(struct totals *totals, const struct pg_result *row, int i)
{
    const int64_t keys = pg_int(row, i, OF_PENDING), age_us = pg_int(row, i, OF_OLDEST_US);
    const bool is_stale = !pg_is_null(row, i, OF_STALE_US);

    totals->consumers++;
    totals->stale += is_stale;
    totals->owing += !is_stale && pg_bool(row, i, OF_IS_OWED);
    if (keys > totals->keys)
        totals->keys = keys;
    totals->is_bound |= keys >= LEDGER_STATUS_MAX_KEYS;
    if (age_us > totals->oldest_us)
        totals->oldest_us = age_us;
}

static void note_fact(const struct pg_result *facts, int i, const struct totals *totals,
                      struct notes *lines)
{
    _cleanup_buf_ struct buf text = {0};
    char age[HUMAN_TEXT_SIZE];

    buf_printf(&text, "%s: %s; ", pg_text(facts, i, FACT_NAME),
               pg_is_null(facts, i, FACT_REASON) ? "ready" : pg_text(facts, i, FACT_REASON));
    if (totals->consumers == 0)
        buf_add(&text, "no consumers");
    else
        buf_printf(&text, "%d consumer%s", totals->consumers, totals->consumers > 1 ? "s" : "");
    if (totals->stale > 0)
        buf_printf(&text, ", %d stale", totals->stale);
    if (totals->owing > 0)
        buf_printf(&text, ", %d with a rebuild to do", totals->owing);
    if (totals->keys > 0)
        buf_printf(&text, ", the slowest with %s%lld keys pending for %s",
                   totals->is_bound ? "at least " : "", (long long) totals->keys,
                   human_duration(totals->oldest_us, age));
    else if (totals->consumers > 0 && totals->stale + totals->owing == 0)
        buf_add(&text, ", up to date");
    if (pg_int(facts, i, FACT_FAN_OUTS) > 0)
        buf_printf(&text, "; %s fan-outs pending for %s", pg_text(facts, i, FACT_FAN_OUTS),
                   human_duration(pg_int(facts, i, FACT_FAN_OUT_US), age));
    if (!pg_is_null(facts, i, FACT_MISSING))
        buf_printf(&text, "; %s", pg_text(facts, i, FACT_MISSING));
    notes_add(lines, "%s", buf_text(&text));
}

bool ledger_status_summary(struct pg *mirror, const char *pipeline, struct notes *lines,
                           struct error *err)
{
    _cleanup_states_ struct states states = {0};

    if (!states_read(mirror, pipeline, &states, err))
        return false;
    for (int i = 0; i < pg_rows(states.facts); i++) {
        struct totals totals = {0};

        for (int of; (of = states_take(&states, i)) >= 0;)
            add_totals(&totals, states.consumers, of);
        note_fact(states.facts, i, &totals, lines);
    }
    return true;
}
