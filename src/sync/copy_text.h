/* One line of COPY … TO STDOUT in text format, taken apart. */
#ifndef TAILWATER_COPY_TEXT_H
#define TAILWATER_COPY_TEXT_H

#include "tailwater/arena.h"
#include "tailwater/change.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Fills ret_values with the line's ncolumns values, VALUE_NULL or VALUE_TEXT, unescaped, all in
 * arena.  False where the line has another number of columns, an escape that COPY does not write, or
 * no end: *ret_values is then undefined.
 */
bool copy_text_parse(const char *line, size_t len, int ncolumns, struct arena *arena,
                     struct value *ret_values);

#endif
