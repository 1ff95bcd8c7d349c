//! Device memory that an operation needs for its own: kept, and grown only when a larger one is asked for.

use super::item::Pointer;
use super::launch::allocate;
use super::view::{ViewMut, address};
use super::{Buffer, Cuda};
use crate::error::Result;
use crate::memory::Memory;
use std::sync::{MutexGuard, PoisonError};

/// Scratch memory of a handle, and so of one stream, held while the work that uses it is queued: threads take it in turn,
/// and the stream's order is that of the turns.
///
/// What was outgrown is kept until the backend object goes: a graph captured before may still use it.
pub(super) struct Scratch<'a> {
    held: MutexGuard<'a, Vec<Buffer<u64>>>,
    pointer: Pointer,
}

impl Scratch<'_> {
    /// Its start, aligned to 256 bytes. The contents are what the last user left.
    pub(super) fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Zeroes its first `words` words.
    pub(super) fn clear(&mut self, cuda: &Cuda, words: usize) -> Result<()> {
        match self.held.last_mut().and_then(|buffer| ViewMut::from(buffer).get_mut(0..words)) {
            Some(view) => cuda.clear(view),
            None => Ok(()),
        }
    }
}

/// What a round of launches may take, but for a single group that needs more.
const ROUND: u64 = 32 << 20;
/// Items are divided after a multiple of so many elements: what they start at is then aligned as before.
const DIVISIBLE: u64 = 4096;

/// Divides items of groups of `size(item)` elements, each of which needs `bytes(item)` of scratch memory, into rounds that
/// need a bounded amount. `part(item, from, many)` is that many groups of an item from one on.
pub(super) fn rounds<I>(
    items: &[I],
    groups: impl Fn(&I) -> u64,
    size: impl Fn(&I) -> u64,
    bytes: impl Fn(&I) -> u64,
    part: impl Fn(&I, u64, u64) -> I,
) -> Vec<Vec<I>> {
    let (mut rounds, mut round, mut taken) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let (all, of_a_group) = (groups(item), bytes(item).max(1));
        // As many as come to a multiple of DIVISIBLE elements: its factors of two are all that is missing.
        let step = DIVISIBLE >> size(item).trailing_zeros().min(DIVISIBLE.ilog2());
        let mut from = 0;
        while from < all {
            let room = (ROUND - taken.min(ROUND)) / of_a_group;
            let many = if all - from <= room { all - from } else { room / step * step };
            if many == 0 && !round.is_empty() {
                rounds.push(std::mem::take(&mut round));
                taken = 0;
                continue;
            }
            let many = if many == 0 { step.min(all - from) } else { many };
            round.push(part(item, from, many));
            taken += many * of_a_group;
            from += many;
        }
    }
    if !round.is_empty() {
        rounds.push(round);
    }
    rounds
}

impl Cuda {
    /// At least `bytes` of scratch memory. Allocates only when no earlier call asked for as much.
    pub(super) fn scratch(&self, bytes: u64) -> Result<Scratch<'_>> {
        let mut held = self.scratch_buffers().lock().unwrap_or_else(PoisonError::into_inner);
        let words = bytes.div_ceil(8) as usize;
        let largest = held.last().map_or(0, |buffer| buffer.len());
        if largest < words.max(1) {
            self.not_captured("an operation that needs scratch memory", "run the same call once before it")?;
            let new = allocate(self, words.max((2 * largest).min(ROUND as usize / 8)).max(8192))?;
            held.push(new);
        }
        let pointer = held.last().map_or(Pointer::NULL, |buffer| address(buffer));
        Ok(Scratch { held, pointer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items as (size of a group, first group, groups), rounds of 80 bytes a group.
    fn of(items: &[(u64, u64, u64)]) -> Vec<Vec<(u64, u64, u64)>> {
        rounds(items, |i| i.2, |i| i.0, |_| 80, |i, from, many| (i.0, i.1 + from, many))
    }

    #[test]
    fn few_groups_are_one_round() {
        assert_eq!(of(&[]), Vec::<Vec<_>>::new());
        assert_eq!(of(&[(10, 0, 5), (7, 0, 0), (4096, 0, 1)]), [[(10, 0, 5), (4096, 0, 1)]]);
    }

    #[test]
    fn rounds_are_bounded_and_hold_every_group_once() {
        for size in [1, 3, 10, 96, 4095, 4096, 12_288] {
            let items = [(size, 0, 1_000_000), (size, 0, 3), (size, 0, 419_430), (size, 0, 2_000_001)];
            let rounds = of(&items);
            assert!(rounds.len() > 7);
            let mut next = items.iter().map(|i| (i.0, 0, i.2)).collect::<Vec<_>>().into_iter();
            let mut whole = next.next().unwrap();
            for round in &rounds {
                assert!(round.iter().map(|i| i.2 * 80).sum::<u64>() <= ROUND);
                for part in round {
                    if whole.1 == whole.2 {
                        whole = next.next().unwrap();
                    }
                    assert_eq!((part.0, part.1), (whole.0, whole.1));
                    assert!((part.1 * size).is_multiple_of(DIVISIBLE));
                    whole.1 += part.2;
                }
            }
            assert_eq!(whole.1, whole.2);
            assert!(next.next().is_none());
        }
    }

    #[test]
    fn a_group_that_needs_more_has_a_round_of_its_own() {
        let parts = rounds(&[2u64, 1, 1], |i| *i, |_| 1 << 40, |_| ROUND + 1, |_, _, many| many);
        assert_eq!(parts, [[1], [1], [1], [1]]);
    }
}
