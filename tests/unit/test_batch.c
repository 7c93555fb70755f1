/*
 * Coalescing: single rules by their pitfall numbers, then random transactions against a model.
 *
 * The model is a table of a few keys.  A random history changes the source's copy of it and gives
 * the changes as a decoder would, holes included; the batch's net rows, applied to the model of the
 * mirror as it was before the batch (holes from the base's row before the batch), must give what
 * the changes give one by one, however the history is cut into batches.
 */
#include "batch/batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- one table: id, a, big (toastable), tail (toastable) ---- */

enum { ID, A, BIG, TAIL, NCOLUMNS };

#define HOLE ((const char *) -1)

struct fixture {
    struct table_column columns[NCOLUMNS];
    int keys[1];
    const char *excluded[1];
    struct table table;
    struct table_list list;
    lsn_t copy_lsn[1];
    struct relation_column relation_columns[5];
    struct relation relation;
    struct arena arena;
    struct binding *binding;
    struct batch *batch;
    struct error err;
    lsn_t lsn;
};

/* The stream has the columns in another order than the table, and one that is excluded. */
static const int table_to_stream[NCOLUMNS] = {3, 1, 0, 4};

static struct fixture *fixture_new(void)
{
    static const char *const names[NCOLUMNS] = {"id", "a", "big", "tail"};
    static const char *const stream[5] = {"big", "a", "secret", "id", "tail"};
    struct fixture *f = calloc(1, sizeof(*f));

    for (int i = 0; i < NCOLUMNS; i++)
        f->columns[i] = (struct table_column){
            .name = names[i], .is_key = i == ID, .is_toastable = i >= BIG};
    f->excluded[0] = "secret";
    f->table = (struct table){.schema = "public",
                              .name = "t",
                              .label = "public.t",
                              .ncolumns = NCOLUMNS,
                              .columns = f->columns,
                              .nkeys = 1,
                              .keys = f->keys,
                              .is_key_bytewise = true,
                              .nexcluded = 1,
                              .excluded = f->excluded};
    f->list = (struct table_list){.count = 1, .tables = &f->table};
    for (int i = 0; i < 5; i++)
        f->relation_columns[i] = (struct relation_column){.name = stream[i], .is_identity = i == 3};
    f->relation = (struct relation){.schema = "public",
                                    .name = "t",
                                    .identity = IDENTITY_DEFAULT,
                                    .ncolumns = 5,
                                    .columns = f->relation_columns};
    assert_true(binding_make(&f->table, &f->relation, &f->arena, &f->binding, &f->err));
    f->batch = batch_new(&f->list, f->copy_lsn, (struct batch_limits){100000, 1 << 26});
    f->lsn = 100;
    return f;
}

static void fixture_free(struct fixture *f)
{
    batch_free(f->batch);
    arena_release(&f->arena);
    free(f);
}

static void begin(struct fixture *f)
{
    batch_begin(f->batch, &(struct change){.kind = CHANGE_BEGIN,
                                           .final_lsn = f->lsn,
                                           .commit_time_us = (int64_t) f->lsn * 1000});
}

static void commit(struct fixture *f)
{
    batch_commit(f->batch, &(struct change){
                               .kind = CHANGE_COMMIT, .final_lsn = f->lsn, .end_lsn = f->lsn + 5});
    f->lsn += 10;
}

static struct value value_of(const char *text)
{
    if (text == HOLE)
        return (struct value){.kind = VALUE_ABSENT};
    if (text == NULL)
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.data = text, .len = (uint32_t) strlen(text), .kind = VALUE_TEXT};
}

static bool add_raw(struct fixture *f, struct batch *batch, enum change_kind kind,
                    const char *const *values, const char *old_id)
{
    struct value new_values[5] = {0}, old[5] = {0};

    for (int i = 0; values != NULL && i < NCOLUMNS; i++)
        new_values[table_to_stream[i]] = value_of(values[i]);
    new_values[2] = value_of("secret");
    if (old_id != NULL)
        old[table_to_stream[ID]] = value_of(old_id);
    return batch_add(batch, f->binding,
                     &(struct change){.kind = kind,
                                      .relation = &f->relation,
                                      .values = values ? new_values : NULL,
                                      .old = old_id ? old : NULL},
                     &f->err);
}

static void insert(struct fixture *f, const char *id, const char *a, const char *big)
{
    assert_true(add_raw(f, f->batch, CHANGE_INSERT, (const char *[]){id, a, big, "tail"}, NULL));
}

/* old NULL: the key did not change. */
static void update(struct fixture *f, const char *old, const char *id, const char *a,
                   const char *big)
{
    assert_true(add_raw(f, f->batch, CHANGE_UPDATE, (const char *[]){id, a, big, HOLE}, old));
}

static void delete (struct fixture *f, const char *id)
{
    assert_true(add_raw(f, f->batch, CHANGE_DELETE, NULL, id));
}

/* ---- looking at the result ---- */

static const struct batch_row *find(const struct fixture *f, const char *id)
{
    const struct batch_row *found = NULL;

    for (int i = 0; i < f->batch->tables[0].nrows; i++) {
        const struct batch_row *row = f->batch->tables[0].rows[i];

        if (row->key[0].len == strlen(id) && memcmp(row->key[0].data, id, strlen(id)) == 0) {
            assert_null(found);
            found = row;
        }
    }
    return found;
}

static bool is_value(const struct value *value, const char *text)
{
    const struct value expected = value_of(text);

    return value->kind == expected.kind &&
           (expected.kind != VALUE_TEXT ||
            (value->len == expected.len && memcmp(value->data, expected.data, value->len) == 0));
}

static void expect_row(const struct fixture *f, const char *id, const char *a, const char *big,
                       const char *base)
{
    const struct batch_row *row = find(f, id);

    assert_non_null(row);
    assert_false(row->is_gone);
    assert_true(is_value(&row->values[ID], id));
    assert_true(is_value(&row->values[A], a));
    assert_true(is_value(&row->values[BIG], big));
    assert_int_equal(row->has_holes, row->values[BIG].kind == VALUE_ABSENT ||
                                         row->values[TAIL].kind == VALUE_ABSENT);
    if (base == NULL) {
        assert_null(row->base);
    } else {
        assert_non_null(row->base);
        assert_true(row->base->is_base);
        assert_true(is_value(&row->base->key[0], base));
    }
}

static void expect_gone(const struct fixture *f, const char *id)
{
    const struct batch_row *row = find(f, id);

    assert_non_null(row);
    assert_true(row->is_gone);
    assert_null(row->values);
    assert_null(row->base);
    assert_false(row->has_holes);
}

/* ---- the rules ---- */

static void P02_a_hole_inherits_from_the_batch(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, NULL, "1", "a1", "big1");
    update(f, NULL, "1", "a2", HOLE);
    commit(f);
    expect_row(f, "1", "a2", "big1", NULL);
    assert_true(find(f, "1")->values[TAIL].kind == VALUE_ABSENT);
    assert_int_equal(f->batch->nchanges, 2);
    fixture_free(f);
}

static void P02_a_delete_forgets(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, NULL, "1", "a1", "big1");
    delete (f, "1");
    expect_gone(f, "1");
    insert(f, "1", "a3", NULL);
    update(f, NULL, "1", "a4", HOLE);
    commit(f);
    expect_row(f, "1", "a4", NULL, NULL);
    assert_true(is_value(&find(f, "1")->values[TAIL], "tail"));
    fixture_free(f);
}

static void P03_a_hole_moves_with_the_key(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, "1", "10", "a2", HOLE);
    expect_gone(f, "1");
    expect_row(f, "10", "a2", HOLE, "1");
    update(f, "10", "20", "a3", HOLE);
    update(f, NULL, "20", "a4", HOLE);
    commit(f);
    expect_gone(f, "1");
    expect_gone(f, "10");
    expect_row(f, "20", "a4", HOLE, "1");
    fixture_free(f);
}

static void P03_what_the_batch_knows_moves_too(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, NULL, "1", "a1", "big1");
    update(f, "1", "2", "a2", HOLE);
    expect_row(f, "2", "a2", "big1", "1"); /* its tail is still a hole */
    insert(f, "3", "a3", "big3");
    update(f, "3", "4", "a4", HOLE);
    commit(f);
    expect_row(f, "4", "a4", "big3", NULL);
    expect_gone(f, "3");
    fixture_free(f);
}

static void P03_two_keys_swap(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, "1", "x", "a1", HOLE);
    update(f, "2", "1", "a2", HOLE);
    update(f, "x", "2", "a3", HOLE);
    commit(f);
    expect_row(f, "1", "a2", HOLE, "2");
    expect_row(f, "2", "a3", HOLE, "1");
    expect_gone(f, "x");
    fixture_free(f);
}

static void P03_there_and_back(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, "1", "2", "a1", HOLE);
    update(f, "2", "1", "a2", "big2");
    commit(f);
    expect_row(f, "1", "a2", "big2", NULL);
    expect_gone(f, "2");
    fixture_free(f);
}

/* An insert is whole, or something is wrong: a dropped column, or a row filter (P4). */
static void P04_an_insert_has_no_holes(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    delete (f, "1");
    assert_false(add_raw(f, f->batch, CHANGE_INSERT, (const char *[]){"1", "a", HOLE, "t"}, NULL));
    assert_non_null(strstr(f->err.message, "big"));
    assert_true(f->err.hint[0] != '\0');
    fixture_free(f);
}

static void P01_only_toastable_columns_may_be_holes(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    assert_false(add_raw(f, f->batch, CHANGE_UPDATE, (const char *[]){"1", HOLE, "b", "t"}, NULL));
    assert_non_null(strstr(f->err.message, "\"a\""));
    fixture_free(f);
}

/* REPLICA IDENTITY FULL: old is the whole row; only a key that differs is a change of key. */
static void P05_full_identity(void **state)
{
    struct fixture *f = fixture_new();
    struct change change = {.kind = CHANGE_UPDATE, .relation = &f->relation};
    struct value values[5], old[5];

    (void) state;
    for (int i = 0; i < 5; i++)
        values[i] = old[i] = value_of("same");
    values[table_to_stream[BIG]] = value_of(HOLE);
    values[table_to_stream[A]] = value_of("new");
    change.values = values;
    change.old = old;
    change_normalise(&change);
    assert_non_null(change.old);
    begin(f);
    assert_true(batch_add(f->batch, f->binding, &change, &f->err));
    commit(f);
    expect_row(f, "same", "new", "same", NULL);
    assert_int_equal(f->batch->tables[0].nrows, 1);
    fixture_free(f);
}

/* A toasted key: in the old tuple only, and no change of key. */
static void P20_toasted_key(void **state)
{
    struct fixture *f = fixture_new();
    struct change change = {.kind = CHANGE_UPDATE, .relation = &f->relation};
    struct value values[5], old[5] = {0};

    (void) state;
    for (int i = 0; i < 5; i++)
        values[i] = value_of("v");
    values[table_to_stream[ID]] = value_of(HOLE);
    old[table_to_stream[ID]] = value_of("long key");
    change.values = values;
    change.old = old;
    change_normalise(&change);
    begin(f);
    assert_true(batch_add(f->batch, f->binding, &change, &f->err));
    commit(f);
    expect_row(f, "long key", "v", "v", NULL);
    assert_int_equal(f->batch->tables[0].nrows, 1);
    fixture_free(f);
}

static void P22_a_key_used_again(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    delete (f, "1");
    insert(f, "1", "a1", "b1");
    update(f, NULL, "1", "a2", HOLE);
    expect_row(f, "1", "a2", "b1", NULL);
    assert_false(find(f, "1")->is_insert); /* the mirror has it */
    delete (f, "1");
    expect_gone(f, "1");
    insert(f, "2", "a", "b");
    assert_true(find(f, "2")->is_insert);
    delete (f, "2");
    commit(f);
    expect_gone(f, "2");
    assert_int_equal(f->batch->tables[0].nrows, 2);
    fixture_free(f);
}

static void P72_other_bytes_are_another_key(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    update(f, "1.0", "1.00", "a", HOLE);
    commit(f);
    expect_gone(f, "1.0");
    expect_row(f, "1.00", "a", HOLE, "1.0");
    fixture_free(f);
}

static void rows_carry_their_last_transaction(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    insert(f, "1", "a", "b");
    insert(f, "2", "a", "b");
    commit(f);
    begin(f);
    delete (f, "2");
    commit(f);
    assert_int_equal(find(f, "1")->lsn, 100);
    assert_int_equal(find(f, "2")->lsn, 110);
    assert_int_equal(find(f, "2")->commit_time_us, 110000);
    assert_int_equal(f->batch->end_lsn, 115);
    assert_int_equal(f->batch->last_commit_time_us, 110000);
    assert_int_equal(f->batch->ntransactions, 2);
    assert_false(batch_is_empty(f->batch));
    batch_clear(f->batch);
    assert_true(batch_is_empty(f->batch));
    assert_int_equal(f->batch->end_lsn, 0);
    fixture_free(f);
}

/* Clocks step and commits race: what counts is the order of the stream, never the time (P37). */
static void P37_commit_times_may_go_backwards(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    for (int i = 0; i < 3; i++) {
        batch_begin(f->batch, &(struct change){.kind = CHANGE_BEGIN,
                                               .final_lsn = f->lsn,
                                               .commit_time_us = 3000 - i * 1000});
        if (i == 0)
            insert(f, "1", "first", "b");
        else if (i == 1)
            delete (f, "1");
        else
            insert(f, "1", "last", "b");
        commit(f);
    }
    expect_row(f, "1", "last", "b", NULL);
    assert_int_equal(find(f, "1")->lsn, 120);
    assert_int_equal(find(f, "1")->commit_time_us, 1000);
    assert_int_equal(f->batch->end_lsn, 125);
    fixture_free(f);
}

/* Transactions that the copy has are left out, by final_lsn < copy_lsn (P32). */
static void P32_what_the_copy_has_is_left_out(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    f->copy_lsn[0] = 110;
    begin(f);
    insert(f, "1", "a", "b");
    assert_true(batch_truncate(f->batch, &f->table, &f->err));
    commit(f);
    begin(f);
    insert(f, "2", "a", "b");
    commit(f);
    assert_null(find(f, "1"));
    assert_non_null(find(f, "2"));
    assert_false(f->batch->tables[0].is_truncated);
    assert_int_equal(f->batch->nchanges, 1);
    fixture_free(f);
}

static void deletes_ignored(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    f->table.deletes = DELETES_IGNORE;
    begin(f);
    delete (f, "1");
    commit(f);
    assert_true(batch_is_empty(f->batch));
    begin(f);
    insert(f, "2", "a", "b");
    delete (f, "2");
    update(f, "3", "4", "a", HOLE);
    commit(f);
    expect_row(f, "2", "a", "b", NULL);
    expect_gone(f, "3"); /* a change of key is no delete */
    expect_row(f, "4", "a", HOLE, "3");
    fixture_free(f);
}

static void P62_truncate(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    insert(f, "1", "a", "b");
    assert_true(batch_truncate(f->batch, &f->table, &f->err));
    insert(f, "2", "a", "b");
    commit(f);
    assert_true(f->batch->tables[0].is_truncated);
    assert_int_equal(f->batch->tables[0].truncate_lsn, 100);
    assert_null(find(f, "1"));
    expect_row(f, "2", "a", "b", NULL);
    batch_clear(f->batch);
    assert_false(f->batch->tables[0].is_truncated);
    assert_null(find(f, "2"));
    fixture_free(f);
}

static void P62_truncate_ignored_or_stopping(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    f->table.truncate = TRUNCATE_IGNORE;
    begin(f);
    insert(f, "1", "a", "b");
    assert_true(batch_truncate(f->batch, &f->table, &f->err));
    commit(f);
    expect_row(f, "1", "a", "b", NULL);
    assert_false(f->batch->tables[0].is_truncated);

    f->table.truncate = TRUNCATE_STOP;
    begin(f);
    assert_false(batch_truncate(f->batch, &f->table, &f->err));
    assert_int_equal(f->err.kind, ERROR_FAILED);
    assert_non_null(strstr(f->err.message, "public.t"));
    assert_non_null(strstr(f->err.hint, "truncate"));
    fixture_free(f);
}

static void a_hot_key_costs_its_size_once(void **state)
{
    struct fixture *f = fixture_new();
    char a[32], big[2000];
    size_t after_first = 0;

    (void) state;
    memset(big, 'b', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    begin(f);
    for (int i = 0; i < 10000; i++) {
        snprintf(a, sizeof(a), "%06d", i);
        assert_true(add_raw(f, f->batch, CHANGE_UPDATE, (const char *[]){"1", a, big, "t"}, NULL));
        if (i == 0)
            after_first = f->batch->arena.used_bytes;
    }
    commit(f);
    assert_int_equal(f->batch->arena.used_bytes, after_first);
    expect_row(f, "1", "009999", big, NULL);
    assert_false(batch_is_full(f->batch));
    /* A shorter image, and then one that would have fitted into the first. */
    begin(f);
    assert_true(add_raw(f, f->batch, CHANGE_UPDATE, (const char *[]){"1", "a", "b", NULL}, NULL));
    expect_row(f, "1", "a", "b", NULL);
    assert_true(add_raw(f, f->batch, CHANGE_UPDATE, (const char *[]){"1", "a", big, "t"}, NULL));
    commit(f);
    expect_row(f, "1", "a", big, NULL);
    assert_int_equal(f->batch->arena.used_bytes, after_first);
    fixture_free(f);
}

static void limits(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    f->batch->limits = (struct batch_limits){3, 1 << 20};
    begin(f);
    update(f, NULL, "1", "a", "b");
    update(f, NULL, "1", "a", "b");
    assert_false(batch_is_full(f->batch));
    update(f, NULL, "1", "a", "b");
    assert_true(batch_is_full(f->batch));
    f->batch->limits = (struct batch_limits){1000, 100};
    assert_true(batch_is_full(f->batch));
    fixture_free(f);
}

static void protocol_errors(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    begin(f);
    assert_false(add_raw(f, f->batch, CHANGE_INSERT, (const char *[]){NULL, "a", "b", "t"}, NULL));
    assert_int_equal(f->err.kind, ERROR_PROTOCOL);
    assert_false(batch_add(f->batch, f->binding,
                           &(struct change){.kind = CHANGE_DELETE,
                                            .relation = &f->relation,
                                            .old = (struct value[5]){{.kind = VALUE_ABSENT}}},
                           &f->err));
    assert_int_equal(f->err.kind, ERROR_PROTOCOL);
    assert_false(
        batch_add(f->batch, f->binding, &(struct change){.kind = CHANGE_MESSAGE}, &f->err));
    assert_int_equal(f->err.kind, ERROR_BUG);
    fixture_free(f);
}

/* ---- masks and bindings ---- */

static void masks(void **state)
{
    struct fixture *f = fixture_new();

    (void) state;
    f->columns[A].mask = MASK_HASH;
    f->columns[BIG].mask = MASK_NULL;
    begin(f);
    insert(f, "1", "abc", "clear text");
    expect_row(f, "1", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", NULL,
               NULL);
    insert(f, "2", NULL, NULL);
    expect_row(f, "2", NULL, NULL, NULL);
    insert(f, "3", "", "");
    expect_row(f, "3", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", NULL,
               NULL);
    update(f, NULL, "4", "abc", HOLE);
    commit(f);
    assert_int_equal(find(f, "4")->values[BIG].kind, VALUE_ABSENT);
    fixture_free(f);
}

static void bindings(void **state)
{
    struct fixture *f = fixture_new();
    struct binding *binding = NULL;

    (void) state;
    for (int i = 0; i < NCOLUMNS; i++)
        assert_int_equal(f->binding->column[table_to_stream[i]], i);
    assert_int_equal(f->binding->column[2], -1);

    /* a column that the mirror lacks */
    f->relation_columns[2].name = "added";
    assert_false(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    assert_non_null(strstr(f->err.message, "added"));
    assert_non_null(strstr(f->err.hint, "exclude"));
    f->relation_columns[2].name = "secret";

    /* P19, P64: another replica identity than the key */
    f->relation_columns[1].is_identity = true;
    assert_false(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    assert_non_null(strstr(f->err.message, "replica identity"));
    f->relation_columns[3].is_identity = false;
    assert_false(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    f->relation.identity = IDENTITY_FULL;
    assert_true(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    assert_null(strstr(f->err.message, "nothing"));
    fixture_free(f);
}

/* pgoutput describes every column: one that is missing was dropped, toastable or not (P57). */
static void P57_a_dropped_column(void **state)
{
    struct fixture *f = fixture_new();
    struct binding *binding = NULL;

    (void) state;
    f->relation.ncolumns = 4; /* without tail */
    assert_false(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    assert_non_null(strstr(f->err.message, "tail"));
    f->relation.identity = IDENTITY_UNKNOWN;
    assert_true(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    fixture_free(f);
}

/* No table has a column twice; a binding that did would leave a key column without its value. */
static void a_column_is_bound_once(void **state)
{
    struct fixture *f = fixture_new();
    struct binding *binding = NULL;

    (void) state;
    f->relation.columns[TAIL].name = f->relation.columns[ID].name;
    f->relation.identity = IDENTITY_UNKNOWN;
    assert_false(binding_make(&f->table, &f->relation, &f->arena, &binding, &f->err));
    assert_int_equal(f->err.kind, ERROR_PROTOCOL);
    assert_non_null(strstr(f->err.message, "twice"));
    fixture_free(f);
}

/* ---- random transactions against a model ---- */

#define NKEYS   6
#define NEVENTS 60

struct model_row {
    bool is_present;
    const char *values[NCOLUMNS]; /* NULL is NULL */
};

struct model {
    struct model_row rows[NKEYS];
};

struct event {
    enum change_kind kind; /* CHANGE_BEGIN, CHANGE_COMMIT, CHANGE_TRUNCATE or a row's */
    const char *values[NCOLUMNS];
    const char *old_id;
};

static const char *const key_names[NKEYS] = {"0", "1", "2", "3", "4", "5"};

static uint64_t seed;

static unsigned rnd(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned) (seed >> 33) % below;
}

/* A new value, now and then NULL, long or short. */
static const char *fresh(struct arena *arena)
{
    static int n;

    if (rnd(6) == 0)
        return NULL;
    return arena_printf(arena, "%0*d", (int) (1 + rnd(30)), ++n);
}

static int key_index(const char *id)
{
    return id[0] - '0';
}

/* One change as it stands, holes from the row that is updated. */
static void model_apply(struct model *model, const struct table *table, const struct event *event)
{
    struct model_row row = {0}, *from, *to;

    switch (event->kind) {
    case CHANGE_TRUNCATE:
        if (table->truncate == TRUNCATE_APPLY)
            *model = (struct model){0};
        return;
    case CHANGE_DELETE:
        if (table->deletes != DELETES_IGNORE)
            model->rows[key_index(event->old_id)].is_present = false;
        return;
    case CHANGE_INSERT:
    case CHANGE_UPDATE:
        to = &model->rows[key_index(event->values[ID])];
        from = event->old_id ? &model->rows[key_index(event->old_id)] : to;
        row.is_present = true;
        for (int i = 0; i < NCOLUMNS; i++) {
            if (event->values[i] == HOLE)
                assert_true(from->is_present);
            row.values[i] = event->values[i] == HOLE ? from->values[i] : event->values[i];
        }
        from->is_present = from == to || event->kind == CHANGE_INSERT ? from->is_present : false;
        *to = row;
        return;
    default:
        return;
    }
}

/* A change that the source could make, given its rows; and make it. */
static struct event random_change(struct model *source, struct arena *arena)
{
    struct event event = {0};
    const int k = (int) rnd(NKEYS), other = (int) rnd(NKEYS);
    const struct model_row *row = &source->rows[k];

    if (rnd(25) == 0) {
        event.kind = CHANGE_TRUNCATE;
        return event;
    }
    if (!row->is_present) {
        event.kind = CHANGE_INSERT;
        event.values[ID] = key_names[k];
        for (int i = A; i < NCOLUMNS; i++)
            event.values[i] = fresh(arena);
        return event;
    }
    if (rnd(4) == 0) {
        event.kind = CHANGE_DELETE;
        event.old_id = key_names[k];
        return event;
    }
    event.kind = CHANGE_UPDATE;
    event.values[ID] = key_names[k];
    if (other != k && !source->rows[other].is_present && rnd(2) == 0) {
        event.values[ID] = key_names[other];
        event.old_id = key_names[k];
    }
    event.values[A] = fresh(arena);
    for (int i = BIG; i < NCOLUMNS; i++) {
        if (rnd(3) == 0)
            event.values[i] = fresh(arena);
        else /* unchanged: NULL and short values are always sent, others may be */
            event.values[i] = row->values[i] == NULL || rnd(4) == 0 ? row->values[i] : HOLE;
    }
    return event;
}

/* What an apply makes of the batch: every hole from the mirror as it was before. */
static void model_apply_batch(struct model *mirror, const struct batch *batch, struct arena *arena)
{
    const struct batch_table *rows = &batch->tables[0];
    struct model before;

    if (batch->first == NULL)
        return;
    if (rows->is_truncated)
        *mirror = (struct model){0};
    before = *mirror;
    for (int i = 0; i < rows->nrows; i++) {
        const struct batch_row *row = rows->rows[i];
        const struct batch_row *base = row->base ? row->base : row;
        struct model_row *to = &mirror->rows[row->key[0].data[0] - '0'];
        const struct model_row *from = &before.rows[base->key[0].data[0] - '0'];
        bool has_holes = false;

        to->is_present = !row->is_gone;
        for (int c = 0; c < NCOLUMNS && !row->is_gone; c++) {
            const struct value *value = &row->values[c];

            if (value->kind == VALUE_ABSENT) {
                assert_true(from->is_present);
                has_holes = true;
                to->values[c] = from->values[c];
            } else {
                to->values[c] = value->kind == VALUE_NULL
                                    ? NULL
                                    : arena_strndup(arena, value->data, value->len);
            }
        }
        assert_int_equal(has_holes, row->has_holes);
    }
}

static void expect_same(const struct model *a, const struct model *b)
{
    for (int k = 0; k < NKEYS; k++) {
        assert_int_equal(a->rows[k].is_present, b->rows[k].is_present);
        for (int c = 0; c < NCOLUMNS && a->rows[k].is_present; c++) {
            const char *x = a->rows[k].values[c], *y = b->rows[k].values[c];

            assert_int_equal(x == NULL, y == NULL);
            if (x != NULL)
                assert_string_equal(x, y);
        }
    }
}

static int random_history(struct model *source, struct event *events, struct arena *arena)
{
    int n = 0;

    while (n < NEVENTS - 2) {
        int changes = (int) rnd(8);

        events[n++] = (struct event){.kind = CHANGE_BEGIN};
        for (int i = 0; i < changes && n < NEVENTS - 1; i++) {
            events[n] = random_change(source, arena);
            /* the source loses what it deletes, whatever the mirror is told to ignore */
            model_apply(source, &(struct table){0}, &events[n++]);
        }
        events[n++] = (struct event){.kind = CHANGE_COMMIT};
    }
    return n;
}

static void feed(struct fixture *f, const struct event *event)
{
    switch (event->kind) {
    case CHANGE_BEGIN:
        begin(f);
        return;
    case CHANGE_COMMIT:
        commit(f);
        return;
    case CHANGE_TRUNCATE:
        assert_true(batch_truncate(f->batch, &f->table, &f->err));
        return;
    default:
        assert_true(add_raw(f, f->batch, event->kind,
                            event->kind == CHANGE_DELETE ? NULL : event->values, event->old_id));
    }
}

enum cuts { CUT_NEVER, CUT_AT_COMMITS, CUT_ANYWHERE };

static void play(struct fixture *f, struct model *mirror, const struct event *events, int nevents,
                 enum cuts cuts, struct arena *arena)
{
    struct batch *other = batch_new(&f->list, f->copy_lsn, f->batch->limits);

    for (int i = 0; i < nevents; i++) {
        struct batch *sealed = f->batch;

        feed(f, &events[i]);
        if (i < nevents - 1 && (cuts == CUT_NEVER || rnd(4) != 0 ||
                                (cuts == CUT_AT_COMMITS && sealed->in_transaction)))
            continue;
        if (sealed->in_transaction)
            batch_continue(other, sealed);
        model_apply_batch(mirror, sealed, arena);
        batch_clear(sealed);
        f->batch = other;
        other = sealed;
    }
    batch_clear(f->batch);
    batch_free(other);
}

static void play_random(enum table_deletes deletes, enum table_truncate truncate, int rounds)
{
    struct fixture *f = fixture_new();

    f->table.deletes = deletes;
    f->table.truncate = truncate;
    for (int round = 1; round <= rounds; round++) {
        struct event events[NEVENTS];
        struct arena arena = {0};
        struct model source = {0}, start, expected;
        int nevents;

        seed = (uint64_t) round * 0x9E3779B97F4A7C15u;
        for (int k = 0; k < NKEYS; k++) {
            source.rows[k] = (struct model_row){.is_present = rnd(2) == 0,
                                                .values = {key_names[k]}};
            for (int c = A; c < NCOLUMNS; c++)
                source.rows[k].values[c] = fresh(&arena);
        }
        start = expected = source;
        nevents = random_history(&source, events, &arena);
        for (int i = 0; i < nevents; i++)
            model_apply(&expected, &f->table, &events[i]);
        if (deletes == DELETES_SOFT && truncate == TRUNCATE_APPLY)
            expect_same(&source, &expected);
        for (enum cuts cuts = CUT_NEVER; cuts <= CUT_ANYWHERE; cuts++) {
            struct model mirror = start;

            play(f, &mirror, events, nevents, cuts, &arena);
            expect_same(&expected, &mirror);
        }
        arena_release(&arena);
    }
    fixture_free(f);
}

static void random_histories(void **state)
{
    (void) state;
    play_random(DELETES_SOFT, TRUNCATE_APPLY, 3000);
}

static void random_histories_with_ignored_deletes(void **state)
{
    (void) state;
    play_random(DELETES_IGNORE, TRUNCATE_APPLY, 1000);
    play_random(DELETES_IGNORE, TRUNCATE_IGNORE, 1000);
}

static void random_histories_with_ignored_truncates(void **state)
{
    (void) state;
    play_random(DELETES_SOFT, TRUNCATE_IGNORE, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(P01_only_toastable_columns_may_be_holes),
        cmocka_unit_test(P02_a_hole_inherits_from_the_batch),
        cmocka_unit_test(P02_a_delete_forgets),
        cmocka_unit_test(P03_a_hole_moves_with_the_key),
        cmocka_unit_test(P03_what_the_batch_knows_moves_too),
        cmocka_unit_test(P03_two_keys_swap),
        cmocka_unit_test(P03_there_and_back),
        cmocka_unit_test(P04_an_insert_has_no_holes),
        cmocka_unit_test(P05_full_identity),
        cmocka_unit_test(P20_toasted_key),
        cmocka_unit_test(P22_a_key_used_again),
        cmocka_unit_test(P37_commit_times_may_go_backwards),
        cmocka_unit_test(P32_what_the_copy_has_is_left_out),
        cmocka_unit_test(P57_a_dropped_column),
        cmocka_unit_test(a_column_is_bound_once),
        cmocka_unit_test(P62_truncate),
        cmocka_unit_test(P62_truncate_ignored_or_stopping),
        cmocka_unit_test(P72_other_bytes_are_another_key),
        cmocka_unit_test(rows_carry_their_last_transaction),
        cmocka_unit_test(deletes_ignored),
        cmocka_unit_test(a_hot_key_costs_its_size_once),
        cmocka_unit_test(limits),
        cmocka_unit_test(protocol_errors),
        cmocka_unit_test(masks),
        cmocka_unit_test(bindings),
        cmocka_unit_test(random_histories),
        cmocka_unit_test(random_histories_with_ignored_deletes),
        cmocka_unit_test(random_histories_with_ignored_truncates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
