#!/usr/bin/env bash
# Installs the Debian packages graftd needs. Usage: deploy/deps.sh [build] [python] [test] [long]
# Installs nothing that is there already; uses sudo only when not root.
set -euo pipefail

build="gcc g++ cmake ninja-build pkg-config make libgrpc-dev libprotobuf-c-dev protobuf-c-compiler
  protobuf-compiler libprotobuf-dev grpc-proto libuv1-dev libjemalloc-dev libjansson-dev
  libpcre2-dev libutf8proc-dev libinih-dev libssl-dev"
python="python3 python3-venv"
test="libcmocka-dev clang clang-format git $python"
long="clang-tidy libclang-rt-14-dev debootstrap"

wanted=""
for group in "${@:-build}"; do
  case "$group" in
    build) wanted="$wanted $build" ;;
    python) wanted="$wanted $python" ;;
    test) wanted="$wanted $test" ;;
    long) wanted="$wanted $long" ;;
    *) echo "deps.sh: unknown group '$group': build, python, test and long exist" >&2; exit 2 ;;
  esac
done

missing=""
for package in $wanted; do
  if ! dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$'; then
    missing="$missing $package"
  fi
done
if [ -n "$missing" ]; then
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "deps.sh: not root and no sudo; install:$missing" >&2; exit 1; }
    as_root="sudo"
  fi
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  $as_root apt-get update -q >/dev/null
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
fi
