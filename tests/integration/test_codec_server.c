/*
 * The codec against a server: thousands of values per type, as the server prints them, sent back as
 * text and through the codec; both must come to the same value, the same text and the same bytes.
 * Run by test_programs.py.
 */
#include "pg/codec.h"
#include "programs.h"

#define PIECE 5000

struct type {
    const char *name;
    enum column_wire wire;
    uint32_t oid;
    bool has_equality;
    const char *send;       /* its binary output function */
    const char *candidates; /* a query of one text column; edges and random values */
};

#define SERIES      " FROM generate_series(1, 20000) g"
#define EDGES(list) " UNION ALL SELECT unnest(ARRAY[" list "])::text"

/* Quotes, escapes, separators, control characters and characters of two to four bytes. */
#define WILD_TEXT                                                                                  \
    "(SELECT coalesce(string_agg(chr((ARRAY[34,39,92,44,123,125,32,10,9,1,65,233,8364,128512])"    \
    "[1 + floor(random() * 14)::int]), ''), '') FROM generate_series(1, g % 30))"

static const struct type types[] = {
    {"bool", WIRE_BOOL, 16, true, "boolsend", "SELECT (random() < 0.5)::text" SERIES},
    {"int2", WIRE_INT2, 21, true, "int2send",
     "SELECT floor(random() * 65536 - 32768)::int2::text" SERIES EDGES(
         "-32768,32767,0,-1,9,10,99,-100")},
    {"int4", WIRE_INT4, 23, true, "int4send",
     "SELECT floor(random() * 4294967296 - 2147483648)::int4::text" SERIES EDGES(
         "-2147483648,2147483647,0,-1,-9,1000000000")},
    {"int8", WIRE_INT8, 20, true, "int8send",
     "SELECT (floor((random() - 0.5) * power(10, random() * 18.9))::int8)::text" SERIES EDGES(
         "-9223372036854775808,9223372036854775807,0,-1,999999999999999999")},
    {"oid", WIRE_OID, 26, true, "oidsend",
     "SELECT floor(random() * 4294967296)::int8::oid::text" SERIES EDGES(
         "'4294967295','0','2147483648'")},
    {"float4", WIRE_FLOAT4, 700, true, "float4send",
     "SELECT ((random() - 0.5) * power(10, random() * 76 - 38))::float4::text" SERIES
     " UNION ALL SELECT (floor(random() * 1e7) / 100)::float4::text" SERIES EDGES(
         "'NaN','Infinity','-Infinity','0','-0','1e-45','3.4028235e38','1.1754944e-38',"
         "'1.17549421e-38','16777216','16777217','0.1','1e10','1e11'")},
    {"float8", WIRE_FLOAT8, 701, true, "float8send",
     "SELECT ((random() - 0.5) * power(10, random() * 600 - 300))::float8::text" SERIES
     " UNION ALL SELECT (floor(random() * 1e9) / 1000)::float8::text" SERIES
     " UNION ALL SELECT (random() * 1e22)::float8::text" SERIES EDGES(
         "'NaN','Infinity','-Infinity','0','-0','5e-324','2.2250738585072014e-308',"
         "'2.225073858507201e-308','1.7976931348623157e308','9007199254740993','0.1','1e22','1e23',"
         "'9007199254740992e22','123456789012345680000','4.35','0.3','2.5e-5'")},
    {"numeric", WIRE_NUMERIC, 1700, true, "numeric_send",
     "SELECT round(((random() - 0.5) * power(10, random() * 30 - 10))::numeric, (g % "
     "25))::text" SERIES " UNION ALL SELECT ((random() * 1e15)::int8::numeric * power(10::numeric, "
     "(g % 60)))::text" SERIES
     " UNION ALL SELECT round(power(10::numeric, -(g % 90)) * (g % 10007), (g % 100))::text" SERIES
         EDGES("'NaN','Infinity','-Infinity','0','0.0','0.0000','-0.00','1','10','100','1000','"
               "10000',"
               "'100000','0.1','0.01','0.001','0.0001','0.00001','9999','9999.9999','10000.0001',"
               "'1.10','-1.0000000000','12345678901234567890.123456789012345678901',"
               "'99999999999999999999999999999999999999','0.99999999999999999999'")
             EDGES("repeat('9', 3000) || '.' || repeat('1', 3000), '0.' || repeat('0', 3999) || "
                   "'7'")},
    {"text", WIRE_STRING, 25, true, "textsend", "SELECT " WILD_TEXT SERIES EDGES("'','NULL','{}'")},
    {"varchar", WIRE_STRING, 1043, true, "varcharsend", "SELECT " WILD_TEXT SERIES},
    {"bpchar", WIRE_STRING, 1042, true, "bpcharsend", "SELECT rpad(" WILD_TEXT ", 40)" SERIES},
    {"name", WIRE_STRING, 19, true, "namesend", "SELECT left(" WILD_TEXT ", 15)" SERIES},
    {"json", WIRE_STRING, 114, false, "json_send",
     "SELECT json_build_object(" WILD_TEXT " || 'k', " WILD_TEXT
     ", 'n', g)::text" SERIES EDGES("'null','1','\"\"','[]','{ \"a\" :1, \"a\": 2 }'")},
    {"xml", WIRE_STRING, 142, false, "xml_send",
     "SELECT xmlelement(name a, xmlattributes(g AS b), 'x<&>é' || g)::text FROM generate_series(1, "
     "2000) g"},
    {"jsonb", WIRE_JSONB, 3802, true, "jsonb_send",
     "SELECT jsonb_build_object(" WILD_TEXT " || 'k', " WILD_TEXT
     ", 'n', round((random() * 1e6)::numeric, g % 9))::text" SERIES EDGES(
         "'null','1.00','\"\"','[]'")},
    {"bytea", WIRE_BYTEA, 17, true, "byteasend",
     "SELECT substr(sha512(g::text::bytea), 1, g % 65)::text" SERIES EDGES("'\\x'")},
    {"uuid", WIRE_UUID, 2950, true, "uuid_send",
     "SELECT gen_random_uuid()::text" SERIES EDGES("'00000000-0000-0000-0000-000000000000'")},
    {"date", WIRE_DATE, 1082, true, "date_send",
     "SELECT ('2000-01-01'::date + floor((random() - 0.5) * 200000)::int)::text" SERIES
     " UNION ALL SELECT ('4714-11-24 BC'::date + floor(random() * "
     "2147480000)::int8::int)::text" SERIES
     " UNION ALL SELECT ('0001-03-01'::date - g / 10)::text" SERIES
     " UNION ALL SELECT ('4713-01-01 BC'::date + g * 86)::text" SERIES EDGES(
         "'infinity','-infinity','4714-11-24 BC','5874897-12-31','0001-01-01','0001-12-31 BC',"
         "'2000-02-29','1900-02-28','0005-02-29 BC','9999-12-31','10000-01-01'")},
    {"timestamp", WIRE_TIMESTAMP, 1114, true, "timestamp_send",
     "SELECT ('2000-01-01'::timestamp + (random() - 0.5) * interval '200 years')::text" SERIES
     " UNION ALL SELECT ('4714-11-24 BC'::timestamp + random() * interval '298900 "
     "years')::text" SERIES
     " UNION ALL SELECT ('0003-01-01'::timestamp - random() * interval '5 years')::text" SERIES
     " UNION ALL SELECT date_trunc((ARRAY['second', 'minute', 'milliseconds', 'day'])[1 + g % 4],"
     "  '2020-01-01'::timestamp + random() * interval '9 years')::text" SERIES EDGES(
         "'infinity','-infinity','4714-11-24 00:00:00 BC','294276-12-31 23:59:59.999999',"
         "'1999-12-31 23:59:59.999999','2000-01-01 00:00:00','1970-01-01 00:00:00.000001'")},
    {"timestamptz", WIRE_TIMESTAMPTZ, 1184, true, "timestamptz_send",
     "SELECT ('2000-01-01'::timestamptz + (random() - 0.5) * interval '200 years')::text" SERIES
     " UNION ALL SELECT ('4714-11-24 00:00+00 BC'::timestamptz + random() * interval '298900 "
     "years')"
     "::text" SERIES EDGES(
         "'infinity','-infinity','4714-11-24 00:00:00+00 BC','294276-12-31 23:59:59.999999+00'")},
    /* These travel as text arrays of their own type. */
    {"interval", WIRE_TEXT, 0, true, "interval_send",
     "SELECT (random() * interval '100 years' - random() * interval '50 years')::text" SERIES},
    {"timetz", WIRE_TEXT, 0, true, "timetz_send",
     "SELECT ((random() * interval '24 hours')::time || '+05:30')::timetz::text" SERIES},
    {"inet", WIRE_TEXT, 0, true, "inet_send", "SELECT ('10.1.2.3'::inet + g)::text" SERIES},
    {"point", WIRE_TEXT, 0, false, "point_send", "SELECT point(random(), g)::text" SERIES},
};

static struct pg *server;

static void connect_server(void)
{
    struct error err;

    server = connect_as("ADMIN", PG_MIRROR, false);
    succeed(pg_exec(server, "SELECT setseed(0.42)", &err));
}

/* Rows first…last-1 of the values as both forms of an array; every 97th is NULL, but for the edges
 * at the end. */
static void build(const struct type *type, const struct pg_result *values, int first, int last,
                  struct buf *array, struct buf *text)
{
    bool is_binary = codec_is_binary(type->wire);
    size_t place = 0;

    buf_clear(array);
    buf_clear(text);
    if (is_binary)
        place = codec_array_begin(array, type->oid);
    else
        codec_text_array_begin(array);
    codec_text_array_begin(text);
    for (int row = first; row < last; row++) {
        const char *data = pg_text(values, row, 0);
        uint32_t len = (uint32_t) pg_text_len(values, row, 0);

        if (row % 97 == 0 && row < pg_rows(values) - 100)
            data = NULL;
        codec_text_array_add(text, data, len);
        if (!is_binary)
            codec_text_array_add(array, data, len);
        else if (data == NULL)
            codec_add_null(array);
        else if (!codec_add(type->wire, data, len, array))
            fail_msg("%s: no binary form for '%s'", type->name, data);
    }
    codec_text_array_end(text);
    if (is_binary)
        codec_array_end(array, place, (uint32_t) (last - first), true);
    else
        codec_text_array_end(array);
}

static void compare(const struct type *type, const char *sql, const struct pg_result *values)
{
    _cleanup_buf_ struct buf array = {0}, text = {0};
    struct error err;

    for (int first = 0; first < pg_rows(values); first += PIECE) {
        int last = first + PIECE < pg_rows(values) ? first + PIECE : pg_rows(values);
        struct pg_param params[2];
        _cleanup_result_ struct pg_result *result = NULL;

        build(type, values, first, last, &array, &text);
        params[0] = (struct pg_param){array.data, array.len, codec_is_binary(type->wire)};
        params[1] = (struct pg_param){text.data, text.len, false};
        if (!pg_pipeline_enter(server, &err) || !pg_send_query(server, sql, 2, params, &err) ||
            !pg_pipeline_next(server, &result, &err))
            fail_msg("%s: %s", type->name, err.message);
        assert_int_equal(pg_int(result, 0, 0), last - first);
        if (pg_int(result, 0, 1) != 0)
            fail_msg("%s: %s of %d values differ, for example %s", type->name,
                     pg_text(result, 0, 1), last - first, pg_text(result, 0, 2));
        if (!pg_pipeline_drain(server, &err))
            fail_msg("%s: %s", type->name, err.message);
    }
}

static void the_server_reads_the_same(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const struct type *type = &types[i];
        _cleanup_result_ struct pg_result *values = NULL;
        _cleanup_buf_ struct buf sql = {0};
        struct error err;

        /* No cast to text: the output function's form is what the stream has (bool is t). */
        buf_printf(&sql, "SELECT v::%s FROM (%s) AS c(v)", type->name, type->candidates);
        if (!pg_query(server, buf_text(&sql), 0, NULL, &values, &err))
            fail_msg("%s: %s", type->name, err.message);
        assert_true(pg_rows(values) >= 2000);

        buf_clear(&sql);
        buf_add(&sql, "SELECT count(*), count(*) FILTER (WHERE wrong), min(t) FILTER (WHERE wrong)"
                      " FROM (SELECT t, (");
        if (type->has_equality)
            buf_printf(&sql, "b IS DISTINCT FROM t::%s OR ", type->name);
        buf_printf(
            &sql,
            "b::text IS DISTINCT FROM t::%s::text OR %s(b) IS DISTINCT FROM %s(t::%s)) AS wrong"
            " FROM unnest($1::%s[], $2::text[]) AS u(b, t)) AS v",
            type->name, type->send, type->send, type->name, type->name);
        compare(type, buf_text(&sql), values);
        printf("  %-12s %d values\n", type->name, pg_rows(values));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_server_reads_the_same)};
    int failed;

    connect_server();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_free(server);
    return failed;
}
