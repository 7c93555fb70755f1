"""The program under test: its configuration, its verbs, and `run` in the background."""

import contextlib
import json
import os
import re
import signal
import subprocess

import psycopg2

from lib import wait
from lib.cluster import ROOT, SUPERUSER, is_alive, tool
from lib.compare import compare, only, quoted, source_tables



def built(*folders):
    """The first build that is there: scripts/test makes the first, developers name theirs so."""
    paths = [os.path.join(ROOT, folder, "tailwater") for folder in folders]
    return next((path for path in paths if os.access(path, os.X_OK)), paths[0])


BINARY = os.environ.get("TAILWATER") or built("build-test", "build-dev")
RELEASE = os.environ.get("TAILWATER_RELEASE") or built("build-release", "build-rel")

FEEDS = ("in one transaction", "in one batch", "one by one")
PLUGINS = ("wal2json", "pgoutput")

# Exit codes, as the manual has them.
DONE, FAILED, USAGE, FINDINGS, SOURCE_DOWN, MIRROR_DOWN, SLOT, BUSY, AGAIN = 0, 1, 2, 3, 4, 5, 6, 7, 75


def fault_points():
    """The names of src/base/fault.h's list."""
    with open(os.path.join(ROOT, "src", "base", "fault.h")) as f:
        return re.findall(r"^ *X\((\w+), *\"", f.read(), re.M)


def to_yaml(value, indent=0):
    """Plain block YAML; scalars as JSON writes them, which YAML reads alike."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines.append(f"{pad}{key}:\n{to_yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(item, ensure_ascii=False)}")
        return "\n".join(lines)
    return "\n".join(f"{pad}- {json.dumps(item, ensure_ascii=False)}" for item in value)


class Result:
    """What a verb did."""

    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err

    def __repr__(self):
        return f"{' '.join(self.args)}: exit {self.code}\n{self.out}{self.err}"

    @property
    def text(self):
        return self.out + self.err

    def json(self):
        return json.loads(self.out)


class Pipeline:
    """One pipeline.  keys are the configuration's own (source={"heartbeat": "1s"}), merged in.

    With pgoutput the publication must exist before `run`: publish() makes it, as its owner would.
    auto_publish: for tests that were written for wal2json, where `run` and `check` do so.
    """

    def __init__(self, folder, source_db, mirror_db, name="main", plugin="wal2json",
                 tables=("public.*",), binary=None, auto_publish=False, **keys):
        self.folder = folder
        self.source, self.mirror, self.name, self.plugin = source_db, mirror_db, name, plugin
        self.tables = list(tables)
        self.keys = keys
        self.binary = binary or BINARY
        self.auto_publish = auto_publish
        self.process = None
        self.runs = 0
        os.makedirs(folder, exist_ok=True)
        self.file = os.path.join(folder, "tailwater.yaml")
        self.log_file = os.path.join(folder, "tailwater.log")
        self.write_config()

    slot = property(lambda self: self._source_name("slot"))
    publication = property(lambda self: self._source_name("publication"))

    def _source_name(self, key):
        return self.keys.get("source", {}).get(key, f"tailwater_{self.name}")

    # ---- configuration ----

    def config(self):
        config = {
            "pipeline": self.name,
            # Waiting for a position is quick where a commit follows it soon; a test of what happens
            # without one sets heartbeat itself.
            "source": {"conninfo": self.source.conninfo(), "plugin": self.plugin,
                       "heartbeat": "200ms"},
            "mirror": {"conninfo": self.mirror.conninfo()},
            "tables": self.tables,
        }
        for key, value in self.keys.items():
            if isinstance(value, dict):
                config.setdefault(key, {}).update(value)
            else:
                config[key] = value
        return config

    def write_config(self, text=None):
        with open(self.file, "w") as f:
            f.write(text if text is not None else to_yaml(self.config()) + "\n")

    def publish(self, *tables):
        """The publication as `check` prints it, made by who may; a no-op with wal2json."""
        if self.plugin != "pgoutput":
            return self
        tables = tables or source_tables(self.source)
        listed = ", ".join(f"{only(self.source, schema, name)}{quoted(schema)}.{quoted(name)}"
                           for schema, name in tables)
        publication = quoted(self.publication)
        self.source.sql(f"drop publication if exists {publication}", user=SUPERUSER)
        self.source.sql(f"create publication {publication} for table {listed} "
                        "with (publish_via_partition_root = true)", user=SUPERUSER)
        return self

    def publish_if_needed(self):
        """Where a test says nothing about publications, and while the servers are there."""
        if not self.auto_publish or self.plugin != "pgoutput":
            return
        with contextlib.suppress(psycopg2.Error):
            if not self.source.value("select count(*) from pg_publication where pubname = %s",
                                     self.publication, user=SUPERUSER):
                self.publish()
                return
            there = self.source.sql("select schemaname, tablename from pg_publication_tables "
                                    "where pubname = %s", self.publication, user=SUPERUSER)
            for schema, name in set(source_tables(self.source)) - set(there):
                self.source.sql(f"alter publication {self.publication} add table "
                                f"{quoted(schema)}.{quoted(name)}", user=SUPERUSER)

    # ---- verbs ----

    def environment(self, env=None):
        merged = dict(os.environ)
        merged.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
        merged.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        merged.update(env or {})
        return merged

    def verb(self, *args, timeout=90, env=None):
        """Run a verb to its end."""
        if args[0] in ("check", "run"):
            self.publish_if_needed()
        config = [] if args[0] in ("init", "version", "help") else ["-c", self.file]
        command = [self.binary, *config, *args]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout,
                              env=self.environment(env))
        with open(self.log_file, "a") as log:
            log.write(f"--- {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return Result(["tailwater", *args], done.returncode, done.stdout, done.stderr)

    def ok(self, *args, **more):
        """Run a verb that must succeed."""
        result = self.verb(*args, **more)
        assert result.code == DONE, repr(result)
        return result

    # ---- run in the background ----

    def start(self, *args, env=None, fault=None):
        """`run` in the background; fault is TAILWATER_FAULT's value."""
        assert self.process is None or self.process.poll() is not None, "already running"
        self.publish_if_needed()
        env = dict(env or {})
        if fault:
            env["TAILWATER_FAULT"] = fault
        self.runs += 1
        with open(self.log_file, "a") as log:
            log.write(f"--- run {self.runs}\n")
            log.flush()
            self.process = subprocess.Popen([self.binary, "-c", self.file, "run", *args],
                                            stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, env=self.environment(env))
        return self

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def wait_exit(self, deadline=30):
        """The exit code of the background run; negative for a signal."""
        try:
            return self.process.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise wait.Deadline(f"run did not end within {deadline} s\n{self.log_tail()}") from None

    def stop(self, deadline=30):
        """End it as an operator would; it must say 0."""
        if self.is_running:
            wait.until(lambda: not self.is_running or self._catches(signal.SIGTERM), "a handler of SIGTERM", 30,
                       every=0.01)
            self.process.send_signal(signal.SIGTERM)
            code = self.wait_exit(deadline)
            assert code == DONE, f"SIGTERM: exit {code}\n{self.log_tail()}"

    def _catches(self, number):
        """Just started, it has no handler yet, and would die of the signal."""
        with open(f"/proc/{self.process.pid}/status") as f:
            caught = int(re.search(r"^SigCgt:\s*(\w+)", f.read(), re.M).group(1), 16)
        return bool(caught & 1 << (number - 1))

    def kill(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    # ---- what it says and how far it is ----

    @property
    def log(self):
        try:
            with open(self.log_file, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def this_run(self):
        """What the last background run has said so far."""
        return self.log.rpartition(f"--- run {self.runs}\n")[2]

    def log_tail(self, lines=60):
        return "\n".join(self.log.splitlines()[-lines:])

    def events(self):
        """Names of the events of the last run's log lines, text or JSON, in order."""
        found = []
        for line in self.this_run().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line)["event"])
            else:
                match = re.search(r"\[([a-z0-9_]+)\]$", line)
                if match:
                    found.append(match.group(1))
        return found

    def wait_log(self, pattern, deadline=30):
        """Until the last run's log matches."""
        return wait.until(lambda: self._alive_or(lambda: re.search(pattern, self.this_run())),
                          lambda: f"no /{pattern}/ in the log\n{self.log_tail()}", deadline)

    def _alive_or(self, fact):
        value = fact()
        if not value and not self.is_running:
            value = fact()
            if not value:
                code = self.process.returncode if self.process else None
                raise AssertionError(f"run has ended, exit {code}\n{self.log_tail()}")
        return value

    def clock(self):
        """(batch_id, cursor) of the mirror; None before there is one."""
        if self.mirror.value("select to_regclass('tailwater.clock')") is None:
            return None
        rows = self.mirror.sql(
            "select batch_id, cursor::text from tailwater.clock where pipeline = %s", self.name)
        return rows[0] if rows else None

    def counter(self, name):
        return self.mirror.value("select value from tailwater.counter "
                                 "where pipeline = %s and name = %s", self.name, name) or 0

    def is_streaming(self):
        if self.mirror.value("select to_regclass('tailwater.pipeline')") is None:
            return False
        return self.mirror.value(
            "select state = 'streaming' from tailwater.pipeline where name = %s", self.name)

    def is_at(self, lsn):
        return self.is_streaming() and self.mirror.value(
            "select cursor >= %s::pg_lsn from tailwater.clock where pipeline = %s", lsn, self.name)

    def wait_until_caught_up(self, deadline=60, lsn=None):
        """Until the mirror holds everything that was committed on the source before this call."""
        target = lsn or self.source.lsn()
        wait.until(lambda: self._alive_or(lambda: self.is_at(target)),
                   lambda: f"the cursor {self.clock()} has not reached {target}\n{self.log_tail()}",
                   deadline)
        return self

    def run_until_now(self, timeout=90, env=None):
        """`run --until now`, which must succeed."""
        return self.ok("run", "--until", "now", timeout=timeout, env=env)

    def feed(self, statements, how):
        """Give the source statements in one of FEEDS' ways, to a running pipeline; catch up.

        "in one batch" holds the applier with a lock on its clock while the transactions pile up.
        """
        if how == "in one transaction":
            with self.source.transaction() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        elif how == "in one batch":
            with self.held_applier():
                for statement in statements:
                    self.source.sql(statement)
        else:
            for statement in statements:
                self.source.sql(statement)
                self.wait_until_caught_up()
        return self.wait_until_caught_up()

    @contextlib.contextmanager
    def held_applier(self):
        """Until the block ends no batch commits: somebody has the clock's row."""
        with self.mirror.transaction() as cursor:
            cursor.execute("select from tailwater.clock where pipeline = %s for update", (self.name,))
            yield
            target = self.source.lsn()
            # Everything has been sent by now; what the receiver holds becomes as few batches as fit.
            with contextlib.suppress(wait.Deadline):
                wait.until(lambda: self.source.value(
                    "select sent_lsn >= %s::pg_lsn from pg_stat_replication where pid = "
                    "(select active_pid from pg_replication_slots where slot_name = %s)",
                    target, self.slot, user=SUPERUSER), "everything sent", deadline=2)

    def compare(self, tables=None):
        compare(self.source, self.mirror, tables)

    def settle(self, tables=None):
        """Catch up, compare, stop, and once more with nothing to do: that must change nothing."""
        if self.is_running:
            self.wait_until_caught_up()
            self.compare(tables)
        self.settle_stopped(tables)

    def settle_stopped(self, tables=None, compare=True):
        """The end of every test: a run with nothing to do changes no stored row.

        The first one may have had something left to do; then another must not.
        """
        self.stop()
        before = self.snapshot()
        self.run_until_now()
        after = self.snapshot()
        if after != before:
            self.run_until_now()
            assert self.snapshot() == after, "a run with nothing to do changed mirror rows"
        if compare:
            self.compare(tables)

    def snapshot(self):
        """Where every stored row is and since when: (ctid, xmin) changes with any write."""
        stored = self.mirror.sql("select mirror_schema, mirror_name from tailwater.mirror_table "
                                 "where pipeline = %s order by 1, 2", self.name)
        return {(schema, name): self.mirror.value(
            f"select md5(coalesce(string_agg(ctid::text || xmin::text, ',' order by ctid), '')) "
            f"from {quoted(schema)}.{quoted(name)}") for schema, name in stored}

    # ---- measures ----

    def peak_memory_kb(self):
        """VmHWM of the running process."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1))

    def close(self):
        """For the end of a test, however it went."""
        if self.process is not None and is_alive(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()


class Traffic:
    """Writers on the source in the background: pgbench with scripts, stopped at the end.

    scripts: {weight-able name: text}; each client runs them at random.
    """

    def __init__(self, database, folder, scripts, clients=4, rate=None, seconds=None, seed=1,
                 user=None):
        self.command = [tool("pgbench"), "-n", "-h",
                        database.cluster.folder, "-p", "5432", "-U", user or database.user,
                        "-c", str(clients), "-j", "1", f"--random-seed={seed}",
                        "-T", str(seconds or 600)]
        if rate:
            self.command += ["-R", str(rate)]
        for name, (weight, text) in scripts.items():
            path = os.path.join(folder, f"{name}.sql")
            with open(path, "w") as f:
                f.write(text)
            self.command += ["-f", f"{path}@{weight}"]
        self.command.append(database.name)
        self.log_file = os.path.join(folder, "pgbench.log")
        self.process = None

    def __enter__(self):
        with open(self.log_file, "w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        return self

    def check(self):
        """Still writing?"""
        if self.process.poll() is not None and self.process.returncode != 0:
            with open(self.log_file) as f:
                raise AssertionError(f"pgbench ended: {f.read()}")

    def wait(self, deadline=120):
        self.process.wait(timeout=deadline)
        self.check()

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


__all__ = ["Pipeline", "Traffic", "Result", "fault_points", "to_yaml", "FEEDS", "PLUGINS",
           "BINARY", "RELEASE"]
