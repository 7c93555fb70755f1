/*
 * Changes of the configuration's file that a command makes for a person: a table is listed, or no longer.
 * The rest of the file stays as it is written, comments too.
 */
#ifndef TAILWATER_EDIT_H
#define TAILWATER_EDIT_H

#include "config/config.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

/* A file's new text, written beside it; it takes its place with edit_commit(). */
struct edit {
    char *file, *new_file; /* the file itself where config->file is a link */
};

/* Is the table taken by config, and (*ret_is_named) by an entry without wildcards? */
bool edit_is_taken(const struct config *config, const char *schema, const char *name,
                   bool *ret_is_named);

/*
 * The last entry becomes one that names the table, with nothing else said of it; one that takes away
 * this table alone goes.  ERROR_CONFIG where the
 * list is written in a way that is not understood: then the hint says what to write by hand.
 */
bool edit_add_table(const struct config *config, const char *schema, const char *name,
                    struct arena *arena, struct edit *ret_edit, struct error *err);

/* Its own entries go; where a pattern still takes it, an entry "!schema.name" follows as the last one. */
bool edit_remove_table(const struct config *config, const char *schema, const char *name,
                       struct arena *arena, struct edit *ret_edit, struct error *err);

bool edit_commit(const struct edit *edit, struct error *err);

/* After edit_commit() too. */
void edit_release(struct edit *edit);
#define _cleanup_edit_ __attribute__((cleanup(edit_release)))

#endif
