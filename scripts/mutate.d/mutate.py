"""Deliberate defects and the tests that have to notice them.

A mutation is a patch in tests/mutations that begins with

    Breaks: what is wrong in a program with this patch
    Caught by: a pytest id (tests/e2e/test_x.py::test_y), or unit:test_batch.name_of_the_test

Caught by may be there several times: each of them has to fail.  Without the patch they must pass:
that is tried first, once for each.

Everything happens in a copy of the tree with one build folder, so that a mutation costs one file
compiled, one program linked, and its tests.
"""

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "tests", "mutations")
BUILD = "build-mutate"


class Mutation:
    def __init__(self, path):
        self.path = path
        self.name = os.path.splitext(os.path.basename(path))[0]
        with open(path, encoding="utf-8") as f:
            head = f.read().partition("\n--- ")[0]
        breaks = re.search(r"^Breaks: (.+)$", head, re.M)
        self.breaks = breaks[1] if breaks else ""
        self.tests = re.findall(r"^Caught by: (.+)$", head, re.M)

    def problems(self):
        if not self.breaks:
            yield "no line “Breaks: …”"
        if not self.tests:
            yield "no line “Caught by: …”"
        for test in self.tests:
            if not exists(test):
                yield f"there is no test {test}"


def exists(test):
    """Is there a test of that name?"""
    if test.startswith("unit:"):
        program, _, function = test[5:].partition(".")
        path, wanted = os.path.join(ROOT, "tests", "unit", program + ".c"), f"cmocka_unit_test({function})"
    else:
        path, _, function = test.partition("::")
        path, wanted = os.path.join(ROOT, path), f"def {function.partition('[')[0]}("
    try:
        with open(path, encoding="utf-8") as f:
            return wanted in f.read()
    except FileNotFoundError:
        return False


def mutations(only=None):
    found = [Mutation(path) for path in sorted(glob.glob(os.path.join(FOLDER, "*.patch")))]
    if only is not None:
        unknown = set(only) - {m.name for m in found}
        if unknown:
            sys.exit(f"no such mutation: {', '.join(sorted(unknown))}")
        found = [m for m in found if m.name in only]
    return found


def run(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False, **more)


def patch(tree, mutation, *options):
    return run(["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", *options, "-d", tree, "-i",
                mutation.path])


def check(found):
    """Every patch applies to the tree as it is, and names tests that exist: the quick check."""
    bad = 0
    for mutation in found:
        problems = list(mutation.problems())
        applied = patch(ROOT, mutation, "--dry-run")
        if applied.returncode != 0:
            problems.append(f"does not apply: make it anew\n{applied.stdout}")
        for problem in problems:
            bad += 1
            print(f"{mutation.name}: {problem}")
    return bad


class Workshop:
    """The copy."""

    def __init__(self, found):
        self.found = found
        self.folder = tempfile.mkdtemp(prefix="tw-mutate-", dir=os.environ.get("TAILWATER_TEST_TMP", "/tmp"))
        os.chmod(self.folder, 0o755)
        self.tree = os.path.join(self.folder, "tree")
        self.build = os.path.join(self.tree, BUILD)
        self.scratch = os.path.join(self.folder, "t")
        os.makedirs(self.scratch)
        os.chmod(self.scratch, 0o755)
        files = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
        for name in files.split("\0"):
            if name and os.path.exists(os.path.join(ROOT, name)):
                os.makedirs(os.path.dirname(os.path.join(self.tree, name)), exist_ok=True)
                shutil.copy2(os.path.join(ROOT, name), os.path.join(self.tree, name))

    def setup(self):
        done = run(["meson", "setup", self.build, self.tree])
        return done.stdout if done.returncode else self.compile()

    def programs(self):
        """Built besides the program itself: what tests run."""
        units = {t[5:].partition(".")[0] for m in self.found for t in m.tests if t.startswith("unit:")}
        return [f"tests/unit/{name}" for name in sorted(units)] + [
            f"tests/integration/{name}_tool" for name in ("sync", "mirror", "catalog")]

    def compile(self):
        """What went wrong; "" if it is built."""
        done = run(["ninja", "-C", self.build, "tailwater", *self.programs()])
        return done.stdout[-3000:] if done.returncode else ""

    def failing(self, tests):
        """Those of these tests that fail, and the text of the runs."""
        failed, said = set(), []
        for test in [t for t in tests if t.startswith("unit:")]:
            program, _, function = test[5:].partition(".")
            done = run([os.path.join(self.build, "tests", "unit", program)], cwd=self.tree, timeout=120)
            said.append(done.stdout[-2000:])
            if re.search(rf"\[  FAILED  \] {function}$", done.stdout, re.M):
                failed.add(test)
            elif not re.search(rf"\[       OK \] {function}$", done.stdout, re.M) and done.returncode != 0:
                failed.add(test)  # it did not even come to an end
        others = [t for t in tests if not t.startswith("unit:")]
        if others:
            report = os.path.join(self.folder, "report.xml")
            env = {**os.environ, "TAILWATER": os.path.join(self.build, "tailwater"), "TAILWATER_TEST_TMP": self.scratch}
            done = run([sys.executable, "-m", "pytest", "-q", "-c", "tests/pytest.ini", "-p", "no:cacheprovider",
                        "--timeout=120", f"--junitxml={report}", *others], cwd=self.tree, env=env)
            said.append(done.stdout[-3000:])
            if done.returncode not in (0, 1):
                return None, said
            bad = [(case.get("classname"), case.get("name")) for case in xml.parse(report).getroot().iter("testcase")
                   if case.find("failure") is not None or case.find("error") is not None]
            for test in others:
                path, _, name = test.partition("::")
                module = path[:-3].replace("/", ".")
                if any(module.endswith(c) and (n == name or n.partition("[")[0] == name) for c, n in bad):
                    failed.add(test)
            shutil.rmtree(self.scratch)
            os.makedirs(self.scratch)
            os.chmod(self.scratch, 0o755)
        return failed, said

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def try_one(workshop, mutation):
    """(verdict, details): caught, missed, or what kept us from knowing."""
    applied = patch(workshop.tree, mutation)
    if applied.returncode != 0:
        return "does not apply", applied.stdout
    try:
        wrong = workshop.compile()
        if wrong:
            return "does not build", wrong
        failed, said = workshop.failing(mutation.tests)
        if failed is None:
            return "tests do not run", "\n".join(said)
        missed = [t for t in mutation.tests if t not in failed]
        return ("missed", "passed all the same: " + ", ".join(missed)) if missed else ("caught", "")
    finally:
        patch(workshop.tree, mutation, "--reverse")


def main():
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--check", action="store_true", help="do all patches apply, do all tests exist? nothing is built")
    parser.add_argument("--no-baseline", action="store_true", help="trust that the tests pass without a defect")
    args = parser.parse_args()
    found = mutations(args.only.split(",") if args.only else None)
    if args.list:
        for mutation in found:
            print(f"{mutation.name}: {mutation.breaks}")
            for test in mutation.tests:
                print(f"    {test}")
        return 0
    bad = check(found)
    if args.check or bad:
        print(f"{len(found)} mutations, {bad} problems")
        return 1 if bad else 0
    began = time.monotonic()
    workshop = Workshop(found)
    results = []
    try:
        wrong = workshop.setup()
        if wrong:
            print(wrong)
            return 1
        if not args.no_baseline:
            tests = sorted({t for m in found for t in m.tests})
            failed, said = workshop.failing(tests)
            if failed is None or failed:
                print("\n".join(said))
                print(f"without any defect: {', '.join(sorted(failed or ['tests do not run']))}")
                return 1
            print(f"{len(tests)} tests pass without a defect, {time.monotonic() - began:.0f} s", flush=True)
        for mutation in found:
            start = time.monotonic()
            verdict, details = try_one(workshop, mutation)
            results.append(verdict)
            print(f"{verdict:16} {mutation.name:32} {time.monotonic() - start:4.0f} s  {mutation.breaks}", flush=True)
            if details:
                print("    " + details.strip().replace("\n", "\n    "), flush=True)
    finally:
        workshop.close()
    caught = results.count("caught")
    print(f"{caught} of {len(results)} caught, {time.monotonic() - began:.0f} s")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
