#!/usr/bin/env bash
# Make OCI images for the tests and benches from Debian's packages, as OCI layouts with the tag v1.
#
#   make-images.sh DIR TIER…
#
#   base    4 layers: a minimal Debian, an application, deletions, a replaced file   (end-to-end test)
#   real    8 layers of real packages, among them one that deletes as an upgrade does      (benches)
#   big     1 layer with one incompressible file of 1 GiB                                  (benches)
#   small   1 layer with 20,000 small files in 200 directories                             (benches)
#   rand    not an image: DIR/rand1g.bin, 1 GiB of fixed pseudo-random bytes               (benches)
#
# What is there and was made by this very script is not made again. Root only: the files of an image have
# owners. Packages come from $MIRROR, else from the mirror that this machine's apt uses.
set -euo pipefail

main() {
  [ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
  [ "$(id -u)" = 0 ] || { echo "make-images.sh: must be root, for an image's files have owners" >&2; exit 1; }
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  version=$(sha256sum <"${BASH_SOURCE[0]}")
  shift

  # Two runs at once would build in one folder; the second waits and finds the work done.
  exec 9>"$dir/.lock"
  flock 9
  local tier
  for tier in "$@"; do
    case $tier in
      base | real | big | small | rand) ;;
      *) echo "make-images.sh: no tier is called $tier" >&2; exit 2 ;;
    esac
    [ "$(cat "$dir/.$tier.made" 2>/dev/null)" != "$version" ] || continue
    rm -rf "$dir/.$tier.made" "${dir:?}/$tier" "$dir/.work"
    mkdir "$dir/.work"
    "make_$tier"
    rm -rf "$dir/.work"
    echo "$version" >"$dir/.$tier.made"
    [ "$tier" = rand ] || describe_image "$tier"
  done
}

make_base() {
  begin_image
  bootstrap
  add_layer
  add_application
  add_layer
  rm -rf "$root"/usr/share/{doc,man,locale} "$root"/var/log/*
  add_layer
  # A directory that becomes a file, and a file that changes its mode: what naive unpackers get wrong.
  rm -rf "$root/srv/app/static"
  echo "moved away" >"$root/srv/app/static"
  chmod 0700 "$root/srv/app/bin/run"
  add_layer
  finish_image base /srv/app/bin/run
}

make_real() {
  begin_image
  bootstrap
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  in_root apt-get -qq update
  add_layer
  local packages
  for packages in "ca-certificates curl openssl" "python3 python3-requests" "nginx-light" "perl git" \
    "gcc g++ libc6-dev make"; do
    # shellcheck disable=SC2086 # a list of package names
    in_root apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $packages >/dev/null
    add_layer
  done
  # Deletions and rewrites, as an upgrade or a clean-up step makes them.
  rm -rf "$root"/usr/share/{doc,man,locale} "$root"/var/log/*
  find "$root"/usr/lib/python3* -name '*.pyc' -delete
  in_root sh -c 'python3 -m compileall -q /usr/lib/python3.*/ >/dev/null || true'
  add_layer
  add_application
  add_layer
  finish_image real /srv/app/bin/run
}

make_big() {
  begin_image
  mkdir "$root/data"
  make_bytes $((1 << 30)) 11 >"$root/data/blob.bin"
  add_layer
  finish_image big /bin/true
}

make_small() {
  begin_image
  mkdir "$root/data"
  python3 - "$root/data" <<'PY'
import pathlib, random, sys

r = random.Random(20000)
words = [bytes(r.choices(b"abcdefghijklmnopqrstuvwxyz_", k=r.randint(2, 10))) for _ in range(4000)]
for d in range(200):
    folder = pathlib.Path(sys.argv[1], f"d{d:03}")
    folder.mkdir()
    for f in range(100):
        size = int(2 ** r.uniform(6, 14))  # 64 B to 16 KiB, as many below 1 KiB as above
        (folder / f"f{f:03}.py").write_bytes(b" ".join(r.choices(words, k=size // 6 + 1))[:size])
PY
  add_layer
  finish_image small /bin/true
}

make_rand() {
  make_bytes $((1 << 30)) 7 >"$dir/.work/rand"
  mv "$dir/.work/rand" "$dir/rand1g.bin"
}

# An empty image, open in $root.
begin_image() {
  layout=$dir/.work/layout bundle=$dir/.work/bundle root=$dir/.work/bundle/rootfs
  umoci init --layout "$layout"
  umoci new --image "$layout:v1"
  umoci --log=error unpack --image "$layout:v1" "$bundle"
}

# What changed in $root since the last layer becomes the next. Not `umoci insert`: its archives (0.4.7)
# lack their end blocks.
add_layer() { umoci --log=error repack --refresh-bundle --image "$layout:v1" "$bundle"; }

finish_image() { # NAME COMMAND
  umoci config --image "$layout:v1" --config.cmd "$2"
  umoci --log=error gc --layout "$layout"
  mv "$layout" "$dir/$1"
}

bootstrap() {
  local suite mirror
  suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || true
  suite=${suite:-bookworm}
  mirror=${MIRROR:-$(apt_mirror "$suite")}
  mkdir -p "$dir/debs"
  # In a mount namespace of its own, so that nothing stays mounted whatever happens.
  if ! unshare --mount debootstrap --variant=minbase --cache-dir="$dir/debs" "$suite" "$root" \
    ${mirror:+"$mirror"} >"$dir/bootstrap.log" 2>&1 9>&-; then
    tail -n 20 "$dir/bootstrap.log" >&2
    exit 1
  fi
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
}

# The mirror in this machine's apt sources, or nothing: debootstrap then uses its own.
apt_mirror() { # SUITE
  # shellcheck disable=SC2016 # apt's own placeholders
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 2>/dev/null |
    awk -v suite="$1" '$1 == "Debian" && $2 == suite && $3 == "main" { print $4; exit }' || true
}

# Runs a command in $root. apt's lists and cache are mounted over, so they get into no layer.
in_root() {
  mkdir -p "$dir/.work/lists/partial" "$dir/.work/cache/archives/partial"
  # shellcheck disable=SC2016 # expanded by the inner shell
  timeout 600 unshare --mount sh -c '
    set -e
    root=$1 work=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --bind "$work/lists" "$root/var/lib/apt/lists"
    mount --bind "$work/cache" "$root/var/cache/apt"
    exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
  ' sh "$root" "$dir/.work" "$@" 9>&-
}

# Few and small files, and one of each kind that an unpacker must get right.
add_application() {
  local app=$root/srv/app i
  mkdir -p "$app/bin" "$app/static"
  for i in $(seq 1 40); do make_bytes 20000 "$i" >"$app/static/$i.bin"; done
  printf '#!/bin/sh\necho cargo\n' >"$app/bin/run"
  chmod 4755 "$app/bin/run"
  ln -s bin/run "$app/run"
  ln "$app/static/1.bin" "$app/static/one.bin"
  mkfifo "$app/queue"
  install -d -o 33 -g 33 -m 2775 "$app/shared"
  : >"$app/a name with spaces, and an ü"
}

# The same bytes for the same seed, on every machine.
make_bytes() { # BYTES SEED
  head -c "$1" /dev/zero |
    openssl enc -aes-256-ctr -nosalt -K "$(printf '%064x' "$2")" -iv "$(printf '%032x' 1)"
}

describe_image() { # NAME
  local blobs=$dir/$1/blobs/sha256 manifest
  manifest=$(jq -r '.manifests[0].digest | sub("sha256:"; "")' "$dir/$1/index.json")
  jq -r --arg name "$1" \
    '[.layers[].size / 1048576] | "\($name): \(length) layers, \(add | round) MiB (\(map(. * 10 | round / 10 | tostring) | join(", ")))"' \
    "$blobs/$manifest"
}

main "$@"
