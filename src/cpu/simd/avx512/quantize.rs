//! Stochastic quantize: blocks in one pass over memory.

use super::draws::{Draws, Generator, uniforms};
use super::*;
use crate::cpu::plain::quantize::blocks as plain_blocks;
use crate::cpu::tile::QuantizeTile;
use crate::numerics::constants::{RANGE_LIMIT, ZERO_LIMIT};

/// A scale under which nothing in a block of scale zero is kept: every draw times it lies above 2^-90.
pub(super) const NOTHING_KEPT: f32 = f32::from_bits(RANGE_LIMIT);

/// Scratch of a part: whole blocks and batches, up to [`PART`] elements or one larger block. Scales are found for
/// all of it before its planes are written, so that the latency of one block's reduction overlaps that of others.
struct Parts<const BATCHES: usize> {
    /// The scales that decisions use, one a group.
    decide: [[f32; LANES]; BATCHES],
    /// The scales as they are stored, one a group.
    scales: [[u32; LANES]; BATCHES],
    draws: [Draws; BATCHES],
}

/// Whole units of blocks: see [`whole_units`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn blocks<T: Element>(method: &Method, w: QuantizeTile<'_, T>) -> Report {
    if w.size > PART { stochastic::<T, BATCHES_MAX>(method, w) } else { stochastic::<T, PART_BATCHES>(method, w) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn stochastic<T: Element, const BATCHES: usize>(method: &Method, w: QuantizeTile<'_, T>) -> Report {
    let Method::Stochastic { at, .. } = method else { return plain_blocks(method, w) };
    let QuantizeTile { x, words, scales, mut first, size } = w;
    let (x, words) = (x.as_chunks::<GROUP>().0, words.as_chunks_mut::<2>().0);
    let (groups, blocks) = (part(size) / GROUP, part(size) / size);
    let generator = Generator::new(at, 1.0);
    let mut p =
        Parts { decide: [[0.0; LANES]; BATCHES], scales: [[0; LANES]; BATCHES], draws: [Draws::new(); BATCHES] };
    let mut report = Report::default();
    for ((x, words), scales) in x.chunks(groups).zip(words.chunks_mut(groups)).zip(scales.chunks_mut(blocks)) {
        if measure(&generator, (first / GROUP as u64) as u32, &mut p, x, size) {
            write_scales(scales, &p.scales, size);
            for (b, (x, words)) in x.chunks_exact(LANES).zip(words.chunks_exact_mut(LANES)).enumerate() {
                let (draws, decide) = (&p.draws[b], &p.decide[b]);
                for g in 0..LANES {
                    words[g] = planes(draws, g, &x[g], decide[g]);
                }
            }
        } else {
            let (x, words) = (x.as_flattened(), words.as_flattened_mut());
            report.merge(plain_blocks(method, QuantizeTile { x, words, scales, first, size }));
        }
        first += (x.len() * GROUP) as u64;
    }
    report
}

/// The scales of a part and its draws, arithmetic while memory is waited for; `false` if an element is out of range.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn measure<T: Element, const BATCHES: usize>(
    generator: &Generator,
    mut group: u32,
    p: &mut Parts<BATCHES>,
    x: &[[T; GROUP]],
    size: usize,
) -> bool {
    let mut maxima = [_mm512_setzero_si512(); BATCHES];
    for (x, (max, draws)) in x.chunks_exact(LANES).zip(maxima.iter_mut().zip(&mut p.draws)) {
        generator.draw(group, draws);
        group = group.wrapping_add(LANES as u32);
        *max = over_block::<false>(group_maxima(x), size);
    }
    let maxima = &mut maxima[..x.len() / LANES];
    over_batches::<false>(maxima, size);
    let mut all = _mm512_setzero_si512();
    for (max, (scale, decide)) in maxima.iter().zip(p.scales.iter_mut().zip(&mut p.decide)) {
        all = join::<false>(all, *max);
        let low = _mm512_set1_epi32(0xffff);
        let up = _mm512_andnot_si512(low, _mm512_add_epi32(*max, low));
        let zero = _mm512_cmplt_epi32_mask(*max, _mm512_set1_epi32(ZERO_LIMIT as i32));
        store_words(scale, _mm512_maskz_mov_epi32(!zero, up));
        store_floats(decide, _mm512_mask_mov_ps(_mm512_castsi512_ps(up), zero, _mm512_set1_ps(NOTHING_KEPT)));
    }
    !any_outside(all, 0, RANGE_LIMIT)
}

/// Stochastic planes of a group; every element is in range.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn planes<T: Element>(draws: &Draws, g: usize, x: &[T; GROUP], scale: f32) -> [u32; 2] {
    let (x, s) = (load32(x), _mm512_set1_ps(scale));
    let u = uniforms(draws, g);
    // u s < |x| if and only if the fused difference is negative: a single rounding keeps the sign.
    let kept = signs([_mm512_fmsub_ps(u[0], s, abs(x[0])), _mm512_fmsub_ps(u[1], s, abs(x[1]))]);
    let minus = signs(x);
    [kept & !minus, kept & minus]
}
