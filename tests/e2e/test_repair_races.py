"""Repairs while the stream goes on (P6): what happens to a row between its snapshot and its write."""

import random
import time

import pytest

from lib import wait
from lib.pipeline import Traffic

FETCHED = ("select count(*) from pg_stat_activity where application_name = 'tailwater repair' "
           "and query like 'ROLLBACK TO%%' and datname = current_database()")


@pytest.fixture
def table(source):
    source.sql("""
        create table t (id int primary key, a int, big text);
        alter table t alter big set storage external;
        insert into t select i, 1, repeat('x', 5000) from generate_series(1, 200) i;
        """)


def wait_until_repaired(pipeline):
    """The list is empty: after an update with a hole of every row, all rows are there."""
    pipeline.wait_until_caught_up()
    wait.until(lambda: not pipeline.mirror.value("select count(*) from tailwater.repair"),
               pipeline.log_tail)


@pytest.mark.parametrize("purge", [{}, {"purge": {"after": "7d"}}], ids=["purged", "tombstones"])
@pytest.mark.parametrize("events", [
    ["delete from t where id = 1"],
    ["delete from t where id = 1", "insert into t values (1, 7, 'new')"],
    ["update t set id = 1000 where id = 1"],
    ["update t set a = 8 where id = 1"],
    ["update t set big = 'new' where id = 1"],
    ["update t set id = 1000 where id = 1", "insert into t values (1, 7, 'new')",
     "delete from t where id = 1"],
    ["truncate t"],
    ["truncate t", "insert into t values (1, 7, 'new')"],
])
def test_events_between_fetch_and_write(source, table, mirror, make_pipeline, events, purge):
    pipeline = make_pipeline(**purge)
    pipeline.start(env={"TAILWATER_FAULT": "repair_after_fetch=stall:1500"}).wait_until_caught_up()
    mirror.sql("delete from mirror_public.t where id in (1, 2)")
    source.sql("update t set a = 2 where id in (1, 2)")
    wait.until(lambda: source.value(FETCHED, user="postgres"), pipeline.log_tail)
    for event in events:
        source.sql(event)
    pipeline.wait_until_caught_up()  # past the snapshot, while the rows wait to be written
    wait_until_repaired(pipeline)
    pipeline.settle()


def test_a_run_that_ends_has_repaired(source, table, mirror, pipeline):
    """`run --until now` is not done while rows wait to be fetched."""
    pipeline.run_until_now()
    mirror.sql("delete from mirror_public.t where id < 20")
    source.sql("update t set a = 2 where id < 20")
    pipeline.run_until_now()
    assert mirror.value("select count(*) from tailwater.repair") == 0
    pipeline.compare()


def test_a_run_that_ends_has_asked_about_nulls(source, mirror, pipeline):
    """Likewise where nulls may be NaN (wal2json before 2.6)."""
    source.sql("create table n (id int primary key, v float8)")
    pipeline.run_until_now()
    source.sql("insert into n values (1, 'NaN'), (2, null), (3, 3)")
    pipeline.run_until_now()
    assert mirror.value("select count(*) from tailwater.doubt") == 0
    pipeline.compare()


def test_a_run_ends_where_rows_cannot_be_had(source, table, mirror, pipeline):
    """After half a minute, and it says so; they stay listed."""
    pipeline.run_until_now()
    mirror.sql("delete from mirror_public.t where id = 1")
    source.sql("update t set a = 2 where id = 1; revoke select on t from tailwater")
    result = pipeline.run_until_now()
    assert "repairs_left" in result.err and "repair_failed" in result.err
    assert mirror.value("select count(*) from tailwater.repair") == 1
    source.sql("grant select on t to tailwater")
    pipeline.run_until_now()
    pipeline.compare()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_traffic_and_lost_rows(both_plugins, source, table, mirror, make_pipeline, folder,
                                      seed):
    """Rows vanish from the mirror at random; in the end every one is back as it should be."""
    scripts = {
        "hole": (6, "\\set i random(1, 200)\nupdate t set a = a + 1 where id = :i;"),
        "big": (1, "\\set i random(1, 200)\nupdate t set big = repeat('y', 5000) where id = :i;"),
        "delete": (3, "\\set i random(1, 200)\ndelete from t where id = :i;"),
        "insert": (3, "\\set i random(1, 200)\n"
                      "insert into t values (:i, 0, repeat('z', 5000)) on conflict do nothing;"),
        "key": (2, "\\set i random(1, 200)\n\\set j random(1, 200)\n"
                   "update t set id = :j where id = :i and not exists (select from t where id = :j);"),
    }
    pipeline = make_pipeline(**({} if seed < 3 else {"purge": {"after": "1d"}})).publish()
    pipeline.start().wait_until_caught_up()
    chance = random.Random(seed)
    end = time.monotonic() + 6
    with Traffic(source, folder, scripts, clients=1, rate=300, seed=seed) as traffic:
        while time.monotonic() < end:
            # Between two batches, as somebody's mistake would be.
            with mirror.transaction() as cursor:
                cursor.execute("select from tailwater.clock for update")
                cursor.execute("delete from mirror_public.t where id %% 10 = %s",
                               (chance.randrange(10),))
            traffic.check()
            time.sleep(chance.random() / 5)
    source.sql("update t set a = a + 1")
    wait_until_repaired(pipeline)
    assert pipeline.counter("repaired_rows") > 10
    pipeline.settle()
