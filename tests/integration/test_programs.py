"""C tests that need a server (cmocka): each program gets one database, and the conninfos of the
roles in its environment."""

import os
import subprocess

import pytest

from lib.pipeline import BINARY

FOLDER = os.path.join(os.path.dirname(BINARY), "tests", "integration")


@pytest.mark.parametrize("program", ["test_codec_server", "test_pg_server", "test_source_server"])
def test_program(program, source, has_wal2json):
    environment = dict(os.environ)
    for name in list(environment):
        if name.startswith("PG"):
            del environment[name]
    for role, user in (("ADMIN", "postgres"), ("OWNER", "app"), ("REPLICATOR", "tailwater")):
        environment[f"TAILWATER_TEST_{role}"] = source.conninfo(user)
    environment["TAILWATER_TEST_WAL2JSON"] = "yes" if has_wal2json else "no"
    done = subprocess.run([os.path.join(FOLDER, program)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200)
    assert done.returncode == 0, done.stdout
