//! The functions of `numerics` against the page.

use crate::{page, rng};
use trigrad::numerics::{draw, float, level, philox, reduce, scale, threshold, trit};
use trigrad::testing::values::{Pattern, Rng};

/// A magnitude: 0 or normal, in range.
fn magnitude(rng: &mut Rng) -> u32 {
    match rng.below(16) {
        0 => 0,
        1 => 0x1280_0000 - 3 + rng.below(6) as u32,
        2 => 0x7e7f_fffd + rng.below(3) as u32,
        3 => 0x0080_0000 + rng.below(4) as u32,
        _ => 0x0080_0000 + rng.below(0x7e00_0000) as u32,
    }
}

/// A number of a random width, below `2^bits`.
fn of_any_width(rng: &mut Rng, bits: u64) -> u64 {
    let bits = rng.below(bits);
    rng.below(1 << bits)
}

/// A magnitude near another, above or below.
fn near(rng: &mut Rng, s: u32) -> u32 {
    let by = of_any_width(rng, 29) as u32;
    let m = if rng.below(4) == 0 { s.saturating_add(by) } else { s.saturating_sub(by) };
    if (0x0080_0000..0x7e80_0000).contains(&m) { m } else { s }
}

#[test]
fn magnitudes() {
    let mut rng = rng(1);
    for _ in 0..100_000 {
        let bits = rng.word();
        assert_eq!(page::magnitude(bits), float::magnitude(bits));
        assert_eq!(page::out_of_range(page::magnitude(bits)), float::out_of_range(float::magnitude(bits)));
    }
}

#[test]
fn draws() {
    let mut rng = rng(2);
    assert_eq!(page::philox([0; 4], [0; 2], 10), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    for _ in 0..2000 {
        let (c, k) = ([rng.word(), rng.word(), rng.word(), rng.word()], [rng.word(), rng.word()]);
        for rounds in [7, 10] {
            assert_eq!(page::philox(c, k, rounds), philox::philox4x32(c, k, rounds));
        }
        let (seed, step, micro_batch) = (rng.next(), rng.word(), rng.below(1 << 24) as u32);
        let (tensor, domain) = (rng.word(), rng.below(4) as u32);
        let place = page::Place { seed, step, micro_batch, tensor, domain };
        let at = draw::Position { seed, step, micro_batch, tensor, domain };
        let group = rng.below(1 << 32);
        let all: Vec<u32> = (0..32).map(|e| page::draw(&place, 32 * group + e)).collect();
        assert_eq!(all, draw::draws(&at, group as u32));
    }
}

#[test]
fn decisions() {
    let mut rng = rng(3);
    let mut kept = 0;
    for _ in 0..300_000 {
        let s = page::stochastic_scale(magnitude(&mut rng));
        let m = if rng.below(2) == 0 { near(&mut rng, s.max(0x0080_0000)) } else { magnitude(&mut rng) };
        let k = rng.below(1 << 23) as u32;
        assert_eq!(page::keep(m, s, k), trit::keep(m, s, k), "m {m:08x} s {s:08x} k {k}");
        kept += u32::from(trit::keep(m, s, k));
    }
    assert!((50_000..250_000).contains(&kept), "{kept}");
}

#[test]
fn scales() {
    let mut rng = rng(4);
    for _ in 0..30_000 {
        let (m, h) = (magnitude(&mut rng), magnitude(&mut rng));
        assert_eq!(page::stochastic_scale(m), scale::stochastic_scale(m), "{m:08x}");
        for levels in [1, 7, 127] {
            assert_eq!(page::level_scale(m, levels), scale::level_scale(m, levels), "{m:08x} {levels}");
        }
        // What was seen is a bf16.
        let seen = page::stochastic_scale(m);
        let near_one = 0x3f80_0000 - (1 << 20) + rng.below(1 << 21) as u32;
        for h in [h, near_one, 0x3f80_0000] {
            assert_eq!(page::window_scale(seen, h), scale::window_scale(seen, h), "{seen:08x} {h:08x}");
        }
    }
}

#[test]
fn products() {
    let mut rng = rng(5);
    for _ in 0..30_000 {
        let (a, b) = (magnitude(&mut rng), rng.below(0x7f80_0000) as u32);
        let b = if b < 0x0080_0000 { 0 } else { b };
        assert_eq!(page::product(a, b), threshold::mul_trunc(a, b), "{a:08x} {b:08x}");
    }
}

#[test]
fn sums_and_means() {
    let mut rng = rng(6);
    for round in 0..3000 {
        let n = rng.pick(&[0, 1, 2, 3, 64, 65, 1000, 4096, 4097, 9000]);
        let n = if round % 50 == 0 { n } else { n.min(65) };
        let base = magnitude(&mut rng).max(0x0080_0000);
        let spread = round % 3;
        let values: Vec<u32> = (0..n)
            .map(|_| match spread {
                0 => magnitude(&mut rng),
                1 => near(&mut rng, base),
                _ => base,
            })
            .collect();
        let any = magnitude(&mut rng);
        let t = rng.pick(&[None, Some(0), Some(base), Some(any)]);
        let (got, want) = (threshold::Sum::of_group(&values, t), page::sum(&values, t));
        assert_eq!(
            (u128::from(got.total), got.exponent, u128::from(got.count)),
            (want.total, want.exponent, want.count)
        );
        assert_eq!(got.mean(), want.mean(), "{got:?}");
        assert_eq!(got.mean_bf16(), want.mean_bf16(), "{got:?}");
    }
}

/// Means that lie on ties and on the edges of the range, which data seldom reach.
#[test]
fn means_of_any_sum() {
    let mut rng = rng(7);
    for _ in 0..100_000 {
        let count = 1 + of_any_width(&mut rng, 35);
        let odd = 2 * (128 + rng.below(128)) + 1;
        let total = match rng.below(3) {
            0 => odd * count,
            1 => of_any_width(&mut rng, 57),
            _ => (odd * count).wrapping_add(rng.below(3)).wrapping_sub(1),
        };
        let exponent = rng.pick(&[1, 2, 20, 21, 127, 200, 253]);
        // No mean is above the largest magnitude.
        let total = total.min(count.saturating_mul(1 << 20) - 1);
        let got = threshold::Sum { total, exponent, count };
        let want = page::Sum { total: total.into(), exponent, count: count.into() };
        assert_eq!(got.mean(), want.mean(), "{got:?}");
        assert_eq!(got.mean_bf16(), want.mean_bf16(), "{got:?}");
    }
}

#[test]
fn clipping() {
    let mut rng = rng(8);
    let mut clipped = 0;
    for round in 0..2000 {
        let n = if round % 40 == 0 { 9000 } else { 1 + rng.below(200) as usize };
        let pattern =
            rng.pick(&[Pattern::Normal, Pattern::Outlier, Pattern::Grid, Pattern::Equal, Pattern::LogUniform]);
        let values: Vec<f32> = pattern.values(&mut rng, n);
        let bits: Vec<u32> = values.iter().map(|x| x.to_bits()).filter(|b| page::magnitude(*b) < 0x7e80_0000).collect();
        if bits.is_empty() {
            continue;
        }
        let c = rng.pick(&[2.5f32, 1.0, 0.1, 1e-30, 1e30]).to_bits();
        let got = threshold::Moments::of_group(&bits).clip(c);
        assert_eq!(got, page::clip(&bits, c), "{pattern:?} {n}");
        clipped += u32::from(got.is_some());
    }
    assert!(clipped > 1000, "{clipped}");
}

#[test]
fn levels() {
    let mut rng = rng(9);
    for _ in 0..100_000 {
        let levels = rng.pick(&[1u32, 7, 127]);
        let max = magnitude(&mut rng);
        let s = page::level_scale(max, levels);
        let m = if max == 0 || rng.below(2) == 0 { max } else { near(&mut rng, max).min(max) };
        let v = m | (rng.word() & 0x8000_0000);
        let k = rng.below(1 << 23) as u32;
        assert_eq!(page::new_level(v, s, k), level::round_level(v, s, k), "v {v:08x} s {s:08x} k {k}");
        let (x, w) = (rng.word(), rng.pick(&[1.0f32, 0.1, 1e-30, -3.0, 1e-40]).to_bits());
        let (got, want) = (level::weighted(x, w), page::addend(x, w));
        assert!(got == want || (page::magnitude(got) > 0x7f80_0000 && page::magnitude(want) > 0x7f80_0000));
    }
}

/// Exact sums against integers: scales small enough that 128 bits hold everything.
#[test]
fn reductions() {
    let mut rng = rng(10);
    for _ in 0..2000 {
        let mut sum = reduce::ExactSum::default();
        let mut total = 0i128;
        for _ in 0..rng.below(20) {
            let (count, a, b) =
                (rng.below(201) as i64 - 100, 0x3f00 + rng.below(0x800) as u32, 0x3f00 + rng.below(0x800) as u32);
            sum.add_product(count, a << 16, b << 16);
            let part = |s: u32| (i128::from(s % 128 + 128), s / 128);
            let ((ma, ea), (mb, eb)) = (part(a), part(b));
            total += (i128::from(count) * ma * mb) << (ea + eb - 252);
        }
        // To nearest even: an integer as f64 is just that.
        let want = total as f64 * 2f64.powi(252 - 268);
        assert_eq!(sum.to_f64().to_bits(), want.to_bits(), "{total}");
    }
}
