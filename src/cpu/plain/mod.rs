//! The plain form of every hot tile, straight from [`crate::numerics`]: what runs where no vector code does, what the
//! vector code leaves what is rare to, and what it is held to bit for bit.

pub(super) mod accumulate;
pub(super) mod dequantize;
pub(super) mod quantize;
pub(super) mod read_out;
