#!/usr/bin/env bash
# Runs the GPU bundle: a line a test, a table a bench. Exits non-zero if anything failed, or was skipped though a
# card is there.
#
#   ./run                tests, benches and examples in a short form: about six minutes
#   ./run tests|bench|examples|sanitize|training    a part; several may be named. training: the language model at
#                        full length, 8 and 32 micro-batches, hours
#   ./run bench -- ARGS  arguments for the CUDA bench. Where python3 has PyTorch, its peers run beside it; bitsandbytes and
#                        torchao only where they are installed as well
#
# Environment: TRIGRAD_JSON_DIR, where benches and examples leave their JSON (default: ./results).
set -uo pipefail
cd "$(dirname "$0")"
parts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do parts+=("$1"); shift; done
[ "${1:-}" = -- ] && shift
[ ${#parts[@]} -gt 0 ] || parts=(tests bench examples)
results=${TRIGRAD_JSON_DIR:-results}
mkdir -p "$results"

# CUDA's libraries (cuBLAS, cuRAND, NVRTC): only the parts with candle need them.
for d in /usr/local/cuda*/lib64 /usr/lib/x86_64-linux-gnu \
  $(python3 -c 'import sys, glob; print(*[g for p in sys.path for g in glob.glob(p + "/nvidia/*/lib")])' 2>/dev/null); do
  for library in cublas nvrtc curand cudart; do
    ls "$d/lib$library.so"* >/dev/null 2>&1 || continue
    export LD_LIBRARY_PATH="$d${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    break
  done
done
export TRIGRAD_REQUIRE_CUDA=1 TRIGRAD_REQUIRE_WGPU=1
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L | grep -q GPU; then
  echo "no NVIDIA card found" >&2
  exit 1
fi
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader
echo "commit $(cat COMMIT)"

passed=0 failed=0
failures=()
record() { # STATUS NAME
  if [ "$1" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); failures+=("$2"); fi
}
char_lm() { # NAME ARGS: the language model on the card
  [ -x example/train_char_lm ] || return 0
  local name=$1
  shift
  echo "== train_char_lm --device cuda $*"
  example/train_char_lm --device cuda --text example/data/moby-dick/moby-dick.txt "$@" \
    --json "$results/$name.json" --png "$results/$name.png"
  record $? "$name"
}
tests_of() { # PROGRAM THREADS ARGS: with what passing tests print, since one that was skipped says so
  local program=$1 threads=$2 log status
  shift 2
  log="$results/$(basename "$program")-$threads.log"
  echo "== $program $*"
  "$program" --test-threads="$threads" --show-output "$@" 2>&1 | tee "$log" | grep -E '^test |panicked|skipped|^error|FAILED|result:'
  status=${PIPESTATUS[0]}
  grep -q '^skipped' "$log" && status=1
  grep -q '^test result: ok. [1-9]' "$log" || status=1
  record "$status" "$program $*"
}
part() { local p; for p in "${parts[@]}"; do [ "$p" = "$1" ] && return 0; done; return 1; }

if part tests; then
  for t in raw/{trigrad,cpu,wgpu} raw/cuda_{conditions,conformance,determinism,faults,graph,order}; do
    [ -x "$t" ] || { echo "== $t: not in this bundle"; record 1 "$t"; }
  done
  for t in raw/* candle/*; do
    [ -x "$t" ] || continue
    # Of the programs that read the sources or their fixtures: what runs on a card, and the suite on this CPU.
    case "$t" in
      raw/cpu) tests_of "$t" 8 conformance:: training_backends:: moments:: ;;
      candle/candle) tests_of "$t" 1 on_wgpu:: ;;
      raw/wgpu)
        tests_of "$t" 3 conformance::
        tests_of "$t" 1 --skip conformance::
        ;;
      raw/cuda_* | candle/*) tests_of "$t" 1 ;;
      *) tests_of "$t" 8 ;;
    esac
  done
fi
if part sanitize; then
  LOGS="$results/sanitize" ./sanitize.sh raw/cuda_* $(ls candle/candle_cuda 2>/dev/null)
  record $? sanitize
fi
if part bench; then
  for b in bench/cuda bench/training bench/wgpu; do
    [ -x "$b" ] || continue
    echo "== $b"
    own=()
    [ "$b" = bench/cuda ] && own=("$@")
    "$b" --json "$results/$(basename "$b").json" "${own[@]}"
    record $? "$b"
  done
  if python3 -c 'import torch, triton' 2>/dev/null; then
    echo "== bench/peers"
    python3 bench/peers/gpu.py --json "$results/peers.json"
    record $? peers
  else
    echo "== bench/peers: not run, since this machine's python3 has no PyTorch with Triton"
  fi
fi
if part examples; then
  for device in cuda wgpu; do
    [ -x example/train_fashion ] || continue
    echo "== train_fashion --device $device"
    example/train_fashion --device $device --data example/data/fashion-mnist \
      --json "$results/train_fashion_$device.json" --png "$results/train_fashion_$device.png"
    record $? "train_fashion $device"
  done
  char_lm train_char_lm --seeds 1 --steps 10 --ways f32,8,4
fi
if part training; then
  for k in 8 32; do char_lm "train_char_lm_$k" --micro-batches $k; done
fi
printf '%s\n' "${failures[@]/#/FAILED: }"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
