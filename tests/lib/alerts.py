"""The alert rules of packaging/prometheus, and which of them a scrape would raise.

No Prometheus: comparisons of one sample with a number or another sample are all that most rules are.  promtool
has the last word about the rest (tests/lint/test_alerts.py).
"""

import operator
import os
import re

import yaml

from lib.cluster import ROOT

FILE = os.path.join(ROOT, "packaging", "prometheus", "tailwater.rules.yml")
SELECTOR = re.compile(r"^([a-z_]+)(?:\{(.*)\})?$")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
MATCHES = {"=": operator.eq, "!=": operator.ne, "=~": lambda value, pattern: re.fullmatch(pattern, value),
           "!~": lambda value, pattern: not re.fullmatch(pattern, value)}
COMPARES = {">": operator.gt, "==": operator.eq, "<": operator.lt}


def rules():
    with open(FILE) as file:
        return [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]


def values(samples, text):
    """[(labels, value)] of "4 * name{label="value"}", a name, or a number."""
    factor, _, rest = text.rpartition(" * ")
    factor = float(factor or 1)
    if re.fullmatch(r"[0-9.]+", rest):
        return [({}, factor * float(rest))]
    match = SELECTOR.match(rest)
    matchers = MATCHER.findall(match[2] or "")
    return [(labels, factor * value) for name, labels, value in samples
            if name == match[1] and all(MATCHES[how](labels.get(label, ""), wanted) for label, how, wanted in matchers)]


def raised(samples):
    """{alert: [labels]} of those whose comparison holds; samples: [(name, {label: value}, value)]."""
    found = {}
    for rule in rules():
        if "[" in rule["expr"]:
            continue
        left, compare, right = re.fullmatch(r"(.+) (>|==|<) (.+)", rule["expr"]).groups()
        right = re.sub(r"^ignoring\(\w+\) ", "", right)
        pairs = [(labels, a, b) for labels, a in values(samples, left) for _, b in values(samples, right)]
        holding = [labels for labels, a, b in pairs if COMPARES[compare](a, b)]
        if holding:
            found[rule["alert"]] = holding
    return found
