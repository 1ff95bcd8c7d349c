//! The harness can fail: each fault planted in a correct backend is caught in every operation that can have it, and
//! is told apart from the others.

mod faulty;
mod memory;

use faulty::{FAULTS, Fault, Faulty};
use trigrad::op::OPERATIONS;
use trigrad::testing::{Difference, Failure, Options, Reference, conformance};

/// How the suite must describe a fault.
fn describes(fault: Fault, what: &Difference) -> bool {
    match fault {
        Fault::WrittenPastEnd => matches!(what, Difference::Outside { offset: Some(0), .. }),
        Fault::WrittenBeforeStart => matches!(what, Difference::Outside { offset: Some(-1), .. }),
        Fault::ChangedInput => matches!(what, Difference::Outside { offset: None, .. }),
        Fault::MissingClipped | Fault::LateFirst => matches!(what, Difference::Report { .. }),
        Fault::RoundedOffset => matches!(what, Difference::Outside { .. } | Difference::Value { .. }),
        // Reports that go astray are guards that do not stop what they must, or counts that a decision writes down.
        Fault::SkippedItem
        | Fault::IgnoredPosition
        | Fault::MissingReport
        | Fault::DoubleReport
        | Fault::SwappedSlots => {
            matches!(what, Difference::Report { .. } | Difference::Value { .. })
        }
        _ => matches!(what, Difference::Value { .. }),
    }
}

fn run(faulty: &Faulty<Reference>, operation: &str) -> Result<(), Box<Failure>> {
    conformance(faulty, &Options::only(operation).max_elements(5000)).map(drop)
}

/// A run without a fault passes, and tells which faults an operation can have at all: the others are not tried.
#[test]
fn every_fault_is_caught_in_every_operation() {
    let (mut caught, mut missed, mut never) = (0, Vec::new(), FAULTS.to_vec());
    for &operation in OPERATIONS {
        let sound = Faulty::new(Reference, Fault::None);
        run(&sound, operation).unwrap();
        for fault in FAULTS.into_iter().filter(|f| sound.chances(*f) > 0) {
            never.retain(|f| *f != fault);
            match run(&Faulty::new(Reference, fault), operation) {
                Err(failure) if describes(fault, &failure.what) && failure.operation == operation => caught += 1,
                Err(failure) => missed.push(format!("{fault:?} was taken for something else: {failure}")),
                Ok(()) => missed.push(format!("{fault:?} in {operation} was not caught")),
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(never.is_empty(), "no operation can have {never:?}");
    assert!(caught > 250, "{caught}");
}

#[test]
fn memory_faults_are_caught() {
    for fault in
        [Fault::FlippedBit, Fault::SkippedTail, Fault::WrittenPastEnd, Fault::WrittenBeforeStart, Fault::StaleOutput]
    {
        let failure = run(&Faulty::new(Reference, fault), "memory").unwrap_err();
        assert!(matches!(failure.what, Difference::Contract(_)), "{failure}");
    }
}

#[test]
fn a_filter_that_names_nothing_fails() {
    let sound = Faulty::new(Reference, Fault::None);
    let failure = conformance(&sound, &Options::only("quantise")).unwrap_err();
    assert!(matches!(failure.what, Difference::NoSuchOperation), "{failure}");
}

/// A failure tells everything that is needed to repeat it and to look into it.
#[test]
fn a_failure_names_what_differed() {
    let faulty = Faulty::new(Reference, Fault::FlippedBit);
    let failure = conformance(&faulty, &Options::only("quantize").seed(77)).unwrap_err();
    let text = failure.to_string();
    for part in ["quantize on FlippedBit", "f32", "seed 77", "one list", "Stochastic", "got 0x", "expected 0x", "x = "]
    {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let Difference::Value { field, index, got, expected, .. } = &failure.what else { panic!("{failure}") };
    assert_eq!((*field, got ^ expected), ("scales", 1), "index {index}");
}
