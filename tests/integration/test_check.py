"""tailwater check: every finding in the state that raises it and in the one that does not, looked
at with the roles that the README tells people to create."""

import json
import os
import shlex
import shutil

import pytest

from lib import wait
from lib.pipeline import DONE, FINDINGS, MIRROR_DOWN, SOURCE_DOWN

ROLE = "tailwater"
ADMIN = "postgres"


class Report:
    def __init__(self, result):
        self.result = result
        self.code = result.code
        said = result.json()
        self.ok = said["ok"]
        self.findings = said["findings"]

    def __repr__(self):
        return repr(self.result)

    def of(self, name, level=None):
        return [f for f in self.findings if f["name"] == name and level in (None, f["level"])]

    def one(self, name, level):
        found = self.of(name)
        assert [f["level"] for f in found] == [level], f"{name}: {found}\n{self!r}"
        return found[0]

    @property
    def errors(self):
        return {f["name"] for f in self.findings if f["level"] == "error"}


@pytest.fixture
def check(make_pipeline):
    """check(tables, …) → Report; one pipeline for the whole test."""
    made = []

    def run(tables=("public.*",), env=None, **keys):
        if not made:
            made.append(make_pipeline())
        pipeline = made[0]
        pipeline.tables = list(tables)
        pipeline.auto_publish &= "plugin" not in keys
        pipeline.plugin = keys.pop("plugin", pipeline.plugin)
        pipeline.keys = keys
        pipeline.write_config()
        report = Report(pipeline.verb("check", "--json", env=env))
        assert report.ok == (report.code == DONE) == (not report.errors), report
        return report

    run.pipeline = lambda: made[0]
    return run


@pytest.fixture
def orders(source):
    source.sql("create table orders (id int primary key, note text)")


def remedy(database, finding, user=ADMIN):
    """Do what the finding says; what stands before a colon is who does it."""
    sql = finding["remedy"]
    if sql.startswith("as "):
        sql = sql.partition(": ")[2]
    for statement in sql.split(";"):
        if statement.strip() and "  " not in statement.rstrip():
            database.sql(statement, user=user)


# ---- the whole ----

def test_nothing_wrong(orders, mirror, check):
    report = check()
    assert report.code == DONE and not report.errors
    assert {f["name"] for f in report.findings} >= {
        "source_connect", "source_version", "source_encoding", "source_wal_level", "source_slots",
        "source_senders", "source_wal_limit", "source_replication", "source_select",
        "source_row_security", "source_slot", "source_plugin", "mirror_connect", "mirror_version",
        "mirror_writable", "mirror_control", "mirror_role", "mirror_encoding", "mirror_name",
        "tables"}
    for f in report.findings:
        assert f["level"] == "ok" or f["remedy"] or f["why"], f
    # Nothing is changed, and nothing stays.
    assert mirror.value("select to_regnamespace('tailwater')") is None
    assert check().findings == report.findings


def test_text(orders, source, check):
    source.sql("create table nokey (a int); create table bad (a int)")
    check()
    text = check.pipeline().verb("check")
    lines = text.out.splitlines()
    assert text.code == DONE and lines[-1].endswith(f"Next: tailwater run -c {check.pipeline().file}")
    assert lines[-1].startswith("0 errors, ")
    pipeline = check.pipeline()
    quoted = f"{pipeline.file[:-5]} it's.yaml"
    shutil.copy(pipeline.file, quoted)
    pipeline.file = quoted
    text = pipeline.verb("check")
    assert shlex.split(text.out.splitlines()[-1].partition("Next: ")[2]) == ["tailwater", "run", "-c", quoted]
    levels = [line.split()[0] for line in lines if line[:1].strip() and not line[0].isdigit()]
    assert levels == sorted(levels, key=["error", "warning", "ok"].index)
    check(["public.bad"])
    text = check.pipeline().verb("check")
    assert text.code == FINDINGS and "again: tailwater check" in text.out.splitlines()[-1]
    assert text.out.startswith("error ")
    # One column for every finding's text.
    starts = {len(line) - len(line[7:].lstrip().partition(" ")[2].lstrip())
              for line in text.out.splitlines()[:-2] if line[:1].strip()}
    assert len(starts) == 1, text.out


# ---- the source ----

def test_source_unreachable(orders, mirror, check, make_pipeline):
    report = check(source={"conninfo": "host=/nonexistent dbname=x"})
    assert report.code == SOURCE_DOWN and report.errors == {"source_connect"}
    assert report.one("mirror_connect", "ok"), "what is known of the other server is said"
    assert report.one("mirror_writable", "ok")


def test_mirror_unreachable(orders, check):
    report = check(mirror={"conninfo": "host=/nonexistent dbname=x"})
    assert report.code == MIRROR_DOWN and report.errors == {"mirror_connect"}
    assert report.one("source_plugin", "ok") and report.one("tables", "ok")


def test_p11_encoding(servers, source, mirror, has_wal2json, check):
    """P11"""
    source.cluster.sql("create database latin encoding 'LATIN1' locale 'C' template template0")
    try:
        conninfo = source.cluster.conninfo("latin", ROLE)
        with source.cluster.connect("latin") as connection, connection.cursor() as cursor:
            cursor.execute(f"create table t (id int primary key); grant select on t to {ROLE}")
        if has_wal2json:
            report = check(source={"conninfo": conninfo})
            assert report.one("source_encoding", "error")["remedy"] == "source: {plugin: pgoutput}"
        report = check(source={"conninfo": conninfo}, plugin="pgoutput")
        assert report.one("source_encoding", "ok")
        # and the other way round: a mirror that cannot hold the source's texts
        report = check(mirror={"conninfo": mirror.cluster.conninfo("postgres", ROLE)})
        assert report.one("mirror_encoding", "ok")
    finally:
        source.cluster.sql("drop database latin with (force)")


def test_role(orders, own_servers, source, check):
    source.sql(f"alter role {ROLE} noreplication", user=ADMIN)
    report = check()
    assert report.errors == {"source_role"}
    remedy(source, {"remedy": report.one("source_role", "error")["remedy"].split(";")[0]})
    report = check()
    assert not report.errors and report.one("source_replication", "ok")


def test_pg_hba(orders, own_servers, source, check):
    """For logical replication the database's name counts, the word replication does not help."""
    own_servers.source.set_hba("local all postgres trust", "local replication all trust")
    wait.until(lambda: check().errors == {"source_connect"}, "hba in force")
    assert "pg_hba.conf" in check().one("source_connect", "error")["remedy"]
    own_servers.source.set_hba("local all postgres trust", f"local {source.name} {ROLE} trust")
    wait.until(lambda: not check().errors, "hba in force")
    assert check().one("source_replication", "ok")


def test_server_settings(orders, own_servers, source, mirror, check):
    """Settings that take a restart, all wrong at once, then mended."""
    wrong = {"wal_level": "replica", "max_replication_slots": "0", "max_wal_senders": "0"}
    own_servers.source.set(**wrong)
    own_servers.source.restart()
    report = check()
    assert report.errors == {"source_wal_level", "source_slots", "source_senders",
                             "source_replication"}
    assert "wal_level = 'logical'" in report.one("source_wal_level", "error")["remedy"]
    own_servers.source.set(wal_level=None, max_replication_slots="1", max_wal_senders="1",
                           max_slot_wal_keep_size="1GB")
    own_servers.source.restart()
    report = check()
    assert not report.errors
    for name in ("source_slots", "source_senders"):
        assert report.one(name, "warning")
    assert "below" in report.one("source_wal_limit", "warning")["what"]
    # A slot of somebody else takes the only place.
    source.sql("select pg_create_logical_replication_slot('theirs', 'pgoutput')", user=ADMIN)
    assert check().errors == {"source_slots"}
    source.sql("select pg_drop_replication_slot('theirs')", user=ADMIN)
    own_servers.source.set(max_slot_wal_keep_size="40GB")
    wait.until(lambda: check().one("source_wal_limit", "ok"), "reloaded")
    own_servers.source.set(max_slot_wal_keep_size=None)
    wait.until(lambda: "without limit" in check().of("source_wal_limit")[0]["what"], "reloaded")


def has_plugin_setting(database):
    return database.value("select 1 from pg_settings where name = 'output_plugin_libraries'",
                          user=ADMIN)


@pytest.mark.wal2json
def test_p46_plugin_not_allowed(orders, own_servers, source, check):
    """P46, on releases that have the setting.  The remedy has to be a list: in one pair of quotes
    it would allow nothing at all."""
    if not has_plugin_setting(source):
        pytest.skip("this server has no output_plugin_libraries")
    source.sql("alter system set output_plugin_libraries = pgoutput, test_decoding", user=ADMIN)
    source.sql("select pg_reload_conf()", user=ADMIN)
    wait.until(lambda: "source_plugin" in check().errors, "reloaded")
    report = check()
    assert report.errors == {"source_plugin"}
    text = report.one("source_plugin", "error")["remedy"]
    major = int(source.value("show server_version_num")) // 10000
    assert f"apt-get install postgresql-{major}-wal2json" in text and "plugin: pgoutput" in text
    assert not check(plugin="pgoutput").of("source_plugin", "error")
    statement = text[text.index("ALTER SYSTEM"):].split(";")[0]
    source.sql(statement, user=ADMIN)
    source.sql("select pg_reload_conf()", user=ADMIN)
    wait.until(lambda: not check(plugin="wal2json").errors, "the remedy")
    source.sql("alter system reset output_plugin_libraries", user=ADMIN)


@pytest.mark.wal2json
def test_p07_nan(orders, source, check):
    """P7: wal2json before 2.6.  What this server has decides which of the two it is."""
    assert not check().of("source_nan", "warning"), "no such columns"
    source.sql("create table m (id int primary key, n numeric, f real, a numeric[])")
    found = check().of("source_nan")
    assert len(found) == 1
    if found[0]["level"] == "warning":
        assert "public.m.n, public.m.f" in found[0]["why"] and "2 columns" in found[0]["what"]
        assert "2.6" in found[0]["remedy"]
    assert not check(plugin="pgoutput").of("source_nan")


def test_p48_running_transactions(orders, source, check):
    """A slot waits for them (P48); that the plugin works is known all the same."""
    with source.transaction() as cursor:
        cursor.execute("insert into orders values (1)")
        report = check()
        assert report.one("source_plugin", "ok") and not report.errors
        assert report.one("source_transactions", "warning")
    assert not check().of("source_transactions")
    assert source.value("select count(*) from pg_replication_slots where temporary") == 0


def test_p35_prepared_transactions(orders, own_servers, source, check):
    """P35"""
    assert not check().of("source_prepared")
    own_servers.source.set(max_prepared_transactions="5")
    own_servers.source.restart()
    source.sql("begin; insert into orders values (1); prepare transaction 'p'")
    assert check().one("source_prepared", "warning")
    source.sql("rollback prepared 'p'")
    assert not check().of("source_prepared")


def test_standby(orders, own_servers, source, mirror, check):
    """As a source before 16, and as a mirror."""
    check()
    standby = own_servers.source.make_standby(os.path.join(own_servers.folder, "standby")).start()
    try:
        report = check(source={"conninfo": standby.conninfo(source.name, ROLE)})
        assert report.one("source_standby", "error" if standby.major < 16 else "warning")
        report = check(mirror={"conninfo": standby.conninfo(source.name, ROLE)})
        assert "standby" in report.one("mirror_writable", "error")["why"]
    finally:
        standby.stop("immediate")
    assert not check().of("source_standby")


# ---- tables and privileges ----

def test_select(source, check):
    source.sql("create schema closed; grant all on schema closed to app", user=ADMIN)
    source.sql("create table closed.a (id int primary key); create table b (id int primary key);"
               "revoke all on b from tailwater; create table c (id int primary key)")
    report = check(["public.*", "closed.*"])
    assert report.errors == {"source_select"}
    found = report.one("source_select", "error")
    assert found["why"] == "closed.a, public.b"
    remedy(source, found)
    assert not check(["public.*", "closed.*"]).errors


def test_select_by_column(source, check):
    """What is not mirrored need not be readable."""
    source.sql("create table t (id int primary key, a text, ssn text, pin text); revoke all on t "
               "from tailwater; grant select (id, a) on t to tailwater")
    assert check().errors == {"source_select"}
    entry = {"name": "public.t", "exclude": ["ssn"], "mask": {"pin": None}}
    assert not check([entry]).errors
    entry["mask"] = {"pin": "hash"}
    assert check([entry]).errors == {"source_select"}


def test_many_grants_are_by_schema(source, check):
    source.sql("do $$ begin for i in 1..30 loop execute format('create table t%s (id int primary "
               "key); revoke all on t%s from tailwater', i, i); end loop; end $$")
    found = check().one("source_select", "error")
    assert "and 22 more" in found["why"]
    assert found["remedy"].count("GRANT") == 1
    remedy(source, found)
    assert not check().errors


def test_p53_row_security(orders, own_servers, source, check):
    source.sql("alter table orders enable row level security; "
               "create policy p on orders using (id > 5)")
    found = check().one("source_row_security", "error")
    assert "public.orders" in found["why"]
    source.sql(found["remedy"].split(";")[0], user=ADMIN)
    assert not check().errors
    source.sql(f"alter role {ROLE} nobypassrls", user=ADMIN)
    source.sql("alter table orders disable row level security")
    assert not check().errors


@pytest.mark.parametrize("name, definition, entry", [
    ("table_key", "create table t (a int)", "public.t"),
    ("table_key", "create table t (a int primary key deferrable)", "public.t"),
    ("table_kind", "create unlogged table t (a int primary key)", "public.t"),
    ("table_column", "create table t (a int primary key, _lsn int)", "public.t"),
    ("table_missing", "create table tt (a int primary key)", "public.t"),
    ("table_column", "create table t (a int primary key)", {"name": "public.t", "exclude": ["b"]}),
])
def test_tables(orders, source, check, name, definition, entry):
    """The catalog's findings arrive; test_catalog.py has all of them."""
    source.sql(definition)
    report = check(["public.orders", entry])
    found = report.one(name, "error")
    assert report.code == FINDINGS and "tailwater.yaml:" in found["what"]
    assert not check(["public.orders"]).errors


def test_views(orders, source, check):
    assert not check().of("source_views")
    source.sql("create view totals as select count(*) from orders")
    assert "public.totals" in check().one("source_views", "ok")["what"]


def test_publication(orders, source, check):
    report = check(plugin="pgoutput")
    assert report.errors == {"source_publication"}
    remedy(source, report.one("source_publication", "error"), user=ADMIN)
    assert not check(plugin="pgoutput").errors
    source.sql("create table more (id int primary key)")
    found = check(plugin="pgoutput").one("source_publication", "error")
    assert "ADD TABLE" in found["remedy"] and '"more"' in found["remedy"]
    remedy(source, found, user=ADMIN)
    assert not check(plugin="pgoutput").errors
    source.sql(f"alter publication {check.pipeline().publication} set (publish = 'insert')",
               user=ADMIN)
    assert check(plugin="pgoutput").errors == {"source_publication"}


def test_publication_by_an_owner(orders, own_servers, source, check):
    source.sql(f"grant app to {ROLE}", user=ADMIN)
    source.sql(f"grant create on database {source.name} to {ROLE}", user=ADMIN)
    assert "will be made" in check(plugin="pgoutput").one("source_publication", "ok")["what"]


# ---- the slot ----

def test_foreign_slot(orders, source, check):
    check()
    slot = check.pipeline().slot
    source.sql("select pg_create_logical_replication_slot(%s, %s)", slot, check.pipeline().plugin,
               user=ADMIN)
    report = check()
    assert report.errors == {"source_slot"}
    source.sql(report.one("source_slot", "error")["remedy"].split(": ")[1].split(";")[0], user=ADMIN)
    assert not check().errors


# ---- the mirror ----

def test_mirror_role(orders, mirror, check):
    mirror.sql(f"revoke create on database {mirror.name} from {ROLE};"
               f"revoke create on schema public from {ROLE}, public")
    report = check()
    assert report.errors == {"mirror_role"}
    found = report.one("mirror_role", "error")
    assert "tailwater, mirror_public" in found["why"]
    remedy(mirror, found)
    assert not check().errors


def test_mirror_read_only(orders, mirror, check):
    mirror.sql(f"alter database {mirror.name} set default_transaction_read_only = on")
    assert "mirror_writable" in check().errors
    with mirror.cluster.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"alter database {mirror.name} reset default_transaction_read_only")
    assert not check().errors


def test_control_schema_of_another(orders, mirror, check):
    mirror.sql("create schema tailwater; create table tailwater.pipeline ()")
    report = check()
    assert "mirror_control" in report.errors
    mirror.sql("drop schema tailwater cascade")
    assert not check().errors


def test_names_in_the_way(orders, mirror, check):
    mirror.sql("create table orders (mine int)")
    found = check().one("mirror_name", "error")
    assert "public.orders" in found["what"] and "table" in found["what"]
    mirror.sql("drop table orders; create schema mirror_public;"
               f"grant all on schema mirror_public to {ROLE}; create view mirror_public.orders as "
               "select 1")
    assert "mirror_public.orders" in check().one("mirror_name", "error")["what"]
    mirror.sql("drop schema mirror_public cascade")
    assert not check().errors
    assert not check(mirror={"view_schema": "live_{schema}"}).errors


def test_our_own_names_are_not_in_the_way(orders, source, mirror, check, make_pipeline):
    check()
    check.pipeline().run_until_now()
    report = check()
    assert not report.errors and "keeps" in report.one("source_slot", "ok")["what"]
    # To another pipeline of the same mirror they are.
    other = make_pipeline()
    report = Report(other.verb("check", "--json"))
    assert report.errors == {"mirror_name"}
    assert check.pipeline().name in report.of("mirror_name")[0]["why"]
    # While it runs, the slot is in use, and that is fine.
    check.pipeline().start()
    wait.until(lambda: "being read" in check().one("source_slot", "ok")["what"], "in use")
    check.pipeline().stop()
    # Without the slot nothing goes on.
    source.sql("select pg_drop_replication_slot(%s)", check.pipeline().slot, user=ADMIN)
    assert check().errors == {"source_slot"}


def test_extensions(source, mirror, check):
    source.sql("create schema ext; create extension citext schema ext; create extension pg_trgm;"
               f"grant usage on schema ext to app, {ROLE}", user=ADMIN)
    source.sql("create table t (id int primary key, c ext.citext, d text);"
               "create index on t using gin (d public.gin_trgm_ops)")
    report = check()
    assert report.errors == {"mirror_extension"}
    required, wanted = report.of("mirror_extension")
    assert (required["level"], wanted["level"]) == ("error", "warning")
    assert "public.t.c" in required["why"]
    remedy(mirror, required)
    remedy(mirror, wanted)
    found = check().of("mirror_extension", "error")
    assert len(found) == 1 and "GRANT USAGE" in found[0]["remedy"]
    remedy(mirror, found[0])
    report = check()
    assert not report.errors and len(report.of("mirror_extension", "ok")) == 2
    mirror.sql("create schema other; alter extension citext set schema other")
    found = check().of("mirror_extension", "error")[0]
    assert "SET SCHEMA" in found["remedy"]
    remedy(mirror, found)
    assert not check().errors


def test_types(source, mirror, check):
    source.sql("create type mood as enum ('a'); create table t (id int primary key, m mood)")
    assert "1 type of the source, 0 there" in check().one("mirror_type", "ok")["what"]
    mirror.sql("create type mood as enum ('a')")
    assert "1 there" in check().one("mirror_type", "ok")["what"]
    mirror.sql("drop type mood; create domain mood as text")
    found = check().one("mirror_type", "error")
    assert "CREATE TYPE" in found["remedy"]
    mirror.sql("drop domain mood")
    assert not check().errors


def test_collations(source, mirror, check):
    source.sql("create collation ci (provider = icu, locale = 'und-u-ks-level2', "
               "deterministic = false); create table t (id int primary key, a text collate ci)")
    report = check()
    assert report.errors == {"mirror_collation"}
    remedy(mirror, report.one("mirror_collation", "error"))
    assert check().one("mirror_collation", "ok")


def test_locale(orders, servers, mirror, check):
    assert not check().of("mirror_locale")
    mirror.cluster.sql("create database plain locale 'C' template template0")
    try:
        mirror.cluster.sql(f"grant create on database plain to {ROLE}")
        report = check(mirror={"conninfo": mirror.cluster.conninfo("plain", ROLE)})
        assert report.one("mirror_locale", "warning")
    finally:
        mirror.cluster.sql("drop database plain with (force)")
    mirror.cluster.sql("create database latin encoding 'LATIN1' locale 'C' template template0")
    try:
        mirror.cluster.sql(f"grant create on database latin to {ROLE}")
        report = check(mirror={"conninfo": mirror.cluster.conninfo("latin", ROLE)})
        assert "LATIN1" in report.one("mirror_encoding", "error")["what"]
    finally:
        mirror.cluster.sql("drop database latin with (force)")


def test_readers(orders, check):
    found = check(mirror={"readers": ["reports", "nobody here"]}).one("mirror_readers", "error")
    assert found["remedy"] == 'CREATE ROLE "nobody here";'
    assert check(mirror={"readers": ["reports"]}).one("mirror_readers", "ok")
    assert not check().of("mirror_readers")


def test_p54_a_pooler_is_named(orders, source, check, folder):
    """P54: what a pooler says when it is given our startup options."""
    import socket
    import struct
    import threading
    path = f"{folder}/.s.PGSQL.6543"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4)

    def refuse():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.recv(4096)
            text = b"SFATAL\0C08P01\0Munsupported startup parameter in options: bytea_output\0\0"
            client.sendall(b"E" + struct.pack("!i", len(text) + 4) + text)
            client.close()

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    report = check(source={"conninfo": f"host={folder} port=6543 dbname=x user=x"})
    server.close()
    assert "pooler" in report.one("source_connect", "error")["remedy"]
