#!/usr/bin/env bash
# Tests tests/gpu.sh with the programs of build folder $1: what it says of a device, of none, of a
# program that fails, of a tool that is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "gpu_sh: $1"; cat "$work/out" 2>/dev/null || true; exit 1; }
expect() { # status, text, gpu.sh's arguments...
  local want=$1 text=$2 rc=0
  shift 2
  tests/gpu.sh --out "$work/out" --shapes few "$@" >"$work/shown" 2>&1 || rc=$?
  [ $rc -eq "$want" ] || fail "status $rc, not $want: $*"
  [ -z "$text" ] || grep -q "$text" "$work/out" || fail "does not say \"$text\": $*"
}

expect 2 '' --parts everything

if "$build/tests/gpu_look" >/dev/null; then
  expect 0 '^parity: passed' --build "$build" --parts parity
  expect 0 '^golden: passed' --build "$build" --parts golden
  grep -q '^golden states: passed' "$work/out" || fail "leaves states out"
  expect 0 '^limits: passed' --build "$build" --parts limits
  grep -q '^    read: .* GB/s (' "$work/out" || fail "keeps no table of limits"
  ! grep -q '^device: emulated' "$work/out" || grep -q '^    emulated: figures mean nothing' "$work/out" ||
    fail "takes figures of the emulation for some"
  expect 0 '^bench: passed' --build "$build" --parts bench
  grep -q '^    decode, 32 rows, 8 distinct adapters / base: ' "$work/out" || fail "keeps no benches"
  ! grep -q '^device: emulated' "$work/out" || ! grep -q ': \(met\|missed\)$' "$work/out" ||
    fail "judges figures of the emulation"
  printf '#!/bin/sh\necho "not available: no torch"; exit 3\n' >"$work/python"
  chmod +x "$work/python"
  PYTHON=$work/python expect 3 '^baseline: not available: no torch' --build "$build" --parts baseline
  command -v compute-sanitizer >/dev/null ||
    expect 3 '^sanitizer: not available' --build "$build" --parts sanitizer
else
  expect 3 '^device: not available' --build "$build"
  grep -q passed "$work/out" && fail "passes without a device"
fi

# A device that is there, and programs that fail, and that pass without having met it.
mkdir -p "$work/build/tests" "$work/build/perf"
printf '#!/bin/sh\necho a device\n' >"$work/build/tests/gpu_look"
printf '#!/bin/sh\necho broken; exit 1\n' >"$work/build/tests/parity"
printf '#!/bin/sh\necho "nothing on a device"\n' >"$work/build/tests/mixing_test"
cp "$work/build/tests/mixing_test" "$work/build/tests/golden_test"
cp "$work/build/tests/mixing_test" "$work/build/tests/golden_state_test"
printf '#!/bin/sh\necho "read: 1 GB/s (1..1)"; echo "copy: the sum is wrong" >&2; exit 1\n' \
  >"$work/build/perf/gpu_limits"
printf '#!/bin/sh\necho "a token is 1 alone and 2 in a crowd" >&2; exit 1\n' >"$work/build/perf/gpu_bench"
chmod +x "$work"/build/tests/* "$work"/build/perf/*
expect 1 '^parity: FAILED, status 1' --build "$work/build" --parts parity,mixing
grep -q '^mixing: not available' "$work/out" || fail "takes silence for a pass"
expect 3 '^golden: not available' --build "$work/build" --parts golden
expect 1 '^limits: FAILED, status 1' --build "$work/build" --parts limits
grep -q '^    copy: the sum is wrong' "$work/out" || fail "does not say why limits failed"
expect 1 '^bench: FAILED, status 1' --build "$work/build" --parts bench
