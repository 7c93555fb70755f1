"""The initial copy, driven by sync_tool: slot, snapshot, tables, rows, keys and indexes; no stream."""

import os
import signal
import subprocess
import time

import pytest

from lib import wait
from lib.compare import columns, quoted, rows
from lib.pipeline import AGAIN, BINARY, BUSY, DONE, FAILED, MIRROR_DOWN, SOURCE_DOWN

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "sync_tool")


class Copy:
    """One pipeline's initial copy; run() may be called again."""

    def __init__(self, pipeline, folder):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror
        self.gate = os.path.join(folder, "gate")
        self.process = None

    def start(self, item_bytes=0, gate=False, env=None):
        args = [TOOL, self.pipeline.file, "copy", str(item_bytes)] + ([self.gate] if gate else [])
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, env={**os.environ, **(env or {})})
        return self

    def at_gate(self):
        """The snapshot is imported, nothing is copied yet."""
        wait.until(lambda: os.path.exists(self.gate) or self.process.poll() is not None, "the gate")
        assert self.process.poll() is None, self.process.stdout.read()

    def open_gate(self):
        os.unlink(self.gate)

    def finish(self, code=DONE):
        out, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == code, f"exit {self.process.returncode}\n{out}"
        return out

    def run(self, code=DONE, **keys):
        return self.start(**keys).finish(code)

    def rows_copied(self):
        """What is visible of a copy in progress, in any table."""
        return self.source.value("select coalesce(sum(tuples_processed), 0)::bigint from "
                                 "pg_stat_progress_copy where datname = current_database()",
                                 user="postgres")

    def close(self):
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()


@pytest.fixture
def copy(request, folder, make_pipeline):
    made = []

    def make(**keys):
        own = {key: keys.pop(key) for key in ("source", "mirror") if key in keys}
        pipeline = make_pipeline(**keys)
        pipeline.keys.update(own)
        pipeline.write_config()
        made.append(Copy(pipeline, folder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def states(out):
    """{label: (state, copy_lsn, rows)} of the tool's output."""
    found = {}
    for line in out.splitlines():
        if line.startswith("table "):
            label, state, lsn, count = line[6:].rsplit(" ", 3)
            found[label] = (state, lsn, int(count))
    return found


def content(database, table, schema="public", names=None):
    return rows(database, schema, table, names or columns(database, schema, table))


def expect_equal(copy, table, names=None):
    """The mirror table has the source's rows now, each with an _lsn and no tombstone."""
    names = names or [n for n in columns(copy.source, "public", table)]
    there = content(copy.source, table, names=names)
    here = content(copy.mirror, table, "mirror_public", names)
    assert there == here, f"missing {list((there - here))[:3]}, extra {list((here - there))[:3]}"
    expect_complete(copy.mirror, f"mirror_public.{quoted(table)}")


def expect_complete(mirror, table):
    """What holds for every copied table: one _lsn, no tombstones, key, no default left behind."""
    assert mirror.value(f"select count(distinct _lsn) from {table}") in (0, 1)
    assert mirror.value(f"select count(*) from {table} where _deleted_at is not null") == 0
    assert mirror.value("select count(*) from pg_attrdef d join pg_attribute a on a.attrelid = "
                        "d.adrelid and a.attnum = d.adnum where d.adrelid = %s::regclass and "
                        "a.attgenerated = ''", table) == 0
    assert mirror.value("select count(*) from pg_index where indrelid = %s::regclass "
                        "and indisprimary", table) == 1


def copy_sessions(database):
    return database.sql("select pid, query from pg_stat_activity where datname = current_database() "
                        "and application_name like 'tailwater % copy %'", user="postgres")


def no_sessions(copy):
    """Servers notice a closed connection a moment later."""
    for database in (copy.source, copy.mirror):
        wait.until(lambda: not copy_sessions(database), lambda: copy_sessions(database))


# ---- values ----

# Every type whose binary form is used; each with what is special about it.
BINARY_TYPES = {
    "bool": ["t", "f"],
    "int2": ["-32768", "32767"],
    "int4": ["-2147483648", "2147483647"],
    "int8": ["-9223372036854775808", "9007199254740993"],
    "oid": ["0", "4294967295"],
    "float4": ["NaN", "-Infinity", "0.1", "-0", "1e-45"],
    "float8": ["NaN", "Infinity", "0.30000000000000004", "-0", "5e-324"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0.00", "1.10", "-1e-300",
                "123456789012345678901234567890.123456789"],
    "numeric(12,3)": ["1.500", "-999999999.999"],
    "text": ["", "\\N", "\\.", "a\tb\nc\rd\\e", "žluťoučký 🐎", "'\"", "x" * 10000],
    "varchar(7)": ["", "abc", "žlutý ů"],
    "char(5)": ["", "ab", "abcde"],
    "name": ["", "Some Name"],
    "json": ['{"a" :  1, "a": 2}', "null", '"\\u00e9"'],
    "xml": ["<a>b&amp;</a>", "text"],
    "jsonb": ['{"a": [1.10, null]}', '"\\u00e9"'],
    "bytea": ["\\x", "\\x00ff5c0a09", "\\x" + "ab" * 5000],
    "uuid": ["00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-03"],
    "timestamp": ["infinity", "-infinity", "0001-01-01 BC", "2024-02-03 04:05:06.789012"],
    "timestamptz": ["infinity", "2024-02-03 04:05:06.789012+05:30", "294276-12-31 00:00+00"],
}

# Types that travel as text.
TEXT_TYPES = {
    "\"char\"": ["a", ""],
    "time": ["00:00", "24:00", "04:05:06.789012"],
    "time(0)": ["04:05:06"],
    "timetz": ["04:05:06.789+05:30", "00:00-15:59"],
    "interval": ["1 mon -1 day 00:00:01.5", "-178000000 years", "0"],
    "money": ["$1,234.56", "-$0.01"],
    "bit(3)": ["101"],
    "varbit": ["", "1011"],
    "inet": ["10.0.0.1", "10.0.0.1/8", "::1"],
    "cidr": ["10.0.0.0/8", "::/0"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1,-0.1)", "(NaN,Infinity)"],
    "box": ["(2,2),(1,1)"],
    "path": ["((1,1),(2,2))", "[(1,1)]"],
    "polygon": ["((1,1),(2,2),(3,0))"],
    "circle": ["<(1,2),3>"],
    "lseg": ["[(1,1),(2,2)]"],
    "line": ["{1,2,3}"],
    "tsvector": ["'a':1A 'b':2", ""],
    "tsquery": ["'a' & !'b'", ""],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "jsonpath": ['$."a"[*]'],
    "int4range": ["empty", "[1,5)", "(,)"],
    "numrange": ["[1.10,)"],
    "tstzrange": ["[\"2024-01-01 00:00:00+00\",infinity)"],
    "int4multirange": ["{}", "{[1,3),[5,7)}"],
    "int[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"],
    "text[]": ["{}", '{"",NULL,"NULL","a,b","a\\"b","a\\\\b"}'],
    "numeric(5,2)[]": ["{1.10,NaN}"],
    "bytea[]": ['{"\\\\x00ff"}'],
    "timestamptz[]": ['{"2024-01-01 00:00:00+00",infinity}'],
    "mood": ["sad", "so so", "it's"],
    "mood[]": ['{sad,"so so"}'],
    "addr": ["(,)", '("a ""b"", c",12)', "(,1)"],
    "addr[]": ['{"(a,1)","(,)"}'],
    "moodrange": ["[sad,\"so so\")"],
    "positive": ["1", "2147483647"],
    "label": ["x", "žluť"],
    "positives": ["{1,2}"],
}

TYPES = """
    create type mood as enum ('sad', 'so so', 'it''s');
    create type addr as (street text, no int);
    create type moodrange as range (subtype = mood);
    create domain positive as int check (value > 0);
    create domain label as varchar(10);
    create domain positives as int[];
"""


def make_table(source, name, types):
    names = [f"c{i}" for i in range(len(types))]
    source.sql(f"create table {name} (id int primary key, " +
               ", ".join(f"{n} {t}" for n, t in zip(names, types)) + ")")
    key = 1
    source.sql(f"insert into {name} (id) values (0)")
    for column, (kind, values) in zip(names, types.items()):
        for value in values:
            source.sql(f"insert into {name} (id, {column}) values (%s, %s::{kind})", key, value)
            key += 1


def test_binary_types(copy, source):
    make_table(source, "t", BINARY_TYPES)
    source.sql("create domain positive as int check (value > 0); create domain day as timestamptz;"
               "create domain label as varchar(10);"
               "create table d (id positive primary key, day day, l label, c regclass, o oid);"
               "insert into d values (1, '2024-01-01', 'x', 'd', 1), (2, null, null, null, null)")
    one = copy()
    one.run()
    expect_equal(one, "t")
    expect_equal(one, "d", ["id", "day", "l", "o"])
    assert one.mirror.sql("select c from mirror_public.d order by id") == [("public.d",), (None,)]


def test_text_types(copy, source):
    source.sql(TYPES)
    make_table(source, "t", TEXT_TYPES)
    make_table(source, "b", {**BINARY_TYPES, "interval": ["1 day"]})
    one = copy()
    one.run()
    expect_equal(one, "t")
    expect_equal(one, "b")


def test_p10_settings_of_role_and_database_change_nothing(copy, source, mirror):
    make_table(source, "t", {k: v for k, v in TEXT_TYPES.items() if k in ("interval", "money")})
    make_table(source, "b", {k: BINARY_TYPES[k] for k in ("bytea", "float8", "timestamptz", "date")}
               | {"time": ["01:02"]})
    for database, role in ((source, "tailwater"), (mirror, "tailwater")):
        for setting in ("bytea_output = escape", "datestyle = 'SQL, DMY'", "extra_float_digits = 0",
                        "intervalstyle = iso_8601", "timezone = 'Asia/Kolkata'"):
            database.sql(f"alter role {role} in database {database.name} set {setting}",
                         user="postgres")
    one = copy()
    one.run()
    expect_equal(one, "t")
    expect_equal(one, "b")


def test_extension_types(copy, source, mirror):
    for database in (source, mirror):
        database.sql("create extension citext; create extension hstore", user="postgres")
    source.sql("create table t (id citext primary key, h hstore);"
               "insert into t values ('A', '\"a b\"=>NULL, c=>\"d\"'), ('b', null)")
    one = copy()
    one.run()
    expect_equal(one, "t")


# ---- shapes ----

def test_p53_generated_masked_and_excluded_columns(copy, source):
    source.sql("create table t (id int primary key, name text, twice int generated always as "
               "(id * 2) stored, secret text, iban varchar(40), pin int, kept bool,"
               "i int generated always as identity);"
               "insert into t (id, name, secret, iban, pin, kept) values"
               "(1, 'a', 's1', 'žluť', 11, true), (2, 'b', null, null, null, null),"
               "(3, 'c', '', '', 13, false)")
    one = copy(tables=[{"name": "public.t", "exclude": ["secret"],
                        "mask": {"iban": "hash", "pin": "null"}}])
    one.run()
    expect_equal(one, "t", ["id", "name", "twice", "kept", "i"])
    assert "secret" not in columns(one.mirror, "mirror_public", "t")
    assert one.mirror.value("select count(pin) from mirror_public.t") == 0
    assert one.mirror.sql("select id, iban from mirror_public.t order by id") == source.sql(
        "select id, encode(sha256(convert_to(iban, 'UTF8')), 'hex') from t order by id")


def test_partitioned_root(copy, source):
    source.sql("""
        create table p (id int, day date, v text, primary key (id, day)) partition by range (day);
        create table p1 partition of p for values from ('2024-01-01') to ('2025-01-01');
        create table p2 (v text, gone int, day date not null, id int not null);
        alter table p2 drop gone;
        alter table p attach partition p2 for values from ('2025-01-01') to ('2026-01-01');
        create table p3 partition of p for values from ('2026-01-01') to ('2027-01-01')
            partition by list (id);
        create table p3a partition of p3 for values in (1, 2);
        create table p3b partition of p3 default;
        insert into p select i, '2024-01-01'::date + i, 'v' || i from generate_series(1, 1000) i;
        create table bare (id int primary key) partition by range (id)""")
    one = copy()
    out = one.run(item_bytes=10000)
    expect_equal(one, "p")
    assert states(out)["public.p"][2] == 1000
    assert states(out)["public.bare"] == ("indexed", states(out)["public.p"][1], 0)


def test_partitions_that_only_the_root_may_read(copy, source):
    source.sql("""
        create table p (id int primary key, v text) partition by range (id);
        create table p1 partition of p for values from (0) to (500);
        create table p2 partition of p for values from (500) to (5000);
        insert into p select i, 'v' || i from generate_series(1, 1000) i;
        revoke select on p2 from tailwater""")
    one = copy()
    one.run(item_bytes=10000)
    expect_equal(one, "p")


def test_p53_a_parent_is_copied_without_its_children(copy, source):
    source.sql("create table parent (id int primary key, v text); insert into parent values (1, 'p');"
               "create table child (primary key (id)) inherits (parent);"
               "insert into child values (2, 'c')")
    one = copy()
    one.run()
    assert one.mirror.sql("select id from mirror_public.parent") == [(1,)]
    assert one.mirror.sql("select id from mirror_public.child") == [(2,)]


def test_names_that_need_quotes(copy, source):
    source.sql('''create schema "We""ird"; create table "We""ird"."sel'ect" ("x.y z" int primary key,
        "Order" text, "ctid_" int); insert into "We""ird"."sel'ect" values (1, 'a', 2);
        grant usage on schema "We""ird" to tailwater''')
    one = copy(tables=["*.*"])
    one.run()
    assert one.mirror.sql('select "x.y z", "Order", ctid_ from "mirror_We""ird"."sel\'ect"') == [
        (1, "a", 2)]


def test_empty_and_wide(copy, source):
    source.sql("create table nothing (id int primary key);"
               "create table wide (id int primary key, v text);"
               "insert into wide select 1, string_agg(md5(i::text), '') "
               "from generate_series(1, 1000000) i")
    one = copy()
    one.run()
    expect_equal(one, "nothing")
    assert one.mirror.value("select md5(v) from mirror_public.wide") == source.value(
        "select md5(v) from wide")


def test_indexes_and_statistics(copy, source):
    source.sql("create table t (id int primary key, a int, b text);"
               "create unique index on t (a); create index on t (lower(b)) where a > 5;"
               "insert into t select i, i, 'b' || i from generate_series(1, 3000) i")
    one = copy()
    one.run()
    indexes = [row[0] for row in one.mirror.sql(
        "select indexdef from pg_indexes where schemaname = 'mirror_public' order by 1")]
    assert len(indexes) == 3 and any("lower(b)" in i and "(a > 5)" in i for i in indexes)
    assert sum("UNIQUE" in i for i in indexes) == 1
    assert one.mirror.value("select reltuples from pg_class where oid = "
                            "'mirror_public.t'::regclass") == 3000


# ---- ranges, snapshot ----

def fill(source, name="t", count=20000):
    source.sql(f"create table {name} (id int primary key, v text);"
               f"insert into {name} select i, repeat('v', i %% 100) from generate_series(1, %s) i",
               count)


@pytest.mark.parametrize("workers, item_bytes", [(1, 8192), (4, 30000), (3, 0), (2, 1)])
def test_ranges(copy, source, workers, item_bytes):
    fill(source)
    source.sql("delete from t where id % 7 = 0 or id > 15000; create table u (id int primary key)")
    one = copy(**{"copy": {"workers": workers}})
    out = one.run(item_bytes=item_bytes)
    expect_equal(one, "t")
    assert states(out)["public.t"][2] == source.value("select count(*) from t")


def test_writes_after_the_snapshot_are_not_seen(copy, source):
    fill(source)
    source.sql("create table other (id int primary key)")
    before = content(source, "t")
    one = copy().start(item_bytes=50000, gate=True)
    one.at_gate()
    source.sql("update t set v = 'changed' where id % 2 = 0; delete from t where id % 3 = 0;"
               "insert into t select i, 'new' from generate_series(20001, 40000) i;"
               "insert into other values (1)")
    source.sql("vacuum t")
    one.open_gate()
    out = one.finish()
    assert content(one.mirror, "t", "mirror_public", ["id", "v"]) == before
    assert one.mirror.value("select count(*) from mirror_public.other") == 0
    # and _lsn is the slot's consistent point
    assert one.mirror.sql("select distinct _lsn::text from mirror_public.t") == one.mirror.sql(
        "select slot_lsn::text from tailwater.pipeline") == [(states(out)["public.t"][1],)]


def test_p50_writes_while_it_copies(copy, source):
    fill(source, count=60000)
    before = content(source, "t")
    one = copy(source={"max_read_rate": "2MB"}).start(item_bytes=100000, gate=True)
    one.at_gate()
    one.open_gate()
    for i in range(10):
        source.sql("update t set v = v || 'x' where id %% 10 = %s", i)
    one.finish()
    assert content(one.mirror, "t", "mirror_public", ["id", "v"]) == before


@pytest.mark.parametrize("change", [
    "truncate t",
    "alter table t alter id type bigint",
    "begin; alter table t rename to away; create table t (like away); commit",
])
def test_storage_that_changed_is_found(copy, source, change):
    fill(source)
    one = copy().start(item_bytes=50000, gate=True)
    one.at_gate()
    source.sql(change)
    one.open_gate()
    out = one.finish(AGAIN)
    assert "public.t" in out and "truncated, rewritten or renamed" in out
    no_sessions(one)
    if change == "truncate t":
        one.run()
        expect_equal(one, "t")


def test_storage_that_changed_in_the_middle_is_found(copy, source):
    fill(source, count=60000)
    one = copy(source={"max_read_rate": "1MB"}).start(item_bytes=100000, gate=True)
    one.at_gate()
    one.open_gate()
    wait.until(lambda: one.mirror.value("select count(*) from mirror_public.t") > 0, "rows")
    source.sql("vacuum full t")
    assert "public.t" in one.finish(AGAIN)


def test_locks_are_let_go(copy, source):
    """The application's DDL waits for an item, not for the copy."""
    fill(source, "a", 30000)
    fill(source, "b", 60000)
    one = copy(source={"max_read_rate": "1MB"}, copy={"workers": 1}).start(item_bytes=100000,
                                                                           gate=True)
    one.at_gate()
    one.open_gate()
    wait.until(lambda: one.mirror.value("select count(*) from mirror_public.b") > 0, "rows of b")
    source.sql("set lock_timeout = '2s'; alter table b add extra int")
    assert one.process.poll() is None
    one.process.send_signal(signal.SIGTERM)
    one.finish(AGAIN)


# ---- crashes, stops, errors ----

def test_a_crash_resumes_with_the_tables_that_are_done(copy, source):
    for name, count in (("a", 30000), ("b", 100), ("c", 100)):
        fill(source, name, count)
    one = copy(**{"copy": {"workers": 1}})
    one.run(code=-signal.SIGKILL, env={"TAILWATER_FAULT": "copy_after_table:2=kill"})
    source.sql("update a set v = 'after'; delete from b where id < 50; update c set v = 'after'")
    done = dict(one.mirror.sql("select name, copy_lsn::text from tailwater.mirror_table "
                               "where state in ('copied', 'indexed')"))
    assert len(done) == 2 and "a" in done
    after = states(one.run())
    assert {name: lsn for name, lsn in done.items()} == {
        name: after[f"public.{name}"][1] for name in done}
    rest = ({"a", "b", "c"} - set(done)).pop()
    assert after[f"public.{rest}"][1] != done["a"]
    expect_equal(one, rest)
    assert one.mirror.value("select count(*) from mirror_public.a where v <> 'after'") == 30000
    for name in "abc":
        assert after[f"public.{name}"][0] == "indexed"
        expect_complete(one.mirror, f"mirror_public.{name}")
    assert one.run() and states(one.run()) == after


def test_a_crash_in_the_middle_of_a_table(copy, source):
    fill(source, count=60000)
    one = copy(source={"max_read_rate": "1MB"}).start(item_bytes=100000)
    wait.until(lambda: one.mirror.value("select to_regclass('mirror_public.t')") and
               one.mirror.value("select count(*) from mirror_public.t") > 0, "rows")
    one.process.kill()
    one.process.wait()
    source.sql("delete from t where id < 1000; update t set v = 'after' where id < 2000")
    one.pipeline.keys = {}
    one.pipeline.write_config()
    one.run()
    expect_equal(one, "t")


def test_an_instance_thought_dead_cannot_add_rows(copy, source):
    """The default of _lsn is the mark of an attempt; here is what a second one does first."""
    fill(source, count=60000)
    one = copy(source={"max_read_rate": "1MB"}).start(item_bytes=100000)
    wait.until(lambda: one.mirror.value("select to_regclass('mirror_public.t')") and
               one.mirror.value("select count(*) from mirror_public.t") > 0, "rows")
    one.mirror.sql("alter table mirror_public.t alter _lsn set default 'FFFF/0';"
                   "truncate mirror_public.t")
    assert "another instance" in one.finish(BUSY)
    assert one.mirror.value("select count(*) from mirror_public.t") == 0
    no_sessions(one)
    one.pipeline.keys = {}
    one.pipeline.write_config()
    one.run()
    expect_equal(one, "t")


def test_rate_limit(copy, source):
    source.sql("create table t (id int primary key, v text);"
               "insert into t select i, repeat('v', 1000) from generate_series(1, 4000) i")
    one = copy(source={"max_read_rate": "2MB"}, copy={"workers": 4})
    begin = time.monotonic()
    out = one.run(item_bytes=200000)
    assert 1.5 < time.monotonic() - begin < 10
    expect_equal(one, "t")
    assert out.count("progress: ") >= 3


def test_stop_while_copying(copy, source):
    fill(source, count=60000)
    one = copy(source={"max_read_rate": "1MB"}).start(gate=True)
    one.at_gate()
    one.open_gate()
    wait.until(one.rows_copied, "rows on their way")
    begin = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert "stopped" in one.finish(AGAIN)
    assert time.monotonic() - begin < 3
    no_sessions(one)


@pytest.mark.parametrize("side", ["source", "mirror"])
def test_stop_while_a_server_waits_for_a_lock(copy, source, mirror, side):
    fill(source)
    one = copy().start(gate=True)
    one.at_gate()
    held = source.connect() if side == "source" else mirror.connect()
    held.cursor().execute("lock table t in access exclusive mode" if side == "source" else
                          "lock table mirror_public.t in access exclusive mode")
    one.open_gate()
    database = source if side == "source" else mirror
    wait.until(lambda: database.value("select count(*) from pg_locks where not granted",
                                      user="postgres"), "a waiting session")
    begin = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert "stopped" in one.finish(AGAIN)
    assert time.monotonic() - begin < 3
    held.close()
    no_sessions(one)


@pytest.mark.parametrize("side, code", [("source", SOURCE_DOWN), ("mirror", MIRROR_DOWN)])
def test_a_server_that_goes_away(copy, source, mirror, side, code):
    fill(source, count=60000)
    one = copy(source={"max_read_rate": "1MB"}).start(gate=True)
    one.at_gate()
    one.open_gate()
    wait.until(one.rows_copied, "rows on their way")
    database = source if side == "source" else mirror
    database.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = "
                 "current_database() and application_name like 'tailwater %% copy 1'",
                 user="postgres")
    out = one.finish(code)
    assert "public.t" in out
    no_sessions(one)
    one.pipeline.keys = {}
    one.pipeline.write_config()
    one.run()
    expect_equal(one, "t")


def test_errors_name_the_table(copy, source):
    fill(source, "a")
    fill(source, "b")
    one = copy().start(gate=True)
    one.at_gate()
    source.sql("alter table b drop v")
    one.open_gate()
    assert "copying public.b" in one.finish(FAILED)
    no_sessions(one)


def test_p53_row_security_is_not_silently_obeyed(copy, source):
    fill(source, count=10)
    source.sql("alter table t enable row level security; create policy p on t using (id > 5)")
    one = copy()
    out = one.run(code=FAILED)
    assert "public.t" in out and "42501" in out
    source.sql("alter role tailwater bypassrls", user="postgres")
    try:
        one.run()
        expect_equal(one, "t")
    finally:
        source.sql("alter role tailwater nobypassrls", user="postgres")


def test_p49_the_snapshot_may_be_freed_once_imported(copy, source):
    """sync_tool frees it in on_imported(): no replication connection is left at the gate."""
    fill(source)
    one = copy(**{"copy": {"workers": 4}}).start(item_bytes=10000, gate=True)
    one.at_gate()
    wait.until(lambda: source.value(
        "select count(*) from pg_stat_replication", user="postgres") == 0, "walsenders gone")
    assert len(copy_sessions(source)) == 4
    one.open_gate()
    one.finish()
    expect_equal(one, "t")


