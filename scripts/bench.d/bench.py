"""Measures catch-up, latency, the initial copy and memory.  Run by scripts/bench.

Catch-up, the method: both sides hold the same rows.  Every contender gets a slot at that point.  The
work is done once on the source, while nobody reads: the backlog.  Then, round by round and in
changing order, each contender alone consumes it, from a copy of its slot into a copy of its mirror
database; the time is from its start until the backlog's last transaction is visible in the mirror.
Reported are medians over the rounds.  A mirror that is complete is compared with the source.

Both servers: fsync on, shared_buffers 1 GB (--refresh: 4 GB on the mirror), no checkpoint and no autovacuum in a timed part, unix
sockets.  Every target table has its primary key and one more index.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import contenders  # noqa: E402
import feed  # noqa: E402
import ledger  # noqa: E402
import refresh  # noqa: E402
import scrape  # noqa: E402
import verify  # noqa: E402
import workloads  # noqa: E402
from contenders import ROOT, pipeline_of, until_done  # noqa: E402
from lib import wait  # noqa: E402
from lib.cluster import Cluster, Database, SUPERUSER  # noqa: E402
from lib.pipeline import Traffic  # noqa: E402
from probing import probe  # noqa: E402

PLUGINS = ("pgoutput", "wal2json")


def say(text):
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


STARTED = time.monotonic()


class Bench:
    """The two servers, one source database and what every contender needs to know of it."""

    schema = workloads.SCHEMA

    def __init__(self, options):
        self.options = options
        self.binary = options.binary or os.path.join(ROOT, "build-release", "tailwater")
        self.folder = tempfile.mkdtemp(prefix="tailwater-bench-", dir="/tmp")
        os.chmod(self.folder, 0o755)
        settings = {"shared_buffers": "1GB", "fsync": options.fsync, "autovacuum": "off",
                    "checkpoint_timeout": "1h", "max_wal_size": "32GB", "wal_buffers": "16MB",
                    "max_replication_slots": "40", "max_wal_senders": "20"}
        self.source_cluster = Cluster(os.path.join(self.folder, "source"), **settings)
        if options.refresh:
            settings["shared_buffers"] = "4GB"
        self.mirror_cluster = Cluster(os.path.join(self.folder, "mirror"), **settings)
        self.source = None
        self.sentinel = 1

    def start(self):
        for cluster in (self.source_cluster, self.mirror_cluster):
            cluster.create().start().make_roles()

    def close(self, keep):
        for cluster in (self.source_cluster, self.mirror_cluster):
            cluster.stop("immediate")
        if keep:
            say(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def new_source(self, name, schema=None):
        self.source = self.source_cluster.create_source(name)
        self.source.sql(schema or self.schema)
        self.source.sql("create publication bench for table item, done", user=SUPERUSER)
        self.sentinel = 1

    def copy_tables(self, source, target):
        for table in ("item", "done"):
            with tempfile.TemporaryFile() as rows:
                with source.connection(SUPERUSER).cursor() as cursor:
                    cursor.copy_expert(f"copy {table} to stdout", rows)
                rows.seek(0)
                with target.connection(SUPERUSER).cursor() as cursor:
                    cursor.copy_expert(f"copy {table} from stdin", rows)

    def finish_backlog(self):
        """The backlog's last transaction, and its end."""
        self.source.sql("insert into done values (%s)", self.sentinel)
        self.end = self.source.lsn()

    def checkpoint(self):
        for cluster in (self.source_cluster, self.mirror_cluster):
            cluster.sql("checkpoint")

    def check_equal(self, database):
        sums = [one.sql("select count(*), sum(hashtext(t::text)::bigint) from item t", user=SUPERUSER)
                for one in (self.source, database)]
        if sums[0] != sums[1]:
            raise RuntimeError(f"{database.name} differs from the source: {sums}")

    def drop_everything(self):
        self.source.drop()
        for (name,) in self.mirror_cluster.sql(
                "select datname from pg_database where datname ~ '^(base|live)_'"):
            self.mirror_cluster.sql(f"drop database {name} with (force)")


# ---- catch-up ----

def catch_up(bench, workload, rounds, who):
    say(f"{workload.title}: preparing")
    bench.workload = workload
    bench.new_source("shop_" + workload.name)
    workload.before(bench)
    bench.source.sql("vacuum analyze", user=SUPERUSER)
    everyone = contenders.everyone(bench)
    names = set(who or (c.name for c in everyone))
    needed = names | {name for c in everyone if c.name in names for name in c.needs}
    for contender in everyone:
        if contender.name in needed:
            contender.prepare()
    everyone = [c for c in everyone if c.name in names]
    say(f"{workload.title}: making the backlog")
    workload.run(bench)
    bench.finish_backlog()
    times = {contender.name: [] for contender in everyone}
    for number in range(rounds):
        turn = number % len(everyone)
        for contender in everyone[turn:] + everyone[:turn]:
            contender.reset()
            bench.checkpoint()
            took = contender.run()
            if contender.fills and number == 0:
                bench.check_equal(contender.database)
            contender.finish()
            times[contender.name].append(took)
            say(f"{workload.title}: round {number + 1}: {contender.name} {took:.2f} s")
        for contender in everyone:
            if isinstance(contender, contenders.Decode):
                times.setdefault(contender.name + "-first", []).append(contender.first_byte())
    bench.drop_everything()
    return times


def report_catch_up(results):
    """A table of medians and ratios, in Markdown.

    The limit is the larger of decode-only and write-only.  A transaction is sent when the source has
    read all of it, and nobody writes before: so the second limit is the larger of decode-only and
    (first byte + write-only).  For small transactions the two are the same.
    """
    names = ["native", "tailwater-pgoutput", "tailwater-wal2json", "decode-pgoutput",
             "decode-wal2json", "write-only"]
    columns = ["seconds (times native)", *names]
    for plugin in PLUGINS:
        columns += [f"{plugin}: first byte", f"{plugin} / limit", f"{plugin} / limit after the first byte"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for title, times in results.items():
        medians = {name: statistics.median(times[name]) for name in names if name in times}
        cells = []
        for name in names:
            cell = f"{medians[name]:.2f}" if name in medians else "–"
            if name.startswith("tailwater") and name in medians and "native" in medians:
                cell += f" ({medians['native'] / medians[name]:.2f}×)"
            cells.append(cell)
        for plugin in PLUGINS:
            needed = (f"tailwater-{plugin}", f"decode-{plugin}", "write-only")
            if all(name in medians for name in needed):
                took, decode, write = (medians[name] for name in needed)
                first = statistics.median(times[f"decode-{plugin}-first"])
                cells += [f"{first:.2f}", f"{took / max(decode, write):.2f}",
                          f"{took / max(decode, first + write):.2f}"]
            else:
                cells += ["–"] * 3
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- latency ----

def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


LATENCY_TRAFFIC = {"one": (1, "\\set i random(1, 100000)\n"
                              "update item set amount = amount + 1, changed = now() where id = :i;\n")}


def latency(bench, rounds, seconds, rate):
    bench.new_source("shop_latency")
    bench.source.sql(workloads.ROWS, 1, 100000)
    bench.source.sql("vacuum analyze", user=SUPERUSER)
    competitors = [contenders.Native(bench)] + [contenders.Tailwater(bench, p) for p in PLUGINS]
    for contender in competitors:
        contender.prepare()
        contender.reset()
    samples = {contender.name: [] for contender in competitors}
    number = 1
    with Traffic(bench.source, bench.folder, LATENCY_TRAFFIC, clients=4, rate=rate, seconds=3600) as traffic:
        for i in range(rounds):
            turn = i % len(competitors)
            for contender in competitors[turn:] + competitors[:turn]:
                traffic.check()
                number += 1
                contender.start()
                bench.source.sql("insert into done values (%s)", number, user=SUPERUSER)
                until_done(contender.database, number)
                _, number = probe(bench.source, contender.database, 1, number)  # warm
                took, number = probe(bench.source, contender.database, seconds, number)
                contender.stop()
                samples[contender.name].append(took)
                say(f"latency, round {i + 1}: {contender.name} {len(took)} probes, median "
                    f"{percentile(took, 50):.2f} ms, p99 {percentile(took, 99):.2f} ms")
    for contender in competitors:
        contender.discard()
    bench.drop_everything()
    return {name: {"median_ms": [percentile(t, 50) for t in rounds_],
                   "p99_ms": [percentile(t, 99) for t in rounds_],
                   "probes": [len(t) for t in rounds_]} for name, rounds_ in samples.items()}


def report_latency(results, rate):
    lines = [f"| commit to visible at {rate} transactions/s, ms | median | p99 |", "|---|---|---|"]
    for name, values in results.items():
        lines.append(f"| {name} | {statistics.median(values['median_ms']):.2f} | "
                     f"{statistics.median(values['p99_ms']):.2f} |")
    return "\n".join(lines)


# ---- the initial copy ----

def initial_copy(bench, rounds, rows):
    bench.new_source("shop_copy")
    say(f"initial copy: making {rows} rows")
    bench.source.sql(workloads.ROWS, 1, rows)
    bench.source.sql("vacuum analyze", user=SUPERUSER)
    times = {name: [] for name in ("native", *(f"tailwater-{p}" for p in PLUGINS))}
    for i in range(rounds):
        names = list(times)
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            bench.checkpoint()
            took = copy_native(bench) if name == "native" else copy_tailwater(bench, name.partition("-")[2])
            times[name].append(took)
            say(f"initial copy, round {i + 1}: {name} {took:.2f} s")
    bench.drop_everything()
    return times


def copy_native(bench):
    """From CREATE SUBSCRIPTION until the copied rows are visible, the tables' indexes there first."""
    bench.mirror_cluster.sql("create database live_copy")
    database = Database(bench.mirror_cluster, "live_copy", SUPERUSER)
    database.sql(bench.schema)
    start = time.monotonic()
    database.sql(f"create subscription bench connection '{bench.source.conninfo(SUPERUSER)}' "
                 "publication bench with (slot_name = native_copy)")
    wait.until(lambda: database.value("select 1 from item limit 1"), "copied", 900, every=0.01)
    took = time.monotonic() - start
    bench.check_equal(database)
    wait.until(lambda: database.value("select bool_and(srsubstate = 'r') from pg_subscription_rel"),
               "ready", 60)
    database.sql("drop subscription bench")
    database.close()
    bench.mirror_cluster.sql("drop database live_copy with (force)")
    return took


def copy_tailwater(bench, plugin):
    """From the start of the program until the live view is there, indexes included."""
    database = bench.mirror_cluster.create_mirror("live_copy")
    pipeline = pipeline_of(bench, database, f"copy_{plugin}", plugin).publish()
    start = time.monotonic()
    pipeline.start()
    wait.until(lambda: database.value("select to_regclass('public.item')"),
               lambda: f"copied\n{pipeline.log_tail()}", 900, every=0.01)
    took = time.monotonic() - start
    bench.check_equal(database)
    pipeline.stop()
    database.close()
    bench.mirror_cluster.sql("drop database live_copy with (force)")
    bench.source.cluster.sql("select pg_drop_replication_slot(%s)", pipeline.slot)
    return took


def report_copy(times, rows):
    medians = {name: statistics.median(values) for name, values in times.items()}
    lines = [f"| initial copy of {rows} rows | seconds | times native |", "|---|---|---|"]
    for name, value in medians.items():
        lines.append(f"| {name} | {value:.2f} | {medians['native'] / value:.2f}× |")
    return "\n".join(lines)


# ---- one large transaction ----

def large_transaction(bench, rows):
    bench.new_source("shop_large")
    competitors = [contenders.Tailwater(bench, plugin) for plugin in PLUGINS]
    for contender in competitors:
        contender.prepare()
    say(f"large transaction: {rows} rows")
    bench.source.sql(workloads.ROWS, 1, rows)
    bench.finish_backlog()
    results = {}
    for contender in competitors:
        contender.reset()
        bench.checkpoint()
        took = contender.run()
        bench.check_equal(contender.database)
        contender.finish()
        results[contender.name] = {"seconds": took, "peak_resident_MiB": contender.peak_kb / 1024}
        say(f"large transaction: {contender.name} {took:.1f} s, {contender.peak_kb / 1024:.0f} MiB")
    bench.drop_everything()
    return results


def report_large(results, rows):
    lines = [f"| one transaction of {rows} rows | seconds | peak resident memory, MiB |", "|---|---|---|"]
    for name, values in results.items():
        lines.append(f"| {name} | {values['seconds']:.1f} | {values['peak_resident_MiB']:.0f} |")
    return "\n".join(lines)


# ---- the whole ----

def machine(bench):
    with open("/proc/cpuinfo") as f:
        cpu = re.search(r"model name\s*: (.*)", f.read())
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1))

    def output(*command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip()

    version = bench.source_cluster.sql("show server_version")[0][0]
    major = version.split(".")[0].split()[0]
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_GiB": round(memory / 1024 / 1024),
        "kernel": platform.release(),
        "postgresql": version,
        "wal2json": output("dpkg-query", "-W", "-f=${Version}", f"postgresql-{major}-wal2json"),
        "tailwater": output(bench.binary, "version").splitlines()[0],
        "commit": output("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "fsync": bench.options.fsync,
    }


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds per contender (3)")
    parser.add_argument("--workload", action="append", choices=[w.name for w in workloads.EVERY],
                        help="only this catch-up workload; may be repeated")
    parser.add_argument("--contender", action="append", help="only this contender; may be repeated")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--rate", type=int, default=1000, help="transactions a second for --latency")
    parser.add_argument("--seconds", type=float, help="of a latency measurement (15)")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--large-transaction", action="store_true")
    parser.add_argument("--ledger", action="store_true", help="what a fact of three dimensions costs")
    parser.add_argument("--feed", action="store_true", help="how soon a feed sends a change, and what it reads")
    parser.add_argument("--refresh", action="store_true", help="derived tables by keys, against full rebuilds")
    parser.add_argument("--scrape", action="store_true", help="what a scrape takes with 1000 tables, and costs who applies")
    parser.add_argument("--verify", action="store_true", help="every row compared, against COPY to nowhere")
    parser.add_argument("--all", action="store_true", help="catch-up and all of the above")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round")
    parser.add_argument("--fsync", choices=["on", "off"], default="on")
    parser.add_argument("--json", metavar="FILE", help="every single figure, as JSON (- for stdout)")
    parser.add_argument("--binary", help="another tailwater than build-release's")
    return parser.parse_args()


def main():
    options = parse()
    rounds = options.rounds or (1 if options.quick else 3)
    scale = 0.1 if options.quick else 1
    only_others = (options.latency or options.copy or options.large_transaction or options.ledger or
                   options.feed or options.refresh or options.verify or options.scrape) and not options.all
    bench = Bench(options)
    result, tables, keep = {}, [], True
    try:
        bench.start()
        result["machine"] = machine(bench)
        result["rounds"] = rounds
        if options.all or options.workload or not only_others:
            result["catch_up"] = {}
            for kind in workloads.EVERY:
                if not options.workload or kind.name in options.workload:
                    workload = kind(scale)
                    result["catch_up"][workload.title] = catch_up(bench, workload, rounds,
                                                                  options.contender)
            tables.append(report_catch_up(result["catch_up"]))
        if options.all or options.latency:
            result["latency"] = latency(bench, rounds, options.seconds or (3 if options.quick else 15),
                                        options.rate)
            tables.append(report_latency(result["latency"], options.rate))
        if options.all or options.copy:
            rows = int(2_000_000 * scale)
            result["copy"] = initial_copy(bench, rounds, rows)
            tables.append(report_copy(result["copy"], rows))
        if options.all or options.large_transaction:
            rows = int(10_000_000 * scale)
            result["large_transaction"] = large_transaction(bench, rows)
            tables.append(report_large(result["large_transaction"], rows))
        if options.all or options.ledger:
            rows = int(1_000_000 * scale)
            result["ledger"] = ledger.ledger(bench, rounds, rows, options.seconds or 5, percentile, say)
            tables.append(ledger.report(result["ledger"], rows))
        if options.all or options.feed:
            result["feed"] = feed.feed(bench, int(1_000_000 * scale), options.seconds or (5 if options.quick else 30), say)
            tables.append(feed.report(result["feed"]))
        if options.all or options.refresh:
            rows = int(2_000_000 * scale)
            result["refresh"] = refresh.refresh(bench, rounds, rows, say)
            tables.append(refresh.report(result["refresh"], rows))
        if options.all or options.scrape:
            result["scrape"] = scrape.scrape(bench, 4 * rounds, options.seconds or 3, int(1000 * scale), int(50 * scale),
                                             options.rate, LATENCY_TRAFFIC, percentile, say)
            tables.append(scrape.report(result["scrape"]))
        if options.all or options.verify:
            result["verify"] = verify.verify(bench, rounds, int(10_000_000 * scale), say)
            tables.append(verify.report(result["verify"], statistics.median))
        keep = False
    finally:
        bench.close(keep)
    if options.json == "-":
        print(json.dumps(result, indent=1))
        return
    if options.json:
        with open(options.json, "w") as f:
            json.dump(result, f, indent=1)
    print(", ".join(f"{k} {v}" for k, v in result["machine"].items()))
    print(f"medians of {rounds}" + (", a tenth of the rows" if options.quick else ""))
    for table in tables:
        print(f"\n{table}")


main()
