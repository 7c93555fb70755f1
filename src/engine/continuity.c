/*
 * Identity, slot, timeline, positions: in this order, since each message is only right where those
 * before it have nothing to say.
 *
 * A changed timeline (P47) is compared with the switch point of the source's own history, not with
 * its WAL's end: a promoted standby that was behind writes on, and would soon be past our cursor.
 *
 * Not here: waiting.  What may pass (a server away, a slot still read, a standby not promoted yet)
 * is an error that the caller tries again.
 */
#include "engine/continuity.h"

#include "base/log.h"
#include "batch/batch.h"
#include "source/publication.h"
#include "source/timeline.h"

#include <string.h>

static bool hint_copy_anew(struct error *err)
{
    return error_hint(err, "tailwater resync --all --new-slot makes the slot anew, and finds and "
                           "repairs what was missed");
}

bool continuity_check_failover(struct pg *source, const struct config *config, struct error *err)
{
    if (!config->source.failover || pg_has(source, FEATURE_FAILOVER_SLOTS))
        return true;
    error_set(err, ERROR_FINDINGS,
              "source.failover: failover slots need PostgreSQL %d, the source has %d",
              feature_first(FEATURE_FAILOVER_SLOTS), pg_server_version(source) / 10000);
    return error_hint(err, "take failover out of the configuration; on this version a promoted "
                           "standby has no slot, and the mirror is built anew after a failover");
}

bool continuity_check_timeline(struct pg *replication, const struct slot_identity *identity,
                               int stored, lsn_t reached, struct error *err)
{
    lsn_t left;

    if (identity->timeline == stored)
        return true;
    if (!timeline_find_switch(replication, stored, identity->timeline, &left, err))
        return hint_copy_anew(err);
    if (reached <= left)
        return true;
    error_set(err, ERROR_SLOT,
              "the source is on timeline %d, which left timeline %d at " LSN_FORMAT
              ", and the mirror has changes of timeline %d up to " LSN_FORMAT
              ": the standby that was promoted did not have them",
              identity->timeline, stored, LSN_ARGS(left), stored, LSN_ARGS(reached));
    return error_hint(err, "tailwater resync --all --new-slot repairs the mirror; "
                           "synchronized_standby_slots on the primary keeps the mirror from "
                           "running ahead of the standby");
}

bool continuity_explain_slot(const struct slot_identity *identity, int stored, struct error *err)
{
    if (identity->timeline == stored)
        return false;
    error_wrap(err,
               "the source went from timeline %d to %d: a standby was promoted, and the slot did "
               "not come along",
               stored, identity->timeline);
    return error_hint(
        err,
        "tailwater resync --all --new-slot makes a new one and repairs the mirror; with "
        "PostgreSQL %d or later on the source, source: {failover: true} lets a "
        "standby keep the slot",
        feature_first(FEATURE_FAILOVER_SLOTS));
}

static bool check_gap(const struct slot_status *slot, const char *name,
                      const struct slot_identity *identity, lsn_t cursor, struct error *err)
{
    if (slot->confirmed_flush > cursor) {
        error_set(err, ERROR_SLOT,
                  "gap: the slot %s is at " LSN_FORMAT ", past the mirror's cursor " LSN_FORMAT
                  ": the changes between are gone (the slot was made anew or advanced, or the "
                  "mirror restored)",
                  name, LSN_ARGS(slot->confirmed_flush), LSN_ARGS(cursor));
        return hint_copy_anew(err);
    }
    if (cursor > identity->flushed) {
        error_set(err, ERROR_SLOT,
                  "the mirror's cursor " LSN_FORMAT " is ahead of the source's WAL at " LSN_FORMAT
                  ": the source was restored, or a standby that was behind was promoted; its slot "
                  "%s is of no use",
                  LSN_ARGS(cursor), LSN_ARGS(identity->flushed), name);
        return hint_copy_anew(err);
    }
    return true;
}

/*
 * What a publication left out since the copy will never come: so it is neither made nor extended
 * here, but refused (P44, P45).  A table that it lacks is that table's trouble.
 */
static bool check_publication(const struct config *config, const struct table_list *tables,
                              const _Atomic lsn_t *left_out_from, const struct table **ret_lacked,
                              struct error *err)
{
    const struct pg_options options = {
        .side = PG_SOURCE, .conninfo = config->source.conninfo, .application = "tailwater start"};
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_pg_ struct pg *pg = NULL;
    struct publication publication;
    bool is_missing;

    if (strcmp(config->source.plugin, "pgoutput") != 0)
        return true;
    if (!pg_connect(&options, &pg, err))
        return false;
    pg_limit(pg, CONTINUITY_TIMEOUT_MS, -1);
    if (!publication_look(pg, config->source.publication, &arena, &publication, err))
        return false;
    if (!publication.exists) {
        error_set(err, ERROR_SLOT, "source: the publication %s of this pipeline does not exist",
                  config->source.publication);
        return error_hint(
            err,
            "changes made since it was dropped are lost, and the slot cannot pass "
            "them: tailwater resync -c %s --all --new-slot makes both anew, and repairs the mirror",
            config->file);
    }
    for (int i = 0; i < tables->count; i++) {
        if (left_out_from[i] != BATCH_NEVER ||
            publication_check_table(&publication, &tables->tables[i], &is_missing, err))
            continue;
        *ret_lacked = is_missing ? &tables->tables[i] : NULL;
        return false;
    }
    return true;
}

static bool check_identity(const struct config *config, const struct control_identity *stored,
                           const struct slot_identity *identity, struct error *err)
{
    const bool is_pgoutput = strcmp(config->source.plugin, "pgoutput") == 0;
    const struct control_identity actual = {.system_identifier = identity->system_identifier,
                                            .timeline = identity->timeline,
                                            .database = identity->database,
                                            .slot = config->source.slot,
                                            .plugin = config->source.plugin,
                                            .publication = is_pgoutput ? config->source.publication
                                                                       : NULL};

    return control_check_identity(stored, &actual, err);
}

/* What the mirror holds of the source: the cursor, or a later copy of some table. */
static lsn_t reached(const struct prepared_pipeline *prepared, lsn_t cursor)
{
    lsn_t lsn = cursor;

    for (int i = 0; i < prepared->catalog.tables.count; i++)
        if (prepared->copy_lsn[i] > lsn)
            lsn = prepared->copy_lsn[i];
    return lsn;
}

static bool note_promotion(struct pg *lock, struct control_pipeline *pipeline,
                           const struct slot_identity *identity, struct error *err)
{
    if (identity->timeline == pipeline->identity.timeline)
        return true;
    if (!control_set_timeline(lock, pipeline->name, identity->timeline, err))
        return false;
    log_event(LOG_WARNING, "source_promoted",
              "the source went from timeline %d to %d: a standby was promoted that has all that "
              "the mirror has; going on",
              pipeline->identity.timeline, identity->timeline);
    pipeline->identity.timeline = identity->timeline;
    return true;
}

bool continuity_check(const struct config *config, struct pg *lock,
                      struct prepared_pipeline *prepared, lsn_t cursor,
                      const _Atomic lsn_t *left_out_from, const struct table **ret_lacked,
                      struct error *err)
{
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = config->source.conninfo,
                                       .application = "tailwater start",
                                       .is_replication = true};
    const int timeline = prepared->pipeline.identity.timeline;
    const char *name = config->source.slot;
    _cleanup_pg_ struct pg *pg = NULL;
    struct slot_identity identity;
    struct slot_status slot;

    if (!pg_connect(&options, &pg, err))
        return false;
    pg_limit(pg, CONTINUITY_TIMEOUT_MS, -1);
    if (!pg_check_version(pg, err) || !slot_identify(pg, &identity, err) ||
        !check_identity(config, &prepared->pipeline.identity, &identity, err) ||
        !continuity_check_failover(pg, config, err) || !slot_look(pg, name, &slot, err))
        return false;
    if (!slot_check(&slot, name, config->source.plugin, identity.database, err))
        return slot.exists || err->kind != ERROR_SLOT
                   ? false
                   : continuity_explain_slot(&identity, timeline, err);
    if (!check_publication(config, &prepared->catalog.tables, left_out_from, ret_lacked, err) ||
        !continuity_check_timeline(pg, &identity, timeline, reached(prepared, cursor), err) ||
        !check_gap(&slot, name, &identity, cursor, err) ||
        !note_promotion(lock, &prepared->pipeline, &identity, err))
        return false;
    if (!config->source.failover || slot.is_failover)
        return true;
    if (!slot_set_failover(pg, name, err))
        return false;
    log_event(LOG_INFO, "slot_failover", "standbys of the source may keep a copy of the slot %s",
              name);
    return true;
}
