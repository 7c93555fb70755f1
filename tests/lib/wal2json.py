"""Servers that load wal2json 2.6 beside their own (scripts/lib/wal2json.sh builds it)."""

import os
import shutil

import pytest

from lib.cluster import ROOT


def newer_wal2json():
    """The folder of a wal2json.so of version 2.6 (scripts/lib/wal2json.sh), or why there is none."""
    named = os.environ.get("TAILWATER_WAL2JSON_26")
    folders = [named] if named else [os.path.join(ROOT, build, "wal2json-2.6")
                                     for build in ("build-test", "build-dev")]
    for folder in folders:
        if os.path.exists(os.path.join(folder, "wal2json.so")):
            return folder, ""
    return None, (os.environ.get("TAILWATER_NO_WAL2JSON_26") or
                  "no wal2json 2.6: scripts/test builds it, or scripts/lib/wal2json.sh FOLDER")


def use_newer_wal2json(source):
    """Skips the test where there is none."""
    built, reason = newer_wal2json()
    if built is None:
        pytest.skip(reason)
    folder = os.path.join(source.cluster.folder, "wal2json-2.6")  # where the server's user can read
    if not os.path.isdir(folder):
        os.mkdir(folder)
        shutil.copy(os.path.join(built, "wal2json.so"), folder)
    source.sql(f"alter database {source.name} set dynamic_library_path = '{folder}:$libdir'",
               user="postgres")


def use_older_wal2json(source):
    source.sql(f"alter database {source.name} reset dynamic_library_path", user="postgres")
