"""The test library itself: a comparison that finds nothing because it looks at nothing is worse
than none."""

import pytest

from lib import wait
from lib.compare import compare, difference


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
