"""Prints "PASSED FAILED SKIPPED" of a report: count.py meson TESTLOG.JSON | junit REPORT.XML"""

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


def main():
    kind, path = sys.argv[1:]
    try:
        counts = {"meson": meson, "junit": junit}[kind](path)
    except (OSError, ValueError, xml.ParseError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        counts = (0, 1, 0)  # a runner that left no report has failed
    print(*counts)


main()
