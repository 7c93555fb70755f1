#!/usr/bin/env python3
"""tests/lint/layers finds what it is there to find."""

import os
import subprocess
import tempfile
import unittest

LAYERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "layers")
GOOD = {
    "include/tailwater/lsn.h": "#ifndef A_H\n#define A_H\n#include <stdint.h>\n#endif\n",
    "plugins/x/x.c": '#include "tailwater/lsn.h"\n#include "own.h"\n#include <string.h>\n',
    "plugins/x/own.h": "#ifndef B_H\n#define B_H\n#endif\n",
    "src/pg/pg.c": '#include "base/buf.h"\n#include <libpq-fe.h>\nint pg_open;\nint pg;\n',
    "src/pg/pg_copy.c": "int pg_copy_in;\nstatic int other;\nint *copy(void);\n",
    "src/engine/run.c": '#include "pg/pg.h"\n#include "tailwater/lsn.h"\n',
}


class Layers(unittest.TestCase):
    def violations(self, changes):
        with tempfile.TemporaryDirectory() as root:
            objects = []
            for path, text in {**GOOD, **changes}.items():
                os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as stream:
                    stream.write(text)
                if path.startswith("src/pg/"):
                    member = path[4:].replace("/", "_") + ".o"
                    code = "".join(l for l in text.splitlines(True) if not l.startswith("#"))
                    subprocess.run([*os.environ.get("CC", "cc").split(), "-xc", "-c", "-", "-o",
                                    os.path.join(root, member)], input=code, text=True, check=True)
                    objects.append(member)
            subprocess.run(["ar", "rc", "core.a", *objects], cwd=root, check=True)
            archive = os.path.join(root, "core.a")
            result = subprocess.run([LAYERS, root, archive], stdout=subprocess.PIPE, text=True,
                                    check=False)
            lines = [line.replace(archive, "core.a") for line in result.stdout.splitlines()]
            self.assertEqual(result.returncode, 1 if lines else 0)
            return lines

    def finds(self, path, text, *expected):
        self.assertEqual(self.violations({path: text}), list(expected))

    def test_good(self):
        self.assertEqual(self.violations({}), [])

    def test_folder_below(self):
        self.finds("src/pg/pg.c", 'int pg_x;\n#include "engine/run.h"\n',
                   "src/pg/pg.c:2: includes engine/run.h: engine is below pg")

    def test_unknown_folders(self):
        self.finds("src/pg/pg.c", 'int pg_x;\n#include "nowhere/run.h"\n',
                   "src/pg/pg.c:2: includes nowhere/run.h: nowhere is not in the list of layers")
        self.finds("src/new/x.c", '#include "base/buf.h"\n',
                   "src/new/x.c:1: includes base/buf.h: src/new is not in the list of layers")
        self.finds("src/engine/run.c", ' # include "run.h"\n',
                   "src/engine/run.c:1: includes run.h: write it with its folder")

    def test_libpq(self):
        self.finds("src/engine/run.c", "\n#include <libpq-fe.h>\n",
                   "src/engine/run.c:2: includes libpq-fe.h: only src/pg includes libpq")
        self.finds("src/engine/run.c", '#include "libpq/libpq-fs.h"\n',
                   "src/engine/run.c:1: includes libpq/libpq-fs.h: only src/pg includes libpq")

    def test_plugins(self):
        self.finds("plugins/x/x.c", '#include "base/buf.h"\n',
                   "plugins/x/x.c:1: includes base/buf.h: "
                   "a plugin includes only tailwater/ and its own")
        self.finds("plugins/x/x.c", "#include <pthread.h>\n",
                   "plugins/x/x.c:1: includes pthread.h: not a header of the C library")

    def test_public_headers(self):
        self.finds("include/tailwater/lsn.h", "#ifndef A_H\n#define A_H\n#include \"base/buf.h\"\n",
                   "include/tailwater/lsn.h:3: includes base/buf.h: "
                   "include/tailwater includes only itself")

    def test_guards(self):
        self.finds("src/pg/a.h", "int pg_x(void);\n", "src/pg/a.h: no include guard")
        self.finds("src/pg/a.h", "#ifndef B_H\n#define B_H\n#endif\n",
                   "src/pg/a.h: its include guard B_H is that of plugins/x/own.h too")

    def test_symbols(self):
        self.finds("src/pg/pg.c", "int pgx;\nint pg_x;\n",
                   "src/pg/pg.c: pgx does not begin with the name of its file")
        self.finds("src/pg/pg.c", "static int pgx = 1; int pg_x(void) { return pgx; }\n")


if __name__ == "__main__":
    unittest.main()
