//! Frozen outputs: see tests/goldens/README.md.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::numerics::reduce::{ExactSum, SUM_WORDS};
use trigrad::op::accumulate::{Adaptive, AdaptiveItem, Exact, ExactItem, F32, F32Item};
use trigrad::op::check::{self, Check};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::pack::{PlanesToFields, PlanesToFieldsItem, Unpack, UnpackItem};
use trigrad::op::quantize::{self, Quantize, Rule, Threshold};
use trigrad::op::read_out::{self, ReadOut, ReadOutF32};
use trigrad::op::reduce::{
    CountNonzero, CountNonzeroItem, Dot, DotItem, SquaredNorm, SquaredNormF32, SquaredNormF32Item, SquaredNormItem,
};
use trigrad::op::window::{Look, LookItem, Merge, MergeItem, WindowScales, WindowScalesItem};
use trigrad::op::{Backend, BlockSize, Draw, Element, Grouping, Report};
use trigrad::testing::Reference;

/// FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// Numbers as little-endian bytes, on any machine.
trait Bytes {
    fn little_endian(&self) -> Vec<u8>;
}

impl Bytes for [u32] {
    fn little_endian(&self) -> Vec<u8> {
        self.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

impl Bytes for [u16] {
    fn little_endian(&self) -> Vec<u8> {
        self.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

fn float_bytes<T: Element>(x: &[T]) -> Vec<u8> {
    let narrow = size_of::<T>() == 2;
    // Outputs of the operations: exact in both directions.
    let bits = |x: &T| {
        if narrow { bytemuck::cast_slice::<T, u16>(std::slice::from_ref(x))[0].into() } else { x.to_f32_bits() }
    };
    x.iter().flat_map(|x| bits(x).to_le_bytes()).collect()
}

/// Inputs: a linear congruential generator (Numerical Recipes), shaped by shifts only; now and then something odd.
fn inputs<T: Element>(seed: u32, n: usize) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state ^ (state >> 15)
    };
    let value = |_| {
        let (bits, kind) = (next(), next() >> 16);
        let sign = bits & 0x8000_0000;
        T::from_f32_bits(match kind % 97 {
            0 => sign,
            1 => sign | (bits & 0x007f_ffff),
            2 => sign | 0x7f80_0000 | (bits & 0x007f_ffff),
            3 => sign | 0x7e7f_0000 | (bits & 0x0001_ffff),
            4 => sign | (0x1200_0000 + (bits & 0x00ff_ffff)),
            _ => sign | (0x3a00_0000 + (bits & 0x03ff_ffff)),
        })
    };
    (0..n).map(value).collect()
}

fn report(r: Report) -> Value {
    json!({ "non_finite": r.non_finite, "first": r.first, "clipped": r.clipped })
}

/// The sum that an operation adds to a slot of zeros.
fn summed(operation: impl FnOnce(&mut [u32])) -> ExactSum {
    let mut words = [0; SUM_WORDS];
    operation(&mut words);
    ExactSum::from_words(&words)
}

fn rounded(sum: &ExactSum) -> String {
    format!("{:016x}", sum.to_f64().to_bits())
}

const N: usize = 9001;

macro_rules! produce {
    ($name:ident, $backend:expr) => {
        fn $name() -> Map<String, Value> {
            let mut out = Map::new();
            typed::<f32>(&mut out, "f32");
            typed::<half::f16>(&mut out, "f16");
            typed::<half::bf16>(&mut out, "bf16");
            untyped(&mut out);
            return out;

            /// Rows begin where a part does.
            fn first(op: &Quantize) -> u64 {
                4096 * if let Grouping::Row(cols) = op.grouping { cols } else { 1 }
            }

            fn packed<T: Element>(op: &Quantize, n: usize, seed: u32) -> (Vec<u32>, Vec<u16>, Report) {
                let x = inputs::<T>(seed, n);
                let (mut w, mut s) = (vec![u32::MAX; words(n, 2)], vec![u16::MAX; op.grouping.groups(n)]);
                let mut r = vec![Report::default()];
                let item =
                    quantize::Item { tensor: 5, first: first(op), x: &x[..], words: &mut w[..], scales: &mut s[..], report: 0 };
                $backend.quantize(op, &mut [item], &mut r).unwrap();
                (w, s, r[0])
            }

            fn typed<T: Element>(out: &mut Map<String, Value>, name: &str) {
                let draw = Draw::new(0x0123_4567_89ab_cdef, 77).micro_batch(3);
                let rules = [
                    ("stochastic", Rule::Stochastic { draw, clip: None }),
                    ("stochastic clip 2.5", Rule::Stochastic { draw, clip: Some(2.5) }),
                    ("given 0.01", Rule::Threshold(Threshold::Given(0.01))),
                    ("mean", Rule::Threshold(Threshold::MEAN_MAGNITUDE)),
                    ("twn", Rule::Threshold(Threshold::TWN)),
                    ("absmean", Rule::Threshold(Threshold::ABSMEAN)),
                ];
                let block = |b| Grouping::Block(BlockSize::new(b).unwrap());
                let groupings = [block(32), block(64), block(4096), Grouping::Row(9001), Grouping::Row(1), Grouping::Tensor];
                for (rule_name, rule) in rules {
                    for grouping in groupings {
                        let op = Quantize { grouping, rule };
                        let (w, s, r) = packed::<T>(&op, N, 1);
                        let mut y = vec![T::from_f32_bits(0); N];
                        let item = dequantize::Item { words: &w[..], scales: &s[..], out: &mut y[..] };
                        $backend.dequantize(&Dequantize { grouping }, &mut [item]).unwrap();
                        let entry = json!({
                            "words": digest(&w.little_endian()), "scales": digest(&s.little_endian()), "report": report(r),
                            "dequantized": digest(&float_bytes(&y)),
                        });
                        out.insert(format!("quantize {name} {rule_name} {grouping:?}"), entry);
                    }
                }
                for (bits, size) in [(2, 32), (2, 64), (4, 64), (4, 4096), (8, 64), (8, 256)] {
                    let block = BlockSize::new(size).unwrap();
                    let (mut l, mut s) = (vec![0u32; words(N, bits)], vec![0u16; block.blocks(N)]);
                    let mut r = vec![Report::default()];
                    for (m, weight) in [1.0, 0.5, -1.0 / 3.0, 1.0].into_iter().enumerate() {
                        let x = inputs::<T>(10 + m as u32, N);
                        let draw = Draw::new(99, 3).micro_batch(m as u32);
                        let item = AdaptiveItem {
                            tensor: 1, first: 0, x: &x[..], levels: &mut l[..], scales: &mut s[..], report: 0,
                        };
                        $backend.accumulate_adaptive(&Adaptive { bits, block, draw, weight }, &mut [item], &mut r).unwrap();
                    }
                    let entry = json!({
                        "levels": digest(&l.little_endian()), "scales": digest(&s.little_endian()), "report": report(r[0]),
                        "read out": digest(&read::<T>(bits, block, &l, &s)),
                    });
                    out.insert(format!("adaptive {name} {bits} bits block {size}"), entry);
                }
                for (bits, size) in [(4, 64), (8, 32), (16, 1024), (32, 64)] {
                    let block = BlockSize::new(size).unwrap();
                    let (mut c, mut seen) = (vec![0u32; words(N, bits)], vec![0u16; block.blocks(N)]);
                    let (mut s, mut r) = (vec![0u16; block.blocks(N)], vec![Report::default()]);
                    let x = inputs::<T>(20, N);
                    let item = LookItem { x: &x[..], seen: &mut seen[..], report: 0 };
                    $backend.look(&Look { block, weight: 1.0 }, &mut [item], &mut r).unwrap();
                    let item = WindowScalesItem { seen: &seen[..], scales: &mut s[..] };
                    $backend.window_scales(&WindowScales { headroom: 1.25, bits }, &mut [item]).unwrap();
                    for (m, weight) in [1.0, 0.5, -1.0 / 3.0].into_iter().enumerate() {
                        let x = inputs::<T>(20 + m as u32, N);
                        let draw = Draw::new(98, 3).micro_batch(m as u32);
                        let op = Exact { bits, block, draw, weight, held: m as u32, headroom: None };
                        let item = ExactItem {
                            tensor: 2, first: 0, x: &x[..], counts: &mut c[..], scales: &mut s[..], seen: &mut seen[..], report: 0,
                        };
                        $backend.accumulate_exact(&op, &mut [item], &mut r).unwrap();
                    }
                    let (other, seen_from) = (c.clone(), seen.clone());
                    let item = MergeItem { from: &other[..], into: &mut c[..], seen_from: &seen_from[..], seen: &mut seen[..] };
                    $backend.merge(&Merge { bits, held: 3, added: 3 }, &mut [item]).unwrap();
                    let op = SquaredNorm { bits, grouping: Grouping::Block(block) };
                    let item = SquaredNormItem { n: N, levels: &c[..], scales: &s[..], sum: 0 };
                    let norm = summed(|sums| $backend.squared_norm(&op, &mut [item], sums).unwrap());
                    let entry = json!({
                        "counts": digest(&c.little_endian()), "scales": digest(&s.little_endian()), "seen": digest(&seen.little_endian()),
                        "report": report(r[0]), "read out": digest(&read::<T>(bits, block, &c, &s)),
                        "squared norm": rounded(&norm),
                    });
                    out.insert(format!("exact {name} {bits} bits block {size}"), entry);
                }
                let (mut sum, mut y, mut r) = (vec![0f32; N], vec![T::from_f32_bits(0); N], vec![Report::default()]);
                for (m, weight) in [1.0, 0.5, -1.0 / 3.0].into_iter().enumerate() {
                    let x = inputs::<T>(60 + m as u32, N);
                    let item = F32Item { first: 3, x: &x[..], sum: &mut sum[..], report: 0 };
                    $backend.accumulate_f32(&F32 { weight }, &mut [item], &mut r).unwrap();
                }
                let item = read_out::F32Item { sum: &sum[..], out: &mut y[..], guard: None };
                $backend.read_out_f32(&ReadOutF32 { factor: 1.0 / 3.0 }, &mut [item], None).unwrap();
                let item = SquaredNormF32Item { x: &sum[..], sum: 0 };
                let norm = summed(|sums| $backend.squared_norm_f32(&SquaredNormF32, &mut [item], sums).unwrap());
                let entry = json!({
                    "sum": digest(&float_bytes(&sum)), "report": report(r[0]), "read out": digest(&float_bytes(&y)),
                    "squared norm": rounded(&norm),
                });
                out.insert(format!("sums in f32 {name}"), entry);
                let (x, mut r) = (inputs::<T>(30, N), vec![Report::default()]);
                let item = check::Item { x: &x[..], first: 10, report: 0 };
                $backend.check(&Check { weight: 3e3 }, &mut [item], &mut r).unwrap();
                out.insert(format!("check {name}"), report(r[0]));
            }

            fn read<T: Element>(bits: u32, block: BlockSize, levels: &[u32], scales: &[u16]) -> Vec<u8> {
                let mut y = vec![T::from_f32_bits(0); N];
                let item = read_out::Item { levels, scales, out: &mut y[..], guard: None };
                $backend.read_out(&ReadOut { bits, block, factor: 1.0 / 3.0 }, &mut [item], None).unwrap();
                float_bytes(&y)
            }

            fn untyped(out: &mut Map<String, Value>) {
                let grouping = Grouping::default();
                let op = Quantize::stochastic(Draw::new(1, 1));
                let ((a, sa, _), (b, sb, _)) = (packed::<f32>(&op, N, 40), packed::<f32>(&op, N, 41));
                let item = DotItem { n: N, words_a: &a[..], scales_a: &sa[..], words_b: &b[..], scales_b: &sb[..], sum: 0 };
                let dot = summed(|sums| $backend.dot(&Dot { grouping }, &mut [item], sums).unwrap());
                let item = SquaredNormItem { n: N, levels: &a[..], scales: &sa[..], sum: 0 };
                let norm = SquaredNorm { bits: 2, grouping };
                let norm = summed(|sums| $backend.squared_norm(&norm, &mut [item], sums).unwrap());
                let item = CountNonzeroItem { words: &a[..], sum: 0 };
                let nonzero = summed(|sums| $backend.count_nonzero(&CountNonzero, &mut [item], sums).unwrap());
                let mut f = vec![0u32; a.len()];
                let item = PlanesToFieldsItem { words: &a[..], fields: &mut f[..] };
                $backend.planes_to_fields(&PlanesToFields, &mut [item]).unwrap();
                let (mut trits, mut r) = (vec![0i8; N], vec![Report::default()]);
                let item = UnpackItem { words: &a[..], trits: &mut trits[..], report: 0 };
                $backend.unpack(&Unpack, &mut [item], &mut r).unwrap();
                let trit_bytes: Vec<u8> = trits.iter().map(|t| *t as u8).collect();
                let entry = json!({
                    "dot": rounded(&dot), "squared norm": rounded(&norm),
                    "nonzero": nonzero.to_count(), "fields": digest(&f.little_endian()), "trits": digest(&trit_bytes),
                });
                out.insert("packed".to_owned(), entry);
                // Full vectors, to be checked by eye.
                let x = inputs::<f32>(50, 40);
                let (w, s, r) = packed::<f32>(&op, 40, 50);
                let hex = |w: &[u32]| w.iter().map(|w| format!("{w:08x}")).collect::<Vec<_>>().join(" ");
                let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
                let scales: Vec<String> = s.iter().map(|s| format!("{s:04x}")).collect();
                let entry = json!({ "x": hex(&bits), "words": hex(&w), "scales": scales.join(" "), "report": report(r) });
                out.insert("full vector: quantize f32 stochastic block 64".to_owned(), entry);
                let block = BlockSize::default();
                let (mut l, mut s, mut r) = (vec![0u32; words(40, 4)], vec![0u16; 1], vec![Report::default()]);
                let item = AdaptiveItem { tensor: 1, first: 0, x: &x[..], levels: &mut l[..], scales: &mut s[..], report: 0 };
                let op = Adaptive { bits: 4, block, draw: Draw::new(99, 3), weight: 1.0 };
                $backend.accumulate_adaptive(&op, &mut [item], &mut r).unwrap();
                let entry = json!({ "x": hex(&bits), "levels": hex(&l), "scale": format!("{:04x}", s[0]), "report": report(r[0]) });
                out.insert("full vector: adaptive f32 4 bits block 64".to_owned(), entry);
            }
        }
    };
}

produce!(on_cpu, Cpu::new());
produce!(on_reference, Reference);

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/goldens.json")
}

fn compare(got: &Map<String, Value>) {
    let text = fs::read_to_string(path()).unwrap();
    let frozen: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(frozen.len() > 100, "the file of goldens has {} entries", frozen.len());
    let names: Vec<&String> = got.keys().chain(frozen.keys()).collect();
    let changed: Vec<String> = names
        .into_iter()
        .filter(|name| got.get(*name) != frozen.get(*name))
        .map(|name| format!("{name}\n  frozen {:?}\n  now    {:?}", frozen.get(name), got.get(name)))
        .collect();
    assert!(changed.is_empty(), "{} goldens changed:\n{}", changed.len(), changed.join("\n"));
}

#[test]
fn the_cpu_backend_is_as_it_was() {
    compare(&on_cpu());
}

#[test]
fn the_reference_is_as_it_was() {
    compare(&on_reference());
}

#[test]
fn the_digest_is_fnv_1a() {
    assert_eq!(digest(b""), "cbf29ce484222325");
    assert_eq!(digest(b"a"), "af63dc4c8601ec8c");
    assert_eq!(digest(b"foobar"), "85944171f73967e8");
}

#[test]
#[ignore = "overwrites the goldens: a change of bits, to be reviewed by itself"]
fn regenerate() {
    let text = serde_json::to_string_pretty(&Value::Object(on_reference())).unwrap();
    fs::write(path(), text + "\n").unwrap();
}
