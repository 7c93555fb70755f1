"""Prints "PASSED FAILED SKIPPED" of a report: count.py meson TESTLOG.JSON | junit REPORT.XML

count.py late REPORT.XML prints how many failed, if all of them only waited too long: 0 if one found
something wrong.
"""

import json
import sys
import xml.etree.ElementTree as xml


def meson(path):
    """One JSON object a line, one line a test."""
    passed = failed = skipped = 0
    with open(path) as f:
        for line in f:
            result = json.loads(line)["result"]
            if result in ("OK", "EXPECTEDFAIL"):
                passed += 1
            elif result == "SKIP":
                skipped += 1
            else:
                failed += 1
    return passed, failed, skipped


def junit(path):
    passed = failed = skipped = 0
    for suite in xml.parse(path).getroot().iter("testsuite"):
        total, errors, failures, left_out = (
            int(suite.get(name, 0)) for name in ("tests", "errors", "failures", "skipped"))
        failed += errors + failures
        skipped += left_out
        passed += max(total - errors - failures - left_out, 0)
    return passed, failed, skipped


def late(path):
    """Of a deadline's two exceptions: tests/lib/wait.py's own, and a process' that did not end."""
    failures = [failure.get("message", "") for kind in ("failure", "error")
                for failure in xml.parse(path).getroot().iter(kind)]
    is_late = all(message.startswith(("lib.wait.Deadline", "subprocess.TimeoutExpired"))
                  for message in failures)
    return (len(failures) if is_late else 0,)


def main():
    kind, path = sys.argv[1:]
    try:
        counts = {"meson": meson, "junit": junit, "late": late}[kind](path)
    except (OSError, ValueError, xml.ParseError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        counts = (0,) if kind == "late" else (0, 1, 0)  # a runner that left no report has failed
    print(*counts)


main()
