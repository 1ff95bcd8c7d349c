//! What vector code is written over: vectors of 32-bit lanes, as wide as the machine's.
//!
//! A value that implements [`Vector`] is the proof that the CPU has the features of its kind: it is made where they were
//! detected and nowhere else, so every method is safe. Algorithms are written once, in [`super::generic`], as a [`Job`];
//! [`Vector::enter`] is the one function of each kind that is compiled for its features, and everything below it is inlined
//! into it. Hence the rule for all generic code: `#[inline(always)]`, and no closure around a vector.
//!
//! A group of 32 elements is a few vectors ([`Vector::Group`]); a batch is as many groups as a vector has lanes
//! ([`Vector::Batch`]), so that what belongs to a group lies in a lane.

use crate::numerics::constants::GROUP;
use crate::op::Element;
use std::ops::IndexMut;

/// An array whose length depends on the kind of vector.
pub(super) trait Array<E: Copy>: Copy + IndexMut<usize, Output = E> {
    /// The same value everywhere.
    fn filled(value: E) -> Self;
}

impl<E: Copy, const N: usize> Array<E> for [E; N] {
    #[inline(always)]
    fn filled(value: E) -> Self {
        [value; N]
    }
}

/// What runs in code that is compiled for the features of a kind of vector.
pub(super) trait Job<V> {
    type Output;
    /// To be inlined into [`Vector::enter`].
    fn run(self, v: V) -> Self::Output;
}

/// A kind of vector: the proof that the CPU has it, and its operations, lane by lane unless they say more.
pub(super) trait Vector: Copy {
    /// 32-bit lanes: 8 or 16.
    const LANES: usize;
    /// 32-bit integers, or 64-bit ones where a method says so.
    type Ints: Copy;
    /// f32.
    type Floats: Copy;
    /// f64, half as many.
    type Doubles: Copy;
    /// What a comparison of lanes gives.
    type Mask: Copy;
    /// One value for each vector of a group.
    type Group<E: Copy>: Array<E>;
    /// One value for each group of a batch: a lane each.
    type Batch<E: Copy>: Array<E>;

    /// Runs a job in code for this kind of vector.
    fn enter<J: Job<Self>>(self, job: J) -> J::Output;
    /// As [`Vector::enter`], never inlined: for what is rare within another job.
    fn rarely<J: Job<Self>>(self, job: J) -> J::Output;

    /// Cuts a slice into batches; what does not fill one is left out.
    fn batches<E: Copy>(x: &[E]) -> &[Self::Batch<E>];
    /// As [`Vector::batches`].
    fn batches_mut<E: Copy>(x: &mut [E]) -> &mut [Self::Batch<E>];

    // Memory.
    /// The elements of a group as f32; exact.
    fn elements<T: Element>(self, x: &[T; GROUP]) -> Self::Group<Self::Floats>;
    /// The words of a group.
    fn words(self, x: &[u32; GROUP]) -> Self::Group<Self::Ints>;
    /// The words of a batch.
    fn load(self, x: &Self::Batch<u32>) -> Self::Ints;
    fn store(self, to: &mut Self::Batch<u32>, x: Self::Ints);
    fn store_floats(self, to: &mut Self::Batch<f32>, x: Self::Floats);
    /// Stores the vectors of a group.
    fn store_group(self, to: &mut [f32; GROUP], x: Self::Group<Self::Floats>);
    /// As many of 16 words as there are lanes.
    fn first_words(self, x: &[u32; 16]) -> Self::Ints;
    /// The same four words over and over.
    fn repeat(self, x: &[u32; 4]) -> Self::Ints;
    /// Stores groups of four words to either half of a batch: 64-bit lane `i` holds two of group `i` in `ab` and two in `cd`.
    fn store_quads(self, to: &mut Self::Batch<[u32; 4]>, second: bool, ab: Self::Ints, cd: Self::Ints);
    /// Where [`Vector::store_quads`] puts group `g` of a batch.
    fn place(g: usize) -> usize;
    /// Stores 64-bit lanes to either half of a batch.
    fn store_half(self, to: &mut Self::Batch<u64>, second: bool, x: Self::Ints);

    /// Brings the line at an address to the caches; a hint, which never faults.
    fn fetch(self, at: *const i8);

    // Integers.
    fn splat(self, x: u32) -> Self::Ints;
    fn splat64(self, x: u64) -> Self::Ints;
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn add64(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn sub(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The 64-bit products of the lower halves of 64-bit lanes.
    fn mul_low(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn xor(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `x` without the bits of `bits`.
    fn without(self, x: Self::Ints, bits: Self::Ints) -> Self::Ints;
    /// Of unsigned integers.
    fn max(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn shl(self, x: Self::Ints, by: u32) -> Self::Ints;
    fn shr(self, x: Self::Ints, by: u32) -> Self::Ints;
    fn shl64(self, x: Self::Ints, by: u64) -> Self::Ints;
    fn shr64(self, x: Self::Ints, by: u64) -> Self::Ints;
    /// Each lane by its own count.
    fn shr_each(self, x: Self::Ints, by: Self::Ints) -> Self::Ints;
    /// Even lanes of the first, odd lanes of the second.
    fn in_turn(self, even: Self::Ints, odd: Self::Ints) -> Self::Ints;
    /// Of each 16 bytes those with the numbers in `which`; 0 where that is negative.
    fn bytes(self, x: Self::Ints, which: Self::Ints) -> Self::Ints;
    /// Lanes that lie `distance` (1, 2, 4 or 8) apart exchanged.
    fn exchanged(self, x: Self::Ints, distance: usize) -> Self::Ints;
    /// Lane `i` is the sum (`ADD`) or largest of all lanes of `x[i]`.
    fn across<const ADD: bool>(self, x: &Self::Batch<Self::Ints>) -> Self::Ints;

    // Masks.
    /// `a > b`, as signed integers.
    fn above(self, a: Self::Ints, b: Self::Ints) -> Self::Mask;
    fn is_zero(self, x: Self::Ints) -> Self::Mask;
    fn less(self, a: Self::Floats, b: Self::Floats) -> Self::Mask;
    fn either(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn any(self, mask: Self::Mask) -> bool;
    /// `x` where the mask is, else 0.
    fn keep(self, mask: Self::Mask, x: Self::Ints) -> Self::Ints;
    /// 0 where the mask is, else `x`.
    fn drop(self, mask: Self::Mask, x: Self::Ints) -> Self::Ints;
    fn select(self, mask: Self::Mask, yes: Self::Ints, no: Self::Ints) -> Self::Ints;
    /// Bit `i` says what the masks of a group say of element `i`.
    fn bits_of(self, masks: Self::Group<Self::Mask>) -> u32;
    /// Bit `i` is the sign of element `i` of a group.
    fn signs(self, x: Self::Group<Self::Floats>) -> u32;

    // Floats; each operation is rounded once.
    fn splat_f32(self, x: f32) -> Self::Floats;
    fn pattern(self, x: Self::Floats) -> Self::Ints;
    fn float_of(self, x: Self::Ints) -> Self::Floats;
    fn abs(self, x: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn minus(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `a b - c`.
    fn mul_sub(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c - a b`.
    fn sub_mul(self, c: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The smaller one; neither is NaN.
    fn least(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Towards zero.
    fn truncated(self, x: Self::Floats) -> Self::Ints;
    fn to_floats(self, x: Self::Ints) -> Self::Floats;

    // Doubles.
    /// Unsigned integers as f64, exact: the lower half of the lanes and the upper.
    fn to_doubles(self, x: Self::Ints) -> [Self::Doubles; 2];
    fn splat_f64(self, x: f64) -> Self::Doubles;
    fn mul64(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    fn div64(self, a: Self::Doubles, b: Self::Doubles) -> Self::Doubles;
    fn pattern64(self, x: Self::Doubles) -> Self::Ints;
    fn double_of(self, x: Self::Ints) -> Self::Doubles;
    /// The lower halves of 64-bit lanes: undoes the parting of [`Vector::to_doubles`].
    fn low_words(self, x: [Self::Ints; 2]) -> Self::Ints;
}

/// Levels and counts in their fields, where kinds of vector differ by more than their width.
pub(super) trait Fields: Vector {
    /// The levels of a group on their way to its fields.
    type Levels: Copy;

    /// What one level counts in [`Fields::levels`], a power of two.
    fn level_unit(bits: usize) -> f32;
    /// The levels of a group times [`Fields::level_unit`]'s reciprocal.
    fn levels<const BITS: usize>(self, words: &[u32; BITS]) -> Self::Group<Self::Floats>;
    /// The whole parts of `t` (below 256) under the signs of `of`; `t` has [`after_point`] bits after the point. `None`
    /// where one of them is less than twice [`margin`] above an integer.
    ///
    /// [`after_point`]: super::generic::accumulate::after_point
    /// [`margin`]: super::generic::accumulate::margin
    fn rounded<const BITS: usize>(
        self,
        t: Self::Group<Self::Floats>,
        of: Self::Group<Self::Floats>,
    ) -> Option<Self::Levels>;
    /// Integers below 128 under the signs of `of`.
    fn with_signs(self, levels: Self::Group<Self::Ints>, of: Self::Group<Self::Floats>) -> Self::Levels;
    /// Planes for 2 bits, fields for 4 and 8.
    fn store_levels<const BITS: usize>(self, words: &mut [u32; BITS], levels: Self::Levels);
    /// Adds trits to the counts of a group, each within its field: 0 where `decided` is not negative, else the sign of
    /// `of`.
    fn count<const BITS: usize>(
        self,
        counts: &mut [u32; BITS],
        decided: Self::Group<Self::Floats>,
        of: Self::Group<Self::Floats>,
    );
}

/// Methods of [`Vector`], each from a function that is compiled for the features: `self` is the proof that they are there.
macro_rules! compiled_for {
    (#[$features:meta] $(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty $body:block)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) -> $out {
                #[$features]
                #[inline]
                fn compiled($($arg: $type),*) -> $out $body
                // SAFETY: `self` exists, so the CPU has the features.
                unsafe { compiled($($arg),*) }
            }
        )*
    };
}
pub(super) use compiled_for;
