//! Plain slices in and out: no tensor library, no allocation by the operations.
//!
//! ```text
//! cargo run --release --example raw_slices
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use trigrad::backend::{Backend, Memory};
use trigrad::cpu::Cpu;
use trigrad::numerics::pack::words;
use trigrad::op::accumulate::{Adaptive, AdaptiveItem};
use trigrad::op::dequantize::{self, Dequantize};
use trigrad::op::quantize::{self, Quantize};
use trigrad::op::read_out::{self, ReadOut};
use trigrad::op::{BlockSize, Draw};

fn main() -> trigrad::Result<()> {
    let cpu = Cpu::default();
    let n = 1_000_000;
    let gradient: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.0011).cos()).collect();
    let norm: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
    let error = |x: &[f32], of: f32| {
        let squares = x.iter().zip(&gradient).map(|(&x, &g)| f64::from(x / of - g).powi(2));
        squares.sum::<f64>() / norm
    };
    let mut reports = cpu.reports(1)?;

    // A gradient as trits and scales: 2 bits an element and 16 a block.
    let op = Quantize::stochastic(Draw::new(7, 0));
    let (mut planes, mut scales) = (vec![0u32; words(n, 2)], vec![0u16; op.grouping.groups(n)]);
    let item = quantize::Item {
        tensor: 0,
        first: 0,
        x: &gradient[..],
        words: &mut planes[..],
        scales: &mut scales[..],
        report: 0,
    };
    cpu.quantize(&op, &mut [item], &mut reports)?;
    println!("quantized: {} bytes instead of {}", 4 * planes.len() + 2 * scales.len(), 4 * n);

    // And back.
    let mut out = vec![0f32; n];
    let item = dequantize::Item { words: &planes[..], scales: &scales[..], out: &mut out[..] };
    cpu.dequantize(&Dequantize { grouping: op.grouping }, &mut [item])?;
    println!("squared error of one ternary copy: {:.3} of the gradient's own square", error(&out, 1.0));

    // Eight micro-batches in 4-bit levels, and the mean.
    let block = BlockSize::default();
    let (mut levels, mut scales) = (vec![0u32; words(n, 4)], vec![0u16; block.blocks(n)]);
    for micro_batch in 0..8 {
        let op = Adaptive { bits: 4, block, draw: Draw::new(7, 0).micro_batch(micro_batch), weight: 1.0 };
        let item = AdaptiveItem {
            tensor: 0,
            first: 0,
            x: &gradient[..],
            levels: &mut levels[..],
            scales: &mut scales[..],
            report: 0,
        };
        cpu.accumulate_adaptive(&op, &mut [item], &mut reports)?;
    }
    let op = ReadOut { bits: 4, block, factor: 1.0 / 8.0 };
    let item = read_out::Item { levels: &levels[..], scales: &scales[..], out: &mut out[..], guard: None };
    cpu.read_out(&op, &mut [item], None)?;
    println!(
        "accumulated: {} bytes; squared error of the mean of 8: {:.4}",
        4 * levels.len() + 2 * scales.len(),
        error(&out, 1.0)
    );

    // Nothing was out of range, or it would be said here.
    for report in cpu.read_reports(&reports)? {
        report.finite()?;
    }
    Ok(())
}
