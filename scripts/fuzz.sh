#!/usr/bin/env bash
# Fuzzes every target, one after the other, from the committed corpus on; a finding stops it. Needs nightly and
# cargo-fuzz (cargo install cargo-fuzz).
#
#   scripts/fuzz.sh [seconds a target, 600] [target ...]
#
# The seed of each run is printed, and taken from SEED where that is set. New inputs go to fuzz/target/corpus;
# `scripts/fuzz.sh minimize` brings a small set of them that covers as much back into fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
shift || true
all=(checkpoint trits quantize accumulate read update accumulator seed_api training_checkpoint)
targets=("${@:-${all[@]}}")
seed=${SEED:-$(date +%s)}
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
bin=fuzz/target/$triple/release

[ -n "${TRIGRAD_FUZZ_BUILT:-}" ] || cargo +nightly fuzz build --target-dir fuzz/target
for t in "${targets[@]}"; do
  mkdir -p "fuzz/target/corpus/$t" "fuzz/corpus/$t" fuzz/artifacts
  if [ "$seconds" = minimize ]; then
    rm -rf "fuzz/target/small/$t"
    mkdir -p "fuzz/target/small/$t"
    "$bin/$t" -merge=1 -max_len=512 "fuzz/target/small/$t" "fuzz/corpus/$t" "fuzz/target/corpus/$t" 2>/dev/null
    # The smallest files first, 48 of them: the rest grows again in seconds.
    # Inputs of past findings have names of their own, and stay.
    find "fuzz/corpus/$t" -type f -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
    find "fuzz/target/small/$t" -type f -printf '%s %p\n' | sort -n | sed -n '1,48p' | cut -d' ' -f2- |
      while read -r f; do cp "$f" "fuzz/corpus/$t/"; done
    echo "$t: $(find "fuzz/corpus/$t" -type f | wc -l) inputs"
  else
    echo "== $t, $seconds s, seed $seed, $(date -u +%Y-%m-%dT%H:%MZ)"
    "$bin/$t" -max_total_time="$seconds" -seed="$seed" -max_len=4096 -rss_limit_mb=4096 -print_final_stats=1 \
      -artifact_prefix="fuzz/artifacts/$t-" "fuzz/target/corpus/$t" "fuzz/corpus/$t" 2>&1 |
      grep -vE '^#[0-9]+.*(NEW|REDUCE|RELOAD|pulse)|^$|^INFO' | tail -40
  fi
done
