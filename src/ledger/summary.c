/* A range is some 6000 keys and a millisecond; a transaction of its own, so that a stop request,
 * which cancels the statement in hand, never takes back more than that. */
#include "ledger/summary.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define MOST_RANGES 200 /* a round, all partitions together */
#define REST_US     3000

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = REST_US * 1000}, NULL);
}

static bool call(struct pg *mirror, const char *sql, const char *index, int64_t block,
                 struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    char block_text[24];
    const char *params[] = {index, block_text};

    snprintf(block_text, sizeof(block_text), "%" PRId64, block);
    return pg_query(mirror, sql, 2, params, &done, err);
}

/* From *first on, which then says how far it came. */
static bool summarize(struct pg *mirror, const char *index, int64_t *first, int64_t end,
                      int64_t step, int *left, const atomic_bool *stop, struct error *err)
{
    for (; *first<end && * left> 0 && !*stop; *first += step, --*left) {
        if (!call(mirror, "select tailwater.summarize_range($1::oid, $2::bigint)", index, *first,
                  err))
            return false;
        rest();
    }
    return true;
}

bool summary_run(struct pg *mirror, const char *pipeline, const atomic_bool *stop,
                 struct error *err)
{
    _cleanup_result_ struct pg_result *indexes = NULL;
    int left = MOST_RANGES;

    if (!pg_query(mirror, "select index, first, \"end\", step from tailwater.ledger_ranges($1)", 1,
                  &pipeline, &indexes, err))
        return error_wrap(err, "looking for parts of the ledger that its indexes do not know");
    for (int row = 0; row < pg_rows(indexes) && left > 0 && !*stop; row++) {
        const char *index = pg_text(indexes, row, 0);
        int64_t block = pg_int(indexes, row, 1);

        if (!summarize(mirror, index, &block, pg_int(indexes, row, 2), pg_int(indexes, row, 3),
                       &left, stop, err) ||
            !call(mirror, "select tailwater.ranges_are_whole($1::oid, $2::bigint)", index, block,
                  err))
            return error_wrap(err, "bringing an index of the ledger up to date");
    }
    return true;
}
