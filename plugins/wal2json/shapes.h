/*
 * The tables of a wal2json stream and their versions.
 *
 * wal2json sends no description of a table; every row names its columns.  A shape is what the rows
 * so far told of a table: a struct relation plus the bytes that surround each column's value, so
 * that a row of the same shape is read by comparing bytes.  A shape never changes once it was
 * handed out (a consumer may read its relation in another thread); a row that tells something else
 * makes the next one.
 */
#ifndef TAILWATER_WAL2JSON_SHAPES_H
#define TAILWATER_WAL2JSON_SHAPES_H

#include "json.h"
#include "tailwater/arena.h"
#include "tailwater/change.h"

/* How a column's values are written: pg_decode_write_value() of wal2json. */
enum value_form {
    FORM_STRING,
    FORM_NUMBER, /* bare, or a string with numeric-data-types-as-string */
    FORM_BOOL,   /* true, false */
    FORM_BYTEA   /* hex without \x */
};

/* One entry of "columns" or "identity" as a row brought it. */
struct field {
    struct json_text head; /* the bytes up to the value: {"name":"id","typeoid":23,"value": */
    struct json_text tail; /* the bytes behind it: ,"position":1}  or } */
    struct json_text name;
    uint32_t type_oid;
    int16_t attnum; /* 0 in an identity */
    struct value value;
};

struct field_list {
    struct field *fields;
    int count;
};

struct shape_column {
    struct json_text head;
    struct json_text tail; /* len 0 while only identities told of the column */
    enum value_form form;
};

struct shape {
    struct relation relation;
    struct shape_column *columns; /* beside relation.columns */
    int nidentity;                /* columns that are is_identity */
};

/* A table by its name. */
struct shaped_table {
    struct json_text schema, name;
    struct json_text lead; /* its name's bytes in a message: "schema":"public","table":"t" */
    uint64_t hash;
    struct shape *shape; /* the newest */
};

/* What a row brought. */
struct row {
    bool is_insert; /* every column the table has is there */
    bool has_columns;
    bool has_identity;
    struct field_list columns;
    struct field_list identity;
};

struct shapes {
    struct arena *arena;         /* of everything here */
    struct shaped_table **slots; /* open addressing; a power of two, at most half full */
    size_t nslots;
    size_t nused;
    uint32_t next_id;
};

void shapes_init(struct shapes *shapes, struct arena *arena);

/* NULL where no row of that table was seen. */
struct shaped_table *shapes_find(const struct shapes *shapes, struct json_text schema,
                                 struct json_text name);

/* A table without columns yet; all arguments are copied. */
struct shaped_table *shapes_add(struct shapes *shapes, struct json_text schema,
                                struct json_text name, struct json_text lead);

enum value_form shape_form(uint32_t type_oid);

/* The newest shape of table if row says nothing else, or the next one, which takes its place. */
struct shape *shapes_fit(struct shapes *shapes, struct shaped_table *table, const struct row *row);

/* The column of that name, -1 if there is none. */
int shape_find(const struct shape *shape, struct json_text name);

#endif
