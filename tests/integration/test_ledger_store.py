"""The ledger's storage and its functions for consumers, on batches written by hand."""

import datetime
import os
import random
import subprocess
import sys
import threading

import psycopg2
import pytest

from lib import wait
from lib.cluster import REPLICATOR, ROOT
from lib.ledger import (BACKFILL, EVERYTHING, FAN_OUT, FENCED, FRESH, INVALID, ISOLATION, NOT_OPEN, OUTSIDE,
                        UNKNOWN, Ledger, Waiting, refused)
from lib.pipeline import fault_points


@pytest.fixture
def empty(mirror):
    """The control schema, without a fact."""
    ledger = Ledger(mirror)
    yield ledger
    ledger.drop_role()


@pytest.fixture
def ledger(empty):
    return empty.fact("orders")


# ---- windows ----


def test_a_window_and_its_end(ledger):
    assert ledger.subscribe("crm", "orders")
    assert ledger.claim("crm", "orders") is None
    first = ledger.write("orders", [1, 2, 2])
    last = ledger.write("orders", [2, 3])
    window = ledger.claim("crm", "orders")
    assert (window.lane, window.first, window.last, window.keys, window.everything) == \
        (FRESH, first, last, 5, False)
    assert ledger.keys("crm", "orders") == [1, 2, 3]
    later = ledger.write("orders", [9])
    assert ledger.keys("crm", "orders") == [1, 2, 3], "the window does not grow"
    ledger.ack("crm", "orders", window)
    assert ledger.claim("crm", "orders").first <= later
    assert ledger.take_all("crm", "orders") == [(FRESH, [9])]


def test_the_same_window_again_after_a_crash(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    with ledger.connect() as connection, connection.cursor() as cursor:
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        rolled_back = cursor.fetchone()[0]
        connection.rollback()
    window = ledger.claim("crm", "orders")
    assert window.id != rolled_back
    ledger.write("orders", [2])
    ledger.mirror.close()
    again = ledger.claim("crm", "orders")
    assert (again.id, again.first, again.last) == (window.id, window.first, window.last)
    assert ledger.keys("crm", "orders") == [1]


CONSUMER = os.path.join(ROOT, "tests", "lib", "consumer_main.py")
STEPS = ("connected", "claimed", "read", "worked", "ending", "ended")


def consume(ledger, how, end="ack", step=""):
    done = subprocess.run([sys.executable, CONSUMER, ledger.mirror.conninfo("postgres"), how, end, step], timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == (-9 if step else 0), done.stdout


@pytest.mark.parametrize("how, end", [("together", "ack"), ("apart", "ack"), ("together", "release"), ("apart", "release")])
def test_a_consumer_is_killed(ledger, how, end):
    """Between any two of its steps: no key is lost, and none is twice in a window."""
    ledger.mirror.sql("create table public.work (n serial, process int, window_id text, keys bigint[])")
    ledger.subscribe("crm", "orders")

    def work():
        return ledger.mirror.sql("select window_id, array(select unnest(keys) order by 1) from public.work order by n")

    for i, step in enumerate(STEPS):
        ledger.mirror.sql("truncate public.work")
        fresh, fan_out = [10 * i, 10 * i + 1], [10 * i, 10 * i + 2]
        ledger.write("orders", [*fresh, *fresh])
        consume(ledger, how, end, step)
        died = work()
        window = ledger.value("select claim_id::text from tailwater.consumer")
        assert (window is not None) == (how == "apart" and step not in ("connected", "ended")), step
        assert [keys for _, keys in died] == [fresh] * (
            step == "ended" or how == "apart" and step in ("worked", "ending")), step
        ledger.write("orders", fan_out, lane=FAN_OUT)
        consume(ledger, how)
        done = work()[len(died):]
        assert window in (None, done[0][0]), "the same window again"
        if end == "ack" and step == "ended":
            done = died + done
        assert [keys for _, keys in done] == [fresh, fan_out], step
        assert ledger.claim("crm", "orders") is None


def test_a_second_claim_waits_and_gets_the_same(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    first = ledger.connect()
    with first.cursor() as cursor:
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        claimed = cursor.fetchone()[0]
        second = Waiting(ledger, "select claim_id from tailwater.claim('crm', 'orders')").until_it_waits()
        first.commit()
        assert second.end() == [(claimed,)]
        # The first one acknowledges in a transaction of its own; who waits for it finds nothing.
        cursor.execute("select tailwater.ack('crm', 'orders', %s)", (claimed,))
        second = Waiting(ledger, "select claim_id from tailwater.claim('crm', 'orders')").until_it_waits()
        first.commit()
        assert second.end() == []
    first.close()


def test_an_ack_counts_for_its_own_window_only(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    window = ledger.claim("crm", "orders")
    ledger.ack("crm", "orders", window)
    for call in (ledger.ack, ledger.release):
        with refused(NOT_OPEN, "no open window"):
            call("crm", "orders", window)
    ledger.write("orders", [2])
    successor = ledger.claim("crm", "orders")
    for call in (ledger.ack, ledger.release):
        with refused(NOT_OPEN, "another one", "claim('crm', 'orders')"):
            call("crm", "orders", window)
    with refused(NOT_OPEN):
        ledger.sql("select tailwater.ack('crm', 'orders', null)")
    assert ledger.keys("crm", "orders") == [2]
    ledger.ack("crm", "orders", successor)


def test_a_released_window_comes_again(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    window = ledger.claim("crm", "orders")
    ledger.release("crm", "orders", window)
    with refused(NOT_OPEN, "claim"):
        ledger.keys("crm", "orders")
    ledger.write("orders", [2])
    assert ledger.take_all("crm", "orders") == [(FRESH, [1, 2])]


def test_windows_are_whole_batches(ledger):
    ledger.subscribe("crm", "orders")
    for keys in ([1, 2, 3], [4, 5, 6], [7, 8, 9], range(10, 20), [20]):
        ledger.write("orders", keys)
    assert ledger.take_all("crm", "orders", 7) == [
        (FRESH, [1, 2, 3, 4, 5, 6]), (FRESH, [7, 8, 9]), (FRESH, list(range(10, 20))), (FRESH, [20])]


def test_small_windows_of_a_long_backlog(empty):
    """Batches of other facts lie between, and long stretches without any."""
    ledger = empty.fact("orders").fact("days", day="date")
    ledger.subscribe("crm", "orders")
    ledger.subscribe("crm", "days")
    expected = []
    for i in range(120):
        if i % 3 == 0:
            ledger.write("orders", [i])
            expected.append((FRESH, [i]))
        else:
            ledger.write("days", [datetime.date(2026, 1, 1 + i % 28)] * 5)
        if i % 40 == 0:
            ledger.skip_numbers(500)
    assert ledger.take_all("crm", "orders", 1) == expected
    days = ledger.take_all("crm", "days", 17)
    assert len(days) == 27 and days[0][1] == [datetime.date(2026, 1, d) for d in (2, 3, 5)]


def test_consumers_are_independent(empty):
    ledger = empty.fact("orders").fact("days", day="date")
    ledger.subscribe("a", "orders")
    ledger.subscribe("b", "orders")
    ledger.subscribe("a", "days")
    ledger.write("orders", [1])
    window = ledger.claim("a", "orders")
    assert ledger.take_all("b", "orders") == [(FRESH, [1])]
    assert ledger.claim("a", "days") is None
    with refused(NOT_OPEN):
        ledger.ack("b", "orders", window)
    with refused(NOT_OPEN):
        ledger.ack("a", "days", window)
    ledger.ack("a", "orders", window)


def test_keys_of_every_shape(empty):
    empty.mirror.sql("create type public.mood as enum ('sad', 'ok')")
    ledger = empty.fact("wide", id="bigint", **{"Sch\"ön, key": "character varying(10)"},
                        day="date", mood="public.mood", amount="numeric(10,2)", c="character(3)",
                        consumer="text", l="uuid", tailwater_window="time without time zone")
    ledger.subscribe("crm", "wide")
    one = (1, 'O\'Hara "x"', datetime.date(2026, 2, 28), "ok", 7, "a", "crm",
           "11111111-1111-1111-1111-111111111111", "12:00")
    ledger.write("wide", [one, one])
    ledger.claim("crm", "wide")
    assert [tuple(str(v) for v in key) for key in ledger.keys("crm", "wide")] == [
        ("1", 'O\'Hara "x"', "2026-02-28", "ok", "7", "a", "crm",
         "11111111-1111-1111-1111-111111111111", "12:00:00")]
    names = ledger.sql("select * from tailwater.keys_wide('crm') limit 0") or []
    assert names == []
    with refused(INVALID, "batch_id, lane, node or keys$"):
        ledger.fact("bad", lane="bigint")
    with refused(INVALID, "batch_id, lane, node or keys$"):
        ledger.fact("worse", **{"keys$1": "bigint"})


OLD = 'drop view tailwater.affected_orders; alter table tailwater.ledger_orders drop column "keys$1"'


def test_a_ledger_of_before(ledger):
    """It gets columns for arrays; a window that is open stays, and who could read the ledger can read the view."""
    ledger.sql(OLD + "; grant select on tailwater.ledger_orders to public")
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1, 2])
    window = ledger.claim("crm", "orders")
    ledger.sql("select tailwater.make_ledger('orders')")
    ledger.write("orders", range(3, 1000), lane=FAN_OUT)
    assert ledger.keys("crm", "orders") == [1, 2]
    ledger.ack("crm", "orders", window)
    assert ledger.take_all("crm", "orders") == [(FAN_OUT, list(range(3, 1000)))]
    assert ledger.sql("select id from tailwater.affected_orders order by 1") == [(i,) for i in range(1, 1000)]
    assert ledger.value("select has_table_privilege('public', 'tailwater.affected_orders', 'select')")


def test_arrays_have_no_statistics(ledger):
    ledger.write("orders", range(1000), lane=FAN_OUT)
    ledger.mirror.sql("analyze tailwater.ledger_orders", user="postgres")
    assert ledger.mirror.sql("select distinct attname from pg_stats where tablename like 'ledger_orders%%' order by 1",
                             user="postgres") == [("batch_id",), ("id",), ("lane",), ("node",)]


def test_a_ledger_of_before_that_is_read(ledger):
    """Nobody is waited for: the columns come with a later start."""
    ledger.sql(OLD)
    ledger.write("orders", [1])
    has = """select exists (select from pg_attribute where attrelid = 'tailwater.ledger_orders'::regclass and attname = 'keys$1')"""
    with ledger.connect() as reader, reader.cursor() as cursor:
        cursor.execute("select count(*) from tailwater.ledger_orders")
        for _ in range(2):
            ledger.sql("select tailwater.make_ledger('orders')")
            assert not ledger.value(has)
            assert ledger.sql("select id from tailwater.affected_orders") == [(1,)]
        reader.rollback()
    ledger.sql("select tailwater.make_ledger('orders')")
    assert ledger.value(has)
    ledger.write("orders", [2, 3], lane=FAN_OUT)
    assert ledger.sql("select id from tailwater.affected_orders order by 1") == [(1,), (2,), (3,)]


def test_keys_are_read_after_the_statement_that_claims(ledger):
    """In one statement the rest would be read under a snapshot from before the window."""
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    with refused(NOT_OPEN, "in a statement of its own"):
        ledger.sql("select c.claim_id, k.* from tailwater.claim('crm', 'orders') c, "
                   "tailwater.keys_orders('crm') k")
    with ledger.mirror.transaction("tailwater") as cursor:
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        claimed = cursor.fetchone()
        cursor.execute("select * from tailwater.keys_orders('crm')")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("select tailwater.ack('crm', 'orders', %s)", claimed)
    assert ledger.claim("crm", "orders") is None


# ---- lanes ----


def test_a_lower_lane_gets_its_share(ledger):
    ledger.subscribe("crm", "orders")
    for i in range(10):
        ledger.write("orders", [i])
    for i in range(3):
        ledger.write("orders", [100 + i], lane=FAN_OUT)
        ledger.write("orders", [200 + i], lane=BACKFILL)
    lanes = [lane for lane, _ in ledger.take_all("crm", "orders", 1)]
    assert lanes[:10] == [0, 0, 0, 0, FAN_OUT, 0, 0, 0, 0, BACKFILL], lanes
    assert lanes[10:] == [0, 0, FAN_OUT, BACKFILL, FAN_OUT, BACKFILL], lanes


@pytest.mark.parametrize("many", ["keys", "batches"])
def test_a_long_backlog_of_three_lanes(ledger, many):
    """It is not read through to see which lanes have anything; each gives all that it has."""
    ledger.subscribe("crm", "orders")
    if many == "keys":
        ledger.write("orders", list(range(1000, 11500)))
    else:
        with ledger.mirror.transaction("tailwater") as cursor:
            for i in range(1000):
                ledger.write_in(cursor, "orders", [1000 + i])
    ledger.write("orders", [1], lane=FAN_OUT)
    ledger.write("orders", [2], lane=BACKFILL)
    given = {lane: set() for lane in (FRESH, FAN_OUT, BACKFILL)}
    for lane, keys in ledger.take_all("crm", "orders", 100):
        given[lane] |= set(keys)
    assert given == {FRESH: set(range(1000, 11500 if many == "keys" else 2000)), FAN_OUT: {1}, BACKFILL: {2}}


def test_fresh_goes_first_again(ledger):
    ledger.subscribe("crm", "orders")
    for i in range(3):
        ledger.write("orders", [100 + i], lane=BACKFILL)
    assert ledger.take("crm", "orders", 1) == (BACKFILL, [100])
    ledger.write("orders", [1])
    assert ledger.take("crm", "orders", 1) == (FRESH, [1])
    assert ledger.take_all("crm", "orders", 1) == [(BACKFILL, [101]), (BACKFILL, [102])]


def test_a_key_may_be_in_two_lanes(ledger):
    ledger.subscribe("crm", "orders")
    with ledger.mirror.transaction("tailwater") as cursor:
        number = ledger.write_in(cursor, "orders", [1])
        cursor.execute("insert into tailwater.ledger_orders values (%s, 1, 0, 2)", (number,))
    assert ledger.take_all("crm", "orders") == [(FRESH, [1]), (FAN_OUT, [2])]


# ---- everything ----


def test_start_all_owes_a_rebuild(ledger):
    before = ledger.write("orders", [1])
    ledger.subscribe("crm", "orders", "all")
    window = ledger.claim("crm", "orders")
    assert window.everything and window.last == before and window.keys is None
    with refused(EVERYTHING, "rebuild"):
        ledger.keys("crm", "orders")
    ledger.write("orders", [2])
    assert ledger.claim("crm", "orders").id == window.id
    ledger.release("crm", "orders", window)
    ledger.write("orders", [3])
    window = ledger.claim("crm", "orders")
    assert window.everything and window.last == before + 2, "a released rebuild is still owed"
    ledger.write("orders", [4])
    ledger.ack("crm", "orders", window)
    assert ledger.take_all("crm", "orders") == [(FRESH, [4])]


def test_start_now_begins_here(ledger):
    ledger.write("orders", [1])
    ledger.say_everything("orders")
    ledger.subscribe("crm", "orders")
    assert ledger.claim("crm", "orders") is None
    ledger.write("orders", [2])
    assert ledger.take_all("crm", "orders") == [(FRESH, [2])]


def test_everything_while_a_window_is_open(ledger):
    """The window stays as it is; what is behind it need not be read any more."""
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    window = ledger.claim("crm", "orders")
    ledger.write("orders", [2])
    ledger.say_everything("orders")
    ledger.write("orders", [3])
    assert ledger.claim("crm", "orders").id == window.id and ledger.keys("crm", "orders") == [1]
    ledger.ack("crm", "orders", window)
    assert ledger.claim("crm", "orders").everything
    assert ledger.take_all("crm", "orders") == ["everything"]


def test_everything_said_during_a_rebuild_is_owed_again(ledger):
    ledger.subscribe("crm", "orders", "all")
    window = ledger.claim("crm", "orders")
    ledger.say_everything("orders")
    ledger.ack("crm", "orders", window)
    assert ledger.take_all("crm", "orders") == ["everything"]


def test_everything_is_the_facts_own(empty):
    ledger = empty.fact("orders").fact("others")
    for fact in ("orders", "others"):
        ledger.subscribe("crm", fact)
    ledger.say_everything("orders")
    assert ledger.take_all("crm", "others") == []
    assert ledger.take_all("crm", "orders") == ["everything"]


def test_a_new_definition_voids_windows(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    window = ledger.claim("crm", "orders")
    ledger.sql("update tailwater.fact set generation = 2, key_types = '{text}'; "
               "select tailwater.make_ledger('orders')")
    ledger.say_everything("orders", "a changed definition")
    for call in (ledger.ack, ledger.release):
        with refused(NOT_OPEN, "definition"):
            call("crm", "orders", window)
    with refused(NOT_OPEN):
        ledger.keys("crm", "orders")
    assert ledger.take_all("crm", "orders") == ["everything"]
    ledger.write("orders", ["a"])
    assert ledger.take_all("crm", "orders") == [(FRESH, ["a"])]


def test_an_unchanged_definition_keeps_the_ledger(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    ledger.sql("select tailwater.make_ledger('orders')")
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]


# ---- not now ----


def test_a_suspended_fact_gives_nothing(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    ledger.sql("update tailwater.fact set suspended = 'the key expression failed'")
    assert ledger.claim("crm", "orders") is None
    ledger.sql("update tailwater.fact set suspended = null")
    window = ledger.claim("crm", "orders")
    ledger.sql("update tailwater.fact set suspended = 'again'")
    assert ledger.claim("crm", "orders") is None
    ledger.ack("crm", "orders", window)


def test_a_table_that_is_not_ready(empty):
    ledger = empty.fact("orders", tables=["orders", "customers"])
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    state = "insert into tailwater.mirror_table (pipeline, schema, name, relid, mirror_schema, " \
            "mirror_name, view_schema, view_name, key, state) values ('main', 'public', %s, 1, 'm', " \
            "%s, 'public', %s, '{id}', %s)"
    ledger.sql(state, *["orders"] * 3, "ready")
    assert ledger.claim("crm", "orders") is None
    assert ledger.value("select tailwater.why_waiting(f) from tailwater.fact f") == \
        "not ready: public.customers"
    ledger.sql(state, *["customers"] * 3, "copied")
    assert ledger.claim("crm", "orders") is None
    ledger.sql("update tailwater.mirror_table set state = 'ready'")
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]


# ---- idle ----


def test_an_idle_claim_writes_nothing(ledger):
    ledger.subscribe("crm", "orders")
    ledger.skip_numbers(10)
    with ledger.mirror.transaction("tailwater") as cursor:
        cursor.execute("select * from tailwater.claim('crm', 'orders')")
        cursor.execute("select pg_current_xact_id_if_assigned()")
        assert cursor.fetchone() == (None,)


def test_news_are_found_at_the_end(ledger):
    """Whether there is something new is asked many times a second: that reads the ledger's newest pages, not all that
    its index has not summarised."""
    ledger.write("orders", range(100_000))
    since = ledger.write("orders", [1])
    ledger.write("orders", [2])
    partition = ledger.value("select format('tailwater.%%I', p.name) from tailwater.ledger_partitions('orders') p "
                             "where p.lower <= %s and p.upper > %s", since, since)
    with ledger.mirror.transaction(REPLICATOR) as cursor:
        cursor.execute("select tailwater.notify_news(%s, %s)", (ledger.name, since))
        cursor.execute("select seq_tup_read + idx_tup_fetch from pg_stat_xact_all_tables where relid = %s::regclass",
                       (partition,))
        assert 0 < cursor.fetchone()[0] < 20_000


def test_an_idle_consumer_advances_now_and_then(ledger):
    ledger.subscribe("crm", "orders")
    done = "select fresh_done, fan_out_done, backfill_done from tailwater.consumer"
    ledger.skip_numbers(999)
    ledger.claim("crm", "orders")
    assert ledger.sql(done) == [(0, 0, 0)]
    ledger.skip_numbers(1)
    ledger.claim("crm", "orders")
    assert ledger.sql(done) == [(1000, 1000, 1000)]
    ledger.skip_numbers(1)
    ledger.sql("update tailwater.consumer set advanced_at = now() - interval '2 minutes'")
    ledger.claim("crm", "orders")
    assert ledger.sql(done) == [(1001, 1001, 1001)]
    ledger.write("orders", [1])
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]


def test_an_advance_waits_for_nobody(ledger):
    ledger.subscribe("crm", "orders")
    ledger.skip_numbers(5000)
    with ledger.connect() as holder, holder.cursor() as cursor:
        cursor.execute("select from tailwater.consumer for update")
        assert ledger.sql("set statement_timeout = '5s'; select * from tailwater.claim('crm', 'orders')") == []
    ledger.sql("reset statement_timeout")


# ---- stale ----


def age(ledger, interval):
    ledger.sql("update tailwater.batch set applied_at = applied_at - %s::interval", interval)


def test_stale_by_age(ledger):
    ledger.subscribe("slow", "orders")
    ledger.subscribe("quick", "orders")
    ledger.write("orders", [1])
    assert ledger.take_all("quick", "orders") == [(FRESH, [1])]
    age(ledger, "8 days")
    ledger.write("orders", [2])
    window = ledger.claim("slow", "orders")
    assert ledger.tool("retain=0:1000000000000:1000").count("consumer") == 0
    assert "consumer slow of fact orders: keys are pending for more than" in \
        ledger.retain(10**15, 7 * 86400 * 10**6)
    assert ledger.retain(10**15, 7 * 86400 * 10**6) == "removed 0\n\n", "said once"
    with refused(NOT_OPEN, "stale"):
        ledger.ack("slow", "orders", window)
    with refused(NOT_OPEN):
        ledger.keys("slow", "orders")
    with refused(OUTSIDE, "stale"):
        ledger.sql("select tailwater.replay('slow', 'orders', 1)")
    # It comes back.
    ledger.write("orders", [3])
    window = ledger.claim("slow", "orders")
    assert window.everything
    ledger.write("orders", [4])
    ledger.release("slow", "orders", window)
    window = ledger.claim("slow", "orders")
    assert window.everything, "still owed"
    ledger.ack("slow", "orders", window)
    ledger.write("orders", [5])
    assert ledger.take_all("slow", "orders") == [(FRESH, [5])]
    assert ledger.take_all("quick", "orders") == [(FRESH, [2, 3, 4, 5])]


def test_stale_by_number(ledger):
    ledger.subscribe("slow", "orders")
    ledger.write("orders", range(1000))
    ledger.write("orders", range(1000), lane=FAN_OUT)
    assert ledger.retain(10**15, keys=2000) == "removed 0\n\n"
    assert "slow of fact orders: more than 1999 keys" in ledger.retain(10**15, keys=1999)
    assert ledger.take_all("slow", "orders") == ["everything"]


def test_who_is_at_work_is_not_stale(ledger):
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    age(ledger, "8 days")
    with ledger.connect() as worker, worker.cursor() as cursor:
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        claimed = cursor.fetchone()
        assert ledger.retain(10**15, 86400 * 10**6) == "removed 0\n\n"
        cursor.execute("select tailwater.ack('crm', 'orders', %s)", claimed)
    assert ledger.claim("crm", "orders") is None


# ---- replay ----


def test_replay_within_the_window(ledger):
    ledger.subscribe("crm", "orders")
    numbers = [ledger.write("orders", [i]) for i in range(5)]
    ledger.write("orders", [7], lane=FAN_OUT)
    assert ledger.take_all("crm", "orders") == [(FRESH, [0, 1, 2, 3, 4]), (FAN_OUT, [7])]
    ledger.write("orders", [8])
    window = ledger.claim("crm", "orders")
    ledger.sql("select tailwater.replay('crm', 'orders', %s)", numbers[3])
    with refused(NOT_OPEN):
        ledger.ack("crm", "orders", window)
    assert ledger.take_all("crm", "orders") == [(FRESH, [3, 4, 8]), (FAN_OUT, [7])]


def test_replay_over_an_everything_row(ledger):
    """A table that was restored to the state of an earlier batch needs the rebuild again."""
    ledger.subscribe("crm", "orders")
    first = ledger.write("orders", [1])
    ledger.say_everything("orders")
    assert ledger.take_all("crm", "orders") == ["everything"]
    ledger.sql("select tailwater.replay('crm', 'orders', %s)", first)
    assert ledger.take_all("crm", "orders") == ["everything"]


def test_replay_outside_the_window(ledger):
    ledger.subscribe("crm", "orders")
    for i in range(3):
        ledger.write("orders", [i])
    ledger.take_all("crm", "orders")
    ledger.sql("select tailwater.raise_floors('main', '0')")
    with refused(OUTSIDE, "from batch 4 to 4", "start => 'all'"):
        ledger.sql("select tailwater.replay('crm', 'orders', 2)")
    for wrong in (6, None):
        with refused(OUTSIDE):
            ledger.sql("select tailwater.replay('crm', 'orders', %s)", wrong)
    ledger.sql("update tailwater.ledger_floor set kept_from = 6")
    with refused(OUTSIDE, "nothing that it has read is kept any more: unsubscribe, then"):
        ledger.sql("select tailwater.replay('crm', 'orders', 4)")


def test_hints_work_when_they_are_copied(ledger):
    with refused(UNKNOWN, "a consumer's name has up to 63 letters"):
        ledger.sql("select tailwater.claim('O''Ré; --', 'orders')")
    with refused(UNKNOWN, "a consumer's name has up to 63 letters"):
        ledger.sql("select tailwater.claim(null, 'orders')")
    for role, hint in (("public", "one by one"), ("", "a role that there is"), (None, "a role that there is"),
                       ("no such", 'create role "no such" login'), ("pg_none", "a role that there is")):
        with refused("42704", hint):
            ledger.sql("select tailwater.grant_consumer(%s)", role)


def test_replay_and_retention_exclude_each_other(ledger):
    """Between the look at the floor and the commit of the replay nothing is removed."""
    ledger.subscribe("crm", "orders")
    first = ledger.write("orders", [1])
    ledger.take_all("crm", "orders")
    with ledger.connect() as consumer, consumer.cursor() as cursor:
        cursor.execute("select tailwater.replay('crm', 'orders', %s)", (first,))
        ledger.sql("select tailwater.raise_floors('main', '0')")
        assert ledger.value("select kept_from from tailwater.ledger_floor") <= first
    ledger.sql("select tailwater.raise_floors('main', '0')")
    assert ledger.value("select kept_from from tailwater.ledger_floor") <= first
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]


# ---- partitions and retention ----


def fill_partition(ledger, keys=()):
    """Write into the current partition, then go past its end."""
    number = ledger.write("orders", keys)
    upper = ledger.value("select upper from tailwater.ledger_partitions('orders') where lower <= %s "
                         "and upper > %s", number, number)
    ledger.skip_numbers(upper - number)
    ledger.tool("partitions")
    return number


def ahead(ledger):
    return sum(lower > ledger.clock() for lower in ledger.partitions("orders"))


def test_partitions_lie_ahead(ledger):
    assert ahead(ledger) >= 2
    for _ in range(3):
        fill_partition(ledger, [1])
        assert ahead(ledger) >= 2
    assert ledger.tool("partitions") == "made 0\n"
    gaps = ledger.value("select count(*) from (select lower, lag(upper) over (order by lower) as last "
                        "from tailwater.ledger_partitions('orders')) s where last <> lower")
    assert gaps == 0


def test_a_batch_past_the_last_partition(ledger):
    """What the applier does on 23514."""
    ledger.subscribe("crm", "orders")
    ledger.skip_numbers(10**6)
    with pytest.raises(psycopg2.errors.CheckViolation):
        ledger.write("orders", [1])
    ledger.sql("select tailwater.add_partitions('main')")
    ledger.write("orders", [1])
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]


def test_the_width_follows_the_rate(ledger):
    width = "select tailwater.partition_width('main', 0)"
    assert ledger.value(width) == 10000, "nothing known yet"
    fill = "insert into tailwater.batch (pipeline, batch_id, kind, applied_at, keys) " \
           "select 'main', i, 'stream', now() + i * interval '%s', %s from generate_series(1, 2000) i"
    for every, keys, expected in (("1 second", 1, 3600), ("1 millisecond", 1, 3600000),
                                  ("1 hour", 1, 1000), ("1 microsecond", 1, 10000000),
                                  ("1 millisecond", 20000, 1000), ("1 millisecond", 1000, 20000)):
        ledger.sql("truncate tailwater.batch")
        ledger.sql(fill % (every, keys))
        assert abs(ledger.value(width) - expected) <= expected / 1000, (every, keys)


def test_retention_without_consumers_keeps_the_replay_window(ledger):
    fill_partition(ledger, [1])
    fill_partition(ledger, [2])
    before = ledger.partitions("orders")
    assert ledger.retain(3600 * 10**6) == "removed 0\n\n"
    age(ledger, "2 hours")
    third = ledger.write("orders", [3])
    assert ledger.retain(3600 * 10**6) == "removed 2\n\n"
    assert ledger.partitions("orders") == before[2:]
    assert ledger.sql("select batch_id from tailwater.batch") == [(third,)]
    assert ledger.value("select kept_from from tailwater.ledger_floor") <= third
    assert ledger.value("select count(*) from pg_class where relname like 'ledger_orders$%%' "
                        "and relkind = 'r'") == \
        len(before) - 2


def test_retention_stops_at_the_slowest_consumer(ledger):
    for name in ("slow", "quick"):
        ledger.subscribe(name, "orders")
    fill_partition(ledger, [1])
    second = fill_partition(ledger, [2])
    fill_partition(ledger, [3])
    ledger.take_all("quick", "orders")
    assert ledger.take("slow", "orders", 1) == (FRESH, [1])
    assert ledger.retain() == "removed 1\n\n"
    assert ledger.value("select kept_from from tailwater.ledger_floor") <= second
    assert ledger.take_all("slow", "orders") == [(FRESH, [2, 3])]
    assert ledger.retain() == "removed 2\n\n"


def test_an_open_window_pins(ledger):
    ledger.subscribe("crm", "orders")
    fill_partition(ledger, [1])
    window = ledger.claim("crm", "orders")
    fill_partition(ledger, [2])
    assert ledger.retain() == "removed 0\n\n"
    assert ledger.keys("crm", "orders") == [1]
    ledger.ack("crm", "orders", window)
    assert ledger.retain() == "removed 1\n\n"


def test_who_owes_a_rebuild_or_is_stale_pins_nothing(ledger):
    ledger.subscribe("new", "orders", "all")
    ledger.subscribe("stale", "orders")
    fill_partition(ledger, [1])
    ledger.sql("update tailwater.consumer set stale_since = clock_timestamp() where name = 'stale'")
    assert ledger.retain() == "removed 0\n\n", "for a minute a stale one still pins"
    ledger.sql("update tailwater.consumer set stale_since = now() - interval '2 minutes' "
               "where name = 'stale'")
    assert ledger.retain() == "removed 1\n\n"
    for name in ("new", "stale"):
        assert ledger.take_all(name, "orders") == ["everything"]


def test_an_idle_consumer_pins_nothing(empty):
    """Its position is old, and nothing of its fact lies behind it."""
    ledger = empty.fact("orders").fact("rare")
    ledger.subscribe("crm", "rare")
    fill_partition(ledger, [1])
    assert ledger.retain() == "removed 2\n\n", "of both facts"
    assert ledger.value("select count(*) from tailwater.batch") == 0
    ledger.write("rare", [5])
    assert ledger.take_all("crm", "rare") == [(FRESH, [5])]


def test_a_partition_that_somebody_reads_goes_later(ledger):
    fill_partition(ledger, [1])
    with ledger.connect() as reader, reader.cursor() as cursor:
        cursor.execute("select * from tailwater.ledger_orders")
        assert ledger.retain() == "removed 0\n\n"
        # Detaching was begun; nobody who writes or makes partitions is held up by that.
        assert ledger.value("select count(*) from tailwater.ledger_partitions('orders') where is_pending") == 1
        ledger.sql("set lock_timeout = '2s'")
        fill_partition(ledger, [2])
    assert ledger.retain() == "removed 2\n\n"


@pytest.mark.parametrize("point", [p for p in fault_points() if p.startswith("retention_")])
def test_retention_is_killed(ledger, point):
    """Between any two steps: what a consumer has not read stays, what nobody needs goes the next time."""
    for consumer in ("keen", "slow", "lost"):
        ledger.subscribe(consumer, "orders")
    fill_partition(ledger, [1, 2])
    lost = ledger.claim("lost", "orders")
    assert ledger.take_all("keen", "orders") == ledger.take_all("slow", "orders") == [(FRESH, [1, 2])]
    age(ledger, "2 hours")
    second = fill_partition(ledger, [3, 4])
    third = fill_partition(ledger, [5])
    ledger.take_all("keen", "orders")
    limits = {"age_us": 3600 * 10**6}
    # A stale one pins for a minute more.
    if point != "retention_after_stale":
        ledger.retain(10**15, **limits)
        ledger.sql("update tailwater.consumer set stale_since = stale_since - interval '2 minutes'")
    ledger.retain(**limits, fault=point)
    if point == "retention_after_stale":
        ledger.sql("update tailwater.consumer set stale_since = stale_since - interval '2 minutes'")
    # Who is behind has all that is owed, also before the next round.
    window = ledger.claim("slow", "orders", 2)
    assert ledger.keys("slow", "orders") == [3, 4] and window.last == second
    ledger.write("orders", [6])
    assert ledger.retain(**limits) == f"removed {int(point != 'retention_after_drop')}\n\n"
    assert ledger.partitions("orders")[0] <= second < ledger.partitions("orders")[1] <= third
    assert ledger.value("select min(batch_id) from tailwater.batch") == second
    assert ledger.value("select count(*) from tailwater.ledger_partitions('orders') where not is_attached") == 0
    ledger.ack("slow", "orders", window)
    assert ledger.take_all("slow", "orders") == [(FRESH, [5, 6])]
    assert ledger.take_all("keen", "orders") == [(FRESH, [6])]
    with refused(NOT_OPEN, "stale"):
        ledger.ack("lost", "orders", lost)
    assert ledger.take_all("lost", "orders") == ["everything"]


def test_old_everything_rows_go_but_the_newest(ledger):
    for _ in range(3):
        newest = ledger.say_everything("orders")
    ledger.write("orders", [1])
    ledger.retain()
    assert ledger.sql("select batch_id from tailwater.everything") == [(newest,)]


# ---- several writers ----


def test_nothing_is_skipped(ledger):
    """Writers that take numbers and commit after different whiles, and a consumer that polls.

    A consumer that reads up to the highest number it sees would skip what commits late: so each
    number is taken under the clock's lock, which is held to the commit, or announced before.
    """
    ledger.subscribe("crm", "orders")
    written, failures = [], []

    def writer(seed):
        pick = random.Random(seed)
        try:
            connection = ledger.connect()
            for i in range(60):
                key = seed * 1000 + i
                with connection.cursor() as cursor:
                    ledger.write_in(cursor, "orders", [key], lane=pick.choice((0, 0, 1, 2)))
                    cursor.execute("select pg_sleep(%s)", (pick.random() * 0.004,))
                if pick.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()
                    written.append(key)
            connection.close()
        except Exception as error:  # the main thread raises it
            failures.append(error)

    def expander():
        pick = random.Random(4)
        try:
            connection = ledger.connect()
            for i in range(60):
                with connection.cursor() as cursor:
                    cursor.execute("select tailwater.announce_page(%s)", (ledger.name,))
                    number = cursor.fetchone()[0]
                    connection.commit()
                    cursor.execute("select pg_sleep(%s)", (pick.random() * 0.004,))
                    ledger.write_page_in(cursor, "orders", [4000 + i], number)
                if pick.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()
                    written.append(4000 + i)
            connection.cursor().execute("select tailwater.withdraw_page(%s)", (ledger.name,))
            connection.commit()
            connection.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(4)]
    threads.append(threading.Thread(target=expander))
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        found = ledger.take("crm", "orders")  # all there is: the reader is always at the head
        seen += found[1] if found else []
    for thread in threads:
        thread.join()
    assert not failures, failures
    for _, keys in ledger.take_all("crm", "orders", 3):
        seen += keys
    assert sorted(seen) == sorted(written)


def test_a_page_is_read_when_it_is_written(ledger):
    """The fan-out lane is read up to what is announced for it; the others go on."""
    ledger.subscribe("crm", "orders")
    number = ledger.announce()
    fresh = ledger.write("orders", [1])
    assert ledger.take_all("crm", "orders") == [(FRESH, [1])]
    ledger.skip_numbers(2000)  # so many that an idle claim advances
    assert ledger.claim("crm", "orders") is None
    fresh_done, fan_out_done = ledger.sql("select fresh_done, fan_out_done from tailwater.consumer")[0]
    assert fresh_done > fresh and fan_out_done == number - 1
    ledger.write_page("orders", [7, 8], number)
    assert ledger.take_all("crm", "orders") == [(FAN_OUT, [7, 8])]
    assert ledger.sql("select kind, keys from tailwater.batch where batch_id = %s", number) == [("fan-out", 2)]
    times = [at for at, in ledger.sql("select applied_at from tailwater.batch order by batch_id")]
    assert times == sorted(times)


def test_a_rebuild_does_not_wait_for_a_page(ledger):
    """What causes the page is applied when the rebuild is claimed."""
    ledger.subscribe("crm", "orders", "all")
    number = ledger.announce()
    window = ledger.claim("crm", "orders")
    assert window.everything
    ledger.write_page("orders", [7], number)
    ledger.ack("crm", "orders", window)
    assert ledger.claim("crm", "orders") is None


def test_a_page_is_written_by_who_announced_it_last(ledger):
    first, second = ledger.announce(), ledger.announce()
    with refused(FENCED, "no longer announced"):
        ledger.write_page("orders", [1], first)
    ledger.write_page("orders", [2], second)
    third = ledger.announce()
    ledger.sql("select tailwater.withdraw_page(%s)", ledger.name)
    with refused(FENCED, "no longer announced"):
        ledger.write_page("orders", [3], third)
    assert ledger.sql("select id from tailwater.ledger_orders") == [(2,)]


def test_a_page_that_is_being_written_is_kept(ledger):
    number = ledger.announce()
    fill_partition(ledger, [1])
    assert ledger.retain() == "removed 0\n\n"
    assert ledger.value("select kept_from from tailwater.ledger_floor") <= number
    ledger.write_page("orders", [7], number)
    assert ledger.retain() == "removed 1\n\n"


def test_a_refresh_in_flight_keeps_nobody_waiting(ledger):
    """Who writes, truncates, makes partitions, marks and removes goes on while a claim is held open."""
    ledger.subscribe("crm", "orders")
    ledger.subscribe("old", "orders")
    fill_partition(ledger, [1])
    ledger.take_all("old", "orders")
    with ledger.connect() as refresh, refresh.cursor() as cursor:
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        claimed = cursor.fetchone()
        cursor.execute("select * from tailwater.keys_orders('crm')")
        assert cursor.fetchall() == [(1,)]
        ledger.sql("set statement_timeout = '5s'; set lock_timeout = '2s'")
        ledger.write("orders", [2])
        ledger.say_everything("orders")
        fill_partition(ledger, [3])
        ledger.retain(0, 1)
        ledger.tool("notify=-1")
        assert ledger.take_all("old", "orders") == ["everything"]
        cursor.execute("select * from tailwater.keys_orders('crm')")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("select tailwater.ack('crm', 'orders', %s)", claimed)
    assert ledger.take_all("crm", "orders") == ["everything"]


# ---- who may ----


def test_isolation(ledger):
    ledger.subscribe("crm", "orders")
    window = "00000000-0000-0000-0000-000000000000"
    for level in ("repeatable read", "serializable"):
        for call in ("claim('crm', 'orders')", "keys_orders('crm')", f"ack('crm', 'orders', '{window}')",
                     f"release('crm', 'orders', '{window}')", "subscribe('x', 'orders')",
                     "unsubscribe('crm', 'orders')", "replay('crm', 'orders', 1)"):
            with refused(ISOLATION, "read committed"):
                ledger.sql(f"begin isolation level {level}; select * from tailwater.{call}")
            ledger.sql("rollback")


def test_unknown_names_and_bad_arguments(ledger):
    with refused(UNKNOWN, "no fact", "orders"):
        ledger.claim("crm", "nothing")
    with refused(UNKNOWN, "no consumer", "subscribe('crm', 'orders')"):
        ledger.claim("crm", "orders")
    for name in ("", "a b", "x'y", None, "x" * 64, "é"):
        with refused(INVALID):
            ledger.subscribe(name, "orders")
    for start in ("later", None):
        with refused(INVALID):
            ledger.subscribe("crm", "orders", start)
    assert ledger.subscribe("crm", "orders")
    assert not ledger.subscribe("crm", "orders", "all"), "there already, and unchanged"
    assert ledger.claim("crm", "orders") is None
    for keys in (0, -1, None):
        with refused(INVALID):
            ledger.claim("crm", "orders", keys)
    assert ledger.value("select tailwater.unsubscribe('crm', 'orders')")
    assert not ledger.value("select tailwater.unsubscribe('crm', 'orders')")
    with refused(UNKNOWN):
        ledger.sql("select * from tailwater.keys_orders('crm')")


def test_a_consumers_role_may_consume_and_nothing_else(ledger):
    role = ledger.make_role()
    assert ledger.subscribe("crm", "orders", user=role)
    ledger.fact("later")
    assert ledger.subscribe("crm", "later", user=role)
    for fact in ("orders", "later"):
        ledger.write(fact, [1])
        window = ledger.claim("crm", fact, user=role)
        assert ledger.keys("crm", fact, user=role) == [1]
        ledger.ack("crm", fact, window, user=role)
    ledger.sql("select tailwater.replay('crm', 'orders', 1)", user=role)
    ledger.sql("select tailwater.release('crm', 'orders', %s)",
               ledger.claim("crm", "orders", user=role).id, user=role)
    may = {row[0] for row in ledger.sql(
        "select proname from pg_proc where pronamespace = 'tailwater'::regnamespace "
        "and has_function_privilege(%s, oid, 'execute')", role)}
    assert may == {"subscribe", "unsubscribe", "claim", "ack", "release", "replay", "keys_orders",
                   "keys_later"}
    reachable = ledger.sql(
        "select relname from pg_class where relnamespace = 'tailwater'::regnamespace and relkind in "
        "('r', 'p', 'v', 'S') and (case when relkind = 'S' then has_sequence_privilege(%s, oid, "
        "'usage, select, update') else has_table_privilege(%s, oid, 'select, insert, update, delete, "
        "truncate, references, trigger') or has_any_column_privilege(%s, oid, 'select, insert, update, "
        "references') end)", role, role, role)
    assert reachable == []
    for statement in ("select * from tailwater.consumer", "select * from tailwater.ledger_orders",
                      "select tailwater.next_batch('main')", "create table tailwater.mine ()",
                      "select tailwater.grant_consumer(current_user)",
                      "select from tailwater.clock for update"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ledger.sql(statement, user=role)
    ledger.sql("select tailwater.revoke_consumer(%s)", role)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ledger.claim("crm", "orders", user=role)
    ledger.mirror.close()
    ledger.mirror.sql(f"drop role {role}")
    with refused("42704"):
        ledger.sql("select tailwater.grant_consumer(%s)", role)
    with refused("42704"):
        ledger.sql("select tailwater.revoke_consumer('\"; drop table x')")


def test_names_are_only_names(ledger):
    role = ledger.make_role()
    ledger.subscribe("crm", "orders", user=role)
    before = ledger.sql("select count(*) from pg_class")
    for text in ("orders; drop table tailwater.consumer", "orders' or true --", 'orders"', "ORDERS",
                 "orders$0", "%I", "x', 'y", "../orders"):
        for call in ("claim('crm', %s)", "ack('crm', %s, null)", "release('crm', %s, null)",
                     "subscribe('x', %s)", "unsubscribe('x', %s)", "replay('crm', %s, 1)"):
            with refused(UNKNOWN):
                ledger.sql(f"select tailwater.{call}", text, user=role)
        with refused(UNKNOWN):
            ledger.claim(text, "orders", user=role)
        with refused(UNKNOWN):
            ledger.keys(text, "orders", user=role)
    assert ledger.sql("select count(*) from pg_class") == before
    assert ledger.sql("select name from tailwater.consumer") == [("crm",)]


def test_a_callers_search_path_means_nothing(ledger):
    """Functions, operators and tables that shadow what the functions use are never looked at."""
    role = ledger.make_role()
    ledger.subscribe("crm", "orders")
    ledger.write("orders", [1])
    ledger.mirror.sql(f"create schema evil authorization {role}")
    ledger.sql("""
        create function evil.trap() returns boolean language plpgsql as $$
            begin raise exception 'trapped as %', current_user; end $$;
        create function evil.trap(anyelement, anyelement) returns boolean language plpgsql as $$
            begin raise exception 'trapped as %', current_user; end $$;
        create function evil.trap2(bigint, bigint) returns boolean language plpgsql as $$
            begin raise exception 'trapped as %', current_user; end $$;
        create function evil.trap3(text, text) returns boolean language plpgsql as $$
            begin raise exception 'trapped as %', current_user; end $$;
        create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.trap2);
        create operator evil.< (leftarg = bigint, rightarg = bigint, function = evil.trap2);
        create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.trap2);
        create operator evil.= (leftarg = text, rightarg = text, function = evil.trap3);
        create operator evil.<> (leftarg = text, rightarg = text, function = evil.trap3);
        create function evil.current_setting(text) returns text language sql as 'select evil.trap()::text';
        create function evil.clock_timestamp() returns timestamptz language sql
            as 'select now() from evil.trap()';
        create function evil.format(text, variadic text[]) returns text language sql
            as 'select evil.trap()::text';
        create function evil.left(text, int) returns text language sql as 'select evil.trap()::text';
        create function evil.gen_random_uuid() returns uuid language sql
            as 'select null::uuid from evil.trap()';
        create temporary table pg_class (relname name);
        create temporary table consumer (name text);
        set search_path = evil, pg_temp, tailwater, pg_catalog;
        """, user=role)
    window = ledger.claim("crm", "orders", user=role)
    assert ledger.keys("crm", "orders", user=role) == [1]
    ledger.ack("crm", "orders", window, user=role)
    ledger.sql("select tailwater.replay('crm', 'orders', 1)", user=role)
    ledger.sql("select tailwater.release('crm', 'orders', %s)",
               ledger.claim("crm", "orders", user=role).id, user=role)
    assert ledger.subscribe("other", "orders", user=role)
    assert ledger.value("select tailwater.unsubscribe('other', 'orders')", user=role)
    fixed = ledger.value(
        "select count(*) from pg_proc where pronamespace = 'tailwater'::regnamespace and prosecdef and "
        "not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']")
    assert fixed == 0


# ---- the end ----


def test_a_dropped_fact_leaves_nothing(empty):
    ledger = empty.fact("orders").fact("orders_day")
    ledger.subscribe("crm", "orders")
    fill_partition(ledger, [1])
    ledger.sql("alter table tailwater.ledger_orders detach partition tailwater.\"ledger_orders$0\"")
    assert ledger.value("select tailwater.drop_fact('orders')")
    assert not ledger.value("select tailwater.drop_fact('orders')")
    left = "select relname::text from pg_class where relnamespace = 'tailwater'::regnamespace and " \
           "relname like 'ledger_orders%%' and relkind in ('r', 'p') union select proname from pg_proc " \
           "where proname like 'keys_%%' order by 1"
    names = [row[0] for row in ledger.sql(left)]
    assert len(names) > 3 and all("orders_day" in name for name in names), names
    for table in ("consumer", "ledger_floor", "fact_node", "everything"):
        assert ledger.value(f"select count(*) from tailwater.{table} where fact = 'orders'") == 0
    ledger.write("orders_day", [1])


# ---- news, statistics, a look from outside ----


def test_news(empty):
    ledger = empty.fact("orders").fact("others")
    listener = ledger.connect(autocommit=True)
    with listener.cursor() as cursor:
        cursor.execute("listen tailwater_orders; listen tailwater_others")

    def heard():
        with listener.cursor() as cursor:
            cursor.execute("select 1")
        found = [(n.channel, n.payload) for n in listener.notifies]
        listener.notifies.clear()
        return found

    assert ledger.tool("notify=-1") == "seen 0\n" and heard() == []
    number = ledger.write("orders", [1])
    assert ledger.tool("notify=0") == f"seen {number}\n"
    assert heard() == [("tailwater_orders", str(number))]
    ledger.skip_numbers(3)
    assert ledger.tool(f"notify={number}") == f"seen {number + 3}\n" and heard() == []
    page = ledger.announce()
    ledger.skip_numbers(1)
    assert ledger.tool(f"notify={number + 3}") == f"seen {page - 1}\n" and heard() == []
    ledger.write_page("orders", [2], page)
    assert ledger.tool(f"notify={page - 1}") == f"seen {page + 1}\n"
    assert heard() == [("tailwater_orders", str(page + 1))]
    number = ledger.say_everything("others")
    ledger.tool(f"notify={number - 1}")
    assert heard() == [("tailwater_others", str(number))]
    ledger.tool("notify=-1")
    assert {channel for channel, _ in heard()} == {"tailwater_orders", "tailwater_others"}
    listener.close()


def test_statistics_of_an_hour(empty):
    ledger = empty.fact("orders", tables=["orders", "customers"])
    add = "select tailwater.add_statistics('{orders,orders,gone}', '{0,1,0}', '{4,2,1}', '{4,20,1}', " \
          "'{0,1,0}', '{1,0,0}')"
    ledger.sql(add)
    ledger.sql(add)
    assert not ledger.value("select tailwater.close_hour('main')"), "the hour is not over"
    ledger.write("orders", [1, 2, 2], node=0)
    ledger.write("orders", [1, 2, 3, 4], node=1)
    ledger.write("orders", [4, 5], node=1, lane=FAN_OUT)
    ledger.write("orders", [6], node=1, lane=BACKFILL)
    ledger.sql("update tailwater.dimension_statistic set hour = hour - interval '2 hours'")
    age(ledger, "2 hours")
    ledger.write("orders", [77], node=1)
    assert ledger.value("select tailwater.close_hour('main')")
    assert not ledger.value("select tailwater.close_hour('main')")
    assert ledger.sql("select node, rows_changed, keys_written, deferred, null_keys, distinct_keys from "
                      "tailwater.dimension_statistic order by node") == [(0, 8, 8, 0, 2, 2),
                                                                         (1, 4, 40, 2, 0, 5)]


@pytest.mark.parametrize("key", [{"id": "bigint"}, {"id": "smallint"}, {"code": "text"}, {"a": "int", "b": "text"}],
                         ids=lambda key: " ".join(key.values()))
def test_statistics_of_an_hour_of_many_rows(empty, key):
    """Many distinct keys are estimated, few are counted, however many rows there are."""
    ledger = empty.fact("orders", tables=["orders", "customers", "countries"], **key)

    def keys(numbers):
        return [tuple(number if one != "text" else f"k {number}" for one in key.values()) for number in numbers]

    ledger.sql("select tailwater.add_statistics('{orders,orders,orders}', '{0,1,2}', '{4,4,4}', '{40000,40000,0}', "
               "'{0,0,0}', '{0,0,0}')")
    ledger.sql("update tailwater.dimension_statistic set hour = hour - interval '2 hours'")
    for _ in range(2):
        ledger.write("orders", keys(range(20000)), node=0)
    ledger.write("orders", keys([1, 2, 3] * 100), node=1)
    age(ledger, "2 hours")
    ledger.write("orders", keys([77]), node=1)
    assert ledger.value("select tailwater.close_hour('main', 20000)")
    (_, many), few, none = ledger.sql("select node, distinct_keys from tailwater.dimension_statistic order by node")
    assert many % 4 == 0 and many != 20000 and 19000 < many < 21000, "one in four was looked at"
    assert (few, none) == ((1, 3), (2, 0))


def test_an_hour_is_read_once_where_the_sample_tells_enough(empty):
    """A dimension that wrote nothing has nothing to be counted."""
    ledger = empty.fact("orders", tables=["orders", "customers"])
    ledger.sql("select tailwater.add_statistics('{orders,orders}', '{0,1}', '{4,4}', '{40000,0}', '{0,0}', '{0,0}')")
    ledger.sql("update tailwater.dimension_statistic set hour = hour - interval '2 hours'")
    ledger.write("orders", range(40000), node=0)
    age(ledger, "2 hours")
    ledger.write("orders", [77], node=1)
    with ledger.mirror.transaction(REPLICATOR) as cursor:
        def read():
            cursor.execute("select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_all_tables "
                           "where relname like 'ledger_orders%'")
            return cursor.fetchone()[0]

        before = read()
        cursor.execute("select tailwater.close_hour('main', 20000)")
        # For rows of one key and for arrays of them.
        assert 2 * 40000 <= read() - before < 2 * 60000


def test_an_hour_whose_keys_are_gone_stays_unknown(empty):
    ledger = empty.fact("orders", tables=["orders"])
    ledger.sql("select tailwater.add_statistics('{orders}', '{0}', '{4}', '{4}', '{0}', '{0}')")
    ledger.sql("update tailwater.dimension_statistic set hour = hour - interval '2 hours'")
    ledger.write("orders", [1])
    age(ledger, "90 minutes")
    ledger.write("orders", [2])
    ledger.sql("select tailwater.raise_floors('main', '1 minute')")
    assert ledger.value("select tailwater.close_hour('main')")
    assert ledger.sql("select distinct_keys, is_closed from tailwater.dimension_statistic") == [(None, True)]


def test_the_batch_of_a_moment(ledger):
    at = "select tailwater.batch_at('main', %s::timestamptz)"
    assert ledger.value(at, "2026-01-01") == 0
    pick = random.Random(5)
    numbers = sorted(pick.sample(range(1, 5000), 200))
    for i, number in enumerate(numbers):
        ledger.sql("insert into tailwater.batch (pipeline, batch_id, kind, applied_at) values ('main', "
                   "%s, 'stream', '2026-01-01 00:00Z'::timestamptz + %s * interval '1 minute')", number, i)
    ledger.skip_numbers(6000)
    for i, number in enumerate([*numbers[1:], 6001]):
        moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + \
            datetime.timedelta(minutes=i, seconds=30)
        assert ledger.value(at, moment) == number - 1, i
    assert ledger.value(at, "2025-12-31") == numbers[0] - 1


# ---- the ledger command ----


@pytest.fixture
def looked(empty, make_pipeline):
    """A ledger with something in it, and the command that looks into it."""
    pipeline = make_pipeline(name="main")
    ledger = empty.fact("orders", tables=["orders", "customers"], id="bigint", day="date")
    ledger.sql("insert into tailwater.mirror_table (pipeline, schema, name, relid, mirror_schema, "
               "mirror_name, view_schema, view_name, key, state) select 'main', 'public', t, 1, 'm', t, "
               "'public', t, '{id}', 'ready' from unnest('{orders,customers}'::text[]) t")
    ledger.look = lambda *args, **more: pipeline.ok("ledger", *args, **more)
    ledger.pipeline = pipeline
    return ledger


DAY = datetime.date(2026, 3, 1)


def test_ledger_status(looked):
    assert "no consumers" in looked.look("status").out
    for consumer, start in (("crm", "now"), ("new", "all"), ("stale", "now"), ("busy", "now")):
        looked.subscribe(consumer, "orders", start)
    looked.write("orders", [(1, DAY), (2, DAY)])
    looked.sql("update tailwater.consumer set stale_since = now(), stale_reason = 'too slow' "
               "where name = 'stale'")
    window = looked.claim("busy", "orders")
    text = looked.look("status").out
    for words in ("orders: public.orders, key id, day; ready", "crm ", "pending; 2 keys pending, the oldest for",
                  "rebuild; owes a rebuild of everything (not built yet)", "stale for", "too slow; its next",
                  "working; 2 keys pending", "window open: 2 ledger rows, lane fresh, batches 1 to 1",
                  "nothing acknowledged yet", "kept from batch 0 on"):
        assert words in text, (words, text)
    looked.ack("busy", "orders", window)
    found = looked.look("status", "--json").json()
    assert found["batch"] == 1
    fact = found["facts"][0]
    assert (fact["name"], fact["table"], fact["key"], fact["state"], fact["reason"]) == \
        ("orders", "public.orders", ["id", "day"], "ready", None)
    consumers = {c["name"]: c for c in fact["consumers"]}
    assert {name: c["state"] for name, c in consumers.items()} == {
        "crm": "pending", "new": "rebuild", "stale": "stale", "busy": "up to date"}
    assert consumers["crm"]["pending_keys"] == 2 and not consumers["crm"]["pending_is_bound"]
    assert consumers["crm"]["oldest_batch"] == 1 and consumers["crm"]["oldest_at"].startswith("20")
    looked.sql("update tailwater.mirror_table set state = 'copied' where name = 'customers'")
    assert "not ready: public.customers" in looked.look("status").out


def test_ledger_status_says_how_far_it_is_complete(looked):
    """Through which batch and position: fan-outs, quarantined tables and rows to be repaired hold it back."""
    def complete():
        text = looked.look("status").out.splitlines()[1].strip()
        fact = looked.look("status", "--json").json()["facts"][0]
        found = looked.sql("select batch_id, lsn::text from tailwater.fan_out_complete('orders')")
        assert found == [(fact["fan_out"]["batch"], fact["fan_out"]["lsn"])]
        return text, fact["complete"], fact["fan_out"]

    for day in (1, 2, 3):
        looked.write("orders", [(1, datetime.date(2026, 3, day))])
    looked.sql("update tailwater.clock set cursor = '0/200'")
    text, whole, fan_out = complete()
    assert text == "complete through batch 3, 0/200, fan-outs included"
    assert whole == {"batch": 3, "lsn": "0/200", "missing": None}
    assert fan_out == {"batch": 3, "lsn": "0/200", "pending": 0, "keys_written": 0, "since": None}

    looked.sql("insert into tailwater.fan_out (fact, generation, node, batch_id, lsn, links, digest, keys) values "
               "('orders', 1, 1, 3, '0/180', '{}', '', 2000), ('orders', 1, 1, 2, '0/150', '{}', '', 0), "
               "('orders', 0, 1, 1, '0/100', '{}', '', 7)")
    text, whole, fan_out = complete()
    assert text.startswith("complete through batch 3, 0/200; with fan-outs through batch 1, 0/150: 2 pending, the oldest "
                           "for ") and text.endswith(", 2000 keys written so far"), text
    assert whole == {"batch": 3, "lsn": "0/200", "missing": None}
    assert fan_out.pop("since").startswith("20")
    assert fan_out == {"batch": 1, "lsn": "0/150", "pending": 2, "keys_written": 2000}
    assert "2 fan-outs pending for" in looked.pipeline.verb("status").out

    # A table of another fact's, then one of this one.
    looked.sql("insert into tailwater.repair (pipeline, schema, name, key, lsn) values ('main', 'public', 'others', '{1}', "
               "'0/120')")
    looked.sql("delete from tailwater.fan_out")
    assert complete()[1] == {"batch": 3, "lsn": "0/200", "missing": None}
    looked.sql("update tailwater.batch set lsn_to = pg_lsn '0/100' + 50 * batch_id")
    looked.sql("insert into tailwater.repair (pipeline, schema, name, key, lsn) select 'main', 'public', 'customers', "
               "'{1}', l from unnest('{0/170,0/165}'::pg_lsn[]) l")
    text, whole, fan_out = complete()
    assert text == "complete through batch 2, 0/165 (2 rows of public.customers are being fetched), fan-outs included"
    assert fan_out["batch"] == 2 and whole["missing"] == "2 rows of public.customers are being fetched"
    looked.sql("delete from tailwater.repair; update tailwater.mirror_table set quarantine_lsn = '0/110', "
               "quarantine_batch = 2 where name = 'customers'")
    text, whole, fan_out = complete()
    assert text == "complete through batch 1, 0/110 (public.customers is quarantined), fan-outs included"
    assert whole == {"batch": 1, "lsn": "0/110", "missing": "public.customers is quarantined"}
    assert fan_out["batch"] == 1 and fan_out["lsn"] == "0/110"

    looked.sql("update tailwater.fact set suspended = 'why'")
    assert looked.look("status").out.splitlines()[1].strip().startswith("kept from")
    fact = looked.look("status", "--json").json()["facts"][0]
    assert fact["complete"]["batch"] is None and fact["fan_out"]["batch"] is None


def test_peek_reads_what_it_shows(looked):
    """And not the whole ledger, of which the planner has to know the position as a value."""
    looked.subscribe("crm", "orders")
    for lane in (FRESH, FAN_OUT):
        looked.write("orders", [(i, DAY) for i in range(100000)], lane=lane)
    looked.sql("update tailwater.consumer set (fresh_done, fan_out_done, backfill_done) = (batch_id, batch_id, batch_id) "
               "from tailwater.clock")
    looked.write("orders", [(7, DAY)], lane=FAN_OUT)
    read = "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::int from pg_stat_all_tables where relname like 'ledger_orders$%%'"
    looked.sql("""do $$ declare i regclass; begin for i in select indexrelid::regclass from pg_index where indrelid in
                  (select oid from pg_class where relname like 'ledger_orders$%%') loop
                  perform brin_summarize_new_values(i); end loop; end $$""")
    wait.until(lambda: looked.value("select sum(n_tup_ins) from pg_stat_all_tables where relname like 'ledger_orders$%%'") > 100000,
               "statistics")
    before = looked.value(read)
    assert [k["key"]["id"] for k in looked.look("peek", "orders", "--consumer", "crm", "--json").json()] == [7]
    wait.until(lambda: looked.value(read) > before, "statistics")
    assert looked.value(read) - before < 50000


def test_ledger_peek(looked):
    looked.subscribe("crm", "orders")
    looked.write("orders", [(1, DAY), (2, DAY)])
    window = looked.claim("crm", "orders")
    looked.write("orders", [(2, DAY)], node=1)
    looked.write("orders", [(3, DAY)], lane=FAN_OUT, node=1)
    found = looked.look("peek", "orders", "--json").json()
    assert [(k["key"]["id"], k["lane"], k["times"], k["batch"], k["through"]) for k in found] == [
        (3, "fan-out", 1, 3, "customers"), (2, "fresh", 2, 2, "customers, orders"), (1, "fresh", 1, 1, "orders")]
    found = looked.look("peek", "orders", "--consumer", "crm", "--json").json()
    assert {k["key"]["id"]: k["window"] for k in found} == {1: "open", 2: "open", 3: None}
    looked.ack("crm", "orders", window)
    text = looked.look("peek", "orders", "--consumer", "crm").out.splitlines()
    assert text[0].split() == ["key", "lane", "times", "batch", "through", "window"]
    assert [line.split("  ")[0] for line in text[1:]] == ["3, 2026-03-01", "2, 2026-03-01"]


def test_a_look_shows_the_newest(looked):
    """However long the backlog is; as many as were asked for."""
    looked.subscribe("crm", "orders")
    looked.write("orders", [(i, DAY) for i in range(30000)])
    for i in range(3):
        looked.write("orders", [(50000 + i, DAY)])
    for args in ((), ("--consumer", "crm")):
        keys = [k["key"]["id"] for k in looked.look("peek", "orders", "--json", *args).json()]
        assert keys[:3] == [50002, 50001, 50000] and len(keys) == 100
        keys = [k["key"]["id"] for k in looked.look("peek", "orders", "--json", "--limit", "2", *args).json()]
        assert keys == [50002, 50001]
        assert len(looked.look("peek", "orders", "--json", "--limit", "40000", *args).json()) == 30003
    assert looked.look("peek", "orders", "--limit", "2").out.endswith("(the newest 2 keys; there may be more: --limit)\n")
    assert "there may be more" not in looked.look("peek", "orders", "--limit", "40000").out


def test_a_look_finds_keys_behind_others_that_come_again_and_again(looked):
    looked.subscribe("crm", "orders")
    looked.write("orders", [(i, DAY) for i in range(100, 130)])
    for _ in range(60):
        looked.write("orders", [(i, DAY) for i in range(5) for _ in range(400)])
    for args in ((), ("--consumer", "crm")):
        found = {k["key"]["id"]: k["times"] for k in looked.look("peek", "orders", "--json", *args).json()}
        assert found == {**{i: 24000 for i in range(5)}, **{i: 1 for i in range(100, 130)}}


def test_a_look_goes_as_far_back_as_it_has_to(looked):
    """A consumer's keys may lie behind many batches of other facts."""
    looked.subscribe("crm", "orders")
    looked.write("orders", [(7, DAY)])
    looked.sql("insert into tailwater.batch select (jsonb_populate_record(null::tailwater.batch, to_jsonb(b) || "
               "jsonb_build_object('batch_id', b.batch_id + i))).* "
               "from (select * from tailwater.batch order by batch_id desc limit 1) b, generate_series(1, 2000) i; "
               "update tailwater.clock set batch_id = batch_id + 2000")
    assert looked.look("peek", "orders", "--json").json() == []
    assert [k["key"]["id"] for k in looked.look("peek", "orders", "--consumer", "crm", "--json").json()] == [7]


def test_keys_command_no_terminal(looked):
    """A key is what a row of the source says it is."""
    looked.fact("words", word="text")
    looked.write("words", ["a\x1b[31mb\nc", "plain"])
    lines = looked.look("peek", "words").out.splitlines()
    assert len(lines) == 3 and "\x1b" not in "".join(lines)
    assert lines[1].startswith("a\\x1b[31mb\\nc  ") and lines[2].startswith("plain" + " " * (len("a\\x1b[31mb\\nc") - 3))
    assert lines[1].index("fresh") == lines[2].index("fresh") == lines[0].index("lane")


def test_ledger_why(looked):
    looked.write("orders", [(1, DAY), (2, DAY)])
    looked.write("orders", [(1, DAY)], node=1)
    looked.say_everything("orders", "truncate of public.customers")
    found = looked.look("why", "orders", "1", "2026-03-01", "--json").json()
    assert [(k["batch"], k["kind"], k["lane"], k["through"], k["path"], k["lsn"]) for k in found] == [
        (3, "stream", "everything", "truncate of public.customers", None, "0/200"),
        (2, "stream", "fresh", "customers", "customers.id = x.customers", "0/200"),
        (1, "stream", "fresh", "orders", None, "0/200")]
    assert all(k["committed_at"] and k["applied_at"] for k in found)
    assert looked.look("why", "orders", "1", "2026-03-01", "--json", "--limit", "1").json() == found[:1]
    text = looked.look("why", "orders", "2", "2026-03-01").out
    assert len(text.splitlines()) == 3 and "0/200" in text


def test_ledger_stats(looked):
    looked.sql("select tailwater.add_statistics('{orders,orders}', '{0,1}', '{4,2}', '{4,20}', '{0,1}', '{1,0}')")
    found = looked.look("stats", "--json").json()
    assert [(s["fact"], s["dimension"], s["rows"], s["keys"], s["distinct_keys"], s["amplification"], s["deferred"],
             s["null_keys"]) for s in found] == [
        ("orders", "orders", 4, 4, None, 1.0, 0, 1), ("orders", "customers", 2, 20, None, 10.0, 1, 0)]
    assert "amplification" in looked.look("stats").out


def test_ledger_says_what_is_wrong(looked):
    looked.subscribe("crm", "orders")
    for args, words in ((("peek", "order"), "its facts are: orders"),
                        (("peek", "orders", "--consumer", "cmr"), "its consumers are: crm"),
                        (("why", "orders", "1"), "its key is (id bigint, day date)"),
                        (("peak",), 'did you mean "peek"?'), ((), "status, peek, why or stats"),
                        (("peek",), "something is missing"), (("status", "x"), "something is too much"),
                        (("status", "--consumer", "crm"), "--consumer goes with peek"),
                        (("status", "--limit", "5"), "--limit goes with peek and why"),
                        (("peek", "orders", "--limit", "0"), "is not a whole number from 1 to"),
                        (("peek", "orders", "--limit", "5x"), "option --limit"),
                        (("peek", "orders", "--limit", "99999999999999999999"), "option --limit")):
        done = looked.pipeline.verb("ledger", *args)
        assert done.code == 2 and words in done.err and not done.out, done
    done = looked.pipeline.verb("ledger", "why", "orders", "x", "2026-03-01")
    assert done.code == 2 and done.err.count("SQLSTATE 22P02") == 1 and not done.out
    assert "the key of fact orders is (id bigint, day date)" in done.err


def test_status_has_a_line_per_fact(looked):
    looked.fact("others")
    looked.subscribe("crm", "orders")
    looked.subscribe("late", "others", "all")
    looked.write("orders", [(1, DAY)])
    done = looked.pipeline.verb("status")
    assert "ledger       orders: ready; 1 consumer, the slowest with 1 keys pending for" in done.out, done
    assert "             others: ready; 1 consumer, 1 with a rebuild to do" in done.out, done
    found = looked.pipeline.verb("status", "--json").json()
    assert [fact["name"] for fact in found["ledger"]["facts"]] == ["orders", "others"]


def test_destroy_of_a_ledger(looked):
    looked.subscribe("crm", "orders")
    looked.write("orders", [(1, DAY)])
    looked.mirror.sql("create view public.mine as select count(*) from tailwater.ledger_orders")
    out = looked.tool("destroy=dry")
    assert "removed: ledger of fact orders, with 1 consumers" in out
    out = looked.tool("destroy")
    assert "kept: ledger of fact orders" in out and out.endswith("unfinished\n")
    assert looked.value("select count(*) from tailwater.consumer") == 1
    looked.mirror.sql("drop view public.mine")
    out = looked.tool("destroy=keep")
    assert "removed: ledger of fact orders" in out and "removed: control schema" in out
    assert looked.value("select to_regnamespace('tailwater')") is None
