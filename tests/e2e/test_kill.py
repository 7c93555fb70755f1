"""Killed at any moment, nothing is lost, doubled or torn (P27, P28; invariants 1, 2, 4)."""

import random

import pytest

from lib import wait
from lib.cluster import SERVERS
from lib.kit import lsn
from lib.pipeline import PLUGINS, Traffic, fault_points

SCHEMA = """
    create table customers (id int primary key, name text, big text);
    alter table customers alter big set storage external;
    create table orders (id bigint primary key, customer_id int, total numeric, big text);
    alter table orders alter big set storage external;
    create table lines (order_id bigint, line int, n int, primary key (order_id, line));
    create sequence ids start 100000;
    insert into customers select i, 'c' || i, repeat(i::text, 900) from generate_series(1, 500) i;
    insert into orders select i, 1 + i % 500, i, repeat('o', 3000) from generate_series(1, 2000) i;
    insert into lines select i, l, l from generate_series(1, 2000) i, generate_series(1, 3) l;
    """

TRAFFIC = {
    "order": (5, """
        \\set c random(1, 500)
        begin;
        insert into orders values (nextval('ids'), :c, random(), 'x') returning id \\gset
        insert into lines select :id, l, 1 from generate_series(1, 4) l;
        update customers set name = name || '.' where id = :c;
        commit;
        """),
    "change": (5, """
        \\set i random(1, 2000)
        update orders set total = total + 1 where id = :i;
        update lines set n = n + 1 where order_id = :i;
        """),
    "big": (1, """
        \\set i random(1, 2000)
        update orders set big = repeat(chr(97 + :i % 26), 3000) where id = :i;
        """),
    "key": (2, """
        \\set i random(1, 2000)
        begin;
        update lines set line = line + 10 where order_id = :i and line < 1000;
        update orders set id = nextval('ids') where id = (
            select id from orders where id > 2000 order by id limit 1 for update skip locked);
        commit;
        """),
    "delete": (2, """
        \\set i random(1, 2000)
        begin;
        delete from lines where order_id = :i;
        insert into lines values (:i, 1, 0), (:i, 2, 0);
        delete from orders where id = (
            select id from orders where id > 2000 order by id limit 1 for update skip locked);
        commit;
        """),
}



class Watch:
    """Neither the batch number nor the cursor ever goes backwards."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.last = (0, 0)

    def look(self):
        clock = self.pipeline.clock()
        if clock is not None:
            now = (clock[0], lsn(clock[1]))
            assert now[0] >= self.last[0] and now[1] >= self.last[1], f"{self.last} then {now}"
            self.last = now
        return self.last


@pytest.mark.slow
def test_p28_kill_20_times_under_traffic(both_plugins, source, folder, make_pipeline):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    source.sql(SCHEMA)
    pipeline = make_pipeline(apply={"max_rows": 200}, purge={"after": chance.choice(["0", "7d"])})
    pipeline.publish()
    watch = Watch(pipeline)
    with Traffic(source, folder, TRAFFIC, clients=3, rate=300, seed=seed) as traffic:
        for _ in range(20):
            pipeline.start()
            # A moment that is random in what is done, not only in time: after some batches, or soon.
            moment = watch.look()[0] + chance.choice([0, 1, 2, 5, 20])
            with_deadline = chance.uniform(0.05, 1.2)
            try:
                wait.until(lambda: watch.look()[0] > moment or not pipeline.is_running,
                           "batches", deadline=with_deadline, every=chance.uniform(0.001, 0.01))
            except wait.Deadline:
                pass
            assert pipeline.is_running, pipeline.log_tail()
            pipeline.kill()
            watch.look()
            traffic.check()
        pipeline.start()
        first = watch.look()[0]
        wait.until(lambda: watch.look()[0] > first + 20, "batches under traffic", deadline=60)
    pipeline.wait_until_caught_up()
    watch.look()
    pipeline.settle()


COPY_POINTS = [name for name in fault_points() if name.startswith("copy_")]
STREAM_POINTS = [name for name in fault_points() if not name.startswith(
    ("copy_", "fan_out_", "feed_", "retention_", "quarantine_", "renew_", "resync_", "side_", "refresh_",
     "backfill_"))]


def stream_work(pipeline):
    """Changes that pass every point: several tables, a transaction in pieces, a repair."""
    pipeline.source.sql("""
        begin;
        update customers set name = upper(name) where id < 50;
        update orders set total = total + 1 where id < 50;
        insert into lines values (1, 77, 1);
        commit;
        """)
    pipeline.source.sql("insert into customers select i, 'piece', null from generate_series(9000, 12000) i")
    pipeline.source.sql("update orders set total = -1 where id = 7")  # its row is not in the mirror
    pipeline.source.sql("delete from lines where order_id < 30; update orders set id = -id where id < 9")


@pytest.mark.parametrize("point", COPY_POINTS)
def test_killed_while_copying(both_plugins, source, make_pipeline, point):
    source.sql(SCHEMA)
    pipeline = make_pipeline().publish()
    pipeline.start(fault=f"{point}=kill")
    assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
    source.sql("update orders set total = 0 where id % 10 = 0; delete from lines where n = 3")
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle_stopped()


# The points lie behind the plugins: each is visited through either, in turn.
IN_TURN = PLUGINS if SERVERS["source"] is None else PLUGINS[-1:]
STOPS = [(point, action, IN_TURN[(number + turn) % len(IN_TURN)]) for number, point in enumerate(STREAM_POINTS)
         for turn, action in enumerate(("kill", "error"))]


@pytest.mark.parametrize("point, action, plugin", STOPS)
def test_p28_stopped_at_a_point(plugin, source, mirror, make_pipeline, point, action):
    source.sql(SCHEMA)
    pipeline = make_pipeline(apply={"max_rows": 500}).publish()
    pipeline.run_until_now()
    watch = Watch(pipeline)
    watch.look()
    mirror.sql("delete from mirror_public.orders where id = 7")
    stream_work(pipeline)
    pipeline.start(fault=f"{point}={action}")
    if action == "kill":
        assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
        watch.look()
        pipeline.start()
    pipeline.wait_until_caught_up()
    watch.look()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"),
               lambda: f"repaired\n{pipeline.log_tail()}")
    pipeline.compare()
    if action == "error":
        assert point in pipeline.this_run(), f"{point} was not reached\n{pipeline.log_tail()}"
    pipeline.settle()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_p28_killed_again_and_again_at_a_point(both_plugins, source, make_pipeline, point):
    """Every batch's commit in turn: the work is done in the end, each part of it once."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(apply={"max_rows": 500}).publish()
    pipeline.run_until_now()
    watch = Watch(pipeline)
    stream_work(pipeline)
    for visit in (1, 2, 1, 2, 3):
        pipeline.start(fault=f"{point}:{visit}=kill")
        try:
            wait.until(lambda: not pipeline.is_running, "killed", deadline=8)
        except wait.Deadline:
            pipeline.kill()  # fewer batches than visits are left
        watch.look()
    pipeline.run_until_now()
    watch.look()
    pipeline.compare()
    pipeline.settle_stopped()


def test_p32_commit_at_the_cursor(both_plugins, source, mirror, make_pipeline):
    """A transaction may commit exactly at the stored cursor: it is new, and "<" decides.

    An idle pipeline stores the end of the WAL, also while somebody's transaction is open; if nothing
    else happens, that transaction's commit record begins there.
    """
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline(source={"heartbeat": "off"}).publish()
    pipeline.run_until_now()
    met = 0
    for i in range(6):
        with source.transaction() as cursor:
            cursor.execute("insert into t values (%s)", (i,))
            source.sql("select pg_logical_emit_message(true, 'nobody', '')")  # flushes the WAL
            pipeline.run_until_now()
            met += pipeline.clock()[1] == source.lsn()
        pipeline.run_until_now()
        assert mirror.value("select count(*) from t where id = %s", i) == 1
    assert met, "the case was never met"
    pipeline.settle_stopped()
