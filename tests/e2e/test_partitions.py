"""Partitioned tables are mirrored through their root (P60); what cannot be followed stops the pipeline."""

import signal

import pytest

MONTHS = """
    create table e (id int, day date, v text, primary key (id, day)) partition by range (day);
    create table e1 partition of e for values from ('2024-01-01') to ('2024-02-01');
    create table e2 partition of e for values from ('2024-02-01') to ('2024-03-01');
    insert into e select i, '2024-01-01'::date + i, 'v' || i from generate_series(0, 50) i;
"""


@pytest.fixture
def partitioned(both_plugins, source, mirror, make_pipeline):
    source.sql(MONTHS)
    pipeline = make_pipeline(apply={"on_error": "stop"}).publish()
    return pipeline.start().wait_until_caught_up()


def test_p60_rows_by_their_root(partitioned, source):
    source.sql("update e set v = 'x' where id < 10; delete from e where id between 10 and 20")
    source.sql("update e set day = '2024-02-20' where id = 1")  # moves: a delete and an insert
    partitioned.wait_until_caught_up().compare()
    source.sql("create table e3 partition of e for values from ('2024-03-01') to ('2024-04-01')")
    source.sql("insert into e values (1000, '2024-03-05', 'in a partition made while running')")
    partitioned.wait_until_caught_up().compare()
    source.sql("begin; truncate e; insert into e values (1, '2024-01-01', 'after'); commit")
    partitioned.wait_until_caught_up().compare()
    partitioned.settle()


def test_p60_truncate_of_one_partition(partitioned, source, mirror, both_plugins):
    """wal2json sends it and cannot say which rows; pgoutput does not send it (docs/pitfalls.md)."""
    source.sql("truncate e1")
    source.sql("insert into e values (1000, '2024-02-05', 'later')")
    if both_plugins == "pgoutput":
        partitioned.wait_until_caught_up()
        assert mirror.value("select count(*) from e") == 52
        return
    assert partitioned.wait_exit() == 1
    assert "e1, a partition of public.e, was truncated" in partitioned.this_run()
    assert mirror.value("select count(*) from e") == 51


def test_p60_partition_renamed_before_it_was_read(partitioned, source, mirror, both_plugins):
    """Rows under a name that is gone are never dropped silently."""
    partitioned.signal(signal.SIGSTOP)
    source.sql("create table e3 partition of e for values from ('2024-03-01') to ('2024-04-01')")
    source.sql("insert into e values (1000, '2024-03-05', 'lost?')")
    source.sql("alter table e3 rename to e3_old")
    partitioned.signal(signal.SIGCONT)
    if both_plugins == "pgoutput":
        partitioned.wait_until_caught_up().compare()
        return
    assert partitioned.wait_exit() == 1
    assert "does not exist any more and has the columns of public.e" in partitioned.this_run()
    assert mirror.value("select count(*) from e") == 51
