#!/usr/bin/env bash
# Runs generated clients, and schemathesis, against a server of this build with a real registry beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
wait_for() { # url
    for _ in $(seq 1 200); do
        if curl -s -o /dev/null --noproxy '*' "$1"; then return 0; fi
        sleep 0.1
    done
    echo "no answer: $1" >&2
    return 1
}

# All targets, as the tests before were built: the binary alone would be another build of half the dependencies.
cargo build --locked --all-targets --manifest-path "$root/Cargo.toml"
orlop=${CARGO_TARGET_DIR:-$root/target}/debug/orlop

registry_port=$(free_port)
cat > "$work/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$registry_port"}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
pids+=($!)
wait_for "http://127.0.0.1:$registry_port/v2/"
# An image without layers: what is in it is tested elsewhere, this is about the clients.
umoci init --layout "$work/image"
umoci new --image "$work/image:v1"
skopeo --insecure-policy copy -q --dest-tls-verify=false \
    "oci:$work/image:v1" "docker://127.0.0.1:$registry_port/clients/image:v1"

port=$(free_port)
"$orlop" serve --data-dir "$work/data" --listen "127.0.0.1:$port" > "$work/orlop.log" 2>&1 &
pids+=($!)
wait_for "http://127.0.0.1:$port/healthz"

"$here/run.sh" "http://127.0.0.1:$port" "127.0.0.1:$registry_port/clients/image:v1"
if ! "$here/schemathesis.sh" "http://127.0.0.1:$port"; then
    grep -E '"level":"(ERROR|WARN)"' "$work/orlop.log" | tail -20 >&2 || true
    exit 1
fi
