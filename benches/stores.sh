#!/usr/bin/env bash
# Stores beside docker-registry: one large blob, and many small ones. Prints Markdown tables. Root only.
#
#   [ROUNDS=5] [DURATION_S=4] [PEERS_ONLY=1] [KEEP=records.tsv] benches/stores.sh [TEST…]
#
#   big        1 GiB in one PUT, by one client
#   smallN     new 4 KiB blobs, by N clients                                        (small1 small16)
#
# Each server has a fresh ext4 of its own. What it does before it acknowledges (hashing, fsync, records) is
# in its time; earlier writes are flushed before the clock starts.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_bench

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(big small1 small16)
big_size=${BIG_SIZE:-$((1 << 30))}
small_size=4096
declare -A disk_of

main() {
  if [ "$(id -u)" != 0 ]; then
    say "stores.sh: must be root, to mount a file system for each server"
    exit 1
  fi
  local size_gib=$((6 + rounds * 2))
  if [ -z "$peers_only" ]; then
    make_disk orlop "$size_gib"
    disk_of[orlop]=$disk
    start_orlop orlop "$disk/data"
  fi
  make_disk registry "$size_gib"
  disk_of[registry]=$disk
  start_registry registry "$disk/data"

  for round in $(seq "$rounds"); do
    for test in "${tests[@]}"; do
      say "round $round of $rounds: $test"
      for name in "${targets[@]}"; do
        sync --file-system "${disk_of[$name]}"
        case $test in
          big) measure_big "$name" ;;
          small*) measure_small "$name" "${test#small}" ;;
          *) say "no test is called $test"; exit 2 ;;
        esac
      done
    done
  done
  record_peaks
  print_report Stores
}

measure_big() { # NAME
  local before after seconds gib
  gib=$(compute "$big_size / 1073741824")
  before=$(cpu_of "$1")
  seconds=$(python3 "$benches/upload.py" big "$(protocol_of "$1")" "${url[$1]}" "$big_size")
  after=$(cpu_of "$1")
  record "Throughput, MB/s" "1 GiB blob" "$1" "$(compute "$big_size / $seconds / 1e6")"
  record "Server CPU, seconds per GiB" "1 GiB blob" "$1" "$(compute "($after - $before) / $gib")"
}

measure_small() { # NAME CLIENTS
  local before after result row
  row="4 KiB blobs, $(count_clients "$2")"
  before=$(cpu_of "$1")
  result=$(python3 "$benches/upload.py" small "$(protocol_of "$1")" "${url[$1]}" "$small_size" "$2" "$duration_s")
  after=$(cpu_of "$1")
  local count seconds p50 p99
  read -r count seconds p50 p99 <<<"$result"
  record "Blobs per second" "$row" "$1" "$(compute "$count / $seconds")"
  record "Server CPU, µs per blob" "$row" "$1" "$(compute "($after - $before) * 1e6 / $count")"
  record "Median latency, µs" "$row" "$1" "$p50"
  record "99th percentile of latency, µs" "$row" "$1" "$p99"
}

main
