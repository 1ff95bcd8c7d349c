//! Whole tensors, straight from the page, against the CPU backend.

use crate::common::{self, State, block};
use crate::{page, rng};
use std::cmp::Ordering;
use trigrad::op::accumulate::{Adaptive, Exact};
use trigrad::op::quantize::{Quantize, Rule, Threshold};
use trigrad::op::{Draw, Element, Grouping, Report};
use trigrad::testing::values::Pattern;

/// Elements that count, and the report.
fn ranged(bits: &[u32], first: u64) -> (Vec<u32>, Report) {
    let mut report = Report::default();
    let mut kept = Vec::new();
    for (i, b) in bits.iter().enumerate() {
        if page::out_of_range(page::magnitude(*b)) {
            report.non_finite += 1;
            report.first = report.first.or(Some(first + i as u64));
            kept.push(0);
        } else {
            kept.push(*b);
        }
    }
    (kept, report)
}

fn sign(b: u32) -> i32 {
    if b >= 1 << 31 { -1 } else { 1 }
}

fn quantize(rule: Rule, size: usize, (tensor, first): (u32, u64), bits: &[u32]) -> (Vec<i32>, Vec<u16>, Report) {
    let (bits, mut report) = ranged(bits, first);
    let (mut trits, mut scales) = (Vec::new(), Vec::new());
    for (g, group) in bits.chunks(size).enumerate() {
        let mut m: Vec<u32> = group.iter().map(|b| page::magnitude(*b)).collect();
        match rule {
            Rule::Stochastic { draw, clip } => {
                if let Some(t) = clip.and_then(|c| page::clip(group, c.to_bits())) {
                    for m in m.iter_mut().filter(|m| **m > t) {
                        *m = t;
                        report.clipped += 1;
                    }
                }
                let s = page::stochastic_scale(m.iter().copied().max().unwrap());
                let Draw { seed, step, micro_batch } = draw;
                let place = page::Place { seed, step, micro_batch, tensor, domain: 0 };
                for (i, (b, m)) in group.iter().zip(&m).enumerate() {
                    let k = page::draw(&place, first + (g * size + i) as u64);
                    trits.push(if page::keep(*m, s, k) { sign(*b) } else { 0 });
                }
                scales.push((s >> 16) as u16);
            }
            Rule::Threshold(threshold) => {
                let t = match threshold {
                    Threshold::Given(t) => page::magnitude(t.to_bits()),
                    Threshold::Mean(f) => page::product(page::magnitude(f.to_bits()), page::sum(&m, None).mean()),
                };
                trits.extend(group.iter().zip(&m).map(|(b, m)| if *m > t { sign(*b) } else { 0 }));
                scales.push((page::sum(&m, Some(t)).mean_bf16() >> 16) as u16);
            }
        }
    }
    (trits, scales, report)
}

/// Trits to planes (section 2).
fn planes(trits: &[i32]) -> Vec<u32> {
    let mut words = vec![0; trits.len().div_ceil(32) * 2];
    for (i, t) in trits.iter().enumerate() {
        match t {
            1 => words[i / 32 * 2] += 1 << (i % 32),
            -1 => words[i / 32 * 2 + 1] += 1 << (i % 32),
            _ => {}
        }
    }
    words
}

/// Fields in two's complement (section 2); planes at 2 bits.
fn fields(levels: &[i32], bits: u32) -> Vec<u32> {
    if bits == 2 {
        return planes(levels);
    }
    let (mut words, per) = (vec![0u32; levels.len().div_ceil(32) * bits as usize], 32 / bits as usize);
    for (i, l) in levels.iter().enumerate() {
        let code = l.rem_euclid(1 << bits) as u32;
        words[i / per] += code << (bits as usize * (i % per));
    }
    words
}

#[test]
fn quantized_tensors() {
    let mut rng = rng(11);
    for round in 0..600 {
        let pattern = Pattern::cycle(round);
        let n = rng.pick(&[0, 1, 31, 33, 64, 100, 257]);
        let x: Vec<f32> = pattern.values(&mut rng, n);
        let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
        let draw = Draw::new(rng.next(), rng.word()).micro_batch(rng.below(1 << 24) as u32);
        let rule = match round % 6 {
            0 | 1 => Rule::Stochastic { draw, clip: None },
            2 => Rule::Stochastic { draw, clip: Some(2.5) },
            3 => Rule::Threshold(Threshold::TWN),
            4 => Rule::Threshold(Threshold::Mean(rng.unit() as f32 * 2.0)),
            _ => Rule::Threshold(Threshold::Given(rng.unit() as f32 * 1e-3)),
        };
        for (grouping, size) in [(Grouping::Block(block(32)), 32), (Grouping::Tensor, n.max(1))] {
            let first = 32 * rng.below(1 << 32) / 64;
            let first = first / 32 * 32;
            let (packed, report) = common::quantize(&Quantize { grouping, rule }, (9, first), &x);
            let (trits, scales, found) = quantize(rule, size, (9, first), &bits);
            let what = format!("{pattern:?} {n} {rule:?} {grouping:?}");
            assert_eq!(packed.scales, scales, "{what}");
            assert_eq!(packed.words, planes(&trits), "{what}");
            assert_eq!(report, found, "{what}");
        }
    }
}

#[test]
fn accumulated_tensors() {
    let mut rng = rng(12);
    for round in 0..150 {
        let n = rng.pick(&[1, 33, 64, 100, 130]);
        for bits in [2, 4, 8] {
            let (mut l, mut s) = (vec![0i32; n], vec![0u16; n.div_ceil(64)]);
            let mut state = State::zero(n, bits, block(64));
            for micro_batch in 0..3 {
                let x: Vec<f32> = Pattern::cycle(round + micro_batch as usize).values(&mut rng, n);
                let weight = rng.pick(&[1.0f32, 1.0 / 3.0, -2.5, 0.0]);
                let draw = Draw::new(rng.next(), 3).micro_batch(micro_batch);
                let report =
                    common::adaptive(&Adaptive { bits, block: block(64), draw, weight }, (2, 64), &x, &mut state);
                let place = page::Place { seed: draw.seed, step: 3, micro_batch, tensor: 2, domain: 1 };
                let mut found = Report::default();
                for (b, s) in s.iter_mut().enumerate() {
                    let range = 64 * b..(64 * b + 64).min(n);
                    let old = f32::from_bits(u32::from(*s) << 16);
                    let sums: Vec<u32> = range
                        .clone()
                        .map(|i| {
                            let p = page::addend(x[i].to_bits(), weight.to_bits());
                            let before = l[i] as f32 * old;
                            let v = (before + f32::from_bits(p)).to_bits();
                            if [p, v].iter().any(|b| page::out_of_range(page::magnitude(*b))) {
                                found.non_finite += 1;
                                found.first = found.first.or(Some(64 + i as u64));
                                before.to_bits()
                            } else {
                                v
                            }
                        })
                        .collect();
                    let max = sums.iter().map(|v| page::magnitude(*v)).max().unwrap();
                    let new = page::level_scale(max, (1 << (bits - 1)) - 1);
                    for (i, v) in range.zip(sums) {
                        l[i] = page::new_level(v, new, page::draw(&place, 64 + i as u64));
                    }
                    *s = (new >> 16) as u16;
                }
                let what = format!("{bits} bits, round {round}, micro-batch {micro_batch}");
                assert_eq!(state.scales, s, "{what}");
                assert_eq!(state.levels, fields(&l, bits), "{what}");
                assert_eq!(report, found, "{what}");
            }
        }
    }
}

#[test]
fn counted_tensors() {
    let mut rng = rng(13);
    for round in 0..200 {
        let n = rng.pick(&[1, 33, 64, 100, 130]);
        let bits = rng.pick(&[4, 8, 16]);
        let mut state = State::zero(n, bits, block(64));
        for s in &mut state.scales {
            *s = rng.pick(&[0, 0x3f80, 0x3a83, 0x0f00, 0x7e80]);
        }
        let (mut counts, mut seen) = (vec![0i32; n], vec![0u32; n.div_ceil(64)]);
        for held in 0..3 {
            let x: Vec<f32> = Pattern::cycle(round + held as usize).values(&mut rng, n);
            let weight = rng.pick(&[1.0f32, 1.0 / 3.0, -2.5, 0.0]);
            let draw = Draw::new(rng.next(), 4).micro_batch(held);
            let op = Exact { bits, block: block(64), draw, weight, held };
            let report = common::exact(&op, (1, 0), &x, &mut state);
            let place = page::Place { seed: draw.seed, step: 4, micro_batch: held, tensor: 1, domain: 0 };
            let p: Vec<u32> = x.iter().map(|x| page::addend(x.to_f32_bits(), weight.to_bits())).collect();
            let (p, mut found) = ranged(&p, 0);
            for (i, p) in p.iter().enumerate() {
                let (m, s) = (page::magnitude(*p), u32::from(state.scales[i / 64]) << 16);
                if page::keep(m, s, page::draw(&place, i as u64)) {
                    counts[i] += if *p >= 1 << 31 { -1 } else { 1 };
                }
                found.clipped += u64::from(page::value(s).compare(page::value(m)) == Ordering::Less);
                seen[i / 64] = seen[i / 64].max(page::stochastic_scale(m));
            }
            assert_eq!(report, found);
            assert_eq!(state.levels, fields(&counts, bits));
            assert!(state.seen.iter().zip(&seen).all(|(a, b)| u32::from(*a) << 16 == *b));
        }
    }
}
