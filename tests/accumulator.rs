//! Accumulators on the CPU: what they hold, what they refuse, and that a refusal changes nothing.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use half::{bf16, f16};
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Held, Id, NonFinite, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::device::Device;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::{BlockSize, Draw, Report};
use trigrad::{Backend, Error, Memory, Result};

type Cpus = Accumulator<Cpu>;

const N: [usize; 3] = [200, 70, 33];

fn specs() -> Vec<Spec> {
    vec![Spec::new("a", [10, 20]), Spec::new("b", [70]), Spec::new("c", [3, 11])]
}

fn adaptive(bits: u32) -> Format {
    Format::Adaptive { bits }
}

fn exact(bits: u32, scales: Scales) -> Format {
    Format::Exact { bits, scales }
}

const FIRST: Scales = Scales::FirstLook { headroom: 1.5 };
const LAST: Scales = Scales::LastWindow { headroom: 1.5 };

fn formats() -> Vec<Format> {
    vec![
        adaptive(2),
        adaptive(4),
        adaptive(8),
        Format::F32,
        exact(4, FIRST),
        exact(8, LAST),
        exact(16, FIRST),
        exact(32, LAST),
    ]
}

fn new(format: Format, non_finite: NonFinite) -> Cpus {
    let config = Config { format, non_finite, seed: 7, ..Config::default() };
    Accumulator::new(Cpu::default(), &specs(), config).unwrap()
}

/// Gradients that f16 and bf16 hold too.
fn gradient(tensor: usize, call: usize) -> Vec<f32> {
    (0..N[tensor]).map(|i| (((i * 37 + tensor * 11 + call * 101) % 64) as f32 - 31.5) / 16.0).collect()
}

fn gradients(call: usize) -> [Vec<f32>; 3] {
    [0, 1, 2].map(|t| gradient(t, call))
}

fn list(g: &[Vec<f32>; 3]) -> [(&'static str, Floats<'_, Cpu>); 3] {
    [("a", g[0][..].into()), ("b", g[1][..].into()), ("c", g[2][..].into())]
}

fn add(acc: &mut Cpus, call: usize, weight: f32) {
    acc.accumulate(&list(&gradients(call)), weight).unwrap();
}

/// Everything that can be seen of an accumulator.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Of f32 the bits.
    levels: Vec<Vec<u32>>,
    scales: Vec<Vec<u16>>,
    reports: Vec<Report>,
    place: (u32, u32, u32, f64),
}

fn seen(acc: &Cpus) -> Seen {
    let held = (0..acc.specs().len()).map(|i| words_and_scales(acc, i));
    let (levels, scales) = held.unzip();
    Seen {
        levels,
        scales,
        reports: acc.reports().unwrap(),
        place: (acc.step(), acc.micro_batch(), acc.count(), acc.weights()),
    }
}

fn words_and_scales<'i>(acc: &Cpus, id: impl Into<Id<'i>>) -> (Vec<u32>, Vec<u16>) {
    match acc.held(id).unwrap() {
        Held::Levels { levels, scales, .. } => (levels.to_vec(), scales.to_vec()),
        Held::F32(sum) => (sum.iter().map(|x| x.to_bits()).collect(), Vec::new()),
    }
}

/// A call that must fail, and must leave everything as it was.
fn refused(acc: &mut Cpus, call: impl FnOnce(&mut Cpus) -> Result<()>) -> Error {
    let before = seen(acc);
    let e = call(acc).unwrap_err();
    assert_eq!(seen(acc), before, "{e}");
    e
}

#[test]
fn bits_are_those_of_the_operation_at_its_seed_step_and_micro_batch() {
    let mut acc = new(adaptive(4), NonFinite::Defer);
    add(&mut acc, 9, 1.0);
    acc.reset().unwrap();
    let cpu = Cpu::default();
    let block = BlockSize::default();
    let mut levels = N.map(|n| vec![0u32; words(n, 4)]);
    let mut scales = N.map(|n| vec![0u16; block.blocks(n)]);
    let mut reports = cpu.reports(3).unwrap();
    for (call, weight) in [(0, 1.0), (1, 0.5), (2, -2.0)] {
        add(&mut acc, call, weight);
        let op = Adaptive { bits: 4, block, draw: Draw::new(7, 1).micro_batch(call as u32), weight };
        let g = gradients(call);
        for t in 0..3 {
            let (x, levels, scales) = (&g[t][..], &mut levels[t][..], &mut scales[t][..]);
            let item = AdaptiveItem { tensor: t as u32, first: 0, x, levels, scales, report: t };
            cpu.accumulate_adaptive(&op, &mut [item], &mut reports).unwrap();
        }
    }
    let seen = seen(&acc);
    assert_eq!((seen.levels, seen.scales), (levels.to_vec(), scales.to_vec()));
    assert_eq!(seen.place, (1, 3, 3, -0.5));
}

#[test]
fn order_names_element_types_and_the_device_enum_do_not_move_a_bit() {
    for format in formats() {
        let config = Config { format, seed: 7, ..Config::default() };
        let mut plain = new(format, NonFinite::Defer);
        let mut other = new(format, NonFinite::Defer);
        let mut device = Accumulator::new(Device::default(), &specs(), config).unwrap();
        for call in 0..3 {
            let g = gradients(call);
            plain.accumulate(&list(&g), 0.5).unwrap();
            let b: Vec<bf16> = g[1].iter().map(|&x| bf16::from_f32(x)).collect();
            let c: Vec<f16> = g[2].iter().map(|&x| f16::from_f32(x)).collect();
            let mixed: [(Id<'_>, Floats<'_, Cpu>); 3] =
                [(2.into(), c[..].into()), ("a".into(), g[0][..].into()), (1.into(), b[..].into())];
            other.accumulate(&mixed, 0.5).unwrap();
            let on_device: [(&str, Floats<'_, Device>); 3] = [
                ("a", Floats::F32(g[0][..].into())),
                ("c", Floats::F16(c[..].into())),
                ("b", Floats::Bf16(b[..].into())),
            ];
            device.accumulate(&on_device, 0.5).unwrap();
        }
        assert_eq!(seen(&plain), seen(&other), "{format:?}");
        for t in 0..3 {
            let want: Vec<f32> = plain.to_vec(t, Reduce::Mean).unwrap();
            assert_eq!(device.to_vec::<f32>(t, Reduce::Mean).unwrap(), want);
        }
        assert_eq!(device.squared_norm().unwrap(), plain.squared_norm().unwrap());
        assert_eq!(device.bytes_held(), plain.bytes_held());
    }
}

#[test]
fn sums_means_and_factors_of_uneven_weights() {
    let mut acc = Accumulator::new(Cpu::default(), &[Spec::new("w", [4])], Config::default()).unwrap();
    // Values on the grid of 4-bit levels are held without error.
    acc.accumulate(&[("w", [7f32, -7.0, 1.0, 0.0][..].into())], 1.0).unwrap();
    acc.accumulate(&[(0, [0f32, 0.0, 2.0, -2.0][..].into())], 3.0).unwrap();
    let read = |reduce| acc.to_vec::<f32>("w", reduce).unwrap();
    assert_eq!(read(Reduce::Sum), [7.0, -7.0, 7.0, -6.0]);
    assert_eq!(read(Reduce::Mean), [1.75, -1.75, 1.75, -1.5]);
    assert_eq!(read(Reduce::Times(0.5)), [3.5, -3.5, 3.5, -3.0]);
    assert_eq!((acc.weights(), acc.count()), (4.0, 2));
    assert_eq!(acc.squared_norm().unwrap(), 49.0 * 3.0 + 36.0);
    let halves: Vec<bf16> = acc.to_vec("w", Reduce::Mean).unwrap();
    assert_eq!(halves, [1.75, -1.75, 1.75, -1.5].map(bf16::from_f32));
    let mut out = [0f32; 4];
    acc.read_out(Reduce::Sum, &mut [("w", &mut out[..])]).unwrap();
    assert_eq!(out, [7.0, -7.0, 7.0, -6.0]);
}

#[test]
fn a_mean_of_nothing_is_an_error() {
    let mut acc = new(adaptive(4), NonFinite::Defer);
    let mean = |acc: &Cpus| acc.to_vec::<f32>("a", Reduce::Mean).unwrap_err();
    assert!(matches!(mean(&acc), Error::NothingAccumulated { weights: 0.0 }));
    add(&mut acc, 0, 1.0);
    add(&mut acc, 0, -1.0);
    assert!(matches!(mean(&acc), Error::NothingAccumulated { weights: 0.0 }));
    assert_eq!(acc.to_vec::<f32>("a", Reduce::Sum).unwrap().len(), 200);
    let e = acc.to_vec::<f32>("a", Reduce::Times(f32::NAN)).unwrap_err();
    assert!(matches!(e, Error::Parameter { name: "factor", .. }), "{e}");
}

#[test]
fn every_refusal_leaves_the_state_as_it_was() {
    for format in formats() {
        for policy in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
            let acc = &mut new(format, policy);
            add(acc, 0, 1.0);
            let g = gradients(1);
            let [a, b, c] = list(&g);
            let unknown = ("d", a.1);
            let e = refused(acc, |acc| acc.accumulate(&[a, b, c, unknown], 1.0));
            assert!(matches!(&e, Error::UnknownTensor { name, known: 3 } if name == "d"), "{e}");
            let e = refused(acc, |acc| acc.accumulate(&[(3usize, a.1)], 1.0));
            assert!(matches!(&e, Error::UnknownTensor { name, .. } if name == "#3"), "{e}");
            let e = refused(acc, |acc| acc.accumulate(&[a, b], 1.0));
            assert!(matches!(&e, Error::MissingTensor { name } if name == "c"), "{e}");
            let e = refused(acc, |acc| acc.accumulate(&[a, b, c, b], 1.0));
            assert!(matches!(&e, Error::DuplicateTensor { name } if name == "b"), "{e}");
            let short = ("c", g[2][1..].into());
            let e = refused(acc, |acc| acc.accumulate(&[a, b, short], 1.0));
            assert!(matches!(e.root(), Error::Length { expected: 33, got: 32, .. }), "{e}");
            assert!(e.to_string().starts_with("tensor `c`"), "{e}");
            for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let e = refused(acc, |acc| acc.accumulate(&[a, b, c], weight));
                assert!(matches!(e, Error::Parameter { name: "weight", .. }), "{e}");
            }
            acc.set_micro_batch(1 << 24);
            let e = refused(acc, |acc| acc.accumulate(&[a, b, c], 1.0));
            assert!(matches!(e, Error::Limit { .. }), "{e}");
            acc.set_micro_batch(1);
            acc.accumulate(&[a, b, c], 1.0).unwrap();
        }
    }
}

#[test]
fn reject_looks_before_it_writes() {
    for format in formats() {
        let acc = &mut new(format, NonFinite::Reject);
        add(acc, 0, 1.0);
        let g = gradients(1);
        let mut c: Vec<f16> = g[2].iter().map(|&x| f16::from_f32(x)).collect();
        c[30] = f16::NAN;
        c[32] = f16::NEG_INFINITY;
        let [a, b, _] = list(&g);
        let e = refused(acc, |acc| acc.accumulate(&[a, b, ("c", c[..].into())], 1.0));
        assert!(matches!(e.root(), Error::NonFinite { count: 2, first: 30 }), "{e}");
        assert!(e.to_string().starts_with("tensor `c`"), "{e}");
        // A weight can take a gradient out of range.
        let e = refused(acc, |acc| acc.accumulate(&list(&g), 1e38));
        assert!(matches!(e.root(), Error::NonFinite { .. }), "{e}");
        add(acc, 1, 1.0);
        assert_eq!(acc.count(), 2);
        acc.to_vec::<f32>("c", Reduce::Mean).unwrap();
    }
}

#[test]
fn defer_marks_the_window_until_reset() {
    for format in formats() {
        let mut acc = new(format, NonFinite::Defer);
        add(&mut acc, 0, 1.0);
        let mut g = gradients(1);
        g[1][69] = f32::INFINITY;
        acc.accumulate(&list(&g), 1.0).unwrap();
        add(&mut acc, 2, 1.0);
        for t in ["a", "b", "c"] {
            let e = acc.to_vec::<f32>(t, Reduce::Mean).unwrap_err();
            assert!(matches!(e.root(), Error::NonFinite { count: 1, first: 69 }), "{e}");
            assert!(e.to_string().starts_with("tensor `b`"), "{e}");
        }
        assert!(matches!(acc.squared_norm().unwrap_err().root(), Error::NonFinite { .. }));
        // Without waiting: the tensor's output is NaN throughout, the others are what they are.
        let (mut a, mut b) = (vec![0f32; 200], vec![0f32; 70]);
        acc.read_out_guarded(Reduce::Mean, &mut [("a", &mut a[..]), ("b", &mut b[..])]).unwrap();
        assert!(a.iter().all(|x| x.is_finite()) && b.iter().all(|x| x.to_bits() == 0x7fff_ffff));
        acc.reset().unwrap();
        add(&mut acc, 3, 1.0);
        acc.to_vec::<f32>("b", Reduce::Mean).unwrap();
    }
}

#[test]
fn a_sum_out_of_range_is_found_under_every_policy_that_refuses() {
    for policy in [NonFinite::Reject, NonFinite::Defer] {
        let config = Config { non_finite: policy, ..Config::default() };
        let mut acc = Accumulator::new(Cpu::default(), &[Spec::new("w", [2])], config).unwrap();
        let g = [1.0, 2f32.powi(125)];
        for _ in 0..2 {
            acc.accumulate(&[("w", g[..].into())], 1.0).unwrap();
        }
        let e = acc.to_vec::<f32>("w", Reduce::Mean).unwrap_err();
        assert!(matches!(e.root(), Error::NonFinite { count: 1, first: 1 }), "{e}");
    }
}

#[test]
fn zero_adds_nothing_and_counts() {
    for format in formats() {
        let mut acc = new(format, NonFinite::Zero);
        let mut zeroed = new(format, NonFinite::Zero);
        let mut g = gradients(0);
        g[0][5] = f32::NAN;
        g[0][7] = f32::NEG_INFINITY;
        acc.accumulate(&list(&g), 1.0).unwrap();
        (g[0][5], g[0][7]) = (0.0, 0.0);
        zeroed.accumulate(&list(&g), 1.0).unwrap();
        let (got, want) = (seen(&acc), seen(&zeroed));
        assert_eq!((got.levels, got.scales), (want.levels, want.scales));
        assert_eq!((got.reports[0].non_finite, got.reports[0].first), (2, Some(5)));
        assert_eq!(acc.found().unwrap().non_finite, 2);
        assert!(acc.to_vec::<f32>("a", Reduce::Mean).unwrap().iter().all(|x| x.is_finite()));
        acc.reset().unwrap();
        assert_eq!(acc.found().unwrap(), Report::default());
    }
}

#[test]
fn an_all_zero_f16_gradient_is_zero_in_every_format() {
    for format in formats() {
        let config = Config { format, ..Config::default() };
        let mut acc = Accumulator::new(Cpu::default(), &[Spec::new("w", [100])], config).unwrap();
        let zeros = [f16::ZERO; 100];
        acc.accumulate(&[("w", zeros[..].into())], 1.0).unwrap();
        acc.accumulate(&[("w", zeros[..].into())], 1.0).unwrap();
        assert_eq!(acc.to_vec::<f32>("w", Reduce::Mean).unwrap(), vec![0.0; 100]);
        assert_eq!(acc.found().unwrap(), Report::default());
    }
}

#[test]
fn bytes_held_are_those_of_the_buffers() {
    // Words of 32 elements: 7, 3 and 2 groups; blocks of 64: 4, 2 and 1.
    let (groups, blocks) = (12, 7);
    for (format, bits, per_block) in [
        (adaptive(2), 2, 2),
        (adaptive(4), 4, 2),
        (adaptive(8), 8, 2),
        (exact(8, FIRST), 8, 4),
        (exact(32, LAST), 32, 4),
    ] {
        let acc = new(format, NonFinite::Defer);
        assert_eq!(acc.bytes_held(), groups * bits * 4 + blocks * per_block);
        assert_eq!(acc.elements(), 303);
    }
    assert_eq!(new(Format::F32, NonFinite::Defer).bytes_held(), 303 * 4);
}

#[test]
fn what_can_not_be_made() {
    let new = |specs: &[Spec], config| Accumulator::new(Cpu::default(), specs, config).map(|_| ()).unwrap_err();
    let config = Config::default();
    assert!(matches!(new(&[], config), Error::Parameter { name: "tensors", .. }));
    let twice = [Spec::new("a", [1]), Spec::new("a", [2])];
    assert!(matches!(new(&twice, config), Error::DuplicateTensor { .. }));
    let huge = [Spec::new("a", [usize::MAX, 2])];
    assert!(matches!(new(&huge, config).root(), Error::Limit { .. }));
    for format in [adaptive(3), adaptive(16), exact(2, FIRST), exact(64, LAST)] {
        assert!(matches!(new(&specs(), Config { format, ..config }), Error::BitWidth { .. }));
        let own = [Spec::new("a", [3]).format(format)];
        assert!(matches!(new(&own, config).root(), Error::BitWidth { .. }));
    }
    for headroom in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        for scales in [Scales::FirstLook { headroom }, Scales::LastWindow { headroom }] {
            let e = new(&specs(), Config { format: exact(8, scales), ..config });
            assert!(matches!(e, Error::Parameter { name: "headroom", .. }), "{e}");
        }
    }
    assert!(BlockSize::new(48).is_err());
}

#[test]
fn tensors_without_elements_are_allowed() {
    let specs = [Spec::new("empty", [0, 5]), Spec::new("scalar", [])];
    let mut acc = Accumulator::new(Cpu::default(), &specs, Config::default()).unwrap();
    acc.accumulate(&[("empty", &[][..] as &[f32]).into_pair(), ("scalar", &[7f32][..]).into_pair()], 1.0).unwrap();
    assert!(acc.to_vec::<f32>("empty", Reduce::Mean).unwrap().is_empty());
    assert_eq!(acc.to_vec::<f32>("scalar", Reduce::Mean).unwrap(), [7.0]);
}

trait IntoPair<'a> {
    fn into_pair(self) -> (&'a str, Floats<'a, Cpu>);
}

impl<'a> IntoPair<'a> for (&'a str, &'a [f32]) {
    fn into_pair(self) -> (&'a str, Floats<'a, Cpu>) {
        (self.0, self.1.into())
    }
}

#[test]
fn reset_starts_the_next_step_with_other_draws() {
    let mut acc = new(adaptive(2), NonFinite::Defer);
    add(&mut acc, 0, 1.0);
    let first = seen(&acc);
    acc.reset().unwrap();
    assert_eq!(seen(&acc).place, (1, 0, 0, 0.0));
    assert!(seen(&acc).levels.iter().flatten().all(|&w| w == 0));
    add(&mut acc, 0, 1.0);
    assert_ne!(seen(&acc).levels, first.levels);
    acc.reset_to(0).unwrap();
    add(&mut acc, 0, 1.0);
    assert_eq!(seen(&acc), first);
    acc.reset_to(u32::MAX).unwrap();
    acc.reset().unwrap();
    assert_eq!(acc.step(), 0);
}

mod exact_counts {
    use super::*;

    fn one(scales: Scales, bits: u32, non_finite: NonFinite) -> Cpus {
        let config = Config { format: exact(bits, scales), seed: 3, non_finite, ..Config::default() };
        Accumulator::new(Cpu::default(), &[Spec::new("w", [128])], config).unwrap()
    }

    fn add(acc: &mut Cpus, value: f32) -> Result<()> {
        acc.accumulate(&[("w", [value; 128][..].into())], 1.0)
    }

    fn scale(acc: &Cpus) -> f32 {
        acc.scales("w").unwrap()[0].to_f32()
    }

    #[test]
    fn a_first_look_fixes_the_scales_of_each_window() {
        let mut acc = one(Scales::FirstLook { headroom: 2.0 }, 8, NonFinite::Defer);
        add(&mut acc, 1.5).unwrap();
        assert_eq!(scale(&acc), 3.0);
        add(&mut acc, 3.0).unwrap();
        assert_eq!((scale(&acc), acc.found().unwrap().clipped), (3.0, 0));
        add(&mut acc, -4.0).unwrap();
        assert_eq!((scale(&acc), acc.found().unwrap().clipped), (3.0, 128));
        acc.reset().unwrap();
        add(&mut acc, -4.0).unwrap();
        assert_eq!((scale(&acc), acc.found().unwrap().clipped), (8.0, 0));
    }

    #[test]
    fn the_last_window_gives_the_scales_of_the_next() {
        let mut acc = one(Scales::LastWindow { headroom: 1.5 }, 8, NonFinite::Defer);
        add(&mut acc, 1.0).unwrap();
        add(&mut acc, -4.0).unwrap();
        assert_eq!((scale(&acc), acc.found().unwrap().clipped), (1.5, 128));
        acc.reset().unwrap();
        assert_eq!(scale(&acc), 6.0);
        add(&mut acc, 6.0).unwrap();
        assert_eq!(acc.to_vec::<f32>("w", Reduce::Mean).unwrap(), vec![6.0; 128]);
        acc.reset().unwrap();
        acc.reset().unwrap(); // an empty window says nothing about the next
        assert_eq!(scale(&acc), 9.0);
    }

    #[test]
    fn given_scales_are_checked_and_stay() {
        let mut acc = one(Scales::Given, 4, NonFinite::Defer);
        let e = add(&mut acc, 1.0).unwrap_err();
        assert!(matches!(e.root(), Error::NoScales { held: 0, .. }), "{e}");
        let bf = |x: f32| bf16::from_f32(x);
        let e = acc.set_scales("w", &[bf(1.0)]).unwrap_err();
        assert!(matches!(e.root(), Error::Length { expected: 2, got: 1, .. }), "{e}");
        for bad in [-1.0, f32::NAN, f32::INFINITY, 2f32.powi(-98), 2f32.powi(127)] {
            let e = acc.set_scales("w", &[bf(1.0), bf(bad)]).unwrap_err();
            assert!(matches!(e.root(), Error::Parameter { name: "scale", .. }), "{e}");
        }
        assert!(add(&mut acc, 1.0).is_err());
        acc.set_scales("w", &[bf(2f32.powi(126)), bf(2f32.powi(-97))]).unwrap();
        acc.set_scales("w", &[bf(1.0), bf(0.0)]).unwrap();
        add(&mut acc, 1.0).unwrap();
        // Under a scale of 0 everything is clipped to 0, and said to be.
        assert_eq!(acc.found().unwrap().clipped, 64);
        assert_eq!(acc.to_vec::<f32>("w", Reduce::Sum).unwrap()[63..65], [1.0, 0.0]);
        let e = acc.set_scales("w", &[bf(1.0), bf(1.0)]).unwrap_err();
        assert!(matches!(e.root(), Error::WindowStarted { held: 1, .. }), "{e}");
        acc.reset().unwrap();
        add(&mut acc, 1.0).unwrap();
        assert_eq!(scale(&acc), 1.0);
        let e = one(FIRST, 8, NonFinite::Defer).set_scales("w", &[bf(1.0), bf(1.0)]).unwrap_err();
        assert!(matches!(e.root(), Error::Format { format: "exact", .. }), "{e}");
    }

    #[test]
    fn counts_hold_what_they_promise_and_not_one_more() {
        let mut acc = one(FIRST, 4, NonFinite::Defer);
        for _ in 0..7 {
            add(&mut acc, 1.0).unwrap();
        }
        let before = words_and_scales(&acc, "w").0;
        let e = add(&mut acc, 1.0).unwrap_err();
        assert!(matches!(e, Error::Limit { got: 8, limit: 7, .. }), "{e}");
        assert_eq!((words_and_scales(&acc, "w").0, acc.count()), (before, 7));
    }

    fn workers(non_finite: NonFinite) -> Vec<Cpus> {
        let scales: Vec<bf16> = [2.0, 2.0].map(bf16::from_f32).to_vec();
        (0..3)
            .map(|rank| {
                let mut acc = one(Scales::Given, 8, non_finite);
                acc.set_scales("w", &scales).unwrap();
                acc.set_micro_batch(10 * rank);
                for call in 0..4 {
                    let g: Vec<f32> =
                        (0..128).map(|i| ((i * 7 + call * 13 + rank * 5) % 50) as f32 / 20.0 - 1.0).collect();
                    acc.accumulate(&[("w", g[..].into())], 1.0).unwrap();
                }
                acc
            })
            .collect()
    }

    #[test]
    fn merging_has_no_order() {
        let w = workers(NonFinite::Defer);
        let merged = |order: [usize; 3]| {
            let mut sum = one(Scales::Given, 8, NonFinite::Defer);
            order.iter().for_each(|&i| sum.merge(&w[i]).unwrap());
            assert_eq!((sum.count(), sum.weights()), (12, 12.0));
            (words_and_scales(&sum, "w").0, sum.to_vec::<f32>("w", Reduce::Mean).unwrap())
        };
        assert_eq!(merged([0, 1, 2]), merged([2, 0, 1]));
        let sums: Vec<Vec<f32>> = w.iter().map(|w| w.to_vec("w", Reduce::Sum).unwrap()).collect();
        let want: Vec<f32> = (0..128).map(|i| sums.iter().map(|s| s[i]).sum()).collect();
        let mut sum = one(Scales::Given, 8, NonFinite::Defer);
        w.iter().for_each(|w| sum.merge(w).unwrap());
        assert_eq!(sum.to_vec::<f32>("w", Reduce::Sum).unwrap(), want);
    }

    #[test]
    fn maxima_and_reports_merge_too() {
        let w = workers(NonFinite::Zero);
        let mut sum = one(Scales::LastWindow { headroom: 1.0 }, 8, NonFinite::Zero);
        let mut other = one(Scales::LastWindow { headroom: 1.0 }, 8, NonFinite::Zero);
        sum.merge(&w[0]).unwrap();
        add(&mut other, 0.5).unwrap();
        let e = sum.merge(&other).unwrap_err();
        assert!(matches!(e.root(), Error::ScalesDiffer { block: 0 }), "{e}");
        let mut big = one(Scales::Given, 8, NonFinite::Zero);
        big.set_scales("w", &[2.0, 2.0].map(bf16::from_f32)).unwrap();
        let mut g = vec![5f32; 128];
        g[9] = f32::NAN;
        big.accumulate(&[("w", g[..].into())], 1.0).unwrap();
        sum.merge(&big).unwrap();
        let found = sum.reports().unwrap()[0];
        assert_eq!((found.clipped, found.non_finite, found.first), (127, 1, Some(9)));
        sum.reset().unwrap();
        assert_eq!(scale(&sum), 5.0);
        assert_eq!(sum.found().unwrap(), Report::default());
    }

    #[test]
    fn what_does_not_merge_changes_nothing() {
        let mut w = workers(NonFinite::Defer);
        let mut sum = w.remove(0);
        let before = (words_and_scales(&sum, "w").0, sum.count(), sum.weights());
        let mut check = |other: &Cpus| {
            let e = sum.merge(other).unwrap_err();
            assert_eq!((words_and_scales(&sum, "w").0, sum.count(), sum.weights()), before, "{e}");
            e
        };
        assert!(matches!(check(&one(FIRST, 4, NonFinite::Defer)).root(), Error::NotMergeable { .. }));
        let adaptive = Accumulator::new(Cpu::default(), &[Spec::new("w", [128])], Config::default()).unwrap();
        assert!(matches!(check(&adaptive).root(), Error::Format { format: "adaptive", .. }));
        let config = *w[0].config();
        let made = |spec| Accumulator::new(Cpu::default(), &[spec], config).unwrap();
        assert!(matches!(check(&made(Spec::new("v", [128]))), Error::NotMergeable { .. }));
        assert!(matches!(check(&made(Spec::new("w", [2, 64]))).root(), Error::Shape { .. }));
        let mut other = one(Scales::Given, 8, NonFinite::Defer);
        other.set_scales("w", &[2.0, 1.0].map(bf16::from_f32)).unwrap();
        add(&mut other, 1.0).unwrap();
        assert!(matches!(check(&other).root(), Error::ScalesDiffer { block: 1 }));
        let mut full = one(Scales::Given, 8, NonFinite::Defer);
        full.set_scales("w", &[2.0, 2.0].map(bf16::from_f32)).unwrap();
        for _ in 0..124 {
            add(&mut full, 1.0).unwrap();
        }
        assert!(matches!(check(&full).root(), Error::Limit { got: 128, limit: 127, .. }));
        // A marked window marks what it is merged into.
        let mut marked = one(Scales::Given, 8, NonFinite::Defer);
        marked.set_scales("w", &[2.0, 2.0].map(bf16::from_f32)).unwrap();
        add(&mut marked, f32::NAN).unwrap();
        sum.merge(&marked).unwrap();
        let e = sum.to_vec::<f32>("w", Reduce::Mean).unwrap_err();
        assert!(matches!(e.root(), Error::NonFinite { count: 128, first: 0 }), "{e}");
        let mut out = vec![0f32; 128];
        assert!(sum.read_out_guarded(Reduce::Mean, &mut [("w", &mut out[..])]).is_err());
        sum.reset().unwrap();
        add(&mut sum, 1.0).unwrap();
        sum.to_vec::<f32>("w", Reduce::Mean).unwrap();
    }
}

/// One list of tensors in several formats.
mod formats_a_tensor {
    use super::*;
    use trigrad::numerics::reduce::{ExactSum, SUM_WORDS};
    use trigrad::op::reduce::read_sums;

    fn mixed(formats: [Option<Format>; 3], non_finite: NonFinite) -> Cpus {
        let specs: Vec<Spec> = specs().into_iter().zip(formats).map(|(s, format)| Spec { format, ..s }).collect();
        let config = Config { seed: 7, non_finite, ..Config::default() };
        Accumulator::new(Cpu::default(), &specs, config).unwrap()
    }

    const MIXED: [[Option<Format>; 3]; 3] = [
        [None, Some(Format::F32), Some(Format::Adaptive { bits: 8 })],
        [Some(Format::F32), Some(Format::F32), None],
        [
            Some(Format::Exact { bits: 4, scales: FIRST }),
            Some(Format::Exact { bits: 32, scales: LAST }),
            Some(Format::Exact { bits: 16, scales: LAST }),
        ],
    ];

    /// Each tensor holds what it would hold if all were of its format: its draws are those of its place in the list.
    #[test]
    fn each_is_held_as_if_all_were_of_its_format() {
        for formats in MIXED {
            let mut acc = mixed(formats, NonFinite::Defer);
            for call in 0..3 {
                add(&mut acc, call, 0.5);
            }
            let got = seen(&acc);
            for (i, format) in formats.into_iter().enumerate() {
                let mut alone = new(format.unwrap_or_default(), NonFinite::Defer);
                for call in 0..3 {
                    add(&mut alone, call, 0.5);
                }
                let want = seen(&alone);
                assert_eq!((&got.levels[i], &got.scales[i]), (&want.levels[i], &want.scales[i]), "{formats:?}");
                let bits = |acc: &Cpus| -> Vec<u32> {
                    acc.to_vec::<f32>(i, Reduce::Mean).unwrap().iter().map(|x| x.to_bits()).collect()
                };
                assert_eq!(bits(&acc), bits(&alone));
            }
        }
    }

    #[test]
    fn exact_counts_stand_beside_nothing_else() {
        let formats = |a, b| {
            let specs = [Spec::new("a", [3]).format(a), Spec::new("b", [3]).format(b)];
            Accumulator::new(Cpu::default(), &specs, Config::default()).map(|_| ())
        };
        for other in [adaptive(4), Format::F32] {
            for (a, b) in [(exact(8, LAST), other), (other, exact(32, LAST))] {
                let e = formats(a, b).unwrap_err();
                assert!(matches!(e.root(), Error::Conflict { .. }), "{e}");
                assert!(e.to_string().contains("tensor `b`") && e.to_string().contains("bits: 32"), "{e}");
            }
        }
        formats(Format::F32, adaptive(2)).unwrap();
        formats(exact(4, FIRST), exact(32, LAST)).unwrap();
        // The config's format is nobody's here.
        let config = Config { format: exact(8, LAST), ..Config::default() };
        Accumulator::new(Cpu::default(), &[Spec::new("a", [3]).format(Format::F32)], config).unwrap();
    }

    /// The sum of the squares over the reals, rounded once: not the rounded norms of the tensors, added.
    #[test]
    fn the_norm_is_one_exact_sum() {
        for formats in MIXED {
            let mut acc = mixed(formats, NonFinite::Defer);
            for call in 0..3 {
                add(&mut acc, call, 1.0 / 3.0);
            }
            let (mut whole, mut each) = (ExactSum::default(), Vec::new());
            for i in 0..3 {
                let mut one = ExactSum::default();
                acc.to_vec::<f32>(i, Reduce::Sum).unwrap().iter().for_each(|x| one.add_square(x.to_bits()));
                whole.merge(&one);
                each.push(one.to_f64());
            }
            assert_eq!(acc.squared_norm().unwrap(), whole.to_f64());
            assert_eq!(acc.squared_norms().unwrap(), each);
            let mut sums = [0u32; 2 * SUM_WORDS];
            acc.queue_squared_norm(&mut sums[..]).unwrap();
            acc.queue_squared_norm(&mut sums[..]).unwrap();
            let read = read_sums(&Cpu::default(), &sums[..]).unwrap();
            let mut twice = whole.clone();
            twice.merge(&whole);
            assert_eq!((&read[0].to_words(), &read[1]), (&twice.to_words(), &ExactSum::default()));
            assert!(matches!(acc.queue_squared_norm(&mut sums[..5]), Err(Error::Length { .. })));
            assert!(matches!(acc.queue_squared_norm(&mut []), Err(Error::Index { .. })));
        }
    }

    /// Above 2^53 a 1 is lost that is added in f64, and so is the next.
    #[test]
    fn no_tensor_is_lost_in_the_norm() {
        let specs = ["a", "b", "c"].map(|name| Spec::new(name, [1]).format(Format::F32));
        let mut acc = Accumulator::new(Cpu::default(), &specs, Config::default()).unwrap();
        let (large, one) = ([94_906_272.0f32], [1f32]);
        acc.accumulate(&[(0usize, large[..].into()), (1, one[..].into()), (2, one[..].into())], 1.0).unwrap();
        let square = 94_906_272u64 * 94_906_272;
        assert!(square > 1 << 53 && square.is_multiple_of(4) && square as f64 + 1.0 + 1.0 == square as f64);
        assert_eq!(acc.squared_norm().unwrap(), (square + 2) as f64);
    }

    /// Five times 8e37 is above 2^126: found where it happens, under every policy, in every format.
    #[test]
    fn a_sum_that_leaves_the_range_is_found_in_every_format() {
        for format in [adaptive(2), adaptive(4), adaptive(8), Format::F32] {
            for policy in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
                let config = Config { format, non_finite: policy, ..Config::default() };
                let mut acc = Accumulator::new(Cpu::default(), &[Spec::new("w", [2])], config).unwrap();
                for _ in 0..5 {
                    acc.accumulate(&[("w", [8e37f32, 1.0][..].into())], 1.0).unwrap();
                }
                assert!(acc.found().unwrap().non_finite > 0, "{format:?}");
                assert_eq!(acc.reports().unwrap()[0].first, Some(0));
                let read = acc.to_vec::<f32>("w", Reduce::Sum);
                match policy {
                    NonFinite::Zero => assert!(read.unwrap().iter().all(|x| x.is_finite())),
                    _ => assert!(matches!(read.unwrap_err().root(), Error::NonFinite { .. })),
                }
            }
        }
    }

    /// A weight of 0 makes 0 of anything; a subnormal weight is 0. Under every policy, in every format.
    #[test]
    fn a_masked_micro_batch_adds_nothing_and_finds_nothing() {
        for format in formats() {
            for policy in [NonFinite::Reject, NonFinite::Defer, NonFinite::Zero] {
                for weight in [0.0, -0.0, 1e-40] {
                    let (mut acc, mut without) = (new(format, policy), new(format, policy));
                    add(&mut acc, 0, 1.0);
                    add(&mut without, 0, 1.0);
                    let nan = N.map(|n| vec![f32::NAN; n]);
                    acc.accumulate(&list(&nan), weight).unwrap();
                    let (got, want) = (seen(&acc), seen(&without));
                    assert_eq!((got.levels, got.scales, got.reports), (want.levels, want.scales, want.reports));
                    assert_eq!((acc.count(), acc.weights()), (2, 1.0));
                    acc.to_vec::<f32>("a", Reduce::Mean).unwrap();
                }
            }
        }
    }

    #[test]
    fn sums_of_weights_stay_finite_and_have_an_inverse() {
        let mut acc = mixed(MIXED[0], NonFinite::Defer);
        add(&mut acc, 0, 0.0);
        let mut state = acc.state().unwrap();
        state.weights = f64::from(f32::MAX) * f64::from(f32::MAX);
        assert!(matches!(acc.set_state(&state), Err(Error::Parameter { name: "sum of weights", .. })));
        state.weights = f64::from(f32::MIN_POSITIVE) / 1e10;
        acc.set_state(&state).unwrap();
        let e = acc.to_vec::<f32>("a", Reduce::Mean).unwrap_err();
        assert!(matches!(e, Error::Parameter { name: "sum of weights", .. }), "{e}");
        // The most that a u32 of micro-batches can weigh; its inverse is 0 in f32.
        state.held = 1 << 25;
        state.weights = f64::from(f32::MAX) * f64::from(1 << 25);
        acc.set_state(&state).unwrap();
        let e = acc.to_vec::<f32>("a", Reduce::Mean).unwrap_err();
        assert!(matches!(e, Error::Parameter { name: "sum of weights", .. }), "{e}");
    }

    #[test]
    fn what_is_public_can_be_printed() {
        let mut acc = mixed(MIXED[0], NonFinite::Defer);
        add(&mut acc, 0, 1.0);
        let text = format!("{acc:?}");
        assert!(text.contains("cpu") && text.contains("held: 1") && text.contains("F32"), "{text}");
        assert_eq!(format!("{:?}", acc.held("b").unwrap()), "F32(70 elements)");
        assert_eq!(format!("{:?}", acc.held("a").unwrap()), "Levels(4 bits, 28 words, 4 scales)");
        assert!(matches!(acc.scales("b").unwrap_err().root(), Error::Format { format: "f32", .. }));
    }
}

/// Windows in which not every block is seen.
mod rare {
    use super::*;

    fn one(bits: u32, scales: Scales, seed: u64) -> Cpus {
        let config = Config { format: exact(bits, scales), seed, ..Config::default() };
        Accumulator::new(Cpu::default(), &[Spec::new("w", [2, 64])], config).unwrap()
    }

    /// The first row and the second, a block each.
    fn add(acc: &mut Cpus, rows: [f32; 2], weight: f32) {
        let x: Vec<f32> = rows.iter().flat_map(|x| [*x; 64]).collect();
        acc.accumulate(&[("w", x[..].into())], weight).unwrap();
    }

    fn row_mean(acc: &Cpus, row: usize) -> f64 {
        let sum: Vec<f32> = acc.to_vec("w", Reduce::Sum).unwrap();
        sum[row * 64..][..64].iter().map(|x| f64::from(*x)).sum::<f64>() / 64.0
    }

    /// 30 windows, the second row in every third: what is read out sums to 10.
    #[test]
    fn a_row_seen_every_third_window_arrives() {
        for (bits, scales) in [(4, LAST), (8, LAST), (16, LAST), (32, LAST), (8, FIRST), (32, FIRST)] {
            let (mut total, windows) = (0.0, 30);
            for seed in 0..20 {
                let mut acc = one(bits, scales, seed);
                for window in 0..windows {
                    for _ in 0..4 {
                        add(&mut acc, [0.3, if window % 3 == 2 { 0.25 } else { 0.0 }], 1.0);
                    }
                    total += row_mean(&acc, 1) / 20.0;
                    assert_eq!(acc.found().unwrap().clipped, 0, "{bits} {scales:?} window {window}");
                    acc.reset().unwrap();
                }
            }
            assert!((9.8..10.2).contains(&total), "{bits} bits, {scales:?}: {total} for 10");
        }
    }

    /// A first micro-batch that is empty, masked, or zero in a block says nothing about the scales.
    #[test]
    fn a_silent_first_micro_batch_does_not_silence_the_window() {
        for bits in [4, 8, 16, 32] {
            for scales in [FIRST, LAST] {
                for first in [([0.0; 2], 1.0), ([7.0; 2], 0.0), ([f32::NAN; 2], 0.0), ([7.0, 0.0], 0.0)] {
                    let mut acc = one(bits, scales, 3);
                    add(&mut acc, first.0, first.1);
                    add(&mut acc, [1.5, 0.0], 1.0);
                    add(&mut acc, [1.5, 3.0], 1.0);
                    assert_eq!(acc.found().unwrap(), Report::default());
                    let (a, b) = (row_mean(&acc, 0), row_mean(&acc, 1));
                    assert!((2.5..3.5).contains(&a) && (2.2..3.8).contains(&b), "{bits} {scales:?} {first:?}: {a} {b}");
                    let found: Vec<f32> = acc.scales("w").unwrap().iter().map(|s| s.to_f32()).collect();
                    let one = if bits == 32 { [4f32, 8.0].map(|x| x / 2f32.powi(21)) } else { [2.25, 4.5] };
                    assert_eq!(found, one, "{bits} {scales:?} {first:?}");
                }
            }
        }
    }

    #[test]
    fn a_block_that_was_not_seen_keeps_its_last_scale() {
        let mut acc = one(8, LAST, 3);
        add(&mut acc, [1.0, 2.0], 1.0);
        acc.reset().unwrap();
        add(&mut acc, [4.0, 0.0], 1.0);
        acc.reset().unwrap();
        let scales = |acc: &Cpus| -> Vec<f32> { acc.scales("w").unwrap().iter().map(|s| s.to_f32()).collect() };
        assert_eq!(scales(&acc), [6.0, 3.0]);
        // A first look starts every window without.
        let mut acc = one(8, FIRST, 3);
        add(&mut acc, [1.0, 2.0], 1.0);
        acc.reset().unwrap();
        assert_eq!(scales(&acc), [0.0, 0.0]);
    }

    /// Workers that each saw a row of their own merge: where one has no scale, the other's holds.
    #[test]
    fn rows_that_one_worker_saw_merge_with_those_of_another() {
        for bits in [8, 32] {
            let mut all = one(bits, LAST, 3);
            let (mut a, mut b) = (one(bits, LAST, 3), one(bits, LAST, 3));
            b.set_micro_batch(1);
            add(&mut a, [1.0, 0.0], 1.0);
            add(&mut b, [0.0, 2.0], 1.0);
            add(&mut all, [1.0, 0.0], 1.0);
            add(&mut all, [0.0, 2.0], 1.0);
            a.merge(&b).unwrap();
            assert_eq!(words_and_scales(&a, "w"), words_and_scales(&all, "w"));
            a.reset().unwrap();
            all.reset().unwrap();
            assert_eq!(words_and_scales(&a, "w"), words_and_scales(&all, "w"));
            // Scales that were given are not replaced.
            let mut given = one(bits, Scales::Given, 3);
            let q = if bits == 32 { 2f32.powi(-20) } else { 1.5 };
            given.set_scales("w", &[q, 0.0].map(bf16::from_f32)).unwrap();
            add(&mut given, [1.0, 0.0], 1.0);
            let e = given.merge(&b).unwrap_err();
            assert!(matches!(e.root(), Error::ScalesDiffer { .. }), "{e}");
        }
    }
}
