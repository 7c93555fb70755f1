/* A range is some 6000 keys and a millisecond, and a transaction of its own.  How far they are whole
 * is written down every now and then, so that little is made anew after a stop, which cancels what is
 * under way. */
#include "ledger/summary.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define MOST_RANGES 200 /* a round, all partitions together */
#define NOTE_RANGES 20
#define REST_US     3000

struct index {
    const char *oid;
    int64_t at, end, step; /* blocks */
};

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = REST_US * 1000}, NULL);
}

static bool call(struct pg *mirror, const char *sql, const struct index *index, struct error *err)
{
    _cleanup_result_ struct pg_result *done = NULL;
    char block[24];
    const char *params[] = {index->oid, block};

    snprintf(block, sizeof(block), "%" PRId64, index->at);
    return pg_query(mirror, sql, 2, params, &done, err);
}

static bool note(struct pg *mirror, const struct index *index, struct error *err)
{
    return call(mirror, "select tailwater.ranges_are_whole($1::oid, $2::bigint)", index, err);
}

static bool summarize(struct pg *mirror, struct index *index, int *left, const atomic_bool *stop,
                      struct error *err)
{
    for (int done = 0; *left > 0 && !*stop && index->at < index->end; done++, --*left) {
        if ((done > 0 && done % NOTE_RANGES == 0 && !note(mirror, index, err)) ||
            !call(mirror, "select tailwater.summarize_range($1::oid, $2::bigint)", index, err))
            return false;
        index->at += index->step;
        rest();
    }
    return note(mirror, index, err);
}

bool summary_run(struct pg *mirror, const char *pipeline, const atomic_bool *stop,
                 struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;
    struct error later;
    int left = MOST_RANGES;
    bool is_ok = true;

    if (!pg_query(mirror, "select index, first, \"end\", step from tailwater.ledger_ranges($1)", 1,
                  &pipeline, &rows, err))
        return error_wrap(err, "looking for parts of the ledger that its indexes do not know");
    for (int row = 0; row < pg_rows(rows) && left > 0 && !*stop && !pg_is_broken(mirror); row++) {
        struct index index = {.oid = pg_text(rows, row, 0),
                              .at = pg_int(rows, row, 1),
                              .end = pg_int(rows, row, 2),
                              .step = pg_int(rows, row, 3)};

        /* One that cannot be had, or is gone since, keeps nobody from the others. */
        if (!summarize(mirror, &index, &left, stop, is_ok ? err : &later))
            is_ok = false;
    }
    return is_ok || error_wrap(err, "bringing an index of the ledger up to date");
}
