/*
 * Values on their way to the mirror: text to binary, arrays, COPY rows; each read back by check.h.
 *
 * The first byte of an input chooses the type.  What follows is, by the second byte, either texts
 * as the stream brings them (separated by 0x1e; 0x01 alone is NULL), or a binary value: its text
 * as the server prints it has to become the same binary value again.
 */
#include "check.h"
#include "driver.h"

#include <string.h>

#define MAX_VALUES 64
#define SEPARATOR  0x1e

#define NWIRES (WIRE_TIMESTAMPTZ + 1)

/* ---- from binary ---- */

static size_t size_of(enum column_wire wire)
{
    switch (wire) {
    case WIRE_BOOL:
        return 1;
    case WIRE_INT2:
        return 2;
    case WIRE_INT4:
    case WIRE_OID:
    case WIRE_FLOAT4:
    case WIRE_DATE:
        return 4;
    case WIRE_INT8:
    case WIRE_FLOAT8:
    case WIRE_TIMESTAMP:
    case WIRE_TIMESTAMPTZ:
        return 8;
    case WIRE_UUID:
        return 16;
    default:
        return 0; /* any */
    }
}

static void check_from_binary(enum column_wire wire, const uint8_t *data, size_t size)
{
    _cleanup_buf_ struct buf text = {0}, binary = {0};
    const size_t wanted = size_of(wire);

    if (wire == WIRE_NUMERIC || size < wanted)
        return; /* a numeric has many binary forms */
    size = wanted > 0 ? wanted : size;
    if (!check_print(wire, data, size, &text))
        return;
    promise(codec_add(wire, buf_text(&text), (uint32_t) text.len, &binary));
    promise(binary.len == size + 4);
    if (strcmp(buf_text(&text), "NaN") != 0 && wire != WIRE_BOOL) /* of many bits; 1 is true */
        promise(memcmp(binary.data + 4, data, size) == 0);
}

/* ---- from text ---- */

struct example {
    struct table_column columns[2];
    int key;
    struct table table;
    struct value values[MAX_VALUES][2];
    struct batch_row rows[MAX_VALUES], *pointers[MAX_VALUES];
    int nrows;
};

static void split(struct example *example, const uint8_t *data, size_t size)
{
    static const struct value key = {.kind = VALUE_TEXT, .data = "key", .len = 3};

    for (size_t from = 0; from <= size && example->nrows < MAX_VALUES;) {
        const uint8_t *end = from < size ? memchr(data + from, SEPARATOR, size - from) : NULL;
        size_t len = end ? (size_t) (end - data) - from : size - from;
        const bool is_null = len == 1 && data[from] == 1;
        struct value *values = example->values[example->nrows];
        struct batch_row *row = &example->rows[example->nrows];

        values[0] = key;
        values[1] = (struct value){.kind = is_null ? VALUE_NULL : VALUE_TEXT,
                                   .data = (const char *) data + from,
                                   .len = (uint32_t) len};
        /* Every fourth row is gone. */
        *row = (struct batch_row){.key = values,
                                  .values = values,
                                  .lsn = from * 0x123456789u,
                                  .commit_time_us = (int64_t) from,
                                  .is_gone = example->nrows % 4 == 3};
        if (row->is_gone)
            row->values = NULL;
        example->pointers[example->nrows++] = row;
        from += len + 1;
    }
}

static void check_one(enum column_wire wire, const struct value *value)
{
    _cleanup_buf_ struct buf out = {0};

    if (value->kind != VALUE_TEXT)
        return;
    buf_add(&out, "before");
    if (!codec_add(wire, value->data, value->len, &out)) {
        promise(strcmp(buf_text(&out), "before") == 0 && out.len == 6);
        return;
    }
    promise(codec_is_binary(wire));
    promise(memcmp(out.data, "before", 6) == 0 && out.data[out.len] == '\0');
    promise(out.len >= 10 &&
            (uint32_t) (out.len - 10) ==
                ((uint32_t) (uint8_t) out.data[6] << 24 | (uint32_t) (uint8_t) out.data[7] << 16 |
                 (uint32_t) (uint8_t) out.data[8] << 8 | (uint8_t) out.data[9]));
    check_value(wire, value->data, value->len, (const unsigned char *) out.data + 10, out.len - 10);
}

static void check_texts(enum column_wire wire, const uint8_t *data, size_t size)
{
    static const struct statement_slot slots[] = {
        {PARAM_COLUMN, 0}, {PARAM_COLUMN, 1},   {PARAM_LSN, -1},    {PARAM_TIME, -1},
        {PARAM_GONE, -1},  {PARAM_BASE_KEY, 0}, {PARAM_PRESENCE, 1}};
    struct example example = {
        .columns = {{.name = "k", .wire = WIRE_STRING, .element_oid = 25, .is_key = true},
                    {.name = "v", .wire = wire, .element_oid = 17, .is_toastable = true}},
        .table = {.ncolumns = 2, .nkeys = 1}};
    struct params params = {0};

    example.table.columns = example.columns;
    example.table.keys = &example.key;
    split(&example, data, size);
    params_fill(&params, &example.table, slots, (int) (sizeof(slots) / sizeof(slots[0])),
                example.pointers, example.nrows);
    check_params(&params, &example.table, slots, example.pointers, example.nrows);
    params_release(&params);
    for (int i = 0; i < example.nrows; i++) {
        _cleanup_buf_ struct buf row = {0};

        check_one(wire, &example.values[i][1]);
        if (example.rows[i].is_gone)
            continue;
        params_add_text_row(&row, &example.table, &example.rows[i]);
        check_text_row(&example.table, &example.rows[i], row.data, row.len);
        buf_clear(&row);
        if (codec_is_binary(wire) && params_add_binary_row(&row, &example.table, &example.rows[i]))
            check_binary_row(&example.table, &example.rows[i], (const unsigned char *) row.data,
                             row.len);
        else
            promise(row.len == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    if (data[1] & 1)
        check_from_binary((enum column_wire)(data[0] % NWIRES), data + 2, size - 2);
    else
        check_texts((enum column_wire)(data[0] % NWIRES), data + 2, size - 2);
    return 0;
}

/* ---- seeds ---- */

static bool seed(size_t i, struct buf *out)
{
    static const char *const texts[NWIRES] = {
        [WIRE_CAST] = "{1,NULL,\"a b\"}\x1e(,\"x\"\"y\")\x1e\x01",
        [WIRE_TEXT] = "a\"b\\c\x1eNULL\x1e\x1e{},\x1e\\N\x1e\\.\x1etab\tnl\ncr\r",
        [WIRE_BOOL] = "t\x1e"
                      "f\x1e\x01\x1etrue",
        [WIRE_INT2] = "-32768\x1e"
                      "32767\x1e"
                      "32768\x1e-0\x1e"
                      "007",
        [WIRE_INT4] = "2147483647\x1e-2147483648\x1e"
                      "2147483648",
        [WIRE_INT8] = "9223372036854775807\x1e-9223372036854775808\x1e"
                      "9223372036854775808",
        [WIRE_OID] = "4294967295\x1e"
                     "4294967296\x1e"
                     "0",
        [WIRE_FLOAT4] = "1.5\x1e-0\x1e"
                        "1e-45\x1e"
                        "3.4028235e+38\x1eNaN\x1e-Infinity\x1e"
                        "16777217",
        [WIRE_FLOAT8] = "0.1\x1e"
                        "1.7976931348623157e+308\x1e"
                        "5e-324\x1eInfinity\x1e"
                        "123456789012345678901e-22\x1e"
                        "9007199254740993",
        [WIRE_NUMERIC] = "0.00\x1e-12345.6\x1e"
                         "100000000\x1e"
                         "0.00000001\x1eNaN\x1e-0.0\x1e"
                         "00012.340",
        [WIRE_STRING] = "some text\x1e\xc3\xa9\\N",
        [WIRE_JSONB] = "{\"a\": [1, \"\\\"\"]}",
        [WIRE_BYTEA] = "\\x00ffAB\x1e\\x\x1e\\x0",
        [WIRE_UUID] = "00112233-4455-6677-8899-aabbccddeeff",
        [WIRE_DATE] = "2024-02-29\x1e"
                      "4714-11-24 BC\x1e"
                      "5874897-12-31\x1einfinity\x1e"
                      "0001-01-01",
        [WIRE_TIMESTAMP] = "2024-02-29 23:59:59.123456\x1e"
                           "294276-12-31 23:59:59.999999\x1e"
                           "4714-11-24 00:00:00 BC\x1e"
                           "0002000-01-01 00:00:00.500",
        [WIRE_TIMESTAMPTZ] = "2024-02-29 23:59:59.1+00\x1e-infinity\x1e"
                             "0001-01-01 00:00:00+00 BC",
    };
    const enum column_wire wire = (enum column_wire)(i % NWIRES);

    if (i >= 2 * NWIRES)
        return false;
    buf_add_char(out, (char) wire);
    buf_add_char(out, i < NWIRES ? 0 : 1);
    if (i < NWIRES)
        buf_add(out, texts[wire]);
    else
        buf_add_bytes(out, "\x01\x02\x03\x04\xff\xfe\x80\x7f\x01\x02\x03\x04\xff\xfe\x80\x7f", 16);
    return true;
}

static const char *const words[] = {"\x1e",
                                    "\x01",
                                    "-",
                                    ".",
                                    "e+",
                                    "e-",
                                    "E",
                                    "NaN",
                                    "Infinity",
                                    "-Infinity",
                                    "infinity",
                                    " BC",
                                    "+00",
                                    "-01-",
                                    ":59",
                                    ".999999",
                                    "0000",
                                    "9999",
                                    "10000",
                                    "2147483648",
                                    "9223372036854775807",
                                    "\\x",
                                    "\\N",
                                    "\\.",
                                    "\"",
                                    "\\",
                                    "NULL",
                                    ",",
                                    "{",
                                    "}",
                                    "\t",
                                    "\n",
                                    "\r",
                                    "00112233-4455-6677-8899-aabbccddeeff",
                                    "2000-02-29",
                                    "1900-02-28",
                                    " 23:59:59",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};
