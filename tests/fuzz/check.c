/*
 * Written from PostgreSQL's own code: numericvar from numeric_recv() and get_str_from_var(),
 * j2date(), EncodeDateTime(), array_recv(), array_in(), CopyReadAttributesText().  Slow and plain.
 */
#include "check.h"

#include "base/clock.h"
#include "base/memory.h"
#include "driver.h"
#include "tailwater/bytes.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define JULIAN_2000 2451545

/* ---- numbers ---- */

static void print_float(double v, int digits, struct buf *out)
{
    if (isnan(v))
        buf_add(out, "NaN");
    else if (isinf(v))
        buf_add(out, v > 0 ? "Infinity" : "-Infinity");
    else
        buf_printf(out, "%.*g", digits, v);
}

static bool print_numeric(struct bytes *in, struct buf *out)
{
    int ngroups = bytes_u16(in), weight = (int16_t) bytes_u16(in);
    unsigned sign = bytes_u16(in), dscale = bytes_u16(in);
    uint16_t groups[5000];

    if (in->bad || ngroups > 5000 || dscale > 16383 || weight > 2000 || weight < -5000)
        return false;
    for (int i = 0; i < ngroups; i++) {
        groups[i] = bytes_u16(in);
        if (groups[i] > 9999)
            return false;
    }
    if (sign == 0xC000 || sign == 0xD000 || sign == 0xF000) {
        buf_add(out, sign == 0xC000 ? "NaN" : sign == 0xD000 ? "Infinity" : "-Infinity");
        return ngroups == 0;
    }
    /* The server strips zeros on both ends; we promise that there are none. */
    if ((sign != 0 && sign != 0x4000) ||
        (ngroups > 0 && (groups[0] == 0 || groups[ngroups - 1] == 0)))
        return false;
    if (sign == 0x4000)
        buf_add_char(out, '-');
    if (weight < 0)
        buf_add_char(out, '0');
    for (int i = 0; i <= weight; i++)
        buf_printf(out, i == 0 ? "%d" : "%04d", i < ngroups ? groups[i] : 0);
    if (ngroups == 0 && weight >= 0 && out->len > 1)
        return false;
    if (dscale == 0)
        return ngroups <= weight + 1;
    buf_add_char(out, '.');
    for (int place = 0, i = weight + 1; place < (int) dscale; place += 4, i++) {
        char text[8];
        int keep = (int) dscale - place < 4 ? (int) dscale - place : 4;

        snprintf(text, sizeof(text), "%04d", i >= 0 && i < ngroups ? groups[i] : 0);
        buf_add_bytes(out, text, (size_t) keep);
        for (; keep < 4; keep++)
            if (text[keep] != '0')
                return false; /* digits behind the scale would be lost */
        if (place + 4 >= (int) dscale && i + 1 < ngroups)
            return false;
    }
    return true;
}

/* ---- dates ---- */

static void print_day(int64_t days, struct buf *out, bool *ret_is_bc)
{
    uint32_t julian = (uint32_t) (days + JULIAN_2000) + 32044, quad = julian / 146097;
    uint32_t extra = (julian - quad * 146097) * 4 + 3;
    int y, year, month, day;

    julian += 60 + quad * 3 + extra / 146097;
    quad = julian / 1461;
    julian -= quad * 1461;
    y = (int) (julian * 4 / 1461);
    julian = (y != 0 ? (julian + 305) % 365 : (julian + 306) % 366) + 123;
    year = y + (int) quad * 4 - 4800;
    quad = julian * 2141 / 65536;
    day = (int) (julian - 7834 * quad / 256);
    month = (int) ((quad + 10) % 12) + 1;
    *ret_is_bc = year <= 0;
    buf_printf(out, "%04d-%02d-%02d", year > 0 ? year : 1 - year, month, day);
}

static bool print_date(uint32_t value, struct buf *out)
{
    int64_t days = (int32_t) value;
    bool is_bc;

    if (days == INT32_MAX || days == INT32_MIN) {
        buf_add(out, days > 0 ? "infinity" : "-infinity");
        return true;
    }
    if (days < -JULIAN_2000 || days >= INT64_C(2147483494) - JULIAN_2000)
        return false;
    print_day(days, out, &is_bc);
    buf_add(out, is_bc ? " BC" : "");
    return true;
}

static bool print_timestamp(uint64_t value, const char *zone, struct buf *out)
{
    const int64_t us = (int64_t) value, day_us = INT64_C(86400000000);
    int64_t days = us / day_us, rest = us % day_us;
    bool is_bc;

    if (us == INT64_MAX || us == INT64_MIN) {
        buf_add(out, us > 0 ? "infinity" : "-infinity");
        return true;
    }
    if (us < INT64_C(-211813488000000000) || us >= INT64_C(9223371331200000000))
        return false;
    if (rest < 0) {
        days--;
        rest += day_us;
    }
    print_day(days, out, &is_bc);
    buf_printf(out, " %02d:%02d:%02d", (int) (rest / INT64_C(3600000000)),
               (int) (rest / 60000000 % 60), (int) (rest / 1000000 % 60));
    if (rest % 1000000 != 0) {
        buf_printf(out, ".%06d", (int) (rest % 1000000));
        while (out->data[out->len - 1] == '0')
            out->data[--out->len] = '\0';
    }
    buf_printf(out, "%s%s", zone, is_bc ? " BC" : "");
    return true;
}

/* ---- the others ---- */

static void print_hex(struct bytes *in, size_t n, struct buf *out)
{
    while (n-- > 0)
        buf_printf(out, "%02x", bytes_u8(in));
}

static void print_uuid(struct bytes *in, struct buf *out)
{
    static const size_t groups[] = {4, 2, 2, 2, 6};

    for (int i = 0; i < 5; i++) {
        buf_add(out, i > 0 ? "-" : "");
        print_hex(in, groups[i], out);
    }
}

bool check_print(enum column_wire wire, const unsigned char *data, size_t len, struct buf *out)
{
    struct bytes in = bytes_of(data, len);
    bool is_good = true;
    uint64_t bits;
    uint32_t low;
    double v8;
    float v4;
    uint8_t byte;

    switch (wire) {
    case WIRE_CAST:
    case WIRE_TEXT:
        return false;
    case WIRE_BOOL:
        byte = bytes_u8(&in);
        buf_add(out, byte ? "t" : "f");
        is_good = byte <= 1;
        break;
    case WIRE_INT2:
        buf_printf(out, "%d", (int16_t) bytes_u16(&in));
        break;
    case WIRE_INT4:
        buf_printf(out, "%" PRId32, (int32_t) bytes_u32(&in));
        break;
    case WIRE_INT8:
        buf_printf(out, "%" PRId64, (int64_t) bytes_u64(&in));
        break;
    case WIRE_OID:
        buf_printf(out, "%" PRIu32, bytes_u32(&in));
        break;
    case WIRE_FLOAT4:
        low = bytes_u32(&in);
        memcpy(&v4, &low, sizeof(v4));
        print_float((double) v4, 9, out);
        break;
    case WIRE_FLOAT8:
        bits = bytes_u64(&in);
        memcpy(&v8, &bits, sizeof(v8));
        print_float(v8, 17, out);
        break;
    case WIRE_NUMERIC:
        is_good = print_numeric(&in, out);
        break;
    case WIRE_JSONB:
        is_good = bytes_u8(&in) == 1;
        buf_add_bytes(out, in.p, bytes_left(&in));
        in.p = in.end;
        break;
    case WIRE_STRING:
        buf_add_bytes(out, in.p, bytes_left(&in));
        in.p = in.end;
        break;
    case WIRE_BYTEA:
        buf_add(out, "\\x");
        print_hex(&in, len, out);
        break;
    case WIRE_UUID:
        print_uuid(&in, out);
        break;
    case WIRE_DATE:
        is_good = print_date(bytes_u32(&in), out);
        break;
    case WIRE_TIMESTAMP:
        is_good = print_timestamp(bytes_u64(&in), "", out);
        break;
    case WIRE_TIMESTAMPTZ:
        is_good = print_timestamp(bytes_u64(&in), "+00", out);
        break;
    }
    return is_good && !in.bad && bytes_left(&in) == 0;
}

/* ---- texts ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* -007 to -7, -0 to 0; for numeric with the digits behind the point as they are. */
static void normalise_number(const char *text, size_t len, struct buf *out)
{
    const char *end = text + len, *p = text + (len > 0 && text[0] == '-');
    bool is_zero = true;

    if (p == end || !is_digit(*p)) {
        buf_add_bytes(out, text, len);
        return;
    }
    for (const char *q = p; q < end; q++)
        is_zero = is_zero && (*q == '0' || *q == '.');
    if (p != text && !is_zero)
        buf_add_char(out, '-');
    while (end - p > 1 && *p == '0' && is_digit(p[1]))
        p++;
    if (end > p && end[-1] == '.')
        end--;
    buf_add_bytes(out, p, (size_t) (end - p));
}

/* Years of at least four digits, without zeros in front of more; fractions without zeros behind. */
static void normalise_date(const char *text, size_t len, struct buf *out)
{
    const char *end = text + len, *dash = memchr(text, '-', len), *point = memchr(text, '.', len);
    const char *behind, *last;

    if (len > 0 && is_digit(text[0]))
        while (dash - text > 4 && *text == '0')
            text++;
    if (point == NULL) {
        buf_add_bytes(out, text, (size_t) (end - text));
        return;
    }
    for (behind = point + 1; behind < end && is_digit(*behind);)
        behind++;
    for (last = behind; last[-1] == '0';)
        last--;
    if (last == point + 1)
        last = point;
    buf_add_bytes(out, text, (size_t) (last - text));
    buf_add_bytes(out, behind, (size_t) (end - behind));
}

void check_normalise(enum column_wire wire, const char *text, size_t len, struct buf *out)
{
    _cleanup_buf_ struct buf copy = {0};

    buf_add_bytes(&copy, text, len);
    switch (wire) {
    case WIRE_INT2:
    case WIRE_INT4:
    case WIRE_INT8:
    case WIRE_OID:
    case WIRE_NUMERIC:
        normalise_number(text, len, out);
        return;
    case WIRE_FLOAT4: /* as the C library reads it */
        print_float((double) strtof(buf_text(&copy), NULL), 9, out);
        return;
    case WIRE_FLOAT8:
        print_float(strtod(buf_text(&copy), NULL), 17, out);
        return;
    case WIRE_BYTEA:
    case WIRE_UUID:
        for (size_t i = 0; i < len; i++)
            buf_add_char(out, (char) (text[i] >= 'A' && text[i] <= 'F' ? text[i] | 0x20 : text[i]));
        return;
    case WIRE_DATE:
    case WIRE_TIMESTAMP:
    case WIRE_TIMESTAMPTZ:
        normalise_date(text, len, out);
        return;
    case WIRE_CAST:
    case WIRE_TEXT:
    case WIRE_BOOL:
    case WIRE_STRING:
    case WIRE_JSONB:
        buf_add_bytes(out, text, len);
        return;
    }
}

static bool same(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && memcmp(buf_text(a), buf_text(b), a->len) == 0;
}

void check_value(enum column_wire wire, const char *text, size_t len, const unsigned char *data,
                 size_t data_len)
{
    _cleanup_buf_ struct buf printed = {0}, wanted = {0};

    promise(check_print(wire, data, data_len, &printed));
    check_normalise(wire, text, len, &wanted);
    if (same(&printed, &wanted))
        return;
    fprintf(stderr, "wire %d: \"%.*s\" became %s\n", (int) wire, (int) len, text,
            buf_text(&printed));
    promise(!"a value became another one");
}

/* ---- arrays ---- */

struct element {
    const char *data;
    size_t len;
    bool is_null;
};

struct elements {
    struct element *list;
    int count;
    struct buf bytes; /* of text arrays, unescaped */
};

static void elements_release(struct elements *elements)
{
    free(elements->list);
    buf_release(&elements->bytes);
}

#define _cleanup_elements_ _cleanup_(elements_release)

static void elements_add(struct elements *elements, const char *data, size_t len, bool is_null)
{
    elements->list = memory_resize(elements->list,
                                   ((size_t) elements->count + 1) * sizeof(*elements->list));
    elements->list[elements->count++] = (struct element){data, len, is_null};
}

static void read_binary_array(const struct pg_param *param, struct elements *ret)
{
    struct bytes in = bytes_of(param->data, param->len);
    uint32_t ndims = bytes_u32(&in), has_null = bytes_u32(&in), count;
    bool saw_null = false;

    bytes_u32(&in); /* the element's type, which the caller knows */
    promise(!in.bad && ndims <= 1 && has_null <= 1);
    if (ndims == 0) {
        promise(bytes_left(&in) == 0);
        return;
    }
    count = bytes_u32(&in);
    promise(bytes_u32(&in) == 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t len = bytes_u32(&in);

        if (len == UINT32_MAX) {
            elements_add(ret, NULL, 0, true);
            saw_null = true;
        } else {
            const unsigned char *data = bytes_take(&in, len);

            promise(data != NULL);
            elements_add(ret, (const char *) data, len, false);
        }
    }
    promise(!in.bad && bytes_left(&in) == 0 && saw_null == (has_null == 1));
}

/* One dimension of array_in(): quoted elements and a bare NULL, which is all we write. */
static void read_text_array(const struct pg_param *param, struct elements *ret)
{
    const char *p = param->data, *end = p + param->len;

    promise(param->len >= 2 && *p == '{' && end[-1] == '}');
    buf_grow(&ret->bytes, param->len + 1); /* so that it does not move */
    p++;
    while (*p != '}') {
        if (*p == '"') {
            size_t from = ret->bytes.len;

            for (p++; *p != '"'; p++) {
                p += *p == '\\';
                promise(p < end - 1);
                buf_add_char(&ret->bytes, *p);
            }
            p++;
            elements_add(ret, ret->bytes.data + from, ret->bytes.len - from, false);
        } else {
            promise(end - p > 4 && memcmp(p, "NULL", 4) == 0);
            p += 4;
            elements_add(ret, NULL, 0, true);
        }
        promise(*p == '}' || (*p == ',' && p[1] != '}'));
        p += *p == ',';
    }
    promise(p == end - 1);
}

/* ---- parameters ---- */

static const struct value *wanted_value(const struct table *table,
                                        const struct statement_slot *slot,
                                        const struct batch_row *row)
{
    if (slot->param == PARAM_BASE_KEY && row->base != NULL)
        row = row->base;
    for (int i = 0; i < table->nkeys; i++)
        if (table->keys[i] == slot->column && (slot->param == PARAM_BASE_KEY || row->is_gone))
            return &row->key[i];
    return row->is_gone ? NULL : &row->values[slot->column];
}

static void check_meta(const struct statement_slot *slot, const struct batch_row *row,
                       const struct element *element)
{
    const bool is_hole = slot->param == PARAM_PRESENCE && !row->is_gone &&
                         row->values[slot->column].kind == VALUE_ABSENT;
    struct bytes in = bytes_of(element->data, element->len);

    promise(!element->is_null);
    if (slot->param == PARAM_LSN) {
        promise(element->len == 8 && bytes_u64(&in) == row->lsn);
    } else if (slot->param == PARAM_TIME) {
        promise(element->len == 8 &&
                (int64_t) (bytes_u64(&in) + CLOCK_POSTGRES_EPOCH_US) == row->commit_time_us);
    } else {
        promise(element->len == 1);
        promise(bytes_u8(&in) == (slot->param == PARAM_GONE ? row->is_gone : !is_hole));
    }
}

static void check_element(const struct table *table, const struct statement_slot *slot,
                          const struct batch_row *row, bool is_binary,
                          const struct element *element)
{
    enum column_wire wire;
    const struct value *value;

    if (slot->param != PARAM_COLUMN && slot->param != PARAM_BASE_KEY) {
        check_meta(slot, row, element);
        return;
    }
    wire = table->columns[slot->column].wire;
    value = wanted_value(table, slot, row);
    promise(element->is_null == (value == NULL || value->kind != VALUE_TEXT));
    if (element->is_null)
        return;
    if (is_binary)
        check_value(wire == WIRE_CAST ? WIRE_STRING : wire, value->data, value->len,
                    (const unsigned char *) element->data, element->len);
    else
        promise(element->len == value->len && memcmp(element->data, value->data, value->len) == 0);
}

void check_params(const struct params *params, const struct table *table,
                  const struct statement_slot *slots, struct batch_row *const *rows, int nrows)
{
    for (int i = 0; i < params->count; i++) {
        const struct pg_param *param = &params->params[i];
        _cleanup_elements_ struct elements elements = {0};

        if (param->is_binary)
            read_binary_array(param, &elements);
        else
            read_text_array(param, &elements);
        promise(elements.count == nrows);
        for (int row = 0; row < nrows; row++)
            check_element(table, &slots[i], rows[row], param->is_binary, &elements.list[row]);
    }
}

/* ---- COPY ---- */

/* One field up to a tab or the line's end, unescaped; *p stands behind it. */
static void read_field(const char **p, const char *end, struct buf *field, bool *ret_is_null)
{
    static const char codes[] = "b\bf\fn\nr\rt\tv\v";
    const char *from = *p;

    for (; *p < end && **p != '\t'; ++*p) {
        promise(**p != '\n' && **p != '\r');
        if (**p == '\\') {
            const char *code;

            promise(++*p < end);
            code = **p != '\0' ? strchr(codes, **p) : NULL;
            /* Octal and hexadecimal escapes are never written: digits must not follow. */
            promise(**p != 'x' && !is_digit(**p));
            buf_add_char(field, code ? code[1] : **p);
        } else {
            buf_add_char(field, **p);
        }
    }
    *ret_is_null = *p - from == 2 && from[0] == '\\' && from[1] == 'N';
}

void check_text_row(const struct table *table, const struct batch_row *row, const char *line,
                    size_t len)
{
    const char *p = line, *end = line + len - 1;
    char lsn[LSN_TEXT_SIZE];

    promise(len > 0 && *end == '\n');
    promise(!(len == 3 && line[0] == '\\' && line[1] == '.'));
    for (int i = 0; i <= table->ncolumns; i++) {
        _cleanup_buf_ struct buf field = {0};
        const struct value *value = i < table->ncolumns ? &row->values[i] : NULL;
        bool is_null;

        read_field(&p, end, &field, &is_null);
        if (value == NULL) {
            promise(strcmp(buf_text(&field), lsn_text(row->lsn, lsn)) == 0);
            promise(p == end);
            break;
        }
        promise(is_null == (value->kind != VALUE_TEXT));
        promise(is_null || (field.len == value->len &&
                            memcmp(buf_text(&field), value->data, value->len) == 0));
        promise(p < end);
        p++;
    }
}

void check_binary_row(const struct table *table, const struct batch_row *row,
                      const unsigned char *data, size_t len)
{
    struct bytes in = bytes_of(data, len);

    promise(bytes_u16(&in) == table->ncolumns + 1);
    for (int i = 0; i < table->ncolumns; i++) {
        uint32_t field_len = bytes_u32(&in);
        const struct value *value = &row->values[i];
        const unsigned char *field;

        promise((field_len == UINT32_MAX) == (value->kind != VALUE_TEXT));
        if (field_len == UINT32_MAX)
            continue;
        field = bytes_take(&in, field_len);
        promise(field != NULL);
        check_value(table->columns[i].wire, value->data, value->len, field, field_len);
    }
    promise(bytes_u32(&in) == 8 && bytes_u64(&in) == row->lsn && !in.bad && bytes_left(&in) == 0);
}
