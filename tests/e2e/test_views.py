"""What people query: live views with the source's names, columns and rows, and who may read them."""

import psycopg2
import pytest

from lib import wait


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


def columns(mirror, name):
    return [row[0] for row in mirror.sql(
        "select column_name from information_schema.columns where table_schema = 'public' "
        "and table_name = %s order by ordinal_position", name)]


def test_same_name_columns_and_rows(both_plugins, source, mirror, make_pipeline):
    source.sql("""
        create table "Order Lines" (id int primary key, "Sku" text, gone int, n numeric(8,2));
        alter table "Order Lines" drop column gone;
        insert into "Order Lines" values (1, 'a', 1.5), (2, 'b', null);
        """)
    pipeline = running(make_pipeline, purge={"after": "7d"})
    assert columns(mirror, "Order Lines") == ["id", "Sku", "n"]
    assert mirror.value("select relkind from pg_class where oid = 'public.\"Order Lines\"'::regclass") == "v"
    pipeline.feed(['delete from "Order Lines" where id = 1'], "one by one")
    assert mirror.sql('select * from "Order Lines"') == [(2, "b", None)]
    assert mirror.value('select count(*) from mirror_public."Order Lines"') == 2
    assert mirror.value(
        "select format_type(atttypid, atttypmod) from pg_attribute where attname = 'n' "
        "and attrelid = 'public.\"Order Lines\"'::regclass") == "numeric(8,2)"
    pipeline.settle()


def test_p67_names_that_need_quoting(both_plugins, source, mirror, make_pipeline):
    """Names come from the source: none of them is SQL (P67)."""
    source.sql("""
        create schema "We""ird";
        grant usage on schema "We""ird" to tailwater;
        create table "We""ird"."sel''ect" (id int primary key, "x.y z" text, "select" int, "a""b" int);
        insert into "We""ird"."sel''ect" values (1, 'a', 2, 3);
        """)
    pipeline = running(make_pipeline, tables=['"We""ird".*'])
    pipeline.feed(["""update "We""ird"."sel''ect" set "x.y z" = 'b', "a""b" = 4""",
                   """insert into "We""ird"."sel''ect" values (2, '\\n"''', 5, 6)"""], "one by one")
    pipeline.settle()


def test_readers(source, mirror, make_pipeline):
    """Readers may read live views and nothing else, also those made later."""
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = running(make_pipeline, mirror={"readers": ["reports"]})
    assert mirror.sql("select * from t", user="reports") == [(1,)]
    for forbidden in ("select * from mirror_public.t", "select * from tailwater.clock",
                      "delete from t", "insert into t values (2)"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            mirror.sql(forbidden, user="reports")
    pipeline.settle()


def test_reader_that_does_not_exist(source, make_pipeline):
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline(mirror={"readers": ["nobody_of_that_name"]})
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code in (2, 3), repr(result)
        assert "nobody_of_that_name" in result.err


def test_view_appears_when_its_copy_is_complete(source, mirror, make_pipeline):
    """Killed with tables copied but not shown: no view; after the next run, all of them."""
    source.sql("create table a (id int primary key); insert into a select generate_series(1, 100);"
               "create table b (id int primary key); insert into b select generate_series(1, 100)")
    pipeline = make_pipeline()
    pipeline.start(fault="copy_before_views=kill")
    assert pipeline.wait_exit() == -9
    assert mirror.value("select count(*) from pg_views where schemaname = 'public'") == 0
    pipeline.run_until_now()
    assert mirror.value("select count(*) from pg_views where schemaname = 'public'") == 2
    pipeline.compare()
    pipeline.settle_stopped()


def test_p60_partitions_are_one_table(both_plugins, source, mirror, make_pipeline):
    """Rows of partitions come under the root's name, whatever their columns' order (P60)."""
    source.sql("""
        create table e (id int, day date, v text, primary key (id, day)) partition by range (day);
        create table e1 partition of e for values from ('2024-01-01') to ('2024-02-01');
        create table e2 (v text, day date not null, id int not null);
        alter table e attach partition e2 for values from ('2024-02-01') to ('2024-03-01');
        insert into e select i, '2024-01-01'::date + i, 'v' || i from generate_series(0, 50) i;
        """)
    pipeline = running(make_pipeline)
    assert mirror.sql("select table_name from information_schema.views where table_schema = 'public'") \
        == [("e",)]
    pipeline.feed(["update e set day = '2024-02-20' where id = 3",  # moves to the other partition
                   "insert into e values (100, '2024-02-02', 'new')", "delete from e where id = 7",
                   "update e set v = upper(v) where id > 40"], "one by one")
    pipeline.compare([("public", "e")])
    pipeline.feed(["truncate e", "insert into e values (1, '2024-01-01', 'x')"], "one by one")
    pipeline.settle([("public", "e")])


def test_p15_generated_columns(both_plugins, source, mirror, make_pipeline):
    """The same shape with both plugins, though only one of them sends such a column (P15)."""
    source.sql("""
        create table g (id int primary key, a int, twice int generated always as (a * 2) stored,
                        seq int generated always as identity);
        insert into g (id, a) values (1, 10), (2, 20);
        """)
    pipeline = running(make_pipeline)
    pipeline.feed(["update g set a = 11 where id = 1", "insert into g (id, a) values (3, 30)"], "one by one")
    assert mirror.sql("select twice from g order by id") == [(22,), (40,), (60,)]
    pipeline.settle()


VALUES = """
    create type mood as enum ('sad', 'so so', 'happy');
    create type addr as (street text, no int);
    create domain posint as int check (value > 0);
    create table v (id int primary key, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric,
        t text, c char(5), vc varchar(10), by bytea, d date, ts timestamp, tz timestamptz, tm time,
        iv interval, u uuid, j json, jb jsonb, x xml, ai int[], at text[], aa int[][], e mood,
        ae mood[], ad addr, dm posint, p point, inet inet, r int4range, bt bit(3), mon money, o oid);
    """
ROWS = [
    "(1, true, -32768, 9007199254740993, 0.1, 0.1::float8 + 0.2::float8, 123456789012345678901234567890.123,"
    " E'tab\\t nl\\n back\\\\ quote'' \"', 'ab', 'vc', '\\x00ff41', '2024-02-03', '2024-02-03 01:02:03.456789',"
    " '2024-02-03 01:02:03+05', '23:59:59.999999', '1 mon -2 days 03:04:05', "
    " 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\":  [1,2]}', '{\"b\": 1e3}', '<a b=\"c\">d</a>',"
    " '{1,null,3}', '{\"a,b\",\"q\\\"\",NULL,\"NULL\",\"\"}', '{{1,2},{3,4}}', 'so so', '{sad,\"so so\"}',"
    " '(\"1, Main \"\"St\"\"\",5)', 7, '(1.5,-2)', '10.0.0.0/8', '[1,5)', B'101', 12.34, 4000000000)",
    "(2, null" + ", null" * 31 + ")",
    "(3, false, 0, 0, '-0', '-0', 0.000, '', '', '', '', 'infinity', '-infinity', 'infinity', '00:00',"
    " '0', '00000000-0000-0000-0000-000000000000', 'null', 'null', '', '{}', '{}', '{}', 'sad', '{}',"
    " '(,)', 1, '(0,0)', '::1', 'empty', B'000', 0, 0)",
]


def test_values_of_every_kind(both_plugins, source, mirror, make_pipeline):
    """The copy and the stream give every value the source's text (P7 to P13)."""
    source.sql(VALUES)
    for row in ROWS:
        source.sql(f"insert into v values {row}")
    source.sql("alter database {} set datestyle = 'SQL, DMY'".format(source.name), user="postgres")
    source.sql("alter role tailwater set bytea_output = escape", user="postgres")
    try:
        pipeline = running(make_pipeline)
        pipeline.compare()
        pipeline.feed(["update v set id = id + 100"]
                      + [f"insert into v values {row}" for row in ROWS]
                      + ["update v set t = coalesce(t, '') || 'ü€😀' where id < 100",
                         "alter type mood add value 'elated'"], "one by one")
        pipeline.compare()
    finally:
        source.sql("alter role tailwater reset bytea_output", user="postgres")
    pipeline.settle()


def test_p07_nan_and_infinity(source, mirror, make_pipeline):
    """pgoutput brings them; wal2json before 2.6 does not, and check says so."""
    source.sql("create table f (id int primary key, f4 float4, f8 float8, n numeric)")
    pipeline = running(make_pipeline, plugin="pgoutput")
    pipeline.feed(["insert into f values (1, 'NaN', 'NaN', 'NaN'), (2, 'inf', '-inf', 'inf')"],
                  "one by one")
    wait.until(lambda: mirror.value("select count(*) from f") == 2, "rows")
    pipeline.settle()
