//! Exact counts: where scales come from, what counts hold, and that merging has no order.

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
                let g: Vec<f32> = (0..128).map(|i| ((i * 7 + call * 13 + rank * 5) % 50) as f32 / 20.0 - 1.0).collect();
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
