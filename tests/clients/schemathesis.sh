#!/bin/sh
# Lets schemathesis attack a live server by the contract that it serves, for about two minutes:
#
#     tests/clients/schemathesis.sh BASE_URL
#
# The server should be a throw-away one: records are made, changed and deleted.
set -eu

[ $# -eq 1 ] || { echo "usage: schemathesis.sh BASE_URL" >&2; exit 2; }
base_url=${1%/}
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/clients/schemathesis
if ! cmp -s "$here/schemathesis-requirements.txt" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/schemathesis-requirements.txt"
    cp "$here/schemathesis-requirements.txt" "$venv/requirements.txt"
fi

# followPull is left out: it answers with a stream that ends only with the job. So is getOpenapiYaml: the contract
# gives itself as text there, and schemathesis takes any YAML for what it says.
# The seed is fixed, so that a finding can be found again. What it remembers stays beside it.
export SCHEMATHESIS_HOOKS=schemathesis_hooks
cd "$venv"
PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 exec timeout 240 "$venv/bin/schemathesis" \
    --config-file "$here/schemathesis.toml" run "$base_url/openapi.json" \
    --checks all --exclude-operation-id followPull --exclude-operation-id getOpenapiYaml \
    --phases examples,coverage,fuzzing,stateful --max-examples 12 --max-time 150 --seed 1 \
    --workers 2 --request-timeout 70 --continue-on-failure
