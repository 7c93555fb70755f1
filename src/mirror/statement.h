/*
 * The SQL of the apply path: text only, no connection.  A statement is a function of the table and
 * of a few flags; its parameters are arrays, one element per row, in the order that statement_param
 * tells.
 *
 * Results are one row of counts (enum statement_count): what was to be done as the probe saw it,
 * and what was done.  A difference is an error of ours or of a second writer's.  Then come the
 * captures' results (capture.h); a table without any (NULL) pays nothing for them.
 */
#ifndef TAILWATER_STATEMENT_H
#define TAILWATER_STATEMENT_H

#include "base/buf.h"
#include "batch/table.h"
#include "mirror/capture.h"

#define STATEMENT_MISCOUNTED "TW002"

enum statement_flag {
    STATEMENT_HOLES = 1,  /* a presence array per toastable column */
    STATEMENT_BASES = 2,  /* holes are filled from the row of another key: base key arrays */
    STATEMENT_GONE = 4,   /* rows may be gone: an array says which */
    STATEMENT_DOUBTS = 8, /* nulls of numbers may be NaN or infinities: see statement.c */
    /* The table is under resync: what a change did must be seen.  A key that is gone leaves a
     * tombstone, a change without a difference still moves _lsn, a row with holes goes to the repair
     * list although its row is there. */
    STATEMENT_RESYNC = 16,
    /* Rows of a snapshot: they count only where the mirror's row is older than they are, or absent. */
    STATEMENT_GUARD = 32,
    STATEMENT_MANY = 64, /* captures that may be copied are (capture.h) */
    STATEMENT_FLAGS = 128
};

/*
 * What a parameter holds, element by element.  A table's columns come first, so that the parameter
 * of column i is $i+1.
 */
enum statement_param {
    PARAM_COLUMN,   /* the value of a column: T[], or text[] for WIRE_CAST */
    PARAM_LSN,      /* pg_lsn[] */
    PARAM_TIME,     /* timestamptz[], commit times: only where tombstones are left */
    PARAM_GONE,     /* bool[] */
    PARAM_PRESENCE, /* bool[]: the value of a toastable column was sent */
    PARAM_BASE_KEY  /* a key column of the row's base */
};

struct statement_slot {
    enum statement_param param;
    int column; /* of the table, where one is meant */
};

enum statement_count {
    COUNT_TO_REMOVE,
    COUNT_REMOVED,
    COUNT_TO_UPDATE,
    COUNT_UPDATED,
    COUNT_TO_INSERT,
    COUNT_INSERTED,
    COUNT_INCOMPLETE, /* holes that no mirror row could fill, or may fill: on the repair list */
    COUNTS
};

/* The parameters of statement_write() with these flags, at most 3 × ncolumns + 3; returns how many.
 */
int statement_slots(const struct table *table, unsigned flags, struct statement_slot *ret_slots);

/*
 * The probing write.  Unnests the rows, joins them to the mirror once, removes what is gone (or
 * leaves tombstones), updates by address what exists and differs, inserts the rest, and lists
 * incomplete rows for repair. pipeline is a literal in it.
 */
void statement_write(const struct table *table, unsigned flags, const char *pipeline,
                     const struct capture_list *captures, struct buf *ret_sql);

/*
 * A look: are rows of a snapshot, of consistent point lsn, what the mirror has?  Parameters: the
 * columns' arrays.  Result, a row for each: its number from 1, the address of the mirror's row (NULL:
 * none), and enum statement_look as a number.
 */
void statement_look(const struct table *table, lsn_t lsn, struct buf *ret_sql);

enum statement_look { LOOK_FINE, LOOK_MISSING, LOOK_DIFFERENT };

/*
 * An explanation: the same question of rows that are probably not, keys that the snapshot does not have
 * among them.  Parameters: the columns' arrays, which rows are gone (bool[]), job, number of the
 * table in it, how many answers may be kept (bigint), whether with values (bool).  What differs goes
 * to tailwater.job_difference.  Result: one row, how many are missing, different, extra.
 */
void statement_explain(const struct table *table, lsn_t lsn, struct buf *ret_sql);

/* Removes tombstones by their address: $1 tid[]. */
void statement_purge(const struct table *table, struct buf *ret_sql);

/* Removes keys without asking what was there: no tombstones kept, keys bytewise.  Parameters: the
 * key columns' arrays.  Without captures the result is the number of rows it touched.  is_many as
 * STATEMENT_MANY. */
void statement_delete(const struct table *table, const struct capture_list *captures, bool is_many,
                      struct buf *ret_sql);

/* The captures alone, of rows that have just been copied in.  Parameters as statement_delete(). */
void statement_capture(const struct table *table, const struct capture_list *captures, bool is_many,
                       struct buf *ret_sql);

/*
 * Takes keys that are gone off the repair list: a row that is deleted after the repair's snapshot
 * must not come back with it (src/sync/repair.h).  Parameters as statement_delete().
 */
void statement_forget(const struct table *table, const char *pipeline, struct buf *ret_sql);

/* The same for a truncate: all of the table's keys.  No parameters. */
void statement_forget_all(const struct table *table, const char *pipeline, struct buf *ret_sql);

/* alias."column" in ('NaN', 'Infinity', '-Infinity') */
void statement_add_special(struct buf *sql, const char *alias, const struct table_column *column);

/*
 * Lists rows in doubt (src/sync/nan.h).  Parameters: text[], their keys' values, column after
 * column; bigint[], the transactions that wrote them.
 */
void statement_doubt(const struct table *table, const char *pipeline, struct buf *ret_sql);

/* COPY mirror table (columns, _lsn) FROM STDIN, binary or text. */
void statement_copy(const struct table *table, bool is_binary, struct buf *ret_sql);

/* A truncate.  $1 pg_lsn and $2 timestamptz where tombstones are kept, no parameters otherwise. */
void statement_truncate(const struct table *table, struct buf *ret_sql);

#endif
