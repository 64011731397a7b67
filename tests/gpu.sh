#!/usr/bin/env bash
# Proves the CUDA backend on a machine with a GPU: engine and kernels in process, no server, no network.
#
#   tests/gpu.sh [--parts LIST] [--build DIR] [--out FILE] [--shapes few|all]
#
#   --parts   comma-separated, in this order: parity, golden, mixing, sanitizer, limits, bench,
#             baseline. Default: all.
#   --build   where tests/ and perf/ have the programs (default build/release; missing ones are built
#             there, which needs cmake, ninja, nvcc and cmocka). golden and mixing read tests/ of the
#             checkout that they were built in, at its path.
#   --shapes  few: the first shape of each group of kernels, goldens of the base, states of one family,
#             fewer samples of limits, a tiny shape for bench; all (default): the selection that
#             tests/run.sh takes.
#   --out     the results file (default build/gpu-results.txt): device, command, then a line a part.
#
# parity     every op against ref/, generated and prompt form.
# golden     16-bit goldens: logits and greedy tokens of a reference implementation; what must hold of
#            recurrent states.
# mixing     a sequence's bits alone and in a crowd, with adapters coming and going, and preemption.
# sanitizer  compute-sanitizer's memcheck, racecheck and synccheck over one shape per kernel.
# limits     what the card can do at most, measured: memory, copies, launches, arithmetic.
# bench      an 8B shape with random weights, base and mixed in turn (perf/gpu_bench.c); four minutes.
# baseline   the same with transformers and peft, what a user would write; needs both in $PYTHON (python3).
#
# A part passes, fails, or is "not available" (no device, no tool), which is never a pass. Exit status:
# 0 all passed, 1 one failed, 2 usage, 3 none failed but something was not available.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=parity,golden,mixing,sanitizer,limits,bench,baseline
build=build/release
out=build/gpu-results.txt
shapes=all
usage() { sed -n '4,8p' "$0" | cut -c3- >&2; exit 2; }
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case "$1" in
    --parts) parts=$2 ;;
    --build) build=$2 ;;
    --out) out=$2 ;;
    --shapes) shapes=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ "$shapes" = few ] || [ "$shapes" = all ] || usage
for part in ${parts//,/ }; do
  case "$part" in parity | golden | mixing | sanitizer | limits | bench | baseline) ;; *) usage ;; esac
done
[ "$shapes" = all ] || export GRAFT_FIRST=1

programs="gpu_look parity golden_test golden_state_test mixing_test gpu_limits gpu_bench"
missing=0
for program in $programs; do
  [ -x "$build/tests/$program" ] || [ -x "$build/perf/$program" ] || missing=1
done
if [ $missing -eq 1 ]; then
  echo "building the programs in $build"
  # shellcheck disable=SC2086
  { cmake --preset "$(basename "$build")" && cmake --build "$build" --target $programs; } >/dev/null ||
    { echo "could not build them" >&2; exit 1; }
fi

mkdir -p "$(dirname "$out")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0
absent=0

say() { printf '%s\n' "$*" | tee -a "$out"; }

# A program that found no device says so and succeeds: what it must say on one is part of a pass.
run() { # name, line of a device, command...
  local name=$1 line=$2 started=$SECONDS rc=0
  shift 2
  "$@" >"$log" 2>&1 || rc=$?
  if [ $rc -ne 0 ]; then
    failed=1
    say "$name: FAILED, status $rc, $((SECONDS - started)) s: $*"
    tail -n 20 "$log" | sed 's/^/    /' | tee -a "$out"
  elif ! grep -q "$line" "$log"; then
    absent=1
    say "$name: not available: the program met no device"
  else
    passed=1
    say "$name: passed, $((SECONDS - started)) s: $(grep -c "$line" "$log") lines of \"$line\""
  fi
}

# The same, and what it printed is a part of the results.
run_table() {
  passed=0
  run "$@"
  [ $passed -eq 0 ] || sed 's/^/    /' "$log" | tee -a "$out"
}

part_parity() { run parity '^cuda .*sm_' "$build/tests/parity" cuda; }
part_golden() {
  run golden ' on cuda, ' "$build/tests/golden_test" cuda
  run "golden states" ' on cuda, ' "$build/tests/golden_state_test" cuda
}
part_mixing() { run mixing '^cuda: .* crowds' "$build/tests/mixing_test" 'cuda*'; }

part_sanitizer() {
  local tool
  if ! command -v compute-sanitizer >/dev/null; then
    absent=1
    say "sanitizer: not available: no compute-sanitizer on the PATH"
    return
  fi
  for tool in memcheck racecheck synccheck; do
    GRAFT_FIRST=1 run "sanitizer $tool" '^cuda .*sm_' compute-sanitizer --tool $tool --error-exitcode 9 \
      "$build/tests/parity" cuda
  done
}

part_limits() {
  local quick=()
  [ "$shapes" = all ] || quick=(--quick)
  run_table limits ' GB/s (' "$build/perf/gpu_limits" "${quick[@]}"
}

part_bench() {
  local shape=8b
  [ "$shapes" = all ] || shape=tiny
  run_table bench '^contents: .* the same' "$build/perf/gpu_bench" --shape $shape
}

# Status 3 says that a package, or CUDA, is not there.
part_baseline() {
  local shape=8b rc=0
  [ "$shapes" = all ] || shape=tiny
  "${PYTHON:-python3}" perf/baseline_peft.py --shape $shape >"$log" 2>&1 || rc=$?
  if [ $rc -eq 3 ]; then
    absent=1
    say "baseline: $(tail -n 1 "$log")"
    return
  fi
  run_table baseline '^decode, 1 row' sh -c "cat '$log'; exit $rc"
}

: >"$out"
say "graftd $(cat VERSION), $(date -u +%F), tests/gpu.sh --parts $parts --shapes $shapes"
if device=$("$build/tests/gpu_look"); then
  say "device: $device"
  for part in ${parts//,/ }; do
    "part_$part"
  done
else
  absent=1
  say "device: not available: $device"
  for part in ${parts//,/ }; do
    say "$part: not available"
  done
fi
say "$([ $failed -eq 1 ] && echo FAILED || { [ $absent -eq 1 ] && echo "not everything was available"; } || echo "all passed")"
[ $failed -eq 1 ] && exit 1
[ $absent -eq 1 ] && exit 3
exit 0
