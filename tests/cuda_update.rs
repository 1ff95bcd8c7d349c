//! The fused updates on a card against the CPU, bit for bit. Without a card there is nothing to compare, and the test
//! says so.
#![cfg(feature = "cuda")]

use half::bf16;
use trigrad::Result;
use trigrad::backend::{Backend, Memory};
use trigrad::cpu::Cpu;
use trigrad::cuda::Cuda;
use trigrad::numerics::constants::RANGE_LIMIT;
use trigrad::numerics::pack::{set_level, words};
use trigrad::numerics::update::{AdamWTerms, SgdTerms};
use trigrad::op::check::{Check, Item as CheckItem};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::{BlockSize, Draw, Element};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    fn float(&mut self) -> f32 {
        (self.next() as f32 / (1u32 << 30) as f32 - 1.0) * 0.5
    }
}

/// One list of tensors, in host memory.
struct Given<T> {
    source: Source,
    tensors: Vec<Tensor<T>>,
}

struct Tensor<T> {
    levels: Vec<u32>,
    scales: Vec<u16>,
    dense: Option<Vec<f32>>,
    weights: Vec<T>,
    first: Vec<f32>,
    second: Vec<f32>,
    at: u64,
}

fn given<T: Element>(r: &mut Random, bits: u32, block: u32, lengths: &[usize]) -> Given<T> {
    let size = BlockSize::new(block).unwrap();
    let max = (1i32 << (bits - 1)) - 1;
    let tensor = |(i, &n): (usize, &usize)| {
        let mut levels = vec![0; words(n, bits)];
        for e in 0..n {
            set_level(&mut levels, bits, e, (r.next() % (2 * max as u32 + 1)) as i32 - max);
        }
        Tensor {
            levels,
            scales: (0..size.blocks(n)).map(|_| bf16::from_f32(r.float().abs() / max as f32).to_bits()).collect(),
            dense: (i % 3 == 2).then(|| (0..n).map(|_| r.float()).collect()),
            weights: (0..n).map(|_| T::from_f32_bits(r.float().to_bits())).collect(),
            first: (0..n).map(|_| r.float()).collect(),
            // Tiny ones too: subnormals must be kept.
            second: (0..n).map(|e| if e % 7 == 0 { 1e-40 } else { r.float().abs() }).collect(),
            at: if i % 2 == 0 { 0 } else { u64::from(block) * 77 },
        }
    };
    let tensors = lengths.iter().enumerate().map(tensor).collect();
    Given { source: Source { bits, block: size, factor: 0.3, draw: Draw::new(5, 9) }, tensors }
}

/// Weights and moments after an update, as bits.
fn run<B: Backend, T: Element>(backend: &B, given: &Given<T>, adam: bool, momentum: f32, marked: bool) -> Result<Vec<Vec<u8>>> {
    let mut guards = backend.reports(300)?;
    let bad = backend.upload(&[f32::from_bits(RANGE_LIMIT)])?;
    if marked {
        let item = CheckItem { x: B::view(&bad), first: 0, report: 299 };
        backend.check(&Check { weight: 1.0 }, &[item], &mut guards)?;
    }
    let mut held = Vec::new();
    for t in &given.tensors {
        held.push((
            backend.upload(&t.levels)?,
            backend.upload(&t.scales)?,
            t.dense.as_ref().map(|d| backend.upload(d)).transpose()?,
            backend.upload(&t.weights)?,
            backend.upload(&t.first)?,
            backend.upload(&t.second)?,
        ));
    }
    if adam {
        let terms = AdamWTerms::new(1e-2, (0.9, 0.999), 1e-8, 0.1, 7);
        let mut items: Vec<AdamWItem<'_, B, T>> = Vec::new();
        for ((i, t), (levels, scales, dense, w, m, v)) in given.tensors.iter().enumerate().zip(&mut held) {
            let gradient = match dense {
                Some(x) => Gradient::Dense(B::view(x)),
                None => Gradient::Packed { levels: B::view(levels), scales: B::view(scales) },
            };
            let (first_moment, second_moment) = (B::view_mut(m), B::view_mut(v));
            let weights = B::view_mut(w);
            items.push(AdamWItem { tensor: i as u32, first: t.at, gradient, weights, first_moment, second_moment });
        }
        backend.update_adamw(&AdamW { source: given.source, terms }, &mut items, Some(&guards))?;
    } else {
        let terms = SgdTerms { learning_rate: 0.1, momentum, weight_decay: 0.01 };
        let mut items: Vec<SgdItem<'_, B, T>> = Vec::new();
        for ((i, t), (levels, scales, dense, w, m, _)) in given.tensors.iter().enumerate().zip(&mut held) {
            let gradient = match dense {
                Some(x) => Gradient::Dense(B::view(x)),
                None => Gradient::Packed { levels: B::view(levels), scales: B::view(scales) },
            };
            let momentum = (momentum != 0.0).then(|| B::view_mut(m));
            items.push(SgdItem { tensor: i as u32, first: t.at, gradient, weights: B::view_mut(w), momentum });
        }
        let op = Sgd { source: given.source, terms, nesterov: momentum != 0.0 };
        backend.update_sgd(&op, &mut items, Some(&guards))?;
    }
    let mut out = Vec::new();
    for (_, _, _, w, m, v) in &held {
        out.push(bytemuck::cast_slice(&backend.download(B::view(w))?).to_vec());
        out.push(bytemuck::cast_slice(&backend.download(B::view(m))?).to_vec());
        out.push(bytemuck::cast_slice(&backend.download(B::view(v))?).to_vec());
    }
    Ok(out)
}

fn compare<T: Element>(cuda: &Cuda) -> Result<()> {
    let mut r = Random(1);
    let many: Vec<usize> = (0..500).map(|i| i * 3).collect();
    for bits in [2, 4, 8, 16] {
        for block in [32, 64, 4096] {
            for lengths in [&[70_001][..], &[1, 31, 4096, 8192 + 33, 12_288, 100], &many] {
                let given = given::<T>(&mut r, bits, block, lengths);
                for (adam, momentum, marked) in [(true, 0.0, false), (false, 0.9, false), (false, 0.0, false), (true, 0.0, true)] {
                    let want = run(&Cpu::new(), &given, adam, momentum, marked)?;
                    let got = run(cuda, &given, adam, momentum, marked)?;
                    let differs = want.iter().zip(&got).position(|(a, b)| a != b);
                    assert_eq!(differs, None, "{bits} bits, block {block}, adam {adam}, {} tensors", lengths.len());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_card_updates_as_the_cpu_does() -> Result<()> {
    let cuda = match Cuda::new(0) {
        Ok(cuda) => cuda,
        Err(e) => {
            eprintln!("skipped: {e}");
            return Ok(());
        }
    };
    compare::<f32>(&cuda)?;
    compare::<bf16>(&cuda)
}
