"""These tests are about what is noticed: it stops the pipeline, so that each is seen for itself.

That by default the table alone is left out is tested in tests/e2e/test_quarantine.py.
"""

import pytest


@pytest.fixture
def make_pipeline(make_pipeline):
    def make(**keys):
        return make_pipeline(**{**keys, "apply": {"on_error": "stop", **keys.get("apply", {})}})

    return make
