#!/usr/bin/env python3
"""What Prometheus and Grafana are given fits the program: every metric that a rule, a rule's test or the dashboard
names is one of /metrics, every rule has a test, every event that a rule names is explained."""

import json
import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
METRIC = re.compile(r"\btailwater_[a-z0-9_]+\b")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as stream:
        return stream.read()


def without_comments(text):
    return re.sub(r"(?m)^\s*#.*$", "", text)


class TheProject(unittest.TestCase):
    def setUp(self):
        self.families = set(re.findall(r'"(tailwater_[a-z0-9_]+)"', read("src", "http", "metrics.c")))
        self.rules = without_comments(read("packaging", "prometheus", "tailwater.rules.yml"))
        self.tests = without_comments(read("packaging", "prometheus", "tailwater.test.yml"))
        self.dashboard = json.loads(read("packaging", "grafana", "tailwater.json"))

    def test_metrics_are_there(self):
        self.assertGreater(len(self.families), 50)
        expressions = [target["expr"] for panel in self.dashboard["panels"] for target in panel["targets"]]
        self.assertGreater(len(expressions), 25)
        rules = re.findall(r"expr: (.*)", self.rules)
        self.assertGreater(len(rules), 20)
        series = re.findall(r"series: '(.*?)'", self.tests)
        for text in (*expressions, *rules, *series):
            self.assertLessEqual(set(METRIC.findall(text)), self.families, text)

    def test_every_rule_has_a_test(self):
        alerts = re.findall(r"alert: (\w+)", self.rules)
        self.assertEqual(len(alerts), len(set(alerts)))
        self.assertEqual(set(alerts), set(re.findall(r"\bTailwater\w+", self.tests)))

    def test_events_are_explained(self):
        page = read("docs", "operations.md").split("## Log events", 1)[1].split("\n## ", 1)[0]
        explained = set(re.findall(r"`([a-z_]+)`", page))
        for names in re.findall(r'event[=!]~?"([^"]*)"', self.rules):
            for name in names.split("|"):
                self.assertTrue(any(re.fullmatch(name, event) for event in explained), name)

    def test_troubles_are_explained(self):
        """What status lists is an event of the log's page, too."""
        page = read("docs", "operations.md").split("## Log events", 1)[1].split("\n## ", 1)[0]
        for path in sorted(os.listdir(os.path.join(ROOT, "migrations"))):
            text = read("migrations", path)
            if "function tailwater.troubles(" not in text:
                continue
            body = text.split("function tailwater.troubles(", 1)[1].split("$$;", 1)[0]
            for event in re.findall(r"(?m)^    select '([a-z_]+)'", body):
                self.assertIn(f"`{event}`", page)

    def test_panels_do_not_overlap(self):
        taken = set()
        for panel in self.dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(taken & cells, panel["title"])
            self.assertLessEqual(at["x"] + at["w"], 24)
            taken |= cells


if __name__ == "__main__":
    sys.exit(unittest.main())
