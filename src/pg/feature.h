/*
 * What differs between the versions of PostgreSQL that the code has to know about: one table
 * (feature.c), asked everywhere, so that no version number stands anywhere else.
 *
 * What a catalog tells by itself is not here: columns that came with later versions are read
 * through to_jsonb(), absent settings through current_setting(…, true), and are NULL where they are
 * not known.
 */
#ifndef TAILWATER_FEATURE_H
#define TAILWATER_FEATURE_H

#include <stdbool.h>

enum feature {
    FEATURE_NONE,                /* every server has it */
    FEATURE_SUPPORTED,           /* the server is one that Tailwater works with */
    FEATURE_IDLE_SESSION,        /* idle_session_timeout */
    FEATURE_SLOT_OPTIONS,        /* CREATE_REPLICATION_SLOT … (SNAPSHOT 'export', …) */
    FEATURE_PUBLICATION_SCHEMAS, /* CREATE PUBLICATION … FOR TABLES IN SCHEMA */
    FEATURE_ATTACHED_PARTITIONS, /* pgoutput notices that a table it knows became a partition */
    FEATURE_STANDBY_DECODING,    /* a standby may be a source */
    FEATURE_TRANSACTION_TIMEOUT, /* transaction_timeout */
    FEATURE_FAILOVER_SLOTS,      /* slots that a standby keeps a copy of */
};

/* server_version as PQserverVersion() gives it, 150020. */
bool feature_is_in(enum feature feature, int server_version);

/* The first major version that has it; 0 for FEATURE_NONE. */
int feature_first(enum feature feature);

#endif
