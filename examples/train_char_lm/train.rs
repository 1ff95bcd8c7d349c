//! One run: a transformer, AdamW with warm-up and a cosine, gradients accumulated over micro-batches.

use crate::method::{Method, Trainer};
use crate::model::{Size, Transformer};
use crate::text::Text;
use anyhow::Result;
use candle_core::{DType, Device};
use candle_nn::{ParamsAdamW, VarMap};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use std::time::{Duration, Instant};
use trigrad::candle::Activations;
use trigrad::candle::release::Release;
use trigrad::op::BlockSize;
use trigrad::training::MomentFormat;

/// What all runs share.
pub(crate) struct Plan<'a> {
    pub(crate) text: &'a Text,
    pub(crate) size: Size,
    pub(crate) steps: usize,
    pub(crate) micro_batches: usize,
    /// Elements that share a scale.
    pub(crate) block: BlockSize,
    /// AdamW's step size at its highest.
    pub(crate) learning_rate: f64,
    pub(crate) device: Device,
    /// Of weights and activations.
    pub(crate) dtype: DType,
    /// Whether gradients leave the backward pass as soon as they are there, where they are added to levels.
    pub(crate) release: bool,
    /// Whether each layer has a backward pass of its own, and what is kept for it; the same.
    pub(crate) segments: Option<Activations>,
    /// Windows of the text held back that the loss is measured on.
    pub(crate) validation: usize,
    /// How the moments of a fused update are held.
    pub(crate) moments: MomentFormat,
}

/// What a run comes to.
pub(crate) struct Outcome {
    /// Validation loss in nats a byte, at the end.
    pub(crate) loss: f64,
    /// Validation loss at steps on the way, and at the end.
    pub(crate) curve: Vec<(usize, f64)>,
    /// Bytes of text a second, steps only, without the first.
    pub(crate) tokens_per_second: f64,
    /// Share of the steps' time spent adding gradients; none where they are added during the backward pass.
    pub(crate) share: Option<f64>,
    /// Bytes that held the sum.
    pub(crate) bytes: u64,
    /// Bytes of the weights.
    pub(crate) weights: u64,
    /// Bytes of the moments.
    pub(crate) moments: u64,
    pub(crate) parameters: usize,
}

/// Trains and validates; `tick` is called after each step, with what was validated then.
pub(crate) fn run(plan: &Plan<'_>, method: Method, seed: u64, tick: impl Fn(usize, Option<f64>)) -> Result<Outcome> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let vars = VarMap::new();
    let dense = matches!(method, Method::Dense(_));
    let release = (plan.release && !dense).then(Release::new);
    let segments = plan.segments.filter(|_| !dense);
    let on = (plan.dtype, &plan.device);
    let model = Transformer::new(&vars, plan.text.symbols, plan.size, &mut rng, on, release.clone())?;
    let params = ParamsAdamW { beta2: 0.99, weight_decay: 0.1, ..ParamsAdamW::default() };
    let mut trainer = Trainer::new(method, seed, &vars, plan, params)?;
    let (mut total, mut adding) = (Duration::ZERO, Duration::ZERO);
    let mut curve = Vec::new();
    let every = (plan.steps / 5).max(1);
    for step in 0..plan.steps {
        let start = Instant::now();
        for _ in 0..plan.micro_batches {
            let windows = plan.text.batch(&mut rng, plan.size.batch, plan.size.context);
            // Adding on the way: what that takes is not told apart.
            match (segments, &release) {
                (Some(activations), _) => {
                    let release = release.clone().unwrap_or_default();
                    model
                        .in_segments(windows, |segments, x| trainer.in_segments(&release, segments, x, activations))?;
                    continue;
                }
                (None, Some(release)) => {
                    trainer.backward(release, &model.loss(windows)?)?;
                    continue;
                }
                (None, None) => {}
            }
            let gradients = model.loss(windows)?.backward()?;
            // On a card work is queued: what is timed must be alone between two waits.
            plan.device.synchronize()?;
            let add = Instant::now();
            trainer.add(gradients)?;
            plan.device.synchronize()?;
            adding += add.elapsed();
        }
        trainer.step(learning_rate(plan, step))?;
        plan.device.synchronize()?;
        total += start.elapsed();
        if step == 0 && plan.steps > 1 {
            (total, adding) = (Duration::ZERO, Duration::ZERO); // memory is mapped and kernels are loaded on first use
        }
        if (step + 1) % every == 0 || step + 1 == plan.steps {
            curve.push((step + 1, validate(&model, plan)?));
        }
        tick(step + 1, curve.last().filter(|(at, _)| *at == step + 1).map(|(_, loss)| *loss));
    }
    let timed = plan.steps.max(2) - 1;
    let tokens = timed * plan.micro_batches * plan.size.batch * plan.size.context;
    Ok(Outcome {
        loss: curve.last().map_or(f64::NAN, |c| c.1),
        curve,
        tokens_per_second: tokens as f64 / total.as_secs_f64(),
        share: (segments.is_none() && release.is_none()).then(|| adding.as_secs_f64() / total.as_secs_f64()),
        bytes: trainer.bytes(),
        weights: vars.all_vars().iter().map(|v| (v.elem_count() * v.dtype().size_in_bytes()) as u64).sum(),
        moments: trainer.moments(),
        parameters: vars.all_vars().iter().map(|v| v.elem_count()).sum(),
    })
}

/// Up over the first tenth, then down a cosine to a tenth.
fn learning_rate(plan: &Plan<'_>, step: usize) -> f64 {
    let peak = plan.learning_rate;
    let warm = (plan.steps / 10).max(1);
    if step < warm {
        return peak * (step + 1) as f64 / warm as f64;
    }
    let along = (step - warm) as f64 / (plan.steps - warm).max(1) as f64;
    peak * (0.55 + 0.45 * (std::f64::consts::PI * along).cos())
}

fn validate(model: &Transformer, plan: &Plan<'_>) -> Result<f64> {
    let windows = plan.text.held_back(plan.validation, plan.size.context);
    // As many as in a micro-batch: more would be what the peak of memory comes from.
    let parts: Vec<&[u32]> = windows.chunks(plan.size.batch * (plan.size.context + 1)).collect();
    let mut sum = 0.0;
    for part in &parts {
        sum += f64::from(model.evaluate(part.to_vec())?);
    }
    Ok(sum / parts.len() as f64)
}
