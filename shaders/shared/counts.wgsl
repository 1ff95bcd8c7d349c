// Integer counts of 4, 8, 16 or 32 bits in two's complement: sums of all fields of a word at once.
#if BITS4
const TOPS: u32 = 0x88888888u;
#end
#if BITS8
const TOPS: u32 = 0x80808080u;
#end
#if BITS16
const TOPS: u32 = 0x80008000u;
#end
#if BITS32
const TOPS: u32 = 0x80000000u;
#end

// a + b field by field, wrapping within a field.
fn add_counts(a: u32, b: u32) -> u32 {
    return ((a & ~TOPS) + (b & ~TOPS)) ^ ((a ^ b) & TOPS);
}

// Bit i of as many bits as a word has fields, to the lowest bit of field i.
fn spread(bits: u32) -> u32 {
    var v = bits;
#if BITS4
    v = (v | (v << 12u)) & 0x000f000fu;
    v = (v | (v << 6u)) & 0x03030303u;
    v = (v | (v << 3u)) & 0x11111111u;
#end
#if BITS8
    v = (v | (v << 14u)) & 0x00030003u;
    v = (v | (v << 7u)) & 0x01010101u;
#end
#if BITS16
    v = (v | (v << 15u)) & 0x00010001u;
#end
    return v;
}
