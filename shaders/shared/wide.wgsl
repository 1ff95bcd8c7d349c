// 64-bit integers as pairs, low word in x. Exact; used where a sum or a quotient needs them, once a group.
fn wide(low: u32) -> vec2<u32> {
    return vec2<u32>(low, 0u);
}

fn wide_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + u32(low < a.x));
}

fn wide_sub(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - u32(a.x < b.x));
}

fn wide_below(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// a 2^by, by < 64.
fn wide_left(a: vec2<u32>, by: u32) -> vec2<u32> {
    if (by == 0u) {
        return a;
    }
    if (by >= 32u) {
        return vec2<u32>(0u, a.x << (by - 32u));
    }
    return vec2<u32>(a.x << by, (a.y << by) | (a.x >> (32u - by)));
}

// floor(a / 2^by), by < 64.
fn wide_right(a: vec2<u32>, by: u32) -> vec2<u32> {
    if (by == 0u) {
        return a;
    }
    if (by >= 32u) {
        return vec2<u32>(a.y >> (by - 32u), 0u);
    }
    return vec2<u32>((a.x >> by) | (a.y << (32u - by)), a.y >> by);
}

// The position of the highest bit of a number that is not 0.
fn wide_top(a: vec2<u32>) -> u32 {
    return select(firstLeadingBit(a.x), 32u + firstLeadingBit(a.y), a.y != 0u);
}

// The 64-bit product.
fn mul_wide(a: u32, b: u32) -> vec2<u32> {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let cross = al * bh + (mid & 0xffffu);
    return vec2<u32>(a * b, ah * bh + (mid >> 16u) + (cross >> 16u));
}

// floor(a / b) for a quotient below 2^32, b not 0 and below 2^63.
fn wide_div(a: vec2<u32>, b: vec2<u32>) -> u32 {
    var q = 0u;
    var rest = vec2<u32>(0u);
    for (var i = 0u; i < 64u; i++) {
        rest = wide_left(rest, 1u);
        rest.x |= wide_right(a, 63u - i).x & 1u;
        q <<= 1u;
        if (!wide_below(rest, b)) {
            rest = wide_sub(rest, b);
            q |= 1u;
        }
    }
    return q;
}
