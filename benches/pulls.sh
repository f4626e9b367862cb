#!/usr/bin/env bash
# Pulls of an image from docker-registry on loopback, beside other clients. Prints Markdown tables. Root only.
#
#   [ROUNDS=5] [PEERS_ONLY=1] [KEEP=records.tsv] [IMAGE=target/images/real] benches/pulls.sh [TEST…]
#
#   near       over loopback as it is
#   far        over a link of 20 ms and 20 MB/s for each connection
#   ten        ten pulls of one image at once, beside one                                     (orlop alone)
#
# Beside `skopeo copy docker://… oci:…` and, where containerd is installed, `ctr content fetch`. Every pull is into an
# empty store on a fresh directory of one file system; orlop's and containerd's servers have started before the clock.
# Processor time is that of client and server together.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_bench

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(near far ten)
image=${IMAGE:-$root/target/images/real}
link_pid=

main() {
  if [ "$(id -u)" != 0 ]; then
    say "pulls.sh: must be root, to mount a file system"
    exit 1
  fi
  [ -n "${IMAGE:-}" ] || "$root/scripts/make-images.sh" "$root/target/images" real >&2
  make_disk pulls 16
  start_registry registry "$work/registry"
  local host=${url[registry]#http://} peers=(skopeo) far_port
  skopeo copy --quiet --dest-tls-verify=false "oci:$image:v1" "docker://$host/bench/image:v1"
  far_port=$(free_port)
  "$benches/link.py" "$far_port" "${host#*:}" 20 20 >/dev/null 2>&1 </dev/null &
  link_pid=$!
  trap 'kill "$link_pid" 2>/dev/null; end_bench' EXIT
  ! command -v containerd ctr >/dev/null || peers+=(ctr)
  [ -n "$peers_only" ] || peers=(orlop "${peers[@]}")
  for round in $(seq "$rounds"); do
    for test in "${tests[@]}"; do
      say "round $round of $rounds: $test"
      case $test in
        near) measure_all "$host" "loopback" ;;
        far) measure_all "127.0.0.1:$far_port" "20 ms, 20 MB/s a connection" ;;
        ten) [ -n "$peers_only" ] || measure_ten "$host" ;;
        *) say "no test is called $test"; exit 2 ;;
      esac
    done
  done
  print_report Pulls
}

measure_all() { # HOST ROW
  local peer
  for peer in "${peers[@]}"; do
    sync --file-system "$disk"
    "pull_by_$peer" "$1/bench/image:v1" "$2"
  done
}

pull_by_orlop() { # REFERENCE ROW
  local data
  data=$(mktemp -d -p "$disk")
  start_orlop "orlop-$(basename "$data")" "$data/data"
  local name=${targets[-1]}
  clock orlop "$2" "${pid[$name]}" "$orlop" --server "${url[$name]}" pull --progress none "$1"
  stop_server "$name" || true # it was ended by a signal
}

pull_by_skopeo() { # REFERENCE ROW
  local data
  data=$(mktemp -d -p "$disk")
  clock skopeo "$2" 0 skopeo copy --quiet --src-tls-verify=false "docker://$1" "oci:$data/image:v1"
}

pull_by_ctr() { # REFERENCE ROW
  local data
  data=$(mktemp -d -p "$disk")
  start_containerd "$data"
  clock ctr "$2" "$containerd_pid" ctr --address "$data/sock" content fetch --plain-http "$1"
  stop_containerd
}

measure_ten() { # HOST
  local count data name before seconds job
  for count in 1 10; do
    data=$(mktemp -d -p "$disk")
    start_orlop "orlop-$(basename "$data")" "$data/data"
    name=${targets[-1]}
    before=$(date +%s.%N)
    local jobs=()
    for job in $(seq "$count"); do
      "$orlop" --server "${url[$name]}" pull --progress none --name "copy-$job" "$1/bench/image:v1" >/dev/null &
      jobs+=($!)
    done
    wait "${jobs[@]}"
    seconds=$(compute "$(date +%s.%N) - $before")
    record "Pulls of one image at once, seconds" "$count" orlop "$seconds"
    stop_server "$name" || true
  done
}

main
