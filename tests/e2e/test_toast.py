"""Large values that an update leaves out (pitfalls P1, P2, P3, P5, P6, P20)."""

import pytest

from lib import wait
from lib.pipeline import FAILED, FEEDS


@pytest.fixture
def table(source):
    source.sql("""
        create table t (id int primary key, a int, big text);
        alter table t alter big set storage external;
        insert into t select i, 1, repeat('x', 9000) from generate_series(1, 5) i;
        """)


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


def lengths(mirror):
    return mirror.sql("select id, a, length(big), left(big, 1) from t order by id")


@pytest.mark.parametrize("how", FEEDS)
def test_p01_unchanged_value_stays(both_plugins, table, mirror, make_pipeline, how):
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set a = 2", "update t set a = 3 where id = 1"], how)
    assert lengths(mirror)[0] == (1, 3, 9000, "x")
    assert lengths(mirror)[4] == (5, 2, 9000, "x")
    pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p02_hole_after_a_value(both_plugins, table, mirror, make_pipeline, how):
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set big = repeat('y', 9000)", "update t set a = 3"], how)
    assert lengths(mirror)[2] == (3, 3, 9000, "y")
    # A delete in between restarts the row: nothing may be inherited from before it.
    pipeline.feed(["update t set big = repeat('z', 9000) where id = 2", "delete from t where id = 2",
                   "insert into t (id, a) values (2, 7)", "update t set a = 8 where id = 2"], how)
    assert lengths(mirror)[1] == (2, 8, None, None)
    pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p03_hole_with_key_change(both_plugins, table, mirror, make_pipeline, how):
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set id = 10 where id = 1", "update t set a = 2 where id = 10",
                   "update t set id = 11 where id = 10",
                   "update t set id = 12, a = 5 where id = 2"], how)
    assert lengths(mirror) == [(3, 1, 9000, "x"), (4, 1, 9000, "x"), (5, 1, 9000, "x"),
                               (11, 2, 9000, "x"), (12, 5, 9000, "x")]
    pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p03_keys_handed_round(both_plugins, source, table, mirror, make_pipeline, how):
    """Keys that change in a ring, each row with a hole: every value follows its row."""
    source.sql("update t set big = repeat(id::text, 9000)")
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set id = 100 where id = 1", "update t set id = 1 where id = 2",
                   "update t set id = 2 where id = 3", "update t set id = 3 where id = 100"], how)
    assert [(row[0], row[3]) for row in lengths(mirror)] == [
        (1, "2"), (2, "3"), (3, "1"), (4, "4"), (5, "5")]
    pipeline.settle()


def test_p05_full_identity_fills_the_hole(both_plugins, source, table, mirror, make_pipeline):
    """Under REPLICA IDENTITY FULL the old row brings the value: no repair is needed."""
    source.sql("alter table t replica identity full")
    pipeline = running(make_pipeline)
    mirror.sql("delete from mirror_public.t where id = 3")
    pipeline.feed(["update t set a = 9 where id = 3"], "one by one")
    assert lengths(mirror)[2] == (3, 9, 9000, "x")
    assert pipeline.counter("repaired_rows") == 0
    pipeline.settle()


def test_p05_key_tuple_is_not_the_old_row(both_plugins, table, mirror, make_pipeline):
    """The key's tuple holds nulls for all other columns; they are not the row's values."""
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set id = 30 where id = 3"], "one by one")
    assert lengths(mirror)[-1] == (30, 1, 9000, "x")
    pipeline.settle()


def wait_for_repairs(pipeline, count):
    wait.until(lambda: pipeline.counter("repaired_rows") == count
               and not pipeline.mirror.value("select count(*) from tailwater.repair"),
               lambda: f"{count} rows repaired, counter at {pipeline.counter('repaired_rows')}\n"
                       f"{pipeline.log_tail()}")


@pytest.mark.parametrize("how", FEEDS)
def test_p06_missing_row_is_repaired(both_plugins, table, mirror, make_pipeline, how):
    pipeline = running(make_pipeline)
    mirror.sql("delete from mirror_public.t where id in (2, 4)")
    pipeline.feed(["update t set a = 9 where id = 2", "update t set id = 40, a = 8 where id = 4"], how)
    wait_for_repairs(pipeline, 2)
    assert lengths(mirror) == [(1, 1, 9000, "x"), (2, 9, 9000, "x"), (3, 1, 9000, "x"),
                               (5, 1, 9000, "x"), (40, 8, 9000, "x")]
    pipeline.settle()


def test_p06_overtaken_repair(both_plugins, table, mirror, make_pipeline):
    """A row that is deleted again before it could be fetched is no row to bring back."""
    pipeline = running(make_pipeline)
    mirror.sql("delete from mirror_public.t where id in (2, 4)")
    with pipeline.held_applier():
        for statement in ("update t set a = 9 where id in (2, 4)", "delete from t where id = 2",
                          "update t set big = 'short' where id = 4"):
            pipeline.source.sql(statement)
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), "nothing to repair")
    pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p20_toasted_key(both_plugins, source, mirror, make_pipeline, how):
    """A key stored out of line: the new row comes without it, and it is not a key change."""
    source.sql("""
        create table k (id text primary key, a int, big text);
        alter table k alter id set storage external, alter big set storage external;
        insert into k values (repeat('k', 2400), 1, repeat('b', 9000)), (repeat('l', 2400), 1, 's');
        """)
    pipeline = running(make_pipeline)
    pipeline.feed(["update k set a = 2", "update k set a = 3 where id like 'l%'",
                   "update k set id = repeat('m', 2400) where id like 'k%'"], how)
    assert mirror.sql("select left(id, 1), length(id), a, length(big) from k order by 1") == [
        ("l", 2400, 3, 1), ("m", 2400, 2, 9000)]
    pipeline.settle()


def test_p57_a_dropped_column_is_no_hole(both_plugins, source, table, mirror, make_pipeline):
    """A column that was dropped is missing like an unchanged value; the rows must not keep it."""
    pipeline = running(make_pipeline, apply={"on_error": "stop"})
    source.sql("alter table t drop big; insert into t values (6, 1)")
    assert pipeline.wait_exit() == FAILED
    assert 'column "big"' in pipeline.log and "public.t" in pipeline.log
    assert mirror.value("select count(*) from mirror_public.t") == 5
