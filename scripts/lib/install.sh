# Installs what is missing, on Debian and Ubuntu, as root or through sudo.  Sourced after common.sh.
#
# A machine that has everything is not touched, and no package list is fetched for it.  PostgreSQL
# is installed without the default cluster that Debian's packages make and start on their own; a
# cluster that is already there is left alone.

build_packages=(build-essential meson ninja-build pkg-config libpq-dev libssl-dev libyaml-dev libcurl4-openssl-dev zlib1g-dev libmicrohttpd-dev libsystemd-dev libcmocka-dev)
test_packages=(python3 python3-psycopg2 python3-yaml python3-jinja2 python3-pytest python3-pytest-timeout python3-pytest-xdist openssl)

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Has apt a version of this package to offer?
is_offered() {
    [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [0-9] ]]
}

# Quiet, unless it fails.
apt_get() {
    local log status=0

    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 || status=$?
    [ $status = 0 ] || tail -n 30 "$log" >&2
    rm -f "$log"
    return $status
}

# The major version of PostgreSQL to use: the newest that is installed and has, or can be given,
# wal2json; else the distribution's own.
pg_version() {
    local version

    for version in $(ls /usr/lib/postgresql 2>/dev/null | sort -rn); do
        [ -x "/usr/lib/postgresql/$version/bin/initdb" ] || continue
        if is_installed "postgresql-$version-wal2json" || is_offered "postgresql-$version-wal2json"; then
            echo "$version"
            return
        fi
    done
    apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p'
}

# Debian's postgresql-N makes and starts a cluster "main" when it is installed first; this folder
# is where it is told not to, for as long as the command runs.
without_main_cluster() ( # COMMAND…
    folder=/etc/postgresql-common/createcluster.d
    file=$folder/tailwater-scripts.conf
    trap 'as_root rm -f "$file"; as_root rmdir "$folder" 2>/dev/null || true' EXIT
    as_root mkdir -p "$folder"
    echo 'create_main_cluster = false' | as_root tee "$file" >/dev/null
    "$@"
)

install_missing() { # PACKAGE…
    local package missing=() unknown=false

    for package; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    for package in "${missing[@]}"; do
        is_offered "$package" || unknown=true
    done
    # The lists may be absent (a fresh image) or older than what the servers still hold.
    if $unknown || ! without_main_cluster apt_get install --no-install-recommends "${missing[@]}"; then
        apt_get update
        without_main_cluster apt_get install --no-install-recommends "${missing[@]}" ||
            die "apt-get could not install: ${missing[*]}"
    fi
}

# Everything that building, and running servers, takes; plus what is named.
install_tools() { # [PACKAGE…]
    local version

    command -v apt-get >/dev/null || die "these scripts install their tools with apt-get: Debian or Ubuntu"
    version=$(pg_version)
    if [ -z "$version" ]; then
        apt_get update
        version=$(pg_version)
    fi
    [ -n "$version" ] || die "apt-get offers no PostgreSQL"
    install_missing "${build_packages[@]}" "postgresql-$version" "postgresql-client-$version" \
        "postgresql-$version-wal2json" "$@"
}
