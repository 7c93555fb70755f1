"""Facts: which keys a change puts into the ledger, and nothing else."""

import datetime
import signal

import pytest

from lib import wait
from lib.cluster import REPLICATOR
from lib.pipeline import FEEDS, FINDINGS, to_yaml

SHOP = """
    create table countries (id int primary key, name text, tax numeric);
    create table customers (id bigint primary key, country_id int, segment text, note text);
    create table orders (id bigint primary key, customer_id bigint, status text, amount numeric(12,2), body text,
                         created_at timestamptz);
    create table payments (id bigint primary key, order_id bigint, paid_at date);
    insert into countries select i, 'country ' || i, i from generate_series(1, 3) i;
    insert into customers select i, 1 + i % 3, 'a', 'n' from generate_series(1, 6) i;
    insert into orders select i, 1 + i % 6, 'new', i, 'b', '2024-03-30 22:30+00'::timestamptz + i * interval '1 h'
        from generate_series(1, 12) i;
    insert into payments select i, i, '2024-01-01' from generate_series(1, 12) i;
"""

ORDER = {
    "table": "public.orders", "key": ["id"], "watch": ["status", "amount", "customer_id"],
    "dimensions": [
        {"table": "public.payments", "join": "payments.order_id = orders.id", "watch": ["paid_at"]},
        {"table": "public.customers", "join": "customers.id = orders.customer_id", "watch": ["segment"]},
        {"table": "public.countries", "join": "countries.id = customers.country_id"},
    ]}

DAY = {"table": "public.orders", "key": {"day": "(created_at at time zone 'Europe/London')::date"}}


class Ledger:
    """A running pipeline, and what its ledger says of each step."""

    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror

    def now(self):
        return self.pipeline.clock()[0]

    def keys(self, fact, since=0, lane=None):
        """Key (a tuple where there are several columns) → the nodes that put it in, in order."""
        names = self.mirror.value("select key_names from tailwater.fact where name = %s", fact)
        columns = ", ".join(f'"{name}"' for name in names)
        found = {}
        for node, *key in self.mirror.sql(
                f"select distinct node, {columns} from tailwater.affected_{fact} where batch_id > %s "
                + ("" if lane is None else f"and lane = {lane} ") + "order by node", since):
            found.setdefault(key[0] if len(key) == 1 else tuple(key), []).append(node)
        return found

    def step(self, *statements, fact="order", how="in one transaction"):
        since = self.now()
        self.pipeline.feed(statements, how)
        return self.keys(fact, since)

    def everything(self, fact):
        return [row[0] for row in self.mirror.sql(
            "select reason from tailwater.everything where fact = %s order by batch_id", fact)]


@pytest.fixture
def ledger(source, make_pipeline):
    """Ledger(facts, sql): a pipeline that streams, with these facts."""
    def start(facts, sql=SHOP, **keys):
        source.sql(sql)
        pipeline = make_pipeline(facts=facts, **keys).publish()
        pipeline.start().wait_until_caught_up()
        return Ledger(pipeline)
    return start


# ---- the fact's own table ----

def test_own_keys(both_plugins, ledger):
    shop = ledger({"order": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount"]}})
    assert shop.everything("order") == ["the fact is new"]
    assert shop.keys("order") == {}, "copied rows give no keys"
    assert shop.step("insert into orders values (100, 1, 'new', 1, 'b', now())") == {100: [0]}
    assert shop.step("update orders set status = 'paid' where id in (100, 1)") == {100: [0], 1: [0]}
    assert shop.step("update orders set body = 'other', customer_id = 5") == {}, "not watched"
    assert shop.step("update orders set status = status") == {}, "not changed"
    assert shop.step("update orders set id = 101 where id = 100") == {100: [0], 101: [0]}
    assert shop.step("delete from orders where id in (101, 2)") == {101: [0], 2: [0]}
    assert shop.step("insert into orders values (102, 1)", "delete from orders where id = 102") == {}, "never there"
    assert shop.step("begin; delete from orders where id = 3; insert into orders values (3, 4, 'new', 3); commit") \
        == {}, "the same in what is watched"
    assert shop.step("begin; delete from orders where id = 3; insert into orders values (3, 4, 'old', 3); commit") \
        == {3: [0]}
    assert shop.everything("order") == ["the fact is new"]
    batches = shop.mirror.sql("select count(*), count(*) filter (where keys > 0), sum(keys) from tailwater.batch")
    assert batches == [(6, 5, 8)], "a row for each batch that wrote keys, and for the beginning"
    shop.pipeline.settle()


def test_dimensions(both_plugins, ledger):
    """Through each node, and two of them; old and new links both."""
    shop = ledger({"order": ORDER})
    of = {i: [o for o in range(1, 13) if 1 + o % 6 == i] for i in range(1, 7)}
    country = {c: sorted(o for i in of for o in of[i] if 1 + i % 3 == c) for c in (1, 2, 3)}

    assert shop.step("update payments set paid_at = '2025-01-01' where id = 7") == {7: [1]}
    assert shop.step("update payments set order_id = 8 where id = 7") == {7: [1], 8: [1]}
    assert shop.step("update payments set order_id = null where id = 7") == {8: [1]}
    assert shop.step("update payments set order_id = 9 where id = 7") == {9: [1]}
    assert shop.step("delete from payments where id = 7") == {9: [1]}
    assert shop.step("update payments set id = 70 where id = 6") == {6: [1]}
    assert shop.step("insert into payments values (99, 4, null), (98, null, null), (97, 4711, null)") == {4: [1]}

    assert shop.step("update customers set segment = 'b' where id = 2") == {o: [2] for o in of[2]}
    assert shop.step("update customers set note = 'x'") == {}
    assert shop.step("update customers set country_id = 3 where id = 6") == {o: [2] for o in of[6]}, "a link column"
    country = {c: sorted(o for i in of for o in of[i] if (3 if i == 6 else 1 + i % 3) == c) for c in (1, 2, 3)}
    assert shop.step("update customers set id = 20 where id = 4") == {o: [2] for o in of[4]}
    del country[2][:]
    country[2] = sorted(of[1])
    assert shop.step("update countries set tax = 7 where id = 2") == {o: [3] for o in country[2]}
    assert shop.step("update countries set tax = 7.00 where id = 2") == {o: [3] for o in country[2]}, "another image"
    assert shop.step("update countries set tax = 7.00 where id = 2") == {}
    assert shop.step("update orders set customer_id = 2 where id = 2",
                     "update customers set segment = 'c' where id = 2") \
        == {1: [2], 2: [0, 2], 7: [2]}, "reached as it is after the batch"
    shop.pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_all_of_a_path_at_once(ledger, how):
    """Every row of a path changes: some other way than the one of before and after may be needed."""
    shop = ledger({"order": ORDER}, plugin="pgoutput")
    got = shop.step("update countries set name = 'x' where id = 2",
                    "update customers set country_id = 1 where country_id = 2",
                    "update orders set customer_id = 5 where customer_id = 1",
                    "delete from customers where id = 1",
                    "delete from countries where id = 3", how=how)
    # 1 and 4 are customers of country 2; 2 and 5 of country 3
    for order in (1, 4, 7, 10, 6, 12, 3, 9):
        assert order in got, f"order {order} in {got}"
    shop.pipeline.settle()


def test_bridge_rows(ledger):
    """Many to many: the bridge is a dimension, what lies beyond it another."""
    fact = {"table": "public.orders", "key": ["id"], "watch": ["status"], "dimensions": [
        {"table": "public.promo", "join": "promo.id = bridge.promo"},
        {"table": "public.order_promo", "as": "bridge", "join": "bridge.order_id = orders.id"}]}
    shop = ledger({"order": fact}, sql=SHOP + """
        create table order_promo (order_id bigint, promo int, primary key (order_id, promo));
        create table promo (id int primary key, rate int); insert into promo values (1, 1), (2, 2);
        insert into order_promo values (1, 1), (2, 1), (3, 2)""")
    assert shop.step("update promo set rate = 5 where id = 1") == {1: [1], 2: [1]}
    assert shop.step("delete from order_promo where order_id = 2", "update promo set rate = 6 where id = 1") \
        == {1: [1], 2: [2]}
    assert shop.step("update order_promo set promo = 2") == {1: [2]}
    assert shop.step("update order_promo set order_id = 9 where order_id = 3") == {3: [2], 9: [2]}
    assert shop.step("delete from promo where id = 2", "delete from order_promo") == {1: [2], 9: [2]}
    shop.pipeline.settle()


def test_one_table_twice(ledger):
    """By two aliases, each with its own watch and its own node."""
    fact = {"table": "public.flights", "key": ["id"], "watch": ["id"], "dimensions": [
        {"table": "public.airports", "as": "origin", "join": "origin.code = flights.from_code", "watch": ["city"]},
        {"table": "public.airports", "as": "goal", "join": "goal.code = flights.to_code", "watch": ["tz"]}]}
    shop = ledger({"flight": fact}, sql="""
        create table airports (code text primary key, city text, tz text);
        create table flights (id int primary key, from_code text, to_code text);
        insert into airports values ('a"{1},''', 'A', 'x'), ('b\\,', 'B', 'y'), ('NULL', 'N', 'z');
        insert into flights values (1, 'a"{1},''', 'b\\,'), (2, 'b\\,', 'NULL'), (3, 'NULL', 'a"{1},''')""")
    step = lambda *statements: shop.step(*statements, fact="flight")
    assert step("update airports set city = 'AA' where city = 'A'") == {1: [1]}
    assert step("update airports set tz = 'xx' where city = 'AA'") == {3: [2]}
    assert step("update airports set tz = city, city = tz where city = 'N'") == {2: [2], 3: [1]}
    assert step("update airports set city = 'q'") == {1: [1], 2: [1], 3: [1]}
    shop.pipeline.settle()


def test_composite_keys_and_links(ledger):
    """Several columns, quotes, NULL in one of them, numbers that are equal and not alike."""
    fact = {"table": "public.lines", "key": ["Tenant ID", "n", "amount"], "watch": ["amount"], "dimensions": [
        {"table": "public.docs", "as": "d", "watch": ["title"],
         "join": ['"d".tenant = lines."Tenant ID"', "lines.doc = d.no"]}]}
    shop = ledger({"line": fact}, sql="""
        create table docs (tenant text, no numeric, title text, primary key (tenant, no));
        create table lines ("Tenant ID" text, n int, doc numeric, amount numeric, primary key ("Tenant ID", n));
        insert into docs values ('O''Brien "x"', 1, 't'), ('O''Brien "x"', 2, 't'), ('b', 1, 't');
        insert into lines values ('O''Brien "x"', 1, 1.0, 1), ('O''Brien "x"', 2, 2, 2), ('b', 1, 1.00, 1),
                                 ('b', 2, null, 1), ('b', 3, 1, null)""")
    step = lambda *statements: shop.step(*statements, fact="line")
    one = ('O\'Brien "x"', 1, 1)
    assert step("update docs set title = 'u' where tenant like 'O%' and no = 1") == {one: [1]}
    assert step("update docs set title = 'u' where tenant = 'b'") == {("b", 1, 1): [1]}, "a key with a NULL is none"
    assert step("update lines set amount = 1.0 where n = 1 and \"Tenant ID\" <> 'b'") == {one: [0]}, \
        "1 and 1.0: one key"
    assert step("update lines set amount = 3 where n = 2 and \"Tenant ID\" <> 'b'") == {
        ('O\'Brien "x"', 2, 2): [0], ('O\'Brien "x"', 2, 3): [0]}
    assert step("update lines set doc = 1 where n = 2 and \"Tenant ID\" = 'b'") == {("b", 2, 1): [0]}
    shop.pipeline.settle()


# Type, and pairs of values that differ: where two of them are =, to whoever looks at them.
WATCHED = [("numeric", "1.0", "1.00"), ("numeric(12,2)", "1", "2"), ("float8", "0", "'-0'"),
           ("int", "1", "2"), ("bool", "true", "false"), ("text", "'a'", "'a '"), ("varchar(3)", "'a'", "'A'"),
           ("char(3)", "'a'", "'b'"), ('text collate "C"', "'a'", "'b'"), ("text collate folded", "'a'", "'A'"),
           ("bytea", "'a'", "'b'"), ("uuid", "gen_random_uuid()", "gen_random_uuid()"), ("date", "'2024-01-01'", "'2024-01-02'"),
           ("timestamptz", "'2024-01-01'", "'2024-01-02'"), ("interval", "'1 day'", "'24:00'"), ("mood", "'sad'", "'ok'"),
           ("mood[]", "'{sad}'", "'{ok}'"), ("int[]", "'{1}'", "'[2:2]={1}'"), ("int4range", "'[1,3)'", "'[1,4)'"),
           ("json", """'{"a":1}'""", """'{"a": 1}'"""), ("jsonb", """'{"a":1.0}'""", """'{"a":1.00}'"""), ("point", "'(1,1)'", "'(1,2)'"),
           ("pair", "'(1,a)'", "'(1,b)'"), ("inet", "'10.0.0.1'", "'10.0.0.1/24'"), ("bit(3)", "'101'", "'100'")]


def test_a_watched_column_of_any_type(both_plugins, mirror, ledger):
    """What another value of it is, to whoever looks; also from NULL and to it.  A row as it was gives no key."""
    numbers = range(len(WATCHED))
    folded = "create collation folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    mirror.sql(folded)
    shop = ledger({"odd": {"table": "public.odd", "key": ["id"], "watch": [f"w{i}" for i in numbers]}}, sql=f"""
        create type mood as enum ('sad', 'ok');
        create type pair as (a int, b text);
        {folded}
        create table odd (id int primary key, {', '.join(f"w{i} {WATCHED[i][0]}" for i in numbers)}, note text);
        insert into odd (id, {', '.join(f"w{i}" for i in numbers)})
            select i, {', '.join(f"{WATCHED[i][1]}" for i in numbers)} from generate_series(0, 99) i;
        insert into odd (id) select i from generate_series(100, 199) i""")
    assert shop.step("update odd set note = 'unwatched'", *(f"update odd set w{i} = w{i}" for i in numbers), fact="odd") == {}
    assert shop.step(*(f"update odd set w{i} = {WATCHED[i][2]} where id = {i}" for i in numbers), fact="odd") == \
        {i: [0] for i in numbers}
    assert shop.step(*(f"update odd set w{i} = null where id = {i}" for i in numbers), fact="odd") == {i: [0] for i in numbers}
    assert shop.step(*(f"update odd set w{i} = {WATCHED[i][1]} where id = {100 + i}" for i in numbers), fact="odd") == \
        {100 + i: [0] for i in numbers}
    shop.pipeline.settle()


# ---- fan-out ----

def fan_outs(shop):
    return shop.mirror.sql("select fact, node, asked from tailwater.fan_out order by id")


def wait_expanded(shop, deadline=30):
    wait.until(lambda: not fan_outs(shop), lambda: f"{fan_outs(shop)}\n{shop.pipeline.log_tail()}", deadline)


def complete(shop, fact="order"):
    return shop.mirror.sql("select batch_id, lsn::text from tailwater.fan_out_complete(%s)", fact)[0]


def test_fan_out_limit(both_plugins, ledger):
    """Counted in rows of one hop: at the limit in the batch, above it later, in a lane of its own."""
    shop = ledger({"order": ORDER}, ledger={"fan_out_limit": 4})
    shop.source.sql("insert into orders select i, 2 from generate_series(13, 14) i")
    shop.pipeline.wait_until_caught_up()
    since = shop.now()
    assert shop.step("update customers set segment = 'b' where id = 2") == {o: [2] for o in (1, 7, 13, 14)}
    assert shop.keys("order", since, lane=1) == {}
    shop.source.sql("insert into orders values (15, 2)")
    shop.pipeline.wait_until_caught_up()
    since = shop.now()
    shop.step("update customers set segment = 'c' where id = 2")
    wait_expanded(shop)
    assert shop.keys("order", since) == shop.keys("order", since, lane=1) == {o: [2] for o in (1, 7, 13, 14, 15)}
    now = shop.now()  # a heartbeat may move both
    assert complete(shop)[0] >= now
    kinds = dict(shop.mirror.sql("select kind, sum(keys)::int from tailwater.batch where batch_id > %s group by 1", since))
    assert kinds == {"stream": 0, "fan-out": 5}
    shop.pipeline.settle()


def test_deferred(ledger):
    """fan_out: defer; through several tables; the state of the mirror when it is expanded is what counts."""
    fact = {**ORDER, "dimensions": [{**d, "fan_out": "defer"} for d in ORDER["dimensions"]]}
    shop = ledger({"order": fact}, plugin="pgoutput")
    since = shop.now()
    shop.step("update countries set tax = 9 where id = 3")
    wait_expanded(shop)
    assert shop.keys("order", since) == {o: [3] for o in (1, 4, 7, 10)}
    since = shop.now()
    shop.step("update payments set order_id = 2 where id = 1", "update customers set country_id = 1 where id = 2")
    wait_expanded(shop)
    assert shop.keys("order", since, lane=1) == {1: [1, 2], 2: [1], 7: [2]}
    assert shop.keys("order", since, lane=0) == {}
    shop.pipeline.settle()


@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("point", ["fan_out_after_begin", "fan_out_announced", "fan_out_after_page",
                                   "fan_out_before_end"])
def test_expander_stops_at_a_point(source, ledger, point, action):
    shop = ledger({"order": {**ORDER, "dimensions": [{**ORDER["dimensions"][1], "fan_out": "defer"}]}},
                  plugin="pgoutput")
    pipeline = shop.pipeline
    source.sql("insert into orders select i, 2 from generate_series(13, 3500) i")
    pipeline.wait_until_caught_up()
    pipeline.stop()
    since = shop.now()
    source.sql("update customers set segment = 'b' where id = 2")
    pipeline.start(fault=f"{point}={action}")
    if action == "kill":
        assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
        batch, lsn = complete(shop)
        assert batch < pipeline.clock()[0] and fan_outs(shop), "incomplete, and says so"
        pipeline.start()
    pipeline.wait_until_caught_up()
    wait_expanded(shop)
    assert set(shop.keys("order", since, lane=1)) == {1, 7, *range(13, 3501)}
    if action == "error":
        assert point in pipeline.this_run(), f"{point} was not reached\n{pipeline.log_tail()}"
    pipeline.settle()


def test_expansion_goes_on_from_its_position(source, ledger):
    """Killed in the third page: the first two, a thousand rows and two thousand, are not written again."""
    shop = ledger({"order": {**ORDER, "dimensions": [{**ORDER["dimensions"][1], "fan_out": "defer"}]}},
                  plugin="pgoutput")
    source.sql("insert into orders select i, 2 from generate_series(13, 4500) i")
    shop.pipeline.wait_until_caught_up()
    shop.pipeline.stop()
    since = shop.now()
    source.sql("update customers set segment = 'b' where id = 2")
    shop.pipeline.start(fault="fan_out_announced:3=kill")
    assert shop.pipeline.wait_exit(60) == -9
    assert shop.mirror.value("select position[2]::int from tailwater.fan_out") == 3010
    shop.pipeline.start()
    wait_expanded(shop)
    counts = dict(shop.mirror.sql("select c, count(*)::int from (select id, count(*)::int c from tailwater.affected_order "
                                  "where batch_id > %s group by 1) x group by 1", since))
    assert counts == {1: 4490}
    shop.pipeline.settle()


def test_applying_goes_on_while_expanding(source, mirror, ledger):
    """Between two pages nothing is held: batches are applied, and numbered in between."""
    shop = ledger({"order": {**ORDER, "dimensions": [{**ORDER["dimensions"][1], "fan_out": "defer"}]}},
                  plugin="pgoutput")
    source.sql("insert into orders select i, 2 from generate_series(13, 2500) i")
    shop.pipeline.wait_until_caught_up()
    shop.pipeline.stop()
    since = shop.now()
    shop.pipeline.start(fault="fan_out_after_page=stall:8000")
    source.sql("update customers set segment = 'b' where id = 2")
    wait.until(lambda: mirror.value("select max(keys) from tailwater.fan_out"), "a page is written")
    source.sql("update orders set status = 'meanwhile' where id = 5")
    shop.pipeline.wait_until_caught_up(deadline=5)
    assert shop.keys("order", since, lane=0) == {5: [0]}
    assert fan_outs(shop), "not done yet"
    assert complete(shop)[0] < shop.now()
    wait_expanded(shop)
    assert len(shop.keys("order", since, lane=1)) == 2490
    shop.pipeline.settle()


def test_equal_entries_merge(source, mirror, ledger):
    """Only into one that has not begun: while the expander cannot get at it, a hot row costs one entry."""
    shop = ledger({"order": {**ORDER, "dimensions": [{**ORDER["dimensions"][1], "fan_out": "defer"}]}},
                  plugin="pgoutput")
    since = shop.now()
    with mirror.transaction() as cursor:
        cursor.execute("lock table tailwater.ledger_order in share mode")  # keys cannot be written
        for i in range(5):
            source.sql(f"update customers set segment = '{i}' where id = 2")
            shop.pipeline.wait_until_caught_up()
            wait.until(lambda: mirror.value("select count(*) from tailwater.fan_out where begun_at is not null") == 1,
                       lambda: str(fan_outs(shop)))
        begun, waiting = fan_outs(shop)
        assert (begun[2], waiting[2]) == (1, 4), "one is begun, one stands for all later ones"
        assert complete(shop)[0] == since
    wait_expanded(shop)
    assert shop.keys("order", since, lane=1) == {1: [1], 7: [1]}
    shop.pipeline.settle()


def test_pieces_leave_what_memory_does_not_hold(source, ledger):
    """A transaction in pieces that changes more of a dimension than is kept for the end."""
    shop = ledger({"order": ORDER}, plugin="pgoutput", apply={"max_rows": 2000})
    source.sql("insert into customers select i, 1, repeat('x', 10) from generate_series(100, 6000) i;"
               "insert into orders select i, 100 + i % 5000, 'new' from generate_series(100, 12000) i")
    shop.pipeline.wait_until_caught_up()
    since = shop.now()
    source.sql("begin; update customers set segment = 'y' where id >= 100; update orders set status = 'x' "
               "where id between 200 and 5300; commit")
    shop.pipeline.wait_until_caught_up()
    wait_expanded(shop, 60)
    assert set(shop.keys("order", since)) == set(range(100, 12001))
    shop.pipeline.settle()


# ---- kinds of change ----

@pytest.mark.parametrize("purge", ["0", "7d", "never"])
def test_rows_come_and_go(both_plugins, ledger, purge):
    """With and without tombstones: what counts is whether a row is live."""
    shop = ledger({"order": ORDER}, purge={"after": purge})
    assert shop.step("delete from orders where id = 1") == {1: [0]}
    assert shop.step("delete from orders where id = 4711") == {}
    assert shop.step("insert into orders values (1, 2, 'new', 1)") == {1: [0]}, "it is back"
    assert shop.step("delete from orders where id = 1", "insert into orders values (1, 2, 'new', 1)") == {}
    assert shop.step("delete from customers where id = 2") == {1: [2], 7: [2]}
    assert shop.step("delete from orders where id = 7") == {7: [0]}
    assert shop.step("insert into customers values (2, 1, 'a')") == {1: [2]}, "7 is not live"
    assert shop.step("begin; insert into customers values (50, 1); update orders set customer_id = 50 where id = 3;"
                     "delete from customers where id = 50; commit") == {3: [0]}
    shop.pipeline.settle()


@pytest.mark.parametrize("purge", ["0", "7d"])
def test_bulks(ledger, purge):
    """Copied in, updated and deleted by thousands: every key, from every way that rows are written."""
    shop = ledger({"order": ORDER, "order_day": DAY}, plugin="pgoutput", purge={"after": purge},
                  ledger={"fan_out_limit": 100000})
    many = range(10000, 14000)
    assert set(shop.step("insert into orders select i, 1 + i % 6, 'new', 1, 'b', '2024-01-01' from "
                         "generate_series(10000, 13999) i")) == set(many)
    assert set(shop.step("insert into orders select i, 1, 'again', 1, 'b', '2024-01-01' from "
                         "generate_series(9000, 13999) i on conflict (id) do update set status = 'x'")) \
        == set(range(9000, 14000))
    assert set(shop.step("update customers set segment = 'z' where id = 1")) == {
        6, 12, *range(9000, 10000), *(o for o in many if 1 + o % 6 == 1)}
    got = shop.step("delete from orders where id >= 9000", fact="order_day")
    assert got == {datetime.date(2024, 1, 1): [0]}
    assert shop.mirror.value("select count(*) from tailwater.fan_out") == 0
    shop.pipeline.settle()


@pytest.mark.parametrize("purge", ["0", "7d"])
def test_keys_of_many_rows(both_plugins, ledger, purge):
    """They are copied: each once, under its batch's number, of columns that come in another order; and so is what the batch
    says of itself.  Beside them a fact whose keys cannot be."""
    facts = {"line": {"table": "public.lines", "key": ["n", "day", "doc"], "watch": ["amount"]},
             "word": {"table": "public.lines", "key": ["word"], "watch": ["amount"]},
             "name": {"table": "public.names", "key": ["name"]}}
    shop = ledger(facts, purge={"after": purge}, apply={"max_rows": 2500}, sql="""
        create table lines (doc uuid, n bigint, day date, amount int, word text, primary key (doc, day, n));
        create table names (name text primary key, a int)""")

    def step(*statements):
        since = shop.now()
        shop.pipeline.feed(statements, "in one transaction")
        written = {fact: shop.mirror.value(f"select count(*) from tailwater.affected_{fact} where batch_id > %s", since)
                   for fact in facts}
        assert shop.mirror.value("select sum(keys) from tailwater.batch where batch_id > %s", since) == sum(written.values())
        assert shop.mirror.value("select count(*) from tailwater.affected_line l left join tailwater.batch b using (batch_id) "
                                 "where b.batch_id is null") == 0
        return written, {key[0] for key in shop.keys("line", since)}

    made, keys = step("insert into lines select gen_random_uuid(), i, '2024-01-01', 1, 'w' || i % 7 from "
                      "generate_series(1, 6000) i", r"insert into names select E'a\tb\n' || i from generate_series(1, 1500) i")
    assert made["line"] == 6000 and made["name"] == 1500 and keys == set(range(1, 6001))
    changed, keys = step("update lines set amount = 2 where n > 2000", "update lines set word = 'x' where n <= 2000")
    assert changed["line"] == 4000 and keys == set(range(2001, 6001)), "a column that nobody watches"
    gone, keys = step("delete from lines where n <= 5000", "update lines set amount = 3 where n > 5000",
                      "delete from names")
    assert gone["line"] == 6000 and gone["name"] == 1500 and keys == set(range(1, 6001))
    assert shop.mirror.sql(r"select name from tailwater.affected_name except select E'a\tb\n' || i from "
                           "generate_series(1, 1500) i") == []
    shop.pipeline.settle()


def test_truncate(both_plugins, ledger):
    """Everything, for each fact that has the table somewhere; keys of later rows all the same."""
    shop = ledger({"order": ORDER, "order_day": DAY})
    since = shop.now()
    shop.pipeline.feed(["begin; truncate customers; insert into customers values (3, 1, 'x'); commit"], "one by one")
    assert shop.everything("order") == ["the fact is new", "public.customers was truncated"]
    assert shop.everything("order_day") == ["the fact is new"]
    assert shop.keys("order", since) == {2: [2], 8: [2]}
    assert shop.mirror.value("select count(*) from tailwater.batch where batch_id > %s", since) == 1
    shop.step("truncate orders", "truncate payments")
    assert len(shop.everything("order_day")) == 2 and len(shop.everything("order")) == 3
    shop.pipeline.settle()


def test_unchanged_toast(both_plugins, ledger):
    """A link in a row whose large value was not sent; a watched large value that was not."""
    fact = {"table": "public.docs", "key": ["id"], "watch": ["body"], "dimensions": [
        {"table": "public.owners", "join": "owners.name = docs.owner", "watch": ["city"]}]}
    shop = ledger({"doc": fact}, sql="""
        create table owners (name text primary key, city text, photo text);
        create table docs (id int primary key, owner text, body text, n int);
        alter table docs alter body set storage external, alter owner set storage external;
        alter table owners alter photo set storage external;
        insert into owners select repeat(chr(96 + i), 3000), 'here', repeat('p', 5000) from generate_series(1, 3) i;
        insert into docs select i, repeat(chr(97 + i % 3), 3000), repeat('b', 9000), 0 from generate_series(1, 6) i""")
    step = lambda *statements: shop.step(*statements, fact="doc")
    assert step("update docs set n = 1") == {}
    assert step("update docs set n = 2, id = 10 where id = 1") == {1: [0], 10: [0]}
    assert step("update owners set city = 'there' where name like 'b%'") == {4: [1], 10: [1]}
    assert step("update docs set body = repeat('c', 9000) where id = 2") == {2: [0]}
    assert step("update owners set name = repeat('x', 4000) where name like 'a%'") == {3: [1], 6: [1]}
    shop.pipeline.settle()


def test_days_in_a_time_zone(ledger):
    """Old day and new day; the night in which the clocks change; the server's own zone does not matter."""
    shop = ledger({"order_day": DAY}, plugin="pgoutput")
    shop.mirror.sql("alter role tailwater set timezone = 'Asia/Tokyo'")
    step = lambda *statements: [str(day) for day in sorted(shop.step(*statements, fact="order_day"))]
    put = "insert into orders (id, created_at) values ({}, '{}')"
    assert step(put.format(100, "2024-03-31 00:59:59+00")) == ["2024-03-31"]
    assert step(put.format(101, "2024-03-30 23:59:59+00")) == ["2024-03-30"]
    assert step(put.format(102, "2024-03-31 23:00:00+00")) == ["2024-04-01"], "summer time since 01:00"
    assert step(put.format(103, "2024-10-27 00:30+00"), put.format(104, "2024-10-26 23:00+00"),
                put.format(105, "2024-10-26 22:59+00")) == ["2024-10-26", "2024-10-27"]
    assert step("update orders set created_at = '2020-02-29 12:00+00' where id = 100") == ["2020-02-29", "2024-03-31"]
    assert step("update orders set created_at = null where id = 100") == ["2020-02-29"]
    shop.pipeline.settle()


def test_repaired_rows(source, mirror, ledger):
    """A row that the stream could not complete gives its keys when it is fetched; so does a dimension's."""
    fact = {"table": "public.docs", "key": ["id"], "watch": ["n", "owner"], "dimensions": [
        {"table": "public.owners", "join": "owners.id = docs.owner"}]}
    shop = ledger({"doc": fact}, plugin="pgoutput", sql="""
        create table owners (id int primary key, city text, photo text);
        create table docs (id int primary key, owner int, n int, body text);
        alter table docs alter body set storage external; alter table owners alter photo set storage external;
        insert into owners select i, 'here', repeat('p', 5000) from generate_series(1, 3) i;
        insert into docs select i, 1 + i % 3, 0, repeat('b', 9000) from generate_series(1, 6) i""")
    mirror.sql("delete from mirror_public.docs where id = 2; delete from mirror_public.owners where id = 1")
    since = shop.now()
    source.sql("begin; update docs set n = 1 where id = 2; update owners set city = 'there' where id = 1; commit")
    wait.until(lambda: len(shop.keys("doc", since)) == 3, lambda: f"{shop.keys('doc', since)}", deadline=30)
    assert shop.keys("doc", since) == {2: [0], 3: [1], 6: [1]}
    assert {kind for kind, in mirror.sql("select kind from tailwater.batch where batch_id > %s and keys > 0", since)} \
        == {"repair"}
    shop.pipeline.settle()


# ---- declarations ----

def findings(pipeline, name="fact"):
    result = pipeline.verb("check", "--json")
    return result.code, [f for f in result.json()["findings"] if f["name"] == name]


REFUSED = {
    "not mirrored": ({"table": "public.oders", "key": ["id"]}, "public.oders is not mirrored"),
    "no such column": ({"table": "public.orders", "key": ["di"]}, "public.orders has no column di"),
    "excluded": ({"table": "public.orders", "key": ["secret"]}, "is excluded or generated"),
    "generated": ({"table": "public.orders", "key": ["id"], "watch": ["twice"]}, "is excluded or generated"),
    "masked": ({"table": "public.orders", "key": ["id"], "watch": ["phone"]}, "is masked"),
    "masked, in an expression": ({"table": "public.orders", "key": {"p": "lower(phone)"}}, "masked column"),
    "stable": ({"table": "public.orders", "key": {"day": "created_at::date"}}, "IMMUTABLE"),
    "two tables": ({"table": "public.orders", "key": {"c": "customers.segment"}, "dimensions": [
        {"table": "public.customers", "join": "customers.id = orders.customer_id"}]}, "customers"),
    "whole row": ({"table": "public.orders", "key": {"r": "(orders is null)"}}, "as a whole"),
    "constant": ({"table": "public.orders", "key": {"one": "1"}}, "reads no column"),
    "no order": ({"table": "public.orders", "key": ["doc"]}, "operator class"),
    "subquery": ({"table": "public.orders", "key": {"s": "(select 1)"}}, "subquery"),
    "types": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.customers", "join": "customers.segment = orders.customer_id"}]}, "do not compare"),
    "a circle": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.customers", "as": "a", "join": "a.id = b.country_id"},
        {"table": "public.customers", "as": "b", "join": "b.id = a.country_id"}]}, "circle"),
    "two parents": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.customers", "join": "customers.id = orders.customer_id"},
        {"table": "public.payments", "join": ["payments.order_id = orders.id", "payments.id = customers.id"]}]},
        "is joined to orders and to customers"),
    "unknown node": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.customers", "join": "customers.id = order.customer_id"}]}, "order is no table of this fact"),
    "twice": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.orders", "join": "orders.id = orders.id"}]}, "orders is there twice"),
    "array": ({"table": "public.orders", "key": ["id"], "dimensions": [
        {"table": "public.customers", "join": "customers.ids = orders.ids"}]}, "arrays and composite"),
}


def test_what_is_refused(source, mirror, make_pipeline):
    """By check, with its place, and by run, before anything is made."""
    source.sql("""
        create table customers (id bigint primary key, country_id int, segment text, ids int[]);
        create table payments (id bigint primary key, order_id bigint);
        create table orders (id bigint primary key, customer_id bigint, secret text, phone text, doc json, ids int[],
                             n int, twice int generated always as (n * 2) stored, created_at timestamptz)""")
    pipeline = make_pipeline(plugin="wal2json", tables=[
        "public.*", {"name": "public.orders", "exclude": ["secret"], "mask": {"phone": "hash"}}])
    for what, (fact, message) in REFUSED.items():
        pipeline.keys["facts"] = {"f": fact}
        pipeline.write_config()
        code, found = findings(pipeline)
        assert code == FINDINGS, what
        errors = [f for f in found if f["level"] == "error"]
        assert len(errors) == 1 and message in errors[0]["what"], f"{what}: {found}"
        assert "tailwater.yaml:" in errors[0]["what"]
        assert "fact f: " in errors[0]["what"]
    assert pipeline.verb("run", "--until", "now").code == FINDINGS
    assert mirror.value("select to_regclass('tailwater.pipeline')") is None or \
        mirror.value("select count(*) from tailwater.pipeline") == 0
    # With the place of the part that it is about, and the remedy.
    text = to_yaml({key: value for key, value in pipeline.config().items() if key != "facts"})
    pipeline.write_config(text + """
facts:
  f:
    table: public.orders
    key:
      n: n
      day: created_at::date
""")
    code, found = findings(pipeline)
    (error,) = [f for f in found if f["level"] == "error"]
    assert f"tailwater.yaml:{text.count(chr(10)) + 7}:12: fact f: its key day is refused" in error["what"], error
    assert "at time zone" in error["remedy"]
    pipeline.keys["facts"] = {"f": {"table": "public.orders", "key": {"day": "(created_at at time zone 'UTC')::date"}}}
    pipeline.write_config()
    code, found = findings(pipeline)
    assert code == 0 and [f["level"] for f in found] == ["ok"], found


def test_a_name_that_another_pipeline_has(source, mirror, make_pipeline):
    """Refused before anything is made or copied."""
    source.sql(SHOP)
    own = {"table": "public.orders", "key": ["id"]}
    make_pipeline(plugin="pgoutput", facts={"f": own}).publish().run_until_now()
    other = make_pipeline(name="another", plugin="pgoutput", tables=["public.orders"], facts={"f": own},
                          mirror={"table_schema": "elsewhere_{schema}", "view_schema": "views_{schema}"})
    code, found = findings(other, "fact")
    assert code == FINDINGS and len(found) == 1 and "has a fact of that name" in found[0]["what"], found
    assert "unique in a mirror database" in found[0]["remedy"]
    assert other.verb("run", "--until", "now").code == FINDINGS
    assert mirror.value("select count(*) from tailwater.pipeline") == 1


WITHOUT_WATCH = {"table": "public.orders", "key": ["id"], "dimensions": [
    {"table": "public.customers", "join": "customers.grp = orders.id"}]}


def test_a_column_that_the_mirror_does_not_have(source, make_pipeline):
    """The fact is refused with the reason, by check, at a reload, and at the start; where changes are followed it waits for it."""
    source.sql(SHOP)
    pipeline = make_pipeline(plugin="pgoutput", schema_changes="stop").publish()
    pipeline.start().wait_until_caught_up()
    assert findings(pipeline, "fact") == (0, [])
    source.sql("alter table customers add column grp int")
    pipeline.keys["facts"] = {"order": WITHOUT_WATCH}
    pipeline.write_config()
    code, found = findings(pipeline, "fact")
    assert code == FINDINGS and "has no column grp yet" in found[0]["what"] and "{add_column: apply}" in found[0]["remedy"], found
    pipeline.signal(signal.SIGHUP)
    pipeline.wait_log(r"\[reload_failed\]")
    assert "has no column grp yet" in pipeline.this_run()
    assert pipeline.process.poll() is None
    pipeline.stop()
    code = pipeline.verb("run", "--until", "now")
    assert code.code == FINDINGS and "has no column grp yet" in code.text, code
    del pipeline.keys["facts"]
    pipeline.write_config()
    pipeline.start().wait_until_caught_up()
    pipeline.keys |= {"facts": {"order": WITHOUT_WATCH}, "schema_changes": {"add_column": "apply"}}
    pipeline.write_config()
    assert findings(pipeline, "fact")[0] == 0
    pipeline.signal(signal.SIGHUP)
    pipeline.wait_log(r"fact order is new")
    wait.until(lambda: not pipeline.mirror.value("select count(*) from tailwater.mirror_table where quarantine_lsn is not null"),
               pipeline.log_tail)
    source.sql("update customers set grp = 3 where id = 3")
    pipeline.wait_until_caught_up()
    assert pipeline.mirror.sql("select id::int, node from tailwater.affected_order") == [(3, 1)]
    pipeline.settle()


@pytest.mark.parametrize("how, reasons", [
    ("select tailwater.drop_fact('order')", ["the fact is new"]),
    ("drop table tailwater.ledger_order cascade", ["the fact is new", "its ledger was gone"])])
def test_a_fact_that_is_dropped_and_declared(ledger, how, reasons):
    """Made anew when it is missed, with everything; what was said is no advice to destroy anything."""
    shop = ledger({"order": ORDER})
    shop.mirror.sql(how, user=REPLICATOR)
    shop.source.sql("update orders set status = 'far' where id = 5")
    shop.pipeline.wait_until_caught_up()
    assert shop.everything("order") == reasons
    said = shop.pipeline.this_run()
    assert "the ledger of a declared fact was dropped, and is made anew" in said and "destroy" not in said
    assert shop.mirror.value("select count(*) from tailwater.mirror_table where quarantine_lsn is not null") == 0
    assert shop.step("update orders set status = 'near' where id = 5") == {5: [0]}
    shop.pipeline.settle()


def test_indexes_of_hops(source, mirror, make_pipeline):
    """Made where a hop needs one and none is there; with indexes: none check says which."""
    source.sql(SHOP + "create index on customers (country_id, id)")
    pipeline = make_pipeline(plugin="wal2json", facts={"order": ORDER}, mirror={"indexes": "none"})
    code, found = findings(pipeline, "fact_index")
    assert code == 0
    assert sorted(f["remedy"] for f in found) == [
        'on the mirror: create index on "mirror_public"."customers" ("country_id")',
        'on the mirror: create index on "mirror_public"."orders" ("customer_id")']
    pipeline.keys["mirror"] = {}
    pipeline.write_config()
    pipeline.run_until_now()
    made = "select tablename, indexdef from pg_indexes where schemaname = 'mirror_public' order by 1, 2"
    definitions = [row[1].partition(" USING ")[2] for row in mirror.sql(made)]
    assert "btree (customer_id)" in definitions and "btree (country_id, id)" in definitions
    assert "btree (country_id)" not in definitions, "the source's serves"
    before = mirror.sql(made)
    pipeline.run_until_now()
    assert mirror.sql(made) == before


def test_facts_of_a_running_pipeline(source, mirror, make_pipeline):
    """New, changed, gone and back: each begins with everything, and keys follow."""
    source.sql(SHOP)
    pipeline = make_pipeline(plugin="pgoutput").publish()
    pipeline.run_until_now()

    def restart(**facts):
        pipeline.keys["facts"] = facts
        pipeline.write_config()
        pipeline.run_until_now()
        return mirror.sql("select f.name, f.generation, f.suspended is null, (select string_agg(reason, '; ' order by "
                          "batch_id) from tailwater.everything e where e.fact = f.name and e.generation = f.generation) "
                          "from tailwater.fact f order by 1")

    own = {"table": "public.orders", "key": ["id"]}
    assert restart(a=own) == [("a", 1, True, "the fact is new")]
    assert restart(a=own) == [("a", 1, True, "the fact is new")]
    source.sql("update orders set amount = 5 where id = 1")
    wider = {**own, "key": {"id": "id", "day": "(created_at at time zone 'UTC')::date"}}
    assert restart(a=wider, b=own) == [("a", 2, True, "its definition changed"), ("b", 1, True, "the fact is new")]
    assert mirror.value("select count(*) from tailwater.affected_a") == 1, "of the new shape; keys of 1 follow"
    assert restart(b={**own, "watch": ["status"]}) == [
        ("a", 2, False, "its definition changed"), ("b", 2, True, "its definition changed")]
    source.sql("update orders set status = 'z' where id = 2")
    back = restart(a=wider, b={**own, "watch": ["status"]})
    assert back[0] == ("a", 2, True, "its definition changed; it was suspended: it is no longer in the configuration")
    assert mirror.sql("select id::int from tailwater.affected_b where batch_id > 1 and id = 2") == [(2,)]
    pipeline.settle_stopped()


def test_a_former_ledger_that_is_being_read(source, mirror, make_pipeline):
    """The key changed, and a reader keeps the old ledger: the start does not wait for it, other facts get their keys, and
    the fact follows when the reader is done."""
    source.sql(SHOP)
    own = {"table": "public.orders", "key": ["id"]}
    pipeline = make_pipeline(plugin="pgoutput", facts={"a": own, "b": own}).publish()
    pipeline.run_until_now()
    mirror.sql("select tailwater.subscribe('crm', 'a')")
    source.sql("update orders set status = 'x' where id = 1")
    pipeline.run_until_now()
    pipeline.keys["facts"] = {"a": {**own, "key": ["id", "customer_id"]}, "b": own}
    pipeline.write_config()
    suspended = "select suspended from tailwater.fact where name = 'a'"
    with mirror.transaction() as reader:
        reader.execute("select claim_id from tailwater.claim('crm', 'a')")
        (claim_id,) = reader.fetchone()
        reader.execute("select * from tailwater.keys_a('crm')")
        assert reader.fetchall() == [(1,)]
        pipeline.start()
        wait.until(lambda: mirror.value(suspended), pipeline.log_tail, deadline=20)
        assert "somebody still reads" in mirror.value(suspended)
        source.sql("update orders set status = 'y' where id = 2")
        pipeline.wait_until_caught_up()
        assert mirror.sql("select id from tailwater.affected_b order by id") == [(1,), (2,)]
        assert "suspended: its key changed" in pipeline.ok("ledger", "status").out
        pipeline.stop()
        source.sql("update orders set status = 'y' where id = 4")
        pipeline.start().wait_until_caught_up(deadline=20)  # a restart finds the same
        assert "somebody still reads" in mirror.value(suspended)
        reader.execute("select tailwater.ack('crm', 'a', %s)", (claim_id,))
    wait.until(lambda: mirror.value(suspended) is None, pipeline.log_tail)
    assert mirror.value("select generation from tailwater.fact where name = 'a'") == 2
    source.sql("update orders set status = 'z' where id = 3")
    pipeline.wait_until_caught_up()
    assert mirror.sql("select id, customer_id from tailwater.affected_a") == [(3, 4)]
    assert mirror.sql("select everything from tailwater.claim('crm', 'a')") == [(True,)]
    assert mirror.value("select count(*) from tailwater.everything where fact = 'a' and generation = 2") == 1
    pipeline.settle()


def test_limits_are_no_new_generation(source, mirror, make_pipeline):
    source.sql(SHOP)
    pipeline = make_pipeline(plugin="wal2json", facts={"order": ORDER})
    pipeline.run_until_now()
    pipeline.keys["facts"] = {"order": {**ORDER, "dimensions": [
        {**d, "fan_out": "defer", "fan_out_limit": 7} for d in ORDER["dimensions"]]}}
    pipeline.write_config()
    pipeline.run_until_now()
    assert mirror.value("select generation from tailwater.fact") == 1


# ---- a key that cannot be computed ----

@pytest.mark.parametrize("way", ["own", "hop", "fan_out"])
def test_failing_expression_suspends_the_fact(source, mirror, ledger, way):
    """The fact, and not its table; everything once it is mended."""
    bad = {"table": "public.orders", "key": {"share": "(100 / amount)::int"}, "dimensions": [
        {**ORDER["dimensions"][1], "fan_out": "defer" if way == "fan_out" else "auto"}]}
    shop = ledger({"bad": bad, "order": ORDER}, plugin="pgoutput")
    pipeline = shop.pipeline
    if way != "own":
        pipeline.stop()
        # A row that cannot be: nobody looked at it when it was copied.
        source.sql("update orders set amount = 0 where id = 1")
        pipeline.keys["facts"] = {"order": ORDER}
        pipeline.write_config()
        pipeline.run_until_now()
        pipeline.keys["facts"] = {"bad": bad, "order": ORDER}
        pipeline.write_config()
        pipeline.start().wait_until_caught_up()
    since = shop.now()
    source.sql("update orders set amount = 0, status = 'zero' where id = 3" if way == "own"
               else "update customers set segment = 'zero' where id = 2")
    pipeline.wait_until_caught_up()
    wait.until(lambda: mirror.value("select suspended from tailwater.fact where name = 'bad'"),
               lambda: f"suspended\n{pipeline.log_tail()}")
    assert "division by zero" in mirror.value("select suspended from tailwater.fact where name = 'bad'")
    assert set(shop.keys("order", since)) == ({3} if way == "own" else {1, 7}), "others get theirs"
    source.sql("update orders set status = 'later' where id = 4")
    pipeline.wait_until_caught_up()
    assert set(shop.keys("order", since)) >= {4}
    assert "fact_suspended" in pipeline.events()
    pipeline.compare()
    source.sql("update orders set amount = 1 where amount = 0")
    pipeline.wait_until_caught_up()
    pipeline.stop()
    pipeline.start()
    wait.until(lambda: "division by zero" in shop.everything("bad")[-1], lambda: str(shop.everything("bad")))
    pipeline.wait_until_caught_up()
    assert shop.step("update orders set amount = 25 where id = 3", fact="bad") \
        == {100 if way == "own" else 33: [0], 4: [0]}
    pipeline.settle()


def test_a_refused_row_is_the_tables_trouble(source, mirror, ledger):
    """Not its facts': the table is quarantined, and no fact is suspended."""
    shop = ledger({"order_day": DAY, "order": ORDER}, plugin="pgoutput")
    mirror.sql("alter table mirror_public.orders add constraint small check (amount < 1000)")
    source.sql("update orders set amount = 5000, created_at = '2020-01-01' where id = 3")
    shop.pipeline.wait_log("quarantined", deadline=60)
    source.sql("update customers set segment = 'q' where id = 2")
    shop.pipeline.wait_until_caught_up()
    assert mirror.sql("select name from tailwater.fact where suspended is not null") == []
    assert "fact_suspended" not in shop.pipeline.events()
    assert set(shop.keys("order")) == {1, 7}, "what reaches it goes on"


# ---- quarantine ----

REPORT = """
    select o.id, o.status, o.amount, c.segment, n.name, (select max(p.paid_at) from payments p where p.order_id = o.id)
      from orders o left join customers c on c.id = o.customer_id left join countries n on n.id = c.country_id"""


class Report:
    """What a consumer keeps of REPORT, by the keys that it gets."""

    def __init__(self, mirror):
        self.mirror, self.rows = mirror, {}
        mirror.sql("select tailwater.subscribe('report', 'order', start => 'all')")
        self.refresh()

    def refresh(self):
        """Every window there is; the keys of all of them."""
        refreshed = set()
        while window := self.mirror.sql("select claim_id, everything from tailwater.claim('report', 'order')"):
            (claim_id, everything), = window
            keys = set(self.rows) | set(self.everything()) if everything else \
                {key for key, in self.mirror.sql("select * from tailwater.keys_order('report')")}
            now = self.everything(list(keys))
            self.rows = {key: row for key, row in {**self.rows, **now}.items() if key in now or key not in keys}
            refreshed |= keys
            self.mirror.sql("select tailwater.ack('report', 'order', %s)", claim_id)
        return refreshed

    def everything(self, keys=None):
        return {row[0]: row for row in self.mirror.sql(
            REPORT + ("" if keys is None else " where o.id = any (%s)"), *([] if keys is None else [keys]))}

    def is_right(self):
        return self.rows == self.everything()


def test_a_quarantined_dimension(source, mirror, ledger):
    """What it misses meanwhile gives its keys when it is resynced: of the rows that differ, by their old and new links,
    and of no others.  So nobody has to rebuild everything."""
    shop = ledger({"order": ORDER}, plugin="pgoutput")
    report = Report(mirror)
    mirror.sql("alter table mirror_public.customers add constraint small check (segment <> 'bad')")
    before = shop.now()
    source.sql("update customers set segment = 'bad' where id = 2")  # orders 1, 7
    shop.pipeline.wait_log("quarantined", deadline=60)
    source.sql("update customers set country_id = 3 where id = 3;"   # orders 2, 8
               "delete from customers where id = 4;"                 # orders 3, 9
               "update customers set id = 60 where id = 6;"          # orders 5, 11, as it was
               "update customers set note = 'new';"                  # not watched
               "insert into customers values (70, 1, 'a')")
    source.sql("insert into orders values (100, 60, 'new', 1), (101, 70, 'new', 1), (102, 1, 'new', 1)")
    source.sql("update orders set customer_id = 5 where id = 3;"     # another one than its customer is gone
               "update countries set tax = 9 where id = 2")          # customers 1, 4 by what the mirror has: 6, 12; 3, 9
    shop.pipeline.wait_until_caught_up()
    wait.until(lambda: report.refresh() >= {9} or report.is_right(), "keys by way of countries")
    assert set(shop.keys("order", before)) == {100, 101, 102, 3, 6, 9, 12}
    assert report.is_right(), "for the mirror as it is"
    found = shop.pipeline.ok("ledger", "status", "--json").json()["facts"][0]
    assert found["state"] == "ready" and found["complete"]["missing"] == "public.customers is quarantined"
    marked = mirror.value("select quarantine_lsn::text from tailwater.mirror_table where name = 'customers'")
    assert found["complete"]["lsn"] == marked and before <= found["complete"]["batch"] < shop.now()
    assert found["fan_out"]["lsn"] == marked

    mirror.sql("alter table mirror_public.customers drop constraint small")
    since = shop.now()
    shop.pipeline.ok("resync", "public.customers")
    keys = shop.keys("order", since)
    assert keys == {key: [2] for key in (1, 7, 2, 8, 9, 5, 11, 100, 101)}, keys
    assert {kind for kind, in mirror.sql("select kind from tailwater.batch where batch_id > %s and keys > 0", since)} \
        == {"resync"}
    assert shop.everything("order") == ["the fact is new"]
    assert report.refresh() == set(keys) and report.is_right()
    found = shop.pipeline.ok("ledger", "status", "--json").json()["facts"][0]
    assert found["complete"]["missing"] is None and found["complete"]["batch"] >= max(
        batch for batch, in mirror.sql("select batch_id from tailwater.affected_order"))
    assert shop.step("update customers set segment = 'after' where id = 60") == {100: [2]}
    shop.pipeline.settle()


def test_a_quarantined_table_of_the_fact(source, mirror, ledger):
    """Truncated, filled and changed while it was left out: old keys and new keys of what differs."""
    shop = ledger({"order": ORDER, "order_day": DAY}, plugin="pgoutput")
    report = Report(mirror)
    mirror.sql("alter table mirror_public.orders add constraint small check (amount < 1000)")
    source.sql("update orders set amount = 5000 where id = 3")
    shop.pipeline.wait_log("quarantined", deadline=60)
    source.sql("create table kept as select * from orders; truncate orders; insert into orders select * from kept where id < 9;"
               "update orders set created_at = '2020-02-02 12:00+00' where id = 4; insert into orders values (50, 1)")
    shop.pipeline.wait_until_caught_up()
    assert report.refresh() == set() and report.is_right()
    mirror.sql("alter table mirror_public.orders drop constraint small")
    since = shop.now()
    shop.pipeline.ok("resync", "public.orders")
    keys = shop.keys("order", since)
    assert keys == {key: [0] for key in (3, 50, *range(9, 13))}, "4 has moved to another day, which is not watched"
    days = set(shop.keys("order_day", since))
    assert days == {datetime.date(2020, 2, 2), datetime.date(2024, 3, 31)}, days
    assert report.refresh() == set(keys) and report.is_right()
    assert shop.everything("order") == ["the fact is new"]
    source.sql("drop table kept")
    shop.pipeline.settle()


# ---- crashes ----

@pytest.mark.parametrize("point", ["after_clock", "after_writes", "after_hops", "before_commit", "after_commit",
                                   "between_pieces"])
def test_killed_at_a_point(source, mirror, ledger, point):
    """No key is lost, and none is there without its change."""
    shop = ledger({"order": ORDER}, plugin="pgoutput", apply={"max_rows": 500})
    pipeline = shop.pipeline
    pipeline.stop()
    since = shop.now()
    source.sql("begin; update orders set status = 'k' where id in (1, 2); update customers set segment = 'k' "
               "where id = 5; insert into payments select i, 1 + i % 12 from generate_series(100, 1500) i; commit")
    pipeline.start(fault=f"{point}=kill")
    assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
    if point != "after_commit":
        assert shop.keys("order", since) == {}
    pipeline.start().wait_until_caught_up()
    wait_expanded(shop)
    assert set(shop.keys("order", since)) == set(range(1, 13))
    pipeline.settle()


def test_keys_of_many_rows_and_hops(ledger):
    """In one transaction, in pieces: keys are copied behind one piece, and dimensions followed behind another."""
    shop = ledger({"order": ORDER}, plugin="pgoutput", apply={"max_rows": 1500}, ledger={"fan_out_limit": 100000})
    got = shop.step("begin; insert into orders select i, 1 + i % 6, 'k' from generate_series(100, 3099) i;"
                    "update customers set segment = 'k' where id = 6; insert into orders values (5000, 1, 'k');"
                    "update orders set status = 'm' where id >= 100; commit")
    assert got == {5: [2], 11: [2]} | {i: [0, 2] if i % 6 == 5 else [0] for i in range(100, 3100)} | {5000: [0]}
    assert shop.mirror.value("select count(*) from tailwater.affected_order") == \
        shop.mirror.value("select sum(keys) from tailwater.batch")
    shop.pipeline.settle()


@pytest.mark.parametrize("point", ["after_writes", "after_hops", "before_commit", "between_pieces"])
def test_killed_with_many_keys(source, ledger, point):
    """None is lost, and none is there twice, where they are copied."""
    shop = ledger({"order": ORDER}, plugin="pgoutput", apply={"max_rows": 2500})
    pipeline = shop.pipeline
    pipeline.stop()
    since = shop.now()
    source.sql("insert into orders select i, 1, 'k' from generate_series(100, 6000) i")
    pipeline.start(fault=f"{point}=kill")
    assert pipeline.wait_exit(60) == -9, f"{point} was not reached\n{pipeline.log_tail()}"
    assert shop.keys("order", since) == {}
    pipeline.start().wait_until_caught_up()
    assert shop.mirror.sql("select count(*), count(distinct id), min(id), max(id) from tailwater.affected_order "
                           "where batch_id > %s", since) == [(5901, 5901, 100, 6000)]
    pipeline.settle()


@pytest.mark.parametrize("change, keys", [("update orders set status = 'far' where id = 5", {5: [0]}),
                                          ("update customers set segment = 'far' where id = 5", {4: [2], 10: [2]}),
                                          ("update orders set status = 'far' where id >= 100",
                                           {i: [0] for i in range(100, 2100)}),
                                          ("update customers set country_id = 1 where id = 5", {4: [1], 10: [1]})],
                         ids=["one", "hop", "many", "expression"])
def test_a_ledger_without_a_partition(source, mirror, ledger, change, keys):
    """It is made, and the batch comes again; that is nobody's data error."""
    fact = ORDER if 1 not in next(iter(keys.values())) else {
        "table": "public.orders", "key": {"id": "id + 0"},
        "dimensions": [{"table": "public.customers", "join": "customers.id = orders.customer_id"}]}
    shop = ledger({"order": fact}, plugin="pgoutput",
                  sql=SHOP + "insert into orders select i, 1, 'k' from generate_series(100, 2099) i")
    shop.pipeline.wait_log("streaming from")
    since = shop.now() + 1000000
    with mirror.transaction("postgres") as keeper:
        keeper.execute("lock table tailwater.ledger_order in share update exclusive mode")  # which makes partitions otherwise
        mirror.sql("update tailwater.clock set batch_id = %s", since)
        source.sql(change)
        shop.pipeline.wait_log("the ledger has no partition for this batch yet")
    shop.pipeline.wait_until_caught_up()
    assert shop.keys("order", since) == keys
    assert not {"quarantined", "fact_suspended"} & set(shop.pipeline.events())
    shop.pipeline.settle()


def test_destroy(ledger):
    shop = ledger({"order": ORDER}, plugin="wal2json")
    shop.step("update orders set status = 'far' where id = 5")
    shop.pipeline.stop()
    shop.pipeline.ok("destroy", "--yes")
    assert shop.mirror.value("select count(*) from pg_namespace where nspname = 'tailwater'") == 0


def test_a_full_mirror_is_no_refusal_of_a_key(mirror, ledger):
    """Keys are tried on an empty copy of their table: what keeps that from being made may pass."""
    shop = ledger({"order": ORDER})
    shop.pipeline.stop()
    mirror.sql("""
        create function no_space() returns event_trigger language plpgsql as $$
        begin raise exception using errcode = '53100', message = 'no space left'; end $$;
        create event trigger no_space on ddl_command_start when tag in ('CREATE TABLE') execute function no_space();
        """)
    shop.pipeline.start()
    shop.pipeline.wait_log("53100")
    mirror.sql("drop event trigger no_space")
    shop.pipeline.wait_until_caught_up()
    shop.pipeline.settle()
