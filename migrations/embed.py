#!/usr/bin/env python3
"""Write the migrations given as arguments into a C file: migrations/embed.py OUTPUT NNNN_name.sql…

Called by the build.  Refuses numbers that are not 1, 2, 3… and a migration in the folder that the build does not list,
so that none is forgotten.  The hash is SHA-256 of the file's bytes: editing a migration that was ever released shows
up as an error on every database it was applied to.
"""
import hashlib
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts" / "lib"))
from c_string import c_string  # noqa: E402


def main():
    output, *names = sys.argv[1:]
    files = sorted(pathlib.Path(name) for name in names)
    on_disk = sorted(path.name for path in files[0].parent.glob("*.sql"))
    if on_disk != [path.name for path in files]:
        sys.exit(f"migrations/ holds {on_disk}, the build lists {[path.name for path in files]}")
    parts = ['#include "mirror/migrations.h"\n\n', "const struct migration migrations[] = {\n"]
    for number, path in enumerate(files, 1):
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", path.name)
        if not match or int(match[1]) != number:
            sys.exit(f"{path.name}: expected {number:04d}_name.sql")
        data = path.read_bytes()
        parts.append(f'    {{{number}, "{match[2]}", "{hashlib.sha256(data).hexdigest()}",\n')
        for line in data.decode().splitlines(keepends=True):
            parts.append(f"     {c_string(line)}\n")
        parts.append("    },\n")
    parts.append(f"}};\n\nconst int migrations_count = {len(files)};\n")
    pathlib.Path(output).write_text("".join(parts))


main()
