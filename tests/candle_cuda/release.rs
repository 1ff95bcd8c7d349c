//! Gradients that leave the backward pass at once, on the card: release layers, segments, and the pool that keeps what
//! is freed.

use super::driver::counted;
use super::{card, flat, numbers};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Conv2dConfig, Module, ParamsAdamW, VarBuilder, VarMap};
use std::cell::Cell;
use trigrad::accumulator::{Config, Format};
use trigrad::candle::release::{self, Release};
use trigrad::candle::{Activations, FusedOptimizer, ModelGradients};
use trigrad::training::Options;
use trigrad::{Error, Result};

fn tensor(seed: u64, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_vec(numbers(seed, shape.iter().product()), shape, device)
}

fn cuda(device: &Device) -> Result<trigrad::cuda::Cuda> {
    match trigrad::candle::device(device)? {
        trigrad::device::Device::Cuda(cuda) => Ok(cuda),
        other => panic!("{other:?} is no card"),
    }
}

/// Sums in f32, so that one micro-batch is held as it is.
fn wide() -> Options {
    Options { config: Config { format: Format::F32, ..Config::default() }, small: 0, ..Options::default() }
}

fn named(vars: &VarMap) -> Vec<(String, Var)> {
    let mut named: Vec<_> = vars.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

fn fill(vars: &VarMap, times: f64) -> Result<()> {
    for (i, (_, var)) in named(vars).iter().enumerate() {
        var.set(&(tensor(i as u64, var.dims(), var.device())? * times)?.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// The card's product of a transpose need not have the bits of the transpose of a product.
fn close(name: &str, want: &Tensor, got: &Tensor, within: f32) {
    assert_eq!(want.dims(), got.dims());
    let (want, got) = (flat(want), flat(got));
    let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let off = want.iter().zip(&got).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(most > 0.0 && off <= within * most, "{name}: {off} off, at most {most}");
}

/// Every kind of layer, in a model of images: f32, or all but the convolution in bf16.
struct Model {
    vars: VarMap,
    release: Release,
    conv: release::Conv2d,
    hidden: release::Linear,
    embed: release::Embedding,
    out: release::Linear,
    dtype: DType,
}

const ROWS: usize = 32;

impl Model {
    fn new(device: &Device, dtype: DType) -> Result<Self> {
        let (vars, release) = (VarMap::new(), Release::new());
        let vb = VarBuilder::from_varmap(&vars, DType::F32, device);
        let half = VarBuilder::from_varmap(&vars, dtype, device);
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let model = Model {
            conv: release::conv2d(3, 8, 3, config, vb.pp("conv"), &release)?,
            hidden: release::linear(8 * 64, 256, half.pp("hidden"), &release)?,
            embed: release::embedding(10, 256, half.pp("embed"), &release)?,
            out: release::linear(256, 10, half.pp("out"), &release)?,
            release,
            vars,
            dtype,
        };
        fill(&model.vars, 0.1)?;
        Ok(model)
    }

    fn input(device: &Device, micro_batch: u64) -> candle_core::Result<Tensor> {
        tensor(100 + micro_batch, &[ROWS, 3, 8, 8], device)
    }

    /// The layers one after the other; candle's own, or those that hand over.
    fn first(&self, x: &Tensor, stock: bool) -> candle_core::Result<Tensor> {
        let x = if stock { self.conv.layer().forward(x)? } else { self.conv.forward(x)? };
        x.relu()?.flatten_from(1)?.to_dtype(self.dtype)
    }

    fn second(&self, x: &Tensor, stock: bool) -> candle_core::Result<Tensor> {
        let h = if stock { self.hidden.layer().forward(x)? } else { self.hidden.forward(x)? };
        let ids = h.narrow(1, 0, 10)?.contiguous()?.detach().argmax(1)?;
        let rows = if stock { self.embed.layer().forward(&ids)? } else { self.embed.forward(&ids)? };
        h.gelu()? + rows
    }

    fn third(&self, x: &Tensor, stock: bool) -> candle_core::Result<Tensor> {
        let y = if stock { self.out.layer().forward(x)? } else { self.out.forward(x)? };
        y.to_dtype(DType::F32)?.sqr()?.mean_all()
    }

    fn loss(&self, x: &Tensor, stock: bool) -> candle_core::Result<Tensor> {
        self.third(&self.second(&self.first(x, stock)?, stock)?, stock)
    }
}

#[test]
fn release_layers_and_segments_give_candles_gradients() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    for (dtype, within) in [(DType::F32, 1e-4), (DType::BF16, 2e-2)] {
        let model = Model::new(&device, dtype)?;
        let x = Model::input(&device, 0)?;
        let loss = model.loss(&x, true)?;
        let want = loss.backward()?;
        let first = |x: &Tensor| model.first(x, false);
        let second = |x: &Tensor| model.second(x, false);
        let third = |x: &Tensor| model.third(x, false);
        let segments: [&dyn Module; 3] = [&first, &second, &third];
        for how in [None, Some(Activations::Keep), Some(Activations::Recompute)] {
            let mut gradients = ModelGradients::from_varmap(&model.vars, wide())?;
            let found = match how {
                None => {
                    let loss = model.loss(&x, false)?;
                    gradients.backward(&model.release, &loss, 1.0)?;
                    loss
                }
                Some(activations) => gradients.backward_in_segments(&model.release, &segments, &x, activations, 1.0)?,
            };
            // The same kernels on the same numbers.
            assert_eq!(loss.to_scalar::<f32>()?.to_bits(), found.to_scalar::<f32>()?.to_bits());
            let got = gradients.read_out()?;
            for (name, var) in named(&model.vars) {
                close(&format!("{name}, {dtype:?}, {how:?}"), want.get(&var).unwrap(), &got[&name], within);
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_goes_through_the_host_on_the_way_back() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let model = Model::new(&device, DType::BF16)?;
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default())?;
    let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default())?;
    let first = |x: &Tensor| model.first(x, false);
    let second = |x: &Tensor| model.second(x, false);
    let third = |x: &Tensor| model.third(x, false);
    let segments: [&dyn Module; 3] = [&first, &second, &third];
    for micro_batch in 0..4 {
        let x = Model::input(&device, micro_batch)?;
        let loss = model.loss(&x, false)?;
        let (done, counts) = counted(|| gradients.backward(&model.release, &loss, 1.0));
        done?;
        assert_eq!(counts.to_host, 0, "{counts:?}");
        // One number a segment that is computed again: whether it differs.
        for (activations, bytes) in [(Activations::Keep, 0), (Activations::Recompute, 2 * 4)] {
            let run = || gradients.backward_in_segments(&model.release, &segments, &x, activations, 1.0);
            let (done, counts) = counted(run);
            done?;
            assert_eq!(counts.to_host, bytes, "{activations:?}: {counts:?}");
        }
    }
    assert_eq!(gradients.count(), 12);
    assert!(adam.step(&mut gradients)?.updated());
    Ok(())
}

/// The driver's count: with release layers one gradient at a time over activations, in stock backward several a layer.
#[test]
fn a_backward_pass_takes_one_gradient_by_the_drivers_count() -> Result<()> {
    const WIDTH: usize = 2048;
    const LAYERS: usize = 6;
    let gradient = (WIDTH * WIDTH * 4) as u64;
    let Some((device, _alone)) = card() else { return Ok(()) };
    let cuda = cuda(&device)?;
    let (vars, release) = (VarMap::new(), Release::new());
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let layer = |i: usize| release::linear_no_bias(WIDTH, WIDTH, vb.pp(i), &release);
    let layers = (0..LAYERS).map(layer).collect::<candle_core::Result<Vec<_>>>()?;
    let mut gradients = ModelGradients::from_varmap(&vars, Options::default())?;
    let x = tensor(1, &[4, WIDTH], &device)?;
    let ours = || layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))?.sqr()?.mean_all();
    let stock = || layers.iter().try_fold(x.clone(), |x, layer| layer.layer().forward(&x))?.sqr()?.mean_all();
    gradients.backward(&release, &ours()?, 1.0)?; // what is made on first use
    let mut peak = |stock_loss: Option<Tensor>| -> Result<u64> {
        let loss = if let Some(loss) = &stock_loss { loss.clone() } else { ours()? };
        cuda.reset_peak()?;
        let before = cuda.in_use()?.now;
        match stock_loss {
            Some(_) => gradients.consume(loss.backward()?, 1.0)?,
            None => gradients.backward(&release, &loss, 1.0)?,
        }
        Ok(cuda.in_use()?.peak - before)
    };
    let (with, without) = (peak(None)?, peak(Some(stock()?))?);
    println!("peak over activations: {with} bytes with release layers, {without} without; a gradient is {gradient}");
    assert!(with <= gradient + gradient / 4, "{with} bytes, where a gradient is {gradient}");
    assert!(without > 6 * gradient, "{without} bytes without release layers: the test measures nothing");
    Ok(())
}

/// The threshold itself, and what it does: what is freed stays with the pool over a wait, or goes back to the card.
#[test]
fn the_pool_keeps_what_is_freed_until_that_is_undone() -> Result<()> {
    const BYTES: usize = 512 << 20;
    let Some((device, _alone)) = card() else { return Ok(()) };
    let cuda = cuda(&device)?;
    let before = cuda.keep_freed_memory(0)?;
    let gone = |empty: usize| -> Result<usize> {
        cuda.synchronize()?;
        cuda.stream().context().bind_to_thread().unwrap();
        Ok(empty.saturating_sub(cudarc::driver::result::mem_get_info().unwrap().0))
    };
    let use_and_free = || -> Result<()> {
        drop(Tensor::zeros(BYTES, DType::U8, &device)?);
        Ok(device.synchronize()?)
    };
    let empty = usize::MAX - gone(usize::MAX)?;
    use_and_free()?;
    assert!(gone(empty)? < BYTES / 2, "a pool that keeps nothing gave it back");
    let vars = VarMap::new();
    candle_nn::linear(64, 64, VarBuilder::from_varmap(&vars, DType::F32, &device))?;
    let left = ModelGradients::from_varmap(&vars, Options { keep_freed_memory: false, ..Options::default() })?;
    assert_eq!(cuda.keep_freed_memory(0)?, 0, "left as it was");
    let kept = ModelGradients::from_varmap(&vars, Options::default())?;
    use_and_free()?;
    assert!(gone(empty)? > BYTES / 2, "the pool gave back what it was to keep");
    assert_eq!(cuda.keep_freed_memory(0)?, u64::MAX);
    assert!(gone(empty)? < BYTES / 2, "undone, the next wait gives it back");
    drop((left, kept));
    cuda.keep_freed_memory(before)?;
    Ok(())
}

/// A segment that asks for more than the card has when it is computed again, after gradients of others were added.
#[test]
fn memory_that_runs_out_half_way_refuses_the_window_and_a_smaller_batch_goes_on() -> Result<()> {
    let Some((device, _alone)) = card() else { return Ok(()) };
    let model = Model::new(&device, DType::BF16)?;
    let weights = || named(&model.vars).iter().map(|(_, var)| flat(var)).collect::<Vec<_>>();
    let before = weights();
    let mut gradients = ModelGradients::from_varmap(&model.vars, Options::default())?;
    let mut adam = FusedOptimizer::adamw(&gradients, ParamsAdamW::default())?;
    let again = Cell::new(false);
    let first = |x: &Tensor| model.first(x, false);
    let second = |x: &Tensor| {
        if again.replace(true) && x.dim(0)? == ROWS {
            drop(Tensor::zeros(1usize << 40, DType::U8, &device)?);
        }
        model.second(x, false)
    };
    let third = |x: &Tensor| model.third(x, false);
    let segments: [&dyn Module; 3] = [&first, &second, &third];
    let x = Model::input(&device, 0)?;
    let run = |gradients: &mut ModelGradients, x: &Tensor| {
        gradients.backward_in_segments(&model.release, &segments, x, Activations::Recompute, 1.0)
    };
    let e = run(&mut gradients, &x).unwrap_err().to_string();
    assert!(e.to_lowercase().contains("memory"), "{e}");
    let refused = |e: Error| assert!(matches!(e, Error::Refused { .. }), "{e}");
    refused(adam.step(&mut gradients).unwrap_err());
    refused(run(&mut gradients, &x).unwrap_err());
    assert!(before == weights() && adam.updates() == 0);
    gradients.reset()?;
    let half = x.narrow(0, 0, ROWS / 2)?;
    run(&mut gradients, &half)?;
    assert!(adam.step(&mut gradients)?.updated() && before != weights());
    Ok(())
}
