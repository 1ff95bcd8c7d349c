//! Philox4x32, the counter-based generator.
//!
//! Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked
//! against the known-answer vectors of Random123 for 7 and for 10 rounds.

/// Multiplier of counter word 0.
pub const M0: u32 = 0xD251_1F53;
/// Multiplier of counter word 2.
pub const M1: u32 = 0xCD9E_8D57;
/// What key word 0 grows by each round (the golden ratio).
pub const W0: u32 = 0x9E37_79B9;
/// What key word 1 grows by each round (the square root of 3, less 1).
pub const W1: u32 = 0xBB67_AE85;

/// The high and the low half of the 64-bit product `a * b`.
#[inline]
pub const fn mul_wide(a: u32, b: u32) -> (u32, u32) {
    let p = a as u64 * b as u64;
    ((p >> 32) as u32, p as u32)
}

/// One round: `(hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))`.
#[inline]
pub const fn round(c: [u32; 4], k: [u32; 2]) -> [u32; 4] {
    let (h0, l0) = mul_wide(M0, c[0]);
    let (h1, l1) = mul_wide(M1, c[2]);
    [h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0]
}

/// Philox4x32 with `rounds` rounds: four words from a counter and a key.
///
/// # Examples
///
/// ```
/// use trigrad::numerics::philox::philox4x32;
/// // Random123, kat_vectors: philox4x32 10, counter and key all zero.
/// assert_eq!(philox4x32([0; 4], [0; 2], 10), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
#[inline]
pub const fn philox4x32(counter: [u32; 4], key: [u32; 2], rounds: u32) -> [u32; 4] {
    let mut c = counter;
    let mut k = key;
    let mut r = 0;
    while r < rounds {
        c = round(c, k);
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
        r += 1;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random123 1.14, tests/kat_vectors, every philox4x32 line with 7 or 10 rounds.
    type Vector = (u32, [u32; 4], [u32; 2], [u32; 4]);

    const VECTORS: [Vector; 6] = [
        (7, [0; 4], [0; 2], [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]),
        (7, [u32::MAX; 4], [u32::MAX; 2], [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]),
        (
            7,
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a],
        ),
        (10, [0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        (10, [u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            10,
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    #[test]
    fn known_answers() {
        for (rounds, counter, key, want) in VECTORS {
            assert_eq!(philox4x32(counter, key, rounds), want, "{rounds} rounds, counter {counter:x?}");
        }
    }
}
