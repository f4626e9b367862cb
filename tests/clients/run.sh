#!/bin/sh
# Generates a Python and a TypeScript client from the contract that a live server serves, and runs
# flow.py and flow.ts with them:
#
#     tests/clients/run.sh BASE_URL PULL_REF
#
# Everything made goes under target/clients. Exits non-zero at the first failure.
set -eu

[ $# -eq 2 ] || { echo "usage: run.sh BASE_URL PULL_REF" >&2; exit 2; }
base_url=${1%/} pull_ref=$2
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../target/clients
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=$out/python typescript=$out/typescript

curl -fsS "$base_url/openapi.json" -o "$out/openapi.json"

# Python. Installed anew only when the pinned list has changed.
if ! cmp -s "$here/python/requirements.txt" "$python/requirements.txt"; then
    rm -rf "$python"
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
    cp "$here/python/requirements.txt" "$python/requirements.txt"
fi
"$python/bin/openapi-python-client" generate --path "$out/openapi.json" --meta none --overwrite \
    --fail-on-warning --config "$here/python/config.yaml" --output-path "$python/src/orlop_client"
PYTHONPATH=$python/src "$python/bin/python" "$here/python/flow.py" "$base_url" "$pull_ref"

# TypeScript. What does not fit the contract's types does not compile.
mkdir -p "$typescript"
if ! cmp -s "$here/typescript/package-lock.json" "$typescript/installed-lock.json"; then
    cp "$here/typescript/package.json" "$here/typescript/package-lock.json" "$here/typescript/.npmrc" "$typescript/"
    (cd "$typescript" && npm ci --silent --no-audit --no-fund)
    cp "$here/typescript/package-lock.json" "$typescript/installed-lock.json"
fi
cp "$here/typescript/tsconfig.json" "$here/typescript/flow.ts" "$typescript/"
cd "$typescript"
npx --no-install openapi-typescript "$out/openapi.json" -o api.ts
npx --no-install tsc -p tsconfig.json
node flow.js "$base_url" "$pull_ref"
