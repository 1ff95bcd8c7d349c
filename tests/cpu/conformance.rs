//! The conformance suite on the backends that every machine has.

use trigrad::cpu::Cpu;
use trigrad::op::OPERATIONS;
use trigrad::testing::{Options, Reference, conformance};

/// Short tensors, for checkers that run everything many times slower.
fn sized(options: Options) -> Options {
    if std::env::var_os("TRIGRAD_SMALL").is_some() { options.max_elements(4200) } else { options }
}

/// The suite holds for the specification itself: no case depends on what outputs held before, and none fails.
#[test]
fn reference() {
    let covered = conformance(&Reference, &Options::default().seed(1)).unwrap();
    let named: Vec<&str> = covered.operations.keys().map(String::as_str).collect();
    let mut all = OPERATIONS.to_vec();
    all.sort_unstable();
    assert_eq!(named, all, "operations with cases, and all that there are");
}

/// Parts of the suite, for tools that slow every call, leave no case out and take none twice.
#[test]
fn parts_together_are_the_whole() {
    let cases = |options: Options| -> u64 {
        conformance(&Reference, &options).unwrap().operations.values().map(|covered| covered.cases).sum()
    };
    let some = || Options::only("merge").and("window_scales").seed(3);
    let parts: Vec<u64> = (0..4).map(|i| cases(some().part(i, 4))).collect();
    assert_eq!(parts.iter().sum::<u64>(), cases(some()), "{parts:?}");
    assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
}

#[test]
fn cpu_plain() {
    println!("{}", conformance(&Cpu::plain(), &sized(Options::default())).unwrap());
}

#[test]
fn cpu_fastest() {
    println!("{}", conformance(&Cpu::new(), &sized(Options::default().seed(2))).unwrap());
}

/// The vector code that this machine would not choose, but another does.
#[test]
fn cpu_other_kinds() {
    for cpu in Cpu::kinds().iter().skip(1) {
        println!("{}", conformance(cpu, &sized(Options::default().seed(4))).unwrap());
    }
}

/// Another number of threads is another launch shape.
#[test]
fn cpu_on_one_thread_and_on_five() {
    for threads in [1, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| conformance(&Cpu::new(), &Options::default().seed(3))).unwrap();
    }
}

#[test]
#[ignore = "minutes: the full budget"]
fn cpu_full() {
    for cpu in Cpu::kinds() {
        println!("{}", conformance(&cpu, &Options::default().full()).unwrap());
    }
}
