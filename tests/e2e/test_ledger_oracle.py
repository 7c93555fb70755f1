"""The property: a key whose derived rows change is in the ledger (lib/ledger_oracle.py)."""

import random

import pytest

from lib import ledger_oracle


@pytest.mark.parametrize("seed", [1, None])
def test_every_changed_key(both_plugins, source, make_pipeline, seed, plugin):
    """A fixed seed, at which every mutation of the resolution is caught, and a fresh one; scripts/ledger-oracle runs
    thousands of batches."""
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")
    oracle = ledger_oracle.run(lambda **keys: make_pipeline(purge={"after": random.Random(seed).choice(["0", "7d"])},
                                                            **keys), source, 120, seed)
    assert min(oracle.changed.values()) > 0
    oracle.pipeline.settle()
