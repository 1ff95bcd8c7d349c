//! All lengths from 0 to twice a block, for the block sizes that the other walks meet at their edges only.

use super::{
    AccumulateAdaptive, AccumulateExact, Dequantize, Levels, Look, Quantize, ReadOut, blocks, levels, list, place,
    scales, slots, trits,
};
use crate::op::accumulate::{Adaptive, Exact};
use crate::op::dequantize::Dequantize as DequantizeOp;
use crate::op::quantize::{Quantize as QuantizeOp, Rule, Threshold};
use crate::op::read_out::ReadOut as ReadOutOp;
use crate::op::window::Look as LookOp;
use crate::op::{BlockSize, Element, Grouping};
use crate::testing::case::Visit;
use crate::testing::failure::Failure;
use crate::testing::options::Options;
use crate::testing::values::{Pattern, Rng};
use std::marker::PhantomData;

/// Tensors in a list.
const LIST: usize = 512;

/// Walks over all lengths of one operation; the element types take turns.
pub(super) fn each(operation: &str, options: &Options, visit: &mut impl Visit) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(options.seed, 60);
    for (turn, block) in blocks().filter(|b| b.get() > 128).enumerate() {
        let lengths = options.within(0..=2 * block.get() as usize);
        for lengths in lengths.chunks(LIST) {
            match turn % 3 {
                0 => one::<f32>(operation, block, lengths, &mut rng, visit)?,
                1 => one::<half::bf16>(operation, block, lengths, &mut rng, visit)?,
                _ => one::<half::f16>(operation, block, lengths, &mut rng, visit)?,
            }
        }
    }
    Ok(())
}

fn one<T: Element>(
    operation: &str,
    block: BlockSize,
    lengths: &[usize],
    rng: &mut Rng,
    visit: &mut impl Visit,
) -> Result<(), Box<Failure>> {
    let shapes: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| (n, Pattern::cycle(i))).collect();
    let given = |rng: &mut Rng| list::<T>(rng, &shapes, u64::from(block.get()));
    let grouping = Grouping::Block(block);
    match operation {
        "quantize" => {
            let draw = place(rng);
            [Rule::Stochastic { draw, clip: None }, Rule::Threshold(Threshold::TWN)].into_iter().try_for_each(|rule| {
                let (op, tensors) = (QuantizeOp { grouping, rule }, given(rng));
                visit.visit(&Quantize { op, tensors, slots: slots(shapes.len()), state: None, spoil: None })
            })
        }
        "dequantize" => {
            let tensor = |&n: &usize| (n, trits(rng, n, 20), scales(rng, grouping.groups(n), 0x7e80));
            let tensors = lengths.iter().map(tensor).collect();
            visit.visit(&Dequantize::<T> { op: DequantizeOp { grouping }, tensors, spoil: None, output: PhantomData })
        }
        "accumulate_adaptive" => {
            let op = Adaptive { bits: 4, block, draw: place(rng), weight: 1.0 };
            visit.visit(&AccumulateAdaptive::new(vec![(op, given(rng)), (op, given(rng))]))
        }
        "accumulate_exact" => {
            for (bits, headroom) in [(8, None), (32, None), (8, Some(1.5)), (32, Some(1.0))] {
                let op = Exact { bits, block, draw: place(rng), weight: 1.0, held: 0, headroom };
                let mut case = AccumulateExact::new(vec![(op, given(rng))]);
                if headroom.is_some() {
                    case.scales.iter_mut().for_each(|scales| scales.fill(0));
                }
                visit.visit(&case)?;
            }
            Ok(())
        }
        "look" => {
            let seen = lengths.iter().map(|&n| vec![0; block.blocks(n)]).collect();
            let op = LookOp { block, weight: 1.0 };
            visit.visit(&Look { op, tensors: given(rng), seen, slots: slots(shapes.len()), spoil: None })
        }
        "read_out" => {
            let tensor = |&n: &usize| Levels {
                n,
                levels: levels(rng, 4, n),
                scales: scales(rng, block.blocks(n), 0x4f80),
                guard: None,
            };
            let tensors = lengths.iter().map(tensor).collect();
            let op = ReadOutOp { bits: 4, block, factor: 1.0 / 3.0 };
            visit.visit(&ReadOut::<T> { op, tensors, guards: Vec::new(), spoil: None, output: PhantomData })
        }
        _ => Ok(()),
    }
}
