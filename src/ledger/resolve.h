/*
 * Resolution: from the rows that a batch changes to the keys of facts, inside the batch's own
 * transaction (capture.h).
 *
 * A fact's own table: the write statements put the keys of changed rows, old and new, straight into
 * the fact's ledger.  A dimension: they return the old and new values of its links, and after the
 * writes these are followed towards the fact, one mirror table per statement, through the mirror as
 * it is after the batch.  That is complete: take the changed row nearest to the fact; everything
 * between it and the fact is unchanged.  It stays complete when it is done later, so what would be
 * too much for the batch is left in tailwater.fan_out (src/ledger/expansion.h).
 */
#ifndef TAILWATER_RESOLVE_H
#define TAILWATER_RESOLVE_H

#include "ledger/fact.h"
#include "mirror/capture.h"

/* The SQLSTATE of a key expression that failed; the message says "fact NAME: …". */
#define RESOLVE_KEY_FAILED "TW003"

struct resolve;

/*
 * For one session of the applier.  facts and tables are the caller's and outlive it.  Suspended
 * facts take part in nothing.  is_guarded: key expressions are evaluated one by one, slowly, so
 * that one that fails is told from a row that the mirror refuses (RESOLVE_KEY_FAILED).
 */
struct resolve *resolve_new(const char *pipeline, const struct table_list *tables,
                            const struct fact_list *facts, bool is_guarded);
void resolve_free(struct resolve *resolve);

/* For apply_new(); NULL where there is nothing to resolve. */
const struct capture_sink *resolve_sink(const struct resolve *resolve);

/* Is there a key that is an expression, and so may fail? */
bool resolve_has_expressions(const struct fact_list *facts);

/* The fact that a RESOLVE_KEY_FAILED is about; NULL where the error is another one. */
struct fact *resolve_failed_fact(const struct fact_list *facts, const struct error *err);

#endif
