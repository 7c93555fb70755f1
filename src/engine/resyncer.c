/*
 * The oldest job first, its tables in their order.  A table that was being worked on when a session
 * ended starts over in the next one, with a new snapshot; those that are done stay done.
 *
 * What time may heal (a server that is away, a table that was truncated meanwhile) is tried again
 * with back-off, for ever: somebody follows the job and may end it.  What cannot be done fails the
 * table, and the job goes on with the next.  A row that the mirror refuses ends the session, as the
 * stream's would (run.c); the table is then quarantined, and its part of the job has failed.
 *
 * Materialized views that a change of shape left without rows are filled when no job is left: once,
 * whatever number of tables changed, and with what these have by then.
 */
#include "engine/resyncer.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/log.h"
#include "engine/pause.h"
#include "mirror/job.h"
#include "mirror/quarantine.h"
#include "mirror/reshape.h"
#include "mirror/views.h"
#include "sync/resync.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TURN_MS        500
#define FIRST_PAUSE_MS 500
#define LONGEST_MS     30000

struct work_place {
    struct resyncer *resyncer;
    struct pg *mirror; /* to read jobs and to say how far they are */
    const struct job *job;
    struct job_table *table; /* what is being worked on */
    bool is_filled;          /* no materialized view waits for its rows, as of the last job's end */
};

static bool connect_mirror(struct work_place *place, struct error *err)
{
    const struct pg_options options = {.side = PG_MIRROR,
                                       .conninfo = place->resyncer->config->mirror.conninfo,
                                       .application = "tailwater resync jobs"};

    if (place->mirror != NULL && pg_is_broken(place->mirror)) {
        pg_free(place->mirror);
        place->mirror = NULL;
    }
    if (place->mirror != NULL)
        return true;
    if (!pg_connect(&options, &place->mirror, err))
        return false;
    pg_limit(place->mirror, -1, place->resyncer->wake_fd);
    return true;
}

/* ---- what a resync calls back with ---- */

static bool apply(void *context, struct side_batch *side, struct error *err)
{
    const struct work_place *place = context;

    return handover_side(place->resyncer->handover, side, err);
}

static void want(void *context, lsn_t lsn)
{
    const struct work_place *place = context;

    handover_want(place->resyncer->handover, lsn);
}

static void take_progress(struct job_table *table, const struct resync_progress *progress)
{
    table->step = progress->step;
    table->lsn = progress->lsn;
    table->bytes = progress->bytes;
    table->bytes_done = progress->bytes_done;
    table->rows_read = progress->rows_read;
    table->rows_missing = progress->rows_missing;
    table->rows_different = progress->rows_different;
    table->rows_extra = progress->rows_extra;
}

static bool progress(void *context, const struct resync_progress *progress, struct error *err)
{
    struct work_place *place = context;

    place->table->state = JOB_RUNNING;
    take_progress(place->table, progress);
    return job_say(place->mirror, place->job->id, place->table, err);
}

/* ---- one table ---- */

/* May the same again work? */
static bool is_passing(const struct error *err)
{
    return err->kind == ERROR_SOURCE || err->kind == ERROR_MIRROR || err->kind == ERROR_RETRY ||
           err->kind == ERROR_BUSY;
}

static void log_end(const struct job *job, const struct job_table *table)
{
    const bool is_verify = job->kind == JOB_VERIFY;
    const int64_t differences = table->rows_missing + table->rows_different + table->rows_extra;

    log_event(is_verify && differences > 0 ? LOG_WARNING : LOG_INFO,
              is_verify ? "verified" : "resynced",
              "%s.%s %s to the source as of " LSN_FORMAT ": %" PRId64 " rows read, %" PRId64
              " missing, %" PRId64 " different, %" PRId64 " extra",
              table->schema, table->name,
              is_verify && differences > 0 ? "is not equal" : "is equal", LSN_ARGS(table->lsn),
              table->rows_read, table->rows_missing, table->rows_different, table->rows_extra);
}

static const char *const failed_events[] = {
    [JOB_RESYNC] = "resync_failed", [JOB_VERIFY] = "verify_failed", [JOB_RELOAD] = "reload_failed"};

static bool end_table(struct work_place *place, const struct error *failure, struct error *err)
{
    struct job_table *table = place->table;

    table->state = failure != NULL ? JOB_FAILED : JOB_DONE;
    table->step = NULL;
    if (failure != NULL) {
        table->sqlstate = failure->sqlstate;
        table->error = failure->message;
        table->hint = failure->hint;
        log_error(LOG_ERROR, failed_events[place->job->kind], failure);
        if (place->job->kind == JOB_RESYNC &&
            !quarantine_explain(place->mirror, place->resyncer->config->pipeline, table->schema,
                                table->name, failure, err))
            return false;
    } else {
        log_end(place->job, table);
        if (!job_note_compared(place->mirror, place->resyncer->config->pipeline, place->job->kind,
                               table, err))
            return false;
    }
    return job_say(place->mirror, place->job->id, table, err);
}

/* What keeps us from purging the table is no reason to do it all again: tombstones show in no live view,
 * and the next resync tries it too. */
static bool purge(const struct resync_options *options, struct resync_progress *reached,
                  struct error *err)
{
    if (resync_purge(options, reached, err))
        return true;
    if (is_passing(err))
        return false;
    log_error(LOG_WARNING, "purge_failed", err);
    return true;
}

/* It cannot be done: the table is as it was, or better. */
static bool give_up(struct work_place *place, const struct resync_options *options,
                    struct resync_progress *reached, struct error *failure, struct error *err)
{
    struct side_batch side = {.kind = SIDE_GIVE_UP, .table = options->table};
    char remedy[sizeof(failure->hint)], name[HUMAN_TABLE_SIZE];

    snprintf(remedy, sizeof(remedy), "%s", failure->hint);
    error_hint(failure, "%s%sthen run: tailwater %s -c %s %s",
               remedy[0] ? remedy : "remove the cause", remedy[0] ? "; " : ", ",
               job_kind_name(place->job->kind), options->config->file,
               human_table(options->table->schema, options->table->name, name));
    return apply(place, &side, err) && purge(options, reached, err) &&
           end_table(place, failure, err);
}

/* A new table has its live view once its rows are complete. */
static bool show(const struct work_place *place, const struct table *table, struct error *err)
{
    const struct config *config = place->resyncer->config;
    _cleanup_(arena_release) struct arena arena = {0};
    struct notes notes = {.arena = &arena};

    return place->job->kind == JOB_VERIFY ||
           (views_create(place->mirror, config->pipeline, table, err) &&
            views_grant(place->mirror, config->pipeline, config->mirror.readers,
                        config->mirror.nreaders, &notes, err));
}

/*
 * The job is for a configuration that may be newer than ours: read again, once for each job, and the
 * next session goes on with it.
 */
static bool ask_for_reload(const struct work_place *place)
{
    struct resyncer *resyncer = place->resyncer;

    if (resyncer->reload->job == place->job->id)
        return false;
    resyncer->reload->job = place->job->id;
    resyncer->reload->is_from_file = resyncer->reload->is_due = true;
    handover_wake(resyncer->handover);
    return true;
}

static bool resync(struct work_place *place, const struct table *table, struct error *err)
{
    const struct resyncer *resyncer = place->resyncer;
    const struct resync_options options = {.config = resyncer->config,
                                           .tables = resyncer->list,
                                           .table = table,
                                           .job = place->job->id,
                                           .nr = place->table->nr,
                                           .is_verify = place->job->kind == JOB_VERIFY,
                                           .shows_values = place->job->shows_values,
                                           .is_forced = place->job->is_forced,
                                           .stop = resyncer->stop,
                                           .wake_fd = resyncer->wake_fd,
                                           .apply = apply,
                                           .want = want,
                                           .progress = progress,
                                           .context = place};
    struct resync_progress last;
    struct error failure;

    log_event(LOG_INFO, options.is_verify ? "verify_started" : "resync_started",
              "%s is compared with the source (job %" PRId64 ")", table->label, place->job->id);
    if (!job_forget_differences(place->mirror, place->job->id, place->table->nr, err))
        return false;
    if (!resync_run(&options, &last, &failure)) {
        if (is_passing(&failure)) {
            *err = failure;
            return false;
        }
        /* The source may have changed, or what kept its change from being followed be gone. */
        if (config_is_followed(resyncer->config) && ask_for_reload(place))
            return true;
        return give_up(place, &options, &last, &failure, err);
    }
    take_progress(place->table, &last);
    /* What a quarantine kept on the repair list is due again. */
    resyncer->statistics->repairs_wanted++;
    return purge(&options, &last, err) && show(place, table, err) && end_table(place, NULL, err);
}

/* A table that the configuration was to let go. */
static bool note_unlisted(struct work_place *place, bool is_listed, struct error *err)
{
    struct job_table *table = place->table;
    const struct reload *reload = place->resyncer->reload;
    struct error failure;

    if (is_listed) {
        error_set(&failure, ERROR_CONFIG,
                  "%s.%s is among the tables of the replicator's configuration, %s%s%s",
                  table->schema, table->name, place->resyncer->config->file,
                  reload->failure[0] ? ": " : "", reload->failure);
        return end_table(place, &failure, err);
    }
    table->state = JOB_DONE;
    return job_say(place->mirror, place->job->id, table, err);
}

static bool work_table(struct work_place *place, struct error *err)
{
    const struct job_table *wanted = place->table;
    const struct table_list *list = place->resyncer->list;
    const struct table *table = table_list_find(list, wanted->schema, wanted->name);
    char name[HUMAN_TABLE_SIZE];
    struct error failure;

    if (place->job->kind == JOB_VERIFY && wanted->is_quarantined) {
        error_set(&failure, ERROR_FAILED,
                  "%s.%s is quarantined: it is not equal, and known not to be", wanted->schema,
                  wanted->name);
        error_hint(&failure, "run: tailwater resync -c %s %s", place->resyncer->config->file,
                   human_table(wanted->schema, wanted->name, name));
        return end_table(place, &failure, err);
    }
    if (table != NULL &&
        (strcmp(table->name, wanted->name) != 0 || strcmp(table->schema, wanted->schema) != 0))
        table = NULL;
    if (place->job->kind == JOB_RELOAD)
        return note_unlisted(place, table != NULL, err);
    if (table != NULL)
        return resync(place, table, err);
    if (ask_for_reload(place))
        return true;
    error_set(&failure, ERROR_CONFIG,
              "%s.%s is not among the tables of the replicator's configuration, %s%s%s",
              wanted->schema, wanted->name, place->resyncer->config->file,
              place->resyncer->reload->failure[0] ? ": " : "", place->resyncer->reload->failure);
    return end_table(place, &failure, err);
}

/* ---- jobs ---- */

static bool work_tables(struct work_place *place, struct job *job, struct error *err)
{
    for (int i = 0; i < job->ntables && !place->resyncer->reload->is_due; i++) {
        place->table = &job->tables[i];
        if (place->table->state != JOB_DONE && place->table->state != JOB_FAILED &&
            !work_table(place, err))
            return false;
    }
    return true;
}

static bool work_job(struct work_place *place, struct job *job, struct error *err)
{
    bool is_ok;

    place->job = job;
    is_ok = job_begin(place->mirror, job->id, err) &&
            ((job->kind == JOB_RELOAD && ask_for_reload(place)) ||
             (work_tables(place, job, err) &&
              (place->resyncer->reload->is_due || job_end(place->mirror, job->id, err))));
    place->job = NULL; /* it does not outlive the turn */
    place->table = NULL;
    return is_ok;
}

/* ---- materialized views ---- */

/* One that cannot be filled is its owner's from now on: the reports that read it say that it is empty. */
static bool fill_view(struct work_place *place, const char *view, struct error *err)
{
    struct error failure = {0};

    if (reshape_fill(place->mirror, view, &failure)) {
        log_event(LOG_INFO, "view_filled", "%s has its rows again", view);
    } else if (is_passing(&failure)) {
        *err = failure;
        return false;
    } else {
        log_error(LOG_WARNING, "view_not_filled", &failure);
    }
    return reshape_forget_unfilled(place->mirror, place->resyncer->config->pipeline, view, err);
}

static bool fill_views(struct work_place *place, struct error *err)
{
    const struct resyncer *resyncer = place->resyncer;
    _cleanup_buf_ struct buf view = {0};

    while (!*resyncer->stop && !resyncer->reload->is_due) {
        if (!reshape_next_unfilled(place->mirror, resyncer->config->pipeline, &view, err))
            return false;
        place->is_filled = view.len == 0;
        if (place->is_filled)
            return true;
        if (!fill_view(place, buf_text(&view), err))
            return false;
    }
    return true;
}

/* ---- turns ---- */

static void finish(const struct resyncer *resyncer)
{
    resyncer->statistics->is_resyncing = false;
    *resyncer->finished = true;
    handover_wake(resyncer->handover);
}

/* One job, if there is one; else what is to be done when there is none left. */
static bool turn(struct work_place *place, bool *ret_any, struct error *err)
{
    struct resyncer *resyncer = place->resyncer;
    _cleanup_(arena_release) struct arena arena = {0};
    struct job job;

    if (!connect_mirror(place, err) ||
        !job_next(place->mirror, resyncer->config->pipeline, &arena, &job, err))
        return false;
    *ret_any = job.id != 0;
    resyncer->statistics->is_resyncing = *ret_any || !place->is_filled;
    resyncer->statistics->has_looked_for_jobs = true;
    if (job.id != 0) {
        place->is_filled = false;
        if (!work_job(place, &job, err))
            return false;
    }
    if ((job.id == 0 || job.id == resyncer->job) && !place->is_filled && !fill_views(place, err))
        return false;
    if (job.id == 0)
        resyncer->statistics->is_resyncing = false;
    if (resyncer->job != 0 && !resyncer->reload->is_due && (job.id == 0 || job.id == resyncer->job))
        finish(resyncer);
    return true;
}

void *resyncer_run(void *arg)
{
    struct work_place place = {.resyncer = arg};
    const struct resyncer *resyncer = arg;
    struct pause pause = {resyncer->wake_fd, FIRST_PAUSE_MS, LONGEST_MS, 0};
    struct error err;

    while (!*resyncer->stop && !*resyncer->finished && !resyncer->reload->is_due) {
        bool any = false;

        if (turn(&place, &any, &err)) {
            pause_reset(&pause);
            if (!any)
                pause_for(&pause, TURN_MS);
        } else if (!*resyncer->stop) {
            log_error(LOG_WARNING, "resync_interrupted", &err);
            resyncer->statistics->is_resyncing = false;
            pause_after_failure(&pause);
        }
    }
    pg_free(place.mirror);
    return NULL;
}
