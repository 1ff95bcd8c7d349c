//! A device that fails in the middle of a call: the window is refused until reset, and never read half-updated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use bytemuck::Pod;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Reduce, Scales, Spec};
use trigrad::cpu::Cpu;
use trigrad::op::item::Rewrap;
use trigrad::op::side::Side;
use trigrad::op::{self, Checked, Element, Launch, Operation, Report};
use trigrad::training::{AdamW, Optimizer, Options, Rule, Sgd, Training, WeightsMut};
use trigrad::{Error, Memory, Result};

/// The CPU, except that a call fails when its time has come, with what it should have done done in part or not at all.
#[derive(Clone, Default)]
struct Failing {
    cpu: Cpu,
    /// Writing calls left before one fails; none fails at 0. Below 0 the one that would fail panics.
    left: Rc<Cell<i32>>,
    /// Lists left before one is refused by what it is given, without running; none is at 0.
    refuses: Rc<Cell<i32>>,
}

impl Failing {
    fn tick(&self) -> Result<()> {
        match self.left.get() {
            0 => Ok(()),
            1 => {
                self.left.set(0);
                Err(Error::Backend { backend: "test", call: "write", message: "gone".to_owned() })
            }
            -1 => {
                self.left.set(0);
                panic!("gone")
            }
            n => {
                self.left.set(n - n.signum());
                Ok(())
            }
        }
    }

    fn accepted(&self) -> Result<()> {
        let left = self.refuses.get();
        self.refuses.set((left - 1).max(0));
        if left != 1 {
            return Ok(());
        }
        Err(Error::WrongDevice { expected: "here".to_owned(), got: "there".to_owned() })
    }
}

impl Memory for Failing {
    type Buffer<T: Pod + Send + Sync> = Vec<T>;
    type View<'a, T: Pod + Send + Sync> = &'a [T];
    type ViewMut<'a, T: Pod + Send + Sync> = &'a mut [T];
    type Reports = Vec<Report>;

    fn name(&self) -> String {
        "failing".to_owned()
    }
    fn zeros<T: Pod + Send + Sync>(&self, len: usize) -> Result<Vec<T>> {
        self.cpu.zeros(len)
    }
    fn upload<T: Pod + Send + Sync>(&self, data: &[T]) -> Result<Vec<T>> {
        self.cpu.upload(data)
    }
    fn download<T: Pod + Send + Sync>(&self, view: &[T]) -> Result<Vec<T>> {
        self.cpu.download(view)
    }
    fn clear<T: Pod + Send + Sync>(&self, view: &mut [T]) -> Result<()> {
        self.tick()?;
        self.cpu.clear(view)
    }
    fn clear_all<T: Pod + Send + Sync>(&self, views: Vec<&mut [T]>) -> Result<()> {
        self.tick()?;
        self.cpu.clear_all(views)
    }
    fn copy<T: Pod + Send + Sync>(&self, from: &[T], to: &mut [T]) -> Result<()> {
        self.cpu.copy(from, to)
    }
    fn view<T: Pod + Send + Sync>(buffer: &Self::Buffer<T>) -> Self::View<'_, T> {
        buffer
    }
    fn view_mut<T: Pod + Send + Sync>(buffer: &mut Self::Buffer<T>) -> Self::ViewMut<'_, T> {
        buffer
    }
    fn shorten<'s, 'l: 's, T: Pod + Send + Sync>(view: Self::View<'l, T>) -> Self::View<'s, T> {
        view
    }
    fn reborrow<'s, T: Pod + Send + Sync>(view: &'s mut Self::ViewMut<'_, T>) -> Self::ViewMut<'s, T> {
        view
    }
    fn accepts<T: Pod + Send + Sync>(&self, _: &Self::View<'_, T>) -> Result<()> {
        Ok(())
    }
    fn accepts_mut<T: Pod + Send + Sync>(&self, _: &Self::ViewMut<'_, T>) -> Result<()> {
        Ok(())
    }
    fn accepts_reports(&self, _: &Vec<Report>) -> Result<()> {
        Ok(())
    }
    fn slice<T: Pod + Send + Sync>(view: Self::View<'_, T>, range: Range<usize>) -> Option<Self::View<'_, T>> {
        view.get(range)
    }
    fn slice_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        range: Range<usize>,
    ) -> Option<Self::ViewMut<'_, T>> {
        view.get_mut(range)
    }
    fn split_mut<T: Pod + Send + Sync>(
        view: Self::ViewMut<'_, T>,
        at: usize,
    ) -> Option<(Self::ViewMut<'_, T>, Self::ViewMut<'_, T>)> {
        view.split_at_mut_checked(at)
    }
    fn len<T: Pod + Send + Sync>(view: &Self::View<'_, T>) -> usize {
        view.len()
    }
    fn len_mut<T: Pod + Send + Sync>(view: &Self::ViewMut<'_, T>) -> usize {
        view.len()
    }
    fn reports(&self, slots: usize) -> Result<Vec<Report>> {
        self.cpu.reports(slots)
    }
    fn report_slots(reports: &Vec<Report>) -> usize {
        reports.len()
    }
    fn read_reports(&self, reports: &Vec<Report>) -> Result<Vec<Report>> {
        self.cpu.read_reports(reports)
    }
    fn clear_reports(&self, reports: &mut Vec<Report>) -> Result<()> {
        self.cpu.clear_reports(reports)
    }
}

/// The views are the CPU's own.
struct Same;

impl Rewrap<Failing, Cpu> for Same {
    fn view<'s, 'l: 's, T: Pod + Send + Sync>(&self, view: &'l [T]) -> Result<&'s [T]> {
        Ok(view)
    }
    fn view_mut<'s, T: Pod + Send + Sync>(&self, view: &'s mut &mut [T]) -> Result<&'s mut [T]> {
        Ok(view)
    }
    fn reports<'r>(&self, reports: &'r Vec<Report>) -> Result<&'r Vec<Report>> {
        Ok(reports)
    }
    fn reports_mut<'r>(&self, reports: &'r mut Vec<Report>) -> Result<&'r mut Vec<Report>> {
        Ok(reports)
    }
}

/// Operations that write to a window or to weights: they fail, one tensor after the other.
const WRITING: [&str; 7] = [
    "accumulate_adaptive",
    "accumulate_exact",
    "accumulate_f32",
    "window_scales",
    "merge",
    "update_sgd",
    "update_adamw",
];

impl<O: Operation> Launch<O> for Failing
where
    Cpu: Launch<O>,
{
    fn launch<T: Element>(&self, work: Checked<'_, '_, Self, O, T>) -> Result<()> {
        let (parameters, items, mut side) = work.into_parts();
        let writes = WRITING.contains(&O::NAME);
        if writes {
            self.accepted()?;
        }
        for item in items {
            let mut one = [O::rewrap(item, &Same)?];
            op::run::<_, O, T>(&self.cpu, parameters, &mut one, O::Side::rewrap(&mut side, &Same)?)?;
            if writes {
                self.tick()?;
            }
        }
        Ok(())
    }
}

/// Of the two tensors.
const FORMATS: [[Format; 2]; 5] = [
    [Format::Adaptive { bits: 4 }; 2],
    [Format::Adaptive { bits: 4 }, Format::F32],
    EXACT,
    [Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 2.0 } }; 2],
    [FIRST_LOOK, Format::Exact { bits: 32, scales: Scales::LastWindow { headroom: 2.0 } }],
];
const FIRST_LOOK: Format = Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } };
const EXACT: [Format; 2] = [FIRST_LOOK; 2];

fn made([a, b]: [Format; 2]) -> (Accumulator<Failing>, Failing) {
    let backend = Failing::default();
    let config = Config { seed: 1, ..Config::default() };
    let specs = [Spec::new("a", [100]).format(a), Spec::new("b", [50]).format(b)];
    (Accumulator::new(backend.clone(), &specs, config).unwrap(), backend)
}

fn new(formats: [Format; 2]) -> (Accumulator<Failing>, Rc<Cell<i32>>) {
    let (acc, backend) = made(formats);
    (acc, backend.left)
}

fn add(acc: &mut Accumulator<Failing>) -> Result<()> {
    let (a, b) = (vec![1.5f32; 100], vec![half::bf16::from_f32(-0.5); 50]);
    let list: [(&str, Floats<'_, Failing>); 2] = [("a", a[..].into()), ("b", b[..].into())];
    acc.accumulate(&list, 1.0)
}

fn values(acc: &Accumulator<Failing>) -> Vec<Vec<f32>> {
    ["a", "b"].map(|t| acc.to_vec(t, Reduce::Mean).unwrap()).to_vec()
}

/// Everything that reads or adds to the window says that it is refused.
fn all_refused(acc: &mut Accumulator<Failing>, other: &Accumulator<Failing>) {
    let refused = |e: Error| assert!(matches!(e, Error::Refused { .. }), "{e}");
    refused(add(acc).unwrap_err());
    refused(acc.to_vec::<f32>("a", Reduce::Sum).unwrap_err());
    refused(acc.read_out_guarded(Reduce::Sum, &mut [("b", &mut [0f32; 50][..])]).unwrap_err());
    refused(acc.squared_norm().unwrap_err());
    refused(acc.squared_norms().unwrap_err());
    refused(acc.queue_squared_norm(&mut [0; 20]).unwrap_err());
    refused(acc.state().unwrap_err());
    refused(acc.scales("a").unwrap_err());
    refused(acc.held("a").map(|_| ()).unwrap_err());
    refused(acc.merge(other).unwrap_err());
}

#[test]
fn a_failure_while_adding_refuses_the_window_until_reset() {
    for format in FORMATS {
        let (mut good, _) = new(format);
        add(&mut good).unwrap();
        let want = values(&good);
        for fails_at in 1.. {
            let (mut acc, left) = new(format);
            left.set(fails_at);
            match add(&mut acc) {
                Ok(()) => {
                    assert!(fails_at > 2, "no call failed");
                    break;
                }
                Err(e) => assert!(matches!(e, Error::Backend { .. }), "{e}"),
            }
            assert_eq!(acc.count(), 0);
            all_refused(&mut acc, &good);
            acc.reset_to(0).unwrap();
            add(&mut acc).unwrap();
            assert_eq!(values(&acc), want, "{format:?}, call {fails_at}");
        }
    }
}

/// The same micro-batch in parts, the last tensor first.
fn add_in_parts(acc: &mut Accumulator<Failing>) -> Result<()> {
    let (a, b) = (vec![1.5f32; 100], vec![half::bf16::from_f32(-0.5); 50]);
    acc.begin_micro_batch(1.0)?;
    acc.add_part(&[("b", b[..].into())])?;
    acc.add_part(&[("a", a[..].into())])?;
    acc.finish_micro_batch().map(drop)
}

#[test]
fn a_failure_in_a_part_refuses_the_window_until_reset() {
    for format in FORMATS {
        let (mut good, _) = new(format);
        add(&mut good).unwrap();
        let want = values(&good);
        for fails_at in [1, 2, -1, -2] {
            let (mut acc, left) = new(format);
            left.set(fails_at);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| add_in_parts(&mut acc)));
            assert_eq!(caught.is_err(), fails_at < 0, "a call of a backend that panics");
            if let Ok(done) = caught {
                assert!(matches!(done.unwrap_err(), Error::Backend { .. }));
            }
            assert_eq!(acc.count(), 0);
            all_refused(&mut acc, &good);
            let refused = |e: Error| assert!(matches!(e, Error::Refused { .. }), "{e}");
            refused(acc.missing().map(drop).unwrap_err());
            refused(acc.finish_micro_batch().map(drop).unwrap_err());
            refused(add_in_parts(&mut acc).unwrap_err());
            acc.reset_to(0).unwrap();
            add_in_parts(&mut acc).unwrap();
            assert_eq!(values(&acc), want, "{format:?}, call {fails_at}");
        }
        // A part that never ran is lost to nobody.
        let (mut acc, backend) = made(format);
        backend.refuses.set(2);
        assert!(matches!(add_in_parts(&mut acc).unwrap_err(), Error::WrongDevice { .. }));
        assert_eq!(acc.missing().unwrap(), [0]);
        acc.add_part(&[("a", vec![1.5f32; 100][..].into())]).unwrap();
        acc.finish_micro_batch().unwrap();
        assert_eq!(values(&acc), want, "{format:?}");
    }
}

#[test]
fn a_failure_while_resetting_refuses_until_a_reset_succeeds() {
    for format in FORMATS {
        let (mut good, _) = new(format);
        add(&mut good).unwrap();
        for fails_at in 1.. {
            let (mut acc, left) = new(format);
            add(&mut acc).unwrap();
            left.set(fails_at);
            if acc.reset_to(0).is_ok() {
                assert!(fails_at > 2, "no call failed");
                break;
            }
            all_refused(&mut acc, &good);
            acc.reset_to(0).unwrap();
            add(&mut acc).unwrap();
            assert_eq!(values(&acc), values(&good), "{format:?}, call {fails_at}");
        }
    }
}

#[test]
fn a_failure_while_merging_refuses_the_window() {
    let (mut from, _) = new(EXACT);
    add(&mut from).unwrap();
    let (mut acc, left) = new(EXACT);
    left.set(1);
    assert!(matches!(acc.merge(&from).unwrap_err(), Error::Backend { .. }));
    all_refused(&mut acc, &from);
    let e = from.merge(&acc).unwrap_err();
    assert!(matches!(e, Error::Refused { .. }), "{e}");
    acc.reset().unwrap();
    acc.merge(&from).unwrap();
    assert_eq!(values(&acc), values(&from));
}

/// A backend, an allocator or a thread of the pool may panic in the middle of a call, and the caller may catch it.
#[test]
fn a_panic_in_the_middle_of_a_call_refuses_the_window() {
    for format in FORMATS {
        let (mut good, _) = new(format);
        add(&mut good).unwrap();
        let want = values(&good);
        for (adds, kind) in [(true, "adding"), (false, "resetting")] {
            for panics_at in 1.. {
                let (mut acc, left) = new(format);
                if !adds {
                    add(&mut acc).unwrap();
                }
                left.set(-panics_at);
                let call = || if adds { add(&mut acc) } else { acc.reset_to(0) };
                let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
                if let Ok(done) = caught {
                    done.unwrap();
                    assert!(panics_at > 2, "no call panicked while {kind}");
                    break;
                }
                all_refused(&mut acc, &good);
                acc.reset_to(0).unwrap();
                add(&mut acc).unwrap();
                assert_eq!(values(&acc), want, "{format:?}, {kind}, call {panics_at}");
            }
        }
    }
}

/// A list that is refused by what it is given never ran: the window is as it was, unless another list before it did.
#[test]
fn a_call_that_never_ran_leaves_the_window_as_it_was() {
    for formats in FORMATS {
        for refuses_at in 1.. {
            let (mut acc, backend) = made(formats);
            add(&mut acc).unwrap();
            let before = acc.state().unwrap();
            backend.refuses.set(refuses_at);
            let Err(e) = add(&mut acc) else {
                assert!(refuses_at > 2, "no list was refused");
                break;
            };
            assert!(matches!(e, Error::WrongDevice { .. }), "{e}");
            if refuses_at == 1 {
                assert_eq!(acc.state().unwrap(), before, "{formats:?}");
                add(&mut acc).unwrap();
                assert_eq!(acc.count(), 2);
            } else {
                all_refused(&mut acc, &made(formats).0);
            }
        }
    }
    let (mut from, _) = new(EXACT);
    add(&mut from).unwrap();
    let (mut acc, backend) = made(EXACT);
    backend.refuses.set(1);
    assert!(matches!(acc.merge(&from).unwrap_err(), Error::WrongDevice { .. }));
    acc.merge(&from).unwrap();
    assert_eq!(values(&acc), values(&from));
}

fn gradients(training: &mut Training<Failing>) -> Result<()> {
    let (a, b) = ([1.5f32; 100], [-0.5f32; 50]);
    training.accumulate(&[("a", a[..].into()), ("b", b[..].into())], 1.0)
}

fn step(
    training: &mut Training<Failing>,
    optimizer: &mut Optimizer<Failing>,
    weights: &mut (Vec<f32>, Vec<half::bf16>),
) -> Result<()> {
    let weights = vec![WeightsMut::F32(&mut weights.0[..]), WeightsMut::Bf16(&mut weights.1[..])];
    training.step(optimizer, weights).map(|outcome| assert!(outcome.updated()))
}

/// Wherever a step fails, the error says that weights may have moved, and the window is not applied again.
#[test]
fn a_failure_in_the_middle_of_a_step_is_told_and_the_window_is_never_applied_twice() {
    for (rule, format) in [
        (Rule::Sgd(Sgd { momentum: 0.9, ..Sgd::default() }), Format::Adaptive { bits: 4 }),
        (Rule::AdamW(AdamW::default()), FORMATS[3][0]),
    ] {
        let mut failures = 0;
        for fails_at in 1.. {
            let backend = Failing::default();
            let config = Config { format, seed: 1, ..Config::default() };
            let options = Options { config, small: 0, ..Options::default() };
            let specs = [Spec::new("a", [100]), Spec::new("b", [50])];
            let mut training = Training::new(backend.clone(), &specs, options).unwrap();
            let mut optimizer = Optimizer::new(&training, rule).unwrap();
            let mut weights = (vec![1f32; 100], vec![half::bf16::ONE; 50]);
            gradients(&mut training).unwrap();
            backend.left.set(fails_at);
            let Err(e) = step(&mut training, &mut optimizer, &mut weights) else { break };
            failures += 1;
            assert!(matches!(e, Error::UpdatedInPart { .. }), "{e}");
            let e = step(&mut training, &mut optimizer, &mut weights).unwrap_err();
            assert!(matches!(e, Error::Refused { .. }), "{e}");
            let e = gradients(&mut training).unwrap_err();
            assert!(matches!(e, Error::Refused { .. }), "{e}");
            training.reset().unwrap();
            gradients(&mut training).unwrap();
            step(&mut training, &mut optimizer, &mut weights).unwrap();
        }
        assert!(failures > 4, "only {failures} calls failed");
    }
}
