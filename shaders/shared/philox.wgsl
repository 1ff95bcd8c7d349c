// Mirrors src/numerics/philox.rs.
const M0: u32 = 0xD2511F53u;
const M1: u32 = 0xCD9E8D57u;
const W0: u32 = 0x9E3779B9u;
const W1: u32 = 0xBB67AE85u;

#if INT64
fn philox_round(c: vec4<u32>, k0: u32, k1: u32) -> vec4<u32> {
    let p0 = u64(M0) * u64(c.x);
    let p1 = u64(M1) * u64(c.z);
    return vec4<u32>(u32(p1 >> 32u) ^ c.y ^ k0, u32(p1), u32(p0 >> 32u) ^ c.w ^ k1, u32(p0));
}
#else
// The high word of the 64-bit product.
fn mul_high(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let cross = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (cross >> 16u);
}

fn philox_round(c: vec4<u32>, k0: u32, k1: u32) -> vec4<u32> {
    return vec4<u32>(mul_high(M1, c.z) ^ c.y ^ k0, M1 * c.z, mul_high(M0, c.x) ^ c.w ^ k1, M0 * c.x);
}
#end

// Philox4x32 with PHILOX_ROUNDS rounds.
fn philox4x32(counter: vec4<u32>, key0: u32, key1: u32) -> vec4<u32> {
    var c = counter;
    var k0 = key0;
    var k1 = key1;
#for r 0 10
    c = philox_round(c, k0, k1);
    k0 += W0;
    k1 += W1;
#end
    return c;
}
const_assert PHILOX_ROUNDS == 10u;
