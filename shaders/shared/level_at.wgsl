// Level or count i of the words `levels`.
fn level_at(i: u32) -> i32 {
#if BITS2
    let at = params.levels + i / 32u * 2u;
    return i32((levels[at] >> (i % 32u)) & 1u) - i32((levels[at + 1u] >> (i % 32u)) & 1u);
#end
#if BITS4
    return extractBits(bitcast<i32>(levels[params.levels + i / 8u]), 4u * (i % 8u), 4u);
#end
#if BITS8
    return extractBits(bitcast<i32>(levels[params.levels + i / 4u]), 8u * (i % 4u), 8u);
#end
#if BITS16
    return extractBits(bitcast<i32>(levels[params.levels + i / 2u]), 16u * (i % 2u), 16u);
#end
#if BITS32
    return bitcast<i32>(levels[params.levels + i]);
#end
}
