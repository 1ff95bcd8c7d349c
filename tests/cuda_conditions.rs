//! What the suite does not see on an NVIDIA card: no driver, no memory, long tensors and lists, streams, contexts and
//! threads. `TRIGRAD_SMALL=1` leaves out what takes gigabytes, for compute-sanitizer.
#![cfg(feature = "cuda-kernels")]

#[path = "common/card.rs"]
mod card;
#[path = "common/far.rs"]
mod far;

use card::card;
use cudarc::driver::CudaContext;
use half::bf16;
use trigrad::cpu::Cpu;
use trigrad::cuda::Cuda;
use trigrad::numerics::reduce::{ExactSum, SUM_WORDS};
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::reduce::{CountNonzero, CountNonzeroItem, SquaredNorm, SquaredNormItem, read_sums};
use trigrad::op::{BlockSize, Draw, Grouping, Report};
use trigrad::{Backend, Memory};
use trigrad::{Error, Result};

fn small() -> bool {
    std::env::var_os("TRIGRAD_SMALL").is_some()
}

/// Numbers with a fixed pattern and no structure.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next() * next()).collect()
}

fn words(n: usize, seed: u32) -> Vec<u32> {
    numbers(n, seed).iter().map(|x| x.to_bits().wrapping_mul(0x9E37_79B9)).collect()
}

/// bf16 scales between 2^-4 and 2^4.
fn scales(n: usize) -> Vec<u16> {
    (0..n).map(|i| bf16::from_f32(((i % 9) as f32 - 4.0).exp2()).to_bits()).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Nonzeros and squared norm of planes in blocks of 64.
fn count_and_norm<'a, B: Backend>(
    b: &B,
    n: usize,
    words: B::View<'a, u32>,
    scales: B::View<'a, u16>,
) -> Result<[ExactSum; 2]> {
    let mut sums = b.zeros(2 * SUM_WORDS)?;
    b.count_nonzero(&CountNonzero, &mut [CountNonzeroItem { words, sum: 0 }], B::view_mut(&mut sums))?;
    let op = SquaredNorm { bits: 2, grouping: Grouping::default() };
    b.squared_norm(&op, &mut [SquaredNormItem { n, levels: words, scales, sum: 1 }], B::view_mut(&mut sums))?;
    let found = read_sums(b, B::view(&sums))?;
    Ok([found[0].clone(), found[1].clone()])
}

/// With or without a driver: a card that does not exist is an error and no panic.
#[test]
fn a_card_that_is_not_there() {
    match Cuda::new(4096) {
        Err(Error::NoDevice { backend: "cuda", reason }) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn out_of_memory_says_what_was_asked_and_leaves_everything() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    let data = numbers(10_000, 1);
    let held = cuda.upload(&data)?;
    let total = cuda.stream().context().total_mem().unwrap() as u64;
    let refused = |bytes: u64| match cuda.zeros::<u8>(bytes as usize) {
        Err(Error::OutOfMemory { asked, free: Some(free), .. }) => {
            assert_eq!(asked, bytes);
            assert!(free <= total);
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("{bytes} bytes on a card of {total}"),
    };
    refused(1 << 46);
    refused(total);
    if !small() {
        let half = cuda.zeros::<u8>((total / 2) as usize)?;
        refused(total / 4 * 3);
        drop(half);
        cuda.synchronize()?;
        drop(cuda.zeros::<u8>((total / 4 * 3) as usize)?);
    }
    assert!(matches!(cuda.zeros::<u64>(usize::MAX), Err(Error::OutOfMemory { .. })));
    assert!(matches!(cuda.reports(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
    assert_eq!(cuda.download(Cuda::view(&held))?, data);
    Ok(())
}

#[test]
fn a_list_longer_than_a_table() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    let count = if small() { 700 } else { 2500 };
    let op = ReadOut { bits: 4, block: BlockSize::default(), factor: 0.3 };
    let lengths: Vec<usize> = (0..count).map(|i| i * 37 % 400 + usize::from(i % 50 == 0) * 9000).collect();
    let levels: Vec<Vec<u32>> = lengths.iter().map(|n| words(n.div_ceil(32) * 4, *n as u32)).collect();
    let factors: Vec<Vec<u16>> = lengths.iter().map(|n| scales(n.div_ceil(64))).collect();

    let (mut l, mut s, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..count {
        l.push(cuda.upload(&levels[i])?);
        s.push(cuda.upload(&factors[i])?);
        out.push(cuda.zeros::<f32>(lengths[i])?);
    }
    let mut items: Vec<read_out::Item<'_, Cuda, f32>> = Vec::new();
    for ((l, s), out) in l.iter().zip(&s).zip(&mut out) {
        let (levels, scales, out) = (Cuda::view(l), Cuda::view(s), Cuda::view_mut(out));
        items.push(read_out::Item { levels, scales, out, guard: None });
    }
    cuda.read_out(&op, &mut items, None)?;
    for i in 0..count {
        let mut expected = vec![0.0f32; lengths[i]];
        let item =
            read_out::Item { levels: &levels[i][..], scales: &factors[i][..], out: &mut expected[..], guard: None };
        Cpu::new().read_out(&op, &mut [item], None)?;
        assert_eq!(
            bits(&cuda.download(Cuda::view(&out[i]))?),
            bits(&expected),
            "tensor {i} of {} elements",
            lengths[i]
        );
    }
    Ok(())
}

#[test]
fn more_elements_than_32_bits_can_index() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    if small() {
        return Ok(());
    }
    let n = (1usize << 32) + 4096 + 77;
    let at = [5, (1 << 31) + 7, (1 << 32) + 3, n - 1];
    let mut x = cuda.zeros::<bf16>(n)?;
    let two = cuda.upload(&[bf16::from_f32(-2.0)])?;
    for i in at {
        let part = Cuda::slice_mut(Cuda::view_mut(&mut x), i..i + 1).unwrap();
        cuda.copy(Cuda::view(&two), part)?;
    }
    let mut planes = cuda.zeros::<u32>(n.div_ceil(32) * 2)?;
    let mut block_scales = cuda.zeros::<u16>(n.div_ceil(64))?;
    let mut reports = cuda.reports(2)?;
    let op = Quantize::stochastic(Draw::new(1, 2));
    let (words, scales) = (Cuda::view_mut(&mut planes), Cuda::view_mut(&mut block_scales));
    let item = quantize::Item { tensor: 0, first: 0, x: Cuda::view(&x), words, scales, report: 0 };
    cuda.quantize(&op, &mut [item], &mut reports)?;
    let [count, norm] = count_and_norm(&cuda, n, Cuda::view(&planes), Cuda::view(&block_scales))?;
    assert_eq!((count.to_count(), norm.to_f64()), (at.len() as u64, 16.0));

    let nan = cuda.upload(&[bf16::NAN])?;
    let part = Cuda::slice_mut(Cuda::view_mut(&mut x), at[2]..at[2] + 1).unwrap();
    cuda.copy(Cuda::view(&nan), part)?;
    let item = check::Item { x: Cuda::view(&x), first: 0, report: 1 };
    cuda.check(&Check { weight: 1.0 }, &mut [item], &mut reports)?;
    let found = cuda.read_reports(&reports)?;
    assert_eq!(found[0], Report::default());
    assert_eq!(found[1], Report { non_finite: 1, first: Some(at[2] as u64), clipped: 0 });

    // Into the input's memory: every element is written.
    let (words, scales, out) = (Cuda::view(&planes), Cuda::view(&block_scales), Cuda::view_mut(&mut x));
    cuda.dequantize(&Dequantize::default(), &mut [dequantize::Item { words, scales, out }])?;
    for i in at {
        let near = Cuda::slice(Cuda::view(&x), i - 5..(i + 5).min(n)).unwrap();
        let near = cuda.download(near)?;
        let expected: Vec<bf16> = (0..near.len()).map(|j| bf16::from_f32(if j == 5 { -2.0 } else { 0.0 })).collect();
        assert_eq!(near, expected, "around {i}");
    }
    Ok(())
}

#[test]
fn accumulation_beyond_what_32_bits_can_index() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    if small() {
        return Ok(());
    }
    // 5.1 bytes an element: as many as 32 bits can not index where the card has the memory, else as 31 can not.
    let free = cuda.stream().context().mem_get_info().unwrap().0;
    let beyond = if free > 30_000_000_000 { 1usize << 32 } else { 1 << 31 };
    let n = beyond + 4096 + 77;
    far::far_apart(&cuda, n, &[5, beyond / 2 + 7, beyond + 3, n - 1])
}

#[test]
fn memory_of_another_context_is_refused() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    let context = CudaContext::new_non_primary(0, 0).unwrap();
    let other = Cuda::with_stream(context.default_stream())?;
    let wrong = |result: Result<()>| match result {
        Err(Error::WrongDevice { expected, got }) => assert_ne!(expected, got),
        other => panic!("{other:?}"),
    };
    let theirs = other.upload(&[1.0f32, f32::NAN])?;
    let mut ours = cuda.upload(&[3.0f32, 4.0])?;
    let mut reports = cuda.reports(1)?;
    wrong(cuda.accepts(&Cuda::view(&theirs)));
    wrong(cuda.copy(Cuda::view(&theirs), Cuda::view_mut(&mut ours)));
    wrong(cuda.download(Cuda::view(&theirs)).map(drop));
    let x = Cuda::view(&theirs);
    // The first item is in order; nothing may be done for it.
    let mine = cuda.upload(&[f32::NAN])?;
    let mut items = [check::Item { x: Cuda::view(&mine), first: 0, report: 0 }, check::Item { x, first: 0, report: 0 }];
    wrong(cuda.check(&Check { weight: 1.0 }, &mut items, &mut reports));
    let mut foreign = other.reports(1)?;
    wrong(cuda.check(&Check { weight: 1.0 }, &mut items[..1], &mut foreign));
    assert_eq!(cuda.read_reports(&reports)?, [Report::default()]);
    assert_eq!(cuda.download(Cuda::view(&ours))?, [3.0, 4.0]);
    assert_eq!(other.read_reports(&foreign)?, [Report::default()]);
    Ok(())
}

/// Buffers of one stream used on another: cudarc's events order them.
#[test]
fn streams_wait_for_each_other() -> Result<()> {
    if card().is_none() {
        return Ok(());
    }
    let context = CudaContext::new(0).unwrap();
    let a = Cuda::with_stream(context.new_stream().unwrap())?;
    let b = Cuda::with_stream(context.new_stream().unwrap())?;
    let n = if small() { 5000 } else { 50_000_000 };
    let full: Vec<u32> = (0..n).map(|i| if i % 2 == 0 { u32::MAX } else { 0 }).collect();
    let mut buffers = [a.zeros::<u32>(n)?, a.upload(&full)?];
    for round in 0..10 {
        let [x, y] = &mut buffers;
        a.copy(Cuda::view(y), Cuda::view_mut(x))?;
        let mut sums = b.zeros(SUM_WORDS)?;
        let mut items = [CountNonzeroItem { words: Cuda::view(x), sum: 0 }];
        b.count_nonzero(&CountNonzero, &mut items, Cuda::view_mut(&mut sums))?;
        let count = read_sums(&b, Cuda::view(&sums))?[0].to_count();
        assert_eq!(count, if round == 0 { n as u64 * 16 } else { 0 });
        b.clear(Cuda::view_mut(y))?;
    }
    Ok(())
}

/// Clones on many threads share the stream and the scratch memory of reductions.
#[test]
fn threads_share_a_card() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    std::thread::scope(|scope| {
        let run = |seed: u32| {
            let cuda = cuda.clone();
            move || -> Result<()> {
                let n = 1000 * (seed as usize + 1);
                let planes = words(n.div_ceil(32) * 2, seed);
                let group = scales(n.div_ceil(64));
                let (p, s) = (cuda.upload(&planes)?, cuda.upload(&group)?);
                let expected = count_and_norm(&Cpu::new(), n, &planes, &group)?;
                for _ in 0..20 {
                    assert_eq!(count_and_norm(&cuda, n, Cuda::view(&p), Cuda::view(&s))?, expected);
                }
                Ok(())
            }
        };
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(run(seed))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Levels, scales, and the bits of what is read out.
type Held = (Vec<u32>, Vec<u16>, Vec<u32>);

/// A model's window on a card: gradients, levels, scales and what is read out.
struct Window {
    x: Vec<trigrad::cuda::Buffer<f32>>,
    levels: Vec<trigrad::cuda::Buffer<u32>>,
    scales: Vec<trigrad::cuda::Buffer<u16>>,
    out: Vec<trigrad::cuda::Buffer<f32>>,
    reports: trigrad::cuda::Reports,
}

impl Window {
    fn new(cuda: &Cuda, lengths: &[usize]) -> Result<Self> {
        let mut window =
            Window { x: vec![], levels: vec![], scales: vec![], out: vec![], reports: cuda.reports(lengths.len())? };
        for (i, n) in lengths.iter().enumerate() {
            window.x.push(cuda.upload(&numbers(*n, i as u32))?);
            window.levels.push(cuda.zeros(n.div_ceil(32) * 4)?);
            window.scales.push(cuda.zeros(n.div_ceil(64))?);
            window.out.push(cuda.zeros(*n)?);
        }
        Ok(window)
    }

    /// One micro-batch: check, accumulate, read out under guard. Everything is queued.
    fn step(&mut self, cuda: &Cuda, draw: Draw) -> Result<()> {
        let weight = 0.5;
        let mut checks: Vec<_> = (self.x.iter().enumerate())
            .map(|(report, x)| check::Item::<'_, Cuda, f32> { x: Cuda::view(x), first: 0, report })
            .collect();
        cuda.check(&Check { weight }, &mut checks, &mut self.reports)?;
        let mut items = Vec::new();
        let state = self.levels.iter_mut().zip(&mut self.scales);
        for (i, (x, (levels, scales))) in self.x.iter().zip(state).enumerate() {
            let (levels, scales) = (Cuda::view_mut(levels), Cuda::view_mut(scales));
            let item = AdaptiveItem { tensor: i as u32, first: 0, x: Cuda::view(x), levels, scales, report: i };
            items.push(item);
        }
        let op = Adaptive { bits: 4, block: BlockSize::default(), draw, weight };
        cuda.accumulate_adaptive(&op, &mut items, &mut self.reports)?;
        drop(items);
        let mut items = Vec::new();
        let state = self.levels.iter().zip(&self.scales);
        for (i, (out, (levels, scales))) in self.out.iter_mut().zip(state).enumerate() {
            let (levels, scales) = (Cuda::view(levels), Cuda::view(scales));
            items.push(read_out::Item { levels, scales, out: Cuda::view_mut(out), guard: Some(i) });
        }
        let op = ReadOut { bits: 4, block: BlockSize::default(), factor: 2.0 };
        cuda.read_out(&op, &mut items, Some(&self.reports))
    }

    fn results(&self, cuda: &Cuda) -> Result<Vec<Held>> {
        let mut results = Vec::new();
        for ((levels, scales), out) in self.levels.iter().zip(&self.scales).zip(&self.out) {
            let out = bits(&cuda.download(Cuda::view(out))?);
            results.push((cuda.download(Cuda::view(levels))?, cuda.download(Cuda::view(scales))?, out));
        }
        Ok(results)
    }
}

/// NaN is found without waiting: the read-out is NaN throughout, other tensors are not touched, the report says where.
#[test]
fn non_finite_gradients_are_reported_later() -> Result<()> {
    let Some(cuda) = card() else { return Ok(()) };
    let lengths = [500, 9000];
    let mut window = Window::new(&cuda, &lengths)?;
    let mut clean = Window::new(&cuda, &lengths)?;
    clean.step(&cuda, Draw::new(3, 1))?;
    let mut x = numbers(lengths[1], 1);
    x[7000] = f32::NAN;
    x[8999] = f32::INFINITY;
    window.x[1] = cuda.upload(&x)?;
    window.step(&cuda, Draw::new(3, 1))?;
    let (results, expected) = (window.results(&cuda)?, clean.results(&cuda)?);
    assert_eq!(results[0], expected[0]);
    assert_eq!(results[1].2, vec![0x7fff_ffff; lengths[1]]);
    // Twice each: by check and by accumulate.
    let found = Report { non_finite: 4, first: Some(7000), clipped: 0 };
    assert_eq!(cuda.read_reports(&window.reports)?, [Report::default(), found]);
    cuda.clear_reports(&mut window.reports)?;
    assert_eq!(cuda.read_reports(&window.reports)?, [Report::default(); 2]);
    Ok(())
}
