/*
 * The replication stream: a slot read through a decoder, and what is confirmed to it.  One thread.
 */
#ifndef TAILWATER_STREAM_H
#define TAILWATER_STREAM_H

#include "batch/table.h"
#include "tailwater/arena.h"
#include "tailwater/decoder.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All decoders, NULL ends it; and the one for a plugin's name, NULL if unknown. */
const struct decoder_ops *const *decoder_all(void);
const struct decoder_ops *stream_find_decoder(const char *plugin);

/*
 * wal2json's add-tables list for these tables: each by name up to 20 of them, whole schemas above
 * that or where a partitioned root is among them (wal2json sends the names of its leaves, present
 * and future).  Escaped by wal2json's rules.  From arena.
 */
const char *stream_add_tables(const struct table_list *tables, struct arena *arena);

struct stream_options {
    const char *conninfo;
    const char *application; /* "tailwater main receiver" */
    const char *slot;
    const struct decoder_ops *ops;
    /*
     * What the decoder is told.  server_version is filled in by stream_open(), and
     * has_numeric_as_string found out by trying (stream_loses_nan()).  Its strings live as long as
     * the stream.
     */
    struct decoder_config decoder;
    lsn_t start;                   /* the cursor; the source never sends what it knows confirmed */
    int64_t decode_memory_bytes;   /* logical_decoding_work_mem; 0: the server's */
    int64_t wal_sender_timeout_us; /* of the server's end of this stream; -1: the server's own */
};

struct stream;

/*
 * Errors: ERROR_BUSY where another session reads from the slot (its PID and application in the
 * message; try again until start_timeout, P42); ERROR_SLOT where the slot is missing, lost, or of
 * another plugin or database; ERROR_FINDINGS for a plugin that may not be used; ERROR_CONFIG for an
 * option that the plugin does not know.
 */
bool stream_open(const struct stream_options *options, struct stream **ret_stream,
                 struct error *err);
void stream_free(struct stream *stream); /* NULL is fine */

static inline void stream_cleanup(struct stream **stream)
{
    stream_free(*stream);
}
#define _cleanup_stream_ _cleanup_(stream_cleanup)

/* NaN and infinities of float and numeric columns arrive as null: wal2json before 2.6 (P7). */
bool stream_loses_nan(const struct stream *stream);

/* The plugin, and which of its versions where that matters: "wal2json before 2.6". */
const char *stream_plugin(const struct stream *stream);

int stream_server_version(const struct stream *stream);

enum stream_event_kind {
    STREAM_NOTHING,  /* timeout, a signal, or wake_fd */
    STREAM_CHANGE,   /* change is set; its kind may be CHANGE_NONE */
    STREAM_KEEPALIVE /* nothing but wal_end and reply_requested */
};

struct stream_event {
    enum stream_event_kind kind;
    struct change change; /* dead at the next call */
    size_t message_bytes;
    lsn_t wal_end;        /* the source's WAL position when it sent this.  Nothing to store while a
                             transaction is open or unapplied (P39) */
    int64_t sent_at_us;   /* the source's clock, since 1970 UTC */
    bool reply_requested; /* answer by stream_confirm() at once */
};

/*
 * The next event; timeout_ms and wake_fd as pg_stream_next().  Errors: ERROR_SOURCE when the
 * connection is gone, ERROR_PROTOCOL for bytes not understood, ERROR_SLOT for a slot that can never
 * pass this place (a publication that did not exist at the time, P44).
 */
bool stream_next(struct stream *stream, int timeout_ms, int wake_fd, struct stream_event *ret_event,
                 struct error *err);

/*
 * Tables of which the plugin has left an update or a delete out, with nothing but a warning, in front of
 * the last event: wal2json does so where a table had no replica identity at the time (P17).  From *next
 * on, which is 0 at first; false: no more.  ret_table: "schema"."name" in quotes that nothing escapes,
 * valid until the next event.
 */
bool stream_left_out(const struct stream *stream, int *next, const char **ret_table);

/*
 * Tell the source that everything up to flushed is durable in the mirror; it may then forget it.
 * Never goes backwards: a lower position repeats the last one.  Also the answer to a keepalive.
 */
bool stream_confirm(struct stream *stream, lsn_t flushed, struct error *err);

/* Repeat the last position, and have the source answer with a keepalive: is it still there? */
bool stream_ask(struct stream *stream, struct error *err);

/* The last position confirmed on this connection; 0: none yet. */
lsn_t stream_confirmed(const struct stream *stream);

#endif
