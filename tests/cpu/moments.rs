//! AdamW with moments in 8 bits beside AdamW in f32: updates stay bounded, second moments follow, no element starves.
//! On the CPU always, and on a GPU where there is one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that fails may panic; figures are printed")]

use half::bf16;
use trigrad::cpu::Cpu;
use trigrad::numerics::moments::{MOMENT_BLOCK, decode};
use trigrad::numerics::update::{AdamWTerms, adamw};
use trigrad::op::update::{Gradient, Source};
use trigrad::op::update_adamw_8bit::{AdamW8, AdamW8Item};
use trigrad::op::{BlockSize, Draw, Element};
use trigrad::{Backend, Memory};

/// Numbers by SplitMix64, nearly Gaussian where asked.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn normal(&mut self) -> f64 {
        let word = [self.next(), self.next()];
        let halves = word.iter().flat_map(|w| (0..4).map(move |i| (w >> (16 * i)) as u16));
        (halves.map(|h| (f64::from(h) + 0.5) / 65_536.0).sum::<f64>() - 4.0) * 1.5f64.sqrt()
    }
}

/// A tensor in training, in 8 bits on a device and in f32 here. The learning rate is 1 and weights begin each step as 0,
/// so that after it they are the update.
struct Both<'b, B: Backend> {
    backend: &'b B,
    betas: (f64, f64),
    step: u32,
    words: B::Buffer<u16>,
    scales: B::Buffer<u16>,
    moments: Vec<(f32, f32)>,
}

impl<'b, B: Backend> Both<'b, B> {
    fn new(backend: &'b B, betas: (f64, f64), n: usize) -> Self {
        let (words, scales) = (backend.zeros(n).unwrap(), backend.zeros(AdamW8::scales(n)).unwrap());
        Both { backend, betas, step: 0, words, scales, moments: vec![(0.0, 0.0); n] }
    }

    fn terms(&self) -> AdamWTerms {
        AdamWTerms::new(1.0, self.betas, 1e-30, 0.0, self.step)
    }

    /// One step: the updates in 8 bits and in f32.
    fn step(&mut self, g: &[f32]) -> (Vec<f32>, Vec<f32>) {
        self.step += 1;
        let (b, terms) = (self.backend, self.terms());
        let source = Source { bits: 4, block: BlockSize::default(), factor: 1.0, draw: Draw::new(7, self.step) };
        let (g_there, mut weights) = (b.upload(g).unwrap(), b.zeros::<f32>(g.len()).unwrap());
        let mut reports = b.reports(1).unwrap();
        let item = AdamW8Item {
            tensor: 3,
            first: 0,
            gradient: Gradient::Dense(B::view(&g_there)),
            weights: B::view_mut(&mut weights),
            moments: B::view_mut(&mut self.words),
            moment_scales: B::view_mut(&mut self.scales),
            report: 0,
        };
        b.update_adamw_8bit::<f32>(&AdamW8 { source, terms }, &mut [item], None, &mut reports).unwrap();
        assert_eq!(b.read_reports(&reports).unwrap()[0].non_finite, 0);
        let update = b.download(B::view(&weights)).unwrap();
        let wide = self.moments.iter_mut().zip(g).map(|((m, v), &g)| {
            let (w, new_m, new_v) = adamw(&terms, g, 0.0, *m, *v);
            (*m, *v) = (new_m, new_v);
            w
        });
        (update, wide.collect())
    }

    /// The moments in 8 bits.
    fn decoded(&self) -> Vec<(f32, f32)> {
        let (words, scales) =
            (self.backend.download(B::view(&self.words)), self.backend.download(B::view(&self.scales)));
        let (words, scales) = (words.unwrap(), scales.unwrap());
        words.iter().enumerate().map(|(i, &w)| decode(w, scales[i / MOMENT_BLOCK])).collect()
    }
}

/// The largest update that AdamW in f32 can reach by any sequence of at most `steps` gradients, in learning rates: by Cauchy
/// and Schwarz `m^2 <= (1 - beta1)^2 / (1 - beta2) sum (beta1^2 / beta2)^i v`, with the corrections of each step.
fn reach((beta1, beta2): (f64, f64), steps: i32) -> f64 {
    let ratio = beta1 * beta1 / beta2;
    let mut sum = 0.0;
    let at = |t: i32| {
        sum += ratio.powi(t - 1);
        let raw = (1.0 - beta1) * f64::sqrt(sum / (1.0 - beta2));
        raw * (1.0 - beta2.powi(t)).sqrt() / (1.0 - beta1.powi(t))
    };
    (1..=steps).map(at).fold(0.0, f64::max)
}

fn largest(update: &[f32]) -> f64 {
    update.iter().map(|u| if u.is_nan() { f64::INFINITY } else { f64::from(u.abs()) }).fold(0.0, f64::max)
}

/// How element `i` of a block of hard cases goes, at step `t`: growth that reaches the bound, bursts, gaps, silence, sizes from
/// one end of the range to the other, beside each other in a block.
fn adversary(i: usize, t: i32, (beta1, beta2): (f64, f64), random: &mut Random) -> f64 {
    let size = 10f64.powi(i as i32 % 17 - 8);
    let growth = (beta2 / beta1).min(1.3);
    let x = match i / 17 % 9 {
        // Cauchy's equality: what grows by beta2 / beta1 a step.
        0 => growth.powi(t % 100 - 50),
        // The same after a long silence.
        1 => f64::from(u8::from(t > 340)) * growth.powi(t - 400),
        2 => f64::from(u8::from(t % 50 == 1)),
        3 => random.normal() * f64::from(u8::from(random.next().is_multiple_of(50))),
        4 => 10f64.powi((random.next() % 13) as i32 - 6) * random.normal(),
        5 => f64::from(u8::from(t == 5)),
        6 => (-f64::from(t) / 15.0).exp(),
        7 => 1.0,
        _ => f64::from(1 - 2 * (t % 2)) * f64::from(u8::from(t < 100)),
    };
    x * size
}

/// Never more than twice what f32 can reach, whatever comes.
fn updates_are_bounded<B: Backend>(backend: &B) {
    for betas in [(0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.95, 0.95), (0.0, 0.999)] {
        let n = 17 * 9 * 16 + 21;
        let (mut both, mut random) = (Both::new(backend, betas, n), Random(5));
        let (mut most, mut most_wide) = (0.0f64, 0.0f64);
        for t in 1..=400 {
            // Places in the blocks are shuffled from one kind to the next.
            let g: Vec<f32> = (0..n).map(|i| adversary(i * 1009 % n, t, betas, &mut random) as f32).collect();
            let (u, wide) = both.step(&g);
            (most, most_wide) = (most.max(largest(&u)), most_wide.max(largest(&wide)));
        }
        let can = reach(betas, 400);
        println!("betas {betas:?}: largest update {most:.2}, in f32 {most_wide:.2}, f32 can reach {can:.2}");
        assert!(most <= 2.0 * can, "{betas:?}: {most} where f32 can reach {can}");
        assert!(most_wide <= 1.01 * can && most_wide > 0.5 * can, "{betas:?}: the adversary does not reach the bound");
    }
}

/// Rows that get a gradient every 50th step, each at a step of its own, of elements that are very differently large: the
/// updates are bounded, and the sum of them is that of f32.
fn rare_rows_train_as_in_f32<B: Backend>(backend: &B) {
    let (rows, width, betas) = (250, 256, (0.9, 0.99));
    let mut random = Random(1);
    let sizes: Vec<f64> = (0..rows * width).map(|_| (1.5 * random.normal()).exp() * 1e-3).collect();
    let means: Vec<f64> = sizes.iter().map(|s| 0.5 * s * random.normal()).collect();
    let mut both = Both::new(backend, betas, rows * width);
    let (mut sums, mut wide_sums) = (vec![0.0; rows * width], vec![0.0; rows * width]);
    let (mut most, mut most_wide) = (0.0f64, 0.0f64);
    for t in 0..400 {
        let g = |i: usize| match (i / width + t) % 50 {
            0 => (means[i] + sizes[i] * random.normal()) as f32,
            _ => 0.0,
        };
        let g: Vec<f32> = (0..rows * width).map(g).collect();
        let (u, wide) = both.step(&g);
        (most, most_wide) = (most.max(largest(&u)), most_wide.max(largest(&wide)));
        for (sum, u) in sums.iter_mut().zip(u).chain(wide_sums.iter_mut().zip(wide)) {
            *sum += f64::from(u);
        }
    }
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let error = square(&mut sums.iter().zip(&wide_sums).map(|(a, b)| a - b)) / square(&mut wide_sums.iter().copied());
    println!("rare rows: largest update {most:.2}, in f32 {most_wide:.2}; squared error of the whole way {error:.4}");
    assert!(most <= 2.0 * reach(betas, 400), "{most}");
    assert!(error < 0.01, "{error}");
}

/// Gradients fall tenfold at step 200 of 5,000, with a decay of 0.999, one element of each block excepted: second moments follow.
fn second_moments_follow<B: Backend>(backend: &B, steps: usize) {
    let n = 64 * 12;
    let (mut both, mut random) = (Both::new(backend, (0.9, 0.999), n), Random(2));
    let mut checked = 0;
    for t in 1..=steps {
        let size = |i: usize| if i.is_multiple_of(64) || t < 200 { 1e-3 } else { 1e-4 };
        let g: Vec<f32> = (0..n).map(|i| (size(i) * random.normal()) as f32).collect();
        both.step(&g);
        if t % (steps / 5) == 0 {
            let ratios = both.decoded().into_iter().zip(&both.moments).map(|((_, v), wide)| f64::from(v / wide.1));
            let ratios: Vec<f64> = ratios.collect();
            let mean = ratios.iter().sum::<f64>() / n as f64;
            let (least, most) = ratios.iter().fold((f64::MAX, 0.0f64), |(a, b), &r| (a.min(r), b.max(r)));
            println!("step {t}: second moment over that in f32: mean {mean:.4}, from {least:.3} to {most:.3}");
            assert!((mean - 1.0).abs() < 0.05, "step {t}: {mean}");
            assert!(least > 0.2 && most < 3.0, "step {t}: an element starves or is frozen: {least} to {most}");
            checked += 1;
        }
    }
    assert_eq!(checked, 5);
}

/// Elements of tiny gradients beside a large one go as far as in f32.
fn tiny_gradients_move<B: Backend>(backend: &B) {
    for size in [1e-2, 1e-3, 1e-4] {
        let n = 64 * 16;
        let (mut both, mut random) = (Both::new(backend, (0.9, 0.999), n), Random(3));
        let (mut way, mut wide_way) = (0.0, 0.0);
        for _ in 0..400 {
            let tiny = |i: usize| !i.is_multiple_of(64);
            let g: Vec<f32> =
                (0..n).map(|i| ((0.3 + random.normal()) * if tiny(i) { size } else { 1.0 }) as f32).collect();
            let (u, wide) = both.step(&g);
            let sum =
                |u: &[f32]| u.iter().enumerate().filter(|(i, _)| tiny(*i)).map(|(_, &u)| f64::from(u)).sum::<f64>();
            way += sum(&u);
            wide_way += sum(&wide);
        }
        println!("gradients of {size} beside 1: way over that in f32 {:.4}", way / wide_way);
        assert!((way / wide_way - 1.0).abs() < 0.03, "{size}: {way} and {wide_way}");
    }
}

/// What holds on every backend.
#[cfg(any(feature = "wgpu", feature = "cuda-kernels"))]
fn all<B: Backend>(backend: &B, steps: usize) {
    updates_are_bounded(backend);
    rare_rows_train_as_in_f32(backend);
    second_moments_follow(backend, steps);
    tiny_gradients_move(backend);
}

#[test]
fn updates_are_bounded_on_the_cpu() {
    updates_are_bounded(&Cpu::new());
}

#[test]
fn rare_rows_train_as_in_f32_on_the_cpu() {
    rare_rows_train_as_in_f32(&Cpu::new());
}

#[test]
fn second_moments_follow_on_the_cpu() {
    second_moments_follow(&Cpu::new(), 5000);
}

#[test]
fn tiny_gradients_move_on_the_cpu() {
    tiny_gradients_move(&Cpu::new());
}

#[cfg(feature = "wgpu")]
#[test]
fn the_same_holds_on_wgpu() {
    if let Some(gpu) = crate::adapter::device(&trigrad::webgpu::Options::default()) {
        all(&gpu, 5000);
    }
}

#[cfg(feature = "cuda-kernels")]
#[test]
fn the_same_holds_on_cuda() {
    if let Some(cuda) = crate::card::card() {
        all(&cuda, 5000);
    }
}

/// A step on bf16 weights; the words, the scales and the weights that it leaves.
fn step_of(g: &[f32], weights: &mut [bf16], words: &mut [u16], scales: &mut [u16], first: u64) -> u64 {
    let source = Source { bits: 4, block: BlockSize::default(), factor: 1.0, draw: Draw::new(7, 3) };
    let op = AdamW8 { source, terms: AdamWTerms::new(0.1, (0.9, 0.999), 1e-8, 0.01, 2) };
    let item = AdamW8Item::<Cpu, bf16> {
        tensor: 1,
        first,
        gradient: Gradient::Dense(g),
        weights,
        moments: words,
        moment_scales: scales,
        report: 0,
    };
    let cpu = Cpu::new();
    let mut reports = cpu.reports(1).unwrap();
    cpu.update_adamw_8bit(&op, &mut [item], None, &mut reports).unwrap();
    reports[0].non_finite
}

/// What is not finite keeps its weight and its moments, and its neighbours do not notice.
#[test]
fn what_is_not_finite_keeps_what_it_had() {
    let mut random = Random(9);
    let mut g: Vec<f32> = (0..130).map(|_| random.normal() as f32).collect();
    let (mut weights, mut words, mut scales) = (vec![bf16::ONE; 130], vec![0; 130], vec![0; 3]);
    assert_eq!(step_of(&g, &mut weights, &mut words, &mut scales, 0), 0);
    let before = (weights.clone(), words.clone(), scales.clone());
    let mut plain = before.clone();
    assert_eq!(step_of(&g, &mut plain.0, &mut plain.1, &mut plain.2, 0), 0);
    for (i, bad) in [(3, f32::NAN), (64, f32::INFINITY), (129, 1e30)] {
        g[i] = bad;
    }
    assert_eq!(step_of(&g, &mut weights, &mut words, &mut scales, 0), 3);
    let decoded = |words: &[u16], scales: &[u16], i: usize| decode(words[i], scales[i / MOMENT_BLOCK]);
    for (i, weight) in weights.iter().enumerate() {
        if [3, 64, 129].contains(&i) {
            assert_eq!(*weight, before.0[i], "element {i}");
            assert_eq!(decoded(&words, &scales, i), decoded(&before.1, &before.2, i), "element {i}");
        } else {
            // The scale of a block may be another; no number is.
            assert_eq!(*weight, plain.0[i], "element {i}");
            assert_eq!(decoded(&words, &scales, i), decoded(&plain.1, &plain.2, i), "element {i}");
        }
    }
    assert_ne!(weights, before.0);
}

/// Parts that begin with a block give the bits of the whole.
#[test]
fn a_tensor_in_parts_has_the_same_bits() {
    let mut random = Random(4);
    let n = 64 * 3000 + 17;
    let g: Vec<f32> = (0..n).map(|_| random.normal() as f32).collect();
    let fresh = || (vec![bf16::from_f32_bits(0x3f80_0000); n], vec![0u16; n], vec![0u16; AdamW8::scales(n)]);
    let (mut whole, mut parts) = (fresh(), fresh());
    for _ in 0..2 {
        step_of(&g, &mut whole.0, &mut whole.1, &mut whole.2, 0);
        let mut at = 0;
        for end in [64, 64 * 7, 64 * 2100, n] {
            let blocks = at / 64..AdamW8::scales(end);
            step_of(&g[at..end], &mut parts.0[at..end], &mut parts.1[at..end], &mut parts.2[blocks], at as u64);
            at = end;
        }
    }
    assert_eq!(whole, parts);
}
