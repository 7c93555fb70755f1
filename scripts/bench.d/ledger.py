"""What the ledger costs (scripts/bench --ledger).

Two pipelines over one source, one without facts and one with a fact of three dimensions.  Each round
updates every order while both are stopped; then each catches up alone.  Rounds are an even number, so
that each goes first as often as the other.

Then, vacuumed as a server would be that is not in the midst of a benchmark (after four rounds of updates
four of five versions of an order are dead, and each look-up reads them), the one with the fact under a probe
of single commits, at three times: quiet; while a process that has nothing to do with it computes; while a
row of countries that reaches every order is expanded.  They are about equally long, and take turns in all
orders there are: commits are slower for some seconds behind the checkpoint that begins a round.  All of it
twice.  "shared": the kernel gives turns as it likes.  On few processors whoever computes makes
others wait for their turn, all the more on a virtual machine, whose kernel passes over processors that
are halted; the second tells what any such wait costs here and now.  "apart": who computes or expands has
the last processor for itself, the rest has the others, at all three times: what is left is what the
expansion itself makes others wait for, locks, WAL, the disk.  Percentiles are each round's, and of these
the medians: a percentile of all samples together is decided by the one round in which the disk stood still.
"""

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from contenders import until_done
from lib.cluster import SUPERUSER
from probing import probe, probing
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
EXPANSIONS = 3  # of a round; each makes some five hundred samples
FAN_OUT_ROUNDS = 2  # for each round of updates
LATE_S = 30


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
    """Waits for the fan-out that comes, and for its end; when it began, as time.monotonic() has it, and seconds."""
    with database.cluster.connect(database.name) as connection, connection.cursor() as cursor:
        def left():
            cursor.execute("select count(*) from tailwater.fan_out")
            return cursor.fetchone()[0]
        asked = time.monotonic()
        while not left():
            if time.monotonic() > asked + LATE_S:
                raise RuntimeError("nothing was left to the expander")
            time.sleep(0.005)
        began = time.monotonic()
        while left():
            time.sleep(0.1)  # a question more often would be part of what is measured
        return began, time.monotonic() - began


def threads_of(pid):
    return [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]


class Processors:
    """Who may run where.  What the bench and its servers start later inherits it."""

    def __init__(self, bench, side):
        self.bench, self.side = bench, side
        self.every = os.sched_getaffinity(0)
        self.last = {max(self.every)}

    def everybody(self):
        """Threads of the two servers, the program and this one."""
        pids = [os.getpid(), self.side.pipeline.process.pid]
        for cluster in (self.bench.source_cluster, self.bench.mirror_cluster):
            pids += [pid for (pid,) in cluster.sql("select pid from pg_stat_activity")] + [cluster.pid]
        for pid in pids:
            with contextlib.suppress(FileNotFoundError):
                yield from threads_of(pid)

    def expanding(self):
        """The expansion's backend and thread, and who keeps its ledger."""
        backends = self.side.database.sql("select pid from pg_stat_activity where datname = current_database() and "
                                          "application_name in ('tailwater expander', 'tailwater ledger', "
                                          "'tailwater ledger keeper')", user=SUPERUSER)
        threads = []
        for thread in threads_of(self.side.pipeline.process.pid):
            with open(f"/proc/{self.side.pipeline.process.pid}/task/{thread}/comm") as name:
                if name.read().strip() in ("expander", "ledger news", "ledger keeper"):
                    threads.append(thread)
        if len(backends) != 3 or len(threads) != 3:
            raise RuntimeError(f"not three backends and three threads that belong to the expansion: {backends}, {threads}")
        return [pid for (pid,) in backends] + threads

    def give(self, threads, processors):
        for thread in list(threads):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, processors)

    @contextlib.contextmanager
    def apart(self):
        self.give(self.everybody(), self.every - self.last)
        self.give(self.expanding(), self.last)
        try:
            yield
        finally:
            self.give(self.everybody(), self.every)

    @contextlib.contextmanager
    def somebody_computes(self, is_apart):
        # In a session of its own, as each backend of a server is: by sessions the kernel shares out its turns.
        with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as process:
            if is_apart:
                os.sched_setaffinity(process.pid, self.last)
            try:
                yield
            finally:
                process.kill()


def expand(bench, side, number):
    """A country changes; samples of the time in which its orders come into the ledger, how long that took, the number."""
    with probing(bench.source, side.database, number) as rows, ThreadPoolExecutor() as watcher:
        watching = watcher.submit(expansion, side.database)
        time.sleep(0.2)  # the probe is warm
        bench.source.sql("update countries set tax = 39 - tax where id = 1")
        began, took = watching.result()
    samples = [milliseconds for _, committed, milliseconds in rows if began <= committed <= began + took]
    return samples, took, rows[-1][0]


HOW = ("shared", "apart")
WHEN = ("quiet", "beside", "busy")
EVERY_ORDER = list(itertools.permutations(WHEN))
ORDERS = EVERY_ORDER[::2] + EVERY_ORDER[1::2]  # each begins with another time than the one before it


def stretches(bench, side, processors, how, turn, seconds, number, samples, took):
    """The three times of a round, each some times; rounds (turn: which) begin with each of them.  The last row's number."""
    some = {when: [] for when in WHEN}
    for i in range(EXPANSIONS):
        for when in ORDERS[(turn + i) % len(ORDERS)]:
            if when == "busy":
                measured, seconds_taken, number = expand(bench, side, number)
                took[how].append(seconds_taken)
            else:
                with processors.somebody_computes(how == "apart") if when == "beside" else contextlib.nullcontext():
                    measured, number = probe(bench.source, side.database, seconds, number)
            some[when] += measured
    for when in WHEN:
        samples[how, when].append(some[when])
    return number


def fan_out(bench, side, rounds, orders, seconds, percentile, say):
    """Latency of other transactions, and how fast one row's orders are expanded.  The stretches alternate."""
    for database in (bench.source, side.database):
        database.sql("vacuum analyze", user=SUPERUSER)
    side.pipeline.start()
    number = bench.sentinel = bench.sentinel + 1
    bench.source.sql("insert into done values (%s)", number)
    until_done(side.database, number)
    _, number = probe(bench.source, side.database, 1, number)  # warm
    processors = Processors(bench, side)
    hows = HOW if len(processors.every) > 1 else HOW[:1]
    samples = {(how, when): [] for how in hows for when in WHEN}
    took = {how: [] for how in hows}
    before_kb = side.pipeline.peak_memory_kb()
    for i in range(rounds):
        for how in hows if i % 2 == 0 else reversed(hows):
            bench.checkpoint()
            with processors.apart() if how == "apart" else contextlib.nullcontext():
                number = stretches(bench, side, processors, how, i, seconds, number, samples, took)
            say(f"ledger, fan-out, round {i + 1}, {how}: " + ", ".join(
                f"{when} p99 {percentile(samples[how, when][-1], 99):.2f} ms of {len(samples[how, when][-1])}" for when in WHEN)
                + f"; {orders / took[how][-1]:,.0f} keys/s")
    keys = side.database.value("select count(distinct id) from tailwater.affected_order where lane = 1")
    if keys != orders:
        raise RuntimeError(f"{keys} keys by way of the country, not {orders}")
    result = {"keys": keys, "peak_before_MiB": before_kb / 1024, "peak_MiB": side.pipeline.peak_memory_kb() / 1024}
    for how in hows:
        result[how] = {"seconds": took[how], "keys_per_second": keys / statistics.median(took[how])}
        for when in WHEN:
            result[how] |= {f"{when}_{p}_ms": statistics.median(percentile(some, int(p[1:])) for some in samples[how, when])
                            for p in ("p50", "p99")}
            result[how][f"{when}_probes"] = sum(len(some) for some in samples[how, when])
    side.pipeline.stop()
    bench.sentinel = number
    say(f"ledger, fan-out: {result}")
    return result


def ledger(bench, rounds, orders, seconds, percentile, say):
    make_source(bench, "ledger", SCHEMA, fill, orders, say)
    sides = [Side(bench, "plain", None), Side(bench, "fact", FACT)]
    result = {"update": bulk_update(bench, sides, rounds, orders, say),
              "fan_out": fan_out(bench, sides[1], FAN_OUT_ROUNDS * rounds, orders, seconds, percentile, say)}
    bench.drop_everything()
    return result


def report_fan_out(out, how):
    one = out[how]
    return [
        "", f"| one row reaches {out['keys']} facts, processors {how} | quiet | beside a process that computes "
        "| while it is expanded |", "|---|---|---|---|",
        "| transactions | " + " | ".join(f"{one[f'{when}_probes']}" for when in WHEN) + " |",
        *(f"| commit to visible, {name}, ms | "
          + " | ".join(f"{one[f'{when}_{p}_ms']:.2f}" for when in WHEN) + " |"
          for name, p in (("median", "p50"), ("p99", "p99"))),
        "| p99, times quiet | " + " | ".join(f"{one[f'{when}_p99_ms'] / one['quiet_p99_ms']:.2f}" for when in WHEN) + " |",
        f"| keys a second | | | {one['keys_per_second']:,.0f} |"]


def report(result, orders):
    update, out = result["update"], result["fan_out"]
    plain, fact = (statistics.median(update[name]) for name in ("plain", "fact"))
    lines = [
        f"| {orders} updates, {len(update['plain'])} rounds | seconds | ratio |", "|---|---|---|",
        f"| without a fact | {plain:.2f} | 1.00 |",
        f"| one fact of three dimensions | {fact:.2f} | {fact / plain:.2f} |"]
    for how in HOW:
        if how in out:
            lines += report_fan_out(out, how)
    return "\n".join([*lines, f"\npeak resident memory: {out['peak_before_MiB']:.0f} MiB before, {out['peak_MiB']:.0f} after"])
