"""Partitions and inheritance (P60 to P62): rows by their root's name, whatever the partition looks like."""

import threading

import pytest

from lib import wait
from lib.compare import metadata
from lib.pipeline import FAILED, FEEDS, FINDINGS
from pitfalls.common import refused, running, wait_until_repaired

# Three levels; leaves with other column orders, dropped columns, columns out of line, and in
# another schema.
TREE = """
    create schema parts;
    create table e (id int, day date, v text, big text, primary key (id, day)) partition by range (day);
    alter table e alter big set storage external;
    create table e1 partition of e for values from ('2024-01-01') to ('2024-02-01');
    create table parts.e2 (gone int, big text, v text, gone2 text, day date not null, id int not null);
    alter table parts.e2 drop gone, drop gone2;
    alter table parts.e2 alter big set storage external;
    alter table e attach partition parts.e2 for values from ('2024-02-01') to ('2024-03-01');
    create table e3 partition of e for values from ('2024-03-01') to ('2024-05-01') partition by list (id);
    create table e3odd partition of e3 for values in (1, 3, 5, 7, 9) partition by range (day);
    create table e3odd4 partition of e3odd for values from ('2024-04-01') to ('2024-05-01');
    create table e3odd3 partition of e3odd default;
    create table e3rest (id int not null, v text, day date not null, big text);
    alter table e3rest alter big set storage external;
    alter table e3 attach partition e3rest default;
    insert into e select i, '2024-01-01'::date + i, 'v' || i, repeat(i::text, 4000)
      from generate_series(0, 119) i;
    """


@pytest.fixture
def tree(both_plugins, source, mirror, make_pipeline):
    source.sql(TREE)
    return running(make_pipeline)


@pytest.mark.parametrize("how", FEEDS)
def test_p60_rows_move_between_partitions(tree, source, mirror, how):
    """An update that moves a row is a delete and an insert of one transaction, and has no holes."""
    tree.feed(["update e set day = '2024-02-15' where id = 3",                     # e1 to parts.e2
               "update e set day = '2024-04-15', v = 'far' where id = 35",         # parts.e2 to e3rest
               "update e set day = day + 60 where id = 3 ",                        # to a leaf of a leaf's
               "update e set id = 5, day = '2024-04-02' where id = 65",            # e3rest to e3odd4
               "update e set day = '2024-03-02' where id = 5 and day > '2024-04-01'",
               "update e set v = 'there and back', day = '2024-02-01' where id = 20",
               "update e set day = '2024-01-20' where id = 20"], how)
    assert tree.counter("repaired_rows") == 0
    tree.settle()


@pytest.mark.parametrize("how", FEEDS)
def test_p60_holes_in_partitions(tree, source, mirror, how):
    """Unchanged large values, in leaves whose columns have other numbers than the root's."""
    tree.feed(["update e set v = upper(v)", "update e set id = id + 1000 where id in (4, 40, 90)",
               "update e set big = 'short' where id in (6, 41)", "update e set v = 'x' where id = 41",
               "delete from e where id in (7, 42, 91)"], how)
    tree.compare()
    mirror.sql("delete from mirror_public.e where id in (10, 50, 80)")
    tree.feed(["update e set v = 'repaired' where id in (10, 50, 80)"], how)
    wait_until_repaired(tree, 3)
    tree.settle()


def test_p60_a_tree_that_grows(tree, source):
    """New partitions, and partitions of partitions, while it runs; each is looked up when it speaks."""
    source.sql("create table e6 partition of e for values from ('2024-06-01') to ('2024-07-01') partition by list (id)")
    source.sql("create table e6a partition of e6 for values in (1, 2); "
               "create table parts.e6b partition of e6 default")
    source.sql("insert into e select i, '2024-06-01', 'new', repeat('n', 4000) from generate_series(1, 9) i")
    tree.wait_until_caught_up().compare()
    source.sql("update e set v = 'hole' where day = '2024-06-01';"
               "update e set day = '2024-06-02' where id = 100; delete from e6 where id = 5")
    tree.wait_until_caught_up().compare()
    source.sql("begin; create table e7 partition of e default; insert into e values (1, '2030-01-01'); commit")
    tree.settle()


def test_p60_a_partition_that_nobody_sees_yet(own_servers, both_plugins, source, mirror, make_pipeline):
    """Its rows are in the stream while its transaction waits for a standby; who looks it up does not find it."""
    source.sql(TREE)
    tree = running(make_pipeline)

    def add():
        with source.transaction() as cursor:
            cursor.execute("create table e7 partition of e default; insert into e values (1, '2030-01-01')")

    thread = threading.Thread(target=add)
    with own_servers.source.no_standby():
        thread.start()
        if both_plugins == "wal2json":
            tree.wait_log("not visible there yet")
        else:
            wait.until(lambda: mirror.value("select count(*) from e where day = '2030-01-01'"), "its row")
    thread.join()
    tree.settle()
    assert mirror.value("select count(*) from e where day = '2030-01-01'") == 1


def test_p60_a_partition_in_a_schema_of_its_own(tree, source, mirror, both_plugins):
    """wal2json is asked for the schemas that are there at the start: one that comes later is the next start's."""
    source.sql("create schema later; create table later.e8 partition of e for values from ('2024-08-01') to ('2024-09-01')")
    source.sql("insert into e values (1, '2024-08-01', 'while it runs')")
    tree.wait_until_caught_up()
    august = "select v from e where day >= '2024-08-01' order by day"
    assert mirror.sql(august) == ([] if both_plugins == "wal2json" else [("while it runs",)])
    tree.stop()
    source.sql("insert into e values (1, '2024-08-02', 'before the start')")
    tree.run_until_now()
    assert mirror.sql(august)[-1] == ("before the start",)
    tree.settle_stopped(compare=both_plugins == "pgoutput")


@pytest.mark.parametrize("how", ["one by one", "in one transaction"])
def test_p62_truncate_of_a_tree(tree, source, how):
    tree.feed(["insert into e values (500, '2024-01-09', 'before')", "truncate e",
               "insert into e values (1, '2024-04-04', 'after')", "update e set v = 'later'"], how)
    tree.settle()


def test_p62_truncate_of_a_branch(tree, source, mirror, both_plugins):
    """As of a single partition: wal2json sends it and cannot say which rows, pgoutput does not."""
    source.sql("truncate e3")
    source.sql("insert into e values (1000, '2024-02-05', 'later')")
    if both_plugins == "pgoutput":
        tree.wait_until_caught_up()
        assert mirror.value("select count(*) from e") == 121
        return
    assert tree.wait_exit() == FAILED
    assert "a partition of public.e, was truncated" in tree.this_run()
    assert mirror.value("select count(*) from e") == 120


def test_p62_truncate_of_a_partition_ignored(both_plugins, source, mirror, make_pipeline):
    source.sql(TREE)
    pipeline = running(make_pipeline, tables=[{"name": "public.e", "truncate": "ignore"}])
    pipeline.feed(["truncate parts.e2", "truncate e3", "truncate e",
                   "insert into e values (1, '2024-02-05', 'after')"], "one by one")
    assert mirror.value("select count(*) from e") == 121
    pipeline.settle_stopped(compare=False)


def test_p61_attached_and_detached(tree, source, mirror, both_plugins):
    """Neither sends anything: the mirror keeps its rows as they were.  What comes later is right."""
    source.sql("alter table e detach partition e1")
    source.sql("create table e0 (like e including all);"
               "insert into e0 values (1, '2023-01-01', 'from before'), (2, '2023-01-02', 'too');"
               "insert into e0 values (0, '2023-01-01', 'to be looked up')")
    tree.wait_until_caught_up()
    source.sql("alter table e attach partition e0 for values from ('2023-01-01') to ('2024-01-01')")
    if both_plugins == "pgoutput":
        is_overlooked = source.cluster.major < 15  # until the next connection; check says so
        found = [f for f in tree.verb("check", "--json").json()["findings"] if f["name"] == "source_partitions"]
        assert [f["level"] for f in found] == ["warning"] * is_overlooked
        if is_overlooked:
            tree.stop()
            tree.tables = ["public.e"]  # what was detached is a table of its own
            tree.write_config()
            tree.start()

    def is_known():  # a table is looked up again after a second
        source.sql("delete from e0 where id = 0; insert into e0 values (0, '2023-01-01', 'known')")
        tree.wait_until_caught_up()
        return mirror.value("select count(*) from e where day < '2024-01-01'") == 1
    wait.until(is_known, "the partition is known", every=0.2)
    source.sql("update e set v = 'updated' where id = 1 and day < '2024-01-01';"
               "insert into e values (3, '2023-03-03', 'inserted'); delete from e where id = 0 and day < '2024-01-01'")
    tree.wait_until_caught_up()
    assert mirror.sql("select id, v from e where day < '2024-01-01' order by id") == [
        (1, "updated"), (3, "inserted")], "row 2 was there before, and nobody has said so"
    january = "select count(*) from e where day between '2024-01-01' and '2024-01-31'"
    assert mirror.value(january) == 31
    source.sql("insert into e1 values (5000, '2024-01-05', 'no part of it any more')")
    tree.wait_until_caught_up()
    assert mirror.value(january) == (32 if both_plugins == "wal2json" else 31)
    # The remedy: the partitions as they are now, and then their rows.
    tree.stop()
    tree.tables = ["public.e"]  # e1 is a table of its own now
    tree.write_config()
    tree.start().wait_until_caught_up()
    tree.ok("resync", "public.e")
    tree.compare([("public", "e")])
    tree.settle([("public", "e")])


def test_p61_a_partition_dropped(tree, source, mirror):
    source.sql("drop table e1")
    source.sql("insert into e values (1000, '2024-02-05', 'later')")
    tree.wait_until_caught_up()
    assert mirror.value("select count(*) from e where day < '2024-02-01'") == 31
    assert mirror.value("select count(*) from e") == 121
    tree.ok("resync", "public.e")
    tree.compare([("public", "e")])
    tree.settle([("public", "e")])


def test_p60_identity_of_a_leaf(source, make_pipeline):
    """Each partition writes WAL by an identity of its own: one that is not the key is refused."""
    source.sql(TREE)
    pipeline = make_pipeline(tables=["public.e"])
    for change, back in (("alter table parts.e2 replica identity nothing",
                          "alter table parts.e2 replica identity default"),
                         ("create unique index other on e1 (day, v, id); alter table e1 alter v set not null;"
                          "alter table e1 replica identity using index other",
                          "alter table e1 replica identity default")):
        source.sql(change)
        result = pipeline.verb("run", "--until", "now")
        assert result.code == FINDINGS and "partition" in result.err, repr(result)
        source.sql(back)
    # FULL is fine: it has the key, and more.
    source.sql("alter table e3odd3 replica identity full")
    pipeline.publish().start().wait_until_caught_up()
    source.sql("update e set v = v || 'x', id = id + 2000; delete from e where id % 3 = 0")
    pipeline.wait_until_caught_up()
    pipeline.settle()


def test_p60_a_root_of_its_own(both_plugins, source, mirror, make_pipeline):
    """Two roots and a plain table, named one by one; partitions of others do not get in."""
    source.sql("""
        create table a (id int primary key, v text) partition by hash (id);
        create table a0 partition of a for values with (modulus 2, remainder 0);
        create table a1 partition of a for values with (modulus 2, remainder 1);
        create table b (id int primary key, v text) partition by range (id);
        create table b0 partition of b default;
        create table c (id int primary key, v text);
        create table foreign_root (id int primary key, v text) partition by range (id);
        create table foreign_leaf partition of foreign_root default;
        """)
    listed = [("public", "a"), ("public", "c")]
    pipeline = make_pipeline(tables=["public.a", "public.c"]).publish(*listed)
    pipeline.start().wait_until_caught_up()
    pipeline.feed([f"insert into {table} select i, '{table}' from generate_series(1, 20) i"
                   for table in ("a", "b", "c", "foreign_root")]
                  + ["update a set v = 'x' where id < 5", "update foreign_root set v = 'y'",
                     "update a set id = id + 100 where id % 2 = 0", "delete from b", "truncate foreign_root"],
                  "one by one")
    assert mirror.value("select to_regclass('b')") is None
    pipeline.settle(listed)


def test_p60_a_leaf_cannot_be_mirrored_beside_its_root(both_plugins, source, make_pipeline):
    source.sql(TREE)
    pipeline = make_pipeline(tables=["public.e", "public.e1"]).publish()
    result = pipeline.verb("run", "--until", "now")
    assert result.code in (2, FINDINGS) and "public.e1" in result.err, repr(result)


@pytest.mark.parametrize("how", FEEDS)
def test_p53_inheritance(both_plugins, source, mirror, make_pipeline, how):
    """Parents and children are tables of their own: each has its own rows, whatever a parent shows."""
    source.sql("""
        create table base (id int primary key, v text, big text);
        alter table base alter big set storage external;
        create table child (extra int, primary key (id)) inherits (base);
        create table grandchild (primary key (id)) inherits (child);
        insert into base values (1, 'base', repeat('b', 4000));
        insert into child values (2, 'child', repeat('c', 4000), 20);
        insert into grandchild values (3, 'grandchild', repeat('g', 4000), 30);
        """)
    pipeline = running(make_pipeline)
    pipeline.compare()
    assert mirror.sql("select id from base") == [(1,)]
    pipeline.feed(["update base set v = upper(v)", "insert into child values (4, 'new', 'short', 40)",
                   "update child set id = id + 10", "delete from base where id = 1",
                   "update grandchild set extra = 31", "delete from child where id = 14"], how)
    pipeline.compare()
    pipeline.feed(["truncate only base", "insert into base values (5, 'after')"], how)
    pipeline.compare()
    pipeline.feed(["truncate base", "insert into grandchild values (6, 'after', 'x', 1)"], how)
    pipeline.settle()


def test_p62_truncate_in_order(both_plugins, source, mirror, make_pipeline):
    """INSERT, TRUNCATE, INSERT; several tables at once; CASCADE; RESTART IDENTITY; with tombstones kept."""
    source.sql("""
        create table a (id int generated always as identity primary key, v text);
        create table b (id int primary key, a_id int references a);
        create table c (id int primary key, b_id int references b);
        insert into a (v) select 'a' from generate_series(1, 5);
        insert into b select i, i from generate_series(1, 5) i;
        insert into c select i, i from generate_series(1, 5) i;
        """)
    pipeline = running(make_pipeline, tables=["public.a", "public.b", {"name": "public.c", "purge_after": "7d"}])
    for statements in (["insert into c values (6, 1)", "truncate c", "insert into c values (2, 2)"],
                       ["truncate a restart identity cascade", "insert into a (v) values ('first again')"],
                       ["insert into b values (7, 1)", "truncate b, c", "insert into b values (3, 1)",
                        "truncate b, c", "insert into b values (4, 1)", "insert into c values (1, 4)"]):
        for how in ("in one transaction", "one by one"):
            pipeline.feed(statements, how)
            pipeline.compare()
            source.sql("truncate a restart identity cascade; insert into a (v) select 'a' from generate_series(1, 5);"
                       "insert into b select i, i from generate_series(1, 5) i;"
                       "insert into c select i, i from generate_series(1, 5) i")
            pipeline.wait_until_caught_up().compare()
    kept = metadata(mirror, "c")
    assert kept[6][0] and not kept[5][0]
    pipeline.settle()


def test_p62_truncate_refused_by_publication(source, make_pipeline):
    """A publication that leaves truncates out would lose them."""
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline(plugin="pgoutput").publish()
    pipeline.run_until_now()
    source.sql(f"alter publication {pipeline.publication} set (publish = 'insert, update, delete')",
               user="postgres")
    refused(pipeline, (FINDINGS,), pipeline.publication, "truncate")
    source.sql(f"alter publication {pipeline.publication} set (publish = 'insert, update, delete, truncate')",
               user="postgres")
    pipeline.settle_stopped()


def test_p60_publication_not_via_root(source, make_pipeline):
    """Turned off later, rows would come under the partitions' names."""
    source.sql(TREE)
    pipeline = make_pipeline(plugin="pgoutput").publish()
    pipeline.run_until_now()
    source.sql(f"alter publication {pipeline.publication} set (publish_via_partition_root = false)",
               user="postgres")
    refused(pipeline, (FINDINGS,), pipeline.publication, "publish_via_partition_root")


def test_p60_publication_turned_while_running(source, make_pipeline):
    """… and while it runs they are known for what they are: nothing is passed over in silence."""
    source.sql(TREE)
    pipeline = running(make_pipeline, plugin="pgoutput")
    source.sql(f"alter publication {pipeline.publication} set (publish_via_partition_root = false)",
               user="postgres")
    source.sql("insert into e values (1000, '2024-01-05', 'lost?')")
    wait.until(lambda: not pipeline.is_running or pipeline.is_at(source.lsn()), "seen")
    if pipeline.is_running:
        pipeline.compare()
    else:
        assert pipeline.wait_exit() == FAILED
