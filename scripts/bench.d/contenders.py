"""Who is measured.  Each contender consumes the same backlog, from a slot of its own.

prepare() is called once, before the backlog exists: it makes a base database (the mirror as it is
before the backlog) and a base slot.  Every round then works on copies of both: reset() makes them,
which is not timed, and run() is.
"""

import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from lib import wait  # noqa: E402
from lib.cluster import Database, SUPERUSER, tool  # noqa: E402
from lib.pipeline import Pipeline  # noqa: E402

DECODE_MEMORY = "256MB"  # what tailwater asks for; decode-only gets the same, native its default

WAL2JSON_OPTIONS = {
    "format-version": "2", "include-transaction": "1", "include-lsn": "1", "include-xids": "1",
    "include-timestamp": "1", "include-types": "0", "include-type-oids": "1", "include-pk": "1",
}


class Contender:
    """name is the table's column; fills says whether it leaves a mirror that can be compared; needs
    names contenders whose preparation this one uses."""

    fills = False
    needs = ()

    def __init__(self, bench):
        self.bench = bench
        self.source, self.target = bench.source, bench.mirror_cluster

    @property
    def base(self):
        return "base_" + self.name.replace("-", "_")

    @property
    def live(self):
        return "live_" + self.name.replace("-", "_")

    def copy_database(self, template=None):
        self.target.sql(f"drop database if exists {self.live} with (force)")
        self.target.sql(f"create database {self.live} template {template or self.base}")
        return Database(self.target, self.live, SUPERUSER)

    def copy_slot(self, slot):
        """The slot as it was before the backlog.  (A copy belongs to the database it is made in.)"""
        self.source.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots "
                        "where slot_name = %s", slot, user=SUPERUSER)
        self.source.sql("select pg_copy_logical_replication_slot(%s, %s)", slot + "_base", slot,
                        user=SUPERUSER)

    def keep_slot(self, slot):
        self.source.sql("select pg_copy_logical_replication_slot(%s, %s)", slot, slot + "_base",
                        user=SUPERUSER)

    def make_slot(self, slot, plugin):
        """Before the backlog; slots belong to the database they are made in."""
        self.source.sql("select pg_create_logical_replication_slot(%s, %s)", slot + "_base", plugin,
                        user=SUPERUSER)

    def wait_idle(self, slot):
        wait.until(lambda: self.source.cluster.sql(
            "select 1 from pg_replication_slots where slot_name = %s and not active", slot),
            f"{slot} inactive", 30)

    def stop(self):
        """Whatever start() started."""

    def discard(self):
        """The round's database."""
        self.database.close()
        self.target.sql(f"drop database if exists {self.live} with (force)")

    def finish(self):
        self.stop()
        self.discard()


def until_done(database, number, deadline=900):
    """The backlog's last transaction inserts into done: once it is visible, all of it is."""
    wait.until(lambda: database.value("select 1 from done where id = %s", number),
               f"{database.name} complete", deadline, every=0.005)


class Native(Contender):
    """CREATE SUBSCRIPTION with its defaults."""

    name, fills, slot = "native", True, "native"

    def prepare(self):
        self.target.sql(f"create database {self.base}")
        base = Database(self.target, self.base, SUPERUSER)
        base.sql(self.bench.schema)
        self.bench.copy_tables(self.source, base)
        base.sql("vacuum analyze")
        base.close()
        self.make_slot(self.slot, "pgoutput")

    def reset(self):
        self.database = self.copy_database()
        self.copy_slot(self.slot)
        self.database.sql(f"""create subscription bench connection '{self.source.conninfo(SUPERUSER)}'
            publication bench with (create_slot = false, slot_name = {self.slot}, enabled = false,
                                    copy_data = false)""")

    def start(self):
        self.database.sql("alter subscription bench enable")

    def run(self):
        start = time.monotonic()
        self.start()
        until_done(self.database, self.bench.sentinel)
        return time.monotonic() - start

    def stop(self):
        self.database.sql("alter subscription bench disable")
        self.wait_idle(self.slot)

    def discard(self):
        self.database.sql("alter subscription bench set (slot_name = none)")
        self.database.sql("drop subscription bench")
        super().discard()


def pipeline_of(bench, database, name, plugin, **keys):
    """With the program's defaults (the tests' have a quicker heartbeat)."""
    return Pipeline(os.path.join(bench.folder, f"{database.name}_{name}"), bench.source, database,
                    name, plugin, ["public.item", "public.done"], bench.binary,
                    **{"source": {"heartbeat": "auto"}, **keys})


class Tailwater(Contender):
    """tailwater run, with the configuration of the README."""

    fills = True

    def __init__(self, bench, plugin, **keys):
        super().__init__(bench)
        self.plugin = plugin
        self.name = f"tailwater-{plugin}"
        self.keys = keys

    def pipeline_on(self, database):
        return pipeline_of(self.bench, database, f"bench_{self.plugin}", self.plugin, **self.keys)

    def prepare(self):
        base = self.target_mirror(self.base)
        pipeline = self.pipeline_on(base)
        pipeline.publish()
        pipeline.run_until_now(timeout=900)
        self.keep_slot(pipeline.slot)
        base.sql("vacuum analyze")
        base.close()

    def target_mirror(self, name):
        return self.target.create_mirror(name)

    def reset(self):
        self.database = self.copy_database()
        self.pipeline = self.pipeline_on(self.database)
        self.copy_slot(self.pipeline.slot)

    def start(self):
        self.pipeline.start()

    def run(self):
        start = time.monotonic()
        self.start()
        until_done(self.database, self.bench.sentinel)
        took = time.monotonic() - start
        self.peak_kb = self.pipeline.peak_memory_kb()
        return took

    def stop(self):
        self.pipeline.stop()
        self.wait_idle(self.pipeline.slot)


class Decode(Contender):
    """pg_recvlogical to nowhere: nobody who reads the stream can be faster."""

    def __init__(self, bench, plugin):
        super().__init__(bench)
        self.plugin = plugin
        self.name = f"decode-{plugin}"
        self.slot = f"decode_{plugin}"

    def prepare(self):
        self.make_slot(self.slot, self.plugin)

    def reset(self):
        self.copy_slot(self.slot)

    def command(self, file):
        options = ({"proto_version": "1", "publication_names": "bench"} if self.plugin == "pgoutput"
                   else {**WAL2JSON_OPTIONS, "add-tables": "public.item,public.done"})
        command = [tool("pg_recvlogical"), "-d", self.source.conninfo(SUPERUSER), "-S", self.slot,
                   "--start", "--no-loop", "-f", file, "-F", "0", "-E", self.bench.end]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return command

    @staticmethod
    def environment():
        return {**os.environ, "PGOPTIONS": f"-c logical_decoding_work_mem={DECODE_MEMORY}"}

    def run(self):
        start = time.monotonic()
        done = subprocess.run(self.command("/dev/null"), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, env=self.environment())
        took = time.monotonic() - start
        if done.returncode != 0:
            raise RuntimeError(f"pg_recvlogical: {done.stderr}")
        return took

    def first_byte(self):
        """Until the source sends anything: it sends a transaction when it has read all of it."""
        self.reset()
        start = time.monotonic()
        reader = subprocess.Popen(self.command("-"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  env=self.environment())
        reader.stdout.read(1)
        took = time.monotonic() - start
        reader.kill()
        reader.communicate()
        self.stop()
        return took

    def stop(self):
        self.wait_idle(self.slot)

    def discard(self):
        pass


class Write(Contender):
    """The same rows written by hand-written SQL into the same mirror table, without decoding.

    COPY for inserts; updates and deletes one statement per 5000 rows, over unnest, by key.  The
    statements are made before the clock starts.  Transactions of the source are bundled by 5000.
    """

    name = "write-only"
    needs = ("tailwater-pgoutput",)

    def prepare(self):
        pass

    def reset(self):
        self.database = self.copy_database("base_tailwater_pgoutput")
        self.transactions = self.bench.workload.writes(self.bench)

    def run(self):
        connection = self.database.connect(SUPERUSER)
        start = time.monotonic()
        with connection.cursor() as cursor:
            for transaction in self.transactions:
                for sql, rows in transaction:
                    if rows is None:
                        cursor.execute(sql)
                    else:
                        cursor.copy_expert(sql, rows)
                connection.commit()
        took = time.monotonic() - start
        connection.close()
        return took


def everyone(bench):
    return [Native(bench), Tailwater(bench, "pgoutput"), Tailwater(bench, "wal2json"),
            Decode(bench, "pgoutput"), Decode(bench, "wal2json"), Write(bench)]
