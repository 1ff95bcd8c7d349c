// The maximum over a block, known to every thread of it: a block is 2^shift consecutive threads. With SUBGROUP these
// lie in one subgroup (the host has checked sizes and order); otherwise they meet in workgroup memory.
#if SUBGROUP
fn block_max(lane: u32, value: u32) -> u32 {
    var m = value;
#for d 0 5
    if (params.shift > $du) {
        m = max(m, subgroupShuffleXor(m, 1u << $du));
    }
#end
    return m;
}
#else
var<workgroup> block_maxima: array<u32, 128>;
fn block_max(lane: u32, value: u32) -> u32 {
    var m = value;
#for d 0 7
    if (params.shift > $du) {
        block_maxima[lane] = m;
        workgroupBarrier();
        let partner = block_maxima[lane ^ (1u << $du)];
        workgroupBarrier();
        m = max(m, partner);
    }
#end
    return m;
}
#end
