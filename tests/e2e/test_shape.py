"""schema_changes: stop.  A table that changes its shape: refused with its name, never a wrong column (P55 to P59, P64).

Some changes are seen in the stream, with the next row; every one of these here is seen at the next start.
Then the mirror stays as it was until destroy and a new run.
"""

import pytest

from lib.pipeline import FAILED, FINDINGS, USAGE

ADDED = ["alter table t add c int default 7", "update t set a = 0 where id = 1"]
DROPPED = ["alter table t drop b", "update t set a = 0 where id = 1"]
RENAMED = ["alter table t rename b to bb", "update t set bb = 'new' where id = 1"]
DROPPED_AND_ADDED = ["alter table t drop b; alter table t add b text", "update t set b = 'x' where id = 1"]
SWAPPED = ["alter table t add c text; update t set c = 'c'",
           "alter table t rename b to x; alter table t rename c to b; alter table t drop x"]
RETYPED = ["alter table t alter a type bigint", "update t set a = 9007199254740993"]
ANOTHER_KEY = ["alter table t drop constraint t_pkey; alter table t add primary key (a)",
               "update t set b = 'x' where id = 1"]
NO_KEY = ["alter table t drop constraint t_pkey", "insert into t values (100, 0, 'x')"]
NO_IDENTITY = ["alter table t replica identity nothing", "insert into t values (100, 0, 'x')"]
MADE_ANEW = ["drop table t; create table t (id int primary key, a int, b text)",
             "insert into t values (1, 5, 'other')"]
TABLE_RENAMED = ["alter table t rename to u", "update u set a = 0 where id = 1"]

CHANGES = {
    "p55 added": ADDED, "p57 dropped": DROPPED, "p57 renamed": RENAMED,
    "p57 dropped and added": DROPPED_AND_ADDED, "p57 swapped": SWAPPED, "p56 retyped": RETYPED,
    "p19 another key": ANOTHER_KEY, "p64 no key": NO_KEY, "p64 no identity": NO_IDENTITY,
    "p59 made anew": MADE_ANEW, "p59 table renamed": TABLE_RENAMED,
}

# What the stream shows.  wal2json has no word for a relation, so that a column which is gone looks
# like one that did not change, and a table without a key sends nothing.
IN_THE_STREAM = [
    *[(plugin, change) for plugin in ("wal2json", "pgoutput")
      for change in ("p55 added", "p57 renamed", "p56 retyped")],
    *[("pgoutput", change) for change in ("p57 dropped", "p19 another key", "p64 no key", "p64 no identity")],
]

HARMLESS = {
    "index": ["create index on t (a)", "update t set a = 0 where id = 1"],
    "constraint": ["alter table t add check (a >= 0)", "update t set a = 0 where id = 1"],
    "default": ["alter table t alter a set default 5", "insert into t (id) values (100)"],
    "not null": ["alter table t alter a set not null", "update t set a = 0 where id = 1"],
    "storage": ["alter table t alter b set storage external", "update t set b = repeat('x', 9000)",
                "update t set a = 0"],
    "trigger": ["create function f() returns trigger language plpgsql as "
                "'begin new.a = 42; return new; end'; create trigger f before update on t "
                "for each row execute function f()", "update t set b = 'x' where id = 1"],
    "identity full": ["alter table t replica identity full", "update t set b = 'x' where id = 1",
                      "delete from t where id = 2"],
    "vacuum full": ["vacuum full t", "update t set a = 0 where id = 1"],
    "another table": ["create table other (id int primary key)", "insert into other values (1)",
                      "update t set a = 0 where id = 1"],
}


@pytest.fixture
def copied(source, make_pipeline, plugin):
    source.sql("create table t (id int primary key, a int, b text);"
               "insert into t select i, i, 'b' || i from generate_series(1, 5) i")
    pipeline = make_pipeline(tables=["public.t"], apply={"on_error": "stop"},
                             schema_changes="stop").publish()
    pipeline.run_until_now()
    return pipeline


def refused(pipeline):
    """At every start, and the mirror stays as it is."""
    before = pipeline.snapshot()
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code in (USAGE, FINDINGS), repr(result)
        assert "public.t" in result.err, repr(result)
    assert pipeline.snapshot() == before


@pytest.mark.parametrize("plugin, change", IN_THE_STREAM)
def test_seen_in_the_stream(plugin, source, copied, change):
    copied.start().wait_log(r"\[streaming\]")
    for statement in CHANGES[change]:
        source.sql(statement)
    assert copied.wait_exit() == FAILED, copied.log_tail()
    assert "public.t" in copied.this_run(), copied.log_tail()
    refused(copied)


@pytest.mark.parametrize("change", CHANGES)
def test_seen_at_the_next_start(both_plugins, source, copied, change):
    for statement in CHANGES[change]:
        source.sql(statement)
    refused(copied)


@pytest.mark.parametrize("change", ["p55 added", "p57 dropped", "p57 renamed", "p56 retyped",
                                    "p19 another key", "p59 made anew"])
def test_copied_anew(both_plugins, source, copied, change):
    """destroy and run bring it back, in its new shape."""
    for statement in CHANGES[change]:
        source.sql(statement)
    copied.ok("destroy", "--yes")
    copied.publish()
    copied.run_until_now()
    copied.compare()
    copied.settle_stopped()


@pytest.mark.parametrize("change", HARMLESS)
def test_harmless(both_plugins, source, copied, change):
    copied.start().wait_log(r"\[streaming\]")
    for statement in HARMLESS[change]:
        source.sql(statement)
    copied.wait_until_caught_up()
    copied.settle(["t"])
