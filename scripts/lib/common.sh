# What every script here starts with.  Sourced, never run; the caller has set -euo pipefail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# The distribution's Python: its packages (psycopg2, pytest) are not seen by another python3 that
# may come first in PATH (pyenv, conda).
python=/usr/bin/python3

jobs=$(nproc)

say() {
    printf '\n\033[1m==> %s\033[0m\n' "$*"
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Build the tree into a folder with a build type; the output only when it fails, or on a terminal's
# one line.
build() { # FOLDER BUILDTYPE
    local folder=$root/$1 log

    log=$(mktemp)
    if [ ! -f "$folder/build.ninja" ]; then
        # An interrupted setup leaves a folder that meson refuses to touch.
        rm -rf "$folder"
        meson setup "$folder" "$root" --buildtype="$2" >"$log" 2>&1 || { cat "$log"; rm -f "$log"; return 1; }
    fi
    ninja -C "$folder" >"$log" 2>&1 || { cat "$log"; rm -f "$log"; return 1; }
    rm -f "$log"
}
