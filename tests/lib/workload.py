"""What an application does to its database, at random, and the same again from the same seed.

Workload is one scheduler of several sessions: each step runs one statement in one of them, so that
their transactions interleave in an order that the seed decides.  Nobody waits for a lock longer
than a moment (lock_timeout): then the statement has failed, as one that meets a conflict has, and
the session rolls back, to a savepoint or altogether.  What the statements do to the source is the
source's to say; there is no model here.  The mirror has to be equal in the end.

SCHEMA has a table for every kind of key, and the shapes that are special to logical decoding.
"""

import contextlib
import io
import random

import psycopg2

SCHEMA = """
create schema aside;
create schema "Sc h";
create type mood as enum ('sad', 'ok', 'hap''py');
create type addr as (street text, no int);

create table plain (id bigint primary key, n int, t text, big text, j jsonb, at timestamptz);
create table words (k text primary key, n int, big text);
create table nums (k numeric primary key, n int, big text);
create table floats (k float8 primary key, n int, big text);
create table spans (k interval primary key, n int, big text);
create table nocase (k citext primary key, n int, big text);
create table pairs (n int, a int, b text, big text, primary key (b, a));
create table uids (n int, k uuid primary key, big text);
create table bigkeys (k text primary key, n int, big text);
create table only_key (k int primary key);
create table by_index (id int primary key, k int not null, n int, big text);
create unique index by_index_k on by_index (k);
alter table by_index replica identity using index by_index_k;
create table by_full (k int primary key, n int, big text);
alter table by_full replica identity full;
create table by_choice (n int, k int not null, big text, s text);
create unique index by_choice_k on by_choice (k);
alter table by_choice replica identity full;
create table computed (k int primary key, n int, m int, big text,
    s int generated always as (n + m) stored, u text generated always as (upper(big)) stored);
create table rich (k int primary key, m mood, a addr, i int[], t text[], mm mood[], r int4range,
    b bytea, f float8, e numeric, d date, v interval, x xml, bits varbit, ip inet, j json, big text);
create table unique_value (k int primary key, n int, big text, u int,
    unique (u) deferrable initially deferred);
create table kept (k int primary key, n int, big text);
create table kept_nums (k numeric primary key, n int, big text);
create table archive (k int primary key, n int, big text);
create table parent (k int primary key, n int, big text);
create table child (k int primary key, n int, big text,
    p int references parent on delete cascade on update cascade);
create table "Sc h"."We""ird.Ta ble" (k int primary key, "x.y z" int, big text);
create table parts (k int, region text, n int, big text, primary key (k, region)) partition by list (region);
create table parts_eu partition of parts for values in ('eu');
create table parts_us (big text, dropped int, region text not null, n int, k int not null)
    partition by hash (k);
alter table parts_us drop column dropped;
create table parts_us0 partition of parts_us for values with (modulus 2, remainder 0);
create table parts_us1 partition of parts_us for values with (modulus 2, remainder 1);
alter table parts attach partition parts_us for values in ('us');
create table debit (k int primary key, n bigint not null);
create table credit (k int primary key, n bigint not null);
insert into debit select k, 0 from generate_series(1, 10) k;
insert into credit select k, 0 from generate_series(1, 10) k;

create table aside.noise (k int primary key, n int);
-- What archive looks like to somebody who never saw a delete or a truncate.
create table aside.archive_seen (k int primary key, n int, big text);
create function aside.see() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.k <> new.k then
        delete from aside.archive_seen where k = old.k;
    end if;
    insert into aside.archive_seen values (new.k, new.n, new.big)
        on conflict (k) do update set n = excluded.n, big = excluded.big;
    return null;
end $$;
create trigger see after insert or update on archive for each row execute function aside.see();
"""

EXTERNAL = ("plain", "words", "nums", "floats", "spans", "nocase", "pairs", "uids", "by_index", "by_full",
            "by_choice", "computed", "rich", "unique_value", "kept", "kept_nums", "archive", "parent",
            "child", '"Sc h"."We""ird.Ta ble"', "parts_eu", "parts_us0", "parts_us1")

TABLES = [  # of the configuration
    "public.*",
    '"Sc h".*',
    {"name": "public.kept", "purge_after": "7d"},
    {"name": "public.kept_nums", "purge_after": "7d"},
    {"name": "public.archive", "deletes": "ignore", "truncate": "ignore"},
    {"name": "public.by_choice", "key": ["k"]},
]

MIRRORED = [("public", name) for name in (
    "plain words nums floats spans nocase pairs uids bigkeys only_key by_index by_full by_choice computed "
    "rich unique_value kept kept_nums archive parent child parts debit credit").split()] + [
    ("Sc h", 'We"ird.Ta ble')]

# The mirror of a table whose deletes are ignored, and what it has to be equal to.
SEEN = {("public", "archive"): ("aside", "archive_seen")}

# Debits and credits are always moved together: whoever sees another sum sees half a transaction.
BALANCE = "select (select sum(n) from public.debit) + (select sum(n) from public.credit)"

NASTY = ["", " ", "a", "it's", 'qu"ote', "back\\slash", "\\N", "\\.", "tab\there", "line\nfeed", "{a,b}",
         "(x,)", "ünïcode ☃", "\U0001f600", "null", "NULL", "\x01", "%s", "$1", "a,b", "\r", "\x7f"]


def text(value):
    """A string as SQL."""
    return "'" + value.replace("'", "''") + "'"


class Values:
    """SQL of random values."""

    def __init__(self, rng):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)

    def n(self):
        return self.pick("null", "0", "-1", "7", "2147483647", str(self.rng.randrange(1000)))

    def nasty(self):
        return text(self.rng.choice(NASTY))

    def big(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.1:
            return "null"
        if kind < 0.4:
            return self.nasty()
        letter = rng.choice("abxyz")
        size = rng.choice([1900, 2500, 2500, 3000, 9000])
        if rng.random() < 0.02:
            size = 120000
        return f"repeat('{letter}{rng.randrange(1000)}', {size // 4})"

    def rich(self):
        p = self.pick
        return [
            p("'sad'", "'ok'", "'hap''py'", "null"),
            p("null", "row('a b', 1)", "row(null, null)", "row('q\"uo,te()\\', -1)", "row('', 0)"),
            p("null", "'{}'", "'{1,null,3}'", "'{{1,2},{3,4}}'", "'[2:3]={5,6}'"),
            p("null", "'{}'", "array['a,b', 'c\"d', null, '', '\\', '{']"),
            p("null", "'{sad,ok}'", "array['hap''py'::mood, null]"),
            p("null", "'empty'", "'[1,5)'", "'(,)'", "'[3,)'"),
            p("null", "''", "'\\x00ff5c27'", "decode(repeat('00ff27', 1000), 'hex')"),
            p("null", "0", "'-0'", "1e300", "0.1", "5e-324"),
            p("null", "0", "1.0", "1.00", "-0.00001", "1e40", "12345678901234567890.123456789"),
            p("null", "'2024-02-29'", "'0044-03-15 BC'", "'infinity'", "'-infinity'"),
            p("null", "'1 day'", "'24:00:00'", "'-1 mon +3 days 04:05:06.7'"),
            p("null", "'<a b=\"c\">&amp;d</a>'"),
            p("null", "B''", "B'10110'"),
            p("null", "'10.0.0.1'", "'::1/64'"),
            p("null", "'{\"a\":  [1, \"\\u00e9\\n\"]}'", "'[]'", "'1'"),
            self.big(),
        ]


class Keys:
    """Keys of one kind, as SQL: few enough that sessions meet, and now and then a new one."""

    def __init__(self, pool, fresh=None, chance=0.15):
        self.pool, self.fresh, self.chance = pool, fresh, chance
        self.made = 0

    def one(self, rng):
        if self.fresh is not None and rng.random() < self.chance:
            self.made += 1
            return self.fresh(self.made)
        return rng.choice(self.pool)


def integers(count=40):
    return Keys([str(i) for i in range(1, count)], lambda i: str(100000 + i))


class Table:
    """How to write to one table: its key columns, the columns beside them, and their values."""

    def __init__(self, name, keys, columns=None, key=("k",), values=None, weight=1.0, may_truncate=True,
                 bulk=None):
        self.name, self.keys, self.key = name, keys, key
        self.columns = columns or ["n", "big"]
        self.values = values
        self.weight, self.may_truncate = weight, may_truncate
        self.bulk = bulk  # the key as SQL over generate_series' i

    def row(self, v):
        if self.values:
            return self.values(v)
        return [v.big() if column == "big" else v.n() for column in self.columns]

    def new_key(self, rng):
        key = self.keys.one(rng)
        return key if isinstance(key, tuple) else (key,)

    def match(self, key):
        return " and ".join(f"{column} = {value}" for column, value in zip(self.key, key))


def make_tables():
    uuids = [f"'{i:08x}-0000-4000-8000-{i:012x}'" for i in range(1, 30)]
    numbers = ["0", "0.0", "1", "1.0", "1.00", "-2.50", "-2.5", "1e10", "10000000000", "0.001", "12.3", "3", "4"]
    return [
        Table("plain", Keys([str(i) for i in range(1, 80)], lambda i: str(2**40 + i), 0.3),
              ["n", "t", "big", "j", "at"], key=("id",), weight=3, bulk="100000000 + {base} + i",
              values=lambda v: [v.n(), v.nasty(), v.big(), v.pick("null", "'{\"a\": [1, null]}'", "'\"x\"'"),
                                v.pick("null", "'2024-01-01 00:00:00.123456+02'", "'infinity'")]),
        Table("words", Keys([text(w) for w in NASTY]), weight=1.5),
        Table("nums", Keys(numbers), weight=2),
        Table("floats", Keys(["0", "'-0'", "1.5", "1e300", "-7", "0.1", "'1e-310'"])),
        Table("spans", Keys(["'1 day'", "'24 hours'", "'1 mon'", "'30 days'", "'-1 day'", "'0'"])),
        Table("nocase", Keys(["'A'", "'a'", "'aB'", "'Ab'", "'ß'", "'Ü'", "'ü'", "''", "'c d'"]), weight=2),
        Table("pairs", Keys([(str(a), text(b)) for a in range(1, 5) for b in ("", "x", "X", "y'y")]),
              key=("a", "b"), weight=1.5),
        Table("uids", Keys(uuids, lambda i: f"'ffffffff-0000-4000-8000-{i:012x}'"), bulk=None),
        Table("bigkeys", Keys([f"repeat('{c}', 2400)" for c in "abcdefgh"] + ["'small'"]), weight=1.5),
        Table("only_key", integers(15), columns=[]),
        Table("by_index", integers(), ["id", "n", "big"], weight=1.5,
              values=lambda v: [str(v.rng.randrange(1, 60)), v.n(), v.big()]),
        Table("by_full", integers(), weight=1.5),
        Table("by_choice", integers(), ["n", "big", "s"],
              values=lambda v: [v.n(), v.big(), v.nasty()]),
        Table("computed", integers(), ["n", "m", "big"],
              values=lambda v: [str(v.rng.randrange(1000)), v.pick("null", "5"), v.big()]),
        Table("rich", integers(25),
              ["m", "a", "i", "t", "mm", "r", "b", "f", "e", "d", "v", "x", "bits", "ip", "j", "big"],
              values=Values.rich, weight=2),
        Table("unique_value", integers(), ["n", "big", "u"],
              values=lambda v: [v.n(), v.big(), v.pick("null", str(v.rng.randrange(60)))]),
        Table("kept", integers(), weight=2, bulk="100000000 + {base} + i"),
        Table("kept_nums", Keys(numbers)),
        Table("archive", integers(), weight=1.5, bulk="100000000 + {base} + i"),
        Table("parent", integers(20), may_truncate=False),
        Table("child", integers(), ["n", "big", "p"],
              values=lambda v: [v.n(), v.big(), v.pick("null", str(v.rng.randrange(1, 20)))]),
        Table('"Sc h"."We""ird.Ta ble"', integers(), ['"x.y z"', "big"]),
        Table("parts", Keys([(str(k), f"'{r}'") for k in range(1, 25) for r in ("eu", "us")]),
              key=("k", "region"), weight=2.5),
    ]


class CopyIn:
    """A COPY FROM STDIN and what it is given."""

    def __init__(self, sql, data):
        self.sql, self.data = sql, data


class Session:
    """One connection of the application."""

    def __init__(self, number):
        self.number = number
        self.connection = None
        self.is_open = False  # a transaction is
        self.savepoints = 0
        self.statements = 0

    def connect(self, database):
        self.connection = psycopg2.connect(database.conninfo(
            user=database.user, options="-c lock_timeout=12ms -c statement_timeout=20s"))
        self.connection.autocommit = True
        self.is_open = False
        self.savepoints = self.statements = 0

    def run(self, sql):
        with self.connection.cursor() as cursor:
            if isinstance(sql, CopyIn):
                cursor.copy_expert(sql.sql, io.StringIO(sql.data))
            else:
                cursor.execute(sql)

    def end(self, how):
        self.is_open = False
        self.savepoints = self.statements = 0
        self.run(how)

    def leave(self):
        if self.connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self.connection.close()
        self.connection = None
        self.is_open = False


class Workload:
    """The scheduler.  database is the source's, as the tables' owner; large is the size of a bulk."""

    def __init__(self, database, seed, sessions=5, large=600, prefix="app",
                 has_merge=True):
        self.database = database
        self.rng = random.Random(f"{seed}/work")
        self.values = Values(self.rng)
        self.tables = make_tables()
        self.sessions = [Session(i) for i in range(sessions)]
        self.large, self.prefix = large, prefix
        self.prepared = {}  # gid → step
        self.steps = self.failed = self.transactions = self.statements = 0
        self.base = self.made = 0
        self.regions = ["eu", "us"]
        self.on_statement = None  # for a trace
        weights = {
            self.insert: 20, self.upsert: 8, self.update: 22, self.update_big: 6, self.no_op: 4, self.change_key: 12,
            self.swap_keys: 5, self.delete: 9, self.replace: 6, self.ephemeral: 3, self.truncate: 1.2, self.copy: 2,
            self.bulk: 1.2, self.subtransactions: 3, self.savepoint: 5, self.rollback_to: 3, self.release: 1.5,
            self.message: 2, self.new_partition: 0.3, self.noise: 3, self.move: 10, self.move_region: 3,
            self.change_parent: 2, self.merge: 3 if has_merge else 0, self.many: 3, self.rewrite: 0.15}
        self.operations = list(weights)
        self.weights = list(weights.values())

    def create(self):
        """The tables, as the owner, and their first rows."""
        self.database.sql("create extension citext", user="postgres")
        self.database.sql(SCHEMA)
        for name in EXTERNAL:
            self.database.sql(f"alter table {name} alter big set storage external")
        self.database.sql("alter table bigkeys alter k set storage external")
        for table in self.tables:
            for _ in range(12):
                with contextlib.suppress(psycopg2.Error):
                    self.database.sql(self.insert(table))
        return self

    # ---- one step ----

    def step(self):
        """One statement of one session; False when the source is not there."""
        self.steps += 1
        session = self.rng.choice(self.sessions)
        # Drawn whether or not the source answers: what follows must not depend on that.
        dice, operation = self.rng.random(), self.rng.choices(self.operations, self.weights)[0]
        sql = operation(self.rng.choices(self.tables, [t.weight for t in self.tables])[0])
        try:
            if session.connection is None or session.connection.closed:
                session.connect(self.database)
            self._advance(session, dice, sql, operation)
            return True
        except psycopg2.Error as error:
            return self._failed(session, error)

    def _advance(self, session, dice, sql, operation):
        if not session.is_open and dice < 0.55:
            session.run("begin" if dice < 0.5 else "begin isolation level repeatable read")
            session.is_open = True
        if session.is_open and session.statements and dice > 0.75:
            self._finish(session, dice)
        elif sql is None:
            self._savepoint(session, operation)
        else:
            self._statement(session, sql)

    def _statement(self, session, sql):
        if self.on_statement:
            self.on_statement(session, sql)
        if isinstance(sql, tuple):  # not in a transaction
            if not session.is_open:
                session.run(sql[0])
        elif not session.is_open and isinstance(sql, list):
            session.run("begin")
            session.is_open = True
            for one in sql:
                session.run(one)
            session.end("commit")
        else:
            for one in sql if isinstance(sql, list) else [sql]:
                session.run(one)
        session.statements += 1
        self.statements += 1

    def _savepoint(self, session, operation):
        if not session.is_open:
            return
        name = f"s{session.savepoints}"
        if operation == self.savepoint:
            session.savepoints += 1
            session.run(f"savepoint s{session.savepoints}")
        elif session.savepoints and operation == self.rollback_to:
            session.run(f"rollback to {name}")
        elif session.savepoints:
            session.run(f"release {name}")
            session.savepoints -= 1

    def _finish(self, session, dice):
        self.transactions += 1
        if dice > 0.98:
            session.end("rollback")
        elif dice > 0.94:
            gid = f"{self.prefix}{self.steps}"
            session.end(f"prepare transaction '{gid}'")
            self.prepared[gid] = self.steps
        else:
            session.end("commit")
        for gid, step in list(self.prepared.items()):
            if self.steps - step > 25:
                self._finish_prepared(session, gid, "commit" if step % 4 else "rollback")

    def _finish_prepared(self, session, gid, how):
        del self.prepared[gid]
        with contextlib.suppress(psycopg2.errors.UndefinedObject):
            session.run(f"{how} prepared '{gid}'")

    def _failed(self, session, error):
        self.failed += 1
        if session.connection is None or session.connection.closed or error.pgcode is None:
            session.leave()
            return False
        try:
            if session.is_open and session.savepoints:
                session.run(f"rollback to s{session.savepoints}")
            elif session.is_open:
                session.end("rollback")
        except psycopg2.Error:
            session.leave()
            return False
        return True

    def settle(self):
        """Every transaction ends, in a way that the seed decides."""
        for session in self.sessions:
            how = self.rng.choice(["commit", "commit", "rollback"])
            if session.connection is not None and not session.connection.closed and session.is_open:
                try:
                    session.end(how)
                except psycopg2.Error:
                    session.leave()
        how = self.rng.choice(["commit", "rollback"])
        for (gid,) in self.database.sql("select gid from pg_prepared_xacts where database = current_database()",
                                        user="postgres"):
            self.database.sql(f"{how} prepared '{gid}'", user="postgres")
        self.prepared.clear()

    def close(self):
        for session in self.sessions:
            session.leave()

    # ---- statements; a list is of one transaction, a tuple of none, None is about savepoints ----

    def _tuple(self, table, key=None):
        key = key or table.new_key(self.rng)
        return "(" + ", ".join([*key, *table.row(self.values)]) + ")"

    def _names(self, table):
        return ", ".join([*table.key, *table.columns])

    def _or_nothing(self, table):
        """A deferrable constraint cannot be the one that says that a row is there."""
        return "on conflict (k) do nothing" if table.name == "unique_value" else "on conflict do nothing"

    def insert(self, table):
        rows = ", ".join(self._tuple(table) for _ in range(self.rng.choice([1, 1, 2, 5])))
        return f"insert into {table.name} ({self._names(table)}) values {rows} {self._or_nothing(table)}"

    def upsert(self, table):
        if not table.columns:
            return self.insert(table)
        sets = ", ".join(f"{c} = excluded.{c}" for c in self.rng.sample(table.columns, 1 + len(table.columns) // 2))
        return (f"insert into {table.name} ({self._names(table)}) values {self._tuple(table)} "
                f"on conflict ({', '.join(table.key)}) do update set {sets}")

    def _set(self, table, columns):
        row = dict(zip(table.columns, table.row(self.values)))
        return ", ".join(f"{column} = {row[column]}" for column in columns)

    def update(self, table):
        small = [c for c in table.columns if c != "big"]
        if not small:
            return self.delete(table)
        columns = self.rng.sample(small, self.rng.randint(1, min(3, len(small))))
        keys = [table.match(table.new_key(self.rng)) for _ in range(self.rng.choice([1, 1, 3, 6]))]
        return f"update {table.name} set {self._set(table, columns)} where " + " or ".join(f"({k})" for k in keys)

    def update_big(self, table):
        if "big" not in table.columns:
            return self.insert(table)
        return (f"update {table.name} set {self._set(table, ['big'])} "
                f"where {table.match(table.new_key(self.rng))}")

    def no_op(self, table):
        column = self.rng.choice([*table.key, *table.columns])
        return f"update {table.name} set {column} = {column} where {table.match(table.new_key(self.rng))}"

    def change_key(self, table):
        sets = ", ".join(f"{c} = {v}" for c, v in zip(table.key, table.new_key(self.rng)))
        if table.columns and self.rng.random() < 0.3:
            sets += ", " + self._set(table, [self.rng.choice(table.columns)])
        return f"update {table.name} set {sets} where {table.match(table.new_key(self.rng))}"

    def swap_keys(self, table):
        """Two rows exchange their keys, or three hand them round, by way of one that nobody has."""
        if table.name == "parts" or not table.columns:
            return self.change_key(table)
        key, away = table.key[0], {"words": "'away'", "bigkeys": "repeat('away', 600)", "nocase": "'away'",
                                   "uids": "'00000000-0000-4000-8000-000000000000'",
                                   "spans": "'99 years'"}.get(table.name, "-99")
        keys = list(dict.fromkeys(table.new_key(self.rng)[0] for _ in range(3)))
        rest = f" and {table.key[1]} = {table.new_key(self.rng)[1]}" if len(table.key) > 1 else ""
        hops = list(zip([away, *keys], [*keys, away]))
        return [f"update {table.name} set {key} = {to} where {key} = {of}{rest}" for to, of in hops]

    def delete(self, table):
        keys = [table.match(table.new_key(self.rng)) for _ in range(self.rng.choice([1, 1, 4]))]
        return f"delete from {table.name} where " + " or ".join(f"({k})" for k in keys)

    def replace(self, table):
        """Delete and insert of one key, or of keys that are equal in other bytes."""
        key, again = table.new_key(self.rng), table.new_key(self.rng)
        if self.rng.random() < 0.6:
            again = key
        return [f"delete from {table.name} where {table.match(key)}",
                f"insert into {table.name} ({self._names(table)}) values {self._tuple(table, again)} "
                f"{self._or_nothing(table)}"]

    def ephemeral(self, table):
        key = table.new_key(self.rng)
        return [f"insert into {table.name} ({self._names(table)}) values {self._tuple(table, key)} "
                f"{self._or_nothing(table)}", f"delete from {table.name} where {table.match(key)}"]

    def truncate(self, table):
        if not table.may_truncate:
            tables = "parent cascade"
        elif self.rng.random() < 0.2:
            tables = f"{table.name}, kept" if table.name != "kept" else "kept, nums"
        else:
            tables = table.name
        after = [self.insert(table) for _ in range(self.rng.choice([0, 1, 3]))]
        before = [self.insert(table)] if self.rng.random() < 0.5 else []
        return [*before, f"truncate {tables}", *after]

    def copy(self, table):
        """COPY's own messages; every row has the same LSN (P27)."""
        table = self.rng.choice([t for t in self.tables if t.bulk or t.name in ("by_full", "parent")])
        rows, escaped = [], {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        for _ in range(self.rng.choice([1, 5, 40])):
            self.made += 1
            value = self.rng.choice([*NASTY, "c" * 2500])
            for raw, form in escaped.items():
                value = value.replace(raw, form)
            number = self.rng.choice(["\\N", "5"])
            rows.append(f"{300000 + self.made}\t{number}\t{value}\n")
        return CopyIn(f"copy {table.name} ({table.key[0]}, n, big) from stdin", "".join(rows))

    def bulk(self, table):
        """A transaction beyond what a batch may hold."""
        targets = [t for t in self.tables if t.bulk]
        table = self.rng.choice(targets)
        count = self.rng.choice([self.large // 4, self.large, self.large * 3])
        key = table.bulk.format(base=self.base)
        self.base += count
        kind = self.rng.random()
        if kind < 0.4:
            return (f"insert into {table.name} ({table.key[0]}, n, big) select {key}, i, "
                    f"case when i % 10 = 0 then repeat('bulk', 700) end from generate_series(1, {count}) i")
        if kind < 0.7:
            return f"update {table.name} set n = coalesce(n, 0) / 2 + {count} where {table.key[0]} > 100000000"
        if kind < 0.8:
            return f"update {table.name} set {table.key[0]} = {table.key[0]} + 500000000 where {table.key[0]} between 100000000 and 600000000"
        return f"delete from {table.name} where {table.key[0]} > 100000000"

    def subtransactions(self, table):
        first, second, third = self.insert(table), self.update(table), self.change_key(table)
        if not all(isinstance(s, str) for s in (first, second, third)):
            return first
        # A block with a handler is a subtransaction; one of them is always undone.
        return (f"do $do$ begin begin {first}; {third}; exception when others then null; end; "
                f"begin {second}; raise exception 'undo'; exception when others then null; end; end $do$")

    def savepoint(self, table):
        return None

    def rollback_to(self, table):
        return None

    def release(self, table):
        return None

    def message(self, table):
        return (f"select pg_logical_emit_message({self.rng.choice(['true', 'false'])}, "
                f"{self.rng.choice([text('nobody'), text('tailwater_x')])}, {self.values.nasty()})")

    def new_partition(self, table):
        name = f"r{len(self.regions)}"
        if len(self.regions) > 12:
            return self.move_region(table)
        self.regions.append(name)
        keys = next(t for t in self.tables if t.name == "parts").keys
        keys.pool += [(str(k), f"'{name}'") for k in range(1, 25, 3)]
        return [f"create table parts_{name} partition of parts for values in ('{name}')",
                f"insert into parts values (1, '{name}', 1, 'new'), (2, '{name}', 2, repeat('p', 3000))"]

    def noise(self, table):
        key = self.rng.randrange(50)
        return f"insert into aside.noise values ({key}, 1) on conflict (k) do update set n = aside.noise.n + 1"

    def move(self, table):
        """Money goes from one account to another, in one statement: BALANCE stays 0."""
        amount, one, other = self.rng.randrange(100), self.rng.randint(1, 10), self.rng.randint(1, 10)
        return (f"with d as (update debit set n = n - {amount} where k = {one} returning 1) "
                f"update credit set n = n + {amount} * (select count(*) from d) where k = {other}")

    def move_region(self, table):
        region, other = self.rng.choice(self.regions), self.rng.choice(self.regions)
        return (f"update parts set region = '{region}' where region = '{other}' "
                f"and k % {self.rng.randint(2, 9)} = 0 and k < 30")

    def change_parent(self, table):
        key = self.rng.randint(1, 20)
        return self.rng.choice([f"delete from parent where k = {key}",
                                f"update parent set k = {self.rng.randint(1, 25)} where k = {key}"])

    def merge(self, table):
        if not table.columns or len(table.key) > 1 or table.name in ("parts", "words"):
            return self.upsert(table)
        key = table.new_key(self.rng)
        column = self.rng.choice(table.columns)
        return (f"merge into {table.name} t using (select {key[0]} as k) s on t.{table.key[0]}::text = s.k::text "
                f"when matched and {self.rng.choice(['true', 'false'])} then delete "
                f"when matched then update set {column} = {column} "
                f"when not matched then insert ({self._names(table)}) values {self._tuple(table, key)}")

    def many(self, table):
        """One statement, many rows."""
        if not table.columns:
            return f"delete from {table.name}"
        column = self.rng.choice([c for c in table.columns if c != "big"] or table.columns)
        return f"update {table.name} set {self._set(table, [column])}"

    def rewrite(self, table):
        """The table moves to other storage, its rows do not change: nothing is sent."""
        return (f"vacuum full {table.name}",) if table.name != "parts" else (f"vacuum {table.name}",)
