#!/usr/bin/env bash
# Runs an end-to-end test with the project's Python environment. Usage: run.sh TEST.py [ARGS...]
# Exit code 77 (skipped) when there is none: deploy/venv.sh makes it, tests/run.sh calls that.
set -euo pipefail
cd "$(dirname "$0")"
python=${GRAFT_PYTHON:-../../.venv/bin/python}
if ! "$python" -c 'import grpc, grpc_tools, grpc_status, grpc_health, grpc_reflection' 2>/dev/null; then
  echo "no Python with gRPC's client packages: run deploy/venv.sh" >&2
  exit 77
fi
exec "$python" "$@"
