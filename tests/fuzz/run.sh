#!/usr/bin/env bash
# Runs the fuzz targets, each for SECONDS; new finds that reach new code are added to the corpora.
#
#   tests/fuzz/run.sh [SECONDS [TARGET…]]     default: 60 seconds of each
#
# As `cargo fuzz run --sanitizer none` does, on a toolchain that is not nightly and without a tool to be compiled first. What
# fails is written to target/fuzz/, and `TARGET FILE` shows it again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(layer_tree layer_directory)

out=$root/target/fuzz
mkdir -p "$out"
export CARGO_TARGET_DIR=$out
# Coverage of every branch, which libFuzzer steers by.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing"
host=$(rustc -vV | sed -n 's/^host: //p')
# Named, so that the flags are not those of build scripts.
cargo build --manifest-path "$here/Cargo.toml" --release --target "$host"
for target in "${targets[@]}"; do
  echo "== $target, $seconds seconds"
  "$out/$host/release/$target" -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=512 -timeout=1 \
    -artifact_prefix="$out/$target-" -print_final_stats=1 "$here/corpus/$target"
done
