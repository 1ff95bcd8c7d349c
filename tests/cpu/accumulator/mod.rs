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

mod exact_counts;
mod formats_a_tensor;
mod rare;

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
