"""The slot, the publication and the snapshot (P44, P45, P47, P48)."""

import os

import pytest

from lib import wait
from lib.pipeline import DONE, FAILED, FINDINGS, SLOT, USAGE
from pitfalls.common import refused, running


@pytest.fixture
def copied(source, make_pipeline):
    source.sql("create table t (id int primary key); create table u (id int primary key);"
               "insert into t values (1); insert into u values (1)")
    pipeline = make_pipeline(plugin="pgoutput", source={"start_timeout": "5s"}).publish()
    pipeline.run_until_now()
    return pipeline


def test_p44_publication_dropped(source, copied):
    """Changes made without it cannot be decoded; making it again does not help the slot."""
    source.sql(f"drop publication {copied.publication}", user="postgres")
    refused(copied, (SLOT,), copied.publication, "does not exist")
    source.sql("insert into t values (2)")
    copied.publish()
    refused(copied, (SLOT,), copied.slot, "--new-slot")
    copied.ok("destroy", "--yes")
    copied.publish()
    copied.run_until_now()
    copied.compare()
    copied.settle_stopped()


def test_p44_publication_dropped_while_running(source, copied):
    copied.start().wait_until_caught_up()
    source.sql(f"drop publication {copied.publication}", user="postgres")
    source.sql("insert into t values (2)")
    assert copied.wait_exit(60) == SLOT, copied.log_tail()
    copied.publish()
    refused(copied, (SLOT,), copied.slot, "--new-slot")


def test_p44_no_publication_at_the_first_start(source, make_pipeline):
    """Nothing is made before it is there: the slot would not be able to use it."""
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline(plugin="pgoutput")
    for _ in range(2):
        assert pipeline.verb("run", "--until", "now").code == FINDINGS
    assert source.value("select count(*) from pg_replication_slots where slot_name = %s", pipeline.slot,
                        user="postgres") == 0


def test_p45_table_taken_out_of_the_publication(source, mirror, copied):
    """What it missed is not there: it is left out, and a resync brings it back once it is published again."""
    copied.keys["apply"] = {"on_error": "quarantine"}
    copied.write_config()
    source.sql(f"alter publication {copied.publication} drop table u", user="postgres")
    source.sql("insert into u values (2); insert into t values (2)")
    copied.start().wait_until_caught_up()
    copied.compare(["t"])
    status = copied.verb("status")
    assert status.code == FINDINGS
    assert "ADD TABLE" in status.out and "tailwater resync" in status.out, repr(status)
    answer = copied.verb("resync", "u")
    assert answer.code == FAILED and "ADD TABLE" in answer.out, repr(answer)
    copied.publish()
    source.sql("insert into u values (3)")
    copied.ok("resync", "u")
    source.sql("insert into u values (4)")
    copied.wait_until_caught_up()
    copied.compare()
    assert copied.verb("status").code == DONE


def test_p45_taken_out_where_errors_stop(source, copied):
    source.sql(f"alter publication {copied.publication} drop table u", user="postgres")
    source.sql("insert into u values (2)")
    refused(copied, (FINDINGS,), copied.publication, '"u"', "ADD TABLE", "resync")


def test_p45_table_added_to_a_pipeline(both_plugins, source, make_pipeline):
    """By nobody who named it: refused, and where it is excluded everything goes on."""
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline().publish(("public", "t"))
    pipeline.run_until_now()
    source.sql("create table u (id int primary key)")
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code == USAGE and "table add" in result.err and "public.u" in result.err, repr(result)
    pipeline.tables = ["public.*", "!public.u"]
    pipeline.write_config()
    source.sql("insert into t values (1)")
    pipeline.run_until_now()
    pipeline.compare(["t"])


@pytest.mark.parametrize("slot", ["none", "made anew"])
def test_p47_promoted_standby(both_plugins, own_servers, source, make_pipeline, slot):
    """Before 17 a standby has no slots: whoever follows the new primary is told, never a gap in silence."""
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline(source={"start_timeout": "5s"}).publish()
    pipeline.run_until_now()
    standby = own_servers.source.make_standby(os.path.join(own_servers.folder, "standby")).start()
    try:
        source.sql("insert into t values (2)")
        wait.until(lambda: standby.sql("select pg_last_wal_replay_lsn() >= %s::pg_lsn", source.lsn())[0][0],
                   "replayed")
        own_servers.source.stop("immediate")
        standby.sql("select pg_promote()")
        pipeline.keys["source"]["conninfo"] = standby.conninfo(source.name, "tailwater")
        pipeline.write_config()
        with standby.connect(source.name) as connection, connection.cursor() as cursor:
            if slot == "made anew":
                cursor.execute("select pg_create_logical_replication_slot(%s, %s)", (pipeline.slot, both_plugins))
            cursor.execute("insert into t values (3)")
        result = pipeline.verb("run", "--until", "now")
        assert result.code == SLOT and pipeline.slot in result.err, repr(result)
        assert pipeline.mirror.sql("select * from t") == [(1,)]
    finally:
        standby.stop("immediate")


def test_p47_standby_that_was_behind(both_plugins, own_servers, source, make_pipeline):
    """The mirror has what the new primary never had."""
    source.sql("create table t (id int primary key); insert into t values (1)")
    standby = own_servers.source.make_standby(os.path.join(own_servers.folder, "standby")).start()
    try:
        standby.stop()
        pipeline = make_pipeline(source={"start_timeout": "5s"}).publish()
        pipeline.run_until_now()
        source.sql("insert into t select generate_series(2, 5000)")
        pipeline.run_until_now()
        own_servers.source.stop("immediate")
        standby.start().sql("select pg_promote()")
        pipeline.keys["source"]["conninfo"] = standby.conninfo(source.name, "tailwater")
        pipeline.write_config()
        with standby.connect(source.name) as connection, connection.cursor() as cursor:
            cursor.execute(f"drop publication if exists {pipeline.publication}")
            if both_plugins == "pgoutput":
                cursor.execute(f"create publication {pipeline.publication} for table t")
            cursor.execute("select pg_create_logical_replication_slot(%s, %s)", (pipeline.slot, both_plugins))
        result = pipeline.verb("run", "--until", "now")
        assert result.code == SLOT, repr(result)
        assert pipeline.mirror.value("select count(*) from t") == 5000
    finally:
        standby.stop("immediate")


def test_p48_slot_that_has_to_wait(both_plugins, source, make_pipeline):
    """It waits for who writes, names nobody's data, and is stopped cleanly meanwhile."""
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline().publish()
    with source.transaction() as cursor:
        cursor.execute("insert into t values (1)")
        pipeline.start()
        wait.until(lambda: source.value("select count(*) from pg_stat_activity where query ilike "
                                        "'create_replication_slot%%' and wait_event_type = 'Lock'",
                                        user="postgres"), "the slot's creation waits")
        pipeline.stop(deadline=20)
        wait.until(lambda: not source.value("select count(*) from pg_replication_slots where slot_name = %s",
                                            pipeline.slot, user="postgres"), "no slot is left behind")
    pipeline = running(make_pipeline)
    pipeline.settle()
