/* The pure parts of the source's catalog: which relations, which key, what becomes of a type. */
#include "source/catalog_choice.h"
#include "source/catalog_key.h"
#include "source/catalog_types.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define COUNT(array) (int) (sizeof(array) / sizeof((array)[0]))

static struct arena arena;

static int reset(void **state)
{
    (void) state;
    arena_release(&arena);
    return 0;
}

/* ---- choice ---- */

static struct source_relation relations[] = {
    {.oid = 1, .schema = "public", .name = "a", .label = "public.a", .kind = 'r'},
    {.oid = 2,
     .schema = "public",
     .name = "a_1",
     .label = "public.a_1",
     .kind = 'r',
     .is_partition = true},
    {.oid = 3, .schema = "public", .name = "orders", .label = "public.orders", .kind = 'p'},
    {.oid = 4, .schema = "public", .name = "v", .label = "public.v", .kind = 'v'},
    {.oid = 5, .schema = "sales", .name = "a", .label = "sales.a", .kind = 'r'},
    {.oid = 6, .schema = "sales", .name = "u", .label = "sales.u", .kind = 'r', .persistence = 'u'},
};

/* The chosen labels, in one text; findings go to the list. */
static const char *choose(const char *tables, struct finding_list *findings,
                          struct choice_list *ret_choices)
{
    const char *text = arena_printf(&arena,
                                    "source: {conninfo: dbname=s}\n"
                                    "mirror: {conninfo: dbname=m}\ntables: %s\n",
                                    tables);
    struct source_catalog source = {
        .arena = &arena, .nrelations = COUNT(relations), .relations = relations};
    struct error err = {0};
    struct config config;
    const char *labels = "";

    *findings = (struct finding_list){.arena = &arena};
    if (!config_parse("t.yaml", text, strlen(text), &arena, &config, &err))
        fail_msg("%s", err.message);
    catalog_choice_make(&config, &source, findings, ret_choices);
    for (int i = 0; i < ret_choices->count; i++)
        labels = arena_printf(&arena, "%s%s%s", labels, i ? " " : "",
                              ret_choices->items[i].relation->label);
    return labels;
}

static void assert_chosen(const char *tables, const char *expected, const char *finding,
                          enum finding_level level)
{
    struct finding_list findings;
    struct choice_list choices;

    assert_string_equal(choose(tables, &findings, &choices), expected);
    if (finding == NULL) {
        assert_int_equal(findings.count, 0);
        return;
    }
    assert_int_equal(findings.count, 1);
    assert_string_equal(findings.items[0].name, finding);
    assert_int_equal(findings.items[0].level, level);
}

static void chooses(void **state)
{
    (void) state;
    assert_chosen("[public.*]", "public.a public.orders", NULL, 0);
    assert_chosen("['*.a', '!sales.*']", "public.a", NULL, 0);
    assert_chosen("['*.a', '!sales.*', sales.a]", "public.a sales.a", NULL, 0);
    assert_chosen("[sales.*]", "sales.a", "table_kind", FINDING_WARNING);
    assert_chosen("[sales.a, sales.u]", "sales.a", "table_kind", FINDING_ERROR);
    assert_chosen("[public.v]", "", "table_kind", FINDING_ERROR);
    assert_chosen("[public.a_1]", "", "table_kind", FINDING_ERROR);
    assert_chosen("[public.ordes]", "", "table_missing", FINDING_ERROR);
    assert_chosen("[public.a, 'x*.y']", "public.a", "table_pattern", FINDING_WARNING);
    assert_chosen("[public.a, '!public.b']", "public.a", "table_pattern", FINDING_WARNING);
}

static void names_the_nearest(void **state)
{
    struct finding_list findings;
    struct choice_list choices;

    (void) state;
    choose("[public.ordes]", &findings, &choices);
    assert_non_null(strstr(findings.items[0].what, "t.yaml:3:10: "));
    assert_string_equal(findings.items[0].remedy, "did you mean public.orders?");
    choose("[salse.orders]", &findings, &choices);
    assert_string_equal(findings.items[0].remedy, "did you mean public.orders?");
}

static void later_policies_win(void **state)
{
    struct finding_list findings;
    struct choice_list choices;
    const struct choice *a;

    (void) state;
    choose("[{name: public.*, deletes: ignore, purge_after: 1d, mask: {x: hash}}, "
           "{name: public.a, purge_after: 2d}]",
           &findings, &choices);
    a = &choices.items[0];
    assert_true(a->is_named);
    assert_int_equal(a->deletes, DELETES_IGNORE);
    assert_int_equal(a->purge_after_us, INT64_C(172800000000));
    assert_non_null(a->mask);
    assert_int_equal(choices.items[1].purge_after_us, INT64_C(86400000000));
    assert_false(choices.items[1].is_named);
}

/* ---- key ---- */

static struct source_column columns[] = {
    {.name = "id", .attnum = 1, .is_not_null = true},
    {.name = "b", .attnum = 3, .is_not_null = true},
    {.name = "c", .attnum = 4},
};

static int id_only[] = {1}, b_and_id[] = {3, 1}, c_only[] = {4};

/* The table of the tests: a primary key over id, a unique index over (b, id), both usable. */
static struct source_relation make_table(struct source_index indexes[2])
{
    indexes[0] = (struct source_index){.name = "t_pkey",
                                       .is_primary = true,
                                       .is_unique = true,
                                       .is_immediate = true,
                                       .is_valid = true,
                                       .nkeys = 1,
                                       .nattnums = 1,
                                       .attnums = id_only};
    indexes[1] = (struct source_index){.name = "t_b",
                                       .is_unique = true,
                                       .is_immediate = true,
                                       .is_valid = true,
                                       .nkeys = 2,
                                       .nattnums = 2,
                                       .attnums = b_and_id};
    return (struct source_relation){.schema = "public",
                                    .name = "t",
                                    .label = "public.t",
                                    .kind = 'r',
                                    .identity = 'd',
                                    .ncolumns = COUNT(columns),
                                    .columns = columns,
                                    .nindexes = 2,
                                    .indexes = indexes};
}

static void assert_key(const struct source_relation *table, const struct source_index *expected,
                       int nasked, const char *const *asked)
{
    struct catalog_refusal refusal = {.why = ""};
    struct catalog_key key = {0};

    if (!catalog_key_find(table, nasked, asked, &arena, &key, &refusal))
        fail_msg("refused: %s", refusal.why);
    assert_ptr_equal(key.index, expected);
    assert_int_equal(key.count, expected->nkeys);
}

static void assert_refused(const struct source_relation *table, const char *why, const char *remedy)
{
    struct catalog_refusal refusal = {.why = ""};
    struct catalog_key key;

    assert_false(catalog_key_find(table, 0, NULL, &arena, &key, &refusal));
    if (strstr(refusal.why, why) == NULL || strstr(refusal.remedy, remedy) == NULL)
        fail_msg("%s / %s", refusal.why, refusal.remedy);
}

static void finds_the_identity(void **state)
{
    struct source_index indexes[2];
    struct source_relation table = make_table(indexes);

    (void) state;
    assert_key(&table, &indexes[0], 0, NULL);
    table.identity = 'f';
    assert_key(&table, &indexes[0], 0, NULL);
    table.identity = 'i';
    assert_refused(&table, "dropped", "REPLICA IDENTITY DEFAULT");
    indexes[1].is_identity = true;
    assert_key(&table, &indexes[1], 0, NULL);
    table.identity = 'n';
    assert_refused(&table, "NOTHING", "REPLICA IDENTITY DEFAULT");
}

static void refuses_what_cannot_tell_rows_apart(void **state)
{
    struct source_index indexes[2];
    struct source_relation table = make_table(indexes);

    (void) state;
    indexes[0].is_immediate = false;
    assert_refused(&table, "deferrable", "USING INDEX \"t_b\"");
    table.identity = 'f';
    assert_refused(&table, "FULL", "key: [b, id]");
    indexes[1].is_partial = true;
    assert_refused(&table, "FULL", "CREATE UNIQUE INDEX");
    table.identity = 'd';
    assert_refused(&table, "deferrable", "CREATE UNIQUE INDEX \"t_identity\"");
    table = make_table(indexes);
    indexes[0].is_valid = false;
    assert_refused(&table, "not valid", "REINDEX");
    indexes[0].is_primary = false;
    indexes[1].attnums = c_only; /* may be null */
    indexes[1].nkeys = 1;
    assert_refused(&table, "no primary key", "ADD PRIMARY KEY");
}

static void takes_the_configured_key_of_full(void **state)
{
    static const char *const asked[] = {"id", "b"};
    struct source_index indexes[2];
    struct source_relation table = make_table(indexes);
    struct catalog_refusal refusal;
    struct catalog_key key;

    (void) state;
    table.identity = 'f';
    indexes[0].is_immediate = false;
    assert_key(&table, &indexes[1], 2, asked);
    assert_false(catalog_key_find(&table, 1, asked, &arena, &key, &refusal));
    assert_non_null(strstr(refusal.remedy, "key: [b, id]"));
    /* Elsewhere it must not contradict. */
    table = make_table(indexes);
    assert_key(&table, &indexes[0], 1, asked);
    assert_false(catalog_key_find(&table, 2, asked, &arena, &key, &refusal));
}

static void looks_at_every_leaf(void **state)
{
    struct source_index indexes[2];
    struct source_relation table = make_table(indexes);
    struct source_leaf leaf = {.schema = "p",
                               .name = "l",
                               .kind = 'r',
                               .persistence = 'p',
                               .identity = 'd',
                               .primary_columns = "2:id",
                               .identity_columns = ""};

    (void) state;
    table.kind = 'p';
    table.leaves = &leaf;
    table.nleaves = 1;
    assert_key(&table, &indexes[0], 0, NULL);
    leaf.identity = 'f';
    assert_key(&table, &indexes[0], 0, NULL);
    leaf.identity = 'i';
    assert_refused(&table, "\"p\".\"l\"", "ALTER TABLE \"p\".\"l\" REPLICA IDENTITY DEFAULT");
    leaf.identity_columns = "2:id";
    assert_key(&table, &indexes[0], 0, NULL);
    leaf.identity = 'n';
    leaf.primary_columns = "";
    assert_refused(&table, "\"p\".\"l\"", "REPLICA IDENTITY FULL");
    leaf.kind = 'f';
    assert_refused(&table, "foreign", "");
    leaf.kind = 'r';
    leaf.persistence = 'u';
    assert_refused(&table, "unlogged", "SET LOGGED");
}

static void compares_sets_of_names(void **state)
{
    static const char *const ab[] = {"a", "b"}, *const ba[] = {"b", "a"}, *const one[] = {"a1:b"};

    (void) state;
    assert_string_equal(catalog_source_names(&arena, 2, ab), catalog_source_names(&arena, 2, ba));
    assert_string_not_equal(catalog_source_names(&arena, 2, ab),
                            catalog_source_names(&arena, 1, one));
}

/* ---- types ---- */

enum { ENUM = 100, ENUMS, DOMAIN, DOMAINS, LIST, LISTS, ADDR, SPAN, SPANS, ROW, BASE, EXT, EXTS };

/* Sorted by oid. */
static struct source_type items[] = {
    {.oid = 23,
     .schema = "pg_catalog",
     .name = "int4",
     .kind = 'b',
     .array = 1007,
     .delimiter = ','},
    {.oid = 25,
     .schema = "pg_catalog",
     .name = "text",
     .kind = 'b',
     .array = 1009,
     .delimiter = ',',
     .collation = 100},
    {.oid = 600,
     .schema = "pg_catalog",
     .name = "point",
     .kind = 'b',
     .element = 23,
     .array = 1017,
     .delimiter = ','},
    {.oid = 1007, .schema = "pg_catalog", .name = "_int4", .kind = 'b', .element = 23},
    {.oid = 1009, .schema = "pg_catalog", .name = "_text", .kind = 'b', .element = 25},
    {.oid = 2205, .schema = "pg_catalog", .name = "regclass", .kind = 'b', .array = 2210},
};

static struct source_type users[] = {
    {.oid = ENUM,
     .schema = "public",
     .name = "mood",
     .kind = 'e',
     .array = ENUMS,
     .delimiter = ','},
    {.oid = ENUMS, .schema = "public", .name = "_mood", .kind = 'b', .element = ENUM},
    {.oid = DOMAIN,
     .schema = "public",
     .name = "dom",
     .kind = 'd',
     .base = ENUM,
     .base_typmod = -1,
     .array = DOMAINS},
    {.oid = DOMAINS, .schema = "public", .name = "_dom", .kind = 'b', .element = DOMAIN},
    {.oid = LIST,
     .schema = "public",
     .name = "list",
     .kind = 'd',
     .base = 1007,
     .base_typmod = -1,
     .array = LISTS},
    {.oid = LISTS, .schema = "public", .name = "_list", .kind = 'b', .element = LIST},
    {.oid = ADDR, .schema = "public", .name = "addr", .kind = 'c', .relkind = 'c', .array = 1},
    {.oid = SPAN,
     .schema = "S",
     .name = "span",
     .kind = 'r',
     .subtype = DOMAIN,
     .multirange = SPANS,
     .array = 1,
     .delimiter = ','},
    {.oid = SPANS,
     .schema = "S",
     .name = "spans",
     .kind = 'm',
     .range = SPAN,
     .array = 1,
     .delimiter = ','},
    {.oid = ROW, .schema = "public", .name = "t", .kind = 'c', .relkind = 'r', .array = 1},
    {.oid = BASE, .schema = "public", .name = "weird", .kind = 'b', .array = 1},
    {.oid = EXT,
     .schema = "ext",
     .name = "citext",
     .kind = 'b',
     .array = EXTS,
     .extension = 9,
     .delimiter = ';'},
    {.oid = EXTS, .schema = "ext", .name = "_citext", .kind = 'b', .element = EXT},
};

static struct source_attribute attributes[] = {{.name = "m", .type = DOMAINS, .typmod = -1},
                                               {.name = "i", .type = 23, .typmod = -1}};
static const char *labels[] = {"sad", "it's"};

static struct catalog_types make_types(void)
{
    struct catalog_types types = {.arena = &arena, .view_schema = "live_{schema}"};
    const int split = 2; /* 23 and 25 come before 100 */

    types.count = COUNT(items) + COUNT(users);
    types.items = arena_new(&arena, struct source_type, types.count);
    memcpy(types.items, items, sizeof(items[0]) * (size_t) split);
    memcpy(types.items + split, users, sizeof(users));
    memcpy(types.items + split + COUNT(users), items + split,
           sizeof(items[0]) * (size_t) (COUNT(items) - split));
    for (int i = 0; i < types.count; i++) {
        if (types.items[i].oid == ENUM) {
            types.items[i].nlabels = COUNT(labels);
            types.items[i].labels = labels;
        } else if (types.items[i].oid == ADDR) {
            types.items[i].nattributes = COUNT(attributes);
            types.items[i].attributes = attributes;
        }
    }
    types.names = arena_new(&arena, struct type_name, 2);
    types.names[0] = (struct type_name){23, -1, "integer"};
    types.names[1] = (struct type_name){1007, -1, "integer[]"};
    types.nnames = 2;
    return types;
}

static void assert_resolved(const struct catalog_types *types, uint32_t oid, uint32_t expected,
                            bool is_text)
{
    struct resolved_type resolved = catalog_types_resolve(types, oid, -1);

    assert_int_equal(resolved.oid, expected);
    assert_int_equal(resolved.is_text, is_text);
}

static void resolves_types(void **state)
{
    struct catalog_types types = make_types();

    (void) state;
    assert_resolved(&types, 23, 23, false);
    assert_resolved(&types, DOMAIN, ENUM, false);
    assert_resolved(&types, DOMAINS, ENUMS, false);
    assert_resolved(&types, LIST, 1007, false);
    assert_resolved(&types, LISTS, 1009, true);
    assert_resolved(&types, ADDR, ADDR, false);
    assert_resolved(&types, SPANS, SPANS, false);
    assert_resolved(&types, EXTS, EXTS, false);
    assert_resolved(&types, 2205, 25, true);
    assert_resolved(&types, ROW, 25, true);
    assert_resolved(&types, BASE, 25, true);
    assert_resolved(&types, 4711, 25, true); /* dropped meanwhile */
    assert_null(catalog_types_resolve(&types, 2205, -1).why);
    assert_non_null(catalog_types_resolve(&types, ROW, -1).why);
    assert_int_equal(catalog_types_extension(&types, EXTS), 9);
}

static void says_how_values_travel(void **state)
{
    struct catalog_types types = make_types();

    (void) state;
    assert_int_equal(catalog_types_wire(&types, 23), WIRE_INT4);
    assert_int_equal(catalog_types_wire(&types, 600), WIRE_CAST);
    assert_int_equal(catalog_types_wire(&types, 1007), WIRE_CAST);
    assert_int_equal(catalog_types_wire(&types, ADDR), WIRE_CAST);
    assert_int_equal(catalog_types_wire(&types, ENUM), WIRE_TEXT);
    assert_int_equal(catalog_types_wire(&types, SPAN), WIRE_TEXT);
    assert_int_equal(catalog_types_wire(&types, EXT), WIRE_CAST); /* its delimiter */
}

static void creates_parts_first(void **state)
{
    struct catalog_types types = make_types();
    struct catalog catalog = {.types = arena_new(&arena, struct catalog_type, types.count)};

    (void) state;
    catalog_types_create(&types, ADDR, &catalog);
    catalog_types_create(&types, SPANS, &catalog);
    catalog_types_create(&types, ENUMS, &catalog);
    catalog_types_create(&types, EXTS, &catalog);
    catalog_types_create(&types, 1007, &catalog);
    assert_int_equal(catalog.ntypes, 3);
    assert_string_equal(catalog.types[0].create_sql,
                        "CREATE TYPE \"live_public\".\"mood\" AS ENUM ('sad', 'it''s')");
    assert_string_equal(catalog.types[1].create_sql,
                        "CREATE TYPE \"live_public\".\"addr\" AS (\"m\" "
                        "\"live_public\".\"mood\"[], \"i\" integer)");
    assert_string_equal(catalog.types[2].create_sql,
                        "CREATE TYPE \"live_S\".\"span\" AS RANGE (SUBTYPE = "
                        "\"live_public\".\"mood\", MULTIRANGE_TYPE_NAME = \"live_S\".\"spans\")");
    assert_string_equal(catalog.types[2].source_schema, "S");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(chooses, reset),
        cmocka_unit_test_teardown(names_the_nearest, reset),
        cmocka_unit_test_teardown(later_policies_win, reset),
        cmocka_unit_test_teardown(finds_the_identity, reset),
        cmocka_unit_test_teardown(refuses_what_cannot_tell_rows_apart, reset),
        cmocka_unit_test_teardown(takes_the_configured_key_of_full, reset),
        cmocka_unit_test_teardown(looks_at_every_leaf, reset),
        cmocka_unit_test_teardown(compares_sets_of_names, reset),
        cmocka_unit_test_teardown(resolves_types, reset),
        cmocka_unit_test_teardown(says_how_values_travel, reset),
        cmocka_unit_test_teardown(creates_parts_first, reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
