#!/usr/bin/env bash
# Builds, on a machine without a GPU, everything that has to run on one, into one archive with a `run` script:
# CUDA and wgpu tests with and without candle, benches, examples and their data.
#
#   scripts/bundle.sh [OUT.tar.xz]          all of it (candle's CUDA build takes a quarter of an hour, once)
#   TRIGRAD_BUNDLE=raw scripts/bundle.sh     without the parts that need candle
#   TRIGRAD_CUDA_ARCHS=90                    compile the kernels for one architecture
#
# On the GPU machine (Linux, NVIDIA driver; CUDA 13 libraries for the parts with candle; no Rust):
#   tar xf trigrad-gpu.tar.xz && trigrad-gpu/run
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/trigrad-gpu.tar.xz}
stage=target/bundle/trigrad-gpu
rm -rf "$stage"
mkdir -p "$stage"/{raw,candle,bench,example}

command -v "${NVCC:-nvcc}" >/dev/null || eval "$(scripts/fetch-cuda.sh)"

# Names and paths of the executables that a cargo call built, from its JSON messages.
built() {
  cargo "$@" --message-format=json-render-diagnostics | python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("reason") == "compiler-artifact" and m.get("executable"):
        print(m["target"]["name"], m["executable"])'
}
take() { # FOLDER: copies what `built` prints on standard input, stripped
  while read -r name path; do
    install -m 755 "$path" "$stage/$1/$name"
    strip "$stage/$1/$name"
  done
}

raw=(--release --no-default-features --features cuda,wgpu,testing)
built test "${raw[@]}" --no-run --lib --test 'cuda_*' --test wgpu --test cpu | take raw
built bench --no-default-features --features cuda,wgpu,testing --no-run --bench cuda --bench training --bench wgpu | take bench
if [ "${TRIGRAD_BUNDLE:-all}" != raw ]; then
  full=(--release --features cuda,wgpu,testing)
  built test "${full[@]}" --no-run --test candle_cuda --test candle | take candle
  built build "${full[@]}" --example train_fashion --example train_char_lm | take example
fi
cp -r examples/data "$stage/example/data"
cp -r benches/peers "$stage/bench/peers" 2>/dev/null || true
cp scripts/bundle-run.sh "$stage/run"
cp scripts/sanitize.sh "$stage/"
git rev-parse HEAD > "$stage/COMMIT"
git diff --quiet HEAD -- . || echo "with uncommitted changes" >> "$stage/COMMIT"
# The binaries with candle share most of their bytes: a dictionary larger than any of them finds that.
tar -C target/bundle -cf - trigrad-gpu | xz --lzma2=preset=6,dict=256MiB > "$out"
size=$(stat -c %s "$out")
echo "$out: $((size / 1000000)) MB"
[ "$size" -le 60000000 ] || { echo "larger than 60 MB" >&2; exit 1; }
