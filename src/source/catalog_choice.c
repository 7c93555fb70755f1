/*
 * The entries are tried one after the other for every relation: relations times entries, once per
 * start.
 *
 * exclude and mask are taken as whole lists from the last entry that has one, so that
 * {name: public.users, deletes: ignore} after {name: public.*, mask: …} does not unmask.
 */
#include "source/catalog_choice.h"

#include "base/buf.h"
#include "pg/pg.h"

const char *catalog_choice_place(const struct config *config, struct config_place place,
                                 struct arena *arena)
{
    if (place.line == 0)
        return "";
    return arena_printf(arena, "%s:%d:%d: ", config->file, place.line, place.column);
}

static bool is_glob(const struct config_table *entry)
{
    return entry->is_schema_glob || entry->is_name_glob;
}

/* ---- what cannot be mirrored ---- */

/* Why not, or NULL.  *ret_is_quiet: a glob passes over it without a word. */
static const char *find_obstacle(const struct source_relation *relation, const char **ret_remedy,
                                 bool *ret_is_quiet, struct arena *arena)
{
    _cleanup_buf_ struct buf name = {0};

    pg_add_qualified(&name, relation->schema, relation->name);
    *ret_is_quiet = false;
    *ret_remedy = "take it out of the configuration's tables";
    if (relation->kind == 'f')
        return "it is a foreign table: its changes are not in this server's WAL";
    if (relation->kind == 'v' || relation->kind == 'm') {
        *ret_is_quiet = true;
        *ret_remedy = "mirror the tables it reads, and create the view anew on the mirror";
        return relation->kind == 'v' ? "it is a view" : "it is a materialized view";
    }
    if (relation->is_partition) {
        *ret_is_quiet = true;
        *ret_remedy = "name the partitioned table instead: its partitions come with it";
        return "it is a partition";
    }
    if (relation->persistence == 't') {
        *ret_is_quiet = true;
        return "it is a temporary table";
    }
    if (relation->persistence == 'u') {
        *ret_remedy = arena_printf(arena, "ALTER TABLE %s SET LOGGED;", buf_text(&name));
        return "it is unlogged: its changes are not in the WAL";
    }
    if (relation->extension != 0) {
        *ret_is_quiet = true;
        return "it belongs to an extension, which brings it along on the mirror";
    }
    return NULL;
}

static void report_obstacle(const struct config *config, const struct choice *choice,
                            struct finding_list *findings)
{
    struct arena *arena = findings->arena;
    const char *remedy;
    bool is_quiet;
    const char *why = find_obstacle(choice->relation, &remedy, &is_quiet, arena);
    struct finding *finding;

    if (!choice->is_named && is_quiet)
        return;
    if (choice->is_named)
        finding = finding_add(findings, "table_kind", FINDING_ERROR, "%s%s cannot be mirrored",
                              catalog_choice_place(config, choice->place, arena),
                              choice->relation->label);
    else
        finding = finding_add(findings, "table_kind", FINDING_WARNING, "%s is not mirrored",
                              choice->relation->label);
    finding_why(findings, finding, "%s", why);
    finding_remedy(findings, finding, "%s", remedy);
}

/* ---- entries that take nothing ---- */

static bool is_mirrorable(const struct source_relation *relation, struct arena *arena)
{
    const char *remedy;
    bool is_quiet;

    return find_obstacle(relation, &remedy, &is_quiet, arena) == NULL;
}

/* The right name: the same in another schema, or one that is spelt nearly so. */
static const char *nearest_table(const struct config_table *entry,
                                 const struct source_catalog *source, struct arena *arena)
{
    const char **names = arena_new(arena, const char *, source->nrelations);
    int count = 0;

    for (int i = 0; i < source->nrelations; i++) {
        if (!is_mirrorable(&source->relations[i], arena))
            continue;
        if (strcmp(source->relations[i].name, entry->name) == 0)
            return source->relations[i].label;
        names[count++] = source->relations[i].label;
    }
    return config_nearest(arena_printf(arena, "%s.%s", entry->schema, entry->name), names, count);
}

static void report_idle_entry(const struct config *config, const struct config_table *entry,
                              const struct source_catalog *source, struct finding_list *findings)
{
    struct arena *arena = findings->arena;
    const char *place = catalog_choice_place(config, entry->place, arena);
    struct finding *finding;
    const char *nearest;

    if (is_glob(entry) || entry->is_excluded) {
        finding = finding_add(findings, "table_pattern", FINDING_WARNING,
                              "%sthe pattern %s matches no table of the source", place,
                              entry->pattern);
        finding_remedy(findings, finding, "correct the pattern, or remove it");
        return;
    }
    if (entry->is_mirrored) {
        finding_add(findings, "table_gone", FINDING_WARNING, "%s%s is gone from the source", place,
                    entry->pattern);
        return;
    }
    finding = finding_add(findings, "table_missing", FINDING_ERROR,
                          "%s%s does not exist on the source", place, entry->pattern);
    nearest = nearest_table(entry, source, arena);
    if (nearest != NULL)
        finding_remedy(findings, finding, "did you mean %s?", nearest);
    else
        finding_remedy(findings, finding, "list the tables with: psql -c '\\dt %s.*'",
                       entry->schema);
}

/* ---- the choice ---- */

static void take_policies(struct choice *choice, const struct config_table *entry)
{
    if (!is_glob(entry)) {
        choice->is_named = true;
        choice->place = entry->place;
    } else if (!choice->is_named) {
        choice->place = entry->place;
    }
    if (entry->nexclude > 0)
        choice->exclude = entry;
    if (entry->nmask > 0)
        choice->mask = entry;
    if (entry->nkey > 0)
        choice->key = entry;
    if (entry->indexes.kind != INDEXES_DEFAULT)
        choice->indexes = entry->indexes;
    if (entry->has_deletes)
        choice->deletes = entry->deletes;
    if (entry->has_truncate)
        choice->truncate = entry->truncate;
    if (entry->has_purge_after)
        choice->purge_after_us = entry->purge_after_us;
}

/* False where no entry takes it, or the last one that matches is a !pattern. */
static bool choose(const struct config *config, struct source_relation *relation, bool *matched,
                   struct choice *ret_choice)
{
    struct choice choice = {.relation = relation,
                            .indexes = config->mirror.indexes,
                            .deletes = DELETES_SOFT,
                            .truncate = TRUNCATE_APPLY,
                            .purge_after_us = config->purge.after_us};
    bool is_taken = false;

    for (int i = 0; i < config->ntables; i++) {
        const struct config_table *entry = &config->tables[i];

        if (!config_table_matches(entry, relation->schema, relation->name))
            continue;
        matched[i] = true;
        is_taken = !entry->is_excluded;
        if (is_taken)
            take_policies(&choice, entry);
    }
    *ret_choice = choice;
    return is_taken;
}

/* A new one that only a pattern takes, where the policy leaves these out. */
static bool is_kept_out(const struct config *config, const struct choice *choice,
                        struct finding_list *findings)
{
    const struct source_relation *relation = choice->relation;
    struct finding *finding;

    if (!config->is_known || choice->is_named ||
        config->schema_changes[CHANGE_NEW_TABLE] != SCHEMA_CHANGES_KEEP ||
        config_find_known(config, relation->schema, relation->name) != NULL)
        return false;
    finding = finding_add(findings, "schema_kept", FINDING_WARNING,
                          "the table %s is new on the source, and is not mirrored "
                          "(schema_changes.new_table: keep)",
                          relation->label);
    finding_remedy(findings, finding, "tailwater table add %s", relation->label);
    return true;
}

/* What the mirror has of it; not of another relation of that name, whose columns have other numbers. */
static const struct config_known *known_columns(const struct config *config,
                                                const struct source_relation *relation)
{
    const struct config_known *known = config->schema_changes[CHANGE_ADD_COLUMN] ==
                                               SCHEMA_CHANGES_KEEP
                                           ? config_find_known(config, relation->schema,
                                                               relation->name)
                                           : NULL;

    return known != NULL && known->ncolumns > 0 && known->relid == relation->oid ? known : NULL;
}

void catalog_choice_make(const struct config *config, const struct source_catalog *source,
                         struct finding_list *findings, struct choice_list *ret_choices)
{
    struct arena *arena = findings->arena;
    bool *matched = arena_new(arena, bool, config->ntables);
    struct choice_list choices = {.items = arena_new(arena, struct choice, source->nrelations)};

    for (int i = 0; i < source->nrelations; i++) {
        struct choice *choice = &choices.items[choices.count];

        if (!choose(config, &source->relations[i], matched, choice))
            continue;
        choice->known = known_columns(config, choice->relation);
        if (!is_mirrorable(choice->relation, arena))
            report_obstacle(config, choice, findings);
        else if (!is_kept_out(config, choice, findings))
            choices.count++;
    }
    for (int i = 0; i < config->ntables; i++) {
        if (!matched[i])
            report_idle_entry(config, &config->tables[i], source, findings);
    }
    *ret_choices = choices;
}

/* ---- columns and indexes that are not there ---- */

static bool has_part(const struct source_relation *relation, const char *name, bool is_index)
{
    if (is_index) {
        for (int i = 0; i < relation->nindexes; i++) {
            if (strcmp(relation->indexes[i].name, name) == 0)
                return true;
        }
        return false;
    }
    for (int i = 0; i < relation->ncolumns; i++) {
        if (strcmp(relation->columns[i].name, name) == 0)
            return true;
    }
    return false;
}

static const char *nearest_part(const struct source_relation *relation, const char *name,
                                bool is_index, struct arena *arena)
{
    int count = is_index ? relation->nindexes : relation->ncolumns;
    const char **names = arena_new(arena, const char *, count);

    for (int i = 0; i < count; i++)
        names[i] = is_index ? relation->indexes[i].name : relation->columns[i].name;
    return config_nearest(name, names, count);
}

static const char *mention_subject(const struct config_table *entry,
                                   const struct source_relation *taken, struct arena *arena)
{
    if (entry == NULL)
        return "mirror.indexes: no mirrored table has the";
    if (is_glob(entry))
        return arena_printf(arena, "no table of %s has the", entry->pattern);
    return arena_printf(arena, "%s has no", taken->label);
}

/* entry NULL: mirror.indexes, which speaks of every table. */
static void check_name(const struct config *config, const struct choice_list *choices,
                       const struct config_table *entry, const char *name, bool is_index,
                       struct finding_list *findings)
{
    const struct source_relation *taken = NULL;
    struct arena *arena = findings->arena;
    struct finding *finding;
    const char *nearest;

    for (int i = 0; i < choices->count; i++) {
        const struct source_relation *relation = choices->items[i].relation;

        if (entry != NULL && !config_table_matches(entry, relation->schema, relation->name))
            continue;
        if (has_part(relation, name, is_index))
            return;
        taken = relation;
    }
    if (taken == NULL)
        return; /* the entry takes no table, which was said already */
    finding = finding_add(
        findings, is_index ? "table_index" : "table_column", FINDING_ERROR, "%s%s %s \"%s\"",
        entry ? catalog_choice_place(config, entry->place, arena) : "",
        mention_subject(entry, taken, arena), is_index ? "index" : "column", name);
    nearest = nearest_part(taken, name, is_index, arena);
    if (nearest != NULL)
        finding_remedy(findings, finding, "did you mean %s?", nearest);
}

void catalog_choice_check(const struct config *config, const struct choice_list *choices,
                          struct finding_list *findings)
{
    if (config->mirror.indexes.kind == INDEXES_LIST) {
        for (int i = 0; i < config->mirror.indexes.count; i++)
            check_name(config, choices, NULL, config->mirror.indexes.names[i], true, findings);
    }
    for (int i = 0; i < config->ntables; i++) {
        const struct config_table *entry = &config->tables[i];

        if (entry->is_excluded)
            continue;
        for (int j = 0; j < entry->nexclude; j++)
            check_name(config, choices, entry, entry->exclude[j], false, findings);
        for (int j = 0; j < entry->nmask; j++)
            check_name(config, choices, entry, entry->mask[j].column, false, findings);
        for (int j = 0; j < entry->nkey; j++)
            check_name(config, choices, entry, entry->key[j], false, findings);
        if (entry->indexes.kind == INDEXES_LIST) {
            for (int j = 0; j < entry->indexes.count; j++)
                check_name(config, choices, entry, entry->indexes.names[j], true, findings);
        }
    }
}
