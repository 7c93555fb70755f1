/*
 * The order matters: the publication before the slot (P44, P45), the pipeline's row before the slot
 * (a slot of our name without a row is somebody else's), tables before the copy, views and facts last.
 */
#include "engine/prepare.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/human.h"
#include "base/log.h"
#include "config/edit.h"
#include "engine/check.h"
#include "engine/continuity.h"
#include "engine/prepare_facts.h"
#include "engine/wal_guard.h"
#include "mirror/ddl.h"
#include "mirror/known.h"
#include "mirror/quarantine.h"
#include "mirror/reshape.h"
#include "mirror/views.h"
#include "pg/pg.h"
#include "source/publication.h"
#include "source/slot.h"
#include "source/snapshot.h"
#include "source/watch.h"
#include "sync/copy.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SLOT_TIMEOUT_MS  600000
#define PROGRESS_LOG_US  2000000
#define GUARD_CONNECT_S  5
#define GUARD_TIMEOUT_MS 5000

struct preparation {
    const struct prepare_options *options;
    const struct config *config;
    struct pg *lock;
    struct arena *arena;
    struct prepared_pipeline *result;
    lsn_t *source_lsn; /* the source's WAL, once the catalog was read */
};

static void log_notes(const char *event, const struct notes *notes)
{
    for (int i = 0; i < notes->count; i++)
        log_event(LOG_WARNING, event, "%s", notes->texts[i]);
}

static struct pg_options source_options(const struct config *config, bool is_replication)
{
    return (struct pg_options){.side = PG_SOURCE,
                               .conninfo = config->source.conninfo,
                               .application = "tailwater prepare",
                               .is_replication = is_replication};
}

static bool is_pgoutput(const struct config *config)
{
    return strcmp(config->source.plugin, "pgoutput") == 0;
}

/* ---- the first start ---- */

static bool run_check(const struct preparation *p, struct error *err)
{
    struct check_report report;

    if (!check_run(p->config, p->arena, &report, err))
        return false;
    for (int i = 0; i < report.findings.count; i++) {
        const struct finding *finding = &report.findings.items[i];

        if (finding->level == FINDING_OK)
            continue;
        log_event(finding->level == FINDING_ERROR ? LOG_ERROR : LOG_WARNING, "check_finding",
                  "%s: %s%s%s", finding->name, finding->what, finding->remedy ? "; remedy: " : "",
                  finding->remedy ? finding->remedy : "");
    }
    if (report.kind == ERROR_NONE)
        return true;
    error_set(err, report.kind, "the check found %d problem%s that must be mended first",
              report.nerrors, report.nerrors == 1 ? "" : "s");
    return error_hint(err, "run: tailwater check -c %s", p->config->file);
}

static bool ensure_publication(const struct preparation *p, const struct table_list *tables,
                               struct error *err)
{
    const struct pg_options options = source_options(p->config, false);
    _cleanup_pg_ struct pg *pg = NULL;
    const char *sql = NULL;

    if (!is_pgoutput(p->config))
        return true;
    if (!pg_connect(&options, &pg, err) ||
        !publication_ensure(pg, p->config->source.publication, tables, p->arena, &sql, err))
        return false;
    if (sql != NULL)
        log_event(LOG_INFO, "publication_changed", "on the source: %s", sql);
    return true;
}

static bool identify(const struct preparation *p, struct control_identity *ret_identity,
                     struct error *err)
{
    const struct pg_options options = source_options(p->config, true);
    _cleanup_pg_ struct pg *pg = NULL;
    struct slot_identity identity;

    if (!pg_connect(&options, &pg, err) || !continuity_check_failover(pg, p->config, err) ||
        !slot_identify(pg, &identity, err))
        return false;
    *ret_identity = (struct control_identity){
        .system_identifier = arena_strdup(p->arena, identity.system_identifier),
        .timeline = identity.timeline,
        .database = arena_strdup(p->arena, identity.database),
        .source_lsn = identity.flushed,
        .slot = p->config->source.slot,
        .plugin = p->config->source.plugin,
        .publication = is_pgoutput(p->config) ? p->config->source.publication : NULL};
    return true;
}

/* Made for us by an earlier start: as we make it, not used since, and not before our row was. */
static bool is_leftover(const struct preparation *p, const struct slot_status *status)
{
    const lsn_t asked = p->result->pipeline.cursor; /* the source's WAL when the row was made */

    return status->is_logical && status->active_pid == 0 && asked != 0 &&
           status->confirmed_flush >= asked &&
           strcmp(status->plugin, p->config->source.plugin) == 0 &&
           strcmp(status->database, p->result->pipeline.identity.database) == 0;
}

/* A slot of our name: ours only if a crash came between making it and storing its position. */
static bool clear_the_way(const struct preparation *p, bool is_known, struct error *err)
{
    const struct pg_options options = source_options(p->config, false);
    _cleanup_pg_ struct pg *pg = NULL;
    struct slot_status status;

    if (!pg_connect(&options, &pg, err) || !slot_look(pg, p->config->source.slot, &status, err))
        return false;
    if (!status.exists)
        return true;
    if (!is_known || !is_leftover(p, &status)) {
        error_set(
            err, ERROR_SLOT,
            "the source has a replication slot \"%s\" already, and this pipeline did not make it",
            p->config->source.slot);
        return error_hint(err,
                          "choose another name (source: {slot: …} or pipeline: …), or drop it if "
                          "nobody needs it: "
                          "select pg_drop_replication_slot('%s')",
                          p->config->source.slot);
    }
    log_event(LOG_WARNING, "slot_dropped",
              "dropping the slot %s that an interrupted start left behind", p->config->source.slot);
    return slot_drop(pg, p->config->source.slot, err);
}

/* The pipeline's own slot, with its snapshot: the place where copy and stream meet. */
static bool make_slot(const struct preparation *p, struct snapshot **ret_snapshot,
                      struct error *err)
{
    const struct pg_options options = source_options(p->config, true);
    const struct slot_create_options slot = {.slot = p->config->source.slot,
                                             .plugin = p->config->source.plugin,
                                             .exports_snapshot = true,
                                             .is_failover = p->config->source.failover,
                                             .timeout_ms = SLOT_TIMEOUT_MS,
                                             .wake_fd = p->options->stop_fd};

    if (!snapshot_open(&options, &slot, ret_snapshot, err))
        return error_wrap(err, "making the replication slot %s", p->config->source.slot);
    log_event(LOG_INFO, "slot_created", "slot %s at " LSN_FORMAT, p->config->source.slot,
              LSN_ARGS(snapshot_lsn(*ret_snapshot)));
    return control_set_slot(p->lock, p->config->pipeline, snapshot_lsn(*ret_snapshot), err);
}

/* A snapshot for the tables that an interrupted copy left undone: a later one, under a temporary
 * slot. */
static bool make_later_snapshot(const struct preparation *p, struct snapshot **ret_snapshot,
                                struct error *err)
{
    const struct pg_options options = source_options(p->config, true);
    char name[SLOT_NAME_SIZE];
    const struct slot_create_options slot = {.slot = name,
                                             .plugin = p->config->source.plugin,
                                             .is_temporary = true,
                                             .exports_snapshot = true,
                                             .timeout_ms = SLOT_TIMEOUT_MS,
                                             .wake_fd = p->options->stop_fd};

    return (slot_temporary_name("copy", p->config->pipeline, name, err) &&
            snapshot_open(&options, &slot, ret_snapshot, err)) ||
           error_wrap(err, "making a temporary slot for the rest of the copy");
}

/* ---- tables ---- */

static bool is_applied(const struct preparation *p, enum config_change change)
{
    return p->config->schema_changes[change] == SCHEMA_CHANGES_APPLY;
}

static bool is_quarantined(const struct preparation *p, int i)
{
    return p->result->states[i].quarantine.lsn != 0;
}

/* A table that is not the one that was copied any more, in a pipeline that streams: its trouble
 * alone. */
static bool isolate_table(const struct preparation *p, int i, struct error *err)
{
    const struct table *table = &p->result->catalog.tables.tables[i];
    const lsn_t cursor = p->result->pipeline.cursor;
    const struct culprit culprit = {.table = table,
                                    .first_lsn = cursor,
                                    .last_lsn = cursor,
                                    .is_followed = config_is_followed(p->config)};
    const struct error reason = *err;

    if (p->result->pipeline.state != CONTROL_STREAMING || err->kind != ERROR_CONFIG ||
        p->config->apply.on_error != ON_ERROR_QUARANTINE ||
        !quarantine_begin(p->lock, p->config->pipeline, &culprit, &reason, err))
        return false;
    p->result->states[i].quarantine.lsn = cursor;
    quarantine_hint(table, p->config->file, err);
    log_error(LOG_ERROR, "quarantined", err);
    return true;
}

/* The table is there and as it has to be; or quarantined, and then it may be as it wants. */
static bool make_table(const struct preparation *p, int i, struct notes *notes, struct error *err)
{
    const struct table *table = &p->result->catalog.tables.tables[i];
    struct control_table *state = &p->result->states[i];
    char since[CLOCK_TEXT_SIZE], name[HUMAN_TABLE_SIZE];

    if (is_quarantined(p, i)) {
        log_event(LOG_WARNING, "still_quarantined",
                  "%s is left out from " LSN_FORMAT " on, since %s; once the cause is removed, "
                  "run: tailwater resync -c %s %s; the cause: %s",
                  table->label, LSN_ARGS(state->quarantine.lsn),
                  clock_text(state->quarantine.since_us, since), p->config->file,
                  human_table(table->schema, table->name, name), state->quarantine.reason);
        return true;
    }
    if (state->refusal != NULL) {
        *err = *state->refusal;
        return isolate_table(p, i, err);
    }
    if (!ddl_create_table(p->lock, p->config->pipeline, table, notes, err))
        return isolate_table(p, i, err) || error_wrap(err, "%s", table->label);
    if (state->state == CONTROL_TABLE_NEW)
        state->state = CONTROL_TABLE_CREATED;
    return true;
}

/* A table of a pipeline that streams, which is not filled yet: empty, with its key and indexes, it
 * waits for its resync. */
static bool is_added(const struct preparation *p, int i)
{
    return p->result->pipeline.state == CONTROL_STREAMING &&
           p->result->states[i].state < CONTROL_TABLE_INDEXED;
}

/* Somebody wrote its name down: then it is wanted.  One that only a pattern takes may have come about
 * by itself. */
static bool is_named(const struct config *config, const struct table *table)
{
    bool is;

    edit_is_taken(config, table->schema, table->name, &is);
    return is;
}

static bool refuse_added(const struct table *table, const char *file, struct error *err)
{
    char name[HUMAN_TABLE_SIZE];

    error_set(err, ERROR_CONFIG,
              "table %s was added to a pipeline that streams already, and only a pattern takes it",
              table->label);
    return error_hint(
        err,
        "to mirror it: tailwater table add -c %s %s; else exclude it (!%s), or set "
        "schema_changes: {new_table: apply}, which takes such tables by itself (keep: "
        "leaves them out)",
        file, human_table(table->schema, table->name, name), table->label);
}

static bool add_table(const struct preparation *p, int i, struct notes *notes, struct error *err)
{
    const struct table *table = &p->result->catalog.tables.tables[i];
    const char *pipeline = p->config->pipeline;
    const lsn_t cursor = p->result->pipeline.cursor;

    if (!is_applied(p, CHANGE_NEW_TABLE) && !is_named(p->config, table))
        return refuse_added(table, p->config->file, err);
    log_event(LOG_INFO, "table_added", "%s is new: it is filled while the rest streams",
              table->label);
    if (!ddl_create_table(p->lock, pipeline, table, notes, err) ||
        !reshape_mark_new(p->lock, pipeline, table, err) ||
        !control_set_table_copied(p->lock, pipeline, table, cursor, 0, err) ||
        !ddl_add_key(p->lock, table, err) || !ddl_add_indexes(p->lock, pipeline, table, notes, err))
        return false;
    p->result->states[i].state = CONTROL_TABLE_INDEXED;
    p->result->states[i].quarantine.lsn = cursor;
    return true;
}

/*
 * Only tables that are new: one that was taken out of the publication has lost changes (P45).  Where
 * the role may not, that is these tables' trouble: their resync says so again, and waits.
 */
static bool publish_added(const struct preparation *p, struct error *err)
{
    const struct table_list *list = &p->result->catalog.tables;
    struct table_list added = {.tables = arena_new(p->arena, struct table, list->count + 1)};

    for (int i = 0; i < list->count; i++)
        if (is_added(p, i) &&
            (is_applied(p, CHANGE_NEW_TABLE) || is_named(p->config, &list->tables[i])))
            added.tables[added.count++] = list->tables[i];
    if (added.count == 0 || ensure_publication(p, &added, err))
        return true;
    if (err->kind != ERROR_FINDINGS)
        return false;
    log_error(LOG_WARNING, "not_published", err);
    return true;
}

/* What has changed on the source is followed, before anything is compared. */
static bool reshape_tables(const struct preparation *p, struct error *err)
{
    const struct table_list *list = &p->result->catalog.tables;

    if (!config_is_followed(p->config))
        return true;
    for (int i = 0; i < list->count; i++) {
        _cleanup_buf_ struct buf what = {0};

        if (reshape_table(p->lock, p->config, &list->tables[i], &what, err)) {
            if (what.len > 0)
                log_event(LOG_WARNING, "table_changed", "%s: %s; it is resynced",
                          list->tables[i].label, buf_text(&what));
        } else if (is_quarantined(p, i)) {
            log_error(LOG_WARNING, "not_followed", err);
        } else if (!isolate_table(p, i, err)) {
            return false;
        }
    }
    return true;
}

static bool make_tables(const struct preparation *p, struct error *err)
{
    const char *pipeline = p->config->pipeline;
    const struct table_list *list = &p->result->catalog.tables;
    struct notes strays = {.arena = p->arena}, notes = {.arena = p->arena}, again = notes;

    if (!control_sync_tables(p->lock, pipeline, list, p->arena, &p->result->states, &strays, err))
        return false;
    log_notes("table_not_configured", &strays);
    if (!ddl_create_schemas(p->lock, pipeline, &p->result->catalog, err) ||
        !ddl_create_types(p->lock, pipeline, &p->result->catalog, err) || !publish_added(p, err) ||
        !reshape_tables(p, err) ||
        !control_sync_tables(p->lock, pipeline, list, p->arena, &p->result->states, &again, err))
        return false;
    for (int i = 0; i < list->count; i++) {
        if (!(is_added(p, i) ? add_table(p, i, &notes, err) : make_table(p, i, &notes, err)))
            return false;
    }
    log_notes("left_out", &notes);
    return true;
}

/* ---- the copy ---- */

/* What the copy calls back with. */
struct copying {
    const struct preparation *preparation;
    struct snapshot **snapshot;
    int64_t logged_us;
    struct pg *source; /* to look at the slot; opened when needed */
    enum wal_level wal;
    int64_t guarded_us;
};

/* While copying, the slot retains all WAL of the source since it was made. */
static bool guard_copy(struct copying *copying, struct error *err)
{
    const struct preparation *p = copying->preparation;
    struct pg_options options = source_options(p->config, false);

    if (copying->source != NULL && pg_is_broken(copying->source)) {
        pg_free(copying->source);
        copying->source = NULL;
    }
    options.connect_timeout_s = GUARD_CONNECT_S;
    if (copying->source == NULL) {
        if (!pg_connect(&options, &copying->source, err))
            return false;
        pg_limit(copying->source, GUARD_TIMEOUT_MS, p->options->stop_fd);
    }
    return wal_guard(copying->source, p->config, &copying->wal, err);
}

/*
 * A log line now and then, the heartbeat that status shows, a look at the slot.  None of it may
 * stop the copy, but for the lock: without its connection it is lost, and another instance may
 * come.
 */
static bool show_progress(void *context, const struct copy_progress *progress, struct error *err)
{
    struct copying *copying = context;
    const struct preparation *p = copying->preparation;
    const struct control_heartbeat heartbeat = {.version = p->options->version,
                                                .state = "copying",
                                                .started_at_us = p->options->started_at_us,
                                                .lag_us = -1,
                                                .changes = -1,
                                                .transactions = -1,
                                                .batches = -1,
                                                .copy_tables_done = progress->tables_copied,
                                                .copy_tables = progress->tables,
                                                .copy_bytes_done = progress->bytes,
                                                .copy_bytes = progress->total_bytes};
    const bool is_done = progress->tables_indexed == progress->tables;
    const int64_t now = clock_tick_us();
    struct error failure;

    if (is_done || now - copying->logged_us >= PROGRESS_LOG_US) {
        copying->logged_us = now;
        log_event(LOG_INFO, "copy_progress", "%s", progress->text);
    }
    if (!is_done && now - copying->guarded_us >= WAL_GUARD_US) {
        copying->guarded_us = now;
        if (!guard_copy(copying, &failure))
            log_error(LOG_DEBUG, "wal_guard_failed", &failure);
    }
    if (control_heartbeat(p->lock, p->config->pipeline, &heartbeat, NULL, &failure))
        return true;
    if (pg_is_broken(p->lock)) {
        *err = failure;
        return error_wrap(err, "the connection that holds the pipeline's lock");
    }
    log_error(LOG_DEBUG, "heartbeat_failed", &failure);
    return true;
}

/* Every reader has it: the connection that held it has nothing left to do. */
static void free_snapshot(void *context)
{
    struct copying *copying = context;

    snapshot_free(*copying->snapshot);
    *copying->snapshot = NULL;
}

/* Also makes the keys and indexes that an interrupted start left out; with nothing to do it does
 * nothing. */
static bool copy_tables(const struct preparation *p, struct snapshot **snapshot, struct error *err)
{
    struct copying copying = {.preparation = p, .snapshot = snapshot};
    const struct table_list *list = &p->result->catalog.tables;
    struct notes notes = {.arena = p->arena};
    struct copy_options options = {.config = p->config,
                                   .tables = list,
                                   .states = p->result->states,
                                   .stop = p->options->stop,
                                   .notes = &notes,
                                   .on_imported = free_snapshot,
                                   .progress = show_progress,
                                   .context = &copying};
    bool is_ok;

    if (copy_needs_snapshot(list, p->result->states)) {
        if (*snapshot == NULL && !make_later_snapshot(p, snapshot, err))
            return false;
        if (!FAULT(copy_after_slot, err))
            return false;
        options.snapshot = snapshot_name(*snapshot);
        options.consistent_point = snapshot_lsn(*snapshot);
        log_event(LOG_INFO, "copy_started", "copying as of " LSN_FORMAT " with %d workers",
                  LSN_ARGS(options.consistent_point), p->config->copy.workers);
    }
    p->result->has_begun = options.snapshot != NULL;
    is_ok = copy_run(&options, err);
    pg_free(copying.source);
    if (!is_ok)
        return error_wrap(err, "initial copy");
    if (options.snapshot != NULL)
        log_event(LOG_INFO, "copy_done", "all tables are copied");
    log_notes("left_out", &notes);
    for (int i = 0; i < list->count; i++)
        if (!is_quarantined(p, i) && !ddl_add_tombstone_index(p->lock, &list->tables[i], err))
            return error_wrap(err, "%s", list->tables[i].label);
    return FAULT(copy_before_views, err);
}

static bool make_views(const struct preparation *p, struct error *err)
{
    const struct table_list *list = &p->result->catalog.tables;
    struct notes notes = {.arena = p->arena};

    for (int i = 0; i < list->count; i++)
        if (!is_quarantined(p, i) &&
            !views_create(p->lock, p->config->pipeline, &list->tables[i], err))
            return error_wrap(err, "%s", list->tables[i].label);
    if (!views_grant(p->lock, p->config->pipeline, p->config->mirror.readers,
                     p->config->mirror.nreaders, &notes, err))
        return false;
    log_notes("grant_left_out", &notes);
    return p->result->pipeline.state == CONTROL_STREAMING ||
           control_set_streaming(p->lock, p->config->pipeline, err);
}

/* ---- all of it ---- */

/* What a policy leaves out was said to be left out: but nobody may have to guess it. */
static void log_kept(const struct finding_list *findings)
{
    for (int i = 0; i < findings->count; i++)
        if (strcmp(findings->items[i].name, "schema_kept") == 0)
            log_event(LOG_WARNING, "schema_kept", "%s; to take it: %s", findings->items[i].what,
                      findings->items[i].remedy);
}

static bool load_catalog(const struct preparation *p, struct error *err)
{
    const struct pg_options options = source_options(p->config, false);
    _cleanup_pg_ struct pg *pg = NULL;
    _cleanup_result_ struct pg_result *row = NULL;
    struct config *config = arena_new(p->arena, struct config, 1);

    if (!known_read(p->lock, p->config, p->arena, config, err) || !pg_connect(&options, &pg, err) ||
        !pg_check_version(pg, err) ||
        !catalog_load(pg, config, p->arena, &p->result->catalog, err) ||
        !pg_query_row(pg,
                      "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
                      "ELSE pg_current_wal_insert_lsn() END",
                      0, NULL, &row, err))
        return false;
    *p->source_lsn = pg_lsn(row, 0, 0);
    log_kept(&p->result->catalog.findings);
    p->result->known = config;
    return watch_hash(pg, config, &p->result->catalog.tables, &p->result->hash, err);
}

/* The pipeline as the mirror knows it; made where it does not.  *ret_snapshot is set where the slot
 * is new. */
static bool load_pipeline(const struct preparation *p, struct snapshot **ret_snapshot,
                          struct error *err)
{
    const char *name = p->config->pipeline;
    struct control_identity identity;
    bool is_known;

    if (!identify(p, &identity, err) ||
        !control_load(p->lock, name, p->arena, &is_known, &p->result->pipeline, err))
        return false;
    if (is_known && p->options->renewal != RENEW_NOT)
        return ensure_publication(p, &p->result->catalog.tables, err) &&
               renew_slot(&(struct renew_options){.config = p->config,
                                                  .lock = p->lock,
                                                  .stop_fd = p->options->stop_fd,
                                                  .renewal = p->options->renewal,
                                                  .job = p->options->job},
                          &p->result->pipeline, &identity, err) &&
               control_load(p->lock, name, p->arena, &is_known, &p->result->pipeline, err);
    if (is_known && !control_check_identity(&p->result->pipeline.identity, &identity, err))
        return false;
    if (is_known && p->result->pipeline.identity.slot_lsn != 0)
        return true;
    if (!run_check(p, err) || !clear_the_way(p, is_known, err) ||
        !ensure_publication(p, &p->result->catalog.tables, err) ||
        (!is_known && !control_create(p->lock, name, &identity, err)) ||
        !make_slot(p, ret_snapshot, err))
        return false;
    return control_load(p->lock, name, p->arena, &is_known, &p->result->pipeline, err);
}

static bool prepare_steps(const struct preparation *p, struct error *err)
{
    _cleanup_snapshot_ struct snapshot *snapshot = NULL;

    struct chain chain;

    return pg_check_version(p->lock, err) && load_catalog(p, err) &&
           control_migrate(p->lock, err) && load_pipeline(p, &snapshot, err) &&
           make_tables(p, err) &&
           prepare_facts_examine(p->lock, p->config, &p->result->catalog.tables,
                                 config_is_followed(p->config), p->arena, &chain, &p->result->facts,
                                 err) &&
           copy_tables(p, &snapshot, err) &&
           (p->result->pipeline.state == CONTROL_STREAMING || reshape_tables(p, err)) &&
           prepare_facts_store(p->lock, p->config, p->arena, &p->result->facts, err) &&
           make_views(p, err) &&
           prepare_facts_chain(p->lock, p->config, &p->result->catalog.tables, p->arena, &chain,
                               &p->result->facts, err) &&
           reshape_ask(p->lock, p->config->pipeline, *p->source_lsn, err);
}

bool prepare_pipeline(const struct prepare_options *options, struct arena *arena,
                      struct prepared_pipeline *ret_prepared, struct error *err)
{
    lsn_t source_lsn = 0;
    const struct preparation p = {.options = options,
                                  .source_lsn = &source_lsn,
                                  .config = options->config,
                                  .lock = options->lock,
                                  .arena = arena,
                                  .result = ret_prepared};

    if (!prepare_steps(&p, err))
        return false;
    ret_prepared->copy_lsn = arena_new(arena, lsn_t, ret_prepared->catalog.tables.count + 1);
    for (int i = 0; i < ret_prepared->catalog.tables.count; i++)
        ret_prepared->copy_lsn[i] = ret_prepared->states[i].copy_lsn;
    return true;
}
