"""What the ledger costs (scripts/bench --ledger).

Two pipelines over one source, one without facts and one with a fact of three dimensions.  Each round
updates every order while both are stopped; then each catches up alone, in changing order.

Then the one with the fact under a probe of single commits, in turns: quiet; while a process that has
nothing to do with it computes; and while a row of countries that reaches every order is expanded.  The
second is there because an expansion computes on the mirror's server: on few processors whoever
computes makes others wait for their turn, and the comparison tells how much is the expansion's own.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
import time

from contenders import until_done
from shop import Side, make_source

SCHEMA = """
    create table countries (id int primary key, name text, tax numeric(4,2));
    create table customers (id bigint primary key, country_id int not null, segment text);
    create table orders (id bigint primary key, customer_id bigint not null, status text, amount numeric(12,2),
                         note text, changed timestamptz);
    create table payments (id bigint primary key, order_id bigint not null, paid numeric(12,2));
    create index on orders (customer_id);
    create index on customers (country_id);
    create index on payments (order_id);
    create table item (id bigint primary key);
    create table done (id bigint primary key);
"""

FACT = {"order": {
    "table": "public.orders", "key": ["id"], "watch": ["status", "amount", "customer_id"],
    "dimensions": [
        {"table": "public.payments", "join": "payments.order_id = orders.id", "watch": ["paid"]},
        {"table": "public.customers", "join": "customers.id = orders.customer_id", "watch": ["segment"]},
        {"table": "public.countries", "join": "countries.id = customers.country_id"}]}}

UPDATES = 20000  # rows of a transaction


def fill(source, orders):
    customers = orders // 10
    source.sql(f"""
        insert into countries values (1, 'one', 20), (2, 'another', 19);
        insert into customers select i, 1, 'a' from generate_series(1, {customers}) i;
        insert into orders select i, 1 + i % {customers}, 'new', i % 1000, repeat('n', 40), now()
            from generate_series(1, {orders}) i;
        insert into payments select i, i, 5 from generate_series(1, {orders // 2}) i""")


def update_all(source, orders):
    for first in range(1, orders + 1, UPDATES):
        source.sql("update orders set amount = amount + 1, changed = now() where id between %s and %s",
                   first, first + UPDATES - 1)


def bulk_update(bench, sides, rounds, orders, say):
    times = {side.name: [] for side in sides}
    for number in range(rounds):
        update_all(bench.source, orders)
        bench.sentinel += 1
        bench.source.sql("insert into done values (%s)", bench.sentinel)
        for side in sides if number % 2 else reversed(sides):
            bench.checkpoint()
            times[side.name].append(side.catch_up(bench.sentinel))
            say(f"ledger, round {number + 1}: {side.name} {times[side.name][-1]:.2f} s")
    written = sides[1].database.value("select count(*) from tailwater.ledger_order where node = 0")
    if written != rounds * orders:
        raise RuntimeError(f"{written} keys in the ledger, not {rounds} x {orders}")
    return times


def expansion(database):
    """Waits for the fan-out that comes, and for its end; seconds."""
    with database.cluster.connect(database.name) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def left():
            cursor.execute("select count(*) from tailwater.fan_out")
            return cursor.fetchone()[0]
        while not left():
            time.sleep(0.005)
        began = time.monotonic()
        while left():
            time.sleep(0.02)
        return time.monotonic() - began


@contextlib.contextmanager
def somebody_computes():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def fan_out(bench, side, rounds, orders, seconds, probe, percentile, say):
    """Latency of other transactions, quiet, beside a process that computes, and while one row reaches
    all orders, and how fast it is expanded.  The stretches alternate; each kind's samples are taken
    together."""
    side.pipeline.start()
    number = bench.sentinel = bench.sentinel + 1
    bench.source.sql("insert into done values (%s)", number)
    until_done(side.database, number)
    _, number = probe(bench.source, side.database, 1, number)  # warm
    quiet, beside, busy, took = [], [], [], []
    before_kb = side.pipeline.peak_memory_kb()
    for i in range(rounds):
        bench.checkpoint()
        some, number = probe(bench.source, side.database, seconds, number)
        quiet += some
        with somebody_computes():
            some, number = probe(bench.source, side.database, seconds, number)
        beside += some
        watcher = threading.Thread(target=lambda: took.append(expansion(side.database)))
        watcher.start()
        bench.source.sql("update countries set tax = tax + 1 where id = 1")
        some = []
        while watcher.is_alive():
            more, number = probe(bench.source, side.database, 0.1, number)
            some += more
        watcher.join()
        busy += some
        say(f"ledger, fan-out, round {i + 1}: {orders / took[-1]:,.0f} keys/s, {len(some)} probes meanwhile, "
            f"p99 {percentile(some, 99):.2f} ms; so far quiet {percentile(quiet, 99):.2f} ms, "
            f"beside one that computes {percentile(beside, 99):.2f} ms")
    keys = side.database.value("select count(distinct id) from tailwater.ledger_order where lane = 1")
    if keys != orders:
        raise RuntimeError(f"{keys} keys by way of the country, not {orders}")
    result = {"keys": keys, "seconds": took, "keys_per_second": keys / statistics.median(took),
              "quiet_p50_ms": percentile(quiet, 50), "quiet_p99_ms": percentile(quiet, 99),
              "beside_p50_ms": percentile(beside, 50), "beside_p99_ms": percentile(beside, 99),
              "busy_p50_ms": percentile(busy, 50), "busy_p99_ms": percentile(busy, 99),
              "quiet_probes": len(quiet), "beside_probes": len(beside), "busy_probes": len(busy),
              "peak_before_MiB": before_kb / 1024, "peak_MiB": side.pipeline.peak_memory_kb() / 1024}
    side.pipeline.stop()
    bench.sentinel = number
    say(f"ledger, fan-out: {result}")
    return result


def ledger(bench, rounds, orders, seconds, probe, percentile, say):
    make_source(bench, "ledger", SCHEMA, fill, orders, say)
    sides = [Side(bench, "plain", None), Side(bench, "fact", FACT)]
    result = {"update": bulk_update(bench, sides, rounds, orders, say),
              "fan_out": fan_out(bench, sides[1], rounds, orders, seconds, probe, percentile, say)}
    bench.drop_everything()
    return result


def report(result, orders):
    update, out = result["update"], result["fan_out"]
    plain, fact = (statistics.median(update[name]) for name in ("plain", "fact"))
    return "\n".join([
        f"| {orders} updates | seconds | ratio |", "|---|---|---|",
        f"| without a fact | {plain:.2f} | 1.00 |",
        f"| one fact of three dimensions | {fact:.2f} | {fact / plain:.2f} |", "",
        f"| one row reaches {out['keys']} facts | quiet | beside a process that computes | while it is expanded |",
        "|---|---|---|---|",
        f"| transactions | {out['quiet_probes']} | {out['beside_probes']} | {out['busy_probes']} |",
        *(f"| commit to visible, {name}, ms | "
          + " | ".join(f"{out[f'{when}_{p}_ms']:.2f}" for when in ("quiet", "beside", "busy")) + " |"
          for name, p in (("median", "p50"), ("p99", "p99"))),
        f"| keys a second | | | {out['keys_per_second']:,.0f} |",
        f"| peak resident memory, MiB | {out['peak_before_MiB']:.0f} | | {out['peak_MiB']:.0f} |"])
