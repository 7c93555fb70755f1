"""Random traffic, kills at every point of a refresh, backfills beside it: in the end each derived table is its query."""

import os
import random

from lib.refresh import Refreshed

from test_chain import TOTAL
from test_refresh import BILL, DAY, SHOP

SEED = int(os.environ.get("TAILWATER_SEED", "1"))

LINES = {  # several rows a key, and rows that move from one key to another
    "table": "public.bills", "key": ["id"], "watch": ["amount"],
    "dimensions": [{"table": "public.payments", "join": "payments.bill_id = bills.id"}],
    "refresh": {"into": "report.lines", "unique": ["payment"], "key": {"id": "bill"}, "query":
                "select b.id as bill, p.id as payment, p.paid / b.amount as part from bills b "
                "join payments p on p.bill_id = b.id where b.amount > 0"}}

PAIR = {  # a key of two columns, and rows that nothing tells apart
    "table": "public.bills", "key": ["customer_id", "day"], "watch": ["amount"],
    "refresh": {"into": "report.pair", "query":
                "select customer_id, day, amount > 20 as is_large from bills"}}

STATEMENTS = [
    "insert into bills values ({n}, {c}, {a}, date '2024-01-01' + {d}, 'n') on conflict (id) do update set day = excluded.day",
    "update bills set amount = {a} where id = {b}",
    "update bills set customer_id = {c}, day = day + 1 where id % 7 = {c}",
    "delete from bills where id = {b}",
    "delete from payments where id % 11 = {c}",
    "insert into payments values ({n}, {b}, {a}) on conflict (id) do update set bill_id = excluded.bill_id",
    "update payments set bill_id = {b} where id = {p}",
    "update payments set paid = {a} where bill_id = {b}",
    "update customers set name = 'name {n}' where id = {c}",
    "update bills set id = {n} where id = {b} and not exists (select from bills x where x.id = {n})",
]

FAULTS = ["refresh_after_claim:3=kill", "refresh_before_commit:4=kill", "refresh_after_commit:5=kill",
          "backfill_before_commit:2=kill", "backfill_after_commit:3=kill", "before_commit:8=kill"]


def test_every_derived_table_is_its_query(source, mirror, make_pipeline):
    chance = random.Random(SEED)
    source.sql(SHOP)
    # The table of pairs has no unique index: it is there before.
    mirror.sql("create schema report; grant all on schema report to tailwater;"
               "create table report.pair (customer_id int, day date, is_large boolean);"
               "alter table report.pair owner to tailwater")
    facts = {"bill": {**BILL, "refresh": {**BILL["refresh"], "max_keys": 7}}, "day": DAY, "lines": LINES, "pair": PAIR,
             "total": TOTAL}
    made = Refreshed(make_pipeline(facts=facts, plugin="pgoutput", refresh={"workers": 3}).publish())
    pipeline = made.pipeline

    def traffic(count):
        for _ in range(count):
            source.sql(chance.choice(STATEMENTS).format(
                n=chance.randrange(1, 120), b=chance.randrange(1, 60), a=chance.randrange(1, 50), p=chance.randrange(1, 70),
                c=chance.randrange(1, 6), d=chance.randrange(1, 12)))
            if chance.random() < 0.02:
                source.sql("truncate payments")

    pipeline.start().wait_until_caught_up()
    for fault in chance.sample(FAULTS, 4):
        pipeline.kill()
        pipeline.start(fault=fault)
        traffic(25)
        fact = chance.choice(["bill", "lines", "pair"])
        result = pipeline.verb("backfill", fact, "--all", "--chunk", "6", "--parallel", "3")
        assert result.code == 0, repr(result)
        traffic(25)
        pipeline.verb("refresh", chance.choice(["day", "lines"]), "--once")
    pipeline.kill()
    pipeline.start()
    traffic(10)
    made.settle(deadline=90)
    for fact in ("bill", "pair", "total"):
        assert pipeline.ok("refresh", fact, "--full", "--verify", "--json").json()["drift"] == 0
    pipeline.settle()
