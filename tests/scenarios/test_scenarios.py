"""What people do with derived tables, each in a folder: the source's schema, the facts, the traffic.

The derived tables are built, kept through the traffic, and equal to their queries; a comparison of all of
it finds nothing.
"""

import os

import pytest
import yaml

from lib.refresh import Refreshed

HERE = os.path.dirname(os.path.abspath(__file__))
SCENARIOS = sorted(name for name in os.listdir(HERE) if os.path.exists(os.path.join(HERE, name, "facts.yaml")))


def read(scenario, name):
    with open(os.path.join(HERE, scenario, name)) as f:
        return f.read()


@pytest.fixture
def play(source, make_pipeline):
    def start(scenario):
        source.sql(read(scenario, "schema.sql"))
        made = Refreshed(make_pipeline(facts=yaml.safe_load(read(scenario, "facts.yaml"))).publish())
        made.pipeline.start()
        made.settle()
        return made
    return start


def traffic(made, scenario):
    for line in read(scenario, "traffic.sql").splitlines():
        made.source.sql(line)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(play, scenario):
    made = play(scenario)
    traffic(made, scenario)
    made.settle()
    for fact in made.facts:
        whole = made.pipeline.ok("refresh", fact, "--full", "--verify", "--json").json()
        assert (whole["drift"], whole["pending"]) == (0, 0)
    assert made.pipeline.ok("check").code == 0


def test_seven_days_at_the_same_time(play):
    made = play("week_again")
    made.mirror.sql("update report.sales_day set amount = -1")
    week = made.pipeline.ok("backfill", "sales_day", "--from", "2024-01-08", "--to", "2024-01-15", "--chunk", "1d",
                            "--parallel", "7", "--json").json()
    assert (week["chunks"], week["updated"], week["state"]) == (7, 7, "done")
    assert made.mirror.value("select count(*) from report.sales_day where amount = -1") == 23
    made.pipeline.ok("backfill", "sales_day", "--all")
    made.settle()
