#!/usr/bin/env bash
# nvcc for checks that run nothing: this crate's kernels are compiled, candle's, a quarter of an hour on two cores, come out empty.
#
#   NVCC=$PWD/scripts/nvcc-without-candle.sh cargo clippy --all-targets --features cuda
#
# Environment: TRIGRAD_NVCC, the compiler (default: nvcc). What is built with this must not be run.
set -euo pipefail
case "$PWD" in
  */candle-kernels-*) ;;
  *) exec "${TRIGRAD_NVCC:-nvcc}" "$@" ;;
esac
out='' folder='' source=''
arguments=("$@")
while [ $# -gt 0 ]; do
  case "$1" in
    -o) out=$2 && shift ;;
    --output-directory) folder=$2 && shift ;;
    *.cu) source=$1 ;;
  esac
  shift
done
if [ -n "$out" ]; then
  : > "$out"
elif [ -n "$folder" ] && [ -n "$source" ]; then
  source=${source##*/}
  : > "$folder/${source%.cu}.ptx"
else
  exec "${TRIGRAD_NVCC:-nvcc}" "${arguments[@]}"
fi
