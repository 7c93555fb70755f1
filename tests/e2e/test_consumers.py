"""Consumers beside a running replicator: nobody waits for them, and what several threads write reaches them whole."""

import json
import random
import re
import threading

import psycopg2
import pytest

from lib import wait
from lib.cluster import REPLICATOR

SHOP = """
    create table customers (id bigint primary key, segment text);
    create table orders (id bigint primary key, customer_id bigint, status text);
    insert into customers select i, 'a' from generate_series(1, 20) i;
    insert into orders select i, 1 + i % 20, 'new' from generate_series(1, 2000) i;
"""

ORDER = {"table": "public.orders", "key": ["id"], "dimensions": [
    {"table": "public.customers", "join": "customers.id = orders.customer_id", "fan_out": "defer"}]}


@pytest.fixture
def shop(source, make_pipeline):
    source.sql(SHOP)
    pipeline = make_pipeline(plugin="pgoutput", facts={"order": ORDER}).publish()
    return pipeline.start().wait_until_caught_up()


@pytest.mark.parametrize("purge", ["0", "7d"])
def test_a_refresh_in_flight(source, mirror, make_pipeline, purge):
    """A claim is held open, its keys, its rows and the report are read and written, while the source changes and truncates
    the same tables: the applier does not wait, nothing deadlocks, and the refresh ends as it began."""
    source.sql(SHOP)
    pipeline = make_pipeline(plugin="pgoutput", facts={"order": ORDER}, purge={"after": purge}).publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("create table public.report as select id, status from orders; alter table public.report add primary key (id);"
               "select tailwater.subscribe('report', 'order')")
    source.sql("update orders set status = 'paid' where id < 4")
    pipeline.wait_until_caught_up()
    with mirror.transaction() as refresh:
        refresh.execute("select claim_id, everything from tailwater.claim('report', 'order')")
        (claim_id, everything), = refresh.fetchall()
        assert not everything
        refresh.execute("select * from tailwater.keys_order('report')")
        assert sorted(refresh.fetchall()) == [(1,), (2,), (3,)]
        refresh.execute("update public.report r set status = o.status from orders o where o.id = r.id and r.id < 4")
        refresh.execute("select count(*) from customers")
        for change in ("update orders set status = 'sent' where id < 100", "update customers set segment = 'b' where id = 3",
                       "truncate orders", "truncate customers", "insert into orders values (1, 1, 'again')"):
            source.sql(change)
            pipeline.wait_until_caught_up(deadline=10)
            refresh.execute("select status from orders where id = 1")
        wait.until(lambda: not mirror.value("select count(*) from tailwater.fan_out"), "expanded")
        assert refresh.fetchall() == [("again",)]
        refresh.execute("select tailwater.ack('report', 'order', %s)", (claim_id,))
    assert "deadlock" not in pipeline.this_run() and "interrupted" not in pipeline.events()
    (claim_id, everything), = mirror.sql("select claim_id, everything from tailwater.claim('report', 'order')")
    assert everything, "of the truncate"
    mirror.sql("select tailwater.ack('report', 'order', %s)", claim_id)
    assert mirror.sql("select * from tailwater.claim('report', 'order')") == []
    pipeline.settle()


def windows_of(mirror, connection, found, max_keys):
    """Every window there is, into found: (lane, from, to, keys)."""
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute("select claim_id, lane, from_batch, to_batch, everything from "
                           "tailwater.claim('poll', 'order', %s)", (max_keys,))
            if (window := cursor.fetchone()) is None:
                return
            claim_id, lane, first, last, everything = window
            assert not everything
            cursor.execute("select * from tailwater.keys_order('poll')")
            found.append((lane, first, last, [key for key, in cursor.fetchall()]))
            cursor.execute("select tailwater.ack('poll', 'order', %s)", (claim_id,))


def test_nothing_is_skipped(shop, source, mirror):
    """The stream, the expander and a backfill write batches at once; a consumer polls at their head.  Each ledger row is in
    the one window of its lane that covers its batch."""
    mirror.sql("select tailwater.subscribe('poll', 'order')")
    subscribed = shop.clock()[0]
    connection, found, failures = psycopg2.connect(mirror.conninfo()), [], []

    def change():
        for i in range(60):
            source.sql(f"update orders set status = 's{i}' where id % 50 = {i % 50}")
            if i % 3 == 0:
                source.sql(f"update customers set segment = 's{i}' where id = {1 + i % 20}")

    def backfill():
        pick = random.Random(7)
        other = psycopg2.connect(mirror.conninfo(REPLICATOR))
        for i in range(80):
            with other, other.cursor() as cursor:
                cursor.execute("with n as materialized (select tailwater.next_batch(%s) as n), k as (insert into "
                               "tailwater.ledger_order select n, 2, 0, 5000 + %s from n) insert into tailwater.batch "
                               "(pipeline, batch_id, kind, keys) select %s, n, 'backfill', 1 from n",
                               (shop.name, i, shop.name))
                cursor.execute("select pg_sleep(%s)", (pick.random() * 0.02,))
        other.close()

    def guarded(work):
        try:
            work()
        except Exception as error:  # the main thread raises it
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (change, backfill)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        windows_of(mirror, connection, found, 200)
    for thread in threads:
        thread.join()
    assert not failures, failures
    shop.wait_until_caught_up()
    wait.until(lambda: not mirror.value("select count(*) from tailwater.fan_out"), "expanded")
    windows_of(mirror, connection, found, 200)
    connection.close()
    rows = mirror.sql("select lane, batch_id, id from tailwater.affected_order where batch_id > %s", subscribed)
    assert {lane for lane, _, _ in rows} == {0, 1, 2}
    for lane in (0, 1, 2):
        windows = [(first, last) for of, first, last, _ in found if of == lane]
        assert all(before[1] < after[0] for before, after in zip(windows, windows[1:])), "no batch twice"
    for of, first, last, keys in found:
        assert len(set(keys)) == len(keys)
        assert set(keys) == {key for lane, batch, key in rows if lane == of and first <= batch <= last}
    covered = {(of, batch) for of, first, last, _ in found for batch in range(first, last + 1)}
    assert {(lane, batch) for lane, batch, _ in rows} <= covered
    shop.settle()


def test_the_ledger_keeper_comes_back(shop, source, mirror):
    """Both its connections are ended, twice: it makes new ones, and the stream does not notice."""
    keepers = "from pg_stat_activity where datname = current_database() and " \
              "application_name in ('tailwater ledger', 'tailwater ledger keeper')"
    wait.until(lambda: mirror.value(f"select count(*) {keepers}") == 2, "both are there")
    shop.wait_log("streaming from")
    listener = psycopg2.connect(mirror.conninfo())
    listener.autocommit = True
    with listener.cursor() as cursor:
        cursor.execute("listen tailwater_order")

    def told():
        listener.poll()
        return max((int(n.payload) for n in listener.notifies), default=0)

    for i in (1, 2):
        pids = {pid for pid, in mirror.sql(f"select pid {keepers}")}
        mirror.sql(f"select pg_terminate_backend(pid) {keepers}")
        source.sql(f"update orders set status = 'k{i}' where id = {i}")
        shop.wait_until_caught_up()
        newest = mirror.value("select max(batch_id) from tailwater.ledger_order")
        wait.until(lambda: told() >= newest, lambda: f"told {told()} of {newest}\n{shop.log_tail()}", deadline=20)
        wait.until(lambda: mirror.value(f"select count(*) {keepers}") == 2, "both are there again", deadline=20)
        assert not pids & {pid for pid, in mirror.sql(f"select pid {keepers}")}
        # The other thread's work too: what was counted is not lost by that.
        wait.until(lambda: mirror.value("select rows_changed from tailwater.dimension_statistic where node = 0") == i,
                   lambda: f"{mirror.sql('select * from tailwater.dimension_statistic')}\n{shop.log_tail()}", deadline=20)
        # Far ahead of every partition: only the keeper makes these while the session lives.
        top = mirror.value("select max(upper) from tailwater.ledger_partitions('order')")
        mirror.sql("update tailwater.clock set batch_id = %s", top - 10)
        wait.until(lambda: mirror.value("select max(upper) from tailwater.ledger_partitions('order')") > top,
                   lambda: shop.log_tail(), deadline=20)
    listener.close()
    assert "ledger_keeper_trouble" in shop.events() and shop.events().count("streaming") == 1
    shop.settle()


def test_p73_a_summary_that_was_interrupted(shop, mirror):
    """A range of the ledger's index that keeps a placeholder, and with it all behind, is made anew."""
    shop.stop()
    mirror.sql("insert into tailwater.ledger_order (batch_id, lane, node, id) "
               "select k.batch_id, 0, 0, i from tailwater.clock k, generate_series(1, 200000) i;"
               "analyze tailwater.ledger_order", user="postgres")
    index, = {index for index, in mirror.sql(
        "select i.indexrelid::regclass::text from pg_index i where pg_relation_size(i.indrelid) > 1000000 "
        "and i.indrelid::regclass::text like 'tailwater.%%ledger%%'")}

    def read_for_nothing():
        with mirror.transaction("postgres") as cursor:
            cursor.execute("set local enable_seqscan = off")
            cursor.execute("explain (analyze, format json) select from tailwater.ledger_order "
                           "where batch_id > (select batch_id + 1 from tailwater.clock)")
            plan = json.dumps(cursor.fetchone()[0])
        return sum(int(rows) for rows in re.findall(r'"Rows Removed by Index Recheck": (\d+)', plan))

    def interrupt():
        with mirror.transaction("postgres") as cursor:
            cursor.execute("select brin_desummarize_range(%s::regclass, 0), brin_summarize_new_values(%s::regclass)",
                           (index, index))
            cursor.execute("select brin_desummarize_range(%s::regclass, 0)", (index,))
        with pytest.raises(psycopg2.errors.QueryCanceled), mirror.transaction("postgres") as cursor:
            for _ in range(10000):
                cursor.execute("set local statement_timeout = 1")
                cursor.execute("select brin_summarize_range(%s::regclass, 0)", (index,))
                cursor.execute("set local statement_timeout = 0")
                cursor.execute("select brin_desummarize_range(%s::regclass, 0)", (index,))

    def is_spoilt():
        interrupt()
        return read_for_nothing() > 100_000

    wait.until(is_spoilt, "a placeholder stays")
    mirror.sql("delete from tailwater.ledger_summary", user="postgres")  # as who was interrupted had not yet said it was done
    shop.start()
    wait.until(lambda: read_for_nothing() < 20_000, lambda: f"{read_for_nothing()} rows are read\n{shop.log_tail()}")
    wait.until(lambda: mirror.value("select count(*) from tailwater.ledger_summary where block > 1000"), "that is remembered")
    shop.settle()
