/*
 * Documents: what a feed's query gives for keys, as the JSON that a receiver gets.
 *
 * A key travels as text, the server's own literal of an array of its parts: {42}, {7,2026-11-22}.
 * The query's column names are the names of the document's fields.  One key has one document.
 */
#ifndef TAILWATER_DOCUMENT_H
#define TAILWATER_DOCUMENT_H

#include "base/buf.h"
#include "config/config.h"
#include "pg/pg.h"
#include "tailwater/arena.h"

#define DOCUMENT_HASH_SIZE 65

struct document {
    const char *key;
    const char *json; /* one line; NULL: nothing is to be said */
    size_t len;
    bool is_vanished;  /* the query has no row for it; json says so, where anything is to be said */
    const char *fault; /* there is no document: why; NULL otherwise */
    int64_t version;   /* the ledger's number as of the snapshot it was read under */
    const char *asked_at; /* since when it is asked for outside of windows; NULL: it is not */
    int64_t since;        /* the ledger's number when it was begun to send this document */
    char hash[DOCUMENT_HASH_SIZE]; /* SHA-256 of json, in hex */
};

/* The statements that ask for documents. */
struct document_query {
    int nkeys;
    const char **names, **types; /* of the fact's key */
    const char **columns;        /* … as the query calls them */
    const char *read;            /* SQL: $1 keys, $2 pipeline */
    const char *vanished;        /* NULL: nothing is sent */
    const char *definition_hash; /* of all that makes a document */
};

/* ERROR_CONFIG where the fact's key and what the configuration says of it do not fit together. */
bool document_query_make(const struct config *config, const struct config_feed *feed, int nkeys,
                         const char **names, const char **types, struct arena *arena,
                         struct document_query *ret_query, struct error *err);

/* The hash of a feed's declaration, as far as documents are made by it. */
const char *document_definition_hash(const struct config_feed *feed, struct arena *arena);

/*
 * The documents of count keys, in their order, from arena.  Where the query fails with an error of
 * data, it is asked for fewer keys, down to the ones at fault: these have a fault.  So documents may
 * be of several snapshots, each has the version of its own.  Inside a transaction: savepoints are
 * used.
 */
bool document_read(struct pg *mirror, const struct document_query *query, const char *pipeline,
                   const char *const *keys, int count, struct arena *arena,
                   struct document *ret_documents, struct error *err);

/* Would the query, asked for a few keys, read a large table whole?  *ret_table is its name, from arena;
 * NULL: no. */
bool document_find_scan(struct pg *mirror, const struct document_query *query, const char *pipeline,
                        struct arena *arena, const char **ret_table, struct error *err);

/* The fields of a document, "a, b, c", from arena.  Outside of a transaction; changes nothing. */
bool document_fields(struct pg *mirror, const struct document_query *query,
                     const struct config_feed *feed, struct arena *arena, const char **ret_fields,
                     struct error *err);

/* count texts as one array literal: a parameter of type text[].  NULL members are NULL. */
void document_add_array(struct buf *buf, const char *const *texts, int count);

/* SHA-256 in hex, the first size - 1 digits of it. */
void document_digest(const void *data, size_t len, char *ret_hex, size_t size);

#endif
