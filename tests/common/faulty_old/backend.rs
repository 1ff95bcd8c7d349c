//! Every operation: read the views, let the reference work on copies, write back with the fault.

use super::{Fault, Faulty, Part};
use crate::error::Result;
use crate::op::Backend;
use crate::op::update::Gradient;
use crate::op::{self, Element, Report};
use crate::testing::Reference;

/// Empty reports of the same length.
fn empty(like: &[Report]) -> Vec<Report> {
    vec![Report::default(); like.len()]
}

impl Faulty {
    /// Report slots of a list; two change places where arguments are swapped.
    fn slots(&self, mut slots: Vec<usize>) -> Vec<usize> {
        if self.is(Fault::SwappedArguments) && slots.len() > 2 {
            slots.swap(0, 2);
        }
        slots
    }

    /// A conversion of one part or two into one or two.
    fn convert<const I: usize, const O: usize>(
        &self,
        from: [Part<'_, u32>; I],
        to: [Part<'_, u32>; O],
        reference: impl FnOnce([&[u32]; I], [&mut [u32]; O]) -> Result<()>,
    ) -> Result<()> {
        let input = from.map(|p| p.read());
        let mut output = to.map(|p| p.read());
        let mut sides = input.each_ref().map(Vec::as_slice);
        if self.is(Fault::SwappedArguments) {
            sides.reverse();
        }
        let result = reference(sides, output.each_mut().map(Vec::as_mut_slice));
        from.iter().for_each(|p| self.spoil(p));
        if self.is(Fault::SwappedArguments) {
            output.reverse();
        }
        for (to, output) in to.iter().zip(&output) {
            self.store(to, output, result.is_ok());
        }
        self.end(result)
    }

    /// Guards, which a backend that misses reports does not look at.
    fn guards<'a>(&self, guards: Option<&'a Vec<Report>>) -> Option<&'a Vec<Report>> {
        guards.filter(|_| !self.is(Fault::MissingReport))
    }

    fn spoil_gradient(&self, gradient: &Gradient<'_, Self>) {
        match gradient {
            Gradient::Packed { levels, .. } => self.spoil(levels),
            Gradient::Dense(x) => self.spoil(x),
        }
    }

    fn number(&self, result: Result<f64>) -> Result<f64> {
        let off = u64::from(self.is(Fault::WrongNumber));
        self.end(result.map(|x| f64::from_bits(x.to_bits() ^ off)))
    }
}

impl Backend for Faulty {
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        let mut held: Vec<_> = items.iter().map(|i| (i.x.read(), i.words.read(), i.scales.read())).collect();
        let slots = self.slots(items.iter().map(|i| i.report).collect());
        let inner = items.iter().zip(&mut held).zip(slots);
        let mut inner: Vec<_> = inner
            .map(|((i, (x, words, scales)), report)| op::quantize::Item {
                tensor: i.tensor,
                first: self.first(i.first),
                x: &x[..],
                words: &mut words[..],
                scales: &mut scales[..],
                report,
            })
            .collect();
        let (done, mut found) = (self.done(inner.len()), empty(reports));
        let result = Reference.quantize(op, &mut inner[..done], &mut found);
        for (i, (_, words, scales)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.x);
            self.store(&i.words, words, result.is_ok());
            self.store(&i.scales, scales, result.is_ok());
        }
        self.report(reports, &found);
        self.end(result)
    }

    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        let mut held: Vec<_> = items.iter().map(|i| (i.words.read(), i.scales.read(), i.out.read())).collect();
        let mut inner: Vec<_> = held
            .iter_mut()
            .map(|(words, scales, out)| op::dequantize::Item {
                words: &words[..],
                scales: &scales[..],
                out: &mut out[..],
            })
            .collect();
        let done = self.done(inner.len());
        let result = Reference.dequantize(op, &mut inner[..done]);
        for (i, (_, _, out)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.words);
            self.store(&i.out, out, result.is_ok());
        }
        self.end(result)
    }

    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        let mut held: Vec<_> = items.iter().map(|i| (i.x.read(), i.levels.read(), i.scales.read())).collect();
        let slots = self.slots(items.iter().map(|i| i.report).collect());
        let inner = items.iter().zip(&mut held).zip(slots);
        let mut inner: Vec<_> = inner
            .map(|((i, (x, levels, scales)), report)| op::accumulate::AdaptiveItem {
                tensor: i.tensor,
                first: self.first(i.first),
                x: &x[..],
                levels: &mut levels[..],
                scales: &mut scales[..],
                report,
            })
            .collect();
        let (done, mut found) = (self.done(inner.len()), empty(reports));
        let result = Reference.accumulate_adaptive(op, &mut inner[..done], &mut found);
        for (i, (_, levels, scales)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.x);
            self.store(&i.levels, levels, result.is_ok());
            self.store(&i.scales, scales, result.is_ok());
        }
        self.report(reports, &found);
        self.end(result)
    }

    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        let read =
            |i: &op::accumulate::ExactItem<'_, Self, T>| (i.x.read(), i.counts.read(), i.scales.read(), i.seen.read());
        let mut held: Vec<_> = items.iter().map(read).collect();
        let slots = self.slots(items.iter().map(|i| i.report).collect());
        let inner = items.iter().zip(&mut held).zip(slots);
        let mut inner: Vec<_> = inner
            .map(|((i, (x, counts, scales, seen)), report)| op::accumulate::ExactItem {
                tensor: i.tensor,
                first: self.first(i.first),
                x: &x[..],
                counts: &mut counts[..],
                scales: &scales[..],
                seen: &mut seen[..],
                report,
            })
            .collect();
        let (done, mut found) = (self.done(inner.len()), empty(reports));
        let result = Reference.accumulate_exact(op, &mut inner[..done], &mut found);
        for (i, (_, counts, _, seen)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.scales);
            self.store(&i.counts, counts, result.is_ok());
            self.store(&i.seen, seen, result.is_ok());
        }
        self.report(reports, &found);
        self.end(result)
    }

    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        let mut held: Vec<_> = items.iter().map(|i| (i.x.read(), i.seen.read())).collect();
        let slots = self.slots(items.iter().map(|i| i.report).collect());
        let mut inner: Vec<_> = held
            .iter_mut()
            .zip(slots)
            .map(|((x, seen), report)| op::accumulate::LookItem { x: &x[..], seen: &mut seen[..], report })
            .collect();
        let (done, mut found) = (self.done(inner.len()), empty(reports));
        let result = Reference.look(op, &mut inner[..done], &mut found);
        for (i, (_, seen)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.x);
            self.store(&i.seen, seen, result.is_ok());
        }
        self.report(reports, &found);
        self.end(result)
    }

    fn window_scales(
        &self,
        op: &op::accumulate::WindowScales,
        seen: Part<'_, u16>,
        scales: Part<'_, u16>,
    ) -> Result<()> {
        let mut out = scales.read();
        let result = Reference.window_scales(op, &seen.read(), &mut out);
        self.spoil(&seen);
        self.store(&scales, &out, result.is_ok());
        self.end(result)
    }

    fn merge(&self, op: &op::accumulate::Merge, from: Part<'_, u32>, into: Part<'_, u32>) -> Result<()> {
        let mut out = into.read();
        let result = Reference.merge(op, &from.read(), &mut out);
        self.spoil(&from);
        self.store(&into, &out, result.is_ok());
        self.end(result)
    }

    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        let mut held: Vec<_> = items.iter().map(|i| (i.levels.read(), i.scales.read(), i.out.read())).collect();
        let guard = |i: &op::read_out::Item<'_, Self, T>| if self.is(Fault::MissingReport) { None } else { i.guard };
        let mut inner: Vec<_> = items
            .iter()
            .zip(&mut held)
            .map(|(i, (levels, scales, out))| op::read_out::Item {
                levels: &levels[..],
                scales: &scales[..],
                out: &mut out[..],
                guard: guard(i),
            })
            .collect();
        let done = self.done(inner.len());
        let result = Reference.read_out(op, &mut inner[..done], guards);
        for (i, (_, _, out)) in items.iter().zip(&held).take(done) {
            self.spoil(&i.levels);
            self.store(&i.out, out, result.is_ok());
        }
        self.end(result)
    }

    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        let held: Vec<_> = items.iter().map(|i| i.x.read()).collect();
        let slots = self.slots(items.iter().map(|i| i.report).collect());
        let inner = items.iter().zip(&held).zip(slots);
        let inner: Vec<_> =
            inner.map(|((i, x), report)| op::check::Item { x: &x[..], first: self.first(i.first), report }).collect();
        let (done, mut found) = (self.done(inner.len()), empty(reports));
        let result = Reference.check(op, &inner[..done], &mut found);
        items.iter().for_each(|i| self.spoil(&i.x));
        self.report(reports, &found);
        self.end(result)
    }

    fn pack(&self, trits: Part<'_, i8>, words: Part<'_, u32>, reports: &mut Vec<Report>, slot: usize) -> Result<()> {
        let (mut out, mut found) = (words.read(), empty(reports));
        let result = Reference.pack(&trits.read(), &mut out, &mut found, slot);
        self.spoil(&trits);
        self.store(&words, &out, result.is_ok());
        self.report(reports, &found);
        self.end(result)
    }

    fn unpack(&self, words: Part<'_, u32>, trits: Part<'_, i8>, reports: &mut Vec<Report>, slot: usize) -> Result<()> {
        let (mut out, mut found) = (trits.read(), empty(reports));
        let result = Reference.unpack(&words.read(), &mut out, &mut found, slot);
        self.spoil(&words);
        self.store(&trits, &out, result.is_ok());
        self.report(reports, &found);
        self.end(result)
    }

    fn split_planes(&self, words: Part<'_, u32>, plus: Part<'_, u32>, minus: Part<'_, u32>) -> Result<()> {
        self.convert([words], [plus, minus], |[words], [plus, minus]| Reference.split_planes(words, plus, minus))
    }

    fn join_planes(&self, plus: Part<'_, u32>, minus: Part<'_, u32>, words: Part<'_, u32>) -> Result<()> {
        self.convert([plus, minus], [words], |[plus, minus], [words]| Reference.join_planes(plus, minus, words))
    }

    fn planes_to_fields(&self, words: Part<'_, u32>, fields: Part<'_, u32>) -> Result<()> {
        self.convert([words], [fields], |[words], [fields]| Reference.planes_to_fields(words, fields))
    }

    fn fields_to_planes(&self, fields: Part<'_, u32>, words: Part<'_, u32>) -> Result<()> {
        self.convert([fields], [words], |[fields], [words]| Reference.fields_to_planes(fields, words))
    }

    fn count_nonzero(&self, words: Part<'_, u32>) -> Result<u64> {
        let result = Reference.count_nonzero(&words.read());
        self.spoil(&words);
        let off = u64::from(self.is(Fault::WrongNumber));
        self.end(result.map(|x| x ^ off))
    }

    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: Part<'_, u32>,
        scales_a: Part<'_, u16>,
        words_b: Part<'_, u32>,
        scales_b: Part<'_, u16>,
    ) -> Result<f64> {
        let (mut a, mut b) = (scales_a.read(), scales_b.read());
        if self.is(Fault::SwappedArguments) {
            std::mem::swap(&mut a, &mut b);
        }
        let result = Reference.dot(op, &words_a.read(), &a, &words_b.read(), &b);
        self.spoil(&words_b);
        self.number(result)
    }

    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: Part<'_, u32>, scales: Part<'_, u16>) -> Result<f64> {
        let result = Reference.squared_norm(op, &levels.read(), &scales.read());
        self.spoil(&levels);
        self.number(result)
    }

    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        let read = |i: &op::update::SgdItem<'_, Self, T>| {
            (Owned::read(&i.gradient), i.weights.read(), i.momentum.as_ref().map(Part::read))
        };
        let mut held: Vec<_> = items.iter().map(read).collect();
        let mut inner: Vec<_> = items
            .iter()
            .zip(&mut held)
            .map(|(i, (gradient, weights, momentum))| op::update::SgdItem {
                tensor: i.tensor,
                first: self.first(i.first),
                gradient: gradient.view(),
                weights: &mut weights[..],
                momentum: momentum.as_deref_mut(),
            })
            .collect();
        let done = self.done(inner.len());
        let result = Reference.update_sgd(op, &mut inner[..done], self.guards(guards));
        for (i, (_, weights, momentum)) in items.iter().zip(&held).take(done) {
            self.spoil_gradient(&i.gradient);
            self.store(&i.weights, weights, result.is_ok());
            for (to, momentum) in i.momentum.iter().zip(momentum) {
                self.store(to, momentum, result.is_ok());
            }
        }
        self.end(result)
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        let read = |i: &op::update::AdamWItem<'_, Self, T>| {
            (Owned::read(&i.gradient), i.weights.read(), i.first_moment.read(), i.second_moment.read())
        };
        let mut held: Vec<_> = items.iter().map(read).collect();
        let mut inner: Vec<_> = items
            .iter()
            .zip(&mut held)
            .map(|(i, (gradient, weights, m, v))| {
                let (first_moment, second_moment) = if self.is(Fault::SwappedArguments) { (v, m) } else { (m, v) };
                op::update::AdamWItem {
                    tensor: i.tensor,
                    first: self.first(i.first),
                    gradient: gradient.view(),
                    weights: &mut weights[..],
                    first_moment: &mut first_moment[..],
                    second_moment: &mut second_moment[..],
                }
            })
            .collect();
        let done = self.done(inner.len());
        let result = Reference.update_adamw(op, &mut inner[..done], self.guards(guards));
        for (i, (_, weights, m, v)) in items.iter().zip(&held).take(done) {
            self.spoil_gradient(&i.gradient);
            self.store(&i.weights, weights, result.is_ok());
            self.store(&i.first_moment, m, result.is_ok());
            self.store(&i.second_moment, v, result.is_ok());
        }
        self.end(result)
    }
}

/// A gradient on the host.
enum Owned {
    Packed(Vec<u32>, Vec<u16>),
    Dense(Vec<f32>),
}

impl Owned {
    fn read(gradient: &Gradient<'_, Faulty>) -> Self {
        match gradient {
            Gradient::Packed { levels, scales } => Owned::Packed(levels.read(), scales.read()),
            Gradient::Dense(x) => Owned::Dense(x.read()),
        }
    }

    fn view(&self) -> Gradient<'_, Reference> {
        match self {
            Owned::Packed(levels, scales) => Gradient::Packed { levels: &levels[..], scales: &scales[..] },
            Owned::Dense(x) => Gradient::Dense(&x[..]),
        }
    }
}
