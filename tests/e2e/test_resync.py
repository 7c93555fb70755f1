"""resync TABLE: a mirror table becomes equal to the source again while everything goes on."""

import os
import random
import signal
import subprocess
import threading
import time

import pytest

from lib import wait
from lib.compare import difference
from lib.pipeline import AGAIN, DONE, FAILED, SOURCE_DOWN, USAGE, Traffic, fault_points

SCHEMA = """
    create table t (id int primary key, a int, b text, big text);
    alter table t alter big set storage external;
    create table other (id int primary key, a int);
    insert into t select i, i, 'b' || i, repeat('x', 3000) from generate_series(1, 300) i;
    insert into other select i, i from generate_series(1, 300) i;
    """

ROUNDS = int(os.environ.get("TAILWATER_ROUNDS", 2))  # scripts/heal has more
PURGES = [{}, {"purge": {"after": "7d"}}]
PURGE_IDS = ["purged", "tombstones"]

# Rows of a mirror table made wrong: the statement, and what a resync has to write.
PLANTED = {
    "nothing": ("select 1", (0, 0, 0)),
    "missing": ("delete from {t} where id % 30 = 1", (10, 0, 0)),
    "different": ("update {t} set a = -1 where id % 30 = 2", (0, 10, 0)),
    "null": ("update {t} set big = null where id = 7", (0, 1, 0)),
    "extra": ("insert into {t} select i, i, 'e', 'e', '0/1' from generate_series(1001, 1010) i", (0, 0, 10)),
    "tombstone": ("update {t} set _deleted_at = now() where id in (5, 6)", (0, 2, 0)),
    "key": ("update {t} set id = id + 5000 where id = 9", (1, 0, 1)),
    "all gone": ("delete from {t}", (300, 0, 0)),
    "all else": ("update {t} set id = id + 5000", (300, 0, 300)),
}


@pytest.fixture
def schema(source):
    source.sql(SCHEMA)


def marked(pipeline):
    return pipeline.mirror.value("select count(*) from tailwater.mirror_table where "
                                 "resync_job is not null or quarantine_lsn is not null")


def tombstones(pipeline, table="t"):
    return pipeline.mirror.value(f"select count(*) from mirror_public.{table} "
                                 "where _deleted_at is not null")


def resync(pipeline, *tables, timeout=90, code=DONE):
    """The command, with --json; its answer."""
    result = pipeline.verb("resync", "--json", *tables, timeout=timeout)
    assert result.code == code, repr(result)
    return result.json()


def counts(table):
    return table["missing"], table["different"], table["extra"]


# ---- planted differences ----

@pytest.mark.parametrize("running", [True, False], ids=["handed over", "in place"])
@pytest.mark.parametrize("purge", PURGES, ids=PURGE_IDS)
def test_p52_planted(source, mirror, schema, make_pipeline, purge, running):
    """A table for each kind of difference, all in one command."""
    for name in PLANTED:
        source.sql(f'create table "{name}" (like t including all); insert into "{name}" select * from t')
    pipeline = make_pipeline(**purge)
    pipeline.start().wait_until_caught_up()
    if not running:
        pipeline.stop()
    for name, (statement, _) in PLANTED.items():
        mirror.sql(statement.format(t=f'mirror_public."{name}"'))
    answer = resync(pipeline, *(f"public.{name}" for name in PLANTED))
    assert answer["state"] == "done"
    assert {t["name"]: counts(t) for t in answer["tables"]} == {name: wanted for name, (_, wanted) in PLANTED.items()}
    assert {t["rows_read"] for t in answer["tables"]} == {300}
    pipeline.compare()
    assert marked(pipeline) == 0
    if not purge:
        assert [name for name in PLANTED if tombstones(pipeline, f'"{name}"')] == []
    again = resync(pipeline, *PLANTED)
    assert {counts(t) for t in again["tables"]} == {(0, 0, 0)}
    pipeline.settle()


def test_p52_both_plugins(both_plugins, source, mirror, schema, make_pipeline):
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("delete from mirror_public.t where id < 50; update mirror_public.t set b = 'x' where id > 250;"
               "insert into mirror_public.t values (1000, 0, 'e', 'e', '0/1');"
               "delete from mirror_public.other")
    answer = resync(pipeline, "t", "other")
    assert [counts(t) for t in answer["tables"]] == [(49, 50, 1), (300, 0, 0)]
    pipeline.settle()


# ---- while the stream goes on ----

TRAFFIC = {
    "update": (6, "\\set i random(1, 400)\nupdate t set a = a + 1 where id = :i;"),
    "noop": (3, "\\set i random(1, 400)\nupdate t set a = a where id = :i;"),
    "big": (1, "\\set i random(1, 400)\nupdate t set big = repeat('y', 3000 + :i) where id = :i;"),
    "delete": (3, "\\set i random(1, 400)\ndelete from t where id = :i;"),
    "insert": (4, "\\set i random(1, 400)\n"
                  "insert into t values (:i, 0, 'new', repeat('z', 3000)) on conflict do nothing;"),
    "key": (3, "\\set i random(1, 400)\n\\set j random(1, 400)\n"
               "update t set id = :j where id = :i and not exists (select from t where id = :j);"),
    "swap": (1, "\\set i random(1, 400)\nbegin;\ndelete from t where id = :i;\n"
                "insert into t values (:i, 5, 'again', 'small');\n"
                "update other set a = a + 1 where id = :i;\ncommit;"),
}
TRUNCATES = {**TRAFFIC, "truncate": (0.2, "truncate t;")}
TRUNCATES = {name: (max(1, round(weight * 20)), text) for name, (weight, text) in TRUNCATES.items()}


def spoil(mirror, chance):
    """Make some rows of the mirror wrong between two batches, as somebody's mistake would."""
    with mirror.transaction() as cursor:
        cursor.execute("select from tailwater.clock for update")
        part = chance.randrange(10)
        cursor.execute(chance.choice([
            "delete from mirror_public.t where id %% 10 = %s",
            "update mirror_public.t set a = -a, big = 'wrong' where id %% 10 = %s",
            "update mirror_public.t set _deleted_at = now() where id %% 10 = %s and _deleted_at is null",
            "insert into mirror_public.t select i, 0, 'extra', 'e', '0/1' from "
            "generate_series(1, 400) i where i %% 10 = %s on conflict do nothing",
        ]), (part,))


@pytest.mark.parametrize("purge", PURGES, ids=PURGE_IDS)
@pytest.mark.parametrize("scripts", [TRAFFIC, TRUNCATES], ids=["rows", "truncates"])
def test_p51_under_traffic(both_plugins, source, mirror, schema, make_pipeline, folder, scripts, purge):
    """Ten rounds: rows are spoilt, the table is resynced, traffic goes on; equal at the end."""
    pipeline = make_pipeline(resync={"max_delete_fraction": 1}, **purge).publish()
    pipeline.start().wait_until_caught_up()
    chance = random.Random(7)
    found = [0, 0, 0]
    with Traffic(source, folder, scripts, clients=2, rate=250) as traffic:
        for _ in range(10):
            spoil(mirror, chance)
            answer = resync(pipeline, "t")
            found = [a + b for a, b in zip(found, counts(answer["tables"][0]))]
            traffic.check()
    # Nobody spoils any more: what is wrong now, one resync must mend.
    assert sum(found) > 30 or scripts is TRUNCATES, found  # a truncate ends the comparison
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), pipeline.log_tail)
    assert difference(source, mirror, "t") == ""
    assert marked(pipeline) == 0
    pipeline.settle()


# What happens on the source while the table is under resync and nothing is compared yet.
EVENTS = {
    "delete": "delete from t where id = 1",
    "delete of a missing row": "delete from t where id = 2",
    "no-op": "update t set a = a where id = 1",
    "no-op on a wrong row": "update t set a = -1 where id = 3",
    "hole on a wrong row": "update t set b = 'hole' where id = 3",
    "hole on a missing row": "update t set b = 'hole' where id = 2",
    "key change": "update t set id = 1001 where id = 1",
    "key change of a missing row": "update t set id = 1002 where id = 2",
    "key change of a wrong row": "update t set id = 1003 where id = 3",
    "key change onto an extra row": "update t set id = 900 where id = 1",
    "insert over an extra row": "insert into t values (900, 9, 'mine', 'mine')",
    "insert and delete": "insert into t values (901, 9, 'x', 'x'); delete from t where id = 901",
    "delete and insert": "delete from t where id = 2; insert into t values (2, 8, 'x', 'x')",
    "delete of a tombstone": "delete from t where id = 4",
    "update of a tombstone": "update t set a = 44 where id = 4",
    "truncate": "truncate t",
    "truncate and insert": "truncate t; insert into t values (1, 1, 'x', 'x'), (900, 1, 'x', 'x')",
}
WRONG = """
    delete from mirror_public.t where id = 2;
    update mirror_public.t set a = -1, big = 'wrong' where id = 3;
    update mirror_public.t set _deleted_at = now() where id = 4;
    insert into mirror_public.t values (900, 0, 'extra', 'extra', '0/1');
    """


@pytest.mark.parametrize("purge", PURGES, ids=PURGE_IDS)
@pytest.mark.parametrize("when", ["resync_after_snapshot", "resync_after_rows"])
@pytest.mark.parametrize("event", EVENTS)
def test_events_meanwhile(source, mirror, schema, make_pipeline, event, when, purge):
    """Each rule of a table under resync: without it one of these ends wrong."""
    pipeline = make_pipeline(**purge)
    pipeline.start(fault=f"{when}=stall:1200").wait_until_caught_up()
    mirror.sql(WRONG)
    job = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env=pipeline.environment())
    wait.until(lambda: mirror.value("select lsn is not null from tailwater.job_table")
               and not source.value("select count(*) from pg_replication_slots where temporary",
                                    user="postgres"), pipeline.log_tail)
    for statement in EVENTS[event].split("; "):
        source.sql(statement)
    pipeline.wait_until_caught_up()
    assert job.wait(timeout=60) == DONE, pipeline.log_tail()
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), pipeline.log_tail)
    pipeline.compare()
    if not purge:
        wait.until(lambda: tombstones(pipeline) == 0, pipeline.log_tail)
    pipeline.settle()


def test_never_empty(source, mirror, schema, make_pipeline, folder):
    """A report that counts rows sees all of them at every moment."""
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    scripts = {name: TRAFFIC[name] for name in ("update", "noop", "big")}
    job = None
    with Traffic(source, folder, scripts, clients=2, rate=200) as traffic:
        mirror.sql("update mirror_public.t set a = -1, b = 'wrong'")
        job = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=pipeline.environment())
        while job.poll() is None:
            assert mirror.value("select count(*) from t") == 300
            traffic.check()
    assert job.returncode == DONE
    pipeline.wait_until_caught_up()
    pipeline.compare()
    pipeline.settle()


# ---- quarantine ends ----

def test_ends_a_quarantine(both_plugins, source, mirror, schema, make_pipeline):
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.t add constraint c check (a < 1000)")
    source.sql("update t set a = 5000 where id = 3; update other set a = 0")
    wait.until(lambda: marked(pipeline), pipeline.log_tail)
    source.sql("delete from t where id = 4; update t set b = 'missed'; insert into t values (500, 5)")
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    # The cause is still there: it stays quarantined, and says so.
    answer = resync(pipeline, "t", code=FAILED)
    assert answer["state"] == "failed" and answer["tables"][0]["sqlstate"] == "23514"
    assert "public.t" in answer["tables"][0]["error"]
    wait.until(lambda: marked(pipeline) and pipeline.verb("status", "--json").json()
               ["state"] == "quarantine", pipeline.log_tail)
    source.sql("update other set a = 1")
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    # Removed: it comes back, with all it has missed.
    mirror.sql("alter table mirror_public.t drop constraint c")
    answer = resync(pipeline, "t")
    assert answer["tables"][0]["missing"] == 1 and answer["tables"][0]["extra"] == 1
    source.sql("update t set b = 'streams again' where id < 10")
    pipeline.wait_until_caught_up()
    pipeline.compare()
    assert marked(pipeline) == 0
    assert pipeline.verb("status").code == DONE
    pipeline.settle()


def test_ends_a_quarantine_under_traffic(source, mirror, schema, make_pipeline, folder):
    """The stream comes back to a table of old rows, while it is compared."""
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    with Traffic(source, folder, TRAFFIC, clients=2, rate=200) as traffic:
        for round in range(3):
            mirror.sql("alter table mirror_public.t add constraint c check (a < 1000)")
            source.sql("insert into t values (7, 5000) on conflict (id) do update set a = 5000")
            wait.until(lambda: marked(pipeline), pipeline.log_tail)
            mirror.sql("alter table mirror_public.t drop constraint c")
            resync(pipeline, "t")
            assert marked(pipeline) == 0
            source.sql("update t set a = 0 where a > 900")
            pipeline.wait_until_caught_up()
            traffic.check()
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), pipeline.log_tail)
    pipeline.compare()
    pipeline.settle()


def test_refused_at_the_commit(source, mirror, schema, pipeline):
    """A constraint that is checked at the commit names no table: it is the side batch's all the same."""
    pipeline.start().wait_until_caught_up()
    mirror.sql("create table public.wants as select generate_series(1, 300) as id;"
               "alter table public.wants add primary key (id); grant all on public.wants to tailwater;"
               "alter table mirror_public.t add constraint c foreign key (a) references public.wants "
               "deferrable initially deferred")
    source.sql("update t set a = 5000 where id = 3")
    wait.until(lambda: marked(pipeline), pipeline.log_tail)
    answer = resync(pipeline, "t", code=FAILED)
    assert answer["tables"][0]["sqlstate"] == "23503"
    source.sql("update other set a = 1")
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    mirror.sql("alter table mirror_public.t drop constraint c")
    resync(pipeline, "t")
    pipeline.compare()


# The mirror table is no longer what the catalog says: what was done there, what every change of the
# table then meets, and what is done to make it whole again.
SHAPES = {
    "dropped": ("drop table mirror_public.t cascade", None),
    "column dropped": ("alter table mirror_public.t rename b to c",
                       "alter table mirror_public.t rename c to b"),
    "renamed": ("alter table mirror_public.t rename to u", "alter table mirror_public.u rename to t"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mirror_table_of_another_shape(source, mirror, schema, pipeline, shape):
    """Somebody alters a mirror table: that table's trouble alone, also when it is resynced as it is."""
    spoil, mend = SHAPES[shape]
    pipeline.start().wait_until_caught_up()
    mirror.sql(spoil)
    source.sql("update t set a = 0 where id = 3; insert into t select i, i, 'many', 'x' from "
               "generate_series(1001, 2500) i; update other set a = 7")
    wait.until(lambda: marked(pipeline), pipeline.log_tail)
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    answer = resync(pipeline, "t", code=FAILED)
    assert "mirror_public.t" in answer["tables"][0]["error"]
    assert "tailwater resync" in answer["tables"][0]["hint"]
    pipeline.stop()
    pipeline.run_until_now()
    if mend:
        mirror.sql(mend)
        pipeline.start().wait_until_caught_up()
        resync(pipeline, "t")
        pipeline.compare()


def test_a_source_table_of_another_shape(both_plugins, source, mirror, schema, make_pipeline, folder):
    """A new column quarantines the table at the start; a resync then fails, and fails nothing else.
    The remedy as it is printed works."""
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    source.sql("alter table t add c int default 5")
    pipeline.start().wait_until_caught_up()
    with Traffic(source, folder, TRAFFIC, clients=2, rate=100) as traffic:
        answer = resync(pipeline, "t", code=FAILED)
        assert "column c is missing" in answer["tables"][0]["error"]
        assert mirror.value("select state from tailwater.job") == "failed"
        traffic.check()
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    assert "change that back" in " ".join(pipeline.verb("status").out.split())
    source.sql("alter table t drop c")
    pipeline.stop()
    pipeline.start().wait_until_caught_up()
    resync(pipeline, "t")
    pipeline.compare()


# ---- killed, interrupted, refused ----

@pytest.mark.parametrize("quarantined", [False, True], ids=["plain", "quarantined"])
@pytest.mark.parametrize("point", [p for p in fault_points() if p.startswith(("resync_", "side_"))])
def test_killed_in_between(source, mirror, schema, make_pipeline, point, quarantined):
    """The next replicator goes on with the job, from a new snapshot."""
    pipeline = make_pipeline()
    pipeline.start(fault=f"{point}=kill").wait_until_caught_up()
    if quarantined:
        mirror.sql("alter table mirror_public.t add constraint c check (a < 1000)")
        source.sql("update t set a = 5000 where id = 3")
        wait.until(lambda: marked(pipeline), pipeline.log_tail)
        mirror.sql("alter table mirror_public.t drop constraint c")
    mirror.sql(WRONG)
    command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=pipeline.environment())
    assert pipeline.wait_exit() < 0
    source.sql("update t set a = 1 where id = 1; delete from t where id = 5; update t set id = 777 where id = 6;"
               "update t set b = 'x' where id in (2, 3)")
    pipeline.start()
    assert command.wait(timeout=60) == DONE, pipeline.log_tail()
    wait.until(lambda: mirror.value("select state = 'done' from tailwater.job"), pipeline.log_tail)
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), pipeline.log_tail)
    assert marked(pipeline) == 0
    assert tombstones(pipeline) == 0
    pipeline.settle()


class CountPoller:
    """A report that counts a live view's rows all the time; worst is the largest step down that it saw."""

    def __init__(self, mirror, view):
        self.mirror, self.view = mirror, view
        self.counts, self.worst, self.is_over = 0, 0, False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        connection = self.mirror.connect()
        connection.autocommit = True
        before = 0
        with connection.cursor() as cursor:
            while not self.is_over:
                cursor.execute(f"select count(*) from {self.view}")
                now = cursor.fetchone()[0]
                self.worst = max(self.worst, before - now)
                before = now
                self.counts += 1
        connection.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.is_over = True
        self.thread.join()


def test_killed_at_random(both_plugins, source, mirror, schema, make_pipeline, folder):
    """kill -9 at any moment of a resync under traffic: equal at the end, and no report ever sees fewer rows."""
    pipeline = make_pipeline(facts={"thing": {"table": "public.t", "key": ["id"]}}).publish()
    chance = random.Random(ROUNDS)
    scripts = {name: TRAFFIC[name] for name in ("update", "noop", "big", "insert")}
    pipeline.start().wait_until_caught_up()
    with Traffic(source, folder, scripts, clients=2, rate=150) as traffic:
        for number in range(ROUNDS):
            with mirror.transaction() as cursor:
                cursor.execute("select from tailwater.clock for update")
                cursor.execute("update mirror_public.t set a = -1 where id %% 7 = %s", (number % 7,))
                cursor.execute("delete from mirror_public.t where id %% 11 = %s", (number % 11,))
                cursor.execute("update mirror_public.t set _deleted_at = now() where id %% 13 = %s", (number % 13,))
            with CountPoller(mirror, "public.t") as poller:
                command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                           env=pipeline.environment())
                wait.until(lambda: mirror.value("select count(*) from tailwater.job") > number, pipeline.log_tail)
                time.sleep(chance.random() * 0.8)
                pipeline.kill()
                pipeline.start()
                assert command.wait(timeout=90) == DONE, pipeline.log_tail()
                wait.until(lambda: mirror.value("select bool_and(state = 'done') from tailwater.job"), pipeline.log_tail)
            assert poller.worst == 0 and poller.counts > 0, f"round {number}: {poller.worst} rows fewer"
            traffic.check()
    pipeline.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.repair"), pipeline.log_tail)
    pipeline.compare()
    assert not marked(pipeline)
    pipeline.settle()


def test_interrupt_leaves_the_job(source, mirror, schema, make_pipeline):
    pipeline = make_pipeline()
    pipeline.start(fault="resync_after_snapshot=stall:2000").wait_until_caught_up()
    mirror.sql(WRONG)
    command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=pipeline.environment())
    wait.until(lambda: mirror.value("select lsn is not null from tailwater.job_table"),
               pipeline.log_tail)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=20)
    assert command.returncode == AGAIN and "goes on" in err
    wait.until(lambda: mirror.value("select state = 'done' from tailwater.job"), pipeline.log_tail)
    pipeline.compare()
    pipeline.settle()


def test_interrupt_in_place(source, mirror, schema, pipeline):
    """With no replicator running nobody goes on with the job; the next one does."""
    pipeline.run_until_now()
    mirror.sql(WRONG)
    command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={**pipeline.environment(),
                                    "TAILWATER_FAULT": "resync_after_snapshot=stall:2000"})
    wait.until(lambda: mirror.value("select lsn is not null from tailwater.job_table"),
               pipeline.log_tail)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=30)
    assert command.returncode == AGAIN and "is not done" in err and "tailwater run" in err, err
    pipeline.start()
    wait.until(lambda: mirror.value("select state = 'done' from tailwater.job"), pipeline.log_tail)
    pipeline.compare()
    pipeline.settle()


def test_two_at_once(source, mirror, schema, pipeline):
    pipeline.start().wait_until_caught_up()
    mirror.sql(WRONG)
    mirror.sql("delete from mirror_public.other where id < 10")
    commands = [subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", *tables],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 env=pipeline.environment())
                for tables in (["t"], ["other", "t"], ["t"])]
    assert [c.wait(timeout=60) for c in commands] == [DONE] * 3
    pipeline.compare()
    pipeline.settle()


def test_names(source, mirror, schema, pipeline):
    source.sql('create schema sales; create table sales."Odd Name.x" (id int primary key);'
               'create table sales.other (id int primary key)')
    pipeline.tables = ["public.*", "sales.*"]
    pipeline.write_config()
    result = pipeline.verb("resync", "t")
    assert result.code == USAGE and "tailwater run" in result.err, repr(result)
    pipeline.run_until_now()
    for name, word in (("public.othr", "public.other"), ("nothing", "status"), ("other", "2 tables")):
        result = pipeline.verb("resync", name)
        assert result.code == USAGE, repr(result)
        assert name in result.err and word in result.err, repr(result)
    assert pipeline.verb("resync").code == USAGE
    assert mirror.value("select count(*) from tailwater.job") == 0
    answer = resync(pipeline, "sales.Odd Name.x", "sales.other", "sales.other")
    assert [t["name"] for t in answer["tables"]] == ["Odd Name.x", "other"]


def test_what_is_kept_on_purpose(source, mirror, schema, make_pipeline):
    """deletes: ignore and truncate: ignore: a row that only the mirror has stays."""
    pipeline = make_pipeline(tables=[{"name": "public.t", "deletes": "ignore"},
                                     {"name": "public.other", "truncate": "ignore"}])
    pipeline.start().wait_until_caught_up()
    source.sql("delete from t where id < 11; truncate other; insert into other values (1, -5)")
    pipeline.wait_until_caught_up()
    mirror.sql("update mirror_public.t set a = -1 where id > 290; delete from mirror_public.other where id = 1")
    answer = resync(pipeline, "t", "other")
    assert [counts(t) for t in answer["tables"]] == [(0, 10, 0), (1, 0, 0)]
    assert mirror.value("select count(*) from t") == 300
    assert mirror.value("select count(*) from other") == 300
    assert mirror.value("select a from other where id = 1") == -5


def test_servers_go_away(own_servers, source, mirror, schema, make_pipeline):
    """Source or mirror restart in the middle: the job goes on by itself."""
    pipeline = make_pipeline()
    for side in ("source", "mirror"):
        pipeline.start(fault="resync_after_snapshot=stall:3000").wait_until_caught_up()
        mirror.sql(WRONG)
        before = mirror.value("select count(*) from tailwater.job")
        command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "t"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=pipeline.environment())
        wait.until(lambda: mirror.value("select count(*) from tailwater.job_table where lsn is not null")
                   > before, pipeline.log_tail)
        getattr(own_servers, side).restart("immediate")
        code = command.wait(timeout=60)
        assert code == DONE or side == "mirror", pipeline.log_tail()
        wait.until(lambda: mirror.value("select count(*) from tailwater.job where state = 'done'")
                   == before + 1, pipeline.log_tail, deadline=60)
        pipeline.wait_until_caught_up()
        pipeline.compare()
        pipeline.stop()
    pipeline.settle_stopped()


def test_source_truncated_after_the_snapshot(source, mirror, schema, make_pipeline):
    """The snapshot then reads an empty table: nothing is removed because of that."""
    pipeline = make_pipeline(tables=[{"name": "public.t", "truncate": "ignore"}, "public.other"])
    pipeline.start(fault="resync_after_snapshot=stall:1500").wait_until_caught_up()
    command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "other"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=pipeline.environment())
    wait.until(lambda: mirror.value("select lsn is not null from tailwater.job_table"),
               pipeline.log_tail)
    source.sql("begin; create temp table kept as select * from other; truncate other;"
               "insert into other select * from kept; commit")
    assert command.wait(timeout=60) == DONE, pipeline.log_tail()
    pipeline.wait_until_caught_up()
    pipeline.compare(["other"])
    assert mirror.value("select count(*) from other") == 300


def test_partitions_and_wide_keys(both_plugins, source, mirror, make_pipeline):
    source.sql("""
        create table p (region text, day date, n numeric, v text, primary key (region, day, n)) partition by list (region);
        create table p_a partition of p for values in ('a', 'b');
        create table p_c partition of p for values in ('c');
        insert into p select chr(97 + i % 3), date '2026-01-01' + i, i * 1.50, 'v' || i from generate_series(1, 90) i;
        """)
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("delete from mirror_public.p where n < 10; update mirror_public.p set v = null where n > 120;"
               "insert into mirror_public.p values ('c', '2000-01-01', 7.00, 'extra', '0/1');"
               "update mirror_public.p set n = n::numeric(10, 3) where n = 15.00")
    answer = resync(pipeline, "p")
    missing, different, extra = counts(answer["tables"][0])
    assert (missing, extra) == (6, 1) and different == 11
    pipeline.settle()


def test_many_rows(source, mirror, make_pipeline):
    """More than one chunk, range and page of questions."""
    source.sql("create table m (id int primary key, a text);"
               "insert into m select i, repeat(md5(i::text), 20) from generate_series(1, 60000) i")
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    mirror.sql("delete from mirror_public.m where id % 7 = 0;"
               "update mirror_public.m set a = 'x' where id % 7 = 1;"
               "insert into mirror_public.m select i, 'e', '0/1' from generate_series(100001, 103000) i;")
    answer = resync(pipeline, "m")
    assert counts(answer["tables"][0]) == (8571, 8572, 3000)
    pipeline.compare()
    assert counts(resync(pipeline, "m")["tables"][0]) == (0, 0, 0)
    pipeline.settle()
