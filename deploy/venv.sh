#!/usr/bin/env bash
# Makes the Python environment of the client-side tests and the quickstart in <repository>/.venv and
# prints its interpreter's path. Only gRPC's client packages: nothing in the build needs Python.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted="grpcio grpcio-tools grpcio-status grpcio-health-checking grpcio-reflection"
stamp=.venv/.installed
if [ "$(cat $stamp 2>/dev/null || true)" != "$wanted" ]; then
  # Debian's interpreter first: it is the one the README promises.
  python=/usr/bin/python3
  "$python" -c 'import ensurepip' 2>/dev/null || python=python3
  "$python" -m venv --clear .venv >&2
  # shellcheck disable=SC2086
  .venv/bin/pip install -q --disable-pip-version-check $wanted >&2
  echo "$wanted" >$stamp
fi
echo "$PWD/.venv/bin/python"
