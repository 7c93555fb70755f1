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
#include "base/log.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "batch/binding.h"
#include "pg/pg.h"
#include "source/catalog.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONFIRM_US 100000 /* at most ten confirmations a second while busy (P39, P41) */
#define IDLE_POSITION_US                                                                           \
    10000000 /* an idle position is stored this often, unless somebody waits for it */
#define BEHIND_US        1000000  /* older transactions are worth gathering … */
#define GATHERING_US     20000    /* … for so long … */
#define GATHERED_CHANGES 5000     /* … or until there are so many changes */
#define SETTLE_US        30000000 /* how long an end waits for rows that are being fetched … */
#define SETTLE_TURN_MS   50       /* … and how often it looks */
#define LOOK_UP_US       1000000  /* a relation that is not ours is looked up again after that */
#define VISIBLE_US       2000000  /* how long a look-up waits for its transaction to be visible */

/* What is known of a relation of the stream. */
struct bound {
    struct binding *binding; /* NULL: not mirrored */
    int64_t looked_up_us;
};

struct receiver {
    const struct receiver_options *options;
    struct stream *stream;
    struct handover *handover;

    struct batch *open;  /* being filled */
    struct batch *other; /* sealed, or free */
    bool is_skipping;    /* inside a transaction that the mirror has */
    bool is_inside;      /* inside a transaction */

    struct arena arena;  /* bindings */
    struct bound *bound; /* by relation->id */
    uint32_t nbound;
    struct pg *lookup;      /* to the source, for unknown relations; opened when needed */
    lsn_t final_lsn;        /* of the transaction we are inside of */
    struct culprit culprit; /* whose change was refused here */
    lsn_t *truncated_at;    /* per table: final_lsn of the last transaction that truncated it */

    lsn_t cursor;   /* durable in the mirror */
    lsn_t position; /* end of the newest transaction given to a batch */
    lsn_t idle; /* everything below is known to be irrelevant; > position only while nothing is open
                 */
    int64_t idle_stored_us;
    int64_t sent_at_us;         /* the source's clock, of the newest event */
    int64_t gathering_since_us; /* the open batch could be sealed since then; 0: it is not held */
    int64_t confirmed_us;
    lsn_t confirmed;
    bool is_asked;   /* the source wants an answer, whatever it is … */
    bool is_awaited; /* … and waits until the idle position is confirmed (it may be shutting down,
                        P40) */
    int64_t silent_since_us; /* 0: something came just now */
    int64_t ended_us;        /* what was asked for is done, since then; 0: it is not */
    bool is_asking;          /* and the source was asked for a sign of life since */
};

/* What is wrong is wrong with this table alone: everything else may go on without it. */
static bool blame(struct receiver *r, const struct table *table, const struct error *err)
{
    if (err->kind != ERROR_BUG)
        r->culprit = (struct culprit){.table = table,
                                      .first_lsn = r->final_lsn,
                                      .last_lsn = r->final_lsn,
                                      .commit_time_us = r->open->commit_time_us,
                                      .xid = r->open->xid};
    return false;
}

/* ---- relations ---- */

/*
 * A commit is in the stream before others see it: for a moment, or for as long as it waits for a standby.
 * Whoever is seen to hold its own transaction's lock no longer has been made visible before.
 */
static bool wait_until_visible(struct receiver *r, struct error *err)
{
    static const char sql[] = "select not exists (select from pg_locks where locktype = "
                              "'transactionid' and transactionid = $1::xid and granted)";
    const int64_t end_us = clock_tick_us() + VISIBLE_US;
    char xid[16];

    snprintf(xid, sizeof(xid), "%" PRIu32, r->open->xid);
    for (;;) {
        _cleanup_result_ struct pg_result *result = NULL;

        if (!pg_query_row(r->lookup, sql, 1, (const char *const[]){xid}, &result, err))
            return false;
        if (pg_bool(result, 0, 0))
            return true;
        if (clock_tick_us() >= end_us)
            return error_set(err, ERROR_RETRY,
                             "transaction %s of the source is in the stream, and not visible there "
                             "yet: it may wait for a standby (synchronous_standby_names)",
                             xid);
        (void) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

/*
 * wal2json sends the names of partitions (P60), as they were then; pgoutput does so too when
 * somebody turns publish_via_partition_root off.  One that is not known from the start is looked
 * up: a new partition of a mirrored table is bound to its root; anything else that exists is not
 * ours, for now, since it may be attached later; and what does not exist any more but looks like a
 * partition stops us, because its rows may be ours.
 */
static bool look_up(struct receiver *r, const struct relation *relation, bool *ret_exists,
                    const struct table **ret_table, struct error *err)
{
    static const char sql[] =
        "select n.nspname, c.relname from (select to_regclass($1) as oid) r "
        "left join pg_partition_root(r.oid) p(root) on true left join pg_class c on c.oid = p.root "
        "left join pg_namespace n on n.oid = c.relnamespace where r.oid is not null";
    const struct pg_options options = {.side = PG_SOURCE,
                                       .conninfo = r->options->source_conninfo,
                                       .application = "tailwater partitions"};
    const int limit_ms = (int) (r->options->silence_us / 1000);
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf name = {0};

    pg_add_qualified(&name, relation->schema, relation->name);
    if (r->lookup != NULL && pg_is_broken(r->lookup)) {
        pg_free(r->lookup);
        r->lookup = NULL;
    }
    if (r->lookup == NULL) {
        if (!pg_connect(&options, &r->lookup, err))
            return error_wrap(err, "looking up %s", buf_text(&name));
        pg_limit(r->lookup, limit_ms, -1);
    }
    if (!wait_until_visible(r, err) ||
        !pg_query(r->lookup, sql, 1, (const char *const[]){buf_text(&name)}, &result, err))
        return error_wrap(err, "looking up %s", buf_text(&name));
    *ret_exists = pg_rows(result) > 0;
    *ret_table = NULL;
    if (*ret_exists && !pg_is_null(result, 0, 0))
        *ret_table = table_list_find(r->options->list, pg_text(result, 0, 0),
                                     pg_text(result, 0, 1));
    return true;
}

/* Has it the columns of a partitioned table of ours: all known there, and the key among them? */
static bool looks_like_leaf(const struct table *table, const struct relation *relation)
{
    int nkeys = 0;

    for (int i = 0; i < relation->ncolumns; i++) {
        const int column = table_find_column(table, relation->columns[i].name);

        if (column < 0 && !binding_is_left_out(table, relation->columns[i].name))
            return false;
        nkeys += column >= 0 && table->columns[column].is_key;
    }
    return table->is_partitioned && nkeys == table->nkeys;
}

static bool refuse_lost_leaf(struct receiver *r, const struct relation *relation, struct error *err)
{
    for (int i = 0; i < r->options->list->count; i++) {
        const struct table *table = &r->options->list->tables[i];

        if (!looks_like_leaf(table, relation) || batch_skips(r->open, table))
            continue;
        error_set(err, ERROR_FAILED,
                  "the stream has rows of %s.%s, which does not exist any more and has the columns "
                  "of %s: "
                  "probably a partition that was renamed or dropped since",
                  relation->schema, relation->name, table->label);
        error_hint(err,
                   "its rows cannot be told from foreign ones: destroy the pipeline and copy anew");
        return blame(r, table, err);
    }
    return true;
}

static bool has_partitioned(const struct table_list *list)
{
    for (int i = 0; i < list->count; i++)
        if (list->tables[i].is_partitioned)
            return true;
    return false;
}

/* The mirrored table that a relation belongs to; NULL for none. */
static bool find_table(struct receiver *r, struct relation *relation,
                       const struct table **ret_table, struct error *err)
{
    struct bound *bound = &r->bound[relation->id];
    const int64_t now = clock_tick_us();
    bool exists = false;

    *ret_table = table_list_find(r->options->list, relation->schema, relation->name);
    if (*ret_table != NULL)
        return true;
    if (!has_partitioned(r->options->list)) {
        relation->is_ignored = true;
        return true;
    }
    if (bound->looked_up_us != 0 && now - bound->looked_up_us < LOOK_UP_US)
        return true;
    bound->looked_up_us = now;
    if (!look_up(r, relation, &exists, ret_table, err) ||
        (!exists && !refuse_lost_leaf(r, relation, err)))
        return false;
    /* pgoutput describes a table again when it is attached. */
    relation->is_ignored = relation->oid != 0 && *ret_table == NULL;
    return true;
}

/* The binding of a relation, made at its first change that counts.  NULL: not mirrored, or left out
 * (and then it may well have another shape). */
static bool bind(struct receiver *r, struct relation *relation, struct binding **ret_binding,
                 struct error *err)
{
    const struct table *table;

    if (relation->id >= r->nbound) {
        const uint32_t size = relation->id * 2 + 16;

        r->bound = memory_resize(r->bound, size * sizeof(*r->bound));
        memset(r->bound + r->nbound, 0, (size - r->nbound) * sizeof(*r->bound));
        r->nbound = size;
    }
    *ret_binding = r->bound[relation->id].binding;
    if (*ret_binding != NULL || relation->is_ignored)
        return true;
    if (!find_table(r, relation, &table, err))
        return false;
    if (table == NULL || batch_skips(r->open, table))
        return true;
    if (!binding_make(table, relation, &r->arena, ret_binding, err))
        return blame(r, table, err);
    r->bound[relation->id].binding = *ret_binding;
    return true;
}

/* ---- changes ---- */

/*
 * wal2json names a truncated root and each of its partitions; a partition alone is named without
 * its root, and which rows of the mirror were in it nobody knows.  (pgoutput does not send that one
 * at all.)
 */
static bool take_leaf_truncate(struct receiver *r, const struct table *table,
                               const struct relation *leaf, struct error *err)
{
    if (r->truncated_at[table->index] == r->final_lsn || table->truncate == TRUNCATE_IGNORE ||
        batch_skips(r->open, table))
        return true;
    error_set(err, ERROR_FAILED,
              "%s.%s, a partition of %s, was truncated on the source at " LSN_FORMAT, leaf->schema,
              leaf->name, table->label, LSN_ARGS(r->final_lsn));
    return error_hint(
        err,
        "truncates of single partitions cannot be followed: set truncate: ignore for %s to keep "
        "its rows, or destroy the pipeline and copy anew",
        table->label);
}

static bool take_truncate(struct receiver *r, const struct change *change, struct error *err)
{
    for (int i = 0; i < change->nrelations; i++) {
        const struct relation *relation = change->relations[i];
        struct binding *binding;
        const struct table *table;

        if (!bind(r, change->relations[i], &binding, err))
            return false;
        if (binding == NULL)
            continue;
        table = binding->table;
        if (strcmp(table->schema, relation->schema) != 0 ||
            strcmp(table->name, relation->name) != 0) {
            if (!take_leaf_truncate(r, table, relation, err))
                return blame(r, table, err);
            continue;
        }
        r->truncated_at[table->index] = r->final_lsn;
        if (!batch_truncate(r->open, table, err))
            return blame(r, table, err);
    }
    return true;
}

static bool take_row(struct receiver *r, const struct change *change, struct error *err)
{
    struct binding *binding;

    if (!bind(r, change->relation, &binding, err))
        return false;
    return binding == NULL || batch_add(r->open, binding, change, err) ||
           blame(r, binding->table, err);
}

/* The mirrored table that the plugin means by "schema"."name"; NULL for none. */
static bool find_left_out(struct receiver *r, const char *quoted, const struct table **ret_table,
                          struct error *err)
{
    _cleanup_buf_ struct buf name = {0};
    struct relation relation = {0};
    bool exists;
    char *middle;

    *ret_table = NULL;
    for (int i = 0; i < r->options->list->count && *ret_table == NULL; i++) {
        const struct table *table = &r->options->list->tables[i];

        buf_clear(&name);
        buf_printf(&name, "\"%s\".\"%s\"", table->schema, table->name);
        if (strcmp(buf_text(&name), quoted) == 0)
            *ret_table = table;
    }
    if (*ret_table != NULL || !has_partitioned(r->options->list))
        return true;
    /* A partition? */
    buf_clear(&name);
    buf_add(&name, quoted);
    middle = strstr(name.data, "\".\"");
    if (middle == NULL)
        return true;
    *middle = '\0';
    middle[strlen(middle + 1)] = '\0';
    relation.schema = name.data + 1;
    relation.name = middle + 3;
    return look_up(r, &relation, &exists, ret_table, err);
}

/* What the plugin did not send cannot be applied: the table is missing it from here on. */
static bool take_left_out(struct receiver *r, struct error *err)
{
    const struct table *table;
    const char *quoted;
    int next = 0;

    while (stream_left_out(r->stream, &next, &quoted)) {
        if (!r->is_inside || r->is_skipping)
            continue;
        if (!find_left_out(r, quoted, &table, err))
            return false;
        if (table == NULL || batch_skips(r->open, table))
            continue;
        error_set(err, ERROR_FAILED,
                  "%s: the source left an update or a delete out, since the table had no replica "
                  "identity at the time",
                  table->label);
        error_hint(err,
                   "see that it has its primary key, or REPLICA IDENTITY, again; then tailwater "
                   "resync %s",
                   table->label);
        return blame(r, table, err);
    }
    return true;
}

static bool take_begin(struct receiver *r, const struct change *change, struct error *err)
{
    if (r->is_inside)
        return error_set(err, ERROR_PROTOCOL, "a transaction begins inside another, at " LSN_FORMAT,
                         LSN_ARGS(change->final_lsn));
    r->is_inside = true;
    r->final_lsn = change->final_lsn;
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

    r->gathering_since_us = 0;

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
    const lsn_t until = r->options->until, wanted = handover_wanted(r->handover);

    return r->idle > r->position && (r->is_awaited || r->ended_us != 0 ||
                                     (until != 0 && r->cursor < until && r->idle >= until) ||
                                     (r->cursor < wanted && r->idle >= wanted) ||
                                     clock_tick_us() - r->idle_stored_us >= IDLE_POSITION_US);
}

/* A transaction that has to be a batch alone is complete. */
static bool is_alone(const struct receiver *r)
{
    return r->final_lsn <= r->options->careful_until && !r->is_inside && !batch_is_empty(r->open);
}

/*
 * Far behind, a batch is worth a moment's wait: what comes now is old already, and each commit costs
 * both servers the same however few rows it has.  Both times are the source's clock.
 */
static bool is_gathering(struct receiver *r)
{
    if (is_alone(r) || r->sent_at_us - r->open->last_commit_time_us < BEHIND_US ||
        r->open->nchanges >= GATHERED_CHANGES)
        return false;
    if (r->gathering_since_us == 0)
        r->gathering_since_us = clock_tick_us();
    return clock_tick_us() - r->gathering_since_us < GATHERING_US;
}

static void seal_if_due(struct receiver *r)
{
    if (!batch_is_empty(r->open)) {
        if (handover_is_idle(r->handover) &&
            (r->open->in_transaction ? batch_is_full(r->open) : !is_gathering(r)))
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

/*
 * A network that swallows everything without a word: TCP itself notices that where it can (pg.c's
 * tcp_user_timeout); something in between that goes on acknowledging is found out by asking.
 */
static bool check_silence(struct receiver *r, const struct stream_event *event, struct error *err)
{
    int64_t silent_us;

    if (event->kind != STREAM_NOTHING) {
        r->silent_since_us = 0;
        r->is_asking = false;
        return true;
    }
    if (r->silent_since_us == 0)
        r->silent_since_us = clock_tick_us();
    silent_us = clock_tick_us() - r->silent_since_us;
    if (silent_us >= r->options->silence_us) {
        error_set(err, ERROR_SOURCE, "source: no sign of life for %lld s",
                  (long long) (silent_us / 1000000));
        return error_hint(err, "the server hangs, or the network between drops everything");
    }
    if (r->is_asking || silent_us < r->options->silence_us / 2)
        return true;
    r->is_asking = true;
    return stream_ask(r->stream, err);
}

/* While the open batch is full there is nothing to do but wait for the applier, and to answer the
 * source. */
static bool wait_for_applier(struct receiver *r, struct error *err)
{
    while ((batch_is_full(r->open) || is_alone(r)) && !handover_is_idle(r->handover) &&
           !*r->options->stop) {
        pulse_beat(PULSE_RECEIVER);
        if (!handover_check(r->handover, err) || !confirm_if_due(r, err))
            return false;
        handover_wait(r->handover, CONFIRM_US / 1000);
    }
    return true;
}

static int timeout_ms(const struct receiver *r)
{
    if (r->ended_us != 0)
        return SETTLE_TURN_MS;
    if (r->gathering_since_us != 0)
        return GATHERING_US / 1000;
    return r->cursor > r->confirmed ? CONFIRM_US / 1000 : 1000;
}

/*
 * The end that was asked for: position reached, or job done.  Rows that the stream could not complete
 * are part of it, and so are tables that wait for a resync; where they cannot be had, the next run tries
 * again.
 */
static bool is_settled(struct receiver *r)
{
    if (!*r->options->is_finished && (r->options->until == 0 || r->cursor < r->options->until))
        return false;
    if (r->ended_us == 0)
        r->ended_us = clock_tick_us();
    if (statistics_is_settled(r->options->statistics))
        return true;
    if (r->options->statistics->is_resyncing || clock_tick_us() - r->ended_us < SETTLE_US)
        return false;
    log_event(
        LOG_WARNING, "repairs_left",
        "caught up, but for rows that have to be fetched from the source, or tables that wait "
        "for a resync: they stay listed");
    return true;
}

static bool is_done(struct receiver *r)
{
    return *r->options->stop || (*r->options->is_reloading && !r->is_inside) || is_settled(r);
}

static bool loop(struct receiver *r, struct error *err)
{
    while (!is_done(r)) {
        struct stream_event event;

        pulse_beat(PULSE_RECEIVER);
        if (!stream_next(r->stream, timeout_ms(r), handover_wake_fd(r->handover), &event, err) ||
            !take_left_out(r, err) || !take_event(r, &event, err) || !wait_for_applier(r, err))
            return false;
        if (event.kind != STREAM_NOTHING)
            r->sent_at_us = event.sent_at_us;
        seal_if_due(r);
        if (!handover_check(r->handover, err) || !confirm_if_due(r, err) ||
            !check_silence(r, &event, err))
            return false;
    }
    return stream_confirm(r->stream, r->cursor, err);
}

bool receiver_run(const struct receiver_options *options, struct culprit *ret_culprit,
                  struct error *err)
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
    r.truncated_at = memory_alloc((size_t) options->list->count * sizeof(*r.truncated_at));
    is_ok = loop(&r, err);
    pulse_rest(PULSE_RECEIVER);
    /* Both may have failed: error and culprit are of one of them. */
    if (!is_ok && r.culprit.table != NULL)
        *ret_culprit = r.culprit;
    else if (!is_ok && !handover_check(options->handover, err))
        *ret_culprit = handover_culprit(options->handover);
    handover_close(options->handover);
    arena_release(&r.arena);
    free(r.bound);
    free(r.truncated_at);
    pg_free(r.lookup);
    return is_ok;
}
