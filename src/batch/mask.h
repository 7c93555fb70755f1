/* Masked columns: the same in the copy, the stream and the repair.  The copy and the repair mask on
 * the source, in SQL. */
#ifndef TAILWATER_MASK_H
#define TAILWATER_MASK_H

#include "config/policy.h"
#include "tailwater/arena.h"
#include "tailwater/change.h"

/* hash: the SHA-256 of the value's UTF-8 text, in lower-case hexadecimal; null: NULL.  Holes stay
 * holes. */
void mask_value(enum column_mask mask, struct value *value, struct arena *arena);

#endif
