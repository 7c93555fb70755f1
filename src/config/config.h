/*
 * The configuration: strict YAML, read into one struct from one table of keys (config.c).
 *
 * An unknown key, a bad unit, a value out of range, a table pattern that is not one: ERROR_CONFIG
 * with file, line, column and the nearest right name.  ${ENV} is expanded inside scalars (an unset
 * variable is an error; $${ is a literal ${); one that is a value of a key=value connection string
 * is quoted there, so that any password works.  Durations carry units (us ms s min h d), sizes too
 * (B kB MB GB TB, KiB MiB GiB TiB; powers of 1024 for both, as PostgreSQL's settings have it); a
 * bare 0 needs none.
 */
#ifndef TAILWATER_CONFIG_H
#define TAILWATER_CONFIG_H

#include "base/log.h"
#include "config/policy.h"
#include "tailwater/arena.h"
#include "tailwater/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Where something stands in the file, for errors that later stages find (a table that does not
 * exist). */
struct config_place {
    int line, column; /* from 1; 0 where it is a default */
};

enum config_indexes { INDEXES_DEFAULT, INDEXES_COPY, INDEXES_NONE, INDEXES_LIST };

struct config_index_choice {
    enum config_indexes kind; /* INDEXES_DEFAULT only in a table: the mirror's choice */
    int count;                /* INDEXES_LIST: names of the source's indexes */
    const char **names;
};

struct config_mask {
    const char *column;
    enum column_mask mask;
};

/* Is a table that is quieter or busier than usual worth a warning? */
enum config_watch { FRESHNESS_WATCH_USUAL, FRESHNESS_WATCH_OFF };

/* One entry of tables: a plain scalar, or a mapping with its name and policies.  Later entries win
 * over earlier ones. */
struct config_table {
    struct config_place place;
    const char *pattern; /* as written: "public.*", "sales.\"Order.Lines\"" */
    const char *schema,
        *name; /* its two parts, unquoted; in an unquoted part * and ? are wildcards */
    bool is_schema_glob, is_name_glob;
    bool is_excluded; /* written as !pattern: takes tables away again */
    bool
        is_mirrored; /* not the file's: whoever follows the source knows this table, which may be gone */
    int nexclude;
    const char **exclude; /* columns */
    int nmask;
    struct config_mask *mask;
    int nkey;
    const char **key; /* columns of a unique not-null index, for REPLICA IDENTITY FULL */
    bool has_deletes, has_truncate, has_purge_after, has_watch,
        has_max_age; /* whether this entry says it */
    enum table_deletes deletes;
    enum table_truncate truncate;
    int64_t purge_after_us;
    enum config_watch watch;
    int64_t max_age_us; /* as freshness has it */
    struct config_index_choice indexes;
};

/* ---- facts (docs/ledger.md) ---- */

/* A table named with its schema, not a pattern. */
struct config_table_name {
    struct config_place place;
    const char *schema, *name;
};

/* A part of a fact's key. */
struct config_fact_key {
    struct config_place place;
    const char *name;       /* the ledger's column */
    const char *expression; /* SQL over the fact's table; NULL: its column of that name */
};

/* One equality of a join, as written: either side may be the dimension's. */
struct config_join {
    struct config_place place;
    struct {
        const char *node; /* alias, or name of a table */
        const char *column;
    } side[2];
};

enum config_fan_out { FAN_OUT_AUTO, FAN_OUT_DEFER };

struct config_dimension {
    struct config_place place;
    struct config_table_name table;
    const char *as; /* its name in joins; the table's where it says none */
    int njoins;
    struct config_join *joins; /* all of them hold */
    struct config_place watch_place;
    int nwatch;
    const char **watch; /* columns; none: all */
    enum config_fan_out fan_out;
    int64_t fan_out_limit; /* rows of one hop; 0: the ledger's */
};

/* ---- what a fact's derived table is (docs/refresh.md) ---- */

struct config_refresh {
    bool is_declared;
    struct config_place place; /* of into */
    struct config_table_name into;
    struct config_place query_place;
    const char *query; /* over the live views; may hold {keys} */
    int nkeys;         /* only those whose column is named otherwise */
    struct config_key_column *keys;
    int nunique; /* columns that tell the rows of the derived table apart; none: the key */
    const char **unique;
    int64_t every_us; /* 0: whenever there is something */
    int64_t max_keys; /* of one window; 0: the default of src/refresh */
};

struct config_fact {
    struct config_place place;
    const char *name; /* a plain identifier */
    struct config_table_name table;
    int nkeys;
    struct config_fact_key *keys;
    struct config_place watch_place;
    int nwatch;
    const char **watch;
    int ndimensions;
    struct config_dimension *dimensions;
    int64_t lookback_us; /* what a backfill takes without a range; 0: not said */
    struct config_refresh refresh;
};

/* ---- feeds (docs/feeds.md) ---- */

/* The query's column that holds a part of the fact's key. */
struct config_key_column {
    struct config_place place;
    const char *name;   /* of the fact's key … */
    const char *column; /* … and in the query's result */
};

/* What is sent for a key that the query has no row for, and that the receiver may have. */
enum config_vanished { VANISHED_DELETE, VANISHED_NOTHING, VANISHED_QUERY };

enum config_feed_start { FEED_START_ALL, FEED_START_NOW };
/* Who runs it: the replicator, or nobody but tailwater feed run NAME. */
enum config_feed_run { FEED_RUN_AUTO, FEED_RUN_MANUAL };

enum config_body { BODY_ARRAY, BODY_ONE, BODY_LINES };

/* Exactly one of url, command, table and stdout. */
struct config_destination {
    const char *url;
    const char **command;           /* NULL behind the last word */
    struct config_table_name table; /* of the mirror database; its name NULL where it is not that */
    bool is_stdout;

    int64_t timeout_us; /* of a request or a run of the command; default 30 s */

    /* Of url alone. */
    int64_t connect_timeout_us; /* default 5 s */
    const char *method;         /* default POST */
    const char **headers;       /* "Name: value", NULL behind the last; NULL: none */
    enum config_body body;      /* default array */
    const char *envelope;       /* JSON with {documents} in it; NULL: none */
    bool is_gzip;
    bool is_unverified; /* verify: false: whoever answers is believed */
    const char *ca_file;
    const char *bearer, *bearer_file; /* at most one of these three; a file is read each time */
    const char *basic;                /* "USER:PASSWORD" */
    const char *hmac_secret, *hmac_header;
};

struct config_feed {
    struct config_place place;
    const char *name; /* a plain identifier */
    const char *fact;
    struct config_place fact_place;
    const char *query; /* over the live views; may hold {keys} */
    struct config_place query_place;
    int nkeys; /* only those whose column is named otherwise */
    struct config_key_column *keys;
    enum config_feed_start start;  /* default all */
    enum config_vanished vanished; /* default delete */
    const char *vanished_query;
    struct config_destination destination;
    int batch_size;           /* documents of one request at most; default 500 */
    int64_t interval_us;      /* from one request to the next at least; 0: no limit */
    int64_t linger_us;        /* from one window to the next at least; default 0 */
    int64_t max_staleness_us; /* older changes waiting are warned of; default 5 min */
    struct {
        int attempts;       /* of a document that is refused; default 5 */
        int64_t first_us;   /* until the second; then doubled; default 5 s */
        int64_t longest_us; /* … up to this; default 1 h */
    } retry;
    int64_t max_dead; /* more dead letters pause the feed; default 1000 */
    enum config_feed_run run;
};

/* What is done about nulls of wal2json before 2.6 that may be NaN or infinities (P7). */
enum config_nan_check { NAN_CHECK_AUTO, NAN_CHECK_OFF };

/* What is done when the slot is of no use any more. */
enum config_on_lost { ON_LOST_STOP, ON_LOST_RESYNC };

/*
 * Changes of the source's tables, by kind: the mirror follows; the table stops; or the mirror keeps what
 * it has and goes on without following, which is possible for three kinds only.
 */
enum config_schema_changes { SCHEMA_CHANGES_APPLY, SCHEMA_CHANGES_STOP, SCHEMA_CHANGES_KEEP };

enum config_change {
    CHANGE_ADD_COLUMN,  /* keep: the column is not mirrored */
    CHANGE_DROP_COLUMN, /* keep: the live view goes on showing what was there last */
    CHANGE_RENAME_COLUMN,
    CHANGE_WIDEN_TYPE, /* every value of the old type is one of the new, written alike */
    CHANGE_TYPE,       /* any other */
    CHANGE_KEY,
    CHANGE_RECREATE_TABLE,
    CHANGE_PARTITIONS, /* attached, detached, dropped */
    CHANGE_NEW_TABLE, /* one that only a pattern takes; keep: it is not mirrored until it is named */
    CHANGE_DROP_TABLE,
    CHANGE_COUNT
};

/* What the mirror has of a source's table, so that keep can tell what is new. */
struct config_known {
    const char *schema, *name;
    uint32_t relid;
    int ncolumns; /* 0: not known */
    const int *attnums;
};

enum config_heartbeat { HEARTBEAT_AUTO, HEARTBEAT_OFF, HEARTBEAT_ON };

struct config {
    const char *file;
    const char *pipeline; /* a plain identifier; default "main" */
    struct {
        const char *conninfo;
        struct config_place conninfo_place;
        const char *plugin;      /* "wal2json" (default) or "pgoutput" */
        const char *slot;        /* default tailwater_PIPELINE */
        const char *publication; /* default tailwater_PIPELINE */
        enum config_heartbeat
            heartbeat; /* auto: where the role may; off; or a duration, which is "on" */
        int64_t heartbeat_interval_us; /* default 10 s */
        struct {
            int64_t warn_bytes;     /* default 4 GiB */
            int64_t critical_bytes; /* default 16 GiB */
        } wal_guard;
        int64_t
            max_read_rate_bytes; /* per second, of copies and of whatever asks it for rows; 0 (default): no
                                        limit */
        enum config_nan_check nan_check; /* default auto */
        enum config_on_lost on_lost;     /* default stop */
        bool failover;                   /* PG17+: the slot is made with FAILOVER */
        int64_t start_timeout_us;        /* default 90 s */
        int64_t decode_memory_bytes; /* logical_decoding_work_mem of the stream; default 256 MiB */
    } source;
    struct {
        const char *conninfo;
        struct config_place conninfo_place;
        const char *table_schema;           /* pattern with {schema}; default "mirror_{schema}" */
        const char *view_schema;            /* pattern with {schema}; default "{schema}" */
        struct config_index_choice indexes; /* default copy */
        int nreaders;
        const char **readers;
        int fillfactor; /* 10…100; 0 where not said: the default of src/mirror */
    } mirror;
    enum config_schema_changes schema_changes[CHANGE_COUNT]; /* default stop */
    enum config_schema_changes schema_default; /* what the file says for all of them */
    bool is_known; /* not the file's, as known: a pipeline that streams already */
    int nknown;
    const struct config_known *known;
    int ntables;
    struct config_table *tables;
    struct {
        int64_t after_us; /* default 0; "never" is -1 */
    } purge;
    int nfacts;
    struct config_fact *facts;
    int nfeeds;
    struct config_feed *feeds;
    struct {
        int64_t fan_out_limit;    /* rows that one hop of a batch may find; default 10000 */
        int64_t stale_after_us;   /* a consumer with keys pending for longer; default 7 days */
        int64_t stale_keys;       /* or with more of them; default 100 million */
        int64_t replay_window_us; /* what is read stays so long; default 24 h */
    } ledger;
    struct {
        int workers;      /* refreshing at the same time; default 2; 0: by hand alone */
        int max_attempts; /* of a key whose recomputation fails; default 5 */
    } refresh;
    struct {
        int64_t max_rows;             /* per batch; default 20000 */
        int64_t max_bytes;            /* per batch; default 32 MiB; at least 1 MiB */
        enum apply_on_error on_error; /* what a table's data error does; default quarantine */
    } apply;
    struct {
        double
            max_delete_fraction; /* of a table's rows that a resync removes unasked; default 0.5 */
    } resync;
    struct {
        int workers; /* default 2; 1…32 */
    } copy;
    struct {
        enum config_watch watch; /* default usual */
        int64_t
            max_age_us; /* since the last change of a table; more is warned of; default never, -1 */
    } freshness;
    struct {
        const char *host; /* an address, as inet_pton() has it; NULL: no HTTP */
        int port;
        const char *token;  /* of whoever asks for more than the two probes; NULL: anybody */
        int64_t max_lag_us; /* more of it is not ready; default 60 s */
    } http;
    struct {
        enum log_format format; /* default text */
        enum log_level level;   /* default info */
        bool values;            /* row values in data errors; default false */
    } log;
};

/* Everything in *ret_config lives in arena. */
bool config_load(const char *file, struct arena *arena, struct config *ret_config,
                 struct error *err);

/*
 * The same of a file for processes that work on the mirror alone, feeds: source and tables may be
 * left out (source.conninfo is NULL then, and there are no tables).
 */
bool config_load_mirror(const char *file, struct arena *arena, struct config *ret_config,
                        struct error *err);

/* The same from memory: tests, the fuzzer, and init's own check of what it writes. */
bool config_parse(const char *file, const char *text, size_t len, struct arena *arena,
                  struct config *ret_config, struct error *err);

/* An ERROR_CONFIG at a place of the file: "tailwater.yaml:3:9: …". */
bool config_error_at(const struct config *config, struct config_place place, struct error *err,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

/*
 * Is text a valid value of the key at path ("pipeline", "tables[].name")?  For values that come
 * from elsewhere than the file, the command line; the message says what is wrong, not where.
 */
bool config_check_value(const char *path, const char *text, struct error *err);

/*
 * "90s", "64MB": a whole number and a unit, 0 alone.  The message does not repeat the text ("not a
 * duration (…)"): the caller puts the name of the key or option and a colon before it.
 */
bool config_parse_duration(const char *text, int64_t *ret_us, struct error *err);
bool config_parse_size(const char *text, int64_t *ret_bytes, struct error *err);

/* "127.0.0.1:8432", "[::1]:8432", "8432"; the host, as inet_pton() has it, lives in arena. */
bool config_parse_listen(const char *text, struct arena *arena, const char **ret_host,
                         int *ret_port, struct error *err);

/* The candidate nearest to word by edit distance, NULL where none is near enough to suggest. */
const char *config_nearest(const char *word, const char *const *candidates, int count);

/* "add_column": the kind's key in schema_changes. */
const char *config_change_name(enum config_change change);

/* Are changes of any kind followed, or kept out, and not all of them refused? */
bool config_is_followed(const struct config *config);

/* NULL: the mirror has none of that name. */
const struct config_known *config_find_known(const struct config *config, const char *schema,
                                             const char *name);

/* Does this entry's pattern take schema.name? */
bool config_table_matches(const struct config_table *entry, const char *schema, const char *name);

/* A pattern with {schema} filled in, from arena. */
const char *config_expand_schema(const char *pattern, const char *schema, struct arena *arena);

#endif
