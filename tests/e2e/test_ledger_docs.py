"""docs/ledger.md: its examples run as they stand there, in the page's order, and do what it says.

A block's info string says who runs it: "sql source" (the application), "sql tailwater", "sql reports" and
"psql reports" on the mirror, "yaml" in the configuration, "python", and "dbt", of which a few
lines here render what it needs of the template language.  "keys FACT" is what the ledger got since the last of these
blocks, "result" what the last statement gave.  Every block that has one is run by some test here.
"""

import os
import re
import subprocess

import jinja2
import psycopg2
import pytest
import yaml

from lib import wait
from lib.cluster import READER, REPLICATOR, ROOT
from lib.page import read_blocks
from lib.pipeline import to_yaml

PAGE = os.path.join(ROOT, "docs", "ledger.md")

RESULT = "select b.id, b.customer, b.amount, coalesce(sum(p.paid), 0) from bills b left join payments p " \
         "on p.bill_id = b.id group by 1, 2, 3 order by 1"


BLOCKS = read_blocks(PAGE)
FIRST, DECLARING, GRANT, STEPS, SQL, PSQL, PYTHON, DBT, REPLAY, EXAMPLES = (
    "A first fact", "Declaring facts", "Who may consume", "Consuming, step by step", "In SQL, in one transaction", "In psql",
    "In Python, for a system elsewhere", "In dbt", "Replay", "Worked examples")

# The blocks that the tests below take by name; those of EXAMPLES are all run by test_example().
TAKEN = {(FIRST, "sql source"), (FIRST, "yaml"), (DECLARING, "yaml"), (GRANT, "sql tailwater"), (STEPS, "sql reports"),
         (SQL, "sql reports"), (PSQL, "psql reports"), (PYTHON, "python"), (DBT, "dbt"), (REPLAY, "sql reports")}


def blocks(section, info):
    assert (section, info) in TAKEN
    found = [text for _, in_section, kind, text in BLOCKS if (in_section, kind) == (section, info)]
    assert found, f"no block {info} under {section}"
    return found


def test_every_block_is_run():
    assert {(section, info) for chapter, section, info, _ in BLOCKS if info and chapter != EXAMPLES} == TAKEN


def configure(pipeline, text):
    """The page's YAML goes into the pipeline's configuration as it stands there."""
    write = pipeline.write_config

    def write_all():
        config = pipeline.config()
        mirror = to_yaml({"mirror": config.pop("mirror")})
        facts, _, rest = text.partition("mirror:\n")
        assert rest in ("", f"  readers: [{READER}]\n")
        write(f"{to_yaml(config)}\n{facts}{mirror}\n  readers: [{READER}]\n")

    pipeline.write_config = write_all
    write_all()


def start(source, make_pipeline, tables, text):
    """A running pipeline with these tables and facts, whose reader may consume."""
    source.sql(tables)
    pipeline = make_pipeline(ledger={"replay_window": "24h", "stale_after": "7d", "stale_keys": 100000000})
    configure(pipeline, text)
    pipeline.start().wait_until_caught_up()
    pipeline.mirror.sql(*blocks(GRANT, "sql tailwater"), user=REPLICATOR)
    pipeline.mirror.sql(f"create schema report authorization {READER}")
    return pipeline


class Shop:
    """A running pipeline with the page's tables and fact."""

    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror

    def change(self, *statements):
        self.pipeline.feed(statements, "in one transaction")

    def reports(self, query, *params):
        return self.mirror.sql(query, *params, user=READER)

    def is_right(self):
        return self.reports("select * from report.bill order by id") == self.source.sql(RESULT)


@pytest.fixture
def shop(source, make_pipeline):
    (tables,), (text,) = blocks(FIRST, "sql source"), blocks(FIRST, "yaml")
    shop = Shop(start(source, make_pipeline, tables, text))
    yield shop
    shop.mirror.sql("select tailwater.revoke_consumer(%s)", READER, user=REPLICATOR)


def test_sql(shop):
    (subscribe,), (function, call), (replay,) = (blocks(section, "sql reports") for section in (STEPS, SQL, REPLAY))
    shop.reports(subscribe)
    shop.reports(function)
    assert shop.reports(call)[0][0] is not None and shop.is_right()
    assert len(shop.reports("select * from report.bill")) == 3
    assert shop.reports(call) == [(None,)]
    for change in ("insert into payments values (3, 3, 20)", "update payments set bill_id = 1 where id = 2",
                   "delete from bills where id = 3", "update bills set amount = 60 where id = 2",
                   "truncate payments", "delete from bills where id = 1; insert into bills values (7, 'di', 1, true)"):
        shop.change(change)
        before = shop.mirror.sql("select id, xmin::text from report.bill")
        assert not shop.is_right()
        assert shop.reports(call)[0][0] is not None and shop.is_right(), change
        if "truncate" not in change:
            kept = set(before) & set(shop.mirror.sql("select id, xmin::text from report.bill"))
            assert kept, "what did not change was not written"
    shop.change("update bills set printed = true")
    assert shop.reports(call) == [(None,)], "not a watched column"
    # Damaged, and replayed.  The first batch is the one that said everything.
    shop.mirror.sql("delete from report.bill where id = 2; update report.bill set paid = 77 where id = 7")
    assert not shop.is_right()
    assert shop.reports(replay)[0][0] is not None
    while shop.reports(call) != [(None,)]:
        pass
    assert shop.is_right()
    text = shop.pipeline.ok("ledger", "status").out
    assert "bill: public.bills, key id; ready" in text and "up to date; last ack" in text
    assert "payments" in shop.pipeline.ok("ledger", "why", "bill", "2").out


def test_psql(shop, tmp_path):
    (script,) = blocks(PSQL, "psql reports")

    def run():
        return subprocess.run(["psql", "-XqAt", shop.mirror.conninfo(READER)], input=script, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)

    shop.reports("select tailwater.subscribe('shell', 'bill')")
    done = run()
    assert done.stdout == "" and "no rows returned for \\gset" in done.stderr, done
    shop.change("insert into payments values (3, 3, 20)", "update bills set amount = 1 where id = 1")
    done = run()
    assert done.stdout.split() == ["1", "3"] and done.stderr == "", done
    assert shop.reports("select * from tailwater.claim('shell', 'bill')") == []
    shop.change("truncate payments")
    assert run().stdout.split("\n")[0] == "rebuild all of it"


def test_python(shop):
    (text,) = blocks(PYTHON, "python")
    names = {}
    exec(text, names)  # pylint: disable=exec-used
    sent = []

    def send(key, amount):
        sent.append((key, amount))

    send.finish = lambda: sent.append("finish")
    shop.reports("select tailwater.subscribe('crm', 'bill', start => 'all')")
    db = psycopg2.connect(shop.mirror.conninfo(READER))
    assert names["work"](db, send) and sorted(sent[:-1]) == [(1, 100), (2, 50), (3, 20)] and sent[-1] == "finish"
    assert not names["work"](db, send)
    sent.clear()
    with db, db.cursor() as cursor:
        cursor.execute("listen tailwater_bill")
    shop.change("insert into payments values (3, 3, 20)", "delete from bills where id = 1")

    def is_told():
        names["wait"](db, 0.1)
        return names["work"](db, send)

    wait.until(is_told, "a window")
    assert sorted(sent) == [(1, None), (3, 20)]
    db.close()


def test_the_notification(shop):
    """It comes from the ledger keeper, soon after the commit."""
    db = psycopg2.connect(shop.mirror.conninfo(READER))
    db.autocommit = True
    with db.cursor() as cursor:
        cursor.execute("listen tailwater_bill")
    shop.change("insert into payments values (3, 3, 20)")

    def heard():
        db.poll()
        return [n.payload for n in db.notifies]

    newest = shop.mirror.value("select max(batch_id) from tailwater.ledger_bill")
    wait.until(lambda: any(int(payload) >= newest for payload in heard()), "a notification", deadline=10)
    db.close()


def test_statistics_are_kept(shop):
    shop.change("insert into payments values (3, 3, 20), (4, 3, 1)", "update bills set amount = 1 where id = 1")
    wait.until(lambda: shop.mirror.sql(
        "select node, rows_changed, keys_written from tailwater.dimension_statistic order by 1")
        == [(0, 1, 1), (1, 2, 1)], "the statistics", deadline=20)
    shop.change("update bills set amount = 2 where id = 1")
    shop.pipeline.stop()
    assert shop.mirror.value("select rows_changed from tailwater.dimension_statistic where node = 0") == 2, \
        "what was counted in the last seconds is written at the end"


def test_candidates(shop):
    """Tables that foreign keys join to the fact, not declared: on either side, and through a dimension."""
    shop.pipeline.stop()
    shop.source.sql("""
        create table customers (name text primary key, city int);
        create table tills (id int primary key);
        insert into customers select distinct customer, 1 from bills;
        insert into tills values (1), (2);
        alter table bills add foreign key (customer) references customers;
        alter table payments add foreign key (bill_id) references bills;
        create table refunds (id int primary key, payment_id bigint references payments);
        insert into refunds values (1, 1), (2, 1), (3, 2);
        create table absent (id int primary key, bill_id bigint references bills);
        """)
    shop.pipeline.tables = ["public.*"]
    found = shop.pipeline.ok("ledger", "stats", "--candidates", "--json").json()
    # None of these is mirrored yet.
    assert [(c["fact"], c["table"], c["join"], c["sampled"]) for c in found] == [
        ("bill", "public.absent", "absent.bill_id = bills.id", None),
        ("bill", "public.customers", "customers.name = bills.customer", None),
        ("bill", "public.refunds", "refunds.payment_id = payments.id", None)]
    shop.pipeline.ok("destroy", "--yes")
    shop.pipeline.write_config()
    shop.pipeline.start().wait_until_caught_up()
    found = shop.pipeline.ok("ledger", "stats", "--candidates", "--json").json()
    assert [(c["table"], c["sampled"], c["keys"]) for c in found] == [
        ("public.absent", 0, 0), ("public.customers", 3, 3), ("public.refunds", 3, 2)]
    assert "customers.name = bills.customer" in shop.pipeline.ok("ledger", "stats", "--candidates").out
    shop.mirror.sql("select tailwater.grant_consumer(%s)", READER, user=REPLICATOR)


# ---- worked examples ----

class Example:
    """One section of the page, block by block."""

    def __init__(self, source, make_pipeline, section):
        self.blocks = [(info, text) for chapter, in_section, info, text in BLOCKS
                       if chapter == EXAMPLES and in_section == section]
        (_, tables), (_, text) = self.blocks[:2]
        self.source, self.pipeline = source, start(source, make_pipeline, tables, text)
        self.mirror = self.pipeline.mirror
        self.fact = self.mirror.value("select name from tailwater.fact")
        self.mirror.sql("select tailwater.subscribe('test', %s)", self.fact)
        self.rows = None

    def new_keys(self):
        found = set()
        while window := self.mirror.sql("select claim_id from tailwater.claim('test', %s)", self.fact):
            found |= {" | ".join(map(str, key)) for key in self.mirror.sql(f"select * from tailwater.keys_{self.fact}('test')")}
            self.mirror.sql("select tailwater.ack('test', %s, %s)", self.fact, window[0])
        return found

    def run(self):
        for info, text in self.blocks[2:]:
            kind, _, argument = info.partition(" ")
            if info == "sql source":
                self.source.sql(text)
                self.pipeline.wait_until_caught_up()
            elif info == "sql reports":
                self.rows = self.mirror.sql(text, user=READER)
            elif kind == "keys":
                assert argument == self.fact
                found, wanted = set(), set(text.splitlines())
                wait.until(lambda: wanted <= found or found.update(self.new_keys()), lambda: f"{wanted}, not {found}")
                assert found | self.new_keys() == wanted
            else:
                assert kind == "result", info
                lines = [" | ".join("" if value is None else str(value) for value in row).rstrip() for row in self.rows]
                assert lines == [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("section", list(dict.fromkeys(
    section for chapter, section, info, _ in BLOCKS if chapter == EXAMPLES and info)))
def test_example(source, make_pipeline, section):
    example = Example(source, make_pipeline, section)
    kinds = [info.partition(" ")[0] for info, _ in example.blocks]
    assert kinds[:2] == ["sql", "yaml"] and {"keys", "result"} <= set(kinds)
    example.run()
    assert example.mirror.sql("select * from tailwater.claim('report', %s)", example.fact, user=READER) == []
    example.mirror.sql("select tailwater.revoke_consumer(%s)", READER, user=REPLICATOR)


def test_the_declaration(source, make_pipeline):
    """The facts of the reference are taken as they stand there."""
    source.sql("""
        create table countries (id int primary key, name text);
        create table customers (id bigint primary key, country_id int, segment text);
        create table orders (id bigint primary key, customer_id bigint, status text, amount numeric, created_at timestamptz);
        create table payments (id bigint primary key, order_id bigint, status text, paid_at date)""")
    pipeline = make_pipeline()
    configure(pipeline, *blocks(DECLARING, "yaml"))
    pipeline.run_until_now()
    found = pipeline.ok("check", "--json").json()["findings"]
    assert [f["level"] for f in found if f["name"].startswith("fact")] == ["ok"], found
    assert pipeline.mirror.sql("select name from tailwater.fact order by 1") == [("order",), ("order_day",)]


# ---- dbt ----


DBT_FOLDER = os.path.join(ROOT, "docs", "dbt")


def read(*path):
    with open(os.path.join(DBT_FOLDER, *path), encoding="utf-8") as stream:
        return stream.read()


class Relation(str):
    identifier = "open_bills"


class Dbt:
    """As much of dbt as it takes: the package's macros and a model, rendered by what dbt renders with."""

    def __init__(self, is_incremental):
        self.config = {}
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do"])
        environment.globals.update(this=Relation("report.model"), is_incremental=lambda: is_incremental,
                                   config=lambda **keys: self.config.update(keys) or "")
        package = environment.from_string(read("macros", "tailwater.sql")).module
        environment.globals["tailwater"] = package
        self.render = lambda text: environment.from_string(text).render()

    def model(self, name):
        return self.render(read("example", "models", name))


def pre_hook():
    dbt = Dbt(True)
    dbt.model("open_bills.sql")
    return dbt.config["pre_hook"]


def run_dbt(shop):
    """What dbt-postgres does with an incremental model whose strategy is append."""
    exists = shop.mirror.value("select to_regclass('report.model') is not null")
    dbt = Dbt(exists)
    model = dbt.model("open_bills.sql")
    assert (dbt.config["materialized"], dbt.config["incremental_strategy"]) == ("incremental", "append")
    with shop.mirror.transaction(READER) as cursor:
        cursor.execute(dbt.render(dbt.config["pre_hook"]))
        if exists:
            cursor.execute(f"create temporary table model__tmp on commit drop as ({model})")
            cursor.execute("insert into report.model (id, customer, open) (select id, customer, open from model__tmp)")
            cursor.execute("select count(*) from model__tmp")
        else:
            cursor.execute(f"create table report.model as ({model})")
            cursor.execute("select count(*) from report.model")
        written = cursor.fetchone()[0]
        cursor.execute(dbt.render(dbt.config["post_hook"]))
    return written


def test_dbt(shop):
    """The package's macros and the example's model, which the page shows."""
    (text,) = blocks(DBT, "dbt")
    assert text.strip() == read("example", "models", "open_bills.sql").strip()
    for file in ("dbt_project.yml", "example/dbt_project.yml", "example/packages.yml"):
        assert yaml.safe_load(read(file))
    right = "select b.id, b.customer, b.amount - coalesce(sum(p.paid), 0) from bills b left join payments p on " \
            "p.bill_id = b.id group by b.id, b.customer, b.amount order by 1"
    begin = Dbt(False).render(yaml.safe_load(read("example", "dbt_project.yml"))["on-run-start"])
    shop.reports(begin)
    for change, written in (("select 1", 3), ("select 1", 0), ("insert into payments values (3, 3, 20)", 1),
                            ("delete from bills where id = 1", 0), ("truncate payments", 2),
                            ("update bills set id = 9 where id = 2", 1)):
        shop.change(change)
        assert run_dbt(shop) == written, change
        shop.reports(begin)
        assert shop.reports("select * from report.model order by id") == shop.source.sql(right), change
        assert shop.reports("select * from tailwater.claim('dbt_open_bills', 'bill')") == []
    # A model that fails keeps its window.
    shop.change("update bills set amount = 77 where id = 3")
    with pytest.raises(psycopg2.errors.DivisionByZero), shop.mirror.transaction(READER) as cursor:
        cursor.execute(Dbt(True).render(pre_hook()))
        cursor.execute("select count(*) from tailwater_keys_bill")
        assert cursor.fetchone() == (1,)
        cursor.execute("select 1 / 0")
    assert run_dbt(shop) == 1
    assert shop.reports("select * from report.model order by id") == shop.source.sql(right)
    with pytest.raises(jinja2.UndefinedError):
        Dbt(True).render("{{ tailwater.tailwater_subscribe('bill') }}")
