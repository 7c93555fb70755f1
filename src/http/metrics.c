/*
 * Three sources: what a glance has seen, the tally of rows written (this process's), and one query each
 * about facts, consumers, derived tables and feeds.  Every one ends in add_family() and add_sample();
 * what is unknown has no sample, since 0 would be a claim.
 */
#include "http/metrics.h"

#include "base/clock.h"
#include "batch/tally.h"

#include <math.h>
#include <stdlib.h>

#define COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

/* ---- the format ---- */

static void add_family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_label_value(struct buf *out, const char *value)
{
    for (const char *c = value; *c != '\0'; c++)
        if (*c == '\n')
            buf_add(out, "\\n");
        else if (*c == '"' || *c == '\\')
            buf_add_char(out, '\\'), buf_add_char(out, *c);
        else
            buf_add_char(out, *c);
}

struct label {
    const char *name, *value;
};

static void add_labels(struct buf *out, const struct label *labels, int nlabels)
{
    for (int i = 0; i < nlabels; i++) {
        buf_printf(out, "%s%s=\"", i == 0 ? "{" : ",", labels[i].name);
        add_label_value(out, labels[i].value);
        buf_add(out, i == nlabels - 1 ? "\"}" : "\"");
    }
}

static void add_sample(struct buf *out, const char *name, const struct label *labels, int nlabels,
                       double value)
{
    buf_add(out, name);
    add_labels(out, labels, nlabels);
    if (value == floor(value) && fabs(value) < 1e15)
        buf_printf(out, " %.0f\n", value);
    else
        buf_printf(out, " %.15g\n", value); /* a time has ten digits before its point */
}

/* ---- the pipeline ---- */

static double seconds(int64_t us)
{
    return us < 0 ? NAN : (double) us / 1e6;
}

static double count(int64_t number)
{
    return number < 0 ? NAN : (double) number;
}

/* How much WAL lies between a place and where the source writes. */
static double behind(const struct status *status, lsn_t lsn)
{
    if (!status->has_slot || !status->slot.exists || lsn == 0)
        return NAN;
    return status->slot.current > lsn ? (double) (status->slot.current - lsn) : 0;
}

/* One number, with at most one label; those of one name stand together. */
struct scalar {
    const char *name, *type, *help;
    struct label label;
    double value; /* NAN: unknown */
};

static void add_scalars(struct buf *out, const struct scalar *scalars, int nscalars)
{
    for (int i = 0; i < nscalars; i++) {
        const struct scalar *scalar = &scalars[i];

        if (i == 0 || strcmp(scalar->name, scalars[i - 1].name) != 0)
            add_family(out, scalar->name, scalar->type, scalar->help);
        if (!isnan(scalar->value))
            add_sample(out, scalar->name, &scalar->label, scalar->label.name != NULL,
                       scalar->value);
    }
}

static bool is_alive(const struct status *s)
{
    return s->holder.pid != 0 && s->has_heartbeat;
}

static void add_state(const struct status *s, struct buf *out)
{
    const struct control_heartbeat *h = &s->heartbeat;
    const struct slot_status *slot = &s->slot;
    const bool has_slot = s->has_slot && slot->exists;
    const struct scalar scalars[] = {
        {"tailwater_level",
         "gauge",
         "The verdict: 0 fine, 1 to be watched, 2 broken.",
         {0},
         s->level},
        {"tailwater_exit_code",
         "gauge",
         "0; what the replicator ended with, where nobody replicates since it failed.",
         {0},
         s->has_heartbeat && s->holder.pid == 0 ? count(h->exit_code) : 0},
        {"tailwater_server_up",
         "gauge",
         "Whether the server answers.",
         {"side", "source"},
         s->source.is_up},
        {"tailwater_server_up", "gauge", "", {"side", "mirror"}, s->mirror.is_up},
        {"tailwater_lag_seconds",
         "gauge",
         "How old what the mirror shows is.",
         {0},
         seconds(s->lag_us)},
        {"tailwater_lag_bytes",
         "gauge",
         "WAL that the source has written past this stage.",
         {"stage", "received"},
         is_alive(s) ? behind(s, h->received_lsn) : NAN},
        {"tailwater_lag_bytes",
         "gauge",
         "",
         {"stage", "applied"},
         s->is_known ? behind(s, s->pipeline.cursor) : NAN},
        {"tailwater_lag_bytes",
         "gauge",
         "",
         {"stage", "confirmed"},
         has_slot ? behind(s, slot->confirmed_flush) : NAN},
    };

    add_scalars(out, scalars, COUNT(scalars));
}

static void add_slot(const struct status *s, struct buf *out)
{
    const struct slot_status *slot = &s->slot;
    const bool has_slot = s->has_slot && slot->exists;
    const int64_t warn = s->config->source.wal_guard.warn_bytes;
    const int64_t critical = s->config->source.wal_guard.critical_bytes;
    const struct scalar scalars[] = {
        {"tailwater_slot_active",
         "gauge",
         "Whether somebody reads the slot.",
         {0},
         has_slot ? slot->active_pid != 0 : NAN},
        {"tailwater_slot_lost",
         "gauge",
         "Whether the slot is of no use any more.",
         {0},
         s->has_slot ? !slot->exists || slot->is_lost : NAN},
        {"tailwater_slot_retained_bytes",
         "gauge",
         "WAL that the slot keeps on the source.",
         {0},
         has_slot ? count(slot->retained_bytes) : NAN},
        {"tailwater_slot_safe_bytes",
         "gauge",
         "WAL until max_slot_wal_keep_size loses the slot.",
         {0},
         has_slot ? count(slot->safe_wal_bytes) : NAN},
        {"tailwater_slot_guard_bytes",
         "gauge",
         "The limits of source.wal_guard.",
         {"level", "warn"},
         count(warn)},
        {"tailwater_slot_guard_bytes", "gauge", "", {"level", "critical"}, count(critical)},
    };

    add_scalars(out, scalars, COUNT(scalars));
}

static void add_replicator(const struct status *s, struct buf *out)
{
    const struct control_heartbeat *h = &s->heartbeat;
    const struct scalar scalars[] = {
        {"tailwater_transactions_total",
         "counter",
         "Transactions applied since the start.",
         {0},
         is_alive(s) ? count(h->transactions) : NAN},
        {"tailwater_source_changes_total",
         "counter",
         "Changes applied since the start.",
         {0},
         is_alive(s) ? count(h->changes) : NAN},
        {"tailwater_batches_total",
         "counter",
         "Mirror transactions since the start.",
         {0},
         is_alive(s) ? count(h->batches) : NAN},
        {"tailwater_reconnects_total",
         "counter",
         "Streams begun anew since the start.",
         {0},
         is_alive(s) ? count(h->reconnects) : NAN},
        {"tailwater_start_time_seconds",
         "gauge",
         "When the replicator was started.",
         {0},
         is_alive(s) ? seconds(h->started_at_us) : NAN},
        {"tailwater_heartbeat_age_seconds",
         "gauge",
         "Since the replicator last spoke.",
         {0},
         s->has_heartbeat ? seconds(h->age_us) : NAN},
        {"tailwater_clock_ahead_seconds",
         "gauge",
         "How far the server's clock is ahead of the replicator's machine's.",
         {"side", "source"},
         is_alive(s) ? (double) h->source_ahead_us / 1e6 : NAN},
        {"tailwater_clock_ahead_seconds",
         "gauge",
         "",
         {"side", "mirror"},
         is_alive(s) ? (double) h->mirror_ahead_us / 1e6 : NAN},
        {"tailwater_batch",
         "gauge",
         "Number of the newest batch.",
         {0},
         s->is_known ? count(s->pipeline.batch_id) : NAN},
        {"tailwater_commit_time_seconds",
         "gauge",
         "Commit time, on the source, of the newest transaction applied.",
         {0},
         s->is_known && s->pipeline.commit_time_us > 0 ? seconds(s->pipeline.commit_time_us) : NAN},
        {"tailwater_complete_time_seconds",
         "gauge",
         "Up to when, by the source's clock, all changes are here and counted.",
         {0},
         s->nfreshness > 0 && s->freshness[0].counted_to_us > 0
             ? seconds(s->freshness[0].counted_to_us)
             : NAN},
    };

    add_scalars(out, scalars, COUNT(scalars));
}

static void add_tables(const struct status *s, struct buf *out)
{
    const struct control_heartbeat *h = &s->heartbeat;
    const struct scalar scalars[] = {
        {"tailwater_tables",
         "gauge",
         "Tables of the pipeline.",
         {0},
         s->is_known ? s->ntables : NAN},
        {"tailwater_tables_ready",
         "gauge",
         "Of these, copied and followed.",
         {0},
         s->is_known ? s->nready : NAN},
        {"tailwater_tables_quarantined",
         "gauge",
         "Of these, left out after an error.",
         {0},
         s->is_known ? s->nquarantined : NAN},
        {"tailwater_copy_bytes",
         "gauge",
         "What the initial copy has to read.",
         {0},
         is_alive(s) ? count(h->copy_bytes) : NAN},
        {"tailwater_copy_done_bytes",
         "gauge",
         "What it has read.",
         {0},
         is_alive(s) ? count(h->copy_bytes_done) : NAN},
        {"tailwater_repair_keys",
         "gauge",
         "Rows that are to be fetched from the source.",
         {0},
         s->is_known ? count(s->repair_keys) : NAN},
        {"tailwater_doubt_rows",
         "gauge",
         "Rows whose nulls the source is asked about.",
         {0},
         s->is_known ? count(s->doubt_rows) : NAN},
    };

    add_scalars(out, scalars, COUNT(scalars));
}

/* Numbers that are 1, and say something by their labels. */
static void add_words(const struct status *s, const char *version, struct buf *out)
{
    const struct label info[] = {{"version", version},
                                 {"pipeline", s->config->pipeline},
                                 {"plugin", s->config->source.plugin}};

    add_family(out, "tailwater_info", "gauge", "The program and its pipeline.");
    add_sample(out, "tailwater_info", info, COUNT(info), 1);
    add_family(out, "tailwater_state", "gauge", "The verdict in a word or two.");
    add_sample(out, "tailwater_state", &(struct label){"state", s->state}, 1, 1);
    add_family(out, "tailwater_trouble", "gauge", "What somebody has to look at.");
    for (int i = 0; i < s->ntroubles; i++)
        add_sample(out, "tailwater_trouble",
                   (const struct label[]){{"event", s->troubles[i].event},
                                          {"subject", s->troubles[i].subject}},
                   2, 1);
}

/* ---- tables ---- */

struct table_metric {
    const char *name, *help;
    double (*value)(const struct control_table *table);
};

static double table_rows(const struct control_table *table)
{
    return count(table->estimated_rows);
}

static double table_bytes(const struct control_table *table)
{
    return count(table->total_bytes);
}

static double table_ready(const struct control_table *table)
{
    return table->state == CONTROL_TABLE_READY && table->quarantine.lsn == 0;
}

static double table_quarantined(const struct control_table *table)
{
    return table->quarantine.lsn != 0;
}

static double table_verified(const struct control_table *table)
{
    return table->verified_at_us > 0 ? seconds(table->verified_at_us) : NAN;
}

static double table_differences(const struct control_table *table)
{
    return table->verified_at_us > 0 ? count(table->verified_differences) : NAN;
}

static double table_resynced(const struct control_table *table)
{
    return table->resynced_at_us > 0 ? seconds(table->resynced_at_us) : NAN;
}

static double table_changed(const struct control_table *table)
{
    return table->freshness && table->freshness->last_change_us > 0
               ? seconds(table->freshness->last_change_us)
               : NAN;
}

static double table_hour(const struct control_table *table)
{
    return table->freshness ? count(table->freshness->hour_changes) : NAN;
}

static double table_low(const struct control_table *table)
{
    return table->freshness ? count(table->freshness->usual_low) : NAN;
}

static double table_high(const struct control_table *table)
{
    return table->freshness ? count(table->freshness->usual_high) : NAN;
}

static double table_reshaped(const struct control_table *table)
{
    return table->schema_changed_us > 0 ? seconds(table->schema_changed_us) : NAN;
}

static const struct table_metric table_metrics[] = {
    {"tailwater_table_rows", "Rows of the mirror table, estimated.", table_rows},
    {"tailwater_table_bytes", "Size of the mirror table with its indexes.", table_bytes},
    {"tailwater_table_ready", "Whether the table is copied and followed.", table_ready},
    {"tailwater_table_quarantined", "Whether the table is left out after an error.",
     table_quarantined},
    {"tailwater_table_verify_time_seconds", "When the last verify ended.", table_verified},
    {"tailwater_table_verify_differences", "Rows that differed then.", table_differences},
    {"tailwater_table_resync_time_seconds", "When the last resync ended.", table_resynced},
    {"tailwater_table_schema_change_time_seconds",
     "When the mirror table last followed a change of shape.", table_reshaped},
    {"tailwater_table_change_time_seconds", "When the source last changed the table.",
     table_changed},
    {"tailwater_table_hour_changes", "Changes of the table in the last hour that is over.",
     table_hour},
    {"tailwater_table_hour_changes_usual_low", "5th percentile of the hours like it.", table_low},
    {"tailwater_table_hour_changes_usual_high", "95th percentile of the hours like it.",
     table_high},
};

static void add_table_metric(const struct table_metric *metric, const struct status *status,
                             struct buf *out)
{
    _cleanup_buf_ struct buf name = {0};

    add_family(out, metric->name, "gauge", metric->help);
    for (int i = 0; i < status->ntables; i++) {
        const struct control_table *table = &status->tables[i];
        const double value = metric->value(table);

        if (isnan(value))
            continue;
        buf_clear(&name);
        buf_printf(&name, "%s.%s", table->schema, table->name);
        add_sample(out, metric->name, &(struct label){"table", buf_text(&name)}, 1, value);
    }
}

static void add_changes(struct buf *out)
{
    static const char name[] = "tailwater_changes_total";

    add_family(out, name, "counter", "Rows written to the mirror since the start, by kind.");
    for (const struct tally *tally = tally_first(); tally != NULL; tally = tally->next) {
        const struct {
            const char *op;
            int64_t count;
        } kinds[] = {
            {"insert", tally->inserted}, {"update", tally->updated}, {"delete", tally->deleted}};

        for (int i = 0; i < COUNT(kinds); i++)
            add_sample(out, name,
                       (const struct label[]){{"table", tally->table}, {"op", kinds[i].op}}, 2,
                       (double) kinds[i].count);
    }
}

/* ---- what the mirror's functions tell ---- */

#define MAX_LABELS  2
#define MAX_COLUMNS 10

/* A query whose first columns are the labels, and whose others are a family each. */
struct group {
    const char *sql; /* $1: the pipeline */
    const char *labels[MAX_LABELS];
    struct {
        const char *name, *type, *help;
    } families[MAX_COLUMNS];
};

#define SECONDS_SINCE(time) "extract(epoch from clock_timestamp() - " time ")"

static const struct group groups[] = {
    {.sql = "select f.name, (f.reason is null)::int, f.bytes, c.fan_outs, "
            "coalesce(" SECONDS_SINCE("c.fan_out_since") ", 0) "
                                                         "from tailwater.fact_states($1) f join "
                                                         "tailwater.ledger_complete($1) c "
                                                         "on c.fact = f.name order by 1",
     .labels = {"fact"},
     .families = {{"tailwater_fact_ready", "gauge", "Whether the fact gets keys."},
                  {"tailwater_ledger_bytes", "gauge", "Size of the fact's ledger."},
                  {"tailwater_ledger_fan_outs_pending", "gauge",
                   "Large fan-outs that are not expanded yet."},
                  {"tailwater_ledger_fan_out_age_seconds", "gauge", "Age of the oldest of them."}}},
    {.sql = "select fact, name, pending_keys, coalesce(" SECONDS_SINCE(
         "oldest_at") ", 0), "
                      "owes_everything::int, (stale_since is not null)::int "
                      "from tailwater.consumer_states($1, 100000) order by 1, 2",
     .labels = {"fact", "consumer"},
     .families = {{"tailwater_ledger_pending_keys", "gauge",
                   "Keys that the consumer has not acknowledged; counted up to 100000."},
                  {"tailwater_ledger_pending_age_seconds", "gauge", "Age of the oldest of them."},
                  {"tailwater_ledger_owes_everything", "gauge",
                   "Whether the consumer has to rebuild everything."},
                  {"tailwater_ledger_consumer_stale", "gauge",
                   "Whether the consumer was given up as too far behind."}}},
    {.sql = "select fact, extract(epoch from last_keys), hour_keys, usual_low, usual_high "
            "from tailwater.fact_volume_states($1)",
     .labels = {"fact"},
     .families = {{"tailwater_fact_keys_time_seconds", "gauge", "When keys were written last."},
                  {"tailwater_fact_hour_keys", "gauge", "Keys in the last hour that is over."},
                  {"tailwater_fact_hour_keys_usual_low", "gauge",
                   "5th percentile of the hours like it."},
                  {"tailwater_fact_hour_keys_usual_high", "gauge",
                   "95th percentile of the hours like it."}}},
    {.sql = "select fact, windows, keys, rows_inserted + rows_updated + rows_deleted, "
            "(failing_since is not null)::int, failed_keys, parked_keys, "
            "coalesce(chunks - chunks_done, 0), " SECONDS_SINCE(
                "refreshed_at") " "
                                "from tailwater.refresh_states($1) order by 1",
     .labels = {"fact"},
     .families = {{"tailwater_refresh_windows_total", "counter", "Windows refreshed."},
                  {"tailwater_refresh_keys_total", "counter", "Keys recomputed."},
                  {"tailwater_refresh_rows_total", "counter", "Rows of the derived table written."},
                  {"tailwater_refresh_failing", "gauge", "Whether the refresh fails as a whole."},
                  {"tailwater_refresh_failed_keys", "gauge", "Keys that cannot be computed."},
                  {"tailwater_refresh_parked_keys", "gauge", "Of these, not tried any more."},
                  {"tailwater_refresh_backfill_chunks", "gauge", "Chunks of a backfill to do."},
                  {"tailwater_refresh_age_seconds", "gauge", "Since the last window."}}},
    {.sql = "select name, (state = 'paused')::int, (state = 'blocked')::int, sent, refused, "
            "requests, dead, retrying, pending_keys, coalesce(" SECONDS_SINCE(
                "oldest_at") ", 0), "
                             "latency_p99_ms / 1000 from tailwater.feed_states($1) order by 1",
     .labels = {"feed"},
     .families = {{"tailwater_feed_paused", "gauge", "Whether the feed is paused."},
                  {"tailwater_feed_blocked", "gauge", "Whether its receiver takes nothing."},
                  {"tailwater_feed_documents_total", "counter", "Documents accepted."},
                  {"tailwater_feed_refused_total", "counter", "Documents refused."},
                  {"tailwater_feed_requests_total", "counter", "Requests made."},
                  {"tailwater_feed_dead_letters", "gauge", "Documents given up."},
                  {"tailwater_feed_retrying", "gauge", "Documents to be tried again."},
                  {"tailwater_feed_pending_keys", "gauge", "Keys not yet looked at."},
                  {"tailwater_feed_pending_age_seconds", "gauge", "Age of the oldest of them."},
                  {"tailwater_feed_latency_p99_seconds", "gauge",
                   "From commit to request, 99th percentile."}}},
};

static bool add_group(const struct group *group, struct pg *mirror, const char *pipeline,
                      struct buf *out)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct error err = {0};
    int nlabels = 0;

    while (nlabels < MAX_LABELS && group->labels[nlabels] != NULL)
        nlabels++;
    if (!pg_query(mirror, group->sql, 1, &pipeline, &rows, &err))
        return false;
    for (int f = 0; f < MAX_COLUMNS && group->families[f].name != NULL; f++) {
        add_family(out, group->families[f].name, group->families[f].type, group->families[f].help);
        for (int row = 0; row < pg_rows(rows); row++) {
            struct label labels[MAX_LABELS];

            for (int i = 0; i < nlabels; i++)
                labels[i] = (struct label){group->labels[i], pg_text(rows, row, i)};
            if (!pg_is_null(rows, row, nlabels + f))
                add_sample(out, group->families[f].name, labels, nlabels,
                           strtod(pg_text(rows, row, nlabels + f), NULL));
        }
    }
    return true;
}

int metrics_collect(struct pg *mirror, const char *pipeline, struct buf *out)
{
    int nfailed = 0;

    for (int i = 0; i < COUNT(groups); i++)
        nfailed += !add_group(&groups[i], mirror, pipeline, out);
    return nfailed;
}

/* ---- all of it ---- */

void metrics_add(const struct status *status, const char *version, struct buf *out)
{
    add_state(status, out);
    add_slot(status, out);
    add_replicator(status, out);
    add_tables(status, out);
    add_words(status, version, out);
    for (int i = 0; i < COUNT(table_metrics); i++)
        add_table_metric(&table_metrics[i], status, out);
    add_changes(out);
}

void metrics_add_scrape(const struct metrics_scrape *scrape, struct buf *out)
{
    const struct scalar scalars[] = {
        {"tailwater_ready", "gauge", "What /readyz says: 1 ready.", {0}, scrape->is_ready},
        {"tailwater_scrape_errors",
         "gauge",
         "Parts that could not be looked up.",
         {0},
         scrape->nfailed},
        {"tailwater_scrape_age_seconds",
         "gauge",
         "Since the servers were looked at.",
         {0},
         seconds(scrape->glance_age_us)},
        {"tailwater_scrape_duration_seconds",
         "gauge",
         "What that look took.",
         {0},
         seconds(scrape->glance_took_us)},
        {"tailwater_collect_age_seconds",
         "gauge",
         "Since sizes, facts, consumers, derived tables and feeds were looked at.",
         {0},
         seconds(scrape->collect_age_us)},
        {"tailwater_collect_duration_seconds",
         "gauge",
         "What that took.",
         {0},
         seconds(scrape->collect_took_us)},
    };

    add_scalars(out, scalars, COUNT(scalars));
}
