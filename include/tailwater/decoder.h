/*
 * What a decoder is: one const struct decoder_ops, for one output plugin of the source.
 *
 * To write another: implement the functions below over the headers in this folder (no libpq, no
 * globals, no logging), end the file with the struct, add it to decoder_all() in
 * src/source/stream.c and to the list in meson.build. tests/unit/test_decoders.c runs the same SQL
 * through every decoder and expects the same changes.
 */
#ifndef TAILWATER_DECODER_H
#define TAILWATER_DECODER_H

#include "tailwater/arena.h"
#include "tailwater/bytes.h"
#include "tailwater/change.h"
#include "tailwater/error.h"

/* What a decoder needs to know of the pipeline.  Strings live as long as the decoder. */
struct decoder_config {
    int server_version;      /* of the source, as PQserverVersion(): 150020 */
    const char *publication; /* pgoutput */
    const char *prefix;      /* of the logical messages to receive; NULL for none */
    /*
     * wal2json: the tables to ask for, already as its add-tables list ("public.orders,sales.*",
     * escaped by wal2json's own rules); NULL asks for everything.
     */
    const char *add_tables;
    bool has_numeric_as_string; /* wal2json 2.6 and later: numeric-data-types-as-string is
                                   understood */
};

struct decoder_option {
    const char *name;
    const char *value; /* unquoted; the stream quotes it as a literal */
};

#define DECODER_MAX_OPTIONS 16

struct decoder;

struct decoder_ops {
    const char *plugin; /* its name in CREATE_REPLICATION_SLOT and in the configuration */

    /* The options of START_REPLICATION, from arena.  Returns how many of DECODER_MAX_OPTIONS were
     * filled. */
    int (*options)(const struct decoder_config *config, struct arena *arena,
                   struct decoder_option *ret_options);

    /* A decoder for one connection: relations it learnt do not outlive it. */
    struct decoder *(*create)(const struct decoder_config *config);
    void (*destroy)(struct decoder *decoder);

    /*
     * One message of the stream (the payload of one XLogData).  scratch is reset by the caller
     * between messages. An unknown or malformed message is ERROR_PROTOCOL, whatever it is (P12);
     * ERROR_RETRY is one that may be well formed when it is decoded again on the source (P64). On
     * success *ret_change is whole.
     */
    bool (*decode)(struct decoder *decoder, struct bytes message, struct arena *scratch,
                   struct change *ret_change, struct error *err);
};

extern const struct decoder_ops decoder_pgoutput;
extern const struct decoder_ops decoder_wal2json;

#endif
