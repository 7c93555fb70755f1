/*
 * Text values to binary, one function per wire in a table.
 *
 * This runs for every value of every row, so the common spellings are parsed by hand, straight from
 * the message into the parameter's buffer.  Only the spellings that PostgreSQL's output functions
 * produce under the pinned settings are known (src/pg/pg.c): everything else is "no binary form
 * here", never a guess.  Range checks are done here where a value that is out of range would
 * otherwise turn into another one; the rest is left to the server's receive functions.
 *
 * Not here: NULs and encodings (the decoders' business), arrays and composites (sent as text).
 */
#include "pg/codec_internal.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

/* ---- bool and integers ---- */

static bool add_bool(const char *data, uint32_t len, struct buf *out)
{
    char *to;

    if (len != 1 || (data[0] != 't' && data[0] != 'f'))
        return false;
    to = put_u32(reserve(out, 5), 1);
    *to = data[0] == 't';
    written(out, 5);
    return true;
}

/* At most 19 digits: below 10^19, and so without overflow. */
static inline bool parse_unsigned(const char *data, uint32_t len, uint64_t *ret)
{
    uint64_t v = 0;

    if (len == 0 || len > 19)
        return false;
    for (uint32_t i = 0; i < len; i++) {
        unsigned d = digit(data[i]);

        if (d > 9)
            return false;
        v = v * 10 + d;
    }
    *ret = v;
    return true;
}

/* max is the largest positive value; the negative side goes one further. */
static inline bool parse_signed(const char *data, uint32_t len, uint64_t max, int64_t *ret)
{
    bool is_negative = len > 0 && data[0] == '-';
    uint64_t v;

    if (!parse_unsigned(data + is_negative, len - is_negative, &v) || v > max + is_negative)
        return false;
    *ret = is_negative ? (int64_t) (UINT64_C(0) - v) : (int64_t) v;
    return true;
}

static bool add_int2(const char *data, uint32_t len, struct buf *out)
{
    int64_t v;

    return parse_signed(data, len, INT16_MAX, &v) && add_2(out, (uint16_t) v);
}

static bool add_int4(const char *data, uint32_t len, struct buf *out)
{
    int64_t v;

    return parse_signed(data, len, INT32_MAX, &v) && add_4(out, (uint32_t) v);
}

static bool add_int8(const char *data, uint32_t len, struct buf *out)
{
    int64_t v;

    return parse_signed(data, len, INT64_MAX, &v) && add_8(out, (uint64_t) v);
}

static bool add_oid(const char *data, uint32_t len, struct buf *out)
{
    uint64_t v;

    return parse_unsigned(data, len, &v) && v <= UINT32_MAX && add_4(out, (uint32_t) v);
}

/* ---- floating point ---- */

struct decimal {
    uint64_t mantissa; /* of at most 19 digits, else is_exact is false */
    int exponent;      /* of ten */
    bool is_negative;
    bool is_exact;
};

/* [-]digits[.digits][e[+-]digits], and nothing else: no spaces, no hexadecimal, no words. */
static bool parse_decimal(const char *data, uint32_t len, struct decimal *ret)
{
    struct decimal d = {.is_exact = true};
    const char *p = data, *end = data + len;
    int ndigits = 0, nsignificant = 0;
    bool is_fraction = false;

    if (p < end && *p == '-') {
        d.is_negative = true;
        p++;
    }
    for (; p < end; p++) {
        unsigned v = digit(*p);

        if (*p == '.' && !is_fraction) {
            is_fraction = true;
            continue;
        }
        if (v > 9)
            break;
        ndigits++;
        nsignificant += nsignificant > 0 || v > 0;
        d.exponent -= is_fraction;
        if (nsignificant <= 19)
            d.mantissa = d.mantissa * 10 + v;
        else
            d.is_exact = false;
    }
    if (ndigits == 0)
        return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        bool is_minus = ++p < end && *p == '-';
        uint64_t exponent;

        if (p < end && (*p == '-' || *p == '+'))
            p++;
        if (end - p > 4 || !parse_unsigned(p, (uint32_t) (end - p), &exponent))
            return false;
        d.exponent += is_minus ? -(int) exponent : (int) exponent;
        p = end;
    }
    *ret = d;
    return p == end;
}

/*
 * strtod() reads a decimal point of the process's locale.  Ours is "C" unless somebody calls
 * setlocale(); a number must not depend on that.
 */
static locale_t c_locale;

__attribute__((constructor)) static void make_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t) 0);
}

#define MAX_FLOAT_TEXT 63

static bool add_float4(const char *data, uint32_t len, struct buf *out)
{
    /* Both operands exact in a float: one rounding, and so the correctly rounded result. */
    static const float powers[] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f,
                                   1e6f, 1e7f, 1e8f, 1e9f, 1e10f};
    char text[MAX_FLOAT_TEXT + 1];
    struct decimal d;
    uint32_t bits;
    float v;

    if (is_word(data, len, "NaN")) {
        v = NAN;
    } else if (is_word(data, len, "Infinity")) {
        v = INFINITY;
    } else if (is_word(data, len, "-Infinity")) {
        v = -INFINITY;
    } else {
        if (len > MAX_FLOAT_TEXT || !parse_decimal(data, len, &d))
            return false;
        if (d.is_exact && d.mantissa <= 1 << 24 && d.exponent >= -10 && d.exponent <= 10) {
            v = (float) d.mantissa;
            v = d.exponent < 0 ? v / powers[-d.exponent] : v * powers[d.exponent];
            v = d.is_negative ? -v : v;
        } else {
            memcpy(text, data, len);
            text[len] = '\0';
            errno = 0;
            v = strtof_l(text, NULL, c_locale);
            /* As float4in(): a denormal is fine, zero or infinity out of range is not. */
            if (errno == ERANGE && (v == 0 || isinf(v)))
                return false;
        }
    }
    memcpy(&bits, &v, sizeof(bits));
    return add_4(out, bits);
}

static bool add_float8(const char *data, uint32_t len, struct buf *out)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    char text[MAX_FLOAT_TEXT + 1];
    struct decimal d;
    uint64_t bits;
    double v;

    if (is_word(data, len, "NaN")) {
        v = (double) NAN;
    } else if (is_word(data, len, "Infinity")) {
        v = (double) INFINITY;
    } else if (is_word(data, len, "-Infinity")) {
        v = -(double) INFINITY;
    } else {
        if (len > MAX_FLOAT_TEXT || !parse_decimal(data, len, &d))
            return false;
        if (d.is_exact && d.mantissa <= UINT64_C(1) << 53 && d.exponent >= -22 &&
            d.exponent <= 22) {
            v = (double) d.mantissa;
            v = d.exponent < 0 ? v / powers[-d.exponent] : v * powers[d.exponent];
            v = d.is_negative ? -v : v;
        } else {
            memcpy(text, data, len);
            text[len] = '\0';
            errno = 0;
            v = strtod_l(text, NULL, c_locale);
            if (errno == ERANGE && (v == 0 || isinf(v)))
                return false;
        }
    }
    memcpy(&bits, &v, sizeof(bits));
    return add_8(out, bits);
}

/* ---- strings and bytes ---- */

static bool add_string(const char *data, uint32_t len, struct buf *out)
{
    char *to = put_u32(reserve(out, (size_t) len + 4), len);

    memcpy(to, data, len);
    written(out, (size_t) len + 4);
    return true;
}

static bool add_jsonb(const char *data, uint32_t len, struct buf *out)
{
    char *to = put_u32(reserve(out, (size_t) len + 5), len + 1);

    *to++ = 1; /* the only version there is */
    memcpy(to, data, len);
    written(out, (size_t) len + 5);
    return true;
}

/* The value of a hexadecimal digit plus one; 0 for anything else. */
static const unsigned char hex_digits[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

/* n pairs of digits to n bytes. */
static inline bool parse_hex(const char *data, size_t n, char *to)
{
    for (size_t i = 0; i < n; i++) {
        unsigned high = hex_digits[(unsigned char) data[2 * i]];
        unsigned low = hex_digits[(unsigned char) data[2 * i + 1]];

        if (high == 0 || low == 0)
            return false;
        to[i] = (char) ((high - 1) << 4 | (low - 1));
    }
    return true;
}

static bool add_bytea(const char *data, uint32_t len, struct buf *out)
{
    size_t n = len / 2 - 1;
    char *to;

    if (len < 2 || len % 2 != 0 || data[0] != '\\' || data[1] != 'x')
        return false;
    to = put_u32(reserve(out, n + 4), (uint32_t) n);
    if (!parse_hex(data + 2, n, to))
        return false;
    written(out, n + 4);
    return true;
}

static bool add_uuid(const char *data, uint32_t len, struct buf *out)
{
    char *to;

    if (len != 36 || data[8] != '-' || data[13] != '-' || data[18] != '-' || data[23] != '-')
        return false;
    to = put_u32(reserve(out, 20), 16);
    if (!parse_hex(data, 4, to) || !parse_hex(data + 9, 2, to + 4) ||
        !parse_hex(data + 14, 2, to + 6) || !parse_hex(data + 19, 2, to + 8) ||
        !parse_hex(data + 24, 6, to + 10))
        return false;
    written(out, 20);
    return true;
}

/* ---- the table ---- */

/* Arrays, composites, and scalars that only the server can parse. */
static bool add_nothing(const char *data, uint32_t len, struct buf *out)
{
    (void) data;
    (void) len;
    (void) out;
    return false;
}

bool codec_add(enum column_wire wire, const char *data, uint32_t len, struct buf *out)
{
    static bool (*const adders[])(const char *, uint32_t, struct buf *) = {
        [WIRE_CAST] = add_nothing,
        [WIRE_TEXT] = add_nothing,
        [WIRE_BOOL] = add_bool,
        [WIRE_INT2] = add_int2,
        [WIRE_INT4] = add_int4,
        [WIRE_INT8] = add_int8,
        [WIRE_OID] = add_oid,
        [WIRE_FLOAT4] = add_float4,
        [WIRE_FLOAT8] = add_float8,
        [WIRE_NUMERIC] = codec_add_numeric,
        [WIRE_STRING] = add_string,
        [WIRE_JSONB] = add_jsonb,
        [WIRE_BYTEA] = add_bytea,
        [WIRE_UUID] = add_uuid,
        [WIRE_DATE] = codec_add_date,
        [WIRE_TIMESTAMP] = codec_add_timestamp,
        [WIRE_TIMESTAMPTZ] = codec_add_timestamptz,
    };

    if (adders[wire](data, len, out))
        return true;
    /* What was begun and given up lies behind the end. */
    if (out->size > 0)
        out->data[out->len] = '\0';
    return false;
}

void codec_add_null(struct buf *out)
{
    buf_add_u32(out, UINT32_MAX);
}

/* ---- arrays ---- */

#define ARRAY_HEADER_BYTES 20 /* dimensions, has-null, element type; then count and lower bound */

size_t codec_array_begin(struct buf *out, uint32_t element_oid)
{
    size_t place = out->len;
    char *to = reserve(out, ARRAY_HEADER_BYTES);

    to = put_u32(to, 1);
    to = put_u32(to, 0);
    to = put_u32(to, element_oid);
    to = put_u32(to, 0);
    put_u32(to, 1);
    written(out, ARRAY_HEADER_BYTES);
    return place;
}

void codec_array_end(struct buf *out, size_t place, uint32_t count, bool has_null)
{
    put_u32(out->data + place + 4, has_null);
    put_u32(out->data + place + 12, count);
    if (count == 0) {
        /* The empty array has no dimension. */
        put_u32(out->data + place, 0);
        out->len = place + 12;
        out->data[out->len] = '\0';
    }
}

void codec_text_array_begin(struct buf *out)
{
    buf_add_char(out, '{');
}

/* Is any of the eight bytes the one that pattern repeats? */
static inline bool has_byte(uint64_t bytes, uint64_t pattern)
{
    uint64_t zero_where_equal = bytes ^ pattern;

    return ((zero_where_equal - UINT64_C(0x0101010101010101)) & ~zero_where_equal &
            UINT64_C(0x8080808080808080)) != 0;
}

void codec_text_array_add(struct buf *out, const char *data, uint32_t len)
{
    const char *end;
    char *start, *to;

    if (data == NULL) {
        buf_add_bytes(out, "NULL,", 5);
        return;
    }
    end = data + len;
    start = to = reserve(out, 2 * (size_t) len + 3);
    *to++ = '"';
    while (data < end) {
        uint64_t eight;

        if (end - data >= 8) {
            memcpy(&eight, data, 8);
            if (!has_byte(eight, UINT64_C(0x2222222222222222)) &&
                !has_byte(eight, UINT64_C(0x5c5c5c5c5c5c5c5c))) {
                memcpy(to, &eight, 8);
                to += 8;
                data += 8;
                continue;
            }
        }
        if (*data == '"' || *data == '\\')
            *to++ = '\\';
        *to++ = *data++;
    }
    *to++ = '"';
    *to++ = ',';
    written(out, (size_t) (to - start));
}

void codec_text_array_end(struct buf *out)
{
    /* Every element left a comma behind it. */
    if (out->data[out->len - 1] == ',')
        out->len--;
    buf_add_char(out, '}');
}

/* copyfromparse.c: backslash, tab, newline and return are escaped. */
void codec_copy_add(struct buf *out, const char *data, uint32_t len)
{
    char *to = reserve(out, 2 * (size_t) len);

    for (uint32_t at = 0; at < len; at++) {
        const char c = data[at];

        if (c == '\\' || c == '\t' || c == '\n' || c == '\r') {
            *to++ = '\\';
            *to++ = (char) (c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : c);
        } else {
            *to++ = c;
        }
    }
    out->len = (size_t) (to - out->data);
    *to = '\0';
}
