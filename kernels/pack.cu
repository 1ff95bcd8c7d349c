// Pack and convert: i8 trits, separate planes and 2-bit fields, from and to planes. Mirrors src/op/pack.rs and
// src/cpu/pack.rs.
//
// Launch: a thread for each group of 32 elements, 128 to a CTA. Determinism: cross-backend.
#include "pack.cuh"
#include "report.cuh"

struct Pack {
    const void* from;
    void* to;
    const void* from2;  // join_planes: the minus plane
    void* to2;          // split_planes: the minus plane
    Report* report;
    uint64_t n;         // elements
};

__device__ __forceinline__ uint64_t group_id() { return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// n trits of one byte to 2 ceil(n / 32) words; a byte outside -1..=1 becomes 0 and is reported.
extern "C" __global__ void __launch_bounds__(128) pack(const __grid_constant__ Pack p) {
    const uint64_t group = group_id(), own = 32 * group;
    uint32_t plus = 0, minus = 0, found = 0;
    uint64_t first = ~0ull;
    if (own < p.n) {
        const int many = static_cast<int>(min(p.n - own, uint64_t(32)));
        const signed char* const trits = static_cast<const signed char*>(p.from) + own;
        for (int e = 0; e < many; ++e) {
            const int t = trits[e];
            plus |= (t == 1 ? 1u : 0u) << e;
            minus |= (t == -1 ? 1u : 0u) << e;
            if (t > 1 || t < -1) {
                found += 1;
                first = min(first, own + e);
            }
        }
        uint32_t* const words = static_cast<uint32_t*>(p.to) + 2 * group;
        words[0] = plus;
        words[1] = minus;
    }
    if (__any_sync(ALL, found != 0)) {
        report(p.report, found, first, 0);
    }
}

// The way back; a pair with both bits becomes 0 and is reported.
extern "C" __global__ void __launch_bounds__(128) unpack(const __grid_constant__ Pack p) {
    const uint64_t group = group_id(), own = 32 * group;
    uint32_t found = 0;
    uint64_t first = ~0ull;
    if (own < p.n) {
        const int many = static_cast<int>(min(p.n - own, uint64_t(32)));
        const uint32_t* const words = static_cast<const uint32_t*>(p.from) + 2 * group;
        const uint32_t both = words[0] & words[1] & (ALL >> (32 - many));
        const uint32_t plus = words[0] & ~words[1], minus = words[1] & ~words[0];
        signed char* const trits = static_cast<signed char*>(p.to) + own;
        for (int e = 0; e < many; ++e) {
            trits[e] = static_cast<signed char>(static_cast<int>(plus >> e & 1u) - static_cast<int>(minus >> e & 1u));
        }
        if (both) {
            found = __popc(both);
            first = own + __ffs(static_cast<int>(both)) - 1;
        }
    }
    if (__any_sync(ALL, found != 0)) {
        report(p.report, found, first, 0);
    }
}

extern "C" __global__ void __launch_bounds__(128) split_planes(const __grid_constant__ Pack p) {
    const uint64_t group = group_id();
    if (32 * group < p.n) {
        static_cast<uint32_t*>(p.to)[group] = static_cast<const uint32_t*>(p.from)[2 * group];
        static_cast<uint32_t*>(p.to2)[group] = static_cast<const uint32_t*>(p.from)[2 * group + 1];
    }
}

extern "C" __global__ void __launch_bounds__(128) join_planes(const __grid_constant__ Pack p) {
    const uint64_t group = group_id();
    if (32 * group < p.n) {
        static_cast<uint32_t*>(p.to)[2 * group] = static_cast<const uint32_t*>(p.from)[group];
        static_cast<uint32_t*>(p.to)[2 * group + 1] = static_cast<const uint32_t*>(p.from2)[group];
    }
}

extern "C" __global__ void __launch_bounds__(128) planes_to_fields(const __grid_constant__ Pack p) {
    const uint64_t group = group_id();
    if (32 * group < p.n) {
        const uint32_t* const from = static_cast<const uint32_t*>(p.from) + 2 * group;
        const uint2 fields = planes_to_fields(from[0], from[1]);
        static_cast<uint32_t*>(p.to)[2 * group] = fields.x;
        static_cast<uint32_t*>(p.to)[2 * group + 1] = fields.y;
    }
}

extern "C" __global__ void __launch_bounds__(128) fields_to_planes(const __grid_constant__ Pack p) {
    const uint64_t group = group_id();
    if (32 * group < p.n) {
        const uint32_t* const from = static_cast<const uint32_t*>(p.from) + 2 * group;
        const uint2 planes = fields_to_planes(make_uint2(from[0], from[1]));
        static_cast<uint32_t*>(p.to)[2 * group] = planes.x;
        static_cast<uint32_t*>(p.to)[2 * group + 1] = planes.y;
    }
}
