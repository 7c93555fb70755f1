#!/usr/bin/env python3
"""Write a text file into a C file as a string: embed.py INPUT OUTPUT NAME HEADER.  Called by the build."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "lib"))
from c_string import c_string  # noqa: E402

source, output, name, header = sys.argv[1:]
lines = pathlib.Path(source).read_text().splitlines(keepends=True)
pathlib.Path(output).write_text(f'#include "{header}"\n\nconst char {name}[] =\n    ' +
                                "\n    ".join(c_string(line) for line in lines) + ";\n")
