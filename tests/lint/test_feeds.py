#!/usr/bin/env python3
"""docs/feeds.md names every key that a feed may have, and none that it may not; and the table that takes a cron script apart
speaks of keys and commands that there are."""

import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as stream:
        return stream.read()


def table(page, first):
    """The rows below the one that begins so, as lists of cells."""
    rows = page.split(f"\n{first}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def names(cell):
    """`retry.attempts`, `.first` are two names, the second with the first one's section."""
    found, section = [], ""
    for name in re.findall(r"`(\.?[a-z_]+(?:\.[a-z_]+)?)`", cell):
        name = section + name if name.startswith(".") else name
        section = name.split(".")[0]
        found.append(name)
    return found


def documented(page, first):
    return [name for row in table(page, first) for name in names(row[0])]


def declared(code, prefix):
    return re.findall(rf'\{{{prefix} "([a-z_.]+)"', code)


class ThePage(unittest.TestCase):
    page, code = read("docs", "feeds.md"), read("src", "config", "config.c")

    def test_keys_of_a_feed(self):
        self.assertEqual(sorted(documented(self.page, "| key | default | |")),
                         sorted([*declared(self.code, "FEEDS"), "destination"]))

    def test_keys_of_a_destination(self):
        there = documented(self.page, "| key of `destination` | default | |")
        self.assertEqual(sorted([*there, "command", "table", "stdout"]), sorted(declared(self.code, "DESTINATION")))

    def test_what_becomes_of_a_script(self):
        keys = {name.split(".")[0] for name in declared(self.code, "FEEDS")} | {"destination"}
        words = [word for row in table(self.page, "| in the script | in the feed |") for word in re.findall(r"`([^`]+)`", row[1])]
        self.assertGreater(len(words), 5)
        verbs = read("src", "cli", "verbs.c")
        for word in words:
            if word.startswith("tailwater feed "):
                self.assertIn(f'"  {word.split()[2]} ', verbs)
            else:
                self.assertIn(word, keys)


if __name__ == "__main__":
    sys.exit(unittest.main())
