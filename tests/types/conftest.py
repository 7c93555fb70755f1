"""Each test of this folder runs through every output plugin that a user may have."""

import pytest

from lib.wal2json import use_newer_wal2json

OUTPUTS = ("wal2json 2.5", "wal2json 2.6", "pgoutput")


@pytest.fixture(params=OUTPUTS)
def output(request, has_wal2json):
    if not has_wal2json and request.param.startswith("wal2json"):
        pytest.skip("wal2json is not available for this server")
    return request.param


@pytest.fixture
def plugin(output):
    """As the configuration names it."""
    return output.split()[0]


@pytest.fixture
def source(source, output):
    """A database whose sessions load the plugin that the test is for, under its usual name."""
    if output == "wal2json 2.6":
        use_newer_wal2json(source)
    return source
