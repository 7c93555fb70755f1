#!/usr/bin/env python3
"""scripts/sanitize names tests that exist: pytest runs none at all if one of them does not."""

import os
import re
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def named():
    """The lists, as the shell reads them."""
    with open(os.path.join(ROOT, "scripts", "sanitize"), encoding="utf-8") as stream:
        lists = re.findall(r"^\w+_tests=\(\n.*?^\)$", stream.read(), re.MULTILINE | re.DOTALL)
    return subprocess.run(["bash", "-c", "\n".join(lists) + '\nprintf "%s\\n" "${thread_tests[@]}" "${valgrind_tests[@]}"'],
                          check=True, stdout=subprocess.PIPE, text=True).stdout.split()


class Sanitize(unittest.TestCase):
    def test_every_test_exists(self):
        tests = named()
        self.assertGreater(len(tests), 50)
        for test in tests:
            path, _, function = test.partition("::")
            with self.subTest(test=test), open(os.path.join(ROOT, path), encoding="utf-8") as stream:
                self.assertRegex(stream.read(), rf"(?m)^def {function}\(" if function else "def test_")


if __name__ == "__main__":
    unittest.main()
