//! How far an adaptive sum is from the true one: every micro-batch rounds the sum again, on a grid that follows its largest
//! magnitude, so the squared error over the squared sum grows in proportion to the number of micro-batches, and falls with the block.

use trigrad::Result;
use trigrad::accumulator::{Accumulator, Config, Floats, Format, Id, Reduce, Spec};
use trigrad::cpu::Cpu;
use trigrad::op::BlockSize;
use trigrad::testing::values::Rng;

const ELEMENTS: usize = 1 << 16;

/// Squared error over squared sum after so many Gaussian micro-batches with `common` in all of them and noise of variance 1.
fn noise(bits: u32, micro_batches: usize, common: f64) -> Result<f64> {
    noise_in_blocks(BlockSize::default(), bits, micro_batches, common)
}

fn noise_in_blocks(block: BlockSize, bits: u32, micro_batches: usize, common: f64) -> Result<f64> {
    let mut rng = Rng::new(5, micro_batches as u64);
    let config = Config { format: Format::Adaptive { bits }, seed: 11, block, ..Config::default() };
    let mut sum = Accumulator::new(Cpu::default(), &[Spec::new("x", [ELEMENTS])], config)?;
    let mean: Vec<f64> = (0..ELEMENTS).map(|_| common * rng.normal()).collect();
    let mut exact = vec![0.0f64; ELEMENTS];
    for _ in 0..micro_batches {
        let x: Vec<f32> = mean.iter().map(|m| (m + rng.normal()) as f32).collect();
        exact.iter_mut().zip(&x).for_each(|(e, x)| *e += f64::from(*x));
        sum.accumulate(&[(Id::Index(0), Floats::F32(&x[..]))], 1.0)?;
    }
    let got: Vec<f32> = sum.to_vec(Id::Index(0), Reduce::Sum)?;
    let error: f64 = got.iter().zip(&exact).map(|(g, e)| (f64::from(*g) - e).powi(2)).sum();
    Ok(error / exact.iter().map(|e| e * e).sum::<f64>())
}

#[test]
fn noise_grows_with_the_micro_batches_and_falls_with_the_square_of_the_levels() -> Result<()> {
    println!("squared error over squared sum; micro-batches with nothing in common, and with three times their noise");
    println!("      8 bits   4 bits    8 bits   4 bits");
    let mut of_8 = 0.0;
    for micro_batches in [1, 2, 4, 8, 16, 32] {
        let (eight, four) = (noise(8, micro_batches, 0.0)?, noise(4, micro_batches, 0.0)?);
        let (eight_common, four_common) = (noise(8, micro_batches, 3.0)?, noise(4, micro_batches, 3.0)?);
        let percent = [eight, four, eight_common, four_common].map(|x| format!("{:7.4}%", 100.0 * x));
        println!("{micro_batches:>3} {}", percent.join(" "));
        // Steps are 1/127 and 1/7 of the largest sum; the noise of 4 bits makes its own sums a little larger.
        let ratio = four / eight / (127.0f64 / 7.0).powi(2);
        assert!((0.9..1.3).contains(&ratio), "{micro_batches}: {ratio}");
        assert!(eight_common < 1.01 * eight && four_common < 1.01 * four, "{micro_batches}: what is common adds noise");
        match micro_batches {
            8 => of_8 = four,
            32 => assert!((3.0..5.0).contains(&(four / of_8)), "{four} after 32, {of_8} after 8"),
            _ => {}
        }
    }
    Ok(())
}

/// The step is the block's largest sum over 7. The mean square of the largest of 32 Gaussian magnitudes is 0.83 of that of 64; what noise adds
/// to the largest sum makes the difference grow with the micro-batches.
#[test]
fn smaller_blocks_make_less_noise() -> Result<()> {
    for micro_batches in [1, 8, 32] {
        let [small, large] =
            [32, 64].map(|block| BlockSize::new(block).and_then(|block| noise_in_blocks(block, 4, micro_batches, 0.0)));
        let (small, large) = (small?, large?);
        println!("{micro_batches:>3} blocks of 32 {:7.4}%, of 64 {:7.4}%", 100.0 * small, 100.0 * large);
        assert!((0.6..0.86).contains(&(small / large)), "{micro_batches}: {small} against {large}");
    }
    Ok(())
}
