"""Throw-away PostgreSQL servers, and the databases in them.

A Cluster is one server in one folder (scripts/lib/cluster.sh makes and runs it, as postgres when we
are root).  A Database is one database of it, with the roles that the README tells people to
create: the tests run the program with those and never as a superuser.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time

import psycopg2
import psycopg2.extensions

from lib import wait

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "scripts", "lib", "cluster.sh")

SUPERUSER = "postgres"
OWNER = "app"  # owns the source's tables, and the publication
REPLICATOR = "tailwater"  # who the program is, on both sides
READER = "reports"  # who reads the live views


# The folders of other servers than the distribution's (scripts/test --server), by side.
SERVERS = {side: os.environ.get(f"TAILWATER_TEST_{side.upper()}_BINDIR")
           for side in ("source", "mirror")}


def script(*args, bindir=None):
    """cluster.sh, with the server programs of bindir."""
    env = dict(os.environ, TAILWATER_PG_BINDIR=bindir) if bindir else None
    done = subprocess.run(["bash", SCRIPT, *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"cluster.sh {' '.join(args)}: {done.stdout}")
    return done.stdout.strip()


def conninfo_value(value):
    """As libpq reads it: in quotes where it needs them."""
    text = str(value)
    if text and not any(c.isspace() or c in "'\\" for c in text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def tool(name):
    """A client program: those of the distribution, whatever the servers are."""
    if not hasattr(tool, "bindir"):
        tool.bindir = script("bindir")
    return os.path.join(tool.bindir, name)


class Cluster:
    """One server.  settings are lines of postgresql.conf; bindir is where its programs are."""

    def __init__(self, folder, bindir=None, **settings):
        self.folder = folder
        self.bindir = bindir
        self.settings = settings
        self.databases = []

    def __repr__(self):
        return f"Cluster({self.folder})"

    def create(self, template=None):
        """initdb, or a copy of a cluster that was made so (and never started)."""
        how = ["copy", template.folder] if template else ["create"]
        self.script(*how, self.folder, *(f"{k}={v}" for k, v in self.settings.items()))
        return self

    def script(self, *args):
        return script(*args, bindir=self.bindir)

    def start(self):
        self.script("start", self.folder)
        return self

    def stop(self, mode="fast"):
        """The tests' own connections are closed first, and made anew when next needed."""
        if self.pid is not None:
            self.hang_up()
            self.script("stop", self.folder, mode)

    def hang_up(self):
        for database in self.databases:
            database.close()

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def kill(self):
        """As after a crash: every server process is gone, nothing was flushed or said."""
        pid = self.pid
        if pid is None:
            return
        children = children_of(pid)
        for victim in [pid, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        wait.until(lambda: not any(is_alive(p) for p in [pid, *children]), "server processes gone")
        # Where nobody reaps orphans (some containers), what remains of the process looks alive to
        # pg_ctl and to the next server.
        for lock in ("data/postmaster.pid", ".s.PGSQL.5432.lock"):
            os.unlink(os.path.join(self.folder, lock))
        self.hang_up()

    @property
    def pid(self):
        try:
            with open(os.path.join(self.folder, "data", "postmaster.pid")) as f:
                pid = int(f.readline())
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_alive(pid) else None

    @property
    def log(self):
        try:
            with open(os.path.join(self.folder, "log"), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def set_hba(self, *lines):
        """Replace who may come in how ("local all tailwater scram-sha-256"), first match wins."""
        path = os.path.join(self.folder, "data", "pg_hba.conf")
        with open(path, "w") as f:
            f.write("\n".join(lines) + "\n")
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)

    def set(self, **settings):
        """ALTER SYSTEM and reload; None takes a setting back."""
        with self.connect() as connection, connection.cursor() as cursor:
            for name, value in settings.items():
                if value is None:
                    cursor.execute(f"alter system reset {name}")
                else:
                    cursor.execute(f"alter system set {name} = %s", (str(value),))
            cursor.execute("select pg_reload_conf()")

    @contextlib.contextmanager
    def no_standby(self):
        """Commits wait for a standby that is not there: they are in the WAL, and nobody sees them until the end of the block."""
        self.set(synchronous_standby_names="nobody")
        try:
            wait.until(lambda: self.sql("show synchronous_standby_names") == [("nobody",)], "the setting")
            yield
        finally:
            self.set(synchronous_standby_names=None)

    def conninfo(self, dbname="postgres", user=SUPERUSER, **more):
        words = {"host": self.folder, "port": 5432, "dbname": dbname, "user": user, **more}
        return " ".join(f"{k}={conninfo_value(v)}" for k, v in words.items())

    @contextlib.contextmanager
    def connect(self, dbname="postgres", user=SUPERUSER):
        connection = psycopg2.connect(self.conninfo(dbname, user))
        connection.autocommit = True
        try:
            yield connection
        finally:
            connection.close()

    def sql(self, query, *params):
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(query, params or None)
            return cursor.fetchall() if cursor.description else None

    @property
    def major(self):
        """The major version of the server."""
        return int(self.sql("show server_version_num")[0][0]) // 10000

    def has_library(self, name):
        """Can the server load it?  For what comes in packages of its own, like wal2json."""
        folder = self.sql("select setting from pg_config where name = 'PKGLIBDIR'")[0][0]
        return os.path.exists(os.path.join(folder, f"{name}.so"))

    def make_standby(self, folder, **settings):
        """A standby of this server, which is restarted for that; the standby is not started yet."""
        settings.setdefault("primary_conninfo", self.conninfo().replace("'", ""))
        standby = Cluster(folder, bindir=self.bindir, **settings)
        self.stop()
        self.script("copy", self.folder, folder, *(f"{k}={v}" for k, v in settings.items()))
        # A standby has none of its primary's slots, but for those that it keeps a copy of.
        slots = os.path.join(folder, "data", "pg_replslot")
        for slot in os.listdir(slots):
            shutil.rmtree(os.path.join(slots, slot))
        open(os.path.join(folder, "data", "standby.signal"), "w").close()
        self.start()
        return standby

    def make_roles(self):
        """The roles of both sides; each database grants them what they need there."""
        self.sql(f"create role {OWNER} login")
        self.sql(f"create role {REPLICATOR} login replication")
        self.sql(f"create role {READER} login")
        return self

    @functools.cached_property
    def quickly(self):
        """How to make a database without writing all of it to the WAL, which is what it costs."""
        return "strategy file_copy" if self.major >= 15 else ""

    def create_source(self, name):
        """A database of an application: its owner's tables are readable by the replicator."""
        self.sql(f"create database {name} owner {OWNER} {self.quickly}")
        database = Database(self, name, OWNER)
        database.sql(f"""
            grant create, usage on schema public to {OWNER};
            grant usage on schema public to {REPLICATOR};
            alter default privileges for role {OWNER} grant usage on schemas to {REPLICATOR};
            alter default privileges for role {OWNER} grant select on tables to {REPLICATOR};
            """, user=SUPERUSER)
        return database

    def create_mirror(self, name):
        """An empty database in which the replicator may create its schemas and views."""
        self.sql(f"create database {name} {self.quickly}")
        database = Database(self, name, SUPERUSER)
        database.sql(f"""
            grant create on database {name} to {REPLICATOR};
            grant create, usage on schema public to {REPLICATOR};
            """)
        return database


class Database:
    """One database.  Statements run as user unless another is named, each in its own transaction."""

    def __init__(self, cluster, name, user):
        self.cluster = cluster
        self.name = name
        self.user = user
        self._connections = {}
        cluster.databases.append(self)

    def __repr__(self):
        return f"Database({self.name} in {self.cluster.folder})"

    def conninfo(self, user=REPLICATOR, **more):
        return self.cluster.conninfo(self.name, user, **more)

    def connection(self, user=None):
        """A kept autocommit connection of a role, made anew after a server restart."""
        user = user or self.user
        connection = self._connections.get(user)
        if connection is None or connection.closed:
            connection = psycopg2.connect(self.conninfo(user))
            connection.autocommit = True
            self._connections[user] = connection
        return connection

    def connect(self, user=None):
        """A connection of the caller's own, not in autocommit; the caller closes it."""
        return psycopg2.connect(self.conninfo(user or self.user))

    def close(self):
        for connection in self._connections.values():
            with contextlib.suppress(psycopg2.Error):
                connection.close()
        self._connections.clear()

    def sql(self, query, *params, user=None):
        """Run one or several statements; the rows of the last, as tuples, or None."""
        with self.connection(user).cursor() as cursor:
            cursor.execute(query, params or None)
            return cursor.fetchall() if cursor.description else None

    def value(self, query, *params, user=None):
        """The one value of a one-row answer; None where there is no row."""
        rows = self.sql(query, *params, user=user)
        return rows[0][0] if rows else None

    @contextlib.contextmanager
    def transaction(self, user=None):
        """A cursor in one transaction, committed at the end of the block."""
        connection = self.connect(user)
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def copy_out(self, query, user=None):
        """The lines of COPY (query) TO STDOUT, as bytes."""
        lines = Lines()
        with self.connection(user).cursor() as cursor:
            cursor.copy_expert(f"copy ({query}) to stdout", lines)
        return lines.all()

    def lsn(self):
        """The source's position: everything committed so far is before it."""
        return self.value("select pg_current_wal_flush_lsn()::text", user=SUPERUSER)

    def drop(self):
        """Away with it, its slots and whoever is still connected."""
        self.close()
        self.cluster.databases.remove(self)
        deadline = time.monotonic() + 20
        while True:
            try:
                for slot, pid in self.cluster.sql(
                        "select slot_name, active_pid from pg_replication_slots where database = %s",
                        self.name):
                    if pid is not None:
                        self.cluster.sql("select pg_terminate_backend(%s)", pid)
                    self.cluster.sql("select pg_drop_replication_slot(%s)", slot)
                self.cluster.sql(f"drop database if exists {self.name} with (force)")
                return
            except psycopg2.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class Lines:
    """A file for psycopg2's COPY that gives whole lines."""

    def __init__(self):
        self.parts = []

    def write(self, data):
        self.parts.append(data if isinstance(data, bytes) else data.encode())

    def all(self):
        text = b"".join(self.parts)
        return text.split(b"\n")[:-1]


def children_of(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                    open(f"/proc/{name}/stat") as f:
                if int(f.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def is_alive(pid):
    """Is there such a process, and not only its remains?"""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False
