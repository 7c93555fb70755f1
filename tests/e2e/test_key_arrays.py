"""Keys of a fan-out, many in a row of the ledger (src/ledger/key_arrays.h)."""

import pytest

from lib import wait
from lib.cluster import REPLICATOR

SHOP = """
    create table countries (id int primary key, tax int);
    create table customers (id bigint primary key, country_id int);
    create table orders (id bigint primary key, customer_id bigint);
    insert into countries values (1, 1), (2, 1);
    insert into customers select i, 1 from generate_series(1, 400) i;
    insert into customers values (1000, 2), (1001, null);
    insert into orders select i, 1 + i % 400 from generate_series(1, 12000) i;
    insert into orders values (20000, 1000), (20001, null), (20002, 1001);
"""
WAY = [{"table": "public.customers", "join": "customers.id = orders.customer_id"},
       {"table": "public.countries", "join": "countries.id = customers.country_id", "fan_out": "defer"}]
ORDER = {"table": "public.orders", "key": ["id"], "dimensions": WAY}
CHANGE = "update countries set tax = tax + 1 where id = 1"


class Shop:
    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror

    def expand(self, statement=CHANGE):
        """The batch behind which the keys of that change are, once all are there."""
        since = self.pipeline.clock()[0]
        self.source.sql(statement)
        self.pipeline.wait_until_caught_up()
        self.wait_expanded()
        return since

    def wait_expanded(self):
        wait.until(lambda: not self.mirror.value("select count(*) from tailwater.fan_out"), self.pipeline.log_tail, 60)

    def shape(self, since, fact="order"):
        """Are there rows of arrays, and how many of one key?"""
        return self.mirror.sql(f'select count(*) filter (where "keys$1" is not null) > 0, '
                               f'count(*) filter (where "keys$1" is null) from tailwater.ledger_{fact} '
                               f'where lane = 1 and batch_id > %s', since)[0]

    def keys(self, since, columns="id", fact="order"):
        return self.mirror.sql(f"select {columns} from tailwater.affected_{fact} where batch_id > %s and lane = 1 "
                               f"and node = 2 order by 1", since)

    def counted(self, since):
        return self.mirror.value("select sum(keys)::int from tailwater.batch where batch_id > %s", since)


@pytest.fixture
def start(source, make_pipeline):
    def start(facts, sql=SHOP, **keys):
        source.sql(sql)
        pipeline = make_pipeline(facts=facts, **keys).publish()
        pipeline.start().wait_until_caught_up()
        return Shop(pipeline)
    return start


def test_keys_in_arrays(both_plugins, start):
    """Every key once, and read as any other is: in a window, by peek and by why."""
    shop = start({"order": ORDER})
    shop.mirror.sql("select tailwater.subscribe('crm', 'order')", user=REPLICATOR)
    since = shop.expand()
    expected = [(i,) for i in range(1, 12001)]
    assert shop.shape(since) == (True, 0)
    assert shop.keys(since) == expected
    assert shop.counted(since) == 12000
    taken = []
    while (window := shop.mirror.sql("select claim_id, lane, keys from tailwater.claim('crm', 'order', 100)",
                                     user=REPLICATOR)):
        claim, lane, keys = window[0]
        got = shop.mirror.sql("select id from tailwater.keys_order('crm')", user=REPLICATOR)
        assert lane == 1 and keys == len(got)
        taken += got
        shop.mirror.sql("select tailwater.ack('crm', 'order', %s)", claim, user=REPLICATOR)
    assert sorted(taken) == expected
    peeked = shop.pipeline.ok("ledger", "peek", "order", "--json").json()
    assert len(peeked) == 100 and {key["lane"] for key in peeked} == {"fan-out"}
    assert shop.pipeline.ok("ledger", "peek", "order").out.endswith("(the newest 100 keys; there may be more: --limit)\n")
    why = shop.pipeline.ok("ledger", "why", "order", "777", "--json").json()
    assert [(reason["kind"], reason["through"]) for reason in why if reason["lane"] != "everything"] == \
        [("fan-out", "countries")]
    shop.pipeline.settle()


@pytest.mark.parametrize("orders", [1999, 2000, 2001, 5000])
def test_a_link_that_reaches_many(start, orders):
    """One customer has more than a statement writes; the others are written as before, and none twice."""
    shop = start({"order": ORDER}, sql=SHOP + "insert into orders select 100000 + i, 7 from "
                                              f"generate_series(1, {orders} - 30) i")
    since = shop.expand()
    assert shop.keys(since) == [(i,) for i in (*range(1, 12001), *range(100001, 100001 + orders - 30))]
    assert shop.shape(since) == (True, orders if orders > 2000 else 0)
    assert shop.counted(since) == len(shop.keys(since))
    shop.pipeline.settle()


@pytest.mark.parametrize("point", ["fan_out_before_look"])
def test_a_link_that_reaches_fewer_meanwhile(start, point):
    """A batch takes most rows of a link away, just when a statement found too many of them to write."""
    shop = start({"order": ORDER}, sql=SHOP + "insert into orders select 100000 + i, 7 from generate_series(1, 4970) i")
    pipeline = shop.pipeline
    pipeline.stop()
    pipeline.start(fault=f"{point}=stall:6000").wait_until_caught_up()
    since = pipeline.clock()[0]

    def stalled():
        """In its transaction, doing nothing for half a second."""
        return shop.mirror.value("select max(state_change) from pg_stat_activity where application_name = 'tailwater expander' "
                                 "and state = 'idle in transaction' and state_change < now() - interval '0.5 s'", user="postgres")

    shop.source.sql(CHANGE)
    wait.until(stalled, pipeline.log_tail)
    since_when = stalled()
    shop.source.sql("delete from orders where customer_id = 7 and id > 101000")
    pipeline.wait_until_caught_up()
    assert stalled() == since_when, "the batch came too late"
    shop.wait_expanded()
    assert {key for key, in shop.keys(since)} == {*range(1, 12001), *range(100001, 101001)}
    pipeline.settle()


def test_links_that_reach_nothing(start):
    shop = start({"order": ORDER}, sql=SHOP + "insert into customers select i, 1 from generate_series(2000, 9000) i")
    since = shop.expand()
    assert shop.keys(since) == [(i,) for i in range(1, 12001)]
    shop.pipeline.settle()


def test_a_long_look_up_rests(start):
    """While a hundred thousand customers are found, the server sleeps now and then; none of them is left out."""
    shop = start({"order": ORDER}, sql=SHOP + "insert into customers select i, 1 from generate_series(2000, 100000) i; "
                                              "insert into orders select i + 100000, i from generate_series(2000, 100000) i")
    expected = [(i,) for i in (*range(1, 12001), *range(102000, 200001))]

    def fan_outs():
        return shop.mirror.value("select count(*) from tailwater.fan_out")

    def has_rested():
        """Was it seen while a change is expanded?"""
        since, seen = shop.pipeline.clock()[0], False
        shop.source.sql(CHANGE)
        wait.until(fan_outs, shop.pipeline.log_tail, every=0)
        while fan_outs():
            seen |= shop.mirror.value("select count(*) from pg_stat_activity where application_name = 'tailwater expander' "
                                      "and wait_event = 'PgSleep'", user="postgres") > 0
        assert shop.keys(since) == expected
        return seen

    assert any(has_rested() for _ in range(10))
    shop.pipeline.settle()


def test_keys_of_several_columns(start):
    """Of several types, with what arrays quote, by a join over two columns."""
    shop = start({"line": {"table": "public.lines", "key": ["name", "Day", "l.n"], "dimensions": [
        {"table": "public.customers", "join": ["customers.id = lines.customer_id", "customers.shop = lines.shop"]},
        {"table": "public.countries", "join": "countries.id = customers.country_id", "fan_out": "defer"}]}}, sql="""
        create table countries (id int primary key, tax int);
        create table customers (id bigint, shop text, country_id int, primary key (id, shop));
        create table lines (name text, "Day" date, "l.n" numeric(8,2), customer_id bigint, shop text,
                            primary key (name, "Day", "l.n"));
        insert into countries values (1, 1);
        insert into customers select i, s, 1 from generate_series(1, 30) i, unnest('{a,"b, c"}'::text[]) s;
        insert into lines select E'{a,"\\\\\\t\\n' || i, '2026-01-01'::date + i, i / 4.0, i % 31, case i % 2 when 0 then 'a'
            else 'b, c' end from generate_series(1, 3000) i;
        insert into lines values ('NULL', '2026-01-01', 0, 1, 'a'), ('', '2026-01-02', 0, 1, 'b, c');
    """)
    since = shop.expand()
    assert shop.shape(since, "line") == (True, 0)
    columns = 'name, "Day", "l.n"'
    assert shop.keys(since, columns, "line") == \
        shop.mirror.sql(f"select {columns} from mirror_public.lines where customer_id > 0 order by 1")
    shop.pipeline.settle()


REGIONS = SHOP.replace("id bigint primary key, customer_id bigint", "id bigint primary key, customer_id bigint, region int") \
    .replace("customers (id bigint primary key, country_id int)", "customers (id bigint primary key, country_id int, region int)") \
    + "update customers set region = id % 10; update orders set region = id % 10"


@pytest.mark.parametrize("join", [["customers.region = orders.region"],
                                  ["customers.region = orders.region", "customers.country_id = orders.customer_id"]])
def test_rows_that_lead_to_the_same(start, join):
    """Four hundred customers of ten regions: what a region reaches is not written for each of them."""
    shop = start({"order": {**ORDER, "dimensions": [{**WAY[0], "join": join}, WAY[1]]}}, sql=REGIONS)
    since = shop.expand()
    keys = 12003 if len(join) == 1 else 30
    assert len(set(shop.keys(since))) == len(shop.keys(since)) == shop.counted(since) == keys
    shop.pipeline.settle()


@pytest.mark.parametrize("fact, keys", [
    ({**ORDER, "key": {"tens": "id / 10"}}, {i // 10 for i in range(1, 12001)}),
    ({**ORDER, "key": ["customer_id"]}, set(range(1, 401))),
    ({**ORDER, "dimensions": [{**WAY[0], "fan_out": "defer"}]}, {*range(1, 12001), 20002})],
    ids=["expression", "several rows", "one hop"])
def test_keys_by_themselves(start, fact, keys):
    """Where there is no array to make: row by row, as they always were."""
    shop = start({"order": fact})
    since = shop.expand(CHANGE if len(fact["dimensions"]) > 1 else "update customers set country_id = 2")
    column = next(iter(fact["key"]))
    assert {key for key, in shop.mirror.sql(f"select {column} from tailwater.affected_order where batch_id > %s "
                                            f"and lane = 1", since)} == keys
    assert shop.shape(since)[0] is False
    shop.pipeline.settle()


def test_a_type_without_arrays(start):
    shop = start({"order": {**ORDER, "key": ["id", "tags"]}}, sql=SHOP.replace(
        "orders (id bigint primary key, customer_id bigint)",
        "orders (id bigint, customer_id bigint, tags text[] not null default '{a,b}', primary key (id, tags))"))
    since = shop.expand()
    assert shop.keys(since, "id, tags") == [(i, ["a", "b"]) for i in range(1, 12001)]
    shop.pipeline.settle()


def test_without_an_index(start):
    """A look-up would read the whole table, so that it is not done some links at a time."""
    shop = start({"order": ORDER}, mirror={"indexes": "none"})
    since = shop.expand()
    assert shop.keys(since) == [(i,) for i in range(1, 12001)]
    assert shop.shape(since) == (False, 12000)
    shop.pipeline.settle()


@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("point", ["fan_out_announced:2", "fan_out_after_page", "fan_out_before_end"])
def test_stopped_at_a_point(start, point, action):
    """No key is lost, and none written again: how far it is stands with the keys."""
    shop = start({"order": ORDER}, sql=SHOP.replace("12000", "40000").replace("(2000", "(100000"))
    pipeline = shop.pipeline
    pipeline.stop()
    since = pipeline.clock()[0]
    shop.mirror.sql("select tailwater.subscribe('crm', 'order')", user=REPLICATOR)
    shop.source.sql(CHANGE)
    pipeline.start(fault=f"{point}={action}")
    if action == "kill":
        assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
        pipeline.start()
    pipeline.wait_until_caught_up()
    shop.wait_expanded()
    assert set(shop.keys(since)) == {(i,) for i in range(1, 40001)}
    assert shop.mirror.value("select max(n) from (select count(*) as n from tailwater.affected_order where batch_id > %s "
                             "group by batch_id, id) x", since) == 1
    assert shop.counted(since) == 40000
    assert shop.mirror.value("select keys from tailwater.claim('crm', 'order', 1000000)", user=REPLICATOR) == \
        shop.counted(since)
    assert sorted(shop.mirror.sql("select id from tailwater.keys_order('crm')", user=REPLICATOR)) == \
        [(i,) for i in range(1, 40001)]
    if action == "error":
        assert point.split(":")[0] in pipeline.this_run(), f"{point} was not reached\n{pipeline.log_tail()}"
    pipeline.settle()


def test_the_next_start_makes_the_columns(start):
    """An upgrade that found somebody reading the ledger left it as it was."""
    shop = start({"order": ORDER})
    shop.pipeline.stop()
    shop.mirror.sql('drop view tailwater.affected_order; alter table tailwater.ledger_order drop column "keys$1"; '
                    'create view tailwater.affected_order as select batch_id, lane, node, id from tailwater.ledger_order',
                    user=REPLICATOR)
    with shop.mirror.transaction("postgres") as reader:
        reader.execute("select from tailwater.ledger_order limit 1")
        shop.pipeline.start().wait_until_caught_up()
        since = shop.expand()
        assert len(shop.keys(since)) == 12000
        shop.pipeline.stop()
    shop.pipeline.start().wait_until_caught_up()
    since = shop.expand()
    assert shop.shape(since) == (True, 0)
    assert shop.keys(since) == [(i,) for i in range(1, 12001)]
    shop.pipeline.settle()


def test_without_a_partition(start):
    shop = start({"order": ORDER})
    shop.pipeline.stop()
    shop.pipeline.start(fault="fan_out_after_begin=stall:4000").wait_until_caught_up()
    since = shop.pipeline.clock()[0] + 1000000
    with shop.mirror.transaction("postgres") as keeper:
        keeper.execute("lock table tailwater.ledger_order in share update exclusive mode")  # which makes partitions otherwise
        shop.source.sql(CHANGE)
        wait.until(lambda: shop.mirror.value("select count(*) from tailwater.fan_out"), shop.pipeline.log_tail)
        shop.mirror.sql("update tailwater.clock set batch_id = %s", since, user="postgres")
    shop.pipeline.wait_until_caught_up()
    shop.wait_expanded()
    assert {key for key, in shop.mirror.sql("select id from tailwater.affected_order where lane = 1")} == set(range(1, 12001))
    assert shop.shape(since) == (True, 0)
    shop.pipeline.settle()


def test_a_stop_in_the_midst(start):
    """The rest is expanded by the next run, and only the rest."""
    shop = start({"order": ORDER}, sql=SHOP.replace("12000", "400000").replace("(2000", "(900000"))
    since = shop.pipeline.clock()[0]
    shop.source.sql(CHANGE)
    wait.until(lambda: shop.mirror.value("select max(keys) from tailwater.fan_out") or 0, shop.pipeline.log_tail)
    shop.pipeline.stop()
    assert 0 < shop.mirror.value("select count(*) from tailwater.affected_order where batch_id > %s", since) < 400000
    shop.pipeline.start()
    shop.wait_expanded()
    assert len(set(shop.keys(since))) == shop.counted(since) == 400000
    shop.pipeline.settle()


def kill_after(shop, page):
    """A run that ends so; the position, and how many keys are written."""
    shop.pipeline.start(fault=f"fan_out_after_page:{page}=kill")
    assert shop.pipeline.wait_exit(60) == -9, shop.pipeline.log_tail()
    return shop.mirror.sql("select position, keys from tailwater.fan_out")[0]


@pytest.mark.parametrize("many", [0, 5000])
def test_killed_again_and_again(start, many):
    """Only what is left is expanded; but a customer with too many for a statement has no position inside."""
    shop = start({"order": ORDER}, sql=SHOP.replace("12000", "400000").replace("(2000", "(900000")
                 + f"insert into orders select 1000000 + i, 7 from generate_series(1, {many}) i")
    since = shop.pipeline.clock()[0]
    shop.pipeline.stop()
    shop.source.sql(CHANGE)
    positions = [kill_after(shop, 3)[0] for _ in range(3)]
    shop.pipeline.start()
    shop.wait_expanded()
    assert len(set(shop.keys(since))) == 400000 + many
    if many:
        assert [int(customer) for _, customer in positions] == [6, 6, 6]
        assert 400000 + many < shop.counted(since) < 400000 + 4 * many
    else:
        assert 0 < int(positions[0][1]) < int(positions[1][1]) < int(positions[2][1])
        assert shop.counted(since) == 400000
    shop.pipeline.settle()


def test_killed_on_a_long_way(start):
    """How far it is, is known by the first table on the way: the country that was done is not done again."""
    shop = start({"order": {**ORDER, "dimensions": [*WAY, {
        "table": "public.regions", "join": "regions.id = countries.region_id", "fan_out": "defer"}]}}, sql="""
        create table regions (id int primary key, vat int);
        create table countries (id int primary key, region_id int);
        create table customers (id bigint primary key, country_id int);
        create table orders (id bigint primary key, customer_id bigint);
        insert into regions values (1, 1);
        insert into countries select i, 1 from generate_series(1, 4) i;
        insert into customers select i, 1 + i % 4 from generate_series(0, 399) i;
        insert into orders select i, i % 400 from generate_series(1, 400000) i""")
    since = shop.pipeline.clock()[0]
    shop.pipeline.stop()
    shop.source.sql("update regions set vat = 2")
    position, keys = kill_after(shop, 10)
    assert position == ["id integer", "1"] and 100000 < keys < 200000
    shop.pipeline.start()
    shop.wait_expanded()
    assert {key for key, in shop.mirror.sql("select id from tailwater.affected_order where batch_id > %s", since)} == \
        set(range(1, 400001))
    assert shop.counted(since) == 300000 + keys
    shop.pipeline.settle()


def test_a_position_of_another_key(start):
    """It tells nothing about the rows as they are ordered now: all of them are expanded."""
    shop = start({"order": ORDER}, sql=SHOP.replace("12000", "400000").replace("(2000", "(900000"))
    since = shop.pipeline.clock()[0]
    shop.pipeline.stop()
    shop.source.sql(CHANGE)
    kill_after(shop, 4)
    for wrong in ("{id integer,399}", "{399}", "{id bigint,shop text,399,a}"):
        shop.mirror.sql("update tailwater.fan_out set position = %s", wrong, user="postgres")
        assert int(kill_after(shop, 2)[0][1]) < 100
    shop.pipeline.start()
    shop.wait_expanded()
    assert set(shop.keys(since)) == {(i,) for i in range(1, 400001)}
    shop.pipeline.settle()
