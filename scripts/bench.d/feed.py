"""Feeds (scripts/bench --feed): how soon a change leaves, and what it costs the mirror.

A feed over a million customers and their orders, a hundred changed rows a second, each a transaction
of its own; the receiver is a small HTTP server here.  The latency is what tailwater feed status says:
from the commit on the source to the request.  The mirror's load is what the feed's own statements read
(rows fetched from customers and orders), per changed row, and with a tenth of the table for comparison.
"""

import os
import time

from lib import wait
from lib.pipeline import Pipeline
from lib.receiver import Receiver

SCHEMA = """
    create table customers (id bigint primary key, name text not null);
    create table orders (id bigint primary key, customer_id bigint not null, total numeric not null);
    create index on orders (customer_id);
    create table item (id bigint primary key);
    create table done (id bigint primary key);
"""

FACT = {"customer": {"table": "public.customers", "key": ["id"], "dimensions": [
    {"table": "public.orders", "join": "orders.customer_id = customers.id", "watch": ["total"]}]}}

QUERY = "select c.id, c.name, sum(o.total) as total from {keys} k join customers c on c.id = k.id " \
        "left join orders o on o.customer_id = c.id group by c.id, c.name"

READ = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_all_tables " \
       "where schemaname = 'mirror_public'"


def one(bench, rows, seconds, rate, say):
    """With a table of so many rows."""
    bench.schema, schema = SCHEMA, bench.schema
    try:
        bench.new_source(f"shop_feed_{rows}")
    finally:
        bench.schema = schema
    source = bench.source
    source.sql(f"insert into customers select i, 'c' from generate_series(1, {rows}) i")
    source.sql(f"insert into orders select i, i, 1 from generate_series(1, {rows}) i")
    database = bench.mirror_cluster.create_mirror("live_feed")
    receiver = Receiver()
    pipeline = Pipeline(os.path.join(bench.folder, f"feed_{rows}"), source, database, "bench_feed", plugin="pgoutput",
                        binary=bench.binary, facts=FACT, feeds={"crm": {
                            "fact": "customer", "query": QUERY, "start": "now", "destination": {"url": receiver.url}}})
    pipeline.publish()
    pipeline.run_until_now(timeout=900)
    database.sql("vacuum analyze")
    pipeline.start().wait_until_caught_up()

    def status():
        found = pipeline.ok("feed", "status", "--json").json()
        return found[0] if found else {"state": "not yet"}

    wait.until(lambda: status()["state"] != "not yet", "the feed runs", 60)
    wait.until(lambda: status()["state"] == "up to date", lambda: str(status()), 900, every=1)
    sent, read = status()["sent"], int(database.value(READ))
    say(f"feed: {rows} customers, {rate} changes a second for {seconds} s")
    began, changes = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        source.sql("update customers set name = name || 'x' where id = %s", 1 + changes * 7919 % rows)
        changes += 1
        time.sleep(max(0.0, began + changes / rate - time.monotonic()))
    took = time.monotonic() - began
    wait.until(lambda: status()["sent"] >= sent + changes, lambda: str(status()), 60)
    time.sleep(2)  # what backends report of themselves comes late
    now = status()
    result = {"rows": rows, "changes": changes, "rate": changes / took, "median_ms": now["latency_ms"],
              "p99_ms": now["latency_p99_ms"], "rows_read_per_change": (int(database.value(READ)) - read) / changes,
              "requests": now["requests"]}
    pipeline.stop()
    receiver.stop()
    database.close()
    source.cluster.sql("select pg_drop_replication_slot(%s)", pipeline.slot)
    bench.drop_everything()
    return result


def feed(bench, rows, seconds, say, rate=100):
    return [one(bench, count, seconds, rate, say) for count in (rows // 10, rows)]


def report(results):
    lines = ["| feed | changes a second | median ms | p99 ms | mirror rows read per change |", "|---|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['rows']} customers | {r['rate']:.0f} | {r['median_ms']:.1f} | {r['p99_ms']:.1f} | "
                     f"{r['rows_read_per_change']:.1f} |")
    return "\n".join(lines)
