"""Commit to visible, while something else goes on: probe.c, as the build makes it."""

import contextlib
import os
import subprocess
import tempfile
import time

from contenders import ROOT
from lib.cluster import SUPERUSER

PROGRAM = os.path.join(ROOT, "build-release", "bench-probe")
WARM = 5  # rows of new connections


@contextlib.contextmanager
def probing(source, mirror, number):
    """Probes for as long as the block runs.  The list given is filled at its end: (number of the row, when its commit
    returned as time.monotonic() has it, milliseconds)."""
    rows = []
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([PROGRAM, source.conninfo(SUPERUSER), mirror.conninfo(SUPERUSER), str(number)],
                                   stdin=subprocess.PIPE, stdout=out, stderr=err)
        try:
            yield rows
        finally:
            process.stdin.close()
            status = process.wait()
        out.seek(0)
        err.seek(0)
        if status:
            raise RuntimeError(err.read())
        for line in out:
            row, committed, took = line.split()
            rows.append((int(row), float(committed), float(took)))
    del rows[:WARM]


def probe(source, mirror, seconds, number):
    """Milliseconds of each row committed in so many seconds, and the last one's number."""
    with probing(source, mirror, number) as rows:
        time.sleep(seconds)
    if not rows:
        raise RuntimeError(f"no row was probed in {seconds} s")
    return [took for _, _, took in rows], rows[-1][0]
