# shellcheck shell=bash disable=SC2034
# What the benches share: servers that end with the script, disks that vanish with it, records. Source it.

benches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$benches")
orlop=${ORLOP:-$root/target/release/orlop}
rounds=${ROUNDS:-5}
duration_s=${DURATION_S:-4}
peers_only=${PEERS_ONLY:-}

declare -A pid url   # of each running server, by name
targets=()           # the names, in the order of the columns
disks=()             # mounted loop file systems
server_pin=() client_pin=()

begin_bench() {
  set -euo pipefail
  mkdir -p "$root/target/benches"
  work=$(mktemp -d -p "$root/target/benches")
  records=$work/records.tsv
  : >"$records"
  # EXIT alone ends everything; a signal only has to lead there.
  trap end_bench EXIT
  trap 'exit 130' INT TERM
  if [ -z "$peers_only" ] && [ ! -x "$orlop" ]; then
    echo "There is no $orlop: run cargo build --release, or set PEERS_ONLY=1" >&2
    exit 1
  fi
}

end_bench() {
  set +e
  local name
  for name in "${targets[@]}"; do stop_server "$name"; done
  for name in "${disks[@]}"; do umount "$name" || umount --lazy "$name"; done
  [ -z "${KEEP:-}" ] || cp "$records" "$KEEP"
  rm -rf "$work"
}

say() { echo "$@" >&2; }

# One measured value. The table is the title of the table that it will stand in.
record() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$records"; } # TABLE ROW TARGET VALUE

# The server's processor time so far, in seconds.
cpu_of() { "$benches/account.py" cpu "${pid[$1]}"; } # NAME

# How blobs are put into a server, for upload.py.
protocol_of() { case $1 in registry) echo oci ;; *) echo orlop ;; esac; } # NAME

record_peaks() {
  local name
  for name in "${targets[@]}"; do
    record "Peak resident memory, MiB" "after all of this" "$name" "$("$benches/account.py" peak "${pid[$name]}")"
  done
}

print_report() { # TITLE
  printf '## %s\n\n' "$1"
  describe_machine
  "$benches/report.py" <"$records"
}

compute() { awk "BEGIN { printf \"%.6g\", $1 }"; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Starts a server, and waits until it answers on its port.
start_server() { # NAME PORT COMMAND…
  local name=$1 port=$2 log="$work/${1// /-}.log"
  shift 2
  "${server_pin[@]}" "$@" >"$log" 2>&1 </dev/null &
  pid[$name]=$!
  url[$name]=http://127.0.0.1:$port
  targets+=("$name")
  for _ in $(seq 100); do
    ! curl --silent --output /dev/null --noproxy '*' "${url[$name]}/" || return 0
    kill -0 "${pid[$name]}" 2>/dev/null || break
    sleep 0.1
  done
  say "$name does not answer on port $port; its log ends:"
  tail -n 5 "$log" >&2
  exit 1
}

stop_server() { # NAME
  local id=${pid[$1]:-}
  [ -n "$id" ] || return 0
  unset "pid[$1]"
  kill -TERM "$id" 2>/dev/null
  for _ in $(seq 100); do
    kill -0 "$id" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$id" 2>/dev/null
  wait "$id" 2>/dev/null
}

start_nginx() { # NAME FOLDER SENDFILE
  local run="$work/run-${1// /-}" port
  port=$(free_port)
  mkdir -p "$run"
  sed -e "s|@PORT@|$port|;s|@FOLDER@|$2|;s|@SENDFILE@|$3|;s|@RUN@|$run|g" "$benches/nginx.conf.in" >"$run/nginx.conf"
  start_server "$1" "$port" nginx -e "$run/error.log" -c "$run/nginx.conf"
}

start_registry() { # NAME FOLDER
  local port
  port=$(free_port)
  mkdir -p "$2"
  sed -e "s|@PORT@|$port|;s|@FOLDER@|$2|" "$benches/registry.yml.in" >"$work/$1.yml"
  start_server "$1" "$port" docker-registry serve "$work/$1.yml"
}

start_orlop() { # NAME FOLDER
  local port
  port=$(free_port)
  start_server "$1" "$port" "$orlop" serve --data-dir "$2" --listen "127.0.0.1:$port"
}

# Runs a client beside its server and records what both have cost.
clock() { # TARGET ROW SERVER-PID COMMAND…
  local target=$1 row=$2 server=$3 before=0 after=0 result seconds cpu peak
  shift 3
  [ "$server" = 0 ] || before=$("$benches/account.py" cpu "$server")
  result=$(/usr/bin/env python3 "$benches/clock.py" "$@")
  read -r seconds cpu peak <<<"$result"
  [ "$server" = 0 ] || after=$("$benches/account.py" cpu "$server")
  record "Seconds" "$row" "$target" "$seconds"
  record "Processor time, seconds" "$row" "$target" "$(compute "$after - $before + $cpu")"
  [ "$server" = 0 ] || peak=$("$benches/account.py" peak "$server")
  record "Peak resident memory, MiB (of the server, where there is one)" "$row" "$target" "$peak"
}

# A containerd of its own, without what Kubernetes needs of it.
start_containerd() { # FOLDER  →  $containerd_pid
  printf 'version = 2\nroot = "%s/root"\nstate = "%s/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s/sock"\n' \
    "$1" "$1" "$1" >"$1/config.toml"
  containerd --config "$1/config.toml" --log-level error >"$1/log" 2>&1 </dev/null &
  containerd_pid=$!
  for _ in $(seq 100); do
    ! ctr --address "$1/sock" version >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  say "containerd does not answer; its log ends:"
  tail -n 5 "$1/log" >&2
  exit 1
}

stop_containerd() {
  kill "$containerd_pid"
  wait "$containerd_pid" 2>/dev/null || true
}

# A fresh ext4 on a loop file, mounted at $disk. Stores that share a file system pay
# for each other's journal, and one that was used before pays for what was deleted on it.
make_disk() { # NAME GIB  →  $disk
  local loop
  disk=$work/disk-$1
  mkdir "$disk"
  truncate --size "$2G" "$disk.img"
  mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$disk.img"
  # Straight to the backing file: a second cache below the file system would take the writes twice.
  loop=$(losetup --direct-io=on --show --find "$disk.img")
  mount -o noatime "$loop" "$disk"
  disks+=("$disk")
  losetup --detach "$loop" # when it is no longer mounted
}

drop_disk() { # →  the disk that was made last
  umount "$disk" || umount --lazy "$disk"
  unset "disks[-1]"
  rm -f "$disk.img"
}

# One line on which the figures stand.
describe_machine() {
  local cpu memory server="without orlop"
  cpu=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)
  memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
  [ -n "$peers_only" ] || server=$("$orlop" --version)
  echo "$(nproc) × ${cpu:-unknown processor}, $memory of memory, Linux $(uname -r); $server," \
    "$(nginx -v 2>&1 | sed 's|.*nginx/|nginx |')," \
    "$(docker-registry --version | awk '{ print "registry " $NF }'); medians of $rounds round(s)."
}

count_clients() { if [ "$1" = 1 ]; then echo "1 client"; else echo "$1 clients"; fi; }
