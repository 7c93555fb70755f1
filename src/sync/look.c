/*
 * Two prepared statements over arrays of the rows' columns: src/mirror/statement.c has their text.
 * The explanation is prepared when the first row needs one.
 */
#include "sync/look.h"

#include "base/memory.h"
#include "mirror/params.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPLAIN_PARAMS 4 /* behind those of the rows */

struct look {
    struct pg *mirror;
    const struct table *table;
    lsn_t lsn;
    bool is_explaining; /* its statement is prepared */
    struct params params;
    struct statement_slot *slots; /* the columns, and which rows are gone */
};

static bool prepare(struct pg *mirror, const char *name, const struct buf *sql, struct error *err)
{
    _cleanup_result_ struct pg_result *prepared = NULL, *sync = NULL;

    return pg_pipeline_enter(mirror, err) && pg_send_prepare(mirror, name, buf_text(sql), err) &&
           pg_pipeline_sync(mirror, err) && pg_pipeline_next(mirror, &prepared, err) &&
           pg_pipeline_next(mirror, &sync, err) && pg_pipeline_leave(mirror, err);
}

static bool execute(struct pg *mirror, const char *name, int nparams, const struct pg_param *params,
                    struct pg_result **ret_result, struct error *err)
{
    _cleanup_result_ struct pg_result *sync = NULL;

    return pg_pipeline_enter(mirror, err) && pg_send_prepared(mirror, name, nparams, params, err) &&
           pg_pipeline_sync(mirror, err) && pg_pipeline_next(mirror, ret_result, err) &&
           pg_pipeline_next(mirror, &sync, err) && pg_pipeline_leave(mirror, err);
}

bool look_new(struct pg *mirror, const struct table *table, lsn_t lsn, struct look **ret_look,
              struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    struct look *look;

    statement_look(table, lsn, &sql);
    if (!prepare(mirror, "look", &sql, err))
        return false;
    look = memory_alloc(sizeof(*look));
    *look = (struct look){.mirror = mirror, .table = table, .lsn = lsn};
    look->slots = memory_alloc((size_t) (table->ncolumns + 1) * sizeof(*look->slots));
    for (int i = 0; i < table->ncolumns; i++)
        look->slots[i] = (struct statement_slot){PARAM_COLUMN, i};
    look->slots[table->ncolumns] = (struct statement_slot){PARAM_GONE, -1};
    *ret_look = look;
    return true;
}

void look_free(struct look *look)
{
    if (look == NULL)
        return;
    params_release(&look->params);
    free(look->slots);
    free(look);
}

bool look_at(struct look *look, struct batch_row *const *rows, int nrows,
             struct pg_result **ret_found, struct error *err)
{
    params_fill(&look->params, look->table, look->slots, look->table->ncolumns, rows, nrows);
    return execute(look->mirror, "look", look->params.count, look->params.params, ret_found, err) ||
           error_wrap(err, "comparing");
}

static bool prepare_explanation(struct look *look, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    if (look->is_explaining)
        return true;
    statement_explain(look->table, look->lsn, &sql);
    look->is_explaining = prepare(look->mirror, "explain", &sql, err);
    return look->is_explaining;
}

bool look_explain(struct look *look, struct batch_row *const *rows, int nrows,
                  const struct look_asker *asker, int64_t may_keep, struct look_counts *ret_counts,
                  struct error *err)
{
    const int nslots = look->table->ncolumns + 1, nparams = nslots + EXPLAIN_PARAMS;
    _cleanup_free_ struct pg_param *params = memory_alloc((size_t) nparams * sizeof(*params));
    _cleanup_result_ struct pg_result *counts = NULL;
    char job[24], nr[16], limit[24];

    snprintf(job, sizeof(job), "%" PRId64, asker->job);
    snprintf(nr, sizeof(nr), "%d", asker->nr);
    snprintf(limit, sizeof(limit), "%" PRId64, may_keep);
    params_fill(&look->params, look->table, look->slots, nslots, rows, nrows);
    memcpy(params, look->params.params, (size_t) nslots * sizeof(*params));
    params[nslots] = (struct pg_param){.data = job};
    params[nslots + 1] = (struct pg_param){.data = nr};
    params[nslots + 2] = (struct pg_param){.data = limit};
    params[nslots + 3] = (struct pg_param){.data = asker->shows_values ? "t" : "f"};
    if (!prepare_explanation(look, err) ||
        !execute(look->mirror, "explain", nparams, params, &counts, err))
        return error_wrap(err, "saying what differs");
    *ret_counts = (struct look_counts){pg_int(counts, 0, 0), pg_int(counts, 0, 1),
                                       pg_int(counts, 0, 2)};
    return true;
}
