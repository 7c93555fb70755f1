#!/bin/bash
# promtool for the tests of the alert rules: taken out of Debian's package prometheus, of which nothing is
# installed and no service is started.
#
#     promtool.sh FOLDER        e.g. build-test/promtool
#
# FOLDER/promtool is there then; what is there already is kept.  Where it cannot be, exit 1 and one line that says why.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$root/scripts/lib/install.sh"

cannot() {
    echo "no promtool: $*"
    exit 1
}

download() {
    apt-get -q download -o APT::Sandbox::User="$(id -un)" prometheus >>log 2>&1
}

folder=$(realpath -m "${1:?usage: promtool.sh FOLDER}")
[ ! -x "$folder/promtool" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
download || { apt_get update && download; } || cannot "Debian's package prometheus is not to be had: $(grep -m 1 '^E:' log)"
dpkg-deb -x prometheus_*.deb tree
mkdir -p "$folder"
mv tree/usr/bin/promtool "$folder/promtool.new"
mv "$folder/promtool.new" "$folder/promtool"
