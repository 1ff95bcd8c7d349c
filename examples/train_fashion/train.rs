//! One run: a network of 784, 128 and 10 units, Adam, gradients accumulated over micro-batches.

use crate::data::{CLASSES, Images, PIXELS};
use crate::method::{Method, Place, Sum};
use anyhow::{Result, anyhow};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap, loss};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};

const HIDDEN: usize = 128;
/// Images a micro-batch.
pub(crate) const MICRO_BATCH: usize = 16;
/// Micro-batches a step.
pub(crate) const K: usize = 8;
/// Adam's step size.
pub(crate) const LEARNING_RATE: f64 = 1e-3;

/// What a run comes to.
pub(crate) struct Outcome {
    /// Share of test images named rightly, in percent.
    pub(crate) accuracy: f64,
    /// Mean training loss of each step.
    pub(crate) losses: Vec<f64>,
    /// Bytes that hold the accumulated gradient, for each parameter.
    pub(crate) bytes_per_parameter: f64,
    /// Share of the steps' time spent accumulating, reading out and resetting.
    pub(crate) share: f64,
    /// Share of elements cut to the scale of exact counts.
    pub(crate) clipped: f64,
}

/// Two layers; weights are stored inputs by outputs, so that no gradient is transposed.
struct Network {
    hidden: [Tensor; 2],
    out: [Tensor; 2],
}

impl Network {
    /// The same seed gives the same weights: uniform within +-1 / sqrt(inputs).
    fn new(vars: &VarMap, rng: &mut Xoshiro256PlusPlus, device: &Device) -> Result<Self> {
        let mut layer = |name: &str, inputs: usize, outputs: usize| -> Result<[Tensor; 2]> {
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut var = |part: &str, shape: &[usize]| -> Result<Tensor> {
                let numbers = (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
                let var = Var::from_tensor(&Tensor::from_vec::<_, f32>(numbers, shape, device)?)?;
                let tensor = var.as_tensor().clone();
                let mut data = vars.data().lock().map_err(|_| anyhow!("another run panicked"))?;
                data.insert(format!("{name}.{part}"), var);
                Ok(tensor)
            };
            Ok([var("weight", &[inputs, outputs])?, var("bias", &[outputs])?])
        };
        Ok(Network { hidden: layer("hidden", PIXELS, HIDDEN)?, out: layer("out", HIDDEN, CLASSES)? })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let layer = |x: &Tensor, [weight, bias]: &[Tensor; 2]| x.matmul(weight)?.broadcast_add(bias);
        layer(&layer(x, &self.hidden)?.relu()?, &self.out)
    }
}

/// Trains and tests; `tick` is called after each step.
pub(crate) fn run(
    method: Method,
    seed: u64,
    epochs: usize,
    train: &Images,
    test: &Images,
    place: &Place,
    tick: impl Fn(),
) -> Result<Outcome> {
    let device = &place.device;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let vars = VarMap::new();
    let network = Network::new(&vars, &mut rng, device)?;
    let params = ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut adam = AdamW::new(vars.all_vars(), params)?;
    let mut sum = Sum::new(method, seed, &vars, place)?;

    let (mut total, mut accumulating) = (Duration::ZERO, Duration::ZERO);
    // On a card work is queued: what is timed must be alone between two waits.
    let mut timed = |f: &mut dyn FnMut() -> Result<()>| {
        device.synchronize()?;
        let start = Instant::now();
        f()?;
        device.synchronize()?;
        accumulating += start.elapsed();
        anyhow::Ok(())
    };
    let mut losses = Vec::new();
    let mut order: Vec<usize> = (0..train.len()).collect();
    for _ in 0..epochs {
        order.shuffle(&mut rng);
        for step in order.chunks_exact(K * MICRO_BATCH) {
            let start = Instant::now();
            let mut mean = 0.0;
            for micro_batch in step.chunks_exact(MICRO_BATCH) {
                let (x, y) = batch(train, micro_batch, device)?;
                let loss = loss::cross_entropy(&network.forward(&x)?, &y)?;
                mean += f64::from(loss.to_scalar::<f32>()?) / K as f64;
                let gradients = loss.backward()?;
                timed(&mut || sum.add(&gradients))?;
            }
            let mut gradients = None;
            timed(&mut || {
                gradients = Some(sum.take_mean()?);
                Ok(())
            })?;
            if let Some(gradients) = gradients {
                adam.step(&gradients)?;
            }
            total += start.elapsed();
            losses.push(mean);
            tick();
        }
    }
    Ok(Outcome {
        accuracy: accuracy(&network, test, device)?,
        losses,
        bytes_per_parameter: sum.bytes_per_parameter(),
        share: accumulating.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE),
        clipped: sum.clipped(),
    })
}

fn batch(images: &Images, indices: &[usize], device: &Device) -> Result<(Tensor, Tensor)> {
    let mut pixels = Vec::with_capacity(indices.len() * PIXELS);
    for &i in indices {
        pixels.extend_from_slice(&images.pixels[i * PIXELS..(i + 1) * PIXELS]);
    }
    let labels: Vec<u32> = indices.iter().map(|&i| images.labels[i]).collect();
    Ok((Tensor::from_vec(pixels, (indices.len(), PIXELS), device)?, Tensor::from_vec(labels, indices.len(), device)?))
}

fn accuracy(network: &Network, images: &Images, device: &Device) -> Result<f64> {
    let mut right = 0.0;
    let all: Vec<usize> = (0..images.len()).collect();
    for part in all.chunks(1000) {
        let (x, y) = batch(images, part, device)?;
        let hits = network.forward(&x)?.argmax(D::Minus1)?.eq(&y)?;
        right += f64::from(hits.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(100.0 * right / images.len() as f64)
}
