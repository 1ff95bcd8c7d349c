// Gradients of any of the three types as f32 bits. Binding 1 is `x`, at any element offset; with VECTOR the offset
// is a multiple of 16 bytes and the binding holds whole vectors.
#include float
#if VECTOR
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
fn word(at: u32) -> u32 {
    return x[at / 4u][at % 4u];
}
#else
@group(0) @binding(1) var<storage, read> x: array<u32>;
fn word(at: u32) -> u32 {
    return x[at];
}
#end

#if BF16
fn widen(h: u32) -> u32 {
    return h << 16u;
}
#end
#if F16
fn widen(h: u32) -> u32 {
    return f16_to_f32(h);
}
#end

// Element i of the piece; 0 past its end.
fn element(i: u32) -> u32 {
    if (i >= params.n) {
        return 0u;
    }
    let at = params.x + i;
#if F32
    return word(at);
#else
    return widen((word(at / 2u) >> (16u * (at % 2u))) & 0xffffu);
#end
}

// The 32 elements of group g of the piece, zeros past its end.
fn load_group(g: u32) -> array<u32, 32> {
    let first = params.x + 32u * g;
#if F32
#if VECTOR
#for v 0 8
    let v$v = x[first / 4u + $vu];
#end
    var e = array<u32, 32>(
#for v 0 8
        v$v.x, v$v.y, v$v.z, v$v.w,
#end
    );
#else
    var e = array<u32, 32>(
#for i 0 32
        x[first + $iu],
#end
    );
#end
#else
#if VECTOR
#for v 0 4
    let v$v = x[first / 8u + $vu];
#end
    let w = array<u32, 16>(
#for v 0 4
        v$v.x, v$v.y, v$v.z, v$v.w,
#end
    );
#else
    // At an odd offset every pair of elements straddles two words.
    let odd = 16u * (first % 2u);
#for i 0 17
    let r$i = x[first / 2u + $iu];
#end
    let w = array<u32, 16>(
#for i 0 16
        joined(r$i, r$(i+1), odd),
#end
    );
#end
    var e = array<u32, 32>(
#for i 0 16
#if BF16
        w[$i] << 16u, w[$i] & 0xffff0000u,
#else
        widen(w[$i] & 0xffffu), widen(w[$i] >> 16u),
#end
#end
    );
#end
    if (32u * g + 32u > params.n) {
#for i 0 32
        if (32u * g + $iu >= params.n) {
            e[$i] = 0u;
        }
#end
    }
    return e;
}

fn joined(low: u32, high: u32, by: u32) -> u32 {
    return select(low, (low >> 16u) | (high << 16u), by != 0u);
}
