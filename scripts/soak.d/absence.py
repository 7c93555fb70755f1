"""scripts/soak --absence: a receiver that is away for as long as it takes to believe it.

A pipeline with a feed, a few changes a second, and a receiver that refuses connections for that many real minutes, then comes
back.  Every minute the program's resident memory, its open files, the ledger, the mirror database and the WAL that the source
keeps for the slot are noted.  In the end the receiver has to have what the query gives for every key that changed, in order,
and none of these may have grown with time, but for the ledger and what the mirror's tables hold: these by the changes.
"""

import os
import random
import statistics
import time

from lib import wait
from lib.cluster import SUPERUSER, Cluster
from lib.pipeline import RELEASE, Pipeline
from lib.receiver import Receiver

CUSTOMERS = 20000
WARM_UP_S = 20
SAMPLE_S = 60
RECOVERY_S = 300

MEMORY_KB = 8192  # more than at the beginning
FILES = 3
RETAINED_BYTES = 64 << 20
BYTES_PER_CHANGE = 1024  # of the mirror database: a row's versions, its keys in the ledger
SLACK_BYTES = 32 << 20   # partitions made ahead, statistics

SCHEMA = """
    create table customers (id bigint primary key, name text not null, n bigint not null default 0);
    create table orders (id bigint primary key, customer_id bigint not null, total numeric(12,2) not null);
    create index on orders (customer_id);
"""

FACT = {"customer": {"table": "public.customers", "key": ["id"], "dimensions": [
    {"table": "public.orders", "join": "orders.customer_id = customers.id", "watch": ["total"]}]}}

QUERY = "select c.id, c.name, c.n, sum(o.total)::text as total from {keys} k join customers c on c.id = k.id " \
        "left join orders o on o.customer_id = c.id group by c.id, c.name, c.n"

TRUTH = "select c.id, c.name, c.n, (select sum(o.total) from orders o where o.customer_id = c.id)::text from customers c"


class Changes:
    """One at a time, each a transaction; knows whose they were."""

    def __init__(self, source, rate, seed):
        self.source, self.rate, self.dice = source, rate, random.Random(seed)
        self.count, self.keys, self.next_id = 0, set(), CUSTOMERS + 1
        self.due = time.monotonic()

    def customer(self):
        # Half of them of a hundred customers, who change again and again.
        return self.dice.randint(1, 100) if self.dice.random() < 0.5 else self.dice.randint(101, CUSTOMERS)

    def one(self):
        kind, key = self.dice.random(), self.customer()
        if kind < 0.05:
            key, self.next_id = self.next_id, self.next_id + 1
            self.source.sql("insert into customers values (%s, 'new')", key)
        elif kind < 0.10 and key > 100:
            self.source.sql("delete from customers where id = %s", key)
        elif kind < 0.30:
            self.source.sql("with o as (update orders set total = total + 1 where customer_id = %s) "
                            "update customers set n = n + 1 where id = %s", key, key)
        else:
            self.source.sql("update customers set name = md5(random()::text), n = n + 1 where id = %s", key)
        self.keys.add(key)
        self.count += 1

    def until(self, moment):
        while time.monotonic() < moment:
            pause = self.due - time.monotonic()
            if pause > 0:
                time.sleep(min(pause, max(0.0, moment - time.monotonic())))
                continue
            self.one()
            self.due = max(self.due + 1 / self.rate, time.monotonic() - 1)


class Measured:
    """What must not grow."""

    def __init__(self, pipeline, changes):
        self.pipeline, self.changes, self.began, self.rows = pipeline, changes, time.monotonic(), []

    def sample(self):
        pipeline = self.pipeline
        pid, state = pipeline.process.pid, status(pipeline)
        with open(f"/proc/{pid}/status") as f:
            resident = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
        row = {"at": time.monotonic() - self.began, "changes": self.changes.count, "resident_kb": resident,
               "files": len(os.listdir(f"/proc/{pid}/fd")), "state": state["state"], "pending": state["pending_keys"],
               "ledger": int(pipeline.mirror.value("select sum(bytes) from tailwater.fact_states(%s)", pipeline.name)),
               "database": pipeline.mirror.value("select pg_database_size(current_database())"),
               "retained": int(pipeline.source.value(
                   "select pg_current_wal_lsn() - restart_lsn from pg_replication_slots where slot_name = %s",
                   pipeline.slot, user=SUPERUSER)),
               "reason": state["reason"] or ""}
        self.rows.append(row)
        print(f"{row['at']:6.0f} s  {row['changes']} changes, {row['state']}, {row['pending']} keys pending; resident "
              f"{row['resident_kb'] / 1024:.1f} MiB, {row['files']} files, ledger {row['ledger'] / 1024:.0f} KiB, mirror "
              f"{row['database'] / 2**20:.1f} MiB, WAL kept {row['retained'] / 2**20:.1f} MiB  {row['reason'][:90]}", flush=True)
        return row

    def judge(self):
        """What has grown too much, from the first sample of the absence to the last."""
        first, last = self.rows[0], self.rows[-1]
        base = statistics.median(row["resident_kb"] for row in self.rows[:5])
        allowed = SLACK_BYTES + BYTES_PER_CHANGE * (last["changes"] - first["changes"])
        highest = {name: max(row[name] for row in self.rows) for name in ("resident_kb", "files", "retained")}
        return [text for is_wrong, text in (
            (highest["resident_kb"] > base + MEMORY_KB, f"resident memory went from {base} to {highest['resident_kb']} KiB"),
            (highest["files"] > first["files"] + FILES, f"open files went from {first['files']} to {highest['files']}"),
            (highest["retained"] > RETAINED_BYTES, f"the source kept {highest['retained']} bytes of WAL"),
            (last["database"] - first["database"] > allowed,
             f"the mirror grew by {last['database'] - first['database']} bytes, {allowed} are allowed"),
            (any(row["state"] != "blocked" for row in self.rows[1:]), "status did not say blocked all the time"),
            ) if is_wrong]


def status(pipeline):
    found = pipeline.ok("feed", "status", "--json").json()
    return found[0] if found else {"state": "not yet", "reason": None, "pending_keys": 0, "sent": 0}


def compare(source, receiver, changes):
    """What the receiver has wrong."""
    truth = {key: (name, n, total) for key, name, n, total in source.sql(TRUTH)}
    wrong = list(receiver.wrong)
    for key in sorted(changes.keys):
        document = receiver.table.get(key)
        there = (document["name"], document["n"], document["total"]) if document else None
        if there != truth.get(key):
            wrong.append(f"customer {key}: the receiver has {there}, the query gives {truth.get(key)}")
    wrong += [f"customer {key} was sent and never changed" for key in sorted(set(receiver.table) - changes.keys)]
    return wrong


def wait_for(pipeline, changes, what, deadline):
    """Changes go on meanwhile."""
    end = time.monotonic() + deadline
    while not what(status(pipeline)):
        if time.monotonic() > end:
            raise wait.Deadline(f"after {deadline} s: {status(pipeline)}\n{pipeline.log_tail()}")
        changes.until(time.monotonic() + 0.2)


def absence(pipeline, source, receiver, changes, minutes):
    pipeline.start().wait_until_caught_up()
    wait_for(pipeline, changes, lambda state: state["state"] != "not yet", 60)
    changes.until(time.monotonic() + WARM_UP_S)
    wait_for(pipeline, changes, lambda state: state["sent"] > 0, 60)
    receiver.stop()
    requests = len(receiver.requests)
    wait_for(pipeline, changes, lambda state: state["state"] == "blocked", 60)
    measured, end = Measured(pipeline, changes), time.monotonic() + minutes * 60
    measured.sample()
    while time.monotonic() < end:
        changes.until(min(end, time.monotonic() + SAMPLE_S))
        measured.sample()
    print(f"the receiver is back after {measured.rows[-1]['at']:.0f} s", flush=True)
    receiver.start()
    began = time.monotonic()
    wait_for(pipeline, changes, lambda state: state["state"] != "blocked" and state["pending_keys"] < 100, RECOVERY_S)
    caught_up = time.monotonic() - began
    changes.until(time.monotonic() + WARM_UP_S)
    pipeline.wait_until_caught_up()
    wait_for_end(pipeline)
    wrong = measured.judge() + compare(source, receiver, changes)
    documents = sum(len(request["documents"]) for request in receiver.requests[requests:])
    print(f"{changes.count} changes of {len(changes.keys)} keys; away for {measured.rows[-1]['at']:.0f} s; what had waited was "
          f"taken within {caught_up:.1f} s: {documents} documents in {len(receiver.requests) - requests} requests")
    return wrong


def wait_for_end(pipeline):
    wait.until(lambda: status(pipeline)["state"] == "up to date", lambda: f"{status(pipeline)}\n{pipeline.log_tail()}",
               RECOVERY_S, every=0.5)


def run(folder, minutes, rate, seed, plugin):
    """What is wrong, as a list of texts."""
    template = Cluster(os.path.join(folder, "template")).create()
    source_cluster = Cluster(os.path.join(folder, "source")).create(template).start().make_roles()
    mirror_cluster = Cluster(os.path.join(folder, "mirror")).create(template).start().make_roles()
    receiver = Receiver()
    pipeline = None
    try:
        source, mirror = source_cluster.create_source("shop"), mirror_cluster.create_mirror("live")
        source.sql(SCHEMA)
        source.sql(f"insert into customers select i, 'c' || i from generate_series(1, {CUSTOMERS}) i; "
                   f"insert into orders select i, 1 + i % {CUSTOMERS}, 5 from generate_series(1, {2 * CUSTOMERS}) i")
        pipeline = Pipeline(os.path.join(folder, "pipeline"), source, mirror, "absence", plugin=plugin, binary=RELEASE,
                            source={"heartbeat": "10s"}, facts=FACT, feeds={"crm": {
                                "fact": "customer", "query": QUERY, "start": "now", "destination": {"url": receiver.url}}})
        pipeline.publish().run_until_now()
        return absence(pipeline, source, receiver, Changes(source, rate, seed), minutes)
    finally:
        if pipeline is not None:
            pipeline.close()
        receiver.stop()
        source_cluster.stop("immediate")
        mirror_cluster.stop("immediate")
