/*
 * The source's types, and what becomes of each on the mirror: pure, no server.
 *
 * A domain becomes its base type, also as an array's element, a composite's attribute, a range's
 * subtype.  Enums, composites and ranges that users made are made on the mirror.  What a mirror
 * cannot read back (reg* names, pg_node_tree …) or cannot have (a table's row type, a base type
 * that no extension owns, an array of a domain over an array) becomes text.
 */
#ifndef TAILWATER_CATALOG_TYPES_H
#define TAILWATER_CATALOG_TYPES_H

#include "batch/table.h"
#include "config/config.h"
#include "source/catalog.h"
#include "tailwater/arena.h"

#include <stdbool.h>
#include <stdint.h>

#define CATALOG_TYPES_TEXT       25
#define CATALOG_TYPES_TEXT_ARRAY 1009
#define CATALOG_TYPES_VARCHAR    1043
#define CATALOG_TYPES_NUMERIC    1700

struct source_attribute {
    const char *name;
    uint32_t type;
    int32_t typmod;
    uint32_t collation;
};

/* One row of pg_type, with what hangs on it. */
struct source_type {
    uint32_t oid;
    const char *schema, *name;
    char kind;    /* typtype: b c d e m p r */
    char relkind; /* of a composite: c is CREATE TYPE, others are tables */
    char storage; /* typstorage */
    char delimiter;
    int len;       /* typlen */
    uint32_t base; /* of a domain, with its modifier */
    int32_t base_typmod;
    uint32_t element, array;
    uint32_t collation;
    uint32_t subtype, subtype_collation; /* of a range */
    const char *subtype_opclass;         /* qualified; NULL for the default */
    uint32_t multirange;                 /* of a range */
    uint32_t range;                      /* of a multirange */
    uint32_t extension;                  /* that it belongs to, or 0 */
    int nlabels;
    const char **labels;
    int nattributes;
    struct source_attribute *attributes;

    bool is_wanted; /* catalog_types_want() was here */
    int mark;       /* catalog_types_create(): 0 not seen, 1 on the way, 2 done */
};

/* A type as the mirror will have it, still by the source's oid: built-in, an extension's, created,
 * or an array of such. */
struct resolved_type {
    uint32_t oid;
    int32_t typmod;
    bool is_text;    /* it became text, or text[] */
    const char *why; /* then: the reason to tell; NULL where it is not worth a word (reg*) */
};

struct type_name {
    uint32_t oid;
    int32_t typmod;
    const char *text; /* format_type() */
};

struct source_collation {
    uint32_t oid;
    const char *schema, *name;
    bool is_deterministic;
    const char *create_sql;
};

struct catalog_types {
    struct arena *arena;
    const char *view_schema; /* the configuration's pattern: where created types go */
    int count;
    struct source_type *items; /* sorted by oid */
    int nnames, names_size;
    struct type_name *names; /* collected by catalog_types_want(), then sorted, each once */
    int ncollations;
    struct source_collation *collations; /* all that the items and columns mention; sorted by oid */
};

const struct source_type *catalog_types_find(const struct catalog_types *types, uint32_t oid);

/* What a column of that type becomes. */
struct resolved_type catalog_types_resolve(const struct catalog_types *types, uint32_t oid,
                                           int32_t typmod);

/* Note that the name of the type is needed, with and without its modifier, and those of all that it
 * is made of. */
void catalog_types_want(struct catalog_types *types, struct resolved_type wanted);

/* Its name on the mirror, qualified and quoted: with its modifier, for a column's definition;
 * typmod -1 for a cast.  Only for what was wanted. */
const char *catalog_types_name(const struct catalog_types *types, uint32_t oid, int32_t typmod);

/* "COLLATE …" where a column or attribute of the type deviates from the type's own, else NULL. */
const char *catalog_types_collate(const struct catalog_types *types, struct resolved_type type,
                                  uint32_t collation);

/* Is it made on the mirror by us?  Not true of an array of such. */
bool catalog_types_is_created(const struct source_type *type);

/* How its values travel. */
enum column_wire catalog_types_wire(const struct catalog_types *types, uint32_t oid);

/* Are two values equal for the server exactly when their text is? (P72) */
bool catalog_types_is_bytewise(const struct catalog_types *types, struct resolved_type type,
                               uint32_t collation);

/* How keys of the type are compared: an extension's own = is not on the pinned search_path.  In the
 * types' arena. */
const char *catalog_types_equality(const struct catalog_types *types, uint32_t oid);

/* The extension that the type, or its element, belongs to; 0 for none. */
uint32_t catalog_types_extension(const struct catalog_types *types, uint32_t oid);

/* Append to catalog->types what the type needs made, what it is made of first.  catalog->types has
 * room for types->count. */
void catalog_types_create(struct catalog_types *types, uint32_t oid, struct catalog *catalog);

/* The schema of a created type on the mirror. */
const char *catalog_types_schema(const struct catalog_types *types, const struct source_type *type);

const struct source_collation *catalog_types_collation(const struct catalog_types *types,
                                                       uint32_t oid);

#endif
