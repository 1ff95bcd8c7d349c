//! From a position in the training run to 32 draws, one for each element of a group.
//!
//! One Philox call gives 128 bits, read as eight 16-bit halves `h0..h7` (`h[2i]` is the low, `h[2i+1]` the high
//! half of word `i`). Element `e = 8 q + j` of the group takes `x = h[j]` for `q = 0` and
//! `x = h[j] ^ h[(j + q) % 8]` for `q = 1, 2, 3`. The low 15 bits of `x` are the draw's upper bits; the eight top
//! bits of `h0..h7`, which no `x` uses, are its lower bits, shared by the group:
//! `k = (x & 0x7fff) << 8 | v`.
//!
//! What that gives, provable over GF(2) and held by tests: every `k` is uniform on its 2^23 values, and the upper
//! 15 bits of any two draws are independent. So the mean of each rounded element is exact, and so is the variance of every linear functional of
//! the errors up to terms below 2^-30 (the shared lower bits); draws three at a time are not independent. Draws
//! of different groups are as independent as Philox makes them.

use super::constants::{MICRO_BATCHES_MAX, PHILOX_ROUNDS};
use super::philox::philox4x32;

/// Where in a training run a draw is made; nothing about threads, blocks or devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The run's seed: the Philox key, low word first.
    pub seed: u64,
    /// The optimizer step: counter word 2.
    pub step: u32,
    /// The global micro-batch within the step, below 2^24: the low 24 bits of counter word 3.
    pub micro_batch: u32,
    /// The tensor's number in the model: counter word 1.
    pub tensor: u32,
    /// What the draw is for ([`super::constants::domain`]): the high 8 bits of counter word 3.
    pub domain: u32,
}

impl Position {
    /// The Philox key: `[seed & 0xffffffff, seed >> 32]`.
    pub const fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// The Philox counter of an element group (`element index / 32`).
    pub const fn counter(&self, group: u32) -> [u32; 4] {
        [group, self.tensor, self.step, (self.domain << 24) | (self.micro_batch & (MICRO_BATCHES_MAX - 1))]
    }
}

/// The lower eight bits shared by a group: the top bits of the eight halves.
///
/// Bit `7 - i` is the top bit of word `i` (half `2 i + 1`), bit `3 - i` is bit 15 of word `i` (half `2 i`).
pub const fn shared_bits(w: [u32; 4]) -> u32 {
    let mut v = 0;
    let mut i = 0;
    while i < 4 {
        v |= (w[i] >> 31) << (7 - i);
        v |= ((w[i] >> 15) & 1) << (3 - i);
        i += 1;
    }
    v
}

/// The 32 draws of a group, from the four words of its Philox call.
pub const fn expand(w: [u32; 4]) -> [u32; 32] {
    let v = shared_bits(w);
    let mut k = [0; 32];
    let mut e = 0;
    while e < 32 {
        let (q, j) = (e / 8, e % 8);
        let mut x = half(w, j);
        if q > 0 {
            x ^= half(w, (j + q) % 8);
        }
        k[e] = ((x & 0x7fff) << 8) | v;
        e += 1;
    }
    k
}

const fn half(w: [u32; 4], j: usize) -> u32 {
    (w[j / 2] >> (16 * (j % 2) as u32)) & 0xffff
}

/// The 32 draws of element group `group` (elements `32 group` to `32 group + 31`), each below 2^23.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::draw::{draws, Position};
/// let at = Position { seed: 1, step: 2, micro_batch: 3, tensor: 4, domain: 0 };
/// assert!(draws(&at, 0).iter().all(|&k| k < 1 << 23));
/// assert_ne!(draws(&at, 0), draws(&at, 1));
/// ```
pub const fn draws(at: &Position, group: u32) -> [u32; 32] {
    expand(philox4x32(at.counter(group), at.key(), PHILOX_ROUNDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rank over GF(2) of the linear map from the 128 bits of a Philox call to the given output bits.
    fn rank(bits: impl Fn(&[u32; 32]) -> u64) -> u32 {
        let mut rows: Vec<u64> = (0..128)
            .map(|b| {
                let mut w = [0u32; 4];
                w[b / 32] = 1 << (b % 32);
                bits(&expand(w))
            })
            .collect();
        let mut rank = 0;
        for bit in 0..64 {
            if let Some(at) = rows.iter().position(|r| r >> bit & 1 == 1) {
                let pivot = rows.swap_remove(at);
                for r in &mut rows {
                    if *r >> bit & 1 == 1 {
                        *r ^= pivot;
                    }
                }
                rank += 1;
            }
        }
        rank
    }

    #[test]
    fn every_draw_is_uniform_on_23_bits() {
        for e in 0..32 {
            assert_eq!(rank(|k| u64::from(k[e])), 23, "element {e}");
        }
    }

    #[test]
    fn upper_bits_are_pairwise_independent_and_independent_of_the_shared_bits() {
        for a in 0..32 {
            for b in 0..a {
                let both = |k: &[u32; 32]| u64::from(k[a]) | u64::from(k[b] >> 8) << 23;
                assert_eq!(rank(both), 38, "elements {a} and {b}");
            }
        }
    }

    #[test]
    fn expansion_is_linear_so_rank_means_uniform() {
        let (x, y) = ([0x1234_5678, 0x9abc_def0, 3, 0xffff_0000], [0xdead_beef, 7, 0x8000_8000, 0x0f0f_0f0f]);
        let xy: [u32; 4] = std::array::from_fn(|i| x[i] ^ y[i]);
        let (ex, ey, exy) = (expand(x), expand(y), expand(xy));
        for e in 0..32 {
            assert_eq!(exy[e], ex[e] ^ ey[e]);
        }
    }
}
