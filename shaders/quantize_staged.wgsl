// Quantize, stochastic, f32, one scale a block of 32 to 1024: as quantize.wgsl, with loads that go through workgroup
// memory. A warp then reads 512 consecutive bytes an instruction instead of 16 in each of 32 places; on an H100 this
// is 7% of the time. 16-bit elements gain nothing by it, and on software drivers barriers cost more than loads.
//
// Mirrors: src/numerics/{draw,scale,trit}.rs.
// Launch: a thread a group of 32 elements, 64 threads a workgroup; a block lies within a subgroup.
// Buffers: x, n elements, aligned to 16 bytes; words, 2 a group; scales, 1 half-word a block; reports.
// Determinism: cross-backend; nothing depends on the launch.
// Bytes an element: 4 in, 1/4 + 2 / block out.
#include dispatch
#include quantize_group
const THREADS: u32 = 64u;
var<workgroup> stage: array<vec4<u32>, 512>;

// Where piece p of 16 bytes lies: turned within its thread's eight, so that neither writes nor reads meet in a bank.
fn place(p: u32) -> u32 {
    return p ^ ((p >> 3u) & 7u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = workgroup_index(id, count) * THREADS;
    let g = first + lane;
    // Pieces past the last are the last again; their elements are cut off below.
    let base = params.x / 4u + 8u * first + lane;
    let last = (params.x + params.n - 1u) / 4u;
#for i 0 8
    let v$i = x[min(base + $iu * THREADS, last)];
#end
    let w = group_words(g);
#for i 0 8
    stage[place($iu * THREADS + lane)] = v$i;
#end
    workgroupBarrier();
#for i 0 8
    let own$i = stage[place(8u * lane + $iu)];
#end
    var e = array<u32, 32>(
#for i 0 8
        own$i.x, own$i.y, own$i.z, own$i.w,
#end
    );
    if (32u * g + 32u > params.n) {
#for i 0 32
        e[$i] = select(0u, e[$i], 32u * g + $iu < params.n);
#end
    }
    quantize_group(g, lane, e, w);
}
