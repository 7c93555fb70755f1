"""The repair list, worked off by sync_tool: what it writes, what it leaves alone.  No stream runs:
the tests move the cursor, and put keys on the list, as the applier would."""

import os
import signal
import subprocess
import time

import pytest

from lib import wait
from lib.compare import columns, quoted, rows
from lib.pipeline import AGAIN, BINARY, DONE, FAILED, MIRROR_DOWN

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "sync_tool")
FAR = "FFFFFFFF/0"


class Repair:
    """A pipeline whose tables are copied; run() is one round."""

    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror
        self.process = None
        self.start("copy").finish()
        self.move_cursor(FAR)

    def start(self, verb="repair", env=None):
        self.process = subprocess.Popen([TOOL, self.pipeline.file, verb], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True,
                                        env={**os.environ, **(env or {})})
        return self

    def finish(self, code=DONE):
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == code, f"exit {self.process.returncode}\n{out}"
        return out

    def run(self, keys, written):
        """A round that takes so many keys off the list and writes so many rows; a second one has
        nothing to do."""
        assert f"repaired {keys} {written}\n" in self.start().finish()
        before = self.pipeline.snapshot()
        self.start().finish()
        assert self.pipeline.snapshot() == before

    def move_cursor(self, lsn):
        self.mirror.sql("update tailwater.clock set cursor = %s", lsn)

    def ask(self, table, *key, lsn="0/1"):
        self.mirror.sql("insert into tailwater.repair (pipeline, schema, name, key, lsn) "
                        "values (%s, 'public', %s, %s, %s)", self.pipeline.name, table, list(key),
                        lsn)

    def ask_all(self, table, key):
        """As the applier writes keys: cast to text."""
        self.mirror.sql(f"insert into tailwater.repair (pipeline, schema, name, key, lsn) "
                        f"select %s, 'public', %s, array[{key}], '0/1' from "
                        f"mirror_public.{quoted(table)}", self.pipeline.name, table)

    def listed(self):
        return self.mirror.value("select count(*) from tailwater.repair")

    def expect_equal(self, table, names=None):
        names = names or columns(self.source, "public", table)
        assert rows(self.mirror, "mirror_public", table, names) == rows(
            self.source, "public", table, names)
        assert self.mirror.value(f"select count(*) from mirror_public.{quoted(table)} "
                                 "where _deleted_at is not null") == 0

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def repair(make_pipeline):
    made = []

    def make(**keys):
        own = {key: keys.pop(key) for key in ("source", "mirror") if key in keys}
        pipeline = make_pipeline(**keys)
        pipeline.keys.update(own)
        pipeline.write_config()
        made.append(Repair(pipeline))
        return made[-1]

    yield make
    for one in made:
        one.close()


def make_t(source):
    source.sql("create table t (id int primary key, a int, big text);"
               "alter table t alter big set storage external;"
               "insert into t select i, i, repeat('x', 5000) || i from generate_series(1, 10) i")


def wait_for_reader(source):
    """Until the snapshot is imported."""
    wait.until(lambda: source.value("select count(*) from pg_stat_activity where application_name "
                                    "= 'tailwater repair' and state = 'idle in transaction'",
                                    user="postgres"), "the reader")


def test_nothing_to_do(repair, source):
    make_t(source)
    repair().run(0, 0)


def test_what_is_written_and_what_is_not(repair, source):
    make_t(source)
    one = repair()
    copied = one.mirror.value("select _lsn::text from mirror_public.t limit 1")
    source.sql("update t set a = a + 100; delete from t where id in (5, 6)")
    one.mirror.sql("delete from mirror_public.t where id in (1, 5);"
                   "update mirror_public.t set big = null, _deleted_at = now() where id = 2;"
                   "update mirror_public.t set _lsn = 'FFFFFFFF/0', a = -3 where id = 3")
    for key in (1, 2, 3, 4, 5, 6, 1):
        one.ask("t", str(key))
    one.run(7, 3)
    assert one.listed() == 0
    assert one.pipeline.counter("repaired_rows") == 3
    found = {row[0]: row[1:] for row in one.mirror.sql(
        "select id, a, length(big), _deleted_at, _lsn::text from mirror_public.t")}
    at = found[1][3]
    assert at not in (copied, FAR)
    assert found[1] == (101, 5001, None, at)    # absent: inserted
    assert found[2] == (102, 5001, None, at)    # older, a tombstone: updated and alive
    assert found[3] == (-3, 5001, None, FAR)    # newer: left alone
    assert found[4] == (104, 5001, None, at)    # older: updated
    assert 5 not in found                       # gone on both sides
    assert found[6] == (6, 5001, None, copied)  # gone from the source: the stream has its delete
    assert found[7] == (7, 5001, None, copied)  # not asked for


def test_keys_newer_than_the_snapshot_wait(repair, source):
    make_t(source)
    one = repair()
    one.ask("t", "1", lsn="FFFFFFF/0")
    one.run(0, 0)
    assert one.listed() == 1


def test_the_cursor_has_to_come(repair, source):
    make_t(source)
    one = repair()
    one.move_cursor("0/1")
    one.mirror.sql("delete from mirror_public.t")
    one.ask("t", "1")
    assert "cursor did not reach" in one.start().finish(AGAIN)
    assert one.listed() == 1
    one.start()
    wait_for_reader(source)
    assert one.mirror.value("select count(*) from mirror_public.t") == 0
    one.move_cursor(FAR)
    assert "repaired 1 1" in one.finish()
    assert one.mirror.sql("select id, length(big) from mirror_public.t") == [(1, 5001)]


@pytest.mark.parametrize("change", ["truncate t", "alter table t alter id type bigint"])
def test_storage_that_changed_is_found(repair, source, change):
    """Read under the snapshot, such a table looks empty."""
    make_t(source)
    one = repair()
    one.move_cursor("0/1")
    one.mirror.sql("delete from mirror_public.t where id = 1")
    one.ask("t", "1")
    one.start()
    wait_for_reader(source)
    source.sql(change)
    one.move_cursor(FAR)
    assert "truncated, rewritten or renamed" in one.finish(AGAIN)
    assert one.listed() == 1


def test_a_key_that_left_the_list_is_not_written(repair, source):
    """Deleted on the source after the snapshot, and purged here: the row must not come back."""
    make_t(source)
    one = repair()
    one.mirror.sql("delete from mirror_public.t where id < 4")
    for key in (1, 2, 3):
        one.ask("t", str(key))
    one.start(env={"TAILWATER_FAULT": "repair_after_fetch=stall:1500"})
    wait.until(lambda: source.value("select count(*) from pg_stat_activity where application_name "
                                    "= 'tailwater repair' and query like 'ROLLBACK TO%%'",
                                    user="postgres"), "rows fetched")
    one.mirror.sql("delete from tailwater.repair where key = '{2}'")
    # The application's DDL does not wait for the mirror.
    source.sql("set lock_timeout = '500ms'; alter table t add extra int")
    assert "repaired 2 2" in one.finish()
    assert one.mirror.sql("select id from mirror_public.t where id < 4 order by id") == [(1,), (3,)]


def test_the_clock_is_taken_first(repair, source):
    """A batch in progress is waited for, however long."""
    make_t(source)
    one = repair()
    one.mirror.sql("delete from mirror_public.t where id = 1")
    one.ask("t", "1")
    held = one.mirror.connect()
    held.cursor().execute("update tailwater.clock set batch_id = batch_id + 1")
    one.start()
    wait.until(lambda: one.mirror.value("select count(*) from pg_locks where not granted"), "a wait")
    time.sleep(2.5)  # past its lock_timeout: it tries again
    assert one.process.poll() is None and one.listed() == 1
    held.commit()
    held.close()
    assert "repaired 1 1" in one.finish()


def test_stop(repair, source):
    make_t(source)
    one = repair()
    one.move_cursor("0/1")
    one.ask("t", "1")
    one.start()
    wait_for_reader(source)
    one.process.send_signal(signal.SIGTERM)
    assert "stopped" in one.finish(AGAIN)


@pytest.mark.parametrize("what, code", [("kill", -signal.SIGKILL), ("error", AGAIN)])
def test_a_crash_after_the_fetch(repair, source, what, code):
    make_t(source)
    one = repair()
    one.mirror.sql("delete from mirror_public.t")
    one.ask_all("t", "id::text")
    for key in range(1, 11):
        one.ask("t", str(key))
    one.start(env={"TAILWATER_FAULT": f"repair_after_fetch={what}"}).finish(code)
    assert one.listed() == 10
    one.run(10, 10)
    one.expect_equal("t")


def test_a_mirror_that_goes_away(repair, source):
    make_t(source)
    one = repair()
    one.mirror.sql("delete from mirror_public.t where id = 1")
    one.ask("t", "1")
    one.start(env={"TAILWATER_FAULT": "repair_after_fetch=stall:1000"})
    wait.until(lambda: source.value("select count(*) from pg_stat_activity where application_name "
                                    "= 'tailwater repair' and query like 'ROLLBACK TO%%'",
                                    user="postgres"), "rows fetched")
    one.mirror.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = "
                   "current_database() and application_name = 'tailwater repair'")
    assert "public.t" in one.finish(MIRROR_DOWN)
    assert one.listed() == 1


# ---- keys and values ----

def test_keys_of_every_kind(repair, source, mirror):
    for database in (source, mirror):
        database.sql("create extension citext", user="postgres")
    source.sql("""
        create type mood as enum ('sad', 'ok');
        create type addr as (street text, no int);
        create domain code as varchar(8);
        create domain small as int;
        create table k (b bool, c char(5), i inet, n numeric, m mood, d code, s small, t timestamptz,
            by bytea, u uuid, e citext, a int[], v text,
            primary key (b, c, i, n, m, d, s, t, by, u, e, a));
        insert into k select i % 2 = 0, 'c' || i, '10.0.0.1', i + 0.10, 'ok', 'd,"' || i, i,
            '2024-01-01 00:00:00.123+00', '\\x00ff5c', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
            'Case' || i, array[i, null], 'v' || i from generate_series(1, 20) i;
        create table c (a addr primary key, v text);
        insert into c values (row('x, "y"', 1)::addr, 'v'), ('(,2)', 'w');
        create table "Q u""o" ("K ey" text primary key, "v'" text);
        insert into "Q u""o" values ('a\\b{"', 'v'), ('', 'w'), ('NULL', 'x'), ('ž', 'y')""")
    one = repair()
    one.ask_all("k", "b::text, c::text, i::text, n::text, m::text, d::text, s::text, t::text, "
                "by::text, u::text, e::text, a::text")
    one.ask_all("c", "a::text")
    one.ask_all("Q u\"o", '"K ey"')
    one.mirror.sql("delete from mirror_public.k; delete from mirror_public.c;"
                   'update mirror_public."Q u""o" set "v\'" = null')
    one.run(26, 26)
    for table in ("k", "c", "Q u\"o"):
        one.expect_equal(table)


def test_p72_equal_keys_in_other_bytes(repair, source, mirror):
    for database in (source, mirror):
        database.sql("create extension citext", user="postgres")
    source.sql("create table n (id numeric primary key, v text); insert into n values (1.00, 'v');"
               "create table e (id citext primary key, v text); insert into e values ('ABC', 'v')")
    one = repair()
    source.sql("update n set v = 'w'; update e set v = 'w'")
    one.mirror.sql("update mirror_public.n set id = 1.0; delete from mirror_public.e")
    for key in ("1.0", "1.00", "1"):
        one.ask("n", key)
    one.ask("e", "abc")
    one.run(4, 2)
    one.expect_equal("n")
    one.expect_equal("e")


def test_p72_a_collation_that_ignores_case(repair, source, mirror):
    for database in (source, mirror):
        database.sql("create collation nocase (provider = icu, locale = 'und-u-ks-level2', "
                     "deterministic = false)", user="postgres")
    source.sql("create table t (id text collate nocase primary key, v text);"
               "insert into t values ('ABC', 'v')")
    one = repair()
    source.sql("update t set v = 'w'")
    one.ask("t", "abc")
    one.ask("t", "ABC")
    one.run(2, 1)
    one.expect_equal("t")


def test_created_types_in_another_schema(repair, source):
    source.sql("create type mood as enum ('sad', 'ok');"
               "create table t (id mood primary key, hidden mood, m mood[]);"
               "insert into t values ('ok', 'ok', '{ok,sad}')")
    one = repair(mirror={"view_schema": "live_{schema}"},
                 tables=[{"name": "public.t", "mask": {"hidden": "null"}}])
    assert one.mirror.value("select pg_typeof(id)::text from mirror_public.t") == "live_public.mood"
    one.ask("t", "ok")
    one.mirror.sql("delete from mirror_public.t")
    one.run(1, 1)
    assert one.mirror.sql("select id, hidden, m::text from mirror_public.t") == [
        ("ok", None, "{ok,sad}")]


def test_columns_as_in_the_copy(repair, source):
    source.sql("create table t (id int primary key, twice int generated always as (id * 2) stored,"
               "secret text, iban text, pin int, b bytea, f float8, c char(4), j jsonb, r int4range);"
               "insert into t (id, secret, iban, pin, b, f, c, j, r) values"
               "(1, 's', 'žluť', 1, '\\x00ff', 'NaN', 'ab', '{\"a\": 1.0}', '[1,3)'),"
               "(2, null, null, null, null, null, null, null, null)")
    one = repair(tables=[{"name": "public.t", "exclude": ["secret"],
                          "mask": {"iban": "hash", "pin": "null"}}])
    names = columns(one.mirror, "mirror_public", "t")
    stored = [name for name in names if name not in ("_lsn", "_deleted_at")]
    before = rows(one.mirror, "mirror_public", "t", stored)
    one.ask("t", "1")
    one.ask("t", "2")
    one.mirror.sql("delete from mirror_public.t")
    one.run(2, 2)
    assert rows(one.mirror, "mirror_public", "t", stored) == before


def test_partitioned_root(repair, source):
    source.sql("create table p (id int primary key, v text) partition by range (id);"
               "create table p1 partition of p for values from (0) to (10);"
               "create table p2 partition of p for values from (10) to (20);"
               "insert into p select i, 'v' || i from generate_series(1, 19) i")
    one = repair()
    one.ask_all("p", "id::text")
    one.mirror.sql("delete from mirror_public.p where id % 2 = 0")
    source.sql("update p set v = v || 'x'")
    one.run(19, 19)
    one.expect_equal("p")


# ---- many, wide, slow ----

def test_more_keys_than_a_group(repair, source):
    source.sql("create table t (id int primary key, v text);"
               "insert into t select i, 'v' || i from generate_series(1, 1700) i")
    one = repair()
    one.ask_all("t", "id::text")
    one.ask_all("t", "(id + 1000)::text")
    one.mirror.sql("delete from mirror_public.t")
    one.run(3400, 1700)
    one.expect_equal("t")
    assert one.pipeline.counter("repaired_rows") == 1700


def test_a_round_has_a_limit(repair, source):
    source.sql("create table t (id int primary key); create table u (id int primary key);"
               "insert into t select generate_series(1, 20600); insert into u values (1)")
    one = repair()
    one.ask_all("t", "id::text")
    one.ask("u", "1")
    one.mirror.sql("delete from mirror_public.t")
    assert "repaired 20001 20001 more\n" in one.start().finish()
    one.run(600, 600)
    one.expect_equal("t")


def test_wide_rows_in_several_slices(repair, source):
    source.sql("create table t (id int primary key, v text); alter table t alter v set storage "
               "external; insert into t select i, repeat(i::text, 1500000) "
               "from generate_series(1, 9) i")
    one = repair()
    one.ask_all("t", "id::text")
    one.mirror.sql("delete from mirror_public.t; select pg_stat_force_next_flush()")
    one.run(9, 9)
    assert one.mirror.value("select count(distinct xmin::text) from mirror_public.t") > 1
    one.expect_equal("t")


def test_rate_limit(repair, source):
    source.sql("create table t (id int primary key, v text);"
               "insert into t select i, repeat('v', 1000) from generate_series(1, 2000) i")
    one = repair(source={"max_read_rate": "1MB"})
    one.ask_all("t", "id::text")
    one.mirror.sql("delete from mirror_public.t")
    begin = time.monotonic()
    one.run(2000, 2000)
    assert 1.5 < time.monotonic() - begin < 10
    one.expect_equal("t")


def test_only_by_the_key(repair, source):
    """The source's table is not scanned."""
    source.sql("create table t (id int primary key, v text);"
               "insert into t select i, 'v' from generate_series(1, 20000) i; analyze t")
    one = repair()
    before = source.value("select seq_scan from pg_stat_all_tables where relname = 't'")
    one.ask("t", "77")
    one.mirror.sql("delete from mirror_public.t where id = 77")
    one.run(1, 1)
    one.expect_equal("t")
    wait.until(lambda: source.value("select idx_scan from pg_stat_all_tables where relname = 't'"),
               "statistics")
    # the comparison above is the only other reader
    assert source.value("select seq_scan from pg_stat_all_tables where relname = 't'") <= before + 2


def test_an_error_names_the_table(repair, source):
    make_t(source)
    one = repair()
    one.ask("t", "1")
    source.sql("revoke select on t from tailwater")
    out = one.start().finish(FAILED)
    assert "public.t" in out and "42501" in out
    assert one.listed() == 1
