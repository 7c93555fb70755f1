/*
 * The JSON of wal2json's messages against RFC 8259, case by case.  A case is
 *
 *     y   taken: JSON
 *     n   refused: no JSON
 *     s   refused although it is JSON, for a reason:
 *           - \u0000: no PostgreSQL text holds it
 *           - half a surrogate pair: no character (section 8.2 leaves it open); a UTF8 database holds
 *             none, and escape_json() writes only \b \f \n \r \t \" \\ and \u00XX below the blank
 *           - white space between tokens, keys in another order, twice, unknown, or written with
 *             escapes: wal2json writes none, and what is not expected stops the pipeline
 *
 * Nothing is taken that is no JSON, but for the bytes of logical messages (P66).  Numbers have no
 * limits: they are not read but passed on as they are written (P8).
 *
 * That the cases are filed rightly is checked with another reader (tests/fixtures/rfc8259.h).
 */
#include "../../plugins/wal2json/json.h"
#include "fixture.h"
#include "rfc8259.h"
#include "session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct one {
    char kind;
    const char *text;
    size_t len;
    const char *want; /* of a string, decoded; NULL: the text between its quotes */
};

/* Literals may hold zero bytes. */
#define Y(text)                                                                                    \
    {                                                                                              \
        'y', text, sizeof(text) - 1                                                                \
    }
#define N(text)                                                                                    \
    {                                                                                              \
        'n', text, sizeof(text) - 1                                                                \
    }
#define S(text)                                                                                    \
    {                                                                                              \
        's', text, sizeof(text) - 1                                                                \
    }
#define IS(text, want)                                                                             \
    {                                                                                              \
        'y', text, sizeof(text) - 1, want                                                          \
    }

static const struct one numbers[] = {
    /* int */
    Y("0"),
    Y("1"),
    Y("9"),
    Y("10"),
    Y("19"),
    Y("90"),
    Y("123"),
    Y("100000"),
    Y("1234567890"),
    Y("-0"),
    Y("-1"),
    Y("-10"),
    Y("-123"),
    Y("2147483647"),
    Y("-2147483648"),
    Y("4294967296"),
    Y("9007199254740993"),
    Y("9223372036854775807"),
    Y("-9223372036854775808"),
    Y("9223372036854775808"),
    Y("18446744073709551616"),
    Y("123456789012345678901234567890123456789012345678901234567890"),
    Y("-123456789012345678901234567890123456789012345678901234567890"),
    /* frac */
    Y("0.0"),
    Y("0.1"),
    Y("1.0"),
    Y("1.50"),
    Y("-0.0"),
    Y("-0.01"),
    Y("10.001"),
    Y("0.000000"),
    Y("0.00000000000000000000000000000000000000000000000000000000000000000001"),
    Y("3.14159265358979323846264338327950288"),
    Y("123456789012345678901234567890.123456789"),
    /* exp */
    Y("0e0"),
    Y("0E0"),
    Y("0e+0"),
    Y("0e-0"),
    Y("1e5"),
    Y("1E5"),
    Y("1e+5"),
    Y("1E+5"),
    Y("1e-5"),
    Y("1E-5"),
    Y("1e05"),
    Y("1e005"),
    Y("-1e5"),
    Y("1.5e5"),
    Y("1.5E-5"),
    Y("-1.5e+300"),
    Y("0.1e1"),
    Y("1e-300"),
    Y("5e-324"),
    Y("1.7976931348623157e+308"),
    Y("1e400"),
    Y("1e-400"),
    Y("-1e400"),
    Y("1e99999999999999999999"),
    Y("1e-99999999999999999999"),
    Y("0.4e00669999999999999999999999999999999999999999999999999999999999999999999999999"),
    Y("123.456e78"),
    /* leading zeros */
    N("00"),
    N("01"),
    N("-01"),
    N("-00"),
    N("012"),
    N("00.1"),
    N("-00.1"),
    N("00e1"),
    N("01e1"),
    /* incomplete */
    N(""),
    N("-"),
    N("."),
    N("1."),
    N("-1."),
    N("0."),
    N("1.e1"),
    N(".5"),
    N("-.5"),
    N(".e1"),
    N("1e"),
    N("1E"),
    N("1e+"),
    N("1e-"),
    N("1.0e"),
    N("1.0e+"),
    N("e1"),
    N("E1"),
    N("-e1"),
    N("0.e1"),
    N("0e"),
    N("0e+"),
    /* signs */
    N("+1"),
    N("+0"),
    N("++1"),
    N("--1"),
    N("-+1"),
    N("+-1"),
    N("- 1"),
    N("1-"),
    N("1+"),
    N("1+2"),
    N("1-2"),
    N("0-1"),
    /* several */
    N("1.2.3"),
    N("1..2"),
    N("1e2e3"),
    N("1e2.3"),
    N("1.2e3.4"),
    N("1ee2"),
    N("1e+-2"),
    N("1e1e1"),
    N("0.1.2"),
    /* other notations */
    N("0x0"),
    N("0x1"),
    N("0x1p3"),
    N("0b1"),
    N("0o7"),
    N("1_000"),
    N("1,000"),
    N("1 000"),
    N("1a"),
    N("1f"),
    N("1L"),
    N("0.1f"),
    N("1e1a"),
    N("a"),
    N("#1"),
    N("1/2"),
    N("1%"),
    N("NaN"),
    N("nan"),
    N("-NaN"),
    N("+NaN"),
    N("Inf"),
    N("inf"),
    N("-Inf"),
    N("Infinity"),
    N("-Infinity"),
    N("+Infinity"),
    N("infinity"),
    N("1.#INF"),
    N("-foo"),
    N("1\0"),
    N("\0"),
    N("1\x80"),
    N("\xef\xbc\x91"),
    N("\xd9\xa1"),
    N("0\xe5"),
    N("1e1\xe5"),
    N("\xef\xbb\xbf"
      "1"),
    N("0x"),
    N("1'"),
    N("'1'"),
    N("(1)"),
    N("$1"),
    N("1d"),
    N("1e1d"),
    N("i"),
    N("1i"),
};

static const struct one strings[] = {
    /* plain */
    Y("\"\""),
    Y("\" \""),
    Y("\"a\""),
    Y("\"abc\""),
    Y("\"abcdefg\""),
    Y("\"abcdefgh\""),
    Y("\"abcdefghi\""),
    Y("\"0\""),
    Y("\"null\""),
    Y("\"[1,{}]\""),
    Y("\"/\""),
    Y("\"'\""),
    Y("\"#\""),
    Y("\"!\""),
    Y("\"~\""),
    Y("\"\x7f\""),
    Y("\"a\x7f"
      "b\""),
    Y("\"// no comment\""),
    Y("\"/* nor this */\""),
    Y("\"${x} %s\""),
    /* escapes */
    IS("\"\\\"\"", "\""),
    IS("\"\\\\\"", "\\"),
    IS("\"\\/\"", "/"),
    IS("\"\\b\"", "\b"),
    IS("\"\\f\"", "\f"),
    IS("\"\\n\"", "\n"),
    IS("\"\\r\"", "\r"),
    IS("\"\\t\"", "\t"),
    IS("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"),
    IS("\"\\\\n\"", "\\n"),
    IS("\"\\\\u0041\"", "\\u0041"),
    IS("\"\\\\\\\"\"", "\\\""),
    IS("\"a\\nb\"", "a\nb"),
    IS("\"\\\\\\\\\"", "\\\\"),
    IS("\"1234567\\\"\"", "1234567\""),
    IS("\"\\\"1234567\"", "\"1234567"),
    IS("\"12345678\\\\12345678\"", "12345678\\12345678"),
    /* \u */
    IS("\"\\u0041\"", "A"),
    IS("\"\\u0020\"", " "),
    IS("\"\\u0022\"", "\""),
    IS("\"\\u005c\"", "\\"),
    IS("\"\\u005C\"", "\\"),
    IS("\"\\u002f\"", "/"),
    IS("\"\\u0001\"", "\x01"),
    IS("\"\\u001f\"", "\x1f"),
    IS("\"\\u007f\"", "\x7f"),
    IS("\"\\u0080\"", "\xc2\x80"),
    IS("\"\\u00e9\"", "\xc3\xa9"),
    IS("\"\\u00E9\"", "\xc3\xa9"),
    IS("\"\\u07ff\"", "\xdf\xbf"),
    IS("\"\\u0800\"", "\xe0\xa0\x80"),
    IS("\"\\u20ac\"", "\xe2\x82\xac"),
    IS("\"\\uabCD\"", "\xea\xaf\x8d"),
    IS("\"\\ud7ff\"", "\xed\x9f\xbf"),
    IS("\"\\ue000\"", "\xee\x80\x80"),
    IS("\"\\ufeff\"", "\xef\xbb\xbf"),
    IS("\"\\ufdd0\"", "\xef\xb7\x90"),
    IS("\"\\ufffe\"", "\xef\xbf\xbe"),
    IS("\"\\uffff\"", "\xef\xbf\xbf"),
    IS("\"\\u2028\\u2029\"", "\xe2\x80\xa8\xe2\x80\xa9"),
    IS("\"\\u00410\"", "A0"),
    IS("\"a\\u0062c\"", "abc"),
    IS("\"\\u0061\\u30af\"", "a\xe3\x82\xaf"),
    IS("\"\\u0012\"", "\x12"),
    /* pairs */
    IS("\"\\ud800\\udc00\"", "\xf0\x90\x80\x80"),
    IS("\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf"),
    IS("\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"),
    IS("\"\\uD83D\\uDE00\"", "\xf0\x9f\x98\x80"),
    IS("\"\\ud801\\udc37\"", "\xf0\x90\x90\xb7"),
    IS("\"x\\ud83d\\ude39y\"", "x\xf0\x9f\x98\xb9y"),
    IS("\"\\ud83f\\udffe\"", "\xf0\x9f\xbf\xbe"),
    IS("\"\\ud834\\udd1e\"", "\xf0\x9d\x84\x9e"),
    /* halves, and the character that no text holds */
    S("\"\\ud800\""),
    S("\"\\ud83d\""),
    S("\"\\udbff\""),
    S("\"\\udc00\""),
    S("\"\\ude00\""),
    S("\"\\udfff\""),
    S("\"\\uDd1e\\uD834\""),
    S("\"\\ud800\\ud800\""),
    S("\"\\ud800\\u0041\""),
    S("\"\\ud800\\n\""),
    S("\"\\ud800abc\""),
    S("\"a\\udc00\""),
    S("\"\\ud800\\ud800\\udc00\""),
    S("\"\\udc00\\ud800\\udc00\""),
    S("\"\\ud888\\u1234\""),
    S("\"\\udada\""),
    S("\"\\uDFAA\""),
    S("\"\\u0000\""),
    S("\"a\\u0000b\""),
    S("\"\\u0000\\u0041\""),
    /* bad escapes */
    N("\"\\\""),
    N("\"\\\\\\\""),
    N("\"\\a\""),
    N("\"\\v\""),
    N("\"\\0\""),
    N("\"\\x41\""),
    N("\"\\'\""),
    N("\"\\B\""),
    N("\"\\N\""),
    N("\"\\U0041\""),
    N("\"\\ \""),
    N("\"\\\n\""),
    N("\"\\\t\""),
    N("\"\\\0\""),
    N("\"\\\x01\""),
    N("\"\\\xe5\""),
    N("\"\\\xc3\xa9\""),
    N("\"\\\xf0\x9f\x8c\x80\""),
    N("\"\\u\""),
    N("\"\\u0\""),
    N("\"\\u00\""),
    N("\"\\u00A\""),
    N("\"\\u004\""),
    N("\"\\uqqqq\""),
    N("\"\\u004g\""),
    N("\"\\ug041\""),
    N("\"\\u 041\""),
    N("\"\\u-041\""),
    N("\"\\u+041\""),
    N("\"\\u0x41\""),
    N("\"\\u{41}\""),
    N("\"\\ud83d\\\""),
    N("\"\\ud83d\\u\""),
    N("\"\\ud83d\\u1\""),
    N("\"\\ud83d\\ude0\""),
    N("\"\\ud83d\\x\""),
    N("\"\\ud83d\\ude0g\""),
    N("\"\\*\""),
    N("\"\\1\""),
    N("\"\\u\0"
      "041\""),
    /* control characters */
    N("\"\0\""),
    N("\"\x01\""),
    N("\"\x08\""),
    N("\"\t\""),
    N("\"\n\""),
    N("\"\x0b\""),
    N("\"\r\""),
    N("\"\x1b\""),
    N("\"\x1f\""),
    N("\"a\nb\""),
    N("\"a\0b\""),
    N("\"abcdefgh\tijklmnop\""),
    N("\"abcdefg\x1f\""),
    N("\"abcdefgh\x1f\""),
    /* UTF-8 */
    Y("\"\xc2\x80\""),
    Y("\"\xc3\xa9\""),
    Y("\"\xdf\xbf\""),
    Y("\"\xe0\xa0\x80\""),
    Y("\"\xe2\x82\xac\""),
    Y("\"\xed\x9f\xbf\""),
    Y("\"\xee\x80\x80\""),
    Y("\"\xef\xbb\xbf\""),
    Y("\"\xef\xbf\xbe\""),
    Y("\"\xef\xbf\xbf\""),
    Y("\"\xf0\x90\x80\x80\""),
    Y("\"\xf0\x9f\x98\x80\""),
    Y("\"\xf4\x8f\xbf\xbf\""),
    Y("\"caf\xc3\xa9 \xe2\x82\xac 5\""),
    Y("\"\xe2\x80\xa8\xe2\x80\xa9\""),
    Y("\"1234567\xc3\xa9\""),
    Y("\"12345678\xc3\xa9\""),
    Y("\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\""),
    N("\"\x80\""),
    N("\"\xbf\""),
    N("\"\xc3\""),
    N("\"\xc3\xa9\xa9\""),
    N("\"\xc3"
      "a\""),
    N("\"\xc3\xc3\xa9\""),
    N("\"\xe9\""),
    N("\"\xe2\x82\""),
    N("\"\xe2\x82"
      "a\""),
    N("\"\xe2\""),
    N("\"\xf0\x9f\x98\""),
    N("\"\xf0\x9f\""),
    N("\"\xf0\""),
    N("\"\xfe\""),
    N("\"\xff\""),
    N("\"\xfe\xff\""),
    N("\"caf\xe9 au lait\""),
    N("\"1234567\xe9\""),
    N("\"12345678\xe9\""),
    /* overlong forms, surrogates, beyond 10FFFF */
    N("\"\xc0\x80\""),
    N("\"\xc0\xaf\""),
    N("\"\xc1\xbf\""),
    N("\"\xe0\x80\x80\""),
    N("\"\xe0\x80\xaf\""),
    N("\"\xe0\x9f\xbf\""),
    N("\"\xf0\x80\x80\x80\""),
    N("\"\xf0\x8f\xbf\xbf\""),
    N("\"\xed\xa0\x80\""),
    N("\"\xed\xad\xbf\""),
    N("\"\xed\xae\x80\""),
    N("\"\xed\xaf\xbf\""),
    N("\"\xed\xb0\x80\""),
    N("\"\xed\xbf\xbf\""),
    N("\"\xed\xa0\x80\xed\xb0\x80\""),
    N("\"\xf4\x90\x80\x80\""),
    N("\"\xf5\x80\x80\x80\""),
    N("\"\xf7\xbf\xbf\xbf\""),
    N("\"\xf8\x88\x80\x80\x80\""),
    N("\"\xfc\x84\x80\x80\x80\x80\""),
    /* no string */
    N(""),
    N("\""),
    N("a"),
    N("abc"),
    N("'a'"),
    N("`a`"),
    N("\"a"),
    N("a\""),
    N("\"a'"),
    N("\"\"\""),
    S("\"a\" "),
    S(" \"a\""),
    N("\"a\"b"),
    N("\"a\"\"b\""),
    N("\\u0022a\\u0022"),
    N("\xe2\x80\x9c"
      "a\xe2\x80\x9d"),
    N("\xef\xbb\xbf\"a\""),
    N("\"abcdefgh"),
    N("\"abcdefghijklmnop"),
    N("\"a\0"),
    N("\"a\"\0"),
};

/* Whole messages.  The decoder is inside transaction 7 and knows public.t. */
#define LEAD   ",\"xid\":7,\"timestamp\":\"2026-11-22 01:40:00.123456+00\""
#define BEGIN  "{\"action\":\"B\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"
#define COMMIT "{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"
#define HEAD   "{\"action\":\"I\"" LEAD ",\"lsn\":\"0/1\",\"schema\":\"public\",\"table\":\"t\""
#define ID     "{\"name\":\"id\",\"typeoid\":23,\"value\":1,\"position\":1}"
#define TEXT   "{\"name\":\"t\",\"typeoid\":25,\"value\":\"x\",\"position\":2}"
#define INSERT HEAD ",\"columns\":[" ID "," TEXT "]}"
#define VALUE(value)                                                                               \
    HEAD ",\"columns\":[" ID ",{\"name\":\"t\",\"typeoid\":25,\"value\":" value ",\"position\":2}" \
         "]}"
#define NUMBER(value)                                                                              \
    HEAD ",\"columns\":[{\"name\":\"id\",\"typeoid\":23,\"value\":" value ",\"position\":1}," TEXT \
         "]}"

static const struct one messages[] = {
    Y(INSERT),
    Y(COMMIT),
    Y(VALUE("\"\\u0041\"")),
    Y(VALUE("null")),
    Y(HEAD ",\"columns\":[]}"),
    /* white space */
    S(" " INSERT),
    S(INSERT " "),
    S(INSERT "\n"),
    S("\t" INSERT),
    S("{ \"action\":\"C\"}"),
    S("{\"action\" :\"C\"}"),
    S("{\"action\": \"C\"}"),
    S("{\"action\":\"C\" }"),
    S("\r\n" COMMIT),
    S(HEAD ", \"columns\":[" ID "," TEXT "]}"),
    S(HEAD ",\"columns\":[ " ID "," TEXT "]}"),
    S(HEAD ",\"columns\":[" ID ", " TEXT "]}"),
    S(HEAD ",\"columns\":[" ID " ," TEXT "]}"),
    S(HEAD ",\"columns\":[" ID "," TEXT " ]}"),
    S(HEAD ",\"columns\":[" ID "," TEXT "] }"),
    S(VALUE(" \"x\"")),
    S(VALUE("\"x\" ")),
    S(NUMBER(" 1")),
    S(NUMBER("1 ")),
    N("\f" INSERT),
    N("\xc2\xa0" INSERT),
    N("\xef\xbb\xbf" INSERT),
    N(INSERT "\v"),
    N("\0" INSERT),
    N(INSERT "\0"),
    N(HEAD ",\"columns\":[" ID ",\f" TEXT "]}"),
    N(HEAD ",\"columns\":[" ID ",\xe2\x81\xa0" TEXT "]}"),
    /* behind the end */
    N(INSERT INSERT),
    N(INSERT "}"),
    N(INSERT "]"),
    N(INSERT ","),
    N(INSERT "x"),
    N(INSERT "#"),
    N(INSERT "//"),
    N(INSERT "/**/"),
    N(INSERT ";"),
    N(INSERT "\xe5"),
    N(INSERT " {}"),
    /* other texts */
    S("{}"),
    S("[]"),
    S("[[]]"),
    S("null"),
    S("true"),
    S("false"),
    S("0"),
    S("-1.5e3"),
    S("\"\""),
    S("\"action\""),
    S("[" INSERT "]"),
    S("[1,2,3]"),
    S("{\"a\":1}"),
    S("{\"\":0}"),
    S("{\"action\":null}"),
    S("{\"action\":1}"),
    S("{\"action\":[]}"),
    S("{\"action\":{}}"),
    S("{\"action\":\"\"}"),
    S("{\"action\":\"Z\"}"),
    S("{\"action\":\"I\"}"),
    S("{\"b\":\"I\"}"),
    N(""),
    N(" "),
    N("{"),
    N("}"),
    N("["),
    N("]"),
    N("[}"),
    N("{]"),
    N("{{}}"),
    N("[,]"),
    N("{,}"),
    N("[1,]"),
    N("[,1]"),
    N("[1,,2]"),
    N("[1 2]"),
    N("[1:2]"),
    N("{\"a\"}"),
    N("{\"a\":}"),
    N("{\"a\" 1}"),
    N("{:1}"),
    N("{a:1}"),
    N("{'a':1}"),
    N("{1:1}"),
    N("{null:1}"),
    N("{\"a\":1,}"),
    N("{\"a\":1,,\"b\":2}"),
    N("{\"a\":1 \"b\":2}"),
    N("{\"a\"::1}"),
    N("{\"a\",1}"),
    N("[\"a\""),
    N("[1"),
    N("{\"a\":1"),
    N("{\"a\":"),
    N("{\"a\""),
    N("nul"),
    N("nulll"),
    N("Null"),
    N("NULL"),
    N("tru"),
    N("True"),
    N("fals"),
    N("undefined"),
    N("<null>"),
    N("[<null>]"),
    N("*"),
    N("/**/"),
    N("// x"),
    N("{/**/}"),
    N("[1]x"),
    N("[1]]"),
    N("{}}"),
    N("\xff"),
    N("\xef\xbb\xbf"),
    N("\0"),
    /* keys: order, twice, unknown, missing, escaped */
    S("{\"xid\":7,\"action\":\"C\",\"timestamp\":\"2026-11-22 "
      "01:40:00.123456+00\",\"lsn\":\"0/10\","
      "\"nextlsn\":\"0/20\"}"),
    S("{\"action\":\"C\",\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S("{\"action\":\"C\"" LEAD LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S("{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S("{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\",\"more\":1}"),
    S("{\"action\":\"C\"" LEAD ",\"lsn\":\"0/10\"}"),
    S("{\"action\":\"C\"" LEAD "}"),
    S("{\"\\u0061ction\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S("{\"action\":\"\\u0043\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S("{\"ACTION\":\"C\"" LEAD ",\"lsn\":\"0/10\",\"nextlsn\":\"0/20\"}"),
    S(HEAD ",\"columns\":[" ID "," ID "]}"),
    S(HEAD ",\"columns\":[" TEXT "," ID "]}"),
    S(HEAD ",\"columns\":[" ID "," TEXT "],\"columns\":[]}"),
    S(HEAD ",\"columns\":{}}"),
    S(HEAD ",\"columns\":null}"),
    S(HEAD ",\"columns\":[[]]}"),
    S(HEAD ",\"columns\":[{}]}"),
    S(HEAD ",\"columns\":[{\"name\":\"id\"}]}"),
    S(HEAD ",\"columns\":[null]}"),
    S(HEAD "}"),
    S(HEAD
      ",\"columns\":[{\"name\":\"id\",\"typeoid\":23,\"value\":1,\"value\":1,\"position\":1}]}"),
    S(HEAD ",\"columns\":[{\"name\":\"id\",\"typeoid\":23,\"position\":1,\"value\":1}]}"),
    S(HEAD ",\"columns\":[{\"name\":\"id\",\"typeoid\":23,\"value\":1,\"position\":1,\"x\":0}]}"),
    N(HEAD ",\"columns\":[" ID ",]}"),
    N(HEAD ",\"columns\":[," ID "]}"),
    N(HEAD ",\"columns\":[" ID TEXT "]}"),
    N(HEAD ",\"columns\":[" ID ",," TEXT "]}"),
    N(HEAD ",\"columns\":[" ID "," TEXT "}"),
    N(HEAD ",\"columns\":[" ID "," TEXT "]"),
    N(HEAD ",\"columns\":[" ID "," TEXT),
    N(HEAD ",\"columns\":" ID "]}"),
    N(HEAD ",\"columns\"}"),
    N(HEAD ",\"columns\":[" ID "," TEXT ")}"),
    N(HEAD ",\"columns\":[(" ID ")]}"),
    N(HEAD ",}"),
    N(HEAD ",columns:[" ID "]}"),
    N(HEAD ",'columns':[" ID "]}"),
    N(HEAD ";\"columns\":[]}"),
    N(HEAD "\"columns\":[]}"),
    N(HEAD ",\"columns\"=[]}"),
    N(HEAD ",\"columns\":[]]}"),
    /* values of another form than the column's type is written in */
    S(VALUE("1")),
    S(VALUE("true")),
    S(VALUE("{}")),
    S(VALUE("[]")),
    S(VALUE("{\"a\":[1]}")),
    S(NUMBER("\"\\ud800\"")),
    S(NUMBER("true")),
    S(NUMBER("[1]")),
    S(NUMBER("{}")),
    S(VALUE("\"\\u0000\"")),
    S(VALUE("\"\\ud800\"")),
    N(VALUE("")),
    N(VALUE("nul")),
    N(VALUE("NULL")),
    N(VALUE("'x'")),
    N(VALUE("x")),
    N(VALUE("\"x")),
    N(VALUE("\"\t\"")),
    N(VALUE("\"\xff\"")),
    N(VALUE("\"\xed\xa0\x80\"")),
    N(NUMBER("")),
    N(NUMBER("+1")),
    N(NUMBER("01")),
    N(NUMBER("1.")),
    N(NUMBER(".5")),
    N(NUMBER("NaN")),
    N(NUMBER("Infinity")),
    N(NUMBER("0x1")),
    N(NUMBER("1,")),
    N(NUMBER("-")),
    N(NUMBER("1e")),
    N(NUMBER("--1")),
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A copy of exactly this size, for AddressSanitizer. */
static char *exact(const struct one *c)
{
    char *copy = malloc(c->len > 0 ? c->len : 1);

    assert_non_null(copy);
    memcpy(copy, c->text, c->len);
    return copy;
}

static void is_filed_rightly(const struct one *c, const char *copy)
{
    if (rfc8259_is_text(copy, c->len) != (c->kind != 'n'))
        fail_msg("%s JSON: %s", c->kind == 'n' ? "this is" : "this is not", c->text);
}

static void numbers_are_those_of_the_rfc(void **state)
{
    (void) state;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const struct one *c = &numbers[i];
        char *copy = exact(c);
        struct json json = {.p = copy, .end = copy + c->len, .start = copy};
        struct json_text text = {0};
        bool is_taken = json_number(&json, &text) && json.p == json.end;

        is_filed_rightly(c, copy);
        if (is_taken != (c->kind == 'y'))
            fail_msg("%s: %s", is_taken ? "taken" : "refused", c->text);
        if (is_taken) { /* as it is written */
            assert_int_equal(text.len, c->len);
            assert_ptr_equal(text.data, copy);
        }
        free(copy);
    }
}

static void strings_are_those_of_the_rfc(void **state)
{
    (void) state;
    for (size_t i = 0; i < COUNT(strings); i++) {
        const struct one *c = &strings[i];
        char *copy = exact(c);
        struct json json = {.p = copy, .end = copy + c->len, .start = copy};
        struct arena arena = {0};
        struct json_text text = {0};
        bool is_taken = json_string(&json, JSON_TEXT, &arena, &text) && json.p == json.end;

        is_filed_rightly(c, copy);
        if (is_taken != (c->kind == 'y'))
            fail_msg("%s: %s", is_taken ? "taken" : "refused", c->text);
        if (is_taken) {
            const char *want = c->want ? c->want : c->text + 1;
            size_t len = c->want ? strlen(c->want) : c->len - 2;

            assert_int_equal(text.len, len);
            assert_memory_equal(text.data, want, len);
        }
        arena_release(&arena);
        free(copy);
    }
}

/* P66: messages of logical decoding may hold any bytes; all else is as in other strings. */
static void opaque_strings_hold_any_bytes(void **state)
{
    (void) state;
    for (size_t i = 0; i < COUNT(strings); i++) {
        const struct one *c = &strings[i];
        char *copy = exact(c);
        struct json json = {.p = copy, .end = copy + c->len, .start = copy};
        struct rfc8259 reference = {.p = (unsigned char *) copy,
                                    .end = (unsigned char *) copy + c->len};
        bool is_string = rfc8259_string(&reference, NULL) && reference.p == reference.end;
        struct arena arena = {0};
        struct json_text text = {0};
        bool is_taken = json_string(&json, JSON_OPAQUE, &arena, &text) && json.p == json.end;

        if (is_taken != (c->kind != 's' && is_string))
            fail_msg("%s: %s", is_taken ? "taken" : "refused", c->text);
        arena_release(&arena);
        free(copy);
    }
}

static void messages_are_json_and_more(void **state)
{
    (void) state;
    for (size_t i = 0; i < COUNT(messages); i++)
        for (int known = 0; known < 2; known++) {
            const struct one *c = &messages[i];
            struct session s = session_start(&decoder_wal2json, &fixture_config);
            bool is_taken;

            is_filed_rightly(c, c->text);
            assert_true(session_feed(&s, BEGIN, strlen(BEGIN)));
            if (known)
                assert_true(session_feed(&s, INSERT, strlen(INSERT)));
            is_taken = session_feed(&s, c->text, c->len);
            if (is_taken != (c->kind == 'y'))
                fail_msg("%s: %s", is_taken ? "taken" : "refused", c->text);
            if (!is_taken) {
                assert_int_equal(s.err.kind, ERROR_PROTOCOL);
                /* The decoder is as it was. */
                assert_true(session_feed(&s, INSERT, strlen(INSERT)));
                assert_true(session_feed(&s, COMMIT, strlen(COMMIT)));
            }
            session_end(&s);
        }
}

/* Deep nesting is refused where it begins: nothing here calls itself. */
static void depth_has_no_price(void **state)
{
    static const char *const heads[] = {"", HEAD ",\"columns\":", HEAD ",\"columns\":[",
                                        HEAD ",\"columns\":[{\"name\":\"id\",\"typeoid\":23,"
                                             "\"value\":"};
    enum { DEPTH = 1000000 };
    char *text = malloc(sizeof(HEAD) + 200 + DEPTH);

    (void) state;
    assert_non_null(text);
    for (size_t i = 0; i < COUNT(heads); i++)
        for (int kind = 0; kind < 2; kind++) {
            struct session s = session_start(&decoder_wal2json, &fixture_config);
            size_t len = strlen(heads[i]);

            memcpy(text, heads[i], len);
            memset(text + len, kind ? '{' : '[', DEPTH);
            assert_true(session_feed(&s, BEGIN, strlen(BEGIN)));
            assert_false(session_feed(&s, text, len + DEPTH));
            session_end(&s);
        }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_the_rfc),
        cmocka_unit_test(strings_are_those_of_the_rfc),
        cmocka_unit_test(opaque_strings_hold_any_bytes),
        cmocka_unit_test(messages_are_json_and_more),
        cmocka_unit_test(depth_has_no_price),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
