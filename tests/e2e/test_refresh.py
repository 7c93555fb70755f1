"""Derived tables: kept by the keys of the ledger, and by nothing else."""

from decimal import Decimal

import pytest

from lib import wait
from lib.pipeline import fault_points
from lib.refresh import Refreshed

SHOP = """
    create table bills (id bigint primary key, customer_id int, amount numeric(12,2), day date, note text);
    create table payments (id bigint primary key, bill_id bigint, paid numeric(12,2));
    create table customers (id int primary key, name text);
    insert into customers select i, 'customer ' || i from generate_series(1, 5) i;
    insert into bills select i, 1 + i % 5, i, date '2024-01-01' + i % 10, 'n' from generate_series(1, 40) i;
    insert into payments select i, 1 + i % 40, 1 from generate_series(1, 60) i;
"""

OPEN = ("select b.id, c.name, b.amount, coalesce(sum(p.paid), 0) as paid from bills b "
        "left join customers c on c.id = b.customer_id left join payments p on p.bill_id = b.id "
        "group by b.id, c.name, b.amount")

BILL = {
    "table": "public.bills", "key": ["id"], "watch": ["amount", "customer_id"],
    "dimensions": [
        {"table": "public.payments", "join": "payments.bill_id = bills.id", "watch": ["paid"]},
        {"table": "public.customers", "join": "customers.id = bills.customer_id", "watch": ["name"]}],
    "refresh": {"into": "report.bill", "query": OPEN}}

DAY = {
    "table": "public.bills", "key": ["day"], "watch": ["amount"], "lookback": "36500d",
    "refresh": {"into": "report.day", "query": "select day, count(*) as n, sum(amount) as total from bills group by day"}}

BY_HAND = {"workers": 0}


@pytest.fixture
def shop(source, make_pipeline):
    """shop(facts): a pipeline that streams, with these facts and their derived tables."""
    def start(facts, sql=SHOP, run=True, **keys):
        source.sql(sql)
        pipeline = make_pipeline(facts=facts, **keys).publish()
        if run:
            pipeline.start().wait_until_caught_up()
        return Refreshed(pipeline)
    return start


def test_once(both_plugins, shop):
    """Built from nothing, brought forward by keys, only what differs is written."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    first = made.once("bill")
    assert (first["inserted"], first["updated"], first["deleted"]) == (40, 0, 0)
    made.settle()
    assert made.mirror.value("select reloptions from pg_class where oid = 'report.bill'::regclass") == ["fillfactor=90"]
    assert made.once("bill")["keys"] == 0

    made.source.sql("update bills set amount = amount + 1 where id in (1, 2)")
    made.source.sql("delete from payments where bill_id = 3; delete from bills where id = 4")
    made.source.sql("insert into bills values (100, 1, 7, '2024-02-01', '')")
    made.source.sql("update bills set note = 'x' where id = 9")
    made.pipeline.wait_until_caught_up()
    then = made.once("bill")
    assert (then["inserted"], then["updated"], then["deleted"], then["keys"]) == (1, 3, 1, 5)
    made.settle()

    made.source.sql("update customers set name = name || '!' where id = 2")
    made.source.sql("update payments set bill_id = 5 where id = 1")
    made.source.sql("update bills set id = 200 where id = 7")
    made.pipeline.wait_until_caught_up()
    before = made.mirror.value("select count(*) from report.bill where name like '%!'")
    assert before == 0
    made.once("bill")
    made.settle()
    made.pipeline.settle()


def test_a_program_newer_than_the_control_schema(shop):
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.pipeline.stop()
    newest = made.mirror.sql("delete from tailwater.migration where version = (select max(version) from tailwater.migration) "
                             "returning version, name, hash", user="tailwater")[0]
    for verb in ("refresh", "bill", "--once"), ("backfill", "bill", "--all"):
        result = made.pipeline.verb(*verb)
        assert result.code == 2 and f"is at version {newest[0] - 1}" in result.err and "tailwater run" in result.err, result
    made.mirror.sql("insert into tailwater.migration (version, name, hash) values (%s, %s, %s)", *newest, user="tailwater")
    made.once("bill")


def test_by_the_replicator(shop):
    made = shop({"bill": BILL, "day": DAY})
    made.settle()
    for statement in ("update bills set amount = 3 where id < 10", "delete from bills where day = '2024-01-03'",
                      "update customers set name = 'x' where id = 1", "truncate payments",
                      "insert into payments select i, i, 5 from generate_series(1, 50) i",
                      "update bills set day = '2024-05-05' where id % 3 = 0"):
        made.source.sql(statement)
    made.settle()
    made.source.sql("truncate bills")
    made.settle()
    assert made.mirror.value("select count(*) from report.bill") == 0
    made.pipeline.settle()


# ---- keys that fail ----

FRACTION = {
    "table": "public.bills", "key": ["id"], "watch": ["amount"],
    "refresh": {"into": "report.fraction", "query": "select id, 100 / amount as share from bills"}}


def test_failing_keys(shop):
    """One is isolated and parked, the others go on; a change tries it again."""
    made = shop({"fraction": FRACTION}, refresh={"workers": 0, "max_attempts": 2})
    assert made.once("fraction")["inserted"] == 40
    made.source.sql("update bills set amount = case id when 17 then 0 else amount + 1 end")
    made.pipeline.wait_until_caught_up()
    then = made.once("fraction", code=3)
    assert (then["failed"], then["updated"]) == (1, 39)
    state = made.state("fraction")
    assert (state["state"], state["failed_keys"], state["parked_keys"]) == ("failed keys", 1, 0)
    assert state["failure_key"] == ["17"] and "division by zero" in state["failure_error"]

    made.mirror.sql("update tailwater.refresh_failure set next_at = now()")
    assert made.once("fraction", code=3)["failed"] == 1
    state = made.state("fraction")
    assert state["parked_keys"] == 1 and state["failure_sqlstate"] == "22012"
    assert "1 of them parked; such as 17: " in made.pipeline.ok("ledger", "status").out
    assert made.once("fraction")["windows"] == 0, "a parked key is left alone"

    made.source.sql("update bills set amount = 50 where id = 17")
    made.pipeline.wait_until_caught_up()
    assert made.once("fraction")["updated"] == 1
    assert made.state("fraction")["state"] == "ok"
    made.settle()


MANY = """
    create table bills (id bigint primary key, amount numeric(12,2));
    insert into bills select i, 1 + i % 100 from generate_series(1, 100000) i;
"""


def test_one_key_of_a_hundred_thousand(shop):
    """The others are refreshed, one is parked, with its error."""
    made = shop({"fraction": FRACTION}, sql=MANY, refresh={"workers": 0, "max_attempts": 1})
    assert made.once("fraction")["inserted"] == 100000
    made.source.sql("update bills set amount = case id when 4711 then 0 else amount + 1 end")
    made.pipeline.wait_until_caught_up()
    then = made.once("fraction", code=3)
    assert (then["failed"], then["updated"]) == (1, 99999)
    state = made.state("fraction")
    assert (state["failed_keys"], state["parked_keys"], state["failure_key"]) == (1, 1, ["4711"])
    assert "such as 4711: " in made.pipeline.ok("ledger", "status").out and "division by zero" in state["failure_error"]
    assert made.mirror.value("select round(share, 3) from report.fraction where id = 4711") == Decimal("8.333"), "as it was"


def test_first_build_with_failing_keys(shop):
    """A chunk with keys that cannot be computed builds the others."""
    made = shop({"fraction": FRACTION}, sql=SHOP + "; update bills set amount = 0 where id in (3, 30)",
                refresh=BY_HAND)
    then = made.once("fraction", code=3)
    assert (then["failed"], then["inserted"]) == (2, 38)
    made.source.sql("delete from bills where id in (3, 30)")
    made.pipeline.wait_until_caught_up()
    made.once("fraction")
    made.settle()
    assert made.state("fraction")["failed_keys"] == 0


def test_a_query_that_is_wrong(shop):
    """It is said where it stands in the file, and the rest goes on."""
    broken = {**DAY, "refresh": {"into": "report.day", "query": "select nothing from bills"}}
    made = shop({"bill": BILL, "day": broken})
    made.pipeline.wait_log(r"refresh_failed")
    assert "tailwater.yaml:" in made.pipeline.this_run() and "nothing" in made.pipeline.this_run()
    wait.until(lambda: made.mirror.value("select count(*) from tailwater.backfill where state = 'done'"), "the other")
    result = made.pipeline.verb("refresh", "day", "--once")
    assert result.code == 2 and "its query is refused" in result.err


# ---- backfills, full ----

def test_backfill(shop):
    made = shop({"day": DAY, "bill": BILL}, refresh=BY_HAND)
    made.once("day")
    made.once("bill")
    made.mirror.sql("update report.day set n = 0; delete from report.day where day = '2024-01-05';"
                    "insert into report.day values ('2024-01-20', 1, 1); update report.bill set paid = -1")
    some = made.pipeline.ok("backfill", "day", "--from", "2024-01-02", "--to", "2024-01-04", "--chunk", "1d",
                            "--parallel", "3", "--json").json()
    assert (some["chunks"], some["updated"], some["state"]) == (2, 2, "done")
    rest = made.pipeline.ok("backfill", "day", "--chunk", "1d", "--json").json()
    assert (rest["inserted"], rest["updated"], rest["deleted"]) == (1, 7, 1)
    some = made.pipeline.ok("backfill", "bill", "--where", "bills.day = '2024-01-03'", "--json").json()
    assert (some["keys"], some["updated"]) == (4, 4)
    rest = made.pipeline.ok("backfill", "bill", "--all", "--chunk", "7", "--parallel", "4", "--json").json()
    assert (rest["chunks"], rest["updated"]) == (6, 36)
    made.settle()
    assert made.pipeline.verb("backfill", "bill").code == 2, "of how much"


def test_a_backfill_that_was_left(shop):
    """Whoever asks for another one finishes it first, where no replicator does."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.mirror.sql("update report.bill set paid = -1")
    made.mirror.sql("with b as (insert into tailwater.backfill (fact, generation, kind, reason, parallel) "
                    "select name, generation, 'backfill', 'left', 1 from tailwater.fact returning id), "
                    "c as (insert into tailwater.backfill_chunk (backfill, nr) select id, 1 from b) "
                    "update tailwater.refresh set current_backfill = b.id from b")
    then = made.pipeline.ok("backfill", "bill", "--from", "1", "--to", "5", "--json", timeout=30).json()
    assert then["state"] == "done"
    assert made.mirror.value("select count(*) from tailwater.backfill where state <> 'done'") == 0
    made.settle()


def test_full(shop):
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    clean = made.pipeline.ok("refresh", "bill", "--full", "--verify", "--json").json()
    assert (clean["drift"], clean["pending"]) == (0, 0)
    made.mirror.sql("update report.bill set paid = -1 where id in (1, 2); delete from report.bill where id = 3;"
                    "insert into report.bill (id) values (4711)")
    made.source.sql("update bills set amount = 0 where id = 9")
    made.pipeline.wait_until_caught_up()
    found = made.pipeline.verb("refresh", "bill", "--full", "--verify", "--json")
    assert found.code == 3
    found = found.json()
    assert (found["drift"], found["pending"]) == (4, 1)
    assert (found["inserted"], found["updated"], found["deleted"]) == (1, 3, 1)
    assert made.mirror.value("select count(*) from report.bill where paid = -1") == 2, "nothing was written"
    repaired = made.pipeline.verb("refresh", "bill", "--full", "--json")
    assert repaired.code == 3 and repaired.json()["drift"] == 4
    assert made.differences() == []
    assert made.pipeline.ok("refresh", "bill", "--full", "--json").json()["drift"] == 0


# ---- kills ----

@pytest.mark.parametrize("point", [p for p in fault_points() if p.startswith(("refresh_", "backfill_"))])
def test_killed(shop, point):
    """Whatever was not committed comes again, and what was committed does not."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    kill = {"TAILWATER_FAULT": f"{point}=kill"}
    if point.startswith("backfill_"):
        assert made.pipeline.verb("refresh", "bill", "--once", env=kill).code == -9
        assert made.mirror.value("select count(*) from report.bill") == (40 if "after" in point else 0)
        made.once("bill")
        made.settle()
        return
    made.once("bill")
    made.source.sql("update bills set amount = 7 where id < 5; delete from bills where id = 6")
    made.pipeline.wait_until_caught_up()
    assert made.pipeline.verb("refresh", "bill", "--once", env=kill).code == -9
    changed = made.mirror.value("select count(*) from report.bill where amount = 7")
    assert changed == (5 if "after_commit" in point else 1), "bill 7 has that amount anyway"
    assert made.once("bill")["keys"] == (0 if "after_commit" in point else 5)
    made.settle()


# ---- check ----

def findings(pipeline, name):
    return [f for f in pipeline.verb("check", "--json").json()["findings"] if f["name"] == name and f["level"] != "ok"]


def test_check_reads_the_query(shop):
    """Undeclared tables, columns that are not watched, the time, and large tables that would be read whole."""
    made = shop({"bill": BILL}, sql=SHOP + "; insert into payments select i, i, 0 from generate_series(1000, 151000) i",
                refresh=BY_HAND)
    pipeline = made.pipeline
    assert findings(pipeline, "fact_query") == []
    made.mirror.sql("analyze")

    def with_query(query, **fact):
        pipeline.keys["facts"] = {"bill": {**BILL, **fact, "refresh": {"into": "report.bill", "query": query}}}
        pipeline.write_config()
        return findings(pipeline, "fact_query")

    assert "bills.note, which is not watched" in with_query("select id, note from bills")[0]["what"]
    assert "reads payments, which is no table of the fact" in with_query(
        OPEN, dimensions=BILL["dimensions"][1:])[0]["what"]
    assert "depends on now()" in with_query("select id, amount, now() > '2024-01-01' as old from bills")[0]["what"]
    assert "no column id" in with_query("select amount from bills")[0]["what"]
    assert with_query(OPEN) == []
    plan = findings(pipeline, "fact_plan")
    assert len(plan) == 1 and "all of public.payments" in plan[0]["what"]
    assert plan[0]["remedy"].startswith("on the mirror: create index on ")
    made.mirror.sql(plan[0]["remedy"].removeprefix("on the mirror: "))
    assert findings(pipeline, "fact_plan") == []
