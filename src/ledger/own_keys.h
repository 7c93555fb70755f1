/*
 * Keys of rows of a fact's own table, many at a time: lines as the server gave them (capture.h),
 * copied into the fact's ledger within the batch's transaction.
 */
#ifndef TAILWATER_OWN_KEYS_H
#define TAILWATER_OWN_KEYS_H

#include "base/buf.h"
#include "ledger/fact.h"
#include "pg/pg.h"

/*
 * lines: "1\n2\n…", each the columns of a key as COPY's text has them, with tabs between; the last has
 * its newline too.  count is how many there are: another number is an error.  pg is in pipeline mode,
 * and everything sent over it is answered; it is so again afterwards.
 */
bool own_keys_copy(struct pg *pg, const struct fact *fact, int64_t number, const struct buf *lines,
                   int64_t count, struct error *err);

#endif
