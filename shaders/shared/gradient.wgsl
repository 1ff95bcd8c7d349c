// A group of gradients times the weight.
#include input
#include level

// Element i times the weight, in integers.
fn weighted_element(i: u32) -> u32 {
    return weighted(element(i), params.weight);
}

// Subnormals become 0, in integers.
fn flush(e: ptr<function, array<u32, 32>>) {
#for i 0 32
    (*e)[$i] = select((*e)[$i], 0u, ((*e)[$i] & 0x7fffffffu) < MIN_NORMAL);
#end
}

// The 32 products of group g, zeros past the end. A product that is zero or subnormal is 0; under a weight of 1 the
// elements come as they are, subnormals included.
fn load_weighted(g: u32) -> array<u32, 32> {
    var e = load_group(g);
    if (params.weight == 0x3f800000u) {
        return e;
    }
    if (params.weight == 0u) {
        return array<u32, 32>();
    }
    var smallest = 0xffffffffu;
#for i 0 32
    {
        let none = (e[$i] & 0x7fffffffu) < MIN_NORMAL;
        let p = product(e[$i], params.weight);
        smallest = min(smallest, select(p & 0x7fffffffu, 0xffffffffu, none));
        e[$i] = select(p, 0u, none);
    }
#end
    if (smallest < 0x01000000u) {
        for (var i = params.zero; i < 32u; i++) {
            let p = weighted_element(32u * g + i);
#for j 0 32
            e[$j] = select(e[$j], p, i == $ju);
#end
        }
    }
    return e;
}
