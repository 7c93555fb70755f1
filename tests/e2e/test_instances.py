"""One instance per pipeline; a second one, or a zombie, does no harm (invariant 10, P42)."""

import signal

import pytest

from lib import wait
from lib.pipeline import BUSY, Traffic

TRAFFIC = {
    "insert": (1, "insert into t values (nextval('ids'), 0);"),
    "update": (2, "\\set i random(1, 100)\nupdate t set a = a + 1 where id = :i;"),
}


@pytest.fixture
def table(source):
    source.sql("create sequence ids start 1000; create table t (id int primary key, a int);"
               "insert into t select i, 0 from generate_series(1, 100) i")


def test_second_instance_is_refused(both_plugins, source, table, make_pipeline):
    first = make_pipeline(source={"start_timeout": "2s"}).publish()
    first.start().wait_until_caught_up()
    second = make_pipeline(name=first.name, source={"start_timeout": "2s"})
    second.folder = first.folder
    for _ in range(2):
        result = second.verb("run")
        assert result.code == BUSY, repr(result)
        assert first.name in result.err
    source.sql("insert into t values (101, 0)")
    first.settle()


def test_second_instance_takes_over(source, table, make_pipeline):
    """Within start_timeout it waits for the first to end."""
    first = make_pipeline()
    first.start().wait_until_caught_up()
    second = make_pipeline(name=first.name)
    second.start()
    second.wait_log(r"\[\w+\]")
    first.kill()
    source.sql("insert into t values (101, 0)")
    second.wait_until_caught_up()
    second.settle()


def test_p42_zombie_is_fenced(own_servers, source, mirror, table, folder, make_pipeline):
    """Frozen with a batch in hand, replaced, thawed: what it still holds is not applied."""
    first = make_pipeline(source={"start_timeout": "3s"}).publish()
    first.start().wait_until_caught_up()
    second = make_pipeline(name=first.name)
    with Traffic(source, folder, TRAFFIC, clients=2, rate=500):
        batch = first.clock()[0]
        wait.until(lambda: first.clock()[0] > batch + 5, "batches")
        first.signal(signal.SIGSTOP)
        # As a network cut does in the end: both servers give its sessions up.
        for cluster in (own_servers.source, own_servers.mirror):
            cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity "
                        "where usename = 'tailwater'")
        second.start()
        batch = first.clock()[0]
        wait.until(lambda: first.clock()[0] > batch + 5, lambda: f"taken over\n{second.log_tail()}")
        first.signal(signal.SIGCONT)
        # It waits for as long as the lock could be its own lost session's.
        code = first.wait_exit(120)
        assert code == BUSY, f"exit {code}\n{first.log_tail()}"
        batch = first.clock()[0]
        wait.until(lambda: first.clock()[0] > batch + 5, "still going")
    second.settle()


def test_fence(both_plugins, source, mirror, table, make_pipeline):
    """Whoever finds the clock elsewhere than he left it writes nothing of his batch.

    He may be a zombie, so he starts over: takes the lock, reads the clock, goes on from there.
    """
    pipeline = make_pipeline(source={"heartbeat": "off"}).publish()
    pipeline.start().wait_until_caught_up()
    source.sql("insert into t values (101, 0)")
    pipeline.wait_until_caught_up()
    # Others may take numbers: that is no fence, and moves the row.
    mirror.sql("update tailwater.clock set batch_id = batch_id + 10 where pipeline = %s", pipeline.name)
    source.sql("insert into t values (102, 0)")
    pipeline.wait_until_caught_up()
    assert pipeline.clock()[0] > 10, "numbers go on from the clock's"
    assert "another instance" not in pipeline.this_run()
    mirror.sql("update tailwater.clock set writer = gen_random_uuid() where pipeline = %s", pipeline.name)
    source.sql("insert into t values (103, 0)")
    pipeline.wait_log("another instance")
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_two_pipelines_of_one_database(both_plugins, servers, source, mirror, table, make_pipeline, request):
    """They share servers and the mirror's control schema, and nothing else."""
    source.sql("create table u (id int primary key); insert into u values (1)")
    one = make_pipeline(tables=["public.t"]).publish(("public", "t"))
    two = make_pipeline(tables=["public.u"]).publish(("public", "u"))
    one.start()
    two.start()
    source.sql("update t set a = 5; insert into u values (2)")
    one.wait_until_caught_up()
    two.wait_until_caught_up()
    one.settle(["t"])
    two.settle(["u"])
