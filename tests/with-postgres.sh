#!/bin/sh
# Runs a command beside a private PostgreSQL cluster, and takes the cluster away again however it ends.
#
#     tests/with-postgres.sh COMMAND…
#
# The command finds in its environment:
#   ORLOP_TEST_POSTGRES       the URL of the cluster's database `postgres`, through a unix socket
#   ORLOP_TEST_POSTGRES_CTL   pg_ctl for this cluster: `"$ORLOP_TEST_POSTGRES_CTL" -m immediate stop`
# The program comes from Debian's package `postgresql`. No running server is needed or touched.
set -eu

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -d "$bin" ] || bin=$(dirname "$(command -v pg_ctl || echo /nowhere/pg_ctl)")
if [ ! -x "$bin/initdb" ]; then
    echo "with-postgres: no PostgreSQL here: apt-get install postgresql" >&2
    exit 69
fi

# Short, because the path of a unix socket ends at 107 bytes.
dir=$(mktemp -d "${TMPDIR:-/tmp}/orlop-pg.XXXXXX")
ctl=$dir/ctl

take_away() {
    if [ -f "$dir/data/postmaster.pid" ]; then
        "$ctl" -m immediate stop >/dev/null 2>&1 || true
    fi
    rm -rf "$dir"
}
trap take_away EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL refuses to run as root, so root hands the cluster to an ordinary user.
as=
if [ "$(id -u)" = 0 ]; then
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    as="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
    chown "$user" "$dir"
fi
cat >"$ctl" <<END
#!/bin/sh
cd "$dir" && exec $as "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w "\$@"
END
chmod 755 "$ctl"

# English order, as most clusters have it: SQL that leans on byte order without saying so shows here.
(cd "$dir" && $as "$bin/initdb" --no-sync --auth trust --username orlop --encoding UTF8 --locale C \
    --locale-provider icu --icu-locale en-US --pgdata "$dir/data") >"$dir/initdb.log" 2>&1 || {
    cat "$dir/initdb.log" >&2
    exit 70
}
# Nothing here outlives the machine, so nothing is forced to disk; what is committed still survives a
# server that is stopped without warning. Every test has a pool of its own.
cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
full_page_writes = off
max_connections = 300
END
"$ctl" start >/dev/null || {
    cat "$dir/log" >&2
    exit 70
}

ORLOP_TEST_POSTGRES="postgres://orlop@localhost/postgres?host=$dir"
ORLOP_TEST_POSTGRES_CTL=$ctl
export ORLOP_TEST_POSTGRES ORLOP_TEST_POSTGRES_CTL
"$@"
