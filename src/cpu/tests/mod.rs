//! Every operation, the fast code against the plain code, bit for bit, on data from the ordinary to the adversarial.

mod accumulate;
mod packed;
mod parts;
mod quantize;
mod read_out;
mod threads;

use super::Cpu;
use super::simd::Simd;
use crate::op::Element;

/// Reproducible bits.
pub(super) struct Bits(u64);

impl Bits {
    pub(super) fn new(seed: u64) -> Self {
        Bits(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32
    }
}

/// Every kind of vector code this machine can run; empty where it has none.
fn fast() -> Vec<Cpu> {
    Cpu::kinds().into_iter().filter(|cpu| cpu.simd != Simd::Plain).collect()
}

/// Kinds of data, from the ordinary to the adversarial.
const KINDS: u32 = 9;

fn data<T: Element>(kind: u32, n: usize, seed: u64) -> Vec<T> {
    let mut bits = Bits::new(seed + u64::from(kind) * 1000);
    let edges = [
        0u32,
        0x8000_0000,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x127f_ffff,
        0x1280_0000,
        0x1280_0001,
        0x3f80_0000,
        0xbf80_0000,
        0x7e7f_ffff,
        0xfe7f_ffff,
        0x7e80_0000,
        0xfe80_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xff80_0001,
        0x0f80_0000,
        0x7d00_0000,
        0x3f80_8000,
        0x3fff_ffff,
    ];
    (0..n)
        .map(|_| {
            let gauss = bits.unit() + bits.unit() + bits.unit() - 1.5;
            let b = match kind {
                0 => gauss.to_bits(),
                1 => (gauss * gauss * gauss * 1e-3).to_bits(),
                2 => (gauss * 2f32.powi((bits.next() % 60) as i32 - 30)).to_bits(),
                3 => edges[bits.next() as usize % edges.len()],
                4 => bits.next(),                        // any pattern
                5 => (gauss * 1e-26).to_bits(),          // about the zero limit, 8e-28
                6 => (gauss * 2f32.powi(125)).to_bits(), // about the range limit
                7 => {
                    if bits.next().is_multiple_of(97) {
                        edges[bits.next() as usize % edges.len()]
                    } else {
                        gauss.to_bits()
                    }
                }
                _ => {
                    if bits.next().is_multiple_of(2) {
                        0
                    } else {
                        ((bits.next() % 8) as f32 * 0.125).to_bits()
                    }
                } // ties
            };
            T::from_f32_bits(b)
        })
        .collect()
}

fn bytes<T: Element>(x: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(x).to_vec()
}

fn lengths() -> impl Iterator<Item = usize> {
    (0..600).step_by(7).chain([31, 32, 33, 64, 256, 288, 1024, 1056, 1311, 4096, 4097, 9000])
}

/// The fastest code first and the plain code last, each kind once: the comparisons above leave none out.
#[test]
fn every_kind_of_code_is_compared() {
    let kinds: Vec<Simd> = Cpu::kinds().into_iter().map(|cpu| cpu.simd).collect();
    assert_eq!(kinds.first(), Some(&Cpu::new().simd));
    assert_eq!(kinds.iter().position(|simd| *simd == Simd::Plain), Some(kinds.len() - 1));
    assert_eq!(fast().len(), kinds.len() - 1);
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt");
        assert_eq!(kinds.iter().any(|simd| simd.name() == "AVX2"), avx2);
    }
}
