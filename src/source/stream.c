/*
 * The replication stream: START_REPLICATION, the framing of its messages, and the answers to them.
 *
 * A message is decoded where libpq put it; the scratch arena that the decoder may use is emptied
 * before the next one.  Nothing here knows of transactions or cursors: what may be confirmed is the
 * receiver's to say, and only that it never goes backwards is kept here (P38).
 *
 * Whether wal2json knows numeric-data-types-as-string is found out by asking for it: an older one
 * refuses START_REPLICATION and names the option, and it is left out then.
 */
#include "source/stream.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/memory.h"
#include "pg/pg.h"
#include "source/slot.h"

#include <stdlib.h>
#include <string.h>

#define AS_STRING_OPTION "numeric-data-types-as-string"

struct stream {
    struct pg *pg;
    const char *slot;
    const struct decoder_ops *ops;
    struct decoder_config config;
    struct decoder *decoder;
    struct arena scratch;
    lsn_t confirmed;
};

const struct decoder_ops *const *decoder_all(void)
{
    static const struct decoder_ops *const all[] = {&decoder_wal2json, &decoder_pgoutput, NULL};

    return all;
}

const struct decoder_ops *stream_find_decoder(const char *plugin)
{
    for (const struct decoder_ops *const *ops = decoder_all(); *ops != NULL; ops++)
        if (strcmp((*ops)->plugin, plugin) == 0)
            return *ops;
    return NULL;
}

/* ---- opening ---- */

static bool connect_stream(const struct stream_options *options, struct stream *stream,
                           struct error *err)
{
    _cleanup_buf_ struct buf settings = {0};
    struct pg_options connection = {.side = PG_SOURCE,
                                    .conninfo = options->conninfo,
                                    .application = options->application,
                                    .is_replication = true};

    if (options->decode_memory_bytes > 0)
        buf_printf(&settings, "-c logical_decoding_work_mem=%lldkB ",
                   (long long) (options->decode_memory_bytes / 1024));
    if (options->wal_sender_timeout_us >= 0)
        buf_printf(&settings, "-c wal_sender_timeout=%lldms",
                   (long long) (options->wal_sender_timeout_us / 1000));
    connection.settings = buf_text(&settings);
    return pg_connect(&connection, &stream->pg, err);
}

static bool start(struct stream *stream, lsn_t from, struct error *err)
{
    struct decoder_option options[DECODER_MAX_OPTIONS];
    _cleanup_buf_ struct buf command = {0};
    int noptions;

    arena_reset(&stream->scratch);
    noptions = stream->ops->options(&stream->config, &stream->scratch, options);
    buf_add(&command, "START_REPLICATION SLOT ");
    pg_add_ident(&command, stream->slot);
    buf_printf(&command, " LOGICAL " LSN_FORMAT, LSN_ARGS(from));
    for (int i = 0; i < noptions; i++) {
        buf_add(&command, i == 0 ? " (" : ", ");
        pg_add_ident(&command, options[i].name);
        buf_add_char(&command, ' ');
        pg_add_literal(&command, options[i].value);
    }
    if (noptions > 0)
        buf_add_char(&command, ')');
    return pg_stream_start(stream->pg, buf_text(&command), err);
}

static bool start_failed(struct stream *stream, struct error *err)
{
    slot_explain(stream->pg, stream->slot, stream->ops->plugin, err);
    if (err->kind == ERROR_FAILED && slot_is_option_error(err)) {
        err->kind = ERROR_CONFIG;
        error_hint(err,
                   "the source's %s does not take the options of this version of tailwater: "
                   "install a current one there, or change source.plugin",
                   stream->ops->plugin);
    }
    return error_wrap(err, "starting to read slot %s", stream->slot);
}

bool stream_open(const struct stream_options *options, struct stream **ret_stream,
                 struct error *err)
{
    _cleanup_stream_ struct stream *stream = memory_new(struct stream);

    stream->slot = options->slot;
    stream->ops = options->ops;
    stream->config = options->decoder;
    if (!connect_stream(options, stream, err))
        return false;
    stream->config.server_version = pg_server_version(stream->pg);
    stream->config.has_numeric_as_string = true;
    if (!start(stream, options->start, err)) {
        if (strcmp(err->sqlstate, "22023") != 0 || strstr(err->message, AS_STRING_OPTION) == NULL)
            return start_failed(stream, err);
        stream->config.has_numeric_as_string = false;
        if (!start(stream, options->start, err))
            return start_failed(stream, err);
    }
    stream->decoder = stream->ops->create(&stream->config);
    *ret_stream = stream;
    stream = NULL;
    return true;
}

void stream_free(struct stream *stream)
{
    if (stream == NULL)
        return;
    if (stream->decoder != NULL)
        stream->ops->destroy(stream->decoder);
    pg_free(stream->pg);
    arena_release(&stream->scratch);
    free(stream);
}

bool stream_loses_nan(const struct stream *stream)
{
    return stream->ops == &decoder_wal2json && !stream->config.has_numeric_as_string;
}

const char *stream_plugin(const struct stream *stream)
{
    if (stream->ops != &decoder_wal2json)
        return stream->ops->plugin;
    return stream->config.has_numeric_as_string ? "wal2json 2.6 or later" : "wal2json before 2.6";
}

int stream_server_version(const struct stream *stream)
{
    return stream->config.server_version;
}

/* ---- reading ---- */

/* A row whose text is longer than the server can hold in memory (P16): 54000, "cannot enlarge string
 * buffer", or an allocation refused. */
static bool is_too_large(const struct error *err)
{
    return strcmp(err->sqlstate, "54000") == 0 ||
           strstr(err->message, "invalid memory alloc request size") != NULL;
}

static bool hint_publication(struct error *err)
{
    return error_hint(
        err, "the slot needs the publication as it was when the change was made, so making "
             "it again does not help: tailwater resync --all --new-slot makes the slot anew and "
             "repairs the mirror");
}

/* The stream broke off.  Some of its errors come again at the same place for ever. */
static bool read_failed(const struct stream *stream, struct error *err)
{
    if (strcmp(err->sqlstate, "42704") == 0) {
        err->kind = ERROR_SLOT;
        hint_publication(err);
    } else if (strcmp(err->sqlstate, "55000") == 0 || strcmp(err->sqlstate, "58P01") == 0) {
        err->kind = ERROR_SLOT;
        error_hint(
            err,
            "WAL that the slot needs is gone: tailwater resync --all --new-slot makes the slot "
            "anew and repairs the mirror");
    } else if (is_too_large(err)) {
        error_wrap(err, "the source cannot send a row whose message would pass 1 GB");
        error_hint(err,
                   "the slot does not get past it: with wal2json take its table out of tables "
                   "(only as one of at most 20, each by name, is it passed over); or shorten the "
                   "row, then tailwater resync --all --new-slot repairs the mirror");
    }
    return error_wrap(err, "slot %s", stream->slot);
}

/*
 * From PostgreSQL 18 on pgoutput goes on where the publication did not exist when the change was made,
 * warns (LoadPublications() in pgoutput.c), and leaves the change out (P44).  The warning comes before
 * anything that was decoded behind it.
 */
static bool check_complete(const struct stream *stream, struct error *err)
{
    int count;
    const struct pg_warning *warnings = pg_stream_warnings(stream->pg, &count);

    if (stream->ops != &decoder_pgoutput)
        return true;
    for (int i = 0; i < count; i++) {
        if (strcmp(warnings[i].sqlstate, "55000") != 0 ||
            strstr(warnings[i].message, stream->config.publication) == NULL)
            continue;
        error_set(err, ERROR_SLOT,
                  "the source left changes out that were made when the publication %s did not "
                  "exist: %s",
                  stream->config.publication, warnings[i].message);
        hint_publication(err);
        return error_wrap(err, "slot %s", stream->slot);
    }
    return true;
}

/* wal2json.c of that plugin: the table has no identity at the time of the change. */
bool stream_left_out(const struct stream *stream, int *next, const char **ret_table)
{
    static const char *const words[] = {"no tuple identifier for UPDATE in table ",
                                        "no tuple identifier for DELETE in table "};
    int count;
    const struct pg_warning *warnings = pg_stream_warnings(stream->pg, &count);

    if (stream->ops != &decoder_wal2json)
        return false;
    for (; *next < count; ++*next)
        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
            if (strncmp(warnings[*next].message, words[i], strlen(words[i])) == 0) {
                *ret_table = warnings[(*next)++].message + strlen(words[i]);
                return true;
            }
    return false;
}

static bool read_row(struct stream *stream, struct bytes *message, struct stream_event *event,
                     struct error *err)
{
    lsn_t at = bytes_u64(message);

    event->kind = STREAM_CHANGE;
    event->wal_end = bytes_u64(message);
    event->sent_at_us = (int64_t) (bytes_u64(message) + CLOCK_POSTGRES_EPOCH_US);
    event->message_bytes = bytes_left(message);
    if (message->bad)
        return error_set(err, ERROR_PROTOCOL, "slot %s: a row of the stream is cut short",
                         stream->slot);
    arena_reset(&stream->scratch);
    if (stream->ops->decode(stream->decoder, *message, &stream->scratch, &event->change, err))
        return true;
    return error_wrap(err, "slot %s at " LSN_FORMAT, stream->slot, LSN_ARGS(at));
}

static bool read_keepalive(struct stream *stream, struct bytes *message, struct stream_event *event,
                           struct error *err)
{
    event->kind = STREAM_KEEPALIVE;
    event->wal_end = bytes_u64(message);
    event->sent_at_us = (int64_t) (bytes_u64(message) + CLOCK_POSTGRES_EPOCH_US);
    event->reply_requested = bytes_u8(message) != 0;
    if (message->bad)
        return error_set(err, ERROR_PROTOCOL, "slot %s: a keepalive is cut short", stream->slot);
    return true;
}

bool stream_next(struct stream *stream, int timeout_ms, int wake_fd, struct stream_event *ret_event,
                 struct error *err)
{
    struct stream_event event = {0};
    struct bytes message;
    const char *data;
    size_t len;
    uint8_t kind;

    if (!pg_stream_next(stream->pg, timeout_ms, wake_fd, &data, &len, err))
        return read_failed(stream, err);
    if (!check_complete(stream, err))
        return false;
    if (data == NULL) {
        *ret_event = event;
        return true;
    }
    message = bytes_of(data, len);
    kind = bytes_u8(&message);
    switch (kind) {
    case 'w':
        if (!read_row(stream, &message, &event, err))
            return false;
        break;
    case 'k':
        if (!read_keepalive(stream, &message, &event, err))
            return false;
        break;
    default:
        return error_set(err, ERROR_PROTOCOL,
                         "slot %s: a message of the unknown kind 0x%02x in the stream",
                         stream->slot, kind);
    }
    *ret_event = event;
    return true;
}

/* ---- confirming ---- */

/* Standby status update: written, flushed, applied; our clock; whether a reply is wanted. */
static bool send_status(struct stream *stream, bool wants_reply, struct error *err)
{
    _cleanup_buf_ struct buf message = {0};

    buf_add_char(&message, 'r');
    buf_add_u64(&message, stream->confirmed);
    buf_add_u64(&message, stream->confirmed);
    buf_add_u64(&message, stream->confirmed);
    buf_add_u64(&message, (uint64_t) (clock_now_us() - CLOCK_POSTGRES_EPOCH_US));
    buf_add_char(&message, wants_reply);
    return pg_stream_send(stream->pg, message.data, message.len, err) ||
           error_wrap(err, "slot %s: confirming " LSN_FORMAT, stream->slot,
                      LSN_ARGS(stream->confirmed));
}

bool stream_confirm(struct stream *stream, lsn_t flushed, struct error *err)
{
    if (flushed > stream->confirmed)
        stream->confirmed = flushed;
    return send_status(stream, false, err);
}

bool stream_ask(struct stream *stream, struct error *err)
{
    return send_status(stream, true, err);
}

lsn_t stream_confirmed(const struct stream *stream)
{
    return stream->confirmed;
}
