"""Transactions as they come: their order, their parts, and what comes between them (P27, P33 to P36, P63, P65, P66)."""

import pytest

from lib import wait
from pitfalls.common import running


@pytest.fixture
def table(source):
    source.sql("create table t (id int primary key, a text)")


def copy_in(source, lines):
    """COPY: all its rows have one LSN."""
    import io
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.copy_expert("copy t from stdin", io.StringIO("".join(f"{i}\tcopied\n" for i in lines)))


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_p27_rows_of_one_position(both_plugins, source, mirror, table, make_pipeline, point):
    """Killed before and after its commit: all of them, and each once, though a row has no position."""
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    pipeline.start(fault=f"{point}=kill")
    copy_in(source, range(3))
    assert pipeline.wait_exit() == -9, pipeline.log_tail()
    def versions():
        return mirror.sql("select id, xmin::text from mirror_public.t order by id")

    pipeline.start().wait_until_caught_up()
    written = versions()
    assert [row[0] for row in written] == [0, 1, 2]
    pipeline.stop()
    pipeline.start().wait_until_caught_up()
    assert versions() == written, "no row is written a second time"
    pipeline.settle()


def test_p33_messages_between_rows(both_plugins, source, mirror, table, make_pipeline):
    """Non-transactional messages come before their transaction, and from ones that are rolled back."""
    pipeline = running(make_pipeline)
    prefix = f"tailwater_{pipeline.name}"
    for is_rolled_back in (False, True):
        with source.connect("postgres") as connection, connection.cursor() as cursor:
            for i in range(3):
                for whose in (prefix, "somebody", ""):
                    cursor.execute("select pg_logical_emit_message(false, %s, 'outside')", (whose,))
                    cursor.execute("select pg_logical_emit_message(true, %s, 'inside')", (whose,))
                cursor.execute("insert into t values (%s, 'x')", (10 * is_rolled_back + i,))
                source.sql("insert into t values (%s, 'of another')", 100 + 10 * is_rolled_back + i)
            if is_rolled_back:
                connection.rollback()
        pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from t") == 9
    pipeline.settle()


@pytest.mark.parametrize("moment", ["prepared before the copy", "while it runs", "killed in between"])
def test_p35_two_phase(both_plugins, source, mirror, table, make_pipeline, request, moment):
    """A prepared transaction counts when it is committed, whatever has passed in between."""
    name = f"p35_{source.name}"
    pipeline = make_pipeline().publish()
    prepare = f"begin; insert into t values (1, 'prepared'); prepare transaction '{name}'"
    if moment == "prepared before the copy":
        # The slot has to wait for it.
        source.sql(prepare)
        pipeline.start()
        wait.until(lambda: source.value("select count(*) from pg_stat_activity where query ilike "
                                        "'create_replication_slot%%' and wait_event_type = 'Lock'",
                                        user="postgres"), "the slot's creation waits")
        source.sql("insert into t values (2, 'other')")
        source.sql(f"commit prepared '{name}'")
    else:
        pipeline.start().wait_until_caught_up()
        source.sql(prepare)
        source.sql("insert into t values (2, 'other')")
        pipeline.wait_until_caught_up()
        assert mirror.sql("select id from t") == [(2,)]
        if moment == "killed in between":
            pipeline.kill()
        source.sql(f"commit prepared '{name}'")
        if moment == "killed in between":
            pipeline.start()
    pipeline.wait_until_caught_up()
    assert mirror.sql("select id from t order by id") == [(1,), (2,)]
    source.sql(f"begin; insert into t values (3, 'never'); prepare transaction '{name}'")
    source.sql(f"rollback prepared '{name}'")
    pipeline.settle()


def test_p36_subtransactions(both_plugins, source, mirror, table, make_pipeline):
    """What is rolled back to a savepoint was never there; what is released is."""
    pipeline = running(make_pipeline)
    source.sql("""
        begin;
        insert into t values (1, 'kept');
        savepoint a; insert into t values (2, 'lost'); update t set a = 'lost' where id = 1; rollback to a;
        savepoint b; insert into t values (3, 'kept');
        savepoint c; insert into t values (4, 'lost'); delete from t where id = 1; rollback to c;
        insert into t values (4, 'kept'); release b;
        commit;
        do $$ begin
            for i in 10..400 loop
                begin
                    insert into t values (i, 'in a subtransaction');
                    if i % 3 = 0 then raise 'no'; end if;
                exception when raise_exception then null;
                end;
            end loop;
        end $$;
        """)
    pipeline.wait_until_caught_up()
    assert mirror.sql("select id, a from t where id < 10 order by id") == [(1, "kept"), (3, "kept"), (4, "kept")]
    assert mirror.value("select count(*) from t where id >= 10") == 261
    pipeline.settle()


@pytest.mark.parametrize("named", [True, False], ids=["named", "whole schema"])
def test_p63_what_never_comes_and_what_should_not(both_plugins, source, mirror, table, make_pipeline, named):
    """Unlogged and temporary tables, sequences, large objects, materialized views, foreign tables."""
    source.sql("""
        create unlogged table u (id int primary key);
        create materialized view m as select id, a from t with data;
        create unique index on m (id);
        create sequence s;
        create view w as select * from t;
        """)
    if not named:
        source.sql("do $$ begin for i in 1..22 loop execute format("
                   "'create table n%s (id int primary key)', i); end loop; end $$")
    pipeline = running(make_pipeline, tables=["public.t"] if named else ["public.*"])
    source.sql("""
        create temp table tmp (id int primary key); insert into tmp values (1);
        insert into t values (1, 'x'), (2, 'y'); insert into u values (1); select nextval('s');
        select lo_create(0);
        refresh materialized view concurrently m;
        insert into t values (3, 'z'); truncate u;
        refresh materialized view m;
        create materialized view m2 as select * from t; create table t2 as select * from t;
        """)
    pipeline.wait_until_caught_up()
    for name in ("u", "m", "w", "tmp", "m2", "t2"):
        assert mirror.value("select to_regclass(%s)", f"public.{name}") is None
    pipeline.settle(["t"])
    for kind in ("u", "m", "w"):
        pipeline.tables = [f"public.{kind}"]
        pipeline.write_config()
        result = pipeline.verb("check", "--json")
        assert any(f["name"] == "table_kind" and f["level"] == "error" for f in result.json()["findings"])


def test_p65_origins(both_plugins, source, mirror, table, make_pipeline):
    """Rows that came to the source by replication are rows like all others."""
    origin = f"from_{source.name}"
    pipeline = running(make_pipeline)
    source.sql("select pg_replication_origin_create(%s)", origin, user="postgres")
    try:
        connection = source.connect("postgres")
        with connection, connection.cursor() as cursor:
            cursor.execute("select pg_replication_origin_session_setup(%s)", (origin,))
            cursor.execute("select pg_replication_origin_xact_setup('0/ABCD', '2020-01-01')")
            cursor.execute("insert into t values (1, 'from elsewhere')")
        connection.close()
        source.sql("insert into t values (2, 'from here')")
        pipeline.wait_until_caught_up()
        assert mirror.sql("select * from t order by id") == [(1, "from elsewhere"), (2, "from here")]
        pipeline.settle()
    finally:
        source.sql("select pg_replication_origin_drop(%s)", origin, user="postgres")


CONTENTS = [b"", b"\xff\x00\xfe", b"{", b'{"a": "\\u0000"}', b"x" * 100_000, "ü€😀".encode(), b"\n\r\t\x01"]
PREFIXES = ["tailwater", "a,b", 'quo"te\'s', "back\\slash", "new\nline", "", "é"]


def test_p66_messages_of_all_kinds(both_plugins, source, mirror, table, make_pipeline):
    """Anybody may emit any bytes under any prefix, ours included: nothing stops, nothing is lost."""
    pipeline = running(make_pipeline)
    for i, content in enumerate(CONTENTS):
        for prefix in (f"tailwater_{pipeline.name}", *PREFIXES):
            for transactional in (True, False):
                source.sql("select pg_logical_emit_message(%s, %s, %s::bytea)", transactional, prefix, content,
                           user="postgres")
        source.sql("insert into t values (%s, 'x')", i)
    pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from t") == len(CONTENTS)
    pipeline.settle()
