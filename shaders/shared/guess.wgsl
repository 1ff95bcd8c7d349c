// The trits of a group by a float estimate, and which of them it leaves open. Mirrors src/numerics/trit.rs: `keep`.
//
// For |x| at most s, the sign of u - |x| / s decides where that is far enough from zero, and `keep` decides, in integers,
// where it is not. Everything is times 2^-11, so that a difference that is far enough, at least 2^-20, has an exponent
// of 96 to 116 and with it bits 28 and 29: whether all have them is one conjunction. The estimate may be contracted,
// reassociated or rounded in any way a compiler likes: it is off by less than 2^-20.7, with 1 / s off by 2.5 units in the last
// place and everything else by one. Where scales are so large or so small that a factor or product could be
// subnormal and be flushed, integers decide.
#include draw
#include trit

const GUESS_ONE: u32 = 0x3a000000u;
const GUESS_SURE: u32 = 0x30000000u;
// 2^100. For scales from here on 2^-11 / s nears the subnormals; for those below ZERO_LIMIT |x| 2^-11 does.
const GUESS_LARGE: u32 = 0x71800000u;

struct Guess {
    kept: u32,
    signs: u32,
    // Bit j: elements 4 j to 4 j + 3 have to be decided by `keep`; their bits in `kept` mean nothing.
    open: u32,
}

fn guess_group(e: array<u32, 32>, w: vec4<u32>, s: u32) -> Guess {
    let draws = expand(w);
    let one = GUESS_ONE | shared_bits(w);
    // Under a scale of 0 every |x| is below 2^-90, and nothing is kept as under any other scale that is far above.
    let inverse = 0x1p-11f / bitcast<f32>(select(s, 0x3f800000u, s < MIN_NORMAL));
    var sure = array<u32, 8>(
#for j 0 8
        GUESS_SURE,
#end
    );
    var kept = 0u;
    var signs = 0u;
    var d = 0u;
#for p 0 16
    d = guess(((draws[15 - $p] >> 8u) & 0x7fff00u) | one, inverse, e[31 - 2 * $p]);
    sure[(15 - $p) / 2] &= d;
    kept = (kept << 1u) | (d >> 31u);
    signs = (signs << 1u) | (e[31 - 2 * $p] >> 31u);
    d = guess(((draws[15 - $p] << 8u) & 0x7fff00u) | one, inverse, e[30 - 2 * $p]);
    sure[(15 - $p) / 2] &= d;
    kept = (kept << 1u) | (d >> 31u);
    signs = (signs << 1u) | (e[30 - 2 * $p] >> 31u);
#end
    var open = select(params.draws.exact, 0xffu, s >= GUESS_LARGE || (s < ZERO_LIMIT && s != 0u));
    var all = sure[0];
#for j 1 8
    all &= sure[$j];
#end
    if (all != GUESS_SURE) {
#for j 0 8
        open |= select(1u << $ju, 0u, sure[$j] == GUESS_SURE);
#end
    }
    return Guess(kept, signs, open);
}

// (u - |x| / s) 2^-11 for the draw whose bits lie under the exponent of 2^-11.
fn guess(k: u32, inverse: f32, x: u32) -> u32 {
    return bitcast<u32>(bitcast<f32>(k) - 0x0.ffffffp-11f - bitcast<f32>(x & 0x7fffffffu) * inverse);
}
