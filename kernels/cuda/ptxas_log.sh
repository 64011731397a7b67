#!/bin/sh
# Runs the compiler given as arguments and keeps what ptxas says of each kernel beside the object, as
# OBJECT.ptxas: tests/tidy/ceilings.py reads it. Everything else the compiler says is passed on.
object=
before=
for arg in "$@"; do
  [ "$before" = "-o" ] && object=$arg
  before=$arg
done
"$@" 2>"$object.ptxas"
status=$?
grep -v -e '^ptxas info ' -e '^    [0-9]* bytes stack frame' "$object.ptxas" >&2
exit $status
