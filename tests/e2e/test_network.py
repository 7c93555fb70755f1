"""TLS, and networks that say nothing any more."""

import os
import subprocess
import time

import pytest

from lib import wait
from lib.pipeline import MIRROR_DOWN, SOURCE_DOWN
from lib.proxy import Proxy

ADMIN = "postgres"
HOSTS = {"source": "source.test", "mirror": "mirror.test"}


# ---- TLS ----

def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_root(folder, name):
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.crt")
    return os.path.join(folder, f"{name}.crt")


def make_certificate(folder, root, host):
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={host}",
            "-keyout", f"{host}.key", "-out", f"{host}.csr")
    with open(os.path.join(folder, f"{host}.ext"), "w") as f:
        f.write(f"subjectAltName=DNS:{host}\n")
    openssl(folder, "x509", "-req", "-days", "2", "-in", f"{host}.csr", "-CA", f"{root}.crt",
            "-CAkey", f"{root}.key", "-CAcreateserial", "-extfile", f"{host}.ext", "-out", f"{host}.crt")


class Encrypted:
    """Both servers on loopback addresses of their own, where they take TLS connections only."""

    def __init__(self, servers, folder):
        self.folder, self.addresses = folder, {}
        self.root = make_root(folder, "root")
        for number, side in enumerate(("source", "mirror"), 1):
            cluster = getattr(servers, side)
            make_certificate(folder, "root", HOSTS[side])
            data = os.path.join(cluster.folder, "data")
            owner = os.stat(data)
            for kind in ("crt", "key"):
                path = os.path.join(data, f"server.{kind}")
                os.rename(os.path.join(folder, f"{HOSTS[side]}.{kind}"), path)
                os.chmod(path, 0o600)
                os.chown(path, owner.st_uid, owner.st_gid)
            pid = os.getpid()
            self.addresses[side] = f"127.{pid // 256 % 250 + 1}.{pid % 250 + 1}.{number}"
            cluster.set_hba("local all all trust", "hostssl all all 127.0.0.0/8 trust",
                            "hostnossl all all 127.0.0.0/8 reject")
            cluster.set(listen_addresses=self.addresses[side], ssl="on")
            cluster.restart()

    def conninfo(self, side, database, **more):
        words = {"host": HOSTS[side], "hostaddr": self.addresses[side], "sslmode": "verify-full",
                 "sslrootcert": self.root, **more}
        return database.conninfo(**words)


@pytest.fixture
def encrypted(own_servers, folder):
    return Encrypted(own_servers, folder)


def test_tls(both_plugins, encrypted, own_servers, source, mirror, make_pipeline):
    """Copy, stream and repair with every connection of both sides encrypted, names verified."""
    source.sql("create table t (id int primary key, a text);"
               "insert into t select i, repeat('x', 3000) from generate_series(1, 2000) i")
    pipeline = make_pipeline(source={"conninfo": encrypted.conninfo("source", source)},
                             mirror={"conninfo": encrypted.conninfo("mirror", mirror)}).publish()
    pipeline.start().wait_until_caught_up()
    pipeline.feed(["insert into t select i, md5(i::text) from generate_series(5000, 9000) i",
                   "update t set a = repeat('large', 2000000) where id = 1",
                   "delete from t where id between 100 and 200"], "one by one")
    for server in (own_servers.source, own_servers.mirror):
        plain, tls = server.sql("select count(*) filter (where not s.ssl), count(*) filter (where s.ssl)"
                                " from pg_stat_activity a join pg_stat_ssl s using (pid)"
                                " where a.usename = 'tailwater'")[0]
        assert plain == 0 and tls >= 2
    pipeline.settle()


@pytest.mark.parametrize("side, code", [("source", SOURCE_DOWN), ("mirror", MIRROR_DOWN)])
def test_tls_refused(encrypted, source, mirror, folder, make_pipeline, side, code):
    """A wrong root, a wrong name, no root, no TLS: said at once, without waiting for start_timeout."""
    source.sql("create table t (id int primary key)")
    database = {"source": source, "mirror": mirror}[side]
    other = make_root(folder, "other")
    pipeline = make_pipeline().publish()
    for change, words in [({"sslrootcert": other}, ["certificate verify failed", "sslrootcert"]),
                          ({"host": "elsewhere.test"}, ["does not match", "host name"]),
                          ({"sslrootcert": "/nowhere/root.crt"}, ["/nowhere/root.crt", "sslrootcert"]),
                          ({"sslmode": "disable"}, ["no encryption"])]:
        pipeline.keys[side] = {"conninfo": encrypted.conninfo(side, database, **change)}
        pipeline.write_config()
        for verb in (("run", "--until", "now"), ("check",)):
            start = time.monotonic()
            result = pipeline.verb(*verb)
            assert result.code == code, repr(result)
            assert time.monotonic() - start < 20
            for word in words:
                assert word in result.text, f"{word!r} is missing in\n{result!r}"
            assert side in result.text


def test_server_without_tls(source, mirror, own_servers, make_pipeline):
    address = f"127.{os.getpid() // 256 % 250 + 1}.{os.getpid() % 250 + 1}.3"
    own_servers.source.set_hba("local all all trust", "host all all 127.0.0.0/8 trust")
    own_servers.source.set(listen_addresses=address)
    own_servers.source.restart()
    source.sql("create table t (id int primary key)")
    pipeline = make_pipeline().publish()
    pipeline.keys["source"] = {"conninfo": source.conninfo(host=address, sslmode="require")}
    pipeline.write_config()
    result = pipeline.verb("run", "--until", "now")
    assert result.code == SOURCE_DOWN and "ssl = on" in result.err, repr(result)


# ---- silence ----

@pytest.fixture
def silent(own_servers, source, mirror, folder, make_pipeline):
    """A running pipeline, and a network on each side that can go silent without closing anything."""
    own_servers.source.set(wal_sender_timeout="3s")
    source.sql("create table t (id int primary key, a text);"
               "insert into t select i, 'v' from generate_series(1, 100) i")
    networks = {}
    for side, database in (("source", source), ("mirror", mirror)):
        networks[side] = Proxy(os.path.join(folder, f"{side}-net"), database.cluster.folder).start()
    pipeline = make_pipeline(
        source={"conninfo": source.conninfo(host=networks["source"].folder)},
        mirror={"conninfo": mirror.conninfo(host=networks["mirror"].folder)}).publish()
    pipeline.networks = networks
    pipeline.start().wait_until_caught_up()
    pipeline.wait_log(r"\[streaming\]")
    yield pipeline
    pipeline.close()
    for network in networks.values():
        network.close()


def silence(pipeline, side, name=None):
    network = pipeline.networks[side]
    wait.until(lambda: any(name is None or name in one for one in network.names()), "its connection")
    assert network.stall(name) > 0
    if name is None:
        network.refuse(True)


def heal(pipeline, side):
    pipeline.networks[side].refuse(False)
    pipeline.networks[side].resume()


def test_source_goes_silent(silent, source):
    """Everything that is sent vanishes, and nobody closes a connection: noticed by twice
    wal_sender_timeout, whether there is something to send or not."""
    silence(silent, "source")
    silent.wait_log(r"no sign of life.*\[interrupted\]", deadline=20)
    source.sql("insert into t values (1000, 'meanwhile')")
    heal(silent, "source")
    silent.wait_until_caught_up()
    silent.settle()


def test_stream_goes_silent(silent, source):
    """The stream alone."""
    silence(silent, "source", "receiver")
    silent.wait_log(r"no sign of life.*\[interrupted\]", deadline=20)
    source.sql("insert into t values (1000, 'meanwhile')")
    silent.wait_until_caught_up()
    silent.settle()


def test_watcher_goes_silent(silent, source):
    """It has a limit of its own, and connects again by itself: the stream is not touched."""
    silence(silent, "source", "watcher")
    silent.wait_log(r"\[watcher_trouble\]", deadline=30)
    source.sql("insert into t values (1000, 'meanwhile')")
    silent.wait_until_caught_up()
    wait.until(lambda: "tailwater watcher" in silent.networks["source"].names(), "a new connection",
               deadline=30)
    assert "interrupted" not in silent.events()
    silent.settle()


@pytest.mark.slow
def test_mirror_goes_silent(silent, source):
    """Lock, applier and all: the heartbeat's limit notices."""
    silence(silent, "mirror")
    source.sql("insert into t values (1000, 'meanwhile')")
    silent.wait_log(r"holds the pipeline's lock.*\[interrupted\]", deadline=60)
    heal(silent, "mirror")
    silent.wait_until_caught_up(deadline=90)
    silent.settle()


def lasting(source):
    """The connections that stay as long as the stream does, as the source sees them: {process: seconds}."""
    return dict(source.sql("select pid, extract(epoch from now() - backend_start)::float from pg_stat_activity "
                           "where application_name in ('tailwater receiver', 'tailwater watcher') "
                           "and datname = current_database()", user=ADMIN))


def test_quiet_is_not_silence(silent, source):
    """A source with nothing to send answers when it is asked: the stream stays."""
    silent.stop()
    silent.keys["source"]["heartbeat"] = "off"
    silent.write_config()
    wait.until(lambda: not lasting(source), "the last run's connections gone")
    silent.start().wait_until_caught_up()
    wait.until(lambda: len(lasting(source)) == 2, "receiver and watcher")
    before = lasting(source).keys()
    wait.until(lambda: min(lasting(source).values(), default=0) > 10, "ten quiet seconds", deadline=40)
    assert lasting(source).keys() == before and "interrupted" not in silent.events()
    silent.settle()
