"""Servers that stop, vanish, come back, or make us wait (P29, P39, P40, P41)."""

import time

import pytest

from lib import wait
from lib.kit import lsn
from lib.pipeline import Traffic

TRAFFIC = {
    "insert": (1, "insert into t values (nextval('ids'), 'x');"),
    "update": (2, "\\set i random(1, 1000)\nupdate t set a = a || '.' where id = :i;"),
    "delete": (1, "\\set i random(1, 1000)\nbegin; delete from t where id = :i; "
                  "insert into t values (:i, 'again'); commit;"),
}


@pytest.fixture
def table(source):
    source.sql("create sequence ids start 10000; create table t (id int primary key, a text);"
               "insert into t select i, 'v' from generate_series(1, 1000) i")


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


@pytest.mark.parametrize("how", ["fast", "immediate", "killed"])
@pytest.mark.parametrize("side", ["source", "mirror"])
def test_p29_server_restarts_while_running(own_servers, source, mirror, table, folder, make_pipeline,
                                       side, how):
    pipeline = running(make_pipeline)
    process = pipeline.process.pid
    server = getattr(own_servers, side)
    for turn in range(2):
        with Traffic(source, folder, TRAFFIC, clients=2, rate=400):
            batch = pipeline.clock()[0]
            wait.until(lambda: pipeline.clock()[0] > batch + 5, "batches")
            said = len(pipeline.this_run())
            if how == "killed":
                server.kill()
            else:
                server.stop(how)
            if turn == 0:
                # It stays down until the program has noticed.  (The same error is said once a minute.)
                pipeline.wait_log(r"\[interrupted\]")
            server.start()
        pipeline.wait_until_caught_up()
        pipeline.compare()
    assert pipeline.is_running and pipeline.process.pid == process
    pipeline.settle()


def test_p39_idle_pipeline_moves_its_slot(both_plugins, own_servers, source, table, make_pipeline):
    """WAL of other databases does not pile up behind a pipeline with nothing to do."""
    own_servers.source.sql("create database elsewhere")
    pipeline = running(make_pipeline, source={"heartbeat": "off"})
    with own_servers.source.connect("elsewhere") as connection, connection.cursor() as cursor:
        cursor.execute("create table w as select i, repeat('w', 500) as a from generate_series(1, 60000) i")
    target = source.lsn()
    wait.until(lambda: source.value(
        "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s",
        target, pipeline.slot, user="postgres"), "slot moved", deadline=30)
    assert pipeline.is_at(target), "what is confirmed is stored first"
    pipeline.settle()


def confirmed(pipeline):
    """What the slot has been told, as a number."""
    return lsn(pipeline.source.value("select confirmed_flush_lsn::text from pg_replication_slots "
                                     "where slot_name = %s", pipeline.slot, user="postgres"))


def timed_stop(server):
    start = time.monotonic()
    server.stop("fast")
    return time.monotonic() - start


@pytest.mark.parametrize("load", ["idle", "under load"])
def test_p40_source_stops_fast(both_plugins, own_servers, source, table, folder, make_pipeline, load):
    pipeline = running(make_pipeline)
    if load == "idle":
        assert timed_stop(own_servers.source) < 5
    else:
        with Traffic(source, folder, TRAFFIC, clients=2):
            batch = pipeline.clock()[0]
            wait.until(lambda: pipeline.clock()[0] > batch + 5, "batches")
            assert timed_stop(own_servers.source) < 5
    own_servers.source.start()
    pipeline.settle()


def test_p40_source_stops_while_the_mirror_hangs(own_servers, source, mirror, table, make_pipeline):
    """It waits for its walsenders, and we could not confirm: so the stream is given up."""
    pipeline = running(make_pipeline)
    with mirror.transaction() as cursor:
        cursor.execute("lock table mirror_public.t in access exclusive mode")
        source.sql("update t set a = 'x'")
        wait.until(lambda: own_servers.mirror.sql("select count(*) from pg_locks where not granted")[0][0],
                   "the applier waits")
        assert timed_stop(own_servers.source) < 40
    own_servers.source.start()
    pipeline.settle()


def test_p41_long_wait_for_the_mirror(both_plugins, own_servers, source, mirror, table, folder,
                                      make_pipeline):
    """The mirror is locked for three times wal_sender_timeout: the stream stays connected."""
    own_servers.source.set(wal_sender_timeout="2s")
    pipeline = running(make_pipeline)
    sender = "select active_pid from pg_replication_slots where slot_name = %s"
    before = wait.until(lambda: source.value(sender, pipeline.slot, user="postgres"), "streaming")
    with Traffic(source, folder, TRAFFIC, clients=2, rate=200):
        with mirror.transaction() as cursor:
            cursor.execute("lock table mirror_public.t in access exclusive mode")
            cursor.execute("select pg_sleep(6.5)")
            # Feedback went on, and confirmed nothing that is not durable here (invariant 2).
            assert confirmed(pipeline) <= lsn(pipeline.clock()[1])
    assert source.value(sender, pipeline.slot, user="postgres") == before
    assert "terminating walsender" not in own_servers.source.log
    pipeline.settle()


def test_reports_do_not_block_and_are_not_blocked(source, mirror, table, make_pipeline):
    """An open report over a live view keeps neither batches nor truncates waiting (design 7)."""
    pipeline = running(make_pipeline)
    report = mirror.connect("postgres")
    with report, report.cursor() as cursor:
        cursor.execute("begin isolation level repeatable read")
        cursor.execute("select count(*) from t")
        assert cursor.fetchone()[0] == 1000
        pipeline.feed(["truncate t", "insert into t values (1, 'new')"], "one by one")
        cursor.execute("select count(*) from t")
        assert cursor.fetchone()[0] == 1000, "a report sees what it saw when it began"
    report.close()
    assert mirror.value("select count(*) from t") == 1
    pipeline.settle()


def test_wait_for_a_server_at_start(own_servers, source, table, make_pipeline):
    """Within start_timeout a server that is still starting is waited for."""
    pipeline = make_pipeline(source={"start_timeout": "60s"}).publish()
    own_servers.source.stop()
    pipeline.start()
    pipeline.wait_log(r"(?i)source|connect")
    own_servers.source.start()
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_p38_cursor_of_a_batch_in_flight(own_servers, source, mirror, table, folder, make_pipeline):
    """What the slot has confirmed is never ahead of what the mirror holds (invariant 2)."""
    pipeline = running(make_pipeline)
    with Traffic(source, folder, TRAFFIC, clients=2, rate=500):
        for _ in range(100):
            before = confirmed(pipeline)
            assert before <= lsn(pipeline.clock()[1])
    pipeline.settle()
