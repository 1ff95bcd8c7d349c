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
