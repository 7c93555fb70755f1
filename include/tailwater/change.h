/*
 * A change: one decoded event of the replication stream, in the form that both decoders share.
 *
 * A decoder fills a struct change per message.  Its values point into the message or into the
 * scratch arena it was given, and are dead when the next message is decoded; whoever keeps a change
 * copies it.  Relations are owned by the decoder and live as long as it does.
 *
 * Values are PostgreSQL's text output under pinned settings (pitfalls P9, P10): bool is t or f,
 * bytea is \x….
 */
#ifndef TAILWATER_CHANGE_H
#define TAILWATER_CHANGE_H

#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_kind {
    VALUE_ABSENT, /* not sent: an unchanged TOAST value, or a column outside the identity.  Never
                     NULL (P1) */
    VALUE_NULL,
    VALUE_TEXT
};

struct value {
    const char *data; /* not terminated; defined for VALUE_TEXT only */
    uint32_t len;
    enum value_kind kind;
};

/* REPLICA IDENTITY as pg_class.relreplident says it; unknown where the plugin does not send it
 * (wal2json). */
enum replica_identity {
    IDENTITY_UNKNOWN = 0,
    IDENTITY_DEFAULT = 'd',
    IDENTITY_NOTHING = 'n',
    IDENTITY_FULL = 'f',
    IDENTITY_INDEX = 'i'
};

struct relation_column {
    const char *name;
    uint32_t type_oid; /* on the source; never compared with an OID of the mirror (P13) */
    int16_t attnum;    /* 0 where the plugin does not send it */
    bool is_identity;  /* part of the replica identity, as far as the stream told */
};

/*
 * A table as the stream described it, one version of it: a change of shape makes a new relation,
 * the old one stays valid.  Columns are in attnum order.
 */
struct relation {
    uint32_t id;  /* dense, from 0, never reused within a decoder: an index for the consumer's own
                     array */
    uint32_t oid; /* pg_class.oid on the source; 0 where the plugin does not send it */
    const char *schema;
    const char *name;
    enum replica_identity identity;
    int ncolumns;
    struct relation_column *columns;
    bool is_ignored; /* set by the consumer: this table is not mirrored, its rows need not be parsed
                      */
};

enum change_kind {
    CHANGE_NONE, /* the message carried nothing to apply (a relation or type description, an ignored
                    table) */
    CHANGE_BEGIN,
    CHANGE_COMMIT,
    CHANGE_INSERT,
    CHANGE_UPDATE,
    CHANGE_DELETE,
    CHANGE_TRUNCATE,
    CHANGE_MESSAGE
};

struct change {
    enum change_kind kind;

    /* begin: final_lsn always, end_lsn where the plugin sends it (wal2json), else 0.  commit: both.
     */
    uint32_t xid;
    lsn_t final_lsn; /* start of the commit record; a transaction is old exactly when this < cursor
                        (P32) */
    lsn_t end_lsn;   /* its end: the cursor once this transaction is applied */
    int64_t commit_time_us; /* since 1970-01-01 UTC; informational, not ordered (P37) */

    /*
     * insert, update, delete.  values[] and old[] have relation->ncolumns entries or are NULL.
     * insert: values.  delete: old, the identity columns at least.
     * update: values; old only where the identity changed or the replica identity is FULL and a
     * column differs. change_normalise() establishes this form; after it an update's identity
     * columns are all in values (P20).
     */
    struct relation *relation;
    struct value *values;
    struct value *old;

    /* truncate: one or more relations. */
    struct relation **relations;
    int nrelations;

    /* message */
    bool is_transactional;
    const char *prefix;
    const char *content;
    uint32_t content_len;
};

/*
 * Bring a decoded update to its one form: holes in values are filled from old where old has the
 * column (P5, P20: old holds nothing outside the identity, VALUE_ABSENT there), then old is dropped
 * where it says nothing that values does not.
 */
void change_normalise(struct change *change);

#endif
