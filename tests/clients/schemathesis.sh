#!/bin/sh
# Lets schemathesis attack a live server by the contract that it serves:
#
#     [FUZZ_S=seconds] [SEED=n] tests/clients/schemathesis.sh BASE_URL
#
# Without FUZZ_S only what is the same in every run: the contract's examples, and each bound of each value. With it
# also random requests and chains of them, for about so long, by a seed that is printed.
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

# followPull and followUnpack are left out: they answer with a stream that ends only with the job. So is getOpenapiYaml: the contract
# gives itself as text there, and schemathesis takes any YAML for what it says. And testRegistry: it asks hosts of the
# Internet, by their names.
# What it remembers stays beside it.
if [ -n "${FUZZ_S:-}" ]; then
    phases=examples,coverage,fuzzing,stateful
    seed=${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
else
    phases=examples,coverage
    seed=${SEED:-1}
fi
most=${FUZZ_S:-150}
export SCHEMATHESIS_HOOKS=schemathesis_hooks
cd "$venv"
PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 exec timeout "$((most + 120))" "$venv/bin/schemathesis" \
    --config-file "$here/schemathesis.toml" run "$base_url/openapi.json" \
    --checks all --exclude-operation-id followPull --exclude-operation-id followUnpack --exclude-operation-id getOpenapiYaml \
    --exclude-operation-id testRegistry \
    --phases "$phases" --max-examples "$((most / 10))" --max-time "$most" --seed "$seed" \
    --workers 2 --request-timeout 70 --continue-on-failure
