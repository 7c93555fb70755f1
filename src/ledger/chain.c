/*
 * What a derived table looks like to a fact is a struct table whose stored copy and live view are
 * the table itself; it has no row of tombstones, and the stream knows nothing of it.  Only columns
 * that its query gives are there: who keeps it sees no change of another one.
 */
#include "ledger/chain.h"

#include <string.h>

static bool is_same(const struct config_table_name *a, const struct config_table_name *b)
{
    return strcmp(a->schema, b->schema) == 0 && strcmp(a->name, b->name) == 0;
}

const struct config_fact *chain_source(const struct config *config,
                                       const struct config_table_name *name)
{
    for (int i = 0; i < config->nfacts; i++)
        if (config->facts[i].refresh.is_declared && is_same(&config->facts[i].refresh.into, name))
            return &config->facts[i];
    return NULL;
}

static bool reads(const struct config_fact *fact, const struct config_table_name *name)
{
    if (is_same(&fact->table, name))
        return true;
    for (int i = 0; i < fact->ndimensions; i++)
        if (is_same(&fact->dimensions[i].table, name))
            return true;
    return false;
}

bool chain_is_read(const struct config *config, const struct config_fact *fact)
{
    for (int i = 0; i < config->nfacts && fact->refresh.is_declared; i++)
        if (reads(&config->facts[i], &fact->refresh.into))
            return true;
    return false;
}

/* ---- levels ---- */

/* One above the highest of what it reads, as far as that is known. */
static int level_of(const struct config *config, const int *levels, int fact)
{
    int level = 0;

    for (int i = 0; i < config->nfacts; i++)
        if (config->facts[i].refresh.is_declared &&
            reads(&config->facts[fact], &config->facts[i].refresh.into) && levels[i] >= level)
            level = levels[i] + 1;
    return level;
}

static void refuse(const struct config *config, const struct config_fact *fact,
                   struct finding_list *findings)
{
    struct finding *finding = finding_add(findings, "fact", FINDING_ERROR,
                                          "%s:%d:%d: fact %s is derived from itself", config->file,
                                          fact->place.line, fact->place.column, fact->name);

    finding_why(findings, finding,
                "its table or a dimension is kept by a fact that reads, in the end, what this one "
                "keeps");
    finding_remedy(findings, finding, "let one of them read the mirrored tables instead");
}

/* Without a circle n rounds settle the levels of n facts; in one they grow for ever, and so do those
 * of facts that read from it. */
void chain_find_levels(const struct config *config, struct arena *arena,
                       struct finding_list *findings, struct chain *ret_chain)
{
    struct chain chain = {.levels = arena_new(arena, int, config->nfacts + 1)};

    for (int round = 0; round <= config->nfacts; round++)
        for (int i = 0; i < config->nfacts; i++)
            chain.levels[i] = level_of(config, chain.levels, i);
    for (int i = 0; i < config->nfacts; i++) {
        if (chain.levels[i] >= config->nfacts) {
            refuse(config, &config->facts[i], findings);
            chain.levels[i] = -1;
        } else if (chain.levels[i] > chain.top) {
            chain.top = chain.levels[i];
        }
    }
    *ret_chain = chain;
}

/* ---- tables ---- */

static const char columns_sql[] =
    "select a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, "
    "-1), "
    "(select format('COLLATE %I.%I', n.nspname, c.collname) from pg_collation c join pg_namespace "
    "n "
    "on n.oid = c.collnamespace where c.oid = a.attcollation and a.attcollation <> "
    "t.typcollation), "
    "coalesce((select format('OPERATOR(%I.=)', n.nspname) from pg_opclass c join pg_am m on m.oid "
    "= "
    "c.opcmethod and m.amname = 'btree' join pg_amop o on o.amopfamily = c.opcfamily and "
    "o.amopstrategy = 3 and o.amoplefttype = c.opcintype and o.amoprighttype = c.opcintype join "
    "pg_operator p on p.oid = o.amopopr join pg_namespace n on n.oid = p.oprnamespace where "
    "c.opcdefault and c.opcintype = a.atttypid and n.nspname <> 'pg_catalog'), '='), "
    "t.typtype = 'c' or t.typcategory = 'A', array_position(r.unique_columns, a.attname::text) "
    "from tailwater.refresh r join pg_attribute a on a.attrelid = to_regclass(format('%I.%I', "
    "r.into_schema, r.into_name)) and a.attname = any(r.columns) and a.attnum > 0 and not "
    "a.attisdropped join pg_type t on t.oid = a.atttypid "
    "where r.fact = $1 and r.into_schema = $2 and r.into_name = $3 order by a.attnum";

static void take_column(const struct pg_result *rows, int i, struct arena *arena,
                        struct table *table)
{
    table->columns[i] = (struct table_column){
        .name = arena_strdup(arena, pg_text(rows, i, 0)),
        .attnum = (int) pg_int(rows, i, 1),
        .type = arena_strdup(arena, pg_text(rows, i, 2)),
        .cast_type = arena_strdup(arena, pg_text(rows, i, 3)),
        .collation = pg_is_null(rows, i, 4) ? NULL : arena_strdup(arena, pg_text(rows, i, 4)),
        .equality = arena_strdup(arena, pg_text(rows, i, 5)),
        .wire = pg_bool(rows, i, 6) ? WIRE_CAST : WIRE_TEXT,
        .is_key = !pg_is_null(rows, i, 7)};
    if (table->columns[i].is_key) {
        table->keys[pg_int(rows, i, 7) - 1] = i;
        table->nkeys++;
    }
}

static bool read_table(struct pg *mirror, const struct config_fact *fact, struct arena *arena,
                       struct chain *chain, struct error *err)
{
    const struct config_table_name *into = &fact->refresh.into;
    const char *params[] = {fact->name, into->schema, into->name};
    struct table *table = &chain->derived.tables[chain->derived.count];
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror, columns_sql, 3, params, &rows, err))
        return error_wrap(err, "looking at %s.%s", into->schema, into->name);
    if (pg_rows(rows) == 0)
        return true;
    *table = (struct table){.index = -1,
                            .is_derived = true,
                            .schema = into->schema,
                            .name = into->name,
                            .mirror_schema = into->schema,
                            .mirror_name = into->name,
                            .view_schema = into->schema,
                            .view_name = into->name,
                            .label = arena_printf(arena, "%s.%s", into->schema, into->name),
                            .ncolumns = pg_rows(rows),
                            .columns = arena_new(arena, struct table_column, pg_rows(rows)),
                            .keys = arena_new(arena, int, pg_rows(rows))};
    for (int i = 0; i < pg_rows(rows); i++)
        take_column(rows, i, arena, table);
    chain->derived.count++;
    return true;
}

bool chain_read_tables(struct pg *mirror, const struct config *config, int level,
                       struct arena *arena, struct chain *chain, struct error *err)
{
    chain->derived = (struct table_list){
        .tables = arena_new(arena, struct table, config->nfacts + 1)};
    for (int i = 0; i < config->nfacts; i++)
        if (chain->levels[i] >= 0 && chain->levels[i] <= level &&
            chain_is_read(config, &config->facts[i]) &&
            !read_table(mirror, &config->facts[i], arena, chain, err))
            return false;
    return true;
}

const struct table *chain_find(const struct chain *chain, const struct config_table_name *name)
{
    for (int i = 0; i < chain->derived.count; i++)
        if (strcmp(chain->derived.tables[i].schema, name->schema) == 0 &&
            strcmp(chain->derived.tables[i].name, name->name) == 0)
            return &chain->derived.tables[i];
    return NULL;
}
