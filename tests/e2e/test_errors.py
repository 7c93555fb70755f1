"""What goes wrong before or beside the replication: one clear error, the right exit code, nothing lost.

Each says what, where and what to do next, each is asked for twice: a failed run leaves nothing that
makes the next one fail differently.
"""

import os
import subprocess
import time

import pytest

from lib import wait
from lib.cluster import REPLICATOR
from lib.pipeline import FINDINGS, MIRROR_DOWN, SOURCE_DOWN, USAGE


@pytest.fixture
def table(source):
    source.sql("create table orders (id int primary key, a text); insert into orders values (1, 'x')")


def fails(pipeline, code, *words, verb=("run", "--until", "now"), within=20, **more):
    """The verb fails like this, and like this again."""
    for _ in range(2):
        start = time.monotonic()
        result = pipeline.verb(*verb, **more)
        took = time.monotonic() - start
        assert result.code == code, repr(result)
        for word in words:
            assert word.lower() in result.err.lower(), f"{word!r} is missing in\n{result!r}"
        assert took < within, f"{took:.1f} s"
    return result


def with_line(pipeline, text):
    """The configuration with some lines more; the number of the first of them."""
    with open(pipeline.file) as f:
        before = f.read()
    pipeline.write_config(before + text)
    return before.count("\n") + 1


# ---- the configuration ----

def test_missing_file(pipeline):
    os.unlink(pipeline.file)
    fails(pipeline, USAGE, pipeline.file, "No such file")


def test_unreadable_yaml(pipeline):
    line = with_line(pipeline, "apply: {max_rows: [\n")
    fails(pipeline, USAGE, f"tailwater.yaml:{line + 1}:")


def test_unknown_key(table, pipeline):
    line = with_line(pipeline, "aply:\n  max_rows: 5\n")
    fails(pipeline, USAGE, f"tailwater.yaml:{line}:1", "aply", "apply")
    pipeline.write_config()
    line = with_line(pipeline, "apply:\n  max_row: 5\n")
    fails(pipeline, USAGE, f"tailwater.yaml:{line + 1}:3", "max_row", "max_rows")


def test_key_of_a_later_release(table, pipeline):
    """A key that is not built yet is unknown, not ignored."""
    line = with_line(pipeline, "hooks: {}\n")
    fails(pipeline, USAGE, f"tailwater.yaml:{line}:1", "hooks")


@pytest.mark.parametrize("text, word", [
    ("purge: {after: 7 fortnights}\n", "fortnights"),
    ("purge: {after: 7}\n", "unit"),
    ("apply: {max_bytes: 3 d}\n", "max_bytes"),
    ("apply: {max_bytes: lots}\n", "max_bytes"),
])
def test_wrong_unit(table, pipeline, text, word):
    line = with_line(pipeline, text)
    fails(pipeline, USAGE, f"tailwater.yaml:{line}:", word)


def test_unset_variable(table, pipeline):
    pipeline.keys["mirror"] = {"conninfo": pipeline.mirror.conninfo() + " password=${TAILWATER_NO_SUCH}"}
    pipeline.write_config()
    fails(pipeline, USAGE, "TAILWATER_NO_SUCH", "tailwater.yaml:")


def test_unknown_verb_and_option(table, pipeline):
    fails(pipeline, USAGE, "statsu", "status", verb=("statsu",))
    fails(pipeline, USAGE, "--untill", "--until", verb=("run", "--untill", "now"))


# ---- tables ----

def test_table_that_does_not_exist(table, pipeline):
    pipeline.tables = ["public.ordrs"]
    pipeline.write_config()
    with open(pipeline.file) as f:
        line = f.read().split("public.ordrs")[0].count("\n") + 1
    fails(pipeline, FINDINGS, f"tailwater.yaml:{line}:", "public.ordrs", "public.orders")


@pytest.mark.parametrize("definition, word", [
    pytest.param("create table bad (id int)", "key", id="p17 no key"),
    pytest.param("create table bad (id int primary key deferrable)", "deferrable", id="p18 deferrable"),
    pytest.param("create table bad (id int primary key); alter table bad replica identity nothing",
                 "identity", id="p17 nothing"),
    pytest.param("create table bad (id int); alter table bad replica identity full", "key",
                 id="p21 full without a key"),
])
def test_table_without_a_usable_key(table, source, mirror, make_pipeline, definition, word):
    source.sql(definition)
    pipeline = make_pipeline(tables=["public.orders", "public.bad"])
    fails(pipeline, FINDINGS, "public.bad", word)
    # A glob passes over it, and check says so.
    pipeline.tables = ["public.*"]
    pipeline.write_config()
    assert "public.bad" in pipeline.verb("check").text
    pipeline.run_until_now()
    pipeline.compare([("public", "orders")])
    pipeline.settle_stopped(compare=False)


def test_column_with_a_name_of_ours(table, source, make_pipeline):
    source.sql("create table bad (id int primary key, _lsn text)")
    fails(make_pipeline(tables=["public.bad"]), FINDINGS, "public.bad", "_lsn")


def test_relation_in_the_way(table, source, mirror, pipeline):
    mirror.sql("create table orders (mine int)")
    fails(pipeline, FINDINGS, "orders")
    assert mirror.value("select count(*) from orders") == 0
    mirror.sql("drop table orders")
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle_stopped()


def test_publication_missing(table, source, make_pipeline):
    """The role may not make it: the SQL for the owner is printed, and works."""
    pipeline = make_pipeline(plugin="pgoutput")
    result = fails(pipeline, FINDINGS, "create publication".upper(), pipeline.publication)
    assert source.value("select count(*) from pg_replication_slots where slot_name = %s",
                        pipeline.slot, user="postgres") == 0, "publication first, then the slot"
    sql = result.err[result.err.index("CREATE PUBLICATION"):].split(";")[0].split("\n")[0]
    source.sql(sql, user="postgres")
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle_stopped()


@pytest.mark.parametrize("how", ["for all tables", "for table orders where (id > 5)",
                                 "for table orders (id)",
                                 "for table orders with (publish = 'insert')"])
def test_p04_p17_publication_that_is_not_plain(table, source, make_pipeline, how):
    pipeline = make_pipeline(plugin="pgoutput")
    source.sql(f"create publication {pipeline.publication} {how}", user="postgres")
    fails(pipeline, FINDINGS, pipeline.publication)


# ---- servers ----

PASSWORDS = ("local all postgres trust", "local all all scram-sha-256",
             "local replication postgres trust")
RIGHT, WRONG = "r1ght-s3cret", "wr0ng-s3cret"


@pytest.fixture
def guarded(own_servers, source, mirror, table):
    """Both servers ask the replicator for a password."""
    for cluster in (own_servers.source, own_servers.mirror):
        cluster.sql(f"alter role {REPLICATOR} password '{RIGHT}'")
        cluster.set_hba(*PASSWORDS)
        # Reloading takes a moment: until a wrong password is refused.
        wait.until(lambda: subprocess.run(
            ["psql", "-w", "-X", cluster.conninfo("postgres", REPLICATOR), "-c", ""],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0, "hba in force")
    return own_servers


@pytest.mark.parametrize("side, code", [("source", SOURCE_DOWN), ("mirror", MIRROR_DOWN)])
def test_wrong_password(guarded, source, mirror, make_pipeline, side, code):
    passwords = {"source": RIGHT, "mirror": RIGHT, side: WRONG}
    pipeline = make_pipeline(
        source={"conninfo": source.conninfo(password=passwords["source"])},
        mirror={"conninfo": mirror.conninfo(password="${MIRROR_PASSWORD}")})
    env = {"MIRROR_PASSWORD": passwords["mirror"]}
    # At once: waiting does not make a password right.
    result = fails(pipeline, code, side, "password", "28P01", within=10, env=env)
    assert pipeline.verb("check", env=env).code == code
    pipeline.keys["source"]["conninfo"] = source.conninfo(password=RIGHT)
    pipeline.write_config()
    pipeline.run_until_now(env={"MIRROR_PASSWORD": RIGHT})
    pipeline.compare()
    assert RIGHT not in pipeline.log and WRONG not in pipeline.log, "a password in the log"
    assert RIGHT not in result.err


@pytest.mark.parametrize("side, code", [("source", SOURCE_DOWN), ("mirror", MIRROR_DOWN)])
def test_server_down(own_servers, source, mirror, table, make_pipeline, side, code):
    pipeline = make_pipeline(source={"start_timeout": "1s"})
    getattr(own_servers, side).stop()
    fails(pipeline, code, side)
    assert pipeline.verb("check").code == code
    getattr(own_servers, side).start()
    pipeline.run_until_now()
    pipeline.compare()
    # and after it has been seen to work
    getattr(own_servers, side).stop()
    fails(pipeline, code, side)
    getattr(own_servers, side).start()
    pipeline.settle_stopped()


def test_database_that_does_not_exist(table, source, mirror, make_pipeline):
    pipeline = make_pipeline(mirror={"conninfo": mirror.cluster.conninfo("no_such_db", REPLICATOR)})
    fails(pipeline, MIRROR_DOWN, "no_such_db", "mirror")


def test_mirror_is_read_only(source, mirror, table, make_pipeline):
    pipeline = make_pipeline(source={"start_timeout": "1s"})
    read_only = f"alter database {mirror.name} set default_transaction_read_only"
    mirror.cluster.sql(f"{read_only} = on")
    fails(pipeline, MIRROR_DOWN, "read-only", "mirror")
    mirror.cluster.sql(f"{read_only} = off")
    pipeline.run_until_now()
    pipeline.compare()
    # Turned read-only between runs: nothing is confirmed that is not stored.
    mirror.cluster.sql(f"{read_only} = on")
    source.sql("insert into orders values (2, 'y')")
    fails(pipeline, MIRROR_DOWN, "read-only", "mirror")
    mirror.cluster.sql(f"{read_only} = off")
    pipeline.run_until_now()
    pipeline.compare()
    pipeline.settle_stopped()


@pytest.fixture
def small_disk(folder):
    """A tmpfs, and a way to make it larger.  Needs root, and mounts that are allowed."""
    path = os.path.join(folder, "disk")
    os.makedirs(path)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=777", "tmpfs", path],
                           stderr=subprocess.PIPE, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no mounts here: {mount.stderr.strip()}")
    subprocess.run(["chown", "postgres:postgres", path], check=True)
    os.chmod(path, 0o700)
    yield path, lambda size: subprocess.run(
        ["mount", "-o", f"remount,size={size}", path], check=True)
    subprocess.run(["umount", path], check=False)


def test_mirror_is_full(own_servers, source, table, folder, make_pipeline, small_disk):
    """While there is no room it waits and says so; then it goes on where it was."""
    path, enlarge = small_disk
    own_servers.mirror.sql(f"create tablespace small location '{path}'")
    own_servers.mirror.sql("create database full_mirror tablespace small")
    from lib.cluster import SUPERUSER, Database
    mirror = Database(own_servers.mirror, "full_mirror", SUPERUSER)
    mirror.sql(f"grant create on database full_mirror to {REPLICATOR};"
               f"grant create, usage on schema public to {REPLICATOR}")
    pipeline = make_pipeline(mirror_db=mirror)
    pipeline.start().wait_until_caught_up()
    source.sql("insert into orders select i, repeat(md5(i::text), 40) from generate_series(2, 40000) i")
    pipeline.wait_log("53100")
    assert mirror.value("select count(*) from orders") == 1
    enlarge("500m")
    pipeline.wait_until_caught_up()
    pipeline.compare()
    pipeline.settle()
    mirror.close()
    own_servers.mirror.stop("immediate")


# ---- values ----

def test_no_row_value_in_the_log(source, mirror, make_pipeline):
    """A row that the mirror refuses stops the pipeline without telling what was in it."""
    source.sql("create table t (id int primary key, a text); insert into t values (1, 'x')")
    pipeline = make_pipeline(log={"level": "debug"}, apply={"on_error": "stop"})
    pipeline.run_until_now()
    mirror.sql("alter table mirror_public.t add check (a not like 'S3CRET%')")
    source.sql("insert into t values (2, 'S3CRET-VALUE')")
    result = fails(pipeline, 1, "public.t", "23514")
    assert "S3CRET" not in pipeline.log, repr(result)
    mirror.sql("alter table mirror_public.t drop constraint t_a_check")
    pipeline.run_until_now()
    pipeline.compare()
    assert "S3CRET" not in pipeline.log
    pipeline.settle_stopped()


def test_row_values_in_the_log_where_asked_for(source, mirror, make_pipeline):
    source.sql("create table t (id int primary key, a text); insert into t values (1, 'x')")
    pipeline = make_pipeline(log={"values": True}, apply={"on_error": "stop"})
    pipeline.run_until_now()
    mirror.sql("alter table mirror_public.t add check (a not like 'S3CRET%')")
    source.sql("insert into t values (2, 'S3CRET-VALUE')")
    fails(pipeline, 1, "public.t", "23514")
    assert "S3CRET-VALUE" in pipeline.log
