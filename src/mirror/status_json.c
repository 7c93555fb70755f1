/* The same facts for machines.  Unknown is null, never 0; times are ISO 8601, durations seconds,
 * sizes bytes. */
#include "mirror/status.h"

#include "base/clock.h"

static const char *const levels[] = {
    [STATUS_FINE] = "ok", [STATUS_WATCH] = "warning", [STATUS_BROKEN] = "error"};

static void add_count(struct buf *json, const char *name, int64_t value)
{
    if (value >= 0)
        buf_printf(json, "\"%s\": %lld", name, (long long) value);
    else
        buf_printf(json, "\"%s\": null", name);
}

static void add_seconds(struct buf *json, const char *name, int64_t us)
{
    if (us >= 0)
        buf_printf(json, "\"%s\": %.3f", name, (double) us / 1e6);
    else
        buf_printf(json, "\"%s\": null", name);
}

static void add_offset(struct buf *json, const char *name, int64_t us)
{
    buf_printf(json, "\"%s\": %.3f", name, (double) us / 1e6);
}

static void add_time(struct buf *json, const char *name, int64_t us)
{
    char text[CLOCK_TEXT_SIZE];

    buf_add_json_member(json, name, us > 0 ? clock_text(us, text) : NULL);
}

static void add_lsn(struct buf *json, const char *name, lsn_t lsn)
{
    char text[LSN_TEXT_SIZE];

    buf_add_json_member(json, name, lsn != 0 ? lsn_text(lsn, text) : NULL);
}

static void add_flag(struct buf *json, const char *name, bool value)
{
    buf_printf(json, "\"%s\": %s", name, value ? "true" : "false");
}

#define NEXT() buf_add(json, ", ")

static void add_server(struct buf *json, const char *name, const struct status_server *server)
{
    buf_printf(json, "\"%s\": {", name);
    buf_add_json_member(json, "conninfo", server->where), NEXT();
    add_flag(json, "reachable", server->is_up), NEXT();
    add_count(json, "server_version", server->version > 0 ? server->version : -1), NEXT();
    buf_add_json_member(json, "error", server->is_up ? NULL : server->error.message);
    buf_add_char(json, '}');
}

static void add_replicator(struct buf *json, const struct status *status)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;

    buf_add(json, "\"replicator\": {");
    add_flag(json, "running", status->holder.pid != 0), NEXT();
    add_time(json, "connected_since", status->holder.since_us);
    if (status->has_heartbeat) {
        NEXT(), add_seconds(json, "heartbeat_age_seconds", heartbeat->age_us);
        NEXT(), buf_add_json_member(json, "state", heartbeat->state);
        NEXT(), buf_add_json_member(json, "host", heartbeat->host);
        NEXT(), add_count(json, "pid", heartbeat->pid);
        NEXT(), buf_add_json_member(json, "version", heartbeat->version);
        NEXT(), buf_add_json_member(json, "plugin", heartbeat->plugin);
        NEXT(), add_time(json, "started_at", heartbeat->started_at_us);
        NEXT(), add_time(json, "streaming_since", heartbeat->streaming_since_us);
        NEXT(), add_lsn(json, "received", heartbeat->received_lsn);
        NEXT(), add_lsn(json, "confirmed", heartbeat->confirmed_lsn);
        NEXT(), add_count(json, "transactions", heartbeat->transactions);
        NEXT(), add_count(json, "changes", heartbeat->changes);
        NEXT(), add_count(json, "batches", heartbeat->batches);
        NEXT(), add_count(json, "reconnects", heartbeat->reconnects);
        NEXT(), add_count(json, "copy_tables_done", heartbeat->copy_tables_done);
        NEXT(), add_count(json, "copy_tables", heartbeat->copy_tables);
        NEXT(), add_count(json, "copy_bytes_done", heartbeat->copy_bytes_done);
        NEXT(), add_count(json, "copy_bytes", heartbeat->copy_bytes);
        NEXT(), buf_add_json_member(json, "last_error", heartbeat->last_error);
        NEXT(), add_time(json, "last_error_at", heartbeat->last_error_at_us);
        NEXT(), buf_add_json_member(json, "last_hint", heartbeat->last_hint);
        NEXT(), add_count(json, "exit_code", heartbeat->exit_code > 0 ? heartbeat->exit_code : -1);
        NEXT(), add_offset(json, "source_clock_ahead_seconds", heartbeat->source_ahead_us);
        NEXT(), add_offset(json, "mirror_clock_ahead_seconds", heartbeat->mirror_ahead_us);
    }
    buf_add_char(json, '}');
}

static void add_slot(struct buf *json, const struct status *status)
{
    const struct slot_status *slot = &status->slot;
    const struct config *config = status->config;

    buf_add(json, "\"slot\": {");
    buf_add_json_member(json, "name", config->source.slot), NEXT();
    add_flag(json, "exists", slot->exists);
    if (slot->exists) {
        NEXT(), buf_add_json_member(json, "plugin", slot->plugin);
        NEXT(), add_flag(json, "active", slot->active_pid != 0);
        NEXT(), buf_add_json_member(json, "wal_status", slot->wal_status);
        NEXT(), add_flag(json, "lost", slot->is_lost);
        NEXT(), add_lsn(json, "restart", slot->restart_lsn);
        NEXT(), add_lsn(json, "confirmed_flush", slot->confirmed_flush);
        NEXT(), add_lsn(json, "source_position", slot->current);
        NEXT(), add_count(json, "retained_bytes", slot->retained_bytes);
        NEXT(), add_count(json, "warn_bytes", config->source.wal_guard.warn_bytes);
        NEXT(), add_count(json, "critical_bytes", config->source.wal_guard.critical_bytes);
        NEXT(), add_count(json, "safe_bytes", slot->safe_wal_bytes);
    }
    buf_add_char(json, '}');
}

static void add_quarantine(struct buf *json, const struct control_quarantine *quarantine)
{
    if (quarantine->lsn == 0) {
        buf_add_json_member(json, "quarantine", NULL);
        return;
    }
    buf_add(json, "\"quarantine\": {");
    add_lsn(json, "lsn", quarantine->lsn), NEXT();
    add_time(json, "since", quarantine->since_us), NEXT();
    add_time(json, "commit_time", quarantine->commit_time_us), NEXT();
    add_count(json, "xid", quarantine->xid > 0 ? quarantine->xid : -1), NEXT();
    buf_add_json_member(json, "sqlstate", quarantine->sqlstate[0] ? quarantine->sqlstate : NULL),
        NEXT();
    buf_add_json_member(json, "reason", quarantine->reason);
    buf_add_char(json, '}');
}

static void add_freshness(struct buf *json, const struct freshness *freshness)
{
    buf_add(json, "\"freshness\": ");
    if (freshness == NULL) {
        buf_add(json, "null");
        return;
    }
    buf_add_char(json, '{');
    buf_add_json_member(json, "state", freshness_state_name(freshness->state)), NEXT();
    add_time(json, "as_of", freshness->counted_to_us), NEXT();
    add_time(json, "last_change", freshness->last_change_us), NEXT();
    add_time(json, "quiet_since", freshness->since_us), NEXT();
    add_count(json, "this_hour_changes", freshness->this_hour), NEXT();
    add_time(json, "last_hour", freshness->hour_changes >= 0 ? freshness->hour_us : 0), NEXT();
    add_count(json, "last_hour_changes", freshness->hour_changes), NEXT();
    buf_add_json_member(json, "usual_of", freshness->usual_of), NEXT();
    add_count(json, "usual_low", freshness->usual_low), NEXT();
    add_count(json, "usual_median", freshness->usual_median), NEXT();
    add_count(json, "usual_high", freshness->usual_high), NEXT();
    add_count(json, "usual_most", freshness->usual_most), NEXT();
    add_seconds(json, "usual_silence_seconds", freshness->usual_silence_us), NEXT();
    add_seconds(json, "max_age_seconds", freshness->max_age_us), NEXT();
    buf_add_json_member(json, "message", freshness->words);
    buf_add_char(json, '}');
}

void status_add_tables(const struct status *status, struct buf *json)
{
    buf_add(json, "\"tables\": [");
    for (int i = 0; i < status->ntables; i++) {
        const struct control_table *table = &status->tables[i];

        buf_add(json, i > 0 ? ", {" : "{");
        buf_add_json_member(json, "schema", table->schema), NEXT();
        buf_add_json_member(json, "name", table->name), NEXT();
        buf_add_json_member(json, "state", control_table_state_name(table->state)), NEXT();
        add_count(json, "estimated_rows", table->estimated_rows), NEXT();
        add_count(json, "bytes", table->total_bytes), NEXT();
        add_lsn(json, "copied_as_of", table->copy_lsn), NEXT();
        add_time(json, "copied_at", table->copied_at_us), NEXT();
        add_time(json, "resynced_at", table->resynced_at_us), NEXT();
        add_count(json, "resynced_differences", table->resynced_differences), NEXT();
        add_time(json, "verified_at", table->verified_at_us), NEXT();
        add_count(json, "verified_differences", table->verified_differences), NEXT();
        add_flag(json, "under_resync", table->is_resynced), NEXT();
        add_lsn(json, "unlisted_since", table->unlisted_lsn), NEXT();
        add_time(json, "schema_changed_at", table->schema_changed_us), NEXT();
        buf_add_json_member(json, "schema_change",
                            table->schema_change[0] ? table->schema_change : NULL),
            NEXT();
        add_freshness(json, table->freshness), NEXT();
        add_quarantine(json, &table->quarantine);
        buf_add_char(json, '}');
    }
    buf_add_char(json, ']');
}

static void add_facts(struct buf *json, const struct status *status)
{
    buf_add(json, "\"facts\": [");
    for (int i = 0; i < status->nfact_freshness; i++) {
        const struct freshness *fact = &status->fact_freshness[i];

        buf_add(json, i > 0 ? ", {" : "{");
        buf_add_json_member(json, "name", fact->name), NEXT();
        buf_add_json_member(json, "state", freshness_state_name(fact->state)), NEXT();
        add_time(json, "last_keys", fact->last_change_us), NEXT();
        add_count(json, "this_hour_keys", fact->this_hour), NEXT();
        add_time(json, "last_hour", fact->hour_changes >= 0 ? fact->hour_us : 0), NEXT();
        add_count(json, "last_hour_keys", fact->hour_changes), NEXT();
        buf_add_json_member(json, "usual_of", fact->usual_of), NEXT();
        add_count(json, "usual_low", fact->usual_low), NEXT();
        add_count(json, "usual_median", fact->usual_median), NEXT();
        add_count(json, "usual_high", fact->usual_high), NEXT();
        add_count(json, "usual_most", fact->usual_most), NEXT();
        buf_add_json_member(json, "message", fact->words);
        buf_add_char(json, '}');
    }
    buf_add_char(json, ']');
}

static void add_troubles(struct buf *json, const struct status *status)
{
    buf_add(json, "\"troubles\": [");
    for (int i = 0; i < status->ntroubles; i++) {
        const struct control_trouble *trouble = &status->troubles[i];

        buf_add(json, i > 0 ? ", {" : "{");
        buf_add_json_member(json, "event", trouble->event), NEXT();
        buf_add_json_member(json, "subject", trouble->subject), NEXT();
        buf_add_json_member(json, "message", trouble->words), NEXT();
        buf_add_json_member(json, "next", trouble->next);
        buf_add_char(json, '}');
    }
    buf_add_char(json, ']');
}

static void add_pipeline(struct buf *json, const struct status *status)
{
    const struct control_pipeline *pipeline = &status->pipeline;

    buf_add(json, "\"lag\": {");
    add_seconds(json, "seconds", status->lag_us), NEXT();
    add_flag(json, "is_bound", status->is_lag_bound), NEXT();
    add_count(json, "bytes", status->lag_bytes);
    buf_add(json, "}, \"cursor\": {");
    add_lsn(json, "lsn", pipeline->cursor), NEXT();
    add_count(json, "batch", pipeline->batch_id), NEXT();
    add_time(json, "commit_time", pipeline->commit_time_us), NEXT();
    add_time(json, "applied_at", pipeline->applied_at_us);
    buf_add(json, "}, ");
    add_replicator(json, status), NEXT();
    buf_add(json, "\"repair\": {");
    add_count(json, "keys", status->repair_keys), NEXT();
    add_seconds(json, "oldest_seconds", status->repair_oldest_us);
    buf_add(json, "}, \"doubt\": {");
    add_count(json, "rows", status->doubt_rows), NEXT();
    add_seconds(json, "oldest_seconds", status->doubt_oldest_us);
    buf_add(json, "}, \"counters\": {");
    for (int i = 0; i < status->ncounters; i++) {
        buf_add(json, i > 0 ? ", " : "");
        add_count(json, status->counters[i].name, status->counters[i].value);
    }
    buf_add(json, "}, ");
    add_troubles(json, status), NEXT();
    add_facts(json, status), NEXT();
    status_add_tables(status, json);
}

void status_add_json(const struct status *status, struct buf *json)
{
    buf_add_char(json, '{');
    buf_add_json_member(json, "pipeline", status->config->pipeline), NEXT();
    add_time(json, "time", status->taken_at_us), NEXT();
    buf_add_json_member(json, "level", levels[status->level]), NEXT();
    buf_add_json_member(json, "state", status->state), NEXT();
    buf_add_json_member(json, "message", status->words), NEXT();
    buf_add_json_member(json, "next", status->next[0] ? status->next : NULL), NEXT();
    add_server(json, "source", &status->source), NEXT();
    add_server(json, "mirror", &status->mirror);
    if (status->has_slot)
        NEXT(), add_slot(json, status);
    if (status->is_known)
        NEXT(), add_pipeline(json, status);
    buf_add_char(json, '}');
}
