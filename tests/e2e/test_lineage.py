"""What leads where: declared, and found in the mirror's catalog."""

import pytest

from lib.pipeline import USAGE

SCHEMA = """
    create table customers (id int primary key, name text, country_id int);
    create table countries (id int primary key, name text);
    create table orders (id int primary key, customer_id int, total int);
    create table other (id int primary key);
    """

FACTS = {
    "order_state": {
        "table": "public.orders", "key": ["id"],
        "dimensions": [{"table": "public.customers", "join": "customers.id = orders.customer_id"},
                       {"table": "public.countries", "as": "c", "join": "c.id = customers.country_id"}],
        "refresh": {"into": "report.order_state", "query": "select id, total from orders"}},
    "big": {"table": "report.order_state", "key": ["id"]},
    "alone": {"table": "public.other", "key": ["id"]},
}
FEEDS = {"crm": {"fact": "big", "query": "select id, total from report.order_state", "run": "manual",
                 "destination": {"url": "http://crm.example:81/secret?token=x"}}}

VIEWS = """
    create view public.mine as select id from public.orders;
    create materialized view report."Sum" as select sum(total) from report.order_state;
    create view report.over as select * from report."Sum" cross join public.mine;
    create view public.unrelated as select 1 as one
    """


@pytest.fixture
def pipeline(source, mirror, make_pipeline, plugin):
    source.sql(SCHEMA)
    mirror.sql("create schema if not exists report authorization tailwater", user="postgres")
    pipeline = make_pipeline(facts=FACTS, feeds=FEEDS)
    pipeline.run_until_now()
    mirror.sql(VIEWS, user="tailwater")
    mirror.sql("create temporary view passing as select id from public.orders", user="tailwater")  # as refreshes make
    return pipeline


def edges(graph):
    names = {node["id"]: (node["kind"], node["name"]) for node in graph["nodes"]}
    assert len(names) == len(graph["nodes"])
    return {(names[e["from"]][1], names[e["to"]]): e["how"] for e in graph["edges"]}


ALL = {
    ("public.orders", ("fact", "order_state")): None,
    ("public.customers", ("fact", "order_state")): "customers.id = orders.customer_id",
    ("public.countries", ("fact", "order_state")): "c.id = customers.country_id, through customers",
    ("order_state", ("derived", "report.order_state")): None,
    ("report.order_state", ("fact", "big")): None,
    ("big", ("feed", "crm")): None,
    ("public.other", ("fact", "alone")): None,
    ("public.orders", ("view", "public.mine")): None,
    ("public.mine", ("view", "report.over")): None,
    ("report.order_state", ("view", "report.Sum")): None,
    ("report.Sum", ("view", "report.over")): None,
}


def test_what_leads_where(pipeline):
    graph = pipeline.ok("lineage", "--json").json()
    assert edges(graph) == ALL
    notes = {node["name"]: node["note"] for node in graph["nodes"]}
    assert (notes["report.Sum"], notes["crm"]) == ("materialized", "to crm.example:81")
    text = pipeline.ok("lineage").out
    for line in ("fact order_state  (key id)", "  table    public.customers  (customers.id = orders.customer_id)",
                 "  derived  report.order_state", "    fact     big  (key id)", "    view     report.Sum  (materialized)",
                 "      view     report.over", "table public.orders", "  view     public.mine"):
        assert line in text.splitlines(), text
    assert "secret" not in text and "token" not in text
    # Of one fact: what it is made of, and what is made of it.
    assert edges(pipeline.ok("lineage", "big", "--format", "json").json()) == {
        key: how for key, how in ALL.items() if key[0] != "public.other" and key[1][0] != "view"}
    assert edges(pipeline.ok("lineage", "alone", "--json").json()) == {("public.other", ("fact", "alone")): None}
    refused = pipeline.verb("lineage", "order_stat")
    assert refused.code == USAGE and "did you mean order_state?" in refused.text
    refused = pipeline.verb("lineage", "--format", "xml")
    assert refused.code == USAGE and "text, json and dot" in refused.text


def test_a_drawing(pipeline):
    """What Graphviz reads; names in any letters come through."""
    dot = pipeline.ok("lineage", "--format", "dot").out
    assert dot.startswith("digraph tailwater {\n") and dot.endswith("}\n")
    assert dot.count(" -> ") == len(ALL) and 'label="report.Sum\\nmaterialized"' in dot


def test_views_that_meet_again(source, make_pipeline):
    """Fifteen times a view over two over it: some dozens of lines, not 2^15."""
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    below = "public.t"
    for i in range(15):
        pipeline.mirror.sql(f"create view public.l{i} as select * from {below}; create view public.r{i} as select * from {below};"
                            f"create view public.m{i} as select l.id from public.l{i} l join public.r{i} r using (id)",
                            user="tailwater")
        below = f"public.m{i}"
    text = pipeline.ok("lineage").out
    assert "public.m14" in text and len(text.splitlines()) == 2 + 4 * 15


def test_a_fact_of_many_dimensions(source, make_pipeline):
    count = 70
    source.sql("create table f (id int primary key, v int);" +
               "".join(f"create table d{i} (id int primary key, f int, v int);" for i in range(count)))
    pipeline = make_pipeline(facts={"wide": {"table": "public.f", "key": ["id"], "dimensions": [
        {"table": f"public.d{i}", "join": f"d{i}.f = f.id"} for i in range(count)]}})
    assert len(pipeline.ok("lineage", "--json").json()["edges"]) == count + 1


def test_before_the_first_run(source, make_pipeline):
    source.sql(SCHEMA)
    pipeline = make_pipeline(facts={"alone": FACTS["alone"]})
    assert edges(pipeline.ok("lineage", "--json").json()) == {("public.other", ("fact", "alone")): None}
