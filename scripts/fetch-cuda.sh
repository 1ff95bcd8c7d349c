#!/usr/bin/env bash
# Fetches a CUDA 13.0 compiler and libraries as Python wheels into .cuda/ (no root, no driver, about 1 GB), and makes
# what the wheels leave out: unversioned names of the libraries, lib64, and a stub libcuda.so to link against.
# Prints the lines that make a shell use it, and nothing else, on standard output:
#
#   eval "$(scripts/fetch-cuda.sh)"
#
# Environment: TRIGRAD_CUDA_DIR, where to put it (default: .cuda); CUDA_COMPUTE_CAP, for candle's kernels (default: 90).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${TRIGRAD_CUDA_DIR:-.cuda}"
dir=$(cd "${TRIGRAD_CUDA_DIR:-.cuda}" && pwd)
home=$dir/nvidia/cu13
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.10.0.20 nvidia-curand==10.4.5.25)

if [ ! -e "$dir/.wheels" ] || [ "$(cat "$dir/.wheels")" != "${wheels[*]}" ]; then
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$dir" "${wheels[@]}" >&2
  echo "${wheels[*]}" > "$dir/.wheels"
fi

chmod +x "$home"/bin/* "$home"/nvvm/bin/* 2>/dev/null || true
[ -e "$home/lib64" ] || ln -s lib "$home/lib64"
for versioned in "$home"/lib/lib*.so.*; do
  plain=${versioned%%.so.*}.so
  [ -e "$plain" ] || ln -s "$(basename "$versioned")" "$plain"
done

# The stub: every driver function that cudarc declares, none of which may be called. At run time the driver's own
# library of the same soname takes its place.
if [ ! -e "$home/lib/libcuda.so" ]; then
  sys=$(cargo metadata --format-version 1 --all-features | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "cudarc":
        print(os.path.join(os.path.dirname(package["manifest_path"]), "src/driver/sys/mod.rs"))')
  [ -n "$sys" ] || { echo "cudarc is not among the dependencies" >&2; exit 1; }
  grep -ohE 'fn cu[A-Z][A-Za-z0-9_]*' $sys | sort -u | sed 's/^fn \(.*\)/int \1(void) { return 999; }/' > "$dir/stub.c"
  "${CC:-gcc}" -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$home/lib/libcuda.so" "$dir/stub.c"
fi

cat <<EXPORTS
export CUDA_HOME='$home' CUDA_PATH='$home' CUDA_ROOT='$home'
export PATH='$home/bin':"\$PATH"
export LIBRARY_PATH='$home/lib'\${LIBRARY_PATH:+:"\$LIBRARY_PATH"}
export CUDA_COMPUTE_CAP='${CUDA_COMPUTE_CAP:-90}'
EXPORTS
