"""A mirror database with facts in it, and batches written by hand: the ledger without a replicator."""

import contextlib
import os
import subprocess
import threading

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from lib import wait
from lib.cluster import REPLICATOR
from lib.pipeline import BINARY

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "mirror_tool")

FRESH, FAN_OUT, BACKFILL = 0, 1, 2
ARRAY = 300  # keys of a row of arrays
KINDS = {FRESH: "stream", FAN_OUT: "fan-out", BACKFILL: "backfill"}

FENCED = "TW001"

# SQLSTATEs of the functions for consumers.
ISOLATION, UNKNOWN, NOT_OPEN, EVERYTHING, OUTSIDE, INVALID = \
    "TW010", "TW011", "TW012", "TW013", "TW014", "22023"


class Window:
    """What claim() gave."""

    def __init__(self, row):
        self.id, self.lane, self.first, self.last, self.keys, self.everything = row

    def __repr__(self):
        return f"Window({self.id}, lane {self.lane}, {self.first}-{self.last}, {self.keys}, " \
               f"everything={self.everything})"


class Ledger:
    """A pipeline's control schema.  Statements run as the replicator's role unless said otherwise."""

    def __init__(self, mirror, name="main", migrate=True):
        self.mirror, self.name = mirror, name
        self.role = f"consumer_{mirror.name}"
        if migrate:
            self.tool("migrate", "pipeline=7000000000000000000,shop,slot,wal2json", "slot=0/100")

    def tool(self, *steps, fault=None):
        """fault: where it kills itself, which it then must."""
        done = subprocess.run([TOOL, self.mirror.conninfo(), self.name, *steps],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60,
                              env={**os.environ, "TAILWATER_FAULT": f"{fault}=kill" if fault else ""})
        assert done.returncode == (-9 if fault else 0), done.stdout
        return done.stdout

    def retain(self, window_us=0, age_us=10**15, keys=10**12, fault=None):
        return self.tool(f"retain={window_us}:{age_us}:{keys}", fault=fault)

    def sql(self, query, *params, user=REPLICATOR):
        return self.mirror.sql(query, *params, user=user)

    def value(self, query, *params, user=REPLICATOR):
        return self.mirror.value(query, *params, user=user)

    def make_role(self):
        """A role that may consume and nothing else."""
        self.mirror.sql(f"create role {self.role} login")
        self.sql("select tailwater.grant_consumer(%s)", self.role)
        return self.role

    def drop_role(self):
        with contextlib.suppress(psycopg2.Error):
            self.mirror.sql(f"drop owned by {self.role}; drop role {self.role}")

    def connect(self, user=REPLICATOR, autocommit=False):
        connection = psycopg2.connect(self.mirror.conninfo(user))
        connection.autocommit = autocommit
        return connection

    # ---- writing ----

    def fact(self, name, tables=None, **key):
        """A fact with its ledger; key columns with their types, id bigint by default."""
        key = key or {"id": "bigint"}
        self.sql("insert into tailwater.fact (name, pipeline, schema, table_name, key_names, "
                 "key_types, definition, definition_hash) values (%s, %s, 'public', %s, %s, %s, "
                 "'{}', 'hash')", name, self.name, tables[0] if tables else name, list(key),
                 list(key.values()))
        for number, table in enumerate(tables or []):
            self.sql("insert into tailwater.fact_node (fact, node, name, schema, table_name, parent, "
                     "path) values (%s, %s, %s, 'public', %s, %s, %s)", name, number, table, table,
                     None if number == 0 else 0, None if number == 0 else f"{table}.id = x.{table}")
        self.sql("select tailwater.make_ledger(%s)", name)
        return self

    def write_in(self, cursor, fact, keys, lane=FRESH, node=0):
        """A batch in the caller's transaction; keys are values or tuples.  Its number."""
        cursor.execute("select tailwater.next_batch(%s)", (self.name,))
        number = cursor.fetchone()[0]
        rows = [(number, lane, node, *(key if isinstance(key, tuple) else (key,))) for key in keys]
        self.write_rows(cursor, fact, rows)
        cursor.execute("insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, "
                       "commit_time, changes, keys) values (%s, %s, %s, '0/100', '0/200', now(), %s, "
                       "%s)", (self.name, number, KINDS[lane], len(rows), len(rows)))
        return number

    @staticmethod
    def write_rows(cursor, fact, rows):
        """Of the fan-out lane as the expander does: the first by itself, the others as arrays."""
        single = [row for i, row in enumerate(rows) if row[1] != FAN_OUT or i == 0]
        others = rows[1:] if len(single) < len(rows) else []
        if single:
            psycopg2.extras.execute_values(
                cursor, f"insert into tailwater.ledger_{fact} values %s", single, page_size=10000)
        for begin in range(0, len(others), ARRAY):
            some = others[begin:begin + ARRAY]
            arrays = [list(parts) for parts in zip(*some)][3:]
            names = ", ".join(f'"keys${i + 1}"' for i in range(len(arrays)))
            cursor.execute(f"insert into tailwater.ledger_{fact} (batch_id, lane, node, {names}) values %s",
                           ((*some[0][:3], *arrays),))

    def write(self, fact, keys, lane=FRESH, node=0):
        with self.mirror.transaction(REPLICATOR) as cursor:
            return self.write_in(cursor, fact, keys, lane, node)

    def announce(self):
        """The number of a page of the fan-out lane that is about to be written."""
        return self.value("select tailwater.announce_page(%s)", self.name)

    def write_page_in(self, cursor, fact, keys, number, node=1):
        self.write_rows(cursor, fact, [(number, FAN_OUT, node, key) for key in keys])
        cursor.execute("select tailwater.finish_page(%s, %s, %s)", (self.name, number, len(keys)))

    def write_page(self, fact, keys, number):
        with self.mirror.transaction(REPLICATOR) as cursor:
            self.write_page_in(cursor, fact, keys, number)

    def say_everything(self, fact, reason="truncate of orders"):
        with self.mirror.transaction(REPLICATOR) as cursor:
            number = self.write_in(cursor, fact, [])
            cursor.execute("insert into tailwater.everything (fact, generation, batch_id, reason) "
                           "select name, generation, %s, %s from tailwater.fact where name = %s",
                           (number, reason, fact))
        return number

    def clock(self):
        return self.value("select batch_id from tailwater.clock where pipeline = %s", self.name)

    def skip_numbers(self, count):
        """As if so many batches had concerned no fact."""
        self.sql("update tailwater.clock set batch_id = batch_id + %s where pipeline = %s", count,
                 self.name)

    # ---- consuming ----

    def subscribe(self, consumer, fact, start="now", user=REPLICATOR):
        return self.value("select tailwater.subscribe(%s, %s, %s)", consumer, fact, start, user=user)

    def claim(self, consumer, fact, max_keys=100000, user=REPLICATOR):
        rows = self.sql("select * from tailwater.claim(%s, %s, %s)", consumer, fact, max_keys,
                        user=user)
        return Window(rows[0]) if rows else None

    def keys(self, consumer, fact, user=REPLICATOR):
        rows = self.sql(f"select * from tailwater.keys_{fact}(%s)", consumer, user=user)
        return [row[0] if len(row) == 1 else row for row in sorted(rows)]

    def ack(self, consumer, fact, window, user=REPLICATOR):
        self.sql("select tailwater.ack(%s, %s, %s)", consumer, fact, window.id, user=user)

    def release(self, consumer, fact, window):
        self.sql("select tailwater.release(%s, %s, %s)", consumer, fact, window.id)

    def take(self, consumer, fact, max_keys=100000):
        """Claim, read, acknowledge: (lane, keys); "everything"; None where there is nothing."""
        window = self.claim(consumer, fact, max_keys)
        if window is None:
            return None
        found = "everything" if window.everything else (window.lane, self.keys(consumer, fact))
        self.ack(consumer, fact, window)
        return found

    def take_all(self, consumer, fact, max_keys=100000):
        found = []
        while (window := self.take(consumer, fact, max_keys)) is not None:
            found.append(window)
        return found

    def partitions(self, fact):
        return [row[0] for row in self.sql(
            "select lower from tailwater.ledger_partitions(%s) where is_attached", fact)]


class Waiting:
    """A call in a thread, on a connection of its own, that is expected to wait for a lock."""

    def __init__(self, ledger, query, *params):
        self.connection = ledger.connect(autocommit=True)
        self.ledger, self.rows, self.error = ledger, None, None
        self.thread = threading.Thread(target=self._run, args=(query, params))
        self.thread.start()

    def _run(self, query, params):
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(query, params)
                self.rows = cursor.fetchall()
        except psycopg2.Error as error:
            self.error = error

    def until_it_waits(self):
        pid = self.connection.info.backend_pid
        wait.until(lambda: not self.thread.is_alive() or self.ledger.mirror.value(
            "select exists (select from pg_locks where pid = %s and not granted)", pid,
            user="postgres"), "a lock waited for")
        assert self.thread.is_alive(), "did not wait"
        return self

    def end(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.connection.close()
        if self.error:
            raise self.error
        return self.rows


@contextlib.contextmanager
def refused(state, *words):
    """The statement in the block fails with that SQLSTATE, a hint, and these words."""
    try:
        yield
    except psycopg2.Error as error:
        said = f"{error.diag.message_primary}\n{error.diag.message_hint}"
        assert error.pgcode == state, f"{error.pgcode}: {said}"
        assert error.diag.message_hint, said
        for word in words:
            assert word in said, said
    else:
        raise AssertionError(f"not refused with {state}")
