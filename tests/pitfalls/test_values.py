"""Values and their encoding (P4, P8 to P13)."""

import contextlib

import pytest

from lib.cluster import OWNER, REPLICATOR, SUPERUSER, Database
from lib.pipeline import FAILED, FINDINGS
from pitfalls.common import refused, running, wait_until_repaired


def test_p04_row_filter_that_comes_later(source, mirror, make_pipeline):
    """An update that crosses a filter arrives as an insert with holes; its large value never does."""
    source.sql("create table t (id int primary key, a int, big text);"
               "alter table t alter big set storage external;"
               "insert into t values (1, 1, repeat('x', 5000))")
    pipeline = running(make_pipeline, plugin="pgoutput")
    source.sql(f"alter publication {pipeline.publication} set table t where (id > 5)", user="postgres")
    source.sql("update t set id = 10 where id = 1")
    assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
    assert "public.t" in pipeline.this_run() and "big" in pipeline.this_run()
    assert mirror.sql("select id, length(big) from t") == [(1, 5000)]
    refused(pipeline, (FINDINGS,), "row filter", "public.t")


NUMBERS = {
    "i8": "9007199254740993", "i8min": "-9223372036854775808", "f4": "3.4028235e38", "f4small": "1e-45",
    "f8": "0.30000000000000004", "f8small": "5e-324", "n": "123456789012345678901234567890.123456789",
    "nzeros": "1.000", "nbig": "1" + "0" * 200, "nsmall": "0." + "0" * 100 + "1", "o": "4294967295",
    "m": "92233720368547758.07",
}


def test_p08_numbers_keep_every_digit(both_plugins, source, mirror, make_pipeline):
    kinds = {"i": "bigint", "f4": "float4", "f8": "float8", "n": "numeric", "o": "oid", "m": "money"}
    columns = {name: next(kinds[k] for k in (name[:2], name[0]) if k in kinds) for name in NUMBERS}
    source.sql("create table t (id int primary key, {}, a numeric[])".format(
        ", ".join(f"{name} {kind}" for name, kind in columns.items())))
    listed = ", ".join(f"'{value}'" for value in NUMBERS.values())
    row = f"{listed}, '{{{NUMBERS['n']},{NUMBERS['nsmall']},1.0,1.00}}'"
    source.sql(f"insert into t values (1, {row})")
    pipeline = running(make_pipeline)
    pipeline.feed([f"insert into t values (2, {row})", "update t set id = 3 where id = 1"], "one by one")
    assert mirror.sql("select distinct i8::text, f8::text, f8small::text, n::text, nzeros::text, o::text "
                      "from t") == [tuple(NUMBERS[c] for c in ("i8", "f8", "f8small", "n", "nzeros", "o"))]
    pipeline.settle()


SETTINGS = {
    "bytea_output": "escape", "extra_float_digits": "0", "datestyle": "SQL, DMY", "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata", "lc_monetary": "C", "xmloption": "document", "search_path": "nowhere",
    "array_nulls": "off", "standard_conforming_strings": "off", "default_transaction_isolation": "serializable",
    "row_security": "on", "quote_all_identifiers": "on", "client_encoding": "LATIN1",
    "default_transaction_deferrable": "on", "transform_null_equals": "on",
}


@contextlib.contextmanager
def set_for(database, role, settings):
    """Of the database and of the role in it; the second wins on a server."""
    for name, value in settings.items():
        for whose in (f"database {database.name}", f"role {role} in database {database.name}"):
            database.sql(f"alter {whose} set {name} = {value if name == 'datestyle' else repr(value)}",
                         user=SUPERUSER)
    database.close()
    try:
        yield
    finally:
        database.sql(f"alter database {database.name} reset all", user=SUPERUSER)
        database.sql(f"alter role {role} in database {database.name} reset all", user=SUPERUSER)
        database.close()


def test_p09_p10_settings_change_no_value(both_plugins, source, mirror, make_pipeline):
    """Of role, database and environment, on either side: in the copy, the stream and a repair."""
    source.sql("""
        create table t (id int primary key, by bytea, bya bytea[], f4 float4, f8 float8, d date, ts timestamp,
            tz timestamptz, iv interval, m money, x xml, a int[], note text, big text);
        alter table t alter big set storage external;
        """)
    row = ("'\\x00ff41275c', '{\"\\\\x00ff\",NULL}', 0.1, 0.1::float8 + 0.2, '2024-02-03', '2024-02-03 01:02:03.004', "
           "'2024-02-03 01:02:03+05', '1 mon -2 days 03:04:05.6', '1234.56', '<a/>text<b/>', '{1,NULL}', "
           "E'NULL \\\\ '' \\u00fc', repeat('x', 5000)")
    source.sql(f"insert into t values (1, {row})")
    environment = {"PGTZ": "Asia/Tokyo", "PGDATESTYLE": "German", "PGCLIENTENCODING": "LATIN1",
                   "PGOPTIONS": "-c bytea_output=escape -c extra_float_digits=-2 -c intervalstyle=iso_8601"}
    with set_for(source, REPLICATOR, SETTINGS), set_for(mirror, REPLICATOR, SETTINGS):
        pipeline = make_pipeline().publish()
        pipeline.start(env=environment).wait_until_caught_up()
        # What is typed here is to be read as it was before.
        source.sql("set standard_conforming_strings = on; set client_encoding = 'UTF8'; "
                   "set xmloption = content; set array_nulls = on; set datestyle = iso; set search_path = public")
        pipeline.feed([f"insert into t values (2, {row})"], "one by one")
        mirror.sql("delete from mirror_public.t where id = 1")
        pipeline.feed(["update t set note = 'hole' where id = 1"], "one by one")
        wait_until_repaired(pipeline, 1)
        pipeline.stop()
    assert mirror.sql("select by, f8::text, d::text, iv::text from t where id = 2") == \
        source.sql("select by, f8::text, d::text, iv::text from t where id = 2")
    pipeline.compare()
    pipeline.settle_stopped()


@pytest.fixture
def encoded(request, source):
    """A source database of another encoding."""
    cluster, made = source.cluster, []

    def make(encoding):
        name = f"{source.name}_{encoding.lower()}"
        cluster.sql(f"create database {name} owner {OWNER} encoding '{encoding}' locale 'C' template template0")
        database = Database(cluster, name, OWNER)
        database.sql(f"""
            grant create, usage on schema public to {OWNER};
            grant usage on schema public to {REPLICATOR};
            alter default privileges for role {OWNER} grant select on tables to {REPLICATOR};
            """, user=SUPERUSER)
        made.append(database)
        return database

    yield make
    for database in made:
        database.drop()


def test_p11_latin1_source(encoded, mirror, make_pipeline):
    """pgoutput converts; of wal2json, which does not, such a source is refused."""
    latin = encoded("LATIN1")
    latin.sql("create table \"gr\xfc\xdfe\" (id int primary key, a text, big text);"
              "alter table \"gr\xfc\xdfe\" alter big set storage external;"
              "insert into \"gr\xfc\xdfe\" values (1, 'caf\xe9', repeat('\xe9', 3000))")
    pipeline = make_pipeline(source_db=latin, plugin="wal2json")
    result = pipeline.verb("run", "--until", "now")
    assert result.code == FINDINGS and "source_encoding" in result.err and "pgoutput" in result.err
    pipeline = running(make_pipeline, source_db=latin, plugin="pgoutput")
    pipeline.feed(["insert into \"gr\xfc\xdfe\" values (2, 'na\xefve', 'x')",
                   "update \"gr\xfc\xdfe\" set a = a || '!'"], "one by one")
    assert mirror.sql('select id, a, octet_length(big) from "grüße" order by id') == [
        (1, "café!", 6000), (2, "naïve!", 1)]
    pipeline.stop()


def test_p11_bytes_that_are_no_text(encoded, mirror, make_pipeline):
    """An SQL_ASCII database holds anything: the server cannot send what is no UTF-8, and it stops."""
    ascii_ = encoded("SQL_ASCII")
    ascii_.sql("create table t (id int primary key, a text); insert into t values (1, 'fine')")
    pipeline = running(make_pipeline, source_db=ascii_, plugin="pgoutput")
    ascii_.sql("insert into t values (2, E'\\xc3\\xa9')")  # happens to be UTF-8
    pipeline.wait_until_caught_up()
    assert mirror.sql("select * from t order by id") == [(1, "fine"), (2, "é")]
    ascii_.sql("insert into t values (3, E'not \\xe9')")
    assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
    assert "22021" in pipeline.this_run()
    assert mirror.value("select count(*) from t") == 2


def test_p13_values_added_to_an_enum(both_plugins, source, mirror, make_pipeline):
    """A new label reaches the mirror before the rows that use it, or the pipeline says what to do."""
    source.sql("create type mood as enum ('sad', 'happy'); create table t (id int primary key, m mood, a mood[]);"
               "insert into t values (1, 'sad', '{happy}')")
    pipeline = running(make_pipeline)
    source.sql("alter type mood add value 'meh' after 'sad'")
    source.sql("insert into t values (2, 'meh', '{meh,sad}')")
    if not pipeline_follows(pipeline, source):
        assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
        assert "public.t" in pipeline.this_run() and "22P02" in pipeline.this_run()
    pipeline.settle_stopped()  # each start compares the labels
    assert mirror.sql("select enum_range(null::mood)::text") == [("{sad,meh,happy}",)]


def pipeline_follows(pipeline, source):
    from lib import wait
    target = source.lsn()
    return wait.until(lambda: "at" if pipeline.is_at(target) else not pipeline.is_running and "ended",
                      "seen") == "at"
