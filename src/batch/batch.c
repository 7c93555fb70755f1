/*
 * Coalescing (see batch.h for what a row means).  Each change is one look-up, or two where the key
 * changed:
 *
 *   insert          the row is present, the image complete
 *   update          the image is merged into the row's: what is absent stays as it was
 *   update of key   the old key is gone; the new key is the old key's row, merged, and keeps its
 *                   base
 *   delete          the row is gone, and what the batch knew of it is forgotten
 *   truncate        every row of the table is forgotten, the table is marked
 *
 * deletes: ignore leaves deletes out, truncate: ignore truncates: both before anything is merged,
 * so that the result does not depend on where batches are cut.
 *
 * Values are copied into the batch's arena, one block per row.  A row that changes again is written
 * over its old block when it fits: a hot key costs its size once, however often it changes.
 */
#include "batch/batch.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/memory.h"
#include "batch/mask.h"

#include <stdlib.h>

#define KEPT_SLOTS 1024

struct batch *batch_new(const struct table_list *list, const lsn_t *copy_lsn,
                        struct batch_limits limits)
{
    struct batch *batch = memory_new(struct batch);
    int widest = 1;

    batch->list = list;
    batch->copy_lsn = copy_lsn;
    batch->limits = limits;
    batch->tables = memory_alloc((size_t) list->count * sizeof(*batch->tables));
    for (int i = 0; i < list->count; i++) {
        batch->tables[i].table = &list->tables[i];
        widest = list->tables[i].ncolumns > widest ? list->tables[i].ncolumns : widest;
    }
    batch->scratch.values = memory_alloc((size_t) widest * sizeof(struct value));
    batch->scratch.key = memory_alloc((size_t) widest * sizeof(struct value));
    batch->scratch.old_key = memory_alloc((size_t) widest * sizeof(struct value));
    batch_clear(batch);
    return batch;
}

void batch_free(struct batch *batch)
{
    if (batch == NULL)
        return;
    for (int i = 0; i < batch->list->count; i++) {
        free(batch->tables[i].rows);
        free(batch->tables[i].slots);
    }
    arena_release(&batch->arena);
    free(batch->scratch.values);
    free(batch->scratch.key);
    free(batch->scratch.old_key);
    free(batch->tables);
    free(batch);
}

void batch_leave_out(struct batch *batch, const _Atomic lsn_t *from)
{
    batch->left_out_from = from;
}

bool batch_skips(const struct batch *batch, const struct table *table)
{
    return batch->final_lsn < batch->copy_lsn[table->index] ||
           (batch->left_out_from != NULL && batch->final_lsn >= batch->left_out_from[table->index]);
}

/* A large hash is given back: a load that goes from table to table must not leave one with each. */
static void forget_rows(struct batch_table *rows)
{
    if (rows->slots_size > KEPT_SLOTS) {
        free(rows->slots);
        free(rows->rows);
        rows->slots = NULL;
        rows->rows = NULL;
        rows->nrows = rows->rows_size = 0;
        rows->slots_size = 0;
    }
    if (rows->nrows > 0)
        memset(rows->slots, 0, rows->slots_size * sizeof(*rows->slots));
    rows->nrows = 0;
}

void batch_clear(struct batch *batch)
{
    for (struct batch_table *rows = batch->first, *next; rows != NULL; rows = next) {
        next = rows->next;
        forget_rows(rows);
        rows->is_truncated = rows->is_touched = false;
        rows->next = NULL;
    }
    for (const struct volume_line *line = batch->volumes; line != NULL; line = line->next)
        batch->tables[line->table->index].volume = NULL;
    batch->first = NULL;
    batch->last = &batch->first;
    batch->volumes = NULL;
    arena_reset(&batch->arena);
    batch->in_transaction = batch->is_continuation = batch->has_message = false;
    batch->end_lsn = batch->final_lsn = batch->first_lsn = 0;
    batch->commit_time_us = batch->last_commit_time_us = batch->first_commit_us = 0;
    batch->nchanges = batch->ntransactions = 0;
}

void batch_begin(struct batch *batch, const struct change *begin)
{
    batch->final_lsn = begin->final_lsn;
    batch->commit_time_us = begin->commit_time_us;
    batch->xid = begin->xid;
    batch->in_transaction = true;
    if (batch->first_lsn == 0)
        batch->first_lsn = begin->final_lsn;
}

void batch_commit(struct batch *batch, const struct change *commit)
{
    batch->end_lsn = commit->end_lsn;
    batch->last_commit_time_us = batch->commit_time_us;
    batch->ntransactions++;
    batch->in_transaction = false;
    if (batch->first_commit_us == 0)
        batch->first_commit_us = clock_now_us();
}

void batch_continue(struct batch *batch, const struct batch *from)
{
    batch->final_lsn = batch->first_lsn = from->final_lsn;
    batch->commit_time_us = from->commit_time_us;
    batch->xid = from->xid;
    batch->in_transaction = true;
    batch->is_continuation = true;
}

bool batch_is_full(const struct batch *batch)
{
    return batch->nchanges >= batch->limits.max_rows ||
           (int64_t) batch->arena.used_bytes >= batch->limits.max_bytes;
}

bool batch_is_empty(const struct batch *batch)
{
    return batch->first == NULL && !batch->has_message && !batch->is_continuation;
}

/* ---- the hash ---- */

static uint64_t hash_key(const struct value *key, int nkeys)
{
    uint64_t hash = 0;

    for (int i = 0; i < nkeys; i++)
        hash = (hash << 7 | hash >> 57) ^ map_hash(key[i].data, key[i].len);
    return hash;
}

static bool same_key(const struct value *a, const struct value *b, int nkeys)
{
    for (int i = 0; i < nkeys; i++)
        if (a[i].len != b[i].len || memcmp(a[i].data, b[i].data, a[i].len) != 0)
            return false;
    return true;
}

static void grow_slots(struct batch_table *rows)
{
    uint32_t size = rows->slots_size ? rows->slots_size * 2 : 64;
    struct batch_row **slots = memory_alloc(size * sizeof(*slots));

    for (int i = 0; i < rows->nrows; i++) {
        uint32_t at = (uint32_t) rows->rows[i]->hash & (size - 1);

        while (slots[at] != NULL)
            at = (at + 1) & (size - 1);
        slots[at] = rows->rows[i];
    }
    free(rows->slots);
    rows->slots = slots;
    rows->slots_size = size;
}

static void touch(struct batch *batch, struct batch_table *rows)
{
    if (!rows->is_touched) {
        rows->is_touched = true;
        *batch->last = rows;
        batch->last = &rows->next;
    }
}

/* The row of a key, made if it is new: then is_new is true and only key and hash are set. */
static struct batch_row *find_row(struct batch *batch, struct batch_table *rows,
                                  const struct value *key, bool *ret_is_new)
{
    int nkeys = rows->table->nkeys;
    uint64_t hash = hash_key(key, nkeys);
    struct batch_row *row;
    struct value *copy;
    size_t bytes = 0;
    uint32_t at;
    char *data;

    if ((uint32_t) rows->nrows * 2 >= rows->slots_size)
        grow_slots(rows);
    for (at = (uint32_t) hash & (rows->slots_size - 1); rows->slots[at] != NULL;
         at = (at + 1) & (rows->slots_size - 1)) {
        row = rows->slots[at];
        if (row->hash == hash && same_key(row->key, key, nkeys)) {
            *ret_is_new = false;
            return row;
        }
    }
    touch(batch, rows);
    for (int i = 0; i < nkeys; i++)
        bytes += key[i].len;
    row = arena_zalloc(&batch->arena, sizeof(*row));
    copy = arena_alloc(&batch->arena, sizeof(*copy) * (size_t) nkeys + bytes);
    data = (char *) (copy + nkeys);
    for (int i = 0; i < nkeys; i++) {
        memcpy(data, key[i].data, key[i].len);
        copy[i] = (struct value){.data = data, .len = key[i].len, .kind = VALUE_TEXT};
        data += key[i].len;
    }
    row->hash = hash;
    row->key = copy;
    if (rows->nrows == rows->rows_size) {
        rows->rows_size = rows->rows_size ? rows->rows_size * 2 : 64;
        rows->rows = memory_resize(rows->rows,
                                   (size_t) rows->rows_size * sizeof(struct batch_row *));
    }
    rows->slots[at] = row;
    rows->rows[rows->nrows++] = row;
    *ret_is_new = true;
    return row;
}

/* ---- images ---- */

/*
 * The change's values in the table's column order, as pointers into the message.  Only an update
 * has unchanged values to leave out; an insert that lacks one cannot be completed from the mirror
 * (P4), and with wal2json it is the first that tells of a dropped column that might be a hole.
 */
static bool gather(const struct binding *binding, const struct change *change,
                   struct value *ret_values, struct arena *arena, struct error *err)
{
    const struct table *table = binding->table;
    const struct value *from = change->values;

    for (int i = 0; i < table->ncolumns; i++)
        ret_values[i] = (struct value){.kind = VALUE_ABSENT};
    for (int i = 0; i < binding->relation->ncolumns; i++) {
        int column = binding->column[i];

        if (column >= 0) {
            ret_values[column] = from[i];
            if (table->columns[column].mask != MASK_NONE)
                mask_value(table->columns[column].mask, &ret_values[column], arena);
        }
    }
    for (int i = 0; i < table->ncolumns; i++) {
        if (ret_values[i].kind == VALUE_ABSENT &&
            !(table->columns[i].is_toastable && change->kind == CHANGE_UPDATE)) {
            error_set(err, ERROR_FAILED, "%s: the source no longer sends the column \"%s\"",
                      table->label, table->columns[i].name);
            return error_hint(err, "it was dropped or renamed there, or the publication filters "
                                   "rows: exclude it in the configuration, or destroy the "
                                   "pipeline and copy anew");
        }
    }
    return true;
}

/*
 * A key column is never NULL on the source: what came as null is a number that wal2json before 2.6
 * has no word for (P7), and which of the three it is nobody can say.
 */
static bool refuse_null_key(const struct table *table, int column, struct error *err)
{
    error_set(err, ERROR_DATA,
              "%s: the key column \"%s\" of a change is NaN or infinite, which wal2json before 2.6 "
              "cannot send",
              table->label, table->columns[column].name);
    return error_hint(err,
                      "install wal2json 2.6 on the source and start anew, then tailwater resync "
                      "%s where it was quarantined; or destroy the pipeline and copy anew "
                      "with source: {plugin: pgoutput}",
                      table->label);
}

static bool is_lost_number(const struct table *table, int column, const struct value *value)
{
    return value->kind == VALUE_NULL && table->columns[column].is_nan_capable;
}

/* The key's values out of a row image, in the key's order. */
static bool gather_key(const struct table *table, const struct value *values, struct value *ret_key,
                       struct error *err)
{
    for (int i = 0; i < table->nkeys; i++) {
        ret_key[i] = values[table->keys[i]];
        if (is_lost_number(table, table->keys[i], &ret_key[i]))
            return refuse_null_key(table, table->keys[i], err);
        if (ret_key[i].kind != VALUE_TEXT)
            return error_set(err, ERROR_PROTOCOL,
                             "%s: a change without a value for its key column \"%s\"", table->label,
                             table->columns[table->keys[i]].name);
    }
    return true;
}

/* The old key out of an identity, which holds the key's columns only. */
static bool gather_old_key(const struct binding *binding, const struct value *old,
                           struct value *ret_key, struct error *err)
{
    const struct table *table = binding->table;
    int found = 0;

    for (int i = 0; i < binding->relation->ncolumns; i++) {
        for (int k = 0; k < table->nkeys; k++) {
            if (binding->column[i] != table->keys[k])
                continue;
            if (is_lost_number(table, table->keys[k], &old[i]))
                return refuse_null_key(table, table->keys[k], err);
            if (old[i].kind == VALUE_TEXT) {
                ret_key[k] = old[i];
                found++;
            }
        }
    }
    if (found == table->nkeys)
        return true;
    return error_set(err, ERROR_PROTOCOL, "%s: a change whose identity lacks columns of the key",
                     table->label);
}

/* Store an image in the row.  Holes keep what under holds (the row's image so far, or another
 * row's), if anything. */
static void store(struct batch *batch, struct batch_row *row, const struct table *table,
                  const struct value *values, const struct value *under)
{
    size_t bytes = 0, head = sizeof(struct value) * (size_t) table->ncolumns;
    bool has_holes = false, is_in_place;
    struct value *to;
    char *data;

    for (int i = 0; i < table->ncolumns; i++) {
        const struct value *value = values[i].kind == VALUE_ABSENT && under ? &under[i]
                                                                            : &values[i];

        bytes += value->kind == VALUE_TEXT ? value->len : 0;
        has_holes |= value->kind == VALUE_ABSENT;
    }
    is_in_place = row->values != NULL && under == NULL && bytes <= row->capacity;
    to = is_in_place ? row->values : arena_alloc(&batch->arena, head + bytes);
    data = (char *) (to + table->ncolumns);
    for (int i = 0; i < table->ncolumns; i++) {
        const struct value *value = values[i].kind == VALUE_ABSENT && under ? &under[i]
                                                                            : &values[i];

        to[i].kind = value->kind;
        to[i].len = 0;
        if (value->kind != VALUE_TEXT)
            continue;
        memcpy(data, value->data, value->len);
        to[i].data = data;
        to[i].len = value->len;
        data += value->len;
    }
    if (!is_in_place)
        row->capacity = (uint32_t) bytes;
    row->values = to;
    row->data_bytes = (uint32_t) bytes;
    row->has_holes = has_holes;
    row->is_gone = false;
}

static void stamp(const struct batch *batch, struct batch_row *row)
{
    row->lsn = batch->final_lsn;
    row->commit_time_us = batch->commit_time_us;
    row->xid = batch->xid;
}

static void make_gone(const struct batch *batch, struct batch_row *row)
{
    row->values = NULL;
    row->capacity = row->data_bytes = 0;
    row->base = NULL;
    row->has_holes = false;
    row->is_gone = true;
    stamp(batch, row);
}

/* ---- the kinds of change ---- */

static bool has_absent(const struct value *values, int count)
{
    for (int i = 0; i < count; i++)
        if (values[i].kind == VALUE_ABSENT)
            return true;
    return false;
}

/* In the order of commits: a line before the newest one of its table does not come back, but where the
 * source's clock was set. */
static void count(struct batch *batch, struct batch_table *rows, enum volume_kind kind)
{
    const int64_t hour = batch->commit_time_us / VOLUME_HOUR_US;
    struct volume_line *line = rows->volume;

    if (line == NULL || line->hour != hour) {
        line = arena_zalloc(&batch->arena, sizeof(*line));
        line->table = rows->table;
        line->hour = hour;
        line->next = batch->volumes;
        batch->volumes = rows->volume = line;
    }
    volume_count(&line->counts, kind, batch->commit_time_us);
}

static bool add_insert(struct batch *batch, struct batch_table *rows, const struct binding *binding,
                       const struct change *change, struct error *err)
{
    const struct table *table = rows->table;
    struct value *values = batch->scratch.values, *key = batch->scratch.key;
    struct batch_row *row;
    bool is_new;

    if (!gather(binding, change, values, &batch->arena, err) ||
        !gather_key(table, values, key, err))
        return false;
    count(batch, rows, VOLUME_INSERT);
    row = find_row(batch, rows, key, &is_new);
    store(batch, row, table, values, NULL);
    row->base = NULL;
    row->is_insert |= is_new;
    stamp(batch, row);
    return true;
}

static bool add_update(struct batch *batch, struct batch_table *rows, const struct binding *binding,
                       const struct change *change, struct error *err)
{
    const struct table *table = rows->table;
    struct value *values = batch->scratch.values, *key = batch->scratch.key;
    struct value *old_key = batch->scratch.old_key;
    struct batch_row *row, *old = NULL;
    bool is_new, is_old_new = false;

    if (!gather(binding, change, values, &batch->arena, err) ||
        !gather_key(table, values, key, err))
        return false;
    if (change->old != NULL) {
        if (!gather_old_key(binding, change->old, old_key, err))
            return false;
        if (!same_key(key, old_key, table->nkeys))
            old = find_row(batch, rows, old_key, &is_old_new);
    }
    count(batch, rows, VOLUME_UPDATE);
    row = find_row(batch, rows, key, &is_new);
    if (old == NULL) {
        const struct value *under = !is_new && !row->is_gone ? row->values : NULL;

        store(batch, row, table, values, has_absent(values, table->ncolumns) ? under : NULL);
        stamp(batch, row);
        return true;
    }

    /* A key change: the new key takes over what the batch knows of the old one, and the old one's
     * base. */
    store(batch, row, table, values, !is_old_new && !old->is_gone ? old->values : NULL);
    row->base = NULL;
    if (row->has_holes) {
        row->base = !is_old_new && !old->is_gone && old->base ? old->base : old;
        row->base->is_base = true;
        if (row->base == row)
            row->base = NULL;
    }
    row->is_insert |= is_new;
    stamp(batch, row);
    make_gone(batch, old);
    return true;
}

static bool add_delete(struct batch *batch, struct batch_table *rows, const struct binding *binding,
                       const struct change *change, struct error *err)
{
    struct value *key = batch->scratch.key;
    bool is_new;

    if (!gather_old_key(binding, change->old, key, err))
        return false;
    if (rows->table->deletes == DELETES_IGNORE)
        return true;
    count(batch, rows, VOLUME_DELETE);
    make_gone(batch, find_row(batch, rows, key, &is_new));
    return true;
}

bool batch_add(struct batch *batch, const struct binding *binding, const struct change *change,
               struct error *err)
{
    struct batch_table *rows = &batch->tables[binding->table->index];

    if (batch_skips(batch, binding->table))
        return true;
    batch->nchanges++;
    switch (change->kind) {
    case CHANGE_INSERT:
        return add_insert(batch, rows, binding, change, err);
    case CHANGE_UPDATE:
        return add_update(batch, rows, binding, change, err);
    case CHANGE_DELETE:
        return add_delete(batch, rows, binding, change, err);
    case CHANGE_NONE:
    case CHANGE_BEGIN:
    case CHANGE_COMMIT:
    case CHANGE_TRUNCATE:
    case CHANGE_MESSAGE:
        break;
    }
    return error_set(err, ERROR_BUG, "a change of kind %d is not a row's", (int) change->kind);
}

bool batch_truncate(struct batch *batch, const struct table *table, struct error *err)
{
    struct batch_table *rows = &batch->tables[table->index];

    if (batch_skips(batch, table))
        return true;
    switch (table->truncate) {
    case TRUNCATE_IGNORE:
        return true;
    case TRUNCATE_STOP:
        error_set(err, ERROR_FAILED, "%s was truncated on the source at " LSN_FORMAT, table->label,
                  LSN_ARGS(batch->final_lsn));
        return error_hint(
            err, "its configuration says truncate: stop; set truncate: apply or ignore, and "
                 "run again");
    case TRUNCATE_APPLY:
        break;
    }
    touch(batch, rows);
    batch->nchanges++;
    count(batch, rows, VOLUME_TRUNCATE);
    forget_rows(rows);
    rows->is_truncated = true;
    rows->truncate_lsn = batch->final_lsn;
    rows->truncate_time_us = batch->commit_time_us;
    return true;
}
