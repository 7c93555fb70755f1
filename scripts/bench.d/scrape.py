"""What watching costs (scripts/bench --scrape): 1000 tables, 50 facts with a consumer each.

Commits are probed from the source to the mirror, under steady traffic, in windows that alternate: nobody
asks; /metrics is fetched once a second, by a process of its own.  Reported are medians over the windows of
each kind: one in which the machine did something else does not decide.  What a scrape takes is what that process sees, from the request to the last byte.
"""

import json
import os
import socket
import statistics
import subprocess
import sys

import contenders
import workloads
from contenders import until_done
from lib.pipeline import Pipeline, Traffic
from probing import probe

SCHEMA = workloads.SCHEMA + """
    do $$ begin
        for i in 1 .. {tables} loop
            execute format('create table t%1$s (id bigint primary key, a int not null, note text)', i);
            execute format('create index on t%1$s (a)', i);
            execute format('insert into t%1$s select i, i, repeat(''n'', 40) from generate_series(1, 100) i', i);
        end loop;
    end $$;
"""

BUDGET_MS, BUDGET_RATIO = 50, 1.05

# Fetches while it is told to: "go", "stop" and the end by its standard input.
SCRAPER = """
import json, select, socket, sys, time
took, size, due, is_going = [], 0, 0, False
buffer = bytearray(1 << 20)
while True:
    wait = max(0, due - time.monotonic()) if is_going else None
    if select.select([sys.stdin], [], [], wait)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        is_going, due = line == "go\\n", time.monotonic() + 0.5
        continue
    began = time.monotonic()
    due = began + 1
    size = 0
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) as s:
        s.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
        while (n := s.recv_into(buffer)) > 0:
            size += n
    took.append((time.monotonic() - began) * 1000)
json.dump({"took_ms": took, "bytes": size}, sys.stdout)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def scrape(bench, rounds, seconds, tables, facts, rate, traffic, percentile, say):
    say(f"scrape: making {tables} tables")
    bench.new_source("shop_scrape", SCHEMA.format(tables=tables - 2))
    bench.source.sql(workloads.ROWS, 1, 100000)
    bench.source.sql("vacuum analyze", user=contenders.SUPERUSER)
    database = bench.mirror_cluster.create_mirror("live_scrape")
    port = free_port()
    pipeline = Pipeline(os.path.join(bench.folder, "scrape"), bench.source, database, "bench_scrape", plugin="pgoutput",
                        binary=bench.binary, http={"listen": f"127.0.0.1:{port}"},
                        facts={f"fact_{i}": {"table": f"public.t{i}", "key": ["id"]} for i in range(1, facts + 1)}).publish()
    pipeline.run_until_now(timeout=900)
    for i in range(1, facts + 1):
        database.sql(f"select tailwater.subscribe('dwh', 'fact_{i}', start => 'now')", user=contenders.SUPERUSER)
        bench.source.sql(f"update t{i} set a = a + 1")
    database.sql("vacuum analyze", user=contenders.SUPERUSER)
    pipeline.start()
    number = bench.sentinel = bench.sentinel + 1
    bench.source.sql("insert into done values (%s)", number)
    until_done(database, number, 300)
    windows = {False: [], True: []}  # by whether somebody asks
    with subprocess.Popen([sys.executable, "-c", SCRAPER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, bufsize=1) as scraper, \
            Traffic(bench.source, bench.folder, traffic, clients=4, rate=rate, seconds=3600) as load:
        _, number = probe(bench.source, database, 2, number)  # warm
        for i in range(rounds):
            for is_watched in (False, True) if i % 2 else (True, False):
                load.check()
                scraper.stdin.write("go\n" if is_watched else "stop\n")
                some, number = probe(bench.source, database, seconds, number)
                windows[is_watched].append(some)
            say(f"scrape, round {i + 1}: p99 {percentile(windows[False][-1], 99):.2f} ms, "
                f"watched {percentile(windows[True][-1], 99):.2f} ms")
        found = json.loads(scraper.communicate()[0])
    pipeline.stop()
    bench.sentinel = number
    bench.drop_everything()
    took = found["took_ms"]
    return {"tables": tables, "facts": facts, "scrapes": len(took), "bytes": found["bytes"],
            "median_ms": percentile(took, 50), "worst_ms": max(took), "all_ms": took,
            **{f"{name}_p{p}_ms": statistics.median(percentile(window, p) for window in windows[is_watched])
               for name, is_watched in (("quiet", False), ("watched", True)) for p in (50, 99)},
            "quiet_windows": windows[False], "watched_windows": windows[True]}


def report(found):
    ratio = found["watched_p99_ms"] / found["quiet_p99_ms"]
    return "\n".join([
        f"| {found['tables']} tables, {found['facts']} facts | | budget |", "|---|---|---|",
        f"| {found['scrapes']} scrapes of {found['bytes'] / 1024:.0f} KiB, median ms | {found['median_ms']:.1f} | {BUDGET_MS} |",
        f"| the worst, ms | {found['worst_ms']:.1f} | {BUDGET_MS} |", "",
        "| commit to visible, ms | nobody asks | a scrape a second | ratio | budget |", "|---|---|---|---|---|",
        f"| transactions | {sum(map(len, found['quiet_windows']))} | {sum(map(len, found['watched_windows']))} | | |",
        f"| median | {found['quiet_p50_ms']:.2f} | {found['watched_p50_ms']:.2f} | "
        f"{found['watched_p50_ms'] / found['quiet_p50_ms']:.2f} | |",
        f"| p99 | {found['quiet_p99_ms']:.2f} | {found['watched_p99_ms']:.2f} | {ratio:.2f} | {BUDGET_RATIO} |"])
