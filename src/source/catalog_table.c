/*
 * What a mirror table takes over from its source: see docs/design.md.  Everything that is refused
 * is refused in the first pass; what is merely left out (an index, a generated column) is said in
 * the second.
 *
 * A hashed column becomes text, whatever length its type had.
 */
#include "source/catalog_table.h"

#include "base/buf.h"
#include "pg/pg.h"
#include "source/catalog_key.h"

#define MAX_NAME_BYTES 63   /* NAMEDATALEN - 1 */
#define MAX_COLUMNS    1600 /* MaxHeapAttributeNumber */

static const struct catalog_refusal no_refusal = {.why = NULL};

static bool refuse(struct catalog_refusal *ret_refusal, const char *why, const char *remedy)
{
    *ret_refusal = (struct catalog_refusal){.why = why, .remedy = remedy};
    return false;
}

/* ---- which columns ---- */

static bool is_of_key(const struct source_relation *relation, int attnum)
{
    for (int i = 0; i < relation->nindexes; i++) {
        const struct source_index *index = &relation->indexes[i];

        for (int j = 0; (index->is_primary || index->is_identity) && j < index->nkeys; j++)
            if (index->attnums[j] == attnum)
                return true;
    }
    return false;
}

/* It came after the mirror table was made, and the policy leaves such columns out.  Not one of a key:
 * without it rows could not be told apart. */
static bool is_kept_out(const struct choice *choice, const struct source_column *column)
{
    if (choice->known == NULL || column->generated != '\0')
        return false;
    for (int i = 0; i < choice->known->ncolumns; i++)
        if (choice->known->attnums[i] == column->attnum)
            return false;
    return !is_of_key(choice->relation, column->attnum);
}

static bool is_excluded(const struct choice *choice, const char *name)
{
    for (int i = 0; choice->known != NULL && i < choice->relation->ncolumns; i++)
        if (strcmp(choice->relation->columns[i].name, name) == 0 &&
            is_kept_out(choice, &choice->relation->columns[i]))
            return true;
    for (int i = 0; choice->exclude != NULL && i < choice->exclude->nexclude; i++) {
        if (strcmp(choice->exclude->exclude[i], name) == 0)
            return true;
    }
    return false;
}

static enum column_mask find_mask(const struct choice *choice, const char *name)
{
    for (int i = 0; choice->mask != NULL && i < choice->mask->nmask; i++) {
        if (strcmp(choice->mask->mask[i].column, name) == 0)
            return choice->mask->mask[i].mask;
    }
    return MASK_NONE;
}

bool catalog_table_has_column(const struct choice *choice, const struct source_column *column)
{
    return column->generated == '\0' && !is_excluded(choice, column->name);
}

/* ---- what indexes and generated columns use ---- */

static bool has_expression(const struct source_relation *relation, uint32_t index)
{
    for (int i = 0; i < relation->nindexes; i++) {
        if (relation->indexes[i].oid == index)
            return relation->indexes[i].has_expressions || relation->indexes[i].is_partial;
    }
    return true; /* a generated column */
}

static const char *column_blocker(const struct catalog_builder *builder,
                                  const struct choice *choice, uint32_t index, int attnum)
{
    const struct source_relation *relation = choice->relation;
    const struct source_column *column = catalog_source_column(relation, attnum);
    struct arena *arena = builder->arena;

    if (column == NULL || is_excluded(choice, column->name))
        return arena_printf(arena, "it reads the excluded column \"%s\"",
                            column ? column->name : "?");
    if (find_mask(choice, column->name) != MASK_NONE && has_expression(relation, index))
        return arena_printf(arena, "it computes with the masked column \"%s\"", column->name);
    if (column->generated == 'v')
        return arena_printf(arena, "it reads the virtual column \"%s\"", column->name);
    if (column->generated == 's') {
        const char *inner = catalog_table_blocker(builder, choice, 0, attnum);

        if (inner != NULL)
            return arena_printf(arena, "it reads the generated column \"%s\", which is left out",
                                column->name);
    }
    return NULL;
}

static const char *object_blocker(const struct catalog_builder *builder,
                                  const struct source_dependency *dependency)
{
    const struct source_type *type;

    if (dependency->extension != 0 || dependency->is_collation)
        return NULL; /* the mirror may have it; where not, creation fails and says so */
    if (dependency->is_type) {
        type = catalog_types_find(builder->types, dependency->object);
        if (type != NULL && type->element != 0)
            type = catalog_types_find(builder->types, type->element);
        if (type != NULL && catalog_types_is_created(type) &&
            strcmp(catalog_types_schema(builder->types, type), type->schema) == 0)
            return NULL;
    }
    return arena_printf(builder->arena, "it uses %s, which the mirror does not have",
                        dependency->description);
}

const char *catalog_table_blocker(const struct catalog_builder *builder,
                                  const struct choice *choice, uint32_t index, int attnum)
{
    const struct source_relation *relation = choice->relation;

    for (int i = 0; i < relation->ndependencies; i++) {
        const struct source_dependency *dependency = &relation->dependencies[i];
        const char *blocker;

        if (dependency->index != index || dependency->attnum != attnum)
            continue;
        blocker = dependency->column != 0
                      ? column_blocker(builder, choice, index, dependency->column)
                      : object_blocker(builder, dependency);
        if (blocker != NULL)
            return blocker;
    }
    return NULL;
}

/* ---- first pass: refusals ---- */

static bool check_name(struct catalog_builder *builder, const char *what, const char *pattern,
                       const struct source_relation *relation, struct catalog_refusal *ret_refusal)
{
    const char *schema = config_expand_schema(pattern, relation->schema, builder->arena);

    if (strlen(schema) <= MAX_NAME_BYTES)
        return true;
    return refuse(ret_refusal,
                  arena_printf(builder->arena,
                               "the schema of its %s, \"%s\", is longer than PostgreSQL's %d bytes",
                               what, schema, MAX_NAME_BYTES),
                  "choose a shorter pattern for mirror.table_schema or mirror.view_schema");
}

static bool check_columns(struct catalog_builder *builder, const struct choice *choice,
                          struct catalog_refusal *ret_refusal)
{
    const struct source_relation *relation = choice->relation;
    int count = 2; /* _lsn and _deleted_at */

    for (int i = 0; i < relation->ncolumns; i++) {
        const char *name = relation->columns[i].name;

        if (is_excluded(choice, name))
            continue;
        count++;
        if (strcmp(name, "_lsn") == 0 || strcmp(name, "_deleted_at") == 0)
            return refuse(ret_refusal,
                          arena_printf(builder->arena,
                                       "its column \"%s\" has the name of one of Tailwater's own",
                                       name),
                          arena_printf(builder->arena,
                                       "exclude it: {name: %s, exclude: [%s]}, or rename it on the "
                                       "source",
                                       relation->label, name));
    }
    if (count > MAX_COLUMNS)
        return refuse(ret_refusal,
                      arena_printf(builder->arena,
                                   "with the two metadata columns it would have %d columns, and "
                                   "PostgreSQL allows %d",
                                   count, MAX_COLUMNS),
                      "exclude columns that the mirror does not need");
    return true;
}

static bool check_key_columns(struct catalog_builder *builder, const struct choice *choice,
                              const struct catalog_key *key, struct catalog_refusal *ret_refusal)
{
    struct arena *arena = builder->arena;

    for (int i = 0; i < key->count; i++) {
        const struct source_column *column = catalog_source_column(choice->relation,
                                                                   key->attnums[i]);

        if (column->generated != '\0')
            return refuse(ret_refusal,
                          arena_printf(arena,
                                       "its key column \"%s\" is generated, and generated columns "
                                       "are not in the stream",
                                       column->name),
                          "choose another REPLICA IDENTITY, over columns that are stored as they "
                          "are");
        if (is_excluded(choice, column->name) || find_mask(choice, column->name) != MASK_NONE)
            return refuse(ret_refusal,
                          arena_printf(arena,
                                       "its key column \"%s\" is excluded or masked in the "
                                       "configuration",
                                       column->name),
                          "keep the key as it is: rows are told apart by it");
    }
    return true;
}

/* Hashes are for text: of other types a hash could not be stored. */
static bool check_masks(struct catalog_builder *builder, const struct choice *choice,
                        struct catalog_refusal *ret_refusal)
{
    const struct source_relation *relation = choice->relation;

    for (int i = 0; i < relation->ncolumns; i++) {
        const struct source_column *column = &relation->columns[i];
        struct resolved_type type;

        if (is_excluded(choice, column->name) || find_mask(choice, column->name) != MASK_HASH)
            continue;
        type = catalog_types_resolve(builder->types, column->type, column->typmod);
        if (type.is_text || (type.oid != CATALOG_TYPES_TEXT && type.oid != CATALOG_TYPES_VARCHAR))
            return refuse(
                ret_refusal,
                arena_printf(builder->arena,
                             "its column \"%s\" is neither text nor varchar, so it cannot "
                             "be masked by hash",
                             column->name),
                arena_printf(builder->arena, "say {%s: null}, or exclude it", column->name));
    }
    return true;
}

static bool find_key(struct catalog_builder *builder, const struct choice *choice,
                     struct catalog_key *ret_key, struct catalog_refusal *ret_refusal)
{
    return catalog_key_find(choice->relation, choice->key ? choice->key->nkey : 0,
                            choice->key ? choice->key->key : NULL, builder->arena, ret_key,
                            ret_refusal);
}

static void want_types(struct catalog_builder *builder, const struct choice *choice)
{
    for (int i = 0; i < choice->relation->ncolumns; i++) {
        const struct source_column *column = &choice->relation->columns[i];

        if (!is_excluded(choice, column->name))
            catalog_types_want(builder->types,
                               catalog_types_resolve(builder->types, column->type, column->typmod));
    }
}

/* Of these the configuration says nothing by name. */
static void report_kept_out(struct catalog_builder *builder, const struct choice *choice)
{
    struct choice declared = *choice;

    declared.known = NULL;
    for (int i = 0; i < choice->relation->ncolumns; i++) {
        const struct source_column *column = &choice->relation->columns[i];
        struct finding *finding;

        if (!is_kept_out(choice, column) || is_excluded(&declared, column->name))
            continue;
        finding = finding_add(builder->findings, "schema_kept", FINDING_WARNING,
                              "the column %s.%s is new on the source, and is not mirrored "
                              "(schema_changes.add_column: keep)",
                              choice->relation->label, column->name);
        finding_remedy(builder->findings, finding,
                       "set schema_changes.add_column to apply, and reload (SIGHUP) or restart");
    }
}

bool catalog_table_check(struct catalog_builder *builder, const struct choice *choice)
{
    const struct config *config = builder->config;
    const struct source_relation *relation = choice->relation;
    struct catalog_refusal refusal = no_refusal;
    struct finding *finding;
    struct catalog_key key;
    const char *name = "table_key";

    if (find_key(builder, choice, &key, &refusal)) {
        name = "table_column";
        if (check_columns(builder, choice, &refusal) &&
            check_key_columns(builder, choice, &key, &refusal) &&
            check_masks(builder, choice, &refusal)) {
            name = "table_name";
            if (check_name(builder, "mirror table", config->mirror.table_schema, relation,
                           &refusal) &&
                check_name(builder, "live view", config->mirror.view_schema, relation, &refusal)) {
                want_types(builder, choice);
                report_kept_out(builder, choice);
                return true;
            }
        }
    }
    if (choice->is_named)
        finding = finding_add(builder->findings, name, FINDING_ERROR, "%s%s cannot be mirrored",
                              catalog_choice_place(config, choice->place, builder->arena),
                              relation->label);
    else
        finding = finding_add(builder->findings, name, FINDING_WARNING, "%s is not mirrored",
                              relation->label);
    finding_why(builder->findings, finding, "%s", refusal.why);
    finding_remedy(builder->findings, finding, "%s", refusal.remedy);
    return false;
}

/* ---- second pass: columns ---- */

static void warn_as_text(struct catalog_builder *builder, const struct source_relation *relation,
                         const struct source_column *column, struct resolved_type type)
{
    struct finding *finding;

    if (!type.is_text || type.why == NULL)
        return;
    finding = finding_add(builder->findings, "table_type", FINDING_WARNING,
                          "%s.%s becomes text on the mirror", relation->label, column->name);
    finding_why(builder->findings, finding, "%s", type.why);
}

static void build_column(struct catalog_builder *builder, const struct choice *choice,
                         const struct source_column *from, struct table_column *to)
{
    struct catalog_types *types = builder->types;
    struct resolved_type type = catalog_types_resolve(types, from->type, from->typmod);
    const struct source_type *own = catalog_types_find(types, from->type);

    warn_as_text(builder, choice->relation, from, type);
    to->name = from->name;
    to->attnum = from->attnum;
    to->source_type = from->type;
    to->mask = find_mask(choice, from->name);
    to->collation = catalog_types_collate(types, type, from->collation);
    if (to->mask == MASK_HASH) {
        type = (struct resolved_type){CATALOG_TYPES_TEXT, -1, false, NULL};
        to->collation = NULL;
    }
    to->type = catalog_types_name(types, type.oid, type.typmod);
    to->cast_type = catalog_types_name(types, type.oid, -1);
    to->equality = catalog_types_equality(types, type.oid);
    to->wire = catalog_types_wire(types, type.oid);
    to->element_oid = to->wire == WIRE_CAST || to->wire == WIRE_TEXT ? 0 : type.oid;
    /* The type's storage, not the column's: values from before SET STORAGE PLAIN are still out of
     * line, and each partition has its own. */
    to->is_toastable = own != NULL && own->len == -1 &&
                       (own->storage != 'p' || from->storage != 'p');
    /* wal2json prints a domain's value as a string, NaN and all. */
    to->is_nan_capable = from->type == 700 || from->type == 701 || from->type == 1700;
    /* A numeric with a scale is written with it, always. */
    to->is_alike = to->mask == MASK_NONE &&
                   (catalog_types_is_bytewise(types, type, from->collation) ||
                    (type.oid == CATALOG_TYPES_NUMERIC && type.typmod >= 0));
}

static void build_columns(struct catalog_builder *builder, const struct choice *choice,
                          struct table *table)
{
    const struct source_relation *relation = choice->relation;

    table->columns = arena_new(builder->arena, struct table_column, relation->ncolumns);
    table->excluded = arena_new(builder->arena, const char *, relation->ncolumns);
    for (int i = 0; i < relation->ncolumns; i++) {
        const struct source_column *column = &relation->columns[i];

        if (catalog_table_has_column(choice, column))
            build_column(builder, choice, column, &table->columns[table->ncolumns++]);
        else
            table->excluded[table->nexcluded++] = column->name;
    }
}

static void build_key(struct catalog_builder *builder, const struct choice *choice,
                      const struct catalog_key *key, struct table *table)
{
    table->keys = arena_new(builder->arena, int, key->count);
    table->is_key_bytewise = true;
    for (int i = 0; i < key->count; i++) {
        const struct source_column *column = catalog_source_column(choice->relation,
                                                                   key->attnums[i]);
        int at = table_find_column(table, column->name);

        table->keys[table->nkeys++] = at;
        table->columns[at].is_key = true;
        if (!catalog_types_is_bytewise(
                builder->types, catalog_types_resolve(builder->types, column->type, column->typmod),
                column->collation))
            table->is_key_bytewise = false;
    }
}

/* ---- second pass: generated columns and indexes ---- */

static void build_generated(struct catalog_builder *builder, const struct choice *choice,
                            struct table *table)
{
    const struct source_relation *relation = choice->relation;

    table->generated = arena_new(builder->arena, struct table_generated, relation->ncolumns);
    for (int i = 0; i < relation->ncolumns; i++) {
        const struct source_column *column = &relation->columns[i];
        struct resolved_type type;
        const char *blocker;

        if (column->generated == '\0' || is_excluded(choice, column->name))
            continue;
        type = catalog_types_resolve(builder->types, column->type, column->typmod);
        blocker = column->generated == 'v'
                      ? "it is virtual: not stored, and not in the stream"
                      : catalog_table_blocker(builder, choice, 0, column->attnum);
        if (blocker != NULL) {
            struct finding *finding = finding_add(
                builder->findings, "generated_column", FINDING_WARNING,
                "%s: the generated column \"%s\" is left out", relation->label, column->name);

            finding_why(builder->findings, finding, "%s", blocker);
            continue;
        }
        table->generated[table->ngenerated++] = (struct table_generated){
            .name = column->name,
            .attnum = column->attnum,
            .type = catalog_types_name(builder->types, type.oid, type.typmod),
            .collation = catalog_types_collate(builder->types, type, column->collation),
            .expression = column->expression};
    }
}

static bool is_index_wanted(const struct choice *choice, const struct source_index *index)
{
    switch (choice->indexes.kind) {
    case INDEXES_NONE:
        return false;
    case INDEXES_LIST:
        for (int i = 0; i < choice->indexes.count; i++) {
            if (strcmp(choice->indexes.names[i], index->name) == 0)
                return true;
        }
        return false;
    case INDEXES_DEFAULT:
    case INDEXES_COPY:
        break;
    }
    return true;
}

/* A plain btree over the key's columns in the key's order: the mirror's primary key is that. */
static bool is_like_key(const struct source_index *index, const struct catalog_key *key)
{
    if (index == key->index)
        return true;
    if (strcmp(index->method, "btree") != 0 || index->is_partial || index->has_expressions ||
        index->nkeys != key->count || index->nattnums != index->nkeys)
        return false;
    return memcmp(index->attnums, key->attnums, sizeof(*key->attnums) * (size_t) key->count) == 0;
}

static bool is_listed(const struct table *table, const char *definition)
{
    for (int i = 0; i < table->nindexes; i++) {
        if (strcmp(table->indexes[i].definition, definition) == 0)
            return true;
    }
    return false;
}

static void build_indexes(struct catalog_builder *builder, const struct choice *choice,
                          const struct catalog_key *key, struct table *table)
{
    const struct source_relation *relation = choice->relation;

    table->indexes = arena_new(builder->arena, struct table_index, relation->nindexes);
    for (int i = 0; i < relation->nindexes; i++) {
        const struct source_index *index = &relation->indexes[i];
        const char *blocker;

        if (!index->is_valid || !is_index_wanted(choice, index) || is_like_key(index, key))
            continue;
        blocker = index->definition == NULL ? "its definition was not understood"
                                            : catalog_table_blocker(builder, choice, index->oid, 0);
        if (blocker != NULL) {
            struct finding *finding = finding_add(builder->findings, "table_index", FINDING_WARNING,
                                                  "%s: the index \"%s\" is left out",
                                                  relation->label, index->name);

            finding_why(builder->findings, finding, "%s", blocker);
            finding_remedy(builder->findings, finding,
                           "list the others to be rid of this warning, or live without it");
            continue;
        }
        if (!is_listed(table, index->definition))
            table->indexes[table->nindexes++] = (struct table_index){
                .name = index->name, .definition = index->definition};
    }
}

/* ---- second pass: the whole ---- */

static void build_sizes(struct catalog_builder *builder, const struct source_relation *relation,
                        struct table *table)
{
    double rows = relation->reltuples > 0 ? relation->reltuples : 0;
    int64_t bytes = relation->bytes;

    table->relpages = relation->kind == 'r' ? relation->relpages : 0;
    table->nleaves = relation->nleaves;
    table->leaves = arena_new(builder->arena, struct table_leaf, relation->nleaves);
    if (relation->kind == 'p')
        rows = 0;
    for (int i = 0; i < relation->nleaves; i++) {
        const struct source_leaf *leaf = &relation->leaves[i];

        table->leaves[i] = (struct table_leaf){
            .schema = leaf->schema, .name = leaf->name, .is_born = leaf->is_born};
        if (leaf->reltuples > 0)
            rows += leaf->reltuples;
        bytes += leaf->bytes;
    }
    table->estimated_rows = (int64_t) rows;
    table->estimated_bytes = bytes;
}

void catalog_table_build(struct catalog_builder *builder, const struct choice *choice,
                         struct table *ret_table)
{
    const struct config *config = builder->config;
    const struct source_relation *relation = choice->relation;
    struct catalog_refusal refusal;
    struct catalog_key key = {.count = 0};
    struct table table = {
        .schema = relation->schema,
        .name = relation->name,
        .mirror_schema = config_expand_schema(config->mirror.table_schema, relation->schema,
                                              builder->arena),
        .mirror_name = relation->name,
        .view_schema = config_expand_schema(config->mirror.view_schema, relation->schema,
                                            builder->arena),
        .view_name = relation->name,
        .label = relation->label,
        .relid = relation->oid,
        .is_partitioned = relation->kind == 'p',
        .identity = relation->identity,
        .deletes = choice->deletes,
        .truncate = choice->truncate,
        .purge_after_us = choice->purge_after_us,
        .fillfactor = config->mirror.fillfactor,
    };

    build_columns(builder, choice, &table);
    if (find_key(builder, choice, &key, &refusal)) /* it was found in the first pass */
        build_key(builder, choice, &key, &table);
    build_generated(builder, choice, &table);
    build_indexes(builder, choice, &key, &table);
    build_sizes(builder, relation, &table);
    *ret_table = table;
}
