"""Tables that change their shape, and the copy that meets the stream (P32, P50, P55 to P59)."""

import signal

import pytest

from lib import wait
from lib.pipeline import FAILED, FINDINGS, USAGE, Traffic
from pitfalls.common import refused, running


@pytest.fixture
def table(source):
    source.sql("create table t (id int primary key, a int, v text, w text);"
               "insert into t select i, i, 'v' || i, 'w' || i from generate_series(1, 3) i")


def seen(pipeline, source):
    """Until it has ended, or has all of it."""
    wait.until(lambda: not pipeline.is_running or pipeline.is_at(source.lsn()), pipeline.log_tail)


LATER = {
    "p55 added": ["alter table t add z int default 7", "insert into t values (5, 5, 'v', 'w', 5)"],
    "p56 retyped": ["alter table t alter a type text using 'x' || a", "insert into t values (5, 'x5', 'v', 'w')"],
    "p57 renamed": ["alter table t rename v to vv", "update t set vv = 'new' where id = 4"],
    "p57 names swapped": ["alter table t rename v to x; alter table t rename w to v; alter table t rename x to w",
                          "insert into t (id, a, v, w) values (5, 5, 'in v', 'in w')"],
    "p57 dropped and added": ["alter table t drop v; alter table t add v text",
                              "insert into t (id, a, v) values (5, 5, 'new v')"],
}


@pytest.mark.parametrize("change", LATER)
def test_p58_rows_from_before_a_change(both_plugins, source, mirror, table, make_pipeline, change):
    """Behind by some transactions, then a change of shape: no value gets into a wrong column.

    What was written before it is taken as it was then, or not yet; what comes after it is refused, or
    right.
    """
    pipeline = running(make_pipeline)
    pipeline.signal(signal.SIGSTOP)
    source.sql("insert into t values (4, 4, 'v4', 'w4')")
    for statement in LATER[change]:
        source.sql(statement)
    pipeline.signal(signal.SIGCONT)
    seen(pipeline, source)
    old = [(i, str(i), f"v{i}", f"w{i}") for i in (1, 2, 3, 4)]
    rows = mirror.sql("select id, a::text, v, w from t order by id")
    if not pipeline.is_running:
        assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
        assert "public.t" in pipeline.this_run()
        assert rows in (old[:3], old)
    else:
        # By name all of it is right, but for what the change did to rows of before in place.
        assert rows[:4] == old
        assert rows[4:] == source.sql("select id, a::text, v, w from t where id = 5")
        pipeline.stop()
    refused(pipeline, (USAGE, FINDINGS), "public.t")


def test_p57_p58_everything_in_one_transaction(both_plugins, source, mirror, table, make_pipeline):
    """Add, rename, drop, retype between rows of one transaction: none of it, or all of it."""
    pipeline = running(make_pipeline)
    source.sql("""
        begin;
        insert into t values (10, 1, 'v', 'w');
        alter table t add z int default 7; insert into t values (11, 2, 'v', 'w', 3);
        alter table t rename v to vv; insert into t values (12, 3, 'v', 'w', 4);
        alter table t drop w; insert into t values (13, 4, 'v', 5);
        alter table t alter a type bigint; insert into t values (14, 9007199254740993, 'v', 6);
        commit;
        """)
    assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
    assert "public.t" in pipeline.this_run()
    assert mirror.sql("select id from t order by id") == [(1,), (2,), (3,)]
    refused(pipeline, (USAGE, FINDINGS), "public.t")


def test_p57_a_table_of_the_transaction(both_plugins, source, mirror, table, make_pipeline):
    """Another table, made, filled and changed in the transaction, is none of ours."""
    pipeline = running(make_pipeline, tables=["public.t"])
    source.sql("""
        begin;
        create table newt (id int primary key, v text); insert into newt values (1, 'v');
        insert into t values (10, 1, 'v', 'w');
        alter table newt add z int; insert into newt values (2, 'v', 1);
        alter table newt rename to t_next; insert into t_next values (3, 'v', 2);
        update t set v = 'x' where id = 10;
        drop table t_next;
        commit;
        """)
    pipeline.settle(["t"])


def test_p59_dropped_while_running(both_plugins, source, mirror, table, make_pipeline):
    """The mirror keeps the last state; each start says that the table is gone."""
    source.sql("create table other (id int primary key)")
    pipeline = running(make_pipeline, tables=["public.t", "public.other"])
    source.sql("drop table t; insert into other values (1)")
    pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from t") == 3 and mirror.value("select count(*) from other") == 1
    pipeline.stop()
    refused(pipeline, (USAGE, FINDINGS), "public.t")


def test_p59_made_anew_in_one_transaction(source, mirror, table, make_pipeline):
    """pgoutput: the new table is in the publication and has another oid: refused with its first row."""
    pipeline = running(make_pipeline, plugin="pgoutput")
    source.sql(f"""
        begin; drop table t; create table t (id int primary key, a int, v text, w text);
        alter publication {pipeline.publication} add table t; commit;
        """, user="postgres")
    source.sql("grant all on t to app", user="postgres")
    source.sql("insert into t values (1, 1, 'other', 'table')")
    assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
    assert "public.t was dropped and created anew" in pipeline.this_run()
    assert mirror.sql("select v from t where id = 1") == [("v1",)]


WRITERS = {
    "insert": (3, "insert into w (a) values (1);"),
    "update": (3, "\\set i random(1, 30000)\nupdate w set a = a + 1 where id = :i;"),
    "two": (1, "\\set i random(1, 30000)\nbegin; delete from w where id = :i; "
               "update w set a = -1 where id = :i + 1; insert into w values (-:i, 0) on conflict do nothing; commit;"),
}


def test_p32_p50_copy_under_traffic(both_plugins, source, folder, make_pipeline):
    """Where copy and stream meet every transaction counts once, with many of them in flight."""
    source.sql("create table w (id bigint generated by default as identity primary key, a int, v text);"
               "insert into w (a, v) select i, repeat('x', 100) from generate_series(1, 30000) i")
    pipeline = make_pipeline(source={"max_read_rate": "4MB/s"}).publish()
    with Traffic(source, folder, WRITERS, clients=4, rate=1500) as traffic:
        pipeline.start()
        pipeline.wait_log(r"\[streaming\]")
        traffic.check()
    pipeline.wait_until_caught_up()
    pipeline.settle()
