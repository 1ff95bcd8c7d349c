// Level or count i of the words `levels`.
#include params
fn level_at(i: u32) -> i32 {
#if BITS2
    let at = params.words + i / 32u * 2u;
    return i32((levels[at] >> (i % 32u)) & 1u) - i32((levels[at + 1u] >> (i % 32u)) & 1u);
#end
#if BITS4
    return extractBits(bitcast<i32>(levels[params.words + i / 8u]), 4u * (i % 8u), 4u);
#end
#if BITS8
    return extractBits(bitcast<i32>(levels[params.words + i / 4u]), 8u * (i % 4u), 8u);
#end
#if BITS16
    return extractBits(bitcast<i32>(levels[params.words + i / 2u]), 16u * (i % 2u), 16u);
#end
}
