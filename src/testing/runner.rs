//! Runs a case on a backend and on the reference, and compares.

use super::arena::{Alignment, Field, Place};
use super::case::{Case, Found, Visit};
use super::failure::{Covered, Difference, Failure, Summary};
use super::options::Options;
use super::reference::Reference;
use crate::op::Backend;

/// A way to run a case: the layout of its buffers, and one list or many.
#[derive(Clone, Copy, Debug)]
struct Run {
    alignment: Alignment,
    singly: bool,
}

/// Every case is run in each of these ways, on outputs filled with something else each time.
const RUNS: [Run; 3] = [
    Run { alignment: Alignment::Aligned, singly: false },
    Run { alignment: Alignment::Odd, singly: false },
    Run { alignment: Alignment::Mixed, singly: true },
];

/// What one step must leave behind.
struct Expected {
    outcome: Outcome,
    found: Found,
}

/// Compares every case that it is given.
pub(super) struct Runner<'a, B: Backend> {
    backend: &'a B,
    options: &'a Options,
    /// Cases met so far.
    met: u64,
    pub(super) summary: Summary,
}

impl<'a, B: Backend> Runner<'a, B> {
    pub(super) fn new(backend: &'a B, options: &'a Options) -> Self {
        Runner { backend, options, met: 0, summary: Summary::default() }
    }
}

impl<B: Backend> Visit for Runner<'_, B> {
    fn visit<C: Case>(&mut self, case: &C) -> Result<(), Box<Failure>> {
        self.met += 1;
        if !self.options.takes(self.met - 1) {
            return Ok(());
        }
        let failure = |run: &Run, step: usize, what: Difference| {
            Box::new(Failure {
                backend: self.backend.name(),
                operation: case.operation().to_owned(),
                parameters: case.parameters(),
                seed: self.options.seed,
                run: format!("{:?} views, {}", run.alignment, if run.singly { "one by one" } else { "one list" }),
                step,
                what,
            })
        };
        let expected = expectations(case).map_err(|what| failure(&RUNS[0], 0, what))?;
        let mut calls = 0;
        for (number, run) in RUNS.iter().enumerate() {
            let place = Place { alignment: run.alignment, poison: self.options.seed ^ (number as u64 + 1) << 40 };
            let mut bound = case.bind(self.backend, place).map_err(|e| failure(run, 0, e.into()))?;
            for (step, expected) in expected.iter().enumerate() {
                let before = match expected.outcome {
                    Ok(()) => None,
                    Err(_) => Some(case.collect(self.backend, &bound).map_err(|what| failure(run, step, what))?),
                };
                let got = case.call(self.backend, &mut bound, step, run.singly).map_err(|e| format!("{e:?}"));
                calls += 1;
                compare(&got, &expected.outcome)
                    .and_then(|()| case.collect(self.backend, &bound))
                    .and_then(|found| same(case, &found, before.as_ref().unwrap_or(&expected.found), step))
                    .map_err(|what| failure(run, step, what))?;
            }
        }
        let covered = self.summary.operations.entry(case.operation().to_owned()).or_default();
        let Covered { cases, calls: all, elements } = *covered;
        *covered = Covered { cases: cases + 1, calls: all + calls, elements: elements + case.elements() * calls };
        Ok(())
    }
}

/// Runs a case on the reference.
fn expectations<C: Case>(case: &C) -> Result<Vec<Expected>, Difference> {
    let place = Place { alignment: Alignment::Odd, poison: 0 };
    let mut bound = case.bind(&Reference, place)?;
    let step = |step| {
        let outcome = case.call(&Reference, &mut bound, step, false).map_err(|e| format!("{e:?}"));
        Ok(Expected { outcome, found: case.collect(&Reference, &bound)? })
    };
    let expected: Vec<Expected> = (0..case.steps()).map(step).collect::<Result<_, Difference>>()?;
    match expected.iter().find(|e| e.outcome.is_err() != case.must_fail()) {
        Some(e) => Err(Difference::Contract(format!("the reference itself gives {:?}", e.outcome))),
        None => Ok(expected),
    }
}

type Outcome = Result<(), String>;

/// Compares what a call returned.
fn compare(got: &Outcome, expected: &Outcome) -> Result<(), Difference> {
    match (got, expected) {
        (got, expected) if got == expected => Ok(()),
        (got, expected) => {
            Err(Difference::Outcome { got: got.clone().err(), expected: expected.as_ref().err().cloned() })
        }
    }
}

/// Compares what a call left behind with what it must leave: the reference's, or after an error what was there before.
fn same<C: Case>(case: &C, got: &Found, expected: &Found, step: usize) -> Result<(), Difference> {
    for (got, expected) in got.fields.iter().zip(&expected.fields) {
        for (tensor, (got_bytes, expected_bytes)) in got.contents.iter().zip(&expected.contents).enumerate() {
            if got_bytes != expected_bytes {
                return Err(value(case, (got, tensor), got_bytes, expected_bytes, step));
            }
        }
    }
    for (slot, (got, expected)) in got.reports.iter().zip(&expected.reports).enumerate() {
        if got != expected {
            return Err(Difference::Report { slot, got: *got, expected: *expected });
        }
    }
    if got.reports.len() == expected.reports.len() {
        Ok(())
    } else {
        let (got, expected) = (got.reports.len(), expected.reports.len());
        Err(Difference::Contract(format!("{got} report slots were read where there are {expected}")))
    }
}

fn value<C: Case>(case: &C, (field, tensor): (&Field, usize), got: &[u8], expected: &[u8], step: usize) -> Difference {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    let pairs = || got.chunks(field.width).zip(expected.chunks(field.width));
    let index = pairs().position(|(a, b)| a != b).unwrap_or(0);
    let at = |bytes: &[u8]| bytes.chunks(field.width).nth(index).map_or(0, number);
    let (first, wanted) = (at(got), at(expected));
    Difference::Value {
        field: field.name,
        tensor,
        index,
        got: first,
        expected: wanted,
        differing: (pairs().filter(|(a, b)| a != b).count(), pairs().count()),
        inputs: case.inputs(tensor, field.layout.element(index, first ^ wanted), step),
    }
}
