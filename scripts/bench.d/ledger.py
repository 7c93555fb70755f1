"""What the ledger costs (scripts/bench --ledger).

Two pipelines over one source, one without facts and one with a fact of three dimensions.  Each round
updates every order while both are stopped; then each catches up alone.  Rounds are an even number, so
that each goes first as often as the other.

Then the one with the fact under a probe of single commits, in turns: quiet; while a process that has
nothing to do with it computes; while a row of countries that reaches every order is expanded.  The
second is there because an expansion computes on the mirror's server: on few processors whoever
computes makes others wait for their turn, and the second tells what any such wait costs here and now.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
import time

from contenders import until_done
from lib.cluster import SUPERUSER
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
EXPANSIONS = 2  # a round: each lasts two or three seconds, which is few samples


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
    rounds += rounds % 2  # who goes first is slower by a tenth
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


def expand(bench, side, probe, number):
    """A country changes; samples taken until all its orders are in the ledger, how long that took, the number."""
    took, samples = [], []
    watcher = threading.Thread(target=lambda: took.append(expansion(side.database)))
    watcher.start()
    bench.source.sql("update countries set tax = 39 - tax where id = 1")
    while watcher.is_alive():
        more, number = probe(bench.source, side.database, 0.1, number)
        samples += more
    watcher.join()
    return samples, took[0], number


WHEN = ("quiet", "beside", "busy")


def fan_out(bench, side, rounds, orders, seconds, probe, percentile, say):
    """Latency of other transactions at the three times above, and how fast one row's orders are expanded.  The stretches
    alternate; each kind's samples are taken together."""
    side.pipeline.start()
    number = bench.sentinel = bench.sentinel + 1
    bench.source.sql("insert into done values (%s)", number)
    until_done(side.database, number)
    _, number = probe(bench.source, side.database, 1, number)  # warm
    samples = {when: [] for when in WHEN}
    took = []
    before_kb = side.pipeline.peak_memory_kb()
    for i in range(rounds):
        bench.checkpoint()
        some, number = probe(bench.source, side.database, seconds, number)
        samples["quiet"] += some
        with somebody_computes():
            some, number = probe(bench.source, side.database, seconds, number)
        samples["beside"] += some
        for _ in range(EXPANSIONS):
            some, seconds_taken, number = expand(bench, side, probe, number)
            samples["busy"] += some
            took.append(seconds_taken)
        say(f"ledger, fan-out, round {i + 1}: " + ", ".join(
            f"{when} p99 {percentile(samples[when], 99):.2f} ms of {len(samples[when])}" for when in WHEN)
            + f"; {orders / took[-1]:,.0f} keys/s")
    keys = side.database.value("select count(distinct id) from tailwater.ledger_order where lane = 1")
    if keys != orders:
        raise RuntimeError(f"{keys} keys by way of the country, not {orders}")
    result = {"keys": keys, "seconds": took, "keys_per_second": keys / statistics.median(took),
              "peak_before_MiB": before_kb / 1024, "peak_MiB": side.pipeline.peak_memory_kb() / 1024}
    for when in WHEN:
        result |= {f"{when}_p50_ms": percentile(samples[when], 50), f"{when}_p99_ms": percentile(samples[when], 99),
                   f"{when}_probes": len(samples[when])}
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
        "| transactions | " + " | ".join(f"{out[f'{when}_probes']}" for when in WHEN) + " |",
        *(f"| commit to visible, {name}, ms | "
          + " | ".join(f"{out[f'{when}_{p}_ms']:.2f}" for when in WHEN) + " |"
          for name, p in (("median", "p50"), ("p99", "p99"))),
        "| p99, times quiet | " + " | ".join(f"{out[f'{when}_p99_ms'] / out['quiet_p99_ms']:.2f}" for when in WHEN) + " |",
        f"| keys a second | | | {out['keys_per_second']:,.0f} |",
        f"| peak resident memory, MiB | {out['peak_before_MiB']:.0f} | | {out['peak_MiB']:.0f} |"])
