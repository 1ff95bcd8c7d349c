// Floats of any of the three types into words at any element offset. A thread writes four words with VECTOR (the
// offset is then a multiple of 16 bytes), one otherwise; an element that shares a word with something outside the
// view leaves that half as it was. The shader declares `out` and `out_element(i) -> u32`, the f32 bits of element i,
// for `store_unit`, which takes any unit in its time; whole units of one scale are quicker made by the shader itself.
#include float
#if F32
const PER_WORD: u32 = 1u;
#else
const PER_WORD: u32 = 2u;
#end

// Always 0, which no compiler knows: the shader sets it from the dispatch's third dimension, which is 1. A uniform would
// do as well, but Mesa's software driver compiles anew for each value that a loop starts from.
var<private> none: u32;
// Elements in 16 bytes.
const UNIT: u32 = 4u * PER_WORD;

// What would become Inf becomes the largest finite number; a NaN, whose magnitude lies above that of Inf, stays one.
#if F32
const MOST: u32 = 0x7f7fffffu;
#end
#if F16
const MOST: u32 = 0x477fe000u;
#end
#if BF16
const MOST: u32 = 0x7f7f0000u;
#end
fn saturated(bits: u32) -> u32 {
    let m = bits & 0x7fffffffu;
    return select(bits, (bits & 0x80000000u) | MOST, m > MOST && m <= 0x7f800000u);
}

fn narrow(bits: u32) -> u32 {
#if F32
    return saturated(bits);
#end
#if F16
    return f32_to_f16(saturated(bits));
#end
#if BF16
    return f32_to_bf16(saturated(bits));
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
    let at = params.out / UNIT + t;
    var words = out[at];
    for (var j = none; j < 4u; j++) {
        words[j] = unit_word(first + i32(PER_WORD * j), words[j]);
    }
    out[at] = words;
#else
    let at = params.out / PER_WORD + t;
    out[at] = unit_word(first, out[at]);
#end
}

#if VECTOR
// Whether unit t lies in the view as a whole.
fn whole_unit(t: u32) -> bool {
    return UNIT * t + UNIT <= params.n;
}

// Stores a whole unit given as f32 bits, none of them NaN, nor above the largest bf16.
fn store_whole(t: u32, e: array<u32, UNIT>) {
#if F32
    out[params.out / UNIT + t] = vec4<u32>(e[0], e[1], e[2], e[3]);
#else
    out[params.out / UNIT + t] = vec4<u32>(
#for i 0 4
        pair(e[2 * $i], e[2 * $i + 1]),
#end
    );
#end
}

#if F16
fn pair(a: u32, b: u32) -> u32 {
    return narrow(a) | (narrow(b) << 16u);
}
#end
#if BF16
fn pair(a: u32, b: u32) -> u32 {
    let low = a + 0x7fffu + ((a >> 16u) & 1u);
    let high = b + 0x7fffu + ((b >> 16u) & 1u);
    return (low >> 16u) | (high & 0xffff0000u);
}
#end
#end
