//! docs/support.md, generated from the code: operation by backend by element type, with its determinism level.

#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(feature = "wgpu")]
use trigrad::backend::Backend;
use trigrad::cpu::Cpu;
use trigrad::testing::arena::{Alignment, Place};
use trigrad::testing::case::{Case, Visit};
use trigrad::testing::{Failure, Options, cases};

const TYPES: [&str; 3] = ["f32", "f16", "bf16"];

/// The backends: name, folder, the type that implements the operations, and the suite that holds the claim.
const BACKENDS: [(&str, &str, &str, &str); 3] = [
    ("CPU", "cpu", "Cpu", "tests/conformance.rs"),
    ("CUDA", "cuda", "Cuda", "tests/cuda_conformance.rs"),
    ("wgpu", "webgpu", "Wgpu", "tests/wgpu_conformance.rs"),
];

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

/// The functions of the operations that a backend implements itself; the trait's own answer "unsupported".
fn implemented(folder: &str, backend: &str) -> BTreeSet<String> {
    let start = format!("impl Backend for {backend} {{");
    let mut sources: Vec<PathBuf> =
        fs::read_dir(root().join("src").join(folder)).unwrap().map(|f| f.unwrap().path()).collect();
    sources.retain(|p| p.extension().is_some_and(|e| e == "rs"));
    let text = sources.iter().map(|p| fs::read_to_string(p).unwrap()).find(|t| t.contains(&start)).unwrap();
    let body = text.split_once(&start).unwrap().1.split_once("\n}").unwrap().0;
    let name = |line: &str| line.strip_prefix("    fn ")?.split(['<', '(']).next().map(str::to_owned);
    body.lines().filter_map(name).collect()
}

fn table() -> String {
    let mut types = Types::default();
    cases::each(&Options::default().max_elements(200), &mut types).unwrap();
    let there: Vec<_> = BACKENDS.iter().map(|(_, folder, backend, _)| implemented(folder, backend)).collect();
    let mut text = "\
# What works where

Generated from the code; `tests/support.rs` fails when it is stale, and `cargo test --features testing --test support --
--ignored regenerate` writes it anew. A *yes* is an operation of the conformance suite: bit for bit what `NUMERICS.md`
says, for every type in its row. A *no* is answered by `Error::Unsupported`, never by another device.

| operation | element types | CPU | CUDA | wgpu | same bits |
|---|---|---|---|---|---|
"
    .to_owned();
    for &operation in cases::OPERATIONS {
        let of: Vec<&str> = TYPES.into_iter().filter(|t| types.0[operation].contains(*t)).collect();
        let of = if of.is_empty() { "packed words".to_owned() } else { of.join(", ") };
        let on: Vec<bool> = there.iter().map(|t| t.contains(operation)).collect();
        let [cpu, cuda, wgpu] = [0, 1, 2].map(|i| if on[i] { "yes" } else { "no" });
        let names: Vec<&str> = BACKENDS.iter().zip(&on).filter(|(_, on)| **on).map(|(b, _)| b.0).collect();
        let level = if names.len() > 1 { format!("cross-backend: {}", names.join(", ")) } else { names.join("") };
        writeln!(text, "| `{operation}` | {of} | {cpu} | {cuda} | {wgpu} | {level} |").unwrap();
    }
    text.push_str("\n*Cross-backend* is the strongest level there is: the same bytes on the named backends, in every run, on every card, for every\nlaunch shape, number of threads and split. Held by ");
    let suites: Vec<String> = BACKENDS.iter().map(|b| format!("`{}` ({})", b.3, b.0)).collect();
    text.push_str(&suites.join(", "));
    text.push_str(".\nThe kinds of CPU code (plain, AVX2, AVX-512) are each run through it. A training that chains the operations is held by\n`tests/determinism.rs` and `tests/cuda_determinism.rs`.\n");
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
        "docs/support.md is stale: cargo test --features testing --test support -- --ignored regenerate"
    );
}

#[test]
fn every_suite_is_there_and_every_operation_of_the_cpu_is_its_own() {
    for (_, folder, backend, suite) in BACKENDS {
        assert!(Path::new(&root().join(suite)).is_file(), "{suite}");
        let known = cases::OPERATIONS.iter().map(|o| (*o).to_owned()).collect::<BTreeSet<_>>();
        let own = implemented(folder, backend);
        assert!(own.is_subset(&known), "{backend} has an operation that the suite does not: {own:?}");
        assert!(own.len() >= 18, "{backend}: {own:?}");
    }
    assert_eq!(implemented("cpu", "Cpu").len(), cases::OPERATIONS.len());
}

/// The table's "no" against a device, where there is one.
#[cfg(feature = "wgpu")]
#[test]
fn what_the_table_denies_is_refused_by_a_device() {
    use trigrad::op::update::Sgd;
    use trigrad::{Error, webgpu::Wgpu};
    let Ok(gpu) = Wgpu::with(&trigrad::webgpu::Options::default()) else { return };
    let own = implemented("webgpu", "Wgpu");
    let source =
        trigrad::op::update::Source { bits: 4, block: Default::default(), factor: 1.0, draw: Default::default() };
    let terms = trigrad::numerics::update::SgdTerms { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0 };
    let answer = gpu.update_sgd::<f32>(&Sgd { source, terms, nesterov: false }, &mut [], None);
    assert_eq!(matches!(answer, Err(Error::Unsupported { .. })), !own.contains("update_sgd"), "{answer:?}");
}

#[test]
#[ignore = "writes docs/support.md"]
fn regenerate() {
    fs::write(file(), table()).unwrap();
}
