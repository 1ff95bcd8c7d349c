// Quantize, first pass for groups that are not joined in one workgroup: what each chunk of a group comes to.
//
// Mirrors: src/numerics/threshold.rs (Sum::of_chunk, Moments::of_chunk).
// Launch: a workgroup of 128 threads a chunk, up to 4096 elements from the group's first.
// Buffers: x, n elements, whole chunks; records, 8 words a chunk, written: maximum, total, count, first moment,
// second moment in two parts; rules, 2 words a group, read with ABOVE; reports.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: 4 (f32) or 2 in.
#include dispatch
#include input
#include threshold
#include report
@group(0) @binding(2) var<storage, read_write> records: array<u32>;
@group(0) @binding(3) var<storage, read> rules: array<u32>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;
var<workgroup> largest: atomic<u32>;
var<workgroup> total: atomic<u32>;
var<workgroup> above: atomic<u32>;
var<workgroup> first: atomic<u32>;
var<workgroup> second_low: atomic<u32>;
var<workgroup> second_high: atomic<u32>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let chunk = workgroup_index(id, count);
    if (lane == 0u) {
        atomicStore(&largest, 0u);
        atomicStore(&total, 0u);
        atomicStore(&above, 0u);
        atomicStore(&first, 0u);
        atomicStore(&second_low, 0u);
        atomicStore(&second_high, 0u);
    }
    workgroupBarrier();
    // A workgroup past the last chunk has nothing to read; it stays for the barriers.
    let row = chunk / params.chunks;
    let within = (chunk % params.chunks) * CHUNK;
    let start = row * params.cols + within;
    // The last group may be short.
    let length = select(0u, min(min(CHUNK, params.cols - within), params.n - start), chunk < params.count);
    var m = 0u;
    for (var i = lane; i < length; i += 128u) {
        let a = element(start + i) & 0x7fffffffu;
        if (out_of_range(a)) {
            if (params.mode != 0u) {
                report_found(1u, start + i);
            }
        } else {
            m = max(m, a);
        }
    }
    atomicMax(&largest, m);
    workgroupBarrier();
    let max = atomicLoad(&largest);
#if MOMENTS
    let exponent = chunk_exponent(max);
    var sum = 0u;
    var low = 0u;
    var high = 0u;
    for (var i = lane; i < length; i += 128u) {
        let e = element(start + i);
        let a = e & 0x7fffffffu;
        let q = fixed(select(a, 0u, out_of_range(a)), exponent, SQUARE_BITS);
        sum += select(q, 0u - q, (e >> 31u) == 1u);
        low += (q * q) & 0xffffu;
        high += (q * q) >> 16u;
    }
    atomicAdd(&first, sum);
    atomicAdd(&second_low, low);
    atomicAdd(&second_high, high);
#end
#if SUM|ABOVE
    let exponent = chunk_exponent(max);
    var sum = 0u;
    var taken = 0u;
#if ABOVE
    let limit = select(rules[2u * (params.other + row) + 1u], params.limit, params.head != 0u);
#end
    for (var i = lane; i < length; i += 128u) {
        let a = element(start + i) & 0x7fffffffu;
        let b = select(a, 0u, out_of_range(a) || a < MIN_NORMAL);
#if ABOVE
        if (b > limit) {
            sum += fixed(b, exponent, SUM_BITS);
            taken += 1u;
        }
#else
        sum += fixed(b, exponent, SUM_BITS);
        taken += 1u;
#end
    }
    atomicAdd(&total, sum);
    atomicAdd(&above, taken);
#end
    workgroupBarrier();
    if (lane == 0u && chunk < params.count) {
        let at = 8u * (params.row + chunk);
        records[at] = max;
        records[at + 1u] = atomicLoad(&total);
#if MOMENTS
        records[at + 2u] = length;
#else
        records[at + 2u] = atomicLoad(&above);
#end
        records[at + 3u] = atomicLoad(&first);
        records[at + 4u] = atomicLoad(&second_low);
        records[at + 5u] = atomicLoad(&second_high);
    }
}
