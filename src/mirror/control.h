/*
 * The control schema "tailwater" of the mirror database (migrations/): what a pipeline knows about
 * itself.  Its migrations, the pipeline's row, the rows of its mirror tables, the lock that keeps a
 * second instance away, the heartbeat and the counters.  The clock belongs to the applier
 * (cursor.h); here it is only made and read.
 *
 * Functions take a connection to the mirror outside a transaction block unless they say otherwise.
 * Strings that are returned live in the caller's arena.
 */
#ifndef TAILWATER_CONTROL_H
#define TAILWATER_CONTROL_H

#include "batch/table.h"
#include "mirror/notes.h"
#include "pg/pg.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"
#include "tailwater/lsn.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- migrations ---- */

/*
 * Bring the control schema to this program's version: makes what is missing in one transaction
 * under an advisory lock, so that two processes may start together.  ERROR_CONFIG where the
 * database is newer than the program, or was built from migrations of another content.
 */
bool control_migrate(struct pg *mirror, struct error *err);

/* The version of the control schema that is there, 0 for none; *ret_known is this program's.
 * Changes nothing. */
bool control_version(struct pg *mirror, int *ret_version, int *ret_known, struct error *err);

/* ERROR_CONFIG where there is no control schema, or a newer one than this program reads; changes
 * nothing.  For verbs that only look. */
bool control_require(struct pg *mirror, struct error *err);

/* Remove the control schema if no pipeline is left in it; without CASCADE, so that an object that
 * somebody else made in it keeps it. */
bool control_drop(struct pg *mirror, bool *ret_dropped, struct error *err);

/* ---- one instance ---- */

/* Who holds a pipeline's lock. */
struct control_holder {
    int pid;                 /* of its backend on the mirror; 0: nobody holds it */
    const char *application; /* application_name, "" where the role may not see it */
    const char *client;      /* address, or "local" */
    int64_t since_us;        /* when that connection began; 0 where the role may not see it */
};

/*
 * Take the pipeline's advisory lock on a connection of its own: the lock lives as long as
 * *ret_lock.  ERROR_BUSY at once, naming the holder, where another instance has it; waiting for it
 * is the caller's.  The caller sends the heartbeat over this connection: when it breaks the lock is
 * gone, and the caller must stop writing and take it again. (What a paused instance still sends is
 * refused by the clock.)  A session lock: no transaction pooler in between.
 */
bool control_lock(const char *conninfo, const char *pipeline, struct pg **ret_lock,
                  struct error *err);

bool control_find_holder(struct pg *mirror, const char *pipeline, struct arena *arena,
                         struct control_holder *ret_holder, struct error *err);

/* ---- the pipeline ---- */

/* What the source and the slot were when the pipeline was made. */
struct control_identity {
    const char *system_identifier;
    int timeline;
    const char *database;
    const char *slot;
    lsn_t slot_lsn; /* the slot's consistent point; 0: written before the slot is made, see
                       control_create() */
    lsn_t
        source_lsn; /* control_create() only: where the source's WAL was before the slot is made */
    const char *plugin;
    const char *publication; /* NULL with wal2json */
};

enum control_state { CONTROL_COPYING, CONTROL_STREAMING };

struct control_pipeline {
    const char *name;
    const char *epoch; /* a uuid */
    struct control_identity identity;
    enum control_state state;
    int64_t created_at_us;
    /* the clock */
    int64_t batch_id;
    lsn_t cursor;
    int64_t commit_time_us; /* of the newest transaction applied, on the source; 0: none yet */
    int64_t applied_at_us;  /* on the mirror */
};

/* *ret_found false, and the rest untouched, where there is no such pipeline. */
bool control_load(struct pg *mirror, const char *pipeline, struct arena *arena, bool *ret_found,
                  struct control_pipeline *ret_pipeline, struct error *err);

/* The names of all pipelines in this mirror database, in order. */
bool control_list(struct pg *mirror, struct arena *arena, int *ret_count, const char ***ret_names,
                  struct error *err);

/*
 * The pipeline's row and its clock.  Call it with slot_lsn 0 BEFORE the slot is made and
 * control_set_slot() after: a crash in between leaves a row that says "a slot of this name without
 * a position is ours and unused", so that the next start may drop it and make it anew.  Until
 * then the clock's cursor is source_lsn: a slot that is older is somebody else's.  A pipeline
 * that is there already is an ERROR_BUG.
 */
bool control_create(struct pg *mirror, const char *pipeline,
                    const struct control_identity *identity, struct error *err);

/* The slot exists now: its consistent point becomes slot_lsn and the clock's cursor, in one
 * transaction.  Only for a pipeline whose slot_lsn is still 0 (ERROR_BUG otherwise). */
bool control_set_slot(struct pg *mirror, const char *pipeline, lsn_t slot_lsn, struct error *err);

/* All tables are there and have their live views: streaming from now on. */
bool control_set_streaming(struct pg *mirror, const char *pipeline, struct error *err);

/* A failover that the caller found harmless (P47). */
bool control_set_timeline(struct pg *mirror, const char *pipeline, int timeline, struct error *err);

/*
 * Compare what was stored with what is there: another cluster, database or slot is ERROR_SLOT,
 * another plugin or publication in the configuration is ERROR_CONFIG, each with its own message
 * (P31).  The timeline and slot_lsn are not compared: what a new timeline means depends on
 * positions, which the caller knows (P47).
 */
bool control_check_identity(const struct control_identity *stored,
                            const struct control_identity *actual, struct error *err);

/* ---- mirror tables ---- */

enum control_table_state {
    CONTROL_TABLE_NEW,     /* nothing is there; a relation of its name is somebody else's */
    CONTROL_TABLE_CREATED, /* the empty (or half copied) table */
    CONTROL_TABLE_COPIED,  /* its rows are complete as of copy_lsn */
    CONTROL_TABLE_INDEXED, /* key and indexes are there */
    CONTROL_TABLE_READY    /* its live view is there */
};

/* Since when, and why, a table is left out (quarantine.h). */
struct control_quarantine {
    lsn_t lsn; /* it is complete up to the transaction of this final_lsn; 0: not quarantined */
    int64_t since_us;       /* when that was found */
    int64_t commit_time_us; /* of the transaction that was refused, and its id; 0 where unknown */
    int64_t xid;
    const char *sqlstate; /* "" where no server said one */
    const char *reason;
};

struct control_table {
    const char *schema, *name;
    uint32_t relid;
    const char *mirror_schema, *mirror_name;
    const char *view_schema, *view_name;
    enum control_table_state state;
    lsn_t copy_lsn; /* 0 until copied; afterwards changes with final_lsn below it are in the copy */
    int64_t copied_rows;
    int64_t copied_at_us;
    struct control_quarantine quarantine;
    bool is_resynced;             /* a resync is under way */
    int64_t resynced_at_us;       /* when the last one ended; 0: never */
    int64_t resynced_differences; /* rows that it wrote; -1 unknown */
    int64_t verified_at_us;       /* when the last verify ended; 0: never */
    int64_t verified_differences; /* that it found; -1 unknown */
    lsn_t unlisted_lsn; /* no longer in the configuration, and not followed since; 0: it is */
    int64_t schema_changed_us; /* when its mirror table followed a change of shape; 0: never */
    const char *schema_change; /* … and which, in words; "" */
    /* control_sync_tables() only: why the source's table is not the one that was copied; NULL: it is. */
    struct error *refusal;
    int64_t estimated_rows,
        total_bytes;                   /* of the mirror's table, once control_give_sizes() has said;
                                            -1 where unknown */
    const struct freshness *freshness; /* of status alone (status.h); NULL: not known */
};

const char *control_table_state_name(enum control_table_state state);

/*
 * Give every table of the list its row (in one transaction) and return all of them, by
 * table->index.  Refuses, with ERROR_CONFIG that names the table: a mirror name that changed, a mirror
 * or view name that another pipeline has.  A relid (P59), a key or the number of a column (P57) that
 * changed is that table's refusal.  Tables that are no longer in the list are left alone and told of in
 * strays; one that comes back lacks what it was not followed for, and is quarantined from there on.
 */
bool control_sync_tables(struct pg *mirror, const char *pipeline, const struct table_list *list,
                         struct arena *arena, struct control_table **ret_tables,
                         struct notes *strays, struct error *err);

/* [{"attnum": 1, "name": "id"}, …]: a table's columns on the source, as its row's shape has them. */
void control_add_columns(struct buf *json, const struct table *table);

/* The first refusal of count tables; true if there is none. */
bool control_none_refused(const struct control_table *tables, int count, struct error *err);

/* The rows as they are, by schema and name, without sizes; one that is not listed is not
 * quarantined.  For status, check, purge, resync and destroy. */
bool control_list_tables(struct pg *mirror, const char *pipeline, struct arena *arena,
                         int *ret_count, struct control_table **ret_tables, struct error *err);

/* How large the mirror tables are, by schema and name.  Apart from the list, since it takes the server
 * a look at every file of every table. */
struct control_size {
    const char *schema, *name;
    int64_t estimated_rows, total_bytes; /* -1 where unknown */
};

bool control_measure_tables(struct pg *mirror, const char *pipeline, struct arena *arena,
                            int *ret_count, struct control_size **ret_sizes, struct error *err);

/* To the tables of a list; those that were not measured keep what they have. */
void control_give_sizes(const struct control_size *sizes, int nsizes, struct control_table *tables,
                        int ntables);

/* The next state of a table.  Works inside a transaction block too: the step and its state commit
 * together.  ERROR_BUG where the row is missing. */
bool control_set_table_state(struct pg *mirror, const char *pipeline, const struct table *table,
                             enum control_table_state state, struct error *err);

/* State copied, with the copy's consistent point and row count.  Works inside a transaction block
 * too. */
bool control_set_table_copied(struct pg *mirror, const char *pipeline, const struct table *table,
                              lsn_t copy_lsn, int64_t rows, struct error *err);

/* ---- heartbeat and counters ---- */

/* What the running replicator says of itself about once a second.  Positions are 0, times 0 and
 * counts -1 where there is nothing to say. */
struct control_heartbeat {
    const char *version;        /* the program's */
    const char *plugin;         /* "wal2json before 2.6"; NULL before the stream is open */
    const char *state;          /* in words: "copying", "streaming", "waiting for the source" */
    int64_t started_at_us;      /* of the process */
    int64_t streaming_since_us; /* of the stream that is open now */
    lsn_t received_lsn;         /* newest end_lsn received */
    lsn_t confirmed_lsn;        /* flush position sent to the source */
    int64_t lag_us; /* age of the oldest commit received but not yet visible; 0: all is applied; -1
                       unknown */
    int64_t changes, transactions, batches; /* applied since the process started */
    int64_t copy_tables_done, copy_tables, copy_bytes_done, copy_bytes;
    int64_t reconnects;     /* since the process started */
    const char *last_error; /* message of the newest error, NULL: none since the process started */
    const char *last_hint;  /* … and what to run or set then; NULL: nothing was said */
    int64_t last_error_at_us;
    int64_t exit_code; /* > 0: it ended by that error, with this exit code */
    /* How far the servers' clocks are ahead of the replicator's machine's; 0 also where unknown. */
    int64_t source_ahead_us, mirror_ahead_us;
    /* read back only */
    int64_t said_at_us; /* the mirror's clock */
    int64_t age_us;     /* now - said_at, both by the mirror's clock */
    int pid;
    const char *host;
};

/* Upsert.  pid and host are this process's.  *ret_now_us: the mirror's clock; may be NULL. */
bool control_heartbeat(struct pg *lock, const char *pipeline,
                       const struct control_heartbeat *heartbeat, int64_t *ret_now_us,
                       struct error *err);

/*
 * What went wrong, where it can still be said: by a replicator that waits before it tries again (state
 * "waiting …"), or that ends (exit_code).  The other numbers of its last heartbeat stay.  Over a
 * connection of its own; true also where the pipeline is not there (yet).
 */
bool control_note_failure(const char *conninfo, const char *pipeline, const char *version,
                          const char *state, const struct error *failure, int exit_code,
                          struct error *err);

/* This process wanted the pipeline, and another one has it. */
bool control_note_rival(const char *conninfo, const char *pipeline, struct error *err);

/* Something that somebody has to look at; migrations/0014_troubles.sql. */
struct control_trouble {
    const char *event;   /* of the log, docs/operations.md: "consumer_stale" */
    const char *subject; /* whose it is: a table, "consumer of fact", a feed */
    const char *words, *next;
};

/* All of them, in an order that stays. */
bool control_list_troubles(struct pg *mirror, const char *pipeline, struct arena *arena,
                           int *ret_count, const struct control_trouble **ret_troubles,
                           struct error *err);

bool control_read_heartbeat(struct pg *mirror, const char *pipeline, struct arena *arena,
                            bool *ret_found, struct control_heartbeat *ret_heartbeat,
                            struct error *err);

/* Add to a counter that survives restarts.  Inside the transaction that it counts. */
bool control_count(struct pg *mirror, const char *pipeline, const char *name, int64_t delta,
                   struct error *err);

struct control_counter {
    const char *name;
    int64_t value;
};

bool control_read_counters(struct pg *mirror, const char *pipeline, struct arena *arena,
                           int *ret_count, struct control_counter **ret_counters,
                           struct error *err);

/* Keys that wait for their row to be fetched from the source, and the age of the oldest (0: none).
 */
bool control_repairs(struct pg *mirror, const char *pipeline, int64_t *ret_keys,
                     int64_t *ret_oldest_us, struct error *err);

/* The same of rows about whose nulls the source has to be asked (src/sync/nan.h). */
bool control_doubts(struct pg *mirror, const char *pipeline, int64_t *ret_rows,
                    int64_t *ret_oldest_us, struct error *err);

#endif
