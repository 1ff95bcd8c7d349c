// Probe: what an adapter makes of f32 products and sums, and which threads share a subgroup.
//
// Launch: 128 threads a workgroup, the layout of every shader that joins blocks.
// Buffers: pairs, 2 f32 a thread; results, 7 words a thread: product, sum, and the thread whose value an exchange over
// distance 1, 2, 4, 8 and 16 brought.
#include dispatch
struct ProbeParams {
    zero: u32,    // always 0, which no compiler can know
    n: u32,       // threads that have a pair
}
@group(0) @binding(0) var<uniform> params: ProbeParams;
@group(0) @binding(1) var<storage, read> pairs: array<u32>;
@group(0) @binding(2) var<storage, read_write> results: array<u32>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let t = workgroup_index(id, count) * 128u + lane;
#if SUBGROUP
#for d 0 5
    let s$d = subgroupShuffleXor(t, 1u << $du);
#end
#else
#for d 0 5
    let s$d = t;
#end
#end
    if (t >= params.n) {
        return;
    }
    let a = bitcast<f32>(pairs[2u * t]);
    let b = bitcast<f32>(pairs[2u * t + 1u]);
    results[7u * t] = bitcast<u32>(a * b) ^ params.zero;
    results[7u * t + 1u] = bitcast<u32>(a + b) ^ params.zero;
#for d 0 5
    results[7u * t + $(d+1)u + 1u] = s$d;
#end
}
