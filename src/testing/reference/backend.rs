//! The reference as a backend: check everything, then do it.

use super::{Reference, accumulate, floats, pack, quantize, reduce, update};
use crate::error::{Error, Result};
use crate::op::Backend;
use crate::op::{self, Element, Report};

/// Checks that a report slot exists.
fn slot(reports: &[Report], slot: usize) -> Result<()> {
    if slot < reports.len() {
        Ok(())
    } else {
        Err(Error::Length {
            what: "report slots",
            expected: (slot as u64).saturating_add(1),
            got: reports.len() as u64,
        })
    }
}

impl Backend for Reference {
    fn quantize<T: Element>(
        &self,
        op: &op::quantize::Quantize,
        items: &mut [op::quantize::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        op.validate()?;
        for item in &*items {
            item.validate(op)?;
            slot(reports, item.report)?;
        }
        for item in items {
            let found = quantize::quantize(op, (item.tensor, item.first), item.x, item.words, item.scales);
            reports[item.report].merge(found);
        }
        Ok(())
    }

    fn dequantize<T: Element>(
        &self,
        op: &op::dequantize::Dequantize,
        items: &mut [op::dequantize::Item<'_, Self, T>],
    ) -> Result<()> {
        for item in &*items {
            item.validate(op)?;
        }
        for item in items {
            floats::dequantize(op.grouping, item.words, item.scales, item.out);
        }
        Ok(())
    }

    fn accumulate_adaptive<T: Element>(
        &self,
        op: &op::accumulate::Adaptive,
        items: &mut [op::accumulate::AdaptiveItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        op.validate()?;
        for item in &*items {
            item.validate(op)?;
            slot(reports, item.report)?;
        }
        for item in items {
            let found = accumulate::adaptive(op, (item.tensor, item.first), item.x, item.levels, item.scales);
            reports[item.report].merge(found);
        }
        Ok(())
    }

    fn accumulate_exact<T: Element>(
        &self,
        op: &op::accumulate::Exact,
        items: &mut [op::accumulate::ExactItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        op.validate()?;
        for item in &*items {
            item.validate(op)?;
            slot(reports, item.report)?;
        }
        for item in items {
            let at = (item.tensor, item.first);
            let found = accumulate::exact(op, at, item.x, item.counts, item.scales, item.seen);
            reports[item.report].merge(found);
        }
        Ok(())
    }

    fn look<T: Element>(
        &self,
        op: &op::accumulate::Look,
        items: &mut [op::accumulate::LookItem<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        op.validate()?;
        for item in &*items {
            item.validate(op)?;
            slot(reports, item.report)?;
        }
        for item in items {
            reports[item.report].merge(accumulate::look(op, item.x, item.seen));
        }
        Ok(())
    }

    fn window_scales(&self, op: &op::accumulate::WindowScales, seen: &[u16], scales: &mut [u16]) -> Result<()> {
        op.validate(seen.len(), scales.len())?;
        accumulate::window_scales(op, seen, scales);
        Ok(())
    }

    fn merge(&self, op: &op::accumulate::Merge, from: &[u32], into: &mut [u32]) -> Result<()> {
        op.validate(into.len(), from.len())?;
        accumulate::merge(op.bits, from, into);
        Ok(())
    }

    fn read_out<T: Element>(
        &self,
        op: &op::read_out::ReadOut,
        items: &mut [op::read_out::Item<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        op.validate()?;
        let guards = guards.map_or(&[][..], |g| g);
        for item in &*items {
            item.validate(op)?;
            item.guard.map_or(Ok(()), |guard| slot(guards, guard))?;
        }
        for item in items {
            if item.guard.is_some_and(|guard| guards[guard].non_finite > 0) {
                floats::refuse(item.out);
            } else {
                floats::read_out(op, item.levels, item.scales, item.out);
            }
        }
        Ok(())
    }

    fn check<T: Element>(
        &self,
        op: &op::check::Check,
        items: &[op::check::Item<'_, Self, T>],
        reports: &mut Vec<Report>,
    ) -> Result<()> {
        op.validate()?;
        for item in items {
            item.validate()?;
            slot(reports, item.report)?;
        }
        for item in items {
            reports[item.report].merge(floats::check(op, item.first, item.x));
        }
        Ok(())
    }

    fn pack(&self, trits: &[i8], words: &mut [u32], reports: &mut Vec<Report>, at: usize) -> Result<()> {
        op::pack::validate_trits(trits.len(), words.len())?;
        slot(reports, at)?;
        reports[at].merge(pack::pack(trits, words));
        Ok(())
    }

    fn unpack(&self, words: &[u32], trits: &mut [i8], reports: &mut Vec<Report>, at: usize) -> Result<()> {
        op::pack::validate_trits(trits.len(), words.len())?;
        slot(reports, at)?;
        reports[at].merge(pack::unpack(words, trits));
        Ok(())
    }

    fn split_planes(&self, words: &[u32], plus: &mut [u32], minus: &mut [u32]) -> Result<()> {
        op::pack::validate_planes(words.len(), plus.len(), minus.len())?;
        for (pair, (plus, minus)) in words.chunks(2).zip(plus.iter_mut().zip(minus)) {
            (*plus, *minus) = (pair[0], pair[1]);
        }
        Ok(())
    }

    fn join_planes(&self, plus: &[u32], minus: &[u32], words: &mut [u32]) -> Result<()> {
        op::pack::validate_planes(words.len(), plus.len(), minus.len())?;
        for (pair, (plus, minus)) in words.chunks_mut(2).zip(plus.iter().zip(minus)) {
            pair.copy_from_slice(&[*plus, *minus]);
        }
        Ok(())
    }

    fn planes_to_fields(&self, words: &[u32], fields: &mut [u32]) -> Result<()> {
        op::pack::validate_fields(words.len(), fields.len())?;
        pack::planes_to_fields(words, fields);
        Ok(())
    }

    fn fields_to_planes(&self, fields: &[u32], words: &mut [u32]) -> Result<()> {
        op::pack::validate_fields(words.len(), fields.len())?;
        pack::fields_to_planes(fields, words);
        Ok(())
    }

    fn count_nonzero(&self, words: &[u32]) -> Result<u64> {
        op::pack::validate_fields(words.len(), words.len())?;
        Ok(reduce::count_nonzero(words))
    }

    fn dot(
        &self,
        op: &op::reduce::Dot,
        words_a: &[u32],
        scales_a: &[u16],
        words_b: &[u32],
        scales_b: &[u16],
    ) -> Result<f64> {
        op.validate(words_a.len(), scales_a.len(), words_b.len(), scales_b.len())?;
        Ok(reduce::dot(op, (words_a, scales_a), (words_b, scales_b)))
    }

    fn squared_norm(&self, op: &op::reduce::SquaredNorm, levels: &[u32], scales: &[u16]) -> Result<f64> {
        op.validate(levels.len(), scales.len())?;
        Ok(reduce::squared_norm(op, levels, scales))
    }

    fn update_sgd<T: Element>(
        &self,
        op: &op::update::Sgd,
        items: &mut [op::update::SgdItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        op.validate()?;
        items.iter().try_for_each(|item| item.validate(op))?;
        if !stopped(guards) {
            items.iter_mut().for_each(|item| update::by_sgd(op, item));
        }
        Ok(())
    }

    fn update_adamw<T: Element>(
        &self,
        op: &op::update::AdamW,
        items: &mut [op::update::AdamWItem<'_, Self, T>],
        guards: Option<&Vec<Report>>,
    ) -> Result<()> {
        op.validate()?;
        items.iter().try_for_each(|item| item.validate(op))?;
        if !stopped(guards) {
            items.iter_mut().for_each(|item| update::by_adamw(op, item));
        }
        Ok(())
    }
}

/// Whether any guard counts something: the step is skipped.
fn stopped(guards: Option<&Vec<Report>>) -> bool {
    guards.is_some_and(|guards| guards.iter().any(|g| g.non_finite > 0))
}
