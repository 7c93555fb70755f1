"""The binary as a person meets it first: help, init, usage errors.  No server is needed."""

import json
import os
import subprocess

import pytest

from lib.pipeline import BINARY

SOURCE = "host=prod dbname=shop user=tailwater"
MIRROR = "host=dwh dbname=reports user=tailwater"


def tailwater(*args, stdout=subprocess.PIPE, **environment):
    return subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=30,
                          env={**os.environ, **environment}, check=False)


def listed_verbs():
    lines = tailwater("help").stdout.split("Verbs:\n")[1].split("\n\n")[0].splitlines()
    return [line.split()[0] for line in lines]


def test_help_lists_the_verbs():
    result = tailwater("help")
    assert (result.returncode, result.stderr) == (0, "")
    assert {"init", "version", "help"} <= set(listed_verbs())
    assert tailwater("--help").stdout == result.stdout


def test_each_verb_explains_itself_with_an_example_first():
    for verb in listed_verbs():
        result = tailwater("help", verb)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(f"    tailwater {verb}")
        assert "--help" in result.stdout
        assert tailwater(verb, "--help").stdout == result.stdout
        assert tailwater("--help", verb).stdout == result.stdout


def test_what_is_no_verb():
    for verb in ("http", "lineages"):
        result = tailwater(verb)
        assert (result.returncode, result.stdout) == (2, "")
        assert f'unknown verb "{verb}"' in result.stderr


def test_version():
    text, as_json = tailwater("version"), tailwater("version", "--json")
    assert (text.returncode, as_json.returncode) == (0, 0)
    assert json.loads(as_json.stdout)["version"] in text.stdout
    assert tailwater("--version").stdout == text.stdout


@pytest.mark.parametrize("args, message", [
    ((), "tailwater: no verb given\n"),
    (("verison",), 'tailwater: unknown verb "verison"; did you mean "version"?\n'),
    (("version", "--jsn"), "tailwater: version: unknown option --jsn; did you mean --json?\n"),
    (("help", "nothing"), 'tailwater: unknown verb "nothing"\n'),
    (("init",), "tailwater: init needs --source and --mirror\n"),
    (("init", "--source", "x", "--mirror", "y"), "tailwater: option --source: "),
])
def test_usage_errors_exit_2_and_say_what_to_run(args, message):
    result = tailwater(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 2


NEEDS_CONFIG = ("check", "run", "status", "purge", "destroy")


@pytest.mark.parametrize("verb", NEEDS_CONFIG)
def test_a_configuration_that_is_not_there(verb, folder):
    path = os.path.join(folder, "t.yaml")
    result = tailwater(verb, "-c", path)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"cannot open {path}: No such file or directory" in result.stderr
    assert "tailwater init" in result.stderr


@pytest.mark.parametrize("text, message", [
    ("source:\n  coninfo: host=a\n",
     ':2:3: unknown key "coninfo" in source; did you mean "conninfo"?'),
    ("apply:\n  max_bytes: 64mb\n", ':2:14: apply.max_bytes: unknown unit "mb"; did you mean "MB"?'),
    ("source: {conninfo: host=a}\nmirror: {conninfo: host=b}\n", ":1:1: tables is missing"),
    ("source:\n  conninfo: host=a hunter2 password=hunter2\nmirror: {conninfo: host=b}\n"
     "tables: [public.*]\n",
     ":2:13: source.conninfo: not a connection string that libpq can read"),
    ("source: {conninfo: 'postgresql://u:hunter2'}\nmirror: {conninfo: host=b}\ntables: [public.*]\n",
     ":1:20: source.conninfo: not a connection string that libpq can read"),
    ("source: {conninfo: 'postgresql://u:12/hunter2@h/db'}\nmirror: {conninfo: host=b}\n"
     "tables: [public.*]\n",
     ":1:20: source.conninfo: not a connection string that libpq can read"),
    ("source: {conninfo: 'postgresql://u:p@hunter2@h/db'}\nmirror: {conninfo: host=b}\n"
     "tables: [public.*]\n",
     ":1:20: source.conninfo: not a connection string that libpq can read"),
    ("source: {conninfo: host=a}\nmirror: {conninfo: host=b}\n"
     f"tables: [{{name: public.t, mask: {{{'x' * 64}: hash}}}}]\n", "longer than PostgreSQL's 63 bytes"),
    ("source: {conninfo: host=a}\nmirror: {conninfo: hst=b}\ntables: [public.*]\n",
     ':2:20: mirror.conninfo: not a connection string that libpq can read: '
     'invalid connection option "hst"'),
    ("source: {conninfo: 'password=${TAILWATER_NOT_SET}'}\n",
     ":1:20: source.conninfo: the environment variable TAILWATER_NOT_SET is not set"),
])
@pytest.mark.parametrize("verb", NEEDS_CONFIG)
def test_a_configuration_that_is_wrong(verb, text, message, folder):
    path = os.path.join(folder, "t.yaml")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    result = tailwater("-c", path, verb)
    assert (result.returncode, result.stdout) == (2, "")
    assert path + message in result.stderr or not message.startswith(":") and message in result.stderr
    assert "hunter" not in result.stderr


def test_init_writes_a_configuration_and_says_what_is_next():
    result = tailwater("init", "--source", SOURCE, "--mirror", MIRROR)
    assert result.returncode == 0
    assert f'conninfo: "{SOURCE}"' in result.stdout
    assert f'conninfo: "{MIRROR}"' in result.stdout
    assert "tailwater check" in result.stderr
    assert "export" not in result.stderr


def test_init_writes_no_password():
    result = tailwater("init", "--source", SOURCE + " password='hunter 2'",
                       "--mirror", "postgresql://u:hunt%65r3@dwh/reports?password=hunter4")
    assert result.returncode == 0
    assert "hunter" not in result.stdout + result.stderr
    assert "password=${TAILWATER_SOURCE_PASSWORD}" in result.stdout
    assert "password=${TAILWATER_MIRROR_PASSWORD}" in result.stdout
    assert "export TAILWATER_SOURCE_PASSWORD=" in result.stderr
    assert "export TAILWATER_MIRROR_PASSWORD=" in result.stderr


def test_output_that_does_not_arrive_is_a_failure():
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = tailwater("init", "--source", SOURCE, "--mirror", MIRROR, stdout=full)
    assert result.returncode == 1
    assert "cannot write to standard output: No space left on device" in result.stderr
