"""Fixtures for the tests that need servers.

Cheap by default: every worker has one pair of clusters for its whole session, and every test a
database of its own in each.  A test that stops, kills or reconfigures servers takes own_servers.
Folders are where memory is the disk if there is room, and are removed; those of failed tests
are moved to /tmp.  TAILWATER_TEST_TMP is another place for both; socket paths must be short.
"""

import fcntl
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib.cluster import SERVERS, Cluster  # noqa: E402
from lib.pipeline import BINARY, PLUGINS, RELEASE, Pipeline  # noqa: E402

# Servers of other versions than the distribution's come without wal2json: everything goes through
# pgoutput then, and what needs wal2json is skipped, with this reason.
HAS_WAL2JSON = SERVERS["source"] is None
NO_WAL2JSON = "wal2json is not available for this server"

LOG_TAIL = 40
TEMPLATES = "TAILWATER_TEST_TEMPLATES"
numbers = itertools.count(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    setattr(item, "report_" + report.when, report)
    if not report.failed:
        return
    for title, text in getattr(item, "witnesses", {}).items():
        lines = text().splitlines()
        report.sections.append((title, "\n".join(lines[-LOG_TAIL:])))
    if getattr(item, "folder", None):
        report.sections.append(("kept", os.path.join(KEPT, os.path.basename(item.folder))))


def has_failed(item):
    return any(getattr(getattr(item, f"report_{when}", None), "failed", False)
               for when in ("setup", "call"))


def fast_place():
    """A third of what a test costs on a disk is the making of its databases' files."""
    try:
        room = os.statvfs("/dev/shm")
        with open("/proc/meminfo") as f:
            available = int(re.search(r"MemAvailable: *(\d+) kB", f.read()).group(1)) << 10
    except (OSError, AttributeError):
        return KEPT
    enough = min(room.f_bavail * room.f_frsize, available) >= 6 << 30
    return "/dev/shm" if enough and os.access("/dev/shm", os.W_OK) else KEPT


KEPT = os.environ.get("TAILWATER_TEST_TMP", "/tmp")
PLACE = os.environ.get("TAILWATER_TEST_TMP") or fast_place()


def new_folder(prefix):
    folder = tempfile.mkdtemp(prefix=prefix, dir=PLACE)
    os.chmod(folder, 0o755)
    return folder


def keep(folder):
    """A failed test's folder, in a place that is not memory; nothing of it runs any more."""
    if PLACE != KEPT:
        subprocess.run(["mv", folder, KEPT], check=True)


def watch(item, title, text):
    """Show what text() says if the test fails."""
    item.__dict__.setdefault("witnesses", {})[title] = text


def watch_log(item, title, cluster):
    """The part of a server's log that this test causes, without what every walsender says."""
    start = len(cluster.log)

    def said():
        lines, routine = [], False
        for line in cluster.log[start:].splitlines():
            if " LOG:  " in line:
                routine = "logical decoding" in line
            elif "ERROR:  " in line or "FATAL:  " in line:
                routine = False
            if not routine:
                lines.append(line[:400])
        return "\n".join(lines)

    watch(item, title, said)


class Servers:
    """A source and a mirror cluster."""

    def __init__(self, folder, templates):
        self.folder, self.templates = folder, templates
        self.source, self.mirror = (Cluster(os.path.join(folder, side), bindir=SERVERS[side])
                                    for side in ("source", "mirror"))

    def start(self):
        for cluster, template in zip((self.source, self.mirror), self.templates):
            cluster.create(template).start().make_roles()
        return self

    def stop(self):
        for cluster in (self.source, self.mirror):
            cluster.stop("immediate")


@pytest.fixture(scope="session")
def templates():
    """What every source, and every mirror, is a copy of: initdb takes its time, and runs once for all workers."""
    folder, made = os.environ[TEMPLATES], []
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for side, bindir in SERVERS.items():
            cluster = Cluster(os.path.join(folder, side), bindir=bindir)
            done = os.path.join(folder, f"{side}.done")
            if not os.path.exists(done):
                cluster.create()
                open(done, "w").close()
            made.append(cluster)
    return made


@pytest.fixture(scope="session")
def servers(request, templates):
    """The session's pair of clusters."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    pair = Servers(new_folder(f"tailwater-{worker or 'test'}-"), templates)
    try:
        yield pair.start()
    finally:
        pair.stop()
        if request.session.testsfailed:
            keep(pair.folder)
        else:
            shutil.rmtree(pair.folder, ignore_errors=True)


@pytest.fixture
def own_servers(request, folder, templates):
    """A pair of clusters for this test alone: it may kill and reconfigure them."""
    pair = Servers(folder, templates)
    try:
        pair.start()
        watch_log(request.node, "source server log", pair.source)
        watch_log(request.node, "mirror server log", pair.mirror)
        yield pair
    finally:
        pair.stop()


@pytest.fixture
def folder(request):
    """The test's own folder, kept when it fails."""
    path = new_folder("tailwater-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:24] + "-")
    request.node.folder = path
    yield path
    if has_failed(request.node):
        keep(path)
    else:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def plugin():
    """The output plugin; parametrised with both_plugins."""
    return "wal2json" if HAS_WAL2JSON else "pgoutput"


@pytest.fixture(scope="session")
def has_wal2json():
    """Can the source's server load it?"""
    return HAS_WAL2JSON


def pair_of(request):
    """The clusters of this test: its own if it asked for them, else the session's."""
    name = "own_servers" if "own_servers" in request.fixturenames else "servers"
    return request.getfixturevalue(name)


@pytest.fixture
def source(request):
    """A source database with the README's roles and grants; sql() runs as the tables' owner."""
    cluster = pair_of(request).source
    if "own_servers" not in request.fixturenames:
        watch_log(request.node, "source server log", cluster)
    database = cluster.create_source(f"shop{next(numbers)}")
    yield database
    leave(request, database)


@pytest.fixture
def mirror(request):
    """An empty mirror database with the README's grants; sql() runs as a superuser."""
    cluster = pair_of(request).mirror
    if "own_servers" not in request.fixturenames:
        watch_log(request.node, "mirror server log", cluster)
    database = cluster.create_mirror(f"reports{next(numbers)}")
    yield database
    leave(request, database)


def leave(request, database):
    database.close()
    if "own_servers" not in request.fixturenames:
        database.drop()


@pytest.fixture
def make_pipeline(request, folder, source, mirror, plugin):
    """Makes pipelines from source to mirror; whatever runs at the end of the test is ended."""
    made = []

    def make(**keys):
        name = keys.pop("name", f"t{os.getpid() % 10000}_{next(numbers)}")
        if "plugin" not in keys and "both_plugins" not in request.fixturenames:
            keys.setdefault("auto_publish", not HAS_WAL2JSON)
        if keys.setdefault("plugin", plugin) == "wal2json" and not HAS_WAL2JSON:
            pytest.skip(NO_WAL2JSON)
        new = Pipeline(os.path.join(folder, name), keys.pop("source_db", source),
                       keys.pop("mirror_db", mirror), name, **keys)
        watch(request.node, f"log of pipeline {name}", lambda: new.log)
        made.append(new)
        return new

    yield make
    for one in made:
        one.close()


@pytest.fixture
def pipeline(make_pipeline):
    """One pipeline with the smallest configuration.  With pgoutput: publish() once tables exist."""
    return make_pipeline()


@pytest.fixture(scope="session")
def release():
    """The release build's path: for what is measured."""
    if not os.access(RELEASE, os.X_OK):
        pytest.fail(f"no release build at {RELEASE}: scripts/test makes it, or set TAILWATER_RELEASE")
    return RELEASE


def pytest_configure(config):
    # One for all workers: it is in the names of tests.
    os.environ.setdefault("TAILWATER_SEED", str(random.randrange(10**6)))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ[TEMPLATES] = new_folder("tailwater-initdb-")
    if not os.access(BINARY, os.X_OK) and not config.option.collectonly:
        sys.stderr.write(f"note: no program at {BINARY}; set TAILWATER=…/tailwater\n")


def pytest_unconfigure(config):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ[TEMPLATES], ignore_errors=True)


def pytest_collection_modifyitems(items):
    # Long ones first, so that no worker is left with one in the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        needs = any(str(param).startswith("wal2json") for param in params)
        if not HAS_WAL2JSON and (needs or item.get_closest_marker("wal2json")):
            item.add_marker(pytest.mark.skip(reason=NO_WAL2JSON))


def pytest_generate_tests(metafunc):
    """A test that takes both_plugins runs once with each; plugin then says which."""
    if "both_plugins" in metafunc.fixturenames:
        metafunc.parametrize("plugin", PLUGINS)


@pytest.fixture
def both_plugins(plugin):
    return plugin
