//! The executable specification takes any numbers without a panic: this runs with overflow checks, over the edges of
//! every argument and at random.

use proptest::prelude::*;
use std::hint::black_box;
use trigrad::numerics::draw::{Position, draws, expand, shared_bits};
use trigrad::numerics::moments;
use trigrad::numerics::reduce::{ExactSum, dot_words, nonzero_words, scale_parts};
use trigrad::numerics::threshold::{Moments, Sum, chunk_exponent, fixed, mul_trunc, relative};
use trigrad::numerics::update::{power, to_bf16};
use trigrad::numerics::{float, level, pack, scale, trit};

const EDGES: [u32; 12] = [
    0,
    1,
    0x007f_ffff,
    0x0080_0000,
    0x1280_0000,
    0x3f80_0000,
    0x7e80_0000,
    0x7f80_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xff80_0000,
    u32::MAX,
];

fn any_u32() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0..EDGES.len()).prop_map(|i| EDGES[i]), 0u32..70]
}

fn any_u64() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..100,
        Just(u64::MAX),
        (any_u32(), any_u32()).prop_map(|(a, b)| u64::from(a) << 32 | u64::from(b))
    ]
}

fn numbers_of_one(a: u32) {
    black_box((float::magnitude(a), float::out_of_range(a), float::bf16_to_f32(a as u16), float::f16_to_f32(a as u16)));
    black_box((float::f32_to_bf16(a), float::f32_to_f16(a)));
    black_box((scale::round_up_to_bf16(a), scale::stochastic_scale(a), level::level_max(a), chunk_exponent(a)));
    black_box((scale_parts(a), pack::words(usize::MAX, a), power(1.5, a)));
}

fn numbers_of_three(a: u32, b: u32, c: u32) {
    black_box((scale::window_scale(a, b), scale::level_scale(a, b), trit::keep(a, b, c), trit::above(a, b)));
    black_box((level::weighted(a, b), level::sum(a as i32, b, c), level::value(a as i32, b)));
    black_box((level::round_level(a, b, c), level::read_out(a as i32, b, f32::from_bits(c))));
    black_box((moments::moment_scale(a), moments::decode(a as u16, b as u16), moments::first_moment(a, b)));
    black_box((
        moments::code_second(a, b as u16, c),
        moments::code_first(a, b, c),
        moments::second_moment(a, b as u16),
    ));
    black_box((mul_trunc(a, b), fixed(a, b, c), to_bf16(a, b)));
    black_box((dot_words([a, b], [b, c]), nonzero_words([a, b])));
    black_box((pack::planes_to_fields(a, b), pack::fields_to_planes([a, b])));
    let at = Position { seed: u64::from(a), step: b, micro_batch: c, tensor: a, domain: b };
    black_box((draws(&at, c), expand([a, b, c, a]), shared_bits([a, b, c, a])));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn scalars(a in any_u32(), b in any_u32(), c in any_u32()) {
        numbers_of_one(a);
        numbers_of_three(a, b, c);
    }

    #[test]
    fn places_past_the_end(mut words in prop::collection::vec(any_u32(), 0..5), bits in any_u32(), i in any::<usize>(), near in 0usize..200, value in any::<i32>()) {
        for i in [i, near] {
            for bits in [bits, 2, 4, 8, 16, 32] {
                black_box((pack::trit(&words, i), pack::field(&words, bits, i), pack::level(&words, bits, i)));
                pack::set_field(&mut words, bits, i, value);
                pack::set_level(&mut words, bits, i, value);
            }
        }
    }

    #[test]
    fn long_groups_of_trits(trits in prop::collection::vec(any::<i8>(), 0..100)) {
        let first: Vec<i8> = trits.iter().copied().take(32).collect();
        prop_assert_eq!(pack::plane_words(&trits), pack::plane_words(&first));
    }

    #[test]
    fn sums(total in any_u64(), exponent in any_u32(), count in any_u64(), first in any::<i64>(), more in any_u32()) {
        let sum = Sum { total, exponent, count };
        let other = Sum { exponent: more, ..sum };
        for sum in [sum, Sum::of_chunks(&[sum, other, sum])] {
            black_box((sum.mean(), sum.mean_bf16(), relative(&sum, more)));
        }
        let moments = Moments { first, second: total, exponent, count };
        for m in [moments, Moments::of_chunks(&[moments, Moments { exponent: more, ..moments }])] {
            black_box((m.sigma(), m.clip(more)));
        }
    }

    #[test]
    fn runs(bits in prop::collection::vec(any_u32(), 0..40), t in any_u32()) {
        black_box((Sum::of_group(&bits, Some(t)).mean(), Sum::of_group(&bits, None).mean_bf16()));
        black_box(Moments::of_group(&bits).sigma());
    }

    #[test]
    fn exact_sums(terms in prop::collection::vec((any::<i64>(), any_u32(), any_u32()), 0..20)) {
        let mut sum = ExactSum::default();
        for (count, a, b) in terms {
            sum.add(count, a);
            sum.add_product(count, a, b);
            let other = sum.clone();
            sum.merge(&other);
            black_box(sum.to_f64());
        }
    }
}
