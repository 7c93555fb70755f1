"""status, init, version, help: what they print is what is so."""

import json

import pytest

from lib import wait
from lib.pipeline import DONE, USAGE


@pytest.fixture
def table(source):
    source.sql("create table t (id int primary key); insert into t values (1), (2)")


def test_status(source, mirror, table, pipeline):
    before = pipeline.verb("status", "--json")
    assert before.code in (DONE, 1), repr(before)
    pipeline.start().wait_until_caught_up()
    source.sql("insert into t values (3)")
    pipeline.wait_until_caught_up()
    said = wait.until(lambda: pipeline.ok("status", "--json").json(), "status")
    text = json.dumps(said)
    assert pipeline.name in text and "public" in text
    assert "streaming" in pipeline.ok("status").out
    pipeline.settle()


def test_status_before_anything(table, mirror, pipeline):
    """Asking changes nothing."""
    pipeline.verb("status")
    assert mirror.value("select to_regnamespace('tailwater')") is None


def test_check_is_content_with_the_readme_s_roles(both_plugins, table, mirror, make_pipeline):
    pipeline = make_pipeline().publish()
    result = pipeline.ok("check", "--json")
    assert '"error"' not in json.dumps([f for f in findings(result)]), repr(result)
    assert mirror.value("select to_regnamespace('tailwater')") is None, "check changes nothing"
    pipeline.run_until_now()
    pipeline.ok("check")
    pipeline.settle_stopped()


def findings(result):
    said = result.json()
    return said["findings"] if isinstance(said, dict) else said


def test_init_writes_what_runs(source, mirror, table, pipeline):
    result = pipeline.ok("init", "--source", source.conninfo() + " password=s3cret", "--mirror",
                         mirror.conninfo())
    assert "s3cret" not in result.text
    assert "${TAILWATER_SOURCE_PASSWORD}" in result.out
    pipeline.write_config(result.out.replace("# pipeline: main", f"pipeline: {pipeline.name}"))
    with open(pipeline.file) as file:
        assert f"\npipeline: {pipeline.name} " in file.read()
    checked = pipeline.verb("check", env={"TAILWATER_SOURCE_PASSWORD": "x"})
    assert checked.code != USAGE, repr(checked)


def test_version_and_help(pipeline):
    assert pipeline.ok("version").out.startswith("tailwater ")
    said = pipeline.ok("help").out
    for verb in ("init", "check", "run", "status", "purge", "destroy", "version", "help"):
        assert verb in said
        assert pipeline.ok("help", verb).out
