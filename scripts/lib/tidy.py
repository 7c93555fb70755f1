"""clang-tidy over the C files of a build, one file a process, nothing twice.

    tidy.py BUILD [FILE]...

A file that was clean is not looked at again before it, a header that it includes, its compiler
options, the rules or clang-tidy itself change: BUILD/tidy holds an empty file for each such state.
Exit code 1 if anything was found.
"""

import concurrent.futures
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys

TIDY = shutil.which("clang-tidy-14") or "clang-tidy"
FOLDERS = ("plugins", "src", "tests")


def commands(build, root):
    """The compiler's command by path relative to root; of a file that is in several targets the first."""
    found = {}
    with open(os.path.join(build, "compile_commands.json")) as database:
        for entry in json.load(database):
            path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
            if path.split(os.sep)[0] in FOLDERS:
                found.setdefault(path, (entry["directory"], shlex.split(entry["command"])))
    return found


def included(directory, command):
    """The files that a compilation reads, from the compiler itself, which ccache may stand before."""
    words, skip = [], False
    for word in command:
        if skip or word in ("-MD", "-c"):
            skip = False
        elif word in ("-o", "-MF", "-MQ"):
            skip = True
        else:
            words.append(word)
    out = subprocess.run([*words, "-MM"], cwd=directory, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [os.path.join(directory, name) for name in out.replace("\\\n", " ").split(":", 1)[1].split()]


def state(root, directory, command, version):
    """What decides the outcome, as one word."""
    digest = hashlib.sha256(version + repr(command).encode())
    rules = [os.path.join(root, ".clang-tidy"), os.path.join(root, "tests", ".clang-tidy")]
    for name in rules + sorted(included(directory, command)):
        with open(name, "rb") as file:
            digest.update(os.path.relpath(name, root).encode() + b"\0" + file.read())
    return digest.hexdigest()


def look_at(path, build, root, directory, command, version, clean):
    """(path, what was found or None)."""
    stamp = os.path.join(clean, state(root, directory, command, version))
    if os.path.exists(stamp):
        return path, None
    done = subprocess.run([TIDY, "-p", build, "--quiet", path], cwd=root, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        return path, done.stdout
    with open(stamp, "w"):
        pass
    return path, None


def main():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    build = os.path.abspath(sys.argv[1])
    clean = os.path.join(build, "tidy")
    version = subprocess.run([TIDY, "--version"], stdout=subprocess.PIPE, check=True).stdout
    known = commands(build, root)
    paths = [os.path.relpath(path, root) for path in sys.argv[2:]] or sorted(known)
    unknown = [path for path in paths if path not in known]
    failed = len(unknown)

    for path in unknown:
        print("%s: no target of %s compiles it" % (path, sys.argv[1]))
    os.makedirs(clean, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(look_at, path, build, root, *known[path], version, clean)
                for path in paths if path in known]
        for job in concurrent.futures.as_completed(jobs):
            path, found = job.result()
            if found is not None:
                failed += 1
                print(found, flush=True)
    print("clang-tidy: %d files, %s" % (len(jobs), "%d with findings" % failed if failed else "clean"))
    sys.exit(failed > 0)


main()
