/*
 * Values for array parameters and COPY: PostgreSQL's text form in, its binary form out, so that the mirror
 * does not parse text for the common types; and the text array for every other type.
 *
 * The binary form is exact: what the server reads from it is what its input function makes of the
 * text.  Where that cannot be promised (an unusual spelling, a value out of range) the functions
 * say so, and the caller sends that whole parameter as a text array instead: the server then
 * refuses or takes the value with its own words.
 */
#ifndef TAILWATER_CODEC_H
#define TAILWATER_CODEC_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * How a column's values travel to the mirror.  The named ones have a binary form that is made here
 * from the text form; WIRE_TEXT is any other scalar (text array of the column's own type);
 * WIRE_CAST are arrays, composites and whatever unnest would take apart: text[] with a cast per
 * row.
 */
enum column_wire {
    WIRE_CAST,
    WIRE_TEXT,
    WIRE_BOOL,
    WIRE_INT2,
    WIRE_INT4,
    WIRE_INT8,
    WIRE_OID,
    WIRE_FLOAT4,
    WIRE_FLOAT8,
    WIRE_NUMERIC,
    WIRE_STRING, /* text, varchar, bpchar, json, name, xml: the binary form is the text itself */
    WIRE_JSONB,
    WIRE_BYTEA,
    WIRE_UUID,
    WIRE_DATE,
    WIRE_TIMESTAMP,
    WIRE_TIMESTAMPTZ
};

static inline bool codec_is_binary(enum column_wire wire)
{
    return wire != WIRE_CAST && wire != WIRE_TEXT;
}

/*
 * Append one value: its int32 length and its bytes, as elements of binary arrays and values of
 * binary COPY have it.  False, and out as it was: this value has no binary form here.
 */
bool codec_add(enum column_wire wire, const char *data, uint32_t len, struct buf *out)
    __attribute__((warn_unused_result));

/* NULL: the length -1. */
void codec_add_null(struct buf *out);

/*
 * A one-dimensional binary array: begin, then count times codec_add() or codec_add_null(), then
 * end. element_oid is the mirror's, of a built-in type (array_recv() compares it).  begin returns
 * the place that end fills in; out may hold other things before it.
 */
size_t codec_array_begin(struct buf *out, uint32_t element_oid);
void codec_array_end(struct buf *out, size_t place, uint32_t count, bool has_null);

/* A one-dimensional array in text form: {"a","b\"c",NULL}.  data NULL is NULL. */
void codec_text_array_begin(struct buf *out);
void codec_text_array_add(struct buf *out, const char *data, uint32_t len);
void codec_text_array_end(struct buf *out);

/* One value as COPY's text format has it, escaped. */
void codec_copy_add(struct buf *out, const char *data, uint32_t len);

#endif
