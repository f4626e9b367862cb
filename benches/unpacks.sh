#!/usr/bin/env bash
# Images pulled from docker-registry on loopback and unpacked, beside other clients. Prints Markdown tables. Root only.
#
#   [ROUNDS=5] [PEERS_ONLY=1] [KEEP=records.tsv] [IMAGES=target/images] benches/unpacks.sh [TEST…]
#
#   real       8 layers of real packages
#   small      one layer of 20,000 small files
#   big        one layer with one file of 1 GiB that does not compress
#
# Beside `ctr images pull` (overlayfs snapshotter), `podman pull` (overlay driver), and `skopeo copy` with `umoci unpack`:
# whatever of them is installed. Every pull is into an empty store, and every test of a round has a fresh file system, because
# ext4 remembers what was deleted on it. orlop's and containerd's servers have started before the clock. orlop alone has
# everything on the disk for certain when it ends.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
begin_bench

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(real small big)
images=${IMAGES:-$root/target/images}

main() {
  if [ "$(id -u)" != 0 ]; then
    say "unpacks.sh: must be root, to mount file systems"
    exit 1
  fi
  [ -n "${IMAGES:-}" ] || "$root/scripts/make-images.sh" "$images" "${tests[@]}" >&2
  start_registry registry "$work/registry"
  local host=${url[registry]#http://} peers=() peer test round
  [ -n "$peers_only" ] || peers+=(orlop)
  ! command -v containerd ctr >/dev/null || peers+=(ctr)
  ! command -v podman >/dev/null || peers+=(podman)
  ! command -v umoci >/dev/null || peers+=(umoci)
  for test in "${tests[@]}"; do
    skopeo copy --quiet --dest-tls-verify=false "oci:$images/$test:v1" "docker://$host/bench/$test:v1"
  done
  for round in $(seq "$rounds"); do
    for test in "${tests[@]}"; do
      say "round $round of $rounds: $test"
      for peer in "${peers[@]}"; do
        make_disk "$test-$peer-$round" 8
        sync --file-system "$disk"
        "unpack_by_$peer" "$host/bench/$test:v1" "$test"
        drop_disk
      done
    done
  done
  print_report "Pulls with unpack"
}

unpack_by_orlop() { # REFERENCE ROW
  start_orlop "orlop-$(basename "$disk")" "$disk/data"
  local name=${targets[-1]}
  clock orlop "$2" "${pid[$name]}" "$orlop" --server "${url[$name]}" pull --unpack --progress none "$1"
  stop_server "$name" || true # it was ended by a signal
}

unpack_by_ctr() { # REFERENCE ROW
  start_containerd "$disk"
  clock ctr "$2" "$containerd_pid" ctr --address "$disk/sock" images pull --plain-http "$1"
  stop_containerd
}

unpack_by_podman() { # REFERENCE ROW
  local run
  run=$(mktemp -d) # it takes no path of more than 50 characters
  clock podman "$2" 0 podman --root "$disk/root" --runroot "$run" --storage-driver overlay \
    pull --quiet --tls-verify=false "$1"
  # What it mounts for itself would keep the disk.
  umount "$disk/root/overlay" 2>/dev/null || true
  rm -rf "$run"
}

unpack_by_umoci() { # REFERENCE ROW
  clock umoci "$2" 0 sh -ec "skopeo copy --quiet --src-tls-verify=false 'docker://$1' 'oci:$disk/image:v1'
    umoci unpack --image '$disk/image:v1' '$disk/bundle'"
}

main
