// Quantize, first pass for groups that are not joined in one workgroup: what each chunk of a group comes to.
//
// Mirrors: src/numerics/threshold.rs (Sum::of_chunk, Moments::of_chunk).
// Launch: a workgroup of 128 threads a chunk, up to 4096 elements from the group's first.
// With VECTOR every chunk begins on 16 bytes. A thread takes 32 elements, PER side by side in every 128 PER.
// Buffers: x, n elements, whole chunks; records, 8 words a chunk, written: maximum, total, count, first moment,
// second moment in two parts; rules, 2 words a group, read with ABOVE; reports.
// Determinism: cross-backend; integer sums have no order.
// Bytes an element: 4 (f32) or 2 in.
#include dispatch
#include input
#include threshold
#include report
struct SumsParams {
    found: Found,
    zero: u32,            // always 0, which no compiler can know
    n: u32,               // elements in the piece
    x: u32,               // where it begins in its binding, in elements
    columns: u32,         // elements in a full group of the piece
    chunks: u32,          // of a group
    count: u32,           // chunks in the piece
    first_record: u32,    // the record of the piece's first chunk
    first_rule: u32,      // the rule of the piece's first group
    given: u32,           // not 0: the limit is given
    limit: u32,           // magnitude bits
    reports: u32,         // not 0: elements out of range are reported
}
@group(0) @binding(0) var<uniform> params: SumsParams;
@group(0) @binding(2) var<storage, read_write> records: array<u32>;
@group(0) @binding(3) var<storage, read> rules: array<u32>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;
var<workgroup> largest: atomic<u32>;
var<workgroup> total: atomic<u32>;
var<workgroup> above: atomic<u32>;
var<workgroup> first: atomic<u32>;
var<workgroup> second_low: atomic<u32>;
var<workgroup> second_high: atomic<u32>;

#if VECTOR
#if F32
const PER: u32 = 4u;
#else
const PER: u32 = 8u;
#end
#else
const PER: u32 = 1u;
#end

// A thread's 32 elements of a chunk, zeros past its end.
fn load_share(start: u32, length: u32, lane: u32) -> array<u32, 32> {
    var e: array<u32, 32>;
    if (length == 0u) {
        return e;
    }
#if VECTOR
    let base = (params.x + start) / PER;
    let last = (params.x + start + length - 1u) / PER;
#if F32
#for i 0 8
    {
        let v = x[min(base + 128u * $iu + lane, last)];
#for c 0 4
        e[4 * $i + $c] = v[$c];
#end
    }
#end
#else
#for i 0 4
    {
        let v = x[min(base + 128u * $iu + lane, last)];
#for c 0 4
#if BF16
        e[8 * $i + 2 * $c] = v[$c] << 16u;
        e[8 * $i + 2 * $c + 1] = v[$c] & 0xffff0000u;
#else
        e[8 * $i + 2 * $c] = widen(v[$c] & 0xffffu);
        e[8 * $i + 2 * $c + 1] = widen(v[$c] >> 16u);
#end
#end
    }
#end
#end
    if (length < 4096u) {
#for i 0 32
        e[$i] = select(0u, e[$i], ($iu / PER * 128u + lane) * PER + $iu % PER < length);
#end
    }
#else
#for i 0 32
    if ($iu * 128u + lane < length) {
        e[$i] = element(start + $iu * 128u + lane);
    }
#end
#end
    return e;
}

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
    let start = row * params.columns + within;
    // The last group may be short.
    let length = select(0u, min(min(CHUNK, params.columns - within), params.n - start), chunk < params.count);
    var e = load_share(start, length, lane);
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
        for (var i = params.zero; i < 32u / PER && params.reports != 0u; i++) {
            let here = (found >> (PER * i)) & ((1u << PER) - 1u);
            if (here != 0u) {
                report_found(here, start + (128u * i + lane) * PER);
            }
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
#for i 0 32
    {
        let q = fixed(e[$i] & 0x7fffffffu, exponent, SQUARE_BITS);
        sum += select(q, 0u - q, (e[$i] >> 31u) == 1u);
        low += (q * q) & 0xffffu;
        high += (q * q) >> 16u;
    }
#end
    atomicAdd(&first, sum);
    atomicAdd(&second_low, low);
    atomicAdd(&second_high, high);
#end
#if SUM|ABOVE
    let exponent = chunk_exponent(max);
    var sum = 0u;
#if ABOVE
    var taken = 0u;
    let limit = select(rules[2u * (params.first_rule + row) + 1u], params.limit, params.given != 0u);
#end
#for i 0 32
    {
        let a = e[$i] & 0x7fffffffu;
        let b = select(a, 0u, a < MIN_NORMAL);
#if ABOVE
        if (b > limit) {
            sum += fixed(b, exponent, SUM_BITS);
            taken += 1u;
        }
#else
        sum += fixed(b, exponent, SUM_BITS);
#end
    }
#end
    atomicAdd(&total, sum);
#if ABOVE
    atomicAdd(&above, taken);
#end
#end
    workgroupBarrier();
    if (lane == 0u && chunk < params.count) {
        let at = 8u * (params.first_record + chunk);
        records[at] = max;
        records[at + 1u] = atomicLoad(&total);
#if MOMENTS|SUM
        records[at + 2u] = length;
#else
        records[at + 2u] = atomicLoad(&above);
#end
        records[at + 3u] = atomicLoad(&first);
        records[at + 4u] = atomicLoad(&second_low);
        records[at + 5u] = atomicLoad(&second_high);
    }
}
