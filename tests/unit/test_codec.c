/* The codec's edges that need no server; tests/integration/test_codec_server.c compares it with
 * one. */
#include "pg/codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* The value's bytes as hexadecimal text without the length, or "no". */
static const char *hex(enum column_wire wire, const char *text)
{
    static char result[512];
    _cleanup_buf_ struct buf out = {0};
    size_t len = strlen(text);
    /* A copy of exactly this size, for AddressSanitizer. */
    _cleanup_free_ char *exact = malloc(len > 0 ? len : 1);

    memcpy(exact, text, len);
    buf_add(&out, "before");
    if (!codec_add(wire, exact, (uint32_t) len, &out)) {
        assert_string_equal(buf_text(&out), "before");
        assert_int_equal(out.len, 6);
        return "no";
    }
    assert_int_equal(out.data[out.len], 0);
    assert_int_equal(__builtin_bswap32(*(uint32_t *) (void *) memcpy(result, out.data + 6, 4)),
                     out.len - 10);
    result[0] = '\0';
    for (size_t i = 10; i < out.len; i++)
        sprintf(result + 2 * (i - 10), "%02x", (unsigned char) out.data[i]);
    return result;
}

struct example {
    enum column_wire wire;
    const char *text;
    const char *bytes;
};

static const struct example examples[] = {
    {WIRE_BOOL, "t", "01"},
    {WIRE_BOOL, "f", "00"},
    {WIRE_INT2, "-32768", "8000"},
    {WIRE_INT4, "2147483647", "7fffffff"},
    {WIRE_INT8, "-9223372036854775808", "8000000000000000"},
    {WIRE_INT8, "9223372036854775807", "7fffffffffffffff"},
    {WIRE_OID, "4294967295", "ffffffff"},
    {WIRE_FLOAT4, "1.5", "3fc00000"},
    {WIRE_FLOAT4, "-0", "80000000"},
    {WIRE_FLOAT4, "1e-45", "00000001"},
    {WIRE_FLOAT8, "0.1", "3fb999999999999a"},
    {WIRE_FLOAT8, "NaN", "7ff8000000000000"},
    {WIRE_FLOAT8, "-Infinity", "fff0000000000000"},
    {WIRE_FLOAT8, "1.7976931348623157e+308", "7fefffffffffffff"},
    {WIRE_FLOAT8, "5e-324", "0000000000000001"},
    {WIRE_NUMERIC, "0", "0000000000000000"},
    {WIRE_NUMERIC, "0.00", "0000000000000002"},
    {WIRE_NUMERIC, "-12345.6", "0003000140000001000109291770"},
    {WIRE_NUMERIC, "0.00000001", "0001fffe000000080001"},
    {WIRE_NUMERIC, "100000000", "00010002000000000001"},
    {WIRE_NUMERIC, "NaN", "00000000c0000000"},
    {WIRE_STRING, "", ""},
    {WIRE_STRING, "ab", "6162"},
    {WIRE_JSONB, "{}", "017b7d"},
    {WIRE_BYTEA, "\\x", ""},
    {WIRE_BYTEA, "\\x00fF", "00ff"},
    {WIRE_UUID, "00112233-4455-6677-8899-aabbccddeeff", "00112233445566778899aabbccddeeff"},
    {WIRE_DATE, "2000-01-01", "00000000"},
    {WIRE_DATE, "1999-12-31", "ffffffff"},
    {WIRE_DATE, "4714-11-24 BC", "ffda97a7"},
    {WIRE_DATE, "5874897-12-31", "7fda970c"},
    {WIRE_DATE, "-infinity", "80000000"},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:01.5", "000000000016e360"},
    {WIRE_TIMESTAMP, "infinity", "7fffffffffffffff"},
    {WIRE_TIMESTAMPTZ, "1999-12-31 23:59:59.999999+00", "ffffffffffffffff"},
};

static const struct example refused[] = {
    {WIRE_CAST, "{1}"},
    {WIRE_TEXT, "x"},
    {WIRE_BOOL, "true"},
    {WIRE_BOOL, ""},
    {WIRE_INT2, "32768"},
    {WIRE_INT2, "-32769"},
    {WIRE_INT4, "2147483648"},
    {WIRE_INT4, ""},
    {WIRE_INT4, "-"},
    {WIRE_INT4, "+1"},
    {WIRE_INT4, " 1"},
    {WIRE_INT4, "1 "},
    {WIRE_INT4, "0x1"},
    {WIRE_INT8, "9223372036854775808"},
    {WIRE_INT8, "-9223372036854775809"},
    {WIRE_INT8, "18446744073709551617"},
    {WIRE_OID, "4294967296"},
    {WIRE_OID, "-1"},
    {WIRE_FLOAT4, "1e39"},
    {WIRE_FLOAT4, "1e-46"},
    {WIRE_FLOAT8, "1e309"},
    {WIRE_FLOAT8, "1e-400"},
    {WIRE_FLOAT8, "inf"},
    {WIRE_FLOAT8, "0x1p3"},
    {WIRE_FLOAT8, "1,5"},
    {WIRE_FLOAT8, "."},
    {WIRE_FLOAT8, "1e"},
    {WIRE_FLOAT8, "1e+"},
    {WIRE_FLOAT8, "1.2.3"},
    {WIRE_FLOAT8, "-"},
    {WIRE_FLOAT8, ""},
    {WIRE_NUMERIC, ""},
    {WIRE_NUMERIC, "-"},
    {WIRE_NUMERIC, "1e5"},
    {WIRE_NUMERIC, "1.2.3"},
    {WIRE_NUMERIC, ".5"},
    {WIRE_NUMERIC, "1-"},
    {WIRE_NUMERIC, "-NaN"},
    {WIRE_BYTEA, ""},
    {WIRE_BYTEA, "\\"},
    {WIRE_BYTEA, "\\x0"},
    {WIRE_BYTEA, "\\x0g"},
    {WIRE_BYTEA, "\\000"},
    {WIRE_UUID, "00112233-4455-6677-8899-aabbccddeef"},
    {WIRE_UUID, "00112233-4455-6677-8899-aabbccddeefg"},
    {WIRE_UUID, "{0112233-4455-6677-8899-aabbccddeef}"},
    {WIRE_DATE, ""},
    {WIRE_DATE, "0000-01-01"},
    {WIRE_DATE, "2001-02-29"},
    {WIRE_DATE, "1900-02-29"},
    {WIRE_DATE, "2000-13-01"},
    {WIRE_DATE, "2000-00-01"},
    {WIRE_DATE, "2000-01-32"},
    {WIRE_DATE, "2000-01-00"},
    {WIRE_DATE, "2000-1-1"},
    {WIRE_DATE, "02/03/2024"},
    {WIRE_DATE, "4714-11-23 BC"},
    {WIRE_DATE, "5874898-01-01"},
    {WIRE_DATE, "2000-01-01 AD"},
    {WIRE_TIMESTAMP, "2000-01-01"},
    {WIRE_TIMESTAMP, "2000-01-01 24:00:00"},
    {WIRE_TIMESTAMP, "2000-01-01 00:60:00"},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:60"},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:00."},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:00.1234567"},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:00.12345678901234567890"},
    {WIRE_TIMESTAMP, "2000-01-01 00:00:00+00"},
    {WIRE_TIMESTAMP, "2000-01-01T00:00:00"},
    {WIRE_TIMESTAMP, "294277-01-01 00:00:00"},
    {WIRE_TIMESTAMPTZ, "2000-01-01 00:00:00"},
    {WIRE_TIMESTAMPTZ, "2000-01-01 00:00:00+01"},
    {WIRE_TIMESTAMPTZ, "2000-01-01 00:00:00+05:30"},
};

static void values_become_binary(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        assert_string_equal(hex(examples[i].wire, examples[i].text), examples[i].bytes);
}

static void odd_values_are_refused(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        if (strcmp(hex(refused[i].wire, refused[i].text), "no") != 0)
            fail_msg("taken: \"%s\"", refused[i].text);
}

/* Every prefix of a good value is either refused or a value of its own, and nothing reads past it.
 */
static void prefixes_are_safe(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        for (size_t len = 0; len < strlen(examples[i].text); len++) {
            char prefix[64];

            snprintf(prefix, sizeof(prefix), "%.*s", (int) len, examples[i].text);
            hex(examples[i].wire, prefix);
        }
}

static void arrays_are_framed(void **state)
{
    _cleanup_buf_ struct buf out = {0};
    size_t place;

    (void) state;
    buf_add(&out, "x");
    place = codec_array_begin(&out, 23);
    assert_true(codec_add(WIRE_INT4, "7", 1, &out));
    codec_add_null(&out);
    codec_array_end(&out, place, 2, true);
    assert_int_equal(out.len, 1 + 20 + 8 + 4);
    assert_memory_equal(
        out.data, "x\0\0\0\1\0\0\0\1\0\0\0\27\0\0\0\2\0\0\0\1\0\0\0\4\0\0\0\7\377\377\377\377",
        out.len);
    buf_clear(&out);
    codec_array_end(&out, codec_array_begin(&out, 23), 0, false);
    assert_int_equal(out.len, 12);
    assert_memory_equal(out.data, "\0\0\0\0\0\0\0\0\0\0\0\27", 12);
}

static void text_arrays_are_quoted(void **state)
{
    _cleanup_buf_ struct buf out = {0};

    (void) state;
    codec_text_array_begin(&out);
    codec_text_array_end(&out);
    assert_string_equal(buf_text(&out), "{}");
    buf_clear(&out);
    codec_text_array_begin(&out);
    codec_text_array_add(&out, "", 0);
    codec_text_array_add(&out, NULL, 0);
    codec_text_array_add(&out, "NULL", 4);
    codec_text_array_add(&out, "a\"b\\c,{} ", 9);
    codec_text_array_end(&out);
    assert_string_equal(buf_text(&out), "{\"\",NULL,\"NULL\",\"a\\\"b\\\\c,{} \"}");
}

static void copied_values_are_escaped(void **state)
{
    _cleanup_buf_ struct buf out = {0};

    (void) state;
    codec_copy_add(&out, "", 0);
    assert_string_equal(buf_text(&out), "");
    codec_copy_add(&out, "a\tb\nc\rd\\e\"f", 11);
    assert_string_equal(buf_text(&out), "a\\tb\\nc\\rd\\\\e\"f");
    assert_int_equal(out.len, strlen(out.data));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_become_binary),   cmocka_unit_test(odd_values_are_refused),
        cmocka_unit_test(prefixes_are_safe),      cmocka_unit_test(arrays_are_framed),
        cmocka_unit_test(text_arrays_are_quoted), cmocka_unit_test(copied_values_are_escaped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
