/*
 * The decoder of wal2json, format version 2: one JSON object a message, whose grammar is fixed by
 * the options that we ask for.  It is read as that grammar: every key has its place, and whatever
 * is not expected there stops the pipeline (P12).  A message ends with the brace that closes it, so
 * no strict prefix of one is valid.  One that is refused leaves the decoder as it was.
 *
 * Rows name and type every column again.  A row of the same shape as the one before it of that
 * table (shapes.h) is therefore read by comparing bytes: what surrounds the values is the same to
 * the byte.  Columns that were left out (unchanged TOAST, P1) are passed over; anything else goes
 * the long way, which knows the grammar and makes shapes.
 *
 * wal2json always sends the identity, copied from the new row where nothing changed:
 * change_normalise() drops it again.  Identity entries carry no position, so a table whose first
 * message is a delete has columns without a number until a row brings it.
 *
 * What is not asked for: type names (invalid JSON for some, P12), defaults (likewise), the primary
 * key (the identity says what we key on, P19), the origin (we write nothing to the source, P65).
 * Messages of logical decoding lose what follows a NUL, and may hold bytes that are no UTF-8 (P66).
 */
#include "shapes.h"
#include "tailwater/decoder.h"

#include <string.h>

struct decoder {
    struct arena arena; /* holds this struct and the shapes */
    const char *prefix; /* of the messages to pass on, or NULL */
    struct shapes shapes;
    struct shaped_table *last; /* the table of the last row, or NULL */

    bool in_transaction;
    uint32_t xid;
    lsn_t final_lsn;
    lsn_t end_lsn;
    char lead[128]; /* ,"xid":1,"timestamp":"…" as every row of this transaction repeats it */
    size_t lead_len;
};

/* One message on its way through its handler. */
struct message {
    struct decoder *decoder;
    struct json json;
    struct arena *scratch;
    char action;
    struct change change;
    struct error *err;
};

/* Why: in the words of the grammar, never with a value of a row. */
#define refuse(m, ...) (error_set((m)->err, ERROR_PROTOCOL, __VA_ARGS__), refuse_where(m))

static bool refuse_where(const struct message *m)
{
    return error_wrap(m->err, "wal2json message, byte %zu", (size_t) (m->json.p - m->json.start));
}

static bool refuse_json(const struct message *m)
{
    return refuse(m, "expected %s", m->json.expected);
}

/* The brace that ends the object, and nothing behind it. */
static bool is_whole(struct message *m)
{
    if (!json_expect(&m->json, "}"))
        return false;
    return m->json.p == m->json.end || json_fail(&m->json, "the end of the message");
}

static bool in_transaction(const struct message *m)
{
    return m->decoder->in_transaction || refuse(m, "it came outside a transaction");
}

/* ---- header fields ---- */

static bool read_lsn(struct message *m, lsn_t *ret_lsn)
{
    struct json_text text;
    char copy[LSN_TEXT_SIZE] = "";

    if (!json_string(&m->json, JSON_TEXT, m->scratch, &text))
        return false;
    if (text.len < sizeof(copy))
        memcpy(copy, text.data, text.len);
    return lsn_parse(copy, ret_lsn) || json_fail(&m->json, "an LSN before this");
}

/* The count digits at p; *is_good becomes false where there is something else. */
static int read_digits(const char *p, int count, bool *is_good)
{
    int value = 0;

    for (int i = 0; i < count; i++) {
        *is_good = *is_good && p[i] >= '0' && p[i] <= '9';
        value = value * 10 + (*is_good ? p[i] - '0' : 0);
    }
    return value;
}

/* Days since 1970-01-01 in the Gregorian calendar (years from March, so that leap days are last).
 */
static int64_t days_since_1970(int year, int month, int day)
{
    int y = month > 2 ? year : year - 1;
    int day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

    return INT64_C(365) * y + y / 4 - y / 100 + y / 400 + day_of_year - 719468;
}

/* "2026-11-22 01:40:00.123456+00": timestamptz_to_str() in time zone UTC, which is pinned (P10);
 * the fraction has no trailing zeros, and no point if it is zero. */
static bool parse_time(struct json_text text, int64_t *ret_us)
{
    const char *p = text.data;
    uint32_t nfraction = text.len > 23 ? text.len - 23 : 0;
    bool is_good = (text.len == 22 || nfraction > 0) && nfraction <= 6;
    int year, month, day, hour, minute, second, fraction;

    if (!is_good || p[4] != '-' || p[7] != '-' || p[10] != ' ' || p[13] != ':' || p[16] != ':' ||
        (nfraction > 0 && p[19] != '.') || memcmp(p + text.len - 3, "+00", 3) != 0)
        return false;
    year = read_digits(p, 4, &is_good);
    month = read_digits(p + 5, 2, &is_good);
    day = read_digits(p + 8, 2, &is_good);
    hour = read_digits(p + 11, 2, &is_good);
    minute = read_digits(p + 14, 2, &is_good);
    second = read_digits(p + 17, 2, &is_good);
    fraction = read_digits(p + 20, (int) nfraction, &is_good);
    for (uint32_t i = nfraction; i < 6; i++)
        fraction *= 10;
    if (!is_good || year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 ||
        minute > 59 || second > 60)
        return false;
    *ret_us = (((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) *
                  INT64_C(1000000) +
              fraction;
    return true;
}

static bool read_xid(struct message *m, uint32_t *ret_xid)
{
    int64_t xid;

    if (!json_expect(&m->json, ",\"xid\":") || !json_integer(&m->json, 0, UINT32_MAX, &xid))
        return false;
    *ret_xid = (uint32_t) xid;
    return true;
}

static bool read_time(struct message *m, int64_t *ret_us)
{
    struct json_text text;

    return json_expect(&m->json, ",\"timestamp\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text) &&
           (parse_time(text, ret_us) || json_fail(&m->json, "a time in UTC before this"));
}

/* What every message of a transaction says of it again; nothing of it is needed. */
static bool skip_lead(struct message *m)
{
    const struct decoder *decoder = m->decoder;
    struct json_text text;
    uint32_t xid;

    if (decoder->lead_len > 0 && json_pass(&m->json, decoder->lead, decoder->lead_len))
        return true;
    return read_xid(m, &xid) && json_expect(&m->json, ",\"timestamp\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text);
}

/* The LSN of a change is never a position (P27). */
static bool skip_lsn(struct message *m)
{
    struct json_text text;

    return json_expect(&m->json, ",\"lsn\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text);
}

/* ---- transactions ---- */

/* B and C are the same but for the letter. */
static bool read_boundary(struct message *m, struct json_text *ret_lead)
{
    struct change *change = &m->change;
    const char *from = m->json.p;

    if (!read_xid(m, &change->xid) || !read_time(m, &change->commit_time_us))
        return refuse_json(m);
    *ret_lead = (struct json_text){.data = from, .len = (uint32_t) (m->json.p - from)};
    if (!json_expect(&m->json, ",\"lsn\":") || !read_lsn(m, &change->final_lsn) ||
        !json_expect(&m->json, ",\"nextlsn\":") || !read_lsn(m, &change->end_lsn) || !is_whole(m))
        return refuse_json(m);
    return true;
}

static bool on_begin(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct json_text lead;

    if (!read_boundary(m, &lead))
        return false;
    if (decoder->in_transaction)
        return refuse(m, "a transaction begins inside another");
    m->change.kind = CHANGE_BEGIN;
    decoder->in_transaction = true;
    decoder->xid = m->change.xid;
    decoder->final_lsn = m->change.final_lsn;
    decoder->end_lsn = m->change.end_lsn;
    decoder->lead_len = lead.len <= sizeof(decoder->lead) ? lead.len : 0;
    memcpy(decoder->lead, lead.data, decoder->lead_len);
    return true;
}

static bool on_commit(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct change *change = &m->change;
    struct json_text lead;

    if (!read_boundary(m, &lead) || !in_transaction(m))
        return false;
    if (change->xid != decoder->xid || change->final_lsn != decoder->final_lsn ||
        change->end_lsn != decoder->end_lsn)
        return refuse(m, "the commit at " LSN_FORMAT " ends a transaction begun for " LSN_FORMAT,
                      LSN_ARGS(change->final_lsn), LSN_ARGS(decoder->final_lsn));
    change->kind = CHANGE_COMMIT;
    decoder->in_transaction = false;
    return true;
}

/* A message outside transactions has null where others name theirs. */
static bool on_message(struct message *m)
{
    struct change *change = &m->change;
    struct json *json = &m->json;
    struct json_text prefix, content;
    bool has_transaction = !json_pass_literal(json, ",\"xid\":null,\"timestamp\":null");

    if ((has_transaction && !skip_lead(m)) || !skip_lsn(m) ||
        !json_expect(json, ",\"transactional\":"))
        return refuse_json(m);
    change->is_transactional = json_pass_literal(json, "true");
    if ((!change->is_transactional && !json_expect(json, "false")) ||
        !json_expect(json, ",\"prefix\":") ||
        !json_string(json, JSON_OPAQUE, m->scratch, &prefix) ||
        !json_expect(json, ",\"content\":") ||
        !json_string(json, JSON_OPAQUE, m->scratch, &content) || !is_whole(m))
        return refuse_json(m);
    if (change->is_transactional != has_transaction)
        return refuse(m, "the message is transactional and names no transaction, or the reverse");
    if (change->is_transactional && !in_transaction(m))
        return false;
    if (m->decoder->prefix == NULL || prefix.len != strlen(m->decoder->prefix) ||
        memcmp(prefix.data, m->decoder->prefix, prefix.len) != 0)
        return true;
    change->kind = CHANGE_MESSAGE;
    change->prefix = m->decoder->prefix;
    change->content = content.data;
    change->content_len = content.len;
    return true;
}

/* ---- rows ---- */

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
        *ret_name = name;
        return true;
    }
    if (!json_expect(json, ",\"schema\":") ||
        !json_string(json, JSON_TEXT, m->scratch, &name.schema) ||
        !json_expect(json, ",\"table\":") || !json_string(json, JSON_TEXT, m->scratch, &name.name))
        return false;
    name.lead = (struct json_text){.data = from, .len = (uint32_t) (json->p - from)};
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
    return is_whole(m);
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

/* The long way through a row, behind its table's name. */
static bool read_row(struct message *m, struct row *ret_row)
{
    struct json *json = &m->json;
    struct row row = {.is_insert = m->action == 'I',
                      .has_columns = m->action != 'D',
                      .has_identity = m->action != 'I'};

    if (row.has_columns &&
        (!json_expect(json, ",\"columns\":[") || !read_fields(m, false, &row.columns)))
        return false;
    if (row.has_identity &&
        (!json_expect(json, ",\"identity\":[") || !read_fields(m, true, &row.identity)))
        return false;
    for (int i = 0; i < row.identity.count; i++) {
        const struct field *field = find_field(&row.columns, row.identity.fields[i].name);

        if (field != NULL && field->type_oid != row.identity.fields[i].type_oid)
            return json_fail(json, "one type of a column in columns and identity");
    }
    if (!is_whole(m))
        return false;
    *ret_row = row;
    return true;
}

static bool on_row(struct message *m)
{
    struct change *change = &m->change;
    struct table_name name;
    struct shape *shape;
    struct row row;
    struct json behind_name;

    if (!in_transaction(m))
        return false;
    if (!skip_lead(m) || !skip_lsn(m) || !read_table(m, &name))
        return refuse_json(m);
    shape = name.table ? name.table->shape : NULL;
    if (shape != NULL && shape->relation.is_ignored)
        return true;
    behind_name = m->json;
    if (shape != NULL && match_row(m, shape)) {
        m->decoder->last = name.table;
    } else {
        m->json = behind_name;
        if (!read_row(m, &row))
            return refuse_json(m);
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

static bool on_truncate(struct message *m)
{
    struct change *change = &m->change;
    struct table_name name;
    struct relation *relation;

    if (!in_transaction(m))
        return false;
    if (!skip_lead(m) || !skip_lsn(m) || !read_table(m, &name) || !is_whole(m))
        return refuse_json(m);
    relation = &settle_table(m->decoder, &name)->shape->relation;
    if (relation->is_ignored)
        return true;
    change->kind = CHANGE_TRUNCATE;
    change->relations = arena_new(m->scratch, struct relation *, 1);
    change->relations[0] = relation;
    change->nrelations = 1;
    return true;
}

static bool (*const handlers[256])(struct message *) = {
    ['B'] = on_begin, ['C'] = on_commit, ['M'] = on_message,  ['I'] = on_row,
    ['U'] = on_row,   ['D'] = on_row,    ['T'] = on_truncate,
};

static bool wal2json_decode(struct decoder *decoder, struct bytes in, struct arena *scratch,
                            struct change *ret_change, struct error *err)
{
    const char *text = (const char *) in.p;
    struct message m = {.decoder = decoder,
                        .json = {.p = text, .end = text + bytes_left(&in), .start = text},
                        .scratch = scratch,
                        .change = {.kind = CHANGE_NONE},
                        .err = err};

    if (bytes_left(&in) > INT32_MAX)
        return refuse(&m, "it is longer than any the server can send");
    if (!json_expect(&m.json, "{\"action\":\""))
        return refuse_json(&m);
    m.action = m.json.p < m.json.end ? *m.json.p : '\0';
    if (handlers[(unsigned char) m.action] == NULL)
        return refuse(&m, "the action is not known");
    m.json.p++;
    if (!json_expect(&m.json, "\""))
        return refuse_json(&m);
    if (!handlers[(unsigned char) m.action](&m))
        return false;
    *ret_change = m.change;
    return true;
}

/* ---- the ends ---- */

/* A prefix that nobody uses: an empty list would mean all messages. */
#define NO_PREFIX "tailwater:none"

static int wal2json_options(const struct decoder_config *config, struct arena *arena,
                            struct decoder_option *ret_options)
{
    static const struct decoder_option always[] = {
        {"format-version", "2"},    {"include-transaction", "1"}, {"include-xids", "1"},
        {"include-timestamp", "1"}, {"include-lsn", "1"},         {"include-schemas", "1"},
        {"include-types", "0"},     {"include-type-oids", "1"},   {"include-column-positions", "1"},
    };
    const char *prefix = config->prefix ? config->prefix : NO_PREFIX;
    int n = 0;

    (void) arena;
    for (; n < (int) (sizeof(always) / sizeof(always[0])); n++)
        ret_options[n] = always[n];
    if (config->has_numeric_as_string)
        ret_options[n++] = (struct decoder_option){"numeric-data-types-as-string", "1"};
    if (config->add_tables != NULL)
        ret_options[n++] = (struct decoder_option){"add-tables", config->add_tables};
    /* That list knows no escapes: a prefix it cannot hold is looked for on this side alone. */
    if (prefix[0] != '\0' && strpbrk(prefix, ",\\ \t\n\v\f\r") == NULL)
        ret_options[n++] = (struct decoder_option){"add-msg-prefixes", prefix};
    return n;
}

static struct decoder *wal2json_create(const struct decoder_config *config)
{
    struct arena arena = {0};
    struct decoder *decoder = arena_zalloc(&arena, sizeof(*decoder));

    decoder->prefix = config->prefix;
    decoder->arena = arena;
    shapes_init(&decoder->shapes, &decoder->arena);
    return decoder;
}

static void wal2json_destroy(struct decoder *decoder)
{
    struct arena arena;

    if (decoder == NULL)
        return;
    arena = decoder->arena; /* the decoder lies in it */
    arena_release(&arena);
}

const struct decoder_ops decoder_wal2json = {
    .plugin = "wal2json",
    .options = wal2json_options,
    .create = wal2json_create,
    .destroy = wal2json_destroy,
    .decode = wal2json_decode,
};
