#!/usr/bin/env python3
"""docs/operations.md explains every event that the program logs, once, and none that it does not.

The page's table under "Log events" has rows of `| event, event | meaning | what to do |`.
"""

import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# log_event(LEVEL, EVENT, …): the level may be an expression, so may the event (a ? "b" : "c").
CALL = re.compile(r"\blog_(?:event|error)\(([^;]*?);", re.S)


def second(arguments):
    """The second of a call's arguments, as it is written."""
    depth, parts = 0, [""]
    for sign in re.sub(r'"(?:[^"\\]|\\.)*"', lambda literal: literal[0].replace(",", "\0"), arguments):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts[1] if len(parts) > 1 else ""


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as stream:
        return stream.read()


def code():
    """Events given as literals, and every other literal that could be one (an event handed on)."""
    events, literals = set(), set()
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        for name in names:
            if name.endswith(".c") and name != "log.c":
                text = read(folder, name)
                literals.update(re.findall(r'"([a-z]+(?:_[a-z]+)*)"', text))
                for call in CALL.findall(text):
                    events.update(re.findall(r'"([a-z_]+)"', second(call)))
    return events, literals


def documented(page):
    # What stands below the table is of status.
    rows = page.split("## Log events", 1)[1].split("\n## ", 1)[0].split("\n`tailwater status`")[0].splitlines()
    return [event for row in rows if row.startswith("| `")
            for event in re.findall(r"`([a-z_]+)`", row.split("|")[1])]


def problems(events, literals, page):
    names = documented(page)
    yield from (f"{event}: logged, and not in docs/operations.md" for event in sorted(events - set(names)))
    yield from (f"{name}: in docs/operations.md, and never logged" for name in sorted(set(names) - literals))
    yield from (f"{name}: {names.count(name)} times in docs/operations.md"
                for name in sorted(set(names)) if names.count(name) > 1)


class TheRule(unittest.TestCase):
    """What it finds, on small examples."""

    PAGE = "## Log events\n\n| event | meaning |\n| --- | --- |\n| `one`, `two` | `x_y` |\n\n## More\n| `other` | |\n"

    def test_agreement(self):
        self.assertEqual(list(problems({"one"}, {"one", "two"}, self.PAGE)), [])

    def test_missing_and_stale(self):
        found = list(problems({"one", "three"}, {"one", "three"}, self.PAGE))
        self.assertEqual([line.split(":")[0] for line in found], ["three", "two"])

    def test_twice(self):
        self.assertEqual(len(list(problems(set(), {"one", "two"}, self.PAGE.replace("two", "one")))), 1)

    def test_which_argument(self):
        call = 'a ? LOG_ERROR : f(LOG_INFO, "no"), b ? "yes" : "yes_too", "text, with \\"a comma", x)'
        self.assertEqual(re.findall(r'"(\w+)"', second(call)), ["yes", "yes_too"])


class TheProject(unittest.TestCase):
    def test_the_page(self):
        events, literals = code()
        self.assertGreater(len(events), 30)
        self.assertEqual(list(problems(events, literals, read("docs", "operations.md"))), [])


if __name__ == "__main__":
    sys.exit(unittest.main())
