/* Numbers travel as array literals: there is nothing in them to quote but the facts' names, which
 * are plain identifiers. */
#include "ledger/statistic.h"

#include <inttypes.h>

enum { FACT, NODE, ROWS, KEYS, DEFERRED, NULLS, ARRAYS };

/* Of one node, taken out of its counters. */
struct taken {
    struct fact_counts *from;
    int64_t rows, keys, deferred, nulls;
};

static bool take(struct taken *taken, struct fact_counts *counts)
{
    *taken = (struct taken){.from = counts,
                            .rows = atomic_exchange(&counts->rows, 0),
                            .keys = atomic_exchange(&counts->keys, 0),
                            .deferred = atomic_exchange(&counts->deferred, 0),
                            .nulls = atomic_exchange(&counts->nulls, 0)};
    return (taken->rows | taken->keys | taken->deferred | taken->nulls) != 0;
}

static void give_back(const struct taken *taken)
{
    taken->from->rows += taken->rows;
    taken->from->keys += taken->keys;
    taken->from->deferred += taken->deferred;
    taken->from->nulls += taken->nulls;
}

static void add_number(struct buf *array, int64_t value)
{
    buf_printf(array, "%s%" PRId64, array->len > 0 ? "," : "{", value);
}

static void add_taken(struct buf arrays[ARRAYS], const char *fact, int node,
                      const struct taken *taken)
{
    buf_printf(&arrays[FACT], "%s%s", arrays[FACT].len > 0 ? "," : "{", fact);
    add_number(&arrays[NODE], node);
    add_number(&arrays[ROWS], taken->rows);
    add_number(&arrays[KEYS], taken->keys);
    add_number(&arrays[DEFERRED], taken->deferred);
    add_number(&arrays[NULLS], taken->nulls);
}

static bool add(struct pg *mirror, struct buf arrays[ARRAYS], struct error *err)
{
    const char *params[ARRAYS];
    _cleanup_result_ struct pg_result *done = NULL;

    for (int i = 0; i < ARRAYS; i++) {
        buf_add_char(&arrays[i], '}');
        params[i] = buf_text(&arrays[i]);
    }
    return pg_query(mirror,
                    "select tailwater.add_statistics($1::text[], $2::smallint[], $3::bigint[], "
                    "$4::bigint[], $5::bigint[], $6::bigint[])",
                    ARRAYS, params, &done, err) ||
           error_wrap(err, "adding to the ledger's statistics");
}

bool statistic_flush(struct pg *mirror, const struct fact_list *facts, struct error *err)
{
    struct buf arrays[ARRAYS] = {{0}};
    struct arena arena = {0};
    struct taken *taken;
    int count = 0, nnodes = 0;
    bool is_ok;

    for (int i = 0; i < facts->count; i++)
        nnodes += facts->facts[i].nnodes;
    taken = arena_new(&arena, struct taken, nnodes);
    for (int i = 0; i < facts->count; i++)
        for (int j = 0; j < facts->facts[i].nnodes; j++)
            if (take(&taken[count], facts->facts[i].nodes[j].counts))
                add_taken(arrays, facts->facts[i].name, j, &taken[count++]);
    is_ok = count == 0 || add(mirror, arrays, err);
    for (int i = 0; i < count && !is_ok; i++)
        give_back(&taken[i]);
    for (int i = 0; i < ARRAYS; i++)
        buf_release(&arrays[i]);
    arena_release(&arena);
    return is_ok;
}

bool statistic_close_hours(struct pg *mirror, const char *pipeline, const atomic_bool *stop,
                           struct error *err)
{
    bool is_more = true;

    while (is_more && !*stop) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_query_row(mirror, "select tailwater.close_hour($1)", 1, &pipeline, &result, err))
            return error_wrap(err, "counting an hour's distinct keys");
        is_more = pg_bool(result, 0, 0);
    }
    return true;
}
