/* ${ENV} in a value. */
#ifndef TAILWATER_EXPAND_H
#define TAILWATER_EXPAND_H

#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>

/* text with every ${NAME} replaced by the environment's and $${ by ${, from arena.  The message
 * names the variable, never a value. */
bool expand_text(const char *text, struct arena *arena, const char **ret_text, struct error *err);

/*
 * The same for a connection string.  In the key=value form a variable that is a whole value
 * (password=${P}) or stands between quotes is quoted by libpq's rules, so that any password works;
 * elsewhere, in URIs and where a variable is the whole string, it is put in as it is.
 */
bool expand_conninfo(const char *text, struct arena *arena, const char **ret_text,
                     struct error *err);

#endif
