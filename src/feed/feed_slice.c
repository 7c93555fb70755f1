/*
 * A slice's two ends: its documents are read and what is to be sent is noted, before; what became of
 * them is recorded, after. feed.c says why in this order.
 */
#include "feed/feed_internal.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAID_US 1000000 /* percentiles are computed that often at most */

static const char *array_text(struct feed *feed, const char *const *texts, int count)
{
    _cleanup_buf_ struct buf buf = {0};

    document_add_array(&buf, texts, count);
    return arena_strdup(&feed->slice, buf_text(&buf));
}

const char *feed_slice_number(struct feed *feed, int64_t number)
{
    return arena_printf(&feed->step, "%" PRId64, number);
}

/* ---- before ---- */

/* What feed_intend() says of a document. */
static bool take_intent(struct feed *feed, struct slice *slice, const struct pg_result *rows,
                        int row, struct error *err)
{
    const int64_t n = pg_int(rows, row, 0);
    struct document *document;

    if (n < 1 || n > slice->count)
        return error_set(err, ERROR_BUG, "feed_intend() speaks of document %" PRId64, n);
    document = &slice->documents[n - 1];
    if (!pg_is_null(rows, row, 2))
        document->asked_at = arena_strdup(&feed->slice, pg_text(rows, row, 2));
    document->since = pg_int(rows, row, 3);
    if (pg_bool(rows, row, 1))
        slice->fates[n - 1] = FATE_WANTED;
    return true;
}

/* Which documents are to be sent?  Notes that they are on their way. */
static bool intend(struct feed *feed, struct slice *slice, struct error *err)
{
    const int n = slice->count;
    const char **hashes = arena_new(&feed->slice, const char *, n);
    const char **vanished = arena_new(&feed->slice, const char *, n);
    const char **versions = arena_new(&feed->slice, const char *, n);
    _cleanup_result_ struct pg_result *rows = NULL;

    for (int i = 0; i < n; i++) {
        const struct document *document = &slice->documents[i];

        /* "" is the hash of none: a document that cannot be made is wanted too. */
        hashes[i] = document->json != NULL ? document->hash : "";
        vanished[i] = document->is_vanished ? "t" : "f";
        versions[i] = arena_printf(&feed->slice, "%" PRId64, document->version);
    }
    if (!pg_query(feed->mirror,
                  "select n, is_wanted, asked_at, since from tailwater.feed_intend($1::integer, "
                  "$2::text[], $3::text[], $4::boolean[], $5::bigint[])",
                  5,
                  (const char *[]){feed->id, array_text(feed, slice->keys, n),
                                   array_text(feed, hashes, n), array_text(feed, vanished, n),
                                   array_text(feed, versions, n)},
                  &rows, err))
        return error_wrap(err, "noting what is sent");
    for (int row = 0; row < pg_rows(rows); row++)
        if (!take_intent(feed, slice, rows, row, err))
            return false;
    return true;
}

static int by_version(const void *a, const void *b)
{
    const struct document *x = *(struct document *const *) a, *y = *(struct document *const *) b;

    if (x->version != y->version)
        return x->version < y->version ? -1 : 1;
    return x < y ? -1 : x > y;
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
    qsort(slice->wanted, (size_t) slice->nwanted, sizeof(*slice->wanted), by_version);
}

bool feed_slice_read(struct feed *feed, struct slice *slice, struct error *err)
{
    const int n = slice->count;

    slice->documents = arena_new(&feed->slice, struct document, n);
    slice->fates = arena_new(&feed->slice, enum fate, n);
    slice->answers = arena_new(&feed->slice, const char *, n);
    slice->wanted = arena_new(&feed->slice, struct document *, n);
    slice->read_us = clock_tick_us();
    if (!document_read(feed->mirror, &feed->query, feed->options->config->pipeline, slice->keys, n,
                       &feed->slice, slice->documents, err) ||
        !intend(feed, slice, err))
        return false;
    sort_out(slice);
    return true;
}

/* ---- after ---- */

/* What became of a slice, as feed_record() takes it. */
struct tally {
    const char **settled, **asked_at; /* rows of feed_todo that have had their answer */
    const char **accepted, **hashes, **gone, **failed, **answers, **counted;
    int nsettled, naccepted, ngone, nfailed, ncounted, nunchanged;
};

/* Where the receiver stopped in the middle, the rest is still wanted: nothing is said of it. */
static void sum_up(struct feed *feed, const struct slice *slice, struct tally *t)
{
    const char ***lists[] = {&t->settled, &t->asked_at, &t->accepted, &t->hashes,
                             &t->gone,    &t->failed,   &t->answers,  &t->counted};

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        *lists[i] = arena_new(&feed->slice, const char *, slice->count);
    for (int i = 0; i < slice->count; i++) {
        const struct document *document = &slice->documents[i];

        switch (slice->fates[i]) {
        case FATE_WANTED:
            continue;
        case FATE_FAILED:
        case FATE_POSTPONED:
            t->failed[t->nfailed] = document->key;
            t->counted[t->nfailed] = slice->fates[i] == FATE_FAILED ? "t" : "f";
            t->ncounted += slice->fates[i] == FATE_FAILED;
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

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}

/* Median, 99th percentile and maximum as an array; NULL where that was said a moment ago. */
static const char *latency_text(struct feed *feed)
{
    double sorted[FEED_NLATENCIES];
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

static const char *interval_text(struct feed *feed, int64_t us)
{
    return arena_printf(&feed->slice, "%" PRId64 " microseconds", us);
}

bool feed_slice_record(struct feed *feed, struct slice *slice, struct feed_outcome *outcome,
                       struct error *err)
{
    const struct config_feed *c = feed->config;
    _cleanup_result_ struct pg_result *paused = NULL;
    struct tally t = {0};

    sum_up(feed, slice, &t);
    if (!pg_query_row(
            feed->mirror,
            "select tailwater.feed_record($1::integer, $2::text[], $3::timestamptz[], "
            "$4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], "
            "$10::boolean, $11::integer, $12::interval, $13::interval, $14::bigint, $15::bigint, "
            "$16::bigint, $17::double precision[])",
            17,
            (const char *[]){
                feed->id, array_text(feed, t.settled, t.nsettled),
                array_text(feed, t.asked_at, t.nsettled), array_text(feed, t.accepted, t.naccepted),
                array_text(feed, t.hashes, t.naccepted), array_text(feed, t.gone, t.ngone),
                array_text(feed, t.failed, t.nfailed), array_text(feed, t.answers, t.nfailed),
                array_text(feed, t.counted, t.nfailed), slice->is_todo ? "true" : "false",
                feed_slice_number(feed, c->retry.attempts), interval_text(feed, c->retry.first_us),
                interval_text(feed, c->retry.longest_us), feed_slice_number(feed, c->max_dead),
                feed_slice_number(feed, t.nunchanged), feed_slice_number(feed, slice->requests),
                latency_text(feed)},
            &paused, err))
        return error_wrap(err, "recording what was sent");
    outcome->sent += t.naccepted;
    outcome->unchanged += t.nunchanged;
    outcome->refused += t.ncounted;
    slice->has_failed |= t.nfailed > 0;
    if (!pg_is_null(paused, 0, 0)) {
        outcome->has_been_paused = true;
        snprintf(outcome->text, sizeof(outcome->text), "%s", pg_text(paused, 0, 0));
    }
    return true;
}
