/*
 * The old slot goes, the new one is made, and one transaction on the mirror says so: identity, cursor
 * and the tables' marks.  In between the pipeline has a slot that is ahead of its cursor, which every
 * start refuses.
 *
 * Where positions of before cannot be compared with those of now (another cluster or timeline, or a
 * source that was set back) rows of the mirror may have an _lsn that the resync would take for newer
 * than its snapshot: these get the least position there is, first.
 */
#include "engine/renew.h"

#include "base/fault.h"
#include "base/log.h"
#include "source/slot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SLOT_TIMEOUT_MS 600000

static bool check(const struct renew_options *options, const struct control_pipeline *stored,
                  const struct control_identity *actual, struct error *err)
{
    if (stored->state != CONTROL_STREAMING) {
        error_set(err, ERROR_CONFIG, "the pipeline %s has not been copied yet", stored->name);
        return error_hint(err, "tailwater destroy -c %s, then run", options->config->file);
    }
    return control_check_identity(&stored->identity, actual, err) ||
           (options->renewal == RENEW_ASKED && err->kind == ERROR_SLOT);
}

/* A slot under our name goes if it may have been ours. */
static bool drop_old(const struct renew_options *options, struct pg *replication,
                     const char *database, struct error *err)
{
    const char *name = options->config->source.slot;
    struct slot_status status;

    if (!slot_look(replication, name, &status, err))
        return false;
    if (!status.exists)
        return true;
    status.is_lost = false; /* that is why we are here */
    if (!slot_check(&status, name, options->config->source.plugin, database, err) ||
        !slot_drop(replication, name, err))
        return false;
    log_event(LOG_WARNING, "slot_dropped", "the slot %s is dropped, to be made anew", name);
    return true;
}

static bool make_new(const struct renew_options *options, struct pg *replication, lsn_t *ret_lsn,
                     struct error *err)
{
    const struct slot_create_options slot = {.slot = options->config->source.slot,
                                             .plugin = options->config->source.plugin,
                                             .is_failover = options->config->source.failover,
                                             .timeout_ms = SLOT_TIMEOUT_MS,
                                             .wake_fd = options->stop_fd};
    struct slot_created created;

    if (!slot_create(replication, &slot, &created, err))
        return error_wrap(err, "making the replication slot %s", slot.slot);
    *ret_lsn = created.consistent_point;
    log_event(LOG_INFO, "slot_created", "slot %s at " LSN_FORMAT, slot.slot,
              LSN_ARGS(created.consistent_point));
    return true;
}

static bool is_comparable(const struct control_pipeline *stored,
                          const struct control_identity *actual, lsn_t lsn)
{
    return strcmp(stored->identity.system_identifier, actual->system_identifier) == 0 &&
           strcmp(stored->identity.database, actual->database) == 0 &&
           stored->identity.timeline == actual->timeline && stored->cursor <= lsn;
}

/* A table at a time, each its own transaction. */
static bool age_rows(const struct renew_options *options, lsn_t lsn, struct error *err)
{
    _cleanup_result_ struct pg_result *tables = NULL;

    if (!pg_query(options->lock,
                  "SELECT format('%I.%I', mirror_schema, mirror_name) FROM tailwater.mirror_table "
                  "WHERE pipeline = $1 AND to_regclass(format('%I.%I', mirror_schema, "
                  "mirror_name)) IS NOT NULL",
                  1, &options->config->pipeline, &tables, err))
        return false;
    for (int i = 0; i < pg_rows(tables); i++)
        if (!pg_execf(options->lock, err,
                      "UPDATE %s SET _lsn = '0/1' WHERE _lsn >= '" LSN_FORMAT "'",
                      pg_text(tables, i, 0), LSN_ARGS(lsn)))
            return error_wrap(err, "%s", pg_text(tables, i, 0));
    return true;
}

/* Everything that speaks of the old thread: one statement, one transaction. */
static bool record(const struct renew_options *options, const struct control_identity *actual,
                   lsn_t lsn, const char *reason, struct error *err)
{
    char position[LSN_TEXT_SIZE], timeline[16], job[24];
    const char *params[] = {options->config->pipeline,
                            lsn_text(lsn, position),
                            actual->system_identifier,
                            timeline,
                            actual->database,
                            actual->slot,
                            reason,
                            options->job ? job : NULL};
    _cleanup_result_ struct pg_result *done = NULL;

    snprintf(timeline, sizeof(timeline), "%d", actual->timeline);
    snprintf(job, sizeof(job), "%" PRId64, options->job);
    return pg_query_row(
        options->lock,
        "WITH p AS (UPDATE tailwater.pipeline SET slot_lsn = $2::pg_lsn, system_identifier = $3, "
        "timeline = $4::integer, database = $5, slot = $6 WHERE name = $1), "
        "c AS (UPDATE tailwater.clock SET batch_id = batch_id + 1, cursor = $2::pg_lsn, "
        "applied_at = clock_timestamp() WHERE pipeline = $1 RETURNING pipeline), "
        "m AS (UPDATE tailwater.mirror_table SET copy_lsn = $2::pg_lsn, "
        "quarantine_lsn = $2::pg_lsn, quarantined_at = coalesce(quarantined_at, now()), "
        "quarantine_reason = coalesce(quarantine_reason, $7), resync_job = NULL, "
        "needs_resync_lsn = '0/0' "
        "WHERE pipeline = $1 AND state = 'ready' AND unlisted_lsn IS NULL "
        "RETURNING schema, name), "
        "u AS (UPDATE tailwater.mirror_table SET unlisted_lsn = $2::pg_lsn, quarantine_lsn = NULL "
        "WHERE pipeline = $1 AND unlisted_lsn IS NOT NULL), "
        "r AS (DELETE FROM tailwater.repair WHERE pipeline = $1), "
        "d AS (DELETE FROM tailwater.doubt WHERE pipeline = $1), "
        "j AS (INSERT INTO tailwater.job (pipeline, kind) SELECT $1, 'resync' "
        "WHERE $8::bigint IS NULL RETURNING id), "
        "t AS (INSERT INTO tailwater.job_table (job, nr, schema, name) SELECT j.id, "
        "row_number() OVER (ORDER BY m.schema, m.name), m.schema, m.name FROM j, m) "
        "SELECT count(*) FROM c",
        8, params, &done, err);
}

bool renew_slot(const struct renew_options *options, const struct control_pipeline *stored,
                const struct control_identity *actual, struct error *err)
{
    const struct pg_options connection = {.side = PG_SOURCE,
                                          .conninfo = options->config->source.conninfo,
                                          .application = "tailwater new slot",
                                          .is_replication = true};
    _cleanup_pg_ struct pg *replication = NULL;
    lsn_t lsn = 0;

    if (!check(options, stored, actual, err) || !pg_connect(&connection, &replication, err) ||
        !drop_old(options, replication, actual->database, err) ||
        !make_new(options, replication, &lsn, err) || !FAULT(renew_after_slot, err))
        return false;
    if ((!is_comparable(stored, actual, lsn) && !age_rows(options, lsn, err)) ||
        !FAULT(renew_before_record, err) ||
        !record(options, actual, lsn, "changes were lost with the replication slot", err))
        return error_wrap(err, "recording the new slot");
    log_event(LOG_WARNING, "slot_renewed",
              "the stream goes on from " LSN_FORMAT
              " with a new slot; every table is resynced, and "
              "may be behind until then",
              LSN_ARGS(lsn));
    return true;
}
