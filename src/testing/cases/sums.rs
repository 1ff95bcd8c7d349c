//! Slots of exact sums: several items name the same, and slots hold something before.

use crate::numerics::reduce::{ExactSum, SUM_WORDS};
use crate::testing::values::Rng;

/// Slots for a list of this many tensors: the first and the last stay unused.
pub(super) fn sum_slots(tensors: usize) -> usize {
    tensors.div_ceil(3) + 2
}

/// The slot of a tensor of a list; three in a row share one.
pub(super) fn shared(tensor: usize) -> usize {
    1 + tensor / 3
}

/// The slot that a word of the sums belongs to.
pub(super) fn slot_of(word: usize) -> usize {
    word / SUM_WORDS
}

/// The number of a word within its slot.
pub(super) fn word_of(word: usize) -> usize {
    word % SUM_WORDS
}

/// The words of sums that hold something already: nothing, a small count, or terms of any size and sign.
pub(super) fn started(rng: &mut Rng, slots: usize) -> Vec<u32> {
    let sum = |slot: usize| {
        let mut sum = ExactSum::default();
        match slot % 3 {
            0 => {
                for _ in 0..4 {
                    sum.add(rng.next() as i64 >> 8, rng.below(508) as u32);
                }
            }
            1 => sum.add_count(rng.below(1 << 40)),
            _ => {}
        }
        sum.to_words()
    };
    (0..slots).flat_map(sum).collect()
}
