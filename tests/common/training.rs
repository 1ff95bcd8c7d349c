//! A training on the raw API that any backend can run: gradients that follow the weights, so that one wrong bit
//! anywhere spreads to everything after it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use half::{bf16, f16};
use trigrad::Backend;
use trigrad::Result;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Held, Reduce, Scales, Spec, TensorState};
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::{BlockSize, Draw, Element};

pub(crate) const FORMATS: [Format; 7] = [
    Format::Adaptive { bits: 2 },
    Format::Adaptive { bits: 4 },
    Format::Adaptive { bits: 8 },
    Format::Exact { bits: 4, scales: Scales::FirstLook { headroom: 2.0 } },
    Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 1.5 } },
    Format::Exact { bits: 32, scales: Scales::LastWindow { headroom: 1.5 } },
    Format::F32,
];

/// Lengths of the tensors: more than one tile of work, a part of a block, a single element. `TRIGRAD_SMALL`: for
/// checkers that run everything many times slower.
fn lengths() -> [usize; 4] {
    [if std::env::var_os("TRIGRAD_SMALL").is_some() { 5001 } else { 150_001 }, 4096, 77, 1]
}

const STEPS: u32 = 5;
const MICRO_BATCHES: u32 = 4;
/// The window that has a NaN in it.
const MARKED: u32 = 2;

/// FNV-1a of 64 bits over the little-endian words of what a step left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, words: impl IntoIterator<Item = u32>) {
        for byte in words.into_iter().flat_map(u32::to_le_bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Noise that is a function of its place alone.
fn noise(step: u32, micro_batch: u32, tensor: usize, i: usize) -> f32 {
    let mut z = u64::from(step) << 48 ^ u64::from(micro_batch) << 40 ^ (tensor as u64) << 32 ^ i as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.125
}

/// Weights and moments of one tensor.
struct Parameter<B: Backend, T: Element> {
    weights: B::Buffer<T>,
    first: B::Buffer<f32>,
    second: B::Buffer<f32>,
}

impl<B: Backend, T: Element> Parameter<B, T> {
    fn new(backend: &B, n: usize) -> Result<Self> {
        let start: Vec<T> = (0..n).map(|i| T::from_f32_bits(((i % 19) as f32 / 16.0 - 0.5).to_bits())).collect();
        Ok(Parameter { weights: backend.upload(&start)?, first: backend.zeros(n)?, second: backend.zeros(n)? })
    }

    fn values(&self, backend: &B) -> Result<Vec<f32>> {
        let weights = backend.download(B::view(&self.weights))?;
        Ok(weights.into_iter().map(|w| f32::from_bits(w.to_f32_bits())).collect())
    }

    fn digest(&self, backend: &B, digest: &mut Digest) -> Result<()> {
        digest.add(backend.download(B::view(&self.weights))?.into_iter().map(Element::to_f32_bits));
        for moment in [&self.first, &self.second] {
            digest.add(backend.download(B::view(moment))?.into_iter().map(f32::to_bits));
        }
        Ok(())
    }

    fn update(&mut self, backend: &B, tensor: u32, sum: &Accumulator<B>, adam: bool) -> Result<()> {
        let (bits, gradient) = match sum.held(tensor as usize)? {
            Held::Levels { bits, levels, scales } => (bits, Gradient::Packed { levels, scales }),
            Held::F32(x) => (4, Gradient::Dense(x)),
        };
        let draw = Draw::new(sum.config().seed, sum.step());
        let block = sum.config().block;
        let source = Source { bits, block, factor: sum.factor(Reduce::Mean)?, draw };
        let weights = B::view_mut(&mut self.weights);
        let mut reports = backend.reports(1)?;
        if adam {
            let op = AdamW { source, terms: AdamWTerms::new(0.01, (0.9, 0.999), 1e-8, 0.1, sum.step() + 1) };
            let (first_moment, second_moment) = (B::view_mut(&mut self.first), B::view_mut(&mut self.second));
            let item = AdamWItem { tensor, first: 0, gradient, weights, first_moment, second_moment, report: 0 };
            backend.update_adamw(&op, &mut [item], None, &mut reports)?;
        } else {
            let terms = SgdTerms { learning_rate: 0.5, momentum: 0.9, weight_decay: 0.01 };
            let momentum = Some(B::view_mut(&mut self.first));
            let item = SgdItem { tensor, first: 0, gradient, weights, momentum, report: 0 };
            backend.update_sgd(&Sgd { source, terms, nesterov: true }, &mut [item], None, &mut reports)?;
        }
        backend.read_reports(&reports)?[0].finite()
    }
}

/// Trains, and digests everything that each step leaves behind: weights, moments, levels, scales, reports, norms.
pub(crate) fn train<B: Backend + Clone>(backend: &B, format: Format, adam: bool) -> Result<Vec<Digest>> {
    let lengths = lengths();
    let specs: Vec<Spec> = lengths.iter().enumerate().map(|(i, n)| Spec::new(format!("t{i}"), [*n])).collect();
    let block = BlockSize::new(128)?;
    let mut sum = Accumulator::new(backend.clone(), &specs, Config { format, block, seed: 99, ..Config::default() })?;
    let mut wide = [Parameter::<B, f32>::new(backend, lengths[0])?, Parameter::new(backend, lengths[2])?];
    let mut narrow = [Parameter::<B, bf16>::new(backend, lengths[1])?, Parameter::new(backend, lengths[3])?];
    let mut digests = Vec::new();
    for step in 0..STEPS {
        let mut digest = Digest::new();
        let weights = [
            wide[0].values(backend)?,
            narrow[0].values(backend)?,
            wide[1].values(backend)?,
            narrow[1].values(backend)?,
        ];
        for micro_batch in 0..MICRO_BATCHES {
            let gradient = |t: usize| -> Vec<f32> {
                weights[t].iter().enumerate().map(|(i, w)| w + noise(step, micro_batch, t, i)).collect()
            };
            let mut first = gradient(0);
            if (step, micro_batch) == (MARKED, 1) {
                first[lengths[0] / 2] = f32::NAN;
            }
            let half: Vec<bf16> = gradient(1).into_iter().map(bf16::from_f32).collect();
            let small: Vec<f16> = gradient(2).into_iter().map(f16::from_f32).collect();
            let a = backend.upload(&first)?;
            let b = backend.upload(&half)?;
            let c = backend.upload(&small)?;
            let d = backend.upload(&gradient(3))?;
            let floats: [(usize, Floats<'_, B>); 4] = [
                (0, Floats::F32(B::view(&a))),
                (1, Floats::Bf16(B::view(&b))),
                (2, Floats::F16(B::view(&c))),
                (3, Floats::F32(B::view(&d))),
            ];
            sum.accumulate(&floats, if micro_batch == 3 { 0.37 } else { 1.0 })?;
        }
        let state = sum.state()?;
        for t in &state.tensors {
            match t {
                TensorState::Levels { levels, scales, seen, .. } => {
                    digest.add(levels.iter().copied());
                    digest.add(scales.iter().chain(seen.iter().flatten()).map(|s| u32::from(*s)));
                }
                TensorState::F32(sum) => digest.add(sum.iter().map(|x| x.to_bits())),
            }
        }
        for r in &state.reports {
            digest.add([r.non_finite as u32, r.first.map_or(u32::MAX, |f| f as u32), r.clipped as u32]);
        }
        if state.reports.iter().all(|r| r.non_finite == 0) {
            let norm = sum.squared_norm()?.to_bits();
            digest.add([norm as u32, (norm >> 32) as u32]);
            for (t, parameter) in [0, 2].into_iter().zip(&mut wide) {
                parameter.update(backend, t, &sum, adam)?;
            }
            for (t, parameter) in [1, 3].into_iter().zip(&mut narrow) {
                parameter.update(backend, t, &sum, adam)?;
            }
        }
        wide.iter().try_for_each(|p| p.digest(backend, &mut digest))?;
        narrow.iter().try_for_each(|p| p.digest(backend, &mut digest))?;
        digests.push(digest);
        sum.reset()?;
    }
    Ok(digests)
}

/// The windows differ from each other, and the marked one moved no weight: digests say something.
pub(crate) fn sound(digests: &[Digest]) -> bool {
    digests.len() == STEPS as usize && (1..digests.len()).all(|i| !digests[..i].contains(&digests[i]))
}
