"""The test library itself: a comparison that finds nothing because it looks at nothing is worse
than none."""

import os
import re
import subprocess
import sys

import pytest

from lib import wait
from lib.cluster import ROOT
from lib.compare import compare, difference
from lib.pipeline import fault_points


def make(database, rows, user="postgres"):
    database.sql("create table t (id int primary key, a text, b numeric)", user=user)
    for row in rows:
        database.sql("insert into t values (%s, %s, %s)", *row, user=user)


def test_compare_equal(source, mirror):
    make(source, [(1, "x\ty\nz", "1.0"), (2, None, None)], user="app")
    make(mirror, [(2, None, None), (1, "x\ty\nz", "1.0")])
    compare(source, mirror, ["t"])


@pytest.mark.parametrize("there, here", [
    ([(1, "a", 1)], []),
    ([], [(1, "a", 1)]),
    ([(1, "a", 1)], [(1, "b", 1)]),
    ([(1, None, 1)], [(1, "", 1)]),
    ([(1, "a", "1.0")], [(1, "a", "1.00")]),
])
def test_compare_finds(source, mirror, there, here):
    make(source, there, user="app")
    make(mirror, here)
    assert difference(source, mirror, "t")
    with pytest.raises(AssertionError, match="public.t"):
        compare(source, mirror)


def test_compare_finds_a_column_more(source, mirror):
    make(source, [], user="app")
    make(mirror, [])
    mirror.sql("alter table t add c int")
    assert "columns" in difference(source, mirror, "t")


def test_the_replicator_is_no_superuser(source, mirror):
    for database in (source, mirror):
        assert database.value("select not rolsuper from pg_roles where rolname = current_user",
                              user="tailwater")


def test_own_servers_survive_a_kill(own_servers, source):
    make(source, [(1, "a", 1)], user="app")
    own_servers.source.kill()
    assert own_servers.source.pid is None
    own_servers.source.start()
    assert source.value("select a from t") == "a"


def test_until_has_a_deadline():
    with pytest.raises(wait.Deadline, match="never"):
        wait.until(lambda: False, "never", deadline=0.05)


def test_every_fault_point_is_visited():
    """The code has each once, and some test is named after it: it ends the program there, and would
    fail if it did not come to it.  (Random traffic visits them too, which nobody can rely on.)"""
    source = ""
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        for name in names:
            if name.endswith(".c"):
                with open(os.path.join(folder, name)) as f:
                    source += f.read()
    assert sorted(re.findall(r"\bFAULT\((\w+), ", source)) == sorted(fault_points())

    listed = subprocess.run([sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "-q", "--collect-only",
                             "-p", "no:cacheprovider", "-p", "no:xdist", "tests/e2e", "tests/pitfalls",
                             "tests/integration"],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert listed.returncode == 0, listed.stdout
    visited = {word for parameters in re.findall(r"::\w+\[(.*)\]$", listed.stdout, re.M)
               for word in parameters.split("-")}
    assert set(fault_points()) <= visited
