/* What the ddl_*.c share. */
#ifndef TAILWATER_DDL_INTERNAL_H
#define TAILWATER_DDL_INTERNAL_H

#include "mirror/ddl.h"

/* What a step of ddl_attempt() works on; each fills what it needs. */
struct ddl_step {
    const char *pipeline;
    const struct catalog *catalog;
    const struct catalog_type *type;
    const struct table *table;
    const struct table_index *index;
    struct notes *notes;
    int nnotes; /* as they were before the step: a repeated one says its notes once */
};

/* An error that concerns a definition only: the mirror works without the thing. */
bool ddl_may_be_left_out(const struct error *err);

/* Where somebody made the same thing since we looked, the step is to be tried again.  Returns
 * false. */
bool ddl_made_meanwhile(struct error *err);

/* After a step that may not create in a schema: the statement for its owner. */
void ddl_hint_schema(struct pg *mirror, const char *schema, struct error *err);

void ddl_add_table_name(struct buf *sql, const struct table *table);

/* Is there no modifier in the type's name, as in "numeric(12,2)"? */
bool ddl_is_bare_type(const char *type);

/* SQL: is the column a (of pg_attribute) of the type e.type, where e.bare says ddl_is_bare_type()?
 * By its usual text, or as a type without modifier, however it is written. */
#define DDL_SAME_TYPE                                                                              \
    "coalesce(format_type(a.atttypid, a.atttypmod) = e.type "                                      \
    "OR (e.bare AND a.atttypmod = -1 AND to_regtype(e.type) = a.atttypid), false)"

#endif
