"""A whole installation under random traffic and random trouble, judged in the end to the byte.

A World has a source with a Workload, a mirror server with one database for every pipeline under
test, and for each pipeline a network of its own (proxy.py).  run() goes step by step: one statement
of the application, and at steps that the seed decides something breaks: a process is killed, a
server, a connection; somebody locks a table, the disk is full.  What breaks is mended some steps
later.  All the while a Witness looks at every mirror: batch numbers and cursors never go back, no
transaction is seen by half.

A checkpoint lets everything calm down and compares; the end does that too, runs each pipeline once
more with nothing to do, and looks for what was left behind.  Any failure carries the seed, the list
of events, the difference and the command that repeats it.

The same seed gives the same statements and events at the same steps.  What the replicator was
doing at that moment is the machine's to say: a failure may take several repeats to come again.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import psycopg2

from lib import wait
from lib.cluster import REPLICATOR, SERVERS, SUPERUSER, Cluster, children_of
from lib.compare import binary_difference, quoted, table_images
from lib.derived import FACTS, Derived
from lib.kit import lsn
from lib.pipeline import BINARY, PLUGINS, RELEASE, Pipeline, fault_points
from lib.proxy import Proxy
from lib.workload import BALANCE, MIRRORED, SEEN, TABLES, Workload

SOURCE_SETTINGS = {"max_prepared_transactions": "50", "wal_sender_timeout": "4s", "wal_level": "logical",
                   "deadlock_timeout": "100ms"}
LINKS = {"source": ["tailwater receiver", "tailwater watcher", "tailwater repair", "tailwater start", "copy"],
         "mirror": ["tailwater applier", "lock", "tailwater repair", "copy"]}

# Ends of a run that are answers to trouble, not failures: a server away for too long, somebody else there, try again.
EXCUSED = (4, 5, 7, 75)
DISK_BYTES = 220 << 20


class Failure(AssertionError):
    """What went wrong, with everything that is needed to see it again."""


class Witness:
    """Looks at a mirror again and again, from a thread and a connection of its own."""

    def __init__(self, database, name):
        self.database, self.name = database, name
        self.last = (0, 0)
        self.looks = 0
        self.failure = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.over.set()
        self.thread.join(10)

    def _watch(self):
        connection = None
        while not self.over.wait(0.05):
            try:
                if connection is None:
                    connection = psycopg2.connect(self.database.conninfo(user=SUPERUSER, connect_timeout=5))
                    connection.set_session("repeatable read", readonly=True)
                    with connection.cursor() as cursor:
                        cursor.execute("set statement_timeout = '400ms'")
                    connection.commit()
                self._look(connection)
                connection.rollback()
            except psycopg2.Error as error:
                if error.pgcode is None or connection is None or connection.closed:
                    connection = None
                else:
                    with contextlib.suppress(psycopg2.Error):
                        connection.rollback()
            except AssertionError as error:
                self.failure = str(error)
                break
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def _look(self, connection):
        """Everything in one snapshot."""
        with connection.cursor() as cursor:
            cursor.execute("select batch_id, cursor::text from tailwater.clock where pipeline = %s", (self.name,))
            row = cursor.fetchone()
            if row is None:
                return
            now = (row[0], lsn(row[1]))
            assert now[0] >= self.last[0] and now[1] >= self.last[1], (
                f"{self.name}: the clock went back from batch {self.last[0]} at {self.last[1]:X} to {now[0]} at {now[1]:X}")
            self.last = now
            # A copy that was resumed has tables of two snapshots, until the cursor has passed the later one.
            cursor.execute("select bool_and(state = 'ready' and copy_lsn <= %s::pg_lsn) from tailwater.mirror_table "
                           "where pipeline = %s", (row[1], self.name))
            if not cursor.fetchone()[0]:
                return
            cursor.execute(BALANCE)
            assert cursor.fetchone()[0] == 0, f"{self.name}: half a transaction was visible at batch {now[0]}"
            cursor.execute("select max(_lsn)::text from mirror_public.debit")
            newest = lsn(cursor.fetchone()[0])
            assert newest <= now[1], f"{self.name}: a row of {newest:X} was visible while the cursor was {now[1]:X}"
            self.looks += 1


class Mirrored:
    """A pipeline under test.  A steady one is never killed, so that its memory can be measured."""

    def __init__(self, world, number, plugin, is_steady):
        self.world, self.plugin, self.is_steady = world, plugin, is_steady
        self.name = f"{'steady' if is_steady else 'chaos'}_{plugin}"
        self.database = world.mirror.create_mirror(f"reports{number}")
        self.proxies = {"source": Proxy(os.path.join(world.folder, f"s{number}"), world.source.folder).start(),
                        "mirror": Proxy(os.path.join(world.folder, f"m{number}"), world.mirror.folder).start()}
        self.pipeline = Pipeline(
            os.path.join(world.folder, self.name), world.database, self.database, self.name, plugin=plugin,
            tables=TABLES, binary=RELEASE if is_steady and world.has_release else BINARY,
            source={"conninfo": world.database.conninfo(host=self.proxies["source"].folder),
                    "decode_memory": "64kB", "start_timeout": "60s"},
            mirror={"conninfo": self.database.conninfo(host=self.proxies["mirror"].folder)},
            # A table of a few rows may lose most of them while it is quarantined.
            resync={"max_delete_fraction": 1},
            apply={"max_rows": 150, "max_bytes": "1MiB"}, copy={"workers": 2}, facts=FACTS)
        self.derived = Derived(self.database)
        self.witness = Witness(self.database, self.name)
        self.series = []  # (seconds, pid, resident KiB, open files), at checkpoints: with nothing to do
        self.is_wanted = False
        self.is_ending_since = None
        self.is_stopped = False
        self.restart_at = 0
        self.fault = None
        self.may_be_quarantined = set()
        self.never_seen = None  # rows of the archive that were gone before the copy

    def start(self, fault=None):
        self.is_wanted = True
        self.is_ending_since = None
        self.is_stopped = False
        self.fault = fault
        self.pipeline.start(fault=fault)

    def measure(self):
        process = self.pipeline.process.pid
        with open(f"/proc/{process}/status") as f:
            resident = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
        return process, resident, len(os.listdir(f"/proc/{process}/fd"))


class World:
    """kinds: (plugin, is_steady) of every pipeline."""

    def __init__(self, folder, seed, steps, rate=120, kinds=None, gap=None, templates=None, say=None, repeat=None,
                 large=600):
        self.folder, self.seed, self.steps, self.rate = folder, seed, steps, rate
        # The servers of other versions come without wal2json.
        self.kinds = kinds or [(plugin, False) for plugin in PLUGINS if plugin == "pgoutput" or not SERVERS["source"]]
        self.gap = gap if gap is not None else 60
        self.templates = templates or (None, None)
        self.say = say or (lambda line: None)
        self.repeat = repeat or f"scripts/soak --seed {seed} --steps {steps}"
        self.large = large
        self.chance = random.Random(f"{seed}/events")
        self.fault_chance = random.Random(f"{seed}/faults")  # restarts come when they come
        self.events = []
        self.pending = []  # (step, what, function)
        self.verbs = []  # (pipeline, arguments, process, since when)
        self.mirrored = []
        self.step = 0
        self.began = time.monotonic()
        self.checkpoints = 0
        self.disk = None
        self.notes = []
        self.has_release = os.access(RELEASE, os.X_OK)
        self.workload = None

    # ---- making it ----

    def create(self):
        os.makedirs(self.folder, exist_ok=True)
        self.source = Cluster(os.path.join(self.folder, "source"), bindir=SERVERS["source"], **SOURCE_SETTINGS)
        self.mirror = Cluster(os.path.join(self.folder, "mirror"), bindir=SERVERS["mirror"], deadlock_timeout="100ms")
        for cluster, template in zip((self.source, self.mirror), self.templates):
            cluster.create(template).start().make_roles()
        self.make_small_disk()
        self.database = self.source.create_source("shop")
        self.workload = Workload(self.database, self.seed, large=self.large,
                                 has_merge=self.source.major >= 15).create()
        for number, (plugin, is_steady) in enumerate(self.kinds):
            one = Mirrored(self, number, plugin, is_steady)
            one.database.sql("create extension citext", user=SUPERUSER)
            if self.disk:
                one.database.close()
                self.mirror.sql(f"alter database {one.database.name} set tablespace small")
            one.pipeline.publish(*MIRRORED)
            one.witness.start()
            self.mirrored.append(one)
        return self

    @property
    def ballast(self):
        """What fills the mirror's disk."""
        return os.path.join(self.disk, "ballast")

    def make_room(self):
        if self.disk:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.ballast)

    def make_small_disk(self):
        """A file system that can be filled, for the mirror's tables; it takes root to mount one."""
        path = os.path.join(self.folder, "disk")
        os.makedirs(path, exist_ok=True)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path],
                                               stderr=subprocess.DEVNULL).returncode != 0:
            self.notes.append("SKIPPED: disk full (mounting a small file system takes root)")
            return
        self.disk = path
        tables = os.path.join(path, "tables")
        os.makedirs(tables)
        shutil.chown(tables, "postgres", "postgres")
        self.mirror.sql(f"create tablespace small location '{tables}'")

    def destroy(self):
        """For the end, however it went."""
        if self.workload:
            self.workload.close()
        for one in self.mirrored:
            one.witness.stop()
            one.pipeline.close()
        for _, _, process, _ in self.verbs:
            process.kill()
            process.wait()
        for cluster in (self.source, self.mirror):
            with contextlib.suppress(Exception):
                cluster.stop("immediate")
        for one in self.mirrored:
            for proxy in one.proxies.values():
                proxy.close()
        if self.disk:
            subprocess.run(["umount", "-l", self.disk], check=False)
            self.disk = None

    # ---- running it ----

    def run(self, checkpoint_every=None, sample=None):
        """All steps, then the end.  sample(world) is called about once a second."""
        try:
            self.run_steps(checkpoint_every, sample)
        except Failure:
            raise
        except (AssertionError, RuntimeError, psycopg2.Error) as error:
            self.fail(f"{type(error).__name__}: {error}")

    def run_steps(self, checkpoint_every, sample):
        events = Events(self)
        next_event = self.chance.expovariate(1 / self.gap)
        start, sampled = time.monotonic(), 0
        behind = 0
        for one in self.mirrored:
            one.start(fault=self.draw_fault(one))
        while self.step < self.steps:
            self.step += 1
            self.workload.step()
            self.act_on([p for p in self.pending if p[0] <= self.step])
            if self.step >= next_event:
                self.act(*events.draw())
                next_event = self.step + 1 + self.chance.expovariate(1 / self.gap)
            if self.step % 5 == 0:
                self.look_after()
            if sample and time.monotonic() - sampled > 1:
                sampled = time.monotonic()
                sample(self)
            if checkpoint_every and self.step % checkpoint_every == 0 and self.step < self.steps:
                self.checkpoint()
                start, behind = time.monotonic(), self.step
            ahead = start + (self.step - behind) / self.rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)  # the rate of the traffic
            elif ahead < -0.2:
                start, behind = time.monotonic(), self.step  # no rush to make up for it
        self.finish()

    def act(self, what, function):
        self.note(what)
        if function:
            function()

    def act_on(self, pending):
        """Do what was put off, which may put off something again; returns what is put off now."""
        for one in list(pending):
            self.pending.remove(one)
            self.act(one[1], one[2])
        return self.pending

    def verb(self, one, *args):
        """A verb of the program beside everything else; look_after() asks what became of it."""
        with open(one.pipeline.log_file, "a") as log:
            process = subprocess.Popen([one.pipeline.binary, "-c", one.pipeline.file, *args], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT, env=one.pipeline.environment())
        self.verbs.append((one, args, process, time.monotonic()))

    def look_after_verbs(self):
        for running in list(self.verbs):
            one, args, process, began = running
            if process.poll() is not None:
                self.verbs.remove(running)
                # status has a verdict of its own; nobody knows of a pipeline before its first run got that far.
                answers = (1, 2, 3) if args[0] == "status" else () if one.witness.looks else (1, 2)
                if process.returncode not in (0, *answers, *EXCUSED):
                    self.fail(f"{one.name}: tailwater {' '.join(args)}: exit {process.returncode}")
            elif time.monotonic() - began > 100:
                self.fail(f"{one.name}: tailwater {' '.join(args)} has not ended within 100 s")

    def note(self, what):
        line = f"step {self.step:6} +{time.monotonic() - self.began:7.1f} s  {what}"
        self.events.append(line)
        self.say(line)

    def later(self, steps, what, function):
        self.pending.append((self.step + steps, what, function))

    def draw_fault(self, one):
        """TAILWATER_FAULT of the next start."""
        draw = self.fault_chance
        point, visit = draw.choice(fault_points()), draw.choice([1, 1, 2, 3, 7, 20])
        action = draw.choice(["kill", "kill", "error", f"stall:{draw.choice([50, 400, 1500])}"])
        wanted = draw.random() < 0.6
        return f"{point}:{visit}={action}" if wanted and not one.is_steady else None

    def look_after(self):
        """Start again what has ended with an excuse; anything else is a failure."""
        self.look_after_verbs()
        for one in self.mirrored:
            if one.witness.failure:
                self.fail(one.witness.failure)
            if one.is_ending_since and one.pipeline.is_running and time.monotonic() - one.is_ending_since > 40:
                self.fail(f"{one.name}: SIGTERM did not end it within 40 s")
            if one.pipeline.is_running or not one.is_wanted:
                continue
            code = one.pipeline.process.returncode
            # A signal that comes before there is a handler for it ends a process that has done nothing yet.
            is_unborn = code == -signal.SIGTERM and not one.pipeline.this_run().strip()
            if one.is_ending_since and code not in (0, -9, *EXCUSED) and not is_unborn:
                self.fail(f"{one.name}: SIGTERM: exit {code}")
            if not one.is_ending_since and code not in (-9, *EXCUSED):
                self.fail(f"{one.name}: ended by itself, exit {code}")
            if not one.restart_at:
                one.restart_at = self.step + 8
            if self.step >= one.restart_at:
                one.restart_at = 0
                fault = self.draw_fault(one)
                self.note(f"{one.name}: exit {code}; starts again{', ' + fault if fault else ''}")
                one.start(fault)

    def calm(self):
        """Everything that is broken is mended, every transaction ended."""
        self.act_on(self.pending)
        for cluster in (self.source, self.mirror):
            if cluster.pid is None:
                cluster.start()
        self.workload.settle()
        wait.until(lambda: not self.act_on(self.pending), "everything is mended", deadline=30)
        for one in self.mirrored:
            for proxy in one.proxies.values():
                proxy.refuse(False)
                proxy.resume()
            if one.is_stopped:
                one.pipeline.signal(signal.SIGCONT)
                one.is_stopped = False

    def checkpoint(self):
        """All pipelines catch up; all mirrors equal the source."""
        self.calm()
        for one in self.mirrored:
            self.bring_back(one)
        target = self.database.lsn()
        for one in self.mirrored:
            self.catch_up(one, target)
        for one in self.mirrored:
            self.compare(one)
        self.checkpoints += 1
        for one in self.mirrored:
            if one.pipeline.is_running:
                one.series.append((time.monotonic() - self.began, *one.measure()))

    def quarantined(self, one):
        """Its quarantined tables; None while that cannot be asked."""
        try:
            names = [row[0] for row in one.database.sql(
                "select name from tailwater.mirror_table where quarantine_lsn is not null")]
        except psycopg2.Error:
            one.database.close()
            return None
        if set(names) - one.may_be_quarantined:
            self.fail(f"{one.name}: quarantined though the mirror takes its values: {names}")
        return names

    def bring_back(self, one):
        """Quarantined tables come back by resync; changes that were under way may bring one there again."""
        target = self.database.lsn()
        for _ in range(5):
            wait.until(lambda: self.look_after_verbs() or not self.verbs, "verbs have ended", deadline=100)
            wait.until(lambda: self.is_done(one, target, False), lambda: self.state(one), deadline=120, every=0.1)
            names = self.quarantined(one)
            if names == []:
                one.may_be_quarantined.clear()
                return
            for name in names or ():
                self.note(f"{one.name}: {name} is quarantined; tailwater resync")
                self.verb(one, "resync", f"public.{name}")
        self.fail(f"{one.name}: resync does not bring back {names}")

    def is_done(self, one, target, and_repaired=True):
        self.look_after()
        self.step += 1  # time goes on, also for what waits for a step
        try:
            return one.pipeline.is_running and one.pipeline.is_at(target) and not (
                and_repaired and one.database.value("select count(*) from tailwater.repair"))
        except psycopg2.Error:
            one.database.close()
            return False

    def catch_up(self, one, target):
        before = self.step
        try:
            wait.until(lambda: self.is_done(one, target), "", deadline=120, every=0.1)
        except wait.Deadline:
            one.database.close()
            self.fail(f"{one.name} has not reached {target} within 120 s, or its repair list is not empty: "
                      f"{one.pipeline.clock()}\n" + self.state(one))
        self.step = before

    def state(self, one):
        """What both servers know of a pipeline that does not get on."""
        activity = ("select application_name, state, wait_event_type, wait_event, now() - state_change, left(query, 120) "
                    f"from pg_stat_activity where usename = '{REPLICATOR}' and datname = %s order by 1")
        one.database.close()
        answers = [("repair list", one.database.sql("select * from tailwater.repair limit 5")),
                   ("source", self.source.sql(activity, self.database.name)),
                   ("mirror", self.mirror.sql(activity, one.database.name)),
                   ("locks waited for", self.mirror.sql("select * from pg_locks where not granted")),
                   ("network", [(side, proxy.names()) for side, proxy in one.proxies.items()])]
        return "\n".join(f"{title}: {row}" for title, rows in answers for row in rows)

    def differences(self, one):
        for table in MIRRORED:
            said = (self.archive_difference(one, table, SEEN[table]) if table in SEEN
                    else binary_difference(self.database, one.database, table))
            if said:
                yield said

    def archive_difference(self, one, table, seen):
        """Of a table whose deletes are ignored: everything that was ever seen is there.

        But for rows that were deleted before the copy: what is missing at the first comparison, and
        is not on the source either, is of that kind; later nothing else may be.
        """
        there, live = table_images(self.database, seen), table_images(self.database, table)
        here = table_images(one.database, table)
        missing, extra = there - here, here - there
        if one.never_seen is None:
            one.never_seen = missing - live
        missing -= one.never_seen
        if not missing and not extra:
            return ""
        return f"{table[1]}: {len(missing)} rows missing, {len(extra)} rows extra: " + ", ".join(
            repr(row[:80]) for row in [*missing, *extra][:6])

    def compare(self, one):
        found = list(self.differences(one))
        if found:
            self.fail(f"{one.name}: the mirror differs from the source\n" + "\n".join(found))
        one.derived.catch_up()
        found = one.derived.difference()
        if found:
            self.fail(f"{one.name}: keys are missing in the ledger\n" + "\n".join(found))

    def finish(self):
        """The end: equal, nothing to do, nothing left behind."""
        self.checkpoint()
        wait.until(lambda: self.look_after_verbs() or not self.verbs, "verbs have ended", deadline=100)
        for one in self.mirrored:
            one.is_wanted = False
            self.stop(one)
            one.pipeline.run_until_now()
            before = one.pipeline.snapshot()
            one.pipeline.run_until_now()
            if one.pipeline.snapshot() != before:
                self.fail(f"{one.name}: a run with nothing to do changed mirror rows")
            self.compare(one)
            if one.witness.failure:
                self.fail(one.witness.failure)
            if not one.witness.looks:
                self.fail(f"{one.name}: the witness has never seen a live view")
        self.look_for_remains()

    def stop(self, one):
        """As an operator would; a fault that waits for its visit may come first."""
        if one.pipeline.is_running:
            one.pipeline.signal(signal.SIGTERM)
            code = one.pipeline.wait_exit(30)
            if code != 0 and not (code == -9 and one.fault):
                self.fail(f"{one.name}: SIGTERM: exit {code}")

    def look_for_remains(self):
        """Slots, sessions, locks, transactions, processes, files."""
        expected = sorted(one.pipeline.slot for one in self.mirrored)
        slots = [row[0] for row in self.source.sql("select slot_name from pg_replication_slots order by 1")]
        if slots != expected:
            self.fail(f"slots {slots} on the source, expected {expected}")
        for title, cluster in (("source", self.source), ("mirror", self.mirror)):
            query = f"select pid, application_name, state from pg_stat_activity where usename = '{REPLICATOR}'"
            with contextlib.suppress(wait.Deadline):
                wait.until(lambda: not cluster.sql(query), "", deadline=10)
            for what, sql in (("sessions", query),
                              ("advisory locks", "select pid, objid from pg_locks where locktype = 'advisory'"),
                              ("prepared transactions", "select gid from pg_prepared_xacts")):
                rows = cluster.sql(sql)
                if rows:
                    self.fail(f"{what} left on the {title}: {rows}")
        for one in self.mirrored:
            files = sorted(os.listdir(one.pipeline.folder))
            if files != ["tailwater.log", "tailwater.yaml"]:
                self.fail(f"files left in {one.pipeline.folder}: {files}")
        left = [pid for pid in children_of(os.getpid()) if is_tailwater(pid)]
        if left:
            self.fail(f"processes left: {left}")

    def fail(self, why):
        """Everything that is known, and how to see it again."""
        lines = [why, "", f"seed {self.seed}, step {self.step}", "events:", *(f"  {e}" for e in self.events[-200:])]
        for one in self.mirrored:
            lines += ["", f"{one.name}: {one.pipeline.file}", f"its log ends ({one.pipeline.log_file}):",
                      one.pipeline.log_tail(25)]
        lines += ["", "servers' logs: " + ", ".join(os.path.join(c.folder, "log") for c in (self.source, self.mirror)),
                  f"repeat: {self.repeat}"]
        raise Failure("\n".join(lines))


def is_tailwater(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "tailwater"
    except OSError:
        return False


class Events:
    """What breaks.  Each method draws what it needs, and returns what it says and what it does."""

    def __init__(self, world):
        self.world, self.chance = world, world.chance
        self.kinds = {
            self.kill: 5, self.end: 3, self.freeze: 3, self.server: 5, self.cut: 6, self.stall: 4, self.drop: 3,
            self.abandon: 3, self.slow: 3, self.refuse: 2, self.lock_table: 4, self.hold_clock: 2,
            self.old_snapshot: 2, self.disk_full: 3, self.role_limits: 2, self.terminate: 5, self.purge: 3,
            self.lose_rows: 4, self.refuse_values: 6, self.rewrite_mirror: 2, self.status: 2}

    def draw(self):
        event = self.chance.choices(list(self.kinds), list(self.kinds.values()))[0]
        one = self.chance.choice(self.world.mirrored)
        what, function = event(one)
        return f"{one.name}: {what}" if event not in (self.server, self.disk_full, self.role_limits) else what, function

    def steps(self, most=100):
        return self.chance.randint(3, most)

    # ---- the program ----

    def kill(self, one):
        if one.is_steady:
            return self.cut(one)
        return "kill -9", one.pipeline.kill

    def end(self, one):
        if one.is_steady:
            return self.cut(one)

        def end():
            if one.pipeline.is_running:
                self.thaw(one)
                one.is_ending_since = time.monotonic()
                one.pipeline.signal(signal.SIGTERM)
        return "SIGTERM", end

    def thaw(self, one):
        if one.is_stopped and one.pipeline.is_running:
            one.pipeline.signal(signal.SIGCONT)
        one.is_stopped = False

    def freeze(self, one):
        def freeze():
            if one.pipeline.is_running:
                one.pipeline.signal(signal.SIGSTOP)
                one.is_stopped = True
                self.world.later(steps, f"{one.name}: SIGCONT", lambda: self.thaw(one))
        steps = self.steps(300)
        return "SIGSTOP", freeze

    def purge(self, one):
        older = self.chance.choice([(), ("--older-than", "0s"), ("--older-than", "1s")])

        return f"tailwater purge {' '.join(older)}", lambda: self.world.verb(one, "purge", *older)

    def status(self, one):
        return "tailwater status", lambda: self.world.verb(one, "status", "--json")

    # ---- servers ----

    def server(self, _one):
        side = self.chance.choice(["source", "mirror"])
        how = self.chance.choice(["killed", "immediate", "fast"])
        steps = self.chance.choice([0, 20, 150])
        cluster = getattr(self.world, side)

        def start():
            if cluster.pid is None:
                if side == "mirror":
                    self.world.make_room()  # its recovery writes, and gives up on a full disk
                cluster.start()

        def stop():
            if cluster.pid is not None:
                cluster.kill() if how == "killed" else cluster.stop(how)
            self.world.later(steps, f"{side} server starts", start)
        return f"{side} server stops ({how})", stop

    def sql(self, cluster, statement, *params):
        """Where the server answers."""
        with contextlib.suppress(psycopg2.Error):
            return cluster.sql(statement, *params)
        return None

    def terminate(self, one):
        side, signal_name = self.chance.choice(["source", "mirror"]), self.chance.choice(["terminate", "cancel"])
        pick = self.chance.random()
        what = self.chance.choice(["%", "%", "%receiver%", "%applier%", "%lock%"])
        database = self.world.database.name if side == "source" else one.database.name

        def terminate():
            cluster = getattr(self.world, side)
            pids = self.sql(cluster, "select pid from pg_stat_activity where usename = %s and datname = %s "
                            "and application_name like %s order by application_name", REPLICATOR, database, what)
            if pids:
                self.sql(cluster, f"select pg_{signal_name}_backend({pids[int(pick * len(pids))][0]})")
        return f"pg_{signal_name}_backend of one of {what} on the {side}", terminate

    def role_limits(self, _one):
        side = self.chance.choice(["source", "mirror"])
        setting, value = self.chance.choice([
            ("statement_timeout", "30ms"), ("lock_timeout", "20ms"), ("idle_in_transaction_session_timeout", "50ms"),
            ("idle_session_timeout", "200ms"), ("work_mem", "64kB"), ("default_transaction_isolation", "serializable"),
            ("datestyle", "German"), ("bytea_output", "escape"), ("search_path", "public")])
        cluster = getattr(self.world, side)

        def limit():
            self.sql(cluster, f"alter role {REPLICATOR} set {setting} = '{value}'")
            self.sql(cluster, "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", REPLICATOR)
            self.world.later(steps, f"{side}: {setting} is taken back",
                             lambda: self.sql(cluster, f"alter role {REPLICATOR} reset {setting}"))
        steps = self.steps(250)
        return f"{side}: the role gets {setting} = {value}, and new sessions", limit

    # ---- the network ----

    def link(self, one):
        side = self.chance.choice(["source", "mirror"])
        name = self.chance.choice([None, *LINKS[side]])
        return one.proxies[side], name, f"{name or 'all'} to the {side}"

    def cut(self, one):
        proxy, name, title = self.link(one)
        return f"cut {title}", lambda: proxy.cut(name)

    def mended_later(self, one, verb, act):
        steps = self.steps(250)
        proxy, name, title = self.link(one)

        def start():
            act(proxy, name)
            self.world.later(steps, f"{one.name}: {title} is whole again", lambda: proxy.resume(name))
        return f"{verb} {title}", start

    def stall(self, one):
        return self.mended_later(one, "stall", lambda proxy, name: proxy.stall(name))

    def drop(self, one):
        return self.mended_later(one, "drop silently", lambda proxy, name: proxy.drop(name))

    def slow(self, one):
        delay, rate = self.chance.choice([0, 0.005, 0.05]), self.chance.choice([0, 200_000, 20_000])
        return self.mended_later(one, f"slow ({delay} s, {rate} bytes/s)",
                                 lambda proxy, name: proxy.slow(name, delay, rate))

    def abandon(self, one):
        proxy, name, title = self.link(one)
        seconds = self.chance.choice([0.3, 2, 5])
        return f"abandon {title} for {seconds} s", lambda: proxy.abandon(name, seconds)

    def refuse(self, one):
        proxy, _, title = self.link(one)
        steps = self.steps(200)

        def refuse():
            proxy.refuse(True)
            proxy.cut()
            self.world.later(steps, f"{one.name}: the network is there again", lambda: proxy.refuse(False))
        return f"no network ({title.rpartition(' ')[2]})", refuse

    # ---- the mirror ----

    def session(self, one, steps, title, *statements):
        """Somebody's transaction on the mirror, for some steps; False where the mirror is not there."""
        try:
            connection = one.database.connect(SUPERUSER)
            with connection.cursor() as cursor:
                cursor.execute("set lock_timeout = '2s'")
                for statement in statements:
                    cursor.execute(statement)
        except psycopg2.Error:
            return

        def end():
            with contextlib.suppress(psycopg2.Error):
                connection.rollback()
            connection.close()
        self.world.later(steps, f"{one.name}: {title} ends", end)

    def table(self):
        return self.chance.choice(MIRRORED)

    def lock_table(self, one):
        (schema, name), steps = self.table(), self.steps(300)
        mode = self.chance.choice(["access exclusive", "share", "row exclusive"])
        stored = f"{quoted('mirror_' + schema)}.{quoted(name)}"
        return f"lock on {name} ({mode})", lambda: self.session(
            one, steps, f"the lock on {name}", f"lock table {stored} in {mode} mode")

    def hold_clock(self, one):
        steps = self.steps(200)
        return "the clock's row is locked", lambda: self.session(
            one, steps, "the lock on the clock", "select from tailwater.clock for update")

    def old_snapshot(self, one):
        steps = self.steps(600)
        return "a long report", lambda: self.session(
            one, steps, "the report", "set transaction isolation level repeatable read",
            "select count(*) from public.plain")

    def rewrite_mirror(self, one):
        schema, name = self.table()
        stored = self.chance.choice([f"{quoted('mirror_' + schema)}.{quoted(name)}", "tailwater.clock"])

        def rewrite():
            with contextlib.suppress(psycopg2.Error):
                one.database.sql("set statement_timeout = '3s'", user=SUPERUSER)
                one.database.sql(f"vacuum full {stored}", user=SUPERUSER)
            one.database.close()
        return f"vacuum full {stored}", rewrite

    def lose_rows(self, one):
        """Rows vanish from a mirror table, and then change on the source, without their large values."""
        name, key = self.chance.choice([("plain", "id"), ("by_index", "k"), ("kept", "k"), ("words", "k"),
                                        ("nums", "k"), ("nocase", "k"), ("bigkeys", "k")])

        def lose():
            try:
                # A transaction of the traffic may have emptied the table, and waits for us to go on.
                self.world.database.sql("set lock_timeout = '20ms'")
                keys = [row[0] for row in self.world.database.sql(
                    f"select {key}::text from {name} where length(big) > 2000 order by 1 limit 5")]
                one.database.sql("set statement_timeout = '3s'", user=SUPERUSER)
                one.database.sql(f"delete from mirror_public.{name} where {key}::text = any(%s)", keys, user=SUPERUSER)
            except psycopg2.Error:
                return
            finally:
                one.database.close()
            self.touch(name, key, keys)
        return f"rows of {name} vanish from the mirror", lose

    def refuse_values(self, one):
        """The mirror refuses a value of a table that it has: that table is quarantined, and nothing else."""
        name, steps = self.chance.choice(["words", "plain", "uids", "pairs", "kept"]), self.steps(250)

        def alter(what):
            with contextlib.suppress(psycopg2.Error):
                one.database.sql("set lock_timeout = '2s'", user=SUPERUSER)
                one.database.sql(f"alter table mirror_public.{name} {what}", user=SUPERUSER)
                return True
            one.database.close()
            return False

        def end():
            if not alter("drop constraint if exists refuses"):
                self.world.later(5, f"{one.name}: {name} takes all values", end)
            elif one.database.sql("select from tailwater.mirror_table where name = %s and quarantine_lsn is not null",
                                  name):
                self.world.verb(one, "resync", f"public.{name}")

        def begin():
            with contextlib.suppress(psycopg2.Error):
                if not one.database.value("select state = 'ready' from tailwater.mirror_table where name = %s", name):
                    return  # the initial copy refuses what it cannot have
            if alter("add constraint refuses check (n <> 7) not valid"):
                one.may_be_quarantined.add(name)
                self.world.later(steps, f"{one.name}: {name} takes all values; resync if it is quarantined", end)
        return f"{name} takes no 7", begin

    def touch(self, name, key, keys):
        """Every row that is still there has to change: it is done when it is."""
        try:
            self.world.database.sql("set lock_timeout = '20ms'")
            self.world.database.sql(f"update {name} set n = coalesce(n, 0) / 2 + 1 where {key}::text = any(%s)", keys)
        except psycopg2.Error:
            self.world.later(3, f"rows of {name} are touched", lambda: self.touch(name, key, keys))

    def disk_full(self, _one):
        steps = self.steps(250)
        world = self.world

        def fill():
            if not world.disk:
                return
            with open(world.ballast, "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(bytes(65536))
            world.later(steps, "the mirror's disk has room", world.make_room)
        return "the mirror's disk is full" + ("" if world.disk else " (SKIPPED: not root)"), fill
