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
 * prevent that. The version of a document, the ledger's number under its snapshot, tells a receiver.)
 *
 * **A refused document does not hold up the others.**  A refused parcel is sent again in halves, down
 * to the documents at fault; these go to feed_todo with the answer, are tried again later and later,
 * and are dead letters after so many attempts.  All of it is superseded when the key comes in a
 * window again: it is sent as any other, and its row goes when it is accepted.
 *
 * **Who is to blame?**  REFUSED is about the documents.  AWAY is about the receiver: everything waits,
 * nothing is skipped.  DOUBTFUL may be either: the same parcel is tried again, and after
 * retry.attempts times in halves; a document that stands alone then is taken to be at fault, but at
 * most MAX_BLAMED of them without another one being accepted in between: after that it is the
 * receiver. So neither can a poisonous document stop the feed, nor a broken receiver turn
 * documents into dead letters.
 *
 * **The idempotency key** is made of the epoch, the ledger's number, the keys and their documents'
 * hashes (outside of windows the number is 0, and since when a key is asked for stands in): the same window with the same documents has the same key after a crash, and a document
 * that differs never shares one (a receiver that knows the key would pass over what is newer).
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
#include "feed/destination.h"
#include "feed/document.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_CLASS    "1416118901"
#define SEARCH_PATH   "public"
#define WINDOW_KEYS   5000  /* that are claimed at once, or one request's */
#define MAX_WINDOW    20000 /* keys of a window that are held in memory; more go through feed_todo */
#define MAX_BLAMED    3
#define MAX_KEY_PARTS 32
#define FIRST_MS      20 /* from an empty window to the next look, then doubled … */
#define LONGEST_MS    5000
#define PAUSED_MS     5000
#define NLATENCIES    1000
#define SAID_US       1000000 /* percentiles are computed that often at most */

enum fate {
    FATE_UNCHANGED, /* as it was, or nothing that the receiver knows */
    FATE_WANTED,    /* to be sent */
    FATE_ACCEPTED,
    FATE_GONE, /* vanished, and nobody is told */
    FATE_FAILED
};

/* One slice: keys that are read, sent and recorded together. */
struct slice {
    const char *const *keys;
    int count;
    bool is_retry;        /* from feed_todo */
    int64_t batch;        /* the window's last; 0: none */
    int64_t committed_us; /* of the oldest change on the source; 0: not known */
    const char *claim_id; /* acknowledged with it; NULL: not yet */

    struct document *documents; /* and as many of the next two */
    enum fate *fates;
    const char **answers; /* of those that failed */

    struct document **wanted; /* to be sent */
    int nwanted;
    int64_t version, requests;
};

struct feed {
    const struct feed_options *options;
    const struct config_feed *config;
    struct feed_options own_options;
    struct pg *mirror;
    struct arena arena; /* as long as the feed … */
    struct arena step;  /* … as the step: keys … */
    struct arena slice; /* … and as one slice: documents, however large */
    const char *id, *epoch, *consumer;
    struct document_query query;
    const struct destination_ops *ops;
    void *destination;
    bool is_todo_next;       /* windows and feed_todo take turns */
    int64_t next_request_us; /* max_rate; clock_tick_us() */
    int64_t next_window_us;  /* linger */
    int idle_ms;             /* the next pause when there is nothing */
    int64_t retry_us;        /* the next pause when blocked */
    int ndoubts, nblamed;    /* in a row */
    double latencies[NLATENCIES];
    int nlatencies, next_latency;
    int64_t said_us;
};

/* ---- opening ---- */

bool feed_find(const struct config *config, const char *name, const struct config_feed **ret_feed,
               struct error *err)
{
    const char *names[64] = {NULL}, *near;
    int count = 0;

    for (int i = 0; i < config->nfeeds; i++) {
        if (strcmp(config->feeds[i].name, name) == 0) {
            *ret_feed = &config->feeds[i];
            return true;
        }
        if (count < 64)
            names[count++] = config->feeds[i].name;
    }
    near = config_nearest(name, names, count);
    error_set(err, ERROR_CONFIG, "%s has no feed \"%s\"", config->file, name);
    if (count == 0)
        return error_hint(err, "declare one under feeds:");
    return error_hint(err, "did you mean %s?", near != NULL ? near : names[0]);
}

/* A role that was granted nothing, or a control schema that is not there yet. */
bool feed_explain(struct error *err)
{
    if (strcmp(err->sqlstate, "3F000") == 0 || strcmp(err->sqlstate, "42883") == 0)
        return error_hint(err, "the mirror's control schema is made, and brought up to date, by: "
                               "tailwater run");
    if (strcmp(err->sqlstate, "42501") == 0)
        return error_hint(err, "as the role that tailwater run has on the mirror: select "
                               "tailwater.grant_feed('ROLE'); and grant select on the live views "
                               "that the query reads");
    return false;
}

bool feed_connect(const struct config *config, const char *application, int wake_fd,
                  struct pg **ret_mirror, struct error *err)
{
    _cleanup_pg_ struct pg *mirror = NULL;

    if (!pg_connect(&(struct pg_options){.side = PG_MIRROR,
                                         .conninfo = config->mirror.conninfo,
                                         .application = application},
                    &mirror, err))
        return false;
    pg_limit(mirror, -1, wake_fd);
    if (!pg_exec(mirror, "set search_path = " SEARCH_PATH, err))
        return false;
    *ret_mirror = mirror;
    mirror = NULL;
    return true;
}

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

/* A column of a result, from arena. */
static const char **take_list(const struct pg_result *rows, int column, struct arena *arena)
{
    const char **list = arena_new(arena, const char *, pg_rows(rows) + 1);

    for (int i = 0; i < pg_rows(rows); i++)
        list[i] = arena_strdup(arena, pg_text(rows, i, column));
    return list;
}

/* What the fact's key is, and so the statements. */
static bool make_query(struct pg *mirror, const struct config *config,
                       const struct config_feed *feed, struct arena *arena,
                       struct document_query *ret_query, struct error *err)
{
    const char *params[] = {config->pipeline, feed->fact};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror, "select name, type from tailwater.feed_key($1, $2)", 2, params, &rows,
                  err))
        return feed_explain(err);
    if (pg_rows(rows) == 0) {
        error_set(err, ERROR_CONFIG, "pipeline %s has no fact %s in the mirror database",
                  config->pipeline, feed->fact);
        return error_hint(err, "tailwater run makes what is declared under facts:");
    }
    return document_query_make(config, feed, pg_rows(rows), take_list(rows, 0, arena),
                               take_list(rows, 1, arena), arena, ret_query, err);
}

static bool open_row(struct feed *feed, const char **ret_note, struct error *err)
{
    const struct config *config = feed->options->config;
    const bool is_all = feed->config->start == FEED_START_ALL;
    const char *params[] = {feed->config->name,    config->pipeline, feed->config->fact, NULL, NULL,
                            is_all ? "all" : "now"};
    _cleanup_result_ struct pg_result *row = NULL;
    const char *fields;

    if (!make_query(feed->mirror, config, feed->config, &feed->arena, &feed->query, err) ||
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
    free(feed);
}

/* ---- how late ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}

/* A request with changes of that age leaves now. */
static void note_latency(struct feed *feed, const struct slice *slice)
{
    if (slice->committed_us == 0)
        return;
    feed->latencies[feed->next_latency] = (double) (clock_now_us() - slice->committed_us) / 1000.0;
    feed->next_latency = (feed->next_latency + 1) % NLATENCIES;
    if (feed->nlatencies < NLATENCIES)
        feed->nlatencies++;
}

/* Median, 99th percentile and maximum as an array; NULL where that was said a moment ago. */
static const char *latency_text(struct feed *feed)
{
    double sorted[NLATENCIES];
    const int64_t now = clock_tick_us();
    const int n = feed->nlatencies;

    if (n == 0 || now - feed->said_us < SAID_US)
        return NULL;
    feed->said_us = now;
    memcpy(sorted, feed->latencies, sizeof(*sorted) * (size_t) n);
    qsort(sorted, (size_t) n, sizeof(*sorted), by_size);
    return arena_printf(&feed->slice, "{%.3f,%.3f,%.3f}", sorted[n / 2],
                        sorted[(size_t) n * 99 / 100], sorted[n - 1]);
}

/* ---- reading ---- */

static const char *array_text(struct feed *feed, const char *const *texts, int count)
{
    _cleanup_buf_ struct buf buf = {0};

    document_add_array(&buf, texts, count);
    return arena_strdup(&feed->slice, buf_text(&buf));
}

/* Which documents are to be sent?  Notes that they are on their way. */
static bool intend(struct feed *feed, struct slice *slice, struct error *err)
{
    const char **hashes = arena_new(&feed->slice, const char *, slice->count);
    const char *params[] = {feed->id, array_text(feed, slice->keys, slice->count), NULL};
    _cleanup_result_ struct pg_result *rows = NULL;

    for (int i = 0; i < slice->count; i++) {
        const struct document *document = &slice->documents[i];

        /* "" is the hash of none: a document that cannot be made is wanted too. */
        hashes[i] = document->is_vanished ? NULL : document->fault ? "" : document->hash;
    }
    params[2] = array_text(feed, hashes, slice->count);
    if (!pg_query(feed->mirror,
                  "select n, is_wanted, asked_at from tailwater.feed_intend($1::integer, "
                  "$2::text[], $3::text[])",
                  3, params, &rows, err))
        return error_wrap(err, "noting what is sent");
    for (int row = 0; row < pg_rows(rows); row++) {
        const int64_t n = pg_int(rows, row, 0);

        if (n < 1 || n > slice->count)
            return error_set(err, ERROR_BUG, "feed_intend() speaks of document %" PRId64, n);
        if (!pg_is_null(rows, row, 2))
            slice->documents[n - 1].asked_at = arena_strdup(&feed->slice, pg_text(rows, row, 2));
        if (pg_bool(rows, row, 1))
            slice->fates[n - 1] = FATE_WANTED;
    }
    return true;
}

/* Those that are to be sent, but for keys that nobody is told of, and those without a document. */
static void sort_out(struct slice *slice)
{
    for (int i = 0; i < slice->count; i++) {
        struct document *document = &slice->documents[i];

        if (slice->fates[i] != FATE_WANTED)
            continue;
        if (document->fault != NULL) {
            slice->fates[i] = FATE_FAILED;
            slice->answers[i] = document->fault;
        } else if (document->json == NULL) {
            slice->fates[i] = FATE_GONE;
        } else {
            slice->wanted[slice->nwanted++] = document;
        }
    }
}

static bool read_slice(struct feed *feed, struct slice *slice, struct error *err)
{
    const int n = slice->count;

    slice->documents = arena_new(&feed->slice, struct document, n);
    slice->fates = arena_new(&feed->slice, enum fate, n);
    slice->answers = arena_new(&feed->slice, const char *, n);
    slice->wanted = arena_new(&feed->slice, struct document *, n);
    if (!document_read(feed->mirror, &feed->query, feed->options->config->pipeline, slice->keys, n,
                       &feed->slice, slice->documents, &slice->version, err) ||
        !intend(feed, slice, err))
        return false;
    sort_out(slice);
    return true;
}

/* ---- sending ---- */

/* max_rate: until the next request may leave; false where told to stop. */
static bool take_turn(struct feed *feed, struct error *err)
{
    while (feed->config->interval_us > 0 && !*feed->options->stop) {
        const int64_t left_us = feed->next_request_us - clock_tick_us();
        bool is_told;

        if (left_us <= 0)
            break;
        if (!pg_wait_notify(feed->mirror, (int) (left_us / 1000) + 1, feed->options->wake_fd,
                            &is_told, err))
            return false;
    }
    feed->next_request_us = clock_tick_us() + feed->config->interval_us;
    return !*feed->options->stop || error_set(err, ERROR_RETRY, "told to stop");
}

static void make_key(const struct slice *slice, const char *epoch,
                     struct destination_parcel *parcel)
{
    _cleanup_buf_ struct buf text = {0};
    char digest[33];

    for (int i = 0; i < parcel->count; i++)
        destination_add_identity(parcel, parcel->documents[i], &text);
    document_digest(buf_text(&text), text.len, digest, sizeof(digest));
    snprintf(parcel->key, sizeof(parcel->key), "%s-%" PRId64 "-%s", epoch, slice->batch, digest);
}

static void take_accepted(struct feed *feed, struct slice *slice, struct document *const *documents,
                          int count)
{
    for (int i = 0; i < count; i++)
        slice->fates[documents[i] - slice->documents] = FATE_ACCEPTED;
    feed->ndoubts = feed->nblamed = 0;
    feed->retry_us = 0;
}

static void blame(struct feed *feed, struct slice *slice, const struct document *document,
                  const struct destination_answer *answer)
{
    slice->fates[document - slice->documents] = FATE_FAILED;
    slice->answers[document - slice->documents] = arena_strdup(&feed->slice, answer->text);
}

/*
 * Sends documents[0…count-1], in halves where they are refused.  *ret_blocked: the receiver takes
 * nothing now, *answer says why; what was accepted until then is noted.
 */
static bool deliver(struct feed *feed, struct slice *slice, struct document **documents, int count,
                    struct destination_answer *answer, bool *ret_blocked, struct error *err)
{
    struct destination_parcel parcel = {.feed = feed->config->name,
                                        .epoch = feed->epoch,
                                        .batch = slice->batch,
                                        .version = slice->version,
                                        .count = count,
                                        .documents = documents};
    const int half = count / 2;

    if (!take_turn(feed, err))
        return false;
    make_key(slice, feed->epoch, &parcel);
    *answer = (struct destination_answer){0};
    note_latency(feed, slice);
    slice->committed_us = 0; /* the first request of a window is what is measured */
    slice->requests++;
    if (!feed->ops->send(feed->destination, &parcel, answer, err))
        return false;
    if (!FAULT(feed_after_answer, err))
        return false;
    switch (answer->verdict) {
    case DESTINATION_ACCEPTED:
        take_accepted(feed, slice, documents, count);
        return true;
    case DESTINATION_AWAY:
        *ret_blocked = true;
        return true;
    case DESTINATION_DOUBTFUL:
        if (++feed->ndoubts < feed->config->retry.attempts ||
            (count == 1 && feed->nblamed >= MAX_BLAMED)) {
            *ret_blocked = true;
            return true;
        }
        feed->nblamed += count == 1;
        break;
    case DESTINATION_REFUSED:
        break;
    }
    if (count == 1) {
        blame(feed, slice, documents[0], answer);
        return true;
    }
    return deliver(feed, slice, documents, half, answer, ret_blocked, err) &&
           (*ret_blocked ||
            deliver(feed, slice, documents + half, count - half, answer, ret_blocked, err));
}

static bool deliver_all(struct feed *feed, struct slice *slice, struct destination_answer *answer,
                        bool *ret_blocked, struct error *err)
{
    const int max = destination_max_documents(feed->config);

    for (int at = 0; at < slice->nwanted && !*ret_blocked; at += max) {
        const int left = slice->nwanted - at;

        if (!deliver(feed, slice, slice->wanted + at, left < max ? left : max, answer, ret_blocked,
                     err))
            return false;
    }
    return true;
}

/* ---- recording ---- */

/* What became of a slice, as feed_record() takes it. */
struct tally {
    const char **settled, **asked_at; /* rows of feed_todo that have had their answer */
    const char **accepted, **hashes, **gone, **failed, **answers;
    int nsettled, naccepted, ngone, nfailed, nunchanged;
};

/* Where the receiver stopped in the middle, the rest is still wanted: nothing is said of it. */
static void sum_up(struct feed *feed, const struct slice *slice, struct tally *t)
{
    const char ***lists[] = {&t->settled, &t->asked_at, &t->accepted, &t->hashes,
                             &t->gone,    &t->failed,   &t->answers};

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        *lists[i] = arena_new(&feed->slice, const char *, slice->count);
    for (int i = 0; i < slice->count; i++) {
        const struct document *document = &slice->documents[i];

        switch (slice->fates[i]) {
        case FATE_WANTED:
            continue;
        case FATE_FAILED:
            t->failed[t->nfailed] = document->key;
            t->answers[t->nfailed++] = slice->answers[i];
            continue;
        case FATE_ACCEPTED:
            t->accepted[t->naccepted] = document->key;
            t->hashes[t->naccepted++] = document->is_vanished ? NULL : document->hash;
            break;
        case FATE_GONE:
            t->gone[t->ngone++] = document->key;
            break;
        case FATE_UNCHANGED:
            t->nunchanged++;
            break;
        }
        if (document->asked_at != NULL) {
            t->settled[t->nsettled] = document->key;
            t->asked_at[t->nsettled++] = document->asked_at;
        }
    }
}

static const char *interval_text(struct feed *feed, int64_t us)
{
    return arena_printf(&feed->slice, "%" PRId64 " microseconds", us);
}

static const char *number_text(struct feed *feed, int64_t number)
{
    return arena_printf(&feed->slice, "%" PRId64, number);
}

static bool record(struct feed *feed, const struct slice *slice, struct feed_outcome *outcome,
                   struct error *err)
{
    const struct config_feed *c = feed->config;
    _cleanup_result_ struct pg_result *paused = NULL;
    struct tally t = {0};

    sum_up(feed, slice, &t);
    if (!pg_query_row(
            feed->mirror,
            "select tailwater.feed_record($1::integer, $2::text[], $3::timestamptz[], "
            "$4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean, "
            "$10::integer, $11::interval, $12::interval, $13::bigint, $14::bigint, "
            "$15::bigint, $16::double precision[])",
            16,
            (const char *[]){
                feed->id, array_text(feed, t.settled, t.nsettled),
                array_text(feed, t.asked_at, t.nsettled), array_text(feed, t.accepted, t.naccepted),
                array_text(feed, t.hashes, t.naccepted), array_text(feed, t.gone, t.ngone),
                array_text(feed, t.failed, t.nfailed), array_text(feed, t.answers, t.nfailed),
                slice->is_retry ? "true" : "false", number_text(feed, c->retry.attempts),
                interval_text(feed, c->retry.first_us), interval_text(feed, c->retry.longest_us),
                number_text(feed, c->max_dead), number_text(feed, t.nunchanged),
                number_text(feed, slice->requests), latency_text(feed)},
            &paused, err))
        return error_wrap(err, "recording what was sent");
    outcome->sent += t.naccepted;
    outcome->unchanged += t.nunchanged;
    outcome->refused += t.nfailed;
    if (!pg_is_null(paused, 0, 0)) {
        outcome->has_been_paused = true;
        snprintf(outcome->text, sizeof(outcome->text), "%s", pg_text(paused, 0, 0));
    }
    return true;
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
    int64_t wait_us;

    feed->retry_us = feed->retry_us == 0 ? feed->config->retry.first_us : feed->retry_us * 2;
    if (feed->retry_us > longest_us)
        feed->retry_us = longest_us;
    wait_us = feed->retry_us / 2 + (int64_t) (random() % (long) (feed->retry_us / 2 + 1));
    if (answer->retry_after_us > wait_us)
        wait_us = answer->retry_after_us;
    outcome->state = FEED_BLOCKED;
    outcome->wait_ms = (int) (wait_us / 1000) + 1;
    snprintf(outcome->text, sizeof(outcome->text), "%s", answer->text);
}

static bool say_blocked(struct feed *feed, const char *reason, struct error *err)
{
    const char *params[] = {feed->id, reason};
    _cleanup_result_ struct pg_result *done = NULL;

    return pg_query(feed->mirror, "select tailwater.feed_block($1::integer, $2)", 2, params, &done,
                    err);
}

/*
 * Reads, sends and records one slice.  A transaction may be open already; none is at the end.
 */
static bool send_slice(struct feed *feed, struct slice *slice, bool is_open,
                       struct feed_outcome *outcome, struct error *err)
{
    struct destination_answer answer = {0};
    bool is_blocked = false;

    arena_reset(&feed->slice);
    if ((!is_open && !pg_exec(feed->mirror, "begin", err)) || !read_slice(feed, slice, err))
        return false;
    if (slice->nwanted > 0) {
        if (!feed->ops->is_in_mirror &&
            (!pg_exec(feed->mirror, "commit", err) || !FAULT(feed_after_intend, err)))
            return false;
        if (!deliver_all(feed, slice, &answer, &is_blocked, err) ||
            (!feed->ops->is_in_mirror && !pg_exec(feed->mirror, "begin", err)))
            return false;
    }
    if (!record(feed, slice, outcome, err) ||
        (!is_blocked && slice->claim_id != NULL && !acknowledge(feed, slice->claim_id, err)) ||
        (is_blocked && !say_blocked(feed, answer.text, err)) || !FAULT(feed_before_commit, err) ||
        !pg_exec(feed->mirror, "commit", err))
        return false;
    outcome->state = FEED_WORKED;
    if (is_blocked)
        block(feed, &answer, outcome);
    return true;
}

/* ---- what to send ---- */

static bool send_keys(struct feed *feed, const struct slice *all, bool is_open,
                      struct feed_outcome *outcome, struct error *err)
{
    for (int at = 0; at < all->count; at += feed->config->batch_size) {
        struct slice slice = *all;
        const int left = all->count - at;
        const bool is_last = left <= feed->config->batch_size;

        slice.keys = all->keys + at;
        slice.count = is_last ? left : feed->config->batch_size;
        slice.claim_id = is_last ? all->claim_id : NULL;
        if (!send_slice(feed, &slice, is_open, outcome, err))
            return false;
        is_open = false;
        if (outcome->state != FEED_WORKED || outcome->has_been_paused || *feed->options->stop)
            return true;
    }
    return true;
}

static bool send_due(struct feed *feed, struct feed_outcome *outcome, struct error *err)
{
    const char *params[] = {feed->id, number_text(feed, feed->config->batch_size)};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(feed->mirror, "select tailwater.feed_due($1::integer, $2::integer)", 2, params,
                  &rows, err))
        return error_wrap(err, "asking for what is due");
    return send_keys(feed,
                     &(struct slice){.keys = take_list(rows, 0, &feed->step),
                                     .count = pg_rows(rows),
                                     .is_retry = true},
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
    buf_printf(&sql, "]::text from tailwater.keys_%s($1) k", feed->config->fact);
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
                            number_text(feed, feed->config->batch_size > WINDOW_KEYS
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
    all.keys = take_list(rows, 0, &feed->step);
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

bool feed_wait(struct feed *feed, const struct feed_outcome *outcome, struct error *err)
{
    const int64_t until_us = clock_tick_us() + (int64_t) outcome->wait_ms * 1000;
    const bool is_news = outcome->state != FEED_BLOCKED && !outcome->is_lingering;
    int64_t left_us;
    bool is_told = false;

    while ((left_us = until_us - clock_tick_us()) > 0 && !*feed->options->stop) {
        if (!pg_wait_notify(feed->mirror, (int) (left_us / 1000) + 1, feed->options->wake_fd,
                            &is_told, err))
            return false;
        if (is_told && is_news)
            break;
    }
    if (is_told)
        feed->idle_ms = FIRST_MS;
    return true;
}

/* ---- looking ---- */

bool feed_try(struct pg *mirror, const struct config *config, const struct config_feed *feed,
              struct arena *arena, const char **ret_fields, const char **ret_scanned,
              struct error *err)
{
    struct document_query query;

    return make_query(mirror, config, feed, arena, &query, err) &&
           document_fields(mirror, &query, feed, arena, ret_fields, err) &&
           document_find_scan(mirror, &query, config->pipeline, arena, ret_scanned, err);
}

bool feed_count_key(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                    int *ret_nkeys, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct document_query query;

    if (!make_query(mirror, config, feed, &arena, &query, err))
        return false;
    *ret_nkeys = query.nkeys;
    return true;
}

bool feed_parse_key(const char *text, int nkeys, struct arena *arena, const char **ret_key,
                    struct error *err)
{
    _cleanup_buf_ struct buf key = {0};
    const char *parts[MAX_KEY_PARTS], *p = text;
    int count = 0;

    if (text[0] == '{' && nkeys > 1) {
        *ret_key = text;
        return true;
    }
    if (nkeys == 1) {
        parts[count++] = text;
    } else {
        for (;; p++) {
            const size_t len = strcspn(p, ",");

            if (count == MAX_KEY_PARTS)
                break;
            parts[count++] = arena_strndup(arena, p, len);
            p += len;
            if (*p == '\0')
                break;
        }
    }
    if (count != nkeys) {
        error_set(err, ERROR_CONFIG, "the key has %d part%s, and here are %d", nkeys,
                  nkeys == 1 ? "" : "s", count);
        return error_hint(err, "separate the parts with commas: 7,2026-11-22");
    }
    document_add_array(&key, parts, count);
    *ret_key = arena_strdup(arena, buf_text(&key));
    return true;
}

static bool preview(struct pg *mirror, const struct config *config, const struct config_feed *feed,
                    const char *const *keys, int count, struct arena *arena, struct buf *out,
                    struct error *err)
{
    struct document *documents = arena_new(arena, struct document, count);
    struct document_query query;
    int64_t batch;

    if (!make_query(mirror, config, feed, arena, &query, err) ||
        !pg_exec(mirror, "begin read only", err) ||
        !document_read(mirror, &query, config->pipeline, keys, count, arena, documents, &batch,
                       err))
        return feed_explain(err);
    for (int i = 0; i < count; i++)
        if (documents[i].fault != NULL)
            return error_set(err, ERROR_DATA, "key %s: %s", keys[i], documents[i].fault);
        else if (documents[i].json != NULL)
            buf_printf(out, "%s\n", documents[i].json);
    return pg_exec(mirror, "rollback", err);
}

bool feed_preview(const struct config *config, const struct config_feed *feed,
                  const char *const *keys, int count, struct buf *out, struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    _cleanup_pg_ struct pg *mirror = NULL;

    return (feed_connect(config, "tailwater feed", -1, &mirror, err) &&
            preview(mirror, config, feed, keys, count, &arena, out, err)) ||
           error_wrap(err, "feed %s", feed->name);
}
