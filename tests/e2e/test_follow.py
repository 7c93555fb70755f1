"""Changes of the source's tables while the pipeline runs: the mirror follows, views and all (P45, P55-P61)."""

import hashlib
import os
import signal
import threading

import pytest

from lib import wait
from lib.cluster import ROOT


SCHEMA = """
    create type mood as enum ('sad', 'ok');
    create table t (id int primary key, a int, b text, c numeric(6,2), m mood);
    create table other (id int primary key, a int);
    insert into t select i, i, 'b' || i, i, 'ok' from generate_series(1, 20) i;
    insert into other select i, i from generate_series(1, 20) i;
    """

# On the source; and what becomes of views that read the live view.
CHANGES = {
    "add": "alter table t add z int",
    "add with a constant": "alter table t add z int default 7",
    "add with what is volatile": "alter table t add z float default random()",
    "drop": "alter table t drop c",
    "drop and add": "alter table t drop c; alter table t add c numeric(6,2) default 3",
    "drop and add another type": "alter table t drop c; alter table t add c text default 'x'",
    "rename": "alter table t rename c to cc",
    "swap": "alter table t add a2 int; update t set a2 = -a; alter table t rename a to x; "
            "alter table t rename a2 to a; alter table t rename x to a2",
    "widen": "alter table t alter a type bigint; alter table t alter c type numeric(12,2)",
    "widen the key": "alter table t alter id type bigint",
    "other type": "alter table t alter a type text using 'v' || a",
    "type that does not convert": "alter table t alter b type int using length(b)",
    "another key": "alter table t add k int; update t set k = 100 - id; alter table t drop constraint t_pkey; "
                   "alter table t add primary key (k)",
    "wider key": "alter table t drop constraint t_pkey; alter table t alter a set not null; "
                 "alter table t add primary key (id, a)",
    "made anew": "drop table t; create table t (id int primary key, b text, n int); "
                 "insert into t select i, 'new', i from generate_series(11, 31) i",
    "enum": "alter type mood add value 'happy' before 'sad'; update t set m = 'happy' where id = 3",
    "index": "create index on t (b)",
}


@pytest.fixture
def running(source, mirror, make_pipeline, plugin):
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes="apply", resync={"max_delete_fraction": 1}).publish()
    pipeline.start().wait_until_caught_up()
    return pipeline


def healed(pipeline):
    wait.until(lambda: pipeline.mirror.value(
        "select count(*) = 0 from tailwater.mirror_table where quarantine_lsn is not null or "
        "resync_job is not null or needs_resync_lsn is not null or state <> 'ready'") and pipeline.mirror.value(
            "select count(*) = 0 from tailwater.job where state in ('asked', 'running')"),
        pipeline.log_tail, deadline=60)
    pipeline.wait_until_caught_up()


def reload(pipeline):
    """SIGHUP, and the session after it."""
    before = max(1, pipeline.this_run().count("[streaming]"))
    pipeline.signal(signal.SIGHUP)
    wait.until(lambda: pipeline.this_run().count("[streaming]") > before, pipeline.log_tail)


def change(pipeline, statements):
    for statement in statements.split("; "):
        pipeline.source.sql(statement)


@pytest.mark.parametrize("how", ["seen by a look", "seen in the stream"])
@pytest.mark.parametrize("name", CHANGES)
def test_p55_p56_p57_p58_p59_followed(both_plugins, plugin, source, mirror, running, name, how):
    mirror.sql("create view public.v as select id, b from public.t; create view public.vv as select * from public.v where id > 5; "
               "comment on view public.vv is 'mine'; grant select on public.vv to public", user="tailwater")
    change(running, CHANGES[name])
    if plugin == "pgoutput" and name == "made anew":  # a table that is dropped leaves the publication
        source.sql(f"alter publication {running.publication} add table t", user="postgres")
    if how == "seen in the stream":
        change(running, "update other set a = a + 1; update t set b = '4711' where id = 12")
    reload(running)
    healed(running)
    change(running, "update t set b = '4712' where id = 13; delete from t where id = 14; update other set a = 0")
    running.wait_until_caught_up()
    running.compare()
    assert mirror.value("select count(*) from public.vv") == source.value("select count(*) from t where id > 5")
    assert mirror.value("select obj_description('public.vv'::regclass)") == "mine"
    running.settle()


def test_by_itself(both_plugins, source, mirror, running):
    """Nobody says anything: the catalog is looked at now and then."""
    change(running, "alter table t add z int default 7")
    wait.until(lambda: mirror.value("select count(*) from pg_attribute where attrelid = 'public.t'::regclass "
                                    "and attname = 'z'"), running.log_tail, deadline=40)
    healed(running)
    assert mirror.value("select count(*) from t where z = 7") == 20
    running.settle()


def test_a_materialized_view(source, mirror, running):
    """It is made again with all it had, filled if it was; and so is a plain view over it."""
    mirror.sql("""
        create materialized view public.mv as select a, count(*) as n, max(c) as c from public.t group by a;
        create unique index mv_a on public.mv (a);
        create statistics mv_s on a, n from public.mv;
        comment on index public.mv_a is 'the key';
        comment on materialized view public.mv is 'mine';
        comment on column public.mv.n is 'how many';
        grant select on public.mv to public;
        create view public.over as select n from public.mv;
        grant select (n) on public.over to public;
        create rule over_rule as on insert to public.over do instead nothing;
        create materialized view public.empty as select id from public.t with no data
        """, user="tailwater")
    change(running, "alter table t alter c type numeric(12,4); insert into t values (21, 21, 'x', 123456, 'ok')")
    reload(running)
    healed(running)
    running.compare()
    # Filled once the table is as on the source.
    running.wait_log(r"public\.mv .*\[view_filled\]")
    assert mirror.value("select count(*) from public.over") == 21
    assert mirror.value("select c from public.mv where a = 21") == 123456
    assert mirror.value("select not relispopulated from pg_class where oid = 'public.empty'::regclass")
    assert mirror.sql("""
        select obj_description('public.mv'::regclass), obj_description('public.mv_a'::regclass),
               col_description('public.mv'::regclass, 2), has_table_privilege('pg_monitor', 'public.mv', 'select'),
               has_column_privilege('pg_monitor', 'public.over', 'n', 'select'),
               (select count(*) from pg_statistic_ext where stxname = 'mv_s'),
               (select count(*) from pg_rules where rulename = 'over_rule')
        """)[0] == ("mine", "the key", "how many", True, True, 1, 1)
    running.settle()


def test_a_temporary_view_goes_with_its_session(source, mirror, running):
    """As that of a refresh does, a moment after the refresh has ended."""
    with mirror.cluster.connect(mirror.name, "tailwater") as session:
        session.cursor().execute("create temporary view tailwater_query_x as select id, b from public.t")
        threading.Timer(1, session.close).start()
        change(running, "alter table t drop c")
        reload(running)
    healed(running)
    assert "[quarantined]" not in running.this_run()
    running.compare()
    running.settle()


def test_p57_a_name_comes_back(source, mirror, running):
    """The last column, which a view may not lose while it stays; a column that is computed now; one that was kept."""
    mirror.sql("create view public.v as select id, b from public.t", user="tailwater")
    for statements in ("alter table t drop m; alter table t add m int default 5",
                       "alter table t drop m; alter table t add m varchar(5) default 'x'",
                       "alter table t drop c; alter table t add c numeric generated always as (a * 2) stored"):
        change(running, statements)
        reload(running)
        healed(running)
    assert columns(running, "public.t") == ["id", "a", "b", "m"]
    running.keys["schema_changes"] = {"default": "apply", "drop_column": "keep"}
    running.write_config()
    reload(running)
    for statements, shown in (("alter table t drop m", None), ("alter table t add m bigint default 7", 7)):
        change(running, statements)
        reload(running)
        healed(running)
        assert columns(running, "public.t") == ["id", "a", "b", "m"]
        if shown:
            assert mirror.value("select m from t where id = 3") == shown
    assert mirror.value("select count(*) from public.v") == 20
    running.settle(["other"])


def test_a_report_that_takes_its_time(source, mirror, running):
    """Whoever reads the live view is waited for, more than once."""
    mirror.sql("create view public.v as select id, c from public.t", user="tailwater")
    with mirror.transaction(user="postgres") as reader:
        reader.execute("select count(*) from public.v")
        change(running, "alter table t alter c type numeric(12,4)")
        running.signal(signal.SIGHUP)
        begun = set()

        def waited_twice():
            begun.update(row[0] for row in mirror.sql(
                "select xact_start from pg_stat_activity a where wait_event_type = 'Lock' and datname = current_database()"))
            return len(begun) > 1 or reason(running)

        wait.until(waited_twice, running.log_tail)
    assert not reason(running) or "TW020" not in quarantine(running), reason(running)
    healed(running)
    running.compare()
    running.settle()


def test_a_report_that_cannot_be_filled(source, mirror, running):
    """The change is followed all the same, once for all tables, the materialized view empty; a warning says so."""
    mirror.sql("create materialized view public.mv as select t.a / (t.c - 100) as x from public.t join public.other using (id);"
               "create materialized view public.over as select count(*) as n from public.mv;"
               "create materialized view public.fine as select count(c) as n from public.t", user="tailwater")
    change(running, "update t set c = 100 where id = 3; alter table t alter c type numeric(12,4); alter table other alter a type bigint")
    reload(running)
    healed(running)
    running.wait_log(r"public\.over .*\[view_not_filled\]")
    running.wait_log(r"public\.fine .*\[view_filled\]")
    assert len([line for line in running.this_run().splitlines() if "public.mv" in line and "view_not_filled" in line]) == 1
    assert mirror.value("select n from public.fine") == 20
    assert mirror.value("select array_agg(relname::text order by 1) from pg_class where relkind = 'm' and not relispopulated") == ["mv", "over"]
    assert mirror.value("select count(*) from tailwater.unfilled_view") == 0
    running.compare()
    running.settle()


def test_a_view_in_the_way(source, mirror, running):
    """It cannot be made again: nothing changes, the table is quarantined and the view named."""
    mirror.sql("create view public.v as select id, c from public.t", user="tailwater")
    change(running, "alter table t drop c")
    reload(running)
    wait.until(lambda: "public.v" in (mirror.value("select quarantine_reason from tailwater.mirror_table "
                                                    "where name = 't'") or ""), running.log_tail)
    assert mirror.value("select count(c) from public.v") == 20
    source.sql("update other set a = 99")
    running.wait_until_caught_up()
    assert mirror.value("select count(*) from other where a = 99") == 20
    mirror.sql("drop view public.v", user="tailwater")
    reload(running)
    healed(running)
    running.compare()
    running.settle()


def test_p45_new_table(both_plugins, source, mirror, make_pipeline):
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes="apply").publish()
    pipeline.start().wait_until_caught_up()
    source.sql("create table n (id int primary key, big text); alter table n alter big set storage external;"
               "insert into n select i, repeat('n', 3000) from generate_series(1, 50) i")
    pipeline.publish_if_needed()
    if pipeline.plugin == "pgoutput":
        source.sql(f"alter publication {pipeline.publication} add table n", user="postgres")
    source.sql("update n set id = id + 100 where id < 10; delete from n where id = 20")
    pipeline.signal(signal.SIGHUP)
    wait.until(lambda: mirror.value("select count(*) from tailwater.mirror_table where name = 'n'"),
               pipeline.log_tail)
    source.sql("update n set id = id + 200 where id between 30 and 35; update other set a = 3")
    healed(pipeline)
    pipeline.compare()
    pipeline.settle()


def test_p61_partitions(both_plugins, source, mirror, make_pipeline):
    source.sql("""
        create table p (id int, k int, v text, primary key (id, k)) partition by list (k);
        create table p1 partition of p for values in (1);
        create table p2 partition of p for values in (2);
        create table p3 (v text, k int not null, id int not null, primary key (id, k));
        insert into p select i, 1 + i % 2, 'v' from generate_series(1, 40) i;
        insert into p3 select 'three', 3, i from generate_series(1, 10) i;
        """)
    pipeline = make_pipeline(schema_changes="apply", tables=["public.p"], resync={"max_delete_fraction": 1}).publish(("public", "p"))
    pipeline.start().wait_until_caught_up()
    for statement in ("alter table p attach partition p3 for values in (3)", "drop table p1",
                      "alter table p detach partition p2"):
        source.sql(statement)
        reload(pipeline)
        healed(pipeline)
        pipeline.compare(["p"])
    pipeline.settle(["p"])


def reason(pipeline):
    return pipeline.mirror.value("select quarantine_reason from tailwater.mirror_table where name = 't'") or ""


def quarantine(pipeline):
    return pipeline.mirror.value("select quarantine_sqlstate from tailwater.mirror_table where name = 't'") or ""


def columns(pipeline, relation):
    return [row[0] for row in pipeline.mirror.sql(
        f"select attname::text from pg_attribute where attrelid = '{relation}'::regclass and attnum > 0 and not attisdropped "
        "and attname not in ('_lsn', '_deleted_at') order by attnum")]


def test_p55_p57_what_is_kept(both_plugins, source, mirror, make_pipeline):
    """A new column and a new table are left out; what was dropped goes on being shown; nothing else stops."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes={"default": "apply", "add_column": "keep", "drop_column": "keep", "new_table": "keep"},
                             resync={"max_delete_fraction": 1}).publish()
    pipeline.start().wait_until_caught_up()
    change(pipeline, "alter table t add secret text default 's'; alter table t drop a; create table late (id int primary key); "
                     "insert into t (id, b, c, m, secret) values (21, 'b21', 21, 'ok', 'x')")
    reload(pipeline)
    healed(pipeline)
    change(pipeline, "update t set b = 'later', secret = 'y' where id = 1; insert into late values (1)")
    pipeline.wait_until_caught_up()
    assert columns(pipeline, "public.t") == ["id", "a", "b", "c", "m"]
    assert mirror.sql("select id, a, b, c, m::text from t where id in (1, 21) order by id") == [
        (1, 1, "later", 1, "ok"), (21, None, "b21", 21, "ok")]
    assert mirror.value("select to_regclass('public.late') is null")
    for what in ("column public.t.secret is new", "table public.late is new"):
        assert f"{what} on the source" in pipeline.this_run()
    # The name is needed by another column: then that one is shown.
    change(pipeline, "alter table t rename c to a")
    reload(pipeline)
    healed(pipeline)
    assert columns(pipeline, "public.t") == ["id", "b", "a", "m"]
    assert mirror.value("select a from t where id = 2") == 2
    pipeline.stop()
    # And with another policy everything is as on the source.
    pipeline.keys["schema_changes"] = "apply"
    pipeline.write_config()
    if pipeline.plugin == "pgoutput":
        source.sql(f"alter publication {pipeline.publication} add table late", user="postgres")
    pipeline.start()
    wait.until(lambda: mirror.value("select to_regclass('public.late') is not null"), pipeline.log_tail)
    healed(pipeline)
    pipeline.compare()
    pipeline.settle()


def test_a_dropped_column_leaves_the_view_after_all(source, mirror, make_pipeline, plugin):
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes={"default": "apply", "drop_column": "keep"}).publish()
    pipeline.run_until_now()
    source.sql("alter table t drop a")
    pipeline.start()
    wait.until(lambda: mirror.value("select cardinality(dropped_columns) from tailwater.mirror_table where name = 't'"),
               pipeline.log_tail)
    healed(pipeline)
    assert columns(pipeline, "public.t") == ["id", "a", "b", "c", "m"]
    pipeline.keys["schema_changes"] = "apply"
    pipeline.write_config()
    reload(pipeline)
    healed(pipeline)
    assert columns(pipeline, "public.t") == ["id", "b", "c", "m"]
    pipeline.settle()


STOPS = {
    "add_column": "alter table t add z int",
    "drop_column": "alter table t drop b",
    "rename_column": "alter table t rename b to bb",
    "widen_type": "alter table t alter a type bigint",
    "change_type": "alter table t alter a type text",
    "change_key": "alter table t drop constraint t_pkey; alter table t add primary key (id, a)",
    "recreate_table": "drop table t; create table t (id int primary key, a int, b text, c numeric(6,2), m mood)",
}


def test_p55_p56_p57_p59_p61_each_kind_stops_alone(source, mirror, make_pipeline, plugin):
    """The table is quarantined with the kind's name and the remedy, which works; a change of another kind is followed."""
    source.sql(SCHEMA + "create table pp (id int, k int, primary key (id, k)) partition by list (k);"
                        "create table pp1 partition of pp for values in (1); create table pp2 (k int not null, id int not null);")
    pipeline = make_pipeline(schema_changes="apply", resync={"max_delete_fraction": 1}).publish()
    pipeline.run_until_now()

    def stopped(kind, name):
        """At the next start the one kind is refused, and followed at the one after with another word for it."""
        pipeline.keys["schema_changes"] = {"default": "apply", kind: "stop"}
        pipeline.write_config()
        pipeline.run_until_now()
        because = mirror.value(f"select quarantine_reason from tailwater.mirror_table where name = '{name}'") or ""
        assert f"schema_changes.{kind} is stop" in because and f"set schema_changes.{kind} to apply" in because, (kind, because)
        pipeline.keys["schema_changes"] = {"default": "stop", kind: "apply"}
        pipeline.write_config()
        pipeline.start()
        healed(pipeline)
        pipeline.compare()
        pipeline.stop()

    for kind, statements in STOPS.items():
        change(pipeline, statements)
        stopped(kind, "t")
        source.sql("drop table t; create table t (id int primary key, a int, b text, c numeric(6,2), m mood);"
                   "insert into t select i, i, 'b' || i, i, 'ok' from generate_series(1, 20) i")
        pipeline.keys["schema_changes"] = "apply"
        pipeline.write_config()
        pipeline.start()
        wait.until(lambda: mirror.value("select relid::bigint from tailwater.mirror_table where name = 't'") ==
                   source.value("select 't'::regclass::oid::bigint"), pipeline.log_tail)
        healed(pipeline)
        pipeline.stop()
    source.sql("alter table pp attach partition pp2 for values in (2)")
    stopped("partitions", "pp")


def test_what_was_refused_is_no_more(source, mirror, make_pipeline, plugin):
    """There is nothing to follow then, and the table comes back: the policy is keep now, or the source as it was."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes={"default": "apply", "add_column": "stop"}).publish()
    pipeline.start().wait_until_caught_up()
    for is_taken_back in (True, False):
        change(pipeline, "alter table t add z int; update t set z = id, b = 'later' where id = 5")
        reload(pipeline)
        wait.until(lambda: quarantine(pipeline) == "TW020", pipeline.log_tail)
        if is_taken_back:
            change(pipeline, "alter table t drop z; update t set b = 'latest' where id = 6")
        else:
            pipeline.keys["schema_changes"] = {"default": "apply", "add_column": "keep"}
            pipeline.write_config()
        reload(pipeline)
        healed(pipeline)
        assert mirror.sql("select b from t where id in (5, 6) order by id") == [("later",), ("latest",)]
    assert columns(pipeline, "public.t") == ["id", "a", "b", "c", "m"]
    pipeline.settle(["other"])


def test_privileges_of_what_is_made_again(source, mirror, running):
    """As they were: what was revoked from a view does not come back by default privileges, and a grant to us is no grant to its owner."""
    mirror.sql("""
        create role tw_mend_owner; create role tw_mend_other;
        grant tw_mend_owner to tailwater; grant create on schema public to tw_mend_owner;
        grant usage on schema public to tw_mend_owner, tw_mend_other""", user="postgres")
    try:
        mirror.sql("""
            alter default privileges grant select on tables to tw_mend_other;
            create view public.v as select id, c from public.t;
            revoke all on public.v from tw_mend_other;
            create view public.w as select id, c from public.t;
            revoke insert, update, delete on public.w from tailwater;
            create materialized view public.mv with (autovacuum_enabled=false, toast.autovacuum_enabled=false)
                as select id, c, b from public.t with no data;
            alter materialized view public.mv alter c set (n_distinct=7);
            create statistics mv_s on id, c from public.mv;
            comment on statistics mv_s is 'both';
            alter view public.t set (security_barrier=true);
            revoke all on public.t from tw_mend_other;
            grant select on public.t to tw_mend_owner""", user="tailwater")
        mirror.sql("set role tw_mend_owner; create view public.mine as select id, c from public.t; "
                   "grant select on public.mine to tailwater; grant insert on public.mine to tw_mend_other with grant option; "
                   "reset role", user="postgres")

        def described():
            return mirror.sql("""
                select relname::text, relowner::regrole::text, reloptions,
                       array(select format('%s %s %s', grantee::regrole, privilege_type, is_grantable) from
                             aclexplode(coalesce(relacl, acldefault('r', relowner))) order by 1),
                       (select reloptions from pg_class x where x.oid = c.reltoastrelid),
                       (select array_agg(o) from pg_attribute, unnest(attoptions) o
                         where attrelid = c.oid and attname = 'c' and o like 'n_distinct%'),
                       (select obj_description(oid, 'pg_statistic_ext') from pg_statistic_ext where stxrelid = c.oid)
                  from pg_class c where relnamespace = 'public'::regnamespace
                   and relname in ('v', 'w', 'mine', 'mv', 't') order by 1""")

        before, made = described(), mirror.value("select 'public.mine'::regclass::oid::bigint")
        change(running, "alter table t alter c type numeric(12,4)")
        reload(running)
        healed(running)
        assert mirror.value("select 'public.mine'::regclass::oid::bigint") != made
        assert described() == before
        assert mirror.value("select count(*) from public.mine", user="tailwater") == 20
    finally:
        mirror.sql("drop owned by tw_mend_other, tw_mend_owner cascade; drop role tw_mend_other, tw_mend_owner", user="postgres")
    running.settle()


def test_p55_what_is_kept_is_known_to_all_verbs(source, mirror, make_pipeline, plugin):
    """check and table add see what run would: a column left out is no finding, whatever is wrong with it."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(tables=["public.t"], schema_changes={"default": "apply", "add_column": "keep", "new_table": "keep"}).publish()
    pipeline.start().wait_until_caught_up()
    source.sql("alter table t add _lsn int")
    result = pipeline.ok("check")
    assert "column public.t._lsn is new on the source" in result.out, result
    pipeline.ok("table", "add", "public.other")
    assert mirror.value("select count(*) from public.other") == 20
    pipeline.settle(["other"])


def test_an_older_control_schema(source, mirror, make_pipeline, plugin):
    """It is brought up to date, whatever is to be followed: what the mirror has of the tables' columns it does not say."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes="apply").publish()
    mirror.sql("create schema tailwater; create table tailwater.migration (version integer primary key, name text not null, "
               "hash text not null, applied_at timestamptz not null default now())", user="tailwater")
    for name in sorted(os.listdir(os.path.join(ROOT, "migrations")))[:7]:
        with open(os.path.join(ROOT, "migrations", name), "rb") as f:
            text = f.read()
        mirror.sql(text.decode(), user="tailwater")
        mirror.sql("insert into tailwater.migration values (%s, %s, %s)", int(name[:4]), name[5:-4],
                   hashlib.sha256(text).hexdigest(), user="tailwater")
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle()


@pytest.mark.parametrize("tables", [["public.*"], ["public.t", "public.other"]], ids=["pattern", "named"])
def test_p59_dropped_for_good(both_plugins, source, mirror, make_pipeline, tables):
    """It keeps its last state and is marked gone, everything else goes on; one of its name is resynced."""
    source.sql(SCHEMA)
    pipeline = make_pipeline(schema_changes="apply", tables=tables, resync={"max_delete_fraction": 1}).publish()
    pipeline.start().wait_until_caught_up()
    source.sql("drop table other; update t set a = 0 where id = 1")
    reload(pipeline)
    pipeline.wait_until_caught_up()
    pipeline.compare(["t"])
    assert mirror.value("select count(*) from other") == 20
    assert any(line.split()[:2] == ["public.other", "gone"] for line in pipeline.verb("status").out.splitlines())
    pipeline.stop()
    pipeline.run_until_now()
    source.sql("create table other (id int primary key, a int); insert into other values (1, 1)")
    if pipeline.plugin == "pgoutput":
        source.sql(f"alter publication {pipeline.publication} add table other", user="postgres")
    pipeline.start()
    wait.until(lambda: mirror.value("select count(*) = 1 from tailwater.job where state = 'done'"), pipeline.log_tail)
    healed(pipeline)
    pipeline.compare()
    pipeline.settle()


def test_a_fact_of_a_column_that_goes(both_plugins, source, mirror, make_pipeline):
    """It is suspended, and says why; others go on; with the declaration mended it begins with everything."""
    source.sql(SCHEMA)
    facts = {"price": {"table": "public.t", "key": ["c"]}, "thing": {"table": "public.t", "key": ["id"], "watch": ["a"]}}
    pipeline = make_pipeline(schema_changes="apply", facts=facts).publish()
    pipeline.start().wait_until_caught_up()

    def suspended():
        return dict(mirror.sql("select name, suspended from tailwater.fact where suspended is not null"))

    assert suspended() == {}
    source.sql("alter table t rename c to cc")
    reload(pipeline)
    healed(pipeline)
    assert set(suspended()) == {"price"} and "column c" in suspended()["price"]
    assert "column c" in pipeline.ok("ledger", "status").out
    source.sql("update t set a = 4711 where id = 7")
    pipeline.wait_until_caught_up()
    assert mirror.value("select count(*) from tailwater.affected_thing where id = 7")
    pipeline.compare()
    pipeline.stop()
    pipeline.run_until_now()  # a start is no other
    assert set(suspended()) == {"price"}
    facts["price"]["key"] = {"c": "cc"}
    pipeline.write_config()
    pipeline.start()
    wait.until(lambda: suspended() == {}, "the fact goes on with its new key")
    pipeline.settle()
