/*
 * The whole batch goes through one libpq pipeline, the commit included; results are read when
 * enough is in flight, and at the end (inflight.h).  The statements check their own row counts and
 * fail where these are wrong, and after a failed statement the server runs nothing up to the next
 * sync: a small batch is one round trip, and a commit never follows a write that went wrong.
 *
 * How rows become statements is writer.c's.
 */
#include "mirror/apply.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "batch/volume.h"

#include <stdlib.h>

struct apply {
    struct pg *pg;
    const char *pipeline;
    const struct table_list *list;
    struct cursor *cursor;
    const struct capture_sink *sink;
    struct writer *writer;
    struct inflight *inflight; /* the writer's */

    struct volume_sheet *volumes; /* what the open transaction is of */

    _Atomic lsn_t *left_out_from; /* per table, the caller's as the next */
    bool *is_resynced;            /* per table: under resync */

    bool is_open;     /* a mirror transaction is */
    lsn_t first_lsn;  /* of the first source transaction in it */
    int64_t nchanges; /* in it */
    struct culprit culprit;
    lsn_t careful_until;
};

bool apply_new(struct pg *pg, const char *pipeline, const struct table_list *list,
               struct cursor *cursor, const struct capture_sink *sink, struct apply **ret_apply,
               struct error *err)
{
    struct apply *apply = memory_new(struct apply);

    apply->pg = pg;
    apply->pipeline = pipeline;
    apply->list = list;
    apply->cursor = cursor;
    apply->sink = sink;
    apply->volumes = volume_sheet_new(list);
    if (!pg_keep_memory(pg, err) ||
        !writer_new(&(struct writer_options){pg, pipeline, list, cursor, sink}, &apply->writer,
                    err)) {
        apply_free(apply);
        return false;
    }
    apply->inflight = writer_inflight(apply->writer);
    *ret_apply = apply;
    return true;
}

void apply_free(struct apply *apply)
{
    if (apply == NULL)
        return;
    writer_free(apply->writer);
    volume_sheet_free(apply->volumes);
    pg_free(apply->pg);
    free(apply);
}

void apply_doubt_nulls(struct apply *apply)
{
    writer_doubt_nulls(apply->writer);
}

void apply_take_marks(struct apply *apply, _Atomic lsn_t *left_out_from, bool *is_resynced)
{
    apply->left_out_from = left_out_from;
    apply->is_resynced = is_resynced;
    writer_take_marks(apply->writer, is_resynced);
}

struct pg *apply_connection(struct apply *apply)
{
    return apply->pg;
}

bool apply_is_open(const struct apply *apply)
{
    return apply->is_open;
}

struct culprit apply_culprit(const struct apply *apply)
{
    return apply->culprit;
}

void apply_be_careful(struct apply *apply, lsn_t until)
{
    apply->careful_until = until;
}

/* ---- the steps ---- */

static bool begin(struct apply *apply, struct error *err)
{
    if (!pg_pipeline_enter(apply->pg, err) || !inflight_send(apply->inflight, "begin", err))
        return false;
    apply->is_open = true;
    writer_begin(apply->writer);
    volume_sheet_clear(apply->volumes);
    apply->nchanges = 0;
    if (apply->sink != NULL)
        apply->sink->begin(apply->sink->context);
    return FAULT(after_begin, err);
}

/* A batch that ends inside a transaction does not know its last position yet: the clock moves, the
 * cursor stays. */
static bool move_clock(struct apply *apply, const struct batch *batch, struct error *err)
{
    const bool is_whole = !batch->in_transaction;

    inflight_expect(apply->inflight, REPLY_CLOCK, NULL, 0);
    return cursor_send_move(apply->cursor, apply->pg,
                            is_whole ? batch->end_lsn : apply->cursor->lsn,
                            is_whole ? batch->last_commit_time_us : 0, err) &&
           FAULT(after_clock, err);
}

/* What would else be checked at the commit, without a name. */
static bool check_constraints(struct apply *apply, const struct table *table, lsn_t lsn,
                              struct error *err)
{
    inflight_expect(apply->inflight, REPLY_NOTHING, table, lsn);
    return pg_send_query(apply->pg, "set constraints all immediate", 0, NULL, err);
}

static bool write_rows(struct apply *apply, const struct batch *batch, struct error *err)
{
    const bool is_careful = batch->final_lsn <= apply->careful_until;

    for (const struct batch_table *rows = batch->first; rows != NULL; rows = rows->next) {
        if (!writer_write(apply->writer, rows, err) ||
            (is_careful && !check_constraints(apply, rows->table, batch->final_lsn, err)))
            return false;
        if (rows->next != NULL && !FAULT(between_tables, err))
            return false;
    }
    return FAULT(after_writes, err);
}

static struct capture_scope scope_of(const struct apply *apply, const struct batch *batch)
{
    return (struct capture_scope){.kind = "stream",
                                  .from = apply->cursor->lsn,
                                  .to = batch->end_lsn,
                                  .commit_time_us = batch->last_commit_time_us,
                                  .changes = apply->nchanges,
                                  .is_last = !batch->in_transaction};
}

/* A batch that touches no table whose values come to us goes on without waiting for anything. */
static bool follow_captures(struct apply *apply, const struct capture_scope *scope,
                            struct error *err)
{
    if (writer_outcome(apply->writer)->is_owed) {
        struct capture_scope numbered = *scope;

        if (!inflight_settle(apply->inflight, err))
            return false;
        numbered.number = apply->cursor->next_batch_id;
        if (!apply->sink->follow(apply->sink->context, apply->pg, &numbered, err))
            return false;
    }
    return FAULT(after_hops, err);
}

static bool finish_captures(struct apply *apply, const struct capture_scope *scope,
                            struct error *err)
{
    int nqueued = 0;

    if (!writer_outcome(apply->writer)->is_captured)
        return true;
    if (!apply->sink->finish(apply->sink->context, apply->pg, scope, &nqueued, err))
        return false;
    for (int i = 0; i < nqueued; i++)
        inflight_expect(apply->inflight, REPLY_NOTHING, NULL, 0);
    return true;
}

static bool finish_cursor(struct apply *apply, const struct batch *batch, struct error *err)
{
    inflight_expect(apply->inflight, REPLY_CLOCK, NULL, 0);
    return cursor_send_finish(apply->cursor, apply->pg, batch->end_lsn, batch->last_commit_time_us,
                              err);
}

/* The commit goes out behind the writes: where one of them is refused, the server skips it (invariant 1). */
static bool commit(struct apply *apply, struct error *err)
{
    if (!FAULT(before_commit, err) || !inflight_send(apply->inflight, "commit", err) ||
        !inflight_settle(apply->inflight, err) || !pg_pipeline_leave(apply->pg, err))
        return false;
    apply->is_open = false;
    cursor_committed(apply->cursor);
    writer_committed(apply->writer);
    volume_sheet_post(apply->volumes, apply->cursor->lsn);
    return FAULT(after_commit, err);
}

static bool apply_steps(struct apply *apply, const struct batch *batch, struct error *err)
{
    const bool is_first = !apply->is_open, is_last = !batch->in_transaction;
    struct capture_scope scope;

    if (is_first && !(begin(apply, err) && move_clock(apply, batch, err)))
        return false;
    apply->nchanges += batch->nchanges;
    volume_sheet_add(apply->volumes, batch->volumes);
    scope = scope_of(apply, batch);
    if (!write_rows(apply, batch, err) || !follow_captures(apply, &scope, err))
        return false;
    if (!is_last)
        return inflight_settle(apply->inflight, err) && FAULT(between_pieces, err);
    return (is_first || finish_cursor(apply, batch, err)) && finish_captures(apply, &scope, err) &&
           commit(apply, err);
}

static void add_counts(struct writer_counts *counts, const struct writer_counts *more)
{
    counts->inserted += more->inserted;
    counts->updated += more->updated;
    counts->deleted += more->deleted;
    counts->incomplete += more->incomplete;
    counts->doubts += more->doubts;
}

bool apply_batch(struct apply *apply, const struct batch *batch, struct writer_counts *ret_counts,
                 struct error *err)
{
    writer_reset(apply->writer);
    apply->culprit = (struct culprit){0};
    if (!apply->is_open)
        apply->first_lsn = batch->first_lsn;
    if (!apply_steps(apply, batch, err)) {
        apply->culprit = err->kind != ERROR_DATA
                             ? (struct culprit){0}
                             : (struct culprit){.table = writer_outcome(apply->writer)->culprit,
                                                .first_lsn = apply->first_lsn,
                                                .last_lsn = batch->final_lsn,
                                                .commit_time_us = batch->commit_time_us,
                                                .xid = batch->xid};
        return false;
    }
    add_counts(ret_counts, &writer_outcome(apply->writer)->counts);
    return true;
}

/* ---- side batches ---- */

/* The table's row of the control schema, over the connection as it is between two pipelines. */
static bool write_mark(struct apply *apply, const struct side_batch *side, struct error *err)
{
    struct pg *pg = apply->pg;

    if (!inflight_settle(apply->inflight, err) || !pg_pipeline_leave(pg, err))
        return false;
    if (side->kind == SIDE_END
            ? !quarantine_end(pg, apply->pipeline, side->table, side->lsn, err)
            : !quarantine_set_resync(pg, apply->pipeline, side->table,
                                     side->kind == SIDE_RESYNC ? side->job : 0, err))
        return false;
    return pg_pipeline_enter(pg, err);
}

static bool write_side(struct apply *apply, const struct side_batch *side, struct error *err)
{
    switch (side->kind) {
    case SIDE_ROWS:
        return writer_write_older(apply->writer, side->table, side->rows, side->nrows, err) &&
               FAULT(side_after_rows, err);
    case SIDE_PURGE:
        return writer_purge(apply->writer, side->table, side->addresses, err);
    case SIDE_RESYNC:
    case SIDE_END:
    case SIDE_GIVE_UP:
        return write_mark(apply, side, err);
    case SIDE_ASK:
        return true;
    }
    return false;
}

/* It has committed: from the next batch on. */
static bool take_mark(struct apply *apply, const struct side_batch *side, struct error *err)
{
    const int i = side->table->index;

    switch (side->kind) {
    case SIDE_ROWS:
    case SIDE_PURGE:
    case SIDE_ASK:
        return true;
    case SIDE_RESYNC:
    case SIDE_END:
        apply->is_resynced[i] = side->kind == SIDE_RESYNC;
        writer_forget_truncate(apply->writer, side->table);
        apply->left_out_from[i] = BATCH_NEVER;
        return true;
    case SIDE_GIVE_UP:
        return quarantine_load(apply->pg, apply->pipeline, apply->list, apply->left_out_from,
                               apply->is_resynced, err);
    }
    return true;
}

bool apply_side(struct apply *apply, struct side_batch *side, struct error *err)
{
    struct cursor *cursor = apply->cursor;
    const struct capture_scope scope = {.kind = "resync",
                                        .from = cursor->lsn,
                                        .to = cursor->lsn,
                                        .changes = side->nrows,
                                        .is_last = true};

    writer_reset(apply->writer);
    apply->culprit = (struct culprit){0};
    side->is_void = (side->kind == SIDE_ROWS || side->kind == SIDE_ASK) &&
                    writer_truncated_at(apply->writer, side->table) >= side->lsn;
    if (side->is_void || side->kind == SIDE_ASK)
        return true;
    if (!begin(apply, err))
        return false;
    inflight_expect(apply->inflight, REPLY_CLOCK, NULL, 0);
    if (!cursor_send_move(cursor, apply->pg, cursor->lsn, 0, err) ||
        !write_side(apply, side, err) || !follow_captures(apply, &scope, err) ||
        !finish_captures(apply, &scope, err) || !commit(apply, err)) {
        /* A side batch writes one table: that one, also where only the commit is refused. */
        apply->culprit = err->kind != ERROR_DATA ? (struct culprit){0}
                                                 : (struct culprit){.table = side->table,
                                                                    .first_lsn = cursor->lsn,
                                                                    .last_lsn = cursor->lsn,
                                                                    .is_side = true};
        return error_wrap(err, "resync of %s", side->table->label);
    }
    side->counts = writer_outcome(apply->writer)->counts;
    return take_mark(apply, side, err);
}
