"""Keys and rows that meet in one batch (pitfalls P19, P22, P23, P25, P72)."""

import pytest

from lib.pipeline import FEEDS


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


def histories(length=4):
    """Every valid sequence of inserts, updates and deletes of one key, by whether it exists first."""
    for exists in (False, True):
        unfinished = [("", exists)]
        for _ in range(length):
            unfinished = [(done + op, op != "D") for done, there in unfinished
                          for op in ("UD" if there else "I")]
        for done, _ in unfinished:
            yield exists, done


def statements(key, history):
    for step, op in enumerate(history):
        yield {"I": f"insert into t values ({key}, {step}, repeat('i{step}', 3000))",
               "U": f"update t set a = 10 + {step} where id = {key}",
               "D": f"delete from t where id = {key}"}[op]


@pytest.mark.parametrize("retention", ["0", "7d"])
@pytest.mark.parametrize("how", ["one transaction a key", "one batch", "one transaction a step"])
def test_p22_every_history_of_a_key(both_plugins, source, mirror, make_pipeline, how, retention):
    source.sql("create table t (id int primary key, a int, big text);"
               "alter table t alter big set storage external")
    lives = list(enumerate(histories()))
    for key, (exists, _) in lives:
        if exists:
            source.sql(f"insert into t values ({key}, -1, repeat('old', 3000))")
    pipeline = running(make_pipeline, purge={"after": retention})
    if how == "one transaction a step":
        for step in range(4):
            with source.transaction() as cursor:
                for key, (_, history) in lives:
                    cursor.execute(list(statements(key, history))[step])
            pipeline.wait_until_caught_up()
    elif how == "one batch":
        with pipeline.held_applier():
            for key, (_, history) in lives:
                for statement in statements(key, history):
                    source.sql(statement)
    else:
        for key, (_, history) in lives:
            with source.transaction() as cursor:
                for statement in statements(key, history):
                    cursor.execute(statement)
    pipeline.wait_until_caught_up()
    pipeline.compare()
    tombstones = {key for key, (_, history) in lives if history.endswith("D")}
    kept = {row[0] for row in mirror.sql(
        "select id from mirror_public.t where _deleted_at is not null")}
    assert kept == (tombstones if retention == "7d" else set())
    pipeline.settle()


def test_p19_identity_index_is_the_key(both_plugins, source, mirror, make_pipeline):
    source.sql("""
        create table t (a int primary key, b int not null, c text);
        create unique index t_b on t (b);
        alter table t replica identity using index t_b;
        insert into t values (1, 100, 'x'), (5, 500, 'y');
        """)
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set a = 2 where b = 100", "update t set c = 'd' where b = 100",
                   "update t set b = 200 where a = 2"], "one by one")
    assert mirror.sql("select * from t order by a") == [(2, 200, "d"), (5, 500, "y")]
    pipeline.feed(["delete from t where b = 200"], "one by one")
    assert mirror.sql("select * from t") == [(5, 500, "y")]
    pipeline.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p23_unique_values_swapped(both_plugins, source, make_pipeline, how):
    source.sql("""
        create table t (id int primary key, u int, unique (u) deferrable initially deferred);
        insert into t values (1, 10), (2, 20), (3, 30);
        """)
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set u = case id when 1 then 20 else 10 end where id in (1, 2)",
                   "update t set u = null where id = 1", "update t set u = 20 where id = 3",
                   "delete from t where id = 2", "insert into t values (4, 10)"], how)
    pipeline.settle()


def test_p25_update_that_changes_nothing(both_plugins, source, make_pipeline):
    source.sql("""
        create table only_key (id int primary key);
        create table t (id int primary key, a int, j json, big text);
        alter table t alter big set storage external;
        insert into only_key values (1), (2);
        insert into t values (1, 1, '{"a":  1}', repeat('x', 9000)), (2, null, null, null);
        """)
    pipeline = running(make_pipeline)
    before = pipeline.snapshot()
    pipeline.feed(["update only_key set id = id", "update t set a = a", "update t set j = j, id = id"],
                  "one by one")
    assert pipeline.snapshot() == before, "an update that changes nothing rewrote rows"
    pipeline.feed(["update only_key set id = 3 where id = 2"], "one by one")
    pipeline.settle()


EQUAL_KEYS = {
    "numeric": ("1.0", "1.00"),
    "citext": ("'A'", "'a'"),
    "float8": ("'-0'", "'0'"),
    "interval": ("'1 day'", "'24 hours'"),
    "text collate blind": ("'A'", "'a'"),
}


@pytest.fixture
def equal_keys(source, mirror):
    """A table for each type whose equal values may differ in their bytes: {table: two such values}."""
    for database in (source, mirror):
        database.sql("create collation blind (provider = icu, locale = 'und-u-ks-level2',"
                     " deterministic = false); create extension citext", user="postgres")
    for number, (kind, (one, _)) in enumerate(EQUAL_KEYS.items()):
        source.sql(f"create table t{number} (id {kind} primary key, a int, big text);"
                   f"alter table t{number} alter big set storage external;"
                   f"insert into t{number} values ({one}, 1, repeat('b', 9000))")
    return {f"t{number}": values for number, values in enumerate(EQUAL_KEYS.values())}


@pytest.mark.parametrize("how, retention", [*((how, "0") for how in FEEDS), ("in one batch", "7d")])
def test_p72_equal_keys_of_different_bytes(both_plugins, mirror, make_pipeline, equal_keys, how, retention):
    pipeline = running(make_pipeline, purge={"after": retention})
    for statements in (["update {t} set id = {other}"],
                       ["delete from {t}", "insert into {t} values ({one}, 2, null)"],
                       ["update {t} set id = {other}, a = 3", "update {t} set id = {one}, a = 4",
                        "delete from {t}", "insert into {t} values ({other}, 5, 'x')"]):
        pipeline.feed([statement.format(t=table, one=one, other=other) for statement in statements
                       for table, (one, other) in equal_keys.items()], how)
        pipeline.compare()
    for table in equal_keys:
        assert mirror.value(f"select count(*) from mirror_public.{table}") == 1, table
    pipeline.settle()
