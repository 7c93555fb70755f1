"""Tombstones, their purge, and rows that come back (pitfall P26)."""

import pytest

from lib import wait
from lib.pipeline import FEEDS


@pytest.fixture
def table(source):
    source.sql("create table t (id int primary key, a text);"
               "insert into t select i, 'v' || i from generate_series(1, 20) i")


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


def tombstones(mirror, table="t"):
    return [row[0] for row in mirror.sql(
        f"select id from mirror_public.{table} where _deleted_at is not null order by id")]


def test_p26_purged_at_once_by_default(both_plugins, table, mirror, make_pipeline):
    pipeline = running(make_pipeline)
    pipeline.feed(["delete from t where id <= 5"], "one by one")
    assert mirror.value("select count(*) from mirror_public.t") == 15
    assert tombstones(mirror) == []
    pipeline.settle()


def test_kept_for_a_while(both_plugins, source, table, mirror, make_pipeline):
    pipeline = running(make_pipeline, purge={"after": "7d"})
    before = source.value("select clock_timestamp()")
    pipeline.feed(["delete from t where id <= 5"], "one by one")
    after = source.value("select clock_timestamp()")
    assert tombstones(mirror) == [1, 2, 3, 4, 5]
    assert mirror.value("select count(*) from t") == 15
    deleted_at, has_moved = mirror.sql("""
        select min(_deleted_at), bool_and(_lsn > (select copy_lsn from tailwater.mirror_table
                                                   where pipeline = %s))
          from mirror_public.t where _deleted_at is not null""", pipeline.name)[0]
    assert before <= deleted_at <= after, "_deleted_at is the source's commit time"
    assert has_moved
    pipeline.settle()


@pytest.mark.parametrize("retention", ["0", "7d"])
@pytest.mark.parametrize("how", FEEDS)
def test_p26_resurrected(both_plugins, table, mirror, make_pipeline, how, retention):
    pipeline = running(make_pipeline, purge={"after": retention})
    pipeline.feed(["delete from t where id = 3", "insert into t values (3, 'again')",
                   "delete from t where id = 4", "insert into t values (4, 'v4')"], how)
    assert mirror.sql("select a from t where id in (3, 4) order by id") == [("again",), ("v4",)]
    assert tombstones(mirror) == []
    pipeline.settle()


@pytest.mark.parametrize("retention, expected", [("0", []), ("7d", [7])])
def test_p26_delete_of_an_unseen_row(both_plugins, table, mirror, make_pipeline, retention, expected):
    pipeline = running(make_pipeline, purge={"after": retention})
    mirror.sql("delete from mirror_public.t where id = 7")
    pipeline.feed(["delete from t where id = 7"], "one by one")
    assert tombstones(mirror) == expected
    pipeline.settle()


@pytest.mark.parametrize("retention", ["0", "7d"])
@pytest.mark.parametrize("how", FEEDS)
def test_p62_truncate(both_plugins, table, mirror, make_pipeline, how, retention):
    pipeline = running(make_pipeline, purge={"after": retention})
    pipeline.feed(["insert into t values (100, 'x')", "update t set a = 'w' where id = 5",
                   "truncate t", "insert into t values (1, 'new')"], how)
    assert mirror.sql("select * from t") == [(1, "new")]
    expected = [] if retention == "0" else list(range(2, 21))
    assert [key for key in tombstones(mirror) if key != 100] == expected
    pipeline.settle()


def test_purge_by_hand(table, mirror, make_pipeline):
    pipeline = running(make_pipeline, purge={"after": "7d"})
    pipeline.feed(["delete from t where id <= 5"], "one by one")
    pipeline.stop()
    assert "5" in pipeline.ok("purge", "--older-than", "0", "--dry-run").text
    assert len(tombstones(mirror)) == 5
    pipeline.ok("purge")
    assert len(tombstones(mirror)) == 5, "they are younger than the configured 7 days"
    assert "5" in pipeline.ok("purge", "--older-than", "0").text
    assert tombstones(mirror) == []
    pipeline.ok("purge", "--older-than", "0")
    pipeline.settle_stopped()


def test_purge_by_hand_while_running(table, mirror, make_pipeline):
    pipeline = running(make_pipeline, purge={"after": "7d"})
    pipeline.feed(["delete from t where id <= 5"], "one by one")
    pipeline.ok("purge", "--older-than", "0")
    wait.until(lambda: tombstones(mirror) == [], "tombstones purged")
    pipeline.feed(["insert into t values (2, 'back')", "update t set a = 'w' where id = 9"],
                  "one by one")
    pipeline.settle()


def test_sweep_when_they_are_old_enough(table, mirror, make_pipeline):
    """The running replicator removes them, also while nothing else happens."""
    pipeline = running(make_pipeline, purge={"after": "1s"})
    pipeline.feed(["delete from t where id <= 5"], "one by one")
    wait.until(lambda: tombstones(mirror) == [], lambda: f"swept\n{pipeline.log_tail()}", deadline=60)
    assert mirror.value("select count(*) from mirror_public.t") == 15
    pipeline.settle()


def test_purge_after_of_a_table(source, table, mirror, make_pipeline):
    source.sql("create table kept (id int primary key); insert into kept values (1), (2)")
    pipeline = running(make_pipeline,
                       tables=["public.t", {"name": "public.kept", "purge_after": "7d"}])
    pipeline.feed(["delete from t where id = 1", "delete from kept where id = 1"], "one by one")
    assert tombstones(mirror) == []
    assert tombstones(mirror, "kept") == [1]
    pipeline.settle()


def test_deletes_ignored(both_plugins, source, table, mirror, make_pipeline):
    pipeline = running(make_pipeline, tables=[{"name": "public.t", "deletes": "ignore"}])
    for how in FEEDS:
        pipeline.feed(["insert into t values (50, 'short life')", "delete from t where id in (1, 50)",
                       "delete from t where id = 2"], how)
        assert mirror.value("select count(*) from t where id in (1, 2, 50)") == 3, how
        source.sql("insert into t values (1, 'v1'), (2, 'v2')")
        pipeline.wait_until_caught_up()
    pipeline.settle_stopped(compare=False)


def test_p62_truncate_ignored_or_refused(both_plugins, source, table, mirror, make_pipeline):
    pipeline = running(make_pipeline, tables=[{"name": "public.t", "truncate": "ignore"}])
    pipeline.feed(["truncate t", "insert into t values (1, 'new')"], "one by one")
    assert mirror.value("select count(*) from t") == 20
    assert mirror.value("select a from t where id = 1") == "new"
    pipeline.stop()
    pipeline.tables = [{"name": "public.t", "truncate": "stop"}]
    pipeline.keys["apply"] = {"on_error": "stop"}
    pipeline.write_config()
    source.sql("truncate t")
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code == 1, repr(result)
        assert "public.t" in result.err and "truncate" in result.err.lower()
        assert mirror.value("select count(*) from t") == 20
