"""Feeds under everything that can happen to receivers, feeds and replicators: what was changed arrives in order."""

import os
import random

import pytest

from lib import wait
from lib.receiver import moody
from lib.shop import QUERY

QUERY_N = QUERY.replace("c.id, c.name,", "c.id, c.name, coalesce(nullif(c.note, 'n')::bigint, 0) as n,", 1).replace(
    "group by c.id, c.name", "group by c.id, c.name, c.note")

# Enough of them that no document is given up by chance.
RETRY = {"attempts": 40, "first": "20ms", "longest": "200ms"}


def seeds():
    """One that is always the same, and one of this run's; TAILWATER_FEED_SEEDS=1-10 runs others."""
    first, _, last = os.environ.get("TAILWATER_FEED_SEEDS", "").partition("-")
    return range(int(first), int(last or first) + 1) if first else [1, int(os.environ.get("TAILWATER_SEED", "2"))]


class Chaos:
    """Changes of the shop, and what is done to who carries them."""

    def __init__(self, shop, receiver, seed):
        self.shop, self.receiver, self.dice = shop, receiver, random.Random(seed)
        self.counter = 0
        self.is_alone = seed % 2 == 0
        self.process = None

    def start(self):
        if self.is_alone:
            self.process = self.shop.start()

    def statement(self):
        self.counter += 1
        some, other = self.dice.randint(1, 30), self.dice.randint(1, 60)
        return self.dice.choice([
            f"update customers set note = '{self.counter}' where id = {some}",
            f"update customers set note = '{self.counter}' where id % 5 = {some % 5}",
            f"insert into customers values ({some}, 'again', '{self.counter}') on conflict (id) do update set note = excluded.note",
            f"delete from customers where id = {some}",
            f"update orders set customer_id = {some} where id = {other}",
            f"update orders set total = total + 1 where id = {other}",
            f"delete from orders where id = {other}"])

    def change(self):
        with self.shop.source.transaction() as cursor:
            for _ in range(self.dice.randint(1, 4)):
                cursor.execute(self.statement())

    def kill_feed(self):
        if self.is_alone:
            self.process.kill()
            self.process.wait()
            self.start()
        else:
            self.kill_replicator()

    def kill_replicator(self):
        self.shop.pipeline.kill()
        self.shop.pipeline.start()

    def kill_receiver(self):
        self.receiver.stop()
        self.change()
        self.receiver.start()

    def cut_feed(self):
        self.shop.mirror.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = "
                             "'tailwater feed crm'")

    def step(self):
        draw = self.dice.random()
        self.change()
        if draw < 0.06:
            self.kill_feed()
        elif draw < 0.10:
            self.kill_replicator()
        elif draw < 0.16:
            self.kill_receiver()
        elif draw < 0.20:
            self.cut_feed()
        else:
            # Something happens meanwhile, or not.
            count = len(self.receiver.requests)
            try:
                wait.until(lambda: len(self.receiver.requests) > count, "", self.dice.random() / 4, every=0.005)
            except wait.Deadline:
                pass


@pytest.mark.parametrize("seed", seeds())
def test_a_receiver_that_fails_in_every_way(shop, receiver, seed):
    """Fails at random, answers 429, says nothing, cuts connections, takes documents and loses the answer, is killed; as
    are the feed, its connection and the replicator.  In the end its table is the query's result, and no older document came
    after a newer one."""
    receiver.behave = moody(seed)
    receiver.stall = 0.7
    chaos = Chaos(shop, receiver, seed)
    shop.feed({"url": receiver.url, "timeout": "500ms"}, query=QUERY_N, batch=4, retry=RETRY,
              run="manual" if chaos.is_alone else "auto")
    if not chaos.is_alone:
        shop.pipeline.stop()
        shop.pipeline.start()
    chaos.start()
    for _ in range(60):
        chaos.step()
    receiver.behave = lambda number, documents: None
    shop.pipeline.wait_until_caught_up()
    wait.until(lambda: receiver.table == shop.documents(QUERY_N), lambda: f"{receiver.table}\n{shop.documents(QUERY_N)}", 60)
    shop.wait_until_sent()
    assert receiver.table == shop.documents(QUERY_N) and receiver.wrong == []
    assert shop.status()["dead"] == 0 and shop.status()["sent"] > 0


def test_a_receiver_that_is_away_for_long(shop, receiver):
    """Nothing is lost; what waits is in the ledger, which says so, and not in memory; then everything comes, once for
    each key, in the order of the changes."""
    shop.feed({"url": receiver.url}, query=QUERY_N, batch=5, retry={"attempts": 2, "first": "10ms", "longest": "50ms"})
    process = shop.start()
    shop.wait_until_sent()
    receiver.stop()

    def memory():
        with open(f"/proc/{process.pid}/status") as status:
            return int(next(line.split()[1] for line in status if line.startswith("VmRSS")))

    shop.source.sql("update customers set note = '1' where id = 1")
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    assert "connect" in shop.status()["reason"]
    began, attempts = memory(), shop.status()["requests"]
    for i in range(2, 402):
        shop.source.sql(f"update customers set note = '{i}' where id = {1 + i % 20}")
    shop.pipeline.wait_until_caught_up()
    wait.until(lambda: shop.status()["requests"] > attempts + 20, "it is tried again and again")
    waiting = shop.status()
    assert waiting["state"] == "blocked" and waiting["pending_keys"] >= 20 and waiting["dead"] == 0
    assert memory() < began + 4096, "a window is held, not what waits behind it"
    fact = shop.pipeline.ok("ledger", "status", "--json").json()["facts"][0]
    assert fact["bytes"] > 0 and next(c for c in fact["consumers"] if c["name"] == "feed/crm")["pending_keys"] >= 20
    count = len(receiver.requests)
    receiver.start()
    wait.until(lambda: receiver.table == shop.documents(QUERY_N), lambda: str(receiver.table))
    shop.wait_until_sent()
    # The window that was open when it went away, and the rest: each key at most once in either.
    assert len([d for r in receiver.requests[count:] for d in r["documents"]]) <= 40
    assert shop.status()["pending_keys"] == 0


def test_a_consumer_that_was_away_too_long(shop, receiver):
    """Past stale_after the ledger lets go, and the feed compares everything: nothing is lost, little is sent."""
    shop.pipeline.keys["ledger"] = {"stale_keys": 100}
    shop.feed({"url": receiver.url})
    shop.run()
    shop.pipeline.stop()
    shop.pipeline.start().wait_until_caught_up()
    for i in range(12):
        shop.change(*(f"update customers set name = 'n{i}' where id = {k}" for k in range(1, 11)))
    shop.change("delete from customers where id = 20")
    wait.until(lambda: shop.mirror.value("select stale_since is not null from tailwater.consumer"), "it is stale", 60)
    count = len(receiver.documents)
    shop.run()
    assert receiver.table == shop.documents() and len(receiver.documents) == count + 11
