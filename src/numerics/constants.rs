//! Numbers that Rust, CUDA and WGSL share.

/// Rounds of Philox4x32 behind every draw.
pub const PHILOX_ROUNDS: u32 = 10;
/// Elements served by one Philox call, and by one pair of packed words.
pub const GROUP: usize = 32;
/// Bits of a draw `k`; the uniform is `u = (2 k + 1) / 2^24`.
pub const DRAW_BITS: u32 = 23;
/// Magnitude bits from which a value is out of range: 2^126. NaN and Inf lie above it.
pub const RANGE_LIMIT: u32 = 0x7e80_0000;
/// Magnitude bits below which a block's maximum makes the whole block zero: 2^-90.
pub const ZERO_LIMIT: u32 = 0x1280_0000;
/// Magnitude bits of the smallest normal f32; anything below counts as zero.
pub const MIN_NORMAL: u32 = 0x0080_0000;
/// Elements in a chunk of an integer sum.
pub const CHUNK: usize = 4096;
/// Significant bits of a magnitude in an integer sum.
pub const SUM_BITS: u32 = 20;
/// Significant bits of a magnitude whose square is summed.
pub const SQUARE_BITS: u32 = 15;
/// Words of an exact sum in memory; word `i` has weight `2^(32 i - 320)`: from the square of the smallest normal f32 up
/// to 2^319.
pub const SUM_WORDS: usize = 20;
/// The exponent of the lowest bit, below that of the smallest product of two scales, 2^-268.
pub const SUM_LOWEST: u32 = 320;
/// Smallest block.
pub const BLOCK_MIN: u32 = 32;
/// Largest block.
pub const BLOCK_MAX: u32 = 4096;
/// Block size when none is chosen.
pub const BLOCK_DEFAULT: u32 = 64;
/// Largest element index plus one: 2^37 (a draw's group index has 32 bits).
pub const ELEMENTS_MAX: u64 = 1 << 37;
/// Micro-batch indices are below 2^24.
pub const MICRO_BATCHES_MAX: u32 = 1 << 24;

/// What a draw is for; keeps the draws of different operations apart.
pub mod domain {
    /// Trits: quantize and exact accumulation.
    pub const TERNARY: u32 = 0;
    /// Levels: adaptive accumulation.
    pub const ADAPTIVE: u32 = 1;
    /// Weights rounded stochastically to bf16.
    pub const WEIGHT: u32 = 2;
    /// Error-feedback residuals.
    pub const RESIDUAL: u32 = 3;
}

/// Where things lie in a training state of words: see [`super::state::State`].
pub mod state {
    /// Words of a state.
    pub const WORDS: usize = 20;
    /// The number of the window, which draws take as their step.
    pub const STEP: usize = 0;
    /// Micro-batches in the window: the index that the next one draws under.
    pub const MICRO_BATCH: usize = 1;
    /// Updates of the weights so far.
    pub const UPDATES: usize = 2;
    /// Windows skipped so far.
    pub const SKIPS: usize = 3;
    /// The learning rate, f32.
    pub const RATE: usize = 4;
    /// The sum of the weights of the window's micro-batches, f32.
    pub const WEIGHTS: usize = 5;
    /// The loss scale, f32.
    pub const LOSS_SCALE: usize = 6;
    /// Updates since the loss scale last changed.
    pub const GOOD: usize = 7;
    /// Why the window that was decided last is skipped; 0 where it is not.
    pub const SKIP: usize = 8;
    /// The first slot that counts non-finite elements.
    pub const FOUND_SLOT: usize = 9;
    /// How many, the lower word,
    pub const FOUND_LOW: usize = 10;
    /// and the upper.
    pub const FOUND_HIGH: usize = 11;
    /// The global norm of the mean gradient, f32.
    pub const NORM: usize = 12;
    /// What clips it, f32.
    pub const CLIP: usize = 13;
    /// The factor of the update, f32; 0 where it is skipped.
    pub const FACTOR: usize = 14;
    /// The correction of the first moment, f32.
    pub const CORRECT1: usize = 15;
    /// The correction of the second moment, f32.
    pub const CORRECT2: usize = 16;
    /// Micro-batches in the window that was decided.
    pub const MICRO_BATCHES: usize = 17;
    /// The sum of their weights, f32.
    pub const WINDOW_WEIGHTS: usize = 18;
    /// The loss scale that it had, f32.
    pub const WINDOW_LOSS_SCALE: usize = 19;

    /// The weights of the micro-batches add up to 0.
    pub const SKIP_NO_WEIGHT: u32 = 1;
    /// Some report counts non-finite elements.
    pub const SKIP_NON_FINITE: u32 = 2;
    /// The factor of the update is no normal f32.
    pub const SKIP_FACTOR: u32 = 3;

    /// f32 bits of the smallest dynamic loss scale, 2^-16.
    pub const LOSS_SCALE_MIN: u32 = 0x3780_0000;
    /// f32 bits of the largest, 2^24.
    pub const LOSS_SCALE_MAX: u32 = 0x4b80_0000;
}
