#!/usr/bin/env bash
# Address sanitizer over everything that holds unsafe code on the CPU: the vector code, through the unit tests, the
# conformance suite (which guards, misaligns and poisons every buffer) and the laws. Needs nightly.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=$(rustc +nightly -vV | sed -n 's/^host: //p')
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address" RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -Zsanitizer=address"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:allocator_may_return_null=1}"
build=(${TRIGRAD_CARGO_FLAGS:-} --target "$triple" --target-dir target/asan --no-default-features --features testing)
cargo +nightly test "${build[@]}" --lib "$@"
cargo +nightly test "${build[@]}" --test cpu "$@" -- conformance:: goldens:: properties:: accumulator:: checkpoint::
