//! What works on packed data, against the simplest code that says the same.

use super::Bits;
use crate::cpu::Cpu;
use crate::error::Error;
use crate::memory::Memory;
use crate::numerics::pack::{level, trit, words};
use crate::numerics::reduce::{ExactSum, SUM_WORDS};
use crate::op::Backend;
use crate::op::pack::{
    FieldsToPlanes, FieldsToPlanesItem, JoinPlanes, JoinPlanesItem, Pack, PackItem, PlanesToFields, PlanesToFieldsItem,
    SplitPlanes, SplitPlanesItem, Unpack, UnpackItem,
};
use crate::op::reduce::{CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormItem};
use crate::op::window::{Merge, MergeItem, WindowScales, WindowScalesItem};
use crate::op::{BlockSize, Grouping, Report};

const LENGTHS: [usize; 10] = [0, 1, 31, 32, 33, 300, 4096, 65_536, 65_568, 150_000];

fn random(n: usize, bits: &mut Bits) -> Vec<u32> {
    (0..n).map(|_| bits.next()).collect()
}

fn groupings(n: usize) -> Vec<Grouping> {
    let mut all = vec![Grouping::Tensor];
    all.extend([32, 64, 4096].map(|b| Grouping::Block(BlockSize::new(b).unwrap())));
    all.extend([1, 3, 50, 75_000].iter().filter(|&&c| n.is_multiple_of(c)).map(|&c| Grouping::Row(c as u64)));
    all
}

/// Scales as operations make them, some of them zero.
fn scales(n: usize, bits: &mut Bits) -> Vec<u16> {
    (0..n).map(|_| if bits.next().is_multiple_of(5) { 0 } else { 0x0f00 + (bits.next() % 0x6f80) as u16 }).collect()
}

#[test]
fn dot_and_norm_are_the_exact_sums() {
    let mut bits = Bits::new(21);
    for n in LENGTHS {
        let (a, b) = (random(words(n, 2), &mut bits), random(words(n, 2), &mut bits));
        for grouping in groupings(n) {
            let (size, groups) = (grouping.size(n), grouping.groups(n));
            let (sa, sb) = (scales(groups, &mut bits), scales(groups, &mut bits));
            let scale = |s: &[u16], i: usize| u32::from(s[i / size]) << 16;
            let mut want = ExactSum::default();
            for i in 0..n {
                let product = i64::from(trit(&a, i).unwrap_or(0)) * i64::from(trit(&b, i).unwrap_or(0));
                // An invalid pair against a valid one: both planes meet, once with each sign.
                want.add_product(product, scale(&sa, i), scale(&sb, i));
            }
            let mut sums = [0; 2 * SUM_WORDS];
            let item = DotItem::<Cpu> { n, words_a: &a, scales_a: &sa, words_b: &b, scales_b: &sb, sum: 1 };
            Cpu::new().dot(&Dot { grouping }, &mut [item], &mut sums).unwrap();
            assert_eq!(sums[SUM_WORDS..], want.to_words(), "{grouping:?} n {n}");
            assert_eq!(sums[..SUM_WORDS], [0; SUM_WORDS]);
            for width in [2, 4, 8, 16, 32] {
                let l = random(words(n, width), &mut bits);
                // Fine levels are at most 2^105: a 2^21st of the range.
                let most = if width == 32 { 0x7400 } else { 0x7e80 };
                let sa: Vec<u16> = sa.iter().map(|s| (*s).min(most)).collect();
                let mut want = ExactSum::default();
                for i in 0..n {
                    let s = scale(&sa, i);
                    let square = i64::from(level(&l, width, i)).pow(2);
                    want.add_product(square & 0xffff, s, s);
                    want.add_shifted_product(square >> 16, s, s, 16);
                }
                let (op, mut sums) = (SquaredNorm { bits: width, grouping }, want.to_words());
                let item = SquaredNormItem::<Cpu> { n, levels: &l, scales: &sa, sum: 0 };
                Cpu::new().squared_norm(&op, &mut [item], &mut sums).unwrap();
                let mut twice = want.clone();
                twice.merge(&want);
                assert_eq!(sums, twice.to_words(), "{width} bits {grouping:?} n {n}, added to what was there");
            }
        }
    }
}

#[test]
fn any_scale_gives_an_answer() {
    let mut bits = Bits::new(22);
    let (n, grouping) = (640, Grouping::default());
    let a = random(words(n, 2), &mut bits);
    let s: Vec<u16> = (0..10).map(|_| bits.next() as u16 | 0x8000).collect();
    let mut sums = [0; SUM_WORDS];
    let item = DotItem::<Cpu> { n, words_a: &a, scales_a: &s, words_b: &a, scales_b: &s, sum: 0 };
    Cpu::new().dot(&Dot { grouping }, &mut [item], &mut sums).unwrap();
    let item = SquaredNormItem::<Cpu> { n, levels: &a, scales: &s, sum: 0 };
    Cpu::new().squared_norm(&SquaredNorm { bits: 2, grouping }, &mut [item], &mut sums).unwrap();
}

#[test]
fn nonzeros_are_counted() {
    let mut bits = Bits::new(23);
    for n in LENGTHS {
        let a = random(words(n, 2), &mut bits);
        let want = (0..a.len() * 16).filter(|&i| trit(&a, i).is_some_and(|t| t != 0)).count();
        let mut sums = [0; SUM_WORDS];
        let mut items = [0, 0].map(|sum| CountNonzeroItem::<Cpu> { words: &a, sum });
        Cpu::new().count_nonzero(&CountNonzero, &mut items, &mut sums).unwrap();
        assert_eq!(ExactSum::from_words(&sums).to_count(), 2 * want as u64);
    }
    let mut odd = [CountNonzeroItem::<Cpu> { words: &[1, 2, 3], sum: 0 }];
    let refused = Cpu::new().count_nonzero(&CountNonzero, &mut odd, &mut [0; SUM_WORDS]);
    assert!(matches!(refused, Err(Error::Length { .. })));
    let mut past = [CountNonzeroItem::<Cpu> { words: &[1, 2], sum: 1 }];
    let refused = Cpu::new().count_nonzero(&CountNonzero, &mut past, &mut [0; SUM_WORDS]);
    assert!(matches!(refused, Err(Error::Index { what: "sum slot", .. })));
}

#[test]
fn pack_and_unpack() {
    let (cpu, mut bits) = (Cpu::new(), Bits::new(24));
    for n in LENGTHS {
        let trits: Vec<i8> = (0..n)
            .map(|_| if bits.next().is_multiple_of(50) { bits.next() as i8 } else { (bits.next() % 3) as i8 - 1 })
            .collect();
        let bad = |t: i8| !(-1..=1).contains(&t);
        let mut reports = cpu.reports(2).unwrap();
        let mut w = vec![0xdead_beef; words(n, 2)];
        cpu.pack(&Pack, &mut [PackItem::<Cpu> { trits: &trits, words: &mut w, report: 1 }], &mut reports).unwrap();
        let first = trits.iter().position(|&t| bad(t)).map(|i| i as u64);
        let count = trits.iter().filter(|&&t| bad(t)).count() as u64;
        assert_eq!(reports, [Report::default(), Report { non_finite: count, first, clipped: 0 }]);
        for i in 0..words(n, 2) * 16 {
            let want = trits.get(i).map_or(0, |&t| if bad(t) { 0 } else { t });
            assert_eq!(trit(&w, i), Some(want), "element {i} of {n}");
        }
        for w in w.iter_mut().step_by(7) {
            *w |= bits.next() & bits.next();
        }
        let mut back = vec![77; n];
        cpu.clear_reports(&mut reports).unwrap();
        cpu.unpack(&Unpack, &mut [UnpackItem::<Cpu> { words: &w, trits: &mut back, report: 0 }], &mut reports).unwrap();
        let want: Vec<i8> = (0..n).map(|i| trit(&w, i).unwrap_or(0)).collect();
        assert_eq!(back, want);
        let invalid: Vec<usize> = (0..n).filter(|&i| trit(&w, i).is_none()).collect();
        assert_eq!(reports[0].non_finite, invalid.len() as u64);
        assert_eq!(reports[0].first, invalid.first().map(|&i| i as u64));
        let refused = cpu.pack(&Pack, &mut [PackItem::<Cpu> { trits: &trits, words: &mut w, report: 2 }], &mut reports);
        assert!(matches!(refused, Err(Error::Index { index: 2, count: 2, .. })), "no such slot");
    }
}

#[test]
fn planes_and_fields_convert_both_ways() {
    let (cpu, mut bits) = (Cpu::new(), Bits::new(25));
    for n in LENGTHS {
        let w = random(words(n, 2), &mut bits);
        let half = w.len() / 2;
        let (mut plus, mut minus, mut back) = (vec![0; half], vec![0; half], vec![0; w.len()]);
        let item = SplitPlanesItem::<Cpu> { words: &w, plus: &mut plus, minus: &mut minus };
        cpu.split_planes(&SplitPlanes, &mut [item]).unwrap();
        assert!((0..half).all(|g| [plus[g], minus[g]] == [w[2 * g], w[2 * g + 1]]));
        let item = JoinPlanesItem::<Cpu> { plus: &plus, minus: &minus, words: &mut back };
        cpu.join_planes(&JoinPlanes, &mut [item]).unwrap();
        assert_eq!(back, w);
        let mut fields = vec![0; w.len()];
        cpu.planes_to_fields(&PlanesToFields, &mut [PlanesToFieldsItem::<Cpu> { words: &w, fields: &mut fields }])
            .unwrap();
        for i in 0..w.len() * 16 {
            let want = (w[i / 32 * 2] >> (i % 32) & 1) | (w[i / 32 * 2 + 1] >> (i % 32) & 1) << 1;
            assert_eq!(fields[i / 16] >> (2 * (i % 16)) & 3, want);
        }
        back.fill(0);
        cpu.fields_to_planes(&FieldsToPlanes, &mut [FieldsToPlanesItem::<Cpu> { fields: &fields, words: &mut back }])
            .unwrap();
        assert_eq!(back, w);
    }
}

#[test]
fn counts_merge_within_their_fields() {
    let (cpu, mut bits) = (Cpu::new(), Bits::new(26));
    for n in LENGTHS {
        for width in [4, 8, 16, 32] {
            let (from, before) = (random(words(n, width), &mut bits), random(words(n, width), &mut bits));
            let mut into = before.clone();
            let mut seen = [0x4000, 0x3f80];
            let item = MergeItem::<Cpu> { from: &from, into: &mut into, seen_from: &[0x3f80, 0x4080], seen: &mut seen };
            cpu.merge(&Merge { bits: width, held: 1, added: 1 }, &mut [item]).unwrap();
            assert_eq!(seen, [0x4000, 0x4080]);
            let modulus = 1i64 << width;
            for i in 0..n {
                let l = |of: &[u32]| i64::from(level(of, width, i));
                let want = l(&from) + l(&before);
                assert_eq!((l(&into) - want).rem_euclid(modulus), 0, "{width} bits, element {i}");
            }
        }
    }
}

#[test]
fn window_scales_are_those_of_the_spec() {
    let (cpu, mut bits) = (Cpu::new(), Bits::new(27));
    let seen: Vec<u16> = (0..100_000).map(|_| bits.next() as u16 & 0x7fff).collect();
    for bits in [8, 32] {
        let mut scales = vec![0x4242; seen.len()];
        let item = WindowScalesItem::<Cpu> { seen: &seen, scales: &mut scales };
        cpu.window_scales(&WindowScales { headroom: 1.7, bits }, &mut [item]).unwrap();
        for (seen, scale) in seen.iter().zip(scales) {
            let new = crate::numerics::scale::count_scale(bits, u32::from(*seen) << 16, 1.7f32.to_bits());
            assert_eq!(u32::from(scale) << 16, if *seen == 0 { 0x4242_0000 } else { new });
        }
    }
}

#[test]
fn memory_says_what_cannot_be() {
    let cpu = Cpu::new();
    assert!(matches!(cpu.zeros::<u64>(usize::MAX / 8), Err(Error::OutOfMemory { .. })));
    assert!(matches!(cpu.copy(&[1, 2], &mut [0; 3]), Err(Error::Length { .. })));
    assert_eq!(Cpu::slice(&[1, 2, 3], 1..3), Some(&[2, 3][..]));
    assert_eq!(Cpu::slice(&[1, 2, 3], 1..4), None);
    let mut buffer = cpu.zeros::<u32>(3).unwrap();
    Cpu::view_mut(&mut buffer)[1] = 7;
    assert_eq!(cpu.download(Cpu::view(&buffer)).unwrap(), [0, 7, 0]);
    cpu.clear(Cpu::view_mut(&mut buffer)).unwrap();
    assert_eq!(buffer, [0; 3]);
}
