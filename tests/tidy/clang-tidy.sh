#!/usr/bin/env bash
# clang-tidy over every C file of the clang build, with the checks of .clang-tidy.
set -euo pipefail
cd "$(dirname "$0")/../.."
git ls-files '*.c' | grep -E '^(daemon|kernels|adapters|perf)/' |
  xargs -P 2 -n 4 clang-tidy --quiet -p build/clang
