"""Feeds (scripts/bench --feed): how soon a change leaves, and what it costs the mirror.

A feed over a million customers and their orders, a hundred changed rows a second, each a transaction
of its own; the receiver is a small HTTP server here.  The latency is what tailwater feed status says:
from the commit on the source to the request.  The mirror's load is what the feed's own statements read
(rows fetched from customers and orders), per changed row, and with a tenth of the table for comparison.

Then the receiver is away for what would be an hour of that, 3600 transactions of a hundred changed rows as fast as
they go: what the ledger and the replicator's memory come to, and how long it takes until everything has been sent.
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
    create procedure an_hour(seconds int, rows int) language plpgsql as $$
    begin
        for second in 1 .. seconds loop
            update customers set name = 'h' || second
                where id in (select 1 + (second::bigint * 7919 + i * 104729) % rows from generate_series(1, 100) i);
            commit;
        end loop;
    end $$;
"""

FACT = {"customer": {"table": "public.customers", "key": ["id"], "dimensions": [
    {"table": "public.orders", "join": "orders.customer_id = customers.id", "watch": ["total"]}]}}

QUERY = "select c.id, c.name, sum(o.total) as total from {keys} k join customers c on c.id = k.id " \
        "left join orders o on o.customer_id = c.id group by c.id, c.name"

READ = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_all_tables " \
       "where schemaname = 'mirror_public'"


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) << 10


def away(source, database, pipeline, receiver, status, rows, seconds):
    """An hour without the receiver."""
    before, sent, windows = resident(pipeline.process.pid), status()["sent"], len(receiver.requests)
    receiver.stop()
    source.sql("call an_hour(%s, %s)", seconds, rows)
    pipeline.wait_until_caught_up(600)
    waiting = status()
    size = int(database.value("select sum(bytes) from tailwater.fact_states(%s)", pipeline.name))
    during = resident(pipeline.process.pid)
    receiver.start()
    began = time.monotonic()
    wait.until(lambda: status()["state"] == "up to date", lambda: str(status()), 600, every=0.2)
    took = time.monotonic() - began
    last = {d["id"]: d["name"] for r in receiver.requests[windows:] for d in r["documents"]}
    wrong = sum(1 for key, name in last.items() if receiver.table[key]["name"] != name) + len(receiver.wrong)
    behind = source.sql("select id, name from customers where name like 'h%%'")
    lost = sum(1 for key, name in behind if last.get(key) != name)
    return {"changes": seconds * 100, "pending_keys": waiting["pending_keys"], "ledger_bytes": size,
            "resident_before": before, "resident_away": during, "recovery_s": took,
            "documents": status()["sent"] - sent, "lost": lost, "out_of_order": wrong}


def one(bench, rows, seconds, rate, hour, say):
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
    if hour:
        result["away"] = away(source, database, pipeline, receiver, status, rows, hour)
    pipeline.stop()
    receiver.stop()
    database.close()
    source.cluster.sql("select pg_drop_replication_slot(%s)", pipeline.slot)
    bench.drop_everything()
    return result


def feed(bench, rows, seconds, say, rate=100):
    return [one(bench, rows // 10, seconds, rate, 0, say), one(bench, rows, seconds, rate, 3600 * rows // 1_000_000, say)]


def report(results):
    lines = ["| feed | changes a second | median ms | p99 ms | mirror rows read per change |", "|---|---|---|---|---|"]
    for r in results:
        lines.append(f"| {r['rows']} customers | {r['rate']:.0f} | {r['median_ms']:.1f} | {r['p99_ms']:.1f} | "
                     f"{r['rows_read_per_change']:.1f} |")
    lines += ["", "| receiver away | ledger | resident before, then | sent again in | documents | lost | out of order |",
              "|---|---|---|---|---|---|---|"]
    for r in (r["away"] for r in results if "away" in r):
        lines.append(f"| {r['changes']} changes | {r['ledger_bytes'] / 2**20:.1f} MiB | {r['resident_before'] / 2**20:.1f}, "
                     f"{r['resident_away'] / 2**20:.1f} MiB | {r['recovery_s']:.1f} s | {r['documents']} | {r['lost']} | "
                     f"{r['out_of_order']} |")
    return "\n".join(lines)
