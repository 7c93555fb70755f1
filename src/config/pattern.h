/* The pattern of a tables entry. */
#ifndef TAILWATER_PATTERN_H
#define TAILWATER_PATTERN_H

#include "config/config.h"

/*
 * Reads text into entry's pattern, schema, name, is_schema_glob, is_name_glob and is_excluded; the
 * rest of the entry is left alone.  The message does not repeat the text.
 */
bool pattern_parse(const char *text, struct arena *arena, struct config_table *entry,
                   struct error *err);

#endif
