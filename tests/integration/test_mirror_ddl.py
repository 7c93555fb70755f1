"""The control schema and the DDL on the mirror, driven by mirror_tool: no source is involved."""

import hashlib
import os
import re
import subprocess
import threading
import time

import pytest

from lib import wait
from lib.cluster import ROOT
from lib.pipeline import BINARY

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "mirror_tool")

SETUP = ["migrate", "pipeline", "slot=0/10", "schemas", "types", "sync"]
BUILD = [*SETUP, "tables", "copied", "keys", "indexes", "views", "streaming"]

ORDERS = """schema\tmirror_public
schema\tpublic
table\tpublic\torders\t1001
column\tid\tbigint\tkey
column\tnote\tcharacter varying(20)\t
generated\tlen\tinteger\tlength((note)::text)
column\tamount\tnumeric(12,2)\t
index\torders_amount_idx\tUSING btree (amount)
purge\t1000000
fillfactor\t80
"""


class Answer:
    def __init__(self, code, out):
        self.code, self.out = code, out

    def __repr__(self):
        return f"exit {self.code}\n{self.out}"

    def lines(self, word):
        return [line[len(word) + 2:] for line in self.out.splitlines()
                if line.startswith(word + ": ")]


@pytest.fixture
def tool(mirror):
    """tool(definitions, step, …) with the mirror's least-privileged role."""
    def run(definitions, *steps, pipeline="main", code=0, user="tailwater"):
        done = subprocess.run([TOOL, mirror.conninfo(user), pipeline, *steps], input=definitions,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        answer = Answer(done.returncode, done.stdout)
        assert answer.code == code, answer
        return answer
    return run


def columns(mirror, table):
    return mirror.sql("select attname, format_type(atttypid, atttypmod), attnotnull, attgenerated "
                      "from pg_attribute where attrelid = %s::regclass and attnum > 0 "
                      "and not attisdropped order by attnum", table)


# ---- migrations ----


def test_migrations_are_idempotent_and_recorded(tool, mirror):
    tool("", "migrate")
    before = mirror.sql("select version, name, hash, applied_at from tailwater.migration")
    tool("", "migrate", "require")
    assert mirror.sql("select version, name, hash, applied_at from tailwater.migration") == before
    for version, name, found, _ in before:
        path = os.path.join(ROOT, "migrations", f"{version:04d}_{name}.sql")
        with open(path, "rb") as f:
            assert hashlib.sha256(f.read()).hexdigest() == found
    assert len(before) == len([n for n in os.listdir(os.path.join(ROOT, "migrations"))
                               if n.endswith(".sql")])


def test_migrations_of_processes_that_start_together(tool, mirror):
    key = int.from_bytes(b"tailwate", "big")
    gate = mirror.connect()
    gate.cursor().execute("select pg_advisory_xact_lock(%s)", (key,))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(tool("", "migrate")))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    wait.until(lambda: mirror.value("select count(*) from pg_locks where locktype = 'advisory' and not granted "
                                    "and database = (select oid from pg_database "
                                    "where datname = current_database())") == 4, "all four at the gate")
    gate.commit()
    gate.close()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert mirror.value("select count(*) = max(version) from tailwater.migration")


def test_a_changed_migration_is_refused(tool, mirror):
    tool("", "migrate")
    mirror.sql("update tailwater.migration set hash = 'x' where version = 1")
    for step in ("migrate", "require"):
        answer = tool("", step, code=2)
        assert "0001_control" in answer.out and "hash x" in answer.out
        assert answer.lines("hint")[0]


def test_a_newer_database_is_refused(tool, mirror):
    tool("", "migrate")
    mirror.sql("insert into tailwater.migration values (9999, 'later', 'x')")
    for step in ("migrate", "require"):
        answer = tool("", step, code=2)
        assert "version 9999" in answer.out and "newer" in answer.lines("hint")[0]


def test_without_a_control_schema(tool, mirror):
    assert "tailwater run" in tool("", "require", code=2).lines("hint")[0]
    assert mirror.value("select to_regnamespace('tailwater') is null")


def test_without_create_on_the_database(tool, mirror):
    mirror.sql(f"revoke create on database {mirror.name} from tailwater")
    answer = tool("", "migrate", code=1)
    assert f"GRANT CREATE ON DATABASE {mirror.name} TO tailwater" in answer.lines("hint")[0]


# ---- lock, heartbeat, counters, identity ----


def test_the_lock_names_its_holder(tool, mirror):
    tool("", "migrate", "pipeline")
    holder = subprocess.Popen([TOOL, mirror.conninfo(), "main", "lock=hold"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        answer = tool("", "lock", code=7)
        assert "tailwater main lock" in answer.out and f"process {holder.pid}" in answer.out
        assert re.search(r"backend \d+", answer.out)
        # another pipeline's lock is another one
        tool("", "lock", pipeline="other")
    finally:
        holder.kill()
        holder.wait()
    wait.until(lambda: tool_is_free(mirror), "the dead holder's lock to go")
    tool("", "lock")


def tool_is_free(mirror):
    return mirror.value("select count(*) = 0 from pg_locks where locktype = 'advisory'")


def test_heartbeat_and_counters(tool, mirror):
    tool("", "migrate", "pipeline")
    answer = tool("", 'heartbeat=it "failed"', "heartbeat")
    first, second = answer.out.splitlines()
    assert first == "1 1.2 waiting for the source 7 16/1 1500000 1099511627776 it \"failed\" 1"
    assert second.endswith(" - 1")
    assert mirror.value("select count(*) from tailwater.heartbeat") == 1
    tool("", "count=3", "count=4")
    assert mirror.sql("select name, value from tailwater.counter") == [("repaired_rows", 7)]


def test_pipeline_row_and_slot(tool, mirror):
    answer = tool("", "load", "migrate", code=1)
    answer = tool("", "migrate", "load", "pipeline", "load", "slot=1/2", "load", "streaming", "load")
    assert answer.out.splitlines() == [
        "main copying tailwater_main 0/0 0/0 -", "main copying tailwater_main 1/2 1/2 -",
        "main streaming tailwater_main 1/2 1/2 -"]
    # a position is recorded once, a pipeline is made once
    assert "error bug" in tool("", "slot=3/4", code=1).out
    assert "error bug" in tool("", "pipeline", code=1).out
    assert mirror.sql("select slot_lsn, cursor from tailwater.pipeline, tailwater.clock") == [
        ("1/2", "1/2")]


@pytest.mark.parametrize("what, code, word", [
    ("system=7", 6, "system identifier"), ("database=x", 6, "another database of"),
    ("slot=x", 6, "another slot"), ("plugin=pgoutput", 2, "another output plugin"),
    ("publication=p", 2, "another publication: was none, is p"), ("same=1", 0, "")])
def test_identity(tool, what, code, word):
    answer = tool("", "migrate", "pipeline", "identity=" + what, code=code)
    assert word in answer.out
    assert code == 0 or answer.lines("hint")[0]


# ---- tables ----


def test_a_mirror_table(tool, mirror):
    tool(ORDERS, *SETUP, "tables")
    assert columns(mirror, "mirror_public.orders") == [
        ("id", "bigint", True, ""), ("note", "character varying(20)", False, ""),
        ("amount", "numeric(12,2)", False, ""), ("_lsn", "pg_lsn", True, ""),
        ("_deleted_at", "timestamp with time zone", False, ""),
        ("len", "integer", False, "s")]
    assert mirror.value("select count(*) from pg_index where indrelid = 'mirror_public.orders'::regclass") == 0
    assert mirror.value("select reloptions from pg_class where relname = 'orders'") == ["fillfactor=80"]
    mirror.sql("insert into mirror_public.orders (id, note, _lsn) values (1, 'abc', '0/1')")
    assert mirror.value("select len from mirror_public.orders") == 3
    assert mirror.value("select state from tailwater.mirror_table") == "created"


def test_everything_again_changes_nothing(tool, mirror):
    def facts():
        return mirror.sql("select oid, relname, relfilenode, relkind from pg_class "
                          "where relnamespace in ('public'::regnamespace, 'mirror_public'::regnamespace) "
                          "order by 1"), \
            mirror.sql("select xmin, state from tailwater.mirror_table"), \
            mirror.sql("select * from tailwater.made_object order by 2, 3, 4")

    tool(ORDERS, *BUILD, "grant=reports")
    before = facts()
    answer = tool(ORDERS, "migrate", "schemas", "types", "sync", "tables", "keys", "views",
                  "grant=reports")
    assert facts() == before
    assert "public.orders: ready" in answer.out
    assert mirror.sql("select kind, schema from tailwater.made_object") == [("schema", "mirror_public")]


@pytest.mark.parametrize("stop", range(6, len(BUILD)))
def test_a_crash_after_any_step_resumes(tool, mirror, stop):
    """Steps are repeated from the start up to the crash and then on, as a new process does."""
    tool(ORDERS, *BUILD[:stop])
    again = [step for step in ("migrate", "schemas", "types", "sync", "tables")]
    state = mirror.value("select state from tailwater.mirror_table")
    later = {"new": ["copied"], "created": ["empty", "copied"]}.get(state, [])
    tool(ORDERS, *again, *later, "keys", "indexes", "views", "streaming")
    assert mirror.value("select state from tailwater.mirror_table") == "ready"
    assert mirror.sql("select indisprimary, count(*) from pg_index where indrelid = "
                      "'mirror_public.orders'::regclass group by 1 order by 1") == [(False, 2), (True, 1)]
    mirror.sql("select * from public.orders")


def test_indexes(tool, mirror):
    definition = ORDERS + """index\torders_u\tUSING btree (note, amount)
index\torders_gone\tUSING btree (nothing)
index\torders_op\tUSING gin (note gin_trgm_ops)
index\torders\tUSING btree (lower((note)::text)) WHERE (amount > (0)::numeric)
"""
    answer = tool(definition, *BUILD)
    assert [re.match(r"table public.orders: index (\w+) is left out", n)[1] for n in answer.lines("note")] == [
        "orders_gone", "orders_op"]
    found = mirror.sql("select indexrelid::regclass::text, indisunique, indisprimary, pg_get_indexdef(indexrelid) "
                       "from pg_index where indrelid = 'mirror_public.orders'::regclass order by 1")
    assert sum(row[1] for row in found) == 1 and sum(row[2] for row in found) == 1
    assert any("lower((note)::text)) WHERE (amount > (0)::numeric)" in row[3] for row in found)
    assert any("(_deleted_at) WHERE (_deleted_at IS NOT NULL)" in row[3] for row in found)
    # the name of the mirror table itself was taken
    assert any(row[0].startswith("mirror_public.index_") for row in found)
    # in the state 'copied' again: each is found again under the name it got
    mirror.sql("update tailwater.mirror_table set state = 'copied'")
    tool(definition, "indexes")
    assert mirror.sql("select count(*) from pg_index where indrelid = 'mirror_public.orders'::regclass")[0][0] == len(found)


def test_no_tombstone_index_without_retention(tool, mirror):
    tool(ORDERS.replace("purge\t1000000\n", ""), *BUILD)
    assert mirror.value("select count(*) from pg_index where indpred is not null "
                        "and indrelid = 'mirror_public.orders'::regclass") == 0


def test_statistics_after_the_copy(tool, mirror):
    tool(ORDERS, *SETUP, "tables")
    mirror.sql("insert into mirror_public.orders (id, _lsn) select i, '0/1' from generate_series(1, 500) i")
    tool(ORDERS, "copied", "keys", "indexes")
    assert mirror.value("select reltuples from pg_class where relname = 'orders'") == 500


def test_a_generated_column_that_the_mirror_cannot_compute(tool, mirror):
    definition = ORDERS + "generated\tmagic\tinteger\tpublic.no_such_function(id)\n"
    answer = tool(definition, *BUILD)
    assert "generated column magic is left out" in answer.lines("note")[0]
    assert [c[0] for c in columns(mirror, "public.orders")] == ["id", "note", "len", "amount"]
    answer = tool(definition, "tables")
    assert "magic is left out" in answer.lines("note")[0]


def test_a_relation_in_the_way_is_refused(tool, mirror):
    tool(ORDERS, *SETUP)
    mirror.sql("create table mirror_public.orders (id int, _lsn pg_lsn, _deleted_at timestamptz)")
    answer = tool(ORDERS, "tables", code=2)
    assert "mirror_public.orders is in the way" in answer.out and answer.lines("hint")[0]
    mirror.sql("drop table mirror_public.orders; create table public.orders (id int)")
    tool(ORDERS, "tables", "copied", "keys", "indexes")
    answer = tool(ORDERS, "views", code=2)
    assert "public.orders is in the way" in answer.out
    assert mirror.value("select state from tailwater.mirror_table") == "indexed"
    # not even a view that reads the mirror table, as long as we have not made ours
    mirror.sql("drop table public.orders; create view public.orders as select * from mirror_public.orders")
    tool(ORDERS, "views", code=2)
    mirror.sql("drop view public.orders")
    tool(ORDERS, "views")


@pytest.mark.parametrize("change, said", [
    ("alter table {} add extra int", "column extra is not on the source"),
    ("alter table {} drop column note cascade", "column note is missing"),
    ("alter table {} alter amount type numeric(14,2)", "amount is numeric(14,2), on the source numeric(12,2)"),
    ("alter table {} alter amount set not null", "column amount is NOT NULL"),
    ("alter table {} drop column _lsn", "column _lsn is missing"),
    ("alter table {} alter len drop expression", "column len is generated on the source"),
    ("alter table {} rename to lost", "dropped or renamed"),
])
def test_a_difference_is_named(tool, mirror, change, said):
    tool(ORDERS, *SETUP, "tables", "copied", "keys", "indexes")
    mirror.sql(change.format("mirror_public.orders"))
    answer = tool(ORDERS, "tables", code=2)
    assert said in answer.out, answer
    assert answer.lines("hint")[0]


@pytest.mark.parametrize("name", ["_lsn", "_deleted_at"])
def test_metadata_names_are_refused(tool, name):
    answer = tool(ORDERS + f"column\t{name}\tinteger\t\n", *SETUP, "tables", code=2)
    assert f"has a column {name}" in answer.out and "exclude" in answer.lines("hint")[0]


def test_p67_names_are_quoted(tool, mirror):
    """P67"""
    weird = 'We"ird schema'
    definition = f'''schema\tmirror_{weird}
schema\t{weird}
enum\t{weird}\tM'ood\tsel''ect\t"
composite\t{weird}\tad%dr\tx.y z\tinteger
table\t{weird}\tsel''ect\t7
column\tx.y z\tinteger\tkey
column\tö%s"\t"We""ird schema"."M'ood"\t
column\tc\t"We""ird schema"."ad%dr"\t
index\ti"dx\tUSING btree ("ö%s""")
purge\t-1
'''
    tool(definition, *BUILD, "grant=reports")
    stored = '"mirror_We""ird schema"."sel\'\'ect"'
    mirror.sql(f"insert into {stored} values (1, %s, null, '0/1', null), (2, %s, null, '0/1', now())",
               "sel''ect", '"')
    assert mirror.sql('select * from "We""ird schema"."sel\'\'ect"', user="reports") == [
        (1, "sel''ect", None)]
    tool(definition, "sync", "tables", "types", "views")
    answer = tool(definition, "sweep=0:10")
    assert answer.out == "deleted 1\n"
    tool("", "destroy")
    assert mirror.value("select count(*) from pg_namespace where nspname like '%ird%'") == 0


def test_a_lock_in_the_way_is_waited_for_and_then_named(tool, mirror):
    tool(ORDERS, *SETUP, "tables", "copied")
    blocker = mirror.connect()
    blocker.cursor().execute("lock table mirror_public.orders in share row exclusive mode")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(tool(ORDERS, "keys")))
    thread.start()
    # past the first lock_timeout: the step has failed once and is tried again
    wait.until(lambda: "canceling statement due to lock timeout" in mirror.cluster.log, "a lock timeout")
    assert not answers
    blocker.rollback()
    blocker.close()
    thread.join()
    assert answers and answers[0].code == 0


# ---- types ----

TYPES = ORDERS + "enum\tpublic\tmood\tsad\tok\thappy\ncomposite\tpublic\taddr\tstreet\ttext\tmood\tpublic.mood\n"


def test_types_are_made_and_belong_to_us(tool, mirror):
    tool(TYPES, *SETUP)
    assert mirror.value("select enum_range(null::public.mood)::text") == "{sad,ok,happy}"
    assert mirror.sql("select kind, name from tailwater.made_object where kind <> 'schema' order by 1") == [
        ("composite", "addr"), ("enum", "mood")]
    # however a type is written
    tool(TYPES.replace("public.mood", '"public"."mood"'), "types")


def test_a_type_may_be_written_in_several_ways(tool, mirror):
    definition = TYPES.replace("index\torders", """column\tm\tpublic.mood\t
column\tms\tpublic.mood[]\t
column\tts\ttimestamp(3) with time zone\t
column\tiv\tinterval day to second\t
column\tc\t"char"\t
index\torders""")
    tool(definition, *SETUP, "tables", "tables")
    tool(definition.replace("public.mood", '"public"."mood"'), "tables")
    answer = tool(definition.replace("column\tms\tpublic.mood[]", "column\tms\tpublic.mood"), "tables", code=2)
    assert "column ms is public.mood[], on the source public.mood" in answer.out


def test_enum_labels_are_added_where_they_belong(tool, mirror):
    tool(TYPES, *SETUP)
    more = TYPES.replace("sad\tok\thappy", "furious\tsad\tmeh\tok\thappy\telated")
    tool(more, "types")
    assert mirror.value("select enum_range(null::public.mood)::text") == "{furious,sad,meh,ok,happy,elated}"
    # labels that only the mirror has may stand between
    tool(TYPES, "types")


def test_types_that_differ_are_refused(tool, mirror):
    mirror.sql("create type public.mood as enum ('ok', 'sad', 'happy')")
    answer = tool(TYPES, *SETUP, code=2)
    assert "another order" in answer.out and "public.mood" in answer.out
    mirror.sql("drop type public.mood; create domain public.mood as text")
    assert "that one is no enum" in tool(TYPES, "types", code=2).out
    mirror.sql("drop domain public.mood; create type public.addr as (street text)")
    assert "differs in the attribute mood" in tool(TYPES, "types", code=2).out
    mirror.sql("drop type public.addr; create type public.addr as (street text, mood text)")
    assert "differs in the attribute mood" in tool(TYPES, "types", code=2).out


def test_a_users_type_that_fits_is_used_and_stays(tool, mirror):
    mirror.sql("create type public.mood as enum ('sad', 'ok', 'happy')", user="tailwater")
    tool(TYPES, *BUILD)
    answer = tool("", "destroy")
    assert "finished" in answer.out and not answer.lines("kept")
    assert mirror.value("select to_regtype('public.mood') is not null and to_regtype('public.addr') is null")


# ---- the rows of the tables ----


def test_sync_refuses_what_rows_were_copied_under(tool, mirror):
    tool(ORDERS, *BUILD)
    for change, word in ((("1001", "1002"), "dropped and made again"),
                         (("column\tnote\tcharacter varying(20)\t", "column\tnote\ttext\tkey"), "key of table"),
                         (("purge", "view\tpublic\tothers\npurge"), "other names")):
        answer = tool(ORDERS.replace(*change), "sync", code=2)
        assert word in answer.out and "public.orders" in answer.out and answer.lines("hint")[0]


def test_a_table_that_was_never_made_follows_the_source(tool, mirror):
    tool(ORDERS, *SETUP)
    tool(ORDERS.replace("1001", "1002"), "sync")
    assert mirror.value("select relid from tailwater.mirror_table") == 1002


def test_strays_are_named(tool):
    tool(ORDERS, *BUILD)
    strays = tool(ORDERS.replace("table\tpublic\torders", "table\tpublic\tothers"), "sync").lines("stray")
    assert len(strays) == 1 and strays[0].startswith("public.orders is no longer among the tables")


def test_two_tables_for_one_name_are_refused(tool, mirror):
    both = ORDERS + "table\tsales\torders\t5\nmirror\tmirror_public\torders\ncolumn\tid\tinteger\tkey\n"
    answer = tool(both, "migrate", "pipeline", "sync", code=2)
    assert "public.orders" in answer.out and "sales.orders" in answer.out
    assert "table_schema" in answer.lines("hint")[0]
    answer = tool(both.replace("mirror\tmirror_public\torders", "view\tpublic\torders"), "sync", code=2)
    assert "live view public.orders" in answer.out and "view_schema" in answer.lines("hint")[0]
    tool(ORDERS, "sync")
    answer = tool(ORDERS, "pipeline", "sync", pipeline="second", code=2)
    assert "of pipeline main" in answer.out


def test_a_thousand_tables(tool, mirror):
    """No matter at a start: a few statements, and none that compares all with all."""
    many = "".join(f"table\tpublic\tt{i}\t{i}\ncolumn\tid\tinteger\tkey\n" for i in range(1, 1001))
    tool("", "migrate", "pipeline")
    before = time.monotonic()
    tool(many, "sync", "sync")
    took = time.monotonic() - before
    assert mirror.value("select count(*) from tailwater.mirror_table") == 1000
    assert took < 10, took


# ---- live views and readers ----


def test_live_view(tool, mirror):
    tool(ORDERS, *BUILD)
    assert [c[0] for c in columns(mirror, "public.orders")] == ["id", "note", "len", "amount"]
    mirror.sql("insert into mirror_public.orders (id, note, amount, _lsn, _deleted_at) values "
               "(1, 'a', 1, '0/1', null), (2, 'b', 2, '0/1', now())")
    assert mirror.sql("select id, len from public.orders") == [(1, 1)]


def test_readers(tool, mirror):
    tool(ORDERS.replace("purge", "view\tsales\torders\npurge").replace("schema\tpublic", "schema\tsales"),
         *BUILD, "grant=reports")
    assert mirror.sql("select id from sales.orders", user="reports") == []
    with pytest.raises(Exception, match="permission denied"):
        mirror.sql("select id from mirror_public.orders", user="reports")
    answer = tool("", "grant=nobody", code=2)
    assert "no role nobody" in answer.out and "CREATE ROLE nobody" in answer.lines("hint")[0]


def test_a_schema_that_is_not_ours_to_grant(tool, mirror):
    mirror.sql("revoke usage on schema public from public")
    answer = tool(ORDERS, *BUILD, "grant=reports")
    assert "GRANT USAGE ON SCHEMA public TO reports" in answer.lines("note")[0]
    mirror.sql("grant usage on schema public to reports")
    answer = tool("", "grant=reports")
    assert not answer.lines("note")
    assert mirror.sql("select id from public.orders", user="reports") == []


def test_without_create_on_the_view_schema(tool, mirror):
    mirror.sql("revoke create on schema public from tailwater, public")  # before 15 everybody may
    answer = tool(ORDERS, *BUILD, code=1)
    assert "GRANT USAGE, CREATE ON SCHEMA public TO tailwater" in answer.lines("hint")[0]
    mirror.sql("grant create on schema public to tailwater")
    tool(ORDERS, "views")


def test_a_view_that_somebody_dropped_comes_back(tool, mirror):
    tool(ORDERS, *BUILD)
    mirror.sql("drop view public.orders")
    tool(ORDERS, "views")
    assert mirror.sql("select id from public.orders") == []
    mirror.sql("drop view public.orders; create view public.orders as select 1 as id")
    assert "in the way" in tool(ORDERS, "views", code=2).out


# ---- sweep ----


def add_tombstones(mirror, ages):
    for i, age in enumerate(ages):
        mirror.sql("insert into mirror_public.orders (id, _lsn, _deleted_at) values "
                   "(%s, '0/1', now() - %s::interval)", i, age)


def test_sweep_takes_old_tombstones_in_slices(tool, mirror):
    tool(ORDERS, *BUILD)
    add_tombstones(mirror, ["3 hours", "2 hours", "70 minutes", "50 minutes", "-1 hour"])
    mirror.sql("insert into mirror_public.orders (id, _lsn) values (100, '0/1')")
    hour = 3600 * 1000000
    assert tool(ORDERS, f"sweep={hour}:2").out == "deleted 2\n"
    assert mirror.sql("select id from mirror_public.orders order by 1") == [(2,), (3,), (4,), (100,)]
    assert tool(ORDERS, f"sweep={hour}:2", f"sweep={hour}:2").out == "deleted 1\ndeleted 0\n"
    assert tool(ORDERS, "sweep=0:5000").out == "deleted 2\n"
    assert mirror.sql("select id from mirror_public.orders") == [(100,)]


def test_sweep_gives_way_to_a_batch(tool, mirror):
    tool(ORDERS, *BUILD)
    add_tombstones(mirror, ["3 hours"])
    batch = mirror.connect()
    batch.cursor().execute("update tailwater.clock set batch_id = batch_id + 1")
    assert tool(ORDERS, "sweep=0:10").out == "deleted -1\n"
    # what the batch brings back to life survives
    batch.cursor().execute("update mirror_public.orders set _deleted_at = null")
    batch.commit()
    batch.close()
    assert tool(ORDERS, "sweep=0:10").out == "deleted 0\n"
    assert mirror.value("select count(*) from public.orders") == 1


def test_a_sweep_that_waited_sees_what_the_batch_did(tool, mirror):
    """Its snapshot is taken after the clock, not before."""
    tool(ORDERS, *BUILD)
    add_tombstones(mirror, ["3 hours"])
    for _ in range(3):
        batch = mirror.connect()
        batch.cursor().execute("update tailwater.clock set batch_id = batch_id + 1; "
                               "update mirror_public.orders set _deleted_at = null")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(tool(ORDERS, "sweep=0:10").out))
        thread.start()
        wait.until(lambda: answers or mirror.value(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = "
            "current_database() and query like '%tailwater.clock%'") == 1, "the sweep to wait", every=0.005)
        batch.commit()
        batch.close()
        thread.join()
        assert answers[0] in ("deleted 0\n", "deleted -1\n")
        assert mirror.value("select count(*) from public.orders") == 1


# ---- destroy ----


def test_destroy_leaves_nothing(tool, mirror):
    def everything():
        return mirror.sql("select classid::regclass::text, pg_describe_object(classid, objid, 0) from ("
                          "select 'pg_class'::regclass, oid from pg_class where oid >= 16384 union all "
                          "select 'pg_type'::regclass, oid from pg_type where oid >= 16384 union all "
                          "select 'pg_namespace'::regclass, oid from pg_namespace where oid >= 16384"
                          ") as t(classid, objid) order by 1, 2")

    before = everything()
    tool(TYPES, *BUILD, "grant=reports", "heartbeat")
    assert everything() != before
    answer = tool("", "destroy=dry")
    assert "mirror_public.orders" in answer.out and mirror.value("select count(*) from public.orders") == 0
    answer = tool("", "destroy")
    assert "finished" in answer.out.splitlines()
    assert everything() == before
    tool(TYPES, *BUILD)


def test_destroy_never_cascades_and_can_be_finished(tool, mirror):
    tool(TYPES + "table\tpublic\tother\t3\ncolumn\tid\tinteger\tkey\n", *BUILD)
    mirror.sql("create view public.report as select count(*) from public.orders; "
               "create table mirror_public.mine (m public.mood)")
    answer = tool("", "destroy")
    assert answer.out.splitlines()[-1] == "unfinished"
    assert any("view public.report depends on it" in line for line in answer.lines("kept"))
    assert mirror.value("select count(*) from public.report") == 1
    assert mirror.value("select to_regclass('mirror_public.other') is null")
    assert mirror.sql("select name from tailwater.mirror_table") == [("orders",)]
    mirror.sql("drop view public.report")
    answer = tool("", "destroy")
    assert answer.out.splitlines()[-1] == "finished"
    # a user's table keeps the type and the schema that it is in
    assert [line.split(":")[0] for line in answer.lines("kept")] == [
        'type "public"."mood"', 'schema "mirror_public"']
    assert mirror.value("select to_regnamespace('tailwater') is null")


def test_destroy_of_one_of_two_pipelines(tool, mirror):
    second = TYPES.replace("table\tpublic\torders", "table\tpublic\tsecond").replace("orders_amount", "second_amount")
    tool(TYPES, *BUILD)
    tool(second, *BUILD, pipeline="second")
    tool("", "destroy")
    assert mirror.sql("select name from tailwater.pipeline") == [("second",)]
    assert mirror.value("select to_regtype('public.addr') is not null")
    assert mirror.sql("select id from public.second") == []
    tool("", "destroy", pipeline="second")
    assert mirror.value("select to_regtype('public.addr') is null and to_regnamespace('mirror_public') is null "
                        "and to_regnamespace('tailwater') is null")


def test_destroy_can_keep_the_tables(tool, mirror):
    tool(ORDERS, *BUILD)
    tool("", "destroy=keep")
    assert mirror.sql("select id from public.orders") == []
    assert mirror.value("select to_regnamespace('tailwater') is null")
    # they are somebody else's from now on
    assert "in the way" in tool(ORDERS, *SETUP, "tables", code=2).out
