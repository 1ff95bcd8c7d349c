//! Pools of one, two and three threads, and tensors given in parts.

use super::accumulate::{adaptive_run, exact_run};
use super::data;
use super::quantize::{quantized, rules};
use crate::cpu::Cpu;
use crate::op::quantize::Quantize;
use crate::op::{BlockSize, Grouping};

#[test]
fn any_number_of_threads_and_any_split_give_the_same_bits() {
    let n = 300_001;
    let x = data::<f32>(7, n, 11);
    let rows = 3 * 100_000;
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for rule in rules() {
        let block = BlockSize::new(128).unwrap();
        for (grouping, x) in [
            (Grouping::Block(block), &x[..]),
            (Grouping::Tensor, &x[..]),
            (Grouping::Row(3), &x[..rows]),
            (Grouping::Row(100_000), &x[..rows]),
            (Grouping::Row(1000), &x[..rows]),
        ] {
            let op = Quantize { grouping, rule };
            let one = pool(1).install(|| quantized(Cpu::new(), &op, x, 0));
            for threads in [2, 3] {
                assert_eq!(pool(threads).install(|| quantized(Cpu::new(), &op, x, 0)), one, "{op:?}");
            }
            assert_eq!(quantized(Cpu::plain(), &op, x, 0), one, "{op:?}");
            if let Grouping::Block(_) = grouping {
                let cut = 128 * 777;
                let (a, b) =
                    (quantized(Cpu::new(), &op, &x[..cut], 0), quantized(Cpu::new(), &op, &x[cut..], cut as u64));
                assert_eq!([a.0, b.0].concat(), one.0);
                assert_eq!([a.1, b.1].concat(), one.1);
                let mut report = a.2;
                report.merge(b.2);
                assert_eq!(report, one.2);
            }
        }
    }
    for bits in [2, 4, 8] {
        let run = || adaptive_run(Cpu::new(), bits, 64, &[x.clone(), x.clone()], 0.7, 0);
        let one = pool(1).install(run);
        assert!(pool(2).install(run) == one);
        assert!(pool(3).install(run) == one);
        let run = || exact_run(Cpu::new(), 2 * bits, 64, &[x.clone(), x.clone()], 0.7, true);
        let one = pool(1).install(run);
        assert!(pool(2).install(run) == one);
        assert!(pool(3).install(run) == one);
    }
}
