"""The verbs that look at a pipeline, purge it and end it, on pipelines that mirror_tool made: no replicator runs."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time

import pytest

from lib import wait
from lib.cluster import tool
from lib.pipeline import BINARY, BUSY, DONE, FAILED, MIRROR_DOWN, SLOT, SOURCE_DOWN, USAGE

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "mirror_tool")

DEFINITIONS = """schema\tmirror_public
schema\tpublic
enum\tpublic\tmood\tsad\tok
table\tpublic\torders\t1001
column\tid\tbigint\tkey
column\tm\tpublic.mood\t
purge\t1000000
table\tpublic\tcustomers\t1002
column\tid\tbigint\tkey
"""


class Made:
    """A pipeline as a finished initial copy leaves it, and the slot on the source."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.source, self.mirror, self.name = pipeline.source, pipeline.mirror, pipeline.name
        self.slot = pipeline.slot
        self.plugin = pipeline.plugin
        self.source.sql("select pg_create_logical_replication_slot(%s, %s)", self.slot, self.plugin,
                        user="tailwater")
        self.tool("migrate", "pipeline=" + ",".join(self.identity()), "slot=" + self.position(),
                  "schemas", "types", "sync", "tables", "copied", "keys", "indexes", "views", "streaming")

    def identity(self):
        fields = [str(self.source.value("select system_identifier from pg_control_system()", user="postgres")),
                  self.source.name, self.slot, self.plugin]
        return fields + ([self.pipeline.publication] if self.plugin == "pgoutput" else [])

    def position(self):
        return self.source.value("select confirmed_flush_lsn::text from pg_replication_slots "
                                 "where slot_name = %s", self.slot, user="postgres")

    def tool(self, *steps):
        done = subprocess.run([TOOL, self.mirror.conninfo(), self.name, *steps], input=DEFINITIONS,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def verb(self, *args, code=DONE, **more):
        done = self.pipeline.verb(*args, **more)
        assert done.code == code, done
        return done

    def status(self, code=DONE):
        return self.verb("status", "--json", code=code).json()

    def hold_lock(self):
        """A process that holds the lock and has said its heartbeat once."""
        holder = subprocess.Popen([TOOL, self.mirror.conninfo(), self.name, "lock=hold"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "locked\n"
        return holder

    def has_slot(self):
        return self.source.value("select count(*) from pg_replication_slots where slot_name = %s",
                                 self.slot, user="postgres") == 1

    def catch_up(self):
        self.mirror.sql("update tailwater.clock set cursor = %s::pg_lsn + 1000000000, batch_id = 7, "
                        "commit_time = now()", self.source.lsn())

    def tombstones(self, *ages):
        for i, age in enumerate(ages):
            self.mirror.sql("insert into mirror_public.orders (id, _lsn, _deleted_at) values "
                            "(%s, '0/1', now() - %s::interval)", i, age)

    def stored(self):
        return [row[0] for row in self.mirror.sql("select id from mirror_public.orders order by 1")]


@pytest.fixture
def made(pipeline):
    return Made(pipeline)


@pytest.fixture
def holding(made):
    holder = made.hold_lock()
    yield holder
    holder.kill()
    holder.wait()


# ---- status ----


def test_status_of_a_stopped_pipeline(made):
    done = made.verb("status")
    assert done.out.startswith("WARNING      pipeline " + made.name)
    assert f"\nnext         tailwater run -c {made.pipeline.file}\n" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines() if "next" not in line), done
    assert re.search(r"public\.orders +ready +0 ", done.out)
    found = made.status()
    assert (found["level"], found["state"]) == ("warning", "stopped")
    assert found["slot"]["exists"] and not found["slot"]["lost"]
    assert found["replicator"] == {"running": False, "connected_since": None}
    assert [table["state"] for table in found["tables"]] == ["ready", "ready"]
    assert found["source"]["server_version"] >= 140000


def test_status_of_a_running_one(made, holding):
    made.catch_up()
    found = made.status()
    assert (found["level"], found["state"]) == ("ok", "streaming")
    assert found["lag"] == {"seconds": 0, "is_bound": False, "bytes": 0}
    assert found["replicator"]["running"] and found["replicator"]["pid"] == holding.pid
    assert found["cursor"]["batch"] == 7
    out = made.verb("status").out
    assert "OK" in out and "up to date" in out and f"process {holding.pid}" in out


def test_status_says_how_far_behind(made, holding):
    made.source.sql("create table t (a text); insert into t select repeat('x', 100) from generate_series(1, 10000)")
    made.mirror.sql("update tailwater.heartbeat set detail = detail || '{\"lag_us\": 90000000}'")
    found = made.status()
    assert (found["level"], found["state"]) == ("warning", "behind")
    assert found["lag"]["seconds"] == 90 and not found["lag"]["is_bound"] and found["lag"]["bytes"] > 1000000
    assert "1 min 30 s behind" in made.verb("status").out


def test_lag_without_a_replicator_is_a_bound(made):
    made.source.sql("create table t (a int)")
    made.mirror.sql("update tailwater.clock set commit_time = now() - interval '2 hours'")
    found = made.status()
    assert found["lag"]["is_bound"] and 7200 <= found["lag"]["seconds"] < 7300
    assert "at most 2 h 0 min" in made.verb("status").out
    # the replicator was still well an hour after that
    made.tool("heartbeat")
    made.mirror.sql("update tailwater.heartbeat set said_at = now() - interval '1 hour'")
    assert 3600 <= made.status()["lag"]["seconds"] < 3700


def test_a_heartbeat_of_before_is_no_silence(made, holding):
    """(Silence itself takes longer than a test should: test_status.c.)"""
    made.mirror.sql("update tailwater.heartbeat set said_at = now() - interval '5 minutes'")
    assert made.status()["state"] != "silent"
    assert "no heartbeat yet" in made.verb("status").out


def test_status_of_a_waiting_replicator(made, holding):
    made.tool("heartbeat=cannot reach it")
    found = made.status()
    assert (found["level"], found["state"]) == ("warning", "waiting for the source")
    assert "cannot reach it" in found["message"]


def test_status_while_copying(made, holding):
    made.mirror.sql("update tailwater.pipeline set state = 'copying'; "
                    "update tailwater.mirror_table set state = 'created' where name = 'orders'")
    found = made.status()
    assert found["state"] == "copying" and "1 of 2 tables" in found["message"], found
    assert found["lag"]["seconds"] is None
    assert made.verb("status").out.index("public.orders") < made.verb("status").out.index("public.customers")


def test_status_does_not_wait_for_a_key_being_made(made):
    made.mirror.sql("update tailwater.mirror_table set state = 'copied', copied_rows = 77 where name = 'orders'")
    maker = made.mirror.connect()
    maker.cursor().execute("lock table mirror_public.orders in access exclusive mode")
    found = {table["name"]: table for table in made.status()["tables"]}
    maker.rollback()
    maker.close()
    assert (found["orders"]["estimated_rows"], found["orders"]["bytes"]) == (77, None)


def test_status_after_the_copy_until_all_tables_are_equally_new(made, holding):
    made.mirror.sql("update tailwater.mirror_table set copy_lsn = 'FF/0' where name = 'orders'")
    assert made.status()["state"] == "catching up"


def test_status_of_the_repair_list(made, holding):
    made.catch_up()
    made.mirror.sql("insert into tailwater.repair (pipeline, schema, name, key, lsn, asked_at) values "
                    "(%s, 'public', 'orders', '{1}', '0/1', now() - interval '1 hour')", made.name)
    found = made.status()
    assert found["level"] == "warning" and found["repair"]["keys"] == 1
    assert "repair list  1 rows, the oldest for 1 h" in made.verb("status").out


def test_status_counts(made):
    made.tool("count=3")
    assert made.status()["counters"] == {"repaired_rows": 3}
    assert "repaired_rows 3" in made.verb("status").out


@pytest.mark.parametrize("critical, level, state", [("2MiB", "error", "WAL critical"),
                                                    ("1TiB", "warning", "WAL warning")])
def test_status_of_kept_wal(made, holding, critical, level, state):
    made.pipeline.keys["source"] = {"wal_guard": {"warn": "1MiB", "critical": critical}}
    made.pipeline.write_config()
    made.source.sql("create table t (a text); insert into t select repeat('x', 100) from generate_series(1, 30000)")
    made.catch_up()
    found = made.status()
    assert (found["level"], found["state"]) == (level, state)
    assert found["slot"]["retained_bytes"] > 2 << 20 and found["next"]


def test_status_of_an_unknown_pipeline(made, pipeline):
    made.name_before, pipeline.name = pipeline.name, "nope"
    pipeline.write_config()
    found = made.status(code=FAILED)
    assert found["state"] == "unknown pipeline" and made.name_before in found["next"]
    assert found["message"] == "there is no pipeline nope in the mirror database"


def test_status_before_the_first_run(pipeline):
    done = pipeline.verb("status")
    assert done.code == FAILED and "tailwater run" in done.out, done


def test_status_without_the_slot(made):
    made.source.sql("select pg_drop_replication_slot(%s)", made.slot, user="tailwater")
    found = made.status(code=SLOT)
    assert found["state"] == "slot missing" and found["next"]


def test_status_of_a_slot_of_another_plugin(made):
    made.source.sql("select pg_drop_replication_slot(%s)", made.slot, user="tailwater")
    made.source.sql("select pg_create_logical_replication_slot(%s, 'test_decoding')", made.slot, user="tailwater")
    assert made.status(code=SLOT)["state"] == "slot not ours"


def test_status_of_another_cluster(made):
    made.mirror.sql("update tailwater.pipeline set system_identifier = '1'")
    found = made.status(code=SLOT)
    assert found["state"] == "another source" and "--new-slot" in found["next"]


def test_status_with_either_server_down(own_servers, made):
    own_servers.source.stop()
    found = made.status(code=SOURCE_DOWN)
    assert found["state"] == "source unreachable" and not found["source"]["reachable"]
    # what the mirror knows is still said
    assert len(found["tables"]) == 2 and found["cursor"]["lsn"]
    assert "cannot be reached" in made.verb("status", code=SOURCE_DOWN).out
    own_servers.source.start()
    own_servers.mirror.stop()
    found = made.status(code=MIRROR_DOWN)
    assert found["state"] == "mirror unreachable" and found["slot"]["exists"] and "tables" not in found
    own_servers.source.stop()
    assert made.status(code=MIRROR_DOWN)["state"] == "mirror unreachable"


def test_status_never_shows_a_password(made):
    made.pipeline.keys["source"] = {"conninfo": made.source.conninfo() + " password=s3cret"}
    made.pipeline.write_config()
    for args in (["status"], ["status", "--json"]):
        assert "s3cret" not in made.verb(*args).text


def test_status_with_many_tables(made):
    made.mirror.sql("insert into tailwater.mirror_table select pipeline, schema, 'table_' || i, i, mirror_schema, "
                    "'table_' || i, view_schema, 'table_' || i, key, 'ready' from tailwater.mirror_table, "
                    "generate_series(1, 300) i where name = 'orders'")
    out = made.verb("status").out
    assert len(out.splitlines()) < 50 and "and 282 more, all ready" in out
    assert len(made.status()["tables"]) == 302


def test_watch_on_a_terminal_until_interrupted(made):
    master, slave = pty.openpty()
    watching = subprocess.Popen([BINARY, "-c", made.pipeline.file, "status", "--watch"], stdout=slave,
                                stderr=slave, stdin=slave, env=made.pipeline.environment(),
                                start_new_session=True)
    os.close(slave)
    seen = b""
    end = time.monotonic() + 30
    while seen.count(b"\033[H\033[2J") < 2 and time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            seen += os.read(master, 65536)
    assert seen.count(b"pipeline " + made.name.encode()) >= 2
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=20) == 0
    os.close(master)


def test_watch_as_json_lines(made):
    watching = subprocess.Popen([BINARY, "-c", made.pipeline.file, "status", "--watch", "--json"],
                                stdout=subprocess.PIPE, text=True, env=made.pipeline.environment())
    lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
    assert [line["state"] for line in lines] == ["stopped", "stopped"]
    assert lines[0]["time"] < lines[1]["time"]
    watching.stdout.close()
    assert watching.wait(timeout=20) == -signal.SIGPIPE


# ---- purge ----


def test_purge_by_the_configured_retention(made):
    made.pipeline.keys["purge"] = {"after": "1h"}
    made.pipeline.write_config()
    made.tombstones("3 hours", "2 hours", "10 minutes")
    dry = made.verb("purge", "--dry-run")
    assert re.search(r"^ +2  public\.orders, the oldest 3 h 0 min old$", dry.out, re.M)
    assert made.stored() == [0, 1, 2]
    done = made.verb("purge")
    assert re.search(r"^ +2  tombstones purged$", done.out, re.M)
    assert made.stored() == [2]
    assert re.search(r"^ +0  tombstones purged$", made.verb("purge").out, re.M)


def test_purge_json(made):
    made.tombstones("3 hours", "2 hours", "10 minutes")
    found = made.verb("purge", "--older-than", "1h", "--json").json()
    assert (found["pipeline"], found["dry_run"], found["rows"]) == (made.name, False, 2)
    assert {t["name"]: t["rows"] for t in found["tables"]} == {"customers": 0, "orders": 2}
    assert found["tables"][0]["older_than_seconds"] == 3600


def test_purge_retention_per_table(made):
    made.tombstones("3 hours", "2 hours", "10 minutes")
    made.pipeline.keys["purge"] = {"after": "1h"}
    made.pipeline.tables = ["public.*", {"name": "public.orders", "purge_after": "never"}]
    made.pipeline.write_config()
    assert made.verb("purge", "--json").json()["rows"] == 0
    assert [t["name"] for t in made.verb("purge", "--json").json()["tables"]] == ["customers"]
    # by hand, never is not never
    assert made.verb("purge", "--json", "--older-than", "150min").json()["rows"] == 1
    assert made.stored() == [1, 2]


def test_purge_takes_live_rows_for_nothing_in_the_world(made):
    made.mirror.sql("insert into mirror_public.orders (id, _lsn) values (7, '0/1')")
    made.tombstones("1 hour")
    made.verb("purge", "--older-than", "0")
    assert made.stored() == [7]


def test_purge_in_many_slices(made):
    made.mirror.sql("insert into mirror_public.orders (id, _lsn, _deleted_at) "
                    "select i, '0/1', now() - interval '1 day' from generate_series(1, 12000) i")
    assert made.verb("purge", "--older-than", "1h", "--json").json()["rows"] == 12000
    assert made.stored() == []


def test_purge_waits_for_a_long_batch(made):
    made.tombstones("3 hours")
    batch = made.mirror.connect("tailwater")
    batch.cursor().execute("update tailwater.clock set batch_id = batch_id + 1")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(made.pipeline.verb("purge", "--older-than", "1h")))
    thread.start()
    wait.until(lambda: "canceling statement due to lock timeout" in made.mirror.cluster.log,
               "the first try to give way")
    batch.cursor().execute("update mirror_public.orders set _deleted_at = null")
    batch.commit()
    batch.close()
    thread.join()
    assert answers[0].code == DONE and made.stored() == [0], answers


def test_batches_go_on_while_a_purge_runs(made):
    """A batch waits for a slice at most: it is not starved by one slice after the other."""
    made.mirror.sql("insert into mirror_public.orders (id, _lsn, _deleted_at) "
                    "select i, '0/1', now() - interval '1 day' from generate_series(1, 200000) i")
    purge = subprocess.Popen([BINARY, "-c", made.pipeline.file, "purge", "--older-than", "1h"],
                             stdout=subprocess.DEVNULL, env=made.pipeline.environment())
    waits = []
    while purge.poll() is None:
        start = time.monotonic()
        made.mirror.sql("update tailwater.clock set batch_id = batch_id + 1")
        waits.append(time.monotonic() - start)
        time.sleep(0.001)
    assert purge.returncode == 0 and made.stored() == []
    assert len(waits) > 20 and max(waits) < 2, (len(waits), max(waits))


def test_purge_of_an_unknown_pipeline(pipeline):
    assert pipeline.verb("purge").code == USAGE
    assert pipeline.verb("purge", "--older-than", "7").code == USAGE


def test_purge_with_the_mirror_down(own_servers, made):
    own_servers.mirror.stop()
    assert "tailwater: mirror:" in made.verb("purge", code=MIRROR_DOWN).err


# ---- destroy ----


def is_clean(made):
    return made.mirror.value("select to_regnamespace('tailwater') is null and to_regclass('public.orders') is null "
                             "and to_regnamespace('mirror_public') is null and to_regtype('public.mood') is null")


def test_destroy(made):
    done = made.verb("destroy", "--dry-run")
    assert f"replication slot {made.slot}" in done.out and "public.orders" in done.out
    assert made.has_slot() and not is_clean(made)
    done = made.verb("destroy", "--yes")
    assert f"removed  replication slot {made.slot} on the source" in done.out
    assert "kept" not in done.out
    assert not made.has_slot() and is_clean(made)
    done = made.verb("destroy", "--yes", code=FAILED)
    assert "no pipeline" in done.err and "--skip-mirror" in done.err


def test_destroy_asks(made):
    done = made.verb("destroy", code=USAGE)
    assert "--yes" in done.err and made.has_slot()
    for answer, code in ((b"yes\n", FAILED), (b"\n", FAILED), (made.name.encode() + b"\n", DONE)):
        master, slave = pty.openpty()
        asked = subprocess.Popen([BINARY, "-c", made.pipeline.file, "destroy"], stdin=slave,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 env=made.pipeline.environment())
        os.close(slave)
        os.write(master, answer)
        err = asked.stderr.read().decode()
        assert asked.wait(timeout=60) == code, err
        assert "Type the pipeline's name" in err and made.slot in err
        os.close(master)
        assert made.has_slot() == (code != DONE)


def test_destroy_while_a_replicator_runs(made, holding):
    done = made.verb("destroy", "--yes", code=BUSY)
    assert f"process {holding.pid}" in done.err
    assert made.has_slot() and not is_clean(made)


def test_destroy_of_a_slot_in_use(made):
    options = ["proto_version=1", f"publication_names={made.pipeline.publication}"] if made.plugin == "pgoutput" else []
    reader = subprocess.Popen([tool("pg_recvlogical"), "-d", made.source.conninfo(), "-S", made.slot,
                               "--start", "-f", "/dev/null", "-n", *(f"--option={o}" for o in options)])
    try:
        wait.until(lambda: made.source.value("select active from pg_replication_slots where slot_name = %s",
                                             made.slot, user="postgres"), "the slot to be read")
        done = made.verb("destroy", "--yes", code=BUSY)
        assert "being read by PID" in done.err and not is_clean(made)
    finally:
        reader.kill()
        reader.wait()
    made.verb("destroy", "--yes")


def test_destroy_spares_a_slot_that_is_not_ours(made):
    made.source.sql("select pg_drop_replication_slot(%s)", made.slot, user="tailwater")
    made.source.sql("select pg_create_logical_replication_slot(%s, 'test_decoding')", made.slot, user="tailwater")
    done = made.verb("destroy", "--yes", code=SLOT)
    assert "not ours" in done.err and made.has_slot() and not is_clean(made)
    made.verb("destroy", "--yes", "--skip-source")
    assert made.has_slot() and is_clean(made)


def test_destroy_spares_another_cluster(made):
    made.mirror.sql("update tailwater.pipeline set system_identifier = '1'")
    done = made.verb("destroy", "--yes", code=SLOT)
    assert "--skip-source" in done.err and made.has_slot() and not is_clean(made)


def test_destroy_without_a_slot(made):
    made.source.sql("select pg_drop_replication_slot(%s)", made.slot, user="tailwater")
    done = made.verb("destroy", "--yes")
    assert "replication slot" not in done.out and is_clean(made)


def test_destroy_with_a_side_gone(own_servers, made):
    own_servers.source.stop()
    done = made.verb("destroy", "--yes", code=SOURCE_DOWN)
    assert "--skip-source" in done.err and not is_clean(made)
    done = made.verb("destroy", "--yes", "--skip-source")
    assert f"pg_drop_replication_slot('{made.slot}')" in done.out and is_clean(made)
    own_servers.source.start()
    own_servers.mirror.stop()
    done = made.verb("destroy", "--yes", code=MIRROR_DOWN)
    assert "--skip-mirror" in done.err and made.has_slot()
    made.verb("destroy", "--yes", "--skip-mirror")
    assert not made.has_slot()
    assert made.verb("destroy", "--yes", "--skip-mirror", "--skip-source", code=USAGE)


@pytest.mark.parametrize("owner", ["app", "tailwater"])
def test_destroy_of_the_publication(make_pipeline, source, owner):
    source.sql("create table orders (id int primary key)")
    pipeline = make_pipeline(plugin="pgoutput")
    source.sql(f"create publication {pipeline.publication} for table orders", user="postgres")
    source.sql(f"grant create on database {source.name} to tailwater; "
               f"alter publication {pipeline.publication} owner to {owner}", user="postgres")
    made = Made(pipeline)
    done = made.verb("destroy", "--yes")
    left = source.value("select count(*) from pg_publication")
    if owner == "tailwater":
        assert left == 0 and f"removed  publication {pipeline.publication}" in done.out
    else:
        assert left == 1 and f'DROP PUBLICATION "{pipeline.publication}"' in done.out
    assert is_clean(made) and not made.has_slot()


def test_destroy_of_what_others_depend_on(made):
    made.mirror.sql("create view public.report as select count(*) from public.orders")
    done = made.verb("destroy", "--yes", code=FAILED)
    assert "view public.report depends on it" in done.out and "run the same again" in done.err
    assert made.mirror.value("select count(*) from public.report") == 1
    assert made.mirror.value("select to_regclass('public.customers') is null") and not made.has_slot()
    assert made.status(code=SLOT)["state"] == "slot missing"
    made.mirror.sql("drop view public.report")
    made.verb("destroy", "--yes")
    assert is_clean(made)


def test_destroy_can_keep_the_tables(made):
    made.verb("destroy", "--yes", "--keep-tables")
    assert made.mirror.sql("select id from public.orders") == [] and not made.has_slot()
    assert made.mirror.value("select to_regnamespace('tailwater') is null")


# ---- with a replicator ----


@pytest.fixture
def shop(source):
    source.sql("create type mood as enum ('sad', 'ok'); "
               "create table orders (id int primary key, note text, m mood); "
               "create table customers (id int primary key, name text); "
               "insert into orders select i, 'note ' || i, 'ok' from generate_series(1, 500) i")


def test_status_of_a_real_run(shop, pipeline):
    assert pipeline.verb("status").code == FAILED
    pipeline.start().wait_until_caught_up()
    found = wait.until(lambda: (lambda s: s if s["replicator"].get("streaming_since") else None)(
        pipeline.ok("status", "--json").json()), "a heartbeat")
    assert (found["level"], found["state"]) == ("ok", "streaming"), found
    assert found["replicator"]["pid"] == pipeline.process.pid and found["slot"]["active"]
    assert {t["name"]: t["state"] for t in found["tables"]} == {"customers": "ready", "orders": "ready"}
    assert pipeline.verb("destroy", "--yes").code == BUSY
    pipeline.kill()
    found = wait.until(lambda: (lambda s: s if s["state"] == "stopped" else None)(
        pipeline.ok("status", "--json").json()), "the lock of the killed one to go")
    assert found["level"] == "warning"


def test_status_of_a_copy_that_was_killed(shop, pipeline):
    pipeline.start(fault="copy_before_views=kill")
    pipeline.wait_exit()
    found = wait.until(lambda: (lambda s: s if s["state"] == "stopped" else None)(
        pipeline.ok("status", "--json").json()), "stopped")
    assert found["next"].startswith("tailwater run")
    assert {t["state"] for t in found["tables"]} <= {"copied", "indexed"}
    assert "not before the copy is complete" in pipeline.ok("status").out


def test_destroy_after_a_real_run_and_all_anew(shop, source, mirror, both_plugins, make_pipeline):
    pipeline = make_pipeline().publish()
    objects = mirror.value("select count(*) from pg_class")
    pipeline.run_until_now()
    pipeline.ok("destroy", "--yes")
    assert mirror.value("select count(*) from pg_class") == objects
    assert mirror.value("select to_regtype('public.mood') is null")
    assert source.value("select count(*) from pg_replication_slots where database = current_database()",
                        user="postgres") == 0
    source.sql("update orders set note = 'second' where id < 10")
    pipeline.publish()
    pipeline.run_until_now()
    pipeline.compare()


def test_purge_beside_a_replicator(shop, source, mirror, make_pipeline):
    """Keys are deleted and come back while purges take their tombstones away: nobody stumbles, nothing is lost."""
    pipeline = make_pipeline(purge={"after": "7d"}).publish()
    pipeline.start().wait_until_caught_up()
    for turn in range(15):
        purge = subprocess.Popen([BINARY, "-c", pipeline.file, "purge", "--older-than", "0"],
                                 stdout=subprocess.DEVNULL, env=pipeline.environment())
        while purge.poll() is None:
            source.sql("delete from orders where id %% 5 = %s", turn % 5)
            source.sql("insert into orders select i, 'again', 'sad' from generate_series(1, 500) i "
                       "where i %% 5 = %s and i %% 2 = %s", turn % 5, turn % 2)
        assert purge.returncode == 0
    source.sql("delete from orders where id % 2 = 0")
    pipeline.wait_until_caught_up()
    pipeline.compare()
    pipeline.stop()
    assert mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") > 0
    pipeline.ok("purge", "--older-than", "0")
    assert mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") == 0
    pipeline.run_until_now()
    pipeline.compare()


def test_readers_that_are_added_later(shop, mirror, make_pipeline):
    pipeline = make_pipeline()
    pipeline.run_until_now()
    with pytest.raises(Exception, match="permission denied"):
        mirror.sql("select count(*) from orders", user="reports")
    pipeline.keys["mirror"] = {"readers": ["reports"]}
    pipeline.write_config()
    pipeline.run_until_now()
    assert mirror.value("select count(*) from orders", user="reports") == 500


def test_retention_that_is_raised_later(shop, source, mirror, make_pipeline):
    pipeline = make_pipeline()
    pipeline.run_until_now()
    assert mirror.value("select count(*) from pg_index where indpred is not null and indrelid = "
                        "'mirror_public.orders'::regclass") == 0
    pipeline.keys["purge"] = {"after": "7d"}
    pipeline.write_config()
    source.sql("delete from orders where id = 1")
    pipeline.run_until_now()
    assert mirror.value("select count(*) from pg_index where indpred is not null and indrelid = "
                        "'mirror_public.orders'::regclass") == 1
    assert mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") == 1


def test_a_retention_that_the_replicator_keeps(shop, source, mirror, make_pipeline):
    """The sweep between batches, by the replicator itself."""
    pipeline = make_pipeline(purge={"after": "1s"})
    pipeline.start().wait_until_caught_up()
    source.sql("delete from orders where id <= 100")
    pipeline.wait_until_caught_up()
    wait.until(lambda: mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") == 0,
               lambda: f"the sweep\n{pipeline.log_tail()}", deadline=60)
    assert mirror.value("select count(*) from mirror_public.orders") == 400
    pipeline.stop()
    pipeline.compare()


def test_the_sweep_gives_way_to_a_long_batch(shop, source, mirror, make_pipeline):
    """A batch that holds the clock for long is no trouble: the replicator goes on saying that it lives."""
    pipeline = make_pipeline(purge={"after": "1s"})
    batch = mirror.connect()
    pipeline.run_until_now()
    pipeline.start()
    wait.until(lambda: "streaming" in pipeline.events(), pipeline.log_tail, deadline=30)
    batch.cursor().execute("select from tailwater.clock for update")
    # a tombstone that is due with the first sweep, which comes some seconds after the start
    mirror.sql("update mirror_public.orders set _deleted_at = now() - interval '1 hour' where id = 1")
    since = time.monotonic()
    while time.monotonic() - since < 8:
        wait.until(lambda: pipeline._alive_or(lambda: mirror.value(
            "select now() - said_at < interval '2 seconds' and said_at > %s::timestamptz from tailwater.heartbeat",
            "2000-01-01")), lambda: f"a heartbeat\n{pipeline.log_tail()}", deadline=4)
        time.sleep(0.2)
    assert pipeline.events().count("streaming") == 1, pipeline.log_tail()
    assert mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") == 1
    batch.rollback()
    batch.close()
    wait.until(lambda: mirror.value("select count(*) from mirror_public.orders where _deleted_at is not null") == 0,
               lambda: f"the sweep\n{pipeline.log_tail()}", deadline=45)
