"""The main job from beginning to end: copy, stream, compare."""

from lib import wait


def make_shop(source):
    source.sql("""
        create table customers (id bigint primary key, name text not null, email text, vip boolean);
        create table orders (id bigint primary key, customer_id bigint, placed_at timestamptz,
                             total numeric(12,2), note text);
        create table order_items (order_id bigint, line int, sku text, n int,
                                  primary key (order_id, line));
        create table settings (name text primary key, value jsonb);
        insert into customers
            select i, 'name ' || i, case when i % 3 = 0 then null else i || '@example.org' end,
                   i % 7 = 0 from generate_series(1, 2000) i;
        insert into orders
            select i, 1 + i % 2000, '2024-01-01 00:00+00'::timestamptz + i * interval '1 min',
                   i * 1.25, null from generate_series(1, 5000) i;
        insert into order_items
            select 1 + i / 3, i % 3, 'sku' || i % 50, i % 9 from generate_series(1, 9000) i;
        insert into settings values ('a', '{"b": [1, null, "x\\ty"]}'), ('empty', null);
        """)


CHANGES = [
    "insert into customers values (3001, 'new', 'new@example.org', false)",
    "update customers set name = upper(name) where id % 10 = 0",
    "update orders set total = total + 1, note = 'seen' where id between 100 and 900",
    "delete from order_items where order_id % 5 = 0",
    "delete from orders where id > 4900",
    # key changes: of one row, of many, and a swap that collides in between
    "update customers set id = 9000 where id = 3001",
    "update order_items set line = line + 100 where order_id < 50",
    "begin; update settings set name = 'tmp' where name = 'a'; "
    "update settings set name = 'a' where name = 'empty'; "
    "update settings set name = 'empty' where name = 'tmp'; commit",
    "begin; insert into orders values (6000, 1, now(), 0, 'x'); "
    "update orders set note = 'y' where id = 6000; delete from orders where id = 6000; commit",
    "begin; insert into orders values (6001, 9000, now(), 5, 'kept'); "
    "savepoint s; insert into orders values (6002, 1, now(), 0, 'rolled back'); "
    "rollback to s; commit",
    "truncate settings",
    "insert into settings values ('after', '3')",
]


def test_copy_and_stream(both_plugins, source, mirror, make_pipeline):
    make_shop(source)
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    pipeline.compare()
    for change in CHANGES:
        source.sql(change)
    pipeline.wait_until_caught_up()
    pipeline.compare()
    assert mirror.value("select count(*) from customers") == 2001
    pipeline.settle()


def test_changes_made_while_stopped(both_plugins, source, mirror, make_pipeline):
    make_shop(source)
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    pipeline.compare()
    for change in CHANGES:
        source.sql(change)
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle()


def test_both_plugins_make_the_same_mirror(servers, source, make_pipeline, request):
    """To the byte: _deleted_at included, and _lsn of every row that was streamed.

    Of a tombstone only what does not depend on where batches are cut: its key and its time, not what
    it still shows of the row.  And none of a truncated table: a row that was born and truncated in
    one batch leaves none."""
    make_shop(source)
    other = servers.mirror.create_mirror("other_" + source.name)
    request.addfinalizer(other.drop)
    first = make_pipeline(plugin="wal2json", purge={"after": "7d"})
    second = make_pipeline(plugin="pgoutput", purge={"after": "7d"}, mirror_db=other).publish()
    for pipeline in (first, second):
        pipeline.run_until_now()
    for change in CHANGES:
        source.sql(change)
    for pipeline in (first, second):
        pipeline.run_until_now()
        pipeline.compare()
    for table, key, is_truncated in (("customers", "id", False), ("orders", "id", False),
                                     ("order_items", "order_id, line", False),
                                     ("settings", "t.name", True)):
        # Copied rows have their copy's consistent point as _lsn, and each pipeline made a copy of
        # its own.
        stored = [sorted(pipeline.mirror.sql(f"""
            select case when _deleted_at is null then (to_jsonb(t) - '_lsn')::text
                        else row({key}, _deleted_at)::text end,
                   case when _lsn > m.copy_lsn then _lsn::text else 'copied' end
              from mirror_public.{table} t, tailwater.mirror_table m
             where m.name = %s and (_deleted_at is null or not %s)""", table, is_truncated))
            for pipeline in (first, second)]
        assert stored[0] == stored[1]


def test_transaction_is_visible_at_once(both_plugins, source, mirror, make_pipeline):
    """A reader of the mirror never sees half of a transaction (invariant 3)."""
    source.sql("create table account (id int primary key, balance bigint);"
               "insert into account select i, 100 from generate_series(1, 50) i")
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    for i in range(100):
        with source.transaction() as cursor:
            cursor.execute("update account set balance = balance - 7 where id = %s", (1 + i % 50,))
            cursor.execute("update account set balance = balance + 7 where id = %s",
                           (1 + (i * 7 + 1) % 50,))
        assert mirror.value("select sum(balance) from account") == 5000
    pipeline.settle()


def test_until_lsn_and_now(source, make_pipeline):
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline()
    pipeline.run_until_now()
    source.sql("insert into t values (2)")
    there = source.lsn()
    pipeline.ok("run", "--until", there)
    assert pipeline.is_at(there)
    pipeline.compare()
    pipeline.settle()


def test_no_fixed_delay(source, mirror, make_pipeline):
    """Single transactions arrive long before any timer of the batching could fire."""
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    for i in range(20):
        source.sql("insert into t values (%s)", i)
        wait.until(lambda: mirror.value("select count(*) from t where id = %s", i),
                   f"row {i}", deadline=1.5, every=0.002)
    pipeline.settle()
def test_old_transactions_are_gathered(both_plugins, source, mirror, make_pipeline):
    """Far behind, small transactions go many at a time: a commit costs the same however few rows it has."""
    source.sql("create table n (id int primary key, v int); insert into n values (1, 0)")
    pipeline = make_pipeline().publish()
    pipeline.run_until_now()
    before = mirror.value("select batch_id from tailwater.clock")
    source.sql("do $$ begin for i in 1..20000 loop update n set v = i; commit; end loop; end $$")
    source.sql("select pg_sleep(1.1)")  # old is more than a second
    pipeline.run_until_now()
    pipeline.compare()
    taken = mirror.value("select batch_id from tailwater.clock") - before
    assert taken <= 200
