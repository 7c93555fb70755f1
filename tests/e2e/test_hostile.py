"""Servers that answer late or never, and what a person does to a running pipeline."""

import contextlib
import os
import signal
import time

import pytest
from lib import wait


def running(make_pipeline, **keys):
    return make_pipeline(**keys).publish().start().wait_until_caught_up()


@pytest.fixture
def table(source):
    source.sql("create table t (id int primary key, a int)")


@contextlib.contextmanager
def frozen(cluster, database):
    """The server and our sessions in it do not run, and their connections stay open."""
    pids = [row[0] for row in database.sql("select pid from pg_stat_activity where pid <> "
                                           "pg_backend_pid()", user="postgres")] + [cluster.pid]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_stop_while_commits_wait_for_a_standby(own_servers, source, mirror, table, make_pipeline):
    """The heartbeat message waits for no standby, and what we say on the mirror goes on."""
    pipeline = running(make_pipeline, source={"heartbeat": "1s"})
    with own_servers.source.no_standby():
        time.sleep(3)
        assert mirror.value("select extract(epoch from now() - said_at) < 2.5 from tailwater.heartbeat")
        pipeline.stop(deadline=10)


def test_stop_while_the_mirror_is_frozen(own_servers, source, mirror, table, make_pipeline):
    pipeline = running(make_pipeline)
    with frozen(own_servers.mirror, mirror):
        source.sql("insert into t values (1, 1)")
        time.sleep(1)
        pipeline.stop(deadline=25)
    pipeline.settle()


def test_stop_while_the_source_is_frozen(own_servers, source, mirror, table, make_pipeline):
    pipeline = running(make_pipeline)
    with frozen(own_servers.source, source):
        time.sleep(1)
        pipeline.stop(deadline=25)
    pipeline.settle()


@pytest.mark.slow
def test_tombstones_left_by_an_earlier_retention(source, mirror, table, make_pipeline):
    source.sql("insert into t select i, i from generate_series(1, 10) i")
    pipeline = running(make_pipeline, purge={"after": "7d"})
    source.sql("delete from t where id <= 5")
    pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from mirror_public.t") == 10
    pipeline.stop()
    pipeline.keys["purge"] = {"after": "0"}
    pipeline.write_config()
    pipeline.start()
    wait.until(lambda: mirror.value("select count(*) from mirror_public.t") == 5, "swept", deadline=50)
    pipeline.settle()


@pytest.mark.slow
def test_lost_lock_ends_the_copy(source, mirror, table, make_pipeline):
    """Another instance may have the lock by then.  And a copy that began is gone on with."""
    source.sql("insert into t select i, i from generate_series(1, 100) i")
    pipeline = make_pipeline(source={"start_timeout": "1s"}).publish()
    pipeline.start(fault="copy_after_table=stall:4000")
    pipeline.wait_log(r"copy_started")
    time.sleep(1)
    assert mirror.value("select count(pg_terminate_backend(pid)) from pg_stat_activity where "
                        "application_name = %s", f"tailwater {pipeline.name} lock",
                        user="postgres") == 1
    pipeline.wait_log(r"initial copy: the connection that holds the pipeline's lock.*\[interrupted\]")
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_a_temporary_slot_of_its_own(source, mirror, table, make_pipeline):
    source.sql("insert into t values (1, 1)")
    pipeline = make_pipeline().publish()
    pipeline.start(fault="copy_after_slot=kill").wait_exit()
    pipeline.start(fault="copy_after_slot=stall:3000")
    name = wait.until(lambda: source.value("select slot_name from pg_replication_slots where temporary "
                                           "and slot_name like 'tailwater_copy%%'", user="postgres"), "slot")
    assert name.startswith(f"tailwater_copy_{pipeline.name}_{pipeline.process.pid}_")
    pipeline.settle()


def interrupt_before_the_position(source, pipeline, mirror):
    """What a crash between making the slot and storing its position leaves: a row without one."""
    pipeline.start(fault="copy_after_slot=kill").wait_exit()
    mirror.sql("update tailwater.pipeline set slot_lsn = '0/0'", user="postgres")


def test_slot_of_an_interrupted_start(source, mirror, table, make_pipeline):
    source.sql("insert into t values (1, 1)")
    pipeline = make_pipeline().publish()
    interrupt_before_the_position(source, pipeline, mirror)
    pipeline.start().wait_until_caught_up()
    assert "slot_dropped" in pipeline.events()
    pipeline.settle()


def test_slot_that_is_older_than_the_pipeline(source, mirror, table, make_pipeline):
    """Somebody else's of the same name is never dropped."""
    source.sql("insert into t values (1, 1)")
    pipeline = make_pipeline().publish()
    interrupt_before_the_position(source, pipeline, mirror)
    source.sql("insert into t values (2, 1)")
    mirror.sql("update tailwater.clock set cursor = %s::pg_lsn", source.lsn(), user="postgres")
    assert pipeline.start().wait_exit() == 6
    assert f"pg_drop_replication_slot('{pipeline.slot}')" in pipeline.this_run()
    assert source.value("select count(*) from pg_replication_slots where slot_name = %s",
                        pipeline.slot, user="postgres") == 1


@pytest.mark.slow
def test_p24_a_trigger_on_the_mirror_that_swallows_writes(source, mirror, table, make_pipeline):
    """The same refusal again and again ends the run; waiting would not help."""
    source.sql("insert into t values (1, 1)")
    pipeline = running(make_pipeline)
    mirror.sql("create function swallow() returns trigger language plpgsql as 'begin return null; end';"
               "create trigger swallow before update on mirror_public.t for each row "
               "execute function swallow()", user="postgres")
    source.sql("update t set a = 2")
    assert pipeline.wait_exit(170) == 1
    assert "8 times at the same position" in pipeline.this_run()
    assert "trigger" in pipeline.this_run()
