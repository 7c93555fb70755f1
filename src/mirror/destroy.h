/*
 * The end of a pipeline on the mirror's side: live views, mirror tables, the ledger, the types and schemas
 * that were made for it, and its rows in the control schema; with the last pipeline the control schema
 * too.
 *
 * Only what the control schema calls ours is touched, and nothing with CASCADE: what something else
 * depends on stays, keeps its control row, and is named in kept with what holds it, so that the
 * same again finishes the job later.
 */
#ifndef TAILWATER_DESTROY_H
#define TAILWATER_DESTROY_H

#include "mirror/control.h"
#include "mirror/notes.h"
#include "pg/pg.h"
#include "tailwater/error.h"

#include <stdbool.h>

struct destroy_options {
    bool is_dry_run; /* changes nothing; removed says what would go */
    bool
        is_keeping_tables; /* only the control rows and the ledger go: mirror tables, live views, types and
                               schemas stay as they are */
};

/*
 * removed, kept: one line per thing.  *ret_finished false where a mirror table or live view had to
 * stay: its row and the pipeline's stay with it, and the same call finishes the job once what holds
 * it is gone.  The caller holds the pipeline's lock.
 */
bool destroy_mirror(struct pg *mirror, const char *pipeline, struct destroy_options options,
                    struct notes *removed, struct notes *kept, bool *ret_finished,
                    struct error *err);

/*
 * One table of a pipeline that goes on, which nobody follows any more: its live view, mirror table and
 * control row.  *ret_gone false: something depends on it; it stays as it is, and is named in kept.
 */
bool destroy_table(struct pg *mirror, const char *pipeline, const struct control_table *table,
                   struct notes *removed, struct notes *kept, bool *ret_gone, struct error *err);

#endif
