#!/usr/bin/env bash
# Runs every fuzz target of the fuzz build for N seconds each (default 60), two at a time, starting
# from its committed corpus; new inputs stay in build/fuzz. Usage: tests/fuzz/run.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}

one() { # program
  name=$(basename "$1")
  mkdir -p "build/fuzz/corpus/$name"
  if "$1" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1; then
    echo "$name: $(grep -m1 'stat::number_of_executed_units' "build/fuzz/$name.log" | awk '{print $2}') runs, clean"
  else
    tail -n 40 "build/fuzz/$name.log"
    echo "$name: FAILED"
    return 1
  fi
}
export -f one
export seconds
find build/fuzz/tests -maxdepth 1 -type f -name 'fuzz_*' -perm -u+x | sort |
  xargs -P 2 -I{} bash -c 'one {}'
