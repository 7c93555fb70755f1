"""wal2json before 2.6 sends NaN and infinities as null.  What becomes of them, and of true nulls."""

import contextlib
import threading

import psycopg2
import pytest

from lib import wait
from lib.pipeline import DONE, FAILED
from lib.wal2json import use_newer_wal2json, use_older_wal2json
from test_types import settled

OLD = pytest.mark.parametrize("output", ["wal2json 2.5"])


@pytest.fixture
def loses(source, output):
    """Does this plugin lose them?  The server's own wal2json may be new."""
    if output != "wal2json 2.5":
        return False
    with contextlib.closing(source.connect("postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_create_logical_replication_slot('probe', 'wal2json', true)")
        connection.commit()
        try:
            cursor.execute("select count(*) from pg_logical_slot_peek_changes('probe', null, 1, "
                           "'format-version', '2', 'numeric-data-types-as-string', '1')")
        except psycopg2.Error as e:
            assert "numeric-data-types-as-string" in str(e)
            return True
    pytest.skip("this server's own wal2json is 2.6 or later")


@pytest.fixture
def table(source):
    source.sql("""
        create table t (id int primary key, a int, f float8, r real not null, n numeric(9,2), d date);
        insert into t values (1, 0, 'NaN', 'Infinity', 'NaN', 'infinity'), (2, 0, null, 1, null, null),
                             (3, 0, 1.5, -1, 2.50, '2024-01-01'), (4, 0, '-Infinity', 0, 0, null)""")
    return "t"


def running(make_pipeline, **keys):
    return make_pipeline(**{"tables": ["public.t"], **keys}).publish().start().wait_until_caught_up()


def shown(mirror):
    return mirror.sql("select id, a, f::text, r::text, n::text from t order by id")


def test_p07_an_unchanged_one_is_never_null(loses, source, table, mirror, make_pipeline):
    """The mirror has it from the copy; updates of other columns leave it there, and nothing is fetched."""
    pipeline = running(make_pipeline)
    for i in range(1, 4):
        source.sql("update t set a = %s", i)
        pipeline.wait_until_caught_up()
        assert shown(mirror) == [(1, i, "NaN", "Infinity", "NaN"), (2, i, None, "1", None),
                                 (3, i, "1.5", "-1", "2.50"), (4, i, "-Infinity", "0", "0.00")]
    settled(pipeline)
    assert pipeline.counter("repaired_rows") == 0
    pipeline.settle()


def test_p07_new_ones_arrive(loses, source, table, mirror, make_pipeline):
    pipeline = running(make_pipeline)
    source.sql("insert into t values (5, 0, 'NaN', 'NaN', 'NaN', null), (6, 0, 'Infinity', '-Infinity', 1, null)")
    source.sql("update t set f = 'NaN', r = 'NaN' where id = 3")
    source.sql("update t set id = 40 where id = 4")
    settled(pipeline)
    assert shown(mirror)[2:] == [(3, 0, "NaN", "NaN", "2.50"), (5, 0, "NaN", "NaN", "NaN"),
                                 (6, 0, "Infinity", "-Infinity", "1.00"), (40, 0, "-Infinity", "0", "0.00")]
    pipeline.settle()


def test_p07_true_nulls(loses, source, table, mirror, make_pipeline):
    """Also where the mirror held a NaN; and a null is not asked for ever."""
    pipeline = running(make_pipeline)
    source.sql("update t set f = null, n = null where id in (1, 3); insert into t values (7, 0, null, 1, null, null)")
    settled(pipeline)
    assert shown(mirror)[0] == (1, 0, None, "Infinity", None) and shown(mirror)[2] == (3, 0, None, "-1", None)
    pipeline.settle()


def test_p07_one_for_another(loses, source, table, mirror, make_pipeline):
    """A NaN that becomes an infinity: null both times."""
    pipeline = running(make_pipeline)
    source.sql("update t set f = 'Infinity', r = 'NaN' where id = 1")
    settled(pipeline)
    assert shown(mirror)[0] == (1, 0, "Infinity", "NaN", "NaN")
    pipeline.settle()


def test_p07_many_nulls(loses, source, table, mirror, make_pipeline):
    """Thousands of rows make an entry, not one each, and only the odd ones are fetched."""
    pipeline = running(make_pipeline)
    with mirror.transaction() as cursor:
        cursor.execute("create function keep() returns trigger language plpgsql as $$ begin "
                       "insert into public.seen values (new.n); return new; end $$; create table seen (n int);"
                       "grant insert on seen to tailwater; "
                       "create trigger keep after insert on tailwater.doubt for each row execute function keep()")
    source.sql("insert into t select i, 0, case when i % 5000 = 0 then 'NaN'::float8 end, 1, null, null "
               "from generate_series(11, 22000) i")
    settled(pipeline)
    assert mirror.value("select count(*) from t where f = 'NaN'") == 5
    entries, rows = mirror.sql("select count(*), coalesce(sum(n), 0) from seen")[0]
    assert (rows == 21990 and entries < 20) if loses else rows == 0
    assert pipeline.counter("repaired_rows") == (4 if loses else 0)
    mirror.sql("drop trigger keep on tailwater.doubt")
    pipeline.settle()


@pytest.mark.parametrize("how", ["soft", "hard"])
def test_p07_deleted_ones_stay_away(loses, source, table, mirror, make_pipeline, how):
    pipeline = running(make_pipeline, purge={"after": "7d" if how == "soft" else 0})
    for i in range(20):
        source.sql("insert into t values (%s, 0, 'NaN', 'NaN', 'NaN', null)", 100 + i)
        source.sql("delete from t where id = %s", 99 + i)
    settled(pipeline)
    pipeline.settle()


def test_p07_they_survive_a_crash(loses, source, table, mirror, make_pipeline):
    """Killed between the batch's commit and the question."""
    pipeline = running(make_pipeline)
    pipeline.stop()
    source.sql("update t set f = 'NaN', a = 1 where id = 3")
    for _ in range(5):  # heartbeats of before make batches of their own
        pipeline.start(fault="after_commit=kill")
        assert pipeline.wait_exit() != DONE
        if mirror.value("select a from t where id = 3") == 1:
            break
    assert mirror.value("select count(*) from tailwater.doubt") == int(loses)
    pipeline.start().wait_log(r"\[streaming\]")
    settled(pipeline)
    assert shown(mirror)[2] == (3, 1, "NaN", "-1", "2.50")
    pipeline.settle()


@OLD
def test_p07_asked_when_visible(loses, own_servers, source, table, mirror, make_pipeline):
    """A commit that waits for a standby is in the stream long before others see it."""
    pipeline = running(make_pipeline)

    def update():
        with source.transaction() as cursor:
            cursor.execute("update t set f = 'NaN' where id = 3")

    thread = threading.Thread(target=update)
    with own_servers.source.no_standby():
        thread.start()
        wait.until(lambda: mirror.value("select count(*) from tailwater.doubt") == 1, "listed")
        assert source.value("select f from t where id = 3") == 1.5
        asked = source.value("select clock_timestamp()")
        wait.until(lambda: source.value("select count(*) from pg_stat_activity where application_name = "
                                        "'tailwater nan check' and query_start > %s", asked, user="postgres"),
                   "the source was asked")
        assert mirror.value("select count(*) from tailwater.doubt") == 1
        assert shown(mirror)[2] == (3, 0, None, "-1", "2.50")
    thread.join()
    settled(pipeline)
    assert shown(mirror)[2] == (3, 0, "NaN", "-1", "2.50")
    pipeline.settle()


@OLD
def test_p07_off(loses, source, table, mirror, make_pipeline):
    pipeline = running(make_pipeline, source={"nan_check": "off"})
    source.sql("update t set a = 1 where id = 1; insert into t values (5, 0, 'NaN', 1, 1, null)")
    pipeline.wait_until_caught_up()
    assert shown(mirror)[0] == (1, 1, None, None, None)
    assert mirror.value("select count(*) from tailwater.doubt") == 0
    assert "nan_lost" in pipeline.events() and "nan_check is off" in pipeline.this_run()
    pipeline.stop()


@OLD
def test_p07_masked_and_wide_keys(loses, source, mirror, make_pipeline):
    """Two key columns of types with equal values in other bytes, partitions, masks."""
    source.sql("""
        create table t (k numeric, l text, h float8, z float8, f float8, primary key (k, l)) partition by list (l);
        create table t_x partition of t for values in ('x', 'it''s "{,\\'); create table t_y partition of t default;
        insert into t values (1.0, 'x', 'NaN', 'NaN', 'NaN'), (2, 'y', null, null, null)""")
    pipeline = running(make_pipeline, tables=[{"name": "public.t", "mask": {"z": "null"}}])
    source.sql("update t set k = 1.00 where k = 1; update t set h = 'Infinity', f = 'NaN' where l = 'y';"
               "insert into t values (3.10, 'it''s \"{,\\', 'NaN', 'NaN', '-Infinity'), (4, 'x', null, 1, null)")
    settled(pipeline)
    assert mirror.sql("select k::text, l, h::text, z, f::text from t order by t.k") == [
        ("1.00", "x", "NaN", None, "NaN"), ("2", "y", "Infinity", None, "NaN"),
        ("3.10", 'it\'s "{,\\', "NaN", None, "-Infinity"), ("4", "x", None, None, None)]
    pipeline.settle_stopped(compare=False)


def test_p07_as_a_key(source, output, mirror, make_pipeline, request):
    """Nobody can tell which key it is: the pipeline stops, and goes on with a wal2json that sends it."""
    if output == "wal2json 2.5":
        request.getfixturevalue("loses")
    source.sql("create table t (k float8 primary key, a int); insert into t values (1, 1), ('NaN', 2)")
    pipeline = running(make_pipeline, apply={"on_error": "stop"})
    source.sql("insert into t values ('Infinity', 3); update t set a = 5 where k = 'NaN';"
               "update t set k = '-Infinity' where k = 1; delete from t where k = 'Infinity'")
    if output == "wal2json 2.5":
        assert pipeline.wait_exit() == FAILED
        assert 'public.t: the key column "k" of a change is NaN or infinite' in pipeline.this_run()
        assert "install wal2json 2.6" in pipeline.this_run()
        assert mirror.value("select count(*) from t") == 2
        use_newer_wal2json(source)
        pipeline.start()
    pipeline.wait_until_caught_up()
    assert mirror.sql("select k::text, a from t order by k") == [("-Infinity", 1), ("NaN", 5)]
    pipeline.settle()
    if output == "wal2json 2.5":
        use_older_wal2json(source)


def test_p07_it_says_which_it_met(source, output, table, mirror, make_pipeline):
    if output == "pgoutput":
        name, level = "pgoutput", None
    elif output == "wal2json 2.6":
        name, level = "wal2json 2.6 or later", "ok"
    else:
        name, level = "wal2json before 2.6", "warning"
    pipeline = running(make_pipeline)
    pipeline.wait_log(f"through {name}")
    assert ("nan_lost" in pipeline.events()) == (level == "warning")
    wait.until(lambda: pipeline.ok("status", "--json").json()["replicator"].get("plugin") == name, "a heartbeat")
    assert f"through {name}" in pipeline.ok("status").out.replace("\n", " ").replace("             ", "")
    found = [f for f in pipeline.verb("check", "--json").json()["findings"] if f["name"] == "source_nan"]
    assert [f["level"] for f in found] == ([level] if level else [])
    assert all(name in f["what"] for f in found)
    if level == "warning":
        assert "wal2json 2.6" in found[0]["remedy"] and "pgoutput" in found[0]["remedy"]
    pipeline.settle()


@OLD
def test_p07_as_a_key_in_quarantine(loses, source, mirror, make_pipeline):
    """Only its table waits; a resync reads the key from the source itself."""
    source.sql("create table t (k float8 primary key, a int); create table u (id int primary key)")
    pipeline = running(make_pipeline, tables=["public.t", "public.u"])
    source.sql("insert into t values ('NaN', 1), (2, 2); insert into u values (1)")
    wait.until(lambda: mirror.value("select quarantine_reason ~ 'NaN or infinite' from tailwater.mirror_table "
                                    "where name = 't'"), pipeline.log_tail)
    source.sql("insert into u values (2)")
    pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from u") == 2 and mirror.value("select count(*) from t") == 0
    pipeline.ok("resync", "public.t")
    source.sql("insert into t values (3, 3)")
    pipeline.wait_until_caught_up()
    assert mirror.sql("select k::text, a from t order by k") == [("2", 2), ("3", 3), ("NaN", 1)]
    pipeline.settle()
