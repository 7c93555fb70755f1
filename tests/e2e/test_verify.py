"""verify: what differs is found, to the row and column; where nothing does, nothing is, whatever goes on."""

import os
import signal
import subprocess

import pytest

from lib import wait
from lib.pipeline import AGAIN, DONE, FAILED, Traffic

FOUND = 3
ROUNDS = int(os.environ.get("TAILWATER_ROUNDS", 3))  # scripts/heal has more

SCHEMA = """
    create table t (id int primary key, a int, b text, big text);
    alter table t alter big set storage external;
    create table k (x text, y numeric, v json, primary key (x, y));
    insert into t select i, i, 'b' || i, repeat('x', 3000) from generate_series(1, 300) i;
    insert into k select 'x' || i, i * 1.50, json_build_object('i', i) from generate_series(1, 100) i;
    """

PLANTED = """
    delete from mirror_public.t where id between 1 and 25;
    update mirror_public.t set a = -1 where id between 26 and 40;
    update mirror_public.t set a = null, big = 'wrong' where id between 41 and 50;
    update mirror_public.t set _deleted_at = now() where id between 51 and 75;
    insert into mirror_public.t select i, i, 'e', 'e', '0/1' from generate_series(1001, 1025) i;
    """


@pytest.fixture
def schema(source):
    source.sql(SCHEMA)


def verify(pipeline, *operands, code=DONE, verb="verify"):
    result = pipeline.verb(verb, "--json", *operands, timeout=120)
    assert result.code == code, repr(result)
    return {table["name"]: table for table in result.json()["tables"]}


def keys(table, kind):
    return sorted(int(d["key"]["id"]) for d in table["differences"] if d["kind"] == kind)


@pytest.mark.parametrize("running", [True, False], ids=["handed over", "in place"])
def test_hundred_planted(both_plugins, source, mirror, schema, make_pipeline, running):
    """Each of them, and no other; the ledger's batches of the resync then hold those keys and no others."""
    pipeline = make_pipeline(facts={"thing": {"table": "public.t", "key": ["id"]}}).publish()
    pipeline.start().wait_until_caught_up()
    if not running:
        pipeline.stop()
    before = mirror.value("select batch_id from tailwater.clock")
    mirror.sql(PLANTED)
    for verb, operands in (("verify", ()), ("resync", ("--all", "--dry-run"))):
        found = verify(pipeline, *operands, code=FOUND, verb=verb)
        table = found["t"]
        assert (table["missing"], table["different"], table["extra"]) == (50, 25, 25)
        assert keys(table, "missing") == [*range(1, 26), *range(51, 76)]
        assert keys(table, "different") == list(range(26, 51))
        assert keys(table, "extra") == list(range(1001, 1026))
        columns = {int(d["key"]["id"]): d["columns"] for d in table["differences"] if d["kind"] == "different"}
        assert columns == {i: ["a"] if i <= 40 else ["a", "big"] for i in range(26, 51)}
        assert not any("source" in d or "mirror" in d for d in table["differences"])
        assert found["k"]["differences"] == []
    assert mirror.value("select count(*) from tailwater.affected_thing where batch_id > %s" % before) == 0
    result = pipeline.verb("resync", "t", timeout=120)
    assert result.code == DONE, repr(result)
    assert [row[0] for row in mirror.sql(
        "select distinct id from tailwater.affected_thing l join tailwater.batch b using (batch_id) "
        f"where b.kind = 'resync' and batch_id > {before} order by 1")] == [
            *range(1, 76), *range(1001, 1026)]
    verify(pipeline)
    pipeline.compare()


def test_values_and_text(source, mirror, schema, make_pipeline):
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    mirror.sql("update mirror_public.k set v = '{\"i\":  4}' where x = 'x4'; delete from mirror_public.k where x = 'x5'")
    result = pipeline.verb("verify", "public.k")
    assert result.code == FOUND
    assert "not equal" in result.out and "x=x4, y=6.00: v" in result.out and "{" not in result.out
    table = verify(pipeline, "k", "--values", code=FOUND)["k"]
    different, missing = sorted(table["differences"], key=lambda d: d["kind"])
    assert different["source"] == {"v": '{"i" : 4}'} and different["mirror"] == {"v": '{"i":  4}'}
    assert missing["source"]["y"] == "7.50" and "mirror" not in missing
    tables = {t["name"]: t for t in pipeline.verb("status", "--json").json()["tables"]}
    assert tables["k"]["verified_differences"] == 2 and tables["t"]["verified_at"] is None


TRAFFIC = {
    "update": (6, "\\set i random(1, 400)\nupdate t set a = a + 1 where id = :i;"),
    "big": (1, "\\set i random(1, 400)\nupdate t set big = repeat('y', 3000 + :i) where id = :i;"),
    "hole": (2, "\\set i random(1, 400)\nupdate t set b = b || 'h' where id = :i;"),
    "delete": (3, "\\set i random(1, 400)\ndelete from t where id = :i;"),
    "insert": (4, "\\set i random(1, 400)\n"
                  "insert into t values (:i, 0, 'new', repeat('z', 3000)) on conflict do nothing;"),
    "key": (3, "\\set i random(1, 400)\n\\set j random(1, 400)\n"
               "update t set id = :j where id = :i and not exists (select from t where id = :j);"),
    "truncate": (1, "\\set i random(1, 40)\nselect :i = 1 as really \\gset\n\\if :really\n"
                    "begin;\ncreate temp table kept on commit drop as select * from t;\ntruncate t;\n"
                    "insert into t select * from kept;\ncommit;\n\\endif"),
}


@pytest.mark.parametrize("purge", [{}, {"purge": {"after": "7d"}}], ids=["purged", "tombstones"])
def test_no_false_difference(both_plugins, source, schema, make_pipeline, folder, purge):
    """Under traffic that only changes what it puts back, deletes and truncates included."""
    pipeline = make_pipeline(**purge).publish()
    pipeline.start().wait_until_caught_up()
    with Traffic(source, folder, TRAFFIC, clients=2, rate=250) as traffic:
        for _ in range(ROUNDS):
            assert verify(pipeline)["t"]["differences"] == []
            traffic.check()
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_more_than_may_go(source, mirror, schema, make_pipeline):
    pipeline = make_pipeline(resync={"max_delete_fraction": 0.1})
    pipeline.start().wait_until_caught_up()
    mirror.sql("insert into mirror_public.k select 'e' || i, i, null, '0/1' from generate_series(1, 12) i;"
               "delete from mirror_public.k where x = 'x1'")
    result = pipeline.verb("resync", "--json", "k")
    table = result.json()["tables"][0]
    assert result.code == FAILED and "12 of the mirror's 112 rows" in table["error"]
    assert "--force" in table["hint"] and mirror.value("select count(*) from k") == 112
    result = pipeline.verb("resync", "--json", "--force", "k")
    assert result.code == DONE and result.json()["tables"][0]["extra"] == 12
    pipeline.settle()


def test_interrupted(source, mirror, schema, make_pipeline):
    """A verify that was killed goes on with the next replicator; a quarantined table is not compared."""
    pipeline = make_pipeline()
    pipeline.start(fault="resync_after_rows=stall:60000").wait_until_caught_up()
    mirror.sql("delete from mirror_public.k where x = 'x5'")
    command = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "verify"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=pipeline.environment())
    wait.until(lambda: mirror.value("select count(*) from tailwater.job_table where lsn is not null"),
               pipeline.log_tail)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=30) == AGAIN
    pipeline.kill()
    pipeline.start()
    wait.until(lambda: mirror.value("select state = 'done' from tailwater.job"), pipeline.log_tail, deadline=60)
    assert mirror.sql("select name, verified_differences from tailwater.mirror_table order by 1") == [
        ("k", 1), ("t", 0)]
    assert mirror.value("select count(*) from tailwater.mirror_table where resync_job is not null") == 0
