"""How a batch is written: by the key, durably, byte for byte."""

import pytest

from lib import wait


def running(make_pipeline, **keys):
    pipeline = make_pipeline(**keys).publish()
    return pipeline.start().wait_until_caught_up()


def test_a_batch_reaches_its_rows_by_the_key(source, mirror, make_pipeline):
    """However many rows a batch has, it never reads a mirror table from end to end."""
    source.sql("create table t (id int primary key, a int);"
               "insert into t select i, i from generate_series(1, 20000) i")
    pipeline = running(make_pipeline)
    mirror.sql("analyze mirror_public.t")

    def scans():
        return mirror.sql("select seq_scan, idx_scan from pg_stat_all_tables "
                          "where schemaname = 'mirror_public' and relname = 't'")[0]

    before = scans()
    for _ in range(3):
        source.sql("update t set a = a + 1 where id <= 4000")
        pipeline.wait_until_caught_up()
    pipeline.stop()
    wait.until(lambda: scans()[1] >= before[1] + 3 * 4000, lambda: f"statistics: {before}, {scans()}")
    assert scans()[0] == before[0], "a sequential scan"
    pipeline.settle()


# What has a statement planned while the table has a row, and what to do then.
ONE_ROW = {
    "update": (["update t set a = a + 1"], "update t set a = 2 where id = {}"),
    "delete": (["insert into t values (-1, 0, 0)", "delete from t where id = -1"], "delete from t where id = {}"),
    "links": (["update u set c = c + 1"], "update u set c = c + 1 where a = {}")}


@pytest.mark.parametrize("how", ONE_ROW)
def test_a_table_that_was_small_when_its_statements_were_planned(own_servers, source, mirror, make_pipeline, how):
    """Nobody analyzes it again for a while: a batch of one row still looks at one row, not at all there are."""
    own_servers.mirror.set(autovacuum="off")
    source.sql("create table t (id int primary key, a int, b int); insert into t values (0, 0, 0);"
               "create table u (a int, b int, c int, primary key (a, b)); insert into u values (0, 0, 0)")
    fact = {"table": "public.t", "key": ["id"],
            "dimensions": [{"table": "public.u", "join": ["u.a = t.a", "u.b = t.b"]}]}
    pipeline = running(make_pipeline, purge={"after": "0"}, facts={"t": fact} if how == "links" else {})
    mirror.sql("vacuum analyze mirror_public.t", user="postgres")
    first, then = ONE_ROW[how]
    pipeline.feed(first * 3, "one by one")
    source.sql("insert into t select i, i, 0 from generate_series(1, 20000) i;"
               "insert into u select i, 0, 0 from generate_series(1, 20000) i")
    pipeline.wait_until_caught_up()

    def counted():
        return mirror.sql("select idx_tup_fetch + seq_tup_read, n_tup_ins from pg_stat_all_tables "
                          "where schemaname = 'mirror_public' and relname = 't'")[0]

    def read():
        """What a session did is counted when it ends."""
        pipeline.stop()
        wait.until(lambda: counted()[1] >= 20000, lambda: f"statistics: {counted()}")
        return counted()[0]

    pipeline.feed([then.format(i) for i in range(19951, 20001)], "one by one")
    assert read() < 60000, "each batch read the table from end to end"
    pipeline.settle()


def test_a_commit_waits_until_it_is_durable(own_servers, source, mirror, make_pipeline):
    """Also where a standby's word is part of that; and nothing is confirmed before (invariant 2, P29)."""
    source.sql("create table t (id int primary key)")
    pipeline = running(make_pipeline, source={"heartbeat": "off"})
    own_servers.mirror.sql(f"alter database {mirror.name} set synchronous_commit = off")
    own_servers.mirror.set(synchronous_standby_names="nobody")
    source.sql("insert into t values (1)")
    wait.until(lambda: mirror.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep' "
                                    "and application_name = 'tailwater applier'"), "the applier waits for the standby")
    assert source.value("select confirmed_flush_lsn < %s::pg_lsn from pg_replication_slots where slot_name = %s",
                        source.lsn(), pipeline.slot, user="postgres")
    own_servers.mirror.set(synchronous_standby_names=None)
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_a_write_that_does_less_than_it_should_is_refused(source, mirror, make_pipeline):
    """The row counts are checked by the statement itself: nothing of the batch stays."""
    source.sql("create table t (id int primary key, a int); create table u (id int primary key);"
               "insert into t values (1, 1)")
    pipeline = running(make_pipeline)
    mirror.sql("create function swallow() returns trigger language plpgsql as 'begin return null; end';"
               "create trigger swallow before update on mirror_public.t for each row execute function swallow()",
               user="postgres")
    with source.transaction() as cursor:
        cursor.execute("insert into u values (1); update t set a = 2")
    pipeline.wait_log("somebody else changes this mirror table", deadline=10)
    assert mirror.value("select count(*) from u") == 0, "half a transaction"
    mirror.sql("drop trigger swallow on mirror_public.t", user="postgres")
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_equal_values_of_other_bytes_are_written(both_plugins, source, mirror, make_pipeline):
    source.sql("create table t (id int primary key, n numeric, f float8);"
               "insert into t values (1, 1.0, 0), (2, 2.50, '-0')")
    pipeline = running(make_pipeline)
    pipeline.feed(["update t set n = 1.00 where id = 1", "update t set f = 0 where id = 2"], "one by one")
    assert mirror.sql("select n::text, f::text from t order by id") == [("1.00", "0"), ("2.50", "0")]
    pipeline.settle()


def test_a_bulk_that_meets_rows_that_are_there(both_plugins, source, mirror, make_pipeline):
    """Many new rows are written without a look at the table; those that are there after all, the general way."""
    source.sql("create table t (id int primary key, a int)")
    pipeline = running(make_pipeline)
    mirror.sql("insert into mirror_public.t (id, a, _lsn) values (777, -1, '0/1')")
    pipeline.feed(["insert into t select i, i from generate_series(1, 3000) i"], "one by one")
    assert mirror.value("select a from t where id = 777") == 777
    assert "interrupted" not in pipeline.this_run()
    pipeline.settle()


def test_statements_do_not_get_their_memory_anew(own_servers, source, mirror, make_pipeline):
    """The server's malloc does not give back at each statement's end what the next one needs (pg_keep_memory())."""
    source.sql("create table t (id int primary key, a int, b text, c timestamptz);"
               "insert into t select i, 0, repeat('b', 60), now() from generate_series(1, 5000) i")
    pipeline = running(make_pipeline, facts={"t": {"table": "public.t", "key": ["id"], "watch": ["a"]}})

    def faults():
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rsplit(")", 1)[1].split()[7])

    # Only now is it certain that the applier has connected: what the copy brought is caught up without it.
    pipeline.feed(["update t set a = a + 1"] * 5, "one by one")
    pid = mirror.value("select pid from pg_stat_activity where application_name = 'tailwater applier'", user="postgres")
    before = faults()
    pipeline.feed(["update t set a = a + 1"] * 20, "one by one")
    # 3,900: new pages of shared memory; with the heap given back each time it is 17,800.
    assert faults() - before < 10000
    pipeline.settle()
