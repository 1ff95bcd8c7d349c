//! A step of every operation of a training that only queues work, captured as one graph: it holds kernels and fills and nothing
//! else, as many for 380 tensors as for 3, and its replays give the CPU's bits.
#![cfg(feature = "cuda-kernels")]
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "common/card.rs"]
mod card;

use card::card;
use cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUgraphNodeType, CUresult, CUstreamCaptureMode, cuGraphGetNodes, cuGraphNodeGetType,
};
use cudarc::driver::{CudaContext, CudaGraph};
use half::bf16;
use trigrad::Backend;
use trigrad::Result;
use trigrad::cpu::Cpu;
use trigrad::cuda::Cuda;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::SUM_WORDS;
use trigrad::numerics::state::State;
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize, Threshold};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{SquaredNorm, SquaredNormItem};
use trigrad::op::side::StateOn;
use trigrad::op::state::{AdvanceStep, AdvanceStepItem, Following};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::window::{Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem};
use trigrad::op::{BlockSize, Draw, Grouping, Report, run};

const BITS: u32 = 4;
const COUNT_BITS: u32 = 8;
const STEPS: u32 = 6;
/// Several CTAs of several tiles and a tail, whole tiles alone, shorter than a block, one element, none.
const LENGTHS: [usize; 5] = [40_005, 12_288, 33, 1, 0];

/// One tensor and everything that a step makes of it.
struct Tensor<B: Backend> {
    x: B::Buffer<f32>,
    planes: B::Buffer<u32>,
    plane_scales: B::Buffer<u16>,
    dense: B::Buffer<bf16>,
    levels: B::Buffer<u32>,
    scales: B::Buffer<u16>,
    counts: B::Buffer<u32>,
    merged: B::Buffer<u32>,
    seen: B::Buffer<u16>,
    seen_merged: B::Buffer<u16>,
    window: B::Buffer<u16>,
    read: B::Buffer<bf16>,
    weights: B::Buffer<f32>,
    moments: [B::Buffer<f32>; 2],
    narrow: B::Buffer<bf16>,
    momentum: B::Buffer<f32>,
}

/// A model on a backend.
struct Model<B: Backend> {
    tensors: Vec<Tensor<B>>,
    reports: B::Reports,
    /// Of the updates, which look at the others.
    kept: B::Reports,
    /// The norm of all levels, step after step.
    norm: B::Buffer<u32>,
    /// Whose step the draws follow; factor and rate stay.
    state: B::Buffer<u32>,
}

/// Between -1 and 1, with no structure.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i + 7919 * seed) as u32).wrapping_mul(2_654_435_769).cast_signed() as f32 / (1u32 << 31) as f32)
        .collect()
}

impl<B: Backend> Model<B> {
    fn new(b: &B, lengths: &[usize]) -> Result<Self> {
        let block = BlockSize::default();
        let mut tensors = Vec::new();
        for (seed, &n) in lengths.iter().enumerate() {
            tensors.push(Tensor {
                x: b.upload(&numbers(n, seed))?,
                planes: b.zeros(words(n, 2))?,
                plane_scales: b.zeros(block.blocks(n))?,
                dense: b.zeros(n)?,
                levels: b.zeros(words(n, BITS))?,
                scales: b.zeros(block.blocks(n))?,
                counts: b.zeros(words(n, COUNT_BITS))?,
                merged: b.zeros(words(n, COUNT_BITS))?,
                seen: b.zeros(block.blocks(n))?,
                seen_merged: b.zeros(block.blocks(n))?,
                window: b.upload(&vec![0x3f80; block.blocks(n)])?,
                read: b.zeros(n)?,
                weights: b.upload(&numbers(n, seed + 100))?,
                moments: [b.zeros(n)?, b.zeros(n)?],
                narrow: b.zeros(n)?,
                momentum: b.zeros(n)?,
            });
        }
        let (reports, kept) = (b.reports(lengths.len())?, b.reports(lengths.len())?);
        let terms = AdamWTerms::new(0.01, (0.9, 0.999), 1e-8, 0.1, 1);
        let (correct1, correct2) = (terms.correct1, terms.correct2);
        let state = b.upload(State { factor: 0.3, correct1, correct2, ..State::new(1.0, 1.0) }.words())?;
        Ok(Model { tensors, reports, kept, norm: b.zeros(SUM_WORDS)?, state })
    }

    /// Quantizes, dequantizes, and adds what comes of it to the levels.
    fn ternary(&mut self, b: &B, op: &Quantize, draw: Draw) -> Result<()> {
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            let groups = op.grouping.groups(B::len(&B::view(&t.x)));
            items.push(quantize::Item {
                tensor: i as u32,
                first: 0,
                x: B::view(&t.x),
                words: B::view_mut(&mut t.planes),
                scales: B::slice_mut(B::view_mut(&mut t.plane_scales), 0..groups).unwrap(),
                report: i,
            });
        }
        Following::new(b, B::view(&self.state)).quantize(op, &mut items, &mut self.reports)?;
        drop(items);
        let mut items = Vec::new();
        for t in &mut self.tensors {
            let groups = op.grouping.groups(B::len(&B::view(&t.x)));
            let scales = B::slice(B::view(&t.plane_scales), 0..groups).unwrap();
            items.push(dequantize::Item { words: B::view(&t.planes), scales, out: B::view_mut(&mut t.dense) });
        }
        b.dequantize(&Dequantize { grouping: op.grouping }, &mut items)?;
        drop(items);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            items.push(AdaptiveItem {
                tensor: i as u32,
                first: 0,
                x: B::view(&t.dense),
                levels: B::view_mut(&mut t.levels),
                scales: B::view_mut(&mut t.scales),
                report: i,
            });
        }
        let op = Adaptive { bits: BITS, block: BlockSize::default(), draw, weight: 0.5 };
        Following::new(b, B::view(&self.state)).accumulate_adaptive(&op, &mut items, &mut self.reports)
    }

    /// Counts under scales from a look at the gradient, and merged.
    fn exact(&mut self, b: &B, draw: Draw) -> Result<()> {
        let block = BlockSize::default();
        let mut items = Vec::new();
        for (report, t) in self.tensors.iter_mut().enumerate() {
            items.push(LookItem { x: B::view(&t.x), seen: B::view_mut(&mut t.seen), report });
        }
        b.look(&Look { block, weight: 1.0 }, &mut items, &mut self.reports)?;
        drop(items);
        let mut items = Vec::new();
        for t in &mut self.tensors {
            items.push(WindowScalesItem { seen: B::view(&t.seen), scales: B::view_mut(&mut t.window) });
        }
        b.window_scales(&WindowScales { headroom: 1.5, bits: COUNT_BITS }, &mut items)?;
        drop(items);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            items.push(ExactItem {
                tensor: i as u32,
                first: 0,
                x: B::view(&t.x),
                counts: B::view_mut(&mut t.counts),
                scales: B::view_mut(&mut t.window),
                seen: B::view_mut(&mut t.seen),
                report: i,
            });
        }
        let op = Exact { bits: COUNT_BITS, block, draw, weight: 1.0, held: 0, headroom: None };
        Following::new(b, B::view(&self.state)).accumulate_exact(&op, &mut items, &mut self.reports)?;
        drop(items);
        let mut items = Vec::new();
        for t in &mut self.tensors {
            let (from, into) = (B::view(&t.counts), B::view_mut(&mut t.merged));
            items.push(MergeItem { from, into, seen_from: B::view(&t.seen), seen: B::view_mut(&mut t.seen_merged) });
        }
        b.merge(&Merge { bits: COUNT_BITS, held: 0, added: 1 }, &mut items)
    }

    /// The levels' norm, the levels read out under guard, and both updates straight from them.
    fn update(&mut self, b: &B, draw: Draw) -> Result<()> {
        let (block, factor) = (BlockSize::default(), 0.3);
        let mut items = Vec::new();
        for t in &self.tensors {
            let n = B::len(&B::view(&t.x));
            items.push(SquaredNormItem { n, levels: B::view(&t.levels), scales: B::view(&t.scales), sum: 0 });
        }
        let op = SquaredNorm { bits: BITS, grouping: Grouping::Block(block) };
        b.squared_norm(&op, &mut items, B::view_mut(&mut self.norm))?;
        drop(items);
        let mut items = Vec::new();
        for (i, t) in self.tensors.iter_mut().enumerate() {
            let (levels, scales) = (B::view(&t.levels), B::view(&t.scales));
            items.push(read_out::Item { levels, scales, out: B::view_mut(&mut t.read), guard: Some(i) });
        }
        b.read_out(&ReadOut { bits: BITS, block, factor }, &mut items, Some(&self.reports))?;
        drop(items);
        // The factor is that of the state.
        let source = Source { bits: BITS, block, factor: 0.0, draw };
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
        let op = AdamW { source, terms: AdamWTerms::new(0.01, (0.9, 0.999), 1e-8, 0.1, 1) };
        run::<_, _, f32>(
            b,
            &op,
            &mut items,
            (StateOn(Some(B::view(&self.state))), Some(&self.reports), &mut self.kept),
        )?;
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
        let terms = SgdTerms { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01 };
        let op = Sgd { source, terms, nesterov: true };
        run::<_, _, bf16>(
            b,
            &op,
            &mut items,
            (StateOn(Some(B::view(&self.state))), Some(&self.reports), &mut self.kept),
        )
    }

    /// Everything, queued. What one operation leaves is what the next ones read.
    fn step(&mut self, b: &B) -> Result<()> {
        let draw = Draw::new(77, 0);
        let mut checks: Vec<_> = (self.tensors.iter().enumerate())
            .map(|(report, t)| check::Item::<'_, B, f32> { x: B::view(&t.x), first: 0, report })
            .collect();
        b.check(&Check { weight: 0.5 }, &mut checks, &mut self.reports)?;
        drop(checks);
        let rules = [
            Quantize::stochastic(draw),
            Quantize::threshold(Threshold::TWN),
            Quantize::stochastic(draw).clip(2.5),
            Quantize::stochastic(draw).grouping(Grouping::Tensor),
            Quantize::threshold(Threshold::ABSMEAN).grouping(Grouping::Tensor),
            Quantize::stochastic(draw).clip(2.5).grouping(Grouping::Tensor),
        ];
        for (micro_batch, rule) in rules.iter().enumerate() {
            self.ternary(b, rule, draw.micro_batch(micro_batch as u32))?;
        }
        self.exact(b, draw)?;
        self.update(b, draw)?;
        let mut state = [AdvanceStepItem { state: B::view_mut(&mut self.state) }];
        b.advance_step(&AdvanceStep { growth_interval: None }, &mut state)
    }

    /// All that the steps left behind, and the reports.
    fn results(&self, b: &B) -> Result<(Vec<Vec<u32>>, Vec<Report>)> {
        let mut words = Vec::new();
        for t in &self.tensors {
            for buffer in [&t.planes, &t.levels, &t.counts, &t.merged] {
                words.push(b.download(B::view(buffer))?);
            }
            for buffer in [&t.plane_scales, &t.scales, &t.seen, &t.window, &t.seen_merged] {
                words.push(b.download(B::view(buffer))?.into_iter().map(u32::from).collect());
            }
            for buffer in [&t.weights, &t.moments[0], &t.moments[1], &t.momentum] {
                words.push(b.download(B::view(buffer))?.into_iter().map(f32::to_bits).collect());
            }
            for buffer in [&t.dense, &t.read, &t.narrow] {
                words.push(b.download(B::view(buffer))?.into_iter().map(|v| u32::from(v.to_bits())).collect());
            }
        }
        words.push(b.download(B::view(&self.norm))?);
        words.push(b.download(B::view(&self.state))?);
        Ok((words, [b.read_reports(&self.reports)?, b.read_reports(&self.kept)?].concat()))
    }
}

/// Kernels and fills in a graph; any other node is a failure.
#[expect(unsafe_code, reason = "cudarc leaves a graph's nodes to its caller")]
fn kernels_and_fills(graph: &CudaGraph) -> (usize, usize) {
    let mut many = 0;
    // SAFETY: the graph lives as long as what it was borrowed from; without an array the count alone is written.
    let status = unsafe { cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut many) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    let mut nodes = vec![std::ptr::null_mut(); many];
    // SAFETY: the graph lives, and the array has room for `many` nodes.
    let status = unsafe { cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &raw mut many) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    let (mut kernels, mut fills) = (0, 0);
    for node in nodes {
        let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        // SAFETY: a node of a graph that lives, and a place for its type.
        let status = unsafe { cuGraphNodeGetType(node, &raw mut kind) };
        assert_eq!(status, CUresult::CUDA_SUCCESS);
        match kind {
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => kernels += 1,
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET => fills += 1,
            other => panic!("{other:?} in a step: neither a kernel nor a fill"),
        }
    }
    (kernels, fills)
}

/// A stream of its own, in a context that records no events.
fn stream_to_capture() -> Result<Cuda> {
    let context = CudaContext::new(0).unwrap();
    #[expect(unsafe_code, reason = "the order of uses is left to the caller")]
    // SAFETY: each test uses one stream, in whose order buffers are used and freed.
    unsafe {
        context.disable_event_tracking();
    }
    Cuda::with_stream(context.new_stream().unwrap())
}

/// One step as a graph. The same step must have run before.
fn capture(cuda: &Cuda, model: &mut Model<Cuda>) -> Result<CudaGraph> {
    let stream = cuda.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let queued = model.step(cuda);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    queued?;
    Ok(graph.unwrap().unwrap())
}

/// The same code on the CPU, so that what the graph is compared with is something.
#[test]
fn the_step_changes_everything_it_names() -> Result<()> {
    let cpu = Cpu::new();
    let mut model = Model::new(&cpu, &LENGTHS)?;
    for step in 0..STEPS {
        let before = model.results(&cpu)?.0;
        model.step(&cpu)?;
        let after = model.results(&cpu)?.0;
        // Of the first tensor, whose gradient stays: with it scales of the whole, and the maxima and scales of counts.
        let of_a_tensor = after.len() / LENGTHS.len();
        let same: Vec<usize> = (0..of_a_tensor).filter(|i| before[*i] == after[*i]).collect();
        assert!(same.iter().all(|i| step > 0 && [4, 6, 7, 8].contains(i)), "step {step}: {same:?} did not change");
    }
    Ok(())
}

#[test]
fn a_captured_step_replays_to_the_bits_of_the_cpu() -> Result<()> {
    if card().is_none() {
        return Ok(());
    }
    let cpu = Cpu::new();
    let mut expected = Model::new(&cpu, &LENGTHS)?;
    for _ in 0..STEPS {
        expected.step(&cpu)?;
    }

    // The run before the capture is step 0; the state goes on from step 1 by itself.
    let cuda = stream_to_capture()?;
    let mut model = Model::new(&cuda, &LENGTHS)?;
    model.step(&cuda)?;
    cuda.synchronize()?;
    let graph = capture(&cuda, &mut model)?;
    for _ in 1..STEPS {
        graph.launch().unwrap();
    }
    assert_eq!(model.results(&cuda)?, expected.results(&cpu)?);
    Ok(())
}

/// An allocation, a copy or a call of the host would be a node of its own kind.
#[test]
fn a_step_is_kernels_and_fills_as_many_for_any_list() -> Result<()> {
    if card().is_none() {
        return Ok(());
    }
    let cuda = stream_to_capture()?;
    let mut found = Vec::new();
    // A table holds 380 tensors or more; a single one has kernels of its own.
    for many in [3, 380, 1] {
        let lengths: Vec<usize> = (0..many).map(|i| if i == 0 { LENGTHS[0] } else { 1 + i % 200 }).collect();
        let mut model = Model::new(&cuda, &lengths)?;
        model.step(&cuda)?;
        cuda.synchronize()?;
        let graph = capture(&cuda, &mut model)?;
        found.push(kernels_and_fills(&graph));
        cuda.synchronize()?;
    }
    println!("kernels and fills of 3, 380 and 1 tensors: {found:?}");
    // 28 calls, of which those that quantize whole tensors take 2, 4 and 3 kernels and a fill each, and the norm 2 and one.
    assert_eq!(found, [(35, 4); 3]);
    Ok(())
}
