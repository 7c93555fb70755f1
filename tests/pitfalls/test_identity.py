"""Keys, replica identities and what else a mirror table is (P17 to P21, P24, P64)."""

import contextlib
import threading

import psycopg2
import pytest

from lib import wait
from lib.pipeline import FAILED, FINDINGS, USAGE
from pitfalls.common import STOP, refused, running, wait_until_repaired

# How a table says what its rows are known by, and the configuration where it needs a word.
IDENTITIES = {
    "default": ("id int, part text, primary key (id, part)", "default", {}),
    "index": ("id int not null, part text not null, pk int generated always as identity primary key",
              "using index {t}_key", {}),
    "full": ("id int, part text, primary key (id, part)", "full", {}),
    "full, key named": ("id int not null, part text not null", "full", {"key": ["part", "id"]}),
    "full, key among others": ("id int not null, part text not null, n int unique", "full", {"key": ["id", "part"]}),
    "unique nulls elsewhere": ("id int not null, part text not null, u int unique", "using index {t}_key", {}),
}


@pytest.fixture
def keyed(source):
    """A table of each identity, and what the configuration says of it."""
    entries = []
    for number, (columns, identity, entry) in enumerate(IDENTITIES.values()):
        table = f"t{number}"
        source.sql(f"""
            create table {table} ({columns}, a int, big text);
            create unique index {table}_key on {table} (id, part);
            alter table {table} alter big set storage external, alter part set storage external;
            alter table {table} replica identity {identity.format(t=table)};
            insert into {table} (id, part, a, big) select i, 'p', i, repeat(i::text, 5000) from generate_series(1, 6) i;
            """)
        entries.append({"name": f"public.{table}", **entry})
    return entries


@pytest.mark.parametrize("how", ["in one transaction", "one by one"])
def test_p19_p21_every_kind_of_identity(both_plugins, mirror, make_pipeline, keyed, how):
    tables = [f"t{number}" for number in range(len(keyed))]
    pipeline = running(make_pipeline, [("public", table) for table in tables], tables=keyed)

    def feed(*statements):
        pipeline.feed([statement.format(t=table) for statement in statements for table in tables], how)

    feed("update {t} set a = 10 where id = 1", "update {t} set id = 20 where id = 2",
         "update {t} set part = repeat('q', 2200), a = null where id = 3", "delete from {t} where id = 4",
         "update {t} set a = 5 where id = 20", "insert into {t} (id, part) values (4, 'again')",
         "update {t} set a = 7 where id = 3", "update {t} set id = 2 where id = 5",
         "update {t} set big = null, part = 'r' where id = 3")
    pipeline.compare(tables)
    for table in tables:
        mirror.sql(f"delete from mirror_public.{table} where id in (6, 20)")
    feed("update {t} set a = 66 where id = 6", "update {t} set id = 21 where id = 20")
    pipeline.wait_until_caught_up()
    wait_until_repaired(pipeline)
    pipeline.settle(tables)


@pytest.mark.parametrize("definition, why", [
    ("create table bad (id int primary key deferrable initially immediate)", "deferrable"),
    ("create table bad (id int, unique (id))", "no primary key"),
    ("create table bad (id int not null); create unique index i on bad (id) where id > 0;"
     "alter table bad replica identity full", "FULL"),
    ("create table bad (id int not null); create unique index i on bad ((id + 1));"
     "alter table bad replica identity full", "FULL"),
    ("create table bad (id int unique); alter table bad replica identity full", "FULL"),
    ("create table bad (id int not null unique deferrable); alter table bad replica identity full", "FULL"),
    ("create table bad (id int primary key); alter table bad replica identity nothing", "NOTHING"),
    ("create table bad (id int primary key, o int not null); create unique index i on bad (o);"
     "alter table bad replica identity using index i; drop index i", "dropped"),
])
def test_p17_p18_p21_unusable_identities(both_plugins, source, make_pipeline, definition, why):
    """Named: refused with the reason and a remedy.  By a glob: passed over with a warning."""
    source.sql("create table good (id int primary key)")
    source.sql(definition)
    pipeline = make_pipeline(tables=["public.bad"])
    result = pipeline.verb("check", "--json")
    found = [f for f in result.json()["findings"] if f["name"] == "table_key"]
    assert result.code == FINDINGS and len(found) == 1 and found[0]["level"] == "error"
    assert why in found[0]["why"] and found[0]["remedy"], repr(result)
    assert pipeline.verb("run", "--until", "now").code == FINDINGS
    pipeline.tables = ["public.*"]
    pipeline.write_config()
    pipeline.publish(("public", "good"))
    found = [f for f in pipeline.ok("check", "--json").json()["findings"] if f["name"] == "table_key"]
    assert [f["level"] for f in found] == ["warning"] and "public.bad" in found[0]["what"]
    pipeline.run_until_now()
    pipeline.compare(["good"])


@pytest.mark.parametrize("entry, why", [
    ({"key": ["a"]}, "unique"), ({"key": ["id", "a"]}, "unique"), ({"key": ["nothing"]}, "nothing"),
    ({}, "FULL"),
])
def test_p21_a_key_that_is_none(source, make_pipeline, entry, why):
    source.sql("create table t (id int not null unique, a int); alter table t replica identity full")
    pipeline = make_pipeline(tables=[{"name": "public.t", **entry}])
    result = pipeline.verb("check")
    assert result.code in (USAGE, FINDINGS) and why in result.text and "id" in result.text, repr(result)


def test_p21_rows_that_are_twice_there(both_plugins, source, mirror, make_pipeline):
    """Such a table has no key: it is not mirrored, and its traffic disturbs nothing."""
    source.sql("create table t (id int primary key); create table twice (a int, b text);"
               "alter table twice replica identity full; insert into twice values (1, 'x'), (1, 'x')")
    pipeline = running(make_pipeline)
    source.sql("update twice set a = 2; delete from twice; insert into t values (1)")
    pipeline.wait_until_caught_up()
    assert mirror.value("select to_regclass('twice')") is None
    pipeline.settle(["t"])


@pytest.mark.parametrize("thing", [
    "create trigger x before insert or update on mirror_public.t for each row execute function f()",
    "create trigger x after delete on mirror_public.t for each statement execute function f();"
    "alter table mirror_public.t enable always trigger x",
    "create rule x as on update to mirror_public.t do instead nothing",
])
def test_p24_triggers_and_rules_on_the_mirror(source, mirror, make_pipeline, thing):
    """Refused at the start, by name: what they do to writes would be found out too late."""
    source.sql("create table t (id int primary key, a int); insert into t values (1, 1)")
    pipeline = make_pipeline(apply=STOP)
    pipeline.run_until_now()
    mirror.sql("create function f() returns trigger language plpgsql as 'begin return null; end'")
    mirror.sql(thing)
    source.sql("update t set a = 2")
    refused(pipeline, (USAGE, FINDINGS), "public.t", '"x"')
    mirror.sql("alter table mirror_public.t disable trigger user; drop rule if exists x on mirror_public.t")
    pipeline.settle_stopped()


def test_p64_identity_that_becomes_full(both_plugins, source, make_pipeline):
    """While it runs: the key is the same, and rows carry more than before."""
    source.sql("create table t (id int primary key, a int, big text); alter table t alter big set storage external;"
               "insert into t select i, i, repeat('x', 5000) from generate_series(1, 5) i")
    pipeline = running(make_pipeline)
    source.sql("update t set a = 0 where id = 1; alter table t replica identity full")
    source.sql("update t set a = 0 where id = 2; update t set id = 30 where id = 3; delete from t where id = 4")
    source.sql("alter table t replica identity default")
    source.sql("update t set a = 7 where id = 30")
    pipeline.settle()


@pytest.mark.parametrize("before, after", [("default", "full"), ("full", "default"), ("default", "nothing"), ("full", "nothing")])
def test_p64_identity_within_a_transaction(both_plugins, source, make_pipeline, before, after):
    """What is logged before has the form of before: with an old row or without, of a key that changes or stays."""
    source.sql("create table t (id int primary key, a int, big text); alter table t alter big set storage external;"
               f"alter table t replica identity {before};"
               "insert into t select i, i, repeat('x', 5000) from generate_series(1, 5) i")
    pipeline = running(make_pipeline)
    with source.transaction() as cursor:
        cursor.execute("update t set a = 0 where id = 1; update t set id = 20 where id = 2; delete from t where id = 3;"
                       "update t set id = 21, big = 'y' where id = 20; update t set big = 'z' where id = 4")
        cursor.execute(f"alter table t replica identity {after}")
        if after != "nothing":  # what is logged under that has no key
            cursor.execute("update t set a = 0 where id = 4; update t set id = 30 where id = 21; delete from t where id = 5")
        cursor.execute(f"alter table t replica identity {before}")
        cursor.execute("update t set a = 7 where id = 4; update t set id = 10 where id = 1")
    pipeline.settle()


MOVED = {
    "another index": "alter table t replica identity using index o; update t set id = 5 where id = 1;"
                     "alter table t replica identity default",
    "another primary key": "alter table t drop constraint t_pkey; alter table t add primary key (o);"
                           "update t set id = id + 100;"
                           "alter table t drop constraint t_pkey; alter table t add primary key (id)",
    "none": "alter table t drop constraint t_pkey; update t set id = id + 100; alter table t add primary key (id)",
    "nothing, update": "alter table t replica identity nothing; update t set a = 9; alter table t replica identity default",
    "nothing, delete": "alter table t replica identity nothing; delete from t where id = 2; alter table t replica identity default",
}


@pytest.mark.parametrize("moved", MOVED)
def test_p17_p64_identity_moved_and_put_back(source, mirror, make_pipeline, moved):
    """Within one transaction: when it is decoded the table looks as it always did, but wal2json has sent another key, or
    nothing but a warning.  The table is left out until it is copied anew; others go on, and nothing is silently wrong."""
    source.sql("create table t (id int primary key, o int not null, a int); create unique index o on t (o);"
               "create table other (id int primary key); create table \"odd\"\".\"\"name\" (id int);"
               "insert into t select i, i + 10, i from generate_series(1, 3) i")
    pipeline = make_pipeline(apply={"on_error": "quarantine"}).start()
    pipeline.wait_until_caught_up()
    source.sql("update t set a = 7 where id = 3")
    source.sql(MOVED[moved] + "; insert into other values (1)")
    wait.until(lambda: mirror.value("select quarantine_lsn from tailwater.mirror_table where name = 't'"), pipeline.log_tail)
    source.sql("insert into other values (2)")
    wait.until(lambda: mirror.value("select count(*) from other") == 2, "others go on")
    assert ("left an update or a delete out" in pipeline.log) == (moved.startswith("no"))
    pipeline.ok("resync", "t")
    pipeline.settle()


def test_p64_altered_while_it_is_decoded(both_plugins, source, mirror, make_pipeline):
    """Its table's relation is forgotten between two looks at it: wal2json leaves out the identity of some updates (not of a
    changed key: that is in the WAL)."""
    source.sql("create type mood as enum ('a', 'b'); create table t (id int primary key, m mood, n int);"
               "insert into t select i, 'a', 0 from generate_series(1, 30) i")
    pipeline = running(make_pipeline)
    pipeline.stop()
    with source.transaction() as cursor:
        for number in range(200):
            # A label that is looked up anew, for each update of the round: then news of the catalogs are heard.
            cursor.execute("update t set n = n + 1, m = case m when 'a' then 'b'::mood else 'a' end where id <= 25;"
                           f"update t set id = {1000 + number} where id = {999 + number if number else 30};"
                           "alter type mood rename value 'b' to 'c'; alter type mood rename value 'c' to 'b'")
    over, altered = threading.Event(), []
    said_before = len(source.cluster.log)

    def alter():
        connection = source.connect()
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            while not over.is_set():
                cursor.execute(f"alter table t set (fillfactor = {50 + len(altered) % 50})")
                altered.append(True)

    thread = threading.Thread(target=alter)
    thread.start()
    try:
        pipeline.start().wait_until_caught_up()
    finally:
        over.set()
        thread.join()
    assert altered
    if both_plugins == "wal2json":
        assert "no old tuple data for UPDATE" in source.cluster.log[said_before:], "an update without its identity was decoded"
    assert mirror.value("select count(*) from t where id >= 999") == 1
    pipeline.settle()


def test_p64_identity_of_another_index(both_plugins, source, make_pipeline):
    """Another key than the mirror's: pgoutput tells, and it stops; each start refuses it."""
    source.sql("create table t (id int primary key, o int not null, a int); create unique index o on t (o);"
               "insert into t values (1, 10, 0)")
    pipeline = running(make_pipeline)
    source.sql("alter table t replica identity using index o")
    source.sql("update t set a = 1")
    if both_plugins == "pgoutput":
        assert pipeline.wait_exit() == FAILED, pipeline.log_tail()
        assert "replica identity" in pipeline.this_run()
    else:
        pipeline.stop()
    refused(pipeline, (USAGE, FINDINGS), "public.t")


def test_p63_p64_table_that_becomes_unlogged(both_plugins, source, mirror, make_pipeline):
    """Its changes are in no WAL any more: each start refuses it."""
    source.sql("create table t (id int primary key)")
    if both_plugins == "pgoutput":
        pipeline = make_pipeline(apply=STOP).publish()
        pipeline.run_until_now()
        # The server itself refuses while the table is published.
        with pytest.raises(psycopg2.Error, match="publication"):
            source.sql("alter table t set unlogged")
        return
    pipeline = make_pipeline(tables=["public.t"], apply=STOP)
    pipeline.run_until_now()
    source.sql("alter table t set unlogged; insert into t values (1)")
    refused(pipeline, (USAGE, FINDINGS), "public.t", "unlogged")
