"""What scripts/package puts into the package: units that start the program, manual pages, an example with every key."""

import glob
import gzip
import os
import re
import shlex
import socket
import subprocess

import pytest

from lib import wait
from lib.cluster import ROOT
from lib.pipeline import BINARY, USAGE

UNITS = os.path.join(ROOT, "packaging")


def keys_of_the_table():
    """The last parts of the paths in the table of keys, and the sections above them."""
    with open(os.path.join(ROOT, "src", "config", "config.c")) as file:
        text = file.read()
    rows = re.findall(r'^    \{(?:[A-Z]+ )?"([a-z_.]+)", value_read', text, re.M)
    assert len(rows) > 80
    return {part for row in rows for part in row.split(".") if part != "name"}


def example():
    with open(os.path.join(UNITS, "tailwater.yaml")) as file:
        return file.read()


def test_the_example_has_every_key(folder):
    """As it stands it is a configuration; with everything uncommented it is one too."""
    text = example()
    there = set(re.findall(r"([a-z_]+):", text))
    assert keys_of_the_table() <= there | {"bearer_file", "basic", "command", "table", "stdout"}
    short = re.sub(r"(?m)^#.*\n", "", text)
    # The long forms take the place of the three lines.
    long = re.sub(r"(?m)^(source|mirror|tables): .*\n", "", text)
    long = re.sub(r"(?m)^##.*\n", "", long)
    long = re.sub(r"(?m)^#", "", long)
    for name, content in (("short", short), ("long", long)):
        path = os.path.join(folder, f"{name}.yaml")
        with open(path, "w") as file:
            file.write(content)
        env = dict(os.environ, TAILWATER_SOURCE_PASSWORD="x", TAILWATER_MIRROR_PASSWORD="x", CRM_TOKEN="x", CRM_SECRET="x",
                   TAILWATER_TOKEN="x")
        done = subprocess.run([BINARY, "-c", path, "ledger", "nothing"], capture_output=True, text=True, timeout=30, env=env)
        assert done.returncode == USAGE and "nothing" in done.stderr and ".yaml:" not in done.stderr, done.stderr
        assert subprocess.run([BINARY, "-c", path, "feed", "nothing", "--dry-run", "1"], capture_output=True, text=True,
                              timeout=30, env=env).stderr.find(".yaml:") == -1


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package's files, unpacked."""
    tree = tmp_path_factory.mktemp("package")
    subprocess.run(["/usr/bin/python3", os.path.join(ROOT, "scripts", "lib", "manual.py"), BINARY, tree, "1.2"], check=True)
    return tree


def test_manual_pages(package):
    """One for each verb, of which man has nothing to complain."""
    names = sorted(os.path.basename(path) for path in glob.glob(f"{package}/usr/share/man/man1/*"))
    verbs = re.findall(r"^  ([a-z]+) +\S", subprocess.run([BINARY, "help"], capture_output=True, text=True, check=True).stdout, re.M)
    assert names == sorted(["tailwater.1.gz"] + [f"tailwater-{verb}.1.gz" for verb in verbs])
    with gzip.open(f"{package}/usr/share/man/man1/tailwater-resync.1.gz", "rt") as file:
        page = file.read()
    assert "\\-\\-dry\\-run" in page and ".TH TAILWATER\\-RESYNC" in page
    assert all(not line.startswith("'") for line in page.splitlines())


def test_completion(package):
    """Verbs first, then the options of the verb."""
    script = f"{package}/usr/share/bash-completion/completions/tailwater"

    def complete(*words):
        quoted = " ".join(shlex.quote(word) for word in words)
        done = subprocess.run(["bash", "-c", f"source {shlex.quote(script)}; COMP_WORDS=({quoted}); "
                               f"COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _tailwater; echo \"${{COMPREPLY[@]}}\""],
                              capture_output=True, text=True, check=True)
        return done.stdout.split()
    assert complete("tailwater", "re") == ["resync", "refresh"]
    assert sorted(complete("tailwater", "-c", "x.yaml", "status", "--")) == ["--config", "--help", "--json", "--listen", "--watch"]
    assert complete("tailwater", "purge", "--dry") == ["--dry-run"]


def test_alert_rules(folder):
    """promtool takes the rules, and their tests raise what they should."""
    tools = os.path.join(os.path.dirname(BINARY), "promtool")
    made = subprocess.run(["bash", os.path.join(ROOT, "scripts", "lib", "promtool.sh"), tools], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(made.stdout.strip() or made.stderr.strip())
    for verb, name in (("check", "rules"), ("test", "test")):
        done = subprocess.run([os.path.join(tools, "promtool"), verb, "rules", f"{UNITS}/prometheus/tailwater.{name}.yml"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


def first_screen():
    """The commands that the README begins with: of the package, the configuration in its three lines, those after it."""
    with open(os.path.join(ROOT, "README.md")) as file:
        text = "".join(file.readlines()[:60])
    found = re.search(r"^    (scripts/package && apt install .*)\n\n    cat > (\S+) <<'END'\n((?:    .*\n)+?)    END\n\n((?:    .*\n)+)",
                      text, re.M)
    assert found, text
    package, path, lines, after = found.groups()
    return package, path, [line[4:] for line in lines.splitlines()], [line.strip() for line in after.splitlines()]


def test_the_first_screen(source, make_pipeline):
    """Three lines as the README has them, and systemctl start's stand-in mirrors a database."""
    package, path, lines, (start, status) = first_screen()
    assert package.endswith("./build-package/tailwater_*.deb")
    assert len(lines) == 3 and (start, status) == ("systemctl start tailwater@main", f"tailwater status -c {path}")
    with open(os.path.join(UNITS, "tailwater@.service")) as file:
        command = re.search(r"^ExecStart=(.*)$", file.read(), re.M)[1].replace("%i", "main")
    assert path in command
    source.sql("create table t (id int primary key); insert into t select generate_series(1, 100)")
    pipeline = make_pipeline(name="main", plugin="wal2json")
    for key, database in (("source", pipeline.source), ("mirror", pipeline.mirror)):
        number = next(i for i, line in enumerate(lines) if line.startswith(key))
        lines[number] = re.sub('"[^"]*"', lambda _, d=database: f'"{d.conninfo()}"', lines[number])
    pipeline.write_config("\n".join(lines) + "\n")
    with open(pipeline.log_file, "a") as log:
        process = subprocess.Popen(shlex.split(command.replace("/usr/bin/tailwater", BINARY).replace(path, pipeline.file)),
                                   stderr=log, stdin=subprocess.DEVNULL, env=pipeline.environment())
    try:
        wait.until(lambda: "streaming, up to date" in pipeline.verb(*status.split()[1:2]).out, pipeline.log_tail)
        source.sql("insert into t values (101)")
        wait.until(lambda: pipeline.mirror.value("select count(*) from t") == 101, pipeline.log_tail)
    finally:
        process.terminate()
        assert process.wait(30) == 0
    pipeline.settle_stopped()


def test_the_unit_starts_it(source, make_pipeline, folder):
    """A stand-in for systemd takes the unit's own lines: started when it says READY, restarted after a crash."""
    with open(os.path.join(UNITS, "tailwater@.service")) as file:
        unit = file.read()
    start = re.search(r"^ExecStart=(.*)$", unit, re.M)[1]
    kept_down = {int(code) for code in re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.M)[1].split()}
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline().publish()
    command = shlex.split(start.replace("/usr/bin/tailwater", BINARY).replace("/etc/tailwater/%i.yaml", pipeline.file))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(os.path.join(folder, "notify"))
    listener.settimeout(60)

    def started():
        with open(pipeline.log_file, "a") as log:
            process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL,
                                       env=pipeline.environment({"NOTIFY_SOCKET": os.path.join(folder, "notify")}))
        while listener.recv(4096) != b"READY=1":
            pass
        return process
    process = started()
    wait.until(lambda: pipeline.mirror.value(
        "select to_regclass('public.t') is not null"), pipeline.log_tail)
    process.kill()
    assert process.wait() not in kept_down
    process = started()
    source.sql("insert into t values (2)")
    wait.until(lambda: pipeline.mirror.value("select count(*) from t") == 2, pipeline.log_tail)
    process.terminate()
    assert process.wait(30) == 0
    # What a person has to look at is not restarted.
    pipeline.write_config("source: {conninfo: x\n")
    assert subprocess.run(command, capture_output=True, timeout=30).returncode in kept_down
    pipeline.write_config()
    pipeline.settle_stopped()
