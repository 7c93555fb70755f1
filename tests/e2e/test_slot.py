"""The slot is the thread that must not break: lost, changed or foreign ones are refused (P30, P31, P43)."""

import shutil

import pytest

from lib import wait
from lib.pipeline import SLOT


@pytest.fixture
def copied(source, make_pipeline, plugin):
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline(source={"start_timeout": "5s"}).publish()
    pipeline.run_until_now()
    source.sql("insert into t values (2)")
    return pipeline


def refused(pipeline, *words):
    """Exit 6, twice, and the mirror is as it was."""
    before = pipeline.clock(), pipeline.snapshot()
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code == SLOT, repr(result)
        for word in (pipeline.slot, *words):
            assert word in result.err, f"{word!r} is missing in\n{result!r}"
    assert (pipeline.clock(), pipeline.snapshot()) == before


def drop(source, pipeline):
    source.sql("select pg_drop_replication_slot(%s)", pipeline.slot, user="postgres")


def test_p44_slot_dropped(both_plugins, source, copied):
    drop(source, copied)
    refused(copied)


def test_p31_slot_recreated(both_plugins, source, copied):
    """Same name, same plugin, but row 2 was never in it."""
    drop(source, copied)
    source.sql("select pg_create_logical_replication_slot(%s, %s)", copied.slot, copied.plugin,
               user="postgres")
    source.sql("insert into t values (3)")
    refused(copied)


def test_p30_slot_advanced(both_plugins, source, copied):
    """Somebody moved it past changes that the mirror does not have."""
    source.sql("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", copied.slot,
               user="postgres")
    refused(copied)


def test_of_another_plugin(source, copied):
    drop(source, copied)
    source.sql("select pg_create_logical_replication_slot(%s, 'test_decoding')", copied.slot,
               user="postgres")
    refused(copied)


def test_of_somebody_else(source, make_pipeline):
    """A slot of that name before the pipeline exists is not ours to use."""
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline(source={"start_timeout": "5s"})
    source.sql("select pg_create_logical_replication_slot(%s, %s)", pipeline.slot,
               pipeline.plugin, user="postgres")
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code in (SLOT, 3), repr(result)
        assert pipeline.slot in result.err


def test_p43_slot_lost(own_servers, source, copied):
    """The server gave it up: too much WAL (P43)."""
    own_servers.source.set(max_slot_wal_keep_size="16MB", max_wal_size="32MB")
    for _ in range(4):
        source.sql("create table w as select repeat('w', 1000) as a from generate_series(1, 30000);"
                   "drop table w")
        source.sql("checkpoint", user="postgres")
    wait.until(lambda: source.value("select wal_status = 'lost' from pg_replication_slots "
                                    "where slot_name = %s", copied.slot, user="postgres"), "lost")
    refused(copied)


def test_dropped_while_running(both_plugins, source, copied):
    copied.start().wait_until_caught_up()
    source.sql("select pg_terminate_backend(active_pid) from pg_replication_slots "
               "where slot_name = %s", copied.slot, user="postgres")

    def dropped():
        try:
            drop(source, copied)
        except Exception as error:
            return getattr(error, "pgcode", None) == "42704"
        return True
    wait.until(dropped, "slot dropped", every=0.001)
    assert copied.wait_exit(60) == SLOT, copied.log_tail()
    refused(copied)


def test_p31_source_replaced(both_plugins, own_servers, source, copied):
    """Another cluster under the same address: same names, another system identifier."""
    own_servers.source.stop()
    for part in ("data", "log"):
        shutil.move(f"{own_servers.source.folder}/{part}", f"{own_servers.source.folder}/{part}.old")
    own_servers.source.create().start().make_roles()
    name = source.name
    replaced = own_servers.source.create_source(name)
    replaced.sql("create table t (id int primary key); insert into t values (7)")
    copied.source = replaced
    copied.publish()
    replaced.sql("select pg_create_logical_replication_slot(%s, %s)", copied.slot, copied.plugin,
                 user="postgres")
    before = copied.snapshot()
    for _ in range(2):
        result = copied.verb("run", "--until", "now")
        assert result.code == SLOT, repr(result)
        assert "identifier" in result.err
    assert copied.snapshot() == before


def test_destroy_leaves_nothing(both_plugins, source, mirror, copied):
    copied.ok("destroy", "--yes")
    assert source.value("select count(*) from pg_replication_slots where slot_name = %s",
                        copied.slot, user="postgres") == 0
    assert mirror.value("select count(*) from pg_views where schemaname = 'public'") == 0
    assert mirror.value("select to_regclass('mirror_public.t')") is None
    copied.publish()
    copied.run_until_now()
    copied.compare()
    copied.ok("destroy", "--yes")
    again = copied.verb("destroy", "--yes")
    assert again.code == 1 and "nothing to remove" in again.text, repr(again)
