//! The functions of `numerics` against NUMERICS.md: real numbers as integers times powers of two, searches in place of bit
//! tricks. Section numbers are that page's. Operations have one oracle, `trigrad::testing::Reference`, which is made of
//! these functions.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod formulas;

use formulas as page;
use trigrad::numerics::{draw, float, level, philox, reduce, scale, threshold, trit};
use trigrad::testing::values::{Pattern, Rng};

fn rng(purpose: u64) -> Rng {
    Rng::new(2024, purpose)
}

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
            assert_eq!(page::fine_scale(seen, h), scale::fine_scale(seen, h), "{seen:08x} {h:08x}");
            let of_width = |bits| scale::count_scale(bits, seen, h);
            let fine_or_not = [16, 32].map(of_width);
            assert_eq!(fine_or_not, [scale::window_scale(seen, h), scale::fine_scale(seen, h)]);
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

#[test]
fn fine_levels() {
    let mut rng = rng(11);
    let mut cut = 0;
    for _ in 0..100_000 {
        // Scales from 2^-111 to 2^105, and products around a few levels, around 2^21 of them, and anywhere.
        let q = if rng.below(16) == 0 { 0 } else { (16 + rng.below(217) as u32) << 23 };
        let by = rng.pick(&[0u32, 1, 2, 20, 21, 22]) << 23;
        let m = match rng.below(4) {
            0 => magnitude(&mut rng),
            1 => near(&mut rng, (q + by).clamp(0x0080_0000, 0x7e00_0000)),
            _ => ((q + by) | rng.pick(&[0, 0x0040_0000, 0x003f_ffff, 0x0040_0001])).min(0x7e7f_ffff),
        };
        let p = m | (rng.word() & 0x8000_0000);
        let p = if page::magnitude(p) == 0 { 0 } else { p };
        let want = page::fine_level(p, q);
        assert_eq!(level::round_fine(p, q), want, "p {p:08x} q {q:08x}");
        cut += u32::from(want.1);
    }
    assert!((5_000..95_000).contains(&cut), "{cut}");
}

#[test]
fn sums_in_f32() {
    let mut rng = rng(12);
    let (mut kept, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let signed = |rng: &mut Rng, m| m | (rng.word() & 0x8000_0000);
        let sum = magnitude(&mut rng);
        let p = match rng.below(8) {
            0 => rng.word(),
            1..4 => near(&mut rng, sum.max(0x0080_0000)),
            _ => magnitude(&mut rng),
        };
        let (sum, p) = (signed(&mut rng, sum), signed(&mut rng, p));
        let p = if page::magnitude(p) == 0 { 0 } else { p };
        let want = page::sum_in_f32(sum, p);
        assert_eq!(level::sum_f32(sum, p), want, "{sum:08x} {p:08x}");
        *if want.is_some() { &mut kept } else { &mut refused } += 1;
    }
    assert!(kept > 50_000 && refused > 1000, "{kept} {refused}");
}

#[test]
fn read_outs() {
    let mut rng = rng(13);
    for _ in 0..100_000 {
        let bits = rng.pick(&[2u32, 4, 8, 16, 32]);
        let max = (1i64 << (bits - 1)) - 1;
        let l = (rng.below(2 * max as u64 + 1) as i64 - max) as i32;
        // Scales that a width can have: those of 32 bits are powers of two.
        let s = match rng.below(8) {
            0 => 0,
            _ if bits == 32 => (16 + rng.below(217) as u32) << 23,
            _ => (0x0f00 + rng.below(0x7e80 - 0x0f00 + 1) as u32) << 16,
        };
        let factor = match rng.below(4) {
            0 => rng.pick(&[1.0, 0.25, -0.25, f32::MAX, f32::MIN_POSITIVE, 1e-40, 0.0, -0.0]),
            1 => rng.unit() as f32 - 0.5,
            _ => f32::from_bits(rng.below(0x7f80_0000) as u32 | (rng.word() & 0x8000_0000)),
        };
        let (got, want) = (level::read_out(l, s, factor).to_bits(), page::read_out(l, s, factor));
        assert_eq!(got, want, "{l} {s:08x} {factor:e}: {got:08x}, not {want:08x}");
    }
}

/// Squares of floats against the same integers, and sums as they lie in memory.
#[test]
fn squares_and_words() {
    let mut rng = rng(14);
    for _ in 0..2000 {
        let (mut sum, mut total) = (reduce::ExactSum::default(), 0i128);
        for _ in 0..rng.below(20) {
            // From 2^-20 to 2^18: squares in units of 2^-86 fit 128 bits.
            let x = (((107 + rng.below(38) as u32) << 23) | rng.word() >> 9) | (rng.word() & 0x8000_0000);
            sum.add_square(x);
            let v = page::value(page::magnitude(x));
            total += ((v.mantissa * v.mantissa) << (2 * v.exponent + 86)) as i128;
        }
        let minus = rng.below(1 << 20) as i64;
        sum.add(-minus, 268 - 86);
        total -= i128::from(minus);
        for odd in [f32::NAN, f32::INFINITY, -0.0, 1e-40] {
            sum.add_square(odd.to_bits());
        }
        let want = total as f64 * 2f64.powi(-86);
        assert_eq!(sum.to_f64().to_bits(), want.to_bits(), "{total}");
        let words = sum.to_words();
        // Bit 0 of word 0 is 2^-320: the integer begins 234 bits up, and its sign fills the words above.
        let bit = |i: usize| u128::from(words[i / 32] >> (i % 32) & 1);
        assert!((0..234).all(|i| bit(i) == 0));
        assert_eq!((0..128).map(|i| bit(234 + i) << i).sum::<u128>() as i128, total);
        assert!((234 + 128..640).all(|i| bit(i) == u128::from(total < 0)));
        assert_eq!(reduce::ExactSum::from_words(&words).to_f64().to_bits(), want.to_bits());
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
