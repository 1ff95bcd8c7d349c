// What updates share: the gradient of an element, the guards of the call, how bf16 weights are rounded.
#include ieee
#if DENSE
fn gradient_at(i: u32) -> u32 {
    return ieee_mul(levels[params.levels + i], params.factor);
}
#else
#include level_at
fn gradient_at(i: u32) -> u32 {
    return read_level(level_at(i), scale_at(i >> (params.shift + 5u)), params.factor);
}
#end
var<workgroup> guarded: atomic<u32>;

fn finite(bits: u32) -> bool {
    return (bits & INF) != INF;
}

// Whether any guard counts non-finite elements, looked at by a workgroup of `lanes`: nothing is then written.
fn any_guard(lane: u32, lanes: u32) -> bool {
    if (lane == 0u) {
        atomicStore(&guarded, 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < params.guards; i += lanes) {
        if ((guards[4u * i] | guards[4u * i + 1u]) != 0u) {
            atomicStore(&guarded, 1u);
        }
    }
    workgroupBarrier();
    return atomicLoad(&guarded) != 0u;
}

#if BF16
// Up in magnitude if the upper 16 bits of the draw are below the 16 bits that are dropped. As f32 bits.
fn to_bf16(bits: u32, k: u32) -> u32 {
    if (!finite(bits)) {
        return bits & 0xffff0000u;
    }
    return ((bits >> 16u) + u32((k >> 7u) < (bits & 0xffffu))) << 16u;
}
#end
