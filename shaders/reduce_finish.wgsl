// Reduce, last pass: the bins of an exact sum, shifted to their places, are added to a slot of the sums, and carries done.
//
// Mirrors: src/numerics/reduce.rs (add_at, carry, to_words).
// Launch: one workgroup of 128 threads.
// Buffers: bins, 3 words each; sums, SUM_WORDS words a slot, lowest first, in two's complement, read and written.
// Determinism: cross-backend.
#include dispatch
#include wide
struct FinishParams {
    sums: u32,    // where the slot begins in its binding, in words
    bins: u32,    // where it begins in its binding, in words
    base: u32,    // the bit that bin 0 begins at
}
@group(0) @binding(0) var<uniform> params: FinishParams;
@group(0) @binding(1) var<storage, read> bins: array<u32>;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;
const BINS: u32 = 544u;
// The largest bit that a term may begin at.
const BIT_MAX: u32 = 32u * (SUM_WORDS - 2u) - 1u;
// What comes to each word, and how often that went over.
var<workgroup> low: array<atomic<u32>, 20>;
var<workgroup> high: array<atomic<u32>, 20>;

fn add_word(at: u32, value: u32) {
    if (at < SUM_WORDS && value != 0u) {
        let before = atomicAdd(&low[at], value);
        if (before + value < before) {
            atomicAdd(&high[at], 1u);
        }
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if (lane < SUM_WORDS) {
        atomicStore(&low[lane], 0u);
        atomicStore(&high[lane], 0u);
    }
    workgroupBarrier();
    for (var bin = lane; bin < BINS && workgroup_index(id, count) == 0u; bin += 128u) {
        let at = params.bins + 3u * bin;
        let a = bins[at];
        let b = bins[at + 1u];
        let c = bins[at + 2u];
        if ((a | b | c) == 0u) {
            continue;
        }
        let bit = min(params.base + bin, BIT_MAX);
        let word = bit / 32u;
        let by = bit % 32u;
        // A negative number goes on with ones to the top.
        let sign = 0u - (c >> 31u);
        add_word(word, a << by);
        add_word(word + 1u, wide_left(vec2<u32>(a, b), by).y);
        add_word(word + 2u, wide_left(vec2<u32>(b, c), by).y);
        add_word(word + 3u, wide_left(vec2<u32>(c, sign), by).y);
        for (var i = word + 4u; i < SUM_WORDS && sign != 0u; i++) {
            add_word(i, sign);
        }
    }
    workgroupBarrier();
    if (lane == 0u && workgroup_index(id, count) == 0u) {
        var carry = 0u;
        for (var i = 0u; i < SUM_WORDS; i++) {
            let at = params.sums + i;
            let sum = wide_add(wide_add(wide(sums[at]), wide(atomicLoad(&low[i]))), wide(carry));
            sums[at] = sum.x;
            carry = sum.y + atomicLoad(&high[i]);
        }
    }
}
