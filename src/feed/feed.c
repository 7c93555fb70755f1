/*
 * What a feed promises, and why it holds.
 *
 * **At least once.**  A window of the ledger is claimed, which is stored, before its keys are read,
 * and acknowledged after the receiver has accepted their documents, or after what it refused is
 * noted in feed_todo, in the transaction that notes it.  A crash in between gives the same window
 * again: its keys are read again, and their documents are as new as the mirror is then.  A window
 * that is "everything", or larger than memory should hold, becomes rows of feed_todo in the
 * transaction that acknowledges it.
 *
 * **Nothing that changed is taken for unchanged.**  feed_sent has the hash of the document that the
 * receiver accepted last.  Before a request leaves, the hashes of its keys are set to null in a
 * committed transaction (an intent); after the answer they become those of what was accepted.  So
 * an entry with a hash says what the receiver has, whatever crashed: had a request been under way
 * that might have changed it, the hash would be null, and null is unlike every document.  Without the
 * intent there would be two ways to lose a change: v1 is sent, the process dies, the row goes back
 * to v0, and v0 looks unchanged; a new key is sent, the process dies, the row is deleted, and the
 * key looks as if it had never been sent.
 *
 * **What the table may forget.**  Any entry of a key that is in the query: its document is sent once
 * more.  Not the entry of a key that has vanished: it is how we know that the receiver has it.  An
 * entry goes when the receiver has accepted that the key is gone.  A feed that began with
 * "start: now" was told that others have sent before: it says of every vanished key that it is gone.
 *
 * **In order per key.**  One thread sends, one request at a time, and every request carries the state
 * that its keys had when it was made; nothing that was made earlier is ever sent again: after a
 * failure documents are read anew.  So a later request never carries an older state.  (A request
 * that was given up may still reach the receiver late, behind its successor: nobody on this side can
 * prevent that.  The version of a document, the ledger's number under its snapshot, tells a receiver.
 * Of two documents of a key with the same version the applier has changed nothing in between.)
 *
 * **A refused document does not hold up the others.**  A refused parcel is sent again in halves, down
 * to the documents at fault; these go to feed_todo with the answer, are tried again later and later,
 * and are dead letters after so many attempts.  All of it is superseded when the key comes in a
 * window again: it is sent as any other, and its row goes when it is accepted.  feed_deliver.c tells
 * a document's fault from the receiver's.
 *
 * **The idempotency key** is made of the epoch, the window's number, the keys, their documents'
 * hashes and since when these are being sent (outside of windows the number is 0, and since when a
 * key is asked for stands in).  The same window with the same documents has the same key after a
 * crash.  A document that differs never shares one, nor does one that has been another in between: a
 * receiver that knows the key would pass over what is newer.  "Since when" is the ledger's number,
 * stored with the intent.
 *
 * A destination inside the mirror needs none of this: it is written in the transaction that records
 * it, which commits or not.
 *
 * Deliberately not here: several requests at a time (the order would be lost, or need a queue per
 * key); keeping documents (the mirror has them).
 */
#include "feed/feed.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"
#include "feed/feed_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_CLASS  "1416118901"
#define WINDOW_KEYS 5000  /* that are claimed at once, or one request's */
#define MAX_WINDOW  20000 /* keys of a window that are held in memory; more go through feed_todo */
#define FIRST_MS    20    /* from an empty window to the next look, then doubled … */
#define LONGEST_MS  5000
#define PAUSED_MS   5000
#define WAKE_US     1000000 /* from one try that somebody asked for to the next at least */
#define RECORD_MS   60000   /* a stop does not interrupt the record of what was accepted … */
#define LAST_MS     8000    /* … and it has so long once that is asked for */

/* ---- opening ---- */

/* What status shows of the declaration. */
static const char *describe(const struct config_feed *config, const char *fields,
                            struct arena *arena)
{
    static const char *const vanished[] = {"delete", "nothing", "a query"};
    _cleanup_buf_ struct buf json = {0};

    buf_add(&json, "{\"destination\": ");
    buf_add_json(&json, destination_describe(&config->destination, arena));
    buf_add(&json, ", \"fields\": ");
    buf_add_json(&json, fields);
    buf_printf(&json, ", \"vanished\": \"%s\", \"batch\": %d}", vanished[config->vanished],
               config->batch_size);
    return arena_strdup(arena, buf_text(&json));
}

static bool open_row(struct feed *feed, const char **ret_note, struct error *err)
{
    const struct config *config = feed->options->config;
    const bool is_all = feed->config->start == FEED_START_ALL;
    const char *params[] = {feed->config->name,    config->pipeline, feed->config->fact, NULL, NULL,
                            is_all ? "all" : "now"};
    _cleanup_result_ struct pg_result *row = NULL;
    const char *fields;

    if (!feed_look_query(feed->mirror, config, feed->config, &feed->arena, &feed->query, err) ||
        !document_fields(feed->mirror, &feed->query, feed->config, &feed->arena, &fields, err))
        return feed_explain(err);
    params[3] = feed->query.definition_hash;
    params[4] = describe(feed->config, fields, &feed->arena);
    if (!pg_query_row(feed->mirror,
                      "select id, epoch, is_new, is_changed "
                      "from tailwater.feed_open($1, $2, $3, $4, $5::jsonb, $6)",
                      6, params, &row, err))
        return feed_explain(err);
    feed->id = arena_strdup(&feed->arena, pg_text(row, 0, 0));
    feed->epoch = arena_strdup(&feed->arena, pg_text(row, 0, 1));
    if (pg_bool(row, 0, 2))
        *ret_note = arena_printf(&feed->arena, "new, begins with %s; fields: %s",
                                 is_all ? "everything" : "what changes from now on", fields);
    else if (pg_bool(row, 0, 3))
        *ret_note = arena_printf(
            &feed->arena, "its query has changed, all keys are looked at; fields: %s", fields);
    return true;
}

static bool take_lock(struct feed *feed, struct error *err)
{
    _cleanup_result_ struct pg_result *got = NULL;

    if (!pg_query_row(feed->mirror,
                      "select pg_try_advisory_lock(" LOCK_CLASS ", pg_catalog.hashtext($1))", 1,
                      &feed->config->name, &got, err))
        return false;
    if (pg_bool(got, 0, 0))
        return true;
    error_set(err, ERROR_BUSY, "feed %s is run by another process", feed->config->name);
    return error_hint(err, "see which: select * from pg_locks where locktype = 'advisory' and "
                           "classid = " LOCK_CLASS);
}

bool feed_open(const struct feed_options *options, struct feed **ret_feed, const char **ret_note,
               struct error *err)
{
    struct feed *feed = memory_new(struct feed);
    const char *name = options->feed->name, *note = NULL;
    _cleanup_buf_ struct buf sql = {0};

    feed->own_options = *options;
    feed->options = &feed->own_options;
    feed->config = options->feed;
    feed->idle_ms = FIRST_MS;
    feed->consumer = arena_printf(&feed->arena, "feed/%s", name);
    buf_printf(&sql, "listen tailwater_%s", feed->config->fact);
    feed->ops = destination_find(&feed->config->destination);
    if (!feed_connect(options->config, arena_printf(&feed->arena, "tailwater feed %s", name),
                      options->wake_fd, &feed->mirror, err) ||
        !take_lock(feed, err) || !open_row(feed, &note, err) ||
        !pg_exec(feed->mirror, buf_text(&sql), err) ||
        !feed->ops->open(&(struct destination_options){.feed = feed->config,
                                                       .mirror = feed->mirror,
                                                       .stop = options->stop,
                                                       .wake_fd = options->wake_fd},
                         &feed->destination, err)) {
        feed_free(feed);
        return error_wrap(err, "feed %s", name);
    }
    *ret_feed = feed;
    *ret_note = note;
    return true;
}

void feed_free(struct feed *feed)
{
    if (feed == NULL)
        return;
    if (feed->destination != NULL)
        feed->ops->close(feed->destination);
    pg_free(feed->mirror);
    arena_release(&feed->arena);
    arena_release(&feed->step);
    arena_release(&feed->slice);
    for (int i = 0; i < 2; i++)
        free(feed->doubts[i].key);
    free(feed);
}

static bool acknowledge(struct feed *feed, const char *claim_id, struct error *err)
{
    const char *params[] = {feed->id, claim_id};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(feed->mirror, "select tailwater.feed_ack($1::integer, $2::uuid)", 2, params,
                    &done, err) ||
           error_wrap(err, "acknowledging the window");
}

/* Doubled after each failure, with jitter; or as long as the receiver asks for. */
static void block(struct feed *feed, const struct destination_answer *answer,
                  struct feed_outcome *outcome)
{
    const int64_t longest_us = feed->config->retry.longest_us < 60000000
                                   ? feed->config->retry.longest_us
                                   : 60000000;
    const bool is_shown = feed->options->config->log.values;
    int64_t wait_us;

    feed->retry_us = feed->retry_us == 0 ? feed->config->retry.first_us : feed->retry_us * 2;
    if (feed->retry_us > longest_us)
        feed->retry_us = longest_us;
    wait_us = feed->retry_us / 2 + (int64_t) (random() % (long) (feed->retry_us / 2 + 1));
    if (answer->retry_after_us > wait_us)
        wait_us = answer->retry_after_us;
    outcome->state = FEED_BLOCKED;
    outcome->wait_ms = (int) (wait_us / 1000) + 1;
    snprintf(outcome->text, sizeof(outcome->text), "%.*s",
             is_shown ? (int) sizeof(answer->text) : answer->own_len, answer->text);
}

static bool say_blocked(struct feed *feed, const char *reason, struct error *err)
{
    const char *params[] = {feed->id, reason};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(feed->mirror, "select tailwater.feed_block($1::integer, $2)", 2, params, &done,
                    err);
}

/* Between the intent and the record, outside of the transaction but where the destination is in it. */
static bool deliver(struct feed *feed, struct slice *slice, struct error *err)
{
    if (slice->nwanted == 0)
        return true;
    if (feed->ops->is_in_mirror)
        return feed_deliver_slice(feed, slice, err);
    if (!pg_exec(feed->mirror, "commit", err) || !FAULT(feed_after_intend, err) ||
        !feed_deliver_slice(feed, slice, err))
        return false;
    pg_limit(feed->mirror, *feed->options->stop ? LAST_MS : RECORD_MS, -1);
    return pg_exec(feed->mirror, "begin", err);
}

/*
 * Is the window done?  Where its rest has to wait it comes again as a whole: what was accepted is
 * unchanged then.  Not so where something was refused, which would be asked for anew, first, and
 * for ever, had it taken all of the time: then the rest goes to feed_todo.
 */
static bool settle_window(struct feed *feed, struct slice *slice, struct error *err)
{
    const bool is_over = !slice->is_blocked && !slice->is_cut;
    const char **keys, *params[] = {feed->id, slice->claim_id, NULL};
    _cleanup_result_ struct pg_result *done = NULL;
    _cleanup_buf_ struct buf list = {0};
    int count = 0;

    if (is_over)
        return slice->nrest > 0 || acknowledge(feed, slice->claim_id, err);
    if (!slice->has_failed)
        return true;
    keys = arena_new(&feed->slice, const char *, slice->count + slice->nrest);
    for (int i = 0; i < slice->count + slice->nrest; i++)
        if (i >= slice->count || slice->fates[i] == FATE_WANTED)
            keys[count++] = slice->keys[i];
    document_add_array(&list, keys, count);
    params[2] = buf_text(&list);
    return pg_query(feed->mirror, "select tailwater.feed_spill($1::integer, $2::uuid, $3::text[])",
                    3, params, &done, err) ||
           error_wrap(err, "listing the rest of a window");
}

/* Reads, sends and records one slice.  A transaction may be open already; none is at the end. */
static bool send_slice(struct feed *feed, struct slice *slice, bool is_open,
                       struct feed_outcome *outcome, struct error *err)
{
    arena_reset(&feed->slice);
    if ((!is_open && !pg_exec(feed->mirror, "begin", err)) || !feed_slice_read(feed, slice, err) ||
        !deliver(feed, slice, err) || !feed_slice_record(feed, slice, outcome, err))
        return false;
    if (slice->is_blocked && !say_blocked(feed, slice->answer.text, err))
        return false;
    if (slice->claim_id != NULL && !settle_window(feed, slice, err))
        return false;
    if (!FAULT(feed_before_commit, err) || !pg_exec(feed->mirror, "commit", err))
        return false;
    pg_limit(feed->mirror, -1, feed->options->wake_fd);
    outcome->state = FEED_WORKED;
    if (slice->is_blocked)
        block(feed, &slice->answer, outcome);
    return true;
}

/* ---- what to send ---- */

static bool send_keys(struct feed *feed, const struct slice *all, bool is_open,
                      struct feed_outcome *outcome, struct error *err)
{
    bool has_failed = false;

    for (int at = 0; at < all->count; at += feed->config->batch_size) {
        struct slice slice = *all;
        const int left = all->count - at;

        slice.keys = all->keys + at;
        slice.count = left <= feed->config->batch_size ? left : feed->config->batch_size;
        slice.nrest = left - slice.count;
        slice.has_failed = has_failed;
        if (!send_slice(feed, &slice, is_open, outcome, err))
            return false;
        is_open = false;
        has_failed = slice.has_failed;
        if (slice.is_blocked || slice.is_cut || outcome->has_been_paused || *feed->options->stop)
            return true;
    }
    return true;
}

static bool send_due(struct feed *feed, struct feed_outcome *outcome, struct error *err)
{
    const char *params[] = {feed->id, feed_slice_number(feed, feed->config->batch_size)};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(feed->mirror,
                  "select key, is_again, attempts, answer "
                  "from tailwater.feed_due($1::integer, $2::integer)",
                  2, params, &rows, err))
        return error_wrap(err, "asking for what is due");
    /* At most one slice. */
    return send_keys(feed,
                     &(struct slice){.keys = feed_look_list(rows, 0, &feed->step),
                                     .tried = feed_look_list(rows, 2, &feed->step),
                                     .told = feed_look_list(rows, 3, &feed->step),
                                     .count = pg_rows(rows),
                                     .is_todo = true,
                                     .is_again = pg_rows(rows) > 0 && pg_bool(rows, 0, 1)},
                     false, outcome, err);
}

/* The window's distinct keys, as text. */
static bool read_keys(struct feed *feed, struct pg_result **ret_rows, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    buf_add(&sql, "select array[");
    for (int i = 0; i < feed->query.nkeys; i++) {
        buf_add(&sql, i > 0 ? ", k." : "k.");
        pg_add_ident(&sql, feed->query.names[i]);
        buf_add(&sql, "::text");
    }
    /* In order: the same window makes the same requests again after a crash. */
    buf_printf(&sql, "]::text from tailwater.keys_%s($1) k order by 1", feed->config->fact);
    return pg_query(feed->mirror, buf_text(&sql), 1, &feed->consumer, ret_rows, err) ||
           error_wrap(err, "reading the keys of the window");
}

static int64_t committed_at(struct feed *feed, const struct pg_result *window, struct error *err)
{
    const char *params[] = {feed->options->config->pipeline, pg_text(window, 0, 2),
                            pg_text(window, 0, 3)};
    _cleanup_result_ struct pg_result *row = NULL;

    if (!pg_query_row(feed->mirror,
                      "select (extract(epoch from tailwater.feed_committed_at($1, $2::bigint, "
                      "$3::bigint)) * 1000000)::bigint",
                      3, params, &row, err))
        return -1;
    return pg_int(row, 0, 0);
}

/* The open window, or a new one. */
static bool claim(struct feed *feed, struct pg_result **ret_window, struct error *err)
{
    const char *params[] = {feed->consumer, feed->config->fact,
                            feed_slice_number(feed, feed->config->batch_size > WINDOW_KEYS
                                                        ? feed->config->batch_size
                                                        : WINDOW_KEYS)};

    return (pg_exec(feed->mirror, "begin", err) &&
            pg_query(feed->mirror, "select * from tailwater.claim($1, $2, $3::bigint)", 3, params,
                     ret_window, err)) ||
           error_wrap(err, "claiming a window");
}

static bool spill(struct feed *feed, const char *claim_id, struct error *err)
{
    const char *params[] = {feed->id, claim_id};
    _cleanup_result_ struct pg_result *done = NULL;

    return (pg_query(feed->mirror, "select tailwater.feed_spill($1::integer, $2::uuid)", 2, params,
                     &done, err) &&
            pg_exec(feed->mirror, "commit", err)) ||
           error_wrap(err, "listing the keys of a large window");
}

/* *ret_found false: there is none, and no transaction is open. */
static bool send_window(struct feed *feed, bool *ret_found, struct feed_outcome *outcome,
                        struct error *err)
{
    _cleanup_result_ struct pg_result *window = NULL, *rows = NULL;
    struct slice all = {0};

    if (!claim(feed, &window, err))
        return false;
    *ret_found = pg_rows(window) > 0;
    if (!*ret_found)
        return pg_exec(feed->mirror, "commit", err);
    all.claim_id = pg_text(window, 0, 0);
    if (pg_bool(window, 0, 5) || pg_int(window, 0, 4) > MAX_WINDOW)
        return spill(feed, all.claim_id, err);
    if (!read_keys(feed, &rows, err))
        return false;
    all.keys = feed_look_list(rows, 0, &feed->step);
    all.count = pg_rows(rows);
    all.batch = pg_int(window, 0, 3);
    /* Keys of the other lanes are of no particular commit. */
    if (pg_int(window, 0, 1) == 0)
        all.committed_us = committed_at(feed, window, err);
    if (all.committed_us < 0)
        return false;
    if (all.committed_us > 0)
        outcome->lag_us = clock_now_us() - all.committed_us;
    if (all.count == 0) /* the definition changed under the window */
        return acknowledge(feed, all.claim_id, err) && pg_exec(feed->mirror, "commit", err);
    return send_keys(feed, &all, true, outcome, err);
}

/* ---- a step ---- */

/* linger: how long still until the next window may be claimed. */
static int linger_ms(const struct feed *feed)
{
    const int64_t left_us = feed->next_window_us - clock_tick_us();

    return left_us > 0 ? (int) (left_us / 1000) + 1 : 0;
}

static void idle(struct feed *feed, int64_t next_due_ms, struct feed_outcome *outcome)
{
    outcome->state = FEED_IDLE;
    outcome->is_lingering = linger_ms(feed) > 0;
    outcome->wait_ms = outcome->is_lingering ? linger_ms(feed) : feed->idle_ms;
    feed->idle_ms = feed->idle_ms * 2 > LONGEST_MS ? LONGEST_MS : feed->idle_ms * 2;
    if (next_due_ms > 0 && next_due_ms < outcome->wait_ms)
        outcome->wait_ms = (int) next_due_ms;
}

static bool step(struct feed *feed, struct feed_outcome *outcome, struct error *err)
{
    _cleanup_result_ struct pg_result *look = NULL;
    bool is_due, found = false;

    if (!feed_deliver_wait(feed, err))
        return false;
    if (!pg_query_row(feed->mirror, "select * from tailwater.feed_look($1::integer)", 1, &feed->id,
                      &look, err))
        return feed_explain(err);
    if (!pg_is_null(look, 0, 0)) {
        outcome->state = FEED_PAUSED;
        outcome->wait_ms = PAUSED_MS;
        snprintf(outcome->text, sizeof(outcome->text), "%s", pg_text(look, 0, 0));
        return true;
    }
    is_due = pg_bool(look, 0, 1);
    if (linger_ms(feed) == 0 && !(is_due && feed->is_todo_next)) {
        if (!send_window(feed, &found, outcome, err))
            return false;
        if (found)
            feed->next_window_us = clock_tick_us() + feed->config->linger_us;
    }
    feed->is_todo_next = found;
    if (!found && is_due) {
        found = true;
        if (!send_due(feed, outcome, err))
            return false;
    }
    if (found)
        feed->idle_ms = FIRST_MS;
    else
        idle(feed, pg_int(look, 0, 2), outcome);
    return true;
}

bool feed_step(struct feed *feed, struct feed_outcome *ret_outcome, struct error *err)
{
    *ret_outcome = (struct feed_outcome){.state = FEED_WORKED};
    arena_reset(&feed->step);
    return step(feed, ret_outcome, err) || error_wrap(err, "feed %s", feed->config->name);
}

/* Somebody asks for this feed: it goes on now, but once a second at most, whoever may notify. */
static void wake(struct feed *feed, int64_t *until_us)
{
    const int64_t now_us = clock_tick_us();
    int64_t from_us = feed->woken_us == 0 ? now_us : feed->woken_us + WAKE_US;

    if (from_us < now_us)
        from_us = now_us;
    if (from_us < *until_us)
        *until_us = feed->woken_us = from_us;
    feed->retry_us = 0;
}

bool feed_wait(struct feed *feed, const struct feed_outcome *outcome, struct error *err)
{
    int64_t until_us = clock_tick_us() + (int64_t) outcome->wait_ms * 1000;
    const bool is_news = outcome->state != FEED_BLOCKED && !outcome->is_lingering;
    const char *name = arena_printf(&feed->step, "feed/%s", feed->config->name);
    enum pg_told told = PG_TOLD_NOTHING;
    int64_t left_us;

    while ((left_us = until_us - clock_tick_us()) > 0 && !*feed->options->stop) {
        if (!pg_wait_notify(feed->mirror, (int) (left_us / 1000) + 1, feed->options->wake_fd, name,
                            &told, err))
            return false;
        if (told == PG_TOLD && is_news)
            break;
        if (told == PG_TOLD_BY_NAME)
            wake(feed, &until_us);
    }
    if (told != PG_TOLD_NOTHING)
        feed->idle_ms = FIRST_MS;
    return true;
}
