#!/bin/bash
# Throw-away PostgreSQL clusters: no TCP, unix sockets in their own folder, no trace left.
#
# Sourced (after common.sh) it gives the functions below; run, it does one of them:
#
#     cluster.sh bindir
#     cluster.sh create FOLDER [SETTING=VALUE…]
#     cluster.sh copy FROM FOLDER [SETTING=VALUE…]
#     cluster.sh start FOLDER
#     cluster.sh stop FOLDER [fast|immediate|smart]
#
# A cluster is a folder with the server's files in data/, its log in log, and its socket.  The
# server refuses to run as root, so for root it runs as the user postgres; everybody else runs it as
# himself.  TAILWATER_PG_BINDIR chooses another installation.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    . "$(dirname "${BASH_SOURCE[0]}")/common.sh"
fi
. "$root/scripts/lib/install.sh"

pg_bindir() {
    if [ -n "${TAILWATER_PG_BINDIR:-}" ]; then
        echo "$TAILWATER_PG_BINDIR"
    else
        echo "/usr/lib/postgresql/$(pg_version)/bin"
    fi
}

# Run a server program, as the user that may run it, in a folder which that user may enter.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --init-groups -- "$@")
    else
        (cd / && "$@")
    fi
}

# A folder that the server's user may pass through, with a path short enough for a socket.
cluster_workdir() { # NAME
    local folder

    folder=$(mktemp -d "/tmp/$1.XXXXXX")
    chmod 755 "$folder"
    echo "$folder"
}

cluster_create() { # FOLDER [SETTING=VALUE…]
    local folder=$1 bindir

    shift
    bindir=$(pg_bindir)
    cluster_folder "$folder"
    as_server "$bindir/initdb" -D "$folder/data" -U postgres --auth=trust --encoding=UTF8 \
        --locale=C.UTF-8 --no-sync --no-instructions >"$folder/initdb.log" 2>&1 ||
        { cat "$folder/initdb.log" >&2; die "initdb failed"; }
    cluster_settings "$folder" "$@"
}

# Another cluster like one that was never started: quicker, and of the same system identifier.
cluster_copy() { # FROM FOLDER [SETTING=VALUE…]
    local from=$1 folder=$2

    shift 2
    cluster_folder "$folder"
    cp -a "$from/data" "$folder/data"
    cluster_settings "$folder" "$@"
}

cluster_folder() { # FOLDER
    [ ${#1} -le 85 ] || die "$1: too long a path for a socket"
    mkdir -p "$1"
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$1"
}

# Settings for a server that is thrown away: nothing survives a power cut, everything a crash.
cluster_settings() { # FOLDER [SETTING=VALUE…]
    local folder=$1 setting

    shift
    {
        cat <<-SETTINGS
		listen_addresses = ''
		unix_socket_directories = '$folder'
		port = 5432
		wal_level = logical
		max_wal_senders = 20
		max_replication_slots = 20
		max_prepared_transactions = 10
		max_connections = 100
		shared_buffers = 64MB
		fsync = off
		max_wal_size = 2GB
		logging_collector = off
		log_line_prefix = '%m [%p] %q%u@%d '
		SETTINGS
        # The minor releases that have this setting refuse every other plugin; the others refuse to
        # start when it is there.  Asking a server program, not a version number, tells which.
        if as_server "$(pg_bindir)/postgres" -D "$folder/data" -C output_plugin_libraries >/dev/null 2>&1; then
            echo "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'"
        fi
        for setting; do
            echo "${setting%%=*} = '${setting#*=}'"
        done
    } >>"$folder/data/postgresql.conf"
}

cluster_start() { # FOLDER
    local bindir

    bindir=$(pg_bindir)
    # The log belongs to the server's user, so that a later start by hand can write it too.
    as_server "$bindir/pg_ctl" start -D "$1/data" -l "$1/log" -w -t 60 -s ||
        { tail -n 50 "$1/log" >&2; die "$1: the server does not start"; }
}

cluster_stop() { # FOLDER [MODE]
    as_server "$(pg_bindir)/pg_ctl" stop -D "$1/data" -m "${2:-fast}" -w -t 60 -s
}

cluster_is_running() { # FOLDER
    as_server "$(pg_bindir)/pg_ctl" status -D "$1/data" >/dev/null 2>&1
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    verb=${1:-}
    shift || true
    case $verb in
    bindir) pg_bindir ;;
    create) cluster_create "$@" ;;
    copy) cluster_copy "$@" ;;
    start) cluster_start "$@" ;;
    stop) cluster_stop "$@" ;;
    *) die "usage: cluster.sh bindir | create FOLDER [SETTING=VALUE…] | copy FROM FOLDER [SETTING=VALUE…] | start FOLDER | stop FOLDER [MODE]" ;;
    esac
fi
