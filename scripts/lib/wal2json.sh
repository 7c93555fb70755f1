#!/bin/bash
# wal2json 2.6 for the tests: built from the source package of Debian 13, whose wal2json is the first
# that tells NaN and infinities from null; Debian 12's own is 2.5.
#
#     wal2json.sh FOLDER        e.g. build-test/wal2json-2.6
#
# FOLDER then holds wal2json.so for the server that cluster.sh runs; what is there already is kept.
# Nothing is installed: package lists, source and server headers live in a folder that is thrown
# away.  The source comes from the mirror that this machine's apt uses, and apt verifies it with this
# machine's Debian keyring.  Where that cannot be, exit 1 and one line that says why: the tests that
# need it are skipped then, with that line.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$root/scripts/lib/install.sh"

suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

cannot() {
    echo "no wal2json 2.6: $*"
    exit 1
}

# The mirror of Debian's main archive that this machine is configured with.
debian_mirror() {
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian Debian main //p' | head -n 1
}

# apt-get with lists, sources and caches of its own, in the current folder.
own_apt() {
    apt-get -q -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o Debug::NoLocking=1 \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch_source() {
    local mirror

    mirror=$(debian_mirror)
    [ -n "$mirror" ] || cannot "this machine's apt knows no mirror of Debian"
    [ -f "$keyring" ] || cannot "no Debian keyring to verify its source with ($keyring)"
    mkdir -p lists/partial cache/archives/partial
    echo "deb-src [signed-by=$keyring] $mirror $suite main" >sources.list
    own_apt update >>log 2>&1 || cannot "the package lists of Debian 13 are not to be had: $(grep -m 1 '^[EW]:' log)"
    own_apt source wal2json >>log 2>&1 || cannot "its source package is not to be had: $(grep -m 1 '^E:' log)"
}

# The server's header files, out of their package, which would install a compiler and LLVM with it.
fetch_headers() { # VERSION
    local package=postgresql-server-dev-$1

    if [ -d "/usr/include/postgresql/$1/server" ]; then
        ln -s "/usr/include/postgresql/$1/server" server
        return
    fi
    apt-get -q download -o APT::Sandbox::User="$(id -un)" "$package" >>log 2>&1 ||
        { apt_get update && apt-get -q download -o APT::Sandbox::User="$(id -un)" "$package" >>log 2>&1; } ||
        cannot "$package is not to be had: $(grep -m 1 '^E:' log)"
    dpkg-deb -x "$package"_*.deb headers
    ln -s "headers/usr/include/postgresql/$1/server" server
}

build_plugin() { # FOLDER
    local version

    version=$(pg_version)
    work=$(mktemp -d) # not local: the trap runs after this function
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$1"
    cd "$work"
    fetch_source
    fetch_headers "$version"
    cc -O2 -fPIC -shared -fwrapv -fno-strict-aliasing -I server wal2json-*/wal2json.c -o wal2json.so \
        >>log 2>&1 || cannot "it does not compile: $(grep -m 1 'error' log)"
    echo "$version" >"$1/server-version"
    mv wal2json.so "$1/wal2json.so"
}

folder=$(realpath -m "${1:?usage: wal2json.sh FOLDER}")
if [ ! -f "$folder/wal2json.so" ] || [ "$(cat "$folder/server-version")" != "$(pg_version)" ]; then
    build_plugin "$folder"
fi
