/*
 * The replication slot: who the source is, what state the slot is in, making and dropping it.
 *
 * slot_identify() and slot_create() need a replication connection, the others take either kind.
 */
#ifndef TAILWATER_SLOT_H
#define TAILWATER_SLOT_H

#include "pg/pg.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stdint.h>

#define SLOT_NAME_SIZE 64

/* IDENTIFY_SYSTEM. */
struct slot_identity {
    char system_identifier[24];
    int timeline;
    lsn_t flushed; /* how far the source's WAL is flushed */
    char database[SLOT_NAME_SIZE];
};

bool slot_identify(struct pg *replication, struct slot_identity *ret_identity, struct error *err);

/* A row of pg_replication_slots, with what matters of it over all server versions. */
struct slot_status {
    bool is_standby; /* of the server: it is in recovery */
    bool exists;     /* false: nothing below is set */
    bool is_logical;
    bool is_temporary;
    bool is_failover; /* a standby may keep a copy of it; 17 and later */
    bool is_synced;   /* it was made as such a copy; still true after the standby's promotion */
    char plugin[SLOT_NAME_SIZE];
    char database[SLOT_NAME_SIZE];
    int active_pid;                          /* 0: nobody reads from it */
    char active_application[SLOT_NAME_SIZE]; /* "" where the role may not see it */
    lsn_t restart_lsn;                       /* WAL is kept from here on; 0 once lost */
    lsn_t confirmed_flush;
    char wal_status[16];              /* reserved, extended, unreserved, lost (P43) */
    bool is_lost;                     /* nothing can be read from it any more */
    char lost_reason[SLOT_NAME_SIZE]; /* as far as the server says one (16 and later) */
    int64_t retained_bytes;           /* WAL kept for it, up to the current position */
    int64_t safe_wal_bytes;           /* until it is lost; -1: no limit is set */
    lsn_t current;                    /* the source's current WAL position */
};

bool slot_look(struct pg *pg, const char *slot, struct slot_status *ret_status, struct error *err);

enum wal_level { WAL_FINE, WAL_WARNING, WAL_CRITICAL };

/*
 * How much WAL the slot retains, measured by these limits of ours and by the server's own
 * (max_slot_wal_keep_size, past which it gives the slot up): half of that is worth a warning, four fifths
 * are critical.
 */
enum wal_level slot_wal_level(const struct slot_status *status, int64_t warn_bytes,
                              int64_t critical_bytes);

/*
 * Is it a slot that this pipeline can stream from: there, logical, of this plugin and database, not
 * lost?  Otherwise ERROR_SLOT with the remedy, and ERROR_BUSY (naming who) where another session
 * reads from it.  ERROR_RETRY where the server is a standby, and the slot on its primary: it may be
 * promoted, or the primary come back under this address.
 */
bool slot_check(const struct slot_status *status, const char *slot, const char *plugin,
                const char *database, struct error *err);

/*
 * A name for a temporary slot that no other process has: "tailwater_PURPOSE_PIPELINE_PID_RANDOM".
 * Processes of two machines may have the same pid.
 */
bool slot_temporary_name(const char *purpose, const char *pipeline,
                         char ret_name[static SLOT_NAME_SIZE], struct error *err);

struct slot_create_options {
    const char *slot;
    const char *plugin;
    bool is_temporary;     /* gone with the connection, or with an error */
    bool exports_snapshot; /* else no snapshot is made */
    bool is_failover;      /* only where FEATURE_FAILOVER_SLOTS, and not for temporary slots */
    int timeout_ms; /* -1: none.  Creation waits for every running writing transaction (P48) */
    int wake_fd;    /* stops the waiting when readable; -1: none */
};

struct slot_created {
    lsn_t consistent_point;
    char snapshot[SLOT_NAME_SIZE]; /* "" where none is exported; dies with the connection's next
                                      command (P49) */
};

/*
 * Errors: ERROR_FINDINGS where the plugin may not be used or is not installed, or the role may not
 * replicate, with the exact remedy; ERROR_SLOT where a slot of that name exists (ERROR_RETRY where
 * the slot is to be temporary: another name does); ERROR_RETRY after
 * timeout_ms, naming the transaction it waits for (nothing is left behind).
 */
bool slot_create(struct pg *replication, const struct slot_create_options *options,
                 struct slot_created *ret_created, struct error *err);

/* Did the output plugin refuse the options of START_REPLICATION (SQLSTATE 22023, 42601, 0A000,
 * XX000)? */
bool slot_is_option_error(const struct error *err);

/*
 * What the error of a refused replication command really is, and what helps: looks at slot and
 * server over the same connection and restates err (kind, message, hint).  Always false.
 */
bool slot_explain(struct pg *replication, const char *slot, const char *plugin, struct error *err);

/*
 * Can the source decode with this plugin?  Makes a temporary slot and drops it; waiting for old
 * transactions counts as yes, since the plugin has been loaded by then.  Errors as slot_create().
 */
bool slot_probe(struct pg *replication, const char *plugin, struct error *err);

/* Let standbys keep a copy of a slot that exists and nobody reads (FEATURE_FAILOVER_SLOTS). */
bool slot_set_failover(struct pg *replication, const char *slot, struct error *err);

/* Dropping what is not there is success. */
bool slot_drop(struct pg *pg, const char *slot, struct error *err);

#endif
