"""Memory is bounded by configuration, whatever the size of a transaction (invariant 8, P16)."""

import pytest

ROWS = 1_000_000


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_p16_transaction_of_a_million_rows(release, source, mirror, make_pipeline, plugin):
    source.sql("create table t (id int primary key, a int, b text)")
    pipeline = make_pipeline(binary=release, apply={"max_bytes": "3276kB"}).publish()
    pipeline.start().wait_until_caught_up()
    source.sql(f"insert into t select i, i % 100, 'row number ' || i from generate_series(1, {ROWS}) i")
    pipeline.wait_until_caught_up(deadline=150)
    source.sql("update t set a = a + 1 where id <= 300000")
    source.sql("delete from t where id <= 100000")
    pipeline.wait_until_caught_up(deadline=150)
    peak = pipeline.peak_memory_kb()
    assert peak <= 64 * 1024, f"resident memory reached {peak} kB"
    pipeline.compare()
    pipeline.settle_stopped(compare=False)


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_p16_pieces_of_one_transaction(source, mirror, make_pipeline, plugin):
    """Every kind of change across pieces, on keys that come back in later ones."""
    source.sql("create table t (id int primary key, a int, big text);"
               "alter table t alter big set storage external;"
               "insert into t select i, 0, repeat('x', 3000) from generate_series(1, 300) i")
    for retention in ("0", "7d"):
        pipeline = make_pipeline(apply={"max_rows": 100}, purge={"after": retention},
                                 mirror={"view_schema": f"live_{retention}",
                                         "table_schema": f"stored_{retention}"}).publish()
        pipeline.start().wait_until_caught_up()
        batches = pipeline.clock()[0]
        source.sql("""
            begin;
            insert into t select i, 1, 'new' from generate_series(1001, 1500) i;
            update t set a = a + 1 where id <= 250;
            delete from t where id between 200 and 280;
            insert into t select i, 9, 'back' from generate_series(240, 260) i;
            update t set id = id + 5000 where id between 1001 and 1200;
            update t set big = repeat('y', 3000) where id between 5000 and 6100;
            update t set a = 77 where id between 1 and 100 or id > 6000;
            delete from t where id > 6150;
            commit;
            """)
        pipeline.wait_until_caught_up()
        assert pipeline.clock()[0] <= batches + 5, "its dozen pieces are one batch, and few are idle ones"
        there = source.sql("select id, a, big from t order by id")
        here = mirror.sql(f"select id, a, big from live_{retention}.t order by id")
        assert there == here
        source.sql("""
            begin;
            truncate t;
            insert into t select i, 0, repeat('x', 3000) from generate_series(1, 300) i;
            commit;
            """)
        pipeline.wait_until_caught_up()
        assert mirror.sql(f"select id, a, big from live_{retention}.t order by id") == \
            source.sql("select id, a, big from t order by id")
        pipeline.settle_stopped(compare=False)
