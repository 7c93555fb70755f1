"""A standby of the source is promoted: go on where that is right, refuse where it is not (P47)."""

import os

import pytest

from lib import wait
from lib.cluster import OWNER, REPLICATOR, Database
from lib.pipeline import FINDINGS, SLOT

ADMIN = "postgres"


class Pair:
    """The source's server, a standby of it, and the same database on both."""

    def __init__(self, source, folder):
        self.primary = source.cluster
        self.source = source
        self.folder = os.path.join(folder, "standby")
        self.standby = self.promoted = None

    def make(self, **settings):
        self.primary.sql("select pg_create_physical_replication_slot('standby')")
        self.standby = self.primary.make_standby(self.folder, primary_slot_name="standby", **settings)
        self.standby.start()
        wait.until(lambda: self.primary.sql("select active from pg_replication_slots "
                                            "where slot_name = 'standby'") == [(True,)], "the standby")
        return self

    def has_slot(self, name):
        """Does the standby keep a copy of it that outlives a promotion?"""
        return self.standby.sql("select count(*) from pg_replication_slots where slot_name = "
                                f"'{name}' and synced and not temporary") == [(1,)]

    def wait_replayed(self):
        """Until the standby has all that was written so far."""
        end = self.source.lsn()
        wait.until(lambda: self.standby.sql(
            f"select pg_last_wal_replay_lsn() >= '{end}'") == [(True,)], "the standby's replay")

    def promote(self):
        """Nothing is left of the primary."""
        self.primary.kill()
        assert self.standby.sql("select pg_promote(true, 60)") == [(True,)]
        self.promoted = Database(self.standby, self.source.name, OWNER)
        return self.promoted

    def conninfo(self):
        """Whichever of the two takes writes."""
        return self.source.conninfo(REPLICATOR).replace(
            f"host={self.primary.folder}", f"host={self.primary.folder},{self.folder}").replace(
            "port=5432", "port=5432,5432") + " target_session_attrs=read-write"


@pytest.fixture
def pair(own_servers, source, folder):
    made = Pair(source, folder)
    source.sql("create table t (id int primary key, a text); insert into t values (1, 'copied')")
    yield made
    if made.standby is not None:
        made.standby.stop("immediate")


def needs_failover_slots(source):
    if source.cluster.major < 17:
        pytest.skip("failover slots came with PostgreSQL 17")


def with_failover(make_pipeline, pair, **more):
    pipeline = make_pipeline(source={"failover": True, "conninfo": pair.conninfo(),
                                     "start_timeout": "20s"}, **more)
    return pipeline.publish()


def refused(pipeline, *words):
    """Exit 6, again and again; check finds the same, and the mirror stays as it was."""
    before = pipeline.clock(), pipeline.snapshot()
    run = ("run", "--until", "now")
    for code, *verb in ((SLOT, *run), (SLOT, *run), (FINDINGS, "check")):
        result = pipeline.verb(*verb)
        assert result.code == code, repr(result)
        for word in words:
            assert word in result.text, f"{word!r} is missing in\n{result!r}"
    assert (pipeline.clock(), pipeline.snapshot()) == before


def test_p47_goes_on(both_plugins, pair, source, mirror, make_pipeline):
    """The slot came along, and the standby has all that the mirror has: nothing is lost, no copy."""
    needs_failover_slots(source)
    pair.make(sync_replication_slots="on", hot_standby_feedback="on")
    pair.primary.set(synchronized_standby_slots="standby")
    pipeline = with_failover(make_pipeline, pair)
    pipeline.start().wait_until_caught_up()
    wait.until(lambda: pair.has_slot(pipeline.slot), "the slot's copy on the standby", deadline=60)
    source.sql("insert into t values (2, 'before')")
    pipeline.wait_until_caught_up()
    report = pipeline.verb("check", "--json").json()
    assert [f["level"] for f in report["findings"] if f["name"] == "source_failover"] == ["ok"]
    pair.wait_replayed()
    process = pipeline.process.pid
    pipeline.source = pair.promote()
    pipeline.source.sql("insert into t values (3, 'after'); delete from t where id = 1")
    pipeline.wait_until_caught_up(deadline=90)
    pipeline.wait_log(r"\[source_promoted\]")
    assert pipeline.process.pid == process
    assert mirror.value("select array_agg(a order by id) from t") == ["before", "after"]
    assert mirror.value("select timeline from tailwater.pipeline") == 2
    assert pipeline.log.count("[copy_started]") == 1
    pipeline.settle()


def test_p47_standby_behind_is_refused(pair, source, mirror, make_pipeline):
    """The mirror has what the promoted standby never saw; that it writes on makes no difference."""
    needs_failover_slots(source)
    pair.make(sync_replication_slots="on", hot_standby_feedback="on")
    pipeline = with_failover(make_pipeline, pair)
    pipeline.start().wait_until_caught_up()
    wait.until(lambda: pair.has_slot(pipeline.slot), "the slot's copy on the standby", deadline=60)
    # From now on it cannot reach its primary.
    pair.standby.sql("alter system set primary_conninfo = ''")
    pair.standby.stop()
    source.sql("insert into t values (2, 'lost with the primary')")
    pipeline.wait_until_caught_up()
    pipeline.stop()
    pair.standby.start()
    promoted = pair.promote()
    promoted.sql("insert into t select i, 'after' from generate_series(10, 2000) i")
    assert promoted.value("select pg_current_wal_lsn() > %s::pg_lsn", pipeline.clock()[1], user=ADMIN)
    refused(pipeline, "timeline 2", "did not have them")
    assert mirror.value("select a from t where id = 2") == "lost with the primary"


def test_p47_behind_with_a_slot(pair, source, mirror, make_pipeline):
    """Of any version: somebody made the slot on a standby that was behind, and its WAL is long past
    the mirror's cursor again.  Only the timelines tell."""
    pair.make()
    pipeline = make_pipeline(source={"conninfo": pair.conninfo(), "start_timeout": "20s"}).publish()
    pipeline.run_until_now()
    pair.wait_replayed()
    pair.standby.sql("alter system set primary_conninfo = ''")
    pair.standby.stop()
    source.sql("insert into t select i, 'lost with the primary' from generate_series(2, 3000) i")
    pipeline.run_until_now()
    pair.standby.start()
    promoted = pair.promote()
    promoted.sql("select pg_create_logical_replication_slot(%s, %s)", pipeline.slot, pipeline.plugin,
                 user=ADMIN)
    promoted.sql("insert into t select i, repeat('after', 100) from generate_series(5000, 9000) i")
    assert promoted.value("select pg_current_wal_lsn() > %s::pg_lsn and confirmed_flush_lsn < %s::pg_lsn"
                          " from pg_replication_slots where slot_name = %s", pipeline.clock()[1],
                          pipeline.clock()[1], pipeline.slot, user=ADMIN)
    refused(pipeline, "timeline 2", "did not have them")


def test_p47_without_failover_slot(both_plugins, pair, source, make_pipeline):
    """Of any version: the promoted standby has no slot."""
    pair.make()
    pipeline = make_pipeline(source={"conninfo": pair.conninfo(), "start_timeout": "20s"}).publish()
    pipeline.run_until_now()
    pair.wait_replayed()
    pair.promote()
    refused(pipeline, pipeline.slot, "a standby was promoted", "failover: true")


def test_standby_is_waited_for(pair, source, make_pipeline):
    """The address leads to a standby that is not promoted yet: that may pass."""
    pipeline = make_pipeline(source={"start_timeout": "3s"}).publish()
    pipeline.run_until_now()
    pair.make()
    pipeline.keys["source"]["conninfo"] = Database(pair.standby, source.name, OWNER).conninfo()
    pipeline.write_config()
    result = pipeline.verb("run", "--until", "now")
    assert result.code == 75 and "standby" in result.err, repr(result)
    pair.standby.databases.clear()


def test_failover_needs_17(pair, source, make_pipeline):
    if source.cluster.major >= 17:
        pytest.skip("this server has failover slots")
    pipeline = make_pipeline(source={"failover": True}).publish()
    for verb in ("run", "check"):
        result = pipeline.verb(verb)
        assert result.code == FINDINGS, repr(result)
        assert "failover slots need PostgreSQL 17" in result.text and "take failover out" in result.text
    pipeline.keys["source"]["failover"] = False
    pipeline.write_config()
    pipeline.run_until_now()
    pipeline.settle()


def test_failover_is_turned_on_later(pair, source, make_pipeline):
    """An existing slot becomes one; and taking the key out again leaves it as it is."""
    needs_failover_slots(source)
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    asked = "select failover from pg_replication_slots where slot_name = %s"
    assert source.value(asked, pipeline.slot, user=ADMIN) is False
    pipeline.keys["source"] = {"failover": True}
    pipeline.write_config()
    pipeline.run_until_now()
    assert source.value(asked, pipeline.slot, user=ADMIN) is True
    pipeline.keys["source"] = {}
    pipeline.write_config()
    pipeline.settle()
    assert source.value(asked, pipeline.slot, user=ADMIN) is True


def test_check_says_what_failover_needs(pair, source, make_pipeline):
    needs_failover_slots(source)
    pipeline = make_pipeline(source={"failover": True}).publish()

    def found():
        report = pipeline.verb("check", "--json").json()
        return [(f["level"], f["what"] + f.get("why", "") + f.get("remedy", ""))
                for f in report["findings"] if f["name"] == "source_failover"]

    (level, text), = found()
    assert level == "warning" and "no standby" in text
    for word in ("primary_slot_name", "primary_conninfo", "hot_standby_feedback",
                 "sync_replication_slots"):
        assert word in text
    pair.make()
    texts = [text for level, text in found() if level == "warning"]
    assert any("give no feedback: standby" in text for text in texts)
    assert any("synchronized_standby_slots is empty" in text for text in texts)
    pair.standby.set(hot_standby_feedback="on")
    pair.primary.set(synchronized_standby_slots="standby")
    wait.until(lambda: [level for level, _ in found()] == ["ok"], "all that is needed", every=0.5)
    pair.standby.stop()
    wait.until(lambda: any("names slots that nobody reads" in text for _, text in found()),
               "the standby missed", every=0.5)
