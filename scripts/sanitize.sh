#!/usr/bin/env bash
# compute-sanitizer's four tools over the CUDA tests, on short tensors: needs a card, a driver and the CUDA toolkit.
# The tools slow every launch, so the conformance suite runs one operation on one stream a process, several side by side.
# The driver does one call at a time, 80 a second: half an hour in all.
#
#   scripts/sanitize.sh                       builds the tests and runs all four tools
#   scripts/sanitize.sh BINARY ...            runs them on test binaries that were built elsewhere
#   TOOLS="memcheck" scripts/sanitize.sh      one tool
#   ONLY="merge look" scripts/sanitize.sh     some operations of the conformance suite
#   STREAMS=on_the_default_stream scripts/sanitize.sh   that stream alone
#   TRIGRAD_PART=0/4 scripts/sanitize.sh      a quarter of the suite's cases; 1/4, 2/4 and 3/4 are the others
#
# Environment: JOBS, processes side by side (default: half of the cores); LIMIT, seconds for one (default: 1800);
# LOGS, a folder for what each printed (default: target/sanitize).
set -euo pipefail
[ $# -gt 0 ] || cd "$(dirname "$0")/.."
export TRIGRAD_SMALL=1 TRIGRAD_REQUIRE_CUDA=1
export LIMIT=${LIMIT:-1800} LOGS=${LOGS:-target/sanitize}
cores=$(nproc)
jobs=${JOBS:-$(((cores + 1) / 2))}
mkdir -p "$LOGS"
binaries=("$@")
if [ $# = 0 ]; then
  mapfile -t binaries < <(cargo test --no-default-features --features cuda,testing --test 'cuda_*' --no-run \
    --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
fi
# The operations there are, as the suite itself names them.
names() {
  local binary
  for binary in "${binaries[@]}"; do
    case "$(basename "$binary")" in cuda_conformance*) "$binary" names --exact --nocapture | sed -n 's/^operation: //p' ;; esac
  done | sort -u
}
operations=${ONLY:-$(names)}
[ -n "$operations" ] || { echo "no operation is named by ${binaries[*]}" >&2; exit 1; }

one() { # TOOL BINARY OPERATION TEST: a line with what came of it
  local log="$LOGS/$1-$(basename "$2")${3:+-$3-$4}.log" status=0
  # Asked on purpose and refused: a buffer beyond the card's memory, a card that does not exist.
  TRIGRAD_ONLY=$3 timeout "$LIMIT" compute-sanitizer --tool "$1" --error-exitcode 99 --report-api-errors no "$2" $4 --test-threads=1 \
    > "$log" 2>&1 || status=$?
  if [ "$status" = 0 ] && ! grep -q 'test result: ok. [1-9]' "$log" || grep -q '^skipped' "$log"; then status=98; fi
  [ "$status" = 0 ] && result=clean || result="STATUS $status ($log)"
  printf '%-10s %-18s %-40s %s\n' "$1" "$(basename "$2" | sed 's/-[0-9a-f]\{16\}$//')" "$3 ${4#on_}" "$result: $(grep -hoE '(ERROR|RACECHECK) SUMMARY.*|test result.*filtered out' "$log" | paste -sd' ')"
  [ "$status" = 0 ]
}
export -f one
lines() { # what there is to run: TOOL BINARY OPERATION TEST
  local operation binary tool test
  for operation in $operations others; do
    for binary in "${binaries[@]}"; do
      for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
        case "$operation $(basename "$binary")" in
          others\ cuda_conformance*) ;;
          others*) echo "$tool $binary - -" ;;
          *cuda_conformance*)
            for test in ${STREAMS:-on_the_default_stream on_a_stream_of_its_own}; do echo "$tool $binary $operation $test"; done
            ;;
        esac
      done
    done
  done
}
lines | xargs -P "$jobs" -L 1 bash -c 'one "$0" "$1" "${2#-}" "${3#-}"' || { echo "compute-sanitizer: see above" >&2; exit 1; }
echo "compute-sanitizer: nothing found"
