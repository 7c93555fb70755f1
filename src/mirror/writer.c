/*
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
 *
 * Not here: transactions, and what the statements are (statement.c).
 */
#include "mirror/writer.h"

#include "base/clock.h"
#include "base/memory.h"
#include "batch/tally.h"
#include "mirror/bulk.h"
#include "mirror/params.h"
#include "mirror/statement.h"

#include <stdlib.h>

#define CHUNK_ROWS  5000
#define CHUNK_BYTES (4 << 20)
#define SMALL_ROWS  64
#define MANY_ROWS   1000 /* of a class: their captures are worth a COPY */
#define OID_INT8    20
#define OID_TEXT    25

enum row_class { CLASS_LINKED, CLASS_GONE, CLASS_FRESH, CLASS_FULL, CLASS_HOLED, CLASSES };

enum statement_kind {
    KIND_WRITE, /* plus the flags: STATEMENT_FLAGS of them */
    KIND_DELETE = STATEMENT_FLAGS,
    KIND_TRUNCATE,
    KIND_FORGET,
    KIND_FORGET_ALL,
    KIND_CAPTURE,
    KIND_DELETE_MANY,
    KIND_CAPTURE_MANY,
    KIND_DOUBT,
    KIND_PURGE,
    KINDS
};

struct writer {
    struct writer_options options;
    struct inflight *inflight;
    bool *has_repairs;       /* per table: keys of it may be on the repair list, or come there */
    bool *is_doubtful;       /* per table: nulls of it may be NaN or infinities */
    const bool *is_resynced; /* per table, the caller's; NULL: none is */
    lsn_t *truncated_at;     /* per table: the last truncate while under resync */
    struct bulk *bulk;
    struct params params;
    struct statement_slot *slots;

    struct batch_row **rows; /* the rows of a table, by class */
    int rows_size;
    int class_start[CLASSES + 1];

    struct writer_outcome outcome;
    struct tally_sheet *sheet; /* the rows of the open transaction, by table */
};

/* Which tables have keys on the repair list, from an earlier session. */
static bool find_repairs(struct writer *writer, struct error *err)
{
    const struct writer_options *options = &writer->options;
    _cleanup_result_ struct pg_result *result = NULL;

    if (!pg_query(options->pg,
                  "select schema, name from tailwater.repair where pipeline = $1 union "
                  "select schema, name from tailwater.doubt where pipeline = $1",
                  1, &options->pipeline, &result, err))
        return error_wrap(err, "reading the repair list");
    for (int i = 0; i < pg_rows(result); i++) {
        const struct table *table = table_list_find(options->list, pg_text(result, i, 0),
                                                    pg_text(result, i, 1));

        if (table != NULL)
            writer->has_repairs[table->index] = true;
    }
    return true;
}

/* NULL where nobody wants anything of the table. */
static const struct capture_list *captures_of(const struct writer *writer,
                                              const struct table *table)
{
    const struct capture_sink *sink = writer->options.sink;
    const struct capture_list *list = sink ? &sink->lists[table->index] : NULL;

    return list && list->count > 0 ? list : NULL;
}

static void count_rows(struct writer *writer, const struct table *table, int64_t inserted,
                       int64_t updated, int64_t deleted)
{
    writer->outcome.counts.inserted += inserted;
    writer->outcome.counts.updated += updated;
    writer->outcome.counts.deleted += deleted;
    tally_sheet_add(writer->sheet, table, inserted, updated, deleted);
}

/* The counts are right, or the statement would have failed. */
static bool take_write(struct writer *writer, const struct table *table,
                       const struct pg_result *result, struct error *err)
{
    count_rows(writer, table, pg_int(result, 0, COUNT_INSERTED), pg_int(result, 0, COUNT_UPDATED),
               pg_int(result, 0, COUNT_REMOVED));
    writer->outcome.counts.incomplete += pg_int(result, 0, COUNT_INCOMPLETE);
    writer->has_repairs[table->index] |= pg_int(result, 0, COUNT_INCOMPLETE) > 0;
    return captures_of(writer, table) == NULL ||
           writer->options.sink->take(writer->options.sink->context, table, result, COUNTS, err);
}

static bool take_reply(void *context, const struct pending *pending, const struct pg_result *result,
                       struct error *err)
{
    struct writer *writer = context;

    switch (pending->reply) {
    case REPLY_NOTHING:
        return true;
    case REPLY_CLOCK:
        return cursor_take(writer->options.cursor, result, err);
    case REPLY_WRITE:
        return take_write(writer, pending->table, result, err);
    case REPLY_COUNT:
        count_rows(writer, pending->table, 0, 0, pg_affected(result));
        return true;
    }
    return false;
}

/*
 * Somebody dropped or altered a mirror table under us: its trouble alone, like a row that it
 * refuses.  Undefined table, column and operator; not a plain table or column.
 */
static void blame_shape(struct error *err)
{
    static const char *const states[] = {"42P01", "42703", "42883", "42809", "428C9"};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if (strcmp(err->sqlstate, states[i]) == 0) {
            err->kind = ERROR_DATA;
            error_hint(err, "the mirror table was dropped or altered: change it back, or start "
                            "over with tailwater destroy and tailwater run");
        }
}

bool writer_explain_ledger(struct error *err)
{
    const bool is_gone = strcmp(err->sqlstate, WRITER_NO_LEDGER) == 0 &&
                         strstr(err->message, "tailwater.ledger_") != NULL;

    if (!is_gone && (strcmp(err->sqlstate, WRITER_NO_PARTITION) != 0 ||
                     strstr(err->message, "ledger_") == NULL))
        return false;
    if (err->kind == ERROR_RETRY) /* said already */
        return true;
    err->kind = ERROR_RETRY;
    error_wrap(err, is_gone ? "the ledger of a declared fact was dropped, and is made anew"
                            : "the ledger has no partition for this batch yet");
    if (is_gone)
        error_hint(err, "the fact begins with everything; one that is to go has to leave the "
                        "configuration first, then tailwater.drop_fact() removes it");
    return true;
}

static void explain(void *context, const struct pending *pending, struct error *err)
{
    struct writer *writer = context;
    bool is_of_ledger = false;

    if (strcmp(err->sqlstate, CURSOR_FENCED) == 0) {
        err->kind = ERROR_BUSY;
        error_hint(err, "run one tailwater per pipeline; nothing of this batch was written");
    } else if (strcmp(err->sqlstate, STATEMENT_MISCOUNTED) == 0) {
        err->kind = ERROR_RETRY;
        error_hint(err, "no triggers, rules or other writers on mirror tables");
    } else if (writer->outcome.is_captured) {
        is_of_ledger = writer_explain_ledger(err);
    }
    if (pending->table == NULL)
        return;
    if (!is_of_ledger)
        blame_shape(err);
    writer->outcome.culprit = pending->table;
    error_wrap(err, "%s, transaction at " LSN_FORMAT, pending->table->label,
               LSN_ARGS(pending->lsn));
}

static void make_sql(void *context, const struct table *table, int kind, struct buf *ret_sql)
{
    const struct writer *writer = context;
    const struct capture_list *captures = captures_of(writer, table);

    if (kind == KIND_DELETE || kind == KIND_DELETE_MANY)
        statement_delete(table, captures, kind == KIND_DELETE_MANY, ret_sql);
    else if (kind == KIND_CAPTURE || kind == KIND_CAPTURE_MANY)
        statement_capture(table, captures, kind == KIND_CAPTURE_MANY, ret_sql);
    else if (kind == KIND_TRUNCATE)
        statement_truncate(table, ret_sql);
    else if (kind == KIND_FORGET)
        statement_forget(table, writer->options.pipeline, ret_sql);
    else if (kind == KIND_DOUBT)
        statement_doubt(table, writer->options.pipeline, ret_sql);
    else if (kind == KIND_PURGE)
        statement_purge(table, ret_sql);
    else if (kind == KIND_FORGET_ALL)
        statement_forget_all(table, writer->options.pipeline, ret_sql);
    else
        statement_write(table, (unsigned) kind, writer->options.pipeline, captures, ret_sql);
}

bool writer_new(const struct writer_options *options, struct writer **ret_writer, struct error *err)
{
    const struct table_list *list = options->list;
    struct writer *writer = memory_new(struct writer);
    int widest = 1;

    for (int i = 0; i < list->count; i++)
        widest = list->tables[i].ncolumns > widest ? list->tables[i].ncolumns : widest;
    writer->options = *options;
    writer->inflight = inflight_new(options->pg, list,
                                    &(struct inflight_calls){.context = writer,
                                                             .nkinds = KINDS,
                                                             .make_sql = make_sql,
                                                             .take = take_reply,
                                                             .explain = explain});
    writer->slots = memory_alloc((size_t) (3 * widest + 3) * sizeof(*writer->slots));
    writer->bulk = bulk_new(list);
    writer->sheet = tally_sheet_new(list);
    writer->has_repairs = memory_alloc((size_t) list->count * sizeof(*writer->has_repairs));
    writer->is_doubtful = memory_alloc((size_t) list->count * sizeof(*writer->is_doubtful));
    writer->truncated_at = memory_alloc((size_t) list->count * sizeof(*writer->truncated_at));
    if (!find_repairs(writer, err)) {
        writer_free(writer);
        return false;
    }
    *ret_writer = writer;
    return true;
}

void writer_free(struct writer *writer)
{
    if (writer == NULL)
        return;
    inflight_free(writer->inflight);
    bulk_free(writer->bulk);
    tally_sheet_free(writer->sheet);
    params_release(&writer->params);
    free(writer->has_repairs);
    free(writer->is_doubtful);
    free(writer->truncated_at);
    free(writer->slots);
    free(writer->rows);
    free(writer);
}

void writer_doubt_nulls(struct writer *writer)
{
    const struct table_list *list = writer->options.list;

    for (int t = 0; t < list->count; t++)
        for (int i = 0; i < list->tables[t].ncolumns; i++)
            writer->is_doubtful[t] |= table_column_is_doubtful(&list->tables[t].columns[i]);
}

void writer_take_marks(struct writer *writer, const bool *is_resynced)
{
    writer->is_resynced = is_resynced;
}

lsn_t writer_truncated_at(const struct writer *writer, const struct table *table)
{
    return writer->truncated_at[table->index];
}

void writer_forget_truncate(struct writer *writer, const struct table *table)
{
    writer->truncated_at[table->index] = 0;
}

struct inflight *writer_inflight(struct writer *writer)
{
    return writer->inflight;
}

void writer_begin(struct writer *writer)
{
    writer->outcome.is_captured = writer->outcome.is_owed = false;
    tally_sheet_clear(writer->sheet);
}

void writer_committed(struct writer *writer)
{
    tally_sheet_post(writer->sheet);
}

void writer_reset(struct writer *writer)
{
    writer->outcome.counts = (struct writer_counts){0};
    writer->outcome.culprit = NULL;
}

const struct writer_outcome *writer_outcome(const struct writer *writer)
{
    return &writer->outcome;
}

/* ---- statements ---- */

/* What every write to the table does now. */
static unsigned table_flags(const struct writer *writer, const struct table *table)
{
    const bool is_resynced = writer->is_resynced != NULL && writer->is_resynced[table->index];

    return is_resynced ? STATEMENT_RESYNC : 0;
}

static bool send_statement(struct writer *writer, const struct table *table, int kind,
                           enum reply reply, lsn_t lsn, int nparams, const struct pg_param *params,
                           struct error *err)
{
    const struct pending pending = {reply, table, lsn};

    return inflight_send_kind(writer->inflight, &pending, kind, nparams, params, err);
}

static enum reply kind_reply(int kind, bool is_captured)
{
    if (kind < STATEMENT_FLAGS || kind == KIND_CAPTURE || kind == KIND_DELETE_MANY ||
        kind == KIND_CAPTURE_MANY)
        return REPLY_WRITE;
    if (kind == KIND_DELETE)
        return is_captured ? REPLY_WRITE : REPLY_COUNT;
    return REPLY_NOTHING;
}

static bool has_keys_only(int kind)
{
    return kind == KIND_DELETE || kind == KIND_FORGET || kind == KIND_CAPTURE ||
           kind == KIND_DELETE_MANY || kind == KIND_CAPTURE_MANY;
}

/* The same statement, of which the captures are copied. */
static int many(int kind)
{
    if (kind < STATEMENT_FLAGS)
        return kind | STATEMENT_MANY;
    if (kind == KIND_DELETE)
        return KIND_DELETE_MANY;
    return kind == KIND_CAPTURE ? KIND_CAPTURE_MANY : kind;
}

static bool is_many(int kind)
{
    return kind < STATEMENT_FLAGS ? kind & STATEMENT_MANY
                                  : kind == KIND_DELETE_MANY || kind == KIND_CAPTURE_MANY;
}

/* Rows of that table change in this transaction. */
static void note_captures(struct writer *writer, const struct capture_list *captures, int kind)
{
    writer->outcome.is_captured |= captures != NULL;
    writer->outcome.is_owed |= captures != NULL && (captures->returns || is_many(kind));
}

static bool send_chunk(struct writer *writer, const struct table *table, int kind,
                       struct batch_row *const *rows, int nrows, struct error *err)
{
    const struct capture_list *captures = captures_of(writer, table);
    int nslots = 0;

    note_captures(writer, captures, kind);
    if (has_keys_only(kind))
        for (int i = 0; i < table->nkeys; i++)
            writer->slots[nslots++] = (struct statement_slot){PARAM_COLUMN, table->keys[i]};
    else
        nslots = statement_slots(table, (unsigned) kind, writer->slots);
    params_fill(&writer->params, table, writer->slots, nslots, rows, nrows);
    return send_statement(writer, table, kind, kind_reply(kind, captures != NULL), rows[0]->lsn,
                          nslots, writer->params.params, err);
}

/* rows[from … to) in statements of bounded size. */
static bool send_rows(struct writer *writer, const struct table *table, int kind, int from, int to,
                      struct error *err)
{
    const struct capture_list *captures = captures_of(writer, table);

    if (to - from >= MANY_ROWS && captures != NULL && captures->copies)
        kind = many(kind);
    while (from < to) {
        size_t bytes = 0;
        int end = from;

        while (end < to && end - from < CHUNK_ROWS && bytes < CHUNK_BYTES)
            bytes += writer->rows[end++]->data_bytes;
        if (!send_chunk(writer, table, kind, writer->rows + from, end - from, err))
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

static void reserve_rows(struct writer *writer, int nrows)
{
    if (nrows > writer->rows_size) {
        writer->rows_size = nrows;
        writer->rows = memory_resize(writer->rows, (size_t) nrows * sizeof(struct batch_row *));
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
static void sort_rows(struct writer *writer, const struct batch_table *rows)
{
    const bool all_linked = is_all_linked(rows);
    int at[CLASSES] = {0};

    for (int i = 0; i < rows->nrows; i++)
        at[classify(rows->rows[i], all_linked)]++;
    writer->class_start[0] = 0;
    for (int c = 0; c < CLASSES; c++) {
        writer->class_start[c + 1] = writer->class_start[c] + at[c];
        at[c] = writer->class_start[c];
    }
    for (int i = 0; i < rows->nrows; i++)
        writer->rows[at[classify(rows->rows[i], all_linked)]++] = rows->rows[i];
}

static int class_count(const struct writer *writer, enum row_class class)
{
    return writer->class_start[class + 1] - writer->class_start[class];
}

/* Has a row that is there a null which may be a NaN or an infinity? */
static bool is_in_doubt(const struct writer *writer, const struct table *table,
                        const struct batch_row *row)
{
    if (!writer->is_doubtful[table->index] || row->is_gone)
        return false;
    for (int i = 0; i < table->ncolumns; i++)
        if (row->values[i].kind == VALUE_NULL && table_column_is_doubtful(&table->columns[i]))
            return true;
    return false;
}

static unsigned doubts_of(const struct writer *writer, const struct table *table, int from, int to)
{
    for (int i = from; i < to; i++)
        if (is_in_doubt(writer, table, writer->rows[i]))
            return STATEMENT_DOUBTS;
    return 0;
}

/* The flags that rows[from … to) need. */
static unsigned flags_of(const struct writer *writer, const struct table *table, int from, int to)
{
    unsigned flags = table_flags(writer, table) | doubts_of(writer, table, from, to);

    for (int i = from; i < to; i++) {
        const struct batch_row *row = writer->rows[i];

        flags |= row->is_gone ? STATEMENT_GONE : 0;
        flags |= row->has_holes ? STATEMENT_HOLES : 0;
        flags |= row->has_holes && row->base ? STATEMENT_BASES : 0;
    }
    return flags;
}

static bool write_linked(struct writer *writer, const struct table *table, struct error *err)
{
    const int count = class_count(writer, CLASS_LINKED);

    if (count == 0)
        return true;
    return send_chunk(writer, table, (int) flags_of(writer, table, 0, count), writer->rows, count,
                      err);
}

static bool write_gone(struct writer *writer, const struct table *table, struct error *err)
{
    const unsigned flags = table_flags(writer, table);
    const bool is_plain = !table_keeps_tombstones(table) && !(flags & STATEMENT_RESYNC);

    return send_rows(writer, table, is_plain ? KIND_DELETE : (int) (STATEMENT_GONE | flags),
                     writer->class_start[CLASS_GONE], writer->class_start[CLASS_GONE + 1], err);
}

static bool write_truncate(struct writer *writer, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    char lsn[LSN_TEXT_SIZE];
    const uint64_t time = __builtin_bswap64(
        (uint64_t) (rows->truncate_time_us - CLOCK_POSTGRES_EPOCH_US));
    const struct pg_param params[] = {
        {.data = lsn_text(rows->truncate_lsn, lsn)},
        {.data = (const char *) &time, .len = sizeof(time), .is_binary = true},
    };

    if (captures_of(writer, table) != NULL) {
        writer->outcome.is_captured = true;
        writer->options.sink->truncate(writer->options.sink->context, table);
    }
    if (table_flags(writer, table) & STATEMENT_RESYNC)
        writer->truncated_at[table->index] = rows->truncate_lsn;
    return send_statement(writer, table, KIND_TRUNCATE, REPLY_COUNT, rows->truncate_lsn,
                          table_keeps_tombstones(table) ? 2 : 0, params, err);
}

/* Many fresh rows go by COPY, outside the pipeline.  Where one of them exists after all, they go
 * the general way. */
static bool write_fresh(struct writer *writer, const struct table *table, int *ret_written,
                        struct error *err)
{
    const int from = writer->class_start[CLASS_FRESH], count = class_count(writer, CLASS_FRESH);
    bool is_done = false;

    *ret_written = 0;
    if (!bulk_is_worth(writer->bulk, table, count))
        return true;
    if (!inflight_settle(writer->inflight, err) || !pg_pipeline_leave(writer->options.pg, err))
        return false;
    if (!bulk_copy(writer->bulk, writer->options.pg, table, writer->rows + from, count, &is_done,
                   err) ||
        !pg_pipeline_enter(writer->options.pg, err)) {
        blame_shape(err);
        writer->outcome.culprit = table;
        return error_wrap(err, "%s, transaction at " LSN_FORMAT, table->label,
                          LSN_ARGS(writer->rows[from]->lsn));
    }
    if (!is_done)
        return true;
    *ret_written = count;
    count_rows(writer, table, count, 0, 0);
    return captures_of(writer, table) == NULL ||
           send_rows(writer, table, KIND_CAPTURE, from, from + count, err);
}

/* Keys that are gone leave the repair list: a row must not come back with an older repair. */
static bool forget_repairs(struct writer *writer, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int ngone = 0;

    if (!writer->has_repairs[table->index])
        return true;
    if (rows->is_truncated && !send_statement(writer, table, KIND_FORGET_ALL, REPLY_NOTHING,
                                              rows->truncate_lsn, 0, NULL, err))
        return false;
    for (int i = 0; i < rows->nrows; i++)
        if (rows->rows[i]->is_gone)
            writer->rows[ngone++] = rows->rows[i];
    return send_rows(writer, table, KIND_FORGET, 0, ngone, err);
}

/* The keys and transactions of rows[from … to), which are in doubt. */
static bool send_doubts(struct writer *writer, const struct table *table, int from, int to,
                        struct error *err)
{
    _cleanup_buf_ struct buf keys = {0}, xids = {0};
    struct pg_param params[2];
    size_t place = codec_array_begin(&keys, OID_TEXT);

    for (int k = 0; k < table->nkeys; k++)
        for (int i = from; i < to; i++) {
            const struct value *value = &writer->rows[i]->key[k];

            if (!codec_add(WIRE_STRING, value->data, value->len, &keys))
                return error_set(err, ERROR_BUG, "a key that is no text");
        }
    codec_array_end(&keys, place, (uint32_t) ((to - from) * table->nkeys), false);
    place = codec_array_begin(&xids, OID_INT8);
    for (int i = from; i < to; i++) {
        buf_add_u32(&xids, 8);
        buf_add_u64(&xids, writer->rows[i]->xid);
    }
    codec_array_end(&xids, place, (uint32_t) (to - from), false);
    params[0] = (struct pg_param){.data = keys.data, .len = keys.len, .is_binary = true};
    params[1] = (struct pg_param){.data = xids.data, .len = xids.len, .is_binary = true};
    writer->outcome.counts.doubts += to - from;
    return send_statement(writer, table, KIND_DOUBT, REPLY_NOTHING, writer->rows[from]->lsn, 2,
                          params, err);
}

/* List the rows in doubt.  Whoever asks the source may put them on the repair list. */
static bool list_doubts(struct writer *writer, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int count = 0, from = 0;

    if (!writer->is_doubtful[table->index])
        return true;
    for (int i = 0; i < rows->nrows; i++)
        if (is_in_doubt(writer, table, rows->rows[i]))
            writer->rows[count++] = rows->rows[i];
    writer->has_repairs[table->index] |= count > 0;
    while (from < count) {
        size_t bytes = 0;
        int end = from;

        while (end < count && end - from < CHUNK_ROWS && bytes < CHUNK_BYTES) {
            for (int k = 0; k < table->nkeys; k++)
                bytes += writer->rows[end]->key[k].len;
            end++;
        }
        if (!send_doubts(writer, table, from, end, err))
            return false;
        from = end;
    }
    return true;
}

static bool write_changes(struct writer *writer, const struct batch_table *rows, struct error *err)
{
    const struct table *table = rows->table;
    int fresh = 0, from, holed;
    unsigned flags;

    reserve_rows(writer, rows->nrows);
    if (!forget_repairs(writer, rows, err))
        return false;
    sort_rows(writer, rows);
    if (rows->is_truncated && !write_truncate(writer, rows, err))
        return false;
    if (!write_linked(writer, table, err))
        return false;
    from = writer->class_start[CLASS_GONE];
    if (rows->nrows - from <= SMALL_ROWS && class_count(writer, CLASS_GONE) < rows->nrows - from)
        return send_rows(writer, table, (int) flags_of(writer, table, from, rows->nrows), from,
                         rows->nrows, err);
    if (!write_gone(writer, table, err) || !write_fresh(writer, table, &fresh, err))
        return false;
    from = writer->class_start[CLASS_FRESH] + fresh;
    flags = table_flags(writer, table);
    holed = writer->class_start[CLASS_HOLED];
    return send_rows(writer, table, (int) (flags | doubts_of(writer, table, from, holed)), from,
                     holed, err) &&
           send_rows(writer, table,
                     (int) (flags | STATEMENT_HOLES | doubts_of(writer, table, holed, rows->nrows)),
                     holed, rows->nrows, err);
}

bool writer_write(struct writer *writer, const struct batch_table *rows, struct error *err)
{
    return write_changes(writer, rows, err) && list_doubts(writer, rows, err);
}

bool writer_write_older(struct writer *writer, const struct table *table,
                        struct batch_row *const *rows, int nrows, struct error *err)
{
    int flags = STATEMENT_GUARD;

    reserve_rows(writer, nrows);
    for (int i = 0; i < nrows; i++) {
        writer->rows[i] = rows[i];
        flags |= rows[i]->is_gone ? STATEMENT_GONE : 0;
    }
    return send_rows(writer, table, flags, 0, nrows, err);
}

bool writer_purge(struct writer *writer, const struct table *table, const char *addresses,
                  struct error *err)
{
    const struct pg_param param = {.data = addresses};

    return send_statement(writer, table, KIND_PURGE, REPLY_COUNT, 0, 1, &param, err);
}
