"""Verify (scripts/bench --verify): how long a comparison of every row takes, and what it needs.

The table of the other workloads, with so many rows, copied by the program; the replicator runs.  The
measure is COPY … TO '/dev/null' of the table on the source and of the mirror's, one after the other, on
the servers themselves.  Resident memory is the replicator's highest, which did nothing else.
"""

import re
import time

import workloads
from contenders import pipeline_of
from lib.cluster import SUPERUSER


def timed(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


def peak_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^VmHWM:\s*(\d+)", f.read(), re.M).group(1))


def verify(bench, rounds, rows, say, plugin="pgoutput"):
    bench.new_source("shop_verify")
    say(f"verify: making {rows} rows")
    for first in range(1, rows + 1, 2_000_000):
        bench.source.sql(workloads.ROWS, first, min(rows, first + 1_999_999))
    bench.source.sql("vacuum analyze", user=SUPERUSER)
    database = bench.mirror_cluster.create_mirror("live_verify")
    pipeline = pipeline_of(bench, database, "verify", plugin).publish()
    say("verify: copying")
    pipeline.run_until_now(timeout=1800)
    database.sql("vacuum analyze", user=SUPERUSER)
    pipeline.start().wait_until_caught_up()
    result = {"rows": rows, "source": [], "mirror": [], "verify": [], "one_wrong": []}

    def both(database, table):
        return timed(lambda: database.sql(f"copy {table} to '/dev/null'", user=SUPERUSER))

    for number in range(rounds):
        bench.checkpoint()
        result["source"].append(both(bench.source, "item"))
        result["mirror"].append(both(database, "mirror_public.item"))
        for name, wrong in (("verify", 0), ("one_wrong", 1)):
            if wrong:
                database.sql(f"delete from mirror_public.item where id = {number + 1}", user=SUPERUSER)
            answer = {}
            result[name].append(timed(lambda: answer.update(
                pipeline.verb("verify", "--json", "public.item", timeout=3600).json())))
            table = answer["tables"][0]
            if (table["rows_read"] < rows - 1 or table["error"] or table["missing"] != wrong or
                    table["different"] or table["extra"]):
                raise RuntimeError(f"verify: {table}")
        say(f"verify, round {number + 1}: COPY {result['source'][-1]:.2f} + {result['mirror'][-1]:.2f} s, "
            f"verify {result['verify'][-1]:.2f} s, with a row wrong {result['one_wrong'][-1]:.2f} s")
        pipeline.ok("resync", "public.item", timeout=3600)
    result["peak_kib"] = peak_kib(pipeline.process.pid)
    pipeline.stop()
    database.close()
    bench.source.cluster.sql("select pg_drop_replication_slot(%s)", pipeline.slot)
    bench.drop_everything()
    return result


def report(result, median):
    copies = median(result["source"]) + median(result["mirror"])
    lines = [f"| verify of {result['rows']} rows | seconds | times COPY of both sides |", "|---|---|---|",
             f"| COPY to nowhere, source and mirror | {copies:.2f} | 1 |"]
    for name, title in (("verify", "verify, nothing differs"), ("one_wrong", "verify, a row is missing")):
        lines.append(f"| {title} | {median(result[name]):.2f} | {median(result[name]) / copies:.2f} |")
    lines.append(f"\nHighest resident memory of the replicator: {result['peak_kib'] / 1024:.0f} MiB")
    return "\n".join(lines)
