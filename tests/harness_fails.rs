//! The harness can fail: each fault planted in a correct backend is caught in every operation that can have it, and
//! is told apart from the others.

use trigrad::testing::cases::OPERATIONS;
use trigrad::testing::{Difference, Failure, Fault, Faulty, Options, conformance};

/// How the suite must describe a fault.
fn describes(fault: Fault, what: &Difference) -> bool {
    match fault {
        Fault::WrittenPastEnd => matches!(what, Difference::Outside { offset: Some(0), .. }),
        Fault::WrittenBeforeStart => matches!(what, Difference::Outside { offset: Some(-1), .. }),
        Fault::ChangedInput => matches!(what, Difference::Outside { offset: None, .. }),
        Fault::MissingClipped | Fault::DoubleReport | Fault::LateFirst => matches!(what, Difference::Report { .. }),
        Fault::NoCheck => matches!(what, Difference::Outcome { got: None, expected: Some(_) }),
        Fault::WrongNumber => matches!(what, Difference::Number { .. }),
        Fault::RoundedOffset => matches!(what, Difference::Outside { .. } | Difference::Value { .. }),
        Fault::MissingReport => matches!(what, Difference::Report { .. } | Difference::Value { .. }),
        // A dot product does not change with its scales swapped; only their lengths tell.
        Fault::SwappedArguments => {
            matches!(what, Difference::Report { .. } | Difference::Value { .. } | Difference::Outcome { .. })
        }
        Fault::SkippedItem => matches!(what, Difference::Report { .. } | Difference::Value { .. }),
        Fault::IgnoredPosition => matches!(what, Difference::Report { .. } | Difference::Value { .. }),
        _ => matches!(what, Difference::Value { .. }),
    }
}

/// Whether an operation can have a fault at all.
fn applies(fault: Fault, operation: &str) -> bool {
    let number = ["count_nonzero", "dot", "squared_norm"].contains(&operation);
    let writes = !number && operation != "check";
    let lists = [
        "quantize",
        "dequantize",
        "accumulate_adaptive",
        "accumulate_exact",
        "look",
        "read_out",
        "check",
        "update_sgd",
        "update_adamw",
    ];
    let reports = ["quantize", "accumulate_adaptive", "accumulate_exact", "look", "check", "pack", "unpack"];
    let positions = ["quantize", "accumulate_adaptive", "accumulate_exact", "check", "update_sgd", "update_adamw"];
    let guarded = ["read_out", "update_sgd", "update_adamw"];
    match fault {
        Fault::None => false,
        Fault::WrongNumber => number,
        Fault::ChangedInput => true,
        Fault::NoCheck => operation != "count_nonzero",
        Fault::SkippedItem => lists.contains(&operation),
        Fault::IgnoredPosition => positions.contains(&operation),
        Fault::MissingReport => reports.contains(&operation) || guarded.contains(&operation),
        Fault::DoubleReport | Fault::LateFirst => reports.contains(&operation),
        Fault::MissingClipped => ["quantize", "accumulate_exact"].contains(&operation),
        Fault::SwappedArguments => {
            let two_sided = ["split_planes", "join_planes", "dot", "look"].contains(&operation);
            two_sided || (positions.contains(&operation) && operation != "update_sgd")
        }
        _ => writes,
    }
}

const FAULTS: [Fault; 19] = [
    Fault::FlippedBit,
    Fault::SometimesFlippedBit,
    Fault::PlantedNan,
    Fault::SkippedTail,
    Fault::WrittenPastEnd,
    Fault::WrittenBeforeStart,
    Fault::StaleOutput,
    Fault::RoundedOffset,
    Fault::SwappedArguments,
    Fault::SkippedItem,
    Fault::IgnoredPosition,
    Fault::ChangedInput,
    Fault::MissingReport,
    Fault::DoubleReport,
    Fault::MissingClipped,
    Fault::LateFirst,
    Fault::LateCheck,
    Fault::NoCheck,
    Fault::WrongNumber,
];

fn run(fault: Fault, operation: &str) -> Result<(), Box<Failure>> {
    conformance(&Faulty::new(fault), &Options::only(operation).max_elements(5000)).map(drop)
}

#[test]
fn without_a_fault_the_suite_passes() {
    conformance(&Faulty::new(Fault::None), &Options::default().max_elements(5000)).unwrap();
}

#[test]
fn every_fault_is_caught_in_every_operation() {
    let (mut caught, mut missed) = (0, Vec::new());
    for operation in OPERATIONS {
        for fault in FAULTS.into_iter().filter(|f| applies(*f, operation)) {
            match run(fault, operation) {
                Err(failure) if describes(fault, &failure.what) && failure.operation == *operation => caught += 1,
                Err(failure) => missed.push(format!("{fault:?} was taken for something else: {failure}")),
                Ok(()) => missed.push(format!("{fault:?} in {operation} was not caught")),
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(caught > 150, "{caught}");
}

#[test]
fn what_cannot_be_wrong_passes() {
    run(Fault::WrongNumber, "quantize").unwrap();
    run(Fault::MissingClipped, "pack").unwrap();
    run(Fault::SkippedItem, "merge").unwrap();
}

#[test]
fn memory_faults_are_caught() {
    for fault in
        [Fault::FlippedBit, Fault::SkippedTail, Fault::WrittenPastEnd, Fault::WrittenBeforeStart, Fault::StaleOutput]
    {
        let failure = run(fault, "memory").expect_err(&format!("{fault:?} in memory was not caught"));
        assert!(matches!(failure.what, Difference::Contract(_)), "{failure}");
    }
}

#[test]
fn a_filter_that_names_nothing_fails() {
    let failure = conformance(&Faulty::new(Fault::None), &Options::only("quantise")).unwrap_err();
    assert!(matches!(failure.what, Difference::NoSuchOperation), "{failure}");
}

/// A failure tells everything that is needed to repeat it and to look into it.
#[test]
fn a_failure_names_what_differed() {
    let failure = conformance(&Faulty::new(Fault::FlippedBit), &Options::only("quantize").seed(77)).unwrap_err();
    let text = failure.to_string();
    for part in ["quantize on FlippedBit", "f32", "seed 77", "one list", "Stochastic", "got 0x", "expected 0x", "x = "]
    {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let Difference::Value { field, index, got, expected, .. } = &failure.what else { panic!("{failure}") };
    assert_eq!((*field, got ^ expected), ("scales", 1), "index {index}");
}
