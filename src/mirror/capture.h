/*
 * What the writes of a table take of its rows, besides writing them: plain data, filled by whoever
 * wants to know (src/ledger), turned into SQL by statement.c, which knows nothing of facts.
 *
 * A capture looks at every row that a statement changes: one that appears (was not live before),
 * vanishes, or whose watched columns have another image than before.  Of such rows it takes values,
 * from the old row and from the new one, each as stored in the mirror.  The distinct ones, without
 * those that have a NULL among them, are inserted into a table, or returned.
 *
 * What a statement says of each capture, in columns behind enum statement_count's:
 *
 *   into a table   rows changed, rows inserted, rows left out for a NULL
 *   returned       rows changed, values returned, then per value column an array's text, NULL for
 *                  none; element by element they belong together
 *
 * and behind them, where one goes into a table, one column that nobody reads.
 *
 * Of many rows (CAPTURE_COPIED), values that go into a table as they are in the row's key are not
 * inserted: they are given to the sink, counted as if they were, for it to COPY.  That costs the server
 * half of what it does to insert them row by row, and 2.5 times less WAL.  Each such capture has a
 * column of its own behind the last one: the lines, NULL for none.
 */
#ifndef TAILWATER_CAPTURE_H
#define TAILWATER_CAPTURE_H

#include "base/buf.h"
#include "batch/table.h"
#include "mirror/cursor.h"
#include "pg/pg.h"

/* Columns of a table are indexes into table->columns. */
struct capture {
    int nwatch; /* -1: any change counts */
    const int *watch;

    const char *row_name;      /* unquoted: by which the values may call the row */
    int nreads;                /* what they read of it … */
    const int *reads;          /* … by the columns' own names */
    int nvalues;               /* SQL over that row */
    const char *const *values; /* "\"id\"", "(created_at at time zone 'UTC')::date" */
    bool are_columns;          /* each value is one of these columns as it is */
    const bool *is_nullable;   /* per value: it may be NULL */

    /* "insert into … (…)" up to the SELECT, whose first columns are prefix; NULL: values are
     * returned.  An inserted row adds one to the setting CURSOR_KEYS_SETTING. */
    const char *insert, *prefix;
};

struct capture_list {
    int count;
    struct capture *captures;
    bool returns; /* one of them has no insert */
    bool copies;  /* one of them may be copied */
};

/* Result columns of one capture. */
static inline int capture_width(const struct capture *capture)
{
    return capture->insert ? 3 : 2 + capture->nvalues;
}

/* What a mirror transaction is, for whom it concerns. */
struct capture_scope {
    const char *kind;       /* of tailwater.batch: "stream" … */
    int64_t number;         /* … of it; for follow() only */
    lsn_t from, to;         /* the cursor before and after it */
    int64_t commit_time_us; /* the source's, of its last transaction; 0: none */
    int64_t changes;        /* so far */
    bool is_last;           /* no piece of it follows */
};

/*
 * Who wants captures.  All calls come from the applier's thread, inside the batch's transaction.
 * pg is in pipeline mode.
 */
struct capture_sink {
    void *context;
    const struct capture_list *lists; /* by table->index */

    /* A mirror transaction begins; what an earlier one left is void. */
    void (*begin)(void *context);
    /* The result of a statement on table; its captures begin at column. */
    bool (*take)(void *context, const struct table *table, const struct pg_result *result,
                 int column, struct error *err);
    /* All rows of the table went. */
    void (*truncate)(void *context, const struct table *table);
    /* After the writes of a batch that had captures that return or are copied, everything sent is
     * read.  COPY what is to be copied, and follow what came: all of it after a transaction's last
     * piece, what memory does not hold after another. */
    bool (*follow)(void *context, struct pg *pg, const struct capture_scope *scope,
                   struct error *err);
    /* Before the commit of a transaction that had captures: queue what it has to say of itself;
     * *ret_queued results come of it, which nobody needs. */
    bool (*finish)(void *context, struct pg *pg, const struct capture_scope *scope, int *ret_queued,
                   struct error *err);
};

/* ---- SQL, for statement.c ---- */

/*
 * In a statement the branches d (rows that went), w (rows updated) and i (rows inserted) return,
 * besides what they do without captures: f, the row was live before; t, it is live after; o3 and
 * n3, column 3 of the old and the new row, as far as values read them; g0, the row counts for
 * capture 0.  Of an updated row o3 is there only where an update may change what is read: the key
 * of a row that is reached by its address stays.
 */
enum capture_branch {
    CAPTURE_GONE = 1,
    CAPTURE_UPDATED = 2,
    CAPTURE_INSERTED = 4,
    CAPTURE_COPIED = 8 /* no branch: see above */
};

/* Does it go to the sink where rows are many?  Its values then are text that COPY takes as it is. */
bool capture_may_be_copied(const struct table *table, const struct capture *capture);

/* ", m.\"a\" as o0, …": the columns that values read, as letter and number. */
void capture_add_columns(struct buf *sql, const struct table *table,
                         const struct capture_list *list, const char *alias, char letter);

/* Those of them that an update may change: of the probe, ", m.\"a\" as o0, …", and carried on, ", s.o0, …". */
void capture_add_before(struct buf *sql, const struct table *table,
                        const struct capture_list *list);
void capture_add_carried(struct buf *sql, const struct table *table,
                         const struct capture_list *list);

/* ", v0 as (…), l0 as (insert …)": what the captures make of these branches. */
void capture_add_tables(struct buf *sql, const struct table *table, const struct capture_list *list,
                        unsigned branches);

/* ", …": the result columns; and ", (…) r1": what they need in FROM. */
void capture_add_results(struct buf *sql, const struct table *table,
                         const struct capture_list *list, unsigned branches);
void capture_add_from(struct buf *sql, const struct table *table, const struct capture_list *list,
                      unsigned branches);

#endif
