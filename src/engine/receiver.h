/*
 * The receiver: reads the stream, decodes, fills the open batch, seals it when the applier is idle
 * or the batch is full, answers keepalives and confirms what is durable in the mirror.  It never
 * waits for the mirror but for a free batch, and goes on answering the source while it does.
 */
#ifndef TAILWATER_RECEIVER_H
#define TAILWATER_RECEIVER_H

#include "engine/handover.h"
#include "engine/statistics.h"
#include "source/stream.h"

#include <stdatomic.h>

struct receiver_options {
    struct stream *stream;
    struct handover *handover;
    const struct table_list *list;
    struct batch
        *batches[2]; /* the session's; the applier may still read one when receiver_run() returns */
    int64_t confirm_interval_us; /* well below the source's wal_sender_timeout */
    int64_t silence_us;          /* after so long without a word the source is given up */
    lsn_t cursor;                /* where the mirror stands */
    lsn_t until;                 /* stop once the mirror has this; 0: never */
    lsn_t careful_until;         /* up to the transaction of this final_lsn each is a batch alone */
    const char *source_conninfo; /* to look up partitions that are new since the start */
    const atomic_bool *stop;     /* set by a signal: finish what is applied and return */
    const atomic_bool *is_finished;  /* set by a helper: what the session was for is done */
    const atomic_bool *is_reloading; /* set by whoever saw that there is something to prepare */
    struct statistics *statistics;
};

/* Returns true when told to stop, or when until is reached; false with the first error of either
 * thread, and then with whose data it was (table NULL: nobody's). */
bool receiver_run(const struct receiver_options *options, struct culprit *ret_culprit,
                  struct error *err);

#endif
