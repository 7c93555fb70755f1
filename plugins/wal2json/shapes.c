/*
 * What makes the next shape of a table:
 *
 *  - a column not known, or known under another number, or of another type;
 *  - an insert that lacks a known column.  An insert carries all columns of its table, so that one
 *    was dropped.  An update that lacks one may have an unchanged TOAST value there (P1): the
 * column stays, the row has a hole;
 *  - an identity of other columns than before, or the first one.
 *
 * The next shape is what the row brought, and of the shape before it the columns that the row does
 * not contradict.  A column that only identities told of has no number yet and stands last; the
 * first row that carries it brings the number.
 */
#include "shapes.h"

#include <limits.h>

/* ---- tables by name ---- */

static uint64_t hash_text(uint64_t hash, struct json_text text)
{
    for (uint32_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char) text.data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* FNV-1a.  Names hold no zero byte, so one between them keeps "ab"."c" from "a"."bc". */
static uint64_t hash_name(struct json_text schema, struct json_text name)
{
    uint64_t hash = hash_text(UINT64_C(0xcbf29ce484222325), schema);

    hash = hash_text(hash, (struct json_text){"", 1});
    hash = hash_text(hash, name);
    return hash ^ hash >> 32;
}

static bool same_text(struct json_text a, struct json_text b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static struct json_text copy_text(struct arena *arena, struct json_text text)
{
    return (struct json_text){.data = arena_strndup(arena, text.data, text.len), .len = text.len};
}

static void put_table(struct shapes *shapes, struct shaped_table *table)
{
    size_t i = table->hash & (shapes->nslots - 1);

    while (shapes->slots[i] != NULL)
        i = (i + 1) & (shapes->nslots - 1);
    shapes->slots[i] = table;
    shapes->nused++;
}

static void resize_slots(struct shapes *shapes, size_t nslots)
{
    struct shaped_table **old = shapes->slots;
    size_t nold = shapes->nslots;

    shapes->slots = arena_new(shapes->arena, struct shaped_table *, nslots);
    shapes->nslots = nslots;
    shapes->nused = 0;
    for (size_t i = 0; i < nold; i++)
        if (old[i] != NULL)
            put_table(shapes, old[i]);
}

void shapes_init(struct shapes *shapes, struct arena *arena)
{
    *shapes = (struct shapes){.arena = arena};
    resize_slots(shapes, 64);
}

struct shaped_table *shapes_find(const struct shapes *shapes, struct json_text schema,
                                 struct json_text name)
{
    uint64_t hash = hash_name(schema, name);

    for (size_t i = hash & (shapes->nslots - 1);; i = (i + 1) & (shapes->nslots - 1)) {
        struct shaped_table *table = shapes->slots[i];

        if (table == NULL || (table->hash == hash && same_text(table->schema, schema) &&
                              same_text(table->name, name)))
            return table;
    }
}

/* A shape of table without columns, with room for some. */
static struct shape *new_shape(struct shapes *shapes, const struct shaped_table *table, int room)
{
    struct shape *shape = arena_zalloc(shapes->arena, sizeof(*shape));

    shape->relation.id = shapes->next_id++;
    shape->relation.schema = table->schema.data;
    shape->relation.name = table->name.data;
    shape->relation.columns = arena_new(shapes->arena, struct relation_column, room);
    shape->columns = arena_new(shapes->arena, struct shape_column, room);
    return shape;
}

struct shaped_table *shapes_add(struct shapes *shapes, struct json_text schema,
                                struct json_text name, struct json_text lead)
{
    struct shaped_table *table = arena_zalloc(shapes->arena, sizeof(*table));

    table->schema = copy_text(shapes->arena, schema);
    table->name = copy_text(shapes->arena, name);
    table->lead = copy_text(shapes->arena, lead);
    table->hash = hash_name(schema, name);
    table->shape = new_shape(shapes, table, 0);
    if (2 * (shapes->nused + 1) > shapes->nslots)
        resize_slots(shapes, 2 * shapes->nslots);
    put_table(shapes, table);
    return table;
}

/* ---- columns ---- */

enum value_form shape_form(uint32_t type_oid)
{
    switch (type_oid) { /* pg_type.dat; only a column's own type counts, not a domain's base */
    case 16:
        return FORM_BOOL;
    case 17:
        return FORM_BYTEA;
    case 20:   /* int8 */
    case 21:   /* int2 */
    case 23:   /* int4 */
    case 26:   /* oid */
    case 700:  /* float4 */
    case 701:  /* float8 */
    case 1700: /* numeric */
        return FORM_NUMBER;
    default:
        return FORM_STRING;
    }
}

static bool is_name(const char *known, struct json_text name)
{
    return strncmp(known, name.data, name.len) == 0 && known[name.len] == '\0';
}

int shape_find(const struct shape *shape, struct json_text name)
{
    for (int i = 0; i < shape->relation.ncolumns; i++)
        if (is_name(shape->relation.columns[i].name, name))
            return i;
    return -1;
}

static bool fits(const struct shape *shape, const struct row *row)
{
    const struct relation_column *known = shape->relation.columns;

    for (int i = 0; i < row->columns.count; i++) {
        const struct field *field = &row->columns.fields[i];
        int at = shape_find(shape, field->name);

        if (at < 0 || known[at].type_oid != field->type_oid || known[at].attnum != field->attnum)
            return false;
    }
    for (int i = 0; i < row->identity.count; i++) {
        const struct field *field = &row->identity.fields[i];
        int at = shape_find(shape, field->name);

        if (at < 0 || known[at].type_oid != field->type_oid || !known[at].is_identity)
            return false;
    }
    if (row->is_insert && row->columns.count != shape->relation.ncolumns)
        return false;
    return !row->has_identity || row->identity.count == shape->nidentity;
}

/* Does row say that the old column is gone: renamed, given another number, or dropped? */
static bool is_superseded(const struct relation_column *old, const struct row *row)
{
    for (int i = 0; i < row->columns.count; i++) {
        const struct field *field = &row->columns.fields[i];

        if (is_name(old->name, field->name) || (old->attnum != 0 && old->attnum == field->attnum))
            return true;
    }
    return row->is_insert;
}

static void set_column(struct shapes *shapes, struct shape *shape, int at,
                       const struct field *field)
{
    struct relation_column *column = &shape->relation.columns[at];

    column->name = copy_text(shapes->arena, field->name).data;
    column->type_oid = field->type_oid;
    column->attnum = field->attnum;
    shape->columns[at].head = copy_text(shapes->arena, field->head);
    shape->columns[at].form = shape_form(field->type_oid);
    if (field->attnum != 0)
        shape->columns[at].tail = copy_text(shapes->arena, field->tail);
}

static int order_of(const struct relation_column *column)
{
    return column->attnum == 0 ? INT_MAX : column->attnum;
}

/* The row's columns and those of old that it leaves standing, both in attnum order. */
static void merge_columns(struct shapes *shapes, struct shape *shape, const struct shape *old,
                          const struct row *row)
{
    const struct relation_column *was = old->relation.columns;
    int nold = old->relation.ncolumns, at = 0, next = 0;

    for (int i = 0; i <= row->columns.count; i++) {
        bool is_last = i == row->columns.count;

        for (; at < nold && (is_last || order_of(&was[at]) < row->columns.fields[i].attnum); at++) {
            if (is_superseded(&was[at], row))
                continue;
            shape->relation.columns[next] = was[at];
            shape->columns[next++] = old->columns[at];
        }
        if (!is_last)
            set_column(shapes, shape, next++, &row->columns.fields[i]);
    }
    shape->relation.ncolumns = next;
}

/* Which columns are the identity: those of the row's, or the ones that were where it has none. */
static void mark_identity(struct shapes *shapes, struct shape *shape, const struct shape *old,
                          const struct row *row)
{
    struct relation *relation = &shape->relation;

    for (int i = 0; i < relation->ncolumns; i++) {
        struct relation_column *column = &relation->columns[i];
        int was = shape_find(old,
                             (struct json_text){column->name, (uint32_t) strlen(column->name)});

        column->is_identity = !row->has_identity && was >= 0 &&
                              old->relation.columns[was].is_identity;
    }
    for (int i = 0; i < row->identity.count; i++) {
        const struct field *field = &row->identity.fields[i];
        int at = shape_find(shape, field->name);
        int16_t attnum = at < 0 ? 0 : relation->columns[at].attnum;

        if (at < 0)
            at = relation->ncolumns++;
        if (relation->columns[at].name == NULL || relation->columns[at].type_oid != field->type_oid)
            set_column(shapes, shape, at, field);
        relation->columns[at].attnum = attnum;
        relation->columns[at].is_identity = true;
    }
    for (int i = 0; i < relation->ncolumns; i++)
        shape->nidentity += relation->columns[i].is_identity;
}

struct shape *shapes_fit(struct shapes *shapes, struct shaped_table *table, const struct row *row)
{
    struct shape *old = table->shape;

    if (fits(old, row))
        return old;
    table->shape = new_shape(shapes, table,
                             row->columns.count + row->identity.count + old->relation.ncolumns);
    merge_columns(shapes, table->shape, old, row);
    mark_identity(shapes, table->shape, old, row);
    return table->shape;
}
