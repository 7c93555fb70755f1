"""The replicator's HTTP listener: probes, status, metrics; what it refuses."""

import collections
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from lib import wait
from lib.cluster import ROOT
from lib.pipeline import BUSY, USAGE

SAMPLE = re.compile(r'(tailwater_\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (-?[0-9.e+-]+)')
LABEL = re.compile(r'(\w+)="((?:[^"\\\n]|\\["\\n])*)"')


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Site:
    def __init__(self, port, address="127.0.0.1"):
        self.port, self.address = port, address

    def get(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection(self.address, self.port, timeout=20)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def metrics(self):
        """{(name, label, …): value}; every line has to be of the format, every name declared once."""
        code, text = self.get("/metrics")
        assert code == 200 and text.endswith("\n")
        values, types = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line[7:].split()
                assert name not in types and kind in ("gauge", "counter"), line
                assert name.endswith("_total") == (kind == "counter"), line
                types[name] = kind
                continue
            if line.startswith("# HELP "):
                assert len(line.split()) > 3, line
                continue
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in types and list(types)[-1] == match[1], f"{line}: apart from its family"
            labels = tuple(value for _, value in LABEL.findall(match[2] or ""))
            assert (match[1], *labels) not in values, line
            values[(match[1], *labels)] = float(match[3])
        return values


@pytest.fixture
def site(source, make_pipeline):
    """A pipeline that follows two tables, and its listener."""
    source.sql("create table t (id int primary key, a int); create table \"q\"\"u\\o\" (id int primary key);"
               "insert into t select i, i from generate_series(1, 10) i")
    site = Site(free_port())
    site.pipeline = make_pipeline(http={"listen": f"127.0.0.1:{site.port}"}).publish()
    site.pipeline.start().wait_until_caught_up()
    return site


def test_a_pipeline_that_is_well(site, source):
    assert site.get("/livez") == (200, "alive\n")
    wait.until(lambda: site.get("/readyz") == (200, "ready\n"), lambda: site.get("/readyz"))
    wait.until(lambda: json.loads(site.get("/status")[1])["state"] == "streaming", lambda: site.get("/status"))
    code, text = site.get("/status")
    said, shown = json.loads(text), site.pipeline.ok("status", "--json").json()
    assert code == 200 and said["state"] == shown["state"] == "streaming"
    assert said.keys() == shown.keys()

    families = re.findall(r"^# TYPE (\w+)", site.get("/metrics")[1], re.M)
    with open(os.path.join(ROOT, "docs", "operations.md")) as page:
        explained = set(re.findall(r"`(tailwater_\w+)`", page.read()))
    assert set(families) == explained, "docs/operations.md explains each of them"

    history = json.loads(site.get("/history")[1])
    assert history["samples"] and len(history["samples"][0]) == 4
    events = [e["event"] for e in json.loads(site.get("/events")[1])]
    assert events.index("streaming") < events.index("copy_done"), "the newest first"
    assert "<title>Tailwater" in site.get("/")[1]
    assert json.loads(site.get("/lineage")[1]) == site.pipeline.ok("lineage", "--json").json()

    before = site.metrics()
    assert before[("tailwater_ready",)] == 1 and before[("tailwater_tables",)] == 2
    assert before[("tailwater_server_up", "source")] == before[("tailwater_server_up", "mirror")] == 1
    assert before[("tailwater_table_ready", "public.t")] == 1
    assert before[("tailwater_table_ready", 'public.q\\"u\\\\o')] == 1, "a name with signs in it"
    source.sql("insert into t values (11, 11), (12, 12); update t set a = 0 where id < 4; delete from t where id = 9")
    site.pipeline.wait_until_caught_up()
    source.sql("update t set a = 1 where id < 4")
    site.pipeline.wait_until_caught_up()

    def counted():
        after = site.metrics()
        return [after.get(("tailwater_changes_total", "public.t", op), 0) -
                before.get(("tailwater_changes_total", "public.t", op), 0)
                for op in ("insert", "update", "delete")] == [2, 6, 1]
    wait.until(counted, site.metrics)
    site.pipeline.settle()


def test_what_is_not_ready(site, source, mirror):
    """Each reason in words, and the metrics that an alert would look at."""
    mirror.sql("alter table mirror_public.t add check (a < 1000)")
    source.sql("insert into t values (20, 5000)")
    wait.until(lambda: site.get("/readyz") == (503, "tables in quarantine: 1\n"), lambda: site.get("/readyz"))
    values = site.metrics()
    assert values[("tailwater_ready",)] == 0 and values[("tailwater_tables_quarantined",)] == 1
    assert values[("tailwater_table_quarantined", "public.t")] == 1
    assert site.get("/livez")[0] == 200, "a restart would not help"
    mirror.sql("alter table mirror_public.t drop constraint t_a_check")
    site.pipeline.ok("resync", "public.t")
    wait.until(lambda: site.get("/readyz")[0] == 200, lambda: site.get("/readyz"))
    site.pipeline.settle()


def test_a_server_that_is_away(own_servers, site):
    """The probe of life does not depend on it, and says so at once."""
    own_servers.source.stop("immediate")
    wait.until(lambda: site.get("/readyz")[0] == 503, lambda: site.get("/readyz"))
    assert "the source cannot be reached\n" in site.get("/readyz")[1]
    assert site.get("/livez") == (200, "alive\n")
    assert json.loads(site.get("/status")[1])["source"]["reachable"] is False
    values = site.metrics()
    assert values[("tailwater_server_up", "source")] == 0 and values[("tailwater_server_up", "mirror")] == 1
    assert ("tailwater_slot_retained_bytes",) not in values, "unknown is not a number"
    own_servers.source.start()
    wait.until(lambda: site.get("/readyz")[0] == 200, lambda: site.get("/readyz"), deadline=60)
    site.pipeline.settle()


def test_what_leads_where_without_the_mirror(own_servers, site):
    """Asked for the first time while it is away, it says so; what was read once is shown until it is back."""
    own_servers.mirror.stop("immediate")
    wait.until(lambda: site.get("/lineage") == (503, "the mirror cannot be reached\n"), lambda: site.get("/lineage"))
    own_servers.mirror.start()
    code, graph = wait.until(lambda: (found := site.get("/lineage"))[0] == 200 and found, lambda: site.get("/lineage"))
    assert json.loads(graph) == site.pipeline.ok("lineage", "--json").json()
    own_servers.mirror.stop("immediate")
    wait.until(lambda: "the mirror cannot be reached" in site.get("/readyz")[1], lambda: site.get("/readyz"))
    assert site.get("/lineage") == (200, graph)
    own_servers.mirror.start()
    wait.until(lambda: site.get("/readyz")[0] == 200, lambda: site.get("/readyz"), deadline=60)
    site.pipeline.settle()


def test_a_token(site):
    pipeline = site.pipeline
    pipeline.stop()
    pipeline.keys["http"]["token"] = "s3cret"
    pipeline.write_config()
    pipeline.start()
    wait.until(lambda: "[streaming]" in pipeline.this_run(), pipeline.log_tail)
    assert site.get("/livez")[0] == 200 and site.get("/readyz")[0] in (200, 503)
    assert "replicator" in site.get("/")[1], "the page itself has nothing in it"
    for path in ("/status", "/metrics", "/history", "/events", "/lineage"):
        assert site.get(path)[0] == 401
        for wrong in ("Bearer s3cre", "Bearer s3crets", "Bearer S3cret", "Basic s3cret", "s3cret", "Bearer "):
            assert site.get(path, Authorization=wrong)[0] == 401, wrong
        assert site.get(path, Authorization="Bearer s3cret")[0] == 200
        assert site.get(path, Authorization="bearer s3cret")[0] == 200
    pipeline.settle()
    assert "s3cret" not in pipeline.log


def test_what_is_refused(site):
    code, text = site.get("/nothing")
    assert code == 404 and "/readyz" in text
    for method in ("POST", "PUT", "DELETE"):
        assert site.get("/status", method)[0] == 405
    assert site.get("/status", "HEAD") == (200, "")
    assert site.get("/livez?x=1")[0] == 200
    # A client that says nothing keeps nobody else waiting.
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(5)]
    assert site.get("/livez")[0] == 200
    for s in silent:
        s.close()
    with socket.create_connection(("127.0.0.1", site.port)) as s:
        s.sendall(b"\x00\xff garbage\r\n\r\n")
        assert site.get("/livez")[0] == 200
    assert site.get("/livez")[0] == 200
    site.pipeline.settle()


def test_many_at_once(site):
    """Many readers are shown the same look: the servers are asked once a second at most."""
    def looks():
        return site.pipeline.mirror.value(
            "select sum(xact_commit + xact_rollback) from pg_stat_database where datname = current_database()")
    answers = []
    threads = [threading.Thread(target=lambda: answers.extend(site.get("/metrics")[0] for _ in range(20)))
               for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160
    sessions = site.pipeline.mirror.value(
        "select count(*) from pg_stat_activity where application_name like 'tailwater % status'", user="postgres")
    assert sessions == 1, f"{sessions} sessions after {time.monotonic() - began} s"
    site.pipeline.settle()


@contextlib.contextmanager
def listening(pipeline, folder):
    """A listener without a replicator: the process, and its site."""
    site = Site(free_port())
    with open(os.path.join(folder, "listener"), "w") as log:
        listener = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "status", "--listen", f"127.0.0.1:{site.port}"],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=pipeline.environment())
    try:
        def answers():
            with contextlib.suppress(OSError):
                return site.get("/livez")[0] == 200
        wait.until(answers, lambda: open(log.name).read())
        yield listener, site
    finally:
        listener.terminate()
        try:
            listener.wait(20)
        finally:
            listener.kill()
            listener.wait()


def test_a_listener_ends_though_a_server_hangs(source, mirror, make_pipeline, folder):
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    with listening(pipeline, folder) as (listener, site):
        wait.until(lambda: site.metrics()[("tailwater_scrape_errors",)] == 0, site.metrics)
        pids = [pid for pid, in mirror.sql("select pid from pg_stat_activity where application_name in (%s, %s)",
                                           *(f"tailwater {pipeline.name} {what}" for what in ("status", "collect")), user="postgres")]
        assert len(pids) == 2
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            wait.until(lambda: "a server has not answered" in site.get("/readyz")[1], lambda: site.get("/readyz"))
            listener.terminate()
            assert listener.wait(20) == 0
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def statements(pipeline, folder):
    """What the mirror is asked while four scrape at once, over and over: {application: {statement: how often}}."""
    before = len(pipeline.mirror.cluster.log)
    with listening(pipeline, folder) as (_, site):
        began, answered = time.monotonic(), []
        threads = [threading.Thread(target=lambda: answered.extend(site.get("/metrics")[0] for _ in range(5))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        looks = time.monotonic() - began + 2
        assert answered == [200] * 20
        found = {}
        for application in ("status", "collect"):
            pid = pipeline.mirror.value("select pid from pg_stat_activity where application_name = %s",
                                        f"tailwater {pipeline.name} {application}", user="postgres")
            found[application] = collections.Counter(re.findall(rf"\[{pid}\] .*execute <unnamed>: (.*)",
                                                                pipeline.mirror.cluster.log[before:]))
            assert max(found[application].values()) <= looks, "once a look, a look a second"
        return found


def test_a_scrape_asks_as_much_of_many_tables_as_of_one(source, mirror, make_pipeline, folder):
    mirror.sql(f"alter database {mirror.name} set log_statement = 'all'")
    source.sql("".join(f"create table t{i} (id int primary key);" for i in range(1, 31)))

    def asked(name, ntables, nfacts):
        facts = {f"{name}_{mirror.name}_{i}": {"table": f"public.t{i}", "key": ["id"]} for i in range(1, nfacts + 1)}
        pipeline = make_pipeline(facts=facts, tables=[f"public.t{i}" for i in range(1, ntables + 1)], auto_publish=True,
                                 mirror={"table_schema": name, "view_schema": f"{name}_seen"})
        pipeline.run_until_now()
        return statements(pipeline, folder)
    few, many = asked("few", 1, 1), asked("many", 30, 8)
    for application in few:
        assert few[application].keys() == many[application].keys(), application
        assert 5 < len(many[application]) < 20, many[application]


@pytest.mark.parametrize("listen", ["localhost", "8432x", "example.com:80", "127.0.0.1:0", "127.0.0.1:65536", "[::1:80",
                                    ":80"])
def test_addresses_that_are_none(make_pipeline, listen):
    pipeline = make_pipeline(http={"listen": listen})
    result = pipeline.verb("status")
    assert result.code == USAGE and "http.listen" in result.err and "127.0.0.1:8432" in result.err, repr(result)


def test_a_port_that_is_taken(site, source, make_pipeline):
    """The second instance of a pipeline is told that; another pipeline that its port is taken."""
    second = make_pipeline(name=site.pipeline.name, http=site.pipeline.keys["http"], source={"start_timeout": "1s"})
    result = second.verb("run")
    assert result.code == BUSY and "another instance" in result.err and "listen" not in result.err, repr(result)
    other = make_pipeline(http={"listen": f"127.0.0.1:{site.port}"}, source={"start_timeout": "1s"},
                          mirror={"table_schema": "other", "view_schema": "seen"}).publish()
    result = other.verb("run")
    assert result.code == BUSY and f"cannot listen on 127.0.0.1 port {site.port}" in result.err, repr(result)
    assert "http.listen" in result.err
    site.pipeline.settle()


def test_a_service_manager(source, make_pipeline, folder):
    """READY once the pipeline is ours, a sentence, the watchdog's due, and the end."""
    source.sql("create table t (id int primary key)")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = os.path.join(folder, "notify")
    listener.bind(path)
    listener.settimeout(0.2)
    said = []

    def heard(*words):
        with contextlib.suppress(TimeoutError):
            while True:
                said.append(listener.recv(4096).decode())
        return all(word in said for word in words)
    pipeline = make_pipeline().publish()
    pipeline.start(env={"NOTIFY_SOCKET": path}).wait_until_caught_up()
    wait.until(lambda: heard("READY=1", "STATUS=streaming", "WATCHDOG=1"), lambda: said)
    assert said.index("READY=1") < said.index("STATUS=streaming") and "STOPPING=1" not in said
    pipeline.stop()
    assert heard("STOPPING=1"), said
    pipeline.settle_stopped()
