//! The state of a training that steps without a wait: a few words on the device, and what is decided there.
//!
//! Everything here is an f32 operation of IEEE 754, rounded once to nearest even, subnormals kept, or one on integers: no
//! f64, which WGSL does not have. So CPU, CUDA and WGSL decide alike, bit for bit.
//!
//! A window is: for each micro-batch its gradients, then [`State::advance_micro_batch`]; then [`State::decide`], the
//! updates, and [`State::advance_step`].

use super::constants::state::{LOSS_SCALE_MAX, LOSS_SCALE_MIN, SKIP_FACTOR, SKIP_NO_WEIGHT, SKIP_NON_FINITE, WORDS};
use super::constants::{MICRO_BATCHES_MAX, MIN_NORMAL, SUM_LOWEST};

/// A state, word by word as it lies in memory ([`super::constants::state`] has the places).
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct State {
    /// The number of the window, which draws take as their step.
    pub step: u32,
    /// Micro-batches in the window: the index that the next one draws under.
    pub micro_batch: u32,
    /// Updates of the weights so far.
    pub updates: u32,
    /// Windows skipped so far.
    pub skips: u32,
    /// The learning rate: what that of an update's terms is multiplied by.
    pub rate: f32,
    /// The sum of the weights of the window's micro-batches.
    pub weights: f32,
    /// The loss scale.
    pub loss_scale: f32,
    /// Updates since the loss scale last changed.
    pub good: u32,
    /// Why the window that was decided last is skipped: a `SKIP_` number of [`super::constants::state`], 0 where it is not.
    pub skip: u32,
    /// The first slot of the reports that counts non-finite elements, where there is one.
    pub found_slot: u32,
    /// How many it counts, the lower word,
    pub found_low: u32,
    /// and the upper.
    pub found_high: u32,
    /// The global norm of the mean gradient, free of the loss scale, before clipping.
    pub norm: f32,
    /// What clips it; 1 where it is not clipped.
    pub clip: f32,
    /// What sums are multiplied by in the update: the mean, the loss scale and clipping. 0 where it is skipped.
    pub factor: f32,
    /// `1 / (1 - beta1^t)` of the update decided.
    pub correct1: f32,
    /// `1 / (1 - beta2^t)` of it.
    pub correct2: f32,
    /// Micro-batches in the window that was decided last.
    pub micro_batches: u32,
    /// The sum of their weights.
    pub window_weights: f32,
    /// The loss scale that it had.
    pub window_loss_scale: f32,
}

const _: () = assert!(size_of::<State>() == 4 * WORDS);

impl State {
    /// The state of a run that begins.
    #[must_use]
    pub fn new(rate: f32, loss_scale: f32) -> Self {
        State { rate, loss_scale, clip: 1.0, correct1: 1.0, correct2: 1.0, ..State::default() }
    }

    /// As words.
    #[must_use]
    pub fn words(&self) -> &[u32; WORDS] {
        bytemuck::cast_ref(self)
    }

    /// The state that these words hold.
    #[must_use]
    pub fn from_words(words: &[u32]) -> Option<Self> {
        <[u32; WORDS]>::try_from(words).ok().map(bytemuck::cast)
    }

    /// Whether the update of the window that was decided last is skipped.
    #[must_use]
    pub const fn skipped(&self) -> bool {
        self.skip != 0
    }

    /// Non-finite elements in the first slot that counts any.
    #[must_use]
    pub fn found(&self) -> u64 {
        u64::from(self.found_high) << 32 | u64::from(self.found_low)
    }

    /// After a micro-batch of this weight; a subnormal one counts as 0, as it does for gradients.
    pub fn advance_micro_batch(&mut self, weight: f32) {
        self.micro_batch = self.micro_batch.wrapping_add(1).min(MICRO_BATCHES_MAX - 1);
        self.weights += if weight.is_subnormal() { 0.0 } else { weight };
    }

    /// At the end of a window: whether it is a step, and by which factor.
    ///
    /// `sum` holds the squared norm of the sums, exactly ([`super::reduce`]); `limit` is what the norm is clipped to,
    /// infinite where it is not; `found` is the first slot that counts non-finite elements, and how many;
    /// `corrections` are those of update 1, 2, ..., two for each: of an update past the last those of the last, and 1
    /// without any.
    pub fn decide(&mut self, sum: &[u32], limit: f32, found: Option<(u32, u64)>, corrections: &[f32]) {
        (self.micro_batches, self.micro_batch) = (self.micro_batch, 0);
        (self.window_weights, self.weights) = (self.weights, 0.0);
        self.window_loss_scale = self.loss_scale;
        let (slot, count) = found.unwrap_or((0, 0));
        (self.found_slot, self.found_low, self.found_high) = (slot, count as u32, (count >> 32) as u32);
        (self.correct1, self.correct2) = correction(corrections, self.updates);
        (self.norm, self.clip, self.factor) = (0.0, 1.0, 0.0);
        if self.window_weights == 0.0 {
            self.skip = SKIP_NO_WEIGHT;
            return;
        }
        let mean = 1.0 / (self.window_weights * self.loss_scale);
        self.norm = norm(sum, mean);
        if self.norm > limit {
            self.clip = limit / self.norm;
        }
        let factor = mean * self.clip;
        self.skip = if found.is_some() {
            SKIP_NON_FINITE
        } else if factor.is_normal() {
            0
        } else {
            SKIP_FACTOR
        };
        if self.skip == 0 {
            self.factor = factor;
        }
    }

    /// After the updates: counts, moves the loss scale, and goes on to the next window. `interval` is that of a dynamic
    /// loss scale ([`grow`]), 0 for one that stays.
    pub fn advance_step(&mut self, interval: u32) {
        if self.skipped() {
            self.skips = self.skips.saturating_add(1);
        } else {
            self.updates = self.updates.saturating_add(1);
        }
        if interval > 0 {
            let (scale, good) = grow(self.loss_scale.to_bits(), self.good, self.skip, interval);
            (self.loss_scale, self.good) = (f32::from_bits(scale), good);
        }
        self.step = self.step.wrapping_add(1);
    }
}

/// The corrections of the update after `updates`.
fn correction(corrections: &[f32], updates: u32) -> (f32, f32) {
    let last = (corrections.len() / 2).saturating_sub(1);
    match corrections.get(2 * last.min(updates as usize)..) {
        Some(&[one, two, ..]) => (one, two),
        _ => (1.0, 1.0),
    }
}

/// A dynamic loss scale (f32 bits) and the updates since it changed, after a window: doubled after `interval` updates in a
/// row, up to 2^24; halved, down to 2^-16, after one that was skipped for non-finite elements. A scale beyond these
/// stays there. A window skipped for another reason changes nothing.
#[must_use]
pub fn grow(scale: u32, good: u32, skip: u32, interval: u32) -> (u32, u32) {
    const OCTAVE: u32 = 1 << 23;
    match skip {
        0 if good < interval.saturating_sub(1) => (scale, good + 1),
        0 => (scale.saturating_add(OCTAVE).min(LOSS_SCALE_MAX).max(scale), 0),
        SKIP_NON_FINITE => (scale.saturating_sub(OCTAVE).max(LOSS_SCALE_MIN).min(scale), 0),
        _ => (scale, good),
    }
}

/// The root of an exact sum times `|mean|`.
///
/// The sum is rounded once, to nearest even, to 24 bits `m 2^(2 h)` with `m` from 1 to 4; what comes out is
/// `(sqrt(m) |mean|) 2^h`, the root and the product each rounded once. Below 2^-126 it is 0, from 2^128 up infinite; a sum
/// of 0, or of less, gives 0.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::{reduce::ExactSum, state::norm};
/// let mut sum = ExactSum::default();
/// sum.add_square(3f32.to_bits());
/// sum.add_square(4f32.to_bits());
/// assert_eq!(norm(&sum.to_words(), 0.5), 2.5);
/// ```
#[must_use]
pub fn norm(sum: &[u32], mean: f32) -> f32 {
    let Some(top) = sum.iter().rposition(|word| *word != 0) else { return 0.0 };
    if sum.last().is_some_and(|word| word >> 31 == 1) {
        return 0.0;
    }
    let by = sum[top].leading_zeros();
    let below = if top > 0 { sum[top - 1] } else { 0 };
    // The 32 leading bits, and whether anything follows.
    let leading = ((u64::from(sum[top]) << 32 | u64::from(below)) << by >> 32) as u32;
    let rest = (u64::from(below) << by) as u32 != 0 || sum[..top.saturating_sub(1)].iter().any(|word| *word != 0);
    let (kept, low) = (leading >> 8, leading & 0xff);
    let up = low > 0x80 || (low == 0x80 && (rest || kept & 1 == 1));
    let exponent = (32 * top as u32 + 31 - by).wrapping_sub(SUM_LOWEST) as i32;
    // A carry out of the mantissa goes into the exponent.
    let m = (((127 + (exponent & 1)) as u32) << 23) + (kept - MIN_NORMAL) + u32::from(up);
    shifted(f32::from_bits(m).sqrt() * mean.abs(), exponent >> 1)
}

/// `x 2^by` of an `x` that is not negative: 0 below 2^-126, infinite from 2^128 up.
fn shifted(x: f32, by: i32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32;
    if exponent == 255 || exponent == 0 {
        return if exponent == 0 { 0.0 } else { x };
    }
    match exponent + by {
        ..=0 => 0.0,
        255.. => f32::INFINITY,
        moved => f32::from_bits(bits & 0x007f_ffff | (moved as u32) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::constants::state as at;
    use crate::numerics::reduce::ExactSum;
    use std::mem::offset_of;

    #[test]
    fn words_lie_where_the_constants_say() {
        let places = [
            (offset_of!(State, step), at::STEP),
            (offset_of!(State, micro_batch), at::MICRO_BATCH),
            (offset_of!(State, updates), at::UPDATES),
            (offset_of!(State, skips), at::SKIPS),
            (offset_of!(State, rate), at::RATE),
            (offset_of!(State, weights), at::WEIGHTS),
            (offset_of!(State, loss_scale), at::LOSS_SCALE),
            (offset_of!(State, good), at::GOOD),
            (offset_of!(State, skip), at::SKIP),
            (offset_of!(State, found_slot), at::FOUND_SLOT),
            (offset_of!(State, found_low), at::FOUND_LOW),
            (offset_of!(State, found_high), at::FOUND_HIGH),
            (offset_of!(State, norm), at::NORM),
            (offset_of!(State, clip), at::CLIP),
            (offset_of!(State, factor), at::FACTOR),
            (offset_of!(State, correct1), at::CORRECT1),
            (offset_of!(State, correct2), at::CORRECT2),
            (offset_of!(State, micro_batches), at::MICRO_BATCHES),
            (offset_of!(State, window_weights), at::WINDOW_WEIGHTS),
            (offset_of!(State, window_loss_scale), at::WINDOW_LOSS_SCALE),
        ];
        assert_eq!(places.len(), WORDS);
        assert!(places.iter().all(|(bytes, word)| *bytes == 4 * word), "{places:?}");
        let state = State::new(0.5, 8.0);
        assert_eq!(State::from_words(state.words()), Some(state));
        assert_eq!(State::from_words(&state.words()[1..]), None);
    }

    /// The square of `x`, exactly.
    fn square(x: f32) -> ExactSum {
        let mut sum = ExactSum::default();
        sum.add_square(x.to_bits());
        sum
    }

    #[test]
    fn norms_of_one_number_are_its_magnitude() {
        // Squares of 12 bits fit the mantissa, so nothing is rounded.
        for x in [1.0f32, -1.5, 4095.0, 2f32.powi(-126), 2f32.powi(127), 3.0 * 2f32.powi(-60), 2.5 * 2f32.powi(40)] {
            assert_eq!(norm(&square(x).to_words(), 1.0), x.abs(), "{x}");
            assert_eq!(norm(&square(x).to_words(), -0.25), if x.abs() < 1e-30 { 0.0 } else { x.abs() / 4.0 }, "{x}");
        }
        assert_eq!(norm(&[0; 20], f32::INFINITY), 0.0);
        let mut negative = ExactSum::default();
        negative.add(-1, 268);
        assert_eq!(norm(&negative.to_words(), 1.0), 0.0);
        assert_eq!(norm(&square(2f32.powi(127)).to_words(), 2.0), f32::INFINITY);
    }

    #[test]
    fn the_leading_bits_are_rounded_once_to_nearest_even() {
        // 2^24 + 1 lies in the middle between two numbers of 24 bits; whatever follows far below lifts it.
        let mut sum = ExactSum::default();
        sum.add((1 << 24) + 1, 268);
        let even = norm(&sum.to_words(), 1.0);
        assert_eq!(even, 4096.0);
        sum.add_at(1, 0);
        assert_eq!(norm(&sum.to_words(), 1.0), ((1u32 << 24) as f32 + 2.0).sqrt());
        // All ones carry into the exponent.
        let mut ones = ExactSum::default();
        ones.add((1 << 25) - 1, 268);
        assert_eq!(norm(&ones.to_words(), 1.0), (1u32 << 25) as f32 / 33_554_432f32.sqrt());
    }

    #[test]
    fn norms_are_within_two_units_of_the_f64_one() {
        let mut x = 1u32;
        for _ in 0..2000 {
            let mut sum = ExactSum::default();
            for _ in 0..5 {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                sum.add_square((x >> 2) + 0x1000_0000);
            }
            let (got, want) = (norm(&sum.to_words(), 0.3), sum.to_f64().sqrt() * f64::from(0.3f32));
            assert!((f64::from(got) / want - 1.0).abs() < 2f64.powi(-23) * 1.3, "{got} {want}");
        }
    }

    fn window(state: &mut State, sum: &ExactSum, limit: f32, found: Option<(u32, u64)>) {
        state.advance_micro_batch(1.0);
        state.advance_micro_batch(3.0);
        state.decide(&sum.to_words(), limit, found, &[2.0, 3.0, 1.5, 1.25]);
    }

    #[test]
    fn windows_by_hand() {
        let mut state = State::new(0.1, 8.0);
        window(&mut state, &square(64.0), 0.5, None);
        // The mean is 64 / 4 / 8 = 2.
        let (norm, clip, factor) = (state.norm, state.clip, state.factor);
        assert_eq!((state.skip, norm, clip, factor), (0, 2.0, 0.25, 0.25 / 32.0));
        assert_eq!((state.micro_batches, state.window_weights, state.micro_batch, state.weights), (2, 4.0, 0, 0.0));
        assert_eq!((state.correct1, state.correct2), (2.0, 3.0));
        state.advance_step(2);
        assert_eq!((state.step, state.updates, state.skips, state.loss_scale, state.good), (1, 1, 0, 8.0, 1));

        window(&mut state, &square(64.0), f32::INFINITY, Some((3, (5 << 32) + 7)));
        assert_eq!((state.skip, state.found_slot, state.found()), (SKIP_NON_FINITE, 3, (5 << 32) + 7));
        assert_eq!((state.clip, state.factor, state.correct1), (1.0, 0.0, 1.5));
        state.advance_step(2);
        assert_eq!((state.step, state.updates, state.skips, state.loss_scale, state.good), (2, 1, 1, 4.0, 0));

        // Past the end of the corrections, and a doubling.
        for _ in 0..2 {
            window(&mut state, &square(1.0), f32::INFINITY, None);
            assert_eq!((state.correct1, state.correct2, state.skip, state.found()), (1.5, 1.25, 0, 0));
            state.advance_step(2);
        }
        assert_eq!((state.updates, state.loss_scale, state.good), (3, 8.0, 0));

        // Nothing was accumulated: no step, and nothing is said about the loss scale.
        state.decide(&[0; 20], 1.0, Some((0, 1)), &[]);
        assert_eq!((state.skip, state.norm, state.clip, state.correct1), (SKIP_NO_WEIGHT, 0.0, 1.0, 1.0));
        state.advance_step(1);
        assert_eq!((state.skips, state.loss_scale, state.step), (2, 8.0, 5));
    }

    #[test]
    fn a_factor_that_is_no_normal_number_is_a_skip() {
        for (weights, scale) in [(1e-30, 1e-20), (1e30, 1e30), (1e20, 1e18 * 2.0), (f32::INFINITY, 1.0)] {
            let mut state = State::new(0.1, scale);
            state.advance_micro_batch(weights);
            state.decide(&square(1.0).to_words(), 1.0, None, &[]);
            assert_eq!((state.skip, state.factor), (SKIP_FACTOR, 0.0), "{weights} {scale}");
            state.advance_step(1);
            assert_eq!(state.loss_scale, scale);
        }
        // A norm of more than f32 holds, clipped: the factor would be 0.
        let mut state = State::new(0.1, 0.5);
        state.advance_micro_batch(1.0);
        state.decide(&square(2f32.powi(127)).to_words(), 1.0, None, &[]);
        assert_eq!((state.norm, state.clip, state.skip), (f32::INFINITY, 0.0, SKIP_FACTOR));
    }

    #[test]
    fn loss_scales_stay_within_their_limits() {
        let bits = |x: f32| x.to_bits();
        assert_eq!(grow(bits(16_777_216.0), 0, 0, 1), (bits(16_777_216.0), 0));
        assert_eq!(grow(bits(1e10), 0, 0, 1), (bits(1e10), 0));
        assert_eq!(grow(bits(10_000_000.0), 0, 0, 1), (bits(16_777_216.0), 0));
        assert_eq!(grow(bits(1.0 / 65536.0), 9, SKIP_NON_FINITE, 1), (bits(1.0 / 65536.0), 0));
        assert_eq!(grow(bits(1e-10), 9, SKIP_NON_FINITE, 1), (bits(1e-10), 0));
        assert_eq!(grow(bits(3.0), 4, SKIP_FACTOR, 1), (bits(3.0), 4));
        assert_eq!(grow(bits(3.0), u32::MAX, 0, u32::MAX), (bits(6.0), 0));
    }

    #[test]
    fn micro_batches_stay_below_their_limit() {
        let mut state = State { micro_batch: MICRO_BATCHES_MAX - 2, ..State::new(1.0, 1.0) };
        state.advance_micro_batch(1.0);
        state.advance_micro_batch(1.0);
        assert_eq!(state.micro_batch, MICRO_BATCHES_MAX - 1);
    }
}
