/*
 * The configuration.  Refusals are a table: the file, then the whole message with its line and
 * column, so that no message changes by accident; every one must have its test here.
 */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SMALL                                                                                      \
    "source: {conninfo: host=s}\n"                                                                 \
    "mirror: {conninfo: host=m}\n"
#define FACT(text) SMALL "facts: {a: " text "}\n"
#define SMALLEST   SMALL "tables: [public.*]\n"

#define MiB (INT64_C(1) << 20)
#define GiB (INT64_C(1) << 30)

static bool parse(const char *text, struct arena *arena, struct config *ret_config,
                  struct error *err)
{
    return config_parse("t.yaml", text, strlen(text), arena, ret_config, err);
}

/* ---- what is refused ---- */

#define FEED(text) "feeds: {f: " text "}\n"

static const struct refusal {
    const char *text, *message;
} refusals[] = {
    /* not a configuration at all */
    {"", "t.yaml:1:1: the file is empty"},
    {"# nothing but\n# comments\n", "t.yaml:1:1: the file is empty"},
    {"---\n", "t.yaml:2:1: the file is empty"},
    {"hello", "t.yaml:1:1: not a configuration: keys are expected"},
    {"[a, b]", "t.yaml:1:1: not a configuration: keys are expected"},
    {SMALLEST "---\n" SMALLEST,
     "t.yaml:4:1: a second document begins here: the configuration is one"},
    {"source: {conninfo: a, conninfo\n",
     "t.yaml:2:1: not valid YAML: did not find expected ',' or '}' while parsing a flow mapping"},
    {"pipeline: a\n\tx: y\n", "t.yaml:2:1: not valid YAML: found a tab character that violates "
                              "indentation while scanning a plain scalar"},
    {"pipeline: \"\xff\"\n", "t.yaml:1:12: not valid UTF-8 text: invalid leading UTF-8 octet"},
    {"a: é\xc3(\n", "t.yaml:1:6: not valid UTF-8 text: invalid trailing UTF-8 octet"},
    {"pipeline: \"a\\0b\"\n", "t.yaml:1:11: a text with a zero byte in it"},
    {"? [a]\n: b\n", "t.yaml:1:3: a key has to be a name"},
    {"\"\": b\n", "t.yaml:1:1: a key has to be a name"},
    {"tables: [[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]]", "t.yaml:1:24: nested too deeply"},

    /* YAML that is not wanted here */
    {"pipeline: &x main\n", "t.yaml:1:11: anchors (&) are not understood here; a text that begins "
                            "with & has to be quoted"},
    {"source: &x {conninfo: a}\n", "t.yaml:1:9: anchors (&) are not understood here; a text that "
                                   "begins with & has to be quoted"},
    {"tables: &x [a.b]\n", "t.yaml:1:9: anchors (&) are not understood here; a text that begins "
                           "with & has to be quoted"},
    {"source: *x\n", "t.yaml:1:9: aliases (*) are not understood here; a text that begins with * "
                     "has to be quoted"},
    {SMALL "tables: [*.orders]\n",
     "t.yaml:3:10: a text that begins with * or & has to be quoted, as in \"*.orders\""},
    {SMALL "tables: [!public.a]\n",
     "t.yaml:3:10: a text that begins with ! has to be quoted, as in \"!public.audit_*\""},
    {"pipeline: !!str main\n",
     "t.yaml:1:11: a text that begins with ! has to be quoted, as in \"!public.audit_*\""},
    {"source: !a {conninfo: a}\n",
     "t.yaml:1:9: a text that begins with ! has to be quoted, as in \"!public.audit_*\""},

    /* keys */
    {"sources: {conninfo: a}\n", "t.yaml:1:1: unknown key \"sources\" at the top; did you mean "
                                 "\"source\"?"},
    {"source:\n  coninfo: a\n",
     "t.yaml:2:3: unknown key \"coninfo\" in source; did you mean \"conninfo\"?"},
    {"max_rows: 5\n",
     "t.yaml:1:1: unknown key \"max_rows\" at the top; did you mean \"apply.max_rows\"?"},
    {"source: {wal_guard: {warning: 1GB}}\n",
     "t.yaml:1:22: unknown key \"warning\" in source.wal_guard; did you mean \"warn\"?"},
    {SMALL "tables:\n  - {name: public.a, masks: {b: hash}}\n",
     "t.yaml:4:22: unknown key \"masks\" in an entry of tables; did you mean \"mask\"?"},
    {"source.conninfo: a\n", "t.yaml:1:1: unknown key \"source.conninfo\" at the top"},
    {"\"tables[]\": {name: a.b}\n",
     "t.yaml:1:1: unknown key \"tables[]\" at the top; did you mean \"tables\"?"},
    {"hooks: {}\n", "t.yaml:1:1: unknown key \"hooks\" at the top"},
    {"http: {listen: x}\n", "t.yaml:1:16: http.listen: \"x\" is not an address and a port"},
    {"http: {listen: \"::1:80\"}\n",
     "t.yaml:1:16: http.listen: \"::1:80\" is not an address and a port"},
    {"http: {port: 80}\n", "t.yaml:1:8: unknown key \"port\" in http"},
    {"source: {zzzzzzzzzz: stop}\n", "t.yaml:1:10: unknown key \"zzzzzzzzzz\" in source"},
    {"source: {nan_check: on}\n", "t.yaml:1:21: source.nan_check: \"on\" is none of auto, off"},
    {"apply: {on_eror: stop}\n",
     "t.yaml:1:9: unknown key \"on_eror\" in apply; did you mean \"on_error\"?"},
    {"apply: {on_error: skip}\n",
     "t.yaml:1:19: apply.on_error: \"skip\" is none of quarantine, stop; did you mean "
     "\"stop\"?"},
    {"source:\n  conninfo: a\n  plugin: pgoutput\n  conninfo: b\n",
     "t.yaml:4:3: the key \"conninfo\" is there twice; the first is at line 2"},
    {"copy: {workers: 1}\ncopy: {workers: 1}\n",
     "t.yaml:2:1: the key \"copy\" is there twice; the first is at line 1"},

    /* the wrong kind of thing */
    {"source: host=a\n", "t.yaml:1:1: source: keys are expected below it, not a value"},
    {"source: [a]\n", "t.yaml:1:1: source: keys are expected below it, not a list"},
    {"source:\nmirror:\n", "t.yaml:1:1: source: keys are expected below it, not nothing"},
    {"source: {wal_guard: 4GB}\n",
     "t.yaml:1:10: source.wal_guard: keys are expected below it, not a value"},
    {"apply: {max_rows: [1]}\n",
     "t.yaml:1:19: apply.max_rows: one value is expected here, not a list"},
    {"apply: {max_rows: {a: 1}}\n",
     "t.yaml:1:19: apply.max_rows: one value is expected here, not a mapping"},
    {"source: {conninfo: {host: a}}\n",
     "t.yaml:1:20: source.conninfo: one value is expected here, not a mapping"},
    {"pipeline:\n", "t.yaml:1:10: pipeline: has no value"},
    {"source: {conninfo: \" \"}\n", "t.yaml:1:20: source.conninfo: has no value"},
    {SMALL "tables: public.*\n", "t.yaml:3:9: tables: a list is expected here"},
    {SMALL "tables: []\n", "t.yaml:3:9: tables: no entry takes any table"},
    {SMALL "tables: [[a.b]]\n", "t.yaml:3:10: tables: an entry is a name or a mapping, not a list"},
    {"mirror: {readers: report}\n", "t.yaml:1:19: mirror.readers: a list is expected here"},
    {"mirror: {readers: []}\n", "t.yaml:1:19: mirror.readers: the list is empty"},
    {"mirror: {readers: [[a]]}\n",
     "t.yaml:1:20: mirror.readers: one value is expected here, not a list"},
    {"mirror: {readers: [a, b, a]}\n", "t.yaml:1:26: mirror.readers: \"a\" is there twice"},

    /* numbers and units */
    {"apply: {max_rows: ten}\n", "t.yaml:1:19: apply.max_rows: not a whole number"},
    {"apply: {max_rows: 10k}\n", "t.yaml:1:19: apply.max_rows: not a whole number"},
    {"apply: {max_rows: -1}\n", "t.yaml:1:19: apply.max_rows: not a whole number"},
    {"apply: {max_rows: 0}\n", "t.yaml:1:19: apply.max_rows: \"0\" is out of range: 1 to 10000000"},
    {"apply: {max_rows: 99999999999999999999}\n", "t.yaml:1:19: apply.max_rows: too large"},
    {"apply: {max_bytes: 32}\n", "t.yaml:1:20: apply.max_bytes: a size needs a unit, as in 64MB"},
    {"apply: {max_bytes: 32mb}\n",
     "t.yaml:1:20: apply.max_bytes: unknown unit \"mb\"; did you mean \"MB\"?"},
    {"apply: {max_bytes: 32 stone}\n", "t.yaml:1:20: apply.max_bytes: unknown unit \"stone\""},
    {"apply: {max_bytes: 1023kB}\n",
     "t.yaml:1:20: apply.max_bytes: \"1023kB\" is out of range: 1MiB to 1GiB"},
    {"apply: {max_bytes: 9999999TB}\n", "t.yaml:1:20: apply.max_bytes: too large for a size"},
    {"apply: {max_bytes: 99999999999999999999B}\n",
     "t.yaml:1:20: apply.max_bytes: too large for a size"},
    {"apply: {max_bytes: 1.5GB}\n",
     "t.yaml:1:20: apply.max_bytes: not a size (a whole number and a unit, as in 64MB)"},
    {"source: {start_timeout: 90}\n",
     "t.yaml:1:25: source.start_timeout: a duration needs a unit, as in 90s"},
    {"source: {start_timeout: 90m}\n", "t.yaml:1:25: source.start_timeout: unknown unit \"m\""},
    {"source: {start_timeout: 90sec}\n", "t.yaml:1:25: source.start_timeout: unknown unit \"sec\""},
    {"source: {start_timeout: 1h30min}\n",
     "t.yaml:1:25: source.start_timeout: unknown unit \"h30min\""},
    {"source: {start_timeout: soon}\n", "t.yaml:1:25: source.start_timeout: not a duration (a "
                                        "whole number and a unit, as in 90s)"},
    {"source: {start_timeout: 25h}\n",
     "t.yaml:1:25: source.start_timeout: \"25h\" is out of range: 0 to 1d"},
    {"source: {decode_memory: 1kB}\n",
     "t.yaml:1:25: source.decode_memory: \"1kB\" is out of range: 64KiB to 2147483647KiB"},
    {"source: {heartbeat: 0}\n",
     "t.yaml:1:21: source.heartbeat: \"0\" is out of range: 100ms to 1d"},
    {"source: {heartbeat: on}\n", "t.yaml:1:21: source.heartbeat: not a duration (a whole number "
                                  "and a unit, as in 90s)"},
    {"source: {max_read_rate: 20MB/h}\n",
     "t.yaml:1:25: source.max_read_rate: unknown unit \"MB/h\"; did you mean \"MB\"?"},
    {"source: {wal_guard: {warn: 20GB}}\nmirror: {conninfo: b}\ntables: [a.b]\n",
     "t.yaml:1:1: source.conninfo is missing"},
    {"source: {conninfo: a, wal_guard: {warn: 20GB}}\nmirror: {conninfo: b}\ntables: [a.b]\n",
     "t.yaml:1:23: source.wal_guard: warn (20GiB) is above critical (16GiB)"},
    {"purge: {after: forever}\n", "t.yaml:1:16: purge.after: not a duration (a whole number and a "
                                  "unit, as in 90s)"},
    {"purge: {after: 1}\n", "t.yaml:1:16: purge.after: a duration needs a unit, as in 90s"},
    {"copy: {workers: 33}\n", "t.yaml:1:17: copy.workers: \"33\" is out of range: 1 to 32"},
    {"mirror: {fillfactor: 9}\n",
     "t.yaml:1:22: mirror.fillfactor: \"9\" is out of range: 10 to 100"},

    /* words */
    {"log: {level: warn}\n", "t.yaml:1:14: log.level: \"warn\" is none of debug, info, warning, "
                             "error; did you mean \"warning\"?"},
    {"log: {level: infos}\n", "t.yaml:1:14: log.level: \"infos\" is none of debug, info, warning, "
                              "error; did you mean \"info\"?"},
    {"log: {format: JSON}\n",
     "t.yaml:1:15: log.format: \"JSON\" is none of text, json; did you mean \"json\"?"},
    {"log: {values: yes}\n", "t.yaml:1:15: log.values: \"yes\" is none of false, true"},
    {"source: {plugin: wal2jason}\n", "t.yaml:1:18: source.plugin: \"wal2jason\" is none of "
                                      "wal2json, pgoutput; did you mean \"wal2json\"?"},
    {"source: {plugin: test_decoding}\n",
     "t.yaml:1:18: source.plugin: \"test_decoding\" is none of wal2json, pgoutput"},
    {"mirror: {indexes: all}\n", "t.yaml:1:19: mirror.indexes: \"all\" is none of copy, none"},

    /* names */
    {"pipeline: Main\n",
     "t.yaml:1:11: pipeline: \"Main\" is not a plain name: only a-z, 0-9 and _"},
    {"pipeline: 2nd\n", "t.yaml:1:11: pipeline: \"2nd\" is not a plain name: it begins with a "
                        "digit"},
    {"pipeline: a23456789012345678901234567890123456789012345678901\n",
     "t.yaml:1:11: pipeline: \"a23456789012345678901234567890123456789012345678901\" is longer "
     "than 50 characters"},
    {"source: {slot: my-slot}\n",
     "t.yaml:1:16: source.slot: \"my-slot\" is not a slot name: only a-z, 0-9 and _"},
    {"source: {slot: a234567890123456789012345678901234567890123456789012345678901234}\n",
     "t.yaml:1:16: source.slot: \"a23456789012345678901234567890123456789012345678901234567890…\" "
     "is longer than 63 characters"},
    {"source: {publication: é23456789012345678901234567890123456789012345678901234567890123}\n",
     "t.yaml:1:23: source.publication: \"é23456789012345678901234567890123456789012345678901234567"
     "89…\" is longer than PostgreSQL's 63 bytes"},
    {"source: {conninfo: a, publication: p}\nmirror: {conninfo: b}\ntables: [a.b]\n",
     "t.yaml:1:23: source.publication: wal2json has no publications"},
    {"mirror: {table_schema: \"m_{name}\"}\n",
     "t.yaml:1:24: mirror.table_schema: \"m_{name}\" has braces around something else than schema"},
    {"source: {conninfo: a}\nmirror: {conninfo: b, table_schema: \"{schema}\"}\ntables: [a.b]\n",
     "t.yaml:2:1: mirror: table_schema and view_schema are the same: a mirror table and its live "
     "view would have one name"},

    /* patterns */
    {SMALL "tables: [orders]\n", "t.yaml:3:10: tables[].name: a table is named with its schema"},
    {SMALL "tables: [a.b.c]\n", "t.yaml:3:10: tables[].name: a table has two parts, schema.table"},
    {SMALL "tables: [.b]\n", "t.yaml:3:10: tables[].name: a part of the name is empty"},
    {SMALL "tables: [a.]\n", "t.yaml:3:10: tables[].name: a part of the name is empty"},
    {SMALL "tables: ['a.\"\"']\n", "t.yaml:3:10: tables[].name: a part of the name is empty"},
    {SMALL "tables: ['a.\"b']\n", "t.yaml:3:10: tables[].name: a quote is not closed"},
    {SMALL "tables: ['a.\"b\"c']\n",
     "t.yaml:3:10: tables[].name: there is something behind the closing quote"},
    {SMALL "tables: ['\"a\"b.c']\n",
     "t.yaml:3:10: tables[].name: there is something between a closing quote and the dot"},
    {SMALL "tables: [a.b c]\n",
     "t.yaml:3:10: tables[].name: a name with a quote, a space, a comma or a semicolon in it has "
     "to be in double quotes, as in SQL"},
    {SMALL "tables:\n- a.b\n- a.c234567890123456789012345678901234567890123456789012345678901234\n",
     "t.yaml:5:3: tables[].name: a name is longer than PostgreSQL's 63 bytes"},
    {SMALL "tables: [\"!a.b\"]\n", "t.yaml:3:9: tables: no entry takes any table"},

    /* entries */
    {SMALL "tables: [{deletes: ignore}]\n", "t.yaml:3:10: tables[].name is missing"},
    {SMALL "tables: [a.*, {name: \"!a.b\", deletes: ignore}]\n",
     "t.yaml:3:15: tables: an entry that takes tables away has no other keys"},
    {SMALL "tables: [{name: a.b, deletes: hard}]\n",
     "t.yaml:3:31: tables[].deletes: \"hard\" is none of soft, ignore"},
    {SMALL "tables: [{name: a.b, truncate: no}]\n",
     "t.yaml:3:32: tables[].truncate: \"no\" is none of apply, ignore, stop"},
    {SMALL "tables: [{name: a.b, mask: [c]}]\n",
     "t.yaml:3:28: tables[].mask: columns with null or hash are expected here"},
    {SMALL "tables: [{name: a.b, mask: {}}]\n",
     "t.yaml:3:28: tables[].mask: columns with null or hash are expected here"},
    {SMALL "tables: [{name: a.b, mask: {c: md5}}]\n",
     "t.yaml:3:32: tables[].mask: \"md5\" is none of null, hash"},
    {SMALL "tables: [{name: a.b, mask: {c: ~}}]\n",
     "t.yaml:3:32: tables[].mask: \"~\" is none of null, hash"},
    {SMALL "tables: [{name: a.b, mask: {c: hash, d: null, c: null}}]\n",
     "t.yaml:3:47: tables[].mask: the column \"c\" is there twice"},
    {SMALL "tables:\n- {name: a.b, mask: {c: hash}, key: [c]}\n",
     "t.yaml:4:3: tables: \"c\" is masked, but part of the key"},
    {SMALL "tables:\n- {name: a.b, exclude: [x, c], key: [c]}\n",
     "t.yaml:4:3: tables: \"c\" is excluded, but part of the key"},
    {SMALL "tables:\n- {name: a.b, mask: {c: hash}, exclude: [c]}\n",
     "t.yaml:4:3: tables: \"c\" is both excluded and masked"},
    {SMALL "tables: [{name: a.b, purge_after: 7}]\n",
     "t.yaml:3:35: tables[].purge_after: a duration needs a unit, as in 90s"},

    /* facts: FACT is line 3 */
    {FACT("[a]"), "t.yaml:3:12: facts: a fact has a table and a key"},
    {FACT("{}"), "t.yaml:3:12: facts{}.table is missing"},
    {FACT("{table: a.b}"), "t.yaml:3:12: facts{}.key is missing"},
    {FACT("{table: a.*, key: [id]}"),
     "t.yaml:3:20: facts{}.table: \"a.*\" is a pattern, not one table"},
    {FACT("{table: b, key: [id]}"), "t.yaml:3:20: facts{}.table: a table is named with its schema"},
    {FACT("{table: a.b, key: id}"),
     "t.yaml:3:30: facts{}.key: a list of columns or a mapping is expected here"},
    {FACT("{table: a.b, key: []}"), "t.yaml:3:30: facts{}.key: the key is empty"},
    {FACT("{table: a.b, key: [id, id]}"), "t.yaml:3:35: facts{}.key: \"id\" is there twice"},
    {FACT("{table: a.b, key: [lane]}"),
     "t.yaml:3:31: a key column cannot be named lane: the ledger has a column of that name"},
    {FACT("{table: a.b, key: {node: x}}"),
     "t.yaml:3:31: a key column cannot be named node: the ledger has a column of that name"},
    {FACT("{table: a.b, key: {keys$1: x}}"),
     "t.yaml:3:31: a key column cannot be named keys$1: the ledger has a column of that name"},
    {FACT("{table: a.b, key: {xmin: x}}"),
     "t.yaml:3:31: a key column cannot be named xmin: the ledger has a column of that name"},
    {FACT("{table: a.b, kye: [id]}"),
     "t.yaml:3:25: unknown key \"kye\" in a fact; did you mean \"key\"?"},
    {FACT("{table: a.b, key: [id], watch: []}"), "t.yaml:3:43: facts{}.watch: the list is empty"},
    {FACT("{table: a.b, key: [id], dimensions: {}}"),
     "t.yaml:3:48: facts{}.dimensions: a list is expected here"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c}]}"),
     "t.yaml:3:49: facts{}.dimensions[].join is missing"},
    {FACT("{table: a.b, key: [id], dimensions: [{join: c.x = b.y}]}"),
     "t.yaml:3:49: facts{}.dimensions[].table is missing"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, join: c.x = b}]}"),
     "t.yaml:3:68: facts{}.dimensions[].join: not an equality of two columns"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, join: c.x < b.y}]}"),
     "t.yaml:3:68: facts{}.dimensions[].join: not an equality of two columns"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, join: c.x = b.y.z}]}"),
     "t.yaml:3:68: facts{}.dimensions[].join: not an equality of two columns"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, join: []}]}"),
     "t.yaml:3:68: facts{}.dimensions[].join: an equality or a list of them is expected here"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, join: c.x = b.y, fan_out: never}]}"),
     "t.yaml:3:88: facts{}.dimensions[].fan_out: \"never\" is none of auto, defer; did you "
     "mean \"defer\"?"},
    {FACT("{table: a.b, key: [id], dimensions: [{table: a.c, jion: c.x = b.y}]}"),
     "t.yaml:3:62: unknown key \"jion\" in a dimension; did you mean \"join\"?"},
    {SMALL "facts: {Order: {table: a.b, key: [id]}}\n",
     "t.yaml:3:9: \"Order\" is no name for a fact: only a-z, 0-9 and _, no digit first"},
    {SMALL "facts: {a: {table: a.b, key: [id]}, a: {table: a.b, key: [id]}}\n",
     "t.yaml:3:37: the key \"a\" is there twice; the first is at line 3"},
    {SMALL "facts: [a]\n", "t.yaml:3:8: facts: facts by their names are expected here"},
    {SMALL "ledger: {fan_out_limit: 0}\n",
     "t.yaml:3:25: ledger.fan_out_limit: \"0\" is out of range: 1 to 10000000"},

    /* missing */
    {"tables: [a.b]\n", "t.yaml:1:1: source.conninfo is missing"},
    {"pipeline: a\nsource: {plugin: pgoutput}\n", "t.yaml:2:1: source.conninfo is missing"},
    {"source: {conninfo: a}\n", "t.yaml:1:1: mirror.conninfo is missing"},
    {SMALL, "t.yaml:1:1: tables is missing"},

    /* feeds */
    {FEED("{}"), "t.yaml:1:12: feeds{}.fact is missing"},
    {FEED("{fact: c}"), "t.yaml:1:12: feeds{}.query is missing"},
    {FEED("{fact: c, query: q}"),
     "t.yaml:1:9: feeds{}.destination: there has to be one of url, command, table and stdout"},
    {FEED("{fact: c, query: q, destination: {url: 'ftp://a'}}"),
     "t.yaml:1:51: feeds{}.destination.url: not an address that begins with https:// or http://"},
    {FEED("{fact: c, query: q, destination: {url: 'https://u:p@a/'}}"),
     "t.yaml:1:51: feeds{}.destination.url: a user or a password has no place in the address"},
    {FEED("{fact: c, query: q, destination: {stdout: true, table: a.b}}"),
     "t.yaml:1:32: feeds{}.destination: only one may be there of url, command, table and stdout"},
    {FEED("{fact: c, query: q, destination: {stdout: true, gzip: true}}"),
     "t.yaml:1:32: feeds{}.destination.gzip goes with url alone"},
    {FEED("{fact: c, query: q, vanished: gone}"),
     "t.yaml:1:42: feeds{}.vanished: neither delete nor nothing, nor a query over {keys}"},
    {FEED("{fact: c, query: q, max_rate: 10}"),
     "t.yaml:1:42: feeds{}.max_rate: \"10\" is not so many requests in a time"},
    {FEED("{fact: c, query: q, destination: {url: 'http://a', headers: {A: \"b\\nc\"}}}"),
     "t.yaml:1:76: feeds{}.destination.headers: a header is one line"},
    {FEED("{fact: c, query: q, destination: {url: 'http://a', bearer: \"a\\nX: b\"}}"),
     "t.yaml:1:71: feeds{}.destination.bearer: has to be one line"},
    {FEED("{fact: c, query: q, destination: {url: 'http://a', hmac: {secret: s, header: 'a b'}}}"),
     "t.yaml:1:89: feeds{}.destination.hmac.header: \"a b\" is not the name of a header"},

    /* the environment */
    {"pipeline: ${TAILWATER_NOT_SET}\n",
     "t.yaml:1:11: pipeline: the environment variable TAILWATER_NOT_SET is not set"},
    {"source:\n  conninfo: host=a password=${TAILWATER_NOT_SET}\n",
     "t.yaml:2:13: source.conninfo: the environment variable TAILWATER_NOT_SET is not set"},
    {"pipeline: ${}\n", "t.yaml:1:11: pipeline: ${ without the name of a variable and }"},
    {"pipeline: ${a\n", "t.yaml:1:11: pipeline: ${ without the name of a variable and }"},
    {"pipeline: ${1}\n", "t.yaml:1:11: pipeline: ${ without the name of a variable and }"},
    {"pipeline: ${TAILWATER_EMPTY}\n",
     "t.yaml:1:11: pipeline: has no value: the variable is set, but empty"},
    {"source: {conninfo: \"${TAILWATER_EMPTY}\"}\n", "t.yaml:1:20: source.conninfo: has no value"},
    {"pipeline: ${TAILWATER_SECRET}\n", "t.yaml:1:11: pipeline: \"${TAILWATER_SECRET}\" is not a "
                                        "plain name: only a-z, 0-9 and _"},
};

static void refuses(void **state)
{
    int wrong = 0;

    (void) state;
    setenv("TAILWATER_EMPTY", "", 1);
    setenv("TAILWATER_SECRET", "Hunter2!", 1);
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const char *text = refusals[i].text, *expected = refusals[i].message;
        struct arena arena = {0};
        struct config config;
        struct error err = {.message = "(accepted)"};

        if (parse(text, &arena, &config, &err) || err.kind != ERROR_CONFIG ||
            strcmp(err.message, expected) != 0) {
            print_error("%s\n  is      %s\n  must be %s\n", text, err.message, expected);
            wrong++;
        }
        arena_release(&arena);
    }
    assert_int_equal(wrong, 0);
}

static void hints_say_what_to_do(void **state)
{
    static const struct {
        const char *text, *hint;
    } cases[] = {
        {"source: {coninfo: a}\n",
         "the keys in source are conninfo, plugin, slot, publication, heartbeat, wal_guard, "
         "max_read_rate, nan_check, on_lost, failover, start_timeout, decode_memory"},
        {"hooks: {}\n", "the keys at the top are pipeline, source, mirror, tables, purge, facts, "
                        "feeds, ledger, refresh, apply, schema_changes, resync, copy, "
                        "freshness, http, log"},
        {SMALL, "write tables: [public.*]"},
        {"purge: {after: 7m}\n", "the units of a duration are us ms s min h d"},
        {"apply: {max_bytes: 7m}\n", "the units of a size are B kB KiB MB MiB GB GiB TB TiB"},
        {"pipeline: ${TAILWATER_NOT_SET}\n", "run: export TAILWATER_NOT_SET=…"},
        {SMALL "tables: [orders]\n", "write schema.table, as in public.orders or public.*"},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arena arena = {0};
        struct config config;
        struct error err = {0};

        assert_false(parse(cases[i].text, &arena, &config, &err));
        assert_string_equal(err.hint, cases[i].hint);
        arena_release(&arena);
    }
}

static void changes_of_the_source(void **state)
{
    static const struct {
        const char *text;
        enum config_schema_changes added, renamed, gone;
        bool is_followed;
    } cases[] = {
        {"", SCHEMA_CHANGES_STOP, SCHEMA_CHANGES_STOP, SCHEMA_CHANGES_STOP, false},
        {"schema_changes: apply\n", SCHEMA_CHANGES_APPLY, SCHEMA_CHANGES_APPLY,
         SCHEMA_CHANGES_APPLY, true},
        {"schema_changes: keep\n", SCHEMA_CHANGES_KEEP, SCHEMA_CHANGES_STOP, SCHEMA_CHANGES_STOP,
         true},
        {"schema_changes: {add_column: keep}\n", SCHEMA_CHANGES_KEEP, SCHEMA_CHANGES_STOP,
         SCHEMA_CHANGES_STOP, true},
        /* The default first, wherever it stands. */
        {"schema_changes: {add_column: stop, default: apply, drop_table: stop}\n",
         SCHEMA_CHANGES_STOP, SCHEMA_CHANGES_APPLY, SCHEMA_CHANGES_STOP, true},
    };
    static const char *const wrong[] = {
        "schema_changes: follow\n", "schema_changes: {rename_column: keep}\n",
        "schema_changes: {added: apply}\n", "schema_changes: [apply]\n",
        "schema_changes: {default: apply, default: stop}\n"};

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arena arena = {0};
        struct config config;
        struct error err = {0};
        char text[512];

        snprintf(text, sizeof(text), "%stables: [public.*]\n%s", SMALL, cases[i].text);
        assert_true(parse(text, &arena, &config, &err));
        assert_int_equal(config.schema_changes[CHANGE_ADD_COLUMN], cases[i].added);
        assert_int_equal(config.schema_changes[CHANGE_RENAME_COLUMN], cases[i].renamed);
        assert_int_equal(config.schema_changes[CHANGE_DROP_TABLE], cases[i].gone);
        assert_int_equal(config_is_followed(&config), cases[i].is_followed);
        arena_release(&arena);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct arena arena = {0};
        struct config config;
        struct error err = {0};
        char text[512];

        snprintf(text, sizeof(text), "%stables: [public.*]\n%s", SMALL, wrong[i]);
        assert_false(parse(text, &arena, &config, &err));
        assert_true(strstr(err.message, "schema_changes") || strstr(err.message, "twice"));
        arena_release(&arena);
    }
}

/* Whatever is wrong around it, a password in a conninfo comes out nowhere. */
static void passwords_stay_inside(void **state)
{
    static const char *const texts[] = {
        "source: host=a password=hunter2\n",
        "source: {conninfo: host=a password=hunter2, plugin: x}\n",
        "source: {conninfo: host=a password=a,hunter2}\n",
        "source: {conninfo: host=a password=a,b hunter2=2}\n",
        "source: {conninfo: host=a password={hunter2}\n",
        "source: {conninfo: host=a password=x: hunter2}\n",
        "source: {conninfo: \"host=a password=hunter2}\n",
        "source: {plugin: host=a password=hunter2}\n",
        "source: {plugin: postgres://u:hunter2@h/d}\n",
        "pipeline: postgres://u:hunter2@h/d\n",
        "postgres://u:hunter2@h/d: x\n",
        "source: {password=hunter2: a}\n",
        "log: {level: password=hunter2}\n",
        "tables: [password=hunter2]\n",
        "mirror: {readers: [password=hunter2, password=hunter2]}\n",
        "mirror: {table_schema: \"{password=hunter2}\"}\n",
        "source: {conninfo: password=hunter2}\n",
    };

    (void) state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct arena arena = {0};
        struct config config;
        struct error err = {0};

        assert_false(parse(texts[i], &arena, &config, &err));
        assert_null(strstr(err.message, "hunter2"));
        assert_null(strstr(err.hint, "hunter2"));
        arena_release(&arena);
    }
}

/* ---- what is read ---- */

static void smallest_has_the_defaults(void **state)
{
    struct arena arena = {0};
    struct config c;
    struct error err;

    (void) state;
    assert_true(parse(SMALLEST, &arena, &c, &err));
    assert_string_equal(c.file, "t.yaml");
    assert_string_equal(c.pipeline, "main");
    assert_string_equal(c.source.conninfo, "host=s");
    assert_string_equal(c.source.plugin, "wal2json");
    assert_string_equal(c.source.slot, "tailwater_main");
    assert_string_equal(c.source.publication, "tailwater_main");
    assert_int_equal(c.source.heartbeat, HEARTBEAT_AUTO);
    assert_true(c.source.heartbeat_interval_us == 10000000);
    assert_true(c.source.wal_guard.warn_bytes == 4 * GiB);
    assert_true(c.source.wal_guard.critical_bytes == 16 * GiB);
    assert_true(c.source.max_read_rate_bytes == 0);
    assert_int_equal(c.source.nan_check, NAN_CHECK_AUTO);
    assert_false(c.source.failover);
    assert_true(c.source.start_timeout_us == 90000000);
    assert_true(c.source.decode_memory_bytes == 256 * MiB);
    assert_string_equal(c.mirror.conninfo, "host=m");
    assert_string_equal(c.mirror.table_schema, "mirror_{schema}");
    assert_string_equal(c.mirror.view_schema, "{schema}");
    assert_int_equal(c.mirror.indexes.kind, INDEXES_COPY);
    assert_int_equal(c.mirror.nreaders, 0);
    assert_int_equal(c.mirror.fillfactor, 0);
    assert_true(c.purge.after_us == 0);
    assert_true(c.apply.max_rows == 20000);
    assert_true(c.apply.max_bytes == 32 * MiB);
    assert_int_equal(c.copy.workers, 2);
    assert_null(c.http.host);
    assert_true(c.http.max_lag_us == 60000000);
    assert_int_equal(c.log.format, LOG_TEXT);
    assert_int_equal(c.log.level, LOG_INFO);
    assert_false(c.log.values);
    assert_int_equal(c.ntables, 1);
    assert_string_equal(c.tables[0].schema, "public");
    assert_int_equal(c.tables[0].indexes.kind, INDEXES_DEFAULT);
    assert_false(c.tables[0].has_deletes || c.tables[0].has_truncate ||
                 c.tables[0].has_purge_after);
    arena_release(&arena);
}

static const char full[] = "pipeline: shop_2\n"
                           "source:\n"
                           "  conninfo: \"host=s # 1\"\n"
                           "  plugin: pgoutput\n"
                           "  slot: other\n"
                           "  publication: Some Publication\n"
                           "  heartbeat: 500ms\n"
                           "  wal_guard: {warn: 100MB, critical: 100 MiB}\n"
                           "  max_read_rate: 20MB/s\n"
                           "  nan_check: off\n"
                           "  failover: true\n"
                           "  start_timeout: 2min\n"
                           "  decode_memory: 64kB\n"
                           "mirror:\n"
                           "  conninfo: host=m\n"
                           "  table_schema: store\n"
                           "  view_schema: \"v_{schema}\"\n"
                           "  indexes: [a_idx, \"B idx\"]\n"
                           "  readers: [report, \"Big Boss\"]\n"
                           "  fillfactor: 70\n"
                           "tables:\n"
                           "  - public.*\n"
                           "  - '!public.\"Audit*\"'\n"
                           "  - name: sales.orders\n"
                           "    exclude: [note, Blob]\n"
                           "    mask: {email: hash, phone: null}\n"
                           "    deletes: ignore\n"
                           "    truncate: stop\n"
                           "    purge_after: never\n"
                           "    key: [tenant, id]\n"
                           "    indexes: none\n"
                           "purge: {after: 7d}\n"
                           "facts:\n"
                           "  order:\n"
                           "    table: sales.\"Orders\"\n"
                           "    key: {id: id, day: (created_at)::date}\n"
                           "    watch: [status, amount]\n"
                           "    dimensions:\n"
                           "    - {table: sales.\"Order Lines\", as: l, watch: [n],\n"
                           "       join: '\"l\".\"Order \"\"Id\" =Orders.id'}\n"
                           "    - table: sales.rates\n"
                           "      join: [rates.a = l.a, l.b=rates.b]\n"
                           "      fan_out: defer\n"
                           "      fan_out_limit: 50\n"
                           "ledger: {fan_out_limit: 77}\n"
                           "apply: {max_rows: 1, max_bytes: 3MB}\n"
                           "copy: {workers: 32}\n"
                           "http: {listen: \"[::1]:8432\", token: s3cret, max_lag: 5s}\n"
                           "log: {format: json, level: debug, values: true}\n";

static void facts_are_read(void **state)
{
    struct arena arena = {0};
    const struct config_fact *fact;
    const struct config_dimension *lines, *rates;
    struct config c;
    struct error err;

    (void) state;
    assert_true(parse(full, &arena, &c, &err));
    assert_int_equal(c.nfacts, 1);
    assert_true(c.ledger.fan_out_limit == 77);
    fact = &c.facts[0];
    assert_string_equal(fact->name, "order");
    assert_string_equal(fact->table.schema, "sales");
    assert_string_equal(fact->table.name, "Orders");
    assert_int_equal(fact->nkeys, 2);
    assert_string_equal(fact->keys[0].name, "id");
    assert_string_equal(fact->keys[0].expression, "id");
    assert_string_equal(fact->keys[1].name, "day");
    assert_string_equal(fact->keys[1].expression, "(created_at)::date");
    assert_int_equal(fact->nwatch, 2);
    assert_int_equal(fact->ndimensions, 2);
    lines = &fact->dimensions[0];
    rates = &fact->dimensions[1];
    assert_string_equal(lines->as, "l");
    assert_string_equal(lines->table.name, "Order Lines");
    assert_int_equal(lines->njoins, 1);
    assert_string_equal(lines->joins[0].side[0].node, "l");
    assert_string_equal(lines->joins[0].side[0].column, "Order \"Id");
    assert_string_equal(lines->joins[0].side[1].node, "Orders");
    assert_int_equal(lines->fan_out, FAN_OUT_AUTO);
    assert_true(lines->fan_out_limit == 0);
    assert_string_equal(rates->as, "rates");
    assert_int_equal(rates->njoins, 2);
    assert_string_equal(rates->joins[1].side[1].column, "b");
    assert_int_equal(rates->nwatch, 0);
    assert_int_equal(rates->fan_out, FAN_OUT_DEFER);
    assert_true(rates->fan_out_limit == 50);
    arena_release(&arena);
}

static void every_key_is_read(void **state)
{
    struct arena arena = {0};
    struct config c;
    struct error err;

    (void) state;
    assert_true(parse(full, &arena, &c, &err));
    assert_string_equal(c.pipeline, "shop_2");
    assert_string_equal(c.source.conninfo, "host=s # 1");
    assert_int_equal(c.source.conninfo_place.line, 3);
    assert_int_equal(c.source.conninfo_place.column, 13);
    assert_int_equal(c.mirror.conninfo_place.line, 15);
    assert_string_equal(c.source.plugin, "pgoutput");
    assert_string_equal(c.source.slot, "other");
    assert_string_equal(c.source.publication, "Some Publication");
    assert_int_equal(c.source.heartbeat, HEARTBEAT_ON);
    assert_true(c.source.heartbeat_interval_us == 500000);
    assert_true(c.source.wal_guard.warn_bytes == 100 * MiB);
    assert_true(c.source.wal_guard.critical_bytes == 100 * MiB);
    assert_true(c.source.max_read_rate_bytes == 20 * MiB);
    assert_int_equal(c.source.nan_check, NAN_CHECK_OFF);
    assert_true(c.source.failover);
    assert_true(c.source.start_timeout_us == 120000000);
    assert_true(c.source.decode_memory_bytes == 65536);
    assert_string_equal(c.mirror.table_schema, "store");
    assert_string_equal(c.mirror.view_schema, "v_{schema}");
    assert_int_equal(c.mirror.indexes.kind, INDEXES_LIST);
    assert_int_equal(c.mirror.indexes.count, 2);
    assert_string_equal(c.mirror.indexes.names[1], "B idx");
    assert_int_equal(c.mirror.nreaders, 2);
    assert_string_equal(c.mirror.readers[1], "Big Boss");
    assert_int_equal(c.mirror.fillfactor, 70);
    assert_true(c.purge.after_us == INT64_C(7) * 86400 * 1000000);
    assert_true(c.apply.max_rows == 1);
    assert_true(c.apply.max_bytes == 3 * MiB);
    assert_int_equal(c.copy.workers, 32);
    assert_string_equal(c.http.host, "::1");
    assert_int_equal(c.http.port, 8432);
    assert_string_equal(c.http.token, "s3cret");
    assert_true(c.http.max_lag_us == 5000000);
    assert_int_equal(c.log.format, LOG_JSON);
    assert_int_equal(c.log.level, LOG_DEBUG);
    assert_true(c.log.values);
    arena_release(&arena);
}

static void entries_are_read(void **state)
{
    struct arena arena = {0};
    struct config c;
    struct error err;
    const struct config_table *t;

    (void) state;
    assert_true(parse(full, &arena, &c, &err));
    assert_int_equal(c.ntables, 3);
    assert_true(c.tables[0].is_name_glob && !c.tables[0].is_schema_glob);
    assert_int_equal(c.tables[0].place.line, 22);
    assert_int_equal(c.tables[0].place.column, 5);
    assert_true(c.tables[1].is_excluded && !c.tables[1].is_name_glob);
    assert_string_equal(c.tables[1].name, "Audit*");
    assert_string_equal(c.tables[1].pattern, "!public.\"Audit*\"");
    t = &c.tables[2];
    assert_int_equal(t->place.line, 24);
    assert_int_equal(t->nexclude, 2);
    assert_string_equal(t->exclude[1], "Blob");
    assert_int_equal(t->nmask, 2);
    assert_string_equal(t->mask[1].column, "phone");
    assert_int_equal(t->mask[0].mask, MASK_HASH);
    assert_int_equal(t->mask[1].mask, MASK_NULL);
    assert_true(t->has_deletes && t->has_truncate && t->has_purge_after);
    assert_int_equal(t->deletes, DELETES_IGNORE);
    assert_int_equal(t->truncate, TRUNCATE_STOP);
    assert_true(t->purge_after_us == -1);
    assert_int_equal(t->nkey, 2);
    assert_string_equal(t->key[0], "tenant");
    assert_int_equal(t->indexes.kind, INDEXES_NONE);
    assert_false(config_error_at(&c, t->place, &err, "no table %s", "x"));
    assert_string_equal(err.message, "t.yaml:24:5: no table x");
    config_error_at(&c, (struct config_place){0}, &err, "no table");
    assert_string_equal(err.message, "t.yaml: no table");
    arena_release(&arena);
}

/* A variable in a conninfo is a value, whatever characters are in it. */
static void environment_is_expanded(void **state)
{
    static const struct {
        const char *written, *read;
    } cases[] = {
        {"host=a password=${P}", "host=a password='it\\'s a \\\\ secret'"},
        {"password=${P} host=a", "password='it\\'s a \\\\ secret' host=a"},
        {"password = ${P} host=a", "password = 'it\\'s a \\\\ secret' host=a"},
        {"password='${P}'", "password='it\\'s a \\\\ secret'"},
        {"password='a\\'${P}'", "password='a\\'it\\'s a \\\\ secret'"},
        {"user=a'b host=${H}", "user=a'b host='db1'"},
        {"user='a' host=${H}.example.com", "user='a' host=db1.example.com"},
        {"options=-cx=${H} host=${H}", "options=-cx=db1 host='db1'"},
        {"password=${E} host=a", "password='' host=a"},
        {"${WHOLE}", "host=b port=5433"},
        {"${WHOLE} user=${H}", "host=b port=5433 user='db1'"},
        {"user=a ${WHOLE}", "user=a host=b port=5433"},
        {"postgresql://u:${H}@${H}:1/d?password=${H}", "postgresql://u:db1@db1:1/d?password=db1"},
        {"${URI}?password=${H}", "postgres://u@h/d?password=db1"},
        {"password=$${P} user=$x$", "password=${P} user=$x$"},
        {"password=\\${P}", "password=\\it's a \\ secret"},
    };
    struct arena arena = {0};
    struct config c;
    struct error err;

    (void) state;
    setenv("P", "it's a \\ secret", 1);
    setenv("H", "db1", 1);
    setenv("E", "", 1);
    setenv("WHOLE", "host=b port=5433", 1);
    setenv("URI", "postgres://u@h/d", 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[256];

        snprintf(text, sizeof(text),
                 "source:\n  conninfo: %s\nmirror: {conninfo: m}\ntables: [a.b]", cases[i].written);
        if (!parse(text, &arena, &c, &err))
            fail_msg("%s: %s", cases[i].written, err.message);
        assert_string_equal(c.source.conninfo, cases[i].read);
    }
    assert_true(parse(SMALLEST "pipeline: a_${H}\nlog:\n  level: ${LEVEL_$${\n", &arena, &c,
                      &err) == false);
    assert_true(parse(SMALLEST "pipeline: a_${H}\n", &arena, &c, &err));
    assert_string_equal(c.pipeline, "a_db1");
    assert_string_equal(c.source.slot, "tailwater_a_db1");
    arena_release(&arena);
}

static void patterns_match(void **state)
{
    static const struct {
        const char *pattern, *schema, *name;
        bool matches;
    } cases[] = {
        {"public.orders", "public", "orders", true},
        {"public.orders", "public", "Orders", false},
        {"public.orders", "public", "orders2", false},
        {"public.orders", "sales", "orders", false},
        {"public.*", "public", "", true},
        {"public.*", "public", "a.b", true},
        {"'*.*'", "x", "y", true},
        {"public.order_*", "public", "order_items", true},
        {"public.order_*", "public", "orders", false},
        {"public.*_20??", "public", "a_2020_2021", true},
        {"public.*_20??", "public", "a_202", false},
        {"public.a?c", "public",
         "a\xc3\xa9"
         "c",
         true},
        {"public.a??c", "public",
         "a\xc3\xa9"
         "c",
         false},
        {"public.*\xc3\xa9*x", "public", "\xc3\xa9\xc3\xa8x", true},
        {"public.a*b*c", "public", "aXbXbXc", true},
        {"public.a*b*c", "public", "aXbXbX", false},
        {"'public.\"a*\"'", "public", "a*", true},
        {"'public.\"a*\"'", "public", "ab", false},
        {"'\"We\"\"ird\".\"x.y z\"'", "We\"ird", "x.y z", true},
        {"public.$%_", "public", "$%_", true},
        {"public.$%_", "public", "$ab", false},
    };

    (void) state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arena arena = {0};
        struct config c;
        struct error err;
        char text[256];

        snprintf(text, sizeof(text), SMALL "tables:\n- %s\n", cases[i].pattern);
        if (!parse(text, &arena, &c, &err))
            fail_msg("%s", err.message);
        if (config_table_matches(&c.tables[0], cases[i].schema, cases[i].name) != cases[i].matches)
            fail_msg("%s and %s.%s", cases[i].pattern, cases[i].schema, cases[i].name);
        arena_release(&arena);
    }
}

static void schemas_expand(void **state)
{
    struct arena arena = {0};

    (void) state;
    assert_string_equal(config_expand_schema("mirror_{schema}", "a b", &arena), "mirror_a b");
    assert_string_equal(config_expand_schema("{schema}{schema}x", "{schema}", &arena),
                        "{schema}{schema}x");
    assert_string_equal(config_expand_schema("fixed", "a", &arena), "fixed");
    arena_release(&arena);
}

static void nearest_names(void **state)
{
    static const char *const names[] = {"status", "purge", "run", "help"};

    (void) state;
    assert_string_equal(config_nearest("sttaus", names, 4), "status");
    assert_string_equal(config_nearest("STATUS", names, 4), "status");
    assert_string_equal(config_nearest("prune", names, 4), "purge");
    assert_string_equal(config_nearest("rnu", names, 4), "run");
    assert_string_equal(config_nearest("Stat", names, 4), "status");
    assert_null(config_nearest("st", names, 4));
    assert_null(config_nearest("refresh", names, 4));
    assert_null(config_nearest("x", names, 4));
    assert_null(config_nearest("", names, 4));
    assert_null(config_nearest("statusstatusstatusstatusstatusstatusstatusstatusstatusstatusstatus",
                               names, 4));
    assert_null(config_nearest("run", names, 0));
}

static void values_from_elsewhere(void **state)
{
    struct error err = {0};
    int64_t value = 5;

    (void) state;
    assert_true(config_check_value("pipeline", "shop", &err));
    assert_true(config_check_value("tables[].name", "public.*", &err));
    assert_int_equal(err.kind, ERROR_NONE);
    assert_false(config_check_value("pipeline", "Shop", &err));
    assert_string_equal(err.message, "\"Shop\" is not a plain name: only a-z, 0-9 and _");
    assert_false(config_check_value("tables[].name", "orders", &err));
    assert_string_equal(err.message, "a table is named with its schema");
    assert_false(config_check_value("nothing", "x", &err));
    assert_int_equal(err.kind, ERROR_BUG);
    assert_true(config_parse_duration("3h", &value, &err));
    assert_true(value == INT64_C(3) * 3600 * 1000000);
    assert_true(config_parse_duration("0", &value, &err) && value == 0);
    assert_true(config_parse_size("5 KiB", &value, &err) && value == 5120);
    assert_false(config_parse_size("5 parsecs", &value, &err));
    assert_true(value == 5120);
}

/* Every prefix of a good file is read or refused; the sanitizers watch. */
static void every_prefix(void **state)
{
    (void) state;
    for (size_t len = 0; len < sizeof(full); len++) {
        struct arena arena = {0};
        struct config c;
        struct error err = {0};
        char *text = malloc(len + 1);

        memcpy(text, full, len);
        if (!config_parse("t.yaml", text, len, &arena, &c, &err))
            assert_int_equal(err.kind, ERROR_CONFIG);
        free(text);
        arena_release(&arena);
    }
}

static void files(void **state)
{
    char name[] = "/tmp/test_config_XXXXXX";
    int fd = mkstemp(name);
    FILE *stream = fdopen(fd, "w");
    struct arena arena = {0};
    struct config c;
    struct error err;

    (void) state;
    fputs(SMALLEST, stream);
    fflush(stream);
    assert_true(config_load(name, &arena, &c, &err));
    assert_string_equal(c.file, name);
    for (int i = 0; i < 1100; i++)
        fprintf(stream, "#%01022d\n", i);
    fclose(stream);
    assert_false(config_load(name, &arena, &c, &err));
    assert_non_null(strstr(err.message, "is not a configuration: larger than 1MiB"));
    remove(name);
    assert_false(config_load("/nonexistent/t.yaml", &arena, &c, &err));
    assert_string_equal(err.message, "cannot open /nonexistent/t.yaml: No such file or directory");
    assert_int_equal(err.kind, ERROR_CONFIG);
    assert_false(config_load("/", &arena, &c, &err));
    assert_string_equal(err.message, "cannot read /: Is a directory");
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(hints_say_what_to_do),
        cmocka_unit_test(changes_of_the_source),
        cmocka_unit_test(passwords_stay_inside),
        cmocka_unit_test(smallest_has_the_defaults),
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(facts_are_read),
        cmocka_unit_test(entries_are_read),
        cmocka_unit_test(environment_is_expanded),
        cmocka_unit_test(patterns_match),
        cmocka_unit_test(schemas_expand),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(values_from_elsewhere),
        cmocka_unit_test(every_prefix),
        cmocka_unit_test(files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
