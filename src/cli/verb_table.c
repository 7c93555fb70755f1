/*
 * table: which tables are mirrored.
 *
 * add and remove change the configuration's file, which is what says so, and then see to it that it is
 * done: by a job (follow.h) for the replicator that runs, which reads its configuration again, or by
 * this process where none does.  The new text is tried before it takes the old one's place: as a
 * configuration, and (add) against the source's catalog.
 *
 * unquarantine is a resync of tables that are quarantined; nothing else can end that without a gap.
 */
#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/table_text.h"
#include "config/edit.h"
#include "config/pattern.h"
#include "mirror/destroy.h"
#include "mirror/known.h"
#include "mirror/status.h"
#include "source/catalog.h"

#include <string.h>
#include <unistd.h>

struct table_run {
    struct cli *cli;
    struct config config;
    struct arena arena;
    struct follow follow;
    int count; /* tables that the command names */
    const char **schemas, **names;
    int code; /* the exit code, once the action has run */
};

/* ---- what the command names ---- */

/* schema.table, as in the configuration. */
static bool read_names(struct table_run *run, struct error *err)
{
    run->count = run->cli->noperands - 1;
    run->schemas = arena_new(&run->arena, const char *, run->count + 1);
    run->names = arena_new(&run->arena, const char *, run->count + 1);
    for (int i = 0; i < run->count; i++) {
        const char *text = run->cli->operands[i + 1];
        struct config_table entry = {0};

        if (!pattern_parse(text, &run->arena, &entry, err))
            return error_wrap(err, "%s", text);
        if (entry.is_excluded || entry.is_schema_glob || entry.is_name_glob) {
            error_set(err, ERROR_CONFIG, "%s is a pattern: name the tables one by one", text);
            return error_hint(err,
                              "a pattern may be written into %s by hand; then run: tailwater "
                              "table list",
                              run->config.file);
        }
        run->schemas[i] = entry.schema;
        run->names[i] = entry.name;
    }
    return true;
}

static struct job_wish wish_of(const struct table_run *run, enum job_kind kind)
{
    return (struct job_wish){
        .kind = kind, .ntables = run->count, .schemas = run->schemas, .names = run->names};
}

/* The mirror's row of a table; NULL: there is none. */
static const struct control_table *find_row(const struct table_run *run, int i)
{
    for (int t = 0; t < run->follow.ntables; t++)
        if (strcmp(run->follow.tables[t].schema, run->schemas[i]) == 0 &&
            strcmp(run->follow.tables[t].name, run->names[i]) == 0)
            return &run->follow.tables[t];
    return NULL;
}

/* ---- the file ---- */

static bool reload_config(struct table_run *run, struct error *err)
{
    const char *file = run->config.file;

    return config_load(file, &run->arena, &run->config, err);
}

/* The tables are there, and can be mirrored. */
static bool try_catalog(struct table_run *run, const struct edit *edit, struct error *err)
{
    _cleanup_pg_ struct pg *source = NULL;
    struct config config, known;
    struct catalog catalog;

    if (!config_load(edit->new_file, &run->arena, &config, err) ||
        !known_read(run->follow.mirror, &config, &run->arena, &known, err))
        return false;
    known.file = run->config.file; /* whose places messages tell of */
    return pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                           .conninfo = known.source.conninfo,
                                           .application = "tailwater table"},
                      &source, err) &&
           pg_check_version(source, err) &&
           catalog_load(source, &known, &run->arena, &catalog, err);
}

/* One table after the other, each a version of the file: an error leaves the file as it was for it. */
static bool change_file(struct table_run *run, int i, bool is_wanted, bool *ret_changed,
                        struct error *err)
{
    _cleanup_edit_ struct edit edit = {0};
    bool is_named;
    const bool is = edit_is_taken(&run->config, run->schemas[i], run->names[i], &is_named);

    *ret_changed = is_wanted ? !is_named : is;
    if (!*ret_changed)
        return true;
    if (!(is_wanted ? edit_add_table : edit_remove_table)(&run->config, run->schemas[i],
                                                          run->names[i], &run->arena, &edit, err) ||
        (is_wanted && !try_catalog(run, &edit, err)) || !edit_commit(&edit, err) ||
        !reload_config(run, err))
        return false;
    fprintf(stderr, "%s: %s.%s is %s\n", run->config.file, run->schemas[i], run->names[i],
            is_wanted ? "listed" : "no longer listed");
    return true;
}

/* ---- add ---- */

/* Those that are mirrored already, and complete, are left alone. */
static void drop_complete(struct table_run *run)
{
    int count = 0;

    for (int i = 0; i < run->count; i++) {
        const struct control_table *row = find_row(run, i);

        if (row != NULL && row->unlisted_lsn == 0 && row->quarantine.lsn == 0 &&
            row->state == CONTROL_TABLE_READY) {
            fprintf(stderr, "%s.%s is mirrored already\n", run->schemas[i], run->names[i]);
            continue;
        }
        run->schemas[count] = run->schemas[i];
        run->names[count++] = run->names[i];
    }
    run->count = count;
}

static int add(struct table_run *run)
{
    struct error err;
    bool is_known, is_changed;

    if (!follow_look(&run->follow, &is_known, &err))
        return cli_fail(run->cli, &err);
    for (int i = 0; i < run->count; i++)
        if (!change_file(run, i, true, &is_changed, &err))
            return cli_fail(run->cli, &err);
    if (!is_known) {
        fprintf(stderr, "the pipeline has not been copied yet: tailwater run -c '%s' copies it\n",
                run->config.file);
        return 0;
    }
    drop_complete(run);
    return run->count == 0 ? 0 : verb_resync_follow(&run->follow, wish_of(run, JOB_RESYNC));
}

/* ---- remove ---- */

static bool confirm(const struct table_run *run, struct error *err)
{
    char answer[16];

    if (run->cli->is_confirmed || run->cli->is_keeping_tables)
        return true;
    if (!isatty(STDIN_FILENO)) {
        error_set(err, ERROR_CONFIG,
                  "table remove drops mirror tables and live views, and there is no "
                  "terminal to ask on");
        return error_hint(err, "say --yes; or --keep-tables, which leaves them as they are now");
    }
    for (int i = 0; i < run->count; i++)
        fprintf(stderr, "%s.%s\n", run->schemas[i], run->names[i]);
    fprintf(stderr, "Drop mirror table and live view?  Type yes: ");
    if (fgets(answer, sizeof(answer), stdin) != NULL && strcmp(answer, "yes\n") == 0)
        return true;
    return error_set(err, ERROR_FAILED, "not confirmed: nothing was removed");
}

static bool is_table(const struct config_table_name *table, const char *schema, const char *name)
{
    return strcmp(table->schema, schema) == 0 && strcmp(table->name, name) == 0;
}

static bool check_facts(const struct table_run *run, int i, struct error *err)
{
    for (int f = 0; f < run->config.nfacts; f++) {
        const struct config_fact *fact = &run->config.facts[f];
        bool is = is_table(&fact->table, run->schemas[i], run->names[i]);

        for (int d = 0; d < fact->ndimensions; d++)
            is |= is_table(&fact->dimensions[d].table, run->schemas[i], run->names[i]);
        if (is)
            return error_set(err, ERROR_CONFIG, "%s.%s is needed by the fact %s", run->schemas[i],
                             run->names[i], fact->name);
    }
    return true;
}

/* The replicator that runs lets go of them first. */
static bool let_go(struct table_run *run, struct error *err)
{
    struct job_wish wish = wish_of(run, JOB_RELOAD);

    if (!follow_job(&run->follow, &wish, err))
        return false;
    for (int i = 0; i < run->follow.job.ntables; i++)
        if (run->follow.job.tables[i].state == JOB_FAILED)
            return error_set(err, ERROR_FAILED, "%s", run->follow.job.tables[i].error);
    return true;
}

static void print_notes(const char *title, const struct notes *notes)
{
    for (int i = 0; i < notes->count; i++) {
        _cleanup_buf_ struct buf shown = {0};

        buf_add_shown(&shown, notes->texts[i]);
        printf("%s  %s\n", title, buf_text(&shown));
    }
}

/* Each for itself; *ret_code is 1 where something depends on one. */
static bool drop_tables(struct table_run *run, struct pg *mirror, int *ret_code, struct error *err)
{
    struct notes removed = {.arena = &run->arena}, kept = {.arena = &run->arena};
    bool is_ok = true, is_gone = false;

    for (int i = 0; is_ok && i < run->count; i++) {
        const struct control_table *row = find_row(run, i);

        if (row == NULL)
            continue;
        is_ok = destroy_table(mirror, run->config.pipeline, row, &removed, &kept, &is_gone, err);
        *ret_code |= is_ok && !is_gone;
    }
    print_notes("removed", &removed);
    print_notes("kept   ", &kept);
    return is_ok;
}

/* Where nobody replicates nobody begins to meanwhile. */
static bool remove_rows(struct table_run *run, int *ret_code, struct error *err)
{
    _cleanup_pg_ struct pg *lock = NULL;
    bool is_known, is_running;

    if (!follow_is_running(&run->follow, &is_running, err))
        return false;
    if (is_running)
        return let_go(run, err) && follow_look(&run->follow, &is_known, err) &&
               (run->cli->is_keeping_tables || drop_tables(run, run->follow.mirror, ret_code, err));
    return run->cli->is_keeping_tables ||
           (control_lock(run->config.mirror.conninfo, run->config.pipeline, &lock, err) &&
            drop_tables(run, lock, ret_code, err));
}

static int remove_tables(struct table_run *run)
{
    struct error err;
    bool is_known, is_changed;
    int code = 0;

    if (!follow_look(&run->follow, &is_known, &err) || !confirm(run, &err))
        return cli_fail(run->cli, &err);
    for (int i = 0; i < run->count; i++) {
        if (!check_facts(run, i, &err) || !change_file(run, i, false, &is_changed, &err))
            return cli_fail(run->cli, &err);
        if (!is_changed && find_row(run, i) == NULL) {
            error_set(&err, ERROR_CONFIG, "%s.%s is not mirrored", run->schemas[i], run->names[i]);
            error_hint(&err, "tailwater table list -c '%s'", run->config.file);
            return cli_fail(run->cli, &err);
        }
    }
    return !is_known || remove_rows(run, &code, &err) ? code : cli_fail(run->cli, &err);
}

/* ---- list ---- */

static int list(struct table_run *run)
{
    struct follow *follow = &run->follow;
    struct status status = {.config = &run->config};
    _cleanup_buf_ struct buf out = {0};
    struct control_size *sizes = NULL;
    int nsizes = 0;
    struct error err;
    bool is_known;

    if (!follow_look(follow, &is_known, &err) ||
        (is_known && (!control_measure_tables(follow->mirror, run->config.pipeline, follow->arena,
                                              &nsizes, &sizes, &err) ||
                      !freshness_list(follow->mirror, &run->config, follow->arena,
                                      &status.nfreshness, &status.freshness, &err))))
        return cli_fail(run->cli, &err);
    control_give_sizes(sizes, nsizes, follow->tables, follow->ntables);
    freshness_assign(status.freshness, status.nfreshness, follow->tables, follow->ntables);
    status.tables = follow->tables;
    status.ntables = follow->ntables;
    if (run->cli->is_json) {
        buf_add_char(&out, '{');
        status_add_tables(&status, &out);
        buf_add(&out, "}\n");
    } else {
        table_text_add_header(&out);
        for (int i = 0; i < follow->ntables; i++)
            table_text_add_row(&out, &run->config, &follow->tables[i]);
    }
    fwrite(buf_text(&out), 1, out.len, stdout);
    return 0;
}

/* ---- unquarantine ---- */

static int unquarantine(struct table_run *run)
{
    struct error err;
    bool is_known;

    if (!follow_look(&run->follow, &is_known, &err))
        return cli_fail(run->cli, &err);
    for (int i = 0; i < run->count; i++) {
        const struct control_table *row = find_row(run, i);

        if (row != NULL && row->quarantine.lsn != 0)
            continue;
        error_set(&err, ERROR_CONFIG, "%s.%s is not %s", run->schemas[i], run->names[i],
                  row == NULL ? "mirrored" : "quarantined");
        error_hint(&err, "tailwater table list -c '%s'", run->config.file);
        return cli_fail(run->cli, &err);
    }
    return verb_resync_follow(&run->follow, wish_of(run, JOB_RESYNC));
}

/* ---- the verb ---- */

static bool do_add(void *work, struct error *err)
{
    struct table_run *run = work;

    (void) err; /* these say what is wrong themselves, and have a code for it */
    run->code = add(run);
    return true;
}

static bool do_remove(void *work, struct error *err)
{
    struct table_run *run = work;

    (void) err;
    run->code = remove_tables(run);
    return true;
}

static bool do_list(void *work, struct error *err)
{
    struct table_run *run = work;

    (void) err;
    run->code = list(run);
    return true;
}

static bool do_unquarantine(void *work, struct error *err)
{
    struct table_run *run = work;

    (void) err;
    run->code = unquarantine(run);
    return true;
}

static const struct cli_action actions[] = {
    {"add", "tailwater table add TABLE…", 1, CLI_MAX_OPERANDS - 1, "json", do_add},
    {"remove", "tailwater table remove TABLE… [--keep-tables] [--yes]", 1, CLI_MAX_OPERANDS - 1,
     "yes keep-tables json", do_remove},
    {"list", "tailwater table list", 0, 0, "json", do_list},
    {"unquarantine", "tailwater table unquarantine TABLE…", 1, CLI_MAX_OPERANDS - 1, "json",
     do_unquarantine},
};
#define NACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

int verb_table(struct cli *cli)
{
    struct table_run run = {.cli = cli};
    const struct cli_action *action;
    const char *const *operands;
    struct error err = {0};

    if (!cli_find_action(cli, actions, NACTIONS, &action, &operands, &err))
        return cli_fail(cli, &err);
    run.follow = (struct follow){.cli = cli, .config = &run.config, .arena = &run.arena};
    if (!cli_load_config(cli, &run.arena, &run.config, &err) || !read_names(&run, &err) ||
        !action->run(&run, &err))
        run.code = cli_fail(cli, &err);
    follow_release(&run.follow);
    arena_release(&run.arena);
    return run.code;
}
