//! What an adapter really does, tried out once: whether its f32 sums and products round as IEEE 754 asks, and how
//! its threads are laid out in subgroups.

use super::device::Wgpu;
use super::launch::Batch;
use super::raw::Raw;
use super::shaders::{self, ProbeParams};
use super::view::Buffer;
use crate::error::Result;
use crate::numerics::constants::RANGE_LIMIT;
use crate::numerics::float::magnitude;

pub(super) struct Found {
    /// Sums and products of normal f32 round to nearest, ties to even; sums with NaN or Inf stay out of range.
    pub(super) floats: bool,
    /// Threads that share a subgroup in the order of their index: a power of two, 1 where that does not hold.
    pub(super) subgroup: u32,
}

/// Pairs that are tried; a multiple of the workgroup.
const PAIRS: usize = 4096;
/// Sums that must show what is not finite: NaN of both signs on either side, Inf.
const SPECIAL: [[u32; 2]; 4] =
    [[0x7fc0_0000, 0x3f80_0000], [0x3f80_0000, 0xff80_0001], [0x7f80_0000, 0xc000_0000], [0xbf80_0000, 0xff80_0000]];
/// Words a pair gives back.
const WORDS: usize = 7;

pub(super) fn probe(gpu: &Wgpu, subgroups: bool) -> Result<Found> {
    let mut pairs = pairs();
    pairs.extend(SPECIAL.as_flattened());
    let count = pairs.len() / 2;
    let mut given = Buffer::new(&gpu.inner, gpu.inner.link.allocate(4 * pairs.len() as u64)?, pairs.len());
    gpu.fill(&pairs, &mut given)?;
    let bytes = (count * WORDS * 4) as u64;
    let out = gpu.inner.link.allocate(bytes)?;
    let out = Raw { buffer: &out, offset: 0, bytes };
    let mut batch = Batch::new(gpu);
    let params = ProbeParams { zero: 0, n: count as u32 };
    let flags = subgroups.then_some("SUBGROUP").into_iter().collect();
    batch.dispatch(&shaders::PROBE, flags, &[given.all(), out], params, count as u64)?;
    batch.run("probe")?;
    let got: Vec<u32> = gpu.read(out)?;
    let floats = got.chunks_exact(WORDS).zip(pairs.chunks_exact(2)).all(|(got, pair)| {
        let (a, b) = (f32::from_bits(pair[0]), f32::from_bits(pair[1]));
        if !(a + b).is_finite() {
            return magnitude(got[1]) >= RANGE_LIMIT;
        }
        got[0] == (a * b).to_bits() && got[1] == (a + b).to_bits()
    });
    let exchanged = |d: u32| got.chunks_exact(WORDS).zip(0u32..).all(|(got, t)| got[2 + d as usize] == t ^ (1 << d));
    let steps = if subgroups { (0..5).take_while(|&d| exchanged(d)).count() } else { 0 };
    Ok(Found { floats, subgroup: 1 << steps })
}

/// Pairs of normal f32 whose product and sum are normal: close exponents and far ones, equal and opposite signs.
fn pairs() -> Vec<u32> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state ^ (state >> 15)
    };
    let mut number = |spread: u32| (next() & 0x807f_ffff) | ((127 - spread / 2 + next() % spread) << 23);
    (0..PAIRS).flat_map(|i| if i % 2 == 0 { [number(6), number(6)] } else { [number(60), number(60)] }).collect()
}
