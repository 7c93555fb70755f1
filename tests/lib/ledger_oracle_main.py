"""scripts/ledger-oracle: servers, arguments, the verdict."""

import argparse
import os
import random
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import ledger_oracle  # noqa: E402
from lib.cluster import Cluster  # noqa: E402
from lib.pipeline import PLUGINS, Pipeline  # noqa: E402


def main():
    parser = argparse.ArgumentParser(prog="scripts/ledger-oracle")
    parser.add_argument("--batches", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--plugin", choices=PLUGINS, default="pgoutput")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="tailwater-oracle-", dir=os.environ.get("TAILWATER_TEST_TMP", "/tmp"))
    os.chmod(folder, 0o755)
    clusters = [Cluster(os.path.join(folder, side)) for side in ("source", "mirror")]
    pipeline = None
    try:
        for cluster in clusters:
            cluster.create().start().make_roles()
        source, mirror = clusters[0].create_source("shop"), clusters[1].create_mirror("reports")

        def make(**keys):
            nonlocal pipeline
            pipeline = Pipeline(folder, source, mirror, plugin=arguments.plugin, **keys)
            return pipeline

        print(f"seed {arguments.seed}", flush=True)
        ledger_oracle.run(make, source, arguments.batches, arguments.seed)
    except AssertionError as failure:
        print(f"seed {arguments.seed}: {failure}")
        return 1
    finally:
        if pipeline is not None:
            pipeline.close()
        for cluster in clusters:
            cluster.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
    return 0


sys.exit(main())
