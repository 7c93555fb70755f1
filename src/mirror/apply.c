/*
 * The whole batch goes through one libpq pipeline, the commit included; results are read when
 * PIPELINE_BYTES are in flight, and at the end.  The statements check their own row counts and fail
 * where these are wrong, and after a failed statement the server runs nothing up to the next sync: a
 * small batch is one round trip, and a commit never follows a write that went wrong.
 *
 * The rows of a table are sorted into classes, and each class gets the cheapest statement that is
 * right for it:
 *
 *   linked  rows whose holes another key's row fills, and those keys: one statement, so that all
 *           see the same old rows (and every row, where different bytes may be equal keys and there
 *           are holes, P72)
 *   gone    a plain delete, where no tombstone is kept
 *   fresh   complete rows that began with an insert: COPY when they are many (bulk.c), else with
 *           the full ones
 *   full    complete rows
 *   holed   rows with unchanged TOAST values
 *
 * Small batches put full, holed and gone rows of a table into one statement.
 */
#include "mirror/apply.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "mirror/bulk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_ROWS     5000
#define CHUNK_BYTES    (4 << 20)
#define PIPELINE_BYTES (8 << 20)
#define SMALL_ROWS     64
#define MAX_PREPARED   400
#define OID_INT8       20
#define OID_TEXT       25

enum row_class { CLASS_LINKED, CLASS_GONE, CLASS_FRESH, CLASS_FULL, CLASS_HOLED, CLASSES };

enum statement_kind {
    KIND_WRITE, /* plus the flags: STATEMENT_FLAGS of them */
    KIND_DELETE = STATEMENT_FLAGS,
    KIND_TRUNCATE,
    KIND_FORGET,
    KIND_FORGET_ALL,
    KIND_CAPTURE,
    KIND_DOUBT,
    KIND_PURGE,
    KINDS
};

struct prepared {
    bool is_prepared;
    uint64_t used; /* the tick of its last use, for eviction */
};

/* What the next result in the pipeline answers. */
enum reply { REPLY_NOTHING, REPLY_CLOCK, REPLY_WRITE, REPLY_DELETE, REPLY_TRUNCATE, REPLY_SYNC };

struct pending {
    enum reply reply;
    const struct table *table;
    lsn_t lsn; /* of the first row, for error messages */
};

struct apply {
    struct pg *pg;
    const char *pipeline;
    const struct table_list *list;
    struct cursor *cursor;
    const struct capture_sink *sink;
    struct prepared (*prepared)[KINDS]; /* per table */
    int nprepared;
    bool *has_repairs; /* per table: keys of it may be on the repair list, or come there */
    bool *is_doubtful; /* per table: nulls of it may be NaN or infinities */
    bool *is_resynced; /* per table, the caller's as the next: under resync */
    _Atomic lsn_t *left_out_from;
    lsn_t *truncated_at; /* per table: the last truncate while under resync */
    uint64_t tick;
    struct bulk *bulk;
    struct params params;
    struct buf sql;
    struct statement_slot *slots;

    struct pending *pending; /* a queue: first … count */
    int pending_first, pending_count, pending_size;
    size_t in_flight_bytes;

    struct batch_row **rows; /* the rows of a table, by class */
    int rows_size;
    int class_start[CLASSES + 1];

    bool is_open;     /* a mirror transaction is */
    lsn_t first_lsn;  /* of the first source transaction in it */
    int64_t nchanges; /* in it */
    bool is_captured; /* it changed a table with captures … */
    bool is_owed;     /* … some of which return */
    struct apply_counts counts;
    struct culprit culprit;
    lsn_t careful_until;
};

/* Which tables have keys on the repair list, from an earlier session. */
static bool find_repairs(struct apply *apply, struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_query(apply->pg,
                  "select schema, name from tailwater.repair where pipeline = $1 union "
                  "select schema, name from tailwater.doubt where pipeline = $1",
                  1, &apply->pipeline, &result, err))
        return error_wrap(err, "reading the repair list");
    for (int i = 0; i < pg_rows(result); i++) {
        const struct table *table = table_list_find(apply->list, pg_text(result, i, 0),
                                                    pg_text(result, i, 1));

        if (table != NULL)
            apply->has_repairs[table->index] = true;
    }
    return true;
}

bool apply_new(struct pg *pg, const char *pipeline, const struct table_list *list,
               struct cursor *cursor, const struct capture_sink *sink, struct apply **ret_apply,
               struct error *err)
{
    struct apply *apply = memory_new(struct apply);
    int widest = 1;

    for (int i = 0; i < list->count; i++)
        widest = list->tables[i].ncolumns > widest ? list->tables[i].ncolumns : widest;
    apply->pg = pg;
    apply->pipeline = pipeline;
    apply->list = list;
    apply->cursor = cursor;
    apply->sink = sink;
    apply->prepared = memory_alloc((size_t) list->count * sizeof(*apply->prepared));
    apply->slots = memory_alloc((size_t) (3 * widest + 3) * sizeof(*apply->slots));
    apply->bulk = bulk_new(list);
    apply->has_repairs = memory_alloc((size_t) list->count * sizeof(*apply->has_repairs));
    apply->is_doubtful = memory_alloc((size_t) list->count * sizeof(*apply->is_doubtful));
    apply->truncated_at = memory_alloc((size_t) list->count * sizeof(*apply->truncated_at));
    if (!find_repairs(apply, err)) {
        apply_free(apply);
        return false;
    }
    *ret_apply = apply;
    return true;
}

void apply_free(struct apply *apply)
{
    if (apply == NULL)
        return;
    pg_free(apply->pg);
    bulk_free(apply->bulk);
    params_release(&apply->params);
    buf_release(&apply->sql);
    free(apply->prepared);
    free(apply->has_repairs);
    free(apply->is_doubtful);
    free(apply->truncated_at);
    free(apply->slots);
    free(apply->pending);
    free(apply->rows);
    free(apply);
}

void apply_doubt_nulls(struct apply *apply)
{
    for (int t = 0; t < apply->list->count; t++)
        for (int i = 0; i < apply->list->tables[t].ncolumns; i++)
            apply->is_doubtful[t] |= table_column_is_doubtful(&apply->list->tables[t].columns[i]);
}

void apply_take_marks(struct apply *apply, _Atomic lsn_t *left_out_from, bool *is_resynced)
{
    apply->left_out_from = left_out_from;
    apply->is_resynced = is_resynced;
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

/* ---- the pipeline ---- */

static void expect(struct apply *apply, enum reply reply, const struct table *table, lsn_t lsn)
{
    if (apply->pending_first == apply->pending_count)
        apply->pending_first = apply->pending_count = 0;
    if (apply->pending_count == apply->pending_size) {
        apply->pending_size = apply->pending_size ? apply->pending_size * 2 : 64;
        apply->pending = memory_resize(apply->pending,
                                       (size_t) apply->pending_size * sizeof(*apply->pending));
    }
    apply->pending[apply->pending_count++] = (struct pending){reply, table, lsn};
}

/* NULL where nobody wants anything of the table. */
static const struct capture_list *captures_of(const struct apply *apply, const struct table *table)
{
    const struct capture_list *list = apply->sink ? &apply->sink->lists[table->index] : NULL;

    return list && list->count > 0 ? list : NULL;
}

/* The counts are right, or the statement would have failed. */
static bool take_write(struct apply *apply, const struct table *table,
                       const struct pg_result *result, struct error *err)
{
    apply->counts.deleted += pg_int(result, 0, COUNT_REMOVED);
    apply->counts.updated += pg_int(result, 0, COUNT_UPDATED);
    apply->counts.inserted += pg_int(result, 0, COUNT_INSERTED);
    apply->counts.incomplete += pg_int(result, 0, COUNT_INCOMPLETE);
    apply->has_repairs[table->index] |= pg_int(result, 0, COUNT_INCOMPLETE) > 0;
    return captures_of(apply, table) == NULL ||
           apply->sink->take(apply->sink->context, table, result, COUNTS, err);
}

static bool take_reply(struct apply *apply, const struct pending *pending,
                       const struct pg_result *result, struct error *err)
{
    switch (pending->reply) {
    case REPLY_NOTHING:
    case REPLY_SYNC:
        return true;
    case REPLY_CLOCK:
        return cursor_take(apply->cursor, result, err);
    case REPLY_WRITE:
        return take_write(apply, pending->table, result, err);
    case REPLY_DELETE:
    case REPLY_TRUNCATE:
        apply->counts.deleted += pg_affected(result);
        return true;
    }
    return false;
}

static bool wrap_pending(struct apply *apply, const struct pending *pending, struct error *err)
{
    if (strcmp(err->sqlstate, CURSOR_FENCED) == 0) {
        err->kind = ERROR_BUSY;
        error_hint(err, "run one tailwater per pipeline; nothing of this batch was written");
    } else if (strcmp(err->sqlstate, STATEMENT_MISCOUNTED) == 0) {
        err->kind = ERROR_RETRY;
        error_hint(err, "no triggers, rules or other writers on mirror tables");
    } else if (strcmp(err->sqlstate, APPLY_NO_PARTITION) == 0 && apply->is_captured &&
               strstr(err->message, "ledger_") != NULL) {
        err->kind = ERROR_RETRY;
        error_wrap(err, "the ledger has no partition for this batch yet");
    }
    if (pending->table == NULL)
        return false;
    apply->culprit.table = pending->table;
    return error_wrap(err, "%s, transaction at " LSN_FORMAT, pending->table->label,
                      LSN_ARGS(pending->lsn));
}

/* Queue a sync and read every result up to it. */
static bool settle(struct apply *apply, struct error *err)
{
    if (!pg_pipeline_sync(apply->pg, err))
        return false;
    expect(apply, REPLY_SYNC, NULL, 0);
    while (apply->pending_first < apply->pending_count) {
        const struct pending pending = apply->pending[apply->pending_first++];
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_pipeline_next(apply->pg, &result, err) || !take_reply(apply, &pending, result, err))
            return wrap_pending(apply, &pending, err);
    }
    apply->in_flight_bytes = 0;
    return true;
}

static bool send_plain(struct apply *apply, const char *sql, struct error *err)
{
    expect(apply, REPLY_NOTHING, NULL, 0);
    return pg_send_query(apply->pg, sql, 0, NULL, err);
}

/* ---- prepared statements ---- */

static void statement_name(char *name, size_t size, int table, int kind)
{
    snprintf(name, size, "tailwater_%d_%d", table, kind);
}

static void make_sql(struct apply *apply, const struct table *table, int kind)
{
    const struct capture_list *captures = captures_of(apply, table);

    buf_clear(&apply->sql);
    if (kind == KIND_DELETE)
        statement_delete(table, captures, &apply->sql);
    else if (kind == KIND_CAPTURE)
        statement_capture(table, captures, &apply->sql);
    else if (kind == KIND_TRUNCATE)
        statement_truncate(table, &apply->sql);
    else if (kind == KIND_FORGET)
        statement_forget(table, apply->pipeline, &apply->sql);
    else if (kind == KIND_DOUBT)
        statement_doubt(table, apply->pipeline, &apply->sql);
    else if (kind == KIND_PURGE)
        statement_purge(table, &apply->sql);
    else if (kind == KIND_FORGET_ALL)
        statement_forget_all(table, apply->pipeline, &apply->sql);
    else
        statement_write(table, (unsigned) kind, apply->pipeline, captures, &apply->sql);
}

/* A thousand tables times their variants would cost the backend gigabytes: the least recently used
 * one goes. */
static bool evict(struct apply *apply, struct error *err)
{
    int table = 0, kind = 0;
    uint64_t oldest = UINT64_MAX;
    char sql[64], name[40];

    if (apply->nprepared < MAX_PREPARED)
        return true;
    for (int t = 0; t < apply->list->count; t++) {
        for (int k = 0; k < KINDS; k++) {
            if (apply->prepared[t][k].is_prepared && apply->prepared[t][k].used < oldest) {
                oldest = apply->prepared[t][k].used;
                table = t;
                kind = k;
            }
        }
    }
    statement_name(name, sizeof(name), table, kind);
    snprintf(sql, sizeof(sql), "deallocate %s", name);
    apply->prepared[table][kind].is_prepared = false;
    apply->nprepared--;
    return send_plain(apply, sql, err);
}

static bool send_statement(struct apply *apply, const struct table *table, int kind,
                           enum reply reply, lsn_t lsn, int nparams, const struct pg_param *params,
                           struct error *err)
{
    struct prepared *prepared = &apply->prepared[table->index][kind];
    char name[40];

    statement_name(name, sizeof(name), table->index, kind);
    if (!prepared->is_prepared) {
        if (!evict(apply, err))
            return false;
        make_sql(apply, table, kind);
        expect(apply, REPLY_NOTHING, table, lsn);
        if (!pg_send_prepare(apply->pg, name, buf_text(&apply->sql), err))
            return false;
        prepared->is_prepared = true;
        apply->nprepared++;
    }
    prepared->used = ++apply->tick;
    expect(apply, reply, table, lsn);
    return pg_send_prepared(apply->pg, name, nparams, params, err);
}

/* ---- step 2: writes ---- */

/* What every write to the table does now. */
static unsigned table_flags(const struct apply *apply, const struct table *table)
{
    const bool is_resynced = apply->is_resynced != NULL && apply->is_resynced[table->index];

    return is_resynced ? STATEMENT_RESYNC : 0;
}

static enum reply kind_reply(int kind, bool is_captured)
{
    if (kind < KIND_DELETE || kind == KIND_CAPTURE)
        return REPLY_WRITE;
    if (kind == KIND_DELETE)
        return is_captured ? REPLY_WRITE : REPLY_DELETE;
    return REPLY_NOTHING;
}

static bool has_keys_only(int kind)
{
    return kind == KIND_DELETE || kind == KIND_FORGET || kind == KIND_CAPTURE;
}

/* Rows of that table change in this transaction. */
static void note_captures(struct apply *apply, const struct capture_list *captures)
{
    apply->is_captured |= captures != NULL;
    apply->is_owed |= captures != NULL && captures->returns;
}

static bool send_chunk(struct apply *apply, const struct table *table, int kind,
                       struct batch_row *const *rows, int nrows, struct error *err)
{
    const struct capture_list *captures = captures_of(apply, table);
    int nslots = 0;

    note_captures(apply, captures);
    if (has_keys_only(kind))
        for (int i = 0; i < table->nkeys; i++)
            apply->slots[nslots++] = (struct statement_slot){PARAM_COLUMN, table->keys[i]};
    else
        nslots = statement_slots(table, (unsigned) kind, apply->slots);
    params_fill(&apply->params, table, apply->slots, nslots, rows, nrows);
    if (!send_statement(apply, table, kind, kind_reply(kind, captures != NULL), rows[0]->lsn,
                        nslots, apply->params.params, err))
        return false;
    apply->in_flight_bytes += apply->params.bytes;
    return apply->in_flight_bytes < PIPELINE_BYTES || settle(apply, err);
}

/* rows[from … to) in statements of bounded size. */
static bool send_rows(struct apply *apply, const struct table *table, int kind, int from, int to,
                      struct error *err)
{
    while (from < to) {
        size_t bytes = 0;
        int end = from;

        while (end < to && end - from < CHUNK_ROWS && bytes < CHUNK_BYTES)
            bytes += apply->rows[end++]->data_bytes;
        if (!send_chunk(apply, table, kind, apply->rows + from, end - from, err))
            return false;
        from = end;
    }
    return true;
}

static enum row_class classify(const struct batch_row *row, bool is_all_linked)
{
    if (is_all_linked || row->is_base || (row->has_holes && row->base != NULL))
        return CLASS_LINKED;
    if (row->is_gone)
        return CLASS_GONE;
    if (row->has_holes)
        return CLASS_HOLED;
    return row->is_insert ? CLASS_FRESH : CLASS_FULL;
}

static void reserve_rows(struct apply *apply, int nrows)
{
    if (nrows > apply->rows_size) {
        apply->rows_size = nrows;
        apply->rows = memory_resize(apply->rows, (size_t) nrows * sizeof(struct batch_row *));
    }
}

/*
 * Where equal keys may differ in bytes, a gone row and a present one may be the same row of the
 * mirror.  Gone before present is right as long as every present row is complete; with holes they
 * need one statement, to see the same old rows.
 */
static bool is_all_linked(const struct batch_table *rows)
{
    if (rows->table->is_key_bytewise)
        return false;
    for (int i = 0; i < rows->nrows; i++)
        if (rows->rows[i]->has_holes)
            return true;
    return false;
}

/* Sort a table's rows by class, in their order within each. */
static void sort_rows(struct apply *apply, const struct batch_table *rows)
{
    const bool all_linked = is_all_linked(rows);
    int at[CLASSES] = {0};

    for (int i = 0; i < rows->nrows; i++)
        at[classify(rows->rows[i], all_linked)]++;
    apply->class_start[0] = 0;
    for (int c = 0; c < CLASSES; c++) {
        apply->class_start[c + 1] = apply->class_start[c] + at[c];
        at[c] = apply->class_start[c];
    }
    for (int i = 0; i < rows->nrows; i++)
        apply->rows[at[classify(rows->rows[i], all_linked)]++] = rows->rows[i];
}

static int class_count(const struct apply *apply, enum row_class class)
{
    return apply->class_start[class + 1] - apply->class_start[class];
}

/* Has a row that is there a null which may be a NaN or an infinity? */
static bool is_in_doubt(const struct apply *apply, const struct table *table,
                        const struct batch_row *row)
{
    if (!apply->is_doubtful[table->index] || row->is_gone)
        return false;
    for (int i = 0; i < table->ncolumns; i++)
        if (row->values[i].kind == VALUE_NULL && table_column_is_doubtful(&table->columns[i]))
            return true;
    return false;
}

static unsigned doubts_of(const struct apply *apply, const struct table *table, int from, int to)
{
    for (int i = from; i < to; i++)
        if (is_in_doubt(apply, table, apply->rows[i]))
            return STATEMENT_DOUBTS;
    return 0;
}

/* The flags that rows[from … to) need. */
static unsigned flags_of(const struct apply *apply, const struct table *table, int from, int to)
{
    unsigned flags = table_flags(apply, table) | doubts_of(apply, table, from, to);

    for (int i = from; i < to; i++) {
        const struct batch_row *row = apply->rows[i];

        flags |= row->is_gone ? STATEMENT_GONE : 0;
        flags |= row->has_holes ? STATEMENT_HOLES : 0;
        flags |= row->has_holes && row->base ? STATEMENT_BASES : 0;
    }
    return flags;
}

static bool write_linked(struct apply *apply, const struct table *table, struct error *err)
{
    const int count = class_count(apply, CLASS_LINKED);

    if (count == 0)
        return true;
    return send_chunk(apply, table, (int) flags_of(apply, table, 0, count), apply->rows, count,
                      err);
}

static bool write_gone(struct apply *apply, const struct table *table, struct error *err)
{
    const unsigned flags = table_flags(apply, table);
    const bool is_plain = !table_keeps_tombstones(table) && !(flags & STATEMENT_RESYNC);

    return send_rows(apply, table, is_plain ? KIND_DELETE : (int) (STATEMENT_GONE | flags),
                     apply->class_start[CLASS_GONE], apply->class_start[CLASS_GONE + 1], err);
}

static bool write_truncate(struct apply *apply, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    char lsn[LSN_TEXT_SIZE];
    const uint64_t time = __builtin_bswap64(
        (uint64_t) (rows->truncate_time_us - CLOCK_POSTGRES_EPOCH_US));
    const struct pg_param params[] = {
        {.data = lsn_text(rows->truncate_lsn, lsn)},
        {.data = (const char *) &time, .len = sizeof(time), .is_binary = true},
    };

    if (captures_of(apply, table) != NULL) {
        apply->is_captured = true;
        apply->sink->truncate(apply->sink->context, table);
    }
    if (table_flags(apply, table) & STATEMENT_RESYNC)
        apply->truncated_at[table->index] = rows->truncate_lsn;
    return send_statement(apply, table, KIND_TRUNCATE, REPLY_TRUNCATE, rows->truncate_lsn,
                          table_keeps_tombstones(table) ? 2 : 0, params, err);
}

/* Many fresh rows go by COPY, outside the pipeline.  Where one of them exists after all, they go
 * the general way. */
static bool write_fresh(struct apply *apply, const struct table *table, int *ret_written,
                        struct error *err)
{
    const int from = apply->class_start[CLASS_FRESH], count = class_count(apply, CLASS_FRESH);
    bool is_done = false;

    *ret_written = 0;
    if (!bulk_is_worth(apply->bulk, table, count))
        return true;
    if (!settle(apply, err) || !pg_pipeline_leave(apply->pg, err))
        return false;
    if (!bulk_copy(apply->bulk, apply->pg, table, apply->rows + from, count, &is_done, err) ||
        !pg_pipeline_enter(apply->pg, err)) {
        apply->culprit.table = table;
        return error_wrap(err, "%s, transaction at " LSN_FORMAT, table->label,
                          LSN_ARGS(apply->rows[from]->lsn));
    }
    if (!is_done)
        return true;
    *ret_written = count;
    apply->counts.inserted += count;
    return captures_of(apply, table) == NULL ||
           send_rows(apply, table, KIND_CAPTURE, from, from + count, err);
}

/* Keys that are gone leave the repair list: a row must not come back with an older repair. */
static bool forget_repairs(struct apply *apply, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int ngone = 0;

    if (!apply->has_repairs[table->index])
        return true;
    if (rows->is_truncated && !send_statement(apply, table, KIND_FORGET_ALL, REPLY_NOTHING,
                                              rows->truncate_lsn, 0, NULL, err))
        return false;
    for (int i = 0; i < rows->nrows; i++)
        if (rows->rows[i]->is_gone)
            apply->rows[ngone++] = rows->rows[i];
    return send_rows(apply, table, KIND_FORGET, 0, ngone, err);
}

/* The keys and transactions of rows[from … to), which are in doubt. */
static bool send_doubts(struct apply *apply, const struct table *table, int from, int to,
                        struct error *err)
{
    _cleanup_buf_ struct buf keys = {0}, xids = {0};
    struct pg_param params[2];
    size_t place = codec_array_begin(&keys, OID_TEXT);

    for (int k = 0; k < table->nkeys; k++)
        for (int i = from; i < to; i++) {
            const struct value *value = &apply->rows[i]->key[k];

            if (!codec_add(WIRE_STRING, value->data, value->len, &keys))
                return error_set(err, ERROR_BUG, "a key that is no text");
        }
    codec_array_end(&keys, place, (uint32_t) ((to - from) * table->nkeys), false);
    place = codec_array_begin(&xids, OID_INT8);
    for (int i = from; i < to; i++) {
        buf_add_u32(&xids, 8);
        buf_add_u64(&xids, apply->rows[i]->xid);
    }
    codec_array_end(&xids, place, (uint32_t) (to - from), false);
    params[0] = (struct pg_param){.data = keys.data, .len = keys.len, .is_binary = true};
    params[1] = (struct pg_param){.data = xids.data, .len = xids.len, .is_binary = true};
    apply->in_flight_bytes += keys.len + xids.len;
    apply->counts.doubts += to - from;
    return send_statement(apply, table, KIND_DOUBT, REPLY_NOTHING, apply->rows[from]->lsn, 2,
                          params, err) &&
           (apply->in_flight_bytes < PIPELINE_BYTES || settle(apply, err));
}

/* List the rows in doubt.  Whoever asks the source may put them on the repair list. */
static bool list_doubts(struct apply *apply, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int count = 0, from = 0;

    if (!apply->is_doubtful[table->index])
        return true;
    for (int i = 0; i < rows->nrows; i++)
        if (is_in_doubt(apply, table, rows->rows[i]))
            apply->rows[count++] = rows->rows[i];
    apply->has_repairs[table->index] |= count > 0;
    while (from < count) {
        size_t bytes = 0;
        int end = from;

        while (end < count && end - from < CHUNK_ROWS && bytes < CHUNK_BYTES) {
            for (int k = 0; k < table->nkeys; k++)
                bytes += apply->rows[end]->key[k].len;
            end++;
        }
        if (!send_doubts(apply, table, from, end, err))
            return false;
        from = end;
    }
    return true;
}

static bool write_changes(struct apply *apply, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int fresh = 0, from, holed;
    unsigned flags;

    reserve_rows(apply, rows->nrows);
    if (!forget_repairs(apply, rows, err))
        return false;
    sort_rows(apply, rows);
    if (rows->is_truncated && !write_truncate(apply, rows, err))
        return false;
    if (!write_linked(apply, table, err))
        return false;
    from = apply->class_start[CLASS_GONE];
    if (rows->nrows - from <= SMALL_ROWS && class_count(apply, CLASS_GONE) < rows->nrows - from)
        return send_rows(apply, table, (int) flags_of(apply, table, from, rows->nrows), from,
                         rows->nrows, err);
    if (!write_gone(apply, table, err) || !write_fresh(apply, table, &fresh, err))
        return false;
    from = apply->class_start[CLASS_FRESH] + fresh;
    flags = table_flags(apply, table);
    holed = apply->class_start[CLASS_HOLED];
    return send_rows(apply, table, (int) (flags | doubts_of(apply, table, from, holed)), from,
                     holed, err) &&
           send_rows(apply, table,
                     (int) (flags | STATEMENT_HOLES | doubts_of(apply, table, holed, rows->nrows)),
                     holed, rows->nrows, err);
}

static bool write_table(struct apply *apply, const struct batch_table *rows, struct error *err)
{
    return write_changes(apply, rows, err) && list_doubts(apply, rows, err);
}

/* ---- the steps ---- */

static bool begin(struct apply *apply, struct error *err)
{
    if (!pg_pipeline_enter(apply->pg, err) || !send_plain(apply, "begin", err))
        return false;
    apply->is_open = true;
    apply->is_captured = apply->is_owed = false;
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

    expect(apply, REPLY_CLOCK, NULL, 0);
    return cursor_send_move(apply->cursor, apply->pg,
                            is_whole ? batch->end_lsn : apply->cursor->lsn,
                            is_whole ? batch->last_commit_time_us : 0, err) &&
           FAULT(after_clock, err);
}

/* What would else be checked at the commit, without a name. */
static bool check_constraints(struct apply *apply, const struct table *table, lsn_t lsn,
                              struct error *err)
{
    expect(apply, REPLY_NOTHING, table, lsn);
    return pg_send_query(apply->pg, "set constraints all immediate", 0, NULL, err);
}

static bool write_rows(struct apply *apply, const struct batch *batch, struct error *err)
{
    const bool is_careful = batch->final_lsn <= apply->careful_until;

    for (const struct batch_table *rows = batch->first; rows != NULL; rows = rows->next) {
        if (!write_table(apply, rows, err) ||
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

/* A batch that touches no table whose values are returned goes on without waiting for anything. */
static bool follow_captures(struct apply *apply, const struct capture_scope *scope,
                            struct error *err)
{
    if (apply->is_owed &&
        (!settle(apply, err) || !apply->sink->follow(apply->sink->context, apply->pg, scope, err)))
        return false;
    return FAULT(after_hops, err);
}

static bool finish_captures(struct apply *apply, const struct capture_scope *scope,
                            struct error *err)
{
    int nqueued = 0;

    if (!apply->is_captured)
        return true;
    if (!apply->sink->finish(apply->sink->context, apply->pg, scope, &nqueued, err))
        return false;
    for (int i = 0; i < nqueued; i++)
        expect(apply, REPLY_NOTHING, NULL, 0);
    return true;
}

static bool finish_cursor(struct apply *apply, const struct batch *batch, struct error *err)
{
    expect(apply, REPLY_CLOCK, NULL, 0);
    return cursor_send_finish(apply->cursor, apply->pg, batch->end_lsn, batch->last_commit_time_us,
                              err);
}

/* The commit goes out behind the writes: where one of them is refused, the server skips it (invariant 1). */
static bool commit(struct apply *apply, struct error *err)
{
    if (!FAULT(before_commit, err) || !send_plain(apply, "commit", err) || !settle(apply, err) ||
        !pg_pipeline_leave(apply->pg, err))
        return false;
    apply->is_open = false;
    cursor_committed(apply->cursor);
    return FAULT(after_commit, err);
}

static bool apply_steps(struct apply *apply, const struct batch *batch, struct error *err)
{
    const bool is_first = !apply->is_open, is_last = !batch->in_transaction;
    struct capture_scope scope;

    if (is_first && !(begin(apply, err) && move_clock(apply, batch, err)))
        return false;
    apply->nchanges += batch->nchanges;
    scope = scope_of(apply, batch);
    if (!write_rows(apply, batch, err) || !follow_captures(apply, &scope, err))
        return false;
    if (!is_last)
        return settle(apply, err) && FAULT(between_pieces, err);
    return (is_first || finish_cursor(apply, batch, err)) && finish_captures(apply, &scope, err) &&
           commit(apply, err);
}

bool apply_batch(struct apply *apply, const struct batch *batch, struct apply_counts *ret_counts,
                 struct error *err)
{
    apply->counts = (struct apply_counts){0};
    apply->culprit = (struct culprit){0};
    if (!apply->is_open)
        apply->first_lsn = batch->first_lsn;
    if (!apply_steps(apply, batch, err)) {
        apply->culprit = err->kind != ERROR_DATA
                             ? (struct culprit){0}
                             : (struct culprit){.table = apply->culprit.table,
                                                .first_lsn = apply->first_lsn,
                                                .last_lsn = batch->final_lsn,
                                                .commit_time_us = batch->commit_time_us,
                                                .xid = batch->xid};
        return false;
    }
    ret_counts->inserted += apply->counts.inserted;
    ret_counts->updated += apply->counts.updated;
    ret_counts->deleted += apply->counts.deleted;
    ret_counts->incomplete += apply->counts.incomplete;
    ret_counts->doubts += apply->counts.doubts;
    return true;
}

/* ---- side batches ---- */

static bool write_side_rows(struct apply *apply, const struct side_batch *side, struct error *err)
{
    int flags = STATEMENT_GUARD;

    reserve_rows(apply, side->nrows);
    for (int i = 0; i < side->nrows; i++) {
        apply->rows[i] = side->rows[i];
        flags |= side->rows[i]->is_gone ? STATEMENT_GONE : 0;
    }
    return send_rows(apply, side->table, flags, 0, side->nrows, err) && FAULT(side_after_rows, err);
}

static bool purge_tombstones(struct apply *apply, const struct side_batch *side, struct error *err)
{
    const struct pg_param param = {.data = side->addresses};

    return send_statement(apply, side->table, KIND_PURGE, REPLY_DELETE, 0, 1, &param, err);
}

/* The table's row of the control schema, over the connection as it is between two pipelines. */
static bool write_mark(struct apply *apply, const struct side_batch *side, struct error *err)
{
    struct pg *pg = apply->pg;

    if (!settle(apply, err) || !pg_pipeline_leave(pg, err))
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
        return write_side_rows(apply, side, err);
    case SIDE_PURGE:
        return purge_tombstones(apply, side, err);
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
        apply->truncated_at[i] = 0;
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

    apply->counts = (struct apply_counts){0};
    apply->culprit = (struct culprit){0};
    side->is_void = (side->kind == SIDE_ROWS || side->kind == SIDE_ASK) &&
                    apply->truncated_at[side->table->index] >= side->lsn;
    if (side->is_void || side->kind == SIDE_ASK)
        return true;
    if (!begin(apply, err))
        return false;
    expect(apply, REPLY_CLOCK, NULL, 0);
    if (!cursor_send_move(cursor, apply->pg, cursor->lsn, 0, err) ||
        !write_side(apply, side, err) || !follow_captures(apply, &scope, err) ||
        !finish_captures(apply, &scope, err) || !commit(apply, err)) {
        if (err->kind == ERROR_DATA && apply->culprit.table != NULL)
            apply->culprit = (struct culprit){
                .table = apply->culprit.table, .first_lsn = cursor->lsn, .last_lsn = cursor->lsn};
        else
            apply->culprit = (struct culprit){0};
        return error_wrap(err, "resync of %s", side->table->label);
    }
    side->counts = apply->counts;
    return take_mark(apply, side, err);
}
