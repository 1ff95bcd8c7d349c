#!/usr/bin/env bash
# compute-sanitizer's four tools over the CUDA tests, on short tensors: needs a card, a driver and the CUDA toolkit.
#
#   scripts/sanitize.sh                       builds the tests and runs all four tools
#   scripts/sanitize.sh BINARY ...            runs them on test binaries that were built elsewhere
#   TOOLS="memcheck" scripts/sanitize.sh      one tool
set -euo pipefail
[ $# -gt 0 ] || cd "$(dirname "$0")/.."
export TRIGRAD_SMALL=1 TRIGRAD_REQUIRE_CUDA=1
binaries=("$@")
if [ $# = 0 ]; then
  mapfile -t binaries < <(cargo test --no-default-features --features cuda,testing --test 'cuda_*' --no-run \
    --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
fi
for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
  for binary in "${binaries[@]}"; do
    echo "== $tool $(basename "$binary")"
    # Asked on purpose and refused: a buffer beyond the card's memory, a card that does not exist.
    compute-sanitizer --tool "$tool" --error-exitcode 99 --report-api-errors no "$binary" --test-threads=1
  done
done
echo "compute-sanitizer: nothing found"
