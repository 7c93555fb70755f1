/*
 * The types of the configuration's values: one reader for each, from a node of the file into a
 * field.  A reader takes what its row in the table of keys (config.c) says of range and words.
 */
#ifndef TAILWATER_VALUE_H
#define TAILWATER_VALUE_H

#include "config/config.h"
#include "config/tree.h"

/* Everything that is read lives in arena.  config->file NULL: values that stand in no file. */
struct value_reader {
    struct config *config;
    struct arena *arena;
    bool is_mirror_alone; /* the file may do without source and tables */
};

struct value_key {
    const char *path; /* "source.wal_guard.warn", "tables[].mask" */
    bool (*read)(struct value_reader *reader, const struct value_key *key, const struct tree *node,
                 void *base, struct error *err);
    size_t offset;            /* of the field in base: struct config or struct config_table */
    size_t count;             /* lists: offset of the int beside it */
    size_t has;               /* offset of a bool that says the key is there; 0 for none */
    size_t place;             /* offset of a struct config_place for where it is; 0 for none */
    int64_t min, max;         /* of the number, or of a name's length in bytes */
    const char *const *words; /* the choices, NULL at the end; their index is the value */
    const char *fallback;     /* the default, as it would be written; NULL: the field stays zero */
    const char *example;      /* the key is required; what the message of its absence shows */
};

/* An error at the node: "FILE:LINE:COLUMN: PATH: …". */
bool value_fail(const struct value_reader *reader, const struct value_key *key,
                const struct tree *node, struct error *err, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Text from the file in quotes, for a message; shortened, and without what may hold a password. */
const char *value_quote(struct arena *arena, const char *text);

#define VALUE_READER(name)                                                                         \
    bool value_read_##name(struct value_reader *reader, const struct value_key *key,               \
                           const struct tree *node, void *base, struct error *err)

VALUE_READER(pipeline);     /* const char *: [a-z_][a-z0-9_]* */
VALUE_READER(slot);         /* const char *: [a-z0-9_]+ */
VALUE_READER(name);         /* const char *: any name that PostgreSQL can have */
VALUE_READER(conninfo);     /* const char * */
VALUE_READER(schema);       /* const char *: with {schema} */
VALUE_READER(choice);       /* const char *: one of words */
VALUE_READER(word);         /* an enum: one of words */
VALUE_READER(bool);         /* bool */
VALUE_READER(int);          /* int */
VALUE_READER(long);         /* int64_t */
VALUE_READER(fraction);     /* double, 0 to 1 */
VALUE_READER(size);         /* int64_t, bytes */
VALUE_READER(rate);         /* int64_t, bytes per second */
VALUE_READER(duration);     /* int64_t, microseconds */
VALUE_READER(retention);    /* int64_t, microseconds; never is -1 */
VALUE_READER(heartbeat);    /* config.source.heartbeat and heartbeat_interval_us */
VALUE_READER(listen);       /* config.http.host and port */
VALUE_READER(names);        /* const char **, with count */
VALUE_READER(masks);        /* struct config_mask *, with count */
VALUE_READER(index_choice); /* struct config_index_choice */
VALUE_READER(pattern);      /* struct config_table's pattern and what follows from it */
VALUE_READER(table_name);   /* struct config_table_name */

/* ---- value_fact.c ---- */

VALUE_READER(fact_key); /* struct config_fact_key *, with count */
VALUE_READER(joins);    /* struct config_join *, with count */
VALUE_READER(query);    /* const char *: SQL, without a semicolon at its end */

VALUE_READER(key_columns); /* struct config_key_column *, with count */

/* ---- value_feed.c ---- */

VALUE_READER(vanished);  /* struct config_feed's vanished and vanished_query */
VALUE_READER(command);   /* const char **, NULL behind the last */
VALUE_READER(headers);   /* const char **: "Name: value", NULL behind the last */
VALUE_READER(frequency); /* int64_t: microseconds from one to the next */
VALUE_READER(url);       /* const char * */
VALUE_READER(text);      /* const char *: any text */
VALUE_READER(line);      /* const char *: one line of it */
VALUE_READER(token);     /* const char *: the name of a header */

/* Longest name of a fact: "ledger_", a partition's suffix and it are one identifier. */
#define VALUE_MAX_FACT 40

/* Is text a name of that length at most that needs no quotes?  An error at place otherwise. */
bool value_check_plain(const struct value_reader *reader, const char *text, int max,
                       struct config_place place, const char *what, struct error *err);

/* For readers in other files: the scalar's text, ${ENV} expanded; NULL and an error. */
const char *value_text(const struct value_reader *reader, const struct value_key *key,
                       const struct tree *node, struct error *err);

#endif
