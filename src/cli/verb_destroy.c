/*
 * destroy: the end of a pipeline, on both sides.
 *
 * First everything is looked at and nothing changed: the lock (no replicator runs, and none can
 * start meanwhile), the pipeline's row, the slot.  A slot is ours if its name is, and its cluster,
 * database and plugin are those that were stored when it was made.  Then what will go is shown and
 * asked for.  Then the source's side goes first: with the mirror's rows still there, a destroy that
 * was interrupted can be repeated.
 *
 * --skip-source and --skip-mirror are for a side that is gone for good.  Without the mirror there
 * is no stored identity, and the configuration is believed.
 */
#include "base/clock.h"
#include "cli/cli.h"
#include "mirror/control.h"
#include "mirror/destroy.h"
#include "source/publication.h"
#include "source/slot.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

/* A replicator that has just ended leaves the slot in use for a moment. */
#define SLOT_WAIT_US INT64_C(5000000)

struct destroy_run {
    const struct cli *cli;
    const struct config *config;
    struct arena *arena;
    struct pg *lock;   /* on the mirror; NULL with --skip-mirror */
    struct pg *source; /* NULL with --skip-source */
    struct control_identity identity;
    bool has_slot, has_publication;
    struct notes removed, kept;
};

/* ---- looking ---- */

static bool find_pipeline(struct destroy_run *run, struct error *err)
{
    const char *name = run->config->pipeline;
    struct control_pipeline pipeline;
    int version, known;
    bool is_known = false;

    if (!control_lock(run->config->mirror.conninfo, name, &run->lock, err)) {
        if (err->kind == ERROR_MIRROR)
            error_hint(err,
                       "if that server is gone for good: tailwater destroy --skip-mirror -c %s",
                       run->config->file);
        return false;
    }
    if (!control_version(run->lock, &version, &known, err))
        return false;
    if (version > 0 && (!control_require(run->lock, err) ||
                        !control_load(run->lock, name, run->arena, &is_known, &pipeline, err)))
        return false;
    if (!is_known) {
        error_set(err, ERROR_FAILED, "there is no pipeline %s in the mirror database", name);
        return error_hint(
            err,
            "nothing to remove there; if a slot %s is left on the source: tailwater destroy "
            "--skip-mirror -c %s",
            run->config->source.slot, run->config->file);
    }
    run->identity = pipeline.identity;
    return true;
}

static bool connect_source(const struct destroy_run *run, bool is_replication,
                           struct pg **ret_source, struct error *err)
{
    if (pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                        .conninfo = run->config->source.conninfo,
                                        .application = "tailwater destroy",
                                        .is_replication = is_replication},
                   ret_source, err))
        return true;
    if (err->kind == ERROR_SOURCE)
        error_hint(err,
                   "if that server is gone for good: tailwater destroy --skip-source -c %s (a slot "
                   "%s that is still there would keep its WAL for ever)",
                   run->config->file, run->config->source.slot);
    return false;
}

static bool check_source(struct destroy_run *run, struct error *err)
{
    _cleanup_pg_ struct pg *replication = NULL;
    struct control_identity actual = run->identity;
    struct slot_identity source;

    if (!connect_source(run, true, &replication, err) ||
        !slot_identify(replication, &source, err) || !connect_source(run, false, &run->source, err))
        return false;
    if (run->lock == NULL) {
        run->identity = (struct control_identity){
            .database = arena_strdup(run->arena, source.database),
            .slot = run->config->source.slot,
            .plugin = run->config->source.plugin,
            .publication = strcmp(run->config->source.plugin, "pgoutput") == 0
                               ? run->config->source.publication
                               : NULL,
        };
        return true;
    }
    actual.system_identifier = source.system_identifier;
    actual.database = source.database;
    if (control_check_identity(&run->identity, &actual, err))
        return true;
    return error_hint(err,
                      "if the source of this pipeline is gone for good: tailwater destroy "
                      "--skip-source -c %s",
                      run->config->file);
}

/* Ours and unused, within a moment; a lost one is fine, it goes as well. */
static bool find_slot(struct destroy_run *run, struct error *err)
{
    const struct control_identity *identity = &run->identity;
    int64_t deadline_us = clock_tick_us() + SLOT_WAIT_US;
    const struct timespec pause = {.tv_nsec = 100000000};
    struct slot_status slot;

    for (;;) {
        if (!slot_look(run->source, identity->slot, &slot, err))
            return false;
        run->has_slot = slot.exists;
        slot.is_lost = false;
        if (!slot.exists ||
            slot_check(&slot, identity->slot, identity->plugin, identity->database, err))
            return true;
        if (err->kind != ERROR_BUSY || clock_tick_us() > deadline_us)
            return false;
        nanosleep(&pause, NULL);
    }
}

static bool find_publication(struct destroy_run *run, struct error *err)
{
    struct publication publication;

    if (run->identity.publication == NULL)
        return true;
    if (!publication_look(run->source, run->identity.publication, run->arena, &publication, err))
        return false;
    run->has_publication = publication.exists;
    return true;
}

static bool look(struct destroy_run *run, struct error *err)
{
    if (run->cli->is_skipping_source && run->cli->is_skipping_mirror) {
        error_set(err, ERROR_CONFIG,
                  "--skip-source and --skip-mirror together leave nothing to do");
        return error_hint(err, "name the side that is gone");
    }
    if (!run->cli->is_skipping_mirror && !find_pipeline(run, err))
        return false;
    if (run->cli->is_skipping_source)
        return true;
    return check_source(run, err) && find_slot(run, err) && find_publication(run, err);
}

/* ---- asking ---- */

static void print_shown(FILE *out, const char *title, const char *text)
{
    _cleanup_buf_ struct buf shown = {0};

    buf_add_shown(&shown, text);
    fprintf(out, "%s  %s\n", title, buf_text(&shown));
}

static bool show_plan(struct destroy_run *run, FILE *out, struct error *err)
{
    struct notes plan = {.arena = run->arena}, kept = {.arena = run->arena};
    struct destroy_options options = {.is_dry_run = true,
                                      .is_keeping_tables = run->cli->is_keeping_tables};
    bool finished;

    if (run->has_slot)
        notes_add(&plan, "replication slot %s on the source", run->identity.slot);
    if (run->has_publication)
        notes_add(&plan, "publication %s on the source", run->identity.publication);
    if (run->lock != NULL &&
        !destroy_mirror(run->lock, run->config->pipeline, options, &plan, &kept, &finished, err))
        return false;
    fprintf(out, "pipeline %s: %s\n", run->config->pipeline,
            plan.count > 0 ? "this would be removed" : "nothing is left to remove");
    for (int i = 0; i < plan.count; i++)
        print_shown(out, "", plan.texts[i]);
    return true;
}

static bool confirm(struct destroy_run *run, struct error *err)
{
    char answer[128];

    if (run->cli->is_confirmed)
        return true;
    if (!isatty(STDIN_FILENO)) {
        error_set(err, ERROR_CONFIG,
                  "destroy asks before it removes anything, and there is no terminal to ask on");
        return error_hint(err, "look with --dry-run, then say --yes");
    }
    if (!show_plan(run, stderr, err))
        return false;
    fprintf(stderr, "Type the pipeline's name to remove it: ");
    if (fgets(answer, sizeof(answer), stdin) == NULL)
        answer[0] = '\0';
    answer[strcspn(answer, "\n")] = '\0';
    if (strcmp(answer, run->config->pipeline) == 0)
        return true;
    return error_set(err, ERROR_FAILED, "not confirmed: nothing was removed");
}

/* ---- removing ---- */

static bool remove_publication(struct destroy_run *run, struct error *err)
{
    const char *name = run->identity.publication;
    _cleanup_buf_ struct buf quoted = {0};

    if (!run->has_publication)
        return true;
    if (publication_drop(run->source, name, err)) {
        notes_add(&run->removed, "publication %s on the source", name);
        return true;
    }
    if (strcmp(err->sqlstate, "42501") != 0)
        return false;
    pg_add_ident(&quoted, name);
    notes_add(
        &run->kept,
        "publication %s on the source belongs to another role; as its owner: DROP PUBLICATION %s",
        name, buf_text(&quoted));
    return true;
}

static bool remove_source(struct destroy_run *run, struct error *err)
{
    const char *slot = run->identity.slot;

    if (run->source == NULL) {
        notes_add(&run->kept,
                  "the source was skipped; if it still exists, its slot keeps WAL for ever.  "
                  "There: SELECT pg_drop_replication_slot('%s')",
                  slot);
        return true;
    }
    if (run->has_slot) {
        if (!slot_drop(run->source, slot, err))
            return false;
        notes_add(&run->removed, "replication slot %s on the source", slot);
    }
    return remove_publication(run, err);
}

static void print_notes(const char *title, const struct notes *notes)
{
    for (int i = 0; i < notes->count; i++)
        print_shown(stdout, title, notes->texts[i]);
}

static bool remove_all(struct destroy_run *run, bool *ret_finished, struct error *err)
{
    struct destroy_options options = {.is_keeping_tables = run->cli->is_keeping_tables};

    *ret_finished = true;
    return remove_source(run, err) &&
           (run->lock == NULL || destroy_mirror(run->lock, run->config->pipeline, options,
                                                &run->removed, &run->kept, ret_finished, err));
}

static int destroy_pipeline(struct destroy_run *run)
{
    struct error err = {0};
    bool finished = false, is_done;

    if (!look(run, &err))
        return cli_fail(run->cli, &err);
    if (run->cli->is_dry_run)
        return show_plan(run, stdout, &err) ? 0 : cli_fail(run->cli, &err);
    if (!confirm(run, &err))
        return cli_fail(run->cli, &err);
    is_done = remove_all(run, &finished, &err);
    /* Also after a failure: what is gone is gone. */
    print_notes("removed", &run->removed);
    print_notes("kept   ", &run->kept);
    if (!is_done)
        return cli_fail(run->cli, &err);
    if (finished) {
        printf("pipeline %s is gone\n", run->config->pipeline);
        return 0;
    }
    error_set(&err, ERROR_FAILED,
              "pipeline %s could not be removed as a whole: something depends on what was kept",
              run->config->pipeline);
    error_hint(&err, "drop what depends on it, then run the same again");
    return cli_fail(run->cli, &err);
}

int verb_destroy(struct cli *cli)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct destroy_run run = {
        .cli = cli, .arena = &arena, .removed = {.arena = &arena}, .kept = {.arena = &arena}};
    struct error err = {0};
    struct config config;
    int code;

    if (!cli_load_config(cli, &arena, &config, &err))
        return cli_fail(cli, &err);
    run.config = &config;
    code = destroy_pipeline(&run);
    pg_free(run.source);
    pg_free(run.lock);
    return code;
}
