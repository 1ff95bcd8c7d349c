//! A whole window that only queues work, its end decided on the device: micro-batches added and counted, the norm, the decision,
//! three updates, everything cleared, the step counted. Captured as one graph and replayed over three windows, one of which has
//! an infinity, it has the bits of the same calls on the CPU.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/card.rs"]
mod card;

use card::card;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph};
use half::bf16;
use trigrad::Result;
use trigrad::cpu::Cpu;
use trigrad::cuda::Cuda;
use trigrad::numerics::constants::state::SKIP_NON_FINITE;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::state::State;
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::reduce::{SquaredNorm, SquaredNormItem};
use trigrad::op::state::{
    AdvanceMicroBatch, AdvanceMicroBatchItem, AdvanceStep, AdvanceStepItem, Decide, DecideItem, Following, corrections,
};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use trigrad::op::{BlockSize, Draw, Grouping};
use trigrad::{Backend, Memory};

const BITS: u32 = 4;
const SEED: u64 = 77;
const MICRO_BATCHES: usize = 3;
const LOSS_SCALE: f32 = 1024.0;
const BETAS: (f64, f64) = (0.9, 0.999);
/// Several CTAs and a tail, whole tiles alone, shorter than a block.
const LENGTHS: [usize; 3] = [40_005, 12_288, 33];
/// The window before the capture, and three that are replayed.
const WINDOWS: usize = 4;
/// The one that is skipped.
const BAD: usize = 2;

/// Between -1 and 1, with no structure.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i + 7919 * seed) as u32).wrapping_mul(2_654_435_769).cast_signed() as f32 / (1u32 << 31) as f32)
        .collect()
}

/// The gradient of a tensor in each micro-batch of a window: under the loss scale, of another size in each window.
fn gradients(n: usize, tensor: usize, window: usize) -> Vec<Vec<f32>> {
    let size = LOSS_SCALE * [0.01, 0.001, 0.02, 0.003][window];
    let of = |micro_batch: usize| -> Vec<f32> {
        let seed = tensor + 10 * micro_batch + 100 * window;
        numbers(n, seed).into_iter().map(|x| x * size).collect()
    };
    let mut all: Vec<Vec<f32>> = (0..MICRO_BATCHES).map(of).collect();
    if window == BAD && tensor == 1 {
        all[1][777] = f32::INFINITY;
    }
    all
}

struct Tensor<B: Backend> {
    gradients: Vec<B::Buffer<f32>>,
    levels: B::Buffer<u32>,
    scales: B::Buffer<u16>,
    weights: B::Buffer<f32>,
    moments: [B::Buffer<f32>; 2],
    narrow: B::Buffer<bf16>,
    momentum: B::Buffer<f32>,
    coded: B::Buffer<bf16>,
    codes: B::Buffer<u16>,
    code_scales: B::Buffer<u16>,
}

struct Model<B: Backend> {
    tensors: Vec<Tensor<B>>,
    state: B::Buffer<u32>,
    norm: B::Buffer<u32>,
    corrections: B::Buffer<f32>,
    found: B::Reports,
    kept: B::Reports,
}

impl<B: Backend> Model<B> {
    fn new(b: &B) -> Result<Self> {
        let block = BlockSize::default();
        let mut tensors = Vec::new();
        for (i, &n) in LENGTHS.iter().enumerate() {
            let narrow: Vec<bf16> = numbers(n, i + 1000).into_iter().map(bf16::from_f32).collect();
            tensors.push(Tensor {
                gradients: gradients(n, i, 0).iter().map(|x| b.upload(x)).collect::<Result<_>>()?,
                levels: b.zeros(words(n, BITS))?,
                scales: b.zeros(block.blocks(n))?,
                weights: b.upload(&numbers(n, i + 1000))?,
                moments: [b.zeros(n)?, b.zeros(n)?],
                narrow: b.upload(&narrow)?,
                momentum: b.zeros(n)?,
                coded: b.upload(&narrow)?,
                codes: b.zeros(n)?,
                code_scales: b.zeros(AdamW8::scales(n))?,
            });
        }
        Ok(Model {
            tensors,
            state: b.upload(State::new(0.125, LOSS_SCALE).words())?,
            norm: b.zeros(SUM_WORDS)?,
            corrections: b.upload(&corrections(BETAS)?)?,
            found: b.reports(LENGTHS.len())?,
            kept: b.reports(LENGTHS.len())?,
        })
    }

    /// The gradients of a window, where the ones before lie. Outside of the graph.
    fn load(&mut self, b: &B, window: usize) -> Result<()> {
        for (i, t) in self.tensors.iter_mut().enumerate() {
            for (x, to) in gradients(LENGTHS[i], i, window).iter().zip(&mut t.gradients) {
                b.copy(B::view(&b.upload(x)?), B::view_mut(to))?;
            }
        }
        Ok(())
    }

    /// The whole window, queued.
    fn window(&mut self, b: &B) -> Result<()> {
        for micro_batch in 0..MICRO_BATCHES {
            self.accumulate(b, micro_batch)?;
        }
        self.decide(b)?;
        self.update(b)?;
        let (mut levels, mut scales) = (Vec::new(), Vec::new());
        for t in &mut self.tensors {
            levels.push(B::view_mut(&mut t.levels));
            scales.push(B::view_mut(&mut t.scales));
        }
        b.clear_all(levels)?;
        b.clear_all(scales)?;
        b.clear_reports(&mut self.found)?;
        let mut items = [AdvanceStepItem { state: B::view_mut(&mut self.state) }];
        b.advance_step(&AdvanceStep { growth_interval: Some(1) }, &mut items)
    }

    fn accumulate(&mut self, b: &B, micro_batch: usize) -> Result<()> {
        let weight = [1.0, 0.5, 2.0][micro_batch];
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            items.push(AdaptiveItem {
                tensor: i as u32,
                first: 0,
                x: B::view(&t.gradients[micro_batch]),
                levels: B::view_mut(&mut t.levels),
                scales: B::view_mut(&mut t.scales),
                report: i,
            });
        }
        let op = Adaptive { bits: BITS, block: BlockSize::default(), draw: Draw::new(SEED, 0), weight };
        Following::new(b, B::view(&self.state)).accumulate_adaptive(&op, &mut items, &mut self.found)?;
        drop(items);
        let mut items = [AdvanceMicroBatchItem { state: B::view_mut(&mut self.state) }];
        b.advance_micro_batch(&AdvanceMicroBatch { weight }, &mut items)
    }

    fn decide(&mut self, b: &B) -> Result<()> {
        b.clear(B::view_mut(&mut self.norm))?;
        let mut items = Vec::new();
        for (t, n) in self.tensors.iter().zip(LENGTHS) {
            items.push(SquaredNormItem { n, levels: B::view(&t.levels), scales: B::view(&t.scales), sum: 0 });
        }
        let op = SquaredNorm { bits: BITS, grouping: Grouping::Block(BlockSize::default()) };
        b.squared_norm(&op, &mut items, B::view_mut(&mut self.norm))?;
        let (sum, corrections) = (B::view(&self.norm), B::view(&self.corrections));
        let mut items = [DecideItem { state: B::view_mut(&mut self.state), sum, corrections }];
        b.decide(&Decide { clip_norm: Some(0.5) }, &mut items, Some(&self.found))
    }

    fn update(&mut self, b: &B) -> Result<()> {
        let following = Following::new(b, B::view(&self.state));
        // The factor and the step are those of the state, the rates shares of its.
        let source = Source { bits: BITS, block: BlockSize::default(), factor: 0.0, draw: Draw::new(SEED, 0) };
        let terms = AdamWTerms::new(0.5, BETAS, 1e-8, 0.1, 1);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            let [first_moment, second_moment] = &mut t.moments;
            items.push(AdamWItem {
                tensor: i as u32,
                first: 0,
                gradient: Gradient::Packed { levels: B::view(&t.levels), scales: B::view(&t.scales) },
                weights: B::view_mut(&mut t.weights),
                first_moment: B::view_mut(first_moment),
                second_moment: B::view_mut(second_moment),
                report: i,
            });
        }
        following.update_adamw(&AdamW { source, terms }, &mut items, &mut self.kept)?;
        drop(items);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            items.push(AdamW8Item {
                tensor: i as u32,
                first: 0,
                gradient: Gradient::Packed { levels: B::view(&t.levels), scales: B::view(&t.scales) },
                weights: B::view_mut(&mut t.coded),
                moments: B::view_mut(&mut t.codes),
                moment_scales: B::view_mut(&mut t.code_scales),
                report: i,
            });
        }
        following.update_adamw_8bit(&AdamW8 { source, terms }, &mut items, &mut self.kept)?;
        drop(items);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            items.push(SgdItem {
                tensor: i as u32,
                first: 0,
                gradient: Gradient::Packed { levels: B::view(&t.levels), scales: B::view(&t.scales) },
                weights: B::view_mut(&mut t.narrow),
                momentum: Some(B::view_mut(&mut t.momentum)),
                report: i,
            });
        }
        let terms = SgdTerms { learning_rate: 1.0, momentum: 0.9, weight_decay: 0.01 };
        following.update_sgd(&Sgd { source, terms, nesterov: true }, &mut items, &mut self.kept)
    }

    fn state(&self, b: &B) -> Result<State> {
        Ok(State::from_words(&b.download(B::view(&self.state))?).unwrap())
    }

    /// Weights and all that goes with them.
    fn weights(&self, b: &B) -> Result<Vec<Vec<u32>>> {
        let mut words = Vec::new();
        for t in &self.tensors {
            for buffer in [&t.weights, &t.moments[0], &t.moments[1], &t.momentum] {
                words.push(b.download(B::view(buffer))?.into_iter().map(f32::to_bits).collect());
            }
            for buffer in [&t.narrow, &t.coded] {
                words.push(b.download(B::view(buffer))?.into_iter().map(|v| u32::from(v.to_bits())).collect());
            }
            for buffer in [&t.codes, &t.code_scales] {
                words.push(b.download(B::view(buffer))?.into_iter().map(u32::from).collect());
            }
        }
        Ok(words)
    }
}

/// What each window leaves behind on the CPU: the state, and the weights.
fn on_the_cpu() -> Result<Vec<(State, Vec<Vec<u32>>)>> {
    let cpu = Cpu::new();
    let mut model = Model::new(&cpu)?;
    let mut left = Vec::new();
    for window in 0..WINDOWS {
        model.load(&cpu, window)?;
        model.window(&cpu)?;
        left.push((model.state(&cpu)?, model.weights(&cpu)?));
    }
    assert!(cpu.read_reports(&model.kept)?.iter().all(|r| r.non_finite == 0));
    Ok(left)
}

/// So that what the graph is compared with is something: windows that are clipped, one that is not, one that is skipped.
#[test]
fn the_windows_are_of_all_kinds() -> Result<()> {
    let left = on_the_cpu()?;
    let skips: Vec<u32> = left.iter().map(|(state, _)| state.skip).collect();
    assert_eq!(skips, [0, 0, SKIP_NON_FINITE, 0]);
    let clipped: Vec<bool> = left.iter().map(|(state, _)| state.clip < 1.0).collect();
    assert!(clipped.contains(&true) && clipped[..2].contains(&false), "{clipped:?}");
    assert!(left[BAD].1 == left[BAD - 1].1, "a window that is skipped changes no weight");
    for window in [1, 3] {
        // Of the first tensor; scales of moments move only where a power of two is crossed.
        let pairs = left[window].1.iter().zip(&left[window - 1].1).take(7);
        let same = pairs.filter(|(a, b)| a == b).count();
        assert_eq!(same, 0, "window {window}");
    }
    let scales: Vec<f32> = left.iter().map(|(state, _)| state.loss_scale).collect();
    assert_eq!(scales, [2.0, 4.0, 2.0, 4.0].map(|by| by * LOSS_SCALE));
    let last = left[WINDOWS - 1].0;
    assert_eq!((last.step, last.updates, last.skips, last.micro_batches), (4, 3, 1, MICRO_BATCHES as u32));
    assert_eq!((left[BAD].0.found_slot, left[BAD].0.found()), (1, 1));
    Ok(())
}

/// The window as a graph. The same window must have run before.
fn capture(cuda: &Cuda, model: &mut Model<Cuda>) -> Result<CudaGraph> {
    let stream = cuda.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let queued = model.window(cuda);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    queued?;
    Ok(graph.unwrap().unwrap())
}

#[test]
fn a_captured_window_replays_to_the_bits_of_the_cpu() -> Result<()> {
    if card().is_none() {
        return Ok(());
    }
    let expected = on_the_cpu()?;
    let context = CudaContext::new(0).unwrap();
    #[expect(unsafe_code, reason = "the order of uses is left to the caller")]
    // SAFETY: the test uses one stream, in whose order buffers are used and freed.
    unsafe {
        context.disable_event_tracking();
    }
    let cuda = Cuda::with_stream(context.new_stream().unwrap())?;
    let mut model = Model::new(&cuda)?;
    model.window(&cuda)?;
    assert!((model.state(&cuda)?, model.weights(&cuda)?) == expected[0], "eager calls");
    let graph = capture(&cuda, &mut model)?;
    for (window, expected) in expected.iter().enumerate().skip(1) {
        model.load(&cuda, window)?;
        graph.launch().unwrap();
        assert_eq!(model.state(&cuda)?, expected.0, "window {window}");
        assert!(model.weights(&cuda)? == expected.1, "weights after window {window}");
    }
    assert!(cuda.read_reports(&model.kept)?.iter().all(|r| r.non_finite == 0));
    Ok(())
}
