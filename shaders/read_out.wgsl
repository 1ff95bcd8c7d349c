// Read out: levels or counts to floats, (l s) factor.
//
// Mirrors: src/numerics/level.rs (read_out), src/op/read_out.rs.
// Launch: a thread 16 bytes of output (VECTOR) or a word, 128 threads a workgroup.
// Buffers: levels, 2, 4, 8, 16 or 32 words a group of 32; scales, 1 half-word a block; out, n elements; guards, reports.
// Determinism: cross-backend.
// Bytes an element: bits / 8 + 2 / block in, 4 (f32) or 2 out.
#include dispatch
#include level
#include read_level
#include level_at
#include scales_read
#include output
struct ReadOutParams {
    zero: u32,       // always 0, which no compiler can know
    n: u32,          // elements in the piece
    levels: u32,     // where it begins in its binding, in words
    scales: u32,     // where it begins in its binding, in half-words
    out: u32,        // where it begins in its binding, in elements
    shift: u32,      // log2 of the groups of 32 in a block
    factor: u32,     // f32 bits
    guarded: u32,    // not 0: the guard is looked at
    guard: u32,      // its slot
}
@group(0) @binding(0) var<uniform> params: ReadOutParams;
@group(0) @binding(1) var<storage, read> levels: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
#if VECTOR
@group(0) @binding(3) var<storage, read_write> out: array<vec4<u32>>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
#end
@group(0) @binding(4) var<storage, read> guards: array<u32>;
var<private> guarded: bool;

#if VECTOR
#if !BITS32
// The levels of unit t.
fn levels_of(t: u32) -> array<i32, UNIT> {
    let first = UNIT * t;
    var l: array<i32, UNIT>;
#if BITS2
    let at = params.levels + first / 32u * 2u;
    let plus = levels[at] >> (first % 32u);
    let minus = levels[at + 1u] >> (first % 32u);
#for i 0 4
    l[$i] = i32((plus >> $iu) & 1u) - i32((minus >> $iu) & 1u);
#end
#if !F32
#for i 4 8
    l[$i] = i32((plus >> $iu) & 1u) - i32((minus >> $iu) & 1u);
#end
#end
#end
#if BITS4
    let w = levels[params.levels + first / 8u] >> (4u * (first % 8u));
#for i 0 4
    l[$i] = bitcast<i32>(w << (28u - 4u * $iu)) >> 28u;
#end
#if !F32
#for i 4 8
    l[$i] = bitcast<i32>(w << (28u - 4u * $iu)) >> 28u;
#end
#end
#end
#if BITS8
    let at = params.levels + first / 4u;
    let w = levels[at];
#for i 0 4
    l[$i] = bitcast<i32>(w << (24u - 8u * $iu)) >> 24u;
#end
#if !F32
    let v = levels[at + 1u];
#for i 0 4
    l[4 + $i] = bitcast<i32>(v << (24u - 8u * $iu)) >> 24u;
#end
#end
#end
#if BITS16
    let at = params.levels + first / 2u;
#for j 0 2
    let w$j = levels[at + $ju];
    l[2 * $j] = bitcast<i32>(w$j << 16u) >> 16u;
    l[2 * $j + 1] = bitcast<i32>(w$j) >> 16u;
#end
#if !F32
#for j 2 4
    let w$j = levels[at + $ju];
    l[2 * $j] = bitcast<i32>(w$j << 16u) >> 16u;
    l[2 * $j + 1] = bitcast<i32>(w$j) >> 16u;
#end
#end
#end
    return l;
}
#end
#end

fn out_element(i: u32) -> u32 {
    if (guarded) {
        return 0x7fffffffu;
    }
    return read_level(level_at(i), scale_at(i >> (params.shift + 5u)), params.factor);
}

// (l s) factor where it is 0 or far from what floats leave open.
fn quick(l: i32, s: u32) -> u32 {
    let v = value(l, s) ^ params.zero;
    let r = bitcast<u32>(bitcast<f32>(v) * bitcast<f32>(params.factor));
    return select(r, (bitcast<u32>(l) ^ params.factor) & 0x80000000u, l == 0 || s == 0u);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    guarded = params.guarded != 0u && (guards[4u * params.guard] | guards[4u * params.guard + 1u]) != 0u;
    none = count.z - 1u;
    let t = workgroup_index(id, count) * 128u + lane;
#if VECTOR
#if !SOFT
#if !BITS32
    if (whole_unit(t) && !guarded) {
        let s = scale_at((UNIT * t) >> (params.shift + 5u));
        // With |l| up to 2^15 and the product of scale and factor from 2^-120 to 2^100, nothing comes near a
        // subnormal or Inf; a scale of 0 is as good.
        let exponent = (s >> 23u) + ((params.factor >> 23u) & 0xffu);
        if (s == 0u || (s < 0x70000000u && exponent >= 134u && exponent < 354u)) {
            let l = levels_of(t);
            var e: array<u32, UNIT>;
#for i 0 4
            e[$i] = quick(l[$i], s);
#end
#if !F32
#for i 4 8
            e[$i] = quick(l[$i], s);
#end
#end
            store_whole(t, e);
            return;
        }
    }
#end
#end
#end
    store_unit(t);
}
