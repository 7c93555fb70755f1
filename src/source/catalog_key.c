/* The rule of the header, and for every way of missing it the statement that mends it. */
#include "source/catalog_key.h"

#include "base/buf.h"
#include "pg/pg.h"

static bool is_usable(const struct source_relation *relation, const struct source_index *index)
{
    if (!index->is_valid || !index->is_unique || !index->is_immediate || index->is_partial ||
        index->has_expressions)
        return false;
    for (int i = 0; i < index->nkeys; i++) {
        const struct source_column *column = catalog_source_column(relation, index->attnums[i]);

        if (column == NULL || !column->is_not_null)
            return false;
    }
    return true;
}

static const struct source_index *find_primary(const struct source_relation *relation)
{
    for (int i = 0; i < relation->nindexes; i++) {
        if (relation->indexes[i].is_primary)
            return &relation->indexes[i];
    }
    return NULL;
}

static const struct source_index *find_identity(const struct source_relation *relation)
{
    for (int i = 0; i < relation->nindexes; i++) {
        if (relation->indexes[i].is_identity)
            return &relation->indexes[i];
    }
    return NULL;
}

/* Any index that could be the identity. */
static const struct source_index *find_candidate(const struct source_relation *relation)
{
    for (int i = 0; i < relation->nindexes; i++) {
        if (is_usable(relation, &relation->indexes[i]))
            return &relation->indexes[i];
    }
    return NULL;
}

/* The columns' set as catalog_source_names() writes it. */
static const char *index_names(const struct source_relation *relation,
                               const struct source_index *index, struct arena *arena)
{
    const char **names = arena_new(arena, const char *, index->nkeys);

    for (int i = 0; i < index->nkeys; i++) {
        const struct source_column *column = catalog_source_column(relation, index->attnums[i]);

        names[i] = column ? column->name : "";
    }
    return catalog_source_names(arena, index->nkeys, names);
}

static const char *qualified(const char *schema, const char *name, struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_qualified(&text, schema, name);
    return arena_strdup(arena, buf_text(&text));
}

static const char *quoted(const char *name, struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_ident(&text, name);
    return arena_strdup(arena, buf_text(&text));
}

/* "a, b" of an index, quoted for SQL or as they are for the configuration. */
static const char *column_list(const struct source_relation *relation,
                               const struct source_index *index, bool is_quoted,
                               struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};

    for (int i = 0; i < index->nkeys; i++) {
        const struct source_column *column = catalog_source_column(relation, index->attnums[i]);
        const char *name = column ? column->name : "";

        buf_printf(&text, "%s%s", i ? ", " : "", is_quoted ? quoted(name, arena) : name);
    }
    return arena_strdup(arena, buf_text(&text));
}

/* ---- refusals ---- */

/* What gives the table an identity: an index it has, or a primary key it gets. */
static const char *identity_remedy(const struct source_relation *relation, struct arena *arena)
{
    const char *table = qualified(relation->schema, relation->name, arena);
    const struct source_index *primary = find_primary(relation);
    const struct source_index *candidate = find_candidate(relation);

    if (primary != NULL && is_usable(relation, primary))
        return arena_printf(arena, "ALTER TABLE %s REPLICA IDENTITY DEFAULT;", table);
    if (candidate != NULL)
        return arena_printf(arena, "ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;", table,
                            quoted(candidate->name, arena));
    if (primary != NULL) {
        const char *name = quoted(arena_printf(arena, "%.40s_identity", relation->name), arena);

        return arena_printf(arena,
                            "CREATE UNIQUE INDEX %s ON %s (%s); ALTER TABLE %s REPLICA IDENTITY "
                            "USING INDEX %s;",
                            name, table, column_list(relation, primary, true, arena), table, name);
    }
    return arena_printf(arena,
                        "ALTER TABLE %s ADD PRIMARY KEY (…);  or CREATE UNIQUE INDEX over NOT NULL "
                        "columns and ALTER TABLE %s REPLICA IDENTITY USING INDEX …;",
                        table, table);
}

static bool refuse(struct catalog_refusal *ret_refusal, const char *why, const char *remedy)
{
    *ret_refusal = (struct catalog_refusal){.why = why, .remedy = remedy};
    return false;
}

static bool accept(const struct source_index *index, struct catalog_key *ret_key)
{
    *ret_key = (struct catalog_key){
        .index = index, .count = index->nkeys, .attnums = index->attnums};
    return true;
}

/* ---- the rule, by kind of identity ---- */

static bool find_default(const struct source_relation *relation, struct arena *arena,
                         struct catalog_key *ret_key, struct catalog_refusal *ret_refusal)
{
    const struct source_index *primary = find_primary(relation);

    if (primary == NULL)
        return refuse(ret_refusal,
                      "it has no primary key, so its updates and deletes cannot be "
                      "told apart",
                      identity_remedy(relation, arena));
    if (!primary->is_immediate)
        return refuse(ret_refusal,
                      "its primary key is deferrable, and PostgreSQL sends no old keys "
                      "for such a one",
                      identity_remedy(relation, arena));
    if (!primary->is_unique)
        return refuse(ret_refusal, "its primary key is WITHOUT OVERLAPS, which is no equality",
                      identity_remedy(relation, arena));
    if (!is_usable(relation, primary))
        return refuse(ret_refusal, "the index of its primary key is not valid",
                      arena_printf(arena, "REINDEX INDEX %s;",
                                   qualified(relation->schema, primary->name, arena)));
    return accept(primary, ret_key);
}

static bool find_index(const struct source_relation *relation, struct arena *arena,
                       struct catalog_key *ret_key, struct catalog_refusal *ret_refusal)
{
    const struct source_index *identity = find_identity(relation);

    if (identity == NULL)
        return refuse(ret_refusal, "the index that was its replica identity has been dropped",
                      identity_remedy(relation, arena));
    if (!is_usable(relation, identity))
        return refuse(ret_refusal, "the index that is its replica identity is not valid",
                      arena_printf(arena, "REINDEX INDEX %s;",
                                   qualified(relation->schema, identity->name, arena)));
    return accept(identity, ret_key);
}

static bool find_full(const struct source_relation *relation, int nasked, const char *const *asked,
                      struct arena *arena, struct catalog_key *ret_key,
                      struct catalog_refusal *ret_refusal)
{
    const struct source_index *primary = find_primary(relation);
    const struct source_index *candidate = find_candidate(relation);
    const char *wanted = catalog_source_names(arena, nasked, asked);

    if (primary != NULL && is_usable(relation, primary))
        return accept(primary, ret_key);
    for (int i = 0; nasked > 0 && i < relation->nindexes; i++) {
        const struct source_index *index = &relation->indexes[i];

        if (is_usable(relation, index) && strcmp(index_names(relation, index, arena), wanted) == 0)
            return accept(index, ret_key);
    }
    if (nasked > 0)
        return refuse(ret_refusal,
                      "the key in the configuration is not the columns of a unique "
                      "index over NOT NULL columns, immediate and without a predicate",
                      candidate ? arena_printf(arena, "say key: [%s]",
                                               column_list(relation, candidate, false, arena))
                                : identity_remedy(relation, arena));
    if (candidate != NULL)
        return refuse(
            ret_refusal, "its replica identity is FULL and it has no primary key",
            arena_printf(arena, "name its key in the configuration: {name: %s, key: [%s]}",
                         relation->label, column_list(relation, candidate, false, arena)));
    return refuse(ret_refusal,
                  "its replica identity is FULL, and it has neither a usable primary "
                  "key nor a unique index over NOT NULL columns",
                  identity_remedy(relation, arena));
}

/* ---- partitions: each writes WAL by its own identity ---- */

static const char *leaf_columns(const struct source_leaf *leaf)
{
    switch (leaf->identity) {
    case 'd':
        return leaf->primary_columns;
    case 'i':
        return leaf->identity_columns;
    default:
        return "";
    }
}

static bool check_leaves(const struct source_relation *relation, const struct catalog_key *key,
                         struct arena *arena, struct catalog_refusal *ret_refusal)
{
    const char *columns = index_names(relation, key->index, arena);

    for (int i = 0; i < relation->nleaves; i++) {
        const struct source_leaf *leaf = &relation->leaves[i];
        const char *name = qualified(leaf->schema, leaf->name, arena);

        if (leaf->kind != 'r')
            return refuse(ret_refusal,
                          arena_printf(arena,
                                       "its partition %s is a foreign table: its changes are "
                                       "not in this server's WAL",
                                       name),
                          "take it out of the configuration's tables");
        if (leaf->persistence != 'p')
            return refuse(ret_refusal, arena_printf(arena, "its partition %s is unlogged", name),
                          arena_printf(arena, "ALTER TABLE %s SET LOGGED;", name));
        if (leaf->identity == 'f' || strcmp(leaf_columns(leaf), columns) == 0)
            continue;
        return refuse(ret_refusal,
                      arena_printf(arena,
                                   "its partition %s has a replica identity of its own that is not "
                                   "the key",
                                   name),
                      strcmp(leaf->primary_columns, columns) == 0
                          ? arena_printf(arena, "ALTER TABLE %s REPLICA IDENTITY DEFAULT;", name)
                          : arena_printf(arena, "ALTER TABLE %s REPLICA IDENTITY FULL;", name));
    }
    return true;
}

/* A key in the configuration that is not the one that is used would mislead. */
static bool check_asked(const struct source_relation *relation, const struct catalog_key *key,
                        int nasked, const char *const *asked, struct arena *arena,
                        struct catalog_refusal *ret_refusal)
{
    if (nasked == 0 || strcmp(index_names(relation, key->index, arena),
                              catalog_source_names(arena, nasked, asked)) == 0)
        return true;
    return refuse(ret_refusal,
                  arena_printf(arena,
                               "the key in the configuration is not its replica identity, "
                               "which is (%s)",
                               column_list(relation, key->index, false, arena)),
                  "remove key from the configuration: it is for tables with REPLICA IDENTITY FULL "
                  "and no primary key");
}

bool catalog_key_find(const struct source_relation *relation, int nasked, const char *const *asked,
                      struct arena *arena, struct catalog_key *ret_key,
                      struct catalog_refusal *ret_refusal)
{
    struct catalog_key key;

    switch (relation->identity) {
    case 'd':
        if (!find_default(relation, arena, &key, ret_refusal))
            return false;
        break;
    case 'i':
        if (!find_index(relation, arena, &key, ret_refusal))
            return false;
        break;
    case 'f':
        if (!find_full(relation, nasked, asked, arena, &key, ret_refusal))
            return false;
        break;
    default:
        return refuse(ret_refusal,
                      "its replica identity is NOTHING: updates and deletes carry no "
                      "key",
                      identity_remedy(relation, arena));
    }
    if (!check_asked(relation, &key, nasked, asked, arena, ret_refusal) ||
        !check_leaves(relation, &key, arena, ret_refusal))
        return false;
    *ret_key = key;
    return true;
}
