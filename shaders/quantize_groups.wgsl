// Quantize, last pass for groups that are not joined in one workgroup: trits under the groups' rules.
//
// Mirrors: src/numerics/{draw,trit}.rs.
// Launch: a thread a group of 32 elements, 128 threads a workgroup.
// Buffers: x, n elements; words, 2 a group of 32; rules, 2 words a scale group; reports.
// Determinism: cross-backend.
// Bytes an element: 4 (f32) or 2 in, 1/4 out.
#include dispatch
#include input
#include rows
#include draw
#include guess
#include report
struct GroupsParams {
    found: Found,
    draws: Draws,
    zero: u32,          // always 0, which no compiler can know
    n: u32,             // elements in the piece
    x: u32,             // where it begins in its binding, in elements
    words: u32,         // where it begins in its binding, in words
    first_rule: u32,    // the rule of the piece's first group
    columns: u32,       // elements in a scale group that is no block, or 0
    head: u32,          // elements of the piece before the second group begins
    given: u32,         // not 0: the limit is given
    limit: u32,         // magnitude bits
}
@group(0) @binding(0) var<uniform> params: GroupsParams;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read> rules: array<u32>;
@group(0) @binding(4) var<storage, read_write> reports: array<atomic<u32>>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let g = workgroup_index(id, count) * 128u + lane;
    if (32u * g >= params.n) {
        return;
    }
    var e = load_group(g);
    var kept = 0u;
    var signs = 0u;
#for i 0 32
    if ((e[$i] & 0x7fffffffu) < MIN_NORMAL || out_of_range(e[$i] & 0x7fffffffu)) {
        e[$i] = 0u;
    }
    signs |= (e[$i] >> 31u) << $iu;
#end
    let last = min(32u * g + 31u, params.n - 1u);
    let one_group = group_of(32u * g) == group_of(last);
    let at = 2u * (params.first_rule + group_of(32u * g));
#if ABOVE
    if (params.given != 0u || one_group) {
        let limit = select(rules[at + 1u], params.limit, params.given != 0u);
#for i 0 32
        kept |= select(0u, 1u << $iu, above(e[$i] & 0x7fffffffu, limit));
#end
    } else {
        for (var i = params.zero; i < 32u; i++) {
            let m = element(32u * g + i) & 0x7fffffffu;
            let used = select(m, 0u, m < MIN_NORMAL || out_of_range(m));
            kept |= select(0u, 1u << i, above(used, rules[2u * (params.first_rule + group_of(min(32u * g + i, last))) + 1u]));
        }
    }
#else
    let w = group_words(g);
    var clipped = 0u;
    var again = params.draws.exact != 0u || !one_group;
    if (!again) {
        let clip = rules[at + 1u];
#for i 0 32
        clipped += u32((e[$i] & 0x7fffffffu) > clip);
        e[$i] = min(e[$i] & 0x7fffffffu, clip);
#end
        let guess = guess_group(e, w, rules[at]);
        kept = guess.kept;
        again = guess.open != 0u;
    }
    if (again) {
        kept = 0u;
        clipped = 0u;
        for (var i = params.zero; i < 32u; i++) {
            let rule = 2u * (params.first_rule + group_of(min(32u * g + i, last)));
            let m = element(32u * g + i) & 0x7fffffffu;
            let used = select(m, 0u, m < MIN_NORMAL || out_of_range(m));
            let clip = rules[rule + 1u];
            clipped += u32(used > clip);
            kept |= select(0u, 1u << i, keep(min(used, clip), rules[rule], draw(w, i)));
        }
    }
    if (clipped != 0u) {
        report_clipped(clipped);
    }
#end
    words[params.words + 2u * g] = kept & ~signs;
    words[params.words + 2u * g + 1u] = kept & signs;
}
