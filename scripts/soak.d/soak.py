"""The long form of tests/random: see scripts/soak.

Progress goes to standard output, a line every ten seconds; the events of the run, with their steps,
to the file that is named at the start.  At every checkpoint the resident memory and the open files
of the pipelines that are never killed are noted, with everything caught up and nothing to do; the
verdict compares the first of these, after a time to warm up, with the last.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time

import psycopg2

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

import absence  # noqa: E402
from lib.pipeline import PLUGINS  # noqa: E402
from lib.world import Failure, World  # noqa: E402

CHECKPOINT_S = 90
PROGRESS_S = 10
MIN_POINTS = 6
GROWTH = 0.10  # of resident memory, and at least:
GROWTH_KB = 4096
MORE_FILES = 3


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--steps", type=int, help="statements instead of minutes: to repeat a run")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--plugin", choices=PLUGINS, help="both, unless one is named")
    parser.add_argument("--rate", type=float, help="statements a second (80; with --absence: 5)")
    parser.add_argument("--gap", type=float, default=90, help="mean number of statements between two events (90)")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the servers and logs")
    parser.add_argument("--absence", type=float, metavar="MINUTES",
                        help="instead: a feed whose receiver refuses connections for so long, and then comes back")
    args = parser.parse_args()
    if args.rate is None:
        args.rate = 80 if args.absence is None else 5
    return args


class Progress:
    def __init__(self, path):
        self.began = self.said = time.monotonic()
        self.path = path
        self.last = ""

    def event(self, line):
        self.last = line
        with open(self.path, "a") as f:
            f.write(line + "\n")

    def sample(self, world):
        now = time.monotonic()
        if now - self.said < PROGRESS_S:
            return
        self.said = now
        words = []
        for one in world.mirrored:
            if one.pipeline.is_running:
                _, resident, files = one.measure()
                words.append(f"{one.name} batch {one.witness.last[0]} {resident // 1024} MiB {files} files")
            else:
                words.append(f"{one.name} down")
        load = world.workload
        print(f"{now - self.began:6.0f} s  step {world.step}/{world.steps}  {load.transactions} transactions, "
              f"{load.failed} failed statements, {len(world.events)} events, {world.checkpoints} checkpoints\n"
              f"          {'; '.join(words)}", flush=True)


def judge(one):
    """The verdict on a series: (text, is fine)."""
    pids = [pid for _, pid, _, _ in one.series]
    pid = max(set(pids), key=pids.count) if pids else None
    points = [(resident, files) for _, p, resident, files in one.series if p == pid]
    if len(points) < MIN_POINTS:
        return f"{one.name}: {len(points)} checkpoints are too few to judge its memory", True
    points = points[max(2, len(points) // 5):]
    half = len(points) // 2
    first, last = (statistics.median(r for r, _ in part) for part in (points[:half], points[-half:]))
    fine_memory = last - first <= max(GROWTH * first, GROWTH_KB)
    fine_files = points[-1][1] - points[0][1] <= MORE_FILES
    return (f"{one.name}: resident {first / 1024:.1f} → {last / 1024:.1f} MiB{'' if fine_memory else ' DRIFT'}, "
            f"files {points[0][1]} → {points[-1][1]}{'' if fine_files else ' DRIFT'} "
            f"over {len(points)} checkpoints; MiB: {' '.join(str(r // 1024) for r, _ in points)}",
            fine_memory and fine_files)


def make_folder():
    folder = tempfile.mkdtemp(prefix="tailwater-soak-", dir=os.environ.get("TAILWATER_TEST_TMP", "/tmp"))
    os.chmod(folder, 0o755)
    return folder


def soak_absence(args):
    folder, plugin = make_folder(), args.plugin or PLUGINS[0]
    print(f"seed {args.seed}, {plugin}, {args.rate:g} changes a second; everything is in {folder}", flush=True)
    try:
        wrong = absence.run(folder, args.absence, args.rate, args.seed, plugin)
    except (AssertionError, RuntimeError, psycopg2.Error) as error:
        wrong = [str(error)]
    for one in wrong[:20]:
        print(f"FAILED: {one}")
    if wrong:
        print(f"{len(wrong)} things are wrong; kept: {folder}")
        return 1
    print("passed: nothing lost, in order, and nothing grew but with the changes")
    if not args.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def main():
    args = arguments()
    if args.absence is not None:
        return soak_absence(args)
    steps = args.steps or int(args.minutes * 60 * args.rate)
    plugins = [args.plugin] if args.plugin else PLUGINS
    folder = make_folder()
    repeat = f"scripts/soak --seed {args.seed} --steps {steps} --rate {args.rate:g} --gap {args.gap:g}" + (
        f" --plugin {args.plugin}" if args.plugin else "")
    progress = Progress(os.path.join(folder, "events"))
    print(f"seed {args.seed}, {steps} steps; events are in {folder}/events; repeat: {repeat}", flush=True)
    world = World(folder, args.seed, steps, rate=args.rate, gap=args.gap, say=progress.event, repeat=repeat,
                  kinds=[(plugin, is_steady) for is_steady in (False, True) for plugin in plugins])
    failure = None
    try:
        world.create().run(checkpoint_every=int(CHECKPOINT_S * args.rate), sample=progress.sample)
    except Failure as error:
        failure = str(error)
    finally:
        world.destroy()
    print("\n".join(world.notes))
    is_fine = failure is None
    for one in world.mirrored:
        if one.is_steady:
            text, is_flat = judge(one)
            is_fine = is_fine and is_flat
            print(text)
    load = world.workload
    print(f"{load.steps} steps, {load.statements} statements, {load.transactions} transactions, "
          f"{len(world.events)} events, {world.checkpoints} checkpoints")
    if failure:
        print(f"FAILED: {failure}\nkept: {folder}")
    elif not is_fine:
        print(f"FAILED: memory or files drift\nkept: {folder}")
    else:
        print("passed: equal to the byte at every checkpoint, nothing left behind")
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
