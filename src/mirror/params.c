/*
 * Each parameter is an array in binary, where every value of it has a binary form that
 * src/pg/codec.h can make; else the whole parameter is text.  WIRE_CAST columns are arrays of text,
 * in binary too: the statement casts each row.
 */
#include "mirror/params.h"

#include "base/clock.h"
#include "base/memory.h"
#include "pg/codec.h"

#include <assert.h>
#include <stdlib.h>

#define KEPT_BYTES      (8 << 20)
#define OID_BOOL        16
#define OID_TEXT        25
#define OID_TIMESTAMPTZ 1184
#define OID_LSN         3220

void params_release(struct params *params)
{
    for (int i = 0; i < params->size; i++)
        buf_release(&params->bufs[i]);
    free(params->bufs);
    free(params->params);
    *params = (struct params){0};
}

static void reserve(struct params *params, int count)
{
    if (count <= params->size)
        return;
    params->bufs = memory_resize(params->bufs, (size_t) count * sizeof(*params->bufs));
    params->params = memory_resize(params->params, (size_t) count * sizeof(*params->params));
    for (int i = params->size; i < count; i++)
        params->bufs[i] = (struct buf){0};
    params->size = count;
}

/* The value of a column in a row; a gone row has its key only. */
static const struct value *row_value(const struct table *table, const struct batch_row *row,
                                     int column)
{
    static const struct value null = {.kind = VALUE_NULL};

    if (row->values != NULL)
        return &row->values[column];
    for (int i = 0; i < table->nkeys; i++)
        if (table->keys[i] == column)
            return &row->key[i];
    return &null;
}

static const struct value *base_key_value(const struct table *table, const struct batch_row *row,
                                          int column)
{
    const struct batch_row *base = row->base ? row->base : row;

    for (int i = 0; i < table->nkeys; i++)
        if (table->keys[i] == column)
            return &base->key[i];
    assert(!"only columns of the key have base keys");
    return NULL;
}

static const struct value *slot_value(const struct table *table, const struct statement_slot *slot,
                                      const struct batch_row *row)
{
    return slot->param == PARAM_BASE_KEY ? base_key_value(table, row, slot->column)
                                         : row_value(table, row, slot->column);
}

static enum column_wire array_wire(const struct table_column *column)
{
    return column->wire == WIRE_CAST ? WIRE_STRING : column->wire;
}

static bool fill_binary(struct buf *buf, const struct table *table,
                        const struct statement_slot *slot, struct batch_row *const *rows, int nrows)
{
    const struct table_column *column = &table->columns[slot->column];
    const enum column_wire wire = array_wire(column);
    bool has_null = false;
    size_t place;

    if (wire == WIRE_TEXT)
        return false;
    place = codec_array_begin(buf, column->wire == WIRE_CAST ? OID_TEXT : column->element_oid);
    for (int i = 0; i < nrows; i++) {
        const struct value *value = slot_value(table, slot, rows[i]);

        if (value->kind != VALUE_TEXT) {
            codec_add_null(buf);
            has_null = true;
        } else if (!codec_add(wire, value->data, value->len, buf)) {
            return false;
        }
    }
    codec_array_end(buf, place, (uint32_t) nrows, has_null);
    return true;
}

static void fill_text(struct buf *buf, const struct table *table, const struct statement_slot *slot,
                      struct batch_row *const *rows, int nrows)
{
    codec_text_array_begin(buf);
    for (int i = 0; i < nrows; i++) {
        const struct value *value = slot_value(table, slot, rows[i]);

        codec_text_array_add(buf, value->kind == VALUE_TEXT ? value->data : NULL, value->len);
    }
    codec_text_array_end(buf);
}

static void fill_meta(struct buf *buf, const struct statement_slot *slot,
                      struct batch_row *const *rows, int nrows)
{
    const uint32_t oid = slot->param == PARAM_LSN    ? OID_LSN
                         : slot->param == PARAM_TIME ? OID_TIMESTAMPTZ
                                                     : OID_BOOL;
    const size_t place = codec_array_begin(buf, oid);

    for (int i = 0; i < nrows; i++) {
        const struct batch_row *row = rows[i];

        if (oid == OID_BOOL) {
            bool is_true = slot->param == PARAM_GONE
                               ? row->is_gone
                               : row->is_gone || row->values[slot->column].kind != VALUE_ABSENT;

            buf_add_u32(buf, 1);
            buf_add_char(buf, is_true ? 1 : 0);
        } else {
            buf_add_u32(buf, 8);
            buf_add_u64(buf, slot->param == PARAM_LSN
                                 ? row->lsn
                                 : (uint64_t) (row->commit_time_us - CLOCK_POSTGRES_EPOCH_US));
        }
    }
    codec_array_end(buf, place, (uint32_t) nrows, false);
}

void params_fill(struct params *params, const struct table *table,
                 const struct statement_slot *slots, int nslots, struct batch_row *const *rows,
                 int nrows)
{
    reserve(params, nslots);
    params->count = nslots;
    for (int i = 0; i < nslots; i++) {
        struct buf *buf = &params->bufs[i];
        bool is_binary = true;

        if (buf->size > KEPT_BYTES)
            buf_release(buf); /* one huge row must not cost its size for ever */
        buf_clear(buf);
        if (slots[i].param != PARAM_COLUMN && slots[i].param != PARAM_BASE_KEY) {
            fill_meta(buf, &slots[i], rows, nrows);
        } else if (!fill_binary(buf, table, &slots[i], rows, nrows)) {
            buf_clear(buf);
            fill_text(buf, table, &slots[i], rows, nrows);
            is_binary = false;
        }
        params->params[i] = (struct pg_param){
            .data = buf->data, .len = buf->len, .is_binary = is_binary};
    }
}

bool params_is_binary(const struct table *table)
{
    for (int i = 0; i < table->ncolumns; i++)
        if (!codec_is_binary(table->columns[i].wire))
            return false;
    return true;
}

bool params_add_binary_row(struct buf *buf, const struct table *table, const struct batch_row *row)
{
    const size_t before = buf->len;

    buf_add_u16(buf, (uint16_t) (table->ncolumns + 1));
    for (int i = 0; i < table->ncolumns; i++) {
        const struct value *value = &row->values[i];

        if (value->kind != VALUE_TEXT) {
            codec_add_null(buf);
        } else if (!codec_add(table->columns[i].wire, value->data, value->len, buf)) {
            buf->len = before;
            return false;
        }
    }
    buf_add_u32(buf, 8);
    buf_add_u64(buf, row->lsn);
    return true;
}

/* COPY's text format: \N is NULL. */
void params_add_text_row(struct buf *buf, const struct table *table, const struct batch_row *row)
{
    char lsn[LSN_TEXT_SIZE];

    for (int i = 0; i < table->ncolumns; i++) {
        const struct value *value = &row->values[i];

        if (value->kind != VALUE_TEXT) {
            buf_add(buf, "\\N\t");
            continue;
        }
        codec_copy_add(buf, value->data, value->len);
        buf_add_char(buf, '\t');
    }
    buf_add(buf, lsn_text(row->lsn, lsn));
    buf_add_char(buf, '\n');
}
