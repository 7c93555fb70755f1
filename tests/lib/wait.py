"""Tests wait for facts, with a deadline; they never sleep for a while and hope."""

import time


class Deadline(AssertionError):
    """A fact that did not come true in time."""


def until(fact, what, deadline=30.0, every=0.02):
    """Call fact() until it returns something true, and return that.

    what says what was waited for: a string, or a function that makes one (asked only on failure).
    """
    end = time.monotonic() + deadline
    while True:
        value = fact()
        if value:
            return value
        if time.monotonic() > end:
            raise Deadline(f"after {deadline} s: {what() if callable(what) else what}")
        time.sleep(every)
