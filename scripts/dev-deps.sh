#!/usr/bin/env bash
# Install the programs that the tests or the benches run, from Debian's packages.
#
#   dev-deps.sh [test|bench]     default: test
#
# Looks first and installs only what is missing, so a second run costs nothing. As root it installs, and no
# service is started by it; otherwise it prints the one line to run and fails.
set -euo pipefail

purpose=${1:-test}
missing=()

# need PACKAGE COMMAND…: the package is missing when one of the commands is.
need() {
  local package=$1 command
  shift
  for command in "$@"; do
    command -v "$command" >/dev/null || { missing+=("$package"); return; }
  done
}

has_postgres() { command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

need curl curl
need jq jq
need openssl openssl
need docker-registry docker-registry
need skopeo skopeo
need umoci umoci
need debootstrap debootstrap
need python3 python3
case $purpose in
  test)
    need build-essential cc c++
    need chromium chromium
    need podman podman
    need buildah buildah
    need iproute2 ip
    need nftables nft
    need shellcheck shellcheck
    need mount mount umount
    need e2fsprogs mkfs.ext4
    need nodejs node
    need npm npm
    has_postgres || missing+=(postgresql)
    has_venv || missing+=(python3-venv)
    ;;
  bench)
    need nginx-light nginx
    need wrk wrk
    need apache2-utils ab
    need util-linux losetup
    need e2fsprogs mkfs.ext4
    need containerd containerd ctr
    need podman podman
    ;;
  *)
    echo "usage: dev-deps.sh [test|bench]" >&2
    exit 2
    ;;
esac

[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "Missing programs. Run this once, then try again:" >&2
  echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

# No service may start because a test wants its program: policy-rc.d answering 101 forbids it. A policy
# that was there before comes back at the end, however that end comes.
policy=/usr/sbin/policy-rc.d
saved=
restore_policy() {
  rm -f "$policy"
  [ -z "$saved" ] || mv "$saved" "$policy"
}
if [ -e "$policy" ]; then
  saved=$(mktemp "$policy.XXXXXX")
  mv "$policy" "$saved"
fi
trap restore_policy EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

# The tests make private clusters of their own; the package's default one would only take up disk.
if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
  mkdir -p /etc/postgresql-common
  echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
fi

echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
apt-get -qq update
apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >/dev/null
