#!/usr/bin/env bash
# All benches, one after the other: Markdown on standard output, progress on standard error.
#
#   [ROUNDS=5] [DURATION_S=4] [PEERS_ONLY=1] benches/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./reads.sh
echo
./stores.sh
echo
./pulls.sh
echo
./unpacks.sh
