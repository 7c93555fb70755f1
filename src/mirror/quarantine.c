/*
 * The mark and its end are the only two places where a table leaves the stream and comes back to
 * it; whoever has to know of that (everything derived from the table is to be derived anew) has its
 * place in these two transactions.
 *
 * Which errors lead here is the engine's business (src/engine/run.c).
 */
#include "mirror/quarantine.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/human.h"
#include "base/memory.h"
#include "batch/batch.h"
#include "batch/binding.h"
#include "mirror/control.h"

#include <inttypes.h>
#include <stdio.h>

bool quarantine_load(struct pg *mirror, const char *pipeline, const struct table_list *list,
                     _Atomic lsn_t *ret_left_out_from, bool *ret_is_resynced, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    _cleanup_free_ lsn_t *from = NULL;

    /* Under resync changes are applied again. */
    if (!pg_query(mirror,
                  "SELECT schema, name, resync_job IS NOT NULL, quarantine_lsn "
                  "FROM tailwater.mirror_table WHERE pipeline = $1 "
                  "AND (quarantine_lsn IS NOT NULL OR resync_job IS NOT NULL)",
                  1, &pipeline, &rows, err))
        return error_wrap(err, "reading which tables are quarantined");
    from = memory_alloc((size_t) list->count * sizeof(*from));
    for (int i = 0; i < list->count; i++) {
        from[i] = BATCH_NEVER;
        ret_is_resynced[i] = false;
    }
    for (int row = 0; row < pg_rows(rows); row++) {
        const struct table *table = table_list_find(list, pg_text(rows, row, 0),
                                                    pg_text(rows, row, 1));

        if (table == NULL)
            continue;
        if (pg_bool(rows, row, 2))
            ret_is_resynced[table->index] = true;
        else
            from[table->index] = pg_lsn(rows, row, 3);
    }
    /* A batch may be being filled: what does not change must not change for a moment either. */
    for (int i = 0; i < list->count; i++)
        ret_left_out_from[i] = from[i];
    return true;
}

static bool update_one(struct pg *mirror, const char *sql, int nparams, const char *const *params,
                       const struct table *table, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;

    if (!pg_query(mirror, sql, nparams, params, &done, err))
        return false;
    return pg_affected(done) == 1 ||
           error_set(err, ERROR_BUG, "table %s has no row in the control schema", table->label);
}

/* Between sessions nobody else moves the clock: this connection has the lock. */
static bool take_number(struct pg *mirror, const char *pipeline, struct error *err)
{
    _cleanup_result_ struct pg_result *row = NULL;

    return pg_query_row(mirror,
                        "UPDATE tailwater.clock SET batch_id = batch_id + 1, "
                        "applied_at = clock_timestamp() WHERE pipeline = $1 RETURNING batch_id",
                        1, &pipeline, &row, err);
}

#define WHY_SIZE                                                                                   \
    (sizeof(((struct error *) NULL)->message) + sizeof(((struct error *) NULL)->hint) + 2)

/* What happened, and what has to be done about it. */
static void explain(const struct error *reason, char why[WHY_SIZE])
{
    snprintf(why, WHY_SIZE, "%s%s%s", reason->message, reason->hint[0] ? "; " : "", reason->hint);
}

static bool write_mark(struct pg *mirror, const char *pipeline, const struct culprit *culprit,
                       const struct error *reason, struct error *err)
{
    /* Of another shape than the mirror table: a resync with the shape of now helps. */
    const bool is_shape = strcmp(reason->sqlstate, BINDING_SHAPE) == 0;
    char lsn[LSN_TEXT_SIZE], xid[16], time[24];
    char why[WHY_SIZE];
    const char *params[] = {pipeline,
                            culprit->table->schema,
                            culprit->table->name,
                            lsn_text(culprit->first_lsn, lsn),
                            culprit->xid ? xid : NULL,
                            culprit->commit_time_us ? time : NULL,
                            reason->sqlstate[0] && !is_shape ? reason->sqlstate : NULL,
                            why,
                            is_shape && culprit->is_followed ? "t" : "f"};
    _cleanup_result_ struct pg_result *failed = NULL, *done = NULL;

    snprintf(xid, sizeof(xid), "%" PRIu32, culprit->xid);
    snprintf(time, sizeof(time), "%" PRId64, culprit->commit_time_us);
    explain(reason, why);
    if (!pg_query(mirror,
                  "UPDATE tailwater.job_table t SET state = 'failed', step = NULL, "
                  "ended_at = now(), sqlstate = $4, error = $5 FROM tailwater.mirror_table m "
                  "WHERE t.job = m.resync_job AND (m.pipeline, m.schema, m.name) = ($1, $2, $3) "
                  "AND (t.schema, t.name) = ($2, $3)",
                  5,
                  (const char *[]){pipeline, culprit->table->schema, culprit->table->name,
                                   params[6], why},
                  &failed, err) ||
        !pg_query(mirror,
                  "UPDATE tailwater.mirror_table SET "
                  "quarantine_lsn = least(quarantine_lsn, $4::pg_lsn), quarantine_batch = "
                  "least(quarantine_batch, (SELECT batch_id FROM tailwater.clock "
                  "WHERE pipeline = $1)), quarantined_at = now(), "
                  "quarantine_xid = $5::bigint, quarantine_commit_time = timestamptz 'epoch' + "
                  "$6::bigint * interval '1 microsecond', "
                  "quarantine_sqlstate = $7, quarantine_reason = $8, resync_job = NULL, "
                  "needs_resync_lsn = CASE WHEN $9::boolean THEN '0/0' ELSE needs_resync_lsn END "
                  "WHERE pipeline = $1 AND schema = $2 AND name = $3 AND "
                  "(quarantine_lsn IS NULL OR quarantine_lsn > $4::pg_lsn "
                  "OR resync_job IS NOT NULL)",
                  9, params, &done, err))
        return false;
    if (pg_affected(done) == 1)
        return true;
    return error_set(err, ERROR_BUG, "%s is quarantined from %s on already, and was refused again",
                     culprit->table->label, lsn);
}

bool quarantine_begin(struct pg *mirror, const char *pipeline, const struct culprit *culprit,
                      const struct error *reason, struct error *err)
{
    struct error ignored;

    if (pg_exec(mirror, "BEGIN", err) && take_number(mirror, pipeline, err) &&
        write_mark(mirror, pipeline, culprit, reason, err) && pg_exec(mirror, "COMMIT", err))
        return true;
    if (!pg_is_broken(mirror))
        pg_exec(mirror, "ROLLBACK", &ignored);
    return error_wrap(err, "quarantining %s", culprit->table->label);
}

bool quarantine_explain(struct pg *mirror, const char *pipeline, const char *schema,
                        const char *name, const struct error *reason, struct error *err)
{
    char why[WHY_SIZE];
    const char *params[] = {pipeline, schema, name, why};
    _cleanup_result_ struct pg_result *done = NULL;

    explain(reason, why);
    return pg_query(mirror,
                    "UPDATE tailwater.mirror_table SET quarantine_reason = $4 WHERE "
                    "(pipeline, schema, name) = ($1, $2, $3) AND quarantine_lsn IS NOT NULL "
                    "AND needs_resync_lsn IS NOT NULL",
                    4, params, &done, err) ||
           error_wrap(err, "quarantine of %s.%s", schema, name);
}

bool quarantine_hint(const struct table *table, const char *config_file, struct error *err)
{
    char remedy[sizeof(err->hint)], name[HUMAN_TABLE_SIZE];

    snprintf(remedy, sizeof(remedy), "%s", err->hint);
    return error_hint(err,
                      "%s%s%s stays as it was before that, everything else goes on; once the cause "
                      "is removed, run: tailwater resync -c %s %s",
                      remedy, remedy[0] ? "; " : "", table->label, config_file,
                      human_table(table->schema, table->name, name));
}

bool quarantine_end(struct pg *mirror, const char *pipeline, const struct table *table, lsn_t lsn,
                    struct error *err)
{
    char text[LSN_TEXT_SIZE], relid[16];
    _cleanup_buf_ struct buf shape = {0};
    const char *params[] = {pipeline, table->schema, table->name, lsn_text(lsn, text), relid, NULL};

    buf_add(&shape, "{\"columns\": ");
    control_add_columns(&shape, table);
    buf_add_char(&shape, '}');
    params[5] = buf_text(&shape);
    snprintf(relid, sizeof(relid), "%" PRIu32, table->relid);
    return update_one(mirror,
                      "UPDATE tailwater.mirror_table SET quarantine_lsn = NULL, "
                      "quarantine_batch = NULL, quarantined_at = NULL, quarantine_xid = NULL, "
                      "quarantine_commit_time = NULL, quarantine_sqlstate = NULL, "
                      "quarantine_reason = NULL, resync_job = NULL, relid = $5::oid, "
                      "needs_resync_lsn = NULL, shape = coalesce(shape, '{}') || $6::jsonb, "
                      "resynced_at = now(), resynced_lsn = $4::pg_lsn "
                      "WHERE pipeline = $1 AND schema = $2 AND name = $3",
                      6, params, table, err);
}

bool quarantine_set_resync(struct pg *mirror, const char *pipeline, const struct table *table,
                           int64_t job, struct error *err)
{
    char text[24];
    const char *params[] = {pipeline, table->schema, table->name, job ? text : NULL};

    snprintf(text, sizeof(text), "%" PRId64, job);
    return update_one(mirror,
                      "UPDATE tailwater.mirror_table SET resync_job = $4::bigint "
                      "WHERE pipeline = $1 AND schema = $2 AND name = $3",
                      4, params, table, err);
}
