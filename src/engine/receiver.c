/*
 * One loop: next event, take it, seal if it is time, confirm if it is due.
 *
 * Positions.  A transaction is skipped exactly when final_lsn < cursor (P32).  What the source says
 * in a keepalive is believed only while nothing is open, sealed or unconfirmed (P39), and even then
 * it first goes through the mirror as an empty batch, so that the stored cursor is never behind
 * what was confirmed (P30).  Empty transactions (wal2json sends one for every commit in the
 * database) are treated the same.
 *
 * Deliberately not here: any knowledge of SQL, and any waiting but in stream_next().
 */
#include "engine/receiver.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/memory.h"
#include "batch/binding.h"
#include "pg/pg.h"
#include "source/catalog.h"

#include <stdlib.h>
#include <string.h>

#define CONFIRM_US 100000 /* at most ten confirmations a second while busy (P39, P41) */
#define IDLE_POSITION_US                                                                           \
    10000000 /* an idle position is stored this often, unless somebody waits for it */

struct receiver {
    const struct receiver_options *options;
    struct stream *stream;
    struct handover *handover;

    struct batch *open;  /* being filled */
    struct batch *other; /* sealed, or free */
    bool is_skipping;    /* inside a transaction that the mirror has */
    bool is_inside;      /* inside a transaction */

    struct arena arena; /* bindings */
    struct binding **bindings;
    uint32_t nbindings;

    lsn_t cursor;   /* durable in the mirror */
    lsn_t position; /* end of the newest transaction given to a batch */
    lsn_t idle; /* everything below is known to be irrelevant; > position only while nothing is open
                 */
    int64_t idle_stored_us;
    int64_t confirmed_us;
    lsn_t confirmed;
    bool is_asked;   /* the source wants an answer, whatever it is … */
    bool is_awaited; /* … and waits until the idle position is confirmed (it may be shutting down,
                        P40) */
};

/* ---- relations ---- */

/* A partition that appeared after the start: wal2json sends its own name (P60). */
static bool find_new_leaf(struct receiver *r, const struct relation *relation,
                          const struct table **ret_table, struct error *err)
{
    static const char sql[] =
        "select n.nspname, c.relname from pg_partition_root(to_regclass($1)) p(root) "
        "join pg_class c on c.oid = p.root join pg_namespace n on n.oid = c.relnamespace";
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = r->options->source_conninfo,
                                       .application = "tailwater partitions"};
    _cleanup_pg_ struct pg *pg = NULL;
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf name = {0};

    *ret_table = NULL;
    pg_add_qualified(&name, relation->schema, relation->name);
    if (!pg_connect(&options, &pg, err) ||
        !pg_query(pg, sql, 1, (const char *const[]){buf_text(&name)}, &result, err))
        return error_wrap(err, "looking up the partition %s", buf_text(&name));
    if (pg_rows(result) == 1)
        *ret_table = table_list_find(r->options->list, pg_text(result, 0, 0),
                                     pg_text(result, 0, 1));
    return true;
}

static bool has_partitioned(const struct table_list *list)
{
    for (int i = 0; i < list->count; i++)
        if (list->tables[i].is_partitioned)
            return true;
    return false;
}

/* The binding of a relation, made at its first change.  NULL: not mirrored. */
static bool bind(struct receiver *r, struct relation *relation, struct binding **ret_binding,
                 struct error *err)
{
    const struct table *table;

    if (relation->id >= r->nbindings) {
        const uint32_t size = relation->id * 2 + 16;

        r->bindings = memory_resize(r->bindings, size * sizeof(*r->bindings));
        memset(r->bindings + r->nbindings, 0, (size - r->nbindings) * sizeof(*r->bindings));
        r->nbindings = size;
    }
    *ret_binding = r->bindings[relation->id];
    if (*ret_binding != NULL || relation->is_ignored)
        return true;
    table = table_list_find(r->options->list, relation->schema, relation->name);
    if (table == NULL && has_partitioned(r->options->list) &&
        !find_new_leaf(r, relation, &table, err))
        return false;
    if (table == NULL) {
        relation->is_ignored = true;
        return true;
    }
    if (!binding_make(table, relation, &r->arena, ret_binding, err))
        return false;
    r->bindings[relation->id] = *ret_binding;
    return true;
}

/* ---- changes ---- */

static bool take_truncate(struct receiver *r, const struct change *change, struct error *err)
{
    for (int i = 0; i < change->nrelations; i++) {
        struct binding *binding;

        if (!bind(r, change->relations[i], &binding, err))
            return false;
        if (binding != NULL && !batch_truncate(r->open, binding->table, err))
            return false;
    }
    return true;
}

static bool take_row(struct receiver *r, const struct change *change, struct error *err)
{
    struct binding *binding;

    if (!bind(r, change->relation, &binding, err))
        return false;
    return binding == NULL || batch_add(r->open, binding, change, err);
}

static bool take_begin(struct receiver *r, const struct change *change, struct error *err)
{
    if (r->is_inside)
        return error_set(err, ERROR_PROTOCOL, "a transaction begins inside another, at " LSN_FORMAT,
                         LSN_ARGS(change->final_lsn));
    r->is_inside = true;
    r->is_skipping = change->final_lsn < r->options->cursor;
    if (!r->is_skipping)
        batch_begin(r->open, change);
    return true;
}

static bool take_commit(struct receiver *r, const struct change *change, struct error *err)
{
    if (!r->is_inside)
        return error_set(err, ERROR_PROTOCOL, "a commit without a transaction, at " LSN_FORMAT,
                         LSN_ARGS(change->final_lsn));
    r->is_inside = false;
    r->options->statistics->received_lsn = change->end_lsn;
    if (r->is_skipping)
        return true;
    batch_commit(r->open, change);
    if (batch_is_empty(r->open)) {
        if (change->end_lsn > r->idle)
            r->idle = change->end_lsn;
        batch_clear(r->open);
        return true;
    }
    r->position = change->end_lsn;
    return true;
}

static bool take_change(struct receiver *r, const struct change *change, struct error *err)
{
    switch (change->kind) {
    case CHANGE_NONE:
        return true;
    case CHANGE_BEGIN:
        return take_begin(r, change, err);
    case CHANGE_COMMIT:
        return take_commit(r, change, err);
    case CHANGE_MESSAGE:
        if (r->is_inside && !r->is_skipping && change->is_transactional)
            r->open->has_message = true;
        return true;
    case CHANGE_INSERT:
    case CHANGE_UPDATE:
    case CHANGE_DELETE:
    case CHANGE_TRUNCATE:
        break;
    }
    if (!r->is_inside)
        return error_set(err, ERROR_PROTOCOL, "a row outside of a transaction");
    if (r->is_skipping)
        return true;
    return change->kind == CHANGE_TRUNCATE ? take_truncate(r, change, err)
                                           : take_row(r, change, err);
}

/* ---- sealing ---- */

static void seal(struct receiver *r)
{
    struct batch *sealed = r->open;

    r->open = r->other;
    r->other = sealed;
    batch_clear(r->open);
    if (sealed->in_transaction)
        batch_continue(r->open, sealed);
    handover_seal(r->handover, sealed);
}

/* Nothing received is unapplied, and no transaction is open. */
static bool is_quiet(struct receiver *r)
{
    return !r->is_inside && batch_is_empty(r->open) && handover_is_idle(r->handover);
}

/* An idle position on its way to being confirmed: an empty batch that only moves the cursor. */
static void seal_idle(struct receiver *r)
{
    r->open->end_lsn = r->idle;
    r->position = r->idle;
    r->idle_stored_us = clock_tick_us();
    seal(r);
}

static bool is_idle_position_due(const struct receiver *r)
{
    const lsn_t until = r->options->until;

    return r->idle > r->position &&
           (r->is_awaited || (until != 0 && r->cursor < until && r->idle >= until) ||
            clock_tick_us() - r->idle_stored_us >= IDLE_POSITION_US);
}

static void seal_if_due(struct receiver *r)
{
    if (!batch_is_empty(r->open)) {
        if ((!r->open->in_transaction || batch_is_full(r->open)) && handover_is_idle(r->handover))
            seal(r);
    } else if (is_idle_position_due(r) && is_quiet(r)) {
        seal_idle(r);
    }
}

/* ---- confirming ---- */

static bool is_confirmation_due(const struct receiver *r, int64_t now)
{
    if (r->is_asked)
        return true;
    if (r->cursor > r->confirmed)
        return r->is_awaited || now - r->confirmed_us >= CONFIRM_US;
    return now - r->confirmed_us >= r->options->confirm_interval_us;
}

static bool confirm_if_due(struct receiver *r, struct error *err)
{
    const int64_t now = clock_tick_us();

    r->cursor = handover_cursor(r->handover);
    if (r->cursor >= r->position)
        r->options->statistics->quiet_at_us = clock_now_us();
    if (!is_confirmation_due(r, now))
        return true;
    if (!FAULT(before_confirm, err) || !stream_confirm(r->stream, r->cursor, err))
        return false;
    r->confirmed = r->cursor;
    r->confirmed_us = now;
    r->is_asked = false;
    if (r->cursor >= r->idle && r->cursor >= r->position)
        r->is_awaited = false;
    r->options->statistics->confirmed_lsn = r->cursor;
    return FAULT(after_confirm, err);
}

/* ---- the loop ---- */

static bool take_event(struct receiver *r, const struct stream_event *event, struct error *err)
{
    switch (event->kind) {
    case STREAM_NOTHING:
        handover_drain_wake(r->handover);
        return true;
    case STREAM_CHANGE:
        return take_change(r, &event->change, err);
    case STREAM_KEEPALIVE:
        r->is_asked |= event->reply_requested;
        r->is_awaited |= event->reply_requested;
        if (event->wal_end > r->idle && is_quiet(r))
            r->idle = event->wal_end;
        return true;
    }
    return true;
}

/* While the open batch is full there is nothing to do but wait for the applier, and to answer the
 * source. */
static bool wait_for_applier(struct receiver *r, struct error *err)
{
    while (batch_is_full(r->open) && !handover_is_idle(r->handover) && !*r->options->stop) {
        if (!handover_check(r->handover, err) || !confirm_if_due(r, err))
            return false;
        handover_wait(r->handover, CONFIRM_US / 1000);
    }
    return true;
}

static int timeout_ms(const struct receiver *r)
{
    return r->cursor > r->confirmed ? CONFIRM_US / 1000 : 1000;
}

static bool is_done(const struct receiver *r)
{
    return *r->options->stop || (r->options->until != 0 && r->cursor >= r->options->until);
}

static bool loop(struct receiver *r, struct error *err)
{
    while (!is_done(r)) {
        struct stream_event event;

        if (!stream_next(r->stream, timeout_ms(r), handover_wake_fd(r->handover), &event, err) ||
            !take_event(r, &event, err) || !wait_for_applier(r, err))
            return false;
        seal_if_due(r);
        if (!handover_check(r->handover, err) || !confirm_if_due(r, err))
            return false;
    }
    return stream_confirm(r->stream, r->cursor, err);
}

bool receiver_run(const struct receiver_options *options, struct error *err)
{
    struct receiver r = {.options = options,
                         .stream = options->stream,
                         .handover = options->handover,
                         .open = options->batches[0],
                         .other = options->batches[1],
                         .cursor = options->cursor,
                         .position = options->cursor,
                         .idle = options->cursor,
                         .confirmed = options->cursor,
                         .confirmed_us = clock_tick_us(),
                         .idle_stored_us = clock_tick_us()};
    bool is_ok;

    handover_done(options->handover, options->cursor);
    is_ok = loop(&r, err);
    handover_close(options->handover);
    arena_release(&r.arena);
    free(r.bindings);
    return is_ok;
}
