/*
 * Both decoders over the same SQL: the same changes come out, and applying them gives what the
 * source's tables hold.
 */
#include "base/buf.h"
#include "base/memory.h"
#include "change_text.h"
#include "fixture.h"

#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct fixture pgoutput, wal2json, tables;

/* ---- lines of changes ---- */

struct lines {
    char **lines;
    int count;
};

static void lines_add(struct lines *lines, const char *text)
{
    lines->lines = memory_resize(lines->lines, ((size_t) lines->count + 1) * sizeof(char *));
    lines->lines[lines->count++] = memory_strdup(text);
}

static void lines_release(struct lines *lines)
{
    for (int i = 0; i < lines->count; i++)
        free(lines->lines[i]);
    free(lines->lines);
    *lines = (struct lines){0};
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* wal2json sends empty transactions, pgoutput none. */
static void drop_empty_transactions(struct lines *lines)
{
    int kept = 0;

    for (int i = 0; i < lines->count; i++) {
        if (kept > 0 && begins(lines->lines[i], "commit ") &&
            begins(lines->lines[kept - 1], "begin ")) {
            free(lines->lines[--kept]);
            free(lines->lines[i]);
        } else {
            lines->lines[kept++] = lines->lines[i];
        }
    }
    lines->count = kept;
}

static bool same_columns(const struct relation *relation, const struct value *values)
{
    /* After normalisation a change has every identity column. */
    for (int i = 0; i < relation->ncolumns; i++)
        if (relation->columns[i].is_identity && values[i].kind == VALUE_ABSENT)
            return false;
    return true;
}

static void check_form(const struct change *change)
{
    const struct relation *relation = change->relation;

    if (change->kind == CHANGE_INSERT) {
        assert_non_null(change->values);
        assert_null(change->old);
    } else if (change->kind == CHANGE_UPDATE) {
        assert_non_null(change->values);
        assert_true(same_columns(relation, change->values));
        assert_true(change->old == NULL || same_columns(relation, change->old));
    } else if (change->kind == CHANGE_DELETE) {
        assert_null(change->values);
        assert_non_null(change->old);
        assert_true(same_columns(relation, change->old));
    }
    if (relation != NULL)
        for (int i = 1; i < relation->ncolumns; i++)
            assert_true(relation->columns[i].attnum == 0 ||
                        relation->columns[i].attnum > relation->columns[i - 1].attnum);
}

/* A truncate is a line a table: pgoutput sends one message for all of them, wal2json one each. */
static void add_lines(struct lines *lines, const struct change *change, const char *but_for)
{
    _cleanup_buf_ struct buf buf = {0};
    struct change one = *change;
    int count = change->kind == CHANGE_TRUNCATE ? change->nrelations : 1;

    check_form(change);
    if (change->kind == CHANGE_NONE)
        return;
    for (int i = 0; i < count; i++) {
        one.relations = change->relations + i;
        one.nrelations = change->nrelations > 0;
        buf_clear(&buf);
        change_text(&buf, &one, but_for);
        lines_add(lines, buf_text(&buf));
    }
}

/* ---- a model of the mirror ---- */

#define MODEL_ROWS 4096

struct model {
    struct arena arena;
    struct fixture_table *tables;
    int count;
};

static struct fixture_table *model_table(struct model *model, const char *schema, const char *name)
{
    for (int i = 0; i < model->count; i++)
        if (strcmp(model->tables[i].schema, schema) == 0 &&
            strcmp(model->tables[i].name, name) == 0)
            return &model->tables[i];
    return NULL;
}

/* The model has the columns that the source's tables end with. */
static struct model model_start(const struct fixture_scenario *end,
                                const struct fixture_scenario *before)
{
    struct model model = {.count = end->ntables};

    model.tables = arena_new(&model.arena, struct fixture_table, end->ntables);
    for (int i = 0; i < end->ntables; i++) {
        struct fixture_table *table = &model.tables[i];

        *table = end->tables[i];
        table->nrows = 0;
        table->rows = arena_new(&model.arena, struct value *, MODEL_ROWS);
    }
    for (int i = 0; before != NULL && i < before->ntables; i++) {
        const struct fixture_table *was = &before->tables[i];
        struct fixture_table *table = model_table(&model, was->schema, was->name);

        for (int row = 0; row < was->nrows; row++)
            table->rows[table->nrows++] = arena_memdup(
                &model.arena, was->rows[row], sizeof(struct value) * (size_t) was->ncolumns);
    }
    return model;
}

static int column_of(const struct relation *relation, const char *name)
{
    for (int i = 0; i < relation->ncolumns; i++)
        if (strcmp(relation->columns[i].name, name) == 0)
            return i;
    return -1;
}

static bool same_value(const struct value *a, const struct value *b)
{
    return a->kind == b->kind &&
           (a->kind != VALUE_TEXT || (a->len == b->len && memcmp(a->data, b->data, a->len) == 0));
}

static void store(struct model *model, struct value *to, const struct value *from)
{
    *to = *from;
    if (from->kind == VALUE_TEXT)
        to->data = arena_memdup(&model->arena, from->data, from->len);
}

static int model_find(const struct fixture_table *table, const struct relation *relation,
                      const struct value *key)
{
    for (int row = 0; row < table->nrows; row++) {
        bool is_same = true;

        for (int i = 0; i < table->ncolumns && is_same; i++) {
            int at = column_of(relation, table->columns[i]);

            if (at >= 0 && relation->columns[at].is_identity)
                is_same = same_value(&table->rows[row][i], &key[at]);
        }
        if (is_same)
            return row;
    }
    return -1;
}

static void model_row(struct model *model, const struct change *change)
{
    const struct relation *relation = change->relation;
    struct fixture_table *table = model_table(model, relation->schema, relation->name);
    const struct value *key = change->old ? change->old : change->values;
    int row;

    if (table == NULL)
        return; /* gone at the end of the scenario */
    if (change->kind == CHANGE_INSERT) {
        row = table->nrows++;
        assert_true(row < MODEL_ROWS);
        table->rows[row] = arena_new(&model->arena, struct value, table->ncolumns);
        for (int i = 0; i < table->ncolumns; i++)
            table->rows[row][i].kind = VALUE_NULL;
    } else {
        row = model_find(table, relation, key);
        assert_true(row >= 0);
    }
    if (change->kind == CHANGE_DELETE) {
        table->rows[row] = table->rows[--table->nrows];
        return;
    }
    for (int i = 0; i < table->ncolumns; i++) {
        int at = column_of(relation, table->columns[i]);

        if (at >= 0 && change->values[at].kind != VALUE_ABSENT)
            store(model, &table->rows[row][i], &change->values[at]);
    }
}

static void model_apply(struct model *model, const struct change *change)
{
    if (change->kind == CHANGE_TRUNCATE) {
        for (int i = 0; i < change->nrelations; i++) {
            struct fixture_table *table = model_table(model, change->relations[i]->schema,
                                                      change->relations[i]->name);

            if (table != NULL)
                table->nrows = 0;
        }
    } else if (change->relation != NULL) {
        model_row(model, change);
    }
}

static int compare_rows(const void *a, const void *b, void *arg)
{
    const struct value *x = *(struct value *const *) a, *y = *(struct value *const *) b;

    for (int i = 0; i < *(int *) arg; i++) {
        int order;

        if (x[i].kind != y[i].kind)
            return (int) x[i].kind - (int) y[i].kind;
        if (x[i].kind != VALUE_TEXT)
            continue;
        if (x[i].len != y[i].len)
            return x[i].len < y[i].len ? -1 : 1;
        order = memcmp(x[i].data, y[i].data, x[i].len);
        if (order != 0)
            return order;
    }
    return 0;
}

static void model_equals(struct model *model, const struct fixture_scenario *end)
{
    for (int i = 0; i < end->ntables; i++) {
        struct fixture_table *have = &model->tables[i], *want = &end->tables[i];

        if (have->nrows != want->nrows)
            fail_msg("%s.%s has %d rows, not %d", want->schema, want->name, have->nrows,
                     want->nrows);
        if (want->nrows == 0)
            continue;
        qsort_r(have->rows, (size_t) have->nrows, sizeof(*have->rows), compare_rows,
                &have->ncolumns);
        qsort_r(want->rows, (size_t) want->nrows, sizeof(*want->rows), compare_rows,
                &want->ncolumns);
        for (int row = 0; row < want->nrows; row++)
            if (compare_rows(&have->rows[row], &want->rows[row], &want->ncolumns) != 0)
                fail_msg("row %d of %s.%s differs", row, want->schema, want->name);
    }
}

/* ---- the scenarios ---- */

/* What a scenario is exempt from, and why. */
static const struct exemption {
    const char *scenario;
    const char *but_for; /* a column that only one plugin sends */
    bool differs;        /* between the plugins */
    bool no_model;       /* the stream does not say all that happened */
} exemptions[] = {
    {"generated", .but_for = "g"},      /* P15 */
    {"nan", .differs = true},           /* P7: without numeric-data-types-as-string */
    {"message_bytes", .differs = true}, /* P66 */
    {"latin1", .differs = true},        /* P11 */
    {"partitions", .differs = true},    /* wal2json sends the truncate of the root as well */
    {"ddl", .no_model = true},          /* P55: ADD COLUMN DEFAULT */
    {"recreate", .no_model = true},     /* P59: DROP TABLE */
    {"streaming", .differs = true, .no_model = true}, /* captured for one plugin, to be refused */
    {"binary", .differs = true, .no_model = true},
};

static struct exemption exemption_of(const char *scenario)
{
    for (size_t i = 0; i < sizeof(exemptions) / sizeof(exemptions[0]); i++)
        if (strcmp(exemptions[i].scenario, scenario) == 0)
            return exemptions[i];
    return (struct exemption){0};
}

static void run(const struct decoder_ops *ops, const struct fixture_scenario *scenario,
                const char *but_for, struct model *model, struct lines *lines)
{
    struct decoder *decoder = ops->create(&fixture_config);
    struct arena scratch = {0};

    for (int i = 0; i < scenario->nmessages; i++) {
        const struct fixture_message *message = &scenario->messages[i];
        struct change change;
        struct error err;

        if (!ops->decode(decoder, bytes_of(message->data, message->len), &scratch, &change, &err))
            fail_msg("%s, %s, message %d: %s", ops->plugin, scenario->name, i, err.message);
        add_lines(lines, &change, but_for);
        if (model != NULL)
            model_apply(model, &change);
        arena_reset(&scratch);
    }
    arena_release(&scratch);
    ops->destroy(decoder);
    drop_empty_transactions(lines);
}

static void same_changes(void **state)
{
    (void) state;
    assert_true(pgoutput.nscenarios > 25);
    for (int i = 0; i < pgoutput.nscenarios; i++) {
        const struct fixture_scenario *one = &pgoutput.scenarios[i];
        const struct fixture_scenario *other = fixture_find(&wal2json, one->name);
        struct exemption exemption = exemption_of(one->name);
        struct lines first = {0}, second = {0};

        if (exemption.differs)
            continue;
        run(&decoder_pgoutput, one, exemption.but_for, NULL, &first);
        run(&decoder_wal2json, other, exemption.but_for, NULL, &second);
        for (int line = 0; line < first.count && line < second.count; line++)
            if (strcmp(first.lines[line], second.lines[line]) != 0)
                fail_msg("%s\npgoutput: %s\nwal2json: %s", one->name, first.lines[line],
                         second.lines[line]);
        if (first.count != second.count)
            fail_msg("%s: pgoutput gives %d changes, wal2json %d", one->name, first.count,
                     second.count);
        lines_release(&first);
        lines_release(&second);
    }
}

static void changes_lead_to_the_source(const struct decoder_ops *ops, const struct fixture *fixture,
                                       const char *but_for)
{
    for (int i = 0; i < fixture->nscenarios; i++) {
        const struct fixture_scenario *scenario = &fixture->scenarios[i];
        const struct fixture_scenario *end = fixture_find(&tables, scenario->name);
        struct lines lines = {0};
        struct model model;

        if (exemption_of(scenario->name).no_model ||
            (but_for != NULL && strstr(but_for, scenario->name)))
            continue;
        model = model_start(end, end->continues ? end - 1 : NULL);
        run(ops, scenario, NULL, &model, &lines);
        model_equals(&model, end);
        arena_release(&model.arena);
        lines_release(&lines);
    }
}

static void pgoutput_leads_to_the_source(void **state)
{
    (void) state;
    changes_lead_to_the_source(&decoder_pgoutput, &pgoutput, NULL);
}

static void wal2json_leads_to_the_source(void **state)
{
    (void) state;
    changes_lead_to_the_source(&decoder_wal2json, &wal2json, "nan latin1 message_bytes");
}

/* The row changes of some scenarios, by both plugins.  "*" in what is wanted stands for anything.
 */
static const struct {
    const char *scenario;
    const char *lines[16];
} expected[] = {
    {"toast", /* P1, P2, P3 */
     {"insert public.toast a='1' big='xxxx* id='1'", "insert public.toast a='1' big='yyyy* id='2'",
      "update public.toast a='2' id='1'", "update public.toast a='2' id='2'",
      "update public.toast a='2' id='10' was id='1'",
      "update public.toast a='2' big='zzzz* 2200 bytes* id='2'", "update public.toast a='3' id='2'",
      "update public.toast a='4' id='20' was id='2'", "update public.toast a='4' big=null id='20'",
      "update public.toast a='4' big='' id='20'", "delete public.toast was id='10'",
      "insert public.toast a='1' big='wwww* id='30'"}},
    {"toast_full", /* P5 */
     {"insert public.toast_full a='1' big='xxxx* id='1' late=null",
      "insert public.toast_full a='1' big='yyyy* id='2' late='l'",
      "update public.toast_full a='2' big='xxxx* id='1' late=null was a='1' big='xxxx* id='1' "
      "late=null",
      "update public.toast_full a='2' big='yyyy* id='2' late='l' was a='1' big='yyyy* id='2' "
      "late='l'",
      "update public.toast_full a='2' big='xxxx* id='10' late=null was a='2' big='xxxx* id='1' "
      "late=null",
      "update public.toast_full a='2' big='yyyy* id='2' late='l'",
      "update public.toast_full a='2' big='xxxx* id='10' late=null",
      "update public.toast_full a=null big='yyyy* id='2' late=null was a='2' big='yyyy* late='l'",
      "update public.toast_full a=null big='xxxx* late=null was a='2' big='xxxx* late=null",
      "delete public.toast_full was a=null big='yyyy* id='2' late=null"}},
    {"toast_key", /* P20 */
     {"insert public.toast_key a='1' id='kkkk* rest='rrrr* 2400 bytes*",
      "insert public.toast_key a='1' id='short' rest=null",
      "update public.toast_key a='2' id='kkkk* 2400 bytes*",
      "update public.toast_key a='2' id='short' rest=null",
      "update public.toast_key a='2' id='llll* 2400 bytes* was id='kkkk* 2400 bytes*",
      "update public.toast_key a='3' id='shorter' rest=null was id='short'",
      "delete public.toast_key was id='llll* 2400 bytes*"}},
    {"identity_index", /* P19 */
     {"insert public.by_index a='1' b='100' c='d'", "update public.by_index a='2' b='100' c='d'",
      "update public.by_index a='2' b='200' c='d' was b='100'",
      "update public.by_index a='2' b='200' c='e'", "insert public.by_index a='3' b='300' c='f'",
      "delete public.by_index was b='200'"}},
    {"identity_changes", /* default, index, full, default */
     {"insert public.changing b='10' c='a' id='1'", "insert public.changing b='20' c='b' id='2'",
      "update public.changing b='10' c='aa' id='1'",
      "update public.changing b='11' c='aaa' id='1' was b='10'",
      "update public.changing b='11' c=null id='1' was b='11' c='aaa' id='1'",
      "delete public.changing was b='11' c=null id='1'",
      "update public.changing b='20' c='b' id='3' was id='2'", "delete public.changing was id='3'",
      "insert public.changing b='40' c='d' id='4'"}},
    {"first_is_delete",
     {"delete public.first_delete was id='1'", "update public.first_delete a='b' id='2' z='22'",
      "insert public.first_delete a='d' id='4' z='4'", "delete public.first_delete was id='3'"}},
    {"first_is_hole",
     {"update public.toast a='2' id='30'", "update public.toast a='2' id='31' was id='30'",
      "update public.toast a='2' big='short' id='31'",
      "insert public.toast a='1' big=null id='40'"}},
    {"partitions", /* P60; then the truncates, which differ */
     {"insert public.parts_a id='1' k='a' v='1'", "insert public.parts_b id='2' k='b' v='2'",
      "update public.parts_a id='1' k='a' v='3'", "update public.parts_b id='2' k='b' v='3'",
      "delete public.parts_a was id='1' k='a'", "insert public.parts_b id='1' k='b' v='3'"}},
};

static void rows_are_as_expected(const struct decoder_ops *ops, const struct fixture *fixture)
{
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct fixture_scenario *scenario = fixture_find(fixture, expected[i].scenario);
        struct lines lines = {0};
        int next = 0;

        run(ops, scenario, NULL, NULL, &lines);
        for (int line = 0; line < lines.count && next < 16 && expected[i].lines[next]; line++) {
            if (begins(lines.lines[line], "begin ") || begins(lines.lines[line], "commit "))
                continue;
            if (fnmatch(expected[i].lines[next], lines.lines[line], FNM_NOESCAPE) != 0)
                fail_msg("%s, %s\nis:  %s\nnot: %s", ops->plugin, scenario->name, lines.lines[line],
                         expected[i].lines[next]);
            next++;
        }
        assert_true(next == 16 || expected[i].lines[next] == NULL);
        lines_release(&lines);
    }
}

static void pgoutput_rows(void **state)
{
    (void) state;
    rows_are_as_expected(&decoder_pgoutput, &pgoutput);
}

static void wal2json_rows(void **state)
{
    (void) state;
    rows_are_as_expected(&decoder_wal2json, &wal2json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_changes),
        cmocka_unit_test(pgoutput_rows),
        cmocka_unit_test(wal2json_rows),
        cmocka_unit_test(pgoutput_leads_to_the_source),
        cmocka_unit_test(wal2json_leads_to_the_source),
    };

    pgoutput = fixture_load("pgoutput.txt");
    wal2json = fixture_load("wal2json.txt");
    tables = fixture_load("tables.txt");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
