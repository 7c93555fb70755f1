/*
 * Sending a slice: one request after the other, in halves where a document is at fault.
 *
 * **Who is to blame?**  REFUSED is about the documents.  AWAY is about the receiver: everything waits,
 * nothing is skipped.  DOUBTFUL may be either.  The same parcel is tried again, and after
 * retry.attempts times in halves, at once: a document that stands alone in doubt then, while others are
 * accepted, is taken to be at fault; but at most MAX_BLAMED of them without another one being
 * accepted in between: after that it is the receiver.  So neither can a poisonous document stop the
 * feed, nor a broken receiver turn documents into dead letters.
 *
 * The count belongs to the parcel: what the receiver accepts of other windows, or of feed_todo, does
 * not clear it, or a document in doubt would hold up its window for as long as there is traffic.
 *
 * **A receiver that refuses everything** is no document's fault either, and halving 500 documents
 * would cost it 999 requests.  So when MAX_ALIKE documents in a row were refused alone, in however
 * many slices, and nothing was accepted in between, two more of the slice are tried, the last one
 * and one in the middle.  Where these are refused likewise it is the receiver that everything waits
 * for, and none of the slice is blamed.  Likewise: with the same words of our own (the status, the
 * exit code), since a receiver's words may name the document.  After retry.attempts such rounds of one
 * slice THOROUGH documents are asked for alone: it may be they that are all wrong.  The first
 * MAX_ALIKE are blamed in any case.
 *
 * Documents that were refused before, each alone, have their own answer again without being asked
 * for, if ten others in a row got the very same one; but for the last time: nothing becomes a dead
 * letter unasked.
 *
 * Documents that were at fault before come apart from the others.  When these are in doubt once more
 * nobody waits for them: they are blamed, or postponed where it may be the receiver.
 *
 * **Not too old.**  Documents leave within a few seconds of being read: what has not had its turn by
 * then (a low max_rate, a slow receiver) is read anew.  Before each further request the connection
 * to the mirror, and so the feed's lock, is looked at: whoever has lost it must not send what is
 * older than what its successor sends.  A slice that is cut before anything has become of its documents
 * leaves a smaller parcel to begin the next one with, or a document at fault would never stand alone.
 */
#include "feed/feed_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BLAMED 3
#define MAX_ALIKE  8
#define THOROUGH   500
#define OLDEST_US  5000000

/* A request with changes of that age leaves now. */
static void note_latency(struct feed *feed, struct slice *slice)
{
    if (slice->committed_us == 0)
        return;
    feed->latencies[feed->next_latency] = (double) (clock_now_us() - slice->committed_us) / 1000.0;
    feed->next_latency = (feed->next_latency + 1) % FEED_NLATENCIES;
    if (feed->nlatencies < FEED_NLATENCIES)
        feed->nlatencies++;
    slice->committed_us = 0; /* the first request of a window is what is measured */
}

bool feed_deliver_wait(struct feed *feed, struct error *err)
{
    enum pg_told told;
    int64_t left_us;

    while (!*feed->options->stop && (left_us = feed->next_request_us - clock_tick_us()) > 0)
        if (!pg_wait_notify(feed->mirror, (int) (left_us / 1000) + 1, feed->options->wake_fd, "",
                            &told, err))
            return false;
    return true;
}

/* The slice's next request, of count documents, may leave; or the slice is cut. */
static bool take_turn(struct feed *feed, struct slice *slice, int count, struct error *err)
{
    if (!feed_deliver_wait(feed, err))
        return false;
    slice->is_cut = *feed->options->stop;
    if (slice->requests > 0 && !slice->is_cut && !feed->ops->is_in_mirror) {
        /* A stop may interrupt this: what was accepted is recorded all the same. */
        if (!pg_exec(feed->mirror, "select", err) && !*feed->options->stop)
            return error_wrap(err, "looking after the lock");
        slice->is_cut = *feed->options->stop || clock_tick_us() - slice->read_us > OLDEST_US;
        if (slice->is_cut && !slice->has_news)
            feed->narrow = count;
    }
    if (!slice->is_cut && feed->config->interval_us > 0)
        feed->next_request_us = clock_tick_us() + feed->config->interval_us;
    return true;
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

static bool send_parcel(struct feed *feed, struct slice *slice, struct document **documents,
                        int count, struct error *err)
{
    struct destination_parcel parcel = {.feed = feed->config->name,
                                        .epoch = feed->epoch,
                                        .batch = slice->batch,
                                        .version = documents[0]->version,
                                        .count = count,
                                        .documents = documents};

    make_key(slice, feed->epoch, &parcel);
    slice->answer = (struct destination_answer){0};
    note_latency(feed, slice);
    slice->requests++;
    return feed->ops->send(feed->destination, &parcel, &slice->answer, err) &&
           FAULT(feed_after_answer, err);
}

/* ---- what the answer means ---- */

static void set_fate(struct feed *feed, struct slice *slice, const struct document *document,
                     enum fate fate)
{
    slice->fates[document - slice->documents] = fate;
    slice->has_news = true;
    feed->narrow = 0;
    if (fate != FATE_ACCEPTED)
        slice->answers[document - slice->documents] = arena_strdup(&feed->slice,
                                                                   slice->answer.text);
}

/* All documents of the slice that have the one fate get the other. */
static void set_rest(struct feed *feed, struct slice *slice, enum fate from, enum fate to)
{
    for (int i = 0; i < slice->nwanted; i++)
        if (slice->fates[slice->wanted[i] - slice->documents] == from)
            set_fate(feed, slice, slice->wanted[i], to);
}

static bool has_key(struct document *const *documents, int count, const char *key)
{
    for (int i = 0; i < count && key != NULL; i++)
        if (strcmp(documents[i]->key, key) == 0)
            return true;
    return false;
}

static void take_accepted(struct feed *feed, struct slice *slice, struct document *const *documents,
                          int count)
{
    struct doubt *doubt = &feed->doubts[slice->is_todo];

    for (int i = 0; i < count; i++)
        set_fate(feed, slice, documents[i], FATE_ACCEPTED);
    if (!slice->is_halving && has_key(documents, count, doubt->key))
        doubt->count = 0;
    slice->is_thorough = true; /* not everything is refused */
    feed->streaks[0].count = feed->streaks[1].count = 0;
    feed->nblamed = 0;
    feed->retry_us = 0;
}

/* Has this parcel been in doubt often enough? */
static bool is_doubted_enough(struct feed *feed, struct slice *slice,
                              struct document *const *documents, int count)
{
    struct doubt *doubt = &feed->doubts[slice->is_todo];

    if (!has_key(documents, count, doubt->key)) {
        free(doubt->key);
        doubt->key = memory_strdup(documents[0]->key);
        doubt->count = 0;
    }
    return ++doubt->count >= feed->config->retry.attempts;
}

/* No answer, or one that says nothing: may it be these documents? Where it may be the receiver,
 * that is noted in the slice. */
static bool is_blamed(struct feed *feed, struct slice *slice, struct document *const *documents,
                      int count)
{
    if (!slice->is_again && !slice->is_halving &&
        !is_doubted_enough(feed, slice, documents, count)) {
        slice->is_blocked = true;
        return false;
    }
    slice->is_halving = true;
    if (count > 1)
        return true;
    if (feed->nblamed < MAX_BLAMED) {
        feed->nblamed++;
        return true;
    }
    slice->is_blocked = !slice->is_again;
    slice->is_cut = slice->is_again;
    if (slice->is_again)
        set_rest(feed, slice, FATE_WANTED, FATE_POSTPONED);
    return false;
}

/* ---- is it all of them? ---- */

/* How many documents in a row were refused alone, with the answer of the last one. */
static void note_alone(struct feed *feed, struct slice *slice)
{
    struct streak *streak = &feed->streaks[slice->is_again];
    const char *text = slice->answer.text;
    const size_t len = slice->is_again ? strlen(text) : (size_t) slice->answer.own_len;

    if (streak->count > 0 && strncmp(streak->answer, text, len) == 0 &&
        streak->answer[len] == '\0') {
        streak->count++;
    } else {
        snprintf(streak->answer, sizeof(streak->answer), "%.*s", (int) len, text);
        streak->count = 1;
    }
    if (!slice->is_again && feed->nthorough > 0)
        feed->nthorough--;
}

/* Moves those that are still to be sent to the front, and says how many they are. */
static int gather(const struct slice *slice, struct document **documents, int count)
{
    int n = 0;

    for (int i = 0; i < count; i++) {
        struct document *one = documents[i];

        if (slice->fates[one - slice->documents] != FATE_WANTED)
            continue;
        documents[i] = documents[n];
        documents[n++] = one;
    }
    return n;
}

/* One of those that are to be sent, by itself and before its turn. */
static bool probe(struct feed *feed, struct slice *slice, bool is_last, bool *ret_found,
                  struct error *err)
{
    struct document **left = arena_new(&feed->slice, struct document *, slice->nwanted), **one;
    int n;

    memcpy(left, slice->wanted, sizeof(*left) * (size_t) slice->nwanted);
    n = gather(slice, left, slice->nwanted);
    *ret_found = n > 0;
    if (n == 0)
        return true;
    one = left + (is_last ? n - 1 : n / 2);
    if (!take_turn(feed, slice, 1, err))
        return false;
    if (slice->is_cut)
        return true;
    if (!send_parcel(feed, slice, one, 1, err))
        return false;
    switch (slice->answer.verdict) {
    case DESTINATION_ACCEPTED:
        take_accepted(feed, slice, one, 1);
        break;
    case DESTINATION_REFUSED:
        set_fate(feed, slice, *one, FATE_FAILED);
        note_alone(feed, slice);
        break;
    case DESTINATION_AWAY:
        slice->is_blocked = true;
        break;
    case DESTINATION_DOUBTFUL: /* it says nothing of the others */
        slice->is_cut = *feed->options->stop;
        feed->streaks[slice->is_again].count = 0;
        break;
    }
    return true;
}

static void say_everything(struct destination_answer *answer)
{
    static const char words[] = "it refuses every document";
    const struct destination_answer old = *answer;
    int own_len;

    destination_answer_set(answer, old.verdict, old.text, strlen(old.text), "%s", words);
    answer->retry_after_us = old.retry_after_us;
    own_len = answer->own_len + (int) strlen(": ") + old.own_len;
    answer->own_len = own_len < (int) strlen(answer->text) ? own_len : (int) strlen(answer->text);
}

/* Those that were refused before with the very words that all get now are refused again. */
static void refuse_again(struct feed *feed, struct slice *slice)
{
    for (int i = 0; i < slice->nwanted; i++) {
        const ptrdiff_t at = slice->wanted[i] - slice->documents;

        if (slice->fates[at] == FATE_WANTED && strcmp(slice->told[at], slice->answer.text) == 0 &&
            atoi(slice->tried[at]) + 1 < feed->config->retry.attempts)
            set_fate(feed, slice, slice->wanted[i], FATE_FAILED);
    }
    slice->is_thorough = true; /* the others are asked for */
}

/* So many were refused alike that the next one will be, too? */
static bool suspect(struct feed *feed, struct slice *slice, struct error *err)
{
    const struct streak *streak = &feed->streaks[slice->is_again];

    if (streak->count < MAX_ALIKE || slice->is_thorough ||
        (!slice->is_again && feed->nthorough > 0))
        return true;
    for (int i = 0; i < 2; i++) {
        bool is_found;

        if (!probe(feed, slice, i == 0, &is_found, err))
            return false;
        if (!is_found)
            break;
        if (slice->is_blocked || slice->is_cut || streak->count <= MAX_ALIKE)
            return true;
    }
    if (streak->count <= MAX_ALIKE)
        return true;
    if (slice->is_again) {
        refuse_again(feed, slice);
        return true;
    }
    if (is_doubted_enough(feed, slice, slice->wanted, slice->nwanted)) {
        feed->nthorough = THOROUGH;
        return true;
    }
    for (int i = 0; i < slice->nwanted; i++)
        if (slice->fates[slice->wanted[i] - slice->documents] == FATE_FAILED)
            slice->fates[slice->wanted[i] - slice->documents] = FATE_WANTED;
    say_everything(&slice->answer);
    slice->is_blocked = true;
    return true;
}

/* ---- sending ---- */

/* Sends documents[0…count-1], in halves where one of them is at fault. */
static bool deliver(struct feed *feed, struct slice *slice, struct document **documents, int count,
                    struct error *err)
{
    int half;

    count = gather(slice, documents, count);
    if (count == 0 || slice->is_blocked || slice->is_cut)
        return true;
    if (!take_turn(feed, slice, count, err))
        return false;
    if (slice->is_cut)
        return true;
    if (!send_parcel(feed, slice, documents, count, err))
        return false;
    switch (slice->answer.verdict) {
    case DESTINATION_ACCEPTED:
        take_accepted(feed, slice, documents, count);
        return true;
    case DESTINATION_AWAY:
        slice->is_blocked = true;
        return true;
    case DESTINATION_DOUBTFUL:
        /* Because we have been told to stop? */
        slice->is_cut = *feed->options->stop;
        if (slice->is_cut || !is_blamed(feed, slice, documents, count))
            return true;
        break;
    case DESTINATION_REFUSED:
        break;
    }
    if (count == 1) {
        set_fate(feed, slice, documents[0], FATE_FAILED);
        if (slice->answer.verdict != DESTINATION_REFUSED)
            return true;
        note_alone(feed, slice);
        return suspect(feed, slice, err);
    }
    half = count / 2;
    return deliver(feed, slice, documents, half, err) &&
           deliver(feed, slice, documents + half, count - half, err);
}

bool feed_deliver_slice(struct feed *feed, struct slice *slice, struct error *err)
{
    for (int at = 0, count; at < slice->nwanted; at += count) {
        struct document **documents = slice->wanted + at;
        int max = destination_max_documents(feed->config);

        if (feed->narrow > 0 && feed->narrow < max)
            max = feed->narrow;
        slice->is_halving = false;
        /* A request has one version. */
        for (count = 1; count < max && at + count < slice->nwanted; count++)
            if (documents[count]->version != documents[0]->version)
                break;
        if (!deliver(feed, slice, documents, count, err))
            return false;
        if (slice->is_blocked || slice->is_cut)
            break;
        if (slice->is_halving || has_key(documents, count, feed->doubts[slice->is_todo].key))
            feed->doubts[slice->is_todo].count = 0;
    }
    return true;
}
