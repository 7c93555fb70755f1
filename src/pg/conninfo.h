/* Connection strings as text, without connecting. */
#ifndef TAILWATER_CONNINFO_H
#define TAILWATER_CONNINFO_H

#include "base/buf.h"
#include "tailwater/error.h"

#include <stdbool.h>

/* Can libpq read it?  The message never repeats a part of a string that may hold a secret. */
bool conninfo_check(const char *conninfo, struct error *err);

/*
 * conninfo, in either of libpq's forms, as key=value text without its secrets (password, and
 * whatever else libpq does not show): each becomes KEYWORD=${PREFIX_KEYWORD}; one that is
 * a ${VARIABLE} already stays.  ret_variables gets the variables' names, one a line.  Fails
 * as conninfo_check() does.
 */
bool conninfo_strip(const char *conninfo, const char *prefix, struct buf *ret_conninfo,
                    struct buf *ret_variables, struct error *err);

#endif
