//! What [`crate::memory::Memory`] promises, tried out.

use super::failure::Difference;
use super::values::Rng;
use crate::op::Backend;
use crate::op::Report;
use crate::op::check::{Check, Item};
use bytemuck::Pod;
use std::fmt::Debug;

/// Tries every function of [`crate::memory::Memory`].
pub(super) fn hold<B: Backend>(backend: &B, seed: u64) -> Result<(), Difference> {
    let mut rng = Rng::new(seed, 30);
    let bytes: Vec<u8> = (0..70_000 * 4).map(|_| rng.next() as u8).collect();
    for n in [0usize, 1, 2, 3, 5, 31, 64, 1000, 70_000] {
        buffers::<B, u32>(backend, &cast(&bytes, n))?;
        buffers::<B, u16>(backend, &cast(&bytes, n))?;
        buffers::<B, i8>(backend, &cast(&bytes, n))?;
        buffers::<B, f32>(backend, &cast(&bytes, n))?;
        buffers::<B, half::bf16>(backend, &cast(&bytes, n))?;
    }
    reports(backend)
}

fn cast<T: Pod>(bytes: &[u8], n: usize) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).take(n).map(bytemuck::pod_read_unaligned).collect()
}

fn that(holds: bool, what: impl Fn() -> String) -> Result<(), Difference> {
    if holds { Ok(()) } else { Err(Difference::Contract(what())) }
}

fn same<T: Pod>(got: &[T], expected: &[T], what: &str) -> Result<(), Difference> {
    let differ = || got.iter().zip(expected).position(|(a, b)| bytemuck::bytes_of(a) != bytemuck::bytes_of(b));
    let (name, n) = (std::any::type_name::<T>(), expected.len());
    that(got.len() == n, || format!("{what}: {} elements of {name} came back of {n}", got.len()))?;
    that(differ().is_none(), || format!("{what}: element {:?} of {n} {name} differs", differ()))
}

/// Clears all but the elements from `keep.0` to `keep.1`, as a list with an empty view in it, and with whole buffers of
/// other sizes.
fn expected_of_list<B: Backend, T: Pod + Send + Sync>(
    backend: &B,
    buffer: &mut B::Buffer<T>,
    data: &[T],
    keep: (usize, usize),
) -> Result<(), Difference> {
    let mut expected = vec![T::zeroed(); data.len()];
    expected[keep.0..keep.1].copy_from_slice(&data[keep.0..keep.1]);
    let mut others = [backend.upload(data)?, backend.upload(&data[..data.len() / 2])?, backend.upload(&data[..0])?];
    {
        let mut views: Vec<_> = others.iter_mut().map(|b| B::view_mut(b)).collect();
        if let Some((low, rest)) = B::split_mut(B::view_mut(buffer), keep.0)
            && let Some((_, high)) = B::split_mut(rest, keep.1 - keep.0)
        {
            views.extend([low, high]);
        }
        backend.clear_all(views)?;
    }
    same(&backend.download(B::view(buffer))?, &expected, "clear of a list of parts")?;
    for other in &others {
        let cleared = backend.download(B::view(other))?;
        same(&cleared, &vec![T::zeroed(); cleared.len()], "clear of a list")?;
    }
    backend.clear_all::<T>(Vec::new())?;
    Ok(())
}

fn buffers<B: Backend, T: Pod + Send + Sync + Debug>(backend: &B, data: &[T]) -> Result<(), Difference> {
    let n = data.len();
    let zeros = backend.zeros::<T>(n)?;
    same(&backend.download(B::view(&zeros))?, &vec![T::zeroed(); n], "zeros")?;
    let mut a = backend.upload(data)?;
    same(&backend.download(B::view(&a))?, data, "upload and download")?;
    that(B::len(&B::view(&a)) == n && B::len_mut(&B::view_mut(&mut a)) == n, || format!("length of a view of {n}"))?;
    backend.accepts(&B::view(&a))?;
    backend.accepts_mut(&B::view_mut(&mut a))?;
    same(&backend.download(B::shorten(B::view(&a)))?, data, "a view for a shorter time")?;
    parts::<B, T>(backend, data)?;

    // A part is cleared and a part is copied; what is beside them stays.
    let (from, to) = (n / 3, n - n / 4);
    let mut expected = data.to_vec();
    expected[from..to].fill(T::zeroed());
    if let Some(part) = B::slice_mut(B::view_mut(&mut a), from..to) {
        backend.clear(part)?;
    }
    same(&backend.download(B::view(&a))?, &expected, "clear of a part")?;
    // So is a list of parts, the empty one too.
    let mut b = backend.upload(data)?;
    let thirds = (n / 3, n / 2);
    expected_of_list::<B, T>(backend, &mut b, data, thirds)?;
    let mut whole = B::view_mut(&mut a);
    that(B::len_mut(&B::reborrow(&mut whole)) == n, || format!("length of a mutable view of {n}, borrowed again"))?;
    if let Some(part) = B::slice_mut(B::reborrow(&mut whole), 0..from) {
        backend.clear(part)?;
    }
    drop(whole);
    expected[..from].fill(T::zeroed());
    same(&backend.download(B::view(&a))?, &expected, "clear of a part of a view that was borrowed again")?;
    let source = backend.upload(data)?;
    let range = n / 5..n / 5 + (to - from);
    expected[from..to].copy_from_slice(&data[range.clone()]);
    if let (Some(part), Some(into)) = (B::slice(B::view(&source), range), B::slice_mut(B::view_mut(&mut a), from..to)) {
        backend.copy(part, into)?;
    }
    same(&backend.download(B::view(&a))?, &expected, "copy of a part")?;
    if n > 0 {
        let failed = backend.copy(B::view(&source), B::view_mut(&mut backend.zeros::<T>(n + 1)?));
        that(matches!(failed, Err(crate::Error::Length { .. })), || format!("copy of {n} to {}: {failed:?}", n + 1))?;
    }
    same(&backend.download(B::view(&source))?, data, "source of a copy")
}

/// Slices and halves, at every edge.
fn parts<B: Backend, T: Pod + Send + Sync + Debug>(backend: &B, data: &[T]) -> Result<(), Difference> {
    let n = data.len();
    let mut buffer = backend.upload(data)?;
    for range in [0..n, 0..0, n..n, n / 3..n / 2, n.saturating_sub(1)..n] {
        let part = B::slice(B::view(&buffer), range.clone());
        that(part.is_some_and(|p| B::len(&p) == range.len()), || format!("slice {range:?} of {n}"))?;
        if let Some(part) = part {
            same(&backend.download(part)?, &data[range.clone()], "download of a slice")?;
            let nested = B::slice(part, range.len() / 2..range.len());
            that(nested.is_some(), || format!("a slice of the slice {range:?} of {n}"))?;
            if let Some(nested) = nested {
                same(&backend.download(nested)?, &data[range.start + range.len() / 2..range.end], "slice of a slice")?;
            }
        }
        let part = B::slice_mut(B::view_mut(&mut buffer), range.clone());
        that(part.is_some_and(|p| B::len_mut(&p) == range.len()), || format!("mutable slice {range:?} of {n}"))?;
    }
    #[expect(clippy::reversed_empty_ranges, reason = "must be refused")]
    for range in [0..n + 1, n + 1..n + 1, n + 1..n + 2, 1..0, usize::MAX..usize::MAX, 0..usize::MAX] {
        that(B::slice(B::view(&buffer), range.clone()).is_none(), || format!("slice {range:?} of {n} must be None"))?;
        let part = B::slice_mut(B::view_mut(&mut buffer), range.clone());
        that(part.is_none(), || format!("mutable slice {range:?} of {n} must be None"))?;
    }
    for at in [0, n / 2, n] {
        let halves = B::split_mut(B::view_mut(&mut buffer), at);
        let lengths = halves.as_ref().map(|(a, b)| (B::len_mut(a), B::len_mut(b)));
        that(lengths == Some((at, n - at)), || format!("split of {n} at {at}: {lengths:?}"))?;
    }
    let past = B::split_mut(B::view_mut(&mut buffer), n + 1).is_none();
    that(past, || format!("split of {n} at {} must be None", n + 1))?;
    // The halves are disjoint and each is its own part.
    if let Some((left, right)) = B::split_mut(B::view_mut(&mut buffer), n / 2) {
        backend.clear(right)?;
        drop(left);
    }
    let mut expected = data.to_vec();
    expected[n / 2..].fill(T::zeroed());
    same(&backend.download(B::view(&buffer))?, &expected, "clear of the right half")
}

fn reports<B: Backend>(backend: &B) -> Result<(), Difference> {
    for slots in [0usize, 1, 5, 1000] {
        let mut reports = backend.reports(slots)?;
        that(B::report_slots(&reports) == slots, || format!("{slots} report slots"))?;
        backend.accepts_reports(&reports)?;
        let empty = vec![Report::default(); slots];
        let found = backend.read_reports(&reports)?;
        that(found == empty, || format!("{slots} new report slots are not empty"))?;
        let Some(slot) = slots.checked_sub(1) else { continue };
        let bad = backend.upload(&[1.0f32, f32::INFINITY, 2.0, f32::NAN])?;
        let mut expected = empty.clone();
        for call in 1..=2 {
            let item = Item { x: B::view(&bad), first: 10 * call, report: slot };
            backend.check(&Check { weight: 1.0 }, &mut [item], &mut reports)?;
            expected[slot] = Report { non_finite: 2 * call, first: Some(11), clipped: 0 };
            let found = backend.read_reports(&reports)?;
            that(found == expected, || format!("reports of {slots} slots after {call} checks: {:?}", found.last()))?;
        }
        backend.clear_reports(&mut reports)?;
        let found = backend.read_reports(&reports)?;
        that(found == empty, || format!("{slots} cleared report slots are not empty"))?;
    }
    Ok(())
}
