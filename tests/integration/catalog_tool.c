/*
 * The catalog of a source, as JSON, for the tests:
 *
 *     catalog_tool CONFIG survey|load
 *     catalog_tool CONFIG watch TABLE…
 *
 * load is the strict form: its refusal is printed as {"error": {kind, message, hint}}, exit 1.
 * watch says which hash the source's definitions have for a mirror that has these tables of public.
 */
#include "base/buf.h"
#include "source/catalog.h"
#include "source/watch.h"

#include <stdio.h>

static struct buf json;

static void key(const char *name)
{
    char last = json.len ? json.data[json.len - 1] : '{';

    if (last != '{' && last != '[')
        buf_add_char(&json, ',');
    if (name != NULL) {
        buf_add_json(&json, name);
        buf_add_char(&json, ':');
    }
}

static void add_text(const char *name, const char *value)
{
    key(name);
    if (value != NULL)
        buf_add_json(&json, value);
    else
        buf_add(&json, "null");
}

static void add_int(const char *name, int64_t value)
{
    key(name);
    buf_printf(&json, "%lld", (long long) value);
}

static void add_bool(const char *name, bool value)
{
    key(name);
    buf_add(&json, value ? "true" : "false");
}

static void begin(const char *name, char bracket)
{
    key(name);
    buf_add_char(&json, bracket);
}

static void add_texts(const char *name, int count, const char *const *texts)
{
    begin(name, '[');
    for (int i = 0; i < count; i++)
        add_text(NULL, texts[i]);
    buf_add_char(&json, ']');
}

/* ---- tables ---- */

static void add_columns(const struct table *table)
{
    begin("columns", '{');
    for (int i = 0; i < table->ncolumns; i++) {
        const struct table_column *column = &table->columns[i];

        begin(column->name, '{');
        add_int("attnum", column->attnum);
        add_text("type", column->type);
        add_text("cast", column->cast_type);
        add_text("collation", column->collation);
        add_text("equality", column->equality);
        add_int("wire", column->wire);
        add_int("element", column->element_oid);
        add_int("mask", column->mask);
        add_bool("key", column->is_key);
        add_bool("toastable", column->is_toastable);
        add_bool("nan", column->is_nan_capable);
        buf_add_char(&json, '}');
    }
    buf_add_char(&json, '}');
}

static void add_parts(const struct table *table)
{
    begin("keys", '[');
    for (int i = 0; i < table->nkeys; i++)
        add_text(NULL, table->columns[table->keys[i]].name);
    buf_add_char(&json, ']');
    begin("generated", '{');
    for (int i = 0; i < table->ngenerated; i++) {
        begin(table->generated[i].name, '[');
        add_int(NULL, table->generated[i].attnum);
        add_text(NULL, table->generated[i].type);
        add_text(NULL, table->generated[i].collation);
        add_text(NULL, table->generated[i].expression);
        buf_add_char(&json, ']');
    }
    buf_add_char(&json, '}');
    add_texts("excluded", table->nexcluded, table->excluded);
    begin("indexes", '{');
    for (int i = 0; i < table->nindexes; i++)
        add_text(table->indexes[i].name, table->indexes[i].definition);
    buf_add_char(&json, '}');
    begin("leaves", '[');
    for (int i = 0; i < table->nleaves; i++) {
        begin(NULL, '[');
        add_text(NULL, table->leaves[i].schema);
        add_text(NULL, table->leaves[i].name);
        buf_add_char(&json, ']');
    }
    buf_add_char(&json, ']');
}

static void add_table(const struct table *table, const struct table_list *list)
{
    begin(table->label, '{');
    add_int("index", table->index);
    add_bool("found", table_list_find(list, table->schema, table->name) == table);
    add_text("mirror_schema", table->mirror_schema);
    add_text("mirror_name", table->mirror_name);
    add_text("view_schema", table->view_schema);
    add_text("view_name", table->view_name);
    add_int("relid", table->relid);
    add_bool("partitioned", table->is_partitioned);
    add_text("identity", (char[]){table->identity, '\0'});
    add_int("rows", table->estimated_rows);
    add_int("bytes", table->estimated_bytes);
    add_int("pages", table->relpages);
    add_bool("bytewise", table->is_key_bytewise);
    add_int("deletes", table->deletes);
    add_int("truncate", table->truncate);
    add_int("purge_after", table->purge_after_us);
    add_columns(table);
    add_parts(table);
    buf_add_char(&json, '}');
}

/* ---- the rest ---- */

static void add_types(const struct catalog *catalog)
{
    begin("types", '[');
    for (int i = 0; i < catalog->ntypes; i++)
        add_text(NULL, catalog->types[i].create_sql);
    buf_add_char(&json, ']');
    begin("extensions", '{');
    for (int i = 0; i < catalog->nextensions; i++) {
        begin(catalog->extensions[i].name, '[');
        add_text(NULL, catalog->extensions[i].schema);
        add_bool(NULL, catalog->extensions[i].is_required);
        add_text(NULL, catalog->extensions[i].needed_by);
        buf_add_char(&json, ']');
    }
    buf_add_char(&json, '}');
    begin("collations", '[');
    for (int i = 0; i < catalog->ncollations; i++)
        add_text(NULL, catalog->collations[i].create_sql ? catalog->collations[i].create_sql
                                                         : catalog->collations[i].name);
    buf_add_char(&json, ']');
    add_texts("schemas", catalog->nschemas, catalog->schemas);
    begin("views", '[');
    for (int i = 0; i < catalog->nviews; i++)
        add_text(NULL, catalog->views[i].name);
    buf_add_char(&json, ']');
    begin("findings", '[');
    for (int i = 0; i < catalog->findings.count; i++) {
        const struct finding *finding = &catalog->findings.items[i];

        begin(NULL, '{');
        add_text("name", finding->name);
        add_text("level", finding_level_name(finding->level));
        add_text("what", finding->what);
        add_text("why", finding->why);
        add_text("remedy", finding->remedy);
        buf_add_char(&json, '}');
    }
    buf_add_char(&json, ']');
}

static void add_catalog(const struct catalog *catalog)
{
    begin("tables", '{');
    for (int i = 0; i < catalog->tables.count; i++)
        add_table(&catalog->tables.tables[i], &catalog->tables);
    buf_add_char(&json, '}');
    add_types(catalog);
}

/* ---- the watch ---- */

static void add_known(struct config *config, int count, char **names, struct arena *arena)
{
    struct config_known *known = arena_new(arena, struct config_known, count + 1);

    for (int i = 0; i < count; i++)
        known[i] = (struct config_known){.schema = "public", .name = names[i]};
    config->is_known = true;
    config->nknown = count;
    config->known = known;
}

static bool watch(const char *file, int count, char **names, struct arena *arena, struct error *err)
{
    struct config config;
    struct catalog catalog;
    _cleanup_pg_ struct pg *pg = NULL;
    uint64_t hash;

    if (!config_load(file, arena, &config, err) ||
        !pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                         .conninfo = config.source.conninfo,
                                         .application = "catalog_tool"},
                    &pg, err))
        return false;
    add_known(&config, count, names, arena);
    if (!catalog_load(pg, &config, arena, &catalog, err) ||
        !watch_hash(pg, &config, &catalog.tables, &hash, err))
        return false;
    add_int("hash", (int64_t) hash);
    return true;
}

static bool run(const char *file, bool is_strict, struct arena *arena, struct error *err)
{
    struct config config;
    struct catalog catalog;
    _cleanup_pg_ struct pg *pg = NULL;

    if (!config_load(file, arena, &config, err) ||
        !pg_connect(&(struct pg_options){.side = PG_SOURCE,
                                         .conninfo = config.source.conninfo,
                                         .application = "catalog_tool"},
                    &pg, err) ||
        !(is_strict ? catalog_load : catalog_survey)(pg, &config, arena, &catalog, err))
        return false;
    add_catalog(&catalog);
    return true;
}

int main(int argc, char **argv)
{
    struct arena arena = {0};
    struct error err = {0};
    bool done;

    if (argc < 3)
        return 2;
    buf_add_char(&json, '{');
    done = strcmp(argv[2], "watch") == 0 ? watch(argv[1], argc - 3, argv + 3, &arena, &err)
                                         : run(argv[1], strcmp(argv[2], "load") == 0, &arena, &err);
    if (!done) {
        begin("error", '{');
        add_text("kind", error_kind_name(err.kind));
        add_text("message", err.message);
        add_text("hint", err.hint);
        buf_add_char(&json, '}');
    }
    buf_add_char(&json, '}');
    puts(buf_text(&json));
    buf_release(&json);
    arena_release(&arena);
    return done ? 0 : 1;
}
