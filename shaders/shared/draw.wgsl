// Mirrors src/numerics/draw.rs.
struct Draws {
    key_low: u32,   // the key, and words 0 to 3 of the counter, word 0 for the piece's first group of 32
    key_high: u32,
    group: u32,
    tensor: u32,
    step: u32,
    purpose: u32,
    @size(8) exact: u32,  // all ones: decide every element in integers, none by a float estimate
}
#include philox

// The Philox words of element group `group`, counted from the piece's first.
fn group_words(group: u32) -> vec4<u32> {
    return philox4x32(
        vec4<u32>(params.draws.group + group, params.draws.tensor, params.draws.step, params.draws.purpose),
        params.draws.key_low,
        params.draws.key_high,
    );
}

// The lower eight bits that a group's draws share.
fn shared_bits(w: vec4<u32>) -> u32 {
    let high = w >> vec4<u32>(31u);
    let low = (w >> vec4<u32>(15u)) & vec4<u32>(1u);
    return (high.x << 7u) | (high.y << 6u) | (high.z << 5u) | (high.w << 4u)
        | (low.x << 3u) | (low.y << 2u) | (low.z << 1u) | low.w;
}

// The upper bits of all 32 draws: word p holds those of element 2 p in its low half, of 2 p + 1 in its high half.
fn expand(w: vec4<u32>) -> array<u32, 16> {
    return array<u32, 16>(
        w.x, w.y, w.z, w.w,
        w.x ^ ((w.x >> 16u) | (w.y << 16u)), w.y ^ ((w.y >> 16u) | (w.z << 16u)),
        w.z ^ ((w.z >> 16u) | (w.w << 16u)), w.w ^ ((w.w >> 16u) | (w.x << 16u)),
        w.x ^ w.y, w.y ^ w.z, w.z ^ w.w, w.w ^ w.x,
        w.x ^ ((w.y >> 16u) | (w.z << 16u)), w.y ^ ((w.z >> 16u) | (w.w << 16u)),
        w.z ^ ((w.w >> 16u) | (w.x << 16u)), w.w ^ ((w.x >> 16u) | (w.y << 16u)),
    );
}

fn half_of(w: vec4<u32>, j: u32) -> u32 {
    return (w[j / 2u] >> (16u * (j % 2u))) & 0xffffu;
}

// The draw of one element of the group.
fn draw(w: vec4<u32>, e: u32) -> u32 {
    let q = e / 8u;
    let j = e % 8u;
    var bits = half_of(w, j);
    if (q > 0u) {
        bits ^= half_of(w, (j + q) % 8u);
    }
    return ((bits & 0x7fffu) << 8u) | shared_bits(w);
}
