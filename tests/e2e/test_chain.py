"""Facts over derived tables: kept by the keys that the refresh of the table below gives them."""

import pytest

from lib import wait
from lib.refresh import Refreshed

from test_refresh import BILL, SHOP

# Over the derived table itself: grouped by something that is not its key, so old and new values count.
TOTAL = {
    "table": "report.bill", "key": ["name"], "watch": ["paid", "amount"],
    "refresh": {"into": "report.total", "query":
                "select name, count(*) as bills, sum(amount - paid) as open from report.bill group by name"}}

# A derived table as a dimension, one level further up.
VISIT = {
    "table": "public.visits", "key": ["id"],
    "dimensions": [{"table": "report.total", "join": "total.name = visits.name", "watch": ["open"]}],
    "refresh": {"into": "report.visit", "query":
                "select v.id, t.open from visits v left join report.total t on t.name = v.name"}}

VISITS = SHOP + """
    create table visits (id int primary key, name text);
    insert into visits select i, 'customer ' || (1 + i % 6) from generate_series(1, 30) i;
"""


@pytest.fixture
def chain(source, make_pipeline):
    def start(facts, sql=VISITS, **keys):
        source.sql(sql)
        pipeline = make_pipeline(facts=facts, **keys).publish()
        pipeline.start().wait_until_caught_up()
        return Refreshed(pipeline)
    return start


def test_three_levels(chain):
    """Whatever changes below arrives above: values, keys, rows that come and go."""
    # In any order in the file.
    made = chain({"visit": VISIT, "total": TOTAL, "bill": BILL})
    made.settle()
    assert made.mirror.value("select count(*) from report.visit where open is not null") > 0
    for statement in ("update bills set amount = amount + 1 where id in (1, 2)",
                      "update bills set customer_id = 1 where id = 3",
                      "update customers set name = 'customer 6' where id = 2",
                      "update bills set note = 'nothing that anybody watches'",
                      "delete from payments where bill_id < 10",
                      "delete from bills where customer_id = 4",
                      "insert into bills values (100, 5, 7, '2024-02-01', '')",
                      "update visits set name = 'customer 1' where id = 7"):
        made.source.sql(statement)
        made.settle()
    for fact in ("bill", "total", "visit"):
        assert made.pipeline.ok("refresh", fact, "--full", "--verify", "--json").json()["drift"] == 0
    assert made.pipeline.ok("check").code == 0
    made.pipeline.stop()
    made.pipeline.start()
    made.settle()
    assert made.mirror.value("select count(*) from tailwater.everything where fact = 'total'") == 1


def test_backfills_give_keys(chain):
    """What a backfill corrects below is corrected above; what it leaves alone gives no key."""
    made = chain({"bill": BILL, "total": TOTAL}, refresh={"workers": 0})
    made.once("bill")
    made.once("total")
    made.mirror.sql("update report.bill set amount = 1000 where id = 1")
    before = made.mirror.value("select max(batch_id) from tailwater.clock")
    assert made.pipeline.ok("backfill", "bill", "--all", "--chunk", "7", "--json").json()["updated"] == 1
    assert made.mirror.sql("select name from tailwater.affected_total where batch_id > %s", before) == [("customer 2",)]
    assert made.once("total")["keys"] == 1
    made.settle()


def test_a_table_made_anew(chain):
    """Rows that went with a table gave no keys: the facts over it owe everything."""
    made = chain({"bill": BILL, "total": TOTAL}, refresh={"workers": 0})
    made.once("bill")
    made.once("total")
    made.mirror.sql("drop table report.bill")
    made.source.sql("delete from bills where customer_id = 2")
    made.pipeline.wait_until_caught_up()
    made.once("bill")
    made.once("total")
    assert made.differences() == []


SEGMENTS = """
    create table customers (id int primary key, segment text);
    create table visits (id int primary key, customer_id int);
    insert into customers select i, 'old' from generate_series(1, 5) i;
    insert into visits select i, 2 from generate_series(1, 10) i;
"""

SEGMENT = {"table": "public.customers", "key": ["id"],
           "refresh": {"into": "report.segment", "query": "select id, segment from customers"}}

SEEN = {"table": "public.visits", "key": ["id"],
        "dimensions": [{"table": "report.segment", "join": "segment.id = visits.customer_id"}],
        "refresh": {"into": "report.seen", "query":
                    "select v.id, s.segment from visits v left join report.segment s on s.id = v.customer_id"}}

HOLD = """
    create function public.hold() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock_shared(4711); return new; end $$;
    create trigger hold before update on report.segment for each row execute function public.hold()
"""


def test_two_writers_on_one_path(chain):
    """A refresh changes a dimension's row; before it commits, the stream moves a row of the fact there.  Neither sees the
    other: only what is followed after the commit does."""
    made = chain({"segment": SEGMENT, "seen": SEEN}, sql=SEGMENTS)
    made.settle()
    made.mirror.sql(HOLD)
    with made.mirror.transaction() as held:
        held.execute("select pg_advisory_xact_lock(4711)")
        made.source.sql("update customers set segment = 'new' where id = 1")
        wait.until(lambda: made.mirror.value("select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 "
                                             "and not granted"), "the refresh waits, its row written")
        made.source.sql("update visits set customer_id = 1 where id = 9")
        made.pipeline.wait_until_caught_up()
        wait.until(lambda: made.mirror.value("select segment from report.seen where id = 9") == 'old' and
                   made.mirror.value("select state from tailwater.consumer_states(%s, 1) where fact = 'seen'",
                                     made.pipeline.name) == 'up to date', "the visit's key has been refreshed")
    made.settle()
    assert made.mirror.value("select segment from report.seen where id = 9") == "new"


def test_circles_are_refused(source, make_pipeline):
    source.sql(SEGMENTS)
    query = {"query": "select id from report.b"}
    pipeline = make_pipeline(facts={
        "a": {"table": "report.b", "key": ["id"], "refresh": {"into": "report.a", **query}},
        "b": {"table": "report.a", "key": ["id"], "refresh": {"into": "report.b", **query}}}).publish()
    result = pipeline.verb("check")
    assert result.code == 3 and "fact a is derived from itself" in result.out
    assert pipeline.verb("run", "--until", "now").code == 3
