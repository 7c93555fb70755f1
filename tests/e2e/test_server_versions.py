"""Servers of different versions: what is too old is refused before anything is asked of it."""

import os
import re
import socket
import threading

import pytest

from lib.pipeline import FINDINGS

ADMIN = "postgres"


class OlderServer:
    """A socket in front of a server's that has it say that it is PostgreSQL 13."""

    def __init__(self, folder, server):
        self.path, self.server = os.path.join(folder, ".s.PGSQL.5432"), server
        os.makedirs(folder)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            behind = socket.socket(socket.AF_UNIX)
            behind.connect(os.path.join(self.server, ".s.PGSQL.5432"))
            threading.Thread(target=self.pump, args=(client, behind), daemon=True).start()
            threading.Thread(target=self.pump, args=(behind, client), daemon=True).start()

    @staticmethod
    def pump(reader, writer):
        try:
            while data := reader.recv(65536):
                writer.sendall(re.sub(rb"server_version\x00\d\d", b"server_version\x0013", data))
        except OSError:
            pass
        for end in (reader, writer):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


@pytest.mark.parametrize("side", ["source", "mirror"])
def test_too_old(source, mirror, make_pipeline, folder, side):
    source.sql("create table t (id int primary key)")
    database = {"source": source, "mirror": mirror}[side]
    older = OlderServer(os.path.join(folder, "older"), database.cluster.folder)
    pipeline = make_pipeline().publish()
    pipeline.keys[side] = {"conninfo": database.conninfo(host=os.path.join(folder, "older"))}
    pipeline.write_config()
    try:
        for _ in range(2):
            result = pipeline.verb("run", "--until", "now")
            assert result.code == FINDINGS, repr(result)
            assert f"the {side} runs PostgreSQL 13, and 14 is the oldest supported" in result.err
            assert f"upgrade the {side}" in result.err
        result = pipeline.verb("check", "--json")
        found = {f["name"]: f["level"] for f in result.json()["findings"]}
        assert result.code == FINDINGS and found == {f"{side}_version": "error"}, repr(result)
    finally:
        older.close()
    assert mirror.value("select to_regnamespace('tailwater')") is None, "nothing was touched"
    assert source.value("select count(*) from pg_replication_slots where slot_name = %s",
                        pipeline.slot, user=ADMIN) == 0


def test_mirror_without_a_type(source, mirror, make_pipeline):
    """What an older server lacks: here a built-in type is taken away from the mirror's database."""
    source.sql("create table t (id int primary key, a txid_snapshot, b txid_snapshot[]);"
               "insert into t values (1, '10:20:10,14,15')")
    rename = ("set allow_system_table_mods = on; alter type pg_catalog.{} rename to {};"
              "reset allow_system_table_mods")
    mirror.sql(rename.format("txid_snapshot", "gone"))
    pipeline = make_pipeline().publish()
    result = pipeline.verb("check", "--json")
    assert result.code == FINDINGS, repr(result)
    found = [f for f in result.json()["findings"] if f["level"] == "error"]
    assert [f["name"] for f in found] == ["mirror_type", "mirror_type"]
    assert "has no type txid_snapshot" in found[0]["what"] and "public.t.a has it" in found[0]["why"]
    assert "txid_snapshot[]" in found[1]["what"]
    mirror.sql(rename.format("gone", "txid_snapshot"))
    pipeline.run_until_now()
    pipeline.settle()


def test_mirror_older_than_source(source, mirror, make_pipeline):
    source.sql("create table t (id int primary key)")
    report = make_pipeline().publish().verb("check", "--json").json()
    found = [f for f in report["findings"] if f["name"] == "mirror_version"]
    older = mirror.cluster.major < source.cluster.major
    assert [f["level"] for f in found] == (["ok", "warning"] if older else ["ok"])
    if older:
        assert f"PostgreSQL {mirror.cluster.major}, the source {source.cluster.major}" in found[1]["what"]


def test_what_only_later_versions_have(source, mirror, make_pipeline):
    """Column kinds and index options that came after 14, where the source has them."""
    major = source.cluster.major
    source.sql("create table t (id int primary key, a int, b int); insert into t values (1, 2, 3)")
    if major >= 15:
        source.sql("create unique index on t (a, b) nulls not distinct")
    if major >= 16:
        source.sql("create table s (id int primary key, a text storage external compression pglz);"
                   "insert into s values (1, 'x')")
    if major >= 18:
        source.sql("create table g (id int primary key, a int,"
                   " v int generated always as (a * 2) virtual,"
                   " w int generated always as (a * 3) stored, n int constraint named not null);"
                   "insert into g (id, a, n) values (1, 5, 7);"
                   "alter table g add constraint later check (n > 0) not enforced")
    pipeline = make_pipeline().publish()
    if major >= 18 and pipeline.plugin == "pgoutput":
        # The stored column comes in the stream too; the mirror computes its own.
        source.sql(f"alter publication {pipeline.publication} set (publish_generated_columns = stored)",
                   user=ADMIN)
    pipeline.start().wait_until_caught_up()
    source.sql("insert into t values (2, null, null); update t set a = 9 where id = 1")
    if major >= 18:
        source.sql("insert into g (id, a, n) values (2, 6, 8); update g set a = 50 where id = 1")
    pipeline.wait_until_caught_up()
    tables = [("public", "t")] + [("public", "s")] * (major >= 16)
    pipeline.compare(tables)
    if major >= 18:
        assert mirror.sql("select * from g order by id") == [(1, 50, 150, 7), (2, 6, 18, 8)]
        names = [row[0] for row in mirror.sql(
            "select column_name from information_schema.columns where table_schema = 'public' "
            "and table_name = 'g' order by ordinal_position")]
        assert names == ["id", "a", "w", "n"], "the virtual column is left out, and check says so"
        report = pipeline.verb("check", "--json").json()
        assert any(f["name"] == "generated_column" and '"v" is left out' in f["what"]
                   for f in report["findings"])
    pipeline.settle(tables)
