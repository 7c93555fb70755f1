/*
 * The facts are gathered by two queries, which the server turns into JSON by itself; the text is
 * made from the same queries' columns.
 */
#include "ledger/ledger_status.h"

#include "base/human.h"

#include <stdio.h>
#include <string.h>

#define TEXT(number)  #number
#define NUMBER(macro) TEXT(macro)

#define UTC(time)    "to_char(" time " at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define AGE_US(time) "(extract(epoch from clock_timestamp() - " time ") * 1000000)::bigint"

static const char facts_sql[] =
    "select f.name, f.schema || '.' || f.table_name as table, f.key_names as key, f.generation, "
    "case when f.suspended is not null then 'suspended' "
    "when tailwater.why_waiting(f) is not null then 'not ready' else 'ready' end as state, "
    "tailwater.why_waiting(f) as reason, l.kept_from, p.partitions, p.bytes "
    "from tailwater.fact f left join tailwater.ledger_floor l on l.fact = f.name "
    "cross join lateral (select count(*) as partitions, coalesce(sum(pg_total_relation_size("
    "format('tailwater.%I', p.name)::regclass)), 0)::bigint as bytes "
    "from tailwater.ledger_partitions(f.name) p) p where f.pipeline = $1 order by f.name";

enum {
    FACT_NAME,
    FACT_TABLE,
    FACT_KEY,
    FACT_GENERATION,
    FACT_STATE,
    FACT_REASON,
    FACT_KEPT_FROM,
    FACT_PARTITIONS,
    FACT_BYTES
};

/* A consumer is "stale", owes a "rebuild", has an open window ("working"), has something "pending",
 * or is "up to date". */
static const char consumers_sql[] =
    "select c.fact, c.name, case when c.stale_since is not null then 'stale' "
    "when c.claim_id is not null then 'working' when o.is_owed then 'rebuild' "
    "when p.keys > 0 then 'pending' else 'up to date' end as state, "
    "p.keys as pending_keys, p.oldest as oldest_batch, " UTC(
        "b.applied_at") " as oldest_at, " AGE_US("b.applied_at") " as oldest_us, "
                                                                 "c.fresh_done, c.fan_out_done, "
                                                                 "c.backfill_done, "
                                                                 "c.everything_done, "
                                                                 "o.is_owed as owes_everything, "
                                                                 "coalesce(c.stale_reason, "
                                                                 "o.reason) as reason, "
                                                                 "c.claim_id, c.claim_lane, "
                                                                 "c.claim_from, c.claim_to, "
                                                                 "c.claim_keys, "
                                                                 "c.claim_everything, " UTC("c."
                                                                                            "claime"
                                                                                            "d_at") " as claimed_at, " AGE_US("c.claimed_at") " as claimed_us, " UTC("c.acked_at") " as acked_at, " AGE_US("c.acked_at") " as acked_us, " UTC(
                                                                     "c.stale_since") " as "
                                                                                      "stale_since,"
                                                                                      " " AGE_US("c"
                                                                                                 "."
                                                                                                 "s"
                                                                                                 "t"
                                                                                                 "a"
                                                                                                 "l"
                                                                                                 "e"
                                                                                                 "_"
                                                                                                 "s"
                                                                                                 "i"
                                                                                                 "n"
                                                                                                 "c"
                                                                                                 "e") " as stale_us "
                                                                                                      "from tailwater.consumer c join tailwater.fact f on f.name = c.fact "
                                                                                                      "join tailwater.clock k on k.pipeline = f.pipeline "
                                                                                                      "cross join lateral tailwater.pending(c, k.batch_id, " NUMBER(
                                                                                                          LEDGER_STATUS_MAX_KEYS) ") p "
                                                                                                                                  "left join tailwater.batch b on b.pipeline = f.pipeline and b.batch_id = p.oldest "
                                                                                                                                  "left join lateral (select e.batch_id, e.reason from tailwater.everything e "
                                                                                                                                  "where e.fact = f.name and e.generation = f.generation order by e.batch_id desc limit 1) e "
                                                                                                                                  "on true cross join lateral (select c.stale_since is not null or c.everything_done is null "
                                                                                                                                  "or coalesce(c.everything_done < e.batch_id, false) as is_owed, "
                                                                                                                                  "case when c.everything_done is null then 'start => all' "
                                                                                                                                  "when c.everything_done < e.batch_id then e.reason end as reason) o "
                                                                                                                                  "where f.pipeline = $1 order by c.fact, c.name";

enum {
    OF_FACT,
    OF_NAME,
    OF_STATE,
    OF_PENDING,
    OF_OLDEST,
    OF_OLDEST_AT,
    OF_OLDEST_US,
    OF_FRESH,
    OF_FAN_OUT,
    OF_BACKFILL,
    OF_EVERYTHING,
    OF_IS_OWED,
    OF_REASON,
    OF_CLAIM,
    OF_LANE,
    OF_FROM,
    OF_TO,
    OF_KEYS,
    OF_WHOLE,
    OF_CLAIMED_AT,
    OF_CLAIMED_US,
    OF_ACKED_AT,
    OF_ACKED_US,
    OF_STALE_SINCE,
    OF_STALE_US
};

static bool query(struct pg *mirror, const char *sql, const char *pipeline,
                  struct pg_result **ret_rows, struct error *err)
{
    return pg_query(mirror, sql, 1, &pipeline, ret_rows, err) ||
           error_wrap(err, "looking at the ledger of pipeline %s", pipeline);
}

bool ledger_status_json(struct pg *mirror, const char *pipeline, struct buf *json,
                        struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    _cleanup_result_ struct pg_result *result = NULL;

    buf_printf(&sql,
               "with facts as (%s), consumers as (%s) select json_build_object("
               "'batch', (select batch_id from tailwater.clock where pipeline = $1), 'facts', "
               "coalesce((select json_agg(to_jsonb(f) || jsonb_build_object('consumers', "
               "coalesce((select jsonb_agg(to_jsonb(c) - 'fact' - 'oldest_us' - 'claimed_us' - "
               "'acked_us' - 'stale_us' || jsonb_build_object('pending_is_bound', "
               "c.pending_keys >= " NUMBER(
                   LEDGER_STATUS_MAX_KEYS) ") order by c.name) "
                                           "from consumers c where c.fact = f.name), '[]')) order "
                                           "by f.name) from facts f), "
                                           "'[]'))",
               facts_sql, consumers_sql);
    if (!query(mirror, buf_text(&sql), pipeline, &result, err))
        return false;
    buf_add(json, pg_text(result, 0, 0));
    return true;
}

/* ---- text ---- */

static const char *lane_name(int lane)
{
    static const char *const names[] = {"fresh", "fan-out", "backfill"};

    return lane >= 0 && lane < 3 ? names[lane] : "unknown";
}

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
                   pg_text(row, i, OF_KEYS), lane_name((int) pg_int(row, i, OF_LANE)),
                   pg_text(row, i, OF_FROM), pg_text(row, i, OF_TO));
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

static void add_fact(struct buf *text, const struct pg_result *row, int i)
{
    char bytes[HUMAN_TEXT_SIZE];

    buf_printf(text, "%s: %s, key %s; %s\n", pg_text(row, i, FACT_NAME),
               pg_text(row, i, FACT_TABLE), pg_text(row, i, FACT_KEY),
               pg_is_null(row, i, FACT_REASON) ? "ready" : pg_text(row, i, FACT_REASON));
    buf_printf(text, "  kept from batch %s on: %s in %s partitions; generation %s\n",
               pg_text(row, i, FACT_KEPT_FROM), human_bytes(pg_int(row, i, FACT_BYTES), bytes),
               pg_text(row, i, FACT_PARTITIONS), pg_text(row, i, FACT_GENERATION));
}

bool ledger_status_text(struct pg *mirror, const char *pipeline, struct buf *text,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL, *consumers = NULL;
    int next = 0;

    if (!query(mirror, facts_sql, pipeline, &facts, err) ||
        !query(mirror, consumers_sql, pipeline, &consumers, err))
        return false;
    if (pg_rows(facts) == 0)
        buf_printf(text, "pipeline %s keeps no ledger: no facts are declared\n", pipeline);
    for (int i = 0; i < pg_rows(facts); i++) {
        const int first = next;

        add_fact(text, facts, i);
        while (next < pg_rows(consumers) &&
               strcmp(pg_text(consumers, next, OF_FACT), pg_text(facts, i, FACT_NAME)) == 0)
            add_consumer(text, consumers, next++);
        if (next == first)
            buf_add(text, "  no consumers\n");
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
    notes_add(lines, "%s", buf_text(&text));
}

bool ledger_status_summary(struct pg *mirror, const char *pipeline, struct notes *lines,
                           struct error *err)
{
    _cleanup_result_ struct pg_result *facts = NULL, *consumers = NULL;
    int next = 0;

    if (!query(mirror, facts_sql, pipeline, &facts, err) ||
        !query(mirror, consumers_sql, pipeline, &consumers, err))
        return false;
    for (int i = 0; i < pg_rows(facts); i++) {
        struct totals totals = {0};

        while (next < pg_rows(consumers) &&
               strcmp(pg_text(consumers, next, OF_FACT), pg_text(facts, i, FACT_NAME)) == 0)
            add_totals(&totals, consumers, next++);
        note_fact(facts, i, &totals, lines);
    }
    return true;
}
