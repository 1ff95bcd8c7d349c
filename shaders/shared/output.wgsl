// Floats of any of the three types into words at any element offset. A thread writes four words with VECTOR (the
// offset is then a multiple of 16 bytes), one otherwise; an element that shares a word with something outside the
// view leaves that half as it was. The shader declares `out` and `out_element(i) -> u32`, the f32 bits of element i.
#include params
#include float
#if F32
const PER_WORD: u32 = 1u;
#else
const PER_WORD: u32 = 2u;
#end

fn narrow(bits: u32) -> u32 {
#if F32
    return bits;
#end
#if F16
    return f32_to_f16(bits);
#end
#if BF16
    return f32_to_bf16(bits);
#end
}

// Where unit t, a word or four, begins: its first element, which lies before the view at its beginning.
fn unit_first(t: u32) -> i32 {
#if VECTOR
    return i32(4u * PER_WORD * t);
#else
    return i32(PER_WORD * t) - i32(params.out % PER_WORD);
#end
}

// What a word holds outside the view is `old`.
fn unit_word(first: i32, old: u32) -> u32 {
#if F32
    return select(old, out_element(u32(first)), first >= 0 && u32(first) < params.n);
#else
    var value = old;
    if (first >= 0 && u32(first) < params.n) {
        value = (value & 0xffff0000u) | narrow(out_element(u32(first)));
    }
    if (first + 1 >= 0 && u32(first + 1) < params.n) {
        value = (value & 0xffffu) | (narrow(out_element(u32(first + 1))) << 16u);
    }
    return value;
#end
}

fn store_unit(t: u32) {
    let first = unit_first(t);
    if (first >= i32(params.n)) {
        return;
    }
#if VECTOR
    let at = params.out / (4u * PER_WORD) + t;
    if (u32(first) + 4u * PER_WORD <= params.n) {
#if F32
        out[at] = vec4<u32>(
            out_element(u32(first)), out_element(u32(first) + 1u),
            out_element(u32(first) + 2u), out_element(u32(first) + 3u),
        );
#else
        out[at] = vec4<u32>(
            unit_word(first, 0u), unit_word(first + 2, 0u), unit_word(first + 4, 0u), unit_word(first + 6, 0u),
        );
#end
    } else {
        let old = out[at];
        let step = i32(PER_WORD);
        out[at] = vec4<u32>(
            unit_word(first, old.x), unit_word(first + step, old.y),
            unit_word(first + 2 * step, old.z), unit_word(first + 3 * step, old.w),
        );
    }
#else
    let at = params.out / PER_WORD + t;
    out[at] = unit_word(first, out[at]);
#end
}
