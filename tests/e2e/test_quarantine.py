"""A table whose changes the mirror refuses is left out; everything else goes on (design: failure).

Every kind of refusal, through both plugins: which table, from which transaction on, and that nothing
else is held up, torn or lost; then the remedy.
"""

import signal
import time

import psycopg2
import pytest

from lib import wait
from lib.compare import difference
from lib.kit import lsn
from lib.pipeline import FAILED, FINDINGS, fault_points

SCHEMA = """
    create type mood as enum ('sad', 'ok');
    create table good (id int primary key, a int, b text);
    create table bad (id int primary key, a int, b text, m mood, n numeric, big text);
    alter table bad alter big set storage external;
    insert into good select i, i, 'g' || i from generate_series(1, 20) i;
    insert into bad select i, i, 'b' || i, 'ok', i, repeat('x', 3000) from generate_series(1, 20) i;
    """


@pytest.fixture
def schema(source):
    source.sql(SCHEMA)


def marks(pipeline):
    """The quarantined tables: {name: (lsn, sqlstate, reason)}."""
    return {row[0]: row[1:] for row in pipeline.mirror.sql(
        "select name, quarantine_lsn::text, quarantine_sqlstate, quarantine_reason "
        "from tailwater.mirror_table where pipeline = %s and quarantine_lsn is not null",
        pipeline.name)}


def wait_quarantined(pipeline, name="bad"):
    wait.until(lambda: name in marks(pipeline), pipeline.log_tail)
    return marks(pipeline)[name]


def view(mirror, name="bad"):
    return mirror.sql(f"select * from {name} order by id")


# ---- kinds of refusal ----

# A column that a live view shows: the view goes and comes again.
RETYPE = """
    do $$ declare shown text = pg_get_viewdef('public.bad'); begin
    drop view public.bad; alter table mirror_public.bad alter %s;
    execute 'create view public.bad as ' || shown; end $$"""

# What makes the mirror refuse, the change that is refused, and the SQLSTATE.
REFUSED = {
    "check": ("alter table mirror_public.bad add check (a < 1000)",
              "update bad set a = 5000 where id = 3", "23514"),
    "not null": ("alter table mirror_public.bad alter b set not null",
                 "update bad set b = null where id = 3", "23502"),
    "unique": ("create unique index on mirror_public.bad (a)",
               "update bad set a = 4 where id = 3", "23505"),
    "text": (RETYPE % "b type varchar(10)",
             "update bad set b = 'much longer than that' where id = 3", "22001"),
    "number": (RETYPE % "n type numeric(4, 0)",
               "update bad set n = 123456 where id = 3", "22003"),
    "enum": (None, "alter type mood add value 'happy'; update bad set m = 'happy' where id = 3",
             "22P02"),
    "foreign key": ("create table public.wants (id int primary key); insert into wants "
                    "select generate_series(1, 20); alter table mirror_public.bad add "
                    "foreign key (a) references wants deferrable initially deferred",
                    "update bad set a = 5000 where id = 3", "23503"),
    "index row": ("create index on mirror_public.bad (big)",
                  "update bad set big = (select string_agg(md5(i::text), '') "
                  "from generate_series(1, 2000) i) where id = 3", "54000"),
    "insert": ("alter table mirror_public.bad add check (id < 1000)",
               "insert into bad values (5000, 1, 'x', 'ok', 1, 'y')", "23514"),
    "many": ("alter table mirror_public.bad add check (id < 1000)",
             "insert into bad select i, 1, 'x', 'ok', 1, 'y' from generate_series(500, 5000) i",
             "23514"),
    "key": ("alter table mirror_public.bad add check (id < 1000)",
            "update bad set id = 5000 where id = 3", "23514"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_the_mirror(both_plugins, source, mirror, schema, make_pipeline, kind):
    obstacle, change, sqlstate = REFUSED[kind]
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    if obstacle:
        mirror.sql(obstacle)
        if "references" in obstacle:
            mirror.sql("grant all on public.wants to tailwater")
    source.sql("update bad set a = 21 where id = 1")
    pipeline.wait_until_caught_up()
    before = view(mirror)
    for statement in change.split("; "):
        source.sql(statement)
    source.sql("update good set a = a + 100")
    lsn_marked, state, reason = wait_quarantined(pipeline)
    assert state == sqlstate
    assert "public.bad" in reason
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert view(mirror) == before, "the last consistent state"
    # From now on it is left out, and the rest goes on, also after a restart.
    source.sql("update bad set b = 'later'; delete from bad where id = 7; truncate bad")
    source.sql("insert into good values (100, 100, 'later')")
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert view(mirror) == before
    pipeline.stop()
    source.sql("update good set b = 'stopped'; insert into bad (id) values (1)")
    result = pipeline.run_until_now()
    assert "still_quarantined" in result.err and "tailwater resync" in result.err
    pipeline.compare(["good"])
    assert view(mirror) == before
    assert marks(pipeline)["bad"] == (lsn_marked, state, reason)


@pytest.mark.parametrize("plugin, change", [
    ("wal2json", "alter table bad add c int; update bad set c = 1 where id = 3"),
    ("pgoutput", "alter table bad add c int; update bad set c = 1 where id = 3"),
    ("wal2json", "alter table bad rename b to c; update bad set a = 1 where id = 3"),
    ("pgoutput", "alter table bad rename b to c; update bad set a = 1 where id = 3"),
    ("wal2json", "alter table bad drop b; insert into bad (id) values (77)"),
    ("pgoutput", "alter table bad drop b; insert into bad (id) values (77)"),
    ("wal2json", "truncate bad"),
    ("pgoutput", "truncate bad"),
])
def test_refused_by_the_receiver(plugin, source, mirror, schema, make_pipeline, change):
    """A shape that no longer matches, a truncate that is to stop: known before the mirror sees it."""
    pipeline = make_pipeline(tables=[{"name": "public.bad", "truncate": "stop"}, "public.good"],
                             plugin=plugin).publish()
    pipeline.start().wait_until_caught_up()
    before = view(mirror)
    with source.transaction() as cursor:
        cursor.execute("update good set a = a + 100")
        cursor.execute("update bad set a = a where id = 1")
        cursor.execute(change)
        cursor.execute("insert into good values (200, 0, 'same transaction')")
    wait_quarantined(pipeline)
    source.sql("update good set b = 'after'")
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert view(mirror) == before
    pipeline.stop()
    source.sql("update good set b = 'again'")
    pipeline.run_until_now()
    pipeline.compare(["good"])
    assert view(mirror) == before


# ---- where the batch is cut ----

@pytest.mark.parametrize("limits", [{}, {"apply": {"max_rows": 3}}], ids=["batches", "pieces"])
def test_exactly_from_the_refused_transaction_on(both_plugins, source, mirror, schema, make_pipeline,
                                                 limits):
    """In a batch of many transactions only those from the refused one on are left out."""
    pipeline = make_pipeline(**limits).publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (a < 1000)")
    with pipeline.held_applier():
        source.sql("update good set a = 1")
        source.sql("update bad set a = 50 where id < 10")
        source.sql("update good set a = 2; update bad set b = 'two' where id < 5")
        with source.transaction() as cursor:  # a torn transaction would show in good
            cursor.execute("update good set b = 'together'")
            cursor.execute("update bad set a = 5000 where id = 2")
            cursor.execute("update good set a = 3")
        source.sql("update bad set b = 'never' where id = 3")
        source.sql("update good set a = 4 where id = 1")
    marked, _, _ = wait_quarantined(pipeline)
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert mirror.value("select count(*) from bad where a = 50") == 9
    assert mirror.value("select count(*) from bad where b = 'two'") == 4
    assert mirror.value("select count(*) from bad where b = 'never' or a = 5000") == 0
    assert mirror.value("select max(_lsn) from mirror_public.bad where b = 'two'") < marked \
        or lsn(mirror.value("select max(_lsn)::text from mirror_public.bad")) < lsn(marked)


def test_two_tables_at_once(both_plugins, source, mirror, schema, make_pipeline):
    source.sql("create table worse (like bad including all); insert into worse select * from bad")
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (a < 1000);"
               "alter table mirror_public.worse add check (a < 1000)")
    with pipeline.held_applier():
        for i in range(1, 6):
            source.sql(f"update good set a = {i}; update bad set a = {i * 300} where id = 1;"
                       f"update worse set a = {i * 220} where id = 1")
        # So far behind that a batch gathers transactions before it is applied.
        committed = time.monotonic()
        wait.until(lambda: time.monotonic() - committed > 1.1, "more than a second behind")
    wait_quarantined(pipeline, "bad")
    wait_quarantined(pipeline, "worse")
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert mirror.value("select a from bad where id = 1") == 900
    assert mirror.value("select a from worse where id = 1") == 880


def test_large_transaction_in_pieces(both_plugins, source, mirror, schema, make_pipeline):
    """It fails in a late piece: nothing of it was visible, and the others get it at once."""
    pipeline = make_pipeline(apply={"max_rows": 500}).publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (a < 1000000)")
    with source.transaction() as cursor:
        cursor.execute("insert into good select i, i, 'x' from generate_series(1000, 5000) i")
        cursor.execute("insert into bad (id, a) select i, i from generate_series(1000, 3000) i")
        cursor.execute("update bad set a = 2000000 where id = 3000")
        cursor.execute("insert into good select i, i, 'x' from generate_series(6000, 7000) i")
    counts = set()

    def caught_up():
        counts.add(mirror.value("select count(*) from good"))
        return "bad" in marks(pipeline) and max(counts) > 5000
    wait.until(caught_up, pipeline.log_tail)
    assert counts <= {20, 20 + 4001 + 1001}, "a torn transaction"
    pipeline.wait_until_caught_up()
    pipeline.compare(["good"])
    assert len(view(mirror)) == 20


# ---- what is not the data's ----

def test_on_error_stop(source, mirror, schema, make_pipeline):
    pipeline = make_pipeline(apply={"on_error": "stop"})
    pipeline.run_until_now()
    mirror.sql("alter table mirror_public.bad add check (a < 1000)")
    source.sql("update bad set a = 5000 where id = 3")
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code == FAILED and "public.bad" in result.err and "23514" in result.err
    assert marks(pipeline) == {}


def test_a_missing_privilege_is_not_the_data(source, mirror, schema, make_pipeline):
    pipeline = make_pipeline()
    pipeline.run_until_now()
    mirror.sql("create function public.f(int) returns bool language sql immutable as 'select true';"
               "alter table mirror_public.bad add check (public.f(a));"
               "revoke all on function public.f(int) from public")
    source.sql("update bad set a = 5000 where id = 3")
    result = pipeline.verb("run", "--until", "now")
    assert result.code == FAILED and "42501" in result.err
    assert marks(pipeline) == {}


def test_a_lock_is_not_the_data(source, mirror, schema, pipeline):
    pipeline.start().wait_until_caught_up()
    with mirror.transaction() as cursor:
        cursor.execute("lock table mirror_public.bad in exclusive mode")
        source.sql("update bad set a = 1")
        time.sleep(1)
        mirror.sql("select pg_cancel_backend(pid) from pg_stat_activity "
                   "where application_name = 'tailwater applier'")
        pipeline.wait_log("57014")
    pipeline.wait_until_caught_up()
    pipeline.compare()
    assert marks(pipeline) == {}


# ---- what it says ----

def test_what_it_says(source, mirror, schema, pipeline):
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (b not like 'S3CRET%')")
    source.sql("update bad set b = 'S3CRET-VALUE' where id = 3")
    marked, state, _ = wait_quarantined(pipeline)
    pipeline.wait_until_caught_up()
    pipeline.wait_log(r"\[quarantined\]")
    remedy = f"tailwater resync -c {pipeline.file} public.bad"
    status = pipeline.verb("status")
    assert status.code == FINDINGS
    for word in ("public.bad", marked, "23514", remedy, "quarantined"):
        assert word in status.out, f"{word} is missing in\n{status.out}"
    told = pipeline.verb("status", "--json").json()
    assert told["state"] == "quarantine" and told["level"] == "error"
    table = next(t for t in told["tables"] if t["name"] == "bad")
    assert table["quarantine"]["lsn"] == marked
    assert table["quarantine"]["sqlstate"] == "23514"
    assert "public.bad" in table["quarantine"]["reason"]
    assert table["quarantine"]["since"] and table["quarantine"]["commit_time"]
    assert all(t["quarantine"] is None for t in told["tables"] if t["name"] != "bad")
    check = pipeline.verb("check")
    for word in ("table_quarantined", "public.bad", marked, "23514", remedy):
        assert word in check.text, f"{word} is missing in\n{check.text}"
    log = pipeline.this_run()
    assert log.count("[quarantined]") == 1
    assert "S3CRET" not in log + status.text + check.text
    pipeline.stop()


def test_it_is_said_before_the_heartbeat_knows_of_the_streaming(source, mirror, schema, pipeline):
    """The verdict of the first second behind the initial copy, whose heartbeat still says that it copies."""
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (a < 1000)")
    source.sql("update bad set a = 5000 where id = 3")
    wait_quarantined(pipeline)
    pipeline.signal(signal.SIGSTOP)
    try:
        mirror.sql("""update tailwater.heartbeat set said_at = now(), state = 'copying',
                          detail = detail || '{"transactions": -1, "changes": -1, "batches": -1}'""")
        status = pipeline.verb("status")
        assert status.code == FINDINGS and status.out.startswith("ERROR"), status
        assert "copying" in status.out and " -1 " not in status.out, status
    finally:
        pipeline.signal(signal.SIGCONT)


def test_a_shape_found_at_the_start(both_plugins, source, mirror, schema, make_pipeline):
    """The table changed while nobody ran: it alone is left out."""
    source.sql("create table other (id int primary key, a int); insert into other values (1, 1)")
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    before = view(mirror), view(mirror, "other")
    source.sql("alter table bad add c int; update bad set c = 1;"
               "drop table other; create table other (id int primary key, a int);"
               "insert into other values (2, 2); update good set a = 99")
    pipeline.publish()
    pipeline.run_until_now()
    pipeline.compare(["good"])
    assert set(marks(pipeline)) == {"bad", "other"}
    assert (view(mirror), view(mirror, "other")) == before
    source.sql("update bad set c = 2; update other set a = 3; update good set a = 100")
    pipeline.run_until_now()
    pipeline.compare(["good"])
    assert (view(mirror), view(mirror, "other")) == before


REBUILT = {
    "dropped and added": "alter table bad drop b; alter table bad add b text; update bad set b = 'n' where id = 2",
    "swapped": "alter table bad add c text; update bad set c = 'c' || id; alter table bad drop b;"
               "alter table bad rename c to b",
}


@pytest.mark.parametrize("change", REBUILT)
def test_another_column_of_the_same_name(both_plugins, source, mirror, schema, make_pipeline, change):
    """Nothing but its number tells: the start sees it, a resync mends it, once."""
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    source.sql(REBUILT[change])
    pipeline.run_until_now()
    assert '"b"' in marks(pipeline)["bad"][2]
    pipeline.ok("resync", "bad")
    pipeline.run_until_now()
    assert marks(pipeline) == {}
    names = "id, a, b, m, n, big"  # the order is that of the copy
    assert mirror.sql(f"select {names} from bad order by id") == \
        source.sql(f"select {names} from bad order by id")


def test_a_table_that_was_not_listed(both_plugins, source, mirror, schema, make_pipeline):
    """Taken out of the configuration and put back: what it missed meanwhile is said, and fetched."""
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    pipeline.tables = ["public.good"]
    pipeline.write_config()
    source.sql("update bad set a = -1; delete from bad where id = 7; update good set a = 0")
    for _ in range(2):
        result = pipeline.run_until_now()
        assert "public.bad" in result.err and "table_not_configured" in result.err
        assert pipeline.verb("status", "--json").json()["state"] == "stopped"
    pipeline.tables = ["public.*"]
    pipeline.write_config()
    source.sql("update bad set b = 'x' where id = 1")
    result = pipeline.run_until_now()
    assert "not among the tables" in result.err and "resync_started" in result.err
    assert marks(pipeline) == {}
    assert mirror.value("select state from tailwater.job") == "done"
    pipeline.compare()
    pipeline.settle()


# ---- killed in between ----

@pytest.mark.parametrize("point", [p for p in fault_points() if p.startswith("quarantine_")])
def test_killed_in_between(source, mirror, schema, make_pipeline, point):
    pipeline = make_pipeline()
    pipeline.run_until_now()
    mirror.sql("alter table mirror_public.bad add check (a < 1000)")
    before = view(mirror)
    source.sql("update good set a = 7; update bad set a = 5000 where id = 3")
    pipeline.start(fault=f"{point}=kill")
    assert pipeline.wait_exit() < 0
    source.sql("update good set b = 'x'; update bad set b = 'x'")
    pipeline.run_until_now()
    assert set(marks(pipeline)) == {"bad"}
    pipeline.compare(["good"])
    assert view(mirror) == before


def test_rows_to_repair_wait_for_the_table(source, mirror, schema, pipeline):
    """What was on the repair list when the table was left out is fetched once it is back."""
    pipeline.start(fault="repair_after_fetch=error").wait_until_caught_up()
    mirror.sql("delete from mirror_public.bad where id = 1")
    source.sql("update bad set a = 2 where id = 1")  # big is unchanged, and not sent
    listed = "select count(*) from tailwater.repair"
    wait.until(lambda: mirror.value(listed), pipeline.log_tail)
    mirror.sql("alter table mirror_public.bad add constraint small check (a < 1000)")
    source.sql("update bad set a = 5000 where id = 3")
    wait_quarantined(pipeline)
    pipeline.kill()
    pipeline.start().wait_until_caught_up()
    assert mirror.value(listed) == 1
    mirror.sql("alter table mirror_public.bad drop constraint small")
    pipeline.ok("resync", "bad")
    wait.until(lambda: not mirror.value(listed), pipeline.log_tail)
    pipeline.settle()


def test_others_are_not_slowed_down(source, mirror, schema, pipeline):
    """Once a table is left out, the others' latency is what it was."""
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.bad add check (a < 1000)")
    source.sql("update bad set a = 5000 where id = 3")
    wait_quarantined(pipeline)
    pipeline.wait_until_caught_up()
    slowest = 0
    for i in range(30):
        source.sql(f"update bad set a = {i}; update good set a = {5000 + i} where id = 1")
        began = time.monotonic()
        wait.until(lambda: mirror.value("select a from good where id = 1") == 5000 + i, "visible",
                   deadline=5, every=0.002)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1.0
    assert pipeline.this_run().count("[streaming]") <= 3
