#!/usr/bin/env bash
# valgrind (memcheck) over everything that holds unsafe code on the CPU, on stable: reads and writes outside of
# buffers, and decisions on bytes that were never written. Valgrind knows AVX2 and no AVX-512: what is chosen at run
# time is then AVX2.
#
# It runs 20 to 50 times slower, so the suite runs on short tensors: TRIGRAD_SMALL=1.
set -euo pipefail
cd "$(dirname "$0")/.."
export TRIGRAD_SMALL=1
tests=(--lib --test cpu)
binaries=$(cargo test ${TRIGRAD_CARGO_FLAGS:-} --no-default-features --features testing "${tests[@]}" --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
for binary in $binaries; do
  case $binary in
    */deps/cpu-*) filter=(goldens:: conformance::cpu_fastest) ;;
    *) filter=(cpu::) ;;
  esac
  echo "== $(basename "$binary") ${filter[*]:-}"
  valgrind --quiet --error-exitcode=99 --track-origins=no --leak-check=no "$binary" "${filter[@]}" --test-threads=1
done
echo "valgrind: nothing found"
