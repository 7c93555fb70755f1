"""Tables that come and go while the pipeline streams: table add, remove, list; SIGHUP (P45)."""

import signal
import subprocess

import pytest

from lib import wait
from lib.pipeline import DONE, FAILED, USAGE, Traffic

SCHEMA = """
    create table other (id int primary key, a int);
    create table t (id int primary key, a int, b text, big text);
    alter table t alter big set storage external;
    insert into other select i, i from generate_series(1, 50) i;
    insert into t select i, i, 'b' || i, repeat('x', 3000) from generate_series(1, 300) i;
    """

# Updates leave big out: those that come before their row are completed by the repair list.
TRAFFIC = {
    "update": (6, "\\set i random(1, 400)\nupdate t set a = a + 1 where id = :i;"),
    "delete": (2, "\\set i random(1, 400)\ndelete from t where id = :i;"),
    "insert": (3, "\\set i random(1, 400)\n"
                  "insert into t values (:i, 0, 'new', repeat('z', 3000)) on conflict do nothing;"),
    "key": (2, "\\set i random(1, 400)\n\\set j random(1, 400)\n"
               "update t set id = :j where id = :i and not exists (select from t where id = :j);"),
    "other": (3, "\\set i random(1, 50)\nupdate other set a = a + 1 where id = :i;"),
}


@pytest.fixture
def running(source, make_pipeline):
    source.sql(SCHEMA)
    pipeline = make_pipeline(tables=["public.other"], log={"level": "debug"}).publish(("public", "other"))
    pipeline.start().wait_until_caught_up()
    return pipeline


def publish(pipeline, name="t"):
    if pipeline.plugin == "pgoutput":
        pipeline.source.sql(f"alter publication {pipeline.publication} add table {name}", user="postgres")


def command(pipeline, *args):
    return subprocess.Popen([pipeline.binary, "-c", pipeline.file, *args], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=pipeline.environment())


def states(pipeline):
    return {t["name"]: "unlisted" if t["unlisted_since"] else t["state"]
            for t in pipeline.ok("table", "list", "--json").json()["tables"]}


def repaired(pipeline):
    pipeline.wait_until_caught_up()
    wait.until(lambda: not pipeline.mirror.value("select count(*) from tailwater.repair"),
               pipeline.log_tail)


def test_p45_added_under_traffic(both_plugins, source, mirror, running, folder):
    """The command lists it and the replicator fills it, while everything else streams."""
    with Traffic(source, folder, TRAFFIC, clients=2, rate=200) as traffic:
        if running.plugin == "pgoutput":
            result = running.verb("table", "add", "public.t")
            assert result.code == FAILED and "ADD TABLE" in result.out, repr(result)
            assert "ADD TABLE" in running.verb("status").out
            publish(running)
        result = running.ok("table", "add", "public.t", "--json")
        assert result.json()["tables"][0]["missing"] > 0
        traffic.check()
    assert states(running) == {"other": "ready", "t": "ready"}
    running.tables = ["public.other", "public.t"]
    repaired(running)
    running.compare()
    assert "already" in running.ok("table", "add", "public.t").err
    source.sql("update t set a = 0, id = id + 1000 where id < 50")
    running.settle()


@pytest.mark.parametrize("point", ["resync_after_mark", "side_after_rows", "resync_before_end"])
def test_p45_killed_in_between(both_plugins, source, mirror, running, folder, point):
    """A kill -9 in the middle: the next replicator goes on, and the command with it."""
    running.stop()
    publish(running)
    running.start(fault=f"{point}=kill").wait_until_caught_up()
    adding = command(running, "table", "add", "public.t")
    with Traffic(source, folder, TRAFFIC, clients=1, rate=100):
        assert running.wait_exit() < 0
        running.start()
        out, _ = adding.communicate(timeout=60)
        assert adding.returncode == DONE, out
    repaired(running)
    running.compare()
    assert mirror.value("select count(*) from t") > 0
    running.settle()


def test_p45_by_hand(both_plugins, source, mirror, running):
    """The configuration is edited, and the replicator told by SIGHUP; taken out likewise, and put back."""
    publish(running)
    running.tables = ["public.other", "public.t"]
    running.write_config()
    running.signal(signal.SIGHUP)
    wait.until(lambda: mirror.value("select count(*) from tailwater.mirror_table where name = 't' and state = 'ready' "
                                    "and quarantine_lsn is null"), running.log_tail)
    running.wait_until_caught_up().compare()
    running.tables = ["public.other"]
    running.write_config()
    running.signal(signal.SIGHUP)
    wait.until(lambda: states(running)["t"] == "unlisted", running.log_tail)
    source.sql("update t set a = -1; delete from t where id < 100; update other set a = 0")
    running.wait_until_caught_up().compare(["other"])
    assert mirror.value("select count(*) from t where a > 0") == 300
    running.tables = ["public.other", "public.t"]
    running.write_config()
    running.signal(signal.SIGHUP)
    wait.until(lambda: mirror.value("select count(*) = 2 from tailwater.job where state = 'done'"), running.log_tail)
    running.settle()


def test_added_in_place(both_plugins, source, mirror, make_pipeline):
    """With no replicator running the command does it; before the first run it only writes the name down."""
    source.sql(SCHEMA + "create table third (id int primary key); insert into third values (1)")
    pipeline = make_pipeline(tables=["public.other"]).publish(("public", "other"), ("public", "t"))
    assert "not been copied" in pipeline.ok("table", "add", "public.t").err
    pipeline.tables.append("public.t")
    pipeline.run_until_now()
    pipeline.compare(["other", "t"])
    publish(pipeline, "third")
    pipeline.ok("table", "add", "public.third")
    pipeline.tables.append("public.third")
    pipeline.compare()
    pipeline.settle()


def test_removed(source, mirror, running):
    """The table leaves the file and the mirror; what somebody's view needs stays, and says so."""
    running.ok("table", "add", "public.t")
    assert running.verb("table", "remove", "public.t").code == USAGE, "it asks"
    assert "public.t" in open(running.file).read()
    mirror.sql("create view public.mine as select id from public.t", user="tailwater")
    result = running.verb("table", "remove", "public.t", "--yes")
    assert result.code == FAILED and "mine" in result.out, repr(result)
    assert states(running)["t"] == "unlisted" and running.is_running
    mirror.sql("drop view public.mine")
    running.ok("table", "remove", "public.t", "--yes")
    assert states(running) == {"other": "ready"}
    assert mirror.value("select to_regclass('public.t') is null and to_regclass('mirror_public.t') is null")
    assert running.verb("table", "remove", "public.t", "--yes").code == USAGE
    source.sql("update other set a = 1; update t set a = 1")
    running.wait_until_caught_up().compare(["other"])
    running.ok("table", "add", "public.t")
    running.stop()
    running.ok("table", "remove", "public.t", "--keep-tables")
    source.sql("update t set a = 2")
    running.run_until_now()
    assert mirror.value("select count(*) from t where a = 1") == 300
    running.ok("table", "remove", "public.t", "--yes")
    assert states(running) == {"other": "ready"}
    running.settle(["other"])


def test_unquarantine(source, mirror, running):
    """A resync, of a table that is quarantined and of no other."""
    mirror.sql("alter table mirror_public.other add constraint c check (a < 1000)")
    source.sql("update other set a = 5000 where id = 3")
    wait.until(lambda: mirror.value("select count(*) from tailwater.mirror_table where quarantine_lsn is not null"),
               running.log_tail)
    assert running.verb("table", "unquarantine", "public.other").code == FAILED
    mirror.sql("alter table mirror_public.other drop constraint c")
    assert running.verb("table", "unquarantine", "public.t").code == USAGE
    running.ok("table", "unquarantine", "public.other")
    assert "not quarantined" in running.verb("table", "unquarantine", "public.other").err
    running.compare(["other"])
    running.settle(["other"])


def test_refused(source, mirror, running):
    """What cannot be mirrored is said before anything changes."""
    source.sql("create table no_key (a int)")
    before = open(running.file).read()
    for args, word in ((["add", "public.no_key"], "no_key"), (["add", "public.nothing"], "nothing"),
                       (["add", "public.*"], "pattern"), (["add"], "TABLE"), (["ad", "x.y"], "add"),
                       (["remove", "public.other", "--yes"], "taken out"), (["list", "public.t"], "too much")):
        result = running.verb("table", *args)
        assert result.code != DONE and word in result.text, repr(result)
    assert open(running.file).read() == before
    source.sql("update other set a = 77")
    running.wait_until_caught_up().compare(["other"])
    running.settle(["other"])
