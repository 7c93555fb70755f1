/*
 * The end of a pipeline on the mirror's side: live views, mirror tables, the types and schemas that
 * were made for it, and its rows in the control schema; with the last pipeline the control schema
 * too.
 *
 * Only what the control schema calls ours is touched, and nothing with CASCADE: what something else
 * depends on stays, keeps its control row, and is named in kept with what holds it, so that the
 * same again finishes the job later.
 */
#ifndef TAILWATER_DESTROY_H
#define TAILWATER_DESTROY_H

#include "mirror/notes.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>

/*
 * removed: one line per thing removed.  kept: one line per thing that had to stay; while there is
 * one, the pipeline's row stays as well.  The caller holds the pipeline's lock.
 */
bool destroy_mirror(struct pg *mirror, const char *pipeline, struct notes *removed,
                    struct notes *kept, struct error *err);

#endif
