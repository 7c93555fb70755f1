/*
 * Two models, maps from key to row.  `source` takes the changes one by one; `mirror` takes sealed
 * batches, holes filled from what it held before, as the apply statement does it.  After every
 * transaction that ends a batch the two have to be the same.
 *
 * A key that the stream has not touched yet may exist on the source: then it existed from the
 * beginning, in both.  A change that no source could make (an update of a row that was deleted)
 * ends the comparison, for such streams promise nothing; the batches have to stay sound.
 *
 * The size of the input decides where batches are cut and which policies the tables have, so that
 * one stream is taken through all of them as it is mutated.
 */
#include "pipe.h"

#include "base/map.h"
#include "base/memory.h"
#include "batch/batch.h"
#include "change_text.h"
#include "check.h"
#include "driver.h"
#include "mirror/statement.h"

#include <string.h>

#define MAX_TABLES   16
#define CHECKED_ROWS 100 /* of a batch, as parameters and COPY rows */

struct model_row {
    bool is_present;
    struct value *values; /* of the table's columns; VALUE_ABSENT: unknown (a hostile stream's) */
    struct value *next;   /* while a batch is applied */
};

/* What is known of a relation of the second pass. */
struct known {
    struct binding *binding; /* NULL: not one of the tables */
    int *at;                 /* per column of the table: the relation's, -1 if it lacks it */
};

struct pipe {
    const struct decoder_ops *ops;
    const struct decoder_config *config;
    struct arena arena;
    struct buf begin; /* the last BEGIN message */
    size_t nmessages;

    struct table tables[MAX_TABLES];
    struct table_list list;
    lsn_t copy_lsn[MAX_TABLES];
    struct known *known; /* by relation->id */
    uint32_t nknown;

    struct map source[MAX_TABLES], mirror[MAX_TABLES];
    bool is_truncated[MAX_TABLES]; /* nothing may be taken to have been there before */
    struct batch *open, *other;
    struct params params;
    unsigned variant;
    unsigned ncommits;
    bool is_plausible; /* the models are compared */
    bool is_dead;      /* a change was refused: the session would end here */
};

struct pipe *pipe_new(const struct decoder_ops *ops, const struct decoder_config *config)
{
    struct pipe *pipe = memory_new(struct pipe);

    pipe->ops = ops;
    pipe->config = config;
    return pipe;
}

void pipe_free(struct pipe *pipe)
{
    for (int i = 0; i < MAX_TABLES; i++) {
        map_release(&pipe->source[i]);
        map_release(&pipe->mirror[i]);
    }
    batch_free(pipe->open);
    batch_free(pipe->other);
    params_release(&pipe->params);
    buf_release(&pipe->begin);
    free(pipe->known);
    arena_release(&pipe->arena);
    free(pipe);
}

/* ---- first pass ---- */

/*
 * wal2json's rows say everything themselves, so what came before must not matter: a decoder that
 * has just been told of the transaction gives the same change.  (One that knows the table reads it
 * the short way, the new one the long way.  The exception is an update without an identity, which
 * only a decoder that knows the table's reads at all.)
 */
static void check_history_is_nothing(struct pipe *pipe, const void *message, size_t len,
                                     const struct change *change)
{
    struct decoder *fresh = pipe->ops->create(pipe->config);
    _cleanup_buf_ struct buf text = {0}, again_text = {0};
    struct arena scratch = {0};
    struct change again;
    struct error err;
    bool is_read;

    promise(pipe->ops->decode(fresh, bytes_of(buf_text(&pipe->begin), pipe->begin.len), &scratch,
                              &again, &err));
    is_read = pipe->ops->decode(fresh, bytes_of(message, len), &scratch, &again, &err);
    promise(is_read || err.kind == ERROR_RETRY);
    change_text(&text, change, NULL);
    if (is_read)
        change_text(&again_text, &again, NULL);
    if (is_read && strcmp(buf_text(&text), buf_text(&again_text)) != 0) {
        fprintf(stderr, "%.*s\nwith what came before:  %s\nwithout: %s\n", (int) len,
                (const char *) message, buf_text(&text), buf_text(&again_text));
        promise(!"what came before matters");
    }
    arena_release(&scratch);
    pipe->ops->destroy(fresh);
}

static enum column_wire wire_of(uint32_t type_oid)
{
    static const struct {
        uint32_t oid;
        enum column_wire wire;
    } wires[] = {
        {16, WIRE_BOOL},          {17, WIRE_BYTEA},     {19, WIRE_STRING},  {20, WIRE_INT8},
        {21, WIRE_INT2},          {23, WIRE_INT4},      {25, WIRE_STRING},  {26, WIRE_OID},
        {114, WIRE_STRING},       {142, WIRE_STRING},   {700, WIRE_FLOAT4}, {701, WIRE_FLOAT8},
        {1042, WIRE_STRING},      {1043, WIRE_STRING},  {1082, WIRE_DATE},  {1114, WIRE_TIMESTAMP},
        {1184, WIRE_TIMESTAMPTZ}, {1700, WIRE_NUMERIC}, {2950, WIRE_UUID},  {3802, WIRE_JSONB},
        {1007, WIRE_CAST},        {1009, WIRE_CAST},
    };

    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++)
        if (wires[i].oid == type_oid)
            return wires[i].wire;
    return WIRE_TEXT;
}

static bool is_fixed(enum column_wire wire)
{
    return wire >= WIRE_BOOL && wire <= WIRE_FLOAT8;
}

/* The table that a relation with an identity describes; of FULL, where all columns are identity,
 * the first column is taken for the key. */
static void make_table(struct pipe *pipe, struct table *table, const struct relation *relation)
{
    int nidentity = 0;

    for (int i = 0; i < relation->ncolumns; i++)
        nidentity += relation->columns[i].is_identity;
    if (nidentity == 0)
        return;
    *table = (struct table){.index = (int) (table - pipe->tables),
                            .relid = relation->oid,
                            .is_key_bytewise = true,
                            .ncolumns = relation->ncolumns};
    table->schema = arena_strdup(&pipe->arena, relation->schema);
    table->name = arena_strdup(&pipe->arena, relation->name);
    table->label = table->name;
    table->columns = arena_new(&pipe->arena, struct table_column, relation->ncolumns);
    table->keys = arena_new(&pipe->arena, int, relation->ncolumns);
    for (int i = 0; i < relation->ncolumns; i++) {
        struct table_column *column = &table->columns[i];

        column->name = arena_strdup(&pipe->arena, relation->columns[i].name);
        column->element_oid = relation->columns[i].type_oid;
        column->wire = wire_of(relation->columns[i].type_oid);
        column->is_toastable = !is_fixed(column->wire);
        column->is_key = nidentity == relation->ncolumns ? i == 0
                                                         : relation->columns[i].is_identity;
        if (column->is_key)
            table->keys[table->nkeys++] = i;
    }
}

static void meet_relation(struct pipe *pipe, const struct relation *relation)
{
    int i = 0;

    while (i < pipe->list.count && (strcmp(pipe->tables[i].schema, relation->schema) != 0 ||
                                    strcmp(pipe->tables[i].name, relation->name) != 0))
        i++;
    if (i == MAX_TABLES)
        return;
    /* The last version with an identity counts; most columns are known then. */
    make_table(pipe, &pipe->tables[i], relation);
    if (i == pipe->list.count && pipe->tables[i].name != NULL)
        pipe->list.count++;
}

void pipe_meet(struct pipe *pipe, const void *message, size_t len, const struct change *change)
{
    pipe->nmessages++;
    if (change->kind == CHANGE_BEGIN) {
        buf_clear(&pipe->begin);
        buf_add_bytes(&pipe->begin, message, len);
    }
    if (change->relation != NULL)
        meet_relation(pipe, change->relation);
    if (pipe->ops == &decoder_wal2json && change->kind != CHANGE_BEGIN &&
        change->kind != CHANGE_COMMIT && pipe->begin.len > 0)
        check_history_is_nothing(pipe, message, len, change);
}

/* ---- between ---- */

void pipe_start(struct pipe *pipe)
{
    static const struct batch_limits limits[] = {{1000000, 1 << 30}, {7, 1 << 30}, {1, 1 << 30}};
    const unsigned variant = (unsigned) pipe->nmessages;

    pipe->variant = variant % 5;
    pipe->is_plausible = variant % 4 != 3;
    pipe->list.tables = pipe->tables;
    for (int i = 0; i < pipe->list.count && !pipe->is_plausible; i++) {
        struct table *table = &pipe->tables[i];

        table->deletes = variant & 8 ? DELETES_IGNORE : DELETES_SOFT;
        table->truncate = variant & 16 ? TRUNCATE_IGNORE : TRUNCATE_APPLY;
        table->purge_after_us = variant & 32 ? 0 : -1;
        if (!table->columns[table->ncolumns - 1].is_key)
            table->columns[table->ncolumns - 1].mask = variant & 8 ? MASK_HASH : MASK_NULL;
    }
    table_list_index(&pipe->list, &pipe->arena);
    pipe->open = batch_new(&pipe->list, pipe->copy_lsn, limits[variant / 5 % 3]);
    pipe->other = batch_new(&pipe->list, pipe->copy_lsn, limits[variant / 5 % 3]);
}

/* ---- models ---- */

static struct value *copy_values(struct pipe *pipe, const struct value *values, int count)
{
    struct value *copy = arena_memdup(&pipe->arena, values, sizeof(*values) * (size_t) count);

    for (int i = 0; i < count; i++)
        if (copy[i].kind == VALUE_TEXT)
            copy[i].data = arena_memdup(&pipe->arena, copy[i].data, copy[i].len);
    return copy;
}

static bool same_value(const struct value *a, const struct value *b)
{
    return a->kind == b->kind &&
           (a->kind != VALUE_TEXT || (a->len == b->len && memcmp(a->data, b->data, a->len) == 0));
}

static void key_bytes(const struct value *key, int nkeys, struct buf *out)
{
    buf_clear(out);
    for (int i = 0; i < nkeys; i++) {
        buf_add_u32(out, key[i].len);
        buf_add_bytes(out, key[i].data, key[i].len);
    }
}

static struct model_row *model_row(struct pipe *pipe, struct map *model, const struct buf *key,
                                   bool *ret_is_new)
{
    struct model_row *row = map_get(model, key->data, key->len);

    *ret_is_new = row == NULL;
    if (row == NULL) {
        row = arena_new(&pipe->arena, struct model_row, 1);
        map_put(model, key->data, key->len, row);
    }
    return row;
}

static void model_truncate(struct map *model)
{
    for (size_t i = 0; i < model->size; i++)
        if (model->slots[i].key != NULL)
            ((struct model_row *) model->slots[i].value)->is_present = false;
}

/* The row of a key that the source has now; one not touched so far was there from the beginning. */
static struct model_row *present_row(struct pipe *pipe, const struct table *table,
                                     const struct value *key)
{
    _cleanup_buf_ struct buf bytes = {0};
    struct model_row *row;
    bool is_new;

    key_bytes(key, table->nkeys, &bytes);
    row = model_row(pipe, &pipe->source[table->index], &bytes, &is_new);
    if (is_new && !pipe->is_truncated[table->index]) {
        struct model_row *twin = model_row(pipe, &pipe->mirror[table->index], &bytes, &is_new);
        struct value *values = arena_new(&pipe->arena, struct value, table->ncolumns);

        for (int i = 0; i < table->ncolumns; i++)
            values[i] = (struct value){.kind = VALUE_TEXT, .data = "before", .len = 6};
        for (int i = 0; i < table->nkeys; i++)
            values[table->keys[i]] = *copy_values(pipe, &key[i], 1);
        *row = *twin = (struct model_row){.is_present = true, .values = values};
    }
    if (!row->is_present)
        pipe->is_plausible = false;
    return row;
}

/* The row of a key that the source did not have; it may have been unknown. */
static struct model_row *absent_row(struct pipe *pipe, const struct table *table,
                                    const struct value *key)
{
    _cleanup_buf_ struct buf bytes = {0};
    struct model_row *row;
    bool is_new;

    key_bytes(key, table->nkeys, &bytes);
    row = model_row(pipe, &pipe->source[table->index], &bytes, &is_new);
    if (row->is_present)
        pipe->is_plausible = false;
    return row;
}

/* The columns of a change in the table's order. */
static void spread(const struct known *known, const struct value *from, struct value *to)
{
    for (int i = 0; i < known->binding->table->ncolumns; i++)
        to[i] = known->at[i] >= 0 ? from[known->at[i]] : (struct value){.kind = VALUE_ABSENT};
}

static void take_key(const struct table *table, const struct value *values, struct value *key)
{
    for (int i = 0; i < table->nkeys; i++)
        key[i] = values[table->keys[i]];
}

/* One change as it stands. */
static void source_take(struct pipe *pipe, const struct known *known, const struct change *change)
{
    const struct table *table = known->binding->table;
    struct value *values = arena_new(&pipe->arena, struct value, table->ncolumns);
    struct value *old = arena_new(&pipe->arena, struct value, table->ncolumns);
    struct value *key = arena_new(&pipe->arena, struct value, table->nkeys);
    struct value *old_key = arena_new(&pipe->arena, struct value, table->nkeys);
    struct model_row *from = NULL, *to = NULL;
    bool is_moved = false;

    if (change->values != NULL) {
        spread(known, change->values, values);
        take_key(table, values, key);
    }
    if (change->kind != CHANGE_INSERT) {
        spread(known, change->old ? change->old : change->values, old);
        take_key(table, old, old_key);
        from = present_row(pipe, table, old_key);
    }
    for (int i = 0; i < table->nkeys && change->kind == CHANGE_UPDATE; i++)
        is_moved |= !same_value(&key[i], &old_key[i]);
    if (change->kind == CHANGE_INSERT || is_moved)
        to = absent_row(pipe, table, key);
    else if (change->kind == CHANGE_UPDATE)
        to = from;
    for (int i = 0; i < table->ncolumns && change->kind == CHANGE_UPDATE; i++)
        if (values[i].kind == VALUE_ABSENT && from->is_present)
            values[i] = from->values[i];
    if (from != NULL)
        from->is_present = false;
    if (to != NULL)
        *to = (struct model_row){.is_present = true,
                                 .values = copy_values(pipe, values, table->ncolumns)};
}

/* A batch, as the apply statement takes it: every hole from the mirror as it was before. */
static void mirror_take(struct pipe *pipe, const struct batch_table *rows)
{
    const struct table *table = rows->table;
    struct map *model = &pipe->mirror[table->index];
    _cleanup_buf_ struct buf bytes = {0};
    bool is_new;

    if (rows->is_truncated)
        model_truncate(model);
    for (int i = 0; i < rows->nrows; i++) {
        const struct batch_row *row = rows->rows[i], *base = row->base ? row->base : row;
        const struct model_row *from;

        if (row->is_gone)
            continue;
        key_bytes(base->key, table->nkeys, &bytes);
        from = model_row(pipe, model, &bytes, &is_new);
        promise(!row->has_holes || from->is_present || !pipe->is_plausible);
        key_bytes(row->key, table->nkeys, &bytes);
        struct model_row *to = model_row(pipe, model, &bytes, &is_new);
        to->next = copy_values(pipe, row->values, table->ncolumns);
        for (int c = 0; c < table->ncolumns; c++)
            if (to->next[c].kind == VALUE_ABSENT && from->is_present)
                to->next[c] = from->values[c];
    }
    for (int i = 0; i < rows->nrows; i++) {
        struct model_row *to;

        key_bytes(rows->rows[i]->key, table->nkeys, &bytes);
        to = model_row(pipe, model, &bytes, &is_new);
        *to = (struct model_row){.is_present = !rows->rows[i]->is_gone, .values = to->next};
    }
}

static void compare(struct pipe *pipe, const struct table *table)
{
    const struct map *source = &pipe->source[table->index], *mirror = &pipe->mirror[table->index];

    for (size_t i = 0; i < mirror->size; i++) {
        const struct model_row *row = mirror->slots[i].value;

        promise(mirror->slots[i].key == NULL || !row->is_present ||
                map_get(source, mirror->slots[i].key, mirror->slots[i].key_len) != NULL);
    }
    for (size_t i = 0; i < source->size; i++) {
        const struct model_row *want = source->slots[i].value, *have;

        if (source->slots[i].key == NULL)
            continue;
        have = map_get(mirror, source->slots[i].key, source->slots[i].key_len);
        promise(want->is_present == (have != NULL && have->is_present));
        for (int c = 0; c < table->ncolumns && want->is_present; c++)
            promise(same_value(&want->values[c], &have->values[c]));
    }
}

/* ---- batches ---- */

static void check_row(const struct table *table, const struct batch_row *row)
{
    uint64_t bytes = 0;
    bool has_holes = false;

    promise(row->is_gone == (row->values == NULL));
    promise(row->base == NULL || (row->base != row && row->base->is_base));
    for (int i = 0; i < table->ncolumns && !row->is_gone; i++) {
        bytes += row->values[i].kind == VALUE_TEXT ? row->values[i].len : 0;
        has_holes |= row->values[i].kind == VALUE_ABSENT;
        promise(row->values[i].kind != VALUE_ABSENT || table->columns[i].is_toastable);
    }
    promise(bytes == row->data_bytes && has_holes == row->has_holes);
    for (int i = 0; i < table->nkeys; i++)
        promise(row->key[i].kind == VALUE_TEXT &&
                (row->is_gone || same_value(&row->key[i], &row->values[table->keys[i]])));
}

/* As apply.c has it. */
static unsigned flags_of(struct batch_row *const *rows, int nrows)
{
    unsigned flags = 0;

    for (int i = 0; i < nrows; i++) {
        flags |= rows[i]->is_gone ? STATEMENT_GONE : 0;
        flags |= rows[i]->has_holes ? STATEMENT_HOLES : 0;
        flags |= rows[i]->has_holes && rows[i]->base ? STATEMENT_BASES : 0;
    }
    return flags;
}

static void check_rows(struct pipe *pipe, const struct batch_table *rows)
{
    static struct statement_slot slots[3 * 1664 + 3];
    const struct table *table = rows->table;
    const int count = rows->nrows < CHECKED_ROWS ? rows->nrows : CHECKED_ROWS;
    const bool is_binary = params_is_binary(table);
    _cleanup_buf_ struct buf bytes = {0};
    struct map keys = {0};
    int nslots;

    for (int i = 0; i < rows->nrows; i++) {
        check_row(table, rows->rows[i]);
        key_bytes(rows->rows[i]->key, table->nkeys, &bytes);
        promise(map_get(&keys, bytes.data, bytes.len) == NULL);
        map_put(&keys, bytes.data, bytes.len, rows->rows[i]);
    }
    map_release(&keys);
    if (count == 0)
        return;
    nslots = statement_slots(table, flags_of(rows->rows, count), slots);
    params_fill(&pipe->params, table, slots, nslots, rows->rows, count);
    check_params(&pipe->params, table, slots, rows->rows, count);
    for (int i = 0; i < count; i++) {
        if (rows->rows[i]->is_gone || rows->rows[i]->has_holes)
            continue;
        buf_clear(&bytes);
        params_add_text_row(&bytes, table, rows->rows[i]);
        check_text_row(table, rows->rows[i], bytes.data, bytes.len);
        buf_clear(&bytes);
        if (is_binary && params_add_binary_row(&bytes, table, rows->rows[i]))
            check_binary_row(table, rows->rows[i], (const unsigned char *) bytes.data, bytes.len);
        else
            promise(bytes.len == 0);
    }
}

static void seal(struct pipe *pipe)
{
    struct batch *sealed = pipe->open;

    pipe->open = pipe->other;
    pipe->other = sealed;
    batch_clear(pipe->open);
    if (sealed->in_transaction)
        batch_continue(pipe->open, sealed);
    for (const struct batch_table *rows = sealed->first; rows != NULL; rows = rows->next) {
        check_rows(pipe, rows);
        mirror_take(pipe, rows);
        if (pipe->is_plausible && !sealed->in_transaction)
            compare(pipe, rows->table);
    }
}

/* ---- second pass ---- */

/* False: the session would end here, with an error. */
static bool know(struct pipe *pipe, struct relation *relation, const struct known **ret_known)
{
    const struct table *table = table_list_find(&pipe->list, relation->schema, relation->name);
    struct known *known;
    struct error err = {0};

    if (relation->id >= pipe->nknown) {
        uint32_t size = relation->id * 2 + 16;

        pipe->known = memory_resize(pipe->known, size * sizeof(*pipe->known));
        memset(pipe->known + pipe->nknown, 0, (size - pipe->nknown) * sizeof(*pipe->known));
        pipe->nknown = size;
    }
    known = &pipe->known[relation->id];
    *ret_known = known;
    if (known->binding != NULL || table == NULL)
        return true;
    if (!binding_make(table, relation, &pipe->arena, &known->binding, &err)) {
        promise(err.kind != ERROR_NONE && err.message[0] != '\0');
        return false;
    }
    known->at = arena_new(&pipe->arena, int, table->ncolumns);
    for (int c = 0; c < table->ncolumns; c++) {
        known->at[c] = -1;
        for (int i = 0; i < relation->ncolumns; i++)
            if (strcmp(relation->columns[i].name, table->columns[c].name) == 0)
                known->at[c] = i;
    }
    return true;
}

static bool take_row(struct pipe *pipe, const struct change *change)
{
    const struct known *known;
    struct error err = {0};

    if (!know(pipe, change->relation, &known))
        return false;
    if (known->binding == NULL)
        return true;
    if (!batch_add(pipe->open, known->binding, change, &err)) {
        promise(err.kind != ERROR_NONE && err.kind != ERROR_BUG);
        return false;
    }
    if (pipe->is_plausible)
        source_take(pipe, known, change);
    return true;
}

static bool take_truncate(struct pipe *pipe, const struct change *change)
{
    for (int i = 0; i < change->nrelations; i++) {
        const struct known *known;
        struct error err = {0};

        if (!know(pipe, change->relations[i], &known))
            return false;
        if (known->binding == NULL)
            continue;
        if (!batch_truncate(pipe->open, known->binding->table, &err))
            return false;
        model_truncate(&pipe->source[known->binding->table->index]);
        pipe->is_truncated[known->binding->table->index] = true;
    }
    return true;
}

void pipe_take(struct pipe *pipe, const struct change *change)
{
    if (pipe->is_dead)
        return;
    switch (change->kind) {
    case CHANGE_NONE:
    case CHANGE_MESSAGE:
        break;
    case CHANGE_BEGIN:
        batch_begin(pipe->open, change);
        break;
    case CHANGE_COMMIT:
        batch_commit(pipe->open, change);
        if (++pipe->ncommits % (pipe->variant + 1) == 0)
            seal(pipe);
        break;
    case CHANGE_INSERT:
    case CHANGE_UPDATE:
    case CHANGE_DELETE:
        pipe->is_dead = !take_row(pipe, change);
        break;
    case CHANGE_TRUNCATE:
        pipe->is_dead = !take_truncate(pipe, change);
        break;
    }
    if (!pipe->is_dead && batch_is_full(pipe->open))
        seal(pipe);
}
