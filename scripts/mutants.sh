#!/usr/bin/env bash
# Mutation testing of numerics, op and cpu: hours. Each mutant that no test notices is listed, and either killed by a
# test or named with its reason in docs/proof.md. Needs cargo-mutants (cargo install cargo-mutants).
#
#   scripts/mutants.sh                            all 2,790 of them
#   scripts/mutants.sh --shard 0/8                an eighth
#   scripts/mutants.sh --re 'src/numerics/trit'   one file
set -euo pipefail
cd "$(dirname "$0")/.."
cargo mutants --output target/mutants --timeout 600 "$@"
