"""Three in the morning: fifteen incidents, each staged on real servers.

For every one of them status (the command's and the page's), the probe, the metrics, an alert and the log say what is
wrong and what to do, and what they say to do, done as it is printed, ends it.  The page is asked from a process of
its own (status --listen), which is there also where the replicator has ended.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess

import psycopg2
import pytest

from e2e.test_errors import RIGHT, guarded, small_disk, table  # noqa: F401  (fixtures)
from e2e.test_http import Site, free_port
from lib import alerts, wait
from lib.cluster import REPLICATOR, SUPERUSER, Database
from lib.pipeline import BUSY, SLOT
from lib.receiver import Receiver

SAMPLE = re.compile(r"(tailwater_\w+)(?:\{(.*)\})? (-?[0-9.e+-]+)")
FACT = {"table": "public.orders", "key": ["id"]}

# What the texts have of commands and statements, as somebody would copy them.
COMMAND = re.compile(r"tailwater ([a-z]+) -c (\S+)((?: --[a-z-]+| (?:dead|retry|resume) \w+| [a-z]+\.[a-z]+)*)")
STATEMENT = re.compile(r"select \S[^;]*?(?:\)(?=[;,]|$| of)|xact_start(?=;))", re.I)


class Case:
    """A pipeline, and somebody who looks at it from outside."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.site = Site(free_port())
        with open(pipeline.log_file + ".page", "w") as log:
            self.onlooker = subprocess.Popen(
                [pipeline.binary, "-c", pipeline.file, "status", "--listen", f"127.0.0.1:{self.site.port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=pipeline.environment())
        wait.until(self.answers, lambda: open(pipeline.log_file + ".page").read())

    def answers(self):
        try:
            return self.site.get("/livez")[0] == 200
        except OSError:
            return False

    def close(self):
        self.onlooker.terminate()
        assert self.onlooker.wait(20) == 0

    def status(self):
        return self.pipeline.verb("status", "--json").json()

    def in_short(self):
        status = self.status()
        log = [line for line in self.pipeline.log.splitlines() if line.endswith("]")]
        return json.dumps({name: status.get(name) for name in ("state", "message", "next", "troubles")}) + "\n" + "\n".join(log[-12:])

    def samples(self):
        found = SAMPLE.findall(self.site.get("/metrics")[1])
        return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]

    def tells(self, state, *words, event, alert, ready, trouble=None, remedy=""):
        """Everybody says so; the remedy is returned.  ready: 200 or 503, and a word of the probe's text."""
        def said(part=remedy):
            status = self.status()
            return status if status["state"] == state and part in (status["next"] or "") else None
        status = wait.until(said, self.in_short, 40)
        remedy = status["next"]
        for word in words:
            assert word in status["message"], status["message"]
        text = self.pipeline.verb("status").out
        assert text.split(None, 1)[0] == ("ERROR" if status["level"] == "error" else "WARNING"), text
        assert remedy.split()[0] in text and "next" in text

        def shown():
            page = json.loads(self.site.get("/status")[1])
            return page["state"] == state and page["next"] == remedy
        wait.until(shown, lambda: self.site.get("/status"))
        assert remedy, status
        if trouble:
            assert trouble in [t["event"] for t in status["troubles"]], status["troubles"]
        code, text = self.site.get("/readyz")
        assert code == ready[0] and ready[1] in text, (code, text)
        assert ("tailwater_state", {"state": state}, 1) in self.samples()
        wait.until(lambda: alert in alerts.raised(self.samples()), lambda: alerts.raised(self.samples()))
        wait.until(lambda: any(line.endswith(f"[{event}]") for line in self.pipeline.log.splitlines()),
                   lambda: f"no {event} in the log\n{self.pipeline.log_tail()}")
        return remedy

    def is_over(self):
        """Nothing is left of it: the pipeline is well, and says so everywhere."""
        wait.until(lambda: self.status()["state"] == "streaming" and not self.status()["troubles"],
                   self.in_short, 40)
        wait.until(lambda: self.site.get("/readyz") == (200, "ready\n"), lambda: self.site.get("/readyz"))
        wait.until(lambda: not alerts.raised(self.samples()), lambda: alerts.raised(self.samples()))

    def do(self, text, number=0):
        """A command of the text, as it is printed."""
        commands = COMMAND.findall(text)
        assert len(commands) > number and commands[number][1] == self.pipeline.file, text
        verb, _, rest = commands[number]
        return self.pipeline.verb(verb, *rest.split())

    @property
    def last_line(self):
        return [line for line in self.pipeline.log.splitlines() if line.endswith("]")][-1]


@pytest.fixture
def make_case(make_pipeline):
    made = []

    def make(pipeline=None, **keys):
        pipeline = pipeline or make_pipeline(**keys).publish()
        if not pipeline.is_running:
            pipeline.start()
        pipeline.wait_until_caught_up()
        case = Case(pipeline)
        made.append(case)
        case.is_over()
        return case
    yield make
    for case in made:
        case.close()


@pytest.fixture
def orders(source):
    source.sql("create table orders (id int primary key, a text); create table others (id int primary key, a text);"
               "insert into orders select i, 'x' from generate_series(1, 20) i; insert into others values (1, 'x')")


def statements(text):
    return STATEMENT.findall(text)


# ---- the slot and the source ----

def test_slot_lost(own_servers, source, orders, make_case):
    case = make_case()
    case.pipeline.stop()
    own_servers.source.set(max_slot_wal_keep_size="16MB", max_wal_size="32MB")
    for _ in range(4):
        source.sql("create table w as select repeat('w', 1000) as a from generate_series(1, 30000); drop table w")
        source.sql("checkpoint", user=SUPERUSER)
    source.sql("insert into orders values (100, 'later')")
    case.pipeline.start()
    assert case.pipeline.wait_exit(60) == SLOT
    assert case.last_line.endswith("[failed]") and COMMAND.search(case.last_line)
    remedy = case.tells("slot lost", case.pipeline.slot, event="failed", alert="TailwaterSlotLost", ready=(503, "the slot is lost"))
    own_servers.source.set(max_slot_wal_keep_size=None)
    assert case.do(remedy).code == 0
    case.pipeline.start()
    case.is_over()
    case.pipeline.settle()


def test_wal_limit_near(source, orders, make_case):
    """A transaction on the source holds it, and is named by what is printed."""
    case = make_case(source={"wal_guard": {"warn": "1MiB", "critical": "1GiB"}})
    connection = source.connect()
    with connection.cursor() as cursor:
        cursor.execute("insert into others values (7, 'long')")
    source.sql("create table w as select repeat('w', 1000) as a from generate_series(1, 5000); drop table w")
    source.sql("checkpoint", user=SUPERUSER)
    remedy = case.tells("WAL warning", "of WAL", event="wal_warning", alert="TailwaterWal", ready=(200, "WAL warning"),
                        remedy="pg_terminate_backend")
    look = statements(remedy)[0]
    pids = [row[0] for row in source.sql(look, user=SUPERUSER)]
    assert connection.info.backend_pid in pids, look
    source.sql("select pg_terminate_backend(%s)", connection.info.backend_pid, user=SUPERUSER)
    connection.close()
    source.sql("insert into others values (8, 'next')")
    case.is_over()
    case.pipeline.settle()


def test_publication_dropped(source, orders, make_case):
    case = make_case(plugin="pgoutput")
    pipeline = case.pipeline
    source.sql(f"drop publication {pipeline.publication}", user=SUPERUSER)
    source.sql("insert into orders values (100, 'later')")
    assert pipeline.wait_exit(60) == SLOT
    remedy = case.tells("failed", "publication", pipeline.publication, event="failed", alert="TailwaterFailed",
                        ready=(503, "nobody reads the slot"))
    # The role may not make it: the command says what the owner has to run, and then does it.
    refused = case.do(remedy)
    assert refused.code == 3, repr(refused)
    source.sql(re.search(r"CREATE PUBLICATION [^;]*;", refused.err)[0], user=SUPERUSER)
    assert case.do(remedy).code == 0
    pipeline.start()
    case.is_over()
    pipeline.settle()


def test_source_replaced(servers, source, orders, make_case):
    """Another cluster under that address, with tables of the same names."""
    case = make_case(plugin="pgoutput")
    pipeline = case.pipeline
    pipeline.stop()
    other = servers.mirror.create_source(source.name)
    try:
        other.sql("create table orders (id int primary key, a text); create table others (id int primary key, a text);"
                  "insert into orders values (1, 'of another cluster')")
        pipeline.source = other
        pipeline.keys["source"] = {"conninfo": other.conninfo(), "start_timeout": "5s"}
        pipeline.keys["resync"] = {"max_delete_fraction": 1}
        pipeline.write_config()
        pipeline.publish()
        pipeline.start()
        assert pipeline.wait_exit(60) == SLOT
        case.close()
        case.__init__(pipeline)
        remedy = case.tells("another source", "system identifier", event="failed", alert="TailwaterSourceReplaced",
                            ready=(503, "the slot is not there"))
        assert case.do(remedy).code == 0
        pipeline.start()
        case.is_over()
        pipeline.settle()
    finally:
        pipeline.close()
        other.drop()


# ---- the servers ----

def test_mirror_full(own_servers, source, orders, make_pipeline, make_case, small_disk):  # noqa: F811
    path, enlarge = small_disk
    own_servers.mirror.sql(f"create tablespace small location '{path}'")
    own_servers.mirror.sql("create database full_mirror")
    mirror = Database(own_servers.mirror, "full_mirror", SUPERUSER)
    mirror.sql(f"grant create on database full_mirror to {REPLICATOR};"
               f"grant create, usage on schema public to {REPLICATOR}")
    pipeline = make_pipeline(mirror_db=mirror).publish()
    case = make_case(pipeline)
    # The tables alone are on the small disk; a heartbeat finds room on a page that is there anyway.
    mirror.sql("alter table mirror_public.orders set tablespace small")
    source.sql("insert into orders select i, repeat(md5(i::text), 40) from generate_series(101, 40000) i")
    remedy = case.tells("waiting for the mirror", "53100", event="interrupted", alert="TailwaterWaiting",
                        ready=(503, "the replicator is waiting for the mirror"))
    assert "free disk space on the mirror" in remedy
    enlarge("500m")
    case.is_over()
    pipeline.settle()
    mirror.sql("alter table mirror_public.orders set tablespace pg_default")
    mirror.close()


def test_password_changed(guarded, source, mirror, make_pipeline, make_case, folder):  # noqa: F811
    """The passfile is read at every attempt: nothing has to be restarted."""
    passfile = os.path.join(folder, "pass")

    def write(password):
        with open(passfile, "w") as file:
            os.chmod(passfile, 0o600)
            file.write(f"*:*:*:{REPLICATOR}:{password}\n")
    write(RIGHT)
    case = make_case(make_pipeline(source={"conninfo": source.conninfo(passfile=passfile)},
                                   mirror={"conninfo": mirror.conninfo(password=RIGHT)}))
    guarded.source.sql(f"alter role {REPLICATOR} password 'an0ther'")
    guarded.source.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", REPLICATOR)
    remedy = case.tells("source unreachable", "password", event="interrupted", alert="TailwaterServerDown",
                        ready=(503, "the source cannot be reached"))
    assert "source.conninfo" in remedy and "passfile" in remedy
    write("an0ther")
    case.is_over()
    case.pipeline.settle()
    assert RIGHT not in case.pipeline.log and "an0ther" not in case.pipeline.log


def test_second_instance(source, orders, make_pipeline, make_case):
    case = make_case()
    second = make_pipeline(name=case.pipeline.name, source={"start_timeout": "2s"})
    second.folder = case.pipeline.folder
    result = second.verb("run")
    assert result.code == BUSY and "stop that instance" in result.err
    remedy = case.tells("second instance", "another instance, process", event="failed", alert="TailwaterSecondInstance",
                        ready=(200, "second_instance"))
    # It names both.  One is ended as it says, and the other takes over.
    pid, host = re.fullmatch(r"end one of the two: that one, or process (\d+) on (\S+)", remedy).groups()
    assert host == socket.gethostname()
    os.kill(int(pid), signal.SIGTERM)
    assert case.pipeline.wait_exit(20) == 0
    second.start().wait_until_caught_up()
    case.is_over()
    second.settle()


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *ts)
{
    static int (*real)(clockid_t, struct timespec *);
    int off = 0, result;
    FILE *file;

    if (!real)
        real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    result = real(id, ts);
    if (id == CLOCK_REALTIME && (file = fopen(CLOCK_FILE, "r"))) {
        if (fscanf(file, "%d", &off) == 1)
            ts->tv_sec += off;
        fclose(file);
    }
    return result;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a wrong clock with")
def test_wrong_clock(source, orders, make_pipeline, make_case, folder):
    """The replicator's machine is ten minutes ahead."""
    offset, code, library = (os.path.join(folder, name) for name in ("offset", "clock.c", "clock.so"))
    with open(code, "w") as file:
        file.write(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", f"-DCLOCK_FILE=\"{offset}\"", "-o", library, code, "-ldl"], check=True)
    pipeline = make_pipeline().publish()
    pipeline.start(env={"LD_PRELOAD": library, "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"})
    case = make_case(pipeline)
    with open(offset, "w") as file:
        file.write("600")
    remedy = case.tells("clock wrong", "10 min", "ahead of", "the replicator's machine", event="clock_wrong", alert="TailwaterClock",
                        ready=(200, "clock_wrong"), trouble="clock_wrong")
    assert "timedatectl set-ntp true" in remedy
    ahead = {labels["side"]: value for name, labels, value in case.samples() if name == "tailwater_clock_ahead_seconds"}
    assert all(-605 < ahead[side] < -595 for side in ("source", "mirror")), ahead
    with open(offset, "w") as file:
        file.write("0")
    case.is_over()
    pipeline.wait_log(r"\[clock_right\]")
    pipeline.settle()


# ---- tables ----

def test_table_quarantined(source, mirror, orders, make_case):
    case = make_case()
    mirror.sql("alter table mirror_public.orders add constraint short check (length(a) < 10)")
    source.sql("update orders set a = 'much longer than that' where id = 1")
    remedy = case.tells("quarantine", "public.orders", "23514", event="quarantined", alert="TailwaterQuarantine",
                        ready=(503, "tables in quarantine: 1"))
    assert remedy in case.pipeline.log, "the log says the same"
    mirror.sql("alter table mirror_public.orders drop constraint short")
    assert case.do(remedy).code == 0
    case.is_over()
    case.pipeline.settle()


def test_replica_identity_dropped(source, orders, make_case):
    """Updates without a key would be lost: the table is left out, and the statement that mends it is printed."""
    case = make_case(tables=["public.orders", "public.others"])
    source.sql("alter table orders replica identity nothing")
    source.sql("insert into orders values (100, 'x')")
    remedy = case.tells("quarantine", "public.orders", "replica identity", event="quarantined", alert="TailwaterQuarantine",
                        ready=(503, "tables in quarantine: 1"))
    message = case.status()["message"]
    source.sql(re.search(r"ALTER TABLE [^;]*;", message + remedy)[0])
    assert case.do(remedy).code == 0
    source.sql("update orders set a = 'y' where id = 100")
    case.is_over()
    case.pipeline.settle()


def test_schema_change_refused(source, mirror, orders, make_case):
    """A view of somebody's that cannot be made again stands in the way, and is named."""
    case = make_case(schema_changes="apply", resync={"max_delete_fraction": 1})
    mirror.sql("create view public.mine as select id, a from public.orders", user=REPLICATOR)
    source.sql("alter table orders drop a")
    source.sql("insert into orders values (100)")
    case.pipeline.signal(1)
    remedy = case.tells("quarantine", "public.orders", "public.mine", event="quarantined", alert="TailwaterQuarantine",
                        ready=(503, "tables in quarantine: 1"))
    mirror.sql("drop view public.mine", user=REPLICATOR)
    assert case.do(remedy).code == 0
    case.is_over()
    case.pipeline.settle()


def test_long_transaction_blocks_a_resync(source, mirror, orders, make_case):
    case = make_case()
    connection = source.connect()
    with connection.cursor() as cursor:
        cursor.execute("insert into others values (7, 'long')")
    pipeline = case.pipeline
    with open(pipeline.log_file + ".resync", "w") as log:
        resync = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "public.orders"], stdout=log, stderr=log,
                                  env=pipeline.environment())
    remedy = case.tells("snapshot waiting", f"PID {connection.info.backend_pid} there", event="snapshot_waiting",
                        alert="TailwaterSnapshotWaiting", ready=(200, "snapshot_waiting"), trouble="snapshot_waiting")
    statement = statements(remedy)[0]
    assert statement in pipeline.log, "the log says the same"
    assert resync.poll() is None
    source.sql(statement, user=SUPERUSER)
    connection.close()
    assert resync.wait(60) == 0
    case.is_over()
    pipeline.settle()


# ---- facts ----

def fact_of(source):
    return f"f_{source.name}"


def test_consumer_stale(source, mirror, orders, make_case):
    fact = fact_of(source)
    case = make_case(facts={fact: FACT}, ledger={"stale_keys": 10})
    mirror.sql("select tailwater.subscribe('crm', %s)", fact)
    source.sql("update orders set a = 'y'")
    case.pipeline.wait_until_caught_up()
    remedy = case.tells("consumer stale", "crm", fact, event="consumer_stale", alert="TailwaterConsumerStale",
                        ready=(200, "consumer_stale"), trouble="consumer_stale")
    claim, leave = statements(remedy)
    window = mirror.sql(claim)
    assert window[0][-1] is True, "everything is owed"
    mirror.sql("select tailwater.ack('crm', %s, %s)", fact, window[0][0])
    case.is_over()
    mirror.sql(leave)
    assert mirror.value("select count(*) from tailwater.consumer") == 0
    case.pipeline.settle()


def test_feed_dead(source, mirror, orders, make_case):
    fact = fact_of(source)
    receiver = Receiver()
    try:
        receiver.behave = lambda number, documents: (400, "no such field", {})
        case = make_case(facts={fact: FACT}, feeds={f"crm_{source.name}": {
            "fact": fact, "query": "select o.id, o.a from {keys} k join orders o on o.id = k.id",
            "destination": {"url": receiver.url}, "start": "now",
            "retry": {"attempts": 1, "first": "20ms", "longest": "1s"}}})
        source.sql("update orders set a = 'y' where id = 3")
        remedy = case.tells("feed refused", f"crm_{source.name}", "1 dead letter", event="feed_refused", alert="TailwaterFeedDead",
                            ready=(200, "feed_refused"), trouble="feed_refused")
        assert "no such field" in case.do(remedy).out, "the first command has the receiver's answer"
        receiver.behave = lambda number, documents: None
        assert case.do(remedy, 1).code == 0
        wait.until(lambda: receiver.table, case.pipeline.log_tail)
        case.is_over()
        case.pipeline.settle()
    finally:
        receiver.stop()


def test_partition_missing(source, mirror, orders, make_case):
    """Somebody's lock keeps the ledger's next partitions from being made: the batch waits for them, and says so."""
    fact = fact_of(source)
    case = make_case(facts={fact: FACT})
    somebody = psycopg2.connect(mirror.conninfo(SUPERUSER))
    with somebody.cursor() as cursor:
        cursor.execute(f"lock table tailwater.ledger_{fact} in share update exclusive mode")
    top = mirror.value("select max(upper) from tailwater.ledger_partitions(%s)", fact)
    mirror.sql("update tailwater.clock set batch_id = %s where pipeline = %s", top, case.pipeline.name)
    source.sql("update orders set a = 'y'")
    case.pipeline.wait_log("has no partition for this batch")

    def listed():
        return [t for t in case.status()["troubles"] if t["event"] == "ledger_partition_missing"]
    trouble = wait.until(listed, case.in_short)[0]
    assert trouble["subject"] == fact
    wait.until(lambda: "ledger_partition_missing" in case.site.get("/readyz")[1], lambda: case.site.get("/readyz"))
    wait.until(lambda: "TailwaterTrouble" in alerts.raised(case.samples()), case.samples)
    wait.until(lambda: "[ledger_keeper_trouble]" in case.pipeline.log or "[interrupted]" in case.pipeline.log, case.pipeline.log_tail)
    look = statements(trouble["next"])[0]
    assert [row[0] for row in mirror.sql(look)] == [somebody.info.backend_pid], look
    mirror.sql("select pg_terminate_backend(%s)", somebody.info.backend_pid)
    somebody.close()
    case.is_over()
    case.pipeline.settle()
