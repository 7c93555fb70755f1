/*
 * Independent readers of what src/pg/codec.h and src/mirror/params.h write: the wire forms as
 * PostgreSQL's receive functions and COPY read them, and the text that its output functions make of
 * them.  They share no code with what they check, and end the program where something is wrong.
 */
#ifndef TAILWATER_FUZZ_CHECK_H
#define TAILWATER_FUZZ_CHECK_H

#include "base/buf.h"
#include "mirror/params.h"
#include "pg/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The text that the server prints for the binary value; false: it would refuse that value. */
bool check_print(enum column_wire wire, const unsigned char *data, size_t len, struct buf *out);

/* text, which codec_add() took, in the spelling that the server prints: without the leading zeros,
 * trailing ones and signs of zero that it would read but not write. */
void check_normalise(enum column_wire wire, const char *text, size_t len, struct buf *out);

/* The binary value is what the server's input function makes of text. */
void check_value(enum column_wire wire, const char *text, size_t len, const unsigned char *data,
                 size_t data_len);

/* The parameters hold the rows, element by element. */
void check_params(const struct params *params, const struct table *table,
                  const struct statement_slot *slots, struct batch_row *const *rows, int nrows);

/* One line of COPY's text format, one row of its binary one: they hold the row. */
void check_text_row(const struct table *table, const struct batch_row *row, const char *line,
                    size_t len);
void check_binary_row(const struct table *table, const struct batch_row *row,
                      const unsigned char *data, size_t len);

#endif
