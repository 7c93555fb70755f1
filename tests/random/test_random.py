"""Random traffic, random trouble, and both sides equal to the byte (tests/lib/world.py).

The same seed every time, and one that is new every time and stands in the test's name;
TAILWATER_SEED=N repeats it.  Longer: scripts/soak.
"""

import os
import time

import psycopg2
import pytest

from lib import wait
from lib.compare import binary_rows
from lib.proxy import Proxy
from lib.workload import CopyIn, Workload
from lib.world import World

SEEDS = list(dict.fromkeys([1, int(os.environ.get("TAILWATER_SEED", "2"))]))
STEPS = 2200
SAY = print if os.environ.get("TAILWATER_RANDOM_EVENTS") else None  # as they happen


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed {seed}")
def test_random_traffic(folder, templates, seed):
    world = World(folder, seed, STEPS, say=SAY, templates=templates, large=300,
                  repeat=f"TAILWATER_SEED={seed} scripts/test -k 'test_random_traffic and {seed}'")
    try:
        world.create().run(checkpoint_every=STEPS // 2)
        print("\n".join([*world.notes, f"{world.workload.statements} statements, {len(world.events)} events"]))
        assert world.workload.transactions > STEPS // 20
    finally:
        world.destroy()


class Deaf(Workload):
    """One that only writes down what it would say."""

    def __init__(self, seed):
        super().__init__(None, seed)
        self.said = []
        for session in self.sessions:
            session.connection = self
            session.run = lambda sql, session=session: self.said.append(
                (session.number, (sql.sql, sql.data) if isinstance(sql, CopyIn) else sql))

    closed = False


TALK = 30000  # steps; a truncate that cascades is rare


def test_the_same_seed_says_the_same():
    one, again, other = Deaf(7), Deaf(7), Deaf(8)
    for workload in (one, again, other):
        for _ in range(TALK):
            workload.step()
    assert one.said == again.said
    assert one.said != other.said
    text = " ".join(str(sql) for _, sql in one.said)
    for word in ("truncate", "rollback to", "prepare transaction", "commit prepared", "merge", "copy", "do $do$",
                 "vacuum full", "parts_r2", "pg_logical_emit_message", "generate_series", "cascade"):
        assert word in text, f"{TALK} steps without {word}"


def test_binary_rows_of_copy():
    header = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    one = b"\0\2" + b"\0\0\0\1a" + b"\xff\xff\xff\xff"
    other = b"\0\1" + b"\0\0\0\2xy"
    assert list(binary_rows(header + one + other + b"\xff\xff")) == [one, other]


@pytest.fixture
def network(servers, folder):
    proxy = Proxy(os.path.join(folder, "net"), servers.source.folder).start()
    yield proxy
    proxy.close()


def through(network, name, **more):
    connection = psycopg2.connect(host=network.folder, user="postgres", dbname="postgres", application_name=name,
                                  **more)
    connection.autocommit = True
    return connection


def ask(connection, query="select 1"):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def test_network_that_is_cut(network):
    one, other = through(network, "one"), through(network, "other")
    assert network.names() == ["one", "other"]
    assert network.cut("one") == 1
    with pytest.raises(psycopg2.OperationalError):
        ask(one)
    assert ask(other) == 1
    network.refuse(True)
    with pytest.raises(psycopg2.OperationalError):
        through(network, "third")
    assert ask(other) == 1, "open connections stay"
    network.refuse(False)
    assert ask(through(network, "third")) == 1


def test_network_that_loses_a_session(network, servers):
    one = through(network, "lost")
    pid = ask(one, "select pg_backend_pid()")
    network.abandon("lost", 2)
    with pytest.raises(psycopg2.OperationalError):
        ask(one)
    count = "select count(*) from pg_stat_activity where pid = %s"
    assert servers.source.sql(count, pid) == [(1,)], "the server knows nothing of it"
    wait.until(lambda: servers.source.sql(count, pid) == [(0,)], "the server's end is closed later")


def test_network_that_is_slow(network):
    one = through(network, "slow")
    network.slow("slow", delay_s=0.1, bytes_per_s=100_000)
    start = time.monotonic()
    assert len(ask(one, "select repeat('x', 50000)")) == 50000
    assert time.monotonic() - start > 0.5
    network.resume("slow")
    network.stall("slow")
    start = time.monotonic()
    network.loop.call_soon_threadsafe(network.loop.call_later, 0.4, lambda: [
        link.may_flow.set() for link in network.links])
    assert ask(one) == 1
    assert time.monotonic() - start > 0.3


def test_network_that_drops(network):
    """What is dropped is gone, and neither end hears of it."""
    one = through(network, "one")
    network.drop("one")
    network.loop.call_soon_threadsafe(network.loop.call_later, 0.3, lambda: [
        link.cut() for link in network.links])
    with pytest.raises(psycopg2.OperationalError):
        ask(one)
    wait.until(lambda: not network.names(), "the connection is gone")
