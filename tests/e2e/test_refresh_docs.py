"""docs/refresh.md: a materialized view is moved over to a fact, by the statements and the YAML that stand there."""

import os

import yaml

from lib.cluster import ROOT
from lib.page import read_blocks
from lib.refresh import Refreshed

MOVING = "Moving a materialized view over"
BLOCKS = [(info, text) for chapter, _, info, text in read_blocks(os.path.join(ROOT, "docs", "refresh.md")) if chapter == MOVING]

ROWS = """
    insert into customers select i, 'customer ' || i, 'c' || i % 3 from generate_series(1, 5) i;
    insert into invoices select i, 'nr ' || i, 1 + i % 5, '2024-01-01', date '2024-02-01' + i, i % 7 = 0
        from generate_series(1, 50) i;
    insert into invoice_lines select 1 + i % 50, i, i from generate_series(1, 200) i;
    insert into payments select i, 1 + i % 40, 20 from generate_series(1, 60) i;
"""


def test_moving_a_materialized_view(source, make_pipeline):
    assert [info for info, _ in BLOCKS] == ["sql source", "sql mirror", "yaml", "sql compare", "sql mirror"]
    schema, view, fact, compare, swap = (text for _, text in BLOCKS)
    source.sql(schema + ROWS)
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    mirror = pipeline.mirror
    mirror.sql("create schema report authorization tailwater")
    mirror.sql(view)
    before = mirror.sql("select * from report.invoice_overview order by id")
    assert before

    pipeline.keys["facts"] = yaml.safe_load(fact)["facts"]
    pipeline.write_config()
    assert pipeline.ok("check").code == 0
    pipeline.stop()
    pipeline.start()
    made = Refreshed(pipeline)
    made.settle()
    mirror.sql("refresh materialized view report.invoice_overview")
    assert mirror.value(compare) == 0 and mirror.value("select count(*) from report.invoice") == len(before)
    mirror.sql(swap)
    assert mirror.sql("select id, number, is_overdue from report.invoice_overview order by id") == [
        (row[0], row[1], row[-1]) for row in before]
    source.sql("update payments set amount = 1000 where invoice_id = 8; update invoices set is_draft = true where id = 9;"
               "delete from invoice_lines where invoice_id = 10")
    made.settle()
    assert mirror.sql("select id, is_overdue from report.invoice_overview where id in (8, 9, 10)") == [(8, False)]
    assert pipeline.ok("refresh", "invoice", "--full", "--verify", "--json").json()["drift"] == 0
