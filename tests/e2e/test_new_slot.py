"""A pipeline that has lost its thread: one command, nothing is emptied, the ledger has what differed."""

import shutil
import signal

import pytest

from lib import wait
from lib.pipeline import BUSY, DONE, SLOT

SCHEMA = """
    create table t (id int primary key, a int);
    create table other (id int primary key, a int);
    insert into t select i, i from generate_series(1, 200) i;
    insert into other select i, i from generate_series(1, 50) i;
    """
MISSED = """
    update t set a = -a where id between 1 and 20;
    delete from t where id between 21 and 30;
    insert into t select i, i from generate_series(301, 315) i;
    """
MISSED_KEYS = [*range(1, 31), *range(301, 316)]


@pytest.fixture
def copied(source, make_pipeline, plugin):
    source.sql(SCHEMA)
    pipeline = make_pipeline(source={"start_timeout": "5s"},
                             facts={"thing": {"table": "public.t", "key": ["id"]}}).publish()
    pipeline.run_until_now()
    return pipeline


def drop(source, pipeline):
    source.sql("select pg_drop_replication_slot(%s)", pipeline.slot, user="postgres")


def keys_since(mirror, batch):
    return [row[0] for row in mirror.sql(
        f"select distinct id from tailwater.affected_thing where batch_id > {batch} order by 1")]


def refused(pipeline):
    result = pipeline.verb("run", "--until", "now")
    assert result.code == SLOT and "--new-slot" in result.err, repr(result)


def recovers(pipeline, mirror):
    batch = mirror.value("select batch_id from tailwater.clock")
    result = pipeline.verb("resync", "--all", "--new-slot", timeout=120)
    assert result.code == DONE, repr(result)
    pipeline.compare()
    assert keys_since(mirror, batch) == MISSED_KEYS
    pipeline.source.sql("update t set a = a + 1 where id = 100")
    pipeline.run_until_now()
    pipeline.compare()


def test_p44_dropped(both_plugins, source, mirror, copied):
    drop(source, copied)
    source.sql(MISSED)
    refused(copied)
    recovers(copied, mirror)
    copied.settle_stopped()


def test_p43_killed_by_its_limit(own_servers, source, mirror, copied):
    own_servers.source.set(max_slot_wal_keep_size="16MB", max_wal_size="32MB")
    source.sql(MISSED)
    for _ in range(4):
        source.sql("create table w as select repeat('w', 1000) as a from generate_series(1, 30000);"
                   "drop table w")
        source.sql("checkpoint", user="postgres")
    wait.until(lambda: source.value("select wal_status = 'lost' from pg_replication_slots "
                                    "where slot_name = %s", copied.slot, user="postgres"), "lost")
    refused(copied)
    recovers(copied, mirror)


def test_p30_advanced(source, mirror, copied):
    """As after a mirror that was restored: the slot is past the cursor."""
    source.sql(MISSED)
    source.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", copied.slot, user="postgres")
    refused(copied)
    recovers(copied, mirror)


@pytest.mark.parametrize("faults", [("renew_after_slot", "renew_before_record", "resync_after_mark")], ids="-".join)
def test_by_itself(source, mirror, copied, faults):
    """source.on_lost: resync; also after crashes on the way."""
    copied.keys["source"]["on_lost"] = "resync"
    copied.write_config()
    drop(source, copied)
    source.sql(MISSED)
    batch = mirror.value("select batch_id from tailwater.clock")
    for fault in faults:
        copied.start(fault=fault + "=kill")
        assert copied.wait_exit(60) == -signal.SIGKILL, copied.log_tail()
    copied.start()
    wait.until(lambda: mirror.value("select count(*) = 0 from tailwater.mirror_table where "
                                    "quarantine_lsn is not null or resync_job is not null"),
               copied.log_tail, deadline=60)
    copied.wait_until_caught_up()
    assert keys_since(mirror, batch) == MISSED_KEYS
    copied.settle()


def test_not_beside_a_replicator(source, mirror, copied):
    copied.start()
    wait.until(lambda: "[streaming]" in copied.this_run(), copied.log_tail)  # it is caught up before that
    result = copied.verb("resync", "--all", "--new-slot")
    assert result.code == BUSY and "stop it first" in result.err
    assert mirror.value("select count(*) from tailwater.job") == 0
    copied.settle()


def test_p31_source_replaced(own_servers, source, mirror, copied):
    """Another cluster, whose positions are smaller than those that rows of the mirror have."""
    source.sql("insert into t select i, i from generate_series(1000, 1020) i")
    for _ in range(3):
        source.sql("select pg_switch_wal(); insert into other values (floor(random() * 1000000)::int + 1000)", user="postgres")
    copied.run_until_now()
    own_servers.source.stop()
    for part in ("data", "log"):
        shutil.move(f"{own_servers.source.folder}/{part}", f"{own_servers.source.folder}/{part}.old")
    own_servers.source.create().start().make_roles()
    replaced = own_servers.source.create_source(source.name)
    replaced.sql(SCHEMA + MISSED)
    copied.source = replaced
    copied.publish()
    copied.keys["source"]["on_lost"] = "resync"
    copied.write_config()
    result = copied.verb("run", "--until", "now")
    assert result.code == SLOT and "identifier" in result.err
    result = copied.verb("resync", "--all", "--new-slot", timeout=120)
    assert result.code == DONE, repr(result)
    copied.compare()
    replaced.sql("insert into other values (777, 7)")
    copied.run_until_now()
    copied.compare()
