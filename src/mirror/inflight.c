/*
 * The queue of pending answers is an array that starts over whenever it is empty.  A statement is
 * prepared in the same pipeline, just before its first use: no round trip.
 *
 * Not here: entering and leaving the pipeline, and what the statements are.
 */
#include "mirror/inflight.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define PIPELINE_BYTES (8 << 20)
#define MAX_PREPARED   400

struct prepared {
    bool is_prepared;
    uint64_t used; /* the tick of its last use, for eviction */
};

struct inflight {
    struct pg *pg;
    const struct table_list *list;
    struct inflight_calls calls;

    struct pending *pending; /* a queue: first … count */
    int first, count, size;
    size_t bytes;

    struct prepared *prepared; /* per table and kind */
    int nprepared;
    uint64_t tick;
    struct buf sql;
};

struct inflight *inflight_new(struct pg *pg, const struct table_list *list,
                              const struct inflight_calls *calls)
{
    struct inflight *inflight = memory_new(struct inflight);

    inflight->pg = pg;
    inflight->list = list;
    inflight->calls = *calls;
    inflight->prepared = memory_alloc((size_t) list->count * (size_t) calls->nkinds *
                                      sizeof(*inflight->prepared));
    return inflight;
}

void inflight_free(struct inflight *inflight)
{
    if (inflight == NULL)
        return;
    buf_release(&inflight->sql);
    free(inflight->pending);
    free(inflight->prepared);
    free(inflight);
}

void inflight_expect(struct inflight *inflight, enum reply reply, const struct table *table,
                     lsn_t lsn)
{
    if (inflight->first == inflight->count)
        inflight->first = inflight->count = 0;
    if (inflight->count == inflight->size) {
        inflight->size = inflight->size ? inflight->size * 2 : 64;
        inflight->pending = memory_resize(inflight->pending,
                                          (size_t) inflight->size * sizeof(*inflight->pending));
    }
    inflight->pending[inflight->count++] = (struct pending){reply, table, lsn};
}

bool inflight_send(struct inflight *inflight, const char *sql, struct error *err)
{
    inflight_expect(inflight, REPLY_NOTHING, NULL, 0);
    return pg_send_query(inflight->pg, sql, 0, NULL, err);
}

bool inflight_settle(struct inflight *inflight, struct error *err)
{
    if (!pg_pipeline_sync(inflight->pg, err))
        return false;
    inflight_expect(inflight, REPLY_NOTHING, NULL, 0);
    while (inflight->first < inflight->count) {
        const struct pending pending = inflight->pending[inflight->first++];
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_pipeline_next(inflight->pg, &result, err) ||
            !inflight->calls.take(inflight->calls.context, &pending, result, err)) {
            inflight->calls.explain(inflight->calls.context, &pending, err);
            return false;
        }
    }
    inflight->bytes = 0;
    return true;
}

/* ---- prepared statements ---- */

static void statement_name(char *name, size_t size, int table, int kind)
{
    snprintf(name, size, "tailwater_%d_%d", table, kind);
}

static struct prepared *find_prepared(const struct inflight *inflight, int table, int kind)
{
    return &inflight->prepared[table * inflight->calls.nkinds + kind];
}

/* A thousand tables times their variants would cost the backend gigabytes: the least recently used
 * one goes. */
static bool evict(struct inflight *inflight, struct error *err)
{
    int table = 0, kind = 0;
    uint64_t oldest = UINT64_MAX;
    char sql[64], name[40];

    if (inflight->nprepared < MAX_PREPARED)
        return true;
    for (int t = 0; t < inflight->list->count; t++) {
        for (int k = 0; k < inflight->calls.nkinds; k++) {
            const struct prepared *prepared = find_prepared(inflight, t, k);

            if (prepared->is_prepared && prepared->used < oldest) {
                oldest = prepared->used;
                table = t;
                kind = k;
            }
        }
    }
    statement_name(name, sizeof(name), table, kind);
    snprintf(sql, sizeof(sql), "deallocate %s", name);
    find_prepared(inflight, table, kind)->is_prepared = false;
    inflight->nprepared--;
    return inflight_send(inflight, sql, err);
}

bool inflight_send_kind(struct inflight *inflight, const struct pending *pending, int kind,
                        int nparams, const struct pg_param *params, struct error *err)
{
    struct prepared *prepared = find_prepared(inflight, pending->table->index, kind);
    char name[40];

    statement_name(name, sizeof(name), pending->table->index, kind);
    if (!prepared->is_prepared) {
        if (!evict(inflight, err))
            return false;
        buf_clear(&inflight->sql);
        inflight->calls.make_sql(inflight->calls.context, pending->table, kind, &inflight->sql);
        inflight_expect(inflight, REPLY_NOTHING, pending->table, pending->lsn);
        if (!pg_send_prepare(inflight->pg, name, buf_text(&inflight->sql), err))
            return false;
        prepared->is_prepared = true;
        inflight->nprepared++;
    }
    prepared->used = ++inflight->tick;
    inflight_expect(inflight, pending->reply, pending->table, pending->lsn);
    if (!pg_send_prepared(inflight->pg, name, nparams, params, err))
        return false;
    for (int i = 0; i < nparams; i++)
        inflight->bytes += params[i].len;
    return inflight->bytes < PIPELINE_BYTES || inflight_settle(inflight, err);
}
