//! How much memory a backward pass takes at its peak, counted by the allocator.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder, VarMap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use trigrad::candle::ModelGradients;
use trigrad::candle::release::{self, Release};
use trigrad::training::Options;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const LAYERS: usize = 6;
const WIDTH: usize = 512;
const ROWS: usize = 4;
/// Bytes of the gradient of one layer.
const LAYER: usize = WIDTH * WIDTH * 4;
/// Bytes of the activations, several times over, and small change.
const SLACK: usize = 48 * LAYERS * ROWS * WIDTH * 4 / 10;

/// Bytes that `f` takes at its peak, beyond what was there.
fn peak(f: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    f();
    PEAK.load(Relaxed) - before
}

fn loss(layers: &[&dyn Module]) -> Tensor {
    let mut x = Tensor::ones((ROWS, WIDTH), DType::F32, &Device::Cpu).unwrap();
    for layer in layers {
        x = layer.forward(&x).unwrap();
    }
    x.sqr().unwrap().mean_all().unwrap()
}

#[test]
fn a_backward_pass_takes_one_gradient_over_activations() {
    let (vars, release) = (VarMap::new(), Release::new());
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let layer = |i: usize| release::linear(WIDTH, WIDTH, vb.pp(i), &release).unwrap();
    let ours: Vec<_> = (0..LAYERS).map(layer).collect();
    let mut gradients = ModelGradients::from_varmap(&vars, Options::default()).unwrap();
    let ours_all: Vec<&dyn Module> = ours.iter().map(|l| l as &dyn Module).collect();
    let stock_all: Vec<&dyn Module> = ours.iter().map(|l| l.layer() as &dyn Module).collect();
    // Threads and what they keep are made on first use.
    gradients.backward(&release, &loss(&ours_all), 1.0).unwrap();
    let (ours, stock) = (loss(&ours_all), loss(&stock_all));
    let with = peak(|| gradients.backward(&release, &ours, 1.0).unwrap());
    let without = peak(|| gradients.consume(stock.backward().unwrap(), 1.0).unwrap());
    println!("peak over activations: {with} bytes with release layers, {without} without; a gradient is {LAYER}");
    assert!(with <= LAYER + SLACK, "{with} bytes, where a gradient is {LAYER}");
    assert!(without > 6 * LAYER, "{without} bytes without release layers: the test measures nothing");
}
