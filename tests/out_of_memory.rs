//! Host memory that runs out: an allocator that refuses large blocks on the thread that asks for it. Whatever the
//! library allocates in proportion to a model then ends in an error; the state is as before, and the next call works.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]
#![expect(unsafe_code, reason = "an allocator can not be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use trigrad::Memory;
use trigrad::accumulator::{Accumulator, Config, Format, NonFinite, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::{Error, Result};

thread_local! {
    /// Large blocks that are still given to this thread; `None`: as many as it asks for.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// A block from this size on is large: above anything that does not grow with the model.
const LARGE: usize = 64 << 10;

struct Refusing;

fn refuses(size: usize) -> bool {
    size >= LARGE
        && LEFT.with(|left| match left.get() {
            None => false,
            Some(0) => true,
            Some(n) => {
                left.set(Some(n - 1));
                false
            }
        })
}

// SAFETY: every block comes from `System` and goes back to it, unchanged; null is what an allocator answers when it has
// no memory. Deciding so allocates nothing: the thread-local is constant and has no destructor.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `at`, `layout` and `size`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `System` with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Runs with so many large blocks left on this thread.
fn with_left<R>(left: u32, work: impl FnOnce() -> R) -> R {
    LEFT.with(|l| l.set(Some(left)));
    let result = work();
    LEFT.with(|l| l.set(None));
    result
}

/// 4 bits an element: levels of 100 KB, scales of 6 KB and 75 KB.
const N: usize = 2_400_000;

fn specs() -> [Spec; 2] {
    [Spec::new("a", [200_000]), Spec::new("b", [N])]
}

fn config(format: Format) -> Config {
    Config { format, seed: 1, non_finite: NonFinite::Reject, ..Config::default() }
}

fn make(format: Format) -> Result<Accumulator<Cpu>> {
    Accumulator::new(Cpu::new(), &specs(), config(format))
}

fn gradients() -> (Vec<f32>, Vec<f32>) {
    let x = |n: usize| (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    (x(200_000), x(N))
}

const FORMATS: [Format; 2] =
    [Format::Adaptive { bits: 4 }, Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } }];

/// Whether the error says that memory ran out, by its kind.
fn is_out_of_memory(e: &Error) -> bool {
    match e.root() {
        Error::OutOfMemory { asked, .. } => *asked >= LARGE as u64,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::OutOfMemory,
        _ => false,
    }
}

/// Calls with none, one, two ... large blocks left until one goes through; each one before it must say that memory ran
/// out. Gives how many did.
fn until_enough<R>(what: &str, mut work: impl FnMut() -> Result<R>) -> (u32, R) {
    for left in 0..100 {
        match with_left(left, &mut work) {
            Ok(done) => return (left, done),
            Err(e) => assert!(is_out_of_memory(&e), "{what} with {left} large blocks left: {e}"),
        }
    }
    panic!("{what} does not end")
}

#[test]
fn buffers() {
    let cpu = Cpu::new();
    let data = vec![1.0f32; 1 << 16];
    assert_eq!(until_enough("zeros", || cpu.zeros::<u32>(1 << 16)).0, 1);
    assert_eq!(until_enough("upload", || cpu.upload(&data)).0, 1);
    assert_eq!(until_enough("download", || cpu.download(&data[..])).0, 1);
    assert_eq!(until_enough("reports", || cpu.reports(1 << 16)).0, 1);
}

#[test]
fn a_window_from_its_making_to_its_reset() {
    let (a, b) = gradients();
    let given = [("a", a[..].into()), ("b", b[..].into())];
    for format in FORMATS {
        let (refused, mut sum) = until_enough("new", || make(format));
        assert!(refused >= 3, "{refused}");
        // What is added to needs no memory that grows with the model.
        with_left(0, || sum.accumulate(&given, 1.0)).unwrap();
        let state = sum.state().unwrap();
        assert!(until_enough("state", || sum.state()).0 >= 3);
        assert!(until_enough("to_vec", || sum.to_vec::<f32>("b", Reduce::Mean)).0 >= 1);
        with_left(0, || sum.squared_norm()).unwrap();
        let mut other = make(format).unwrap();
        assert!(until_enough("set_state", || other.set_state(&state)).0 >= 3);
        assert_eq!(other.state().unwrap(), state);
        assert_eq!(sum.state().unwrap(), state);
        if let Format::Exact { .. } = format {
            let mut into = make(format).unwrap();
            until_enough("merge", || {
                let merged = into.merge(&other);
                assert_eq!(into.count(), u32::from(merged.is_ok()));
                merged
            });
            assert_eq!(into.count(), 1);
            assert_eq!(into.state().unwrap().tensors, state.tensors);
        }
        with_left(0, || sum.reset()).unwrap();
        with_left(0, || sum.accumulate(&given, 1.0)).unwrap();
    }
}

#[test]
fn a_checkpoint() {
    let (a, b) = gradients();
    let given = [("a", a[..].into()), ("b", b[..].into())];
    for (i, format) in FORMATS.into_iter().enumerate() {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("memory-{i}.safetensors"));
        let mut sum = make(format).unwrap();
        sum.accumulate(&given, 1.0).unwrap();
        sum.save(&path).unwrap();
        let (before, state) = (std::fs::read(&path).unwrap(), sum.state().unwrap());
        sum.accumulate(&given, 0.5).unwrap();
        until_enough("save", || sum.save(&path).inspect_err(|_| assert!(same(&path, &before))));
        let saved = sum.state().unwrap();
        let mut other = make(format).unwrap();
        other.set_state(&state).unwrap();
        let (refused, ()) = until_enough("load", || other.load(&path));
        assert!(refused >= 3, "{refused}");
        assert_eq!(other.state().unwrap(), saved);
        std::fs::remove_file(&path).unwrap();
    }
}

/// Compares a file, with all the memory that takes.
fn same(path: &std::path::Path, before: &[u8]) -> bool {
    LEFT.with(|l| l.set(None));
    std::fs::read(path).unwrap() == before
}
