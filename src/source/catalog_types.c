/*
 * Types, resolved in two steps, because only the server can write a type with its modifier
 * (format_type()): first every column's type becomes an oid and a modifier that a mirror can have,
 * then one query names them all.  Created types, and arrays of them, are named here, since their
 * schema on the mirror is the configuration's choice.
 *
 * Lookups are binary searches in arrays in the arena: a catalog is built once per start.
 *
 * Deliberately not here: base types that users wrote in C without an extension, and row types of
 * tables.  Their text is kept, as text.
 */
#include "source/catalog_types.h"

#include "base/buf.h"
#include "pg/pg.h"

#include <stdlib.h>

const struct source_type *catalog_types_find(const struct catalog_types *types, uint32_t oid)
{
    int low = 0, high = types->count;

    while (low < high) {
        int middle = low + (high - low) / 2;

        if (types->items[middle].oid < oid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < types->count && types->items[low].oid == oid ? &types->items[low] : NULL;
}

const struct source_collation *catalog_types_collation(const struct catalog_types *types,
                                                       uint32_t oid)
{
    for (int i = 0; i < types->ncollations; i++) {
        if (types->collations[i].oid == oid)
            return &types->collations[i];
    }
    return NULL;
}

static bool is_builtin(const struct source_type *type)
{
    return strcmp(type->schema, "pg_catalog") == 0;
}

/* A true array: int2vector, name and point have elements too, but are no arrays to unnest(). */
static const struct source_type *array_element(const struct catalog_types *types,
                                               const struct source_type *type)
{
    const struct source_type *element = type->element ? catalog_types_find(types, type->element)
                                                      : NULL;

    return element && element->array == type->oid ? element : NULL;
}

bool catalog_types_is_created(const struct source_type *type)
{
    if (is_builtin(type) || type->extension)
        return false;
    return type->kind == 'e' || type->kind == 'r' || type->kind == 'm' ||
           (type->kind == 'c' && type->relkind == 'c');
}

/*
 * Built-in types whose text another server does not read back: names of objects that are not there,
 * and those whose input functions refuse everything.
 */
static bool is_unreadable(const struct source_type *type)
{
    static const char *const names[] = {"regproc",
                                        "regprocedure",
                                        "regoper",
                                        "regoperator",
                                        "regclass",
                                        "regtype",
                                        "regrole",
                                        "regnamespace",
                                        "regconfig",
                                        "regdictionary",
                                        "regcollation",
                                        "regdatabase",
                                        "aclitem",
                                        "pg_node_tree",
                                        "pg_ndistinct",
                                        "pg_dependencies",
                                        "pg_mcv_list",
                                        "pg_ddl_command",
                                        "pg_brin_bloom_summary",
                                        "pg_brin_minmax_multi_summary"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(type->name, names[i]) == 0)
            return true;
    }
    return false;
}

static struct resolved_type as_text(const char *why)
{
    return (struct resolved_type){CATALOG_TYPES_TEXT, -1, true, why};
}

static struct resolved_type resolve_array(const struct catalog_types *types,
                                          const struct source_type *element, int32_t typmod)
{
    struct resolved_type resolved = catalog_types_resolve(types, element->oid, typmod);
    const struct source_type *type = catalog_types_find(types, resolved.oid);

    if (resolved.is_text)
        resolved.oid = CATALOG_TYPES_TEXT_ARRAY;
    else if (array_element(types, type) != NULL || type->array == 0)
        return (struct resolved_type){CATALOG_TYPES_TEXT_ARRAY, -1, true,
                                      "its elements are a domain over an array"};
    else
        resolved.oid = type->array;
    return resolved;
}

static struct resolved_type resolve_range(const struct catalog_types *types,
                                          const struct source_type *range, uint32_t oid)
{
    struct resolved_type subtype = catalog_types_resolve(types, range->subtype, -1);

    if (subtype.is_text)
        return as_text("it is a range of something that becomes text");
    return (struct resolved_type){oid, -1, false, NULL};
}

struct resolved_type catalog_types_resolve(const struct catalog_types *types, uint32_t oid,
                                           int32_t typmod)
{
    const struct source_type *type = catalog_types_find(types, oid);
    const struct source_type *element;

    while (type != NULL && type->kind == 'd') {
        typmod = type->base_typmod;
        type = catalog_types_find(types, type->base);
    }
    if (type == NULL)
        return as_text("its type has gone");
    element = array_element(types, type);
    if (element != NULL)
        return resolve_array(types, element, typmod);
    if (is_builtin(type) && is_unreadable(type))
        return as_text(NULL);
    if (type->kind == 'c' && type->relkind != 'c')
        return as_text("its type is the row type of a table");
    if (is_builtin(type) || type->extension)
        return (struct resolved_type){type->oid, typmod, false, NULL};
    if (type->kind == 'r')
        return resolve_range(types, type, type->oid);
    if (type->kind == 'm') {
        const struct source_type *range = catalog_types_find(types, type->range);

        return range ? resolve_range(types, range, type->oid) : as_text("its range type has gone");
    }
    if (catalog_types_is_created(type))
        return (struct resolved_type){type->oid, typmod, false, NULL};
    return as_text("its type is not SQL's and belongs to no extension");
}

/* ---- names ---- */

static void want_name(struct catalog_types *types, uint32_t oid, int32_t typmod)
{
    if (types->nnames == types->names_size) {
        int size = types->names_size ? types->names_size * 2 : 64;
        struct type_name *bigger = arena_new(types->arena, struct type_name, size);

        if (types->nnames > 0)
            memcpy(bigger, types->names, sizeof(*bigger) * (size_t) types->nnames);
        types->names = bigger;
        types->names_size = size;
    }
    types->names[types->nnames++] = (struct type_name){.oid = oid, .typmod = typmod};
}

static void want_parts(struct catalog_types *types, const struct source_type *type)
{
    struct source_type *item = &types->items[type - types->items];

    if (item->is_wanted)
        return;
    item->is_wanted = true;
    if (type->kind == 'm')
        catalog_types_want(types, catalog_types_resolve(types, type->range, -1));
    if (type->kind == 'r')
        catalog_types_want(types, catalog_types_resolve(types, type->subtype, -1));
    for (int i = 0; i < type->nattributes; i++)
        catalog_types_want(types, catalog_types_resolve(types, type->attributes[i].type,
                                                        type->attributes[i].typmod));
}

void catalog_types_want(struct catalog_types *types, struct resolved_type wanted)
{
    const struct source_type *type = catalog_types_find(types, wanted.oid);
    const struct source_type *element = type ? array_element(types, type) : NULL;

    if (element != NULL && catalog_types_is_created(element))
        type = element;
    if (type != NULL && catalog_types_is_created(type)) {
        want_parts(types, type);
        return;
    }
    want_name(types, wanted.oid, wanted.typmod);
    if (wanted.typmod != -1)
        want_name(types, wanted.oid, -1);
}

const char *catalog_types_schema(const struct catalog_types *types, const struct source_type *type)
{
    return config_expand_schema(types->view_schema, type->schema, types->arena);
}

static const char *created_name(const struct catalog_types *types, const struct source_type *type,
                                const char *suffix)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_qualified(&text, catalog_types_schema(types, type), type->name);
    buf_add(&text, suffix);
    return arena_strdup(types->arena, buf_text(&text));
}

static int name_compare(const struct type_name *a, uint32_t oid, int32_t typmod)
{
    if (a->oid != oid)
        return a->oid < oid ? -1 : 1;
    return (a->typmod > typmod) - (a->typmod < typmod);
}

const char *catalog_types_name(const struct catalog_types *types, uint32_t oid, int32_t typmod)
{
    const struct source_type *type = catalog_types_find(types, oid);
    const struct source_type *element = type ? array_element(types, type) : NULL;
    int low = 0, high = types->nnames;

    if (element != NULL && catalog_types_is_created(element))
        return created_name(types, element, "[]");
    if (type != NULL && catalog_types_is_created(type))
        return created_name(types, type, "");
    while (low < high) {
        int middle = low + (high - low) / 2;

        if (name_compare(&types->names[middle], oid, typmod) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < types->nnames && name_compare(&types->names[low], oid, typmod) == 0)
        return types->names[low].text;
    return "text"; /* cannot be: everything used is wanted first */
}

const char *catalog_types_collate(const struct catalog_types *types, struct resolved_type type,
                                  uint32_t collation)
{
    const struct source_type *own = catalog_types_find(types, type.oid);
    const struct source_collation *found;
    _cleanup_buf_ struct buf text = {0};

    if (collation == 0 || type.is_text || own == NULL || own->collation == collation)
        return NULL;
    found = catalog_types_collation(types, collation);
    if (found == NULL)
        return NULL;
    buf_add(&text, "COLLATE ");
    pg_add_qualified(&text, found->schema, found->name);
    return arena_strdup(types->arena, buf_text(&text));
}

/* ---- on the wire, as a key, from an extension ---- */

enum column_wire catalog_types_wire(const struct catalog_types *types, uint32_t oid)
{
    static const struct {
        uint32_t oid;
        enum column_wire wire;
    } wires[] = {
        {16, WIRE_BOOL},      {17, WIRE_BYTEA},   {19, WIRE_STRING},      {20, WIRE_INT8},
        {21, WIRE_INT2},      {23, WIRE_INT4},    {25, WIRE_STRING},      {26, WIRE_OID},
        {114, WIRE_STRING},   {700, WIRE_FLOAT4}, {701, WIRE_FLOAT8},     {1042, WIRE_STRING},
        {1043, WIRE_STRING},  {1082, WIRE_DATE},  {1114, WIRE_TIMESTAMP}, {1184, WIRE_TIMESTAMPTZ},
        {1700, WIRE_NUMERIC}, {2950, WIRE_UUID},  {3802, WIRE_JSONB},
    };
    const struct source_type *type = catalog_types_find(types, oid);

    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
        if (wires[i].oid == oid)
            return wires[i].wire;
    }
    /* An array literal of ours separates by commas, and needs that there is an array type. */
    if (type == NULL || type->element != 0 || type->kind == 'c' || type->array == 0 ||
        type->delimiter != ',')
        return WIRE_CAST;
    return WIRE_TEXT;
}

/*
 * Not in the list, on purpose: numeric (1.0 = 1.00), float4 and float8 (-0 = 0), interval (1 day =
 * 24:00), jsonb (numbers inside), bpchar without a length (trailing blanks), and every extension's
 * type.  timetz is in it: its equality compares the zone too.
 */
static bool is_bytewise_builtin(const struct source_type *type)
{
    static const char *const names[] = {
        "bool",    "int2",     "int4",      "int8",        "oid",  "char",   "name",  "uuid",
        "bytea",   "date",     "timestamp", "timestamptz", "time", "timetz", "inet",  "cidr",
        "macaddr", "macaddr8", "pg_lsn",    "xid8",        "bit",  "varbit", "money", "tid"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(type->name, names[i]) == 0)
            return true;
    }
    return false;
}

bool catalog_types_is_bytewise(const struct catalog_types *types, struct resolved_type resolved,
                               uint32_t collation)
{
    const struct source_type *type = catalog_types_find(types, resolved.oid);
    const struct source_type *element = type ? array_element(types, type) : NULL;
    const struct source_collation *found;

    if (type == NULL || resolved.is_text)
        return false;
    if (element != NULL)
        return catalog_types_is_bytewise(
            types, (struct resolved_type){element->oid, resolved.typmod, false, NULL}, collation);
    if (type->kind == 'e')
        return true;
    if (type->kind == 'r')
        return catalog_types_is_bytewise(types, catalog_types_resolve(types, type->subtype, -1),
                                         type->subtype_collation);
    if (!is_builtin(type))
        return false;
    if (strcmp(type->name, "text") == 0 || strcmp(type->name, "varchar") == 0 ||
        (strcmp(type->name, "bpchar") == 0 && resolved.typmod >= 0)) {
        found = catalog_types_collation(types, collation);
        return found != NULL && found->is_deterministic;
    }
    return is_bytewise_builtin(type);
}

/* An array of an extension's type is the extension's too from PostgreSQL 17 on, but not its =. */
const char *catalog_types_equality(const struct catalog_types *types, uint32_t oid)
{
    const struct source_type *type = catalog_types_find(types, oid);
    _cleanup_buf_ struct buf text = {0};

    if (type == NULL || type->kind != 'b' || type->extension == 0 ||
        array_element(types, type) != NULL)
        return "=";
    buf_add(&text, "OPERATOR(");
    pg_add_ident(&text, type->schema);
    buf_add(&text, ".=)");
    return arena_strdup(types->arena, buf_text(&text));
}

uint32_t catalog_types_extension(const struct catalog_types *types, uint32_t oid)
{
    const struct source_type *type = catalog_types_find(types, oid);
    const struct source_type *element = type ? array_element(types, type) : NULL;

    if (element != NULL)
        type = element;
    return type ? type->extension : 0;
}

/* ---- creation ---- */

static void add_attributes(const struct catalog_types *types, const struct source_type *type,
                           struct catalog_type *created, struct buf *sql)
{
    created->nattributes = type->nattributes;
    created->attributes = arena_new(types->arena, struct catalog_attribute, type->nattributes);
    buf_add(sql, " AS (");
    for (int i = 0; i < type->nattributes; i++) {
        const struct source_attribute *from = &type->attributes[i];
        struct catalog_attribute *to = &created->attributes[i];
        struct resolved_type resolved = catalog_types_resolve(types, from->type, from->typmod);

        to->name = from->name;
        to->type = catalog_types_name(types, resolved.oid, resolved.typmod);
        to->collation = catalog_types_collate(types, resolved, from->collation);
        buf_add(sql, i ? ", " : "");
        pg_add_ident(sql, to->name);
        buf_printf(sql, " %s", to->type);
        if (to->collation != NULL)
            buf_printf(sql, " %s", to->collation);
    }
    buf_add_char(sql, ')');
}

static void add_labels(const struct source_type *type, struct catalog_type *created,
                       struct buf *sql)
{
    created->nlabels = type->nlabels;
    created->labels = type->labels;
    buf_add(sql, " AS ENUM (");
    for (int i = 0; i < type->nlabels; i++) {
        buf_add(sql, i ? ", " : "");
        pg_add_literal(sql, type->labels[i]);
    }
    buf_add_char(sql, ')');
}

/* Without the canonical and difference functions: the values arrive canonical. */
static void add_range(const struct catalog_types *types, const struct source_type *type,
                      struct buf *sql)
{
    struct resolved_type subtype = catalog_types_resolve(types, type->subtype, -1);
    const struct source_type *multirange = catalog_types_find(types, type->multirange);
    const char *collate = catalog_types_collate(types, subtype, type->subtype_collation);

    buf_printf(sql, " AS RANGE (SUBTYPE = %s", catalog_types_name(types, subtype.oid, -1));
    if (type->subtype_opclass != NULL)
        buf_printf(sql, ", SUBTYPE_OPCLASS = %s", type->subtype_opclass);
    if (collate != NULL)
        buf_printf(sql, ", COLLATION = %s", collate + strlen("COLLATE "));
    if (multirange != NULL)
        buf_printf(sql, ", MULTIRANGE_TYPE_NAME = %s", created_name(types, multirange, ""));
    buf_add_char(sql, ')');
}

static void create_parts(struct catalog_types *types, const struct source_type *type,
                         struct catalog *catalog)
{
    if (type->kind == 'r')
        catalog_types_create(types, catalog_types_resolve(types, type->subtype, -1).oid, catalog);
    for (int i = 0; i < type->nattributes; i++)
        catalog_types_create(
            types,
            catalog_types_resolve(types, type->attributes[i].type, type->attributes[i].typmod).oid,
            catalog);
}

void catalog_types_create(struct catalog_types *types, uint32_t oid, struct catalog *catalog)
{
    const struct source_type *type = catalog_types_find(types, oid);
    const struct source_type *element = type ? array_element(types, type) : NULL;
    _cleanup_buf_ struct buf sql = {0};
    struct catalog_type *created;
    struct source_type *item;

    if (element != NULL)
        type = element;
    if (type != NULL && type->kind == 'm')
        type = catalog_types_find(types, type->range);
    if (type == NULL || !catalog_types_is_created(type) || type->mark != 0)
        return;
    item = &types->items[type - types->items];
    item->mark = 1;
    create_parts(types, type, catalog);
    item->mark = 2;
    created = &catalog->types[catalog->ntypes++];
    *created = (struct catalog_type){.oid = type->oid,
                                     .source_schema = type->schema,
                                     .schema = catalog_types_schema(types, type),
                                     .name = type->name};
    buf_printf(&sql, "CREATE TYPE %s", created_name(types, type, ""));
    switch (type->kind) {
    case 'e':
        created->kind = CATALOG_ENUM;
        add_labels(type, created, &sql);
        break;
    case 'c':
        created->kind = CATALOG_COMPOSITE;
        add_attributes(types, type, created, &sql);
        break;
    default: /* catalog_types_is_created() leaves only r */
        created->kind = CATALOG_RANGE;
        add_range(types, type, &sql);
    }
    created->create_sql = arena_strdup(types->arena, buf_text(&sql));
}
