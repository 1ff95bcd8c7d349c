// One group of 32 elements of a block, from floats to planes: what the quantize shaders of one pass share. Binding 2 is
// `words`, 2 a group; 3 `scales`, 1 half-word a block; 4 `reports`.
#include input
#include draw
#include scale
#include trit
#include block
#include report
#include scales
#if VECTOR
@group(0) @binding(2) var<storage, read_write> words: array<vec2<u32>>;
#else
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
#end
@group(0) @binding(3) var<storage, read_write> scales: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;

// Group g of the window, its elements as loaded and the words of its Philox call. All threads of a workgroup come here.
fn quantize_group(g: u32, lane: u32, loaded: array<u32, 32>, w: vec4<u32>) {
    var e = loaded;
    var m = 0u;
#for i 0 32
    m = max(m, e[$i] & 0x7fffffffu);
#end
    if (m >= RANGE_LIMIT) {
        var found = 0u;
        m = 0u;
#for i 0 32
        if (out_of_range(e[$i] & 0x7fffffffu)) {
            found |= 1u << $iu;
            e[$i] = 0u;
        }
        m = max(m, e[$i] & 0x7fffffffu);
#end
        report_found(found, 32u * g);
    }
    let s = stochastic_scale(block_max(lane, m));
    if (32u * g >= params.n) {
        return;
    }

    let draws = expand(w);
    let one = 0x3f800000u | shared_bits(w);
    let scale = guess_scale(s);
    var closest = scale;
    var kept = 0u;
    var signs = 0u;
    var d = 0.0f;
#for p 0 16
    d = guess(((draws[15 - $p] >> 8u) & 0x7fff00u) | one, scale, e[31 - 2 * $p]);
    closest = min(closest, abs(d));
    kept = (kept << 1u) | (bitcast<u32>(d) >> 31u);
    signs = (signs << 1u) | (e[31 - 2 * $p] >> 31u);
    d = guess(((draws[15 - $p] << 8u) & 0x7fff00u) | one, scale, e[30 - 2 * $p]);
    closest = min(closest, abs(d));
    kept = (kept << 1u) | (bitcast<u32>(d) >> 31u);
    signs = (signs << 1u) | (e[30 - 2 * $p] >> 31u);
#end
    if (closest <= guess_margin(scale) || params.exact != 0u) {
        kept = 0u;
        for (var i = params.zero; i < 32u; i++) {
            let value = magnitude(element(32u * g + i));
            let used = select(value, 0u, out_of_range(value));
            kept |= select(0u, 1u << i, keep(used, s, draw(w, i)));
        }
    }
    let planes = vec2<u32>(kept & ~signs, kept & signs);
#if VECTOR
    words[params.words / 2u + g] = planes;
#else
    words[params.words + 2u * g] = planes.x;
    words[params.words + 2u * g + 1u] = planes.y;
#end
    if ((g & ((1u << params.shift) - 1u)) == 0u) {
        store_scale(g >> params.shift, s);
    }
}
