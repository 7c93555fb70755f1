/*
 * Rows.  The short way compares bytes: where a row has the shape of the one before it of its table,
 * what surrounds the values is the same to the byte.  Columns left out (unchanged TOAST, P1) are
 * passed over.  Whatever else comes, a new shape or an error, goes the long way, which knows the
 * grammar and begins again behind the table's name.
 *
 * A table that the consumer ignores is not read further than its name.
 */
#include "message.h"

/* Where a table's name stands in a message, and what it says. */
struct table_name {
    struct json_text schema, name, lead;
    struct shaped_table *table; /* NULL if it is new */
};

static bool read_table(struct message *m, struct table_name *ret_name)
{
    struct decoder *decoder = m->decoder;
    struct json *json = &m->json;
    struct table_name name = {.table = decoder->last};
    const char *from = json->p;

    if (name.table != NULL && json_pass(json, name.table->lead.data, name.table->lead.len)) {
        m->schema = name.table->schema;
        m->table = name.table->name;
        *ret_name = name;
        return true;
    }
    if (!json_expect(json, ",\"schema\":") ||
        !json_string(json, JSON_TEXT, m->scratch, &name.schema) ||
        !json_expect(json, ",\"table\":") || !json_string(json, JSON_TEXT, m->scratch, &name.name))
        return false;
    name.lead = (struct json_text){.data = from, .len = (uint32_t) (json->p - from)};
    m->schema = name.schema;
    m->table = name.name;
    name.table = shapes_find(&decoder->shapes, name.schema, name.name);
    *ret_name = name;
    return true;
}

/* The table of a message that was understood to its end. */
static struct shaped_table *settle_table(struct decoder *decoder, const struct table_name *name)
{
    decoder->last = name->table;
    if (decoder->last == NULL)
        decoder->last = shapes_add(&decoder->shapes, name->schema, name->name, name->lead);
    return decoder->last;
}

static bool is_hex(struct json_text text)
{
    for (uint32_t i = 0; i < text.len; i++)
        if (!((text.data[i] >= '0' && text.data[i] <= '9') ||
              (text.data[i] >= 'a' && text.data[i] <= 'f')))
            return false;
    return text.len % 2 == 0;
}

/* wal2json cut two bytes off bytea's output: \x, where bytea_output is hex as pinned (P9). */
static bool restore_bytea(struct message *m, struct json_text hex, struct value *value)
{
    char *data;

    if (!is_hex(hex))
        return json_fail(&m->json, "a bytea in hex before this (is bytea_output set to hex?)");
    data = arena_alloc(m->scratch, (size_t) hex.len + 2);
    data[0] = '\\';
    data[1] = 'x';
    memcpy(data + 2, hex.data, hex.len);
    value->data = data;
    value->len = hex.len + 2;
    return true;
}

/* A value in the form of its column's type. */
static bool read_value(struct message *m, enum value_form form, struct value *value)
{
    struct json *json = &m->json;
    struct json_text text;

    if (json_pass_literal(json, "null")) {
        value->kind = VALUE_NULL;
        return true;
    }
    value->kind = VALUE_TEXT;
    if (form == FORM_BOOL) {
        value->data = json_pass_literal(json, "true") ? "t" : "f";
        value->len = 1;
        return *value->data == 't' || json_expect(json, "false");
    }
    if (form == FORM_NUMBER && (json->p == json->end || *json->p != '"')) {
        if (!json_number(json, &text))
            return false;
    } else if (!json_string(json, JSON_TEXT, m->scratch, &text)) {
        return false;
    }
    if (form == FORM_BYTEA)
        return restore_bytea(m, text, value);
    value->data = text.data;
    value->len = text.len;
    return true;
}

/*
 * The short way through "columns" or "identity", behind its bracket: false where the row is not
 * exactly of this shape, but for columns left out.
 */
static bool match_columns(struct message *m, const struct shape *shape, bool is_identity,
                          struct value *values, int *ret_count)
{
    struct json *json = &m->json;
    int ncolumns = shape->relation.ncolumns, count = 0;
    bool is_over = json_pass_char(json, ']');

    for (int i = 0; i < ncolumns; i++) {
        const struct shape_column *column = &shape->columns[i];

        if (is_over || (is_identity && !shape->relation.columns[i].is_identity) ||
            !json_pass(json, column->head.data, column->head.len)) {
            values[i].kind = VALUE_ABSENT;
            continue;
        }
        if (!read_value(m, column->form, &values[i]))
            return false;
        if (is_identity
                ? !json_pass_char(json, '}')
                : column->tail.len == 0 || !json_pass(json, column->tail.data, column->tail.len))
            return false;
        count++;
        is_over = json_pass_char(json, ']');
        if (!is_over && !json_pass_char(json, ','))
            return false;
    }
    *ret_count = count;
    return is_over;
}

/* The short way through a row, behind its table's name; false leaves the rest to the long one. */
static bool match_row(struct message *m, const struct shape *shape)
{
    struct change *change = &m->change;
    size_t size = sizeof(struct value) * (size_t) shape->relation.ncolumns;
    int count;

    if (m->action != 'D') {
        change->values = arena_alloc(m->scratch, size);
        if (!json_pass_literal(&m->json, ",\"columns\":[") ||
            !match_columns(m, shape, false, change->values, &count) ||
            (m->action == 'I' && count != shape->relation.ncolumns))
            return false;
    }
    if (m->action != 'I') {
        change->old = arena_alloc(m->scratch, size);
        if (!json_pass_literal(&m->json, ",\"identity\":[") ||
            !match_columns(m, shape, true, change->old, &count) || count != shape->nidentity)
            return false;
    }
    return message_is_whole(m);
}

/* One entry of "columns" or "identity". */
static bool read_field(struct message *m, bool is_identity, int previous, struct field *ret_field)
{
    struct json *json = &m->json;
    struct field field = {0};
    const char *from = json->p;
    int64_t number;

    if (!json_expect(json, "{\"name\":") ||
        !json_string(json, JSON_TEXT, m->scratch, &field.name) ||
        !json_expect(json, ",\"typeoid\":") ||
        !json_integer(json, INT32_MIN, UINT32_MAX, &number) || !json_expect(json, ",\"value\":"))
        return false;
    field.type_oid = (uint32_t) number; /* printed as if it were signed */
    field.head = (struct json_text){.data = from, .len = (uint32_t) (json->p - from)};
    if (!read_value(m, shape_form(field.type_oid), &field.value))
        return false;
    from = json->p;
    if (!is_identity) {
        if (!json_expect(json, ",\"position\":") ||
            !json_integer(json, previous + 1, INT16_MAX, &number))
            return false;
        field.attnum = (int16_t) number;
    }
    if (!json_expect(json, "}"))
        return false;
    field.tail = (struct json_text){.data = from, .len = (uint32_t) (json->p - from)};
    *ret_field = field;
    return true;
}

static const struct field *find_field(const struct field_list *list, struct json_text name)
{
    for (int i = 0; i < list->count; i++)
        if (list->fields[i].name.len == name.len &&
            memcmp(list->fields[i].name.data, name.data, name.len) == 0)
            return &list->fields[i];
    return NULL;
}

/* A table has at most 1600 columns: MaxHeapAttributeNumber. */
#define MAX_FIELDS 1664

/* The long way through "columns" or "identity", behind its bracket. */
static bool read_fields(struct message *m, bool is_identity, struct field_list *list)
{
    struct json *json = &m->json;
    int room = 0, previous = 0;

    if (json_pass_char(json, ']'))
        return true;
    do {
        struct field field;

        if (!read_field(m, is_identity, previous, &field))
            return false;
        if (find_field(list, field.name) != NULL || list->count == MAX_FIELDS)
            return json_fail(json, "a table's columns, each once, before this");
        if (list->count == room) {
            struct field *larger;

            room = room == 0 ? 16 : 2 * room;
            larger = arena_alloc(m->scratch, sizeof(*larger) * (size_t) room);
            if (list->count > 0)
                memcpy(larger, list->fields, sizeof(*larger) * (size_t) list->count);
            list->fields = larger;
        }
        list->fields[list->count++] = field;
        previous = field.attnum;
    } while (json_pass_char(json, ','));
    return json_expect(json, "]");
}

/* The values of a list in the order of the shape. */
static struct value *spread(struct message *m, const struct shape *shape,
                            const struct field_list *list)
{
    struct value *values = arena_new(m->scratch, struct value, shape->relation.ncolumns);

    for (int i = 0; i < list->count; i++)
        values[shape_find(shape, list->fields[i].name)] = list->fields[i].value;
    return values;
}

/* An update may be without one, whose key is the same then (wal2json.c). */
static bool has_identity(const struct message *m)
{
    const struct json *json = &m->json;

    return m->action == 'D' || (m->action == 'U' && (json->p == json->end || *json->p != '}'));
}

/* The long way through a row, behind its table's name. */
static bool read_row(struct message *m, struct row *ret_row)
{
    struct json *json = &m->json;
    struct row row = {.is_insert = m->action == 'I', .has_columns = m->action != 'D'};

    if (row.has_columns &&
        (!json_expect(json, ",\"columns\":[") || !read_fields(m, false, &row.columns)))
        return false;
    row.has_identity = has_identity(m);
    if (row.has_identity &&
        (!json_expect(json, ",\"identity\":[") || !read_fields(m, true, &row.identity)))
        return false;
    for (int i = 0; i < row.identity.count; i++) {
        const struct field *field = find_field(&row.columns, row.identity.fields[i].name);

        if (field != NULL && field->type_oid != row.identity.fields[i].type_oid)
            return json_fail(json, "one type of a column in columns and identity");
    }
    if (!message_is_whole(m))
        return false;
    *ret_row = row;
    return true;
}

/* Nothing has said yet what the table's identity is. */
static bool refuse_bare(struct message *m, const struct table_name *name)
{
    return error_set(m->err, ERROR_RETRY,
                     "an update of %.*s.%.*s came without an identity before any came with one",
                     (int) name->schema.len, name->schema.data, (int) name->name.len,
                     name->name.data);
}

bool row_decode(struct message *m)
{
    struct change *change = &m->change;
    struct table_name name;
    struct shape *shape;
    struct row row;
    struct json behind_name;

    if (!message_in_transaction(m))
        return false;
    if (!message_skip_lead(m) || !message_skip_lsn(m) || !read_table(m, &name))
        return message_refuse_json(m);
    shape = name.table ? name.table->shape : NULL;
    if (shape != NULL && shape->relation.is_ignored) {
        m->decoder->last = name.table;
        return true;
    }
    behind_name = m->json;
    if (shape != NULL && match_row(m, shape)) {
        m->decoder->last = name.table;
    } else {
        m->json = behind_name;
        if (!read_row(m, &row))
            return message_refuse_json(m);
        if (m->action == 'U' && !row.has_identity && (shape == NULL || shape->nidentity == 0))
            return refuse_bare(m, &name);
        shape = shapes_fit(&m->decoder->shapes, settle_table(m->decoder, &name), &row);
        change->values = row.has_columns ? spread(m, shape, &row.columns) : NULL;
        change->old = row.has_identity ? spread(m, shape, &row.identity) : NULL;
    }
    change->relation = &shape->relation;
    change->kind = m->action == 'I'   ? CHANGE_INSERT
                   : m->action == 'U' ? CHANGE_UPDATE
                                      : CHANGE_DELETE;
    change_normalise(change);
    return true;
}

bool row_decode_truncate(struct message *m)
{
    struct change *change = &m->change;
    struct table_name name;
    struct relation *relation;

    if (!message_in_transaction(m))
        return false;
    if (!message_skip_lead(m) || !message_skip_lsn(m) || !read_table(m, &name) ||
        !message_is_whole(m))
        return message_refuse_json(m);
    relation = &settle_table(m->decoder, &name)->shape->relation;
    if (relation->is_ignored)
        return true;
    change->kind = CHANGE_TRUNCATE;
    change->relations = arena_new(m->scratch, struct relation *, 1);
    change->relations[0] = relation;
    change->nrelations = 1;
    return true;
}
