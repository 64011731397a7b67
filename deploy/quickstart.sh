#!/usr/bin/env bash
# From nothing to different adapters answering in one batch. Usage: deploy/quickstart.sh [--keep]
#
# Installs the Debian packages it needs, builds graftd, starts it on the demo model, a hybrid of
# gated DeltaNet and attention, and shows the same prompts under the base, LoRAs, S0 states and both
# on one request, all in one batch, with the measured accuracy and the bytes of each. Fails when the
# accuracy is not what the demo promises.
# Stops the server at the end unless --keep is given.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=0
for arg in "$@"; do
  case "$arg" in
    --keep) keep=1 ;;
    *) echo "usage: deploy/quickstart.sh [--keep]" >&2; exit 2 ;;
  esac
done

echo "== packages"
deploy/deps.sh build python
python=$(deploy/venv.sh)

echo "== build"
mkdir -p build
if ! { cmake --preset release && cmake --build --preset release --target graftd graftctl; } \
  >build/quickstart.log 2>&1; then
  tail -n 40 build/quickstart.log >&2
  exit 1
fi

run_dir=$(mktemp -d "${TMPDIR:-/tmp}/graftd.XXXXXX")
socket="unix:$run_dir/graftd.sock"
log="$run_dir/graftd.log"
echo "== start (log: $log)"
build/release/daemon/graftd --model deploy/demo/model --adapters deploy/demo/adapters \
  --model-name demo --listen "$socket" >"$log" 2>&1 &
server=$!
deadline=$((SECONDS + 300))

stop() {
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  rm -rf "$run_dir"
}
trap stop EXIT

until build/release/daemon/ctl/graftctl --address "$socket" health >/dev/null 2>&1; do
  if ! kill -0 "$server" 2>/dev/null || [ $SECONDS -gt $deadline ]; then
    echo "graftd does not serve; its log:" >&2
    cat "$log" >&2
    exit 1
  fi
  sleep 0.2
done

echo "== adapters, by graftctl"
build/release/daemon/ctl/graftctl --address "$socket" adapters list

echo
echo "== one batch, by a Python gRPC client"
"$python" deploy/quickstart.py "$socket"

if [ $keep -eq 1 ]; then
  trap - EXIT
  cat <<END

The server goes on (process $server, log $log). Try:
  export GRAFTD_ADDRESS=$socket
  build/release/daemon/ctl/graftctl generate --adapter date-s0 --adapter json \\
    \$'Ada Moreau paid invoice 42 on 3 March 2021, ada.moreau@mail.org\n=>\n'
  build/release/daemon/ctl/graftctl adapters get date-s0
  kill $server    # drains and stops
END
else
  cat <<END

Stopped the server; deploy/quickstart.sh --keep leaves it running. README.md says how to go on.
END
fi
