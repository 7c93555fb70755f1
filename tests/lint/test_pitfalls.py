#!/usr/bin/env python3
"""docs/pitfalls.md has every pitfall P1 to P73 once, with a state and tests that exist and carry its number.

Its tables are rows of `| P1 | what goes wrong | what happens here | state | tests |`.
"""

import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STATES = {"handled", "refused", "limit", "not yet"}
UNTESTED = {"not yet"}  # says what it waits for; all others name tests
LAST = 73


def rows(text):
    """(number, state, [tests]) of every row of the page's tables."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        match = re.fullmatch(r"P(\d+)", cells[0]) if cells else None
        if match:
            state = cells[3] if len(cells) == 5 else ""
            yield int(match[1]), state, re.findall(r"`(\w+)`", cells[-1])


def functions():
    """name: whether its file shows the number of a pitfall for it, by name or by a parameter's id."""
    found = {}
    for folder, _, names in os.walk(os.path.join(ROOT, "tests")):
        for name in names:
            if name.endswith((".py", ".c")):
                with open(os.path.join(folder, name), encoding="utf-8") as stream:
                    text = stream.read()
                for function in re.findall(r"^def (test_\w+)\(", text, re.M):
                    found.setdefault(function, "")
                    found[function] += " ".join(re.findall(r'["\'](p\d\d)[ "\']', text)) + " "
                for function in re.findall(r"^static void (\w+)\(", text, re.M):
                    found.setdefault(function, "")
    return found


def problems(text):
    known, seen = functions(), {}
    for number, state, tests in rows(text):
        label = f"P{number}"
        seen[number] = seen.get(number, 0) + 1
        if state not in STATES:
            yield f"{label}: its state is '{state}', none of {', '.join(sorted(STATES))}"
        if not tests and state not in UNTESTED:
            yield f"{label}: {state}, and no test is named"
        for test in tests:
            if test not in known:
                yield f"{label}: there is no test {test}"
            elif not re.search(rf"(?i)(^|_)p{number:02d}(_|$)", test) and f"p{number:02d} " not in known[test]:
                yield f"{label}: pytest -k p{number:02d} does not find {test}"
    for number in range(1, LAST + 1):
        if seen.get(number) != 1:
            yield f"P{number}: {seen.get(number, 0)} rows of the page are of it"


class Page(unittest.TestCase):
    def test_every_pitfall(self):
        with open(os.path.join(ROOT, "docs", "pitfalls.md"), encoding="utf-8") as stream:
            self.assertEqual(list(problems(stream.read())), [])

    def test_what_it_finds(self):
        def of(row):
            return next(problems(row), None)

        good = "| P72 | wrong | here | handled | `test_p72_equal_keys_of_different_bytes` |"
        self.assertTrue(of(good).startswith("P1: 0 rows"))
        self.assertIn("its state is", of(good.replace("handled", "fine")))
        self.assertIn("there is no test", of(good.replace("_equal", "_unequal")))
        self.assertIn("does not find", of(good.replace("P72", "P71")))
        self.assertIn("no test is named", of("| P72 | wrong | here | handled | |"))
        self.assertIn("P1: 0 rows", of("| P72 | wrong | here | not yet | |"))


if __name__ == "__main__":
    sys.exit(unittest.main())
