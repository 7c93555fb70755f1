/*
 * Live views: what people query.  The source's columns in the source's order, generated ones
 * included, of the rows that are not tombstones, under the source's schema and name.
 *
 * A live view runs with its owner's rights, so that readers need none on the mirror schemas.
 * Readers get USAGE on the view's schema and SELECT on the view; nothing is revoked here when a
 * reader leaves the configuration.
 */
#ifndef TAILWATER_VIEWS_H
#define TAILWATER_VIEWS_H

#include "batch/table.h"
#include "mirror/notes.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>

/*
 * Make the table's live view and mark the table ready: state indexed → ready, in one transaction.
 * In state ready it makes the view where somebody dropped it.  A relation in the way that is not
 * our view is refused (ERROR_CONFIG). Idempotent.
 */
bool views_create(struct pg *mirror, const char *pipeline, const struct table *table,
                  struct error *err);

/*
 * Give the readers what they lack on the live views of all ready tables: after views_create(), and
 * at every start, since the configuration may name new readers.  A role that does not exist is
 * ERROR_CONFIG.  Where our role may not grant USAGE on a schema (it is not ours), the statement for
 * its owner goes to notes.
 */
bool views_grant(struct pg *mirror, const char *pipeline, const char *const *readers, int nreaders,
                 struct notes *notes, struct error *err);

/* What stands under a live view's name. */
enum views_found {
    VIEWS_NOTHING,
    VIEWS_OURS,   /* a view that reads the mirror table */
    VIEWS_FOREIGN /* any other relation */
};

bool views_find(struct pg *mirror, const char *view_schema, const char *view_name,
                const char *mirror_schema, const char *mirror_name, enum views_found *ret_found,
                struct error *err);

#endif
