"""Affected keys: what moves, what comes together, who reads meanwhile, and everything at once (P68 to P71)."""

import pytest

from lib import wait
from lib.pipeline import FEEDS, Traffic
from pitfalls.common import running

SHOP = """
    create table customers (id int primary key, segment text);
    create table orders (id bigint primary key, customer_id int, amount int);
    create sequence ids start 1000;
    insert into customers select i, 'a' from generate_series(1, 5) i;
    insert into orders select i, 1 + i % 5, i from generate_series(1, 20) i;
    """
BY_CUSTOMER = {"table": "public.orders", "key": ["customer_id"]}
ORDER = {"table": "public.orders", "key": ["id"], "dimensions": [
    {"table": "public.customers", "join": "customers.id = orders.customer_id"}]}


@pytest.fixture
def shop(source, make_pipeline):
    """shop(facts): a pipeline that streams, with these facts over SHOP."""
    def start(**facts):
        source.sql(SHOP)
        return running(make_pipeline, facts=facts)
    return start


def keys(pipeline, fact, column, since=0):
    return {row[0] for row in pipeline.mirror.sql(
        f"select {column} from tailwater.affected_{fact} where batch_id > %s", since)}


@pytest.mark.parametrize("how", FEEDS)
def test_p68_a_fact_that_moves(both_plugins, shop, how):
    """From one key to another and on: where it was and where it is, though the stream has no old values."""
    pipeline = shop(totals=BY_CUSTOMER)
    since = pipeline.clock()[0]
    pipeline.feed(["update orders set customer_id = 3 where id = 5", "update orders set customer_id = 4 where id = 5"],
                  how)  # order 5 was customer 1's
    found = keys(pipeline, "totals", "customer_id", since)
    assert {1, 4} <= found <= {1, 3, 4} and (3 in found or how != "one by one")
    since = pipeline.clock()[0]
    pipeline.feed(["delete from orders where id = 5", "update orders set id = 60, customer_id = 5 where id = 6",
                   "update customers set segment = 'x'"], how)  # order 6 was customer 2's
    assert keys(pipeline, "totals", "customer_id", since) == {4, 2, 5}
    pipeline.settle()


@pytest.mark.parametrize("first", ["the dimension", "the fact"])
@pytest.mark.parametrize("how", FEEDS)
def test_p69_a_dimension_and_its_facts_together(shop, first, how):
    """A dimension's change reaches the facts that are there after the batch, in whatever order they came."""
    pipeline = shop(orders=ORDER)
    since = pipeline.clock()[0]
    statements = ["update customers set segment = 'b' where id = 2",
                  "insert into orders values (100, 2, 0); update orders set customer_id = 2 where id = 1"]
    pipeline.feed(statements if first == "the dimension" else statements[::-1], how)
    theirs = {row[0] for row in pipeline.source.sql("select id from orders where customer_id = 2")}
    assert {1, 100} < theirs and keys(pipeline, "orders", "id", since) >= theirs
    pipeline.settle()


def test_p70_a_reader_beside_the_writer(source, folder, mirror, shop):
    """Every key reaches a consumer that claims and acks as fast as it can, once at least."""
    pipeline = shop(orders=ORDER)
    mirror.sql("select tailwater.subscribe('crm', 'orders', 'now')")
    first = source.value("select max(id) from orders")
    seen, claims = set(), 0

    def read():
        nonlocal claims
        with mirror.transaction() as cursor:
            cursor.execute("select claim_id, everything from tailwater.claim('crm', 'orders')")
            claimed = cursor.fetchone()
            if claimed is None:
                return False
            assert not claimed[1]
            cursor.execute("select id from tailwater.keys_orders('crm')")
            seen.update(row[0] for row in cursor.fetchall())
            cursor.execute("select tailwater.ack('crm', 'orders', %s)", (claimed[0],))
            claims += 1
        return True

    script = "begin; insert into orders values (nextval('ids'), 1 + random() * 4, 0); select pg_sleep(random() / 50); commit;"
    with Traffic(source, folder, {"insert": (1, script)}, clients=4, seconds=3) as traffic:
        wait.until(lambda: traffic.process.poll() is not None or read() is None, "the writers' end", every=0.001)
    pipeline.wait_until_caught_up()
    written = {row[0] for row in source.sql("select id from orders where id > %s", first)}
    while read():
        pass
    assert len(written) > 50 and claims > 5
    assert written <= seen, f"lost: {sorted(written - seen)[:10]}"
    pipeline.settle()


def test_p71_everything_at_once(source, shop):
    """A dimension is truncated: one word for all keys, not a row for each."""
    pipeline = shop(orders=ORDER)
    source.sql("insert into orders select i, 1 + i % 5, 0 from generate_series(1000, 4000) i")
    pipeline.wait_until_caught_up()
    before = pipeline.mirror.value("select count(*) from tailwater.affected_orders")
    source.sql("truncate customers")
    pipeline.wait_until_caught_up()
    assert pipeline.mirror.sql("select reason from tailwater.everything where fact = 'orders' order by batch_id")[1:] \
        == [("public.customers was truncated",)]
    assert pipeline.mirror.value("select count(*) from tailwater.affected_orders") == before
    pipeline.settle()
