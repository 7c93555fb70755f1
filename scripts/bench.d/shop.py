"""A source of orders and a mirror of it, for the measurements that are about facts."""

import os
import time

import contenders
from lib.pipeline import Pipeline


def make_source(bench, name, schema, fill, orders, say):
    """fill(source, orders) makes the rows."""
    say(f"{name}: {orders} orders")
    bench.new_source(f"shop_{name}", schema)
    fill(bench.source, orders)
    bench.source.sql("vacuum analyze", user=contenders.SUPERUSER)


class Side:
    """A pipeline into a mirror of its own, copied and caught up."""

    def __init__(self, bench, name, facts, **keys):
        self.name, self.source = name, bench.source
        self.database = bench.mirror_cluster.create_mirror(f"live_{name}")
        if facts:
            keys["facts"] = facts
        self.pipeline = Pipeline(os.path.join(bench.folder, name), bench.source, self.database, f"bench_{name}",
                                 plugin="pgoutput", binary=bench.binary, **keys)
        self.pipeline.publish()
        self.pipeline.run_until_now(timeout=1800)
        self.database.sql("vacuum analyze", user=contenders.SUPERUSER)

    def catch_up(self, sentinel):
        """Seconds until the row of the table done is there."""
        start = time.monotonic()
        self.pipeline.start()
        contenders.until_done(self.database, sentinel)
        took = time.monotonic() - start
        self.pipeline.stop()
        return took
