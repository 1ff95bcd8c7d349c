//! A device that fails in the middle of a call: the window is refused until reset, and never read half-updated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use bytemuck::Pod;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Reduce, Scales, Spec};
use trigrad::backend::{Backend, Memory};
use trigrad::cpu::Cpu;
use trigrad::op::{self, Element, Report};
use trigrad::{Error, Result};

/// The CPU, except that a call fails when its time has come, with what it should have done done in part or not at all.
#[derive(Clone, Default)]
struct Failing {
    cpu: Cpu,
    /// Writing calls left before one fails; none fails at 0. Below 0 the one that would fail panics.
    left: Rc<Cell<i32>>,
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

impl Backend for Failing {
    fn quantize<T: Element>(
        &self,
        _: &op::quantize::Quantize,
        _: &mut [op::quantize::Item<'_, Self, T>],
        _: &mut Vec<Report>,
    ) -> Result<()> {
        unreachable!()
    }
    fn dequantize<T: Element>(
        &self,
        _: &op::dequantize::Dequantize,
        _: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        unreachable!()
    }
    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        for i in items {
            let item = op::accumulate::AdaptiveItem {
                tensor: i.tensor,
                first: i.first,
                x: i.x,
                levels: &mut *i.levels,
                scales: &mut *i.scales,
                report: i.report,
            };
            self.cpu.accumulate_adaptive(op, &mut [item], reports)?;
            self.tick()?;
        }
        Ok(())
    }
    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        for i in items {
            let item = op::accumulate::ExactItem {
                tensor: i.tensor,
                first: i.first,
                x: i.x,
                counts: &mut *i.counts,
                scales: i.scales,
                seen: &mut *i.seen,
                report: i.report,
            };
            self.cpu.accumulate_exact(op, &mut [item], reports)?;
            self.tick()?;
        }
        Ok(())
    }
    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        for i in items {
            let item = op::accumulate::LookItem { x: i.x, seen: &mut *i.seen, report: i.report };
            self.cpu.look(op, &mut [item], reports)?;
            self.tick()?;
        }
        Ok(())
    }
    fn window_scales(&self, op: &op::accumulate::WindowScales, seen: &[u16], scales: &mut [u16]) -> Result<()> {
        self.tick()?;
        self.cpu.window_scales(op, seen, scales)
    }
    fn merge(&self, op: &op::accumulate::Merge, from: &[u32], into: &mut [u32]) -> Result<()> {
        self.cpu.merge(op, from, into)?;
        self.tick()
    }
    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        for i in items {
            let out = &mut *i.out;
            let item = op::read_out::Item { levels: i.levels, scales: i.scales, out, guard: i.guard };
            self.cpu.read_out(op, &mut [item], guards)?;
        }
        Ok(())
    }
    fn check<T: Element>(
        &self,
        _: &op::check::Check,
        _: &[op::check::Item<'_, Self, T>],
        _: &mut Vec<Report>,
    ) -> Result<()> {
        unreachable!()
    }
    fn pack(&self, _: &[i8], _: &mut [u32], _: &mut Vec<Report>, _: usize) -> Result<()> {
        unreachable!()
    }
    fn unpack(&self, _: &[u32], _: &mut [i8], _: &mut Vec<Report>, _: usize) -> Result<()> {
        unreachable!()
    }
    fn split_planes(&self, _: &[u32], _: &mut [u32], _: &mut [u32]) -> Result<()> {
        unreachable!()
    }
    fn join_planes(&self, _: &[u32], _: &[u32], _: &mut [u32]) -> Result<()> {
        unreachable!()
    }
    fn planes_to_fields(&self, _: &[u32], _: &mut [u32]) -> Result<()> {
        unreachable!()
    }
    fn fields_to_planes(&self, _: &[u32], _: &mut [u32]) -> Result<()> {
        unreachable!()
    }
    fn count_nonzero(&self, _: &[u32]) -> Result<u64> {
        unreachable!()
    }
    fn dot(&self, _: &op::reduce::Dot, _: &[u32], _: &[u16], _: &[u32], _: &[u16]) -> Result<f64> {
        unreachable!()
    }
    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: &[u32], scales: &[u16]) -> Result<f64> {
        self.cpu.squared_norm(op, levels, scales)
    }
}

const FORMATS: [Format; 3] = [
    Format::Adaptive { bits: 4 },
    Format::Exact { bits: 8, scales: Scales::FirstLook { headroom: 2.0 } },
    Format::Exact { bits: 8, scales: Scales::LastWindow { headroom: 2.0 } },
];

fn new(format: Format) -> (Accumulator<Failing>, Rc<Cell<i32>>) {
    let backend = Failing::default();
    let left = backend.left.clone();
    let config = Config { format, seed: 1, ..Config::default() };
    (Accumulator::new(backend, &[Spec::new("a", [100]), Spec::new("b", [50])], config).unwrap(), left)
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
    let (mut from, _) = new(FORMATS[1]);
    add(&mut from).unwrap();
    let (mut acc, left) = new(FORMATS[1]);
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
