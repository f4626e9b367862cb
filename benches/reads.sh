#!/usr/bin/env bash
# Reads beside nginx and docker-registry: what a request costs the server, how many come through, how long
# the slowest take. Prints Markdown tables.
#
#   [ROUNDS=5] [DURATION_S=4] [PEERS_ONLY=1] [KEEP=records.tsv] benches/reads.sh [TEST…]
#
#   full       one 1 GiB blob, by one client
#   rangeN     random aligned 64 KiB ranges of it, by N clients          (range1 range16 range64)
#   small      one 2 KiB blob, by 64 clients
#   head       HEAD of the 1 GiB blob, by 64 clients
#
# Every round visits every server in turn, so that a slow minute of the machine falls on all alike. Servers
# run on the first processor and clients on the second, so that neither takes time from the other.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_bench

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(full range1 range16 range64 small head)
head_requests=$((duration_s * 8000))
big_size=$((1 << 30))
range_size=65536
small_size=2048
if [ "$(nproc)" -gt 1 ]; then
  server_pin=(taskset --cpu-list 0) client_pin=(taskset --cpu-list 1)
fi

main() {
  make_blobs
  [ -n "$peers_only" ] || start_orlop orlop "$work/orlop"
  start_nginx "nginx" "$folder" on
  start_nginx "nginx without sendfile" "$folder" off
  start_registry registry "$work/registry"
  for name in "${targets[@]}"; do seed "$name"; done

  for round in $(seq "$rounds"); do
    for test in "${tests[@]}"; do
      say "round $round of $rounds: $test"
      for name in "${targets[@]}"; do
        case $test in
          full) measure_full "$name" ;;
          range*) measure_gets "$name" "64 KiB ranges, $(count_clients "${test#range}")" "${test#range}" "$big" "$range_size" ;;
          small) measure_gets "$name" "2 KiB blob, 64 clients" 64 "$small" 0 ;;
          head) measure_heads "$name" ;;
          *) say "no test is called $test"; exit 2 ;;
        esac
      done
    done
  done
  record_peaks
  print_report Reads
}

# Fixed pseudo-random bytes, named by their digests in nginx's folder.
make_blobs() {
  "$root/scripts/make-images.sh" "$root/target/images" rand
  local source=$root/target/images/rand1g.bin
  folder=$work/blobs
  mkdir "$folder"
  big=$(openssl dgst -sha256 -r "$source" | cut -d ' ' -f 1)
  small=$(head -c "$small_size" "$source" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
  ln "$source" "$folder/$big"
  head -c "$small_size" "$source" >"$folder/$small"
}

# Puts both blobs in, and asks for each once, so that every run begins with a warm cache.
seed() { # NAME
  local digest
  for digest in "$big" "$small"; do
    case $1 in
      nginx*) ;;
      *) python3 "$benches/upload.py" file "$(protocol_of "$1")" "${url[$1]}" "$folder/$digest" ;;
    esac
    cmp <(curl --silent --show-error --fail --noproxy '*' "$(blob_url "$1" "$digest")") "$folder/$digest"
  done
}

blob_url() { # NAME DIGEST
  case $1 in
    orlop) echo "${url[$1]}/api/v1/content/sha256:$2/data" ;;
    nginx*) echo "${url[$1]}/$2" ;;
    registry) echo "${url[$1]}/v2/bench/blobs/sha256:$2" ;;
  esac
}

measure_full() { # NAME
  local before after seconds
  before=$(cpu_of "$1")
  seconds=$("${client_pin[@]}" curl --silent --show-error --fail --noproxy '*' --output /dev/null \
    --write-out '%{time_total}' "$(blob_url "$1" "$big")")
  after=$(cpu_of "$1")
  record "Server CPU, seconds per GiB" "1 GiB blob, 1 client" "$1" "$(compute "$after - $before")"
  record "Throughput, MB/s" "1 GiB blob, 1 client" "$1" "$(compute "$big_size / $seconds / 1e6")"
}

measure_gets() { # NAME ROW CLIENTS DIGEST RANGE_SIZE
  local before after result
  before=$(cpu_of "$1")
  result=$(BLOB_SIZE=$big_size RANGE_SIZE=$5 SEED=$round timeout $((duration_s + 20)) "${client_pin[@]}" \
    wrk --threads 1 --connections "$3" --duration "${duration_s}s" --latency --script "$benches/range.lua" \
    "$(blob_url "$1" "$4")" | sed -n 's/^RESULT //p')
  after=$(cpu_of "$1")
  [ -n "$result" ] || { say "wrk measured nothing at $1"; exit 1; }
  local requests us bytes errors p50 p99
  read -r requests us bytes errors p50 p99 <<<"$result"
  # A server that answers ranges with something else would look fast.
  if [ "$5" -gt 0 ] && [ $((bytes / requests)) -gt $(($5 + 2000)) ]; then
    say "$1 does not answer ranges of $5 bytes: $((bytes / requests)) bytes a request"
    exit 1
  fi
  record_requests "$1" "$2" "$before" "$after" "$requests" "$(compute "$us / 1e6")" "$p50" "$p99" "$errors"
}

# wrk waits for the body that a HEAD does not have; ab knows better.
measure_heads() { # NAME
  local before after result percentiles=$work/percentiles.csv
  before=$(cpu_of "$1")
  if ! result=$(timeout 120 "${client_pin[@]}" ab -q -k -i -c 64 -n "$head_requests" -e "$percentiles" \
    "$(blob_url "$1" "$big")" 2>&1); then
    say "ab failed at $1: $(tail -n 1 <<<"$result")"
    exit 1
  fi
  after=$(cpu_of "$1")
  local seconds errors p50 p99
  seconds=$(awk '/^Time taken for tests/ { print $5 }' <<<"$result")
  errors=$(awk '/^Non-2xx/ { n += $3 } /^Failed requests/ { n += $3 } END { print n + 0 }' <<<"$result")
  p50=$(awk -F, '$1 == 50 { print $2 * 1000 }' "$percentiles")
  p99=$(awk -F, '$1 == 99 { print $2 * 1000 }' "$percentiles")
  record_requests "$1" "HEAD, 64 clients" "$before" "$after" "$head_requests" "$seconds" "$p50" "$p99" "$errors"
}

record_requests() { # NAME ROW CPU_BEFORE CPU_AFTER REQUESTS SECONDS P50_US P99_US ERRORS
  record "Server CPU, µs per request" "$2" "$1" "$(compute "($4 - $3) * 1e6 / $5")"
  record "Requests per second" "$2" "$1" "$(compute "$5 / $6")"
  record "Median latency, µs" "$2" "$1" "$7"
  record "99th percentile of latency, µs" "$2" "$1" "$8"
  [ "$9" = 0 ] || record "Failed requests" "$2" "$1" "$9"
}

main
