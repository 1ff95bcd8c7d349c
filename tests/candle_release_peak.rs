//! How much memory a backward pass takes at its peak, counted by the allocator: with release layers, and in segments.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder, VarMap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use trigrad::candle::release::{self, Release};
use trigrad::candle::{Activations, ModelGradients};
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
/// A model whose activations are larger than its weights.
const NARROW: usize = 64;
const MANY: usize = 4096;
/// Bytes of the gradient of one layer.
const LAYER: usize = WIDTH * WIDTH * 4;
/// Bytes of the activations, several times over, and small change.
const SLACK: usize = 48 * LAYERS * ROWS * WIDTH * 4 / 10;

/// One test at a time: the count is the process's.
static ALONE: Mutex<()> = Mutex::new(());

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
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Segments of candle's own layers, two each but for the last, which ends in the loss.
fn in_segments(rows: usize, width: usize, activations: Activations) -> usize {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let layers: Vec<_> = (0..LAYERS).map(|i| candle_nn::linear(width, width, vb.pp(i)).unwrap()).collect();
    let mut gradients = ModelGradients::from_varmap(&vars, Options::default()).unwrap();
    let two = |x: &Tensor, i: usize| layers[2 * i + 1].forward(&layers[2 * i].forward(x)?.gelu()?)?.gelu();
    let first = |x: &Tensor| -> candle_core::Result<Tensor> { two(x, 0) };
    let second = |x: &Tensor| -> candle_core::Result<Tensor> { two(x, 1) };
    let last = |x: &Tensor| -> candle_core::Result<Tensor> { two(x, 2)?.sqr()?.mean_all() };
    let segments: [&dyn Module; 3] = [&first, &second, &last];
    let release = Release::new();
    let x = Tensor::ones((rows, width), DType::F32, &Device::Cpu).unwrap();
    let mut run = || drop(gradients.backward_in_segments(&release, &segments, &x, activations, 1.0).unwrap());
    run(); // threads and what they keep are made on first use
    peak(run)
}

#[test]
fn segments_take_three_gradients_of_one_and_recomputing_the_activations_of_one() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for activations in [Activations::Keep, Activations::Recompute] {
        let few = in_segments(ROWS, WIDTH, activations);
        println!("{activations:?}: {few} bytes; the gradients of a segment are {}", 2 * LAYER);
        assert!(few <= 3 * 2 * LAYER + SLACK, "{activations:?}: {few} bytes");
    }
    // Where activations are what fills memory.
    let array = MANY * NARROW * 4;
    let of = |activations| in_segments(MANY, NARROW, activations);
    let (kept, again) = (of(Activations::Keep), of(Activations::Recompute));
    println!("{kept} bytes kept, {again} computed again; an array of activations is {array}");
    assert!(again + 4 * array < kept, "{again} bytes, {kept} where all is kept");
}
