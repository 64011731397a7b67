#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. Usage: tests/run.sh [--long]
#
#   default: house rules, ASan+UBSan and TSan builds of the CPU tests, one clang build, the CUDA
#            backend on the emulated device (plain, ASan+UBSan, race check), then the release build,
#            CUDA code included where there is nvcc, with every test; ends with ctest's summary.
#   --long:  also clang-tidy, CUDA code for every card in use, the full products and counts
#            (GRAFT_LONG=1), ten minutes of every fuzz target, and the README's two commands in an
#            empty Debian root.
set -euo pipefail
cd "$(dirname "$0")/.."

long=0
for arg in "$@"; do
  case "$arg" in
    --long) long=1 ;;
    *) echo "usage: tests/run.sh [--long]" >&2; exit 2 ;;
  esac
done

started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }

build() { # preset [cmake arguments...]; $target: other than all
  cmake --preset "$@" >"build/$1.configure.log" 2>&1 || { cat "build/$1.configure.log"; exit 1; }
  cmake --build --preset "$1" --target "${target:-all}" >"build/$1.build.log" 2>&1 ||
    { tail -n 60 "build/$1.build.log"; exit 1; }
}

mkdir -p build
say "packages"
groups="build test"
[ $long -eq 1 ] && groups="$groups long"
# shellcheck disable=SC2086
deploy/deps.sh $groups
GRAFT_PYTHON=$(deploy/venv.sh)
export GRAFT_PYTHON
[ $long -eq 1 ] && export GRAFT_LONG=1

say "clang: compile once"
build clang

for preset in asan tsan; do
  say "$preset: build"
  build $preset
  say "$preset: test"
  ctest --preset $preset -j2 --output-on-failure --quiet -O "build/$preset.ctest.log" ||
    { cat "build/$preset.ctest.log"; exit 1; }
  tail -n 4 "build/$preset.ctest.log"
done

# The sanitizer builds of the emulated device leave out the daemon: its threads are the CPU builds' to
# check, the kernels are what is new.
for preset in emu emu-asan emu-race; do
  say "$preset: build"
  skip=()
  if [ $preset = emu ]; then
    build $preset
  else
    target=emulated_tests build $preset
    skip=(-E "e2e|mixing|golden")
  fi
  say "$preset: test"
  ctest --preset $preset -L emulated "${skip[@]}" -j2 --output-on-failure --quiet \
    -O "build/$preset.ctest.log" || { cat "build/$preset.ctest.log"; exit 1; }
  tail -n 4 "build/$preset.ctest.log"
done

if [ $long -eq 1 ]; then
  say "clang-tidy"
  tests/tidy/clang-tidy.sh
  say "fuzz: ten minutes a target"
  build fuzz
  tests/fuzz/run.sh 600
  say "clean room"
  tests/clean-room.sh
fi

say "release: build"
targets=few
[ $long -eq 1 ] && targets=all
build release -DCUDA_TARGETS=$targets
say "release: test"
ctest --preset release -j2 --output-on-failure
