//! docs/support.md, generated from the code: operation by backend by element type, with its determinism level.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use trigrad::cpu::Cpu;
use trigrad::op::{Backend, OPERATIONS};
use trigrad::testing::arena::{Alignment, Place};
use trigrad::testing::case::{Case, Visit};
use trigrad::testing::{Failure, Options, cases};

const TYPES: [&str; 3] = ["f32", "f16", "bf16"];

/// The backends: name, and the suite that holds the claim.
const BACKENDS: [(&str, &str); 3] =
    [("CPU", "tests/cpu/conformance.rs"), ("CUDA", "tests/cuda_conformance.rs"), ("wgpu", "tests/wgpu/conformance.rs")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The element types that the suite has right calls for, by operation; each is made once on the CPU.
#[derive(Default)]
struct Types(BTreeMap<&'static str, BTreeSet<String>>);

impl Visit for Types {
    fn visit<C: Case>(&mut self, case: &C) -> Result<(), Box<Failure>> {
        let parameters = case.parameters();
        let first = parameters.split_whitespace().next().unwrap_or("").to_owned();
        let types = self.0.entry(case.operation()).or_default();
        if case.must_fail() || (types.contains(&first) && case.elements() > 100) {
            return Ok(());
        }
        let cpu = Cpu::new();
        let place = Place { alignment: Alignment::Aligned, poison: 1 };
        let mut bound = case.bind(&cpu, place).unwrap();
        case.call(&cpu, &mut bound, 0, false).unwrap_or_else(|e| panic!("{}: {e}", case.operation()));
        if TYPES.contains(&&*first) {
            types.insert(first);
        }
        Ok(())
    }
}

fn table() -> String {
    let mut types = Types::default();
    cases::each(&Options::default().max_elements(200), &mut types).unwrap();
    let names = BACKENDS.map(|b| b.0).join(", ");
    let mut text = "\
# What works where

Generated from the code; `tests/cpu/support.rs` fails when it is stale, and
`cargo test --features testing --test cpu -- --ignored support::regenerate` writes it anew. Each operation is one of the
conformance suite: bit for bit what `NUMERICS.md` says, for every type in its row. A backend that lacks one does not
compile.

| operation | element types | same bits |
|---|---|---|
"
    .to_owned();
    for &operation in OPERATIONS {
        let of: Vec<&str> = TYPES.into_iter().filter(|t| types.0[operation].contains(*t)).collect();
        let of = if of.is_empty() { "packed words".to_owned() } else { of.join(", ") };
        writeln!(text, "| `{operation}` | {of} | cross-backend: {names} |").unwrap();
    }
    let suites = BACKENDS.map(|(name, suite)| format!("`{suite}` ({name})")).join(", ");
    write!(
        text,
        "\n*Cross-backend* is the strongest level there is: the same bytes on the named backends, in every run, on every card, for
every launch shape, number of threads and split. Held by {suites}.
The kinds of CPU code (plain, AVX2, AVX-512) are each run through it. A training that chains the operations is held by
`tests/cpu/determinism.rs` and `tests/cuda_determinism.rs`.\n"
    )
    .unwrap();
    text
}

fn file() -> PathBuf {
    root().join("docs/support.md")
}

#[test]
fn the_table_is_the_codes() {
    let there = fs::read_to_string(file()).unwrap();
    assert!(
        there == table(),
        "docs/support.md is stale: cargo test --features testing --test cpu -- --ignored support::regenerate"
    );
}

#[test]
fn every_suite_is_there() {
    for (_, suite) in BACKENDS {
        assert!(root().join(suite).is_file(), "{suite}");
    }
}

/// What the table says of a backend is held by its type: whatever is a `Backend` has every operation.
#[test]
fn backends_have_every_operation() {
    fn has_every_operation<B: Backend>() {}
    has_every_operation::<Cpu>();
    #[cfg(feature = "cuda-kernels")]
    has_every_operation::<trigrad::cuda::Cuda>();
    #[cfg(feature = "wgpu")]
    has_every_operation::<trigrad::webgpu::Wgpu>();
    has_every_operation::<trigrad::device::Device>();
}

#[test]
#[ignore = "writes docs/support.md"]
fn regenerate() {
    fs::write(file(), table()).unwrap();
}
