//! The fused updates against the spec, element by element, and against splitting.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::bf16;
use trigrad::cpu::Cpu;
use trigrad::numerics::constants::domain;
use trigrad::numerics::draw::draws;
use trigrad::numerics::level::read_out;
use trigrad::numerics::pack::{level, set_level, words};
use trigrad::numerics::update::{AdamWTerms, SgdTerms, adamw, sgd, to_bf16};
use trigrad::op::update::{AdamW, AdamWItem, Gradient, Sgd, SgdItem, Source};
use trigrad::op::{BlockSize, Draw, Report};
use trigrad::{Backend, Error, Memory, Result};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    fn float(&mut self) -> f32 {
        (self.next() as f32 / (1u32 << 30) as f32 - 1.0) * 0.5
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

struct Packed {
    levels: Vec<u32>,
    scales: Vec<u16>,
    source: Source,
}

fn packed(bits: u32, n: usize, block: u32, r: &mut Random) -> Packed {
    let block = BlockSize::new(block).unwrap();
    let mut levels = vec![0; words(n, bits)];
    let max = (1i32 << (bits - 1)) - 1;
    for i in 0..n {
        set_level(&mut levels, bits, i, (r.next() % (2 * max as u32 + 1)) as i32 - max);
    }
    let scales = (0..block.blocks(n)).map(|_| bf16::from_f32(r.float().abs() / max as f32).to_bits()).collect();
    let source = Source { bits, block, factor: 0.125, draw: Draw::new(9, 4) };
    Packed { levels, scales, source }
}

impl Packed {
    fn gradient(&self) -> Gradient<'_, Cpu> {
        Gradient::Packed { levels: &self.levels, scales: &self.scales }
    }
    fn at(&self, i: usize) -> f32 {
        let s = bf16::from_bits(self.scales[i / self.source.block.get() as usize]).to_f32().to_bits();
        read_out(level(&self.levels, self.source.bits, i), s, self.source.factor)
    }
}

fn found() -> Vec<Report> {
    vec![Report::default()]
}

const SIZES: [usize; 5] = [1, 31, 100, 4097, 70_001];

#[test]
fn adamw_equals_the_spec_bit_for_bit() -> Result<()> {
    let (cpu, mut r) = (Cpu::new(), Random(1));
    for n in SIZES {
        for (bits, block) in [(2, 64), (4, 32), (8, 4096), (16, 64)] {
            let p = packed(bits, n, block, &mut r);
            let op = AdamW { source: p.source, terms: AdamWTerms::new(1e-3, (0.9, 0.999), 1e-8, 0.01, 3) };
            let (w, m, v) = (r.floats(n), r.floats(n), r.floats(n).iter().map(|v| v.abs()).collect::<Vec<_>>());
            let (mut w2, mut m2, mut v2) = (w.clone(), m.clone(), v.clone());
            let item = AdamWItem {
                tensor: 5,
                first: 0,
                gradient: p.gradient(),
                weights: &mut w2[..],
                first_moment: &mut m2[..],
                second_moment: &mut v2[..],
                report: 0,
            };
            cpu.update_adamw(&op, &mut [item], None, &mut found())?;
            for i in 0..n {
                let (a, b, c) = adamw(&op.terms, p.at(i), w[i], m[i], v[i]);
                assert_eq!(
                    (a.to_bits(), b.to_bits(), c.to_bits()),
                    (w2[i].to_bits(), m2[i].to_bits(), v2[i].to_bits())
                );
            }
        }
    }
    Ok(())
}

#[test]
fn bf16_weights_follow_the_draws_of_their_place() -> Result<()> {
    let (cpu, mut r) = (Cpu::new(), Random(2));
    for n in SIZES {
        let p = packed(4, n, 64, &mut r);
        let terms = SgdTerms { learning_rate: 1e-3, momentum: 0.0, weight_decay: 0.1 };
        let op = Sgd { source: p.source, terms, nesterov: false };
        let w: Vec<bf16> = r.floats(n).into_iter().map(bf16::from_f32).collect();
        let mut new = w.clone();
        let item =
            SgdItem { tensor: 7, first: 640, gradient: p.gradient(), weights: &mut new[..], momentum: None, report: 0 };
        cpu.update_sgd(&op, &mut [item], None, &mut found())?;
        let at = p.source.draw.position(7, domain::WEIGHT);
        let mut moved = 0;
        for i in 0..n {
            let k = draws(&at, ((640 + i) / 32) as u32)[i % 32];
            let want = sgd(&terms, false, p.at(i), w[i].to_f32(), 0.0).0.to_bits();
            assert_eq!(to_bf16(want, k), new[i].to_bits());
            moved += u32::from(new[i] != bf16::from_f32(f32::from_bits(want)));
        }
        assert!(n < 100 || moved > 0, "rounding must be stochastic");
    }
    Ok(())
}

#[test]
fn a_tensor_in_parts_is_the_whole() -> Result<()> {
    let mut r = Random(3);
    let n = 64 * 700;
    let p = packed(4, n, 64, &mut r);
    let terms = SgdTerms { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0 };
    let op = Sgd { source: p.source, terms, nesterov: true };
    let w: Vec<bf16> = r.floats(n).into_iter().map(bf16::from_f32).collect();
    let b = r.floats(n);
    let (mut w1, mut b1) = (w.clone(), b.clone());
    let whole = SgdItem {
        tensor: 0,
        first: 0,
        gradient: p.gradient(),
        weights: &mut w1[..],
        momentum: Some(&mut b1[..]),
        report: 0,
    };
    Cpu::new().update_sgd(&op, &mut [whole], None, &mut found())?;
    let (mut w2, mut b2) = (w, b);
    let cut = 64 * 123;
    let (wa, wb) = w2.split_at_mut(cut);
    let (ba, bb) = b2.split_at_mut(cut);
    let (la, lb) = p.levels.split_at(cut / 8);
    let (sa, sb) = p.scales.split_at(cut / 64);
    let mut parts = [
        SgdItem {
            tensor: 0,
            first: 0,
            gradient: Gradient::Packed { levels: la, scales: sa },
            weights: wa,
            momentum: Some(ba),
            report: 0,
        },
        SgdItem {
            tensor: 0,
            first: cut as u64,
            gradient: Gradient::Packed { levels: lb, scales: sb },
            weights: wb,
            momentum: Some(bb),
            report: 0,
        },
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| Cpu::plain().update_sgd(&op, &mut parts, None, &mut found()))?;
    assert_eq!((w1, b1), (w2, b2));
    Ok(())
}

#[test]
fn a_marked_window_changes_nothing() -> Result<()> {
    let (cpu, mut r) = (Cpu::new(), Random(4));
    let p = packed(4, 100, 64, &mut r);
    let op = AdamW { source: p.source, terms: AdamWTerms::new(0.1, (0.9, 0.999), 1e-8, 0.0, 1) };
    let mut guards = cpu.reports(3)?;
    let (mut w, mut m, mut v) = (r.floats(100), vec![0.0; 100], vec![0.0; 100]);
    let before = w.clone();
    guards[2].non_finite = 1;
    for skipped in [true, false] {
        let item = AdamWItem {
            tensor: 0,
            first: 0,
            gradient: p.gradient(),
            weights: &mut w[..],
            first_moment: &mut m[..],
            second_moment: &mut v[..],
            report: 0,
        };
        cpu.update_adamw(&op, &mut [item], Some(&guards), &mut found())?;
        assert_eq!(w == before, skipped);
        cpu.clear_reports(&mut guards)?;
    }
    Ok(())
}

#[test]
fn dense_gradients_are_read_like_levels_of_one_scale() -> Result<()> {
    let (cpu, mut r) = (Cpu::new(), Random(5));
    let p = packed(8, 1000, 64, &mut r);
    let x: Vec<f32> = (0..1000).map(|i| p.at(i) / p.source.factor).collect(); // an eighth: exact
    let op = AdamW { source: p.source, terms: AdamWTerms::new(0.1, (0.9, 0.999), 1e-8, 0.1, 2) };
    let w = r.floats(1000);
    let run = |gradient: Gradient<'_, Cpu>| -> Result<Vec<f32>> {
        let (mut w, mut m, mut v) = (w.clone(), vec![0.0; 1000], vec![0.0; 1000]);
        let item = AdamWItem {
            tensor: 0,
            first: 0,
            gradient: gradient.shorten(),
            weights: &mut w[..],
            first_moment: &mut m[..],
            second_moment: &mut v[..],
            report: 0,
        };
        cpu.update_adamw(&op, &mut [item], None, &mut found())?;
        Ok(w)
    };
    assert_eq!(run(p.gradient())?, run(Gradient::Dense(&x[..]))?);
    Ok(())
}

#[test]
fn wrong_lengths_and_types_are_errors_and_change_nothing() -> Result<()> {
    let (cpu, mut r) = (Cpu::new(), Random(6));
    let p = packed(4, 100, 64, &mut r);
    let terms = SgdTerms { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0 };
    let op = Sgd { source: p.source, terms, nesterov: false };
    let mut w = r.floats(100);
    let before = w.clone();
    let mut b = vec![0.0f32; 99];
    let item = SgdItem {
        tensor: 0,
        first: 0,
        gradient: p.gradient(),
        weights: &mut w[..],
        momentum: Some(&mut b[..]),
        report: 0,
    };
    let e = cpu.update_sgd(&op, &mut [item], None, &mut found()).unwrap_err();
    assert!(matches!(e.root(), Error::Length { what: "momentum", expected: 100, got: 99 }), "{e}");
    let item = SgdItem { tensor: 0, first: 0, gradient: p.gradient(), weights: &mut w[..], momentum: None, report: 0 };
    assert!(cpu.update_sgd(&op, &mut [item], None, &mut found()).is_err());
    let plain = Sgd { terms: SgdTerms { momentum: 0.0, ..terms }, ..op };
    let mut f16s = [half::f16::ONE; 100];
    let item =
        SgdItem { tensor: 0, first: 0, gradient: p.gradient(), weights: &mut f16s[..], momentum: None, report: 0 };
    let e = cpu.update_sgd(&plain, &mut [item], None, &mut found()).unwrap_err();
    assert!(matches!(e.root(), Error::ElementType { .. }));
    let nesterov = Sgd { nesterov: true, ..plain };
    assert!(matches!(nesterov.validate(), Err(Error::Parameter { .. })));
    assert_eq!(w, before);
    Ok(())
}
